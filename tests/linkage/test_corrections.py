"""False links in a linear model and in proportions, corrected from sums alone."""

from __future__ import annotations

import numpy as np
import pytest

from federation.linkage import corrections

N = 50_000


def with_false_links(rng, outcome: np.ndarray, precision: float) -> np.ndarray:
    wrong = np.flatnonzero(rng.random(len(outcome)) > precision)
    linked = outcome.copy()
    linked[wrong] = outcome[rng.permutation(wrong)]
    return linked


@pytest.mark.parametrize("precision", [1.0, 0.95, 0.9])
def test_a_slope_that_false_links_shrink_is_corrected(precision):
    """A false link takes 1 - precision of the slope; the s.e.
    of a slope here is 1 / sqrt(N) = 0.0045."""
    rng = np.random.default_rng(2)
    X = np.column_stack([np.ones(N), rng.normal(0, 1, (N, 2))])
    truth = np.array([1.0, 0.5, -0.3])
    linked = with_false_links(rng, X @ truth + rng.normal(0, 1, N), precision)
    gram, xy = X.T @ X, X.T @ linked
    naive = np.linalg.solve(gram, xy)
    corrected = corrections.linear(gram, X.sum(0), xy, N, precision)
    assert naive[1] == pytest.approx(0.5 * precision, abs=4 * 0.0045)
    assert corrected == pytest.approx(truth, abs=4 * 0.0045 / precision)


@pytest.mark.parametrize("precision", [1.0, 0.9])
def test_proportions_that_false_links_pull_together_are_corrected(precision):
    rng = np.random.default_rng(3)
    group = rng.integers(0, 2, N)
    linked = with_false_links(rng, rng.random(N) < np.where(group, 0.6, 0.2), precision)
    observed = np.array([linked[group == level].mean() for level in (0, 1)])
    corrected = corrections.proportion(observed, float(linked.mean()), precision)
    assert corrected == pytest.approx([0.2, 0.6], abs=4 * 0.0031 / precision)  # s.e. of each


def test_a_corrected_proportion_stays_one():
    assert corrections.proportion(np.array([0.0, 1.0]), 0.5, 0.9).tolist() == [0.0, 1.0]
