"""The people between two answers, judged as if a study had asked about them alone.

An answer about everyone less the same answer about those under 88 is an answer about those of 88
and more. Each of the two can be about many people in every ward, and one person be alone in a ward
among those between them. So a node keeps, for each answer, how its rows were chosen: the condition
of the study, the functions that must have a value, the weights that must be above 0, and each side
of a condition that is crossed with other columns. It judges the rows that only one of two answers
has, and those that are left over by three, by the columns about which all of these answers tell.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import numpy as np

from federation import cohort as cohorts
from federation.arrays import Ints
from federation.cohort import Apart, Blocks, Cohort, Values, unread
from federation.contract import Contract
from federation.disclosure import node_door, partitions
from federation.disclosure.rules import Rules, is_small
from federation.expression import Piece
from federation.formula import Term
from federation.messages import Part, Refusal
from federation.schema import Field
from nodes import ledger, support_in_blocks, written_fields
from nodes.answered import Memory
from nodes.ledger import Account, Ledger
from nodes.remembered import Entries
from nodes.session import StudySession
from strategies import support
from strategies.grids import Grid
from strategies.protocol import AnyTask, Roles
from strategies.support import Block, Mask

T = TypeVar("T")
KIND = "rows"
MAX_EARLIER = 60  # ways of choosing rows that are compared with those of a new answer: the latest
MAX_TOGETHER = 8  # among which three are combined: the latest
MAX_VALUES = 200_000_000  # rows times columns that are judged for one answer, at most
MAX_HELD = 20_000_000  # rows times columns that are held meanwhile: 160 MB
MAX_SIDES = 40  # conditions of one task that are crossed with other columns
_NAME = re.compile(r'"([^"]+)"')
BETWEEN = Refusal(
    "differencing",
    "the people between this answer and an earlier one are few in a group, or one of them would "
    "weigh too much: use the same cohort, one that differs in more people, fewer columns, or mode "
    "dp",
)


@dataclass(frozen=True)
class Choice:
    """How the rows of an answer are chosen. `where`: SQL of conditions that must hold. `present`:
    columns that a study made and that have a value; `weights`: that are above 0. `columns`: the
    contract columns about which the answer tells. `reads`: by contract column that is needed to
    choose the rows again, its type and levels. `study`: whose answer it is; `by_step`: about the
    people of the first steps of a cascade; `has_grid`: readers see the cells of a grid in it.
    `divides`: the contract columns of the condition whose side this is, in an answer that is judged
    now."""

    where: tuple[str, ...]
    present: tuple[Field, ...]
    weights: tuple[Field, ...]
    columns: frozenset[str]
    reads: Mapping[str, Any]
    study: str
    by_step: bool
    has_grid: bool
    divides: frozenset[str] = frozenset()

    @cached_property
    def key(self) -> tuple[Any, ...]:
        texts = (tuple(field.sql for field in some) for some in (self.present, self.weights))
        return (self.where, *texts)

    def to_bytes(self) -> bytes:
        values = {
            "where": self.where,
            "present": [written_fields.to_values(field) for field in self.present],
            "weights": [written_fields.to_values(field) for field in self.weights],
            "columns": sorted(self.columns),
            "reads": self.reads,
            "study": self.study,
            "by_step": self.by_step,
            "has_grid": self.has_grid,
        }
        return json.dumps(values, sort_keys=True).encode()


def _choice(content: bytes) -> Choice:
    values = json.loads(content)
    return Choice(
        tuple(values["where"]),
        tuple(map(written_fields.from_values, values["present"])),
        tuple(map(written_fields.from_values, values["weights"])),
        frozenset(values["columns"]),
        written_fields.kinds_from(values["reads"]),
        values["study"],
        values["by_step"],
        values.get("has_grid", True),  # of a version that did not tell
    )


def _of_entries() -> Entries[Choice]:
    return Entries(_choice, lambda choice: choice.columns)


def _remembered(
    book: Ledger, account: Account, contract: Contract, columns: frozenset[str]
) -> Iterator[Choice]:
    """Those of earlier answers about the rows of this dataset and one of these columns, as far as
    this contract reads theirs in the same way."""
    kinds, of_dataset = written_fields.kinds(contract), replace(account, register="")
    for choice in ledger.gathered(book, KIND, of_dataset, _of_entries).beside(columns):
        if all(kinds.get(name) == kind for name, kind in choice.reads.items()):
            yield choice


def columns_beside(
    book: Ledger, account: Account, contract: Contract, columns: frozenset[str]
) -> set[str]:
    """The contract columns that a node reads to choose the rows of earlier answers about
    `columns`."""
    beside = _remembered(book, account, contract, columns)
    return {name for choice in beside for name in choice.reads}


IsUnsupported = Callable[[AnyTask, StudySession], bool]


def check(
    task: AnyTask, session: StudySession, memory: Memory, is_unsupported: IsUnsupported
) -> Refusal | None:
    """The reason why a task is not answered beside earlier ones; if it is answered, the choice of
    its rows is remembered. `is_unsupported`: whether the columns of a task set too few people of a
    session's cohort apart."""
    if len(_crossed(support.roles_of(task))) > MAX_SIDES:
        return BETWEEN
    new = _choices(memory, task)
    earlier = _earlier(memory, new)
    if not _is_repeated(new, earlier) and _tell_of_few(
        new, earlier, task, session, memory, is_unsupported
    ):
        return BETWEEN
    for choice in new:
        memory.keep_once(KIND, choice.to_bytes())
    return None


