"""Weekly counts by region, age or syndrome, and which of the last weeks stand out: Farrington's flexible algorithm, or EARS.

Node: how many rows fall in each week and series. Hub: for each series and week under test, a quasi-Poisson regression on the same
season of the years before, reweighted against past outbreaks (Farrington et al. 1996; Noufaily et al. 2013), or the mean and standard
deviation of the weeks before (EARS C1, C2, C3; Hutwagner et al. 2003). Exact: counts add.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pydantic
from scipy import special

from federation import errors
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.messages import Floats, Ints, Part, State
from federation.results import Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible
from strategies.numerics import counting, grouping
from strategies.protocol import Prepared, Roles, Task, Total, Traits

MAX_WEEKS, MAX_CELLS = 2000, 5_000_000
YEAR = 52
ROUNDS = 60
UNKNOWN = 10.0  # a standard error of the logarithm of a count beyond which nothing is known of it
Z = 1.959963984540054
TRAITS = Traits(only_counts=True)


class Farrington(Frozen):
    """`years` back, with `half_window` weeks to either side of the same season, in `periods` seasonal levels. `recent`: the last weeks
    that the baseline leaves out. `limit`: the rule of the negative binomial's quantile at the expected count (nb), at the upper limit of
    the expected count (muan), or of a transformed normal (delta). `variant: r-surveillance` repeats how that package computes the
    trend's test and the expected count's error."""

    years: int = pydantic.Field(3, ge=1, le=20)
    half_window: int = pydantic.Field(3, ge=0, le=12)
    periods: int = pydantic.Field(10, ge=1, le=20)
    recent: int = pydantic.Field(26, ge=0, le=52)
    threshold: float = pydantic.Field(2.58, gt=0)
    alpha: float = pydantic.Field(0.01, gt=0, lt=0.5)
    trend: bool = True
    trend_p: float = pydantic.Field(1.0, gt=0, le=1)
    limit: Literal["nb", "muan", "delta"] = "nb"
    enough: int = pydantic.Field(5, ge=0)
    variant: Literal["paper", "r-surveillance"] = "paper"


class Ears(Frozen):
    """`baseline` weeks; C2 and C3 leave two weeks between them and the week under test, and C3 adds up three."""

    method: Literal["C1", "C2", "C3"] = "C2"
    baseline: int = pydantic.Field(7, ge=3, le=52)
    alpha: float | None = pydantic.Field(None, gt=0, lt=0.5)
    enough: int = pydantic.Field(5, ge=0)


class Options(Frozen):
    """`week` is a whole number that counts weeks; `weeks` its first and last, by default the contract's range. The last `test` weeks are
    tested. `series`: all counts are shown too."""

    week: str
    by: tuple[str, ...] = ()
    weeks: tuple[int, int] | None = None
    test: int = pydantic.Field(1, ge=1)
    method: Farrington | Ears = Farrington()
    series: bool = False

    @pydantic.field_validator("method", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if value in ("farrington", "ears"):
            return Farrington() if value == "farrington" else Ears()
        if (
            isinstance(value, dict)
            and len(value) == 1
            and next(iter(value)) in ("farrington", "ears")
        ):
            name, options = next(iter(value.items()))
            return (Farrington if name == "farrington" else Ears).model_validate(options or {})
        if isinstance(value, Frozen):
            return value
        raise ValueError(
            "must be farrington or ears, or one of these with its options, as in `ears: {method: C3}`"
        )


@dataclass(frozen=True)
class Plan:
    fields: tuple[Field, ...]  # the week, as a category of whole numbers, then `by`
    labels: tuple[str, ...]
    first: int
    weeks: int


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    week = schema.field(options.week)
    if week.kind != "number":
        raise ExpressionError(
            f"week: {week.name!r} is a {week.kind}; count weeks from some Monday, as in `derive: {{week: \"floor((day - '2018-01-01') / 7)\"}}`"
        )
    if options.weeks is None and not all(map(math.isfinite, week.interval)):
        raise ExpressionError(
            f"weeks: {week.name!r} has no range in the contract; write the first and the last week, as in `weeks: [0, 311]`"
        )
    first, last = options.weeks or (math.ceil(week.interval[0]), math.floor(week.interval[1]))
    needed = _history(options.method) + options.test
    if not needed <= last - first + 1 <= MAX_WEEKS:
        raise ExpressionError(
            f"weeks: {first} to {last} are {last - first + 1} weeks; this method needs {needed} to {MAX_WEEKS}"
        )
    by = grouping.fields(options.by, schema, "series are of categories")
    labels = grouping.labels(by)
    if len(labels) * (last - first + 1) > MAX_CELLS:
        raise ExpressionError(
            f"by gives {len(labels):,} series of {last - first + 1} weeks; at most {MAX_CELLS:,} counts in all: use fewer or coarser columns"
        )
    number = f"CAST({week.sql} AS BIGINT)"
    index = f"CASE WHEN {number} BETWEEN {first} AND {last} THEN {number} - {first} END"
    weeks = Field(
        week.name,
        "category",
        f"CAST({number} AS VARCHAR)",
        levels=tuple(str(number) for number in range(first, last + 1)),
        index=index,
        pieces=week.pieces,
    )
    return Prepared(Plan((weeks, *by), labels, first, last - first + 1), (weeks, *by))


def _history(method: Farrington | Ears) -> int:
    """How many weeks a tested one needs before it."""
    if isinstance(method, Farrington):
        return method.years * YEAR + method.half_window
    return method.baseline + {"C1": 0, "C2": 2, "C3": 4}[method.method]


def start(task: Task[Options, Plan]) -> State:
    return State()


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    counted = counting.cross(cohort, task.plan.fields)
    rows, missing = int(counted.people[0]), int(counted.people[1])
    cells = {
        "people": np.array([cohort.people]),
        "rows": np.array([rows]),
        "missing": np.array([missing]),
        "counts": counted.cells,
    }
    return Part(
        {"counts": counted.cells.astype(np.float64)}, cells, {"counts": float(task.rows_per_person)}
    )


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    y = total.sums["counts"].reshape(plan.weeks, -1)
    if not y.any():
        raise errors.ModelError(
            f"{task.name}: no row falls in weeks {plan.first} to {plan.first + plan.weeks - 1}; check `week` and `weeks`"
        )
    tables = {"alarms": Table([_rounded(row) for row in judge(y, task)])}
    if task.options.series:
        tables["series"] = Table(
            [
                {"series": label, "week": plan.first + w, "n": int(y[w, s])}
                for s, label in enumerate(plan.labels)
                for w in range(plan.weeks)
            ]
        )
    outside = (
        [
            f"the missing rows are those without a week or a group, and those outside weeks {plan.first} to "
            f"{plan.first + plan.weeks - 1}"
        ]
        if total.cells["missing"].sum() > 0
        else []
    )
    return Result(tables, counting.reported(total.cells), notes=outside)


def _rounded(row: Row) -> Row:
    return row | {"n": round(row["n"])}


def judge(y: Floats, task: Task[Options, Plan], noise: float = 0.0) -> list[Row]:
    """A row for each series and week under test, with the evidence, the farthest above its limit first. `y` (weeks, series);
    `noise`: the variance of the privacy noise in each count."""
    plan: Plan = task.plan
    method = task.options.method
    rows: list[Row] = []
    for k in range(plan.weeks - task.options.test, plan.weeks):
        found = (
            farrington(y, k, method, noise)
            if isinstance(method, Farrington)
            else ears(y, k, method)
        )
        for s, label in enumerate(plan.labels):
            upper, expected = float(found.upper[s]), float(found.expected[s])
            tested = bool(found.tested[s]) and math.isfinite(upper)
            row: Row = {"series": label, "week": plan.first + k, "n": float(y[k, s])}
            if not tested:
                rows.append(
                    row
                    | dict.fromkeys(
                        ("expected", "upper", "score", "ratio", "ratio_low", "ratio_high")
                    )
                    | {"alarm": "not tested"}
                )
                continue
            over = (
                (float(y[k, s]) - expected) / (upper - expected)
                if upper > expected
                else math.inf
                if y[k, s] > expected
                else 0.0
            )
            alarm = "alarm" if y[k, s] > upper and y[k, s] > 0 else "none"
            found_ratio = _ratio(float(y[k, s]), expected, float(found.spread[s]))
            rows.append(
                row
                | {
                    "expected": expected,
                    "upper": upper,
                    "score": min(over, 1e6),
                    **found_ratio,
                    "alarm": alarm,
                }
            )
    return sorted(
        rows, key=lambda row: -math.inf if row["score"] is None else row["score"], reverse=True
    )


def _ratio(n: float, expected: float, spread: float) -> Row:
    """How many times the expected count was seen, with its 95 % interval on the log scale."""
    if not (n > 0 and expected > 0 and spread < UNKNOWN):
        return dict.fromkeys(("ratio", "ratio_low", "ratio_high"))
    half = Z * spread
    return {
        "ratio": n / expected,
        "ratio_low": n / expected * math.exp(-half),
        "ratio_high": n / expected * math.exp(half),
    }


@dataclass(frozen=True)
class Limits:
    """Of each series (series,) in one week: the expected count, the limit above which it is an alarm, whether there was enough to tell, and
    the standard deviation of the logarithm of the count over the expected one, such that Z of it make a 95 % interval. Of a series
    without a case in that season of the baseline the expected count and the limit are 0: a new syndrome is an alarm."""

    expected: Floats
    upper: Floats
    tested: Any
    spread: Floats


# -- EARS
def ears(y: Floats, k: int, method: Ears) -> Limits:
    """Noise in the counts is in the standard deviation of the weeks before, as it is in the week under test."""
    z = float(
        -special.ndtri(
            method.alpha if method.alpha is not None else 0.025 if method.method == "C3" else 0.001
        )
    )
    gap = 0 if method.method == "C1" else 2
    mean, sd = _before(y, k, method.baseline, gap)
    tested = y[max(0, k - 3) : k + 1].sum(0) >= method.enough
    seen = np.maximum(y[k], 1.0)
    relative = sd * np.sqrt(1 / seen**2 + 1 / (method.baseline * np.maximum(mean, 1.0) ** 2))
    # sd is estimated from few weeks: Student's quantile stands in for the normal one
    relative *= float(special.stdtrit(method.baseline - 1, 0.975)) / Z
    if method.method != "C3":
        return Limits(mean, mean + z * sd, tested, relative)
    earlier = np.zeros_like(mean)
    for lag in (1, 2):
        m, s = _before(y, k - lag, method.baseline, gap)
        earlier += np.maximum(
            0.0, np.divide(y[k - lag] - m, s, out=np.zeros_like(m), where=s > 0) - 1
        )
    return Limits(mean, np.maximum(0.0, mean + sd * (z - earlier)), tested, relative)


def _before(y: Floats, k: int, baseline: int, gap: int) -> tuple[Floats, Floats]:
    weeks = y[k - gap - baseline : k - gap]
    return weeks.mean(0), weeks.std(0, ddof=1)


# -- Farrington
def seasons(k: int, method: Farrington) -> tuple[Ints, Ints]:
    """The baseline weeks of week `k`, and the seasonal level of each; level `periods` is that of week `k` itself."""
    level = np.zeros(k + 1, np.int64)
    w, P = method.half_window, method.periods
    level[k - w : k + 1] = P
    for i in range(method.years):
        before = k - YEAR * (i + 1)
        level[before - w : before + w + 1] = P
        if P > 1:
            size, rest = divmod(YEAR - 2 * w - 1, P - 1)
            ends = np.cumsum([size + (j < rest) for j in range(P - 1)])
            for j, (low, high) in enumerate(zip(np.r_[0, ends[:-1]], ends, strict=True)):
                level[before + w + 1 + low : before + w + 1 + high] = j + 1
    level[k - method.recent : k + 1] = 0
    weeks = np.flatnonzero(level)
    return weeks, level[weeks]


@dataclass(frozen=True)
class SeriesFit:
    """Of each series: coefficients (series, p) and their covariance but for the dispersion (series, p, p); fitted means (series, n);
    the dispersion, at least 1; and the one that scales errors."""

    beta: Floats
    inverse: Floats
    mu: Floats
    phi: Floats
    scale: Floats


def farrington(y: Floats, k: int, method: Farrington, noise: float = 0.0) -> Limits:
    """Noise in the counts is in the dispersion of the baseline, as it is in the week under test. It is as large in a high
    count as in a low one, so the `spread` takes it out of the dispersion, and adds it as it is."""
    weeks, level = seasons(k, method)
    levels = [one for one in range(1, method.periods + 1) if (level == one).any()]
    counts = np.maximum(y[weeks].T, 0.0)  # (series, n)
    with_trend = np.column_stack(
        [np.ones(len(weeks)), (weeks - k) / YEAR, *(level == one for one in levels[1:])]
    )
    now = np.r_[1.0, 0.0, [float(one == method.periods) for one in levels[1:]]]
    without, now_without = np.delete(with_trend, 1, axis=1), np.delete(now, 1)
    plain = _reweighted(without, counts, method)
    fits, trended = [(plain, now_without)], np.zeros(len(counts), np.bool_)
    if method.trend:
        slanted = _reweighted(with_trend, counts, method)
        error = np.sqrt(slanted.scale * slanted.inverse[:, 1, 1])
        p = 2 * special.stdtr(
            len(weeks) - with_trend.shape[1],
            -np.abs(slanted.beta[:, 1]) / np.maximum(error, 1e-300),
        )
        trended = (
            (p < method.trend_p)
            & (np.exp(np.minimum(slanted.beta @ now, 50)) <= counts.max(1))
            & (method.years >= 3)
        )
        fits.append((slanted, now))
    eta, error, phi, own = (np.empty(len(counts)) for _ in range(4))
    for which, (fit, x) in zip((~trended, trended), fits, strict=False):
        eta[which] = (fit.beta @ x)[which]
        error[which] = np.sqrt(fit.scale * np.einsum("a,sab,b->s", x, fit.inverse, x))[which]
        phi[which] = fit.phi[which]
        own[which] = np.maximum(fit.phi - noise * (1 / fit.mu).mean(1), 1.0)[which]
    # no case in that season of the baseline: the fit goes to minus infinity
    unseen = error > UNKNOWN
    expected = np.where(unseen, 1.0, np.exp(np.minimum(eta, 50)))
    error = np.where(unseen, 0.0, error)
    upper = np.where(unseen, 0.0, upper_limit(expected, error, phi, method))
    tested = y[max(0, k - 3) : k + 1].sum(0) >= method.enough
    seen = np.maximum(y[k], 1.0)
    return Limits(
        np.where(unseen, 0.0, expected),
        upper,
        tested,
        np.sqrt(own / seen + noise / seen**2 + error**2),
    )


def upper_limit(expected: Floats, error: Floats, phi: Floats, method: Farrington) -> Floats:
    z = float(-special.ndtri(method.alpha))
    if method.limit == "delta":
        tau = phi + expected * error**2
        limit: Floats = (
            expected ** (2 / 3) + z * np.sqrt(4 / 9 * expected ** (1 / 3) * tau)
        ) ** 1.5
        return limit
    from scipy import stats  # half a second, of which only the hub has need

    mean = expected * np.exp(z * error) if method.limit == "muan" else expected
    over = phi > 1
    upper: Floats = np.asarray(stats.poisson.isf(method.alpha, mean), np.float64)
    upper[over] = stats.nbinom.isf(method.alpha, mean[over] / (phi[over] - 1), 1 / phi[over])
    return upper


def _reweighted(X: Floats, counts: Floats, method: Farrington) -> SeriesFit:
    """Twice: the second time weeks that stand out, as past outbreaks do, weigh less."""
    first = _quasi_poisson(X, counts, np.ones_like(counts))
    leverage = np.einsum("na,sab,nb->sn", X, first.inverse, X, optimize=True) * first.mu
    residual = (
        1.5
        * (counts ** (2 / 3) * first.mu ** (-1 / 6) - np.sqrt(first.mu))
        / np.sqrt(first.phi[:, None] * np.maximum(1 - leverage, 1e-9))
    )
    out = residual > method.threshold
    relative = np.where(out, np.maximum(residual, method.threshold) ** -2.0, 1.0)
    weights = relative * (counts.shape[1] / relative.sum(1))[:, None]
    fit = _quasi_poisson(X, counts, weights)
    if method.variant == "paper":
        return fit
    squares = (weights * ((counts - fit.mu) / fit.mu) ** 2).sum(1) / (len(X) - X.shape[1])
    return SeriesFit(fit.beta, fit.inverse, fit.mu, fit.phi, squares)


def _quasi_poisson(X: Floats, counts: Floats, weights: Floats) -> SeriesFit:
    """Iteratively reweighted least squares of all series at once, which share X (n, p)."""
    n, p = X.shape
    products = (X[:, :, None] * X[:, None, :]).reshape(n, p * p)
    mu: Floats = counts + 0.1
    eta: Floats = np.log(mu)
    beta: Floats = np.zeros((len(counts), p))
    ridge = 1e-10 * np.eye(p)
    for _ in range(ROUNDS):
        W = weights * mu
        A = (W @ products).reshape(-1, p, p)
        A += (
            ridge * np.trace(A, axis1=1, axis2=2)[:, None, None] / p
        )  # a season without any case has no level of its own
        fitted = np.linalg.solve(A, ((W * eta + weights * (counts - mu)) @ X)[:, :, None])[:, :, 0]
        after: Floats = np.clip(fitted @ X.T, -20.0, 50.0)
        moved = np.abs(after - eta).max(initial=0.0)
        beta, eta = np.asarray(fitted, np.float64), after
        mu = np.exp(after)
        if moved < 1e-11:
            break
    W = weights * mu
    A = (W @ products).reshape(-1, p, p)
    inverse = np.linalg.inv(A + ridge * np.trace(A, axis1=1, axis2=2)[:, None, None] / p)
    phi = (weights * (counts - mu) ** 2 / mu).sum(1) / (n - p)
    return SeriesFit(beta, inverse, mu, np.maximum(phi, 1.0), np.maximum(phi, 1.0))


def roles(task: Task[Options, Plan]) -> Roles:
    return Roles(groups=task.plan.fields)


def limits(task: Task[Options, Plan]) -> admissible.Limits:
    return admissible.once()
