"""The federated answers against R's on the pooled rows:
recipe.R (R 4.2.2, survival 3.5-3) made expected.json.

Tolerance: 1e-8 relative, as promised; R was run with its convergence thresholds at 1e-14, so its
own error is below.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from federation import contract as contracts
from federation.results import Result
from tests import federations

HERE = Path(__file__).parent
EXPECTED: dict[str, dict[str, Any]] = json.loads((HERE / "expected.json").read_text())
CONTRACT = contracts.load(HERE / "people.yaml")
EXACT = {"rtol": 1e-8, "atol": 1e-12}  # atol: for numbers that are zero but for rounding


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs one analysis over people.csv, each site a node."""
    table = pandas.read_csv(HERE / "people.csv", dtype=str, keep_default_na=False)
    sites = federations.sites_of(table, table["site"], CONTRACT, tmp_path_factory.mktemp("people"))

    def run(**options: Any) -> Result:
        return federations.result(
            federations.run(federations.study_of({"a": options}), CONTRACT, sites)
        )

    return run


def column(result: Result, table: str, name: str) -> Any:
    return np.array([row[name] for row in result.tables[table].rows], dtype=float)


def check_fit(result: Result, entry: str) -> None:
    expected = EXPECTED[entry]
    np.testing.assert_allclose(
        column(result, "coefficients", "estimate"), expected["coef"], **EXACT
    )
    np.testing.assert_allclose(column(result, "coefficients", "std_error"), expected["se"], **EXACT)


COX = "Surv(start, stop, event) ~ age + dose + sex + arm"
COX_MODELS = {
    "cox_efron": {"model": COX},
    "cox_breslow": {"model": COX, "ties": "breslow"},
    "cox_site_efron": {"model": COX, "strata": "site"},
    "cox_site_breslow": {"model": f"{COX} + strata(site)", "ties": "breslow"},
    "cox_weighted_robust_efron": {"model": COX, "weights": "weight", "robust": True},
    "cox_weighted_robust_breslow": {
        "model": COX,
        "weights": "weight",
        "robust": True,
        "ties": "breslow",
    },
    "cox_site_weighted_robust_efron": {
        "model": COX,
        "weights": "weight",
        "robust": True,
        "strata": "node",
    },
    "cox_site_weighted_robust_breslow": {
        "model": COX,
        "weights": "weight",
        "robust": True,
        "strata": "site",
        "ties": "breslow",
    },
    "cox_interaction": {
        "model": "Surv(stop, event) ~ log(dose) * sex + I(age**2) + C(arm, ref='b')"
    },
}


@pytest.mark.parametrize("entry", COX_MODELS)
def test_cox_is_the_pooled_fit_of_coxph(entry: str, people: Any) -> None:
    result = people(run="cox", **COX_MODELS[entry])
    check_fit(result, entry)
    glance = result.tables["glance"].rows[0]
    np.testing.assert_allclose(
        [glance["null_log_lik"], glance["log_lik"]], EXPECTED[entry]["loglik"], **EXACT
    )


def test_strata_that_span_nodes_are_pooled_by_the_hub(tmp_path: Path) -> None:
    """The same stratified fit, with rows of every site at every node: only the hub can build the
    risk sets."""
    table = pandas.read_csv(HERE / "people.csv", dtype=str, keep_default_na=False)
    spanning = CONTRACT.model_copy(
        update={
            "columns": {
                **CONTRACT.columns,
                "site": CONTRACT.columns["site"].model_copy(update={"within_node": False}),
            }
        }
    )
    persons = table["person"].astype(int) % 3
    sites = federations.sites_of(table, persons, spanning, tmp_path)
    for ties in ("efron", "breslow"):
        study = federations.study_of(
            {
                "a": {
                    "run": "cox",
                    "model": COX,
                    "strata": "site",
                    "weights": "weight",
                    "robust": True,
                    "ties": ties,
                }
            }
        )
        check_fit(
            federations.result(federations.run(study, spanning, sites)),
            f"cox_site_weighted_robust_{ties}",
        )


GLM_MODELS = {
    "gaussian": {"model": "score ~ age + dose + sex * arm"},
    "gaussian_weighted": {"model": "score ~ age + dose + sex", "weights": "weight"},
    "binomial": {"model": "died ~ age + dose + sex + arm", "family": "binomial"},
    "binomial_no_intercept": {"model": "died ~ 0 + arm + dose:sex", "family": "binomial"},
    "poisson": {"model": "visits ~ age + sex + offset(log(exposure))", "family": "poisson"},
    "poisson_weighted": {"model": "visits ~ dose + sex", "weights": "weight", "family": "poisson"},
}


