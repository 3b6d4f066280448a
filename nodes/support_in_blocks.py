"""The rules of `nodes.support` for a cohort in blocks: the same columns, limits and verdicts, from
passes over the blocks."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
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
from strategies.support import Block, Blocks, Mask

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
    roles = support.roles_of(task)
    if not roles.terms:
        return False
    is_thin = _thin(roles, blocks, rules.thin)

    def design() -> Iterator[DesignPiece]:
        for block in blocks():
            (X, codes), person = (
                support_columns.design_of(roles.terms, block.rows),
                block.rows.person,
            )
            stay = ~is_thin(block)
            yield DesignPiece(
                X[stay],
                None if person is None else person[stay],
                None if codes is None else codes[stay],
            )

    ends = [term.interval for term in support_columns.dense_terms(roles.terms)]
    widths = np.array([high - low for low, high in ends])
    return in_blocks.exceeds_leverage(design, rules_of.MAX_LEVERAGE, rows_per_person, widths)


def _thin(roles: Roles, blocks: Blocks, k: int) -> Callable[[Block], Mask]:
    """Which used rows of a block stand out in a column that fewer than `k` people share."""
    fields = support_columns.level_fields(roles)
    crossed = [term for term in roles.terms if len(term.factors) > 1]
    people = {field: np.zeros(len(field.groups), np.int64) for field in fields}
    modes = {term: OffMode(max(ENOUGH, k)) for term in crossed}
    for block in blocks() if fields or crossed else ():
        for field in fields:
            column = block.of(field)
            people[field] += support.level_people(column, len(field.groups), block.rows.person)
        for term, counted in modes.items():
            counted.add(support.product(term, block.rows), block.rows.person)
    thin = {term: counted.mode for term, counted in modes.items() if 0 < counted.away < k}

    def is_thin(block: Block) -> Mask:
        mask = np.zeros(int(np.count_nonzero(block.rows.is_used)), np.bool_)
        for field in fields:
            mask |= support_columns.at_thin_level(block.of(field), people[field], k)
        for term, mode in thin.items():
            mask |= support.product(term, block.rows) != mode
        return mask

    return is_thin


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
    counted over all nodes, if the hub may see them, and so are these people."""
    few = _thin_columns(design, rules.thin) if rules.hub_sees_cells else {}

    def without_thin() -> Iterator[DesignPiece]:
        for X, person, _ in design():
            stay = np.ones(len(X), np.bool_)
            for place, mode in few.items():
                stay &= X[:, place] == mode
            others = [place for place in range(X.shape[1]) if place not in few]
            yield DesignPiece(X[stay][:, others], None if person is None else person[stay])

    limit = rules_of.MAX_JOINT_LEVERAGE
    return in_blocks.exceeds_leverage(without_thin, limit, rows_per_person)


def _thin_columns(design: in_blocks.Design, k: int) -> dict[int, float]:
    """By place, the most frequent value of each column in which fewer than `k` people differ."""
    counted: list[OffMode] = []
    for X, person, _ in design():
        counted = counted or [OffMode(max(ENOUGH, k)) for _ in range(X.shape[1])]
        for column, off_mode in zip(X.T, counted, strict=True):
            off_mode.add(column, person)
    return {place: off.mode for place, off in enumerate(counted) if off.away < k}
