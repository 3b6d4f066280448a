"""The rules of `nodes.support` for a cohort in blocks: the same columns, limits and verdicts, from
passes over the blocks."""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import numpy as np

from federation.arrays import Floats, Ints
from federation.cohort import Cohort
from federation.disclosure import in_blocks
from federation.disclosure import support as rules_of
from federation.disclosure.in_blocks import (
    ENOUGH,
    Column,
    Design,
    DesignPiece,
    MaskPiece,
    OffMode,
    Pairs,
    Piece,
)
from federation.disclosure.rules import Rules
from federation.expression import Piece as Written
from federation.formula import Term
from federation.messages import Part, Refusal, State
from federation.schema import Field, Schema
from nodes import support_columns
from strategies import protocol, registry, support
from strategies.protocol import AnyTask
from strategies.support import Block, Blocks, Mask, Rows

CHANGED = Refusal(
    "source", "the files of this node's rows changed while they were read: submit the study again"
)
Reader = Callable[[Block], Floats]  # (n_used,) a column of the used rows of a block


# -- a round
def _by_name(module: ModuleType) -> tuple[Callable[[str], ModuleType], tuple[str]]:
    return registry.module_named, (module.__name__,)


copyreg.pickle(ModuleType, _by_name)  # a task and its stages name their analyses


def part(task: AnyTask, state: State, cohort: Cohort) -> Part | Refusal:
    """The sum of the parts of all blocks, unless the state leaves the sums to one person."""
    total, passes = _added_up(task, state, cohort)
    return rules_of.STEERED if any(weights.are_too_far for weights in passes) else total


def private_part(task: AnyTask, state: State, cohort: Cohort) -> Part:
    """The sum of the parts of all blocks in mode dp, before any noise."""
    return _added_up(task, state, cohort)[0]


def _added_up(task: AnyTask, state: State, cohort: Cohort) -> tuple[Part, list[Weights]]:
    passes: list[Weights] = []

    def add(asked: AnyTask, at: State) -> Part:
        passes.append(Weights())
        return protocol.sum_of(_parts(BlockPart(asked, at), cohort, passes[-1]))

    return task.analysis.TRAITS.in_blocks(add, task, state), passes


def _parts(compute: BlockPart, cohort: Cohort, weights: Weights) -> Iterator[Part]:
    blocks = cohort.in_blocks
    assert blocks is not None
    is_ours = registry.is_named(str(getattr(compute.task.analysis, "__name__", "")))
    apart = blocks.apart if is_ours else None  # a site's analysis is computed in this process
    computed = map(compute, blocks.read()) if apart is None else apart(compute)
    for of_block, weighed in computed:
        weights.add(weighed)
        yield of_block


@dataclass(frozen=True)
class Weighed:
    """The weights that a state gives to the rows of a block: their sum, the most of one person, the
    number of rows, and the least sum, as in RowWeights."""

    total: float = 0.0
    most: float = 0.0
    rows: int = 0
    least: float = 0.0


@dataclass(frozen=True)
class BlockPart:
    """The part of a block at a state, and the weights of its rows; None if the state gives none."""

    task: AnyTask
    state: State

    def __call__(self, block: Cohort) -> tuple[Part, Weighed | None]:
        weighed = self._weighed(block)  # first, since both prepare the same rows
        return self.task.analysis.local(block, self.task, self.state), weighed

    def _weighed(self, block: Cohort) -> Weighed | None:
        steered = None if self.task.roles is None else self.task.roles.steered
        if steered is None:
            return None
        if not block.rows:
            return Weighed()
        given = steered(block, self.task, self.state)
        if given is None:
            return None
        if not len(given.weights):
            return Weighed()
        weights, person = given.weights, given.person
        by_person = weights if person is None else np.bincount(person, weights)
        total, most = float(weights.sum()), float(by_person.max())
        return Weighed(total, most, len(weights), given.least)


