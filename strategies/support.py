"""Which sides of a task's columns must stand for enough people, and how many people stand there at
a node.

The list follows from the study and the contract, so that hub and nodes agree on it; the counts are
those of the rows that the task adds up. A node that shows its hub no small cells compares its own
counts with `min_cell`; otherwise, and under a secure sum, the counts travel as the cells `support`
of each Part and the hub compares their sum, so that a level which lies thin over many nodes is
answered.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from federation import cohort as cohorts
from federation.arrays import Floats, Ints
from federation.cohort import Apart, Cohort, Key, Values
from federation.disclosure import in_blocks
from federation.disclosure.in_blocks import OffMode
from federation.disclosure.support import Side
from federation.expression import Piece
from federation.formula import Term
from federation.messages import Part
from federation.schema import Field
from strategies.numerics import counting
from strategies.protocol import AnyTask, Roles

CELLS = "support"  # the name of the counts among the cells of a Part
FIRST_ROWS, ENOUGH = 8192, 1024  # rows in which most columns show so many people on either side
Mask = NDArray[np.bool_]
S = TypeVar("S")
T = TypeVar("T")


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


class Columns(Mapping[str, Values]):
    """Columns of a block, each read when it is first asked for."""

    def __init__(self, cohort: Cohort, fields: Iterable[Field]) -> None:
        self._cohort = cohort
        self._fields = {field.name: field for field in fields}
        self._read: dict[str, Values] = {}

    def read(self, fields: Iterable[Field]) -> None:
        """Several at once, which need not be among the named ones."""
        absent = [field for field in fields if field.name not in self._read]
        self._fields |= {field.name: field for field in absent}
        if absent:
            self._read |= self._cohort.columns(absent)

    def __getitem__(self, name: str) -> Values:
        if name not in self._read:
            self.read([self._fields[name]])
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


@dataclass(frozen=True)
class Block:
    """A block of a cohort, and the rows of it that count."""

    cohort: Cohort
    rows: Rows

    def of(self, field: Field) -> Values:
        """(n_used,) a column of the used rows."""
        if isinstance(self.rows.columns, Columns):
            self.rows.columns.read([field])
        if field.name in self.rows.columns:
            return self.rows.of(field)
        column: Values = self.cohort.columns([field])[field.name][self.rows.is_used]
        return column


Bits = NDArray[np.uint8]  # which rows of a block are used


@dataclass(frozen=True)
class AllRows:
    """Of a block."""

    def __call__(self, cohort: Cohort, bits: Bits | None) -> tuple[Block, Bits | None]:
        is_used = np.ones(cohort.rows, np.bool_)
        return Block(cohort, Rows(Columns(cohort, ()), is_used, cohort.numbered)), bits


@dataclass(frozen=True)
class UsedRows:
    """The rows of a block that a task uses: those of `rows_of`, or if `is_added_up` of `added_up`.
    Bits tell which these are, so that only the first reading needs all columns."""

    task: AnyTask
    is_added_up: bool

    def __call__(self, cohort: Cohort, bits: Bits | None) -> tuple[Block, Bits | None]:
        columns = Columns(cohort, self.task.fields)
        if bits is None:
            columns.read(self.task.fields)
            bits = np.packbits(self._mask(cohort, columns))
        is_used = np.unpackbits(bits, count=cohort.rows).astype(np.bool_)
        return Block(cohort, _rows_in(is_used, columns, cohort)), bits

    def _mask(self, cohort: Cohort, columns: Columns) -> Mask:
        used = roles_of(self.task).used
        if self.is_added_up and used is not None:
            return np.asarray(used(cohort, self.task))
        return _complete(cohort, self.task, columns)


@dataclass(frozen=True)
class Held:
    """The only block of a cohort that is held."""

    rows: Rows

    def __call__(self, cohort: Cohort, bits: Bits | None) -> tuple[Block, Bits | None]:
        return Block(cohort, self.rows), bits


@dataclass(frozen=True)
class Blocks:
    """The blocks of a cohort, which a call reads anew. `opened`: finds the rows of a block that
    count; `bits`: by the number of a block, which these are, once it was read. `is_shared`: whether
    other processes have the code that is called."""

    cohort: Cohort
    opened: AllRows | UsedRows | Held
    bits: dict[int, Bits | None]
    is_shared: bool = True

    def __call__(self) -> Iterator[Block]:
        for number, cohort in enumerate(self.cohort.blocks()):
            block, self.bits[number] = self.opened(cohort, self.bits.get(number))
            yield block

    def each(self, compute: Callable[[Block], T]) -> Iterator[T]:
        """What `compute` gives of each block, in order. The first one, which often is enough, is
        read here; the others where they can be read at the same time."""
        if self._apart is None:
            yield from map(compute, self())
            return
        yield from map(compute, itertools.islice(self(), 1))
        yield from self.after_first(compute)

    def after_first(self, compute: Callable[[Block], T]) -> Iterator[T]:
        apart = self._apart
        if apart is None:
            yield from map(compute, itertools.islice(self(), 1, None))
            return
        computed = apart(_Computed(self.opened, compute), self.bits, 1)
        for number, (bits, value) in enumerate(computed, 1):
            if self.bits.get(number) is None:
                self.bits[number] = bits
            yield value

    @property
    def _apart(self) -> Apart | None:
        blocks = self.cohort.in_blocks
        return blocks.at_node if blocks is not None and self.is_shared else None

    def pieces(self, read: Callable[[Block], T]) -> Pieces[T]:
        return Pieces(self, read)


@dataclass(frozen=True)
class _Computed(Generic[T]):
    """What is computed of a block, and its bits if these were not known."""

    opened: AllRows | UsedRows | Held
    compute: Callable[[Block], T]

    def __call__(self, cohort: Cohort, bits: Bits | None) -> tuple[Bits | None, T]:
        block, used = self.opened(cohort, bits)
        return used if bits is None else None, self.compute(block)


@dataclass(frozen=True)
class Pieces(in_blocks.Shared[T]):
    """What the rules look at in each block."""

    blocks: Blocks
    read: Callable[[Block], T]

    def __call__(self) -> Iterator[T]:
        return map(self.read, self.blocks())

    def each(self, compute: Callable[[T], S]) -> Iterator[S]:
        return self.blocks.each(cohorts.Then(self.read, compute))

    def then(self, change: Callable[[T], S]) -> Pieces[S]:
        return Pieces(self.blocks, cohorts.Then(self.read, change))


def is_built_in(task: AnyTask) -> bool:
    """Whether other processes have its analysis, which a site's own may not be."""
    return str(getattr(task.analysis, "__name__", "")).startswith("strategies.")


