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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

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
from nodes.checked_versions import CheckedVersions
from nodes.fingerprints import Words
from nodes.ledger import Account, Ledger
from nodes.people import People
from nodes.remembered import ByColumn, Entries
from strategies import support
from strategies.protocol import AnyTask
from strategies.support import Block, Blocks, Mask, Rows

KIND, CONDITION = "cohort", "condition"
DIVIDES = ("condition", "domain", "edge")  # pieces that choose rows
_UNKNOWN = frozenset([""])  # no column has this name
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


class Earlier(NamedTuple):
    """A group of an earlier answer. `digest`: of its fingerprint."""

    digest: bytes
    columns: frozenset[str]
    chosen: str | None

    @classmethod
    def of(cls, group: Group) -> Earlier:
        return cls(hashlib.sha256(group.print.tobytes()).digest(), group.columns, group.chosen)

    def is_chosen_otherwise(self, other: Earlier) -> bool:
        return None not in (self.chosen, other.chosen) and self.chosen != other.chosen


class Prints:
    """Fingerprints by digest, each once, since most answers are about the same people. They are
    held folded: whole, they are in the ledger, but for those that are compared just now."""

    def __init__(self) -> None:
        self._folds = np.empty((1, fingerprints.FOLDS), np.uint64)
        self._numbers: dict[bytes, int] = {}
        self._entries: dict[bytes, int] = {}
        self._whole: dict[bytes, Words] = {}

    def hold(self, digest: bytes, print_: Words) -> None:
        """A fingerprint that is compared just now."""
        self._whole[digest] = print_
        if digest in self._numbers:
            return
        number = self._numbers[digest] = len(self._numbers)
        if number == len(self._folds):
            self._folds = np.concatenate([self._folds, np.empty_like(self._folds)])
        self._folds[number] = fingerprints.folded(print_)

    def release(self) -> None:
        self._whole.clear()

    def store(self, digest: bytes, seq: int) -> None:
        """`seq`: the entry of the ledger that holds it."""
        self._entries.setdefault(digest, seq)

    def folds(self, digests: Iterable[bytes]) -> Words:
        """(n_digests, FOLDS)"""
        return np.asarray(self._folds[[self._numbers[digest] for digest in digests]])

    def whole(self, digest: bytes, book: Ledger) -> Words:
        if digest not in self._whole:
            content = ledger.content_of(book, self._entries[digest])
            self._whole[digest] = np.frombuffer(content[: fingerprints.BYTES], np.uint64)
        return self._whole[digest]


class Seen(ByColumn[Earlier]):
    """The groups of earlier answers, found by a column that they share: a study of many columns
    would otherwise compare each of its groups with all. Those whose columns are not known share
    all."""

    def __init__(self) -> None:
        super().__init__(lambda earlier: earlier.columns or _UNKNOWN)
        self.prints = Prints()

    def add(self, seq: int, content: bytes) -> None:
        group = group_from(content)
        earlier = Earlier.of(group)
        self.prints.hold(earlier.digest, group.print)
        self.prints.store(earlier.digest, seq)
        self.prints.release()
        self.append(earlier)

    def sharing(self, columns: frozenset[str]) -> list[Earlier]:
        return self.beside(columns | _UNKNOWN) if columns else self.all()


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
    account = Account(contract.dataset, "", 0)
    return ledger.gathered(book, CONDITION, account, _conditions).all()


def _condition(content: bytes) -> Condition | None:
    values = json.loads(content)
    return Condition(values["sql"], tuple(values["columns"])) if "sql" in values else None


def _conditions() -> Entries[Condition]:
    return Entries(_condition, lambda condition: condition.columns)


def check(
    memory: Memory, cohort: Cohort, task: AnyTask, rows: Rows | None, rules: Rules
) -> Refusal | None:
    """The reason why an analysis is not answered beside those answered before; if it is answered,
    its people are remembered."""
    if cohort.in_blocks is None and (rows is None or memory.people is None):
        return _check_conditions(memory, cohort, task)
    if memory.contract.person is None and (refused := _check_conditions(memory, cohort, task)):
        return refused
    groups = _groups(memory, cohort, task, support.blocks_of(cohort, task, rows), rules)
    new = list(map(Earlier.of, groups))
    if _is_any_near(groups, new, memory):
        return NEARLY
    for group in groups:
        memory.keep_once(KIND, group.to_bytes())
    memory.seen.extend(new)
    return None


