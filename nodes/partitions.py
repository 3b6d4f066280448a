"""The grids on which a node's answers cut a column, compared with each other: a histogram of 20
bins beside one of 19 shows the few people between two of their edges.

A node keeps each grid beside the conditions of its studies, and compares it with the grids of later
answers that share a column, on the people of the later answer: by group where the answer has
groups, and once more among those whom the earlier study chose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Values
from federation.contract import Contract
from federation.disclosure import partitions
from federation.disclosure.rules import Rules
from federation.expression import Piece
from federation.messages import Refusal
from federation.schema import Field
from nodes import ledger, written_fields
from nodes.answered import Memory
from nodes.ledger import Account, Ledger
from nodes.remembered import Entries
from strategies import support
from strategies.grids import Grid
from strategies.protocol import AnyTask, Chosen
from strategies.support import Block, Blocks, Mask, Rows

KIND = "condition"
NEARLY = Refusal(
    "differencing",
    "its cells, times, shares or thresholds lie close to those of another answer on the same "
    "column, with few people between: use the same grid, or one that differs clearly",
)
WHERE = "where"  # the name of the condition that chooses a study's rows
# as `express` writes it, with or without the guard of a cohort's condition
_COMPARISON = re.compile(
    r"^(?:coalesce\()?\(+(\"[^\"]+\") (<|<=|>|>=) CAST\(([-+.0-9e]+) AS DOUBLE\)\)+(?:, FALSE\))?$"
)
_GRID = ("first", "step", "size", "side", "numbers", "counts", "shares", "parts", "at")


@dataclass(frozen=True)
class Partition:
    """A grid of an answer, or a condition, which is a grid of two levels. `columns`: the contract
    columns behind it. `groups`: the columns by which its cells are shown. `where`: SQL of the
    condition that chose its rows. `reads`: by contract column that its column or `where` names, its
    type and levels. `group_reads`: the same of its groups."""

    grid: Grid
    columns: frozenset[str]
    groups: tuple[Field, ...]
    where: str | None
    reads: Mapping[str, Any]
    group_reads: Mapping[str, Any]

    @cached_property
    def all_reads(self) -> dict[str, Any]:
        return {**self.reads, **self.group_reads}

    @property
    def is_condition(self) -> bool:
        return self.grid.field.kind == "boolean"

    @cached_property
    def content(self) -> bytes:
        values = {
            "grid": {name: getattr(self.grid, name) for name in _GRID},
            "field": written_fields.to_values(self.grid.field),
            "columns": sorted(self.columns),
            "groups": [written_fields.to_values(field) for field in self.groups],
            "where": self.where,
            "reads": self.reads,
            "group_reads": self.group_reads,
        }
        return json.dumps(values, sort_keys=True).encode()


def _partition(content: bytes) -> Partition | None:
    values = json.loads(content)
    if "grid" not in values:
        return None
    grid = values["grid"] | {
        name: tuple(values["grid"][name]) for name in ("shares", "parts", "at")
    }
    return Partition(
        Grid(written_fields.from_values(values["field"]), **grid),
        frozenset(values["columns"]),
        tuple(map(written_fields.from_values, values["groups"])),
        values["where"],
        written_fields.kinds_from(values["reads"]),
        written_fields.kinds_from(values["group_reads"]),
    )


def _partitions() -> Entries[Partition]:
    return Entries(_partition, lambda partition: partition.columns)


def _remembered(
    book: Ledger, account: Account, contract: Contract, columns: frozenset[str]
) -> list[Partition]:
    """Those of earlier answers about the same people that share one of these columns, as far as
    this contract reads theirs in the same way."""
    kinds = written_fields.kinds(contract)
    return [
        partition
        for partition in ledger.gathered(book, KIND, account, _partitions).beside(columns)
        if all(kinds.get(name) == kind for name, kind in partition.all_reads.items())
    ]


def columns_beside(
    book: Ledger, account: Account, contract: Contract, columns: frozenset[str]
) -> set[str]:
    """The contract columns that a node reads to compare the grids on `columns` with earlier
    ones."""
    beside = _remembered(book, account, contract, columns)
    return {name for partition in beside for name in partition.all_reads}


def check(
    memory: Memory, cohort: Cohort, task: AnyTask, rows: Rows | None, rules: Rules
) -> Refusal | None:
    """The reason why a task is not answered: one of its grids and another, of this task or of an
    earlier answer, show few people. If it is answered, its grids are remembered."""
    grids, conditions = list(_grids(memory, task)), list(_conditions(memory, task))
    if not grids and not conditions and not support.roles_of(task).choices:
        return None
    if _is_chosen_otherwise(memory, task):
        return NEARLY
    columns = frozenset[str]().union(*(new.columns for new in (*grids, *conditions)))
    earlier = [
        partition
        for partition in _remembered(memory.ledger, memory.account, memory.contract, columns)
        if memory.readable.issuperset(partition.all_reads)
    ]
    everyone = cohort.everyone or cohort
    for number, new in enumerate([*grids, *conditions]):
        is_where = new.is_condition and new.grid.field.name == WHERE
        some = everyone if is_where else cohort
        for other in _beside(new, [*earlier, *grids[:number]]):
            if some.count is not None:
                is_near = _are_near_in_place(new, other, some, rules.min_cell)
            else:
                blocks = _blocks_of(some, None if is_where else task, rows)
                is_near = _are_near(new, other, blocks, rules)
            if is_near:
                return NEARLY
    for partition in (*grids, *conditions):
        memory.keep_once(KIND, partition.content)
    return None


def _beside(new: Partition, others: Sequence[Partition]) -> list[Partition]:
    """Those that share a column. Two conditions are compared by their people's fingerprints, and
    with everyone's rows only what the condition of a study names can be read."""
    beside = {
        other.content: other
        for other in others
        if other.columns & new.columns and not (new.is_condition and other.is_condition)
    }
    beside.pop(new.content, None)
    if new.grid.field.name != WHERE:
        return list(beside.values())
    return [other for other in beside.values() if other.reads.keys() <= new.reads.keys()]


