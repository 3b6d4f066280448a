"""Which sides of a task's columns must stand for enough people, and how many people stand there at
a node.

The list follows from the study and the contract, so that hub and nodes agree on it; the counts are
those of the rows that the task adds up. A node that shows its hub no small cells compares its own
counts with `min_cell`; otherwise, and under a secure sum, the counts travel as the cells `support`
of each Part and the hub compares their sum, so that a level which lies thin over many nodes is
answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation import cohort as cohorts
from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Key, Values
from federation.disclosure.support import Side
from federation.expression import Piece
from federation.formula import Term
from federation.messages import Part
from federation.schema import Field
from strategies.protocol import AnyTask, Roles

CELLS = "support"  # the name of the counts among the cells of a Part
FIRST_ROWS, ENOUGH = 8192, 1024  # rows in which most columns show so many people on either side
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """The rows that a task adds up: the columns of the cohort, which of its rows are used
    (n_rows,), and the person of each used row (n_used,), or None where each row is another
    person's."""

    columns: Mapping[str, Values]
    is_used: Mask
    person: Ints | None

    @cached_property
    def _index(self) -> Any:
        return cohorts.kept_rows(self.is_used)

    def of(self, field: Field) -> Values:
        """(n_used,) a column of the used rows."""
        column: Values = self.columns[field.name][self._index]
        return column

    def people(self, mask: Mask) -> int:
        """How many people have one of the used rows in `mask` (n_used,)."""
        return count_people(mask, self.person)


def count_people(mask: Mask, person: Ints | None) -> int:
    return int(np.count_nonzero(mask)) if person is None else len(np.unique(person[mask]))


def pieces_of(fields: Iterable[Field]) -> tuple[Piece, ...]:
    return tuple(dict.fromkeys(piece for field in fields for piece in field.pieces))


def as_field(piece: Piece) -> Field:
    """The piece as a column that a cohort can read."""
    return Field(piece.sql, "number" if piece.kind == "number" else "boolean", piece.sql)


def roles_of(task: AnyTask) -> Roles:
    """The roles of a task in exact mode. ValueError if a column that it reads has none."""
    if task.roles is None or not task.roles.fields >= set(task.fields):
        raise ValueError(f"{task.name} reads a column that stands in no role")
    return task.roles


def own_fields(roles: Roles) -> tuple[Field, ...]:
    """The columns whose values are added up, in a fixed order."""
    return roles.added_up


def _all_fields(task: AnyTask) -> tuple[Field, ...]:
    return tuple(dict.fromkeys((*task.fields, *roles_of(task).groups)))


def sides(task: AnyTask) -> list[Side]:
    """What is counted, in the order of `counts`."""
    roles = roles_of(task)
    sides_ = [side for piece in task.where for side in _piece_sides(piece)]
    sides_ += [side for piece in _counted_pieces(task) for side in _piece_sides(piece)]
    sides_ += _column_sides(roles)
    if roles.used is None:
        return sides_
    added_up = [side for piece in _pieces_of_used(task) for side in _piece_sides(piece)]
    added_up += _column_sides(roles)
    return sides_ + added_up


def _column_sides(roles: Roles) -> list[Side]:
    levels = [
        Side(f"{field.name}[{level}]", False)
        for field in own_fields(roles)
        for level in _levels(field)
    ]
    return levels + [Side(term.name, True) for term in roles.terms if len(term.factors) > 1]


def pieces(task: AnyTask) -> tuple[Piece, ...]:
    """All that the study writes of this task's rows."""
    return tuple(piece for piece in _counted_pieces(task) if piece.kind != "influence")


def written(task: AnyTask) -> tuple[Piece, ...]:
    """The same of a task that may have no roles, which no node answers."""
    return () if task.roles is None else pieces(replace(task, fields=tuple(task.roles.fields)))


