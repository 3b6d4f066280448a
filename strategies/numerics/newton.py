"""What the regressions share: scaled columns, Newton's step with aliased columns left out, the coefficient table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt

import numpy as np
from numpy.typing import NDArray

from federation.errors import ModelError
from federation.expression import ExpressionError, Interval
from federation.formula import Term
from federation.messages import Floats, State
from federation.results import Row

BLOCK = 4096  # rows: with 20 columns a block of float64 stays in a core's cache
ALIASED = 1e-9  # share of a column's information that the columns before it leave, below which it repeats them
MAX_ROUNDS = 30
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scaling:
    """Design column x becomes (x - centre) / scale, in [-1, 1] by the contract's ranges: well-conditioned sums, and
    bounds that the contract implies."""

    centre: Floats
    scale: Floats


def scaling(terms: Sequence[Term], *, centred: bool) -> Scaling:
    """Where the contract gives no range, the column stays as it is."""
    centre, scale = np.zeros(len(terms)), np.ones(len(terms))
    for j, term in enumerate(terms):
        low, high = term.interval
        if isfinite(low) and isfinite(high) and low < high:
            centre[j] = (low + high) / 2 if centred else 0.0
            scale[j] = max(high - centre[j], centre[j] - low)
    return Scaling(centre, scale)


def row_norm(terms: Sequence[Term], intercept: bool) -> float:
    """The largest L2 norm of a scaled row: each column lies in [-1, 1], or the contract bounds nothing."""
    if any(not isfinite(end) for term in terms for end in term.interval):
        return inf
    return sqrt(len(terms) + intercept)


def predictor_interval(norm: float, beta: Floats, intercept: bool) -> Interval:
    """Where the linear predictor lies for any scaled row, of L2 norm `norm` at most."""
    if norm == inf:
        return (-inf, inf)
    slopes = beta[1:] if intercept else beta
    reach = float(np.abs(slopes).sum())
    middle = float(beta[0]) if intercept else 0.0
    return (middle - reach, middle + reach)


def blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK))


def gram(X: Floats, weights: Floats) -> Floats:
    """(p, p) sum over rows of weight * x x'; weights must not be negative."""
    total = np.zeros((X.shape[1], X.shape[1]))
    root = np.sqrt(weights)
    for rows in blocks(len(X)):
        Z = X[rows] * root[rows, None]
        total += Z.T @ Z
    return total


@dataclass(frozen=True)
class Step:
    """A Newton step. `decrement` is score' information^-1 score: twice the gain in log-likelihood to expect."""

    beta: Floats
    decrement: float
    covariance: Floats
    aliased: Mask


def newton(score: Floats, information: Floats) -> Step:
    """Columns that repeat those before them get step 0 and no variance, as R's `glm` and `coxph` do."""
    aliased = find_aliased(information)
    kept = ~aliased
    step, covariance = np.zeros(len(score)), np.full(information.shape, np.nan)
    if kept.any():
        inverse = np.linalg.inv(information[np.ix_(kept, kept)])
        inverse = (inverse + inverse.T) / 2
        step[kept] = inverse @ score[kept]
        covariance[np.ix_(kept, kept)] = inverse
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
    """One round of the method: the coefficients to go to, and Newton's step, or None after an overshoot."""

    beta: Floats
    step: Step | None

    @property
    def length(self) -> float:
        return 0.0 if self.step is None else float(np.abs(self.step.beta).max(initial=0.0))


MEMORY = frozenset({"last", "best", "rounds", "null"})  # what `climb` keeps in a state


def begin(beta: Floats, **more: Floats) -> State:
    """`more` stays in the state through all rounds."""
    return State(
        "newton",
        {"beta": beta, "last": beta, "best": np.array([-inf]), "rounds": np.zeros(1), **more},
    )


def overshot(best: float, log_lik: float) -> bool:
    """Whether the last step lowered the log-likelihood, by more than rounding does."""
    return not isfinite(log_lik) or log_lik < best - 1e-9 * (abs(best) + 1)


def move(
    beta: Floats, last: Floats, best: float, score: Floats, information: Floats, log_lik: float
) -> Move:
    """Newton's step from `beta`, or half the way back to `last`, whose log-likelihood was `best`."""
    if overshot(best, log_lik):
        return Move((beta + last) / 2, None)
    step = newton(score, information)
    return Move(beta + step.beta, step)


def settled(length: float, beta: Floats) -> bool:
    return length <= 1e-9 * float(np.abs(beta).max(initial=1.0))