def _grids(memory: Memory, task: AnyTask) -> Iterator[Partition]:
    roles = support.roles_of(task)
    for grid in roles.grids:
        groups = () if roles.apart else tuple(f for f in roles.groups if _divides(f, grid.field))
        columns = memory.columns_behind([grid.field.name])
        reads = _reads(memory, ["", grid.field.name])
        by = _reads(memory, [field.name for field in groups])
        yield Partition(grid, columns, groups, memory.where, reads, by)


def _conditions(memory: Memory, task: AnyTask) -> Iterator[Partition]:
    """Those that the study writes in this task, and the one that chooses its rows."""
    if memory.where is not None:
        field = Field(WHERE, "boolean", f"coalesce(({memory.where}), FALSE)")
        grid, reads = Grid(field, side="levels"), _reads(memory, [""])
        yield Partition(grid, memory.where_columns, (), None, reads, {})
    pieces = [piece for piece in support.pieces(task) if piece.kind == "condition"]
    names = {piece: _names_of(piece, task, memory) for piece in pieces}
    for piece in pieces:
        grid = Grid(support.as_field(piece), side="levels")
        columns = memory.columns_behind(names[piece])
        reads = _reads(memory, ["", *names[piece]])
        yield Partition(grid, columns, (), memory.where, reads, {})


def _names_of(piece: Piece, task: AnyTask, memory: Memory) -> list[str]:
    """The fields that hold a condition; for one of the task's options, those whose columns it
    names."""
    holding = [field.name for field in task.fields if piece in field.pieces]
    named = set(re.findall(r'"([^"]+)"', piece.sql))
    fields = (field.name for field in task.fields if memory.names[field.name] <= named)
    return holding or list(fields)


