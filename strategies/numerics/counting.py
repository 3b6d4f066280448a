"""The numbers of people and rows behind the numbers of a Part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation import cohort as cohorts
from federation import errors
from federation.arrays import Ints
from federation.cohort import Cohort, Tally, Values
from federation.messages import Part
from federation.results import Counts
from federation.schema import Field
from strategies.protocol import Total

Mask = NDArray[np.bool_]
CUT = (
    "about {share:.0f} % of the people were clipped: values moved into the contract's ranges,"
    " rows beyond rows_per_person, or the analysis's own bound"
)

UNREAD = (
    "about {share:.0f} % of the rows lack a value that the analysis reads, or hold one that their "
    "node cannot read, such as a number with a decimal comma:"
    " ask the producers to run `hdh node check`"
)
AT_ONCE = 2**16  # rows of a piece
SURE = 5.0  # a count is clear of the noise above this many standard deviations
# The same for the rows of a model, whose information must stand clear of its own noise as well.
# Noise alone passes here once in 741 runs.
SURE_OF_MODEL = 3.0


def people(cohort: Cohort, keep: Any) -> dict[str, Ints]:
    """The cells that every Part has: people, complete rows and missing rows, from the mask `keep`
    (n_cohort,) of the complete rows."""
    rows = int(np.count_nonzero(keep))
    n_people = cohort.people if rows == cohort.rows else cohort.count_people(keep)
    return {
        "people": np.array([n_people]),
        "rows": np.array([rows]),
        "missing": np.array([cohort.rows - rows]),
    }


def cells(columns: Sequence[Values], shape: Sequence[int]) -> Ints:
    """`shape`: the number of rows in each combination of the levels of `columns` (n_rows,), none of
    which is missing. They are counted in pieces that stay in a core's cache."""
    size = math.prod(shape)
    counts, at_once = np.zeros(size, np.int64), max(AT_ONCE, size)
    for start in range(0, len(columns[0]), at_once):
        place: Ints = np.zeros(1, np.int64)
        for column, n_levels in zip(columns, shape, strict=True):
            place = place * n_levels + column[start : start + at_once].astype(np.int64)
        counts += np.bincount(place, minlength=size)
    return counts.reshape(shape)


def reported(cells: Mapping[str, Ints], *, events: bool = False) -> Counts:
    """The counts of a result from the cells of its total."""
    people, rows, missing = (int(cells[name].sum()) for name in ("people", "rows", "missing"))
    return Counts(
        people=people,
        rows=rows,
        missing=missing,
        events=int(cells["events"].sum()) if events else None,
    )


# -- under differential privacy
def tally(cohort: Cohort, keep: Mask, clipped: Mask | None = None) -> Ints:
    """(3,): people with complete rows, the mask `keep` (n_cohort,); missing rows; and clipped
    people. The contract clips when the cohort is opened; the analysis marks the rows that it clips
    in `clipped` (n_cohort,). If a person may have several rows, (4,): also the complete rows."""
    flags = [flag for flag in (cohort.clipped, clipped) if flag is not None]
    cut = np.logical_or.reduce([*flags, np.zeros(cohort.rows, np.bool_)]) & keep
    rows = int(np.count_nonzero(keep))
    counts = [cohort.count_people(keep), cohort.rows - rows, cohort.count_people(cut)]
    return np.array(counts if cohort.rows_per_person == 1 else [*counts, rows], np.int64)


def tally_sensitivity(rows_per_person: int) -> float:
    """The sensitivity of `tally`. A single row is missing, or it is complete and perhaps clipped. A
    person with several rows counts once as a person and once as clipped, and their rows are split
    over complete and missing."""
    return math.sqrt(2) if rows_per_person == 1 else math.sqrt(2 + rows_per_person**2)