class Weights:
    """The weights that a state gives to rows, added up over blocks.

    A block for which the analysis gives none shows that there are none at this step, or that
    no row of the whole weighs much."""

    def __init__(self) -> None:
        self._are_given = True
        self._sum = Weighed()

    def add(self, weighed: Weighed | None) -> None:
        if weighed is None:
            self._are_given = False
            return
        total = self._sum
        self._sum = Weighed(
            total.total + weighed.total,
            max(total.most, weighed.most),
            total.rows + weighed.rows,
            max(total.least, weighed.least),
        )

    @property
    def are_too_far(self) -> bool:
        total = self._sum
        if not (self._are_given and total.rows):
            return False
        share = total.most / total.total if total.total > 0 else 0.0
        return share > rules_of.MAX_ROUND_SHARE or total.total < total.least


# -- the columns of a task
def is_unsupported(task: AnyTask, cohort: Cohort, rules: Rules) -> bool:
    blocks, everyone = support.blocks_of(cohort, task), cohort.everyone or cohort
    used = support.blocks_added_up(cohort, task)
    return (
        any(_stands_out(task, some, cohort, rules) for some in (blocks, used) if some is not None)
        or are_alike(support.pieces(task), blocks, cohort.rows_per_person, rules)
        or are_alike(task.where, support.all_blocks(everyone), everyone.rows_per_person, rules)
    )


def _stands_out(task: AnyTask, blocks: Blocks, cohort: Cohort, rules: Rules) -> bool:
    """Whether a person does in the sums over some rows."""
    rows_per_person = cohort.rows_per_person
    return _dominated(task, blocks, rows_per_person, rules.thin) or _singled_out(
        task, blocks, rows_per_person, rules
    )


# -- dominance
def _of(field: Field, block: Block) -> Floats:
    return block.of(field)


def _product(term: Term, block: Block) -> Floats:
    return support.product(term, block.rows)


def _column(blocks: Blocks, read: Reader) -> Column:
    return lambda: (Piece(read(block), block.rows.person) for block in blocks())


def _dominated(task: AnyTask, blocks: Blocks, rows_per_person: int, thin: int) -> bool:
    roles = support.roles_of(task)
    for field in support_columns.plain_numbers(roles):
        column = _column(blocks, partial(_of, field))
        width = field.interval[1] - field.interval[0]
        if in_blocks.shows_no_large_share(column, rules_of.MAX_SHARE, rows_per_person, width):
            continue
        if _has_support(column, thin) and in_blocks.share(column) > rules_of.MAX_SHARE:
            return True
    pieces = [piece for piece in support.pieces(task) if piece.kind == "number"]
    crossed = [term for term in roles.terms if len(term.factors) > 1]
    readers: list[Reader] = [partial(_of, support.as_field(piece)) for piece in pieces]
    readers += [partial(_product, term) for term in crossed]
    if any(_dominates_made(_column(blocks, read), rows_per_person, thin) for read in readers):
        return True
    weights = (_column(blocks, partial(_of, field)) for field in roles.weights)
    return any(in_blocks.share(column, 0.0) > rules_of.MAX_MADE_SHARE for column in weights)


def _dominates_made(column: Column, rows_per_person: int, thin: int) -> bool:
    """Whether one person is most of a column that the study makes."""
    if in_blocks.shows_no_large_share(column, rules_of.MAX_MADE_SHARE, rows_per_person):
        return False
    if not _has_support(column, thin):
        return False
    binary = in_blocks.is_binary(column)
    limit = support_columns.made_limit(rows_per_person, binary=binary)
    return in_blocks.share(column) > limit


def _has_support(column: Column, people: int) -> bool:
    counted = OffMode(max(ENOUGH, people))
    for values, person in column():
        counted.add(values, person)
        if counted.is_settled:
            break
    return counted.support >= people


# -- leverage
Change = Callable[[Rows], Rows]


def _singled_out(task: AnyTask, blocks: Blocks, rows_per_person: int, rules: Rules) -> bool:
    roles, limit = support.roles_of(task), rules_of.MAX_LEVERAGE
    if not roles.terms:
        return False
    if roles.within is not None and _stands_out_within(task, blocks, rows_per_person, rules):
        return True
    few, most, crossed = _few(roles.terms, blocks, rules.thin)
    wide = tuple(term for term in roles.terms if term not in crossed)
    ends = [term.interval for term in support_columns.dense_terms(wide)]
    widths = np.array([high - low for low, high in ends])
    if not few and not crossed:
        return in_blocks.exceeds_leverage(_design(wide, blocks), limit, rows_per_person, widths)

    def merged(rows: Rows) -> Rows:
        return support_columns.merged(rows, few, most)

    if in_blocks.exceeds_leverage(_design(wide, blocks, merged), limit, rows_per_person, widths):
        return True
    unjudged = support_columns.unjudged_codes(few, wide)
    beside = _design_beside(few, crossed, wide, blocks)
    return in_blocks.exceeds_leverage(beside, limit, rows_per_person, None, unjudged)