def _reads(memory: Memory, names: Iterable[str]) -> dict[str, Any]:
    kinds = written_fields.kinds(memory.contract)
    behind = (memory.names[name] for name in names)
    return {name: kinds[name] for name in sorted(frozenset().union(*behind))}


def _choice(content: bytes) -> dict[str, Any] | None:
    values: dict[str, Any] = json.loads(content)
    return values if "choice" in values else None


def _choices() -> Entries[dict[str, Any]]:
    """Found by what they are a choice of."""
    return Entries(_choice, lambda entry: [entry["of"]])


def _is_chosen_otherwise(memory: Memory, task: AnyTask) -> bool:
    """Whether the same task was answered with other cuts of what it computes. No row is read: what
    is cut, such as scores or pathways, is in no column."""
    choices = support.roles_of(task).choices
    before = ledger.gathered(memory.ledger, KIND, memory.account, _choices)
    entries = [_entry(memory, chosen) for chosen in choices]
    for chosen, new in zip(choices, entries, strict=True):
        names = ("of",) if chosen.everywhere else ("of", "where")
        for old in before.beside([new["of"]]):
            is_alike = all(old[name] == new[name] for name in names)
            if is_alike and old["choice"] != new["choice"]:
                return True
    for new in entries:
        memory.keep_once(KIND, json.dumps(new, sort_keys=True).encode())
    return False


def _entry(memory: Memory, chosen: Chosen) -> dict[str, Any]:
    columns = memory.columns_behind(field.name for field in chosen.columns)
    of = " ".join([chosen.of, *sorted(columns)])
    return {"choice": chosen.choice, "of": of, "where": memory.where}


def _divides(field: Field, cut: Field) -> bool:
    return field.kind in ("boolean", "category") and field != cut


def _blocks_of(cohort: Cohort, task: AnyTask | None, rows: Rows | None) -> Blocks:
    """The rows of a task, or all of them."""
    return support.all_blocks(cohort) if task is None else support.blocks_of(cohort, task, rows)


@dataclass(frozen=True)
class Compared:
    """The rows in which two partitions are compared. `read`: the columns of `_read` (n_rows,).
    used (n_rows,): those that count. person (n_rows,), or None. times (n_rows,): how many rows each
    stands for; None if each is one."""

    read: Mapping[str, Values]
    used: Mask
    person: Ints | None
    times: Ints | None = None

    def some(self, used: Mask) -> Compared:
        person, times = (
            None if array is None else array[used] for array in (self.person, self.times)
        )
        read = {name: column[used] for name, column in self.read.items()}
        return Compared(read, np.ones(int(np.count_nonzero(used)), np.bool_), person, times)


def _are_near(left: Partition, other: Partition, blocks: Blocks, rules: Rules) -> bool:
    compared = _compared(left, other, blocks)
    used = compared.used
    if left.where == other.where or other.where is None:
        return _are_near_among(used, left, other, compared, rules)
    chosen = used & (compared.read["where"] == 1)
    return any(_are_near_among(some, left, other, compared, rules) for some in (used, chosen))


def _compared(left: Partition, other: Partition, blocks: Blocks) -> Compared:
    """Of several blocks, one row stands for all that lie alike in both partitions."""
    tables: list[Compared] = []
    people = 0
    if blocks.cohort.in_blocks is None:
        (block,) = blocks()
        return _compared_in(left, other, block)
    for table, people_ in blocks.each(partial(_thinned_in, left, other)):
        person = None if table.person is None else table.person + people
        people += people_
        tables.append(replace(table, person=person))
    return _thinned(left, other, _stacked(tables))


def _compared_in(left: Partition, other: Partition, block: Block) -> Compared:
    read = _read(left, other, block.cohort)
    have_both = support.is_known(read["one"]) & support.is_known(read["other"])
    return Compared(read, block.rows.is_used & have_both, block.cohort.numbered)


def _thinned_in(left: Partition, other: Partition, block: Block) -> tuple[Compared, int]:
    """One of the rows of a block that lie alike; and its people."""
    return _thinned(left, other, _compared_in(left, other, block)), block.cohort.people


