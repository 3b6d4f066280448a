"""The noise follows its law: the test would reject a law of 0.7 or 1.3 times the scale."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from federation.arrays import Ints
from federation.privacy import accounting, calibration, noise
from federation.privacy.noise import Entropy


def seeded(seed: int) -> Entropy:
    """Bytes for tests: SHA-256 in counter mode, so that a failure can be run again."""
    count = iter(range(10**9))

    def entropy(size: int) -> bytes:
        blocks = (
            hashlib.sha256(f"{seed}:{next(count)}".encode()).digest() for _ in range(-(-size // 32))
        )
        return b"".join(blocks)[:size]

    return entropy


def exact_pmf(sigma: float, reach: int) -> np.ndarray:
    weights = [math.exp(-k * k / (2 * sigma * sigma)) for k in range(-reach, reach + 1)]
    return np.array(weights) / math.fsum(weights)


def p_value(draws: Ints, sigma: float) -> float:
    """Chi-squared against the exact law, over values expected at least ten times; the tails are one
    bin each."""
    reach = int(12 * sigma) + 3
    expected = exact_pmf(sigma, reach) * len(draws)
    observed = np.bincount(np.clip(draws, -reach, reach) + reach, minlength=2 * reach + 1)
    often = np.flatnonzero(expected >= 10)
    first, last = often[0], often[-1]
    bins_e = np.r_[expected[:first].sum(), expected[first : last + 1], expected[last + 1 :].sum()]
    bins_o = np.r_[observed[:first].sum(), observed[first : last + 1], observed[last + 1 :].sum()]
    is_large = bins_e > 5
    statistic = float(((bins_o - bins_e)[is_large] ** 2 / bins_e[is_large]).sum())
    return float(stats.chi2.sf(statistic, is_large.sum() - 1))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0, 100.0])
def test_the_right_scale_passes_and_others_fail(sigma: float) -> None:
    variance = Fraction(sigma) ** 2
    draws = noise.from_table(200_000, variance, seeded(int(8 * sigma)))
    assert p_value(draws, sigma) > 1e-3
    assert p_value(draws, 0.7 * sigma) < 1e-12 and p_value(draws, 1.3 * sigma) < 1e-12


def test_operating_system_entropy_gives_the_same_law() -> None:
    assert (
        p_value(noise.discrete_gaussian(200_000, Fraction(9)), 3.0) > 1e-6
    )  # fails by chance once in a million runs


def test_a_large_scale_has_its_moments() -> None:
    draws = noise.discrete_gaussian(100_000, Fraction(8192) ** 2, seeded(3)).astype(float)
    assert abs(draws.mean()) < 5 * 8192 / math.sqrt(100_000)  # five standard errors
    assert abs(draws.std() / 8192 - 1) < 5 / math.sqrt(2 * 100_000)


def test_the_table_is_the_law_to_128_bits() -> None:
    """Against an independent sum in exact fractions of exp to 60 digits."""
    from decimal import Decimal, localcontext

    with localcontext() as context:
        context.prec = 70
        variance = Decimal(7) / 3
        weights = [(-Decimal(k * k) / (2 * variance)).exp() for k in range(-40, 41)]
        total = sum(weights)
        law = noise.tabulate(Fraction(7, 3))
        for k in (-5, -1, 0, 2, 6):
            exact = int(sum(weights[: k + 41]) / total * 2**128)
            tabulated = (int(law.high[k + law.reach]) << 64) | int(law.low[k + law.reach])
            assert abs(exact - tabulated) <= 2  # rounding down


@pytest.mark.parametrize(
    "weights", [[1], [2, 1], [2, 1, 0], [2**64, 2**63], [6, 5, 1], [10**40, 3, 1], [4, 2, 1, 1]]
)
def test_half_of_the_table_is_computed_and_the_other_half_follows(weights: list[int]) -> None:
    """Some of the weights add up to a whole number of units of 2^-128, others to none."""
    both = [*reversed(weights[1:]), *weights]
    sums = [sum(both[: index + 1]) for index in range(len(both))]
    expected = [min((each << 128) // sum(both), 2**128 - 1) for each in sums]
    high, low = noise._cumulative(weights, sum(both))
    assert [(int(h) << 64) + int(w) for h, w in zip(high, low, strict=True)] == expected


def test_ties_of_the_first_64_bits_are_decided_by_the_next() -> None:
    law = noise.tabulate(Fraction(4))
    at = law.reach  # the word whose first half equals the cumulative value at 0
    high, low = int(law.high[at]), int(law.low[at])

    def word(second: int) -> Entropy:
        answers = iter([high.to_bytes(8, "little"), second.to_bytes(8, "little")])
        return lambda size: next(answers)

    assert noise.discrete_gaussian(1, Fraction(4), word(low - 1)).tolist() == [0]
    assert noise.discrete_gaussian(1, Fraction(4), word(low)).tolist() == [1]


def test_extreme_words_stay_within_the_table() -> None:
    law = noise.tabulate(Fraction(4))
    assert noise.discrete_gaussian(1, Fraction(4), lambda size: b"\x00" * size).tolist() == [
        -law.reach + int(np.argmax((law.high > 0) | (law.low > 0)))
    ]
    assert (
        abs(
            int(
                noise.discrete_gaussian(
                    1, Fraction(4), lambda size: b"\xff" * 7 + b"\xfe" if size == 8 else b""
                )[0]
            )
        )
        <= law.reach
    )


@pytest.mark.parametrize("variance", [Fraction(1, 5), Fraction(0), Fraction(2**33)])
def test_a_scale_outside_the_table_is_refused(variance: Fraction) -> None:
    with pytest.raises(ValueError, match="grid"):
        noise.discrete_gaussian(1, variance)


# -- OpenDP, for short vectors
@pytest.mark.parametrize("sigma", [0.5, 1.0, 9.0, 100.0])
def test_opendp_follows_the_same_law_and_other_scales_fail(sigma: float) -> None:
    """It cannot be seeded: fails by chance once in a million runs."""
    draws = noise.from_opendp(20_000, Fraction(sigma) ** 2)
    assert p_value(draws, sigma) > 1e-6
    assert p_value(draws, 0.7 * sigma) < 1e-9 and p_value(draws, 1.3 * sigma) < 1e-9


@pytest.mark.parametrize("sigma", [2.0, 9.0])
def test_the_two_samplers_are_one_law(sigma: float) -> None:
    """Chi-squared of two samples, over values that each has at least ten times (once in a million
    by chance)."""
    table, opendp = (
        noise.from_table(50_000, Fraction(sigma) ** 2),
        noise.from_opendp(50_000, Fraction(sigma) ** 2),
    )
    values = np.arange(-int(6 * sigma), int(6 * sigma) + 1)
    counts = np.array(
        [[np.count_nonzero(draws == value) for value in values] for draws in (table, opendp)]
    )
    often = (counts >= 10).all(0)
    assert stats.chi2_contingency(counts[:, often])[1] > 1e-6


def test_short_vectors_come_from_opendp_and_long_ones_from_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []
    monkeypatch.setattr(
        noise,
        "from_opendp",
        lambda size, variance: drawn.append(("opendp", size)) or np.zeros(size, np.int64),
    )
    monkeypatch.setattr(
        noise,
        "from_table",
        lambda size, variance, entropy: drawn.append(("table", size)) or np.zeros(size, np.int64),
    )
    for size in (1, noise.SHORT, noise.SHORT + 1):
        noise.discrete_gaussian(size, Fraction(100))
    assert drawn == [("opendp", 1), ("opendp", noise.SHORT), ("table", noise.SHORT + 1)]


def test_opendp_states_the_cost_that_we_charge() -> None:
    import opendp.prelude as dp

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="i64")
    for sigma, sensitivity in ((3.0, 1), (70.5, 4)):
        stated = (space >> dp.m.then_gaussian(sigma)).map(sensitivity)
        assert accounting.gaussian_rho(
            Fraction(sensitivity), Fraction(sigma) ** 2
        ) == pytest.approx(stated * accounting.PICO, rel=1e-9)


# -- the floating-point attack
def share_with_low_bits(outputs: np.ndarray) -> float:
    """How many lie below 1 in size and have bits under 2^-53: the sum of 1 and noise cannot, the
    sum of 0 and noise can."""
    small = outputs[np.abs(outputs) < 1]
    return float(np.count_nonzero(small * 2.0**53 != np.floor(small * 2.0**53)) / len(outputs))


def test_what_leaves_a_node_tells_no_value_from_another_by_its_low_bits() -> None:
    """The attack of Mironov (2012), a hundred thousand times: an output of numpy's Gaussian with
    such bits proves that the value was not 1. What leaves a node is an integer that both values
    give, and its low digits are as frequent for both (chi-squared at 1e-6)."""
    rng, n = np.random.default_rng(1), 100_000
    assert (
        share_with_low_bits(rng.normal(0, 1, n)) > 0.05
        and share_with_low_bits(1 + rng.normal(0, 1, n)) == 0
    )  # the attack works
    grid = calibration.grid(1.0, 1, accounting.PICO // 2, whole=False)  # sigma 1
    steps = [
        calibration.to_steps(np.full(n, x), grid) + noise.from_table(n, grid.variance)
        for x in (0.0, 1.0)
    ]
    reach = noise.tabulate(grid.variance).reach - round(1 / grid.unit)
    # each may have come from either
    assert all(vector.dtype == np.int64 and np.abs(vector).max() < reach for vector in steps)
    for modulus in (2, 16, 97):
        counts = np.array([np.bincount(vector % modulus, minlength=modulus) for vector in steps])
        assert stats.chi2_contingency(counts)[1] > 1e-6


def test_without_opendp_short_vectors_come_from_the_table_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = []
    monkeypatch.setattr(noise, "opendp_is_installed", lambda: False)
    monkeypatch.setattr(
        noise,
        "from_table",
        lambda size, variance, entropy: sizes.append(size) or np.zeros(size, np.int64),
    )
    for size in (1, noise.SHORT + 1):
        noise.discrete_gaussian(size, Fraction(400))
    assert sizes == [1, noise.SHORT + 1]
