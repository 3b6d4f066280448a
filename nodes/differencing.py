"""The differencing rule of exact mode: no two sums over nearly the same people, and no three sums
that combine to such a pair.

A node permanently keeps a fingerprint of the people behind each sum: of the complete rows of each
analysis, and of the people among them for whom a condition of the study holds. It compares those of
all its datasets about the same people. Fingerprints add up as the people do, so the difference of
two, or of three, shows how few people it is about. Where rows are counted in place nobody is
numbered; the node keeps the conditions instead, and counts them against each other.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Ints
from federation.cohort import Cohort
from federation.contract import Contract
from federation.disclosure.rules import Rules
from federation.expression import Piece
from federation.messages import Refusal
from federation.schema import Field
from nodes import fingerprints, ledger
from nodes.answered import Memory
from nodes.fingerprints import Words
from nodes.ledger import Ledger
from strategies import support
from strategies.protocol import AnyTask
from strategies.support import Block, Blocks, Mask, Rows

KIND, CONDITION = "cohort", "condition"
DIVIDES = ("condition", "domain", "edge")  # pieces that choose rows
COHORT = frozenset(
    ["the whole cohort"]
)  # compared with other cohorts, whatever is summed over them
MAX_PAIRED = 12  # conditions among which differences of three are looked for: the latest ones
MAX_TRIPLES = 200  # sets among which differences of three are looked for: the latest ones
NEARLY = Refusal(
    "differencing",
    "the people behind this answer are nearly those of another: choose the same cohort and "
    "columns, or ones that differ clearly",
)


@dataclass(frozen=True)
class Group:
    """The people behind a sum.
    `columns`: what is summed over them, or nothing if that is not known. `chosen`: a hash of the
    study's conditions, or its numbers of two values, that chose them; None for columns of a
    contract."""

    print: Words
    columns: frozenset[str] = frozenset()
    chosen: str | None = None

    def to_bytes(self) -> bytes:
        values = {"columns": sorted(self.columns), "chosen": self.chosen}
        return self.print.tobytes() + json.dumps(values).encode()

    def is_chosen_otherwise(self, other: Group) -> bool:
        return None not in (self.chosen, other.chosen) and self.chosen != other.chosen


class Seen:
    """Groups in the order in which they came, found by a column that they share: a study of many
    columns would otherwise compare each of its groups with all."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self._groups: list[Group] = []
        self._by_column: defaultdict[str, list[int]] = defaultdict(list)
        self._unknown: list[int] = []  # those whose columns are not known share all
        for group in groups:
            self.add(group)

    def add(self, group: Group) -> None:
        for column in group.columns:
            self._by_column[column].append(len(self._groups))
        if not group.columns:
            self._unknown.append(len(self._groups))
        self._groups.append(group)

    def beside(self, group: Group) -> list[Group]:
        """The groups that share a column with this one."""
        if not group.columns:
            return list(self._groups)
        sharing = {place for name in group.columns for place in self._by_column.get(name, ())}
        return [self._groups[place] for place in sorted(sharing.union(self._unknown))]


def group_from(content: bytes) -> Group:
    words = np.frombuffer(content[: fingerprints.BYTES], np.uint64)
    values = json.loads(content[fingerprints.BYTES :] or "[]")
    if isinstance(values, list):  # of an earlier version
        return Group(words, frozenset(values))
    return Group(words, frozenset(values["columns"]), values["chosen"])


@dataclass(frozen=True)
class Condition:
    """A condition as this node compiled it, and contract columns that hold all that it names."""

    sql: str
    columns: tuple[str, ...]

    def to_bytes(self) -> bytes:
        return json.dumps({"sql": self.sql, "columns": self.columns}).encode()


def conditions(book: Ledger, contract: Contract) -> list[Condition]:
    """The conditions of earlier studies on a dataset; none where it names people, whose
    fingerprints are compared instead."""
    if contract.person is not None:
        return []
    read = map(json.loads, ledger.remembered(book, CONDITION, contract.dataset))
    return [
        Condition(values["sql"], tuple(values["columns"])) for values in read if "sql" in values
    ]


