"""Shared parts of the regressions: scaled columns, Newton's method without aliased columns, and the
table of coefficients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf, isfinite, sqrt

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Floats, Ints
from federation.errors import ModelError
from federation.expression import ExpressionError
from federation.formula import Term
from federation.intervals import Interval
from federation.lazy_scipy import special
from federation.messages import State
from federation.results import Row
from strategies.admissible import Rule, Values
from strategies.numerics import arrow, normal, predictors
from strategies.numerics.arrow import Arrow, Covariance
from strategies.numerics.predictors import Columns

BLOCK = 4096  # rows: with 20 columns, a block of float64 fits a core's cache
# A column is aliased if the columns before it leave less than this share of its sum of squares.
ALIASED = 1e-12
# The same if a secure sum rounds to a fixed unit, because the contract bounds nothing.
ROUGH = 1e-9
# The rounding error of a secure sum, as a share of one person's largest part of the sum.
ROUNDED = 2.0**-31
# No row bounds a direction that keeps less than this share of the first round's information.
LOST = 1e-11
# A step is short at this share of the largest coefficient, or of 1; where sums are rounded, at the
# second.
SHORT, SHORT_OF_ROUNDED = 1e-9, 1e-5
# The decrement is the squared distance to the maximum in standard errors: here 1e-5 of one, before
# the last step is taken.
NEGLIGIBLE = 1e-10
PANEL = 64  # columns after which a factorisation brings the others up to date, in one product
CLEARLY = 1e-6  # a share far enough above LOST that no rounding error makes up the difference
MAX_ROUNDS = 30
MAX_EXPONENT = 709.0  # exp of more is no double
# What a row of coefficients says beside the estimate.
UNCERTAINTY = ("std_error", "statistic", "p_value", "conf_low", "conf_high")
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scaling:
    """A design column x becomes (x - centre) / scale, which the contract's ranges bound to [-1, 1].
    The sums are then well conditioned and bounded."""

    centre: Floats
    scale: Floats
    columns: Columns


def scaling(terms: Sequence[Term], *, centred: bool, levels: bool = True) -> Scaling:
    """The scaling of each term; a column without a range in the contract is not scaled.

    `levels`: whether columns of levels are centred, too. Without an intercept or a baseline to take
    up the sum of their centres, the predictor of a factor of 1,000 levels would leave every
    range."""
    centre, scale = np.zeros(len(terms)), np.ones(len(terms))
    for j, term in enumerate(terms):
        low, high = term.interval
        if isfinite(low) and isfinite(high) and low < high:
            moves = centred and (levels or any(factor.level is None for factor in term.factors))
            centre[j] = (low + high) / 2 if moves else 0.0
            scale[j] = max(high - centre[j], centre[j] - low)
    return Scaling(centre, scale, predictors.columns_of(terms))


def as_they_are(scaling: Scaling, places: Ints) -> Scaling:
    """The scaling without centres and scales at `places` (n,), those of columns of 0 and 1."""
    centre, scale = scaling.centre.copy(), scaling.scale.copy()
    centre[places], scale[places] = 0.0, 1.0
    return replace(scaling, centre=centre, scale=scale)


def row_norm(terms: Sequence[Term], intercept: bool) -> float:
    """The largest L2 norm of a scaled row, whose columns lie in [-1, 1]; infinite if the contract
    does not bound every term."""
    if any(not isfinite(end) for term in terms for end in term.interval):
        return inf
    return sqrt(len(terms) + intercept)


def predictor_interval(scaling: Scaling, beta: Floats, intercept: bool) -> Interval:
    """The interval of the linear predictor of scaled coefficients beta over all rows that the
    contract allows; infinite if it does not bound every term."""
    return _reach(scaling, intercept, beta) if scaling.columns.is_bounded else (-inf, inf)


def reach(scaling: Scaling, intercept: bool) -> Callable[[Floats], Interval]:
    """The interval of the linear predictor as a function of the scaled coefficients, over the terms
    that the contract bounds."""
    return partial(_reach, scaling, intercept)


def _reach(scaling: Scaling, intercept: bool, beta: Floats) -> Interval:
    slopes = beta[int(intercept) :] / scaling.scale
    middle = (float(beta[0]) if intercept else 0.0) - float(scaling.centre @ slopes)
    low, high = scaling.columns.interval(slopes)
    return middle + low, middle + high


def blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK))


def gram(X: Floats, weights: Floats) -> Floats:
    """(p, p): the sum over rows of weight * x x'; weights must not be negative."""
    total = np.zeros((X.shape[1], X.shape[1]))
    root = np.sqrt(weights)
    for rows in blocks(len(X)):
        Z = X[rows] * root[rows, None]
        total += Z.T @ Z
    return total