def count_people(mask: Mask, person: Ints | None) -> int:
    return int(np.count_nonzero(mask)) if person is None else len(np.unique(person[mask]))


def _once(of_task: Callable[[AnyTask], T]) -> Callable[[AnyTask], T]:
    """The nodes of a process share the tasks of a study, and each asks the same of them."""
    name = f"once {of_task.__name__}"

    def held(task: AnyTask) -> T:
        values = vars(task)
        if name not in values:
            values[name] = of_task(task)
        return cast(T, values[name])

    return held


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
    levels = [side for field in own_fields(roles) for side in _level_sides(field)]
    return levels + [Side(term.name, True) for term in roles.terms if len(term.factors) > 1]


def pieces(task: AnyTask) -> tuple[Piece, ...]:
    """All that the study writes of this task's rows."""
    return tuple(piece for piece in _counted_pieces(task) if piece.kind != "influence")


@_once
def written(task: AnyTask) -> tuple[Piece, ...]:
    """The same of a task that may have no roles, which no node answers."""
    return () if task.roles is None else pieces(replace(task, fields=tuple(task.roles.fields)))


@_once
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


@lru_cache(maxsize=64)  # a factor of 10,000 levels would be written out at every node of a process
def _level_sides(field: Field) -> tuple[Side, ...]:
    return tuple(Side(f"{field.name}[{level}]", False) for level in _levels(field))


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
    columns = cohort.columns(task.fields)
    return _rows_in(_complete(cohort, task, columns), columns, cohort)


def _complete(cohort: Cohort, task: AnyTask, columns: Mapping[str, Values]) -> Mask:
    roles = roles_of(task)
    complete = np.ones(cohort.rows, np.bool_)
    if not roles.apart and columns:
        complete = cohorts.complete(columns)
    for weight in roles.weights:
        complete &= columns[weight.name] > 0
    return complete