def check(
    memory: Memory, cohort: Cohort, task: AnyTask, rows: Rows | None, rules: Rules
) -> Refusal | None:
    """The reason why an analysis is not answered beside those answered before; if it is answered,
    its people are remembered."""
    if cohort.in_blocks is None and (rows is None or memory.hashes is None):
        return _check_conditions(memory, cohort, task)
    if memory.contract.person is None and (refused := _check_conditions(memory, cohort, task)):
        return refused
    groups = _groups(memory, cohort, task, support.blocks_of(cohort, task, rows), rules)
    before = [*_remembered(memory), *map(group_from, memory.seen)]
    seen = Seen(before)
    for group in groups:
        if _is_near(group, seen.beside(group), memory.min_cell):
            return NEARLY
        seen.add(group)
    for group in groups:
        memory.keep_once(KIND, group.to_bytes())
    memory.seen.extend(group.to_bytes() for group in groups)
    return None


def _groups(
    memory: Memory, cohort: Cohort, task: AnyTask, blocks: Blocks, rules: Rules
) -> list[Group]:
    """The people of the cohort, those behind each sum, and those for whom each condition holds."""
    chosen_by = _chosen_by(memory)
    if support.roles_of(task).apart:
        columns = [field for field in task.fields if not field.shape]
        prints = _added(blocks.each(partial(_prints_of_known, columns, _Hashes.of(memory))))
        behind = [memory.columns_behind([field.name]) for field in columns]
        return [
            Group(prints[0], COHORT, chosen_by),
            *(Group(print_, names) for print_, names in zip(prints[1:], behind, strict=True)),
        ]
    names = memory.columns_behind(field.name for field in task.fields)
    pieces = support.pieces(task)
    levels = support.second_levels(pieces, blocks)
    dividing = [piece for piece in pieces if piece.kind != "number" or levels[piece] is not None]
    has_own_rows = support.roles_of(task).used is not None  # a condition below chooses some
    asked = partial(_prints_of_chosen, task, dividing, levels, _Hashes.of(memory))
    several = list(blocks.each(asked))
    prints = _added(prints for prints, _ in several)
    sides = sum((people for _, people in several), np.zeros((len(dividing), 2), np.int64))
    groups = [
        Group(prints[0], COHORT, chosen_by),
        Group(prints[1], names, None if has_own_rows else chosen_by),
        *_reached(memory, cohort, task),
    ]
    for piece, print_, people in zip(dividing, prints[2:], sides, strict=True):
        if rules.compares_narrow or people.min() >= rules.thin:
            by = None if piece.kind == "influence" else _chosen_by(memory, piece.sql)
            groups.append(Group(print_, names, by))
    return groups


@dataclass(frozen=True)
class _Hashes:
    """What the fingerprints of a block are made with: the salt; of a cohort that is held, the
    hashes of its people, and the fingerprint of all of them."""

    salt: bytes
    held: Words | None
    of_all: bytes | None

    @classmethod
    def of(cls, memory: Memory) -> _Hashes:
        held = memory.hashes
        return cls(memory.salt, held, None if held is None else memory.print_of_all(held))

    def prints(self, block: Block, masks: Iterable[Mask]) -> list[Words]:
        """Of the people of a block's rows in each mask (n_rows,)."""
        hashes = _hashes_of(self.held, block.cohort)
        return [np.frombuffer(self._print(hashes, mask), np.uint64) for mask in masks]

    def _print(self, hashes: Words, mask: Mask) -> bytes:
        if not mask.all():
            return fingerprints.fingerprint(hashes[mask], self.salt)
        if hashes is self.held and self.of_all is not None:
            return self.of_all
        return fingerprints.fingerprint(hashes, self.salt)


def _prints_of_known(columns: Sequence[Field], hashes: _Hashes, block: Block) -> list[Words]:
    """Those of the people of a block, and of those with a value of each column."""
    with_values = (support.is_known(block.of(field)) for field in columns)
    everyone = np.ones(block.cohort.rows, np.bool_)
    return hashes.prints(block, itertools.chain([everyone], with_values))