@dataclass(frozen=True)
class Step:
    """A Newton step. `decrement`: score' information^-1 score, twice the expected gain in
    log-likelihood. `covariance` (p, p); with an eliminated factor only `blocks` of it."""

    beta: Floats
    decrement: float
    covariance: Floats
    aliased: Mask
    blocks: Covariance | None = None


def newton(score: Floats, information: Floats | Arrow, aliased: Mask) -> Step:
    """Newton's step; aliased columns have step 0 and no variance, as in R's `glm` and `coxph`."""
    if isinstance(information, Arrow):
        beta, blocks = arrow.solve(information, score, aliased)
        return Step(beta, float(beta @ score), np.empty((0, 0)), aliased, blocks)
    fitted = ~aliased
    step, covariance = np.zeros(len(score)), np.full(information.shape, np.nan)
    if fitted.any():
        inverse = np.linalg.inv(information[np.ix_(fitted, fitted)])
        inverse = (inverse + inverse.T) / 2
        step[fitted] = inverse @ score[fitted]
        covariance[np.ix_(fitted, fitted)] = inverse
    return Step(step, float(step @ score), covariance, aliased)


@dataclass(frozen=True)
class Top:
    """The maximum of the likelihood, with the last step to it and the number of rounds."""

    beta: Floats
    step: Step
    log_lik: float
    null: float  # the log-likelihood at the coefficients of the first round
    rounds: int


@dataclass(frozen=True)
class Move:
    """One round of the method: the next coefficients, and Newton's step, or None after an
    overshoot."""

    beta: Floats
    step: Step | None

    @property
    def length(self) -> float:
        return 0.0 if self.step is None else float(np.abs(self.step.beta).max(initial=0.0))


@dataclass(frozen=True)
class Identified:
    """The outcome of the first round: `aliased` (p,), the columns that are linear combinations of
    those before them, and `first` (p, p), the information of that round.

    Neither depends on the response. If the information loses rank in a later round, the cause is
    therefore never an aliased column, but that no row bounds the coefficients: the responses are
    separated."""

    aliased: Mask
    first: Floats | Arrow

    def unbounded(self, information: Floats | Arrow, *, relative: bool) -> Floats | None:
        """(p,): the direction that has lost almost all of the first round's information, or None.
        `relative`: compare with the direction that has kept the largest share, for counts whose
        mean may be far from 1."""
        fitted = np.flatnonzero(~self.aliased)
        if not len(fitted):
            return None
        if isinstance(self.first, Arrow) or isinstance(information, Arrow):
            assert isinstance(self.first, Arrow) and isinstance(information, Arrow)
            return arrow.lost_direction(
                self.first, information, self.aliased, LOST, relative=relative
            )
        if not relative and _keeps(self.first, fitted, information):
            return None
        root = np.linalg.cholesky(self.first[np.ix_(fitted, fitted)])
        half = np.linalg.solve(root, information[np.ix_(fitted, fitted)])
        shares, directions = np.linalg.eigh(np.linalg.solve(root, half.T))
        if shares[0] > LOST * (shares[-1] if relative else 1.0):
            return None
        direction = np.zeros(len(self.aliased))
        direction[fitted] = np.linalg.solve(root.T, directions[:, 0])
        return direction


def _keeps(first: Floats, fitted: NDArray[np.intp], information: Floats) -> bool:
    """Whether every direction clearly keeps more than the share LOST. This is a Cholesky
    factorisation, many times as fast as the eigenvalues that tell how much it keeps."""
    some = np.ix_(fitted, fitted)
    try:
        np.linalg.cholesky(information[some] - CLEARLY * first[some])
    except np.linalg.LinAlgError:
        return False
    return True


def identify(gram: Floats | Arrow, sensitivity: float, size: Floats | None = None) -> Identified:
    """Finds the aliased columns in a weighted cross-product of the design, `gram` (p, p), or in the
    first round's information, which has the same null space. size (p,): sums of squares, if the
    information is a small difference of larger sums. sensitivity: of `gram`."""
    share, floor = (ALIASED, ROUNDED * sensitivity) if isfinite(sensitivity) else (ROUGH, 0.0)
    if isinstance(gram, Arrow):
        find = partial(find_aliased, share=share, floor=floor)
        return Identified(arrow.find_aliased(gram, find, lambda squares: squares <= floor), gram)
    return Identified(find_aliased(gram, size, share=share, floor=floor), gram)


