"""Firth's penalised likelihood against R 4.2.2 with brglm2 0.9 (the mean bias-reducing adjustment,
which for a logistic and a log-linear model is Firth's penalty), and against a numerical maximum.
Recipe:

    g <- factor(rep(c("a", "b", "c"), c(40, 100, 100))); i <- seq_along(g) - 1 y <- ifelse(g == "a",
    0, ifelse(g == "b", i %% 2 == 0, i %% 4 == 0)) * 1 k <- y * (1 + i %% 3); x <- sin(7 * i); days
    <- 10 + i %% 90 m <- glm(FORMULA, FAMILY, method = "brglmFit", control = brglmControl(epsilon =
    1e-13, maxit = 2000, type = "AS_mean")) c(coef(m), sqrt(diag(vcov(m))))

Tolerance 1e-7: both methods come nearer by a share each round, and stop at 1e-9 here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import pytest

from federation import errors
from tests import fits

CONTRACT = fits.contract(
    {
        "g": "type: category, levels: [a, b, c]",
        "x": "type: number, range: [-1, 1]",
        "y": "type: boolean",
        "k": "type: number, range: [0, 9]",
        "days": "type: number, range: [1, 200]",
    }
)


def table() -> pandas.DataFrame:
    g = np.repeat(["a", "b", "c"], [40, 100, 100])
    i = np.arange(240)
    y = np.select([g == "a", g == "b"], [0, i % 2 == 0], i % 4 == 0).astype(int)
    columns = {"g": g, "y": y, "k": y * (1 + i % 3), "x": np.sin(7.0 * i), "days": 10.0 + i % 90}
    return pandas.DataFrame({"person": i, **columns})


CASES: list[tuple[str, str, list[float], list[float]]] = [
    (
        "binomial",
        "y ~ g",
        [-4.39444915467, 4.39444915467, 3.30899495058],
        [1.4405931563, 1.45441006665, 1.45886735811],
    ),
    (
        "binomial",
        "y ~ g + x",
        [-4.38212929475, 4.38136194426, 3.30259086772, -0.0292142587987],
        [1.43327973828, 1.44722415267, 1.45158074779, 0.211946710056],
    ),
    (
        "binomial",
        "y ~ g * x",
        [
            -3.70905373336,
            3.70930784041,
            2.63708884675,
            -0.145182849447,
            0.154924877854,
            0.0644759417561,
        ],
        [1.03752780617, 1.05665523726, 1.0626143583, 1.47855870574, 1.50521415943, 1.51381470931],
    ),
    (
        "poisson",
        "k ~ g + x",
        [-4.37859756289, 4.37679941104, 3.71834694008, -0.00324381466492],
        [1.41196815002, 1.41553215405, 1.41879587054, 0.114520721609],
    ),
    (
        "poisson",
        "k ~ g + x + offset(log(days))",
        [-7.7622721467, 3.7618799937, 3.08614525548, -0.013272927105],
        [1.41193967828, 1.415512899, 1.41876066928, 0.114729404631],
    ),
]


@pytest.mark.parametrize(("family", "model", "estimates", "std_errors"), CASES)
def test_penalised_estimates_are_those_of_brglm2(
    family: str, model: str, estimates: list[float], std_errors: list[float]
) -> None:
    result = fits.fit(table(), CONTRACT, run="glm", model=model, family=family, penalty="firth")
    rows = result.tables["coefficients"].rows
    assert [row["estimate"] for row in rows] == pytest.approx(estimates, rel=1e-7, abs=1e-8)
    assert [row["std_error"] for row in rows] == pytest.approx(std_errors, rel=1e-7)
    assert any("Firth" in note for note in result.notes)


def test_a_single_table_has_the_estimate_of_half_a_person_more_in_each_cell() -> None:
    """By hand: for one group Firth's penalty is Jeffreys' prior, which adds a half to the yes and
    to the no."""
    rows = pandas.DataFrame({"person": range(30), "y": [1] * 3 + [0] * 27})
    contract = fits.contract({"y": "type: boolean"})
    result = fits.fit(rows, contract, run="glm", model="y ~ 1", family="binomial", penalty="firth")
    (row,) = result.tables["coefficients"].rows
    assert row["estimate"] == pytest.approx(np.log(3.5 / 27.5), rel=1e-9)


def test_separated_numbers_have_a_penalised_estimate() -> None:
    """x = (-1, 0, 0, 1), y = (0, 0, 1, 1), twenty times: brglm2 gives 0 and 4.34816674716."""
    rows = pandas.DataFrame({"person": range(80), "x": [-1, 0, 0, 1] * 20, "y": [0, 0, 1, 1] * 20})
    contract = fits.contract({"x": "type: number, range: [-10, 10]", "y": "type: boolean"})
    result = fits.fit(rows, contract, run="glm", model="y ~ x", family="binomial", penalty="firth")
    estimates = [row["estimate"] for row in result.tables["coefficients"].rows]
    assert estimates == pytest.approx([0.0, 4.34816674716], rel=1e-7, abs=1e-9)


def test_a_column_that_repeats_another_is_left_out_of_the_penalty_too() -> None:
    twice = {"twice": "x * 2"}
    options: dict[str, Any] = {"run": "glm", "family": "binomial", "penalty": "firth"}
    rows = table().assign(twice=lambda frame: frame.x * 2)
    both = fits.fit(rows, CONTRACT, derive=twice, model="y ~ g + x + twice", **options)
    alone = fits.fit(rows, CONTRACT, model="y ~ g + x", **options)
    *rest, last = both.tables["coefficients"].rows
    assert last["estimate"] is None
    for row, expected in zip(rest, alone.tables["coefficients"].rows, strict=True):
        assert row["estimate"] == pytest.approx(expected["estimate"], rel=1e-8)


@pytest.mark.parametrize(
    "options",
    [
        {"run": "glm", "model": "x ~ g", "penalty": "firth"},
        {"run": "multiple_imputation", "model": "y ~ x", "impute": ["x"], "penalty": "firth"},
    ],
)
def test_a_penalty_is_refused_where_it_has_no_meaning(options: dict[str, Any]) -> None:
    with pytest.raises(errors.StudyError, match="penalty"):
        fits.task_of(CONTRACT, options, {})


# -- Cox's model
SURVIVAL = fits.contract(
    {
        "g": "type: category, levels: [a, b, c]",
        "s": "type: category, levels: [u, v], within_node: true",
        "x": "type: number, range: [-1, 1]",
        "begin": "type: number, range: [0, 40], step: 1",
        "t": "type: number, range: [0, 40], step: 1",
        "e": "type: boolean",
    }
)


def survival_table() -> pandas.DataFrame:
    rows = table()
    i = rows["person"].to_numpy()
    more = {"t": 2 + (i * 7) % 37, "e": rows["y"], "s": np.where(i % 2, "u", "v")}
    return rows.assign(**more, **{"begin": np.where(i % 3, 0, 1)})


def penalised(beta: np.ndarray, rows: pandas.DataFrame, strata: str, entry: str) -> Any:
    """By definition: Breslow's partial log-likelihood plus half the log determinant of its
    information; and that."""
    X = np.column_stack([rows.g == "b", rows.g == "c", rows.x]).astype(float)
    t, e = rows.t.to_numpy(), rows.e.to_numpy()
    begin = rows[entry].to_numpy() if entry else np.full(len(t), -1)
    stratum = rows[strata].to_numpy() if strata else np.zeros(len(t))
    value, information = 0.0, np.zeros((3, 3))
    for i in np.flatnonzero(e):
        met = (t >= t[i]) & (begin < t[i]) & (stratum == stratum[i])
        share = np.exp(X[met] @ beta)
        value += X[i] @ beta - np.log(share.sum())
        share /= share.sum()
        centred = X[met] - share @ X[met]
        information += (centred * share[:, None]).T @ centred
    return value + np.linalg.slogdet(information)[1] / 2, information


@pytest.mark.parametrize(
    ("left", "strata", "entry", "more"),
    [
        ("Surv(t, e)", "", "", {}),
        ("Surv(begin, t, e)", "", "begin", {}),
        ("Surv(t, e)", "s", "", {"strata": "s"}),
        ("Surv(t, e)", "s", "", {"strata": "node"}),
    ],
)
def test_a_penalised_cox_model_is_at_the_maximum_of_the_penalised_likelihood(
    left: str, strata: str, entry: str, more: dict[str, Any]
) -> None:
    """At the estimate all slopes of the definition vanish (central differences of 1e-4 are right to
    1e-8 or so, a slope of 1e-6 is a step of 1e-6 where the information is near 1), and the errors
    are those of its information."""
    rows = survival_table()
    options = {"run": "cox", "ties": "breslow", "penalty": "firth", **more}
    result = fits.fit(rows, SURVIVAL, model=f"{left} ~ g + x", **options)
    coefficients = result.tables["coefficients"].rows
    beta = np.array([row["estimate"] for row in coefficients])
    step = 1e-4 * np.eye(3)
    slopes = [
        (
            penalised(beta + part, rows, strata, entry)[0]
            - penalised(beta - part, rows, strata, entry)[0]
        )
        / 2e-4
        for part in step
    ]
    np.testing.assert_allclose(slopes, 0.0, atol=1e-6)
    errors_by_definition = np.sqrt(np.diag(np.linalg.inv(penalised(beta, rows, strata, entry)[1])))
    assert [row["std_error"] for row in coefficients] == pytest.approx(errors_by_definition, 1e-7)
    assert 2 < beta[0] < 7 and any("Firth" in note for note in result.notes)


def test_a_penalised_cox_model_needs_breslows_ties() -> None:
    options = {"run": "cox", "model": "Surv(t, e) ~ g", "penalty": "firth"}
    with pytest.raises(errors.StudyError, match="ties: breslow"):
        fits.task_of(SURVIVAL, options, {})