def _earlier(memory: Memory, new: Sequence[Choice]) -> list[Choice]:
    """Those about a column of this answer whose rows can be chosen again, each way once; the latest
    come last."""
    columns = frozenset[str]().union(*(choice.columns for choice in new))
    by_key: dict[Any, Choice] = {}
    for choice in _remembered(memory.ledger, memory.account, memory.contract, columns):
        if memory.readable.issuperset(choice.reads):
            before = by_key.pop(choice.key, None)
            by_key[choice.key] = choice if before is None else _merged(choice, before)
    return list(by_key.values())[-MAX_EARLIER:]


def _merged(choice: Choice, before: Choice) -> Choice:
    has_grid = choice.has_grid or before.has_grid
    return replace(choice, columns=choice.columns | before.columns, has_grid=has_grid)


# -- how the rows of a task are chosen
def _choices(memory: Memory, task: AnyTask) -> list[Choice]:
    """That of all rows of a task, and those of the sides of conditions that are crossed with other
    columns."""
    roles = support.roles_of(task)
    where = () if memory.where is None else (memory.where,)
    present = () if roles.apart else tuple(field for field in task.fields if field.pieces)
    columns = memory.columns_behind(field.name for field in task.fields)
    kinds = written_fields.kinds(memory.contract)

    def choice(*more: str) -> Choice:
        named = {"", *(field.name for field in (*present, *roles.weights))}
        named |= {field.name for field in task.fields} if more else set()
        behind = frozenset[str]().union(*(memory.names[name] for name in named))
        reads = {name: kinds[name] for name in sorted(behind)}
        divides = frozenset(name for sql in more for name in _NAME.findall(sql)) & kinds.keys()
        return Choice(
            (*where, *more),
            present,
            roles.weights,
            columns,
            reads,
            memory.study.hash,
            memory.by_step,
            any(_is_seen(grid) for grid in roles.grids),
            divides,
        )

    sides = (f"{negation}({piece.sql})" for piece in _crossed(roles) for negation in ("", "NOT "))
    return [choice(), *map(choice, sides)]


def _is_seen(grid: Grid) -> bool:
    """Whether readers see a number for each cell."""
    return bool(grid.size) and grid.numbers is None


def _crossed(roles: Roles) -> list[Piece]:
    """The conditions by which a task divides what it adds up of other columns: in a product of a
    model, a group, an amount such as `if(age < 88, income, 0)`, or a weight."""
    products = (term for term in roles.terms if len(term.factors) > 1)
    factors = (factor.field for term in products for factor in term.factors)
    fields = (*factors, *roles.groups, *roles.strata, *roles.amounts, *roles.weights)
    pieces = (piece for field in fields for piece in field.pieces if piece.kind == "condition")
    return list(dict.fromkeys(pieces))


# -- what is between
def _is_repeated(new: Sequence[Choice], earlier: Sequence[Choice]) -> bool:
    before = {choice.key: choice for choice in earlier}
    return all(
        choice.key in before
        and choice.columns <= before[choice.key].columns
        and choice.has_grid <= before[choice.key].has_grid
        for choice in new
    )