def _counted_pieces(task: AnyTask) -> tuple[Piece, ...]:
    return tuple(dict.fromkeys((*pieces_of(_all_fields(task)), *roles_of(task).conditions)))


def _pieces_of_used(task: AnyTask) -> tuple[Piece, ...]:
    """Those counted among the rows that are added up, which the conditions of options choose."""
    chosen_by = roles_of(task).conditions
    return tuple(piece for piece in _counted_pieces(task) if piece not in chosen_by)


def _piece_sides(piece: Piece) -> list[Side]:
    if piece.kind in ("number", "influence"):
        return [Side(piece.sql, True)]
    if piece.kind == "edge":
        return [Side(piece.sql, False)]
    return [Side(f"{side}: {piece.sql}", True) for side in ("yes", "no")]


def _levels(field: Field) -> tuple[str, ...]:
    """The sides of a contract column. What a study makes is counted by its pieces."""
    if field.pieces or field.kind in ("string", "date", "array"):
        return ()
    return ("value",) if field.kind == "number" else field.groups


def all_rows(cohort: Cohort) -> Rows:
    return Rows({}, np.ones(cohort.rows, np.bool_), cohort.numbered)


def rows_of(cohort: Cohort, task: AnyTask) -> Rows:
    """The rows that lack no column and have a weight above 0; all of them where each column stands
    apart."""
    roles = roles_of(task)
    columns = cohort.columns(task.fields)
    complete = np.ones(cohort.rows, np.bool_)
    if not roles.apart and columns:
        complete = cohorts.complete(columns)
    for weight in roles.weights:
        complete &= columns[weight.name] > 0
    return _rows_in(complete, columns, cohort)


def _rows_in(mask: Mask, columns: Mapping[str, Values], cohort: Cohort) -> Rows:
    return Rows(columns, mask, None if cohort.numbered is None else cohort.numbered[mask])


def added_up(cohort: Cohort, task: AnyTask) -> Rows | None:
    """The rows that the task adds up, if these are others than those of `rows_of`."""
    used = roles_of(task).used
    if used is None:
        return None
    return _rows_in(used(cohort, task), cohort.columns(task.fields), cohort)


def with_counts(part: Part, cohort: Cohort, task: AnyTask) -> Part:
    """The part with the counts of `counts` among its cells, made once for a task."""
    counted = cohort.once(Key[Ints]("support", task.name), lambda: counts(cohort, task))
    return replace(part, cells={**part.cells, CELLS: counted})


def counts(cohort: Cohort, task: AnyTask, rows: Rows | None = None) -> Ints:
    """(n_sides,) people on each side at this node: exactly, or at least so many where these are
    enough. `rows`: those of the task, if they were read already."""
    cells = _piece_counts(task.where, cohort.everyone or cohort, None)
    if cohort.count is not None:  # rows are counted where they lie, and none is read
        return np.array(cells + _counted(_counted_pieces(task), cohort), np.int64)
    complete = rows or rows_of(cohort, task)
    cells += _row_counts(cohort, task, complete, _counted_pieces(task))
    if (used := added_up(cohort, task)) is not None:
        cells += _row_counts(cohort, task, used, _pieces_of_used(task))
    return np.array(cells, np.int64)


def _row_counts(cohort: Cohort, task: AnyTask, rows: Rows, pieces: Iterable[Piece]) -> list[int]:
    roles = roles_of(task)
    cells = _piece_counts(pieces, cohort, rows)
    for field in own_fields(roles):
        cells += _level_counts(field, rows)
    crossed = [term for term in roles.terms if len(term.factors) > 1]
    return cells + [off_mode(product(term, rows), rows.person) for term in crossed]


def _piece_counts(pieces: Iterable[Piece], cohort: Cohort, rows: Rows | None) -> list[int]:
    """`rows`: None for all rows of the cohort."""
    listed = list(pieces)
    if not listed:
        return []
    if cohort.count is not None:
        return _counted(listed, cohort)
    columns = cohort.columns(map(as_field, listed))
    some = rows or all_rows(cohort)
    return [n for piece in listed for n in _sides_of(piece, columns[piece.sql][some.is_used], some)]


