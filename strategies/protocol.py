"""The typed contract of an analysis: the members that a module must define, and the defaults of
those that it may leave out.

An analysis is a module. `registry.py` lists the modules in one table, where mypy checks each
against the protocols below and names the member that is missing or has another type.

    prepare   once, hub and node   options and columns -> the plan; refuses a bad model
    start     once, hub            the first state
    local     each round, node     rows -> a Part that adds over nodes
    combine   each round, hub      the total of the parts -> the next state, or the result
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Floats, Ints, Sum
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.disclosure.rules import Rules
from federation.expression import Piece
from federation.formula import Factor, Term
from federation.messages import Part, State
from federation.results import Result, Row
from federation.schema import Field, Schema
from strategies.admissible import Limits
from strategies.grids import Grid

O = TypeVar("O", bound=Frozen)
P = TypeVar("P")
O_co = TypeVar("O_co", bound=Frozen, covariant=True)
P_co = TypeVar("P_co", covariant=True)


class RowWeights(NamedTuple):
    """The weight that the hub's state gives each row in the sums of a round.

    weights (n_rows,): not negative, in any unit. person (n_rows,): the person of each row; None if
    each row has another person. least: if the weights add up to less, the state turns smooth
    functions of the columns into steps."""

    weights: Floats
    person: Ints | None = None
    least: float = 0.0


class Reached(NamedTuple):
    """People behind a number of a task.

    of: what they are counted for, alike in all tasks that can be compared. choice: the options that
    chose them. mask (n_rows,): their rows among those of the cohort."""

    of: str
    choice: str
    mask: NDArray[np.bool_]


class Chosen(NamedTuple):
    """Options that cut what a task computes. Once one value of them was answered, another is not.

    of: what is computed, alike in all tasks that can be compared. choice: the options. columns:
    those of the same contract columns are compared. everywhere: whether answers about other cohorts
    count too, because sums over these add up to one."""

    of: str
    choice: str
    columns: tuple[Field, ...] = ()
    everywhere: bool = False


@dataclass(frozen=True)
class Roles:
    """The role of each column of a task, for the rules of disclosure in exact mode. Nodes refuse a
    task with a column that has no role.

    `terms`: columns of a design, by which rows are multiplied before they are added up. `amounts`:
    added up alone or against a design: responses, times, offsets. `weights`: rows are multiplied by
    them. `groups`: divide people into the cells of a table or curve, whose counts are in the Part.
    `strata`: divide people into strata that the Part does not show. `conditions`: on rows, from
    options such as a landmark. `apart`: each column is summed over the rows that have it, not over
    the rows that have all columns. `grids`: columns that the task cuts into cells of the study's
    choice. `reached(cohort, task)`: people whom options choose without a condition on columns.
    `choices`: options that cut what the task computes, such as scores or the steps of a pathway.
    `withheld(part, cohort, task, rules)`: the part without the sums that one person dominates.
    `used(cohort, task)` (n_rows,): the rows that are added up, if these are others than the rows
    that have all columns. `within(cohort, task)` (n_rows,): levels of the rows, if rows of
    different levels are never compared, so that a column which is one number in each says nothing.
    `steered(cohort, task, state)`: the weights that a state gives to rows; None at a step where all
    weights are equal, or where those of some rows show that no row weighs much among all."""

    terms: tuple[Term, ...] = ()
    amounts: tuple[Field, ...] = ()
    weights: tuple[Field, ...] = ()
    groups: tuple[Field, ...] = ()
    strata: tuple[Field, ...] = ()
    conditions: tuple[Piece, ...] = ()
    apart: bool = False
    grids: tuple[Grid, ...] = ()
    reached: Callable[[Cohort, AnyTask], Iterable[Reached]] | None = None
    choices: tuple[Chosen, ...] = ()
    withheld: Callable[[Part, Cohort, AnyTask, Rules], Part] | None = None
    used: Callable[[Cohort, AnyTask], NDArray[np.bool_]] | None = None
    within: Callable[[Cohort, AnyTask], Ints] | None = None
    steered: Steered | None = None

    @cached_property
    def fields(self) -> frozenset[Field]:
        factors = [factor.field for term in self.terms for factor in term.factors]
        return frozenset((*factors, *self.amounts, *self.weights, *self.groups, *self.strata))

    @cached_property
    def added_up(self) -> tuple[Field, ...]:
        """The columns whose values are added up, in a fixed order, without those that only divide
        people."""
        factors = (factor.field for term in self.terms for factor in term.factors)
        return tuple(dict.fromkeys((*factors, *self.amounts, *self.weights)))


def terms_of(fields: Iterable[Field]) -> tuple[Term, ...]:
    """One design column for each number or yes-or-no column."""
    return tuple(Term(field.name, (Factor(field),)) for field in fields)


class Prepared(NamedTuple, Generic[P]):
    """The plan that an analysis compiled from its options, and the columns that it reads."""

    plan: P
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Task(Generic[O_co, P_co]):
    """One analysis of a study with checked options and columns, equal at the hub and at every node.

    `private`: the protocol under differential privacy, in mode dp only. `training`: the same module
    if it trains on samples. `where`: the pieces of the condition that selects the cohort, and
    `roles`: of the columns; both in exact mode only. `by_step`: for each step of a cascade but the
    last, the condition that it or an earlier one links a person, if the study wants results by
    step. `chosen`: one of these conditions, if the task is about such people only."""

    name: str
    analysis: AnyAnalysis
    options: O_co
    plan: P_co
    fields: tuple[Field, ...]
    rows_per_person: int
    private: AnyPrivateAnalysis | None = None
    training: AnyPrivateTraining | None = None
    where: tuple[Piece, ...] = ()
    roles: Roles | None = None
    by_step: tuple[Field, ...] = ()
    chosen: Field | None = None

    def of_steps(self, steps: int) -> Task[O_co, P_co]:
        """The task about the people of the cohort whom the first so many steps of a cascade link; 0
        for all of it."""
        if not steps:
            return self
        chosen = self.by_step[steps - 1]
        return replace(self, chosen=chosen, where=chosen.pieces)


AnyTask = Task[Any, Any]
Estimates = Mapping[str, float]  # released coefficients, by term
Steered = Callable[[Cohort, AnyTask, State], RowWeights | None]
AddBlocks = Callable[[AnyTask, State], Part]


# -- at the hub only
@dataclass(frozen=True)
class Total:
    """The sum of the parts of a round, as `combine` sees it; never sent to a node.

    `sums`, `cells`, `sensitivity` and `parameters` are those of a Part. `noise` holds the variance
    of the noise in each number of an array, and is empty in exact mode. `by_node` holds the total
    of each node, for an analysis with the trait `each` where the hub may see single nodes."""

    sums: Mapping[str, Sum]
    cells: Mapping[str, Any]
    sensitivity: Mapping[str, float]
    parameters: int = 0
    noise: Mapping[str, float] = field(default_factory=dict)
    by_node: Mapping[str, Total] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class HubState(State):
    """A state together with the arrays that the analysis keeps at the hub from round to round."""

    memory: Mapping[str, Floats] = field(default_factory=dict, repr=False)


def total_of(part: Part) -> Total:
    """The total of a single part without noise."""
    return Total(part.sums, part.cells, part.sensitivity, part.parameters)


# Up to this many numbers are added as one array; larger sums are added in place, to save a copy.
STACKED = 100_000


def add(totals: Sequence[Total]) -> Total:
    """The sum of `totals`, in their order (which fixes the last bit)."""
    first = totals[0]
    if len(totals) == 1:
        return first
    return Total(
        sums={name: _added([total.sums[name] for total in totals]) for name in first.sums},
        cells={name: _added([total.cells[name] for total in totals]) for name in first.cells},
        sensitivity=first.sensitivity,
        parameters=first.parameters,
        noise={name: sum(total.noise[name] for total in totals) for name in first.noise},
    )


def _added(arrays: Sequence[Sum]) -> Sum:
    if len(arrays) * arrays[0].size <= STACKED:
        stacked: Sum = np.add.reduce(np.array(arrays), axis=0)
        return stacked
    running = arrays[0].copy()
    for array in arrays[1:]:
        running += array
    return running


def sum_of(parts: Iterable[Part]) -> Part:
    """The sum of the parts of some people and of others, in their order. There is one at least."""
    total: Part | None = None
    for part in parts:
        total = part if total is None else _both(total, part)
    assert total is not None, "a cohort has a block, if an empty one"
    return total


def _both(part: Part, other: Part) -> Part:
    return replace(
        part,
        sums={name: _sum(array, other.sums[name]) for name, array in part.sums.items()},
        cells={name: _sum(array, other.cells[name]) for name, array in part.cells.items()},
    )


def _sum(array: Any, other: Any) -> Any:
    """Of one shape: numpy would repeat a number over a whole array."""
    if np.shape(array) != np.shape(other):
        raise TypeError("the parts of two blocks have arrays of different shapes")
    return array + other


# -- optional members
def _every_node(task: AnyTask, state: State) -> float:
    return 1.0


def _nothing(task: AnyTask, secure_sum: bool) -> str | None:
    return None


def _not_over_people(task: AnyTask) -> bool:
    return False


def _of_all_blocks(add: AddBlocks, task: AnyTask, state: State) -> Part:
    return add(task, state)


def _as_it_is(task: AnyTask, state: State, estimates: Estimates) -> State:
    return state


@dataclass(frozen=True)
class Traits:
    """The properties of an analysis on which the framework acts, with their defaults.

    `version`: increased when the same question gets a different answer than before. `tolerant`: the
    analysis continues if nodes are missing from some rounds. `each`: `combine` uses the total of
    each node, if the hub may see it. `only_counts`: `local` asks its cohort for combinations of
    categories only, so rows need not be read. `any_order`: all that it adds up are counts of people
    by category, so that no bit of a Part depends on the order of the rows. `share_asked(task,
    state)`: the fraction of the nodes that the next round asks. `refuses(task, secure_sum)`: the
    reason why the study cannot run as written, or None. `warmed(task, state, estimates)`: the state
    after the first round, moved to coefficients that an earlier study released; the result is the
    same to 1e-9. `over_people(task)`: whether a Part is the sum of the parts of the people, at any
    state; then a node may compute it from blocks of people, one after the other. `in_blocks(add,
    task, state)`: the Part of a cohort in blocks, if it takes several sums over them; `add` gives
    the sum of the parts of all blocks for a task at a state."""

    version: int = 1
    tolerant: bool = False
    each: bool = False
    only_counts: bool = False
    any_order: bool = False
    share_asked: Callable[[AnyTask, State], float] = _every_node
    refuses: Callable[[AnyTask, bool], str | None] = _nothing
    warmed: Callable[[AnyTask, State, Estimates], State] = _as_it_is
    over_people: Callable[[AnyTask], bool] = _not_over_people
    in_blocks: Callable[[AddBlocks, AnyTask, State], Part] = _of_all_blocks


def by_person(cohort: Cohort, task: AnyTask) -> Ints:
    """The `within` of Roles where the rows of a person are compared with each other only. Each
    block of a cohort has numbers of its own for them."""
    return cohort.person


def always_over_people(task: AnyTask) -> bool:
    return True


# -- required members
class Analysis(Protocol[O, P]):
    """A module of `strategies/`. `prepare` raises ExpressionError for a model that the columns do
    not support, and `combine` raises ModelError if the data give no answer. `limits` declares the
    states at which a node computes; the node refuses all others before it reads a row."""

    @property
    def TRAITS(self) -> Traits: ...
    @property
    def Options(self) -> type[O]: ...
    def prepare(self, options: O, schema: Schema, /) -> Prepared[P]: ...
    def start(self, task: Task[O, P], /) -> State: ...
    def limits(self, task: Task[O, P], /) -> Limits: ...
    def local(self, cohort: Cohort, task: Task[O, P], state: State, /) -> Part: ...
    def combine(self, total: Total, task: Task[O, P], state: HubState, /) -> State | Result: ...


class ExactAnalysis(Analysis[O, P], Protocol[O, P]):
    """The protocol of an analysis in exact mode. `roles`: of each column that it reads."""

    def roles(self, task: Task[O, P], /) -> Roles: ...


Noise = Callable[[State, str], float]


class PrivateAnalysis(Analysis[O, P], Protocol[O, P]):
    """The protocol of an analysis under differential privacy. Its Parts hold no cells, only arrays
    of bounded sensitivity.

    `rounds`: one state for each round of a whole run, with the shares, shapes and sensitivities of
    the real ones. `shares`: the fraction of the analysis's budget that each array of this round
    takes; only these arrays leave the node. Over a whole run the fractions add up to 1. `forecast`:
    the intervals to expect with `people` persons in all, from the contract alone; `noise(state,
    array)` is the standard deviation of the array's noise, summed over nodes."""

    def rounds(self, task: Task[O, P], /) -> Sequence[State]: ...
    def shares(self, task: Task[O, P], state: State, /) -> Mapping[str, float]: ...
    def forecast(self, task: Task[O, P], people: int, noise: Noise, /) -> list[Row]: ...