def _rows_in(mask: Mask, columns: Mapping[str, Values], cohort: Cohort) -> Rows:
    return Rows(columns, mask, None if cohort.numbered is None else cohort.numbered[mask])


def added_up(cohort: Cohort, task: AnyTask) -> Rows | None:
    """The rows that the task adds up, if these are others than those of `rows_of`."""
    used = roles_of(task).used
    if used is None:
        return None
    return _rows_in(used(cohort, task), cohort.columns(task.fields), cohort)


def blocks_of(cohort: Cohort, task: AnyTask, rows: Rows | None = None) -> Blocks:
    """The rows of `rows_of`. A cohort that is held is one block, with `rows` if these were read
    already."""
    if cohort.in_blocks is None:
        return Blocks(cohort, Held(rows or rows_of(cohort, task)), {})
    return _blocks_in(cohort, task, is_added_up=False)


def blocks_added_up(cohort: Cohort, task: AnyTask) -> Blocks | None:
    """The rows of `added_up` of a cohort in blocks. A person's rows are used or not, whoever else
    is in a block."""
    return None if roles_of(task).used is None else _blocks_in(cohort, task, is_added_up=True)


def _blocks_in(cohort: Cohort, task: AnyTask, *, is_added_up: bool) -> Blocks:
    key = Key[dict[int, Any]]("used-rows", task.name, is_added_up)
    bits = cohort.once(key, dict)
    return Blocks(cohort, UsedRows(task, is_added_up), bits, is_built_in(task))


def all_blocks(cohort: Cohort, *, is_shared: bool = True) -> Blocks:
    """All rows of a cohort in blocks."""
    return Blocks(cohort, AllRows(), {}, is_shared)


def with_counts(part: Part, cohort: Cohort, task: AnyTask) -> Part:
    """The part with the counts of `counts` among its cells, made once for a task."""
    key: Key[Ints] = Key("support", task.name)
    counted = cohort.once(key, lambda: counts(cohort, task))
    return Part(part.sums, {**part.cells, CELLS: counted}, part.sensitivity, part.parameters)


def counts(cohort: Cohort, task: AnyTask, rows: Rows | None = None) -> Ints:
    """(n_sides,) people on each side at this node: exactly, or at least so many where these are
    enough. `rows`: those of the task, if they were read already."""
    if cohort.in_blocks is not None:
        return np.array(_counts_in_blocks(cohort, task), np.int64)
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


def _counts_in_blocks(cohort: Cohort, task: AnyTask) -> list[int]:
    """The same of a cohort in blocks."""
    everyone = all_blocks(cohort.everyone or cohort)
    cells = _tallied([_of_piece(piece) for piece in task.where], everyone)
    complete, used = blocks_of(cohort, task), blocks_added_up(cohort, task)
    cells += _tallied(_tallies_of(task, _counted_pieces(task)), complete)
    if used is not None:
        cells += _tallied(_tallies_of(task, _pieces_of_used(task)), used)
    return cells


def _tallies_of(task: AnyTask, pieces: Iterable[Piece]) -> list[SideTally]:
    """As `_row_counts`."""
    roles = roles_of(task)
    tallies = [_of_piece(piece) for piece in pieces]
    tallies += [_of_levels(field) for field in own_fields(roles) if _levels(field)]
    crossed = [term for term in roles.terms if len(term.factors) > 1]
    return tallies + [SideTally((), OffMode(), term=term) for term in crossed]


@dataclass
class SideTally:
    """The people on the sides of one column, counted over blocks. `fields`: those to read;
    `off_mode`: of a number or of the design column of a `term`; `sides`: of any other column,
    counts of one block. `people` (n_sides,): so far."""

    fields: tuple[Field, ...]
    off_mode: OffMode | None = None
    sides: Callable[[Values, Rows], Any] | None = None
    term: Term | None = None
    people: Any = 0

    @property
    def is_settled(self) -> bool:
        return self.off_mode is not None and self.off_mode.is_settled

    def of(self, block: Block) -> OffMode | Ints:
        """Of one block."""
        column = block.of(self.fields[0]) if self.term is None else product(self.term, block.rows)
        if self.sides is None:
            return OffMode.of(column, block.rows.person)
        return np.asarray(self.sides(column, block.rows), np.int64)

    def add(self, of_block: OffMode | Ints) -> None:
        if isinstance(of_block, OffMode):
            assert self.off_mode is not None
            self.off_mode.join(of_block)
        else:
            self.people = self.people + of_block

    @property
    def counts(self) -> list[int]:
        if self.off_mode is not None:
            return [self.off_mode.support]
        counted: list[int] = np.asarray(self.people).reshape(-1).tolist()
        return counted


