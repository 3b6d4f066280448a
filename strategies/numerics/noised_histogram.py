"""Quantiles of a histogram that carries noise, with intervals that include it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from federation.arrays import Floats
from federation.lazy_scipy import optimize
from federation.privacy import cumulative
from federation.results import Row


@dataclass(frozen=True)
class NoisedHistogram:
    """Equal bins of `width` from `low` up, in the unit of the column. `running` (n_bins,): how many
    people lie in each bin or below it, made consistent: it never falls, and goes from nobody to
    everyone. `variance`: of the noise on the bins as they were released
    (`privacy/cumulative.py`)."""

    low: float
    width: float
    running: Floats
    variance: float

    @classmethod
    def of(
        cls, bins: Floats, people: float, *, low: float, width: float, variance: float
    ) -> NoisedHistogram:
        """From the noised `bins` (n_bins,) of so many `people`."""
        rising = optimize.isotonic_regression(np.cumsum(bins)).x
        return cls(low, width, np.clip(rising, 0.0, people), variance)

    def quantile(self, p: float, z: float) -> Row:
        """By inverting the running sums; the interval inverts them at the ranks that sampling and
        noise leave possible (Woodruff 1952)."""
        everyone = float(self.running[-1])
        estimate = self._reaching(p * everyone)
        last = len(self.running) - 1
        edge = min(int((estimate - self.low) / self.width), last)
        weights = (np.arange(last + 1) <= edge).astype(float) - p
        noise = math.sqrt(self.variance) * float(cumulative.noise_of(weights))
        rank = math.hypot(noise, math.sqrt(everyone * p * (1 - p)))
        ends = [self._reaching(p * everyone + side * z * rank) for side in (-1, 1)]
        return {
            "estimate": estimate,
            "width": self.width,
            "rank_noise_sd": noise,
            "conf_low": ends[0],
            "conf_high": ends[1],
        }

    def _reaching(self, rank: float) -> float:
        """Where the running sums reach `rank`, linearly within a bin."""
        sums = np.r_[0.0, self.running]
        rank = min(max(rank, 0.0), float(sums[-1]))
        k = min(max(int(np.searchsorted(sums, rank)), 1), len(self.running))
        inside = (rank - sums[k - 1]) / (sums[k] - sums[k - 1]) if sums[k] > sums[k - 1] else 1.0
        return float(self.low + self.width * (k - 1 + inside))