def _prints_of_chosen(
    task: AnyTask,
    dividing: Sequence[Piece],
    levels: Mapping[Piece, float | None],
    hashes: _Hashes,
    block: Block,
) -> tuple[list[Words], Ints]:
    """Those of the people of a block, of its complete rows, and of the rows that each piece
    chooses; and the people on the sides of each (n_pieces, 2)."""
    used = support.roles_of(task).used
    complete = block.rows.is_used if used is None else used(block.cohort, task)
    chosen = support.chosen_rows(dividing, levels, block) if dividing else []
    people = [support.people_on_sides(mask, block) for mask in chosen]
    prints = hashes.prints(block, [np.ones(block.cohort.rows, np.bool_), complete, *chosen])
    return prints, np.array(people, np.int64).reshape(-1, 2)


def _added(several: Iterable[Sequence[Words]]) -> list[Words]:
    """The sums of the fingerprints of blocks."""
    total: list[Words] = []
    for prints in several:
        total = [a + b for a, b in zip(total, prints, strict=True)] if total else list(prints)
    return total


def _hashes_of(held: Words | None, block: Cohort) -> Words:
    """(n_rows,) the hash of the person of each row."""
    if block.hashes is not None:
        return block.hashes()
    assert held is not None, "rows that are held have hashes"
    return held


def _reached(memory: Memory, cohort: Cohort, task: AnyTask) -> Iterator[Group]:
    """The people whom options choose, compared with those whom other values of them chose."""
    reached = support.roles_of(task).reached
    for some in () if reached is None else reached(cohort, task):
        chosen = _chosen_by(memory, some.choice)
        people = _hashes_of(memory.hashes, cohort)[some.mask]
        print_ = np.frombuffer(fingerprints.fingerprint(people, memory.salt), np.uint64)
        yield Group(print_, frozenset([some.of]), chosen)


def _chosen_by(memory: Memory, *texts: str) -> str:
    """Equal for the same conditions of a study, in any order, on the same dataset. Without a
    condition it is the same for all datasets about the same people."""
    written = {*texts, *([memory.where] if memory.where else [])}
    place = [memory.account.dataset] if written else []
    return hashlib.sha256(json.dumps([*place, *sorted(written)]).encode()).hexdigest()[:32]


def _remembered(memory: Memory) -> list[Group]:
    account = memory.account
    contents = ledger.remembered(memory.ledger, KIND, account.dataset, account.register)
    return [group_from(content) for content in contents]


def _is_near(group: Group, others: Sequence[Group], k: int) -> bool:
    if not others:
        return False
    earlier = np.stack([other.print for other in others])
    for other, apart in zip(others, fingerprints.apart(earlier - group.print), strict=True):
        # If other conditions were answered for the same people, a refusal for one more person
        # would tell that there is one.
        if 0 < apart < k or (apart == 0 and group.is_chosen_otherwise(other)):
            return True
    earlier = earlier[-MAX_TRIPLES:]
    return any(
        _has_near(rest, earlier, k) for rest in (group.print - earlier, group.print + earlier)
    )


def _has_near(rests: Words, earlier: Words, k: int) -> bool:
    """Whether a row of `rests` (m, buckets) is nearly, but not exactly, one of `earlier` (m,
    buckets). A few buckets suffice to show of most pairs that they are far apart."""
    begin = earlier[:, : fingerprints.FIRST]
    for rest in rests:
        near = np.flatnonzero(fingerprints.apart(begin - rest[: fingerprints.FIRST]) < k)
        if len(near) and any(0 < n < k for n in fingerprints.apart(earlier[near] - rest)):
            return True
    return False


# -- rows of which no person is named
Count = Callable[[Sequence[str]], Ints]
Truths = NDArray[np.int8]