def _tell_of_few(
    new: Sequence[Choice],
    earlier: Sequence[Choice],
    task: AnyTask,
    session: StudySession,
    memory: Memory,
    is_unsupported: IsUnsupported,
) -> bool:
    everyone = _read_once(session.cohort.everyone or session.cohort)
    masks = Masks(everyone)
    left = max(MAX_VALUES // max(1, everyone.rows * len(task.fields)), 2 * len(new))
    judged = set[Any]()
    for combined in _combinations(new, earlier):
        (first, _), *others = combined
        shared = first.columns.intersection(*(choice.columns for choice, _ in others))
        of_side = first.divides
        fields = tuple(
            f
            for f in task.fields
            if _is_about(f, shared, of_side, memory) and not _is_of_side(f, combined)
        )
        name = (fields, masks.name(combined))
        if not fields or name in judged:
            continue
        judged.add(name)
        if len(judged) > left:
            break
        part = _about(task, fields)
        if everyone.count is not None:
            is_few = _are_few_in_place(combined, part, everyone, session.rules)
        else:
            people, is_whole = masks.between(combined), len(fields) == len(task.fields)
            with_grid = is_whole and all(choice.has_grid for choice, _ in others)
            is_few = not _are_shown(
                part, people, session, is_unsupported, is_whole=is_whole, with_grid=with_grid
            )
        if is_few:
            return True
    return False


def _read_once(cohort: Cohort) -> Cohort:
    """The same rows, whose columns are held after they were read, up to MAX_HELD values: they are
    looked at for each of many pairs of answers."""
    held: dict[tuple[str, str, str], Values] = {}

    def fetch(asked: Iterable[Field]) -> Mapping[str, Values]:
        names = {(field.name, field.kind, field.sql): field for field in asked}
        missing = [field for name, field in names.items() if name not in held]
        columns = cohort.fetch(missing) if missing else {}
        read = {name[0]: held[name] for name in names if name in held}
        read.update(columns)
        for field in missing:
            if (len(held) + 1) * cohort.rows <= MAX_HELD:
                held[field.name, field.kind, field.sql] = columns[field.name]
        return read

    return cohort if cohort.in_blocks is not None else replace(cohort, fetch=fetch)


Combined = Sequence[tuple[Choice, int]]  # the new answer first, each with its sign


def _combinations(new: Sequence[Choice], earlier: Sequence[Choice]) -> Iterator[Combined]:
    """Each of the new choices less an earlier one; and all rows of the new answer with two of the
    latest, which are subtracted from it or added to it. The people between two steps of a study are
    judged by `results_by_step`."""
    for choice in new:
        for other in reversed(earlier):
            is_of_steps = choice.study == other.study and (choice.by_step or other.by_step)
            if other.key != choice.key and not is_of_steps:
                yield [(choice, 1), (other, -1)]
    others = [choice for choice in earlier if choice.key != new[0].key]
    for first, second in itertools.combinations(others[-MAX_TOGETHER:], 2):
        for signs in ((-1, -1), (1, -1), (-1, 1)):
            yield [(new[0], 1), (first, signs[0]), (second, signs[1])]


def _is_about(
    field: Field, shared: frozenset[str], divides: frozenset[str], memory: Memory
) -> bool:
    """Whether a column is one of those about which all answers tell: on a side of `age < 88`, that
    is true of `if(age < 88, income, 0)` if it is true of the income."""
    columns = memory.columns_behind([field.name]) - divides
    return bool(columns) and columns <= shared


def _is_of_side(field: Field, combined: Combined) -> bool:
    """Whether the answers differ only by the side of this condition, or by its being known: the
    people between are then chosen by its value, which tells no more than their number."""
    sides = {f"({field.sql})", f"NOT ({field.sql})"}

    def without(choice: Choice) -> tuple[Any, ...]:
        present = {other.sql for other in choice.present} - {field.sql}
        weights = {other.sql for other in choice.weights}
        return frozenset(choice.where) - sides, present, weights

    (first, _), *others = combined
    return all(without(choice) == without(first) for choice, _ in others)


def _about(task: AnyTask, fields: Sequence[Field]) -> AnyTask:
    """The task as far as it is about some of its fields."""
    roles, some = support.roles_of(task), frozenset(fields)

    def of(listed: Iterable[Field]) -> tuple[Field, ...]:
        return tuple(field for field in listed if field in some)

    is_whole = some.issuperset(task.fields)
    reduced = replace(
        roles,
        terms=tuple(_about_some(roles.terms, some)),
        amounts=of(roles.amounts),
        weights=of(roles.weights),
        groups=of(roles.groups),
        strata=of(roles.strata),
        conditions=(),
        grids=tuple(grid for grid in roles.grids if grid.field in some),
        reached=None,
        choices=(),
        withheld=None,
        used=roles.used if is_whole else None,
        within=roles.within if is_whole else None,
        steered=None,
    )
    return replace(task, fields=of(task.fields), roles=reduced, where=(), by_step=(), chosen=None)


def _about_some(terms: Iterable[Term], fields: frozenset[Field]) -> Iterator[Term]:
    """Of a product, the factors that are among the fields."""
    for term in terms:
        factors = tuple(factor for factor in term.factors if factor.field in fields)
        if factors:
            yield replace(term, factors=factors)


class Masks:
    """The rows behind answers among all rows of the dataset, each read once where they are held."""

    def __init__(self, everyone: Cohort) -> None:
        self._everyone = everyone
        self._held: dict[Any, Mask] = {}

    def name(self, combined: Combined) -> Any:
        """Equal for two combinations that are about the same people, as far as they are held."""
        if self._everyone.in_blocks is not None or self._everyone.count is not None:
            return tuple((choice.key, sign) for choice, sign in combined)
        return hashlib.sha256(
            np.packbits(self._is_between(combined, self._everyone)).tobytes()
        ).digest()

    def between(self, combined: Combined) -> Cohort:
        """The people whom the combination of some answers is about."""
        everyone = self._everyone
        if everyone.in_blocks is None:
            return cohorts.of_rows(everyone, self._is_between(combined, everyone))
        between, blocks = _Between(tuple(combined)), everyone.in_blocks
        sizes = list(support.all_blocks(everyone).each(partial(_size_between, between)))
        people, rows = (sum(size) for size in zip(*sizes, strict=True)) if sizes else (0, 0)
        of_blocks = Blocks(
            rows,
            lambda: map(between, blocks.read()),
            _apart(between, blocks.apart),
            _apart(between, blocks.at_node),
        )
        return Cohort(None, people, people, everyone.rows_per_person, unread, in_blocks=of_blocks)

    def _is_between(self, combined: Combined, cohort: Cohort) -> Mask:
        return _are_between([(self._is_chosen(c, cohort), sign) for c, sign in combined])

    def _is_chosen(self, choice: Choice, cohort: Cohort) -> Mask:
        if choice.key not in self._held:
            self._held[choice.key] = _is_chosen(choice, cohort)
        return self._held[choice.key]


@dataclass(frozen=True)
class _Between:
    """Of a block, the people whom a combination of some answers is about."""

    combined: tuple[tuple[Choice, int], ...]

    def __call__(self, block: Cohort) -> Cohort:
        chosen = [(_is_chosen(choice, block), sign) for choice, sign in self.combined]
        return cohorts.of_rows(block, _are_between(chosen))


def _are_between(chosen: Iterable[tuple[Mask, int]]) -> Mask:
    """(n_rows,) the rows that are left over where rows are added or subtracted by their signs."""
    times = sum(sign * mask.astype(np.int64) for mask, sign in chosen)
    return np.asarray(times != 0)


def _size_between(between: _Between, block: Block) -> tuple[int, int]:
    """The people and the rows of a block."""
    some = between(block.cohort)
    return some.people, some.rows


def _apart(between: _Between, apart: Apart | None) -> Apart | None:
    """As `apart`, of the people between instead of the blocks."""
    return None if apart is None else partial(_between_apart, apart, between)


def _between_apart(
    apart: Apart,
    between: _Between,
    compute: Callable[[Cohort, Any], T],
    given: Mapping[int, Any] = MappingProxyType({}),
    first: int = 0,
) -> Iterator[T]:
    return apart(_Of(between, compute), given, first)


@dataclass(frozen=True)
class _Of(Generic[T]):
    """What is computed of the people between, and of what is given for their block."""

    between: _Between
    compute: Callable[[Cohort, Any], T]

    def __call__(self, block: Cohort, given: Any) -> T:
        return self.compute(self.between(block), given)


def _is_chosen(choice: Choice, cohort: Cohort) -> Mask:
    """(n_rows,) whether a row is behind an answer."""
    held = [Field(f"{sql}", "boolean", f"coalesce(({sql}), FALSE)") for sql in choice.where]
    columns = cohort.columns([*held, *choice.present, *choice.weights])
    mask = np.ones(cohort.rows, np.bool_)
    for field in held:
        mask &= columns[field.name] == 1
    for field in choice.present:
        mask &= support.is_known(columns[field.name])
    for field in choice.weights:
        mask &= columns[field.name] > 0
    return mask


def _are_shown(
    task: AnyTask,
    people: Cohort,
    session: StudySession,
    is_unsupported: IsUnsupported,
    *,
    is_whole: bool,
    with_grid: bool,
) -> bool:
    """Whether an answer over these people alone would pass the rules of sums. No hub adds them up
    over its nodes, so no side of few people is left to it. `is_whole`: it would be about all
    columns of the task; `with_grid`: readers of the earlier answers see the cells of a grid."""
    if not people.people:
        return True
    rules = replace(session.rules, hub_sees_cells=False, in_secure_sum=False)
    alone = replace(session, cohort=people, rules=rules, memory=None)
    if people.people < rules.min_cell or is_unsupported(task, alone):
        return False
    if _has_small_cells(task, people, rules.min_cell):
        return False
    roles = support.roles_of(task)
    if not (is_whole and (roles.grids or roles.groups)):
        return True
    if session.rules.hub_sees_cells and roles.grids:  # readers see the cells of the grids only
        shown = filter(_is_seen, roles.grids if with_grid else ())
        return not any(_has_small_steps(grid, task, people, rules.min_cell) for grid in shown)
    part = _first_part(task, people)
    return isinstance(part, Part) and not node_door.small_cells(part, rules.min_cell)


def _first_part(task: AnyTask, people: Cohort) -> Part | Refusal:
    state = task.analysis.start(task)
    if people.in_blocks is not None:
        return support_in_blocks.part(task, state, people)
    return task.analysis.local(people, task, state)


def _has_small_cells(task: AnyTask, people: Cohort, k: int) -> bool:
    """Whether few people share a combination of the levels by which sums are shown."""
    roles = support.roles_of(task)
    fields = [f for f in (*roles.groups, *roles.strata) if f.kind in ("boolean", "category")]
    if not fields:
        return False
    several = [[field] for field in fields] if roles.apart else [fields]
    return any(is_small(_cells(some, people), k).any() for some in several)


def _has_small_steps(grid: Grid, task: AnyTask, people: Cohort, k: int) -> bool:
    """Whether few people share a cell of a grid and a combination of the levels beside it."""
    roles = support.roles_of(task)
    groups = [f for f in roles.groups if f.kind in ("boolean", "category") and not roles.apart]
    totals: Counter[tuple[int, ...]] = Counter()
    blocks = support.all_blocks(people, is_shared=support.is_built_in(task))
    for counts in blocks.each(partial(_people_by_step, grid, groups)):  # nobody is in two of them
        totals.update(counts)
    return bool(is_small(np.array([*totals.values()], np.int64), k).any())


def _people_by_step(
    grid: Grid, groups: Sequence[Field], block: Block
) -> dict[tuple[int, ...], int]:
    cohort = block.cohort
    columns = cohort.columns([grid.field, *groups])
    has_all = np.logical_and.reduce([support.is_known(column) for column in columns.values()])
    if not has_all.any():
        return {}
    values = columns[grid.field.name][has_all].astype(np.float64)
    steps = values if grid.side == "levels" else partitions.cells(grid.cuts, values)
    codes = np.stack([steps, *(columns[f.name][has_all] for f in groups)]).astype(np.int64)
    cells, place = np.unique(codes, axis=1, return_inverse=True)
    person = None if cohort.numbered is None else cohort.numbered[has_all]
    counts = support.level_people(place.reshape(-1), cells.shape[1], person)
    return dict(zip(map(tuple, cells.T.tolist()), counts.tolist(), strict=True))


def _cells(fields: Sequence[Field], people: Cohort) -> Ints:
    """(n_cells,) the people with each combination of levels that somebody has."""
    shape = tuple(len(field.groups) for field in fields)
    cells = np.zeros(int(np.prod(shape)), np.int64)
    return sum(support.all_blocks(people).each(partial(_cells_of, fields, shape)), cells)


def _cells_of(fields: Sequence[Field], shape: tuple[int, ...], block: Block) -> Ints:
    """(n_cells,) of a block."""
    cohort, columns = block.cohort, block.cohort.columns(fields)
    values = [columns[field.name] for field in fields]
    has_all = np.logical_and.reduce([support.is_known(column) for column in values])
    codes = tuple(column[has_all].astype(np.int64) for column in values)
    person = None if cohort.numbered is None else cohort.numbered[has_all]
    return support.level_people(np.ravel_multi_index(codes, shape), int(np.prod(shape)), person)


def _are_few_in_place(combined: Combined, task: AnyTask, everyone: Cohort, rules: Rules) -> bool:
    """The same of rows that are counted where they lie. A site that shows its small cells to the
    hub compares none here."""
    if rules.hub_sees_cells and not rules.in_secure_sum:
        return False
    assert everyone.count is not None
    chosen = [
        Field(f"{i}", "boolean", f"coalesce(({' AND '.join(choice.where) or 'TRUE'}), FALSE)")
        for i, (choice, _) in enumerate(combined)
    ]
    groups = [f for f in task.fields if f.kind in ("boolean", "category") or f.levels]
    cells = everyone.count([*chosen, *groups]).cells.reshape(*(2 for _ in chosen), -1)
    times = np.indices((2,) * len(chosen))
    total = sum(sign * some for (_, sign), some in zip(combined, times, strict=True))
    return bool(is_small(cells[total != 0].sum(0), rules.min_cell).any())
