"""Newton's method within a trust region: the minimum of a smooth function that need not be convex.

There is one evaluation per round. A step is accepted if the function decreases by a sufficient
share of the decrease that its quadratic model predicts; otherwise the method goes back and tries a
shorter step. It therefore converges from any start, while plain Newton steps may oscillate between
points of nearly equal value (Nocedal & Wright 2006, 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from federation.arrays import Floats

# A direction with less than this share of the largest curvature is flat: rounding dominates its
# slope.
FLAT = 1e-7
# Below this share of the value, rounding dominates a decrease.
HIDDEN = 1e-10
SUFFICIENT = 1e-4  # share of the predicted decrease
MEMORY = frozenset({"at", "best", "gradient", "hessian", "radius", "predicted", "rounds"})


@dataclass(frozen=True)
class Point:
    """A point `at` (k,), with the function's value, gradient (k,) and Hessian (k, k) there."""

    at: Floats
    value: float
    gradient: Floats
    hessian: Floats


def advance(values: Mapping[str, Floats], trial: Point) -> tuple[dict[str, Floats], Floats] | None:
    """The values to store and the next point to evaluate, or None if `trial` is the minimum.
    `values` is empty at first."""
    radius, accepted = _judge(values, trial)
    point = trial if accepted else _accepted(values)
    if (accepted and is_settled(point)) or _stalls(values, trial):
        return None
    step = shortest(point.gradient, point.hessian, radius)
    predicted = -float(point.gradient @ step + step @ point.hessian @ step / 2)
    scalars = {"best": point.value, "radius": radius, "predicted": predicted}
    stored = {name: np.array([value]) for name, value in scalars.items()}
    stored |= {"at": point.at, "gradient": point.gradient, "hessian": point.hessian}
    return stored, point.at + step


def _accepted(values: Mapping[str, Floats]) -> Point:
    """The last accepted point."""
    return Point(values["at"], float(values["best"][0]), values["gradient"], values["hessian"])


def _judge(values: Mapping[str, Floats], trial: Point) -> tuple[float, bool]:
    """The radius of the next step, and whether the trial is accepted."""
    if "best" not in values:
        return 2.0 * max(1.0, float(np.abs(trial.at).max())), True
    best, radius, predicted = (float(values[name][0]) for name in ("best", "radius", "predicted"))
    length = float(np.linalg.norm(trial.at - values["at"]))
    decrease = best - trial.value
    if not np.isfinite(trial.value):
        return length / 4, False
    if predicted <= 1e-9 * (abs(best) + 1):  # rounding hides the decrease
        return radius, decrease >= -1e-9 * (abs(best) + 1)
    if decrease < predicted / 4:
        return length / 4, decrease >= SUFFICIENT * predicted
    grows = decrease > 0.75 * predicted and length > 0.99 * radius
    return (2 * radius if grows else radius), True


def _stalls(values: Mapping[str, Floats], trial: Point) -> bool:
    """Whether the step from `trial` promises about as much as the step to it did, where both are
    lost in rounding. Newton's method would promise far less each time; what is left is rounding,
    such as that of a secure sum, by which `trial` may seem a little worse than the point before."""
    if "predicted" not in values:
        return False
    last = float(values["predicted"][0])
    hidden = last <= HIDDEN * (abs(trial.value) + 1) and is_settled(trial, HIDDEN)
    return hidden and _promise(trial) >= last / 2


def is_settled(point: Point, tolerance: float = 1e-20) -> bool:
    """Whether no direction curves down, and Newton's step is short or promises a decrease of less
    than `tolerance` of the value."""
    eigenvalues, U = np.linalg.eigh(point.hessian)
    floor = FLAT * float(np.abs(eigenvalues).max(initial=0.0))
    if eigenvalues[0] < -floor or not np.isfinite(point.value):
        return False
    along = (U.T @ point.gradient) / np.maximum(eigenvalues, max(floor, 1e-300))
    short = float(np.abs(along).max()) <= 1e-9 * max(1.0, float(np.abs(point.at).max()))
    return short or _promise(point) <= tolerance * (abs(point.value) + 1)


def _promise(point: Point) -> float:
    """The decrease that Newton's step from `point` promises, without the flat directions."""
    eigenvalues, U = np.linalg.eigh(point.hessian)
    floor = FLAT * float(np.abs(eigenvalues).max(initial=0.0))
    slope = U.T @ point.gradient
    return float(slope @ (slope / np.maximum(eigenvalues, max(floor, 1e-300)))) / 2


def shortest(gradient: Floats, hessian: Floats, radius: float) -> Floats:
    """(k,): the step to the minimum of the quadratic model within `radius`."""
    eigenvalues, U = np.linalg.eigh(hessian)
    slope = U.T @ gradient
    floor = 1e-12 * float(np.abs(eigenvalues).max(initial=1.0))
    if eigenvalues[0] > floor and np.linalg.norm(slope / eigenvalues) <= radius:
        return np.asarray(-U @ (slope / eigenvalues))
    low = max(-float(eigenvalues[0]), 0.0) + floor
    if np.linalg.norm(slope / (eigenvalues + low)) <= radius:  # along the flattest direction too
        step = -slope / (eigenvalues + low)
        step[0] += np.copysign(
            np.sqrt(max(radius**2 - float(step @ step), 0.0)), step[0] if step[0] else 1.0
        )
        return np.asarray(U @ step)
    high = low + float(np.linalg.norm(slope)) / radius
    for _ in range(100):  # bisection of the shift, because the length decreases with it
        middle = (low + high) / 2
        longer = np.linalg.norm(slope / (eigenvalues + middle)) > radius
        low, high = (middle, high) if longer else (low, middle)
    return np.asarray(-U @ (slope / (eigenvalues + high)))
