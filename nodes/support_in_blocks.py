"""The rules of `nodes.support` for a cohort in blocks: the same columns, limits and verdicts, from
passes over the blocks."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from federation.arrays import Floats
from federation.cohort import Cohort
from federation.disclosure import in_blocks
from federation.disclosure import support as rules_of
from federation.disclosure.in_blocks import ENOUGH, Column, DesignPiece, MaskPiece, OffMode, Piece
from federation.disclosure.rules import Rules
from federation.expression import Piece as Written
from federation.formula import Term
from federation.messages import Part, Refusal, State
from federation.schema import Field, Schema
from nodes import support_columns
from strategies import protocol, support
from strategies.protocol import AnyTask, Roles
from strategies.support import Block, Blocks, Rows

Reader = Callable[[Block], Floats]  # (n_used,) a column of the used rows of a block


# -- a round
def part(task: AnyTask, state: State, cohort: Cohort) -> Part | Refusal:
    """The sum of the parts of all blocks, unless the state leaves the sums to one person."""
    passes: list[Weights] = []

    def add(asked: AnyTask, at: State) -> Part:
        passes.append(Weights())
        return protocol.sum_of(_parts(BlockPart(asked, at), cohort, passes[-1]))

    total = task.analysis.TRAITS.in_blocks(add, task, state)
    return rules_of.STEERED if any(weights.are_too_far for weights in passes) else total


def _parts(compute: BlockPart, cohort: Cohort, weights: Weights) -> Iterator[Part]:
    blocks = cohort.in_blocks
    assert blocks is not None
    computed = map(compute, blocks.read()) if blocks.apart is None else blocks.apart(compute)
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

    def __getstate__(self) -> tuple[str, AnyTask, State]:
        """With the analysis by its name: a module cannot be pickled."""
        alone = replace(self.task, analysis=None, private=None, training=None)  # type: ignore[arg-type]
        return str(getattr(self.task.analysis, "__name__", "")), alone, self.state

    def __setstate__(self, values: tuple[str, AnyTask, State]) -> None:
        name, task, state = values
        module: Any = importlib.import_module(name)
        object.__setattr__(self, "task", replace(task, analysis=module))
        object.__setattr__(self, "state", state)


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
    return (
        _dominated(task, blocks, cohort.rows_per_person, rules.thin)
        or _singled_out(task, blocks, cohort.rows_per_person, rules)
        or are_alike(support.pieces(task), blocks, cohort.rows_per_person, rules)
        or are_alike(task.where, support.all_blocks(everyone), everyone.rows_per_person, rules)
    )


# -- dominance
def _of(field: Field, block: Block) -> Floats:
    return block.of(field)


def _product(term: Term, block: Block) -> Floats:
    return support.product(term, block.rows)


def _column(blocks: Blocks, read: Reader) -> Column:
    return lambda: (Piece(read(block), block.rows.person) for block in blocks())


def _dominated(task: AnyTask, blocks: Blocks, rows_per_person: int, k: int) -> bool:
    roles = support.roles_of(task)
    for field in support_columns.plain_numbers(roles):
        column = _column(blocks, partial(_of, field))
        width = field.interval[1] - field.interval[0]
        if in_blocks.shows_no_large_share(column, rules_of.MAX_SHARE, rows_per_person, width):
            continue
        if _has_support(column, k) and in_blocks.share(column) > rules_of.MAX_SHARE:
            return True
    pieces = [piece for piece in support.pieces(task) if piece.kind == "number"]
    crossed = [term for term in roles.terms if len(term.factors) > 1]
    readers: list[Reader] = [partial(_of, support.as_field(piece)) for piece in pieces]
    readers += [partial(_product, term) for term in crossed]
    if any(_dominates_made(_column(blocks, read), rows_per_person, k) for read in readers):
        return True
    weights = (_column(blocks, partial(_of, field)) for field in roles.weights)
    return any(in_blocks.share(column, 0.0) > rules_of.MAX_MADE_SHARE for column in weights)


def _dominates_made(column: Column, rows_per_person: int, k: int) -> bool:
    """Whether one person is most of a column that the study makes."""
    if in_blocks.shows_no_large_share(column, rules_of.MAX_MADE_SHARE, rows_per_person):
        return False
    if not _has_support(column, k):
        return False
    binary = in_blocks.is_binary(column)
    limit = support_columns.made_limit(rows_per_person, binary=binary)
    return in_blocks.share(column) > limit


def _has_support(column: Column, k: int) -> bool:
    counted = OffMode(max(ENOUGH, k))
    for values, person in column():
        counted.add(values, person)
        if counted.is_settled:
            break
    return counted.support >= k


# -- leverage
def _singled_out(task: AnyTask, blocks: Blocks, rows_per_person: int, rules: Rules) -> bool:
    """Whether a person stands out in the columns of a model, where few people have a level here as
    in `nodes.support`."""
    roles = support.roles_of(task)
    if not roles.terms:
        return False
    thin = _Thin.of(roles, blocks, rules.thin)
    wide = tuple(term for term in roles.terms if term not in thin.crossed)
    ends = [term.interval for term in support_columns.dense_terms(wide)]
    widths = np.array([high - low for low, high in ends])

    def merged() -> Iterator[DesignPiece]:
        for block in blocks():
            X, codes = support_columns.design_of(wide, thin.merged(block.rows, wide))
            yield DesignPiece(X, block.rows.person, codes)

    limit = rules_of.MAX_LEVERAGE
    if in_blocks.exceeds_leverage(merged, limit, rows_per_person, widths):
        return True
    if not thin.few and not thin.crossed:
        return False

    def beside() -> Iterator[DesignPiece]:
        for block in blocks():
            X, codes = support_columns.design_of(wide, block.rows)
            apart = support_columns.of_few(thin.few, thin.crossed, wide, block.rows)
            yield DesignPiece(X, block.rows.person, codes, apart)

    unjudged = support_columns.few_codes(thin.few, wide)
    return in_blocks.exceeds_leverage(beside, limit, rows_per_person, None, unjudged)


@dataclass(frozen=True)
class _Thin:
    """The columns in which few people stand out here: `few` levels, by column, and `crossed` terms.
    `most`: the most frequent level of each of these columns."""

    few: Mapping[Field, list[int]]
    most: Mapping[Field, int]
    crossed: list[Term]

    @classmethod
    def of(cls, roles: Roles, blocks: Blocks, thin: int) -> _Thin:
        fields = support_columns.level_fields(roles)
        crossed = [term for term in roles.terms if len(term.factors) > 1]
        people = {field: np.zeros(len(field.groups), np.int64) for field in fields}
        rows = {field: np.zeros(len(field.groups), np.int64) for field in fields}
        modes = {term: OffMode(max(ENOUGH, thin)) for term in crossed}
        for block in blocks() if fields or crossed else ():
            for field in fields:
                column, size = block.of(field), len(field.groups)
                people[field] += support.level_people(column, size, block.rows.person)
                rows[field] += support.level_people(column, size, None)
            for term, counted in modes.items():
                counted.add(support.product(term, block.rows), block.rows.person)
        some = {f: np.flatnonzero((n > 0) & (n < thin)).tolist() for f, n in people.items()}
        few = {field: levels for field, levels in some.items() if levels}
        most = {field: int(rows[field].argmax()) for field in few}
        return cls(few, most, [t for t, counted in modes.items() if 0 < counted.away < thin])

    def merged(self, rows: Rows, terms: Sequence[Term]) -> Rows:
        """The rows as if the people of these levels had the most frequent one."""
        if not self.few:
            return rows
        names = {factor.field.name for term in terms for factor in term.factors}
        columns = {name: rows.columns[name] for name in sorted(names)}
        for field, levels in self.few.items():
            if field.name in names:
                column = columns[field.name]
                is_few = np.isin(column, levels)
                columns[field.name] = np.where(is_few, self.most[field], column).astype(
                    column.dtype
                )
        return replace(rows, columns=columns)


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


def stands_out(design: in_blocks.Design, rows_per_person: int, rules: Rules) -> bool:
    """Whether a person does in the columns of all blocks. Those in which few people differ here are
    counted over all nodes, if the hub may see them: the others are judged without them, and beside
    them."""
    thin = _thin_columns(design, rules.thin) if rules.hub_sees_cells else []
    limit = rules_of.MAX_JOINT_LEVERAGE

    def others(*, beside: bool) -> Iterator[DesignPiece]:
        for piece in design():
            wide = [place for place in range(piece.X.shape[1]) if place not in thin]
            apart = piece.X[:, thin] if beside else None
            yield DesignPiece(piece.X[:, wide], piece.person, None, apart)

    if in_blocks.exceeds_leverage(partial(others, beside=False), limit, rows_per_person):
        return True
    if not thin:
        return False
    return in_blocks.exceeds_leverage(partial(others, beside=True), limit, rows_per_person)


def _thin_columns(design: in_blocks.Design, thin: int) -> list[int]:
    """The places of the columns in which fewer than `thin` people differ."""
    counted: list[OffMode] = []
    for piece in design():
        counted = counted or [OffMode(max(ENOUGH, thin)) for _ in range(piece.X.shape[1])]
        for column, off_mode in zip(piece.X.T, counted, strict=True):
            off_mode.add(column, piece.person)
    return [place for place, off in enumerate(counted) if off.away < thin]
