"""The rank-sum test from two noised histograms, with the noise in every error.

Each group's histogram on one grid of K cells leaves the nodes as B times its counts, with
independent noise of variance s^2 in each number (`privacy/cumulative.py`). Decoded, x and y
(n_cells,) may be below zero; cutting them off would bias every sum. With A[i, j] = sign(i - j) / 2,

    T = x' A y = W - n_x n_y / 2        theta = 1/2 + T / (n_x n_y)

and a linear function of the noised counts with weights w has the noise variance s^2 |w|_B^2, where
|w|_B^2 = |w B^-1|^2. The noise of T is that of A y over x and of A x over y, and s^4 C for the
product of both noises, C = |B^-T A B^-1|^2 (Frobenius). Since A x and A y carry noise themselves,
the first two terms are too large by 2 s^4 C on average, so the plug-in variance is their sum minus
s^4 C. It is cut off from below at s^4 C.

Sources: as `rank_sum.py`; intervals of sums of two errors: Zou and Donner 2008 (MOVER).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from federation.arrays import Floats
from federation.lazy_scipy import linalg, optimize
from federation.privacy import cumulative
from strategies.numerics import rank_sum

STEPS = 5  # of the fixed point at which an end of the shift's interval lies
INSIDE = 0.001  # how close to 0 and 1 the log-odds of a noised probability are taken


@dataclass(frozen=True)
class Grid:
    """Variances for noise of variance 1 on B x, which depend on the number of cells alone.

    `of_pairs`: C, of x' A y for the product of both noises. `of_total`: of the sum of a histogram.
    `of_cell` (n_cells,): of each cell. `of_rank` (n_cells,): of each entry of A x."""

    of_pairs: float
    of_total: float
    of_cell: Floats
    of_rank: Floats


@lru_cache(maxsize=8)
def grid(cells: int) -> Grid:
    column = cumulative.inverse(cells)
    inverse = linalg.toeplitz(column, np.zeros(cells))  # B^-1
    below = inverse.cumsum(0)
    ranks = below - inverse / 2 - below[-1] / 2  # A B^-1
    totals = below[-1]
    return Grid(
        of_pairs=float(((inverse.T @ ranks) ** 2).sum()),
        of_total=float(totals @ totals),
        of_cell=np.cumsum(column**2),
        of_rank=(ranks**2).sum(1),
    )


@dataclass(frozen=True)
class Superiority:
    """An estimate of P(X > Y) + P(X = Y) / 2: sampling and noise standard deviations, and ends."""

    theta: float
    sampling: float
    noise: float
    low: float
    high: float


@dataclass(frozen=True)
class NoisedGroups:
    """The decoded histograms `x` and `y` (n_cells,) of two groups whose totals stand clear of the
    noise. `variance`: s^2, of the noise in each number of B x."""

    x: Floats
    y: Floats
    variance: float

    @property
    def pairs(self) -> float:
        return float(self.x.sum() * self.y.sum())

    @property
    def centred(self) -> float:
        """T = W - n_x n_y / 2."""
        return float(self.x @ self._weights(0)[0])

    # -- the test
    def z(self) -> float:
        """T over its standard deviation if both groups have one law, noise included. The noise
        leaves W no lattice, so there is no correction for continuity."""
        return self.centred / self.deviation(0)

    def deviation(self, shift: int) -> float:
        """The standard deviation of T for x - `shift` cells and y under the null hypothesis."""
        return math.sqrt(self._null_variance(shift) + self._noise_of(*self._weights(shift)))

    def _null_variance(self, shift: int) -> float:
        """As in `rank_sum.null_variance`, with E(t^3) taken as t^3 - 3 t v, since the noise of
        variance v in a count t adds 3 t v to its cube."""
        cells, n = len(self.x), float(self.x.sum() + self.y.sum())
        tied, noise = np.zeros(3 * cells), np.zeros(3 * cells)
        for counts, start in ((self.y, cells), (self.x, cells - shift)):
            tied[start : start + cells] += counts
            noise[start : start + cells] += self.variance * grid(cells).of_cell
        cubes = float((tied**3 - 3 * tied * noise - tied).sum())
        ties = min(max(cubes / (n * (n - 1) * (n + 1)), 0.0), 0.999)
        return self.pairs / 12 * (n + 1) * (1 - ties)

    def _weights(self, shift: int) -> tuple[Floats, Floats]:
        """The weights of x and of y (n_cells,) in T for x - `shift` cells, given the other
        group."""
        return _placement(self.y, -shift), -_placement(self.x, shift)

    def _noise_of(self, of_x: Floats, of_y: Floats, offset: float = 0.0) -> float:
        """The noise variance of a sum over pairs with these weights. `offset`: a number that is
        taken from each pair beside A."""
        size = grid(len(self.x))
        first = self.variance * float((cumulative.carried(np.stack([of_x, of_y])) ** 2).sum())
        product = self.variance**2 * (size.of_pairs + offset**2 * size.of_total**2)
        return max(first - product, product)

    # -- the probability of superiority
    def superiority(self, z: float) -> Superiority:
        """Sampling ends are symmetric on the scale of log-odds, as without noise; the noise is
        symmetric on the scale of the probability, and its square is added on either side."""
        theta = 0.5 + self.centred / self.pairs
        sampling, noise = self._sampling(theta - 0.5), self._noise(theta - 0.5)
        inside = min(max(theta, INSIDE), 1 - INSIDE)
        low, high = rank_sum.on_logit(inside, sampling, z)
        return Superiority(
            min(max(theta, 0.0), 1.0),
            sampling,
            noise,
            max(0.0, theta - math.hypot(inside - low, z * noise)),
            min(1.0, theta + math.hypot(high - inside, z * noise)),
        )

    def _about(self, offset: float) -> tuple[Floats, Floats]:
        """The weights of x and y in T - offset n_x n_y: the totals carry the same noise."""
        of_x, of_y = self._weights(0)
        return of_x - offset * self.y.sum(), of_y - offset * self.x.sum()

    def _noise(self, offset: float) -> float:
        return math.sqrt(self._noise_of(*self._about(offset), offset)) / self.pairs

    def _sampling(self, offset: float) -> float:
        """DeLong's error, with the noise's part taken out of each sum of squares.

        Of x it is the sum of x w^2 about the mean of w = A y over x. The noise of y adds to it
        s^2 |row_i(A)|_B^2 for each person in cell i, and the noise of the mean takes away its
        variance times n_x."""
        of_x, of_y = self._about(offset)
        n_x, n_y = float(self.x.sum()), float(self.y.sum())
        placed_x, placed_y = self._weights(0)
        of_rank = self.variance * grid(len(self.x)).of_rank
        squares_x = self.x @ (of_x**2 - of_rank) + self._noise_of(of_x, placed_y) / n_x
        squares_y = self.y @ (of_y**2 - of_rank) + self._noise_of(placed_x, of_y) / n_y
        of_each = (
            max(float(squares_x), 0.0) / n_y**2 / (n_x * (n_x - 1)),
            max(float(squares_y), 0.0) / n_x**2 / (n_y * (n_y - 1)),
        )
        return math.sqrt(sum(of_each))

    # -- the shift between the groups
    def shift(self, z: float) -> tuple[float | None, float | None, float | None]:
        """The shift in cells at which T is 0, and those at which it is z and -z of its deviations:
        estimate, low, high. None where T reaches no such value on the grid."""
        crossing = self._crossing()
        middle = crossing(0.0)
        if middle is None:
            return None, None, None
        return middle, self._end(crossing, middle, z), self._end(crossing, middle, -z)

    def _end(
        self, crossing: Callable[[float], float | None], middle: float, z: float
    ) -> float | None:
        end: float | None = middle
        for _ in range(STEPS):
            if end is None:
                return None
            end = crossing(z * self.deviation(round(end)))
        return end

    def _crossing(self) -> Callable[[float], float | None]:
        """The shift at which T falls to a value: T at whole shifts with ties half, made to fall
        (isotonic regression), and linear between them."""
        pairs = np.correlate(self.x, self.y, "full")  # by difference, from -(n_cells - 1) up
        at = np.arange(len(pairs)) - (len(self.x) - 1)
        T = self.pairs / 2 - np.cumsum(pairs) + pairs / 2
        T = optimize.isotonic_regression(T, increasing=False).x

        def crossing(value: float) -> float | None:
            k = int(np.argmax(value >= T))
            if k == 0:  # it begins below the value, or never falls to it
                return None
            return float(at[k - 1] + (T[k - 1] - value) / (T[k - 1] - T[k]))

        return crossing


def _placement(counts: Floats, moved: int) -> Floats:
    """(n_cells,) of the cell `moved` places above each: the people below it and half of those in
    it, less half of all."""
    cells = len(counts)
    running = np.r_[0.0, np.cumsum(counts)]
    at = np.arange(cells) + moved
    below, upto = (running[np.clip(at + side, 0, cells)] for side in (0, 1))
    placement: Floats = (below + upto - running[-1]) / 2
    return placement


def forecast(
    cells: int, people: float, variance: float, deviations: float
) -> tuple[float, float] | None:
    """The sampling and noise standard deviations of the superiority to expect of two groups with
    half of the `people` each, whose values are even over the middle half of the grid. None if a
    group does not pass so many `deviations` of the noise in its total."""
    n, size = people / 2, grid(cells)
    if n <= deviations * math.sqrt(variance * size.of_total):
        return None
    place = (np.arange(cells) + 0.5) / cells - 0.5
    placement = np.clip(2 * place, -0.5, 0.5)
    first = 2 * variance * float(cumulative.noise_of(placement)) ** 2 / n**2
    noise = math.sqrt(first + variance**2 * size.of_pairs / n**4)
    return math.sqrt((2 * n + 1) / (12 * n**2)), noise
