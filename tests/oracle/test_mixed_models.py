"""Random effects with a small variance, or 0: against R 4.2.2 (lme4 1.1-31) and, for balanced
groups, by hand.

Recipe: f <- function(m) print(c(as.data.frame(VarCorr(m))$sdcor, fixef(m), logLik(m)), digits = 12)
applied to
    lmer(Yield ~ 1 + (1 | Batch), Dyestuff2)
    lmer(diameter ~ 1 + (1 | plate), Penicillin), and of (1 | sample)
    lmer(height ~ age + (1 | Seed), Loblolly)
    lmer(height ~ age + (age | Seed), Loblolly)
all with control = lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-12)). lmer's search
stops within 1e-6 of the minimum, where the log-likelihood is right to 1e-9: the tolerances below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas
import pytest

from federation.errors import ModelError
from federation.results import Result
from tests import fits

DYESTUFF2 = [  # a row a batch
    [7.298, 3.846, 2.434, 9.566, 7.99],
    [5.22, 6.556, 0.608, 11.788, -0.892],
    [0.11, 10.386, 13.434, 5.51, 8.166],
    [2.212, 4.852, 7.092, 9.288, 4.98],
    [0.282, 9.014, 4.458, 9.446, 7.198],
    [1.722, 4.782, 8.106, 0.758, 3.758],
]  # fmt: skip
PENICILLIN = [  # a row a plate, a column a sample
    [27, 23, 26, 23, 23, 21],
    [27, 23, 26, 23, 23, 21],
    [25, 21, 25, 24, 24, 20],
    [26, 23, 25, 23, 23, 20],
    [25, 22, 26, 22, 23, 20],
    [24, 22, 25, 23, 22, 19],
    [24, 20, 23, 21, 22, 19],
    [26, 22, 26, 24, 24, 21],
    [24, 21, 24, 22, 22, 20],
    [24, 21, 24, 23, 22, 19],
    [26, 23, 26, 24, 24, 21],
    [25, 22, 26, 24, 24, 20],
    [26, 24, 26, 24, 25, 22],
    [26, 23, 26, 23, 23, 20],
    [26, 23, 25, 24, 24, 22],
    [25, 22, 25, 23, 23, 20],
    [25, 21, 24, 23, 23, 20],
    [25, 22, 24, 23, 23, 19],
    [24, 21, 23, 21, 21, 19],
    [26, 23, 26, 24, 24, 21],
    [25, 21, 24, 22, 22, 18],
    [25, 22, 25, 22, 22, 20],
    [24, 21, 24, 22, 24, 19],
    [24, 21, 24, 22, 21, 18],
]  # fmt: skip
LOBLOLLY = [  # a row a tree, a column an age
    [4.51, 10.89, 28.72, 41.74, 52.7, 60.92],
    [4.55, 10.92, 29.07, 42.83, 53.88, 63.39],
    [4.79, 11.37, 30.21, 44.4, 55.82, 64.1],
    [3.91, 9.48, 25.66, 39.07, 50.78, 59.07],
    [4.81, 11.2, 28.66, 41.66, 53.31, 63.05],
    [3.88, 9.4, 25.99, 39.55, 51.46, 59.64],
    [4.32, 10.43, 27.16, 40.85, 51.33, 60.07],
    [4.57, 10.57, 27.9, 41.13, 52.43, 60.69],
    [3.77, 9.03, 25.45, 38.98, 49.76, 60.28],
    [4.33, 10.79, 28.97, 42.44, 53.17, 61.62],
    [4.38, 10.48, 27.93, 40.2, 50.06, 58.49],
    [4.12, 9.92, 26.54, 37.82, 48.43, 56.81],
    [3.93, 9.34, 26.08, 37.79, 48.31, 56.43],
    [3.46, 9.05, 25.85, 39.15, 49.12, 59.49],
]  # fmt: skip
AGES = [3.0, 5.0, 10.0, 15.0, 20.0, 25.0]


def fit(groups: Sequence[Sequence[float]], x: Sequence[float] = (), **options: Any) -> Result:
    """A person is a row of `groups`; `x` is of each column."""
    values = np.array(groups, float)
    table = pandas.DataFrame(
        {
            "person": np.repeat(np.arange(len(values)), values.shape[1]),
            "y": values.ravel(),
            "x": np.tile(list(x) or [0.0] * values.shape[1], len(values)),
        }
    )
    contract = fits.contract(
        {"y": "type: number, range: [-100, 200]", "x": "type: number, range: [0, 30]"},
        rows_per_person=30,
    )
    model = "y ~ x" if x else "y ~ 1"
    return fits.fit(table, contract, run="mixed_model", model=model, **options)


def check(
    result: Result, deviations: Sequence[float], fixed: Sequence[float], loglik: float
) -> None:
    random = [row["estimate"] for row in result.tables["random"].rows]
    assert random == pytest.approx(deviations, rel=2e-6, abs=1e-9)
    estimates = [row["estimate"] for row in result.tables["coefficients"].rows]
    assert estimates == pytest.approx(fixed, rel=1e-9)
    assert result.tables["glance"].rows[0]["log_lik"] == pytest.approx(loglik, abs=1e-8)


def test_dyestuff2_has_no_variance_between_batches() -> None:
    result = fit(DYESTUFF2)
    check(result, [0, 3.715684274], [5.6656], -80.9141389061)
    assert any("singular" in note for note in result.notes)


def test_penicillin_by_plate_varies_little_and_by_sample_much() -> None:
    check(fit(PENICILLIN), [0.3083644155, 2.008316034], [22.9722222222], -306.628012004)
    samples = np.array(PENICILLIN).T.tolist()
    check(fit(samples), [1.923810494, 1.009615605], [22.9722222222], -217.958930822)


def test_loblolly_by_tree() -> None:
    fixed = [-1.3123963964, 2.59052316602]
    result = fit(LOBLOLLY, AGES)
    check(result, [0.8795199624, 2.819128763], fixed, -210.821431389)
    assert not any("singular" in note for note in result.notes)
    slopes = fit(LOBLOLLY, AGES, random="1 + x")
    check(slopes, [0.2175391051, 0.06276225839, 1, 2.72696325], fixed, -209.796510005)
    assert any("singular" in note for note in slopes.notes)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5])
def test_balanced_persons_have_the_variance_of_the_analysis_of_variance(
    seed: int, share: float
) -> None:
    """By hand: with k rows of each of m persons the REML estimate is (MSB - MSW) / k, or 0 if that
    is negative, and the residual variance is MSW, or the total variance.
    `share` is the intraclass correlation."""
    rng, m, k = np.random.default_rng(seed), 60, 5
    y = rng.normal(0, math.sqrt(share), (m, 1)) + rng.normal(0, math.sqrt(1 - share), (m, k))
    between = k * float(y.mean(1).var(ddof=1))
    within = float(y.var(1, ddof=1).mean())
    if between >= within:
        expected = [math.sqrt((between - within) / k), math.sqrt(within)]
    else:
        expected = [0.0, float(y.std(ddof=1))]
    deviations = [row["estimate"] for row in fit(y.tolist()).tables["random"].rows]
    assert deviations == pytest.approx(expected, rel=1e-7, abs=1e-7)  # where the likelihood is flat


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("scale", [3.0, 30.0, 300.0])
@pytest.mark.parametrize("copied", ["h", "2 h", "1 - h"])
def test_a_column_that_repeats_another_is_left_out_at_any_variance_between_persons(
    copied: str, scale: float, method: str
) -> None:
    """What is aliased was decided anew in each round, where a large variance between persons left
    rounding errors of the column, and the method did not settle. The other columns are those of the
    model without it."""
    i = np.arange(180)
    person, h = i % 60, (i % 60) // 2 % 2
    rows = {"person": person, "h": h, "x": {"h": h, "2 h": 2 * h, "1 - h": 1 - h}[copied]}
    rows |= {"y": scale * np.cos(3.0 * person) + (i // 60) + 0.1 * np.sin(7.0 * i)}
    contract = fits.contract(
        {
            "y": "type: number, range: [-400, 400]",
            "h": "type: boolean",
            "x": "type: number, range: [0, 2]",
        },
        rows_per_person=3,
    )
    table, options = pandas.DataFrame(rows), {"run": "mixed_model", "method": method}
    result = fits.fit(table, contract, model="y ~ h + x", **options)
    alone = fits.fit(table, contract, model="y ~ h", **options)
    *estimates, left_out = (row["estimate"] for row in result.tables["coefficients"].rows)
    assert left_out is None and any("x: not estimated" in note for note in result.notes)
    expected = [row["estimate"] for row in alone.tables["coefficients"].rows]
    assert estimates == pytest.approx(expected, rel=1e-7, abs=1e-9)  # one maximum, two ways to it


@pytest.mark.parametrize("digits", [0, 1, 2])
def test_rows_that_do_not_differ_within_persons_are_refused_by_name(digits: int) -> None:
    """lme4 ends at a residual of 1e-8, and other sums at another."""
    values = np.repeat(np.round(np.cos(np.arange(40.0)), digits), 3).reshape(40, 3)
    with pytest.raises(ModelError, match=r"rows of each person hardly differ|fits every row"):
        fit(values.tolist())


@pytest.mark.parametrize("seed", [5, 9, 12, 14])
def test_no_correlation_is_beyond_one(seed: int) -> None:
    """A singular fit has a correlation of 1 or -1, and rounding made it 1.0000000000000002."""
    rng, x = np.random.default_rng(seed), [0.0, 1.0, 2.0]
    intercepts = rng.normal(0, 3, (25, 1))
    y = intercepts * (1 + 0.3 * np.array(x)) + rng.normal(0, 0.5, (25, 3))
    random = fit(y.tolist(), x, random="1 + x").tables["random"].rows
    (correlation,) = (row["estimate"] for row in random if "correlation" in row["term"])
    assert abs(correlation) <= 1 and correlation == pytest.approx(1, abs=0.1)  # by construction


def test_one_row_a_person_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="1 random effect of each person cannot be separated"):
        fit(np.arange(40.0)[:, None].tolist())
    two = [[float(i % 7), float(i % 5)] for i in range(40)]
    with pytest.raises(ModelError, match="2 random effects of each person cannot be separated"):
        fit(two, [0.0, 1.0], random="1 + x")
