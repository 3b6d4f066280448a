"""Newton's method on noised sums, with intervals that include the noise.

Each round spends more than the one before, because early steps need little precision. The estimate
is one Newton step from the points of the last rounds, averaged by precision: near the optimum, the
error of each such step is its own noise only, so the estimate uses nearly the whole budget of these
rounds. Its covariance is the inverse information (sampling) plus the noise of the score and of the
information, propagated through the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from federation import errors
from federation.arrays import Floats
from federation.intervals import Interval
from federation.messages import State
from federation.results import Row
from strategies import admissible
from strategies.admissible import Array, Step
from strategies.numerics import counting, newton
from strategies.numerics.newton import Mask, Scaling
from strategies.protocol import AnyTask, HubState, Noise, Total

GROWTH = 3.0  # the ratio of a round's share of the budget to that of the round before
LATE = 2  # the number of last rounds that the estimate averages
LONGEST_STEP = 3.0  # of a coefficient of a column in [-1, 1], before the last round
# The smallest ratio of an information to its noise in all directions together. Below it, an
# estimate would consist of noise.
SURE = 1.0


def round_share(number: int, rounds: int) -> float:
    """The share of round `number`, from 0, of the budget of all rounds."""
    return float(GROWTH**number / (GROWTH ** np.arange(rounds)).sum())


def triangle_norm(p: int) -> float:
    """The largest L2 norm of the upper triangle of x x', for x in [-1, 1]^p."""
    return math.sqrt(p * (p + 1) / 2)


def everywhere(p: int) -> Mask:
    """(p, p): the mask of the entries of an information matrix that may differ from 0; all of them,
    unless the model excludes some."""
    return np.ones((p, p), np.bool_)


def pack(matrix: Floats, support: Mask) -> Floats:
    """The entries of the upper triangle in the mask `support` (p, p), row by row."""
    return np.asarray(matrix[np.triu(support)])


def unpack(packed: Floats, support: Mask) -> Floats:
    matrix = np.zeros(support.shape)
    matrix[np.triu(support)] = packed
    return matrix + np.triu(matrix, 1).T


@dataclass(frozen=True)
class Fit:
    """Scaled coefficients. `covariance`: of sampling and noise together. `noise`: the part of the
    noise."""

    beta: Floats
    covariance: Floats
    noise: Floats


def invert(information: Floats) -> Floats:
    inverse = np.linalg.inv(information)
    return np.asarray((inverse + inverse.T) / 2, np.float64)


def begin(beta: Floats, **more: Floats) -> State:
    """The first state at `beta`; the arrays `more` stay in the state through all rounds."""
    return State("newton", {"beta": beta, "round": np.zeros(1), **more})


def states(p: int, rounds: int, **more: Floats) -> list[State]:
    """One state for each round, with the shapes of the real ones."""
    return [
        State("newton", {"beta": np.zeros(p), "round": np.array([float(number)]), **more})
        for number in range(rounds)
    ]


def advance(
    total: Total, state: HubState, rounds: int, task: AnyTask, names: Sequence[str], support: Mask
) -> State | Fit:
    """The next State, or the Fit after the last round. `total` holds the noised `score` (p,) and
    `information` (packed)."""
    values = state.values
    p, number = len(values["beta"]), int(values["round"][0])
    # This round and those before it, the latest first.
    late = [state.memory[f"late:{i}"] for i in range(min(number, LATE - 1))]
    late = [_entry(total, values["beta"], p), *late]
    information, spread = _pooled([_information(entry, support) for entry in late])
    eigenvalues, U = np.linalg.eigh(information)
    floor = SURE * math.sqrt(spread * p)
    if number == rounds - 1:
        counting.check_model_rows(total, task.name)
        if eigenvalues[0] < floor or not eigenvalues[0] > 0:
            raise errors.ModelError(too_noisy(task, names[int(np.argmax(np.abs(U[:, 0])))]))
        return _fit(late, information, spread, support)
    step = (U / np.maximum(eigenvalues, max(floor, 1e-9))) @ (U.T @ total.sums["score"])
    step *= min(1.0, LONGEST_STEP / max(float(np.abs(step).max()), 1e-300))
    memory = {f"late:{i}": entry for i, entry in enumerate(late[: LATE - 1])}
    return _admitted({**values, "round": np.array([number + 1.0])}, step, memory, task)


def _admitted(
    values: Mapping[str, Floats], step: Floats, memory: Mapping[str, Floats], task: AnyTask
) -> State:
    """The next state, with the step halved until the nodes admit its coefficients. They admit the
    coefficients of this round, so a short enough step exists."""
    limits = task.analysis.limits(task)
    while True:
        state = HubState("newton", {**values, "beta": values["beta"] + step}, memory=memory)
        if not np.abs(step).max(initial=0.0) > 1e-12 or not admissible.problem(limits, state):
            return state
        step = step / 2


def newton_step(
    names: Sequence[str], reach: Callable[[Floats], Interval], rounds: int, *, first: int = 0
) -> Step:
    """The limits of a round. `names`: of the coefficients. `reach`: the interval of the linear
    predictor at coefficients."""
    arrays = {"beta": Array((len(names),)), "round": admissible.counter(rounds)}
    return Step(
        arrays, first=first, round="round", rules=(admissible.within_reach("beta", names, reach),)
    )