def _stacked(tables: Sequence[Compared]) -> Compared:
    def joined(arrays: Sequence[Any]) -> Any:
        return None if arrays[0] is None else np.concatenate(arrays)

    return Compared(
        {name: joined([table.read[name] for table in tables]) for name in tables[0].read},
        joined([table.used for table in tables]),
        joined([table.person for table in tables]),
        joined([table.times for table in tables]),
    )


def _thinned(left: Partition, other: Partition, rows: Compared) -> Compared:
    """One of the rows that lie alike: in the same cells, on the steps of both columns or not, in
    the same group, chosen or not, of the same person."""
    some = rows.some(rows.used)
    alike = [*_lies(left.grid, some.read["one"]), *_lies(other.grid, some.read["other"])]
    alike += [column for name, column in some.read.items() if name not in ("one", "other")]
    alike += [] if some.person is None else [some.person]
    number = np.zeros(len(some.used), np.int64)
    for column in alike:
        _, codes = np.unique(column, return_inverse=True)
        paired = number * (int(codes.max(initial=0)) + 1) + codes.reshape(-1)
        number = np.unique(paired, return_inverse=True)[1].reshape(-1)
    _, first, place = np.unique(number, return_index=True, return_inverse=True)
    thin = Compared(
        {name: column[first] for name, column in some.read.items()},
        np.ones(len(first), np.bool_),
        None if some.person is None else some.person[first],
    )
    times = np.bincount(place.reshape(-1), some.times, len(first)).astype(np.int64)
    return replace(thin, times=times)


def _lies(grid: Grid, values: Values) -> list[Values]:
    """(n_rows,) each: the cell of a value, and whether it lies on the contract's steps."""
    if grid.side == "levels":
        return [values]
    low, step = grid.field.interval[0], grid.field.step
    cells = [partitions.cells(grid.cuts, values.astype(np.float64))]
    if step is None or not np.isfinite(low):
        return [*cells]
    return [*cells, partitions.on_steps(values, low, step)]


def _read(left: Partition, other: Partition, cohort: Cohort) -> dict[str, Values]:
    """The columns of two partitions, and whether the condition of the other holds."""
    fields = {"one": left.grid.field, "other": other.grid.field}
    if other.where is not None:
        fields["where"] = Field("where", "boolean", f"coalesce(({other.where}), FALSE)")
    if left.grid.field.sql == other.grid.field.sql:
        fields |= {f"group {i}": field for i, field in enumerate((*left.groups, *other.groups))}
    columns: dict[str, Values] = {}
    for name, field in fields.items():
        columns[name] = cohort.columns([field])[field.name]
    return columns


def _are_near_among(
    used: Mask, left: Partition, other: Partition, compared: Compared, rules: Rules
) -> bool:
    """Whether they are near among the rows in `used` (n_rows,)."""
    if not used.any():
        return False
    rows = compared.some(used)
    values, others = (rows.read[name].astype(np.float64) for name in ("one", "other"))
    if left.grid.field.sql != other.grid.field.sql or left.grid.side == "levels":
        return _columns_are_near(left, other, values, others, rows.times, rules.min_cell)
    groups = [column for name, column in rows.read.items() if name.startswith("group ")]
    # Where people have several rows, they are told by their numbers.
    people = rows.times if rows.person is None else None
    some = partitions.Rows(values, rows.person, _combined(groups, len(values)), people)
    return _shares_are_near(left, other, some, rules.min_cell) or _grids_are_near(
        left.grid, other.grid, some, rows.times, rules
    )


def _combined(groups: Sequence[Values], n: int) -> Ints:
    """(n_rows,) the number of each row's combination of levels."""
    if not groups:
        return np.zeros(n, np.int64)
    levels = np.stack([np.nan_to_num(column, nan=-1).astype(np.int64) for column in groups])
    return np.asarray(np.unique(levels, axis=1, return_inverse=True)[1].reshape(-1), np.int64)