# The arrays that `climb` keeps in a state.
FIRST = ("first", "first_across", "first_levels", "first_at", "first_places")
MEMORY = frozenset({"last", "best", "rounds", "null", "aliased", *FIRST})
# The message for coefficients that diverge along a direction (p,).
Diverged = Callable[[Floats], str]


def separated(
    task: str,
    names: Sequence[str],
    why: str,
    *,
    baseline: Sequence[str] = ("(Intercept)",),
    firth: bool = False,
    penalised: bool = False,
) -> Diverged:
    """The message for a fit without a finite estimate. `baseline`: names that come last in the
    message. `firth`: whether the study can still ask for that penalty. `penalised`: the fit has
    the penalty already, so that it is not for want of one that it finds no maximum."""

    def message(direction: Floats) -> str:
        size = np.abs(direction)
        growing = [j for j in np.argsort(-size, kind="stable") if size[j] > 0.3 * size.max()]
        terms = [names[j] for j in sorted(growing, key=lambda j: names[j] in baseline)]
        others = f" (so does that of {', '.join(terms[1:4])})" if len(terms) > 1 else ""
        if penalised:
            return (
                f"{task}: the penalised fit finds no maximum for the coefficient of {terms[0]!r};"
                " leave it out, or merge its levels"
            )
        return (
            f"{task}: the coefficient of {terms[0]!r} diverges{others}, because {why};"
            f" leave it out, {remedy}"
        )

    remedy = "merge its levels, or write `penalty: firth`" if firth else "or merge its levels"
    return message


def begin(beta: Floats, **more: Floats) -> State:
    """The first state at `beta`; the arrays `more` stay in the state through all rounds."""
    return State(
        "newton",
        {"beta": beta, "last": beta, "best": np.array([-inf]), "rounds": np.zeros(1), **more},
    )


def overshot(best: float, log_lik: float) -> bool:
    """Whether the last step lowered the log-likelihood by more than the rounding error."""
    return not isfinite(log_lik) or log_lik < best - 1e-9 * (abs(best) + 1)


def move(
    beta: Floats,
    last: Floats,
    best: float,
    score: Floats,
    information: Floats | Arrow,
    log_lik: float,
    identified: Identified,
) -> Move:
    """Newton's step from `beta`, or half the way back to `last`, whose log-likelihood was
    `best`."""
    if overshot(best, log_lik):
        return Move((beta + last) / 2, None)
    step = newton(score, information, identified.aliased)
    return Move(beta + step.beta, step)


def settled(moved: Move, beta: Floats, last: Floats) -> bool:
    """Whether the step from `beta` is the last one: it is short, or rounding errors of the sums
    hide where the maximum is. Then steps stop shrinking when they are short already, and the
    maximum is much closer than a standard error. (Under separation they stop shrinking when they
    are long.)"""
    if moved.step is None:
        return False
    size, before = float(np.abs(beta).max(initial=1.0)), float(np.abs(beta - last).max(initial=0.0))
    if moved.length <= SHORT * size:
        return True
    has_stalled = 0 < before <= moved.length <= SHORT_OF_ROUNDED * size
    return has_stalled and abs(moved.step.decrement) <= NEGLIGIBLE


def climb(
    state: State,
    score: Floats,
    information: Floats | Arrow,
    log_lik: float,
    diverged: Diverged,
    *,
    sensitivity: float = inf,
    design: Identified | None = None,
    size: Floats | None = None,
    relative: bool = False,
    again: str = "newton",
    rules: Sequence[Rule] = (),
    max_rounds: int = MAX_ROUNDS,
    waits: bool = False,
) -> State | Top:
    """One round of Newton's method, halved where it overshoots; the next state is of step `again`,
    and satisfies `rules`. `waits`: something else that the rounds compute needs another one.

    `design`, or else the information of the first round with its `sensitivity` and `size`, settles
    what is aliased. Raises ModelError(diverged) when the rows do not bound a coefficient."""
    values = _counted(state, diverged, max_rounds)
    settled_before = identified(state) or design or identify(information, sensitivity, size)
    values |= _remembered(settled_before)
    beta, best = state["beta"], float(values["best"][0])
    moved = move(beta, values["last"], best, score, information, log_lik, settled_before)
    if moved.step is None:
        return State(again, values | {"beta": moved.beta})
    values.setdefault("null", np.array([log_lik]))
    refuse_unbounded(settled_before, information, diverged, relative=relative)
    rounds = int(values["rounds"][0])
    if settled(moved, beta, values["last"]) and not (waits and rounds < max_rounds):
        return Top(moved.beta, moved.step, log_lik, float(values["null"][0]), rounds)
    values |= {"best": np.array([log_lik]), "last": beta}
    reached = within(rules, values, beta, moved.step.beta, diverged)
    return State(again, values | {"beta": reached})


