"""The findings of an analysis before the hub's door: tidy tables, counts, exactness, and a trained network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from federation.messages import Floats

Row = dict[str, Any]
Door = Literal["cells", "lines", "curve", "groups", "listed", "estimates"]


@dataclass(frozen=True)
class Table:
    """Tidy rows, and the rule by which the release door protects them.

    `cells`: rows are the cells of one cross-table, with columns `row`, `column`, `n`; its totals are shown.
    `lines`: the same, but each `row` is a table of one line, whose total is known.
    `curve`: rows follow `time` within `group` (and `cause`); events and exits between released times form the cells.
    `groups`: a row stands on `n` people, of whom `n_event` had the event; over the rows (of each `cause` or
    `indicator`) both add up to known totals.
    `listed`: the presence of a row tells something about a person, so rows on too few people are left out altogether.
    `estimates`: a row that stands on too few people `n` is suppressed.
    `follows` names a table of the same result: where a cell of that one is withheld, this one is withheld too.
    """

    rows: Sequence[Row]
    door: Door = "estimates"
    follows: str = ""


@dataclass(frozen=True)
class Exactness:
    kind: Literal["exact", "approximate", "noised"] = "exact"
    why: str = ""


@dataclass(frozen=True)
class TrainedModel:
    """A trained network: `about` says in words and numbers how to build it and what it takes; `weights` (size,)."""

    about: Row
    weights: Floats


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many a result stands on; None where a number does not apply or is not known.

    `missing`: rows left out for a missing value. `events`: of the rarer kind where there are two. `clipped`: people
    whose contribution was cut in mode dp. A result on too few people or events is withheld whole."""

    people: int | None
    rows: int | None
    missing: int | None
    events: int | None = None
    clipped: int | None = None

    def items(self) -> Iterator[tuple[str, int]]:
        """The counts that apply, by name."""
        for entry in fields(self):
            count = getattr(self, entry.name)
            if count is not None:
                yield entry.name, count


@dataclass(frozen=True)
class Result:
    tables: Mapping[str, Table]
    n: Counts
    exactness: Exactness = Exactness()
    notes: Sequence[str] = ()
    model: TrainedModel | None = None
