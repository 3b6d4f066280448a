"""The rules of `nodes.support` for a cohort in blocks: the same columns, limits and verdicts, from
passes over the blocks."""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    apart = blocks.apart if support.is_built_in(compute.task) else None
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

    def __call__(self, block: Cohort, _: object = None) -> tuple[Part, Weighed | None]:
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
    return blocks.pieces(partial(_piece, read))


def _piece(read: Reader, block: Block) -> Piece:
    return Piece(read(block), block.rows.person)


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
    for of_block in in_blocks.each(column, partial(_off_mode, counted.enough)):
        counted.join(of_block)
        if counted.is_settled:
            break
    return counted.support >= people


def _off_mode(enough: int, piece: Piece) -> OffMode:
    return OffMode.of(piece.values, piece.person, enough)


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

    merged = partial(_merged, few, most)
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
    enough = max(ENOUGH, thin)
    modes = {term: OffMode(enough) for term in terms if len(term.factors) > 1}
    counted = partial(_of_levels_and_products, fields, tuple(modes), enough)
    for levels, products in blocks.each(counted) if fields or modes else ():
        for field, (people_, rows_) in zip(fields, levels, strict=True):
            people[field] += people_
            rows[field] += rows_
        for off_mode, of_block in zip(modes.values(), products, strict=True):
            off_mode.join(of_block)
    few = support_columns.few_of(people, thin)
    crossed = [term for term, counted_ in modes.items() if 0 < counted_.away < thin]
    return few, {field: int(rows[field].argmax()) for field in few}, crossed


def _of_levels_and_products(
    fields: Sequence[Field], products: Sequence[Term], enough: int, block: Block
) -> tuple[list[tuple[Ints, Ints]], list[OffMode]]:
    """Of a block: the people and rows of each level of the fields, and the people off the mode of
    each product."""
    levels, person = [], block.rows.person
    for field in fields:
        column, size = block.of(field), len(field.groups)
        people = support.level_people(column, size, person)
        levels.append((people, support_columns.level_rows(column, size)))
    columns = (support.product(term, block.rows) for term in products)
    return levels, [OffMode.of(column, person, enough) for column in columns]


def _merged(few: support_columns.Few, most: Mapping[Field, int], rows: Rows) -> Rows:
    return support_columns.merged(rows, few, most)


def _design(terms: Sequence[Term], blocks: Blocks, changed: Change | None = None) -> Design:
    return blocks.pieces(partial(_design_piece, terms, changed))


def _design_piece(terms: Sequence[Term], changed: Change | None, block: Block) -> DesignPiece:
    rows = block.rows if changed is None else changed(block.rows)
    X = support_columns.columns_of(support_columns.dense_terms(terms), rows)
    return DesignPiece(X, rows.person, support_columns.codes_of(terms, rows))


def _design_beside(
    few: support_columns.Few, crossed: Sequence[Term], terms: Sequence[Term], blocks: Blocks
) -> Design:
    """With the columns in which few people stand out."""
    return blocks.pieces(partial(_piece_beside, few, crossed, terms))


def _piece_beside(
    few: support_columns.Few, crossed: Sequence[Term], terms: Sequence[Term], block: Block
) -> DesignPiece:
    piece = _design_piece(terms, None, block)
    apart = support_columns.apart_of(few, crossed, terms, block.rows)
    return piece._replace(X=np.hstack([apart, piece.X]), n_apart=apart.shape[1])


def _stands_out_within(task: AnyTask, blocks: Blocks, rows_per_person: int, rules: Rules) -> bool:
    roles = support.roles_of(task)
    are_people = roles.within is protocol.by_person
    levels: Ints | None = None
    if not are_people:
        several = [np.empty(0, np.int64), *blocks.each(partial(_distinct_levels, task))]
        levels = np.unique(np.concatenate(several))
    design = blocks.pieces(partial(_piece_within, task, levels))
    n_levels = None if levels is None else len(levels)
    people = _people_off_modes(design, len(roles.terms), n_levels, rows_per_person, rules.min_cell)
    few = (people > 0) & (people < (rules.thin if rules.hub_sees_cells else rules.min_cell))
    if few.any() and not rules.hub_sees_cells:
        return True
    limit = rules_of.MAX_LEVERAGE
    return in_blocks.exceeds_leverage(_beside(design, few), limit, rows_per_person, None, None)


def _distinct_levels(task: AnyTask, block: Block) -> Ints:
    return np.unique(_levels_of(task, block))


def _piece_within(task: AnyTask, levels: Ints | None, block: Block) -> DesignPiece:
    """`levels`: of all blocks; None if no level is in two of them."""
    X = support_columns.columns_of(support.roles_of(task).terms, block.rows)
    codes = _levels_of(task, block)
    codes = codes if levels is None else np.searchsorted(levels, codes)
    return DesignPiece(X, block.rows.person, codes, 0, levels is None)


def _levels_of(task: AnyTask, block: Block) -> Ints:
    """(n_used,) the levels within which a task compares its rows."""
    within = support.roles_of(task).within
    assert within is not None
    return within(block.cohort, task)[block.rows.is_used]