def identified(state: State) -> Identified | None:
    """The outcome of the first round, from the state of a later round."""
    if "aliased" not in state.values:
        return None
    aliased = state["aliased"] > 0
    if "first_at" not in state.values:
        return Identified(aliased, state["first"])
    at, places = (state[name].astype(np.int64) for name in ("first_at", "first_places"))
    return Identified(aliased, arrow.from_values("first", state.values, at, places))


def _remembered(design: Identified) -> dict[str, Floats]:
    """The outcome of the first round as arrays of a state."""
    values = {"aliased": design.aliased.astype(np.float64)}
    if not isinstance(design.first, Arrow):
        return values | {"first": design.first}
    at = {"first_at": design.first.at, "first_places": design.first.levels}
    places = {name: array.astype(np.float64) for name, array in at.items()}
    return values | arrow.to_values("first", design.first) | places


def within(
    rules: Sequence[Rule], values: Values, beta: Floats, step: Floats, diverged: Diverged
) -> Floats:
    """The coefficients after `step`, which is halved until the nodes admit them. ModelError if they
    admit none."""
    for fraction in (1.0, 0.5, 0.25, 0.125):
        reached = beta + fraction * step
        if not any(rule({**values, "beta": reached}) for rule in rules):
            return reached
    raise ModelError(
        f"{diverged(step)}; or, if a contract range is far wider than the values in it,"
        " the estimate is finite but out of reach: narrow that range"
    )


def refuse_unbounded(
    identified: Identified,
    information: Floats | Arrow,
    diverged: Diverged,
    *,
    relative: bool = False,
) -> None:
    direction = identified.unbounded(information, relative=relative)
    if direction is not None:
        raise ModelError(diverged(direction))


def jump(state: State, to: Floats, log_lik: float, design: Identified, diverged: Diverged) -> State:
    """The state of the second round at the coefficients `to`, which the first round's sums give in
    closed form. `log_lik`: that of the first round."""
    values = _counted(state, diverged) | {
        **_remembered(design),
        "null": np.array([log_lik]),
        "best": np.array([log_lik]),
        "last": state["beta"],
    }
    return State("newton", values | {"beta": to})


def warmed(
    state: State, estimates: Mapping[str, float], names: Sequence[str], scaling: Scaling
) -> State:
    """The state after the first Newton step, at released coefficients instead, if the model has all
    of their terms; its other terms are at 0. Without a term that mattered, the others would lie
    farther from the optimum than the first step. An overshoot goes back to the coefficients of the
    first round, as after any step."""
    if state.values.get("rounds", np.zeros(1))[0] != 1 or not estimates.keys() <= set(names):
        return state
    beta = np.array([estimates.get(name, 0.0) for name in names])
    slopes = beta[len(names) - len(scaling.scale) :]
    if len(slopes) < len(names):
        beta[0] += scaling.centre @ slopes
    slopes *= scaling.scale
    beta[state["aliased"] > 0] = 0.0
    return replace(state, values={**state.values, "beta": beta})


def retreat(state: State, log_lik: float, diverged: Diverged, *, again: str) -> State | None:
    """The state half the way back after an overshoot, else None; for a method that computes the
    likelihood one round before the score."""
    values = _counted(state, diverged)
    if not overshot(float(values["best"][0]), log_lik):
        return None
    return State(again, values | {"beta": (state["beta"] + values["last"]) / 2})


def _counted(state: State, diverged: Diverged, max_rounds: int = MAX_ROUNDS) -> dict[str, Floats]:
    """The values of a state, with this round counted. ModelError after `max_rounds` rounds."""
    values = {"last": state["beta"], "best": np.array([-inf])} | dict(state.values)
    values["rounds"] = values.get("rounds", np.zeros(1)) + 1
    if values["rounds"][0] > max_rounds:
        raise ModelError(diverged(state["beta"]))
    return values


def spread(L: Floats, step: Step) -> Floats:
    """The covariance of L @ scaled coefficients; NaN where they are aliased."""
    covariance: Floats = L @ np.where(np.isnan(step.covariance), 0.0, step.covariance) @ L.T
    covariance[step.aliased, :] = covariance[:, step.aliased] = np.nan
    return covariance