def cross(cohort: Cohort, fields: Sequence[Field]) -> Tally:
    """The number of people (rows) with each combination of the levels of `fields`, counted without
    reading columns if the cohort can."""
    if cohort.count is not None:
        return cohort.count(fields)
    columns = cohort.columns(fields)
    keep = cohorts.complete(columns)
    shape = [len(field.groups) for field in fields]
    cell = np.ravel_multi_index(
        [columns[field.name][keep].astype(np.int64) for field in fields], shape
    )
    counts = tally(cohort, keep)
    return Tally(
        np.bincount(cell, minlength=math.prod(shape)).reshape(shape).astype(np.int64),
        counts if len(counts) == 3 else counts[[3, 1, 2]],
    )


def unit_name(rows_per_person: int) -> str:
    """The unit that `cross` counts beside the cells: people, or rows if a person may have several.
    Then it does not identify people."""
    return "people" if rows_per_person == 1 else "rows"


def cross_sensitivity(rows_per_person: int) -> float:
    """The sensitivity of the counts beside the cells: a person's rows are split over complete and
    missing, and the person is clipped or not."""
    return math.sqrt(1 + rows_per_person**2)


def crossed(
    cohort: Cohort, fields: Sequence[Field], shape: Sequence[int], rows_per_person: int
) -> Part:
    """The counts of `cross` as a Part: `counts` in `shape`, and people or rows."""
    counted, name = cross(cohort, fields), unit_name(rows_per_person)
    sensitivity = {"counts": float(rows_per_person), name: cross_sensitivity(rows_per_person)}
    return Part({"counts": counted.cells.reshape(shape), name: counted.people}, {}, sensitivity)


@dataclass(frozen=True)
class Estimated:
    """The counts of a result from the noised tally of all nodes, the number of rows, and notes for
    the reader."""

    n: Counts
    rows: int
    notes: Sequence[str]


def estimated(total: Total, cut: str = CUT) -> Estimated:
    """`cut`: the note about clipped people. It appears if their share is larger than the noise and
    at least one per cent, because clipping may then move an estimate visibly."""
    name = _tally_of(total)
    first, missing, clipped, *more = (max(0, round(value)) for value in total.sums[name].tolist())
    rows = more[0] if more else first
    people = first if name == "people" else None
    share, noise = clipped / max(first, 1), math.sqrt(total.noise[name])
    clear = share >= 0.01 and clipped > 2 * noise
    return Estimated(
        Counts(people=people, rows=rows, missing=missing, clipped=clipped),
        rows,
        [*([cut.format(share=100 * share)] if clear else []), *unread(total)],
    )


def unread(total: Total) -> list[str]:
    """A note if the noised tally shows that most rows lack a value; nothing without a tally."""
    name = _tally_of(total)
    if len(total.sums.get(name, ())) < 3 or name not in total.noise:
        return []
    first, missing, _, *more = total.sums[name].tolist()
    rows, noise = max(more[0] if more else first, 0.0), math.sqrt(total.noise[name])
    if missing <= max(rows, SURE * noise):
        return []
    return [UNREAD.format(share=100 * missing / (rows + missing))]


def check_model_rows(total: Total, name: str) -> None:
    """ModelError if the rows of the model `name` do not stand clear of the noise in their number:
    its estimates would then be made of noise."""
    people, *_ = total.sums["people"].tolist()
    if people <= SURE_OF_MODEL * math.sqrt(total.noise["people"]):
        raise errors.ModelError(
            f"{name}: the number of complete rows does not stand clear of its noise; widen the"
            " cohort, give the analysis more budget, or ask the producers to run `hdh node check`,"
            " since a value that a node cannot read makes its row incomplete"
        )


def expects_model(people: int, count_noise: float) -> bool:
    """Whether `check_model_rows` should pass for so many people. `count_noise`: the standard
    deviation of the noise in their number."""
    return people > SURE_OF_MODEL * count_noise


def _tally_of(total: Total) -> str:
    return "people" if "people" in total.sums else "rows"