def _of_piece(piece: Piece) -> SideTally:
    if piece.kind == "number":
        return SideTally((as_field(piece),), OffMode())
    return SideTally((as_field(piece),), sides=partial(_sides_of, piece))


def _of_levels(field: Field) -> SideTally:
    if field.kind == "number":
        return SideTally((field,), OffMode())
    return SideTally((field,), sides=partial(_people_by_level, len(field.groups)))


def _people_by_level(n_levels: int, column: Values, rows: Rows) -> Ints:
    return level_people(column, n_levels, rows.person)


def _tallied(tallies: list[SideTally], blocks: Blocks) -> list[int]:
    """The first block settles most of the numbers, and the others count what is left."""
    for block in itertools.islice(blocks(), 1) if tallies else ():
        for tally, of_block in zip(tallies, _of_all(tallies, block), strict=True):
            tally.add(of_block)
    waiting = [tally for tally in tallies if not tally.is_settled]
    asked = [replace(tally, off_mode=None, people=0) for tally in waiting]
    for of_tallies in blocks.after_first(partial(_of_all, asked)) if waiting else ():
        for tally, of_block in zip(waiting, of_tallies, strict=True):
            tally.add(of_block)
        if all(tally.is_settled for tally in waiting):
            break
    return [n for tally in tallies for n in tally.counts]


def _of_all(tallies: Sequence[SideTally], block: Block) -> list[OffMode | Ints]:
    """What each tally counts in a block."""
    if isinstance(block.rows.columns, Columns):
        block.rows.columns.read(field for tally in tallies for field in tally.fields)
    return [tally.of(block) for tally in tallies]


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
    rows = cohorts.kept_rows(is_known(column))
    codes = column[rows]
    if person is not None:
        pairs = np.unique(person[rows] * n_levels + codes)  # a person counts once in a level
        codes = pairs % n_levels
    return counting.cells([codes], [n_levels])


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


def second_levels(pieces: Iterable[Piece], blocks: Blocks) -> dict[Piece, float | None]:
    """The larger value of each number of two values, over all used rows; None for other numbers."""
    seen = {piece: np.empty(0) for piece in pieces if piece.kind == "number"}
    for block in itertools.islice(blocks(), 1) if seen else ():
        seen = dict(zip(seen, _few_values(list(seen), block), strict=True))
    some = [piece for piece, levels in seen.items() if len(levels) <= 2]
    for of_block in blocks.after_first(partial(_few_values, some)) if some else ():
        for piece, levels in zip(some, of_block, strict=True):
            seen[piece] = np.union1d(seen[piece], levels)
        if all(len(seen[piece]) > 2 for piece in some):
            break
    return {p: float(levels[1]) if len(levels) == 2 else None for p, levels in seen.items()}


def _few_values(pieces: Sequence[Piece], block: Block) -> list[Floats]:
    """All values of each number in a block; some of them, where these are more than two."""
    columns, several = block.cohort.columns(map(as_field, pieces)), list[Floats]()
    for piece in pieces:
        values = columns[piece.sql][block.rows.is_used]
        there = values[~np.isnan(values)]
        first = np.unique(there[:FIRST_ROWS])
        several.append(first if len(first) > 2 else np.unique(there)[:3])
    return several


def chosen_rows(
    pieces: Sequence[Piece], levels: Mapping[Piece, float | None], block: Block
) -> list[Mask]:
    """(n_rows,) the used rows of a block that each piece sets apart. `levels`: of the numbers of
    two values among them."""
    columns = block.cohort.columns(map(as_field, pieces))
    values = ((piece, columns[piece.sql]) for piece in pieces)
    sides = (column == (levels[p] if p.kind == "number" else 1) for p, column in values)
    return [np.asarray(block.rows.is_used & side) for side in sides]


def people_on_sides(chosen: Mask, block: Block) -> Ints:
    """(2,) the people of a block with a used row in `chosen` (n_rows,), and those with another."""
    sides = (chosen, ~chosen)
    return np.array([block.cohort.count_people(some & block.rows.is_used) for some in sides])


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