def _check_conditions(memory: Memory, cohort: Cohort, task: AnyTask) -> Refusal | None:
    """The condition of a study, and those that divide its rows, against earlier ones. Some studies
    count these rows in place and others read them, so fingerprints alone would not compare the two.
    Where the rows have no order either, the row of a fingerprint changes with the columns that are
    read: there, only these conditions tell two cohorts that are nearly the same, so the places
    where a function has no value are among them."""
    dividing = [piece.sql for piece in support.pieces(task) if piece.kind in DIVIDES]
    new = [memory.where or "TRUE", *dividing]
    before = conditions(memory.ledger, memory.contract)
    earlier = list(dict.fromkeys(condition.sql for condition in before))
    count = _counter(cohort.everyone or cohort, dict.fromkeys([*earlier, *new]))
    for number, sql in enumerate(new):
        others = [*(other for other in earlier if other != sql), *new[:number]]
        if _is_near_condition(sql, others, count, memory.min_cell):
            return NEARLY
    for sql in new:
        condition = Condition(sql, tuple(sorted(memory.columns_of(task))))
        memory.keep_once(CONDITION, condition.to_bytes())
    return None


def _is_near_condition(sql: str, others: Sequence[str], count: Count, k: int) -> bool:
    if any(0 < _apart(count([sql, other])) < k for other in others):
        return True
    pairs = itertools.combinations(others[-MAX_PAIRED:], 2)
    return any(0 < _left_over(count([sql, condition, other])) < k for condition, other in pairs)


def _counter(everyone: Cohort, conditions: Iterable[str]) -> Count:
    """Counts rows by the truth of each of some `conditions`, as cells (2, ..., 2); a condition
    whose truth is unknown does not hold."""
    fields = {sql: Field(sql, "boolean", f"coalesce({sql}, FALSE)") for sql in conditions}
    if (tally := everyone.count) is not None:
        return lambda chosen: tally([fields[sql] for sql in chosen]).cells
    truths, rows = _truths(everyone, list(fields.values()))
    held = dict(zip(fields, truths, strict=True))

    def count(chosen: Sequence[str]) -> Ints:
        shape = (2,) * len(chosen)
        places = np.ravel_multi_index(tuple(held[sql] for sql in chosen), shape)
        counted = np.bincount(places, rows, 2 ** len(chosen))
        return counted.reshape(shape).astype(np.int64)

    return count


def _truths(everyone: Cohort, conditions: Sequence[Field]) -> tuple[Truths, Ints | None]:
    """(n_conditions, n): whether each condition holds, and (n,): for how many rows; None where it
    is one row each. Rows in blocks are counted by what holds together."""
    if everyone.in_blocks is None:
        columns = everyone.columns(conditions)
        held = np.stack([columns[field.name].astype(np.int8) for field in conditions])
        return held, None
    seen, rows = np.empty((0, len(conditions)), np.int8), np.empty(0, np.int64)
    blocks = support.all_blocks(everyone)
    for truths, times in blocks.each(partial(_truths_together, conditions)):
        weights = np.r_[rows, times]
        seen, place = np.unique(np.vstack([seen, truths]), axis=0, return_inverse=True)
        rows = np.bincount(place.reshape(-1), weights, len(seen)).astype(np.int64)
    return seen.T, rows


def _truths_together(conditions: Sequence[Field], block: Block) -> tuple[Truths, Ints]:
    """(n, n_conditions): what holds together in a block, and (n,): for how many rows."""
    columns = block.cohort.columns(conditions)
    truths = np.stack([columns[field.name].astype(np.int8) for field in conditions], axis=1)
    return np.unique(truths, axis=0, return_counts=True)


def _apart(cells: Ints) -> int:
    return int(cells[0, 1] + cells[1, 0])


def _left_over(cells: Ints) -> int:
    """The fewest rows about which a difference of three conditions is, over the ways to take it."""
    a, b, c = np.indices(cells.shape)
    sums = [int(cells[(x != 0)].sum()) for x in (a - b - c, a + b - c, a - b + c)]
    return min((n for n in sums if n > 0), default=0)