def _is_any_near(groups: Sequence[Group], new: Sequence[Earlier], memory: Memory) -> bool:
    """Whether one of the groups is nearly an earlier one, or another of them."""
    seen = ledger.gathered(memory.ledger, KIND, memory.account, Seen)
    recent: list[Earlier] = list(memory.seen)
    try:
        for group, earlier in zip(groups, new, strict=True):
            seen.prints.hold(earlier.digest, group.print)
            others = [*seen.sharing(group.columns), *_sharing(recent, group.columns)]
            if _is_near(earlier, others, seen.prints, memory):
                return True
            recent.append(earlier)
    finally:
        seen.prints.release()
    return False


def _sharing(some: Iterable[Earlier], columns: frozenset[str]) -> Iterator[Earlier]:
    return (e for e in some if not columns or not e.columns or columns & e.columns)


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
    """What the fingerprints of a block are made with: the salt; of a cohort that is held, its
    people and the notes about them."""

    salt: bytes
    held: People | None
    checked: CheckedVersions | None

    @classmethod
    def of(cls, memory: Memory) -> _Hashes:
        held = memory.people
        return cls(memory.salt, held, None if held is None else memory.checked)

    def prints(self, block: Block, masks: Iterable[Mask]) -> list[Words]:
        """Of the people of a block's rows in each mask (n_rows,)."""
        people = _people_of(self.held, block.cohort)
        prints = (people.print_of(mask, self.salt, self.checked) for mask in masks)
        return [np.frombuffer(print_, np.uint64) for print_ in prints]


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


def _people_of(held: People | None, block: Cohort) -> People:
    if block.hashes is not None:
        return People(block.hashes)
    assert held is not None, "rows that are held have people"
    return held


def _reached(memory: Memory, cohort: Cohort, task: AnyTask) -> Iterator[Group]:
    """The people whom options choose, compared with those whom other values of them chose."""
    reached = support.roles_of(task).reached
    for some in () if reached is None else reached(cohort, task):
        chosen = _chosen_by(memory, some.choice)
        people = _people_of(memory.people, cohort)
        print_ = np.frombuffer(people.print_of(some.mask, memory.salt, memory.checked), np.uint64)
        yield Group(print_, frozenset([some.of]), chosen)


def _chosen_by(memory: Memory, *texts: str) -> str:
    """Equal for the same conditions of a study, in any order, on the same dataset. Without a
    condition it is the same for all datasets about the same people."""
    written = {*texts, *([memory.where] if memory.where else [])}
    place = [memory.account.dataset] if written else []
    return hashlib.sha256(json.dumps([*place, *sorted(written)]).encode()).hexdigest()[:32]


def _is_near(group: Earlier, others: Sequence[Earlier], prints: Prints, memory: Memory) -> bool:
    if any(e.digest == group.digest and group.is_chosen_otherwise(e) for e in others):
        # If other conditions were answered for the same people, a refusal for one more person would
        # tell that there is one.
        return True
    k, whole = memory.min_cell, partial(prints.whole, book=memory.ledger)
    print_ = whole(group.digest)
    (fold,) = prints.folds([group.digest])
    digests = list(dict.fromkeys(other.digest for other in others))
    near = np.flatnonzero(fingerprints.apart(prints.folds(digests) - fold) < k)
    if any(0 < fingerprints.apart(whole(digests[i]) - print_) < k for i in near):
        return True
    latest = list(dict.fromkeys(other.digest for other in others[-MAX_TRIPLES:]))
    return any(
        0 < fingerprints.apart(whole(latest[j]) - print_ - sign * whole(latest[i])) < k
        for i, j, sign in _near_together(fold, prints.folds(latest), k)
    )


def _near_together(fold: Words, folds: Words, k: int) -> Iterator[tuple[int, int, np.uint64]]:
    """Of `folds` (n, FOLDS), the pairs i, j where j lies near a fold and that of i, added to it or
    subtracted by the sign."""
    by_bucket = np.ascontiguousarray(folds.T)
    for i, earlier in enumerate(folds):
        for sign in (np.uint64(1), ~np.uint64(0)):  # 1 and -1
            rest = fold + sign * earlier
            apart = (by_bucket != rest[:, None]).sum(0, dtype=np.int64)
            yield from ((i, int(j), sign) for j in np.flatnonzero(apart < k))


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
