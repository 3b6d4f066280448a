"""The findings of an analysis before the hub's door: tables, counts, exactness, a trained
network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from federation.arrays import Floats

Row = dict[str, Any]
Door = Literal["cells", "lines", "curve", "groups", "listed", "tallies", "estimates"]


@dataclass(frozen=True)
class Table:
    """Tidy rows, and the rule by which the hub's door protects them.

    cells      the rows are the cells of one cross-table, with columns `row`, `column` and `n`; the
               totals of the table are shown
    lines      the same, but each `row` is a table of its own, with one line and a known total
    curve      the rows follow `time` within `group` (and `cause`); the events and exits between
               two released times form a cell
    groups     a row stands on `n` people, of whom `n_event` had the event; both add up to known
               totals over the rows (of each `cause` or `indicator`)
    listed     the presence of a row says something about a person, so a row on too few people is
               left out. The entry `beside` of a row names other people whom its numbers count, such
               as those of a drug without the event: if these are few, the row is left out, too. The
               entry `lines` names known totals of several rows: what is left out of each is nobody
               or enough people. If the table follows another, the entry `cell` is the row and
               column of its cell there, with which the row is withheld. These three are never shown
    tallies    an entry that lists numbers of people is shown as how many of these are enough
    estimates  a row on too few people `n` is suppressed. The entry `beyond` of a row names its
               order statistics (a quantile, a median, an end of their interval), each with the
               number of people on its emptier side. One with too few is suppressed, and the whole
               row if it is the `estimate`. `beyond` itself is never shown

    `follows`: the name of another table of the result; if a cell of that table is withheld, this
    table is withheld too.
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
    """A trained network. `about`: its architecture and its inputs. `weights` (n_weights,)."""

    about: Row
    weights: Floats


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The numbers of people and rows that a result stands on; None if not applicable or unknown.

    `missing`: rows left out because a value is missing. `events`: of the rarer kind, if there are
    two kinds. `clipped`: people whose contribution was clipped in mode dp. A result on too few
    people or events is withheld as a whole."""

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