@pytest.mark.parametrize("entry", GLM_MODELS)
def test_glm_is_the_pooled_fit_of_glm(entry: str, people: Any) -> None:
    result = people(run="glm", **GLM_MODELS[entry])
    check_fit(result, entry)
    glance, expected = result.tables["glance"].rows[0], EXPECTED[entry]
    np.testing.assert_allclose(
        [glance["deviance"], glance["log_lik"], glance["aic"]],
        [expected["deviance"], expected["loglik"], expected["aic"]],
        **EXACT,
    )
    if glance["null_deviance"] is not None:
        np.testing.assert_allclose(glance["null_deviance"], expected["null"], **EXACT)


@pytest.mark.parametrize(
    ("entry", "response", "cuts"),
    [
        ("piecewise", "Surv(stop, event)", [5, 12, 20]),
        ("piecewise_entry", "Surv(start, stop, event)", [8, 15]),
    ],
)
def test_piecewise_exponential_is_poisson_regression_of_split_follow_up(
    entry: str, response: str, cuts: list[float], people: Any
) -> None:
    result = people(
        run="piecewise_exponential", model=f"{response} ~ age + dose + sex + arm", cuts=cuts
    )
    check_fit(result, entry)
    np.testing.assert_allclose(
        np.log(column(result, "baseline", "hazard")), EXPECTED[entry]["hazard"], **EXACT
    )
    ends = [np.log(column(result, "baseline", name)) for name in ("conf_low", "conf_high")]
    np.testing.assert_allclose(
        (ends[1] - ends[0]) / 2 / 1.959963984540054, EXPECTED[entry]["se_hazard"], **EXACT
    )
    np.testing.assert_allclose(
        result.tables["glance"].rows[0]["log_lik"], EXPECTED[entry]["loglik"], **EXACT
    )


@pytest.mark.parametrize(
    ("entry", "model"),
    [("km", "Surv(stop, event) ~ 1"), ("km_entry", "Surv(start, stop, event) ~ 1")],
)
def test_kaplan_meier_is_survfit(entry: str, model: str, people: Any) -> None:
    expected = EXPECTED[entry]
    rows = [
        row
        for row in people(run="kaplan_meier", model=model).tables["curve"].rows
        if row["time"] in expected["time"]
    ]
    assert [row["time"] for row in rows] == expected["time"]
    assert [row["n_risk"] for row in rows] == expected["n_risk"]
    for ours, theirs in (
        ("estimate", "surv"),
        ("std_error", "se"),
        ("conf_low", "low"),
        ("conf_high", "high"),
    ):
        mine = [np.nan if row[ours] is None else row[ours] for row in rows]
        is_known = ~np.isnan(np.array(mine, float)) & ~np.isnan(np.array(expected[theirs], float))
        assert is_known.sum() >= len(rows) - 3  # both leave the interval out once the curve is at 0
        np.testing.assert_allclose(
            np.array(mine, float)[is_known], np.array(expected[theirs], float)[is_known], **EXACT
        )


@pytest.mark.parametrize(
    ("entry", "model"),
    [
        ("log_rank", "Surv(stop, event) ~ arm"),
        ("log_rank_strata", "Surv(stop, event) ~ arm + strata(sex)"),
    ],
)
def test_log_rank_is_survdiff(entry: str, model: str, people: Any) -> None:
    row = people(run="kaplan_meier", model=model).tables["log_rank"].rows[0]
    np.testing.assert_allclose(row["statistic"], EXPECTED[entry]["statistic"], **EXACT)
    assert row["df"] == EXPECTED[entry]["df"]


def test_crosstab_is_table_and_chisq_test(people: Any) -> None:
    result = people(run="crosstab", rows="arm", columns="sex")
    assert column(result, "counts", "n").tolist() == EXPECTED["chi_squared"]["counts"]
    row = result.tables["chi_squared"].rows[0]
    np.testing.assert_allclose(
        [row["statistic"], row["p_value"]],
        [EXPECTED["chi_squared"]["statistic"], EXPECTED["chi_squared"]["p"]],
        **EXACT,
    )
    row = people(run="crosstab", rows="sex", columns="died").tables["chi_squared"].rows[0]
    np.testing.assert_allclose(
        [row["statistic"], row["p_value"]],
        [EXPECTED["chi_squared_yates"]["statistic"], EXPECTED["chi_squared_yates"]["p"]],
        **EXACT,
    )


def test_describe_is_mean_sd_and_quantile(people: Any) -> None:
    expected = EXPECTED["describe"]
    wanted = [0.1, 0.25, 0.5, 0.75, 0.9]
    exact = people(run="describe", columns=["age"], quantiles=wanted, method="exact")
    row = exact.tables["numbers"].rows[0]
    assert row["n"] == expected["n"]
    np.testing.assert_allclose(
        [row["mean"], row["sd"]], [expected["mean"], expected["sd"]], **EXACT
    )
    assert (
        column(exact, "quantiles", "estimate").tolist() == expected["quantile"]
    )  # the very order statistics
    rough = people(run="describe", columns=["age"], quantiles=wanted)
    assert rough.exactness.kind == "approximate"
    off = np.abs(column(rough, "quantiles", "estimate") - expected["quantile"])
    assert (off <= column(rough, "quantiles", "width")).all()