def find_aliased(
    gram: Floats, size: Floats | None = None, *, share: float = ALIASED, floor: float = 0.0
) -> Mask:
    """(p,): True for a column that a sequential Cholesky factorisation reduces to rounding error:
    to `share` of its sum of squares `size` (p,), by default the diagonal, or to `floor`."""
    rest = gram.copy()
    nothing = np.maximum(share * (np.diag(gram) if size is None else size), floor)
    aliased = np.zeros(len(rest), np.bool_)
    for start in range(0, len(rest), PANEL):
        stop = min(start + PANEL, len(rest))
        for j in range(start, stop):
            if not rest[j, j] > nothing[j]:
                aliased[j] = True
                continue
            column = rest[j + 1 :, j] / rest[j, j]
            rest[j + 1 :, j + 1 : stop] -= np.outer(column, rest[j, j + 1 : stop])
        done = np.flatnonzero(~aliased[start:stop]) + start
        below = rest[stop:, done]
        rest[stop:, stop:] -= (below / rest[done, done]) @ below.T
    return aliased


def unscale(names: Sequence[str], scaling: Scaling, intercept: bool) -> Floats:
    """The matrix L with coefficients = L @ scaled coefficients."""
    p = len(names)
    L = np.zeros((p, p))
    first = int(intercept)
    L[range(first, p), range(first, p)] = 1 / scaling.scale
    if intercept:
        L[0, 0] = 1
        L[0, 1:] = -scaling.centre / scaling.scale
    return L


def unscaled(
    names: Sequence[str], scaling: Scaling, intercept: bool, top: Top
) -> tuple[Floats, Floats]:
    """(p,) each: the estimates and their variances, in the units of the columns. The columns of an
    eliminated factor have a scale of 1 and no centre, so theirs stay."""
    if (blocks := top.step.blocks) is None:
        L = unscale(names, scaling, intercept)
        return L @ top.beta, np.diag(spread(L, top.step)).copy()
    places = blocks.at[int(intercept) :] - int(intercept)
    others = Scaling(scaling.centre[places], scaling.scale[places], scaling.columns)
    L = unscale([names[place] for place in blocks.at], others, intercept)
    aliased = top.step.aliased[blocks.at]
    step = Step(top.beta[blocks.at], 0.0, blocks.others, aliased)
    beta, variances = top.beta.copy(), np.empty(len(names))
    beta[blocks.at] = L @ top.beta[blocks.at]
    variances[blocks.at], variances[blocks.places] = np.diag(spread(L, step)), blocks.levels
    return beta, variances


def coefficients(
    names: Sequence[str],
    beta: Floats,
    covariance: Floats,
    *,
    z: float,
    exponentiate: str = "",
    statistic: str = "normal",
    df: int = 0,
) -> list[Row]:
    """Tidy rows; aliased terms are null. `covariance` (p, p), or its diagonal (p,).
    `exponentiate`: the name of the column of exp(estimate), such as `hazard_ratio`."""

    def p_value(ratio: float) -> float:
        if statistic == "normal":
            return normal.two_sided(ratio)
        return float(2 * special.stdtr(df, -abs(ratio)))

    variances = covariance if covariance.ndim == 1 else np.diag(covariance)
    terms = zip(names, beta, variances, strict=True)
    return [
        _coefficient(name, estimate, sqrt(variance), z, exponentiate, p_value)
        if variance > 0
        else {"term": name, "estimate": None} | dict.fromkeys(UNCERTAINTY)
        for name, estimate, variance in terms
    ]


def _coefficient(
    name: str,
    estimate: float,
    error: float,
    z: float,
    exponentiate: str,
    p_value: Callable[[float], float],
) -> Row:
    ratio = estimate / error
    row: Row = {
        "term": name,
        "estimate": float(estimate),
        "std_error": error,
        "statistic": float(ratio),
        "p_value": float(p_value(ratio)),
        "conf_low": float(estimate - z * error),
        "conf_high": float(estimate + z * error),
    }
    if not exponentiate:
        return row
    return row | {
        exponentiate: _exp(estimate),
        f"{exponentiate}_low": _exp(row["conf_low"]),
        f"{exponentiate}_high": _exp(row["conf_high"]),
    }


def _exp(value: float) -> float:
    """Infinite where the ratio is too large for a double."""
    return float(np.exp(value)) if value < MAX_EXPONENT else inf


def aliased_note(names: Sequence[str], aliased: Mask) -> list[str]:
    return [
        f"{name}: not estimated; in this cohort it does not vary (relative to the contract's range,"
        " if that is very wide), or is a combination of the terms before it"
        for name, is_aliased in zip(names, aliased, strict=True)
        if is_aliased
    ]


def need_terms(terms: Sequence[Term], text: str) -> None:
    if not terms:
        raise ExpressionError(
            f"the model {text!r} has no term on the right of ~; name at least one"
        )
