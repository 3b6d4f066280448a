"""The limits of a weekly count: Farrington's algorithm, or EARS.

Farrington: a quasi-Poisson regression on the same season of earlier years, reweighted against past
outbreaks (Farrington et al. 1996; Noufaily et al. 2013). EARS: the mean and standard deviation of
the weeks before (C1, C2, C3; Hutwagner et al. 2003).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pydantic

from federation.arrays import Floats, Ints
from federation.contract import Frozen
from federation.lazy_scipy import special

YEAR = 52  # weeks
ROUNDS = 60  # of iteratively reweighted least squares, at most
Z = 1.959963984540054  # normal quantile of a 95 % interval
# The standard error of the log of an expected count above which the data do not determine it.
UNKNOWN = 10.0


class Farrington(Frozen):
    """The baseline covers `years` years, with `half_window` weeks on either side of the tested
    week's season and `periods` seasonal levels, and leaves out the last `recent` weeks. `limit` is
    the threshold of an alarm: the quantile of the negative binomial at the expected count (nb) or
    at the upper limit of the expected count (muan), or of a transformed normal (delta). `variant:
    r-surveillance` computes the test of the trend and the error of the expected count as R's
    surveillance package does."""

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
    """The mean and standard deviation of `baseline` weeks. C2 and C3 leave a gap of two weeks
    before the tested week; C3 adds the excess of the two weeks before it."""

    method: Literal["C1", "C2", "C3"] = "C2"
    baseline: int = pydantic.Field(7, ge=3, le=52)
    alpha: float | None = pydantic.Field(None, gt=0, lt=0.5)
    enough: int = pydantic.Field(5, ge=0)


@dataclass(frozen=True)
class Limits:
    """Limits of one week, arrays (n_series,).

    expected: expected count. upper: the count above which there is an alarm. Both are 0 for a
    series without a case in this season of the baseline, so that a new syndrome raises an alarm.
    tested: whether the series has enough cases for a test. spread: standard deviation of
    log(count / expected), such that Z times it is the half-width of a 95 % interval."""

    expected: Floats
    upper: Floats
    tested: Any
    spread: Floats


# -- EARS
def ears(y: Floats, k: int, method: Ears) -> Limits:
    """The limits of week `k` from the weeks before it. If the counts carry noise, the baseline's
    standard deviation includes it, as the tested week does."""
    alpha = method.alpha
    if alpha is None:
        alpha = 0.025 if method.method == "C3" else 0.001
    z = float(-special.ndtri(alpha))
    gap = 0 if method.method == "C1" else 2
    mean, sd = _before(y, k, method.baseline, gap)
    tested = y[max(0, k - 3) : k + 1].sum(0) >= method.enough
    count = np.maximum(y[k], 1.0)
    relative = sd * np.sqrt(1 / count**2 + 1 / (method.baseline * np.maximum(mean, 1.0) ** 2))
    # The standard deviation comes from few weeks: Student's quantile replaces the normal one.
    relative *= float(special.stdtrit(method.baseline - 1, 0.975)) / Z
    if method.method != "C3":
        return Limits(mean, mean + z * sd, tested, relative)
    earlier = np.zeros_like(mean)
    for lag in (1, 2):
        m, s = _before(y, k - lag, method.baseline, gap)
        standardised = np.divide(y[k - lag] - m, s, out=np.zeros_like(m), where=s > 0)
        earlier += np.maximum(0.0, standardised - 1)
    return Limits(mean, np.maximum(0.0, mean + sd * (z - earlier)), tested, relative)


def _before(y: Floats, k: int, baseline: int, gap: int) -> tuple[Floats, Floats]:
    weeks = y[k - gap - baseline : k - gap]
    return weeks.mean(0), weeks.std(0, ddof=1)


# -- Farrington
def seasons(k: int, method: Farrington) -> tuple[Ints, Ints]:
    """The baseline weeks (n,) of week `k`, and the seasonal level (n,) of each; week `k` itself has
    the level `periods`."""
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
    """Quasi-Poisson fits of all series.

    beta (n_series, p): coefficients. inverse (n_series, p, p): their covariance divided by the
    dispersion. mu (n_series, n_weeks): fitted means. phi (n_series,): dispersion, at least 1. scale
    (n_series,): the dispersion that scales standard errors."""

    beta: Floats
    inverse: Floats
    mu: Floats
    phi: Floats
    scale: Floats


def farrington(y: Floats, k: int, method: Farrington, noise: float = 0.0) -> Limits:
    """The limits of week `k` from its baseline, for counts with privacy noise of variance `noise`.

    The dispersion of the baseline includes the noise, as the tested week does. Its variance does
    not depend on the count, so `spread` subtracts it from the dispersion and adds it separately."""
    weeks, level = seasons(k, method)
    levels = [number for number in range(1, method.periods + 1) if (level == number).any()]
    counts = np.maximum(y[weeks].T, 0.0)  # (n_series, n_weeks)
    X = np.column_stack(
        [np.ones(len(weeks)), (weeks - k) / YEAR, *(level == number for number in levels[1:])]
    )
    x = np.r_[1.0, 0.0, [float(number == method.periods) for number in levels[1:]]]
    flat = _reweighted(np.delete(X, 1, axis=1), counts, method)
    fits, has_trend = [(flat, np.delete(x, 1))], np.zeros(len(counts), np.bool_)
    if method.trend:
        fit = _reweighted(X, counts, method)
        p = _trend_p(fit, len(weeks) - X.shape[1])
        has_trend = (p < method.trend_p) & (np.exp(np.minimum(fit.beta @ x, 50)) <= counts.max(1))
        has_trend &= method.years >= 3
        fits.append((fit, x))
    eta, error, phi, sampling_phi = (np.empty(len(counts)) for _ in range(4))
    for series, (fit, x) in zip((~has_trend, has_trend), fits, strict=False):
        eta[series] = (fit.beta @ x)[series]
        error[series] = np.sqrt(fit.scale * np.einsum("a,sab,b->s", x, fit.inverse, x))[series]
        phi[series] = fit.phi[series]
        sampling_phi[series] = np.maximum(fit.phi - noise * (1 / fit.mu).mean(1), 1.0)[series]
    # Without a case in this season of the baseline, the fit diverges to an expected count of 0.
    unseen = error > UNKNOWN
    expected = np.where(unseen, 1.0, np.exp(np.minimum(eta, 50)))
    error = np.where(unseen, 0.0, error)
    upper = np.where(unseen, 0.0, upper_limit(expected, error, phi, method))
    tested = y[max(0, k - 3) : k + 1].sum(0) >= method.enough
    count = np.maximum(y[k], 1.0)
    spread = np.sqrt(sampling_phi / count + noise / count**2 + error**2)
    return Limits(np.where(unseen, 0.0, expected), upper, tested, spread)


def _trend_p(fit: SeriesFit, df: int) -> Floats:
    """(n_series,): the p-value of the trend, whose coefficient is the second."""
    error = np.sqrt(fit.scale * fit.inverse[:, 1, 1])
    p: Floats = 2 * special.stdtr(df, -np.abs(fit.beta[:, 1]) / np.maximum(error, 1e-300))
    return p


def upper_limit(expected: Floats, error: Floats, phi: Floats, method: Farrington) -> Floats:
    """(n_series,): the count above which there is an alarm, from the expected count, the standard
    error of its log and the dispersion, all (n_series,)."""
    z = float(-special.ndtri(method.alpha))
    if method.limit == "delta":
        tau = phi + expected * error**2
        half_width = z * np.sqrt(4 / 9 * expected ** (1 / 3) * tau)
        limit: Floats = (expected ** (2 / 3) + half_width) ** 1.5
        return limit
    # This import takes half a second, and only the hub needs it.
    from scipy import stats

    mean = expected * np.exp(z * error) if method.limit == "muan" else expected
    over = phi > 1
    upper: Floats = np.asarray(stats.poisson.isf(method.alpha, mean), np.float64)
    upper[over] = stats.nbinom.isf(method.alpha, mean[over] / (phi[over] - 1), 1 / phi[over])
    return upper


def _reweighted(X: Floats, counts: Floats, method: Farrington) -> SeriesFit:
    """Fits twice; in the second fit, weeks with large residuals, such as past outbreaks, have
    smaller weights. X (n_weeks, p); counts (n_series, n_weeks)."""
    first = _quasi_poisson(X, counts, np.ones_like(counts))
    leverage = np.einsum("na,sab,nb->sn", X, first.inverse, X, optimize=True) * first.mu
    # Anscombe residuals.
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
    """Iteratively reweighted least squares of all series at once, which share X (n_weeks, p)."""
    n, p = X.shape
    products = (X[:, :, None] * X[:, None, :]).reshape(n, p * p)
    mu: Floats = counts + 0.1
    eta: Floats = np.log(mu)
    beta: Floats = np.zeros((len(counts), p))
    ridge = 1e-10 * np.eye(p)
    for _ in range(ROUNDS):
        W = weights * mu
        A = (W @ products).reshape(-1, p, p)
        # A season without any case has no level; the ridge keeps the system solvable.
        A += ridge * np.trace(A, axis1=1, axis2=2)[:, None, None] / p
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
