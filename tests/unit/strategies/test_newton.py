"""Newton's method on sums that carry rounding errors, as those of a secure sum do."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from federation.arrays import Floats
from federation.errors import ModelError
from federation.messages import State
from strategies.numerics import newton

N = 4000


def design() -> tuple[Floats, Floats]:
    """The second column hardly varies, so that an error of the score moves its coefficient far."""
    rng = np.random.default_rng(3)
    X = np.stack([np.ones(N), 0.02 * rng.normal(size=N), rng.normal(size=N)], axis=1)
    y = rng.uniform(size=N) < 1 / (1 + np.exp(-X @ [-0.5, 2.0, 0.4]))
    return X, y.astype(float)


def fit(unit: float) -> newton.Top:
    """A logistic regression whose sums have errors of up to half a `unit`, anew in each round."""
    (X, y), rng = design(), np.random.default_rng(8)

    def rounded(sums: Floats) -> Floats:
        return sums + rng.uniform(-unit / 2, unit / 2, sums.shape)

    state = newton.begin(np.zeros(3))
    while True:
        eta = X @ state["beta"]
        mean = 1 / (1 + np.exp(-eta))
        score, information = rounded(X.T @ (y - mean)), newton.gram(X, mean * (1 - mean))
        log_lik = float(rounded(np.array([y @ eta - np.logaddexp(0, eta).sum()]))[0])
        result = newton.climb(state, score, information, log_lik, str, sensitivity=inf)
        if isinstance(result, newton.Top):
            return result
        assert isinstance(result, State)
        state = result


@pytest.mark.parametrize("unit", [2.0**-24, 2.0**-20])
def test_a_fit_ends_where_rounding_errors_hide_the_maximum(unit: float) -> None:
    """Within 1e-5 standard errors: the steps that remain are made of rounding errors."""
    exact, rough = fit(0.0), fit(unit)
    errors = np.sqrt(np.diag(exact.step.covariance))
    assert np.abs(exact.beta - rough.beta).max() > 1e-9, "the errors are large enough to matter"
    assert (np.abs(exact.beta - rough.beta) <= 1e-5 * errors).all()
    assert rough.rounds <= exact.rounds + 3


def test_a_fit_whose_sums_do_not_determine_it_does_not_end_as_if_it_had_settled() -> None:
    with pytest.raises(ModelError):
        fit(0.5)


def test_a_fit_without_rounding_errors_goes_on_to_a_short_step() -> None:
    top = fit(0.0)
    assert np.abs(top.step.beta).max() <= 1e-9 * max(1.0, np.abs(top.beta).max())