def _few(
    terms: Sequence[Term], blocks: Blocks, thin: int
) -> tuple[dict[Field, list[int]], dict[Field, int], list[Term]]:
    """The levels that some people have here, but fewer than `thin`; the most frequent level of each
    column; and the products in which so few people differ."""
    fields = support_columns.level_fields(terms)
    people = {field: np.zeros(len(field.groups), np.int64) for field in fields}
    rows = {field: np.zeros(len(field.groups), np.int64) for field in fields}
    modes = {term: OffMode(max(ENOUGH, thin)) for term in terms if len(term.factors) > 1}
    for block in blocks() if fields or modes else ():
        for field in fields:
            column, size = block.of(field), len(field.groups)
            people[field] += support.level_people(column, size, block.rows.person)
            rows[field] += support_columns.level_rows(column, size)
        for term, counted in modes.items():
            if not counted.is_settled:
                counted.add(support.product(term, block.rows), block.rows.person)
    few = support_columns.few_of(people, thin)
    crossed = [term for term, counted in modes.items() if 0 < counted.away < thin]
    return few, {field: int(rows[field].argmax()) for field in few}, crossed


def _design(terms: Sequence[Term], blocks: Blocks, changed: Change | None = None) -> Design:
    dense = support_columns.dense_terms(terms)

    def design() -> Iterator[DesignPiece]:
        for block in blocks():
            rows = block.rows if changed is None else changed(block.rows)
            X = support_columns.columns_of(dense, rows)
            yield DesignPiece(X, rows.person, support_columns.codes_of(terms, rows))

    return design


def _design_beside(
    few: support_columns.Few, crossed: Sequence[Term], terms: Sequence[Term], blocks: Blocks
) -> Design:
    """With the columns in which few people stand out."""

    def design() -> Iterator[DesignPiece]:
        pieces = _design(terms, blocks)()
        for block, piece in zip(blocks(), pieces, strict=True):
            apart = support_columns.apart_of(few, crossed, terms, block.rows)
            yield piece._replace(X=np.hstack([apart, piece.X]), n_apart=apart.shape[1])

    return design


def _stands_out_within(task: AnyTask, blocks: Blocks, rows_per_person: int, rules: Rules) -> bool:
    roles = support.roles_of(task)
    are_people = roles.within is protocol.by_person
    levels = np.empty(0, np.int64)
    for block in () if are_people else blocks():
        levels = np.union1d(levels, _levels_of(task, block))

    def design() -> Iterator[DesignPiece]:
        for block in blocks():
            X, codes = support_columns.columns_of(roles.terms, block.rows), _levels_of(task, block)
            codes = codes if are_people else np.searchsorted(levels, codes)
            yield DesignPiece(X, block.rows.person, codes, 0, are_people)

    n_levels = None if are_people else len(levels)
    people = _people_off_modes(design, len(roles.terms), n_levels, rows_per_person, rules.min_cell)
    few = (people > 0) & (people < (rules.thin if rules.hub_sees_cells else rules.min_cell))
    if few.any() and not rules.hub_sees_cells:
        return True
    limit = rules_of.MAX_LEVERAGE
    return in_blocks.exceeds_leverage(_beside(design, few), limit, rows_per_person, None, None)


def _levels_of(task: AnyTask, block: Block) -> Ints:
    """(n_used,) the levels within which a task compares its rows."""
    within = support.roles_of(task).within
    assert within is not None
    return within(block.cohort, task)[block.rows.is_used]