def _people_off_modes(
    design: support.Pieces[DesignPiece],
    n_columns: int,
    n_levels: int | None,
    rows_per_person: int,
    k: int,
) -> Ints:
    """(n_columns,) people with a row whose value is not the most frequent one of its level; at
    least so many, where these are more than `k`. `n_levels`: None if no level is in two blocks."""
    counted = [Pairs(rows_per_person, max(ENOUGH, k)) for _ in range(n_columns)]
    pairs_of = partial(_pairs, rows_per_person, max(ENOUGH, k))
    for of_block in () if n_levels is None else design.each(pairs_of):
        for pairs, added in zip(counted, of_block, strict=True):
            pairs.join(added)
    modes = {j: c.most(n_levels or 0) for j, c in enumerate(counted) if not c.is_settled}
    people = np.array([pairs.least if pairs.is_settled else 0 for pairs in counted], np.int64)
    columns, of_all = list(modes), None if n_levels is None else modes
    for off in design.each(partial(_off_modes, columns, of_all, rows_per_person)) if modes else ():
        people[columns] += off
    return people


def _pairs(rows_per_person: int, enough: int, piece: DesignPiece) -> list[Pairs]:
    assert piece.codes is not None
    several = [Pairs(rows_per_person, enough) for _ in piece.X.T]
    for column, pairs in zip(piece.X.T, several, strict=True):
        pairs.add(column, piece.codes)
    return several


def _off_modes(
    columns: Sequence[int],
    modes: Mapping[int, Floats] | None,
    rows_per_person: int,
    piece: DesignPiece,
) -> list[int]:
    """By column, the people of a block off the modes; None for those of its own levels."""
    X, person, codes, *_ = piece
    assert codes is not None
    people = []
    for j in columns:
        most = _modes_of(X[:, j], codes, rows_per_person) if modes is None else modes[j]
        people.append(support.count_people(X[:, j] != most[codes], person))
    return people


def _modes_of(column: Floats, codes: Ints, rows_per_person: int) -> Floats:
    """(n_levels,) of levels of one block."""
    pairs = Pairs(rows_per_person)
    pairs.add(column, codes)
    return pairs.most(int(codes.max(initial=-1)) + 1)


def _beside(design: support.Pieces[DesignPiece], few: Mask) -> Design:
    """With the columns in which few people differ as those that are judged elsewhere."""
    return design.then(partial(_few_first, few))


def _few_first(few: Mask, piece: DesignPiece) -> DesignPiece:
    order = np.r_[np.flatnonzero(few), np.flatnonzero(~few)]
    return piece._replace(X=piece.X[:, order], n_apart=int(few.sum()))


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

    return in_blocks.are_alike(
        blocks.pieces(partial(_masks, dividing, levels)),
        len(dividing),
        rules.min_cell,
        rows_per_person,
        wide=0 if rules.compares_narrow else rules.thin,
    )


def _masks(
    dividing: Sequence[Written], levels: Mapping[Written, float | None], block: Block
) -> MaskPiece:
    chosen = support.chosen_rows(dividing, levels, block)
    holds = np.stack(chosen, axis=1) if chosen else np.zeros((block.cohort.rows, 0), np.bool_)
    return MaskPiece(holds, block.rows.is_used, block.cohort.numbered)


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

    are_built_in = all(map(support.is_built_in, tasks))
    blocks = support.all_blocks(cohort, is_shared=are_built_in)
    columns = blocks.pieces(partial(_all_columns, tasks, schema))
    return stands_out(columns, cohort.rows_per_person, rules)


def _all_columns(tasks: Sequence[AnyTask], schema: Schema, block: Block) -> DesignPiece:
    X = np.stack(support_columns.all_columns(tasks, block.cohort, schema), axis=1)
    return DesignPiece(X, block.cohort.numbered)


def stands_out(columns: support.Pieces[DesignPiece], rows_per_person: int, rules: Rules) -> bool:
    """As `joint_columns.stands_out`."""
    means = support_columns.means_from(columns.each(_sums_of_values))
    design = columns.then(partial(_filled, means))
    limit, counted = rules_of.MAX_JOINT_LEVERAGE, list[OffMode]()
    enough = max(ENOUGH, rules.thin)
    for of_block in design.each(partial(_off_modes_of_columns, enough)):
        counted = counted or [OffMode(enough) for _ in of_block]
        for off_mode, added in zip(counted, of_block, strict=True):
            off_mode.join(added)
    thin = np.array([off_mode.away < rules.thin for off_mode in counted], np.bool_)
    thin &= rules.hub_sees_cells
    if in_blocks.exceeds_leverage(design.then(partial(_without, thin)), limit, rows_per_person):
        return True
    return bool(thin.any()) and in_blocks.exceeds_leverage(
        _beside(design, thin), limit, rows_per_person
    )


def _sums_of_values(piece: DesignPiece) -> support_columns.SumsOfValues:
    return support_columns.sums_of_values(piece.X)


def _filled(means: Floats, piece: DesignPiece) -> DesignPiece:
    return piece._replace(X=support_columns.filled(piece.X, means))


def _off_modes_of_columns(enough: int, piece: DesignPiece) -> list[OffMode]:
    return [OffMode.of(column, piece.person, enough) for column in piece.X.T]


def _without(thin: Mask, piece: DesignPiece) -> DesignPiece:
    return piece._replace(X=piece.X[:, ~thin])