def _entry(total: Total, beta: Floats, p: int) -> Floats:
    """The numbers of a round in one array: the variances of score and information, beta, score,
    information."""
    noise = [total.noise["score"], total.noise["information"]]
    return np.concatenate([noise, beta, total.sums["score"], total.sums["information"]])


def _information(entry: Floats, support: Mask) -> tuple[Floats, float]:
    return unpack(entry[2 + 2 * len(support) :], support), float(entry[1])


def _pooled(noised: Sequence[tuple[Floats, float]]) -> tuple[Floats, float]:
    """The mean, weighted by precision, of matrices with the variances of their noise; and the
    variance of the mean's noise."""
    precision = np.array([1 / max(variance, 1e-300) for _, variance in noised])
    weights = precision / precision.sum()
    mean = sum(
        (weight * matrix for weight, (matrix, _) in zip(weights, noised, strict=True)),
        np.zeros_like(noised[0][0]),
    )
    return mean, float((weights**2 * [variance for _, variance in noised]).sum())


def _fit(late: Sequence[Floats], information: Floats, spread: float, support: Mask) -> Fit:
    p = len(support)
    inverse = invert(information)
    precision = np.array([1 / max(entry[0], 1e-300) for entry in late])
    weights = precision / precision.sum()
    steps = [inverse @ entry[2 + p : 2 + 2 * p] for entry in late]
    beta = sum(
        (
            w * (entry[2 : 2 + p] + step)
            for w, entry, step in zip(weights, late, steps, strict=True)
        ),
        np.zeros(p),
    )
    step = sum((w * step for w, step in zip(weights, steps, strict=True)), np.zeros(p))
    score_variance = float((weights**2 * [entry[0] for entry in late]).sum())
    noise = inverse @ (score_variance * np.eye(p) + carried(step, spread, support)) @ inverse
    return Fit(beta, inverse + noise, noise)


def carried(v: Floats, variance: float, support: Mask) -> Floats:
    """The covariance of E v, for a symmetric matrix E whose upper triangle is independent noise of
    this variance in the mask `support`."""
    off = np.where(support, np.outer(v, v), 0.0)
    np.fill_diagonal(off, support @ (v * v))
    return np.asarray(variance * off)


def too_noisy(task: AnyTask, name: str) -> str:
    return (
        f"{task.name}: the noise hides what the data say about {name!r}; leave it out,"
        " merge its levels, or give the analysis more budget"
    )


def coefficients(
    names: Sequence[str],
    scaling: Scaling,
    fit: Fit,
    *,
    intercept: bool,
    z: float,
    exponentiate: str,
) -> list[Row]:
    """Tidy rows as in exact mode, with `noise_sd`, the part of the standard error that comes from
    noise."""
    L = newton.unscale(names, scaling, intercept)
    rows = newton.coefficients(
        names, L @ fit.beta, L @ fit.covariance @ L.T, z=z, exponentiate=exponentiate
    )
    for row, variance in zip(rows, np.diag(L @ fit.noise @ L.T), strict=True):
        row["noise_sd"] = math.sqrt(variance)
    return rows


def late_noise(states: Sequence[State], noise: Noise, array: str) -> float:
    """The standard deviation of the noise in an array's mean, weighted by precision over the rounds
    that the estimate averages."""
    return float(sum(noise(state, array) ** -2 for state in states[-LATE:]) ** -0.5)


def forecast_rows(
    names: Sequence[str],
    scaling: Scaling,
    *,
    intercept: bool,
    information: Floats,
    noise: float,
    z: float,
    least: float,
    is_clear: bool,
) -> list[Row]:
    """The intervals to expect. information (p,): on each scaled coefficient. noise: standard
    deviation of the noise on the score. The `width` is null if an information is below `least`, or
    unless `is_clear`: the number of rows is expected to stand clear of its noise. There will then
    be no estimate."""
    L = newton.unscale(names, scaling, intercept)
    sampling, noised = 1 / information, (noise / information) ** 2
    is_shown = is_clear and bool((information >= least).all())
    rows: list[Row] = []
    for name, row in zip(names, L, strict=True):
        sampling_sd = math.sqrt(float(row**2 @ sampling))
        noise_sd = math.sqrt(float(row**2 @ noised))
        width = 2 * z * math.hypot(sampling_sd, noise_sd) if is_shown else None
        rows.append(
            {"what": name, "sampling_sd": sampling_sd, "noise_sd": noise_sd, "width": width}
        )
    return rows


def expected_squares(task: AnyTask, names: Sequence[str], intercept: bool) -> Floats:
    """(p,): the mean of x^2 for each scaled column, if numbers are uniform over their ranges and
    the levels of a category are equally frequent. Forecasts assume this before any node is
    asked."""
    squares = [1.0] if intercept else []
    for term in task.plan.model.terms:
        numeric = sum(
            factor.level is None and factor.field.kind == "number" for factor in term.factors
        )
        squares.append(max(3.0**-numeric, 1e-3))
    return np.array(squares)