def _people_off_modes(
    design: Design, n_columns: int, n_levels: int | None, rows_per_person: int, k: int
) -> Ints:
    """(n_columns,) people with a row whose value is not the most frequent one of its level; at
    least so many, where these are more than `k`. `n_levels`: None if no level is in two blocks."""
    counted = [Pairs(rows_per_person, max(ENOUGH, k)) for _ in range(n_columns)]
    for X, _, codes, *_ in () if n_levels is None else design():
        assert codes is not None
        for column, pairs in zip(X.T, counted, strict=True):
            pairs.add(column, codes)
    modes = {j: c.most(n_levels or 0) for j, c in enumerate(counted) if not c.is_settled}
    people = np.array([pairs.least if pairs.is_settled else 0 for pairs in counted], np.int64)
    for X, person, codes, *_ in design() if modes else ():
        assert codes is not None
        for j in modes:
            most = modes[j] if n_levels is not None else _modes_of(X[:, j], codes, rows_per_person)
            people[j] += support.count_people(X[:, j] != most[codes], person)
    return people


def _modes_of(column: Floats, codes: Ints, rows_per_person: int) -> Floats:
    """(n_levels,) of levels of one block."""
    pairs = Pairs(rows_per_person)
    pairs.add(column, codes)
    return pairs.most(int(codes.max(initial=-1)) + 1)


def _beside(design: Design, few: Mask) -> Design:
    """With the columns in which few people differ as those that are judged elsewhere."""
    order = np.r_[np.flatnonzero(few), np.flatnonzero(~few)]

    def ordered() -> Iterator[DesignPiece]:
        for piece in design():
            yield piece._replace(X=piece.X[:, order], n_apart=int(few.sum()))

    return ordered


# -- conditions that are nearly the same
def are_alike(
    pieces: Sequence[Written], blocks: Blocks, rows_per_person: int, rules: Rules
) -> bool:
    """Whether two conditions hold for nearly the same people, or for the same."""
    some = support_columns.comparable(pieces)
    if len(some) < 2:
        return False
    levels = support.second_levels(some, blocks)
    dividing = [piece for piece in some if piece.kind != "number" or levels[piece] is not None]

    def masks() -> Iterator[MaskPiece]:
        for block in blocks():
            chosen = support.chosen_rows(dividing, levels, block)
            holds = np.stack(chosen, axis=1) if chosen else np.zeros((block.cohort.rows, 0), bool)
            yield MaskPiece(holds, block.rows.is_used, block.cohort.numbered)

    return in_blocks.are_alike(
        masks,
        len(dividing),
        rules.min_cell,
        rows_per_person,
        wide=0 if rules.compares_narrow else rules.thin,
    )


# -- all that a study writes together
def is_joined(
    conditions: Sequence[Written],
    tasks: Sequence[AnyTask],
    cohort: Cohort,
    schema: Schema,
    rules: Rules,
) -> bool:
    """Whether the columns of all tasks together single out a person."""
    if are_alike(conditions, support.all_blocks(cohort), cohort.rows_per_person, rules):
        return True

    def design() -> Iterator[DesignPiece]:
        for block in cohort.blocks():
            X = np.stack(support_columns.all_columns(tasks, block, schema), axis=1)
            yield DesignPiece(X, block.numbered)

    return stands_out(design, cohort.rows_per_person, rules)


def stands_out(columns: Design, rows_per_person: int, rules: Rules) -> bool:
    """As `joint_columns.stands_out`."""
    means = support_columns.means_of(piece.X for piece in columns())

    def design() -> Iterator[DesignPiece]:
        return (piece._replace(X=support_columns.filled(piece.X, means)) for piece in columns())

    limit, counted = rules_of.MAX_JOINT_LEVERAGE, list[OffMode]()
    for X, person, *_ in design():
        counted = counted or [OffMode(max(ENOUGH, rules.thin)) for _ in range(X.shape[1])]
        for column, off_mode in zip(X.T, counted, strict=True):
            off_mode.add(column, person)
    thin = np.array([off_mode.away < rules.thin for off_mode in counted], np.bool_)
    thin &= rules.hub_sees_cells

    def without_thin() -> Iterator[DesignPiece]:
        return (piece._replace(X=piece.X[:, ~thin]) for piece in design())

    if in_blocks.exceeds_leverage(without_thin, limit, rows_per_person):
        return True
    return bool(thin.any()) and in_blocks.exceeds_leverage(
        _beside(design, thin), limit, rows_per_person
    )