def climb(
    state: State,
    score: Floats,
    information: Floats,
    log_lik: float,
    diverged: Callable[[int], str],
    *,
    again: str = "newton",
) -> State | Top:
    """One round of Newton's method, halved where it overshoots; the next state is of step `again`. `diverged` says
    what it means that a coefficient grows without end."""
    values = _counted(state, diverged)
    beta, best = state["beta"], float(values["best"][0])
    moved = move(beta, values["last"], best, score, information, log_lik)
    if moved.step is None:
        return State(again, values | {"beta": moved.beta})
    values.setdefault("null", np.array([log_lik]))
    if settled(moved.length, beta):
        rounds = int(values["rounds"][0])
        return Top(moved.beta, moved.step, log_lik, float(values["null"][0]), rounds)
    return State(again, values | {"beta": moved.beta, "best": np.array([log_lik]), "last": beta})


def retreat(
    state: State, log_lik: float, diverged: Callable[[int], str], *, again: str
) -> State | None:
    """Half the way back if `climb` would take it, for a method that knows the likelihood a round before the rest."""
    values = _counted(state, diverged)
    if not overshot(float(values["best"][0]), log_lik):
        return None
    return State(again, values | {"beta": (state["beta"] + values["last"]) / 2})


def _counted(state: State, diverged: Callable[[int], str]) -> dict[str, Floats]:
    """The values of a state with this round counted. ModelError after MAX_ROUNDS."""
    values = {"last": state["beta"], "best": np.array([-inf])} | dict(state.values)
    values["rounds"] = values.get("rounds", np.zeros(1)) + 1
    if values["rounds"][0] > MAX_ROUNDS:
        raise ModelError(diverged(int(np.argmax(np.abs(state["beta"])))))
    return values


def spread(L: Floats, step: Step) -> Floats:
    """The covariance of L @ scaled coefficients; NaN where they are aliased."""
    covariance: Floats = L @ np.where(np.isnan(step.covariance), 0.0, step.covariance) @ L.T
    covariance[step.aliased, :] = covariance[:, step.aliased] = np.nan
    return covariance


def find_aliased(information: Floats) -> Mask:
    """(p,) True where a sequential Cholesky leaves less than ALIASED of a column's own information."""
    rest = information.copy()
    own = np.diag(information).copy()
    aliased = np.zeros(len(own), np.bool_)
    largest = own.max(initial=0.0)
    for j in range(len(own)):
        if rest[j, j] <= max(ALIASED * own[j], 1e-14 * largest) or not rest[j, j] > 0:
            aliased[j] = True
            continue
        column = rest[:, j] / rest[j, j]
        rest = rest - np.outer(column, rest[j])
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
    """Tidy rows. `exponentiate` names the column of exp(estimate), as `hazard_ratio`; aliased terms are null."""
    from scipy import special

    rows: list[Row] = []
    for name, estimate, variance in zip(names, beta, np.diag(covariance), strict=True):
        if not variance > 0:
            rows.append(
                {
                    "term": name,
                    "estimate": None,
                    "std_error": None,
                    "statistic": None,
                    "p_value": None,
                    "conf_low": None,
                    "conf_high": None,
                }
            )
            continue
        error = sqrt(variance)
        ratio = estimate / error
        p_value = (
            2 * special.ndtr(-abs(ratio))
            if statistic == "normal"
            else 2 * special.stdtr(df, -abs(ratio))
        )
        row: Row = {
            "term": name,
            "estimate": float(estimate),
            "std_error": error,
            "statistic": float(ratio),
            "p_value": float(p_value),
        }
        row |= {"conf_low": float(estimate - z * error), "conf_high": float(estimate + z * error)}
        if exponentiate:
            row |= {
                exponentiate: float(np.exp(estimate)),
                f"{exponentiate}_low": float(np.exp(row["conf_low"])),
                f"{exponentiate}_high": float(np.exp(row["conf_high"])),
            }
        rows.append(row)
    return rows


def aliased_note(names: Sequence[str], aliased: Mask) -> list[str]:
    return [
        f"{name}: not estimated; in this cohort it does not vary, or repeats the terms before it"
        for name, out in zip(names, aliased, strict=True)
        if out
    ]


def need_terms(terms: Sequence[Term], text: str) -> None:
    if not terms:
        raise ExpressionError(
            f"the model {text!r} has no term on the right of ~; name at least one"
        )