def _sides_of(piece: Piece, values: Floats, rows: Rows) -> list[int]:
    if piece.kind == "number":
        return [off_mode(values, rows.person)]
    if piece.kind == "edge":
        return [rows.people(values == 0)]
    if piece.kind == "influence":
        return [rows.people(values == 1)]
    return [rows.people(values == 1), rows.people(values == 0)]


def _counted(pieces: Iterable[Piece], cohort: Cohort) -> list[int]:
    """Of a cohort that only counts. A number that is made there does no more than name a level of a
    grid."""
    assert cohort.count is not None
    indices: list[int] = []
    for piece in pieces:
        if piece.kind == "number":
            indices.append(cohort.people)
            continue
        no, yes = (int(n) for n in cohort.count([as_field(piece)]).cells.reshape(2))
        sides = {"edge": [no], "influence": [yes]}
        indices += sides.get(piece.kind, [yes, no])
    return indices


def _level_counts(field: Field, rows: Rows) -> list[int]:
    if not _levels(field):
        return []
    column = rows.of(field)
    if field.kind == "number":
        return [off_mode(column, rows.person)]
    people: list[int] = level_people(column, len(field.groups), rows.person).tolist()
    return people


def level_people(column: Values, n_levels: int, person: Ints | None) -> Ints:
    """(n_levels,) the number of people with a row of each level, from one pass over the column
    (n_rows,), whatever the number of levels."""
    has_level = is_known(column)
    codes = column[has_level].astype(np.int64)
    if person is not None:
        pairs = np.unique(person[has_level] * n_levels + codes)  # a person counts once in a level
        codes = pairs % n_levels
    return np.bincount(codes, minlength=n_levels).astype(np.int64)


def product(term: Term, rows: Rows) -> Floats:
    """(n_used,) the design column of a term."""
    zero, ones = np.zeros(1), np.ones(1)
    complete = cohorts.kept_rows(rows.is_used)
    column: Floats = cohorts.design([term], rows.columns, complete, centre=zero, scale=ones)[:, 0]
    return column


def set_apart(piece: Piece, values: Floats, rows: Rows) -> Mask | None:
    """(n_rows,) the used rows that a piece sets apart; None for a number of more than two
    values."""
    if piece.kind != "number":
        return np.asarray(rows.is_used & (values == 1))
    levels = np.unique(values[rows.is_used & ~np.isnan(values)])
    return np.asarray(rows.is_used & (values == levels[1])) if len(levels) == 2 else None


def is_wide(chosen: Mask, cohort: Cohort, rows: Rows, k: int) -> bool:
    """Whether at least `k` people have a used row in `chosen` (n_rows,), and as many another."""
    return min(cohort.count_people(some & rows.is_used) for some in (chosen, ~chosen)) >= k


def is_known(values: Values) -> Mask:
    """(n_rows,) where a column is not missing."""
    mask: Mask = values >= 0 if values.dtype.kind == "i" else ~np.isnan(values)
    return mask


def off_mode(values: Floats, person: Ints | None) -> int:
    """People whose value is not the most frequent one; of a column of two values, those on the
    smaller side. At least so many, where the first rows show enough. Values that are missing do not
    count."""
    if person is None:
        first = values[:FIRST_ROWS]
        if (people := _off_mode(first[~np.isnan(first)], None)) >= ENOUGH:
            return people
    there = ~np.isnan(values)
    return _off_mode(values[there], None if person is None else person[there])


def _off_mode(values: Floats, person: Ints | None) -> int:
    distinct, n = np.unique(values, return_counts=True)
    if len(distinct) < 2:
        return 0
    at_mode = values == distinct[n.argmax()]
    away = count_people(~at_mode, person)
    return min(away, count_people(at_mode, person)) if len(distinct) == 2 else away