@dataclass(frozen=True)
class Sampling:
    """The sampling of training under differential privacy: `rounds` rounds of `steps` steps, each
    on people drawn with probability `rate`. With `inside`, a node takes all steps of a round alone,
    with new noise in each, and sends the result; otherwise a round is one step, whose noised sum
    leaves the node. `array`: the name of the array that is charged."""

    array: str
    rate: float
    steps: int
    rounds: int
    inside: bool


class PrivateTraining(PrivateAnalysis[O, P], Protocol[O, P]):
    """A private analysis that trains on samples.

    `sampling`: of a round, or None if it reads everyone. `step_sensitivity`: of the sum of a single
    step. `inside`: the part of a round in which the node takes the steps alone; `noised` adds the
    noise to the sum of a step, and `people` (1,) is the noised number of people that the node has
    released."""

    def sampling(self, task: Task[O, P], state: State, /) -> Sampling | None: ...
    def step_sensitivity(self, task: Task[O, P], /) -> float: ...
    def inside(
        self,
        cohort: Cohort,
        task: Task[O, P],
        state: State,
        noised: Callable[[Floats], Floats],
        people: Floats,
        /,
    ) -> Part: ...


AnyAnalysis = Analysis[Any, Any]
AnyExactAnalysis = ExactAnalysis[Any, Any]
AnyPrivateAnalysis = PrivateAnalysis[Any, Any]
AnyPrivateTraining = PrivateTraining[Any, Any]