def _shares_are_near(left: Partition, other: Partition, rows: partitions.Rows, k: int) -> bool:
    """Quantiles, or parts of a sum, of the same groups."""
    if [field.sql for field in left.groups] != [field.sql for field in other.groups]:
        return False
    new, old = left.grid, other.grid
    pairs = (new.shares, old.shares), (new.parts, old.parts)
    return any(partitions.has_near_shares(*pair, rows, k) for pair in pairs)


def _grids_are_near(
    left: Grid, other: Grid, rows: partitions.Rows, times: Ints | None, rules: Rules
) -> bool:
    """Two grids on the same column. times (n_rows,): how many rows each stands for."""
    if not (left.size and other.size):
        return False
    cuts, others = left.cuts, other.cuts
    keys = partitions.keys(cuts, others, rows, left.field.interval[0], left.field.step)
    if np.array_equal(np.unique(keys[0]), np.unique(keys[1])):
        return False
    cells = partitions.cells(cuts, rows.values), partitions.cells(others, rows.values)
    if _shows(left, cells[0]) and _shows(other, cells[1]):
        is_hidden_at_hub = rules.hub_sees_cells or rules.in_secure_sum
        hides_cells = is_hidden_at_hub and left.counts == other.counts
        return partitions.is_thin_between(
            cuts, others, rows, rules.min_cell, keys, hides_cells=hides_cells
        )
    return partitions.is_nearly_the_same(*cells, rules.min_cell, times)


def _shows(grid: Grid, cell: Ints) -> bool:
    """Whether a result shows the sums of the cells, or has numbers enough to compute them."""
    return grid.numbers is None or len(np.unique(cell)) <= grid.numbers


def _columns_are_near(
    left: Partition,
    other: Partition,
    values: Floats,
    others: Floats,
    times: Ints | None,
    k: int,
) -> bool:
    """Two columns that the study may have made of one: a time in days and in weeks."""
    if left.grid.counts != other.grid.counts or not _could_be_one(left, other):
        return False
    if _is_at_an_edge(left.grid, other.grid, others) or _is_at_an_edge(
        other.grid, left.grid, values
    ):
        return False
    cells = [
        some.astype(np.int64) if grid.side == "levels" else partitions.cells(grid.cuts, some)
        for grid, some in ((left.grid, values), (other.grid, others))
    ]
    if not (_shows(left.grid, cells[0]) and _shows(other.grid, cells[1])):
        return False
    if left.grid.field.sql == other.grid.field.sql:
        return False  # weeks of one column, in two windows
    return partitions.has_near_edges(cells[0], cells[1], k, times)


def _is_at_an_edge(condition: Grid, grid: Grid, values: Floats) -> bool:
    """Whether a condition divides a column where a grid does: `time > 6` beside times by months."""
    if (comparison := _COMPARISON.search(condition.field.sql)) is None:
        return False
    column, how, edge = comparison.groups()
    if column != grid.field.sql or grid.side == "levels":
        return False
    at = partitions.Cuts(np.array([float(edge)]), np.array([how in ("<=", ">")]))
    rows = partitions.Rows(values, None, np.zeros(len(values), np.int64))
    keys = partitions.keys(at, grid.cuts, rows, grid.field.interval[0], grid.field.step)
    return bool(np.isin(*keys).all())


def _could_be_one(left: Partition, other: Partition) -> bool:
    """Counts of people alone tell of those between two columns if these are made of the same."""
    return left.columns == other.columns or not left.grid.counts


def _are_near_in_place(left: Partition, other: Partition, cohort: Cohort, k: int) -> bool:
    """Rows that are counted where they lie: two columns of weeks."""
    fields = left.grid.field, other.grid.field
    if cohort.count is None or fields[0].sql == fields[1].sql or fields[0] == fields[1]:
        return False
    if any(grid.side != "levels" for grid in (left.grid, other.grid)):
        return False
    return partitions.tables_have_near_edges(cohort.count(fields).cells, k)
