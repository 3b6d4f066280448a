"""The federated answers against R's on the pooled rows: vocabulary.R made vocabulary.json.

Tolerance: 1e-8 relative where nothing else is said; R was run with its convergence thresholds as
tight as they go.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy import stats

from aggregator import meta_analysis
from federation import contract as contracts
from federation import errors
from federation.results import Result
from nodes import predictions
from nodes.site import Dataset, Site
from simulations.pilots import running
from strategies.regression import multiple_imputation
from tests import federations

HERE = Path(__file__).parent
EXPECTED: dict[str, dict[str, Any]] = json.loads((HERE / "vocabulary.json").read_text())
EXACT = {"rtol": 1e-8, "atol": 1e-12}  # atol: for numbers that are zero but for rounding


def runner(name: str, folder: Path) -> Any:
    """Runs one analysis over NAME.csv, each site a node."""
    table = pandas.read_csv(HERE / f"{name}.csv", dtype=str, keep_default_na=False)
    contract = contracts.load(HERE / f"{name}.yaml")
    sites = federations.sites_of(table, table["site"], contract, folder)

    def run(**options: Any) -> Result:
        study = federations.study_of({"a": options}, dataset=name)
        return federations.result(federations.run(study, contract, sites))

    return run


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return runner("patients", tmp_path_factory.mktemp("patients"))


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return runner("visits", tmp_path_factory.mktemp("visits"))


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return runner("weeks", tmp_path_factory.mktemp("weeks"))


def column(result: Result, table: str, name: str, **where: str) -> Any:
    return np.array(
        [
            row[name]
            for row in result.tables[table].rows
            if all(row[key] == value for key, value in where.items())
        ],
        dtype=float,
    )


def test_cumulative_incidence_is_the_aalen_johansen_of_survfit(patients: Any) -> None:
    result, expected = (
        patients(run="cumulative_incidence", model="Surv(time, cause) ~ 1"),
        EXPECTED["aalen_johansen"],
    )
    assert column(result, "curve", "time", cause="relapse").tolist() == expected["time"]
    for cause in ("relapse", "death"):
        np.testing.assert_allclose(
            column(result, "curve", "estimate", cause=cause), expected[cause], **EXACT
        )
        np.testing.assert_allclose(
            column(result, "curve", "std_error", cause=cause), expected[f"se_{cause}"], **EXACT
        )
    for ours, theirs in (("conf_low", "low"), ("conf_high", "high")):
        mine, of_r = (
            column(result, "curve", ours, cause="relapse"),
            np.array(expected[theirs], float),
        )
        is_known = ~np.isnan(mine)
        assert is_known.sum() > 40
        np.testing.assert_allclose(mine[is_known], of_r[is_known], **EXACT)


@pytest.mark.parametrize("cause", ["relapse", "death"])
def test_fine_gray_is_crr(cause: str, patients: Any) -> None:
    result, expected = (
        patients(
            run="fine_gray", model="Surv(time, cause) ~ age + sex + stage + treated", cause=cause
        ),
        EXPECTED[f"fine_gray_{cause}"],
    )
    np.testing.assert_allclose(
        column(result, "coefficients", "estimate"), expected["coef"], **EXACT
    )
    np.testing.assert_allclose(column(result, "coefficients", "std_error"), expected["se"], **EXACT)
    glance = result.tables["glance"].rows[0]
    np.testing.assert_allclose(
        [glance["null_log_lik"], glance["log_lik"]], expected["loglik"], **EXACT
    )


def test_rates_and_ratios_are_those_of_epitools(patients: Any) -> None:
    result, expected = (
        patients(run="rates", events="admissions", time="years", by=["ward"]),
        EXPECTED["rates"],
    )
    for ours, theirs in (("n_event", "events"), ("person_time", "time"), ("rate", "rate")):
        np.testing.assert_allclose(column(result, "rates", ours), expected[theirs], **EXACT)
    for ours, theirs in (
        ("conf_low", "low"),
        ("conf_high", "high"),
    ):  # pois.exact searches its limits to 1e-4
        np.testing.assert_allclose(column(result, "rates", ours), expected[theirs], rtol=1e-3)
    for ours, theirs in (
        ("rate_ratio", "rr"),
        ("rate_ratio_low", "low"),
        ("rate_ratio_high", "high"),
    ):
        np.testing.assert_allclose(
            column(result, "ratios", ours), EXPECTED["rate_ratios"][theirs], **EXACT
        )


def test_standardised_rates_are_those_of_epitools(patients: Any) -> None:
    weights = {"sex=f": 3, "sex=m": 1}
    result, expected = (
        patients(
            run="rates",
            events="admissions",
            time="years",
            by=["ward"],
            over=["sex"],
            standard=weights,
        ),
        EXPECTED["direct"],
    )
    for ours, theirs in (
        ("rate", "crude"),
        ("estimate", "rate"),
        ("conf_low", "low"),
        ("conf_high", "high"),
    ):
        np.testing.assert_allclose(column(result, "standardised", ours), expected[theirs], **EXACT)
    for ours, theirs in (("n_event", "observed"), ("expected", "expected"), ("estimate", "sir")):
        np.testing.assert_allclose(
            column(result, "funnel", ours), EXPECTED["indirect"][theirs], **EXACT
        )


def test_sccs_is_the_conditional_poisson_fit_of_gnm(visits: Any) -> None:
    result, expected = (
        visits(run="sccs", model="events ~ window + band + offset(log(days))"),
        EXPECTED["sccs"],
    )
    np.testing.assert_allclose(
        column(result, "coefficients", "estimate"), expected["coef"], **EXACT
    )
    np.testing.assert_allclose(column(result, "coefficients", "std_error"), expected["se"], **EXACT)
    assert [result.n.people, result.n.events] == [expected["people"], expected["events"]]


@pytest.mark.parametrize(
    ("entry", "options"),
    [
        ("mixed_reml", {"model": "score ~ month * treated", "random": "1 + month"}),
        ("mixed_ml", {"model": "score ~ month * treated", "random": "1 + month", "method": "ml"}),
        ("mixed_site", {"model": "score ~ month + treated", "by": "site"}),
    ],
)
def test_mixed_models_are_those_of_lmer(entry: str, options: dict[str, Any], visits: Any) -> None:
    """lmer stops at about 1e-7 of the variances, whose likelihood is flat there: it is compared by
    likelihood, which must not be lower than lmer's; estimates to what that leaves open."""
    result, expected = visits(run="mixed_model", **options), EXPECTED[entry]
    assert (
        expected["loglik"] - 1e-9 * abs(expected["loglik"])
        <= result.tables["glance"].rows[0]["log_lik"]
        <= expected["loglik"] + 1e-6
    )
    np.testing.assert_allclose(
        column(result, "coefficients", "estimate"), expected["coef"], rtol=1e-6
    )
    np.testing.assert_allclose(
        column(result, "coefficients", "std_error"), expected["se"], rtol=1e-5
    )
    np.testing.assert_allclose(column(result, "random", "estimate"), expected["sd"], rtol=1e-5)


def test_individual_predictions_at_a_node_are_those_of_ranef(visits: Any, tmp_path: Path) -> None:
    """As `hdh node predict` writes them, to what lmer's own tolerance on the variances leaves of
    its predictions."""
    options = {"run": "mixed_model", "model": "score ~ month * treated", "random": "1 + month"}
    tables = {name: table.rows for name, table in visits(**options).tables.items()}
    study = federations.study_of({"a": options}, dataset="visits")
    document = {
        "study_hash": study.hash,
        "analyses": {"a": {"run": "mixed_model", "tables": tables}},
    }
    site = Site(
        "here",
        {"visits": Dataset(contracts.load(HERE / "visits.yaml"), str(HERE / "visits.csv"))},
        federations.OPEN,
    )
    assert predictions.write(study, "a", document, site, tmp_path / "own.csv") == 400
    assert (tmp_path / "own.csv").stat().st_mode & 0o777 == 0o600
    of_node = pandas.read_csv(tmp_path / "own.csv").set_index("person")
    assert list(of_node) == ["(Intercept)", "month"]
    np.testing.assert_allclose(
        of_node.loc[[0, 1, 2]].to_numpy().T.ravel(),
        EXPECTED["mixed_reml"]["blup"],
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(errors.InputError, match="another study"):
        predictions.write(study, "a", document | {"study_hash": "0"}, site, tmp_path / "other.csv")


FLEXIBLE = {
    "years": 4,
    "half_window": 3,
    "periods": 10,
    "recent": 26,
    "alpha": 0.01,
    "variant": "r-surveillance",
}
FARRINGTON = {
    "farrington_nb": {**FLEXIBLE, "limit": "nb"},
    "farrington_muan": {**FLEXIBLE, "limit": "muan"},
    "farrington_delta": {**FLEXIBLE, "limit": "delta"},
    "farrington_trend": {
        **FLEXIBLE,
        "limit": "delta",
        "periods": 1,
        "recent": 3,
        "threshold": 1.0,
        "trend_p": 0.05,
        "alpha": 0.05,
    },
}


def by_week(result: Result, name: str) -> list[Any]:
    """In R's order: week by week, north before south."""
    return [
        row[name]
        for row in sorted(
            result.tables["alarms"].rows, key=lambda row: (row["week"], row["series"])
        )
    ]


@pytest.mark.parametrize("entry", FARRINGTON)
def test_farrington_is_farrington_flexible(entry: str, weeks: Any) -> None:
    result, expected = (
        weeks(
            run="surveillance",
            week="week",
            by=["region"],
            test=6,
            method={"farrington": FARRINGTON[entry]},
        ),
        EXPECTED[entry],
    )
    np.testing.assert_allclose(by_week(result, "upper"), expected["upper"], **EXACT)
    np.testing.assert_allclose(by_week(result, "expected"), expected["expected"], **EXACT)
    assert [verdict == "alarm" for verdict in by_week(result, "alarm")] == [
        bool(verdict) for verdict in expected["alarm"]
    ]


@pytest.mark.parametrize("method", ["C1", "C2", "C3"])
def test_ears_is_ears_c(method: str, weeks: Any) -> None:
    result = weeks(
        run="surveillance",
        week="week",
        by=["region"],
        test=11,
        method={"ears": {"method": method, "enough": 0}},
    )
    upper, expected = (
        np.array(by_week(result, "upper")),
        np.array(EXPECTED[f"ears_{method}"]["upper"]),
    )
    if method == "C3":
        # surveillance 1.20.3 starts its C3 limit at the week's own count, not at the mean of the
        # weeks before as its manual and Hutwagner et al. 2003 do: so that its alarms do not depend
        # on the week. From there the distance must be ours.
        counts = np.array(by_week(result, "n"), float)
        above = expected > 0
        np.testing.assert_allclose(
            (upper - by_week(result, "expected"))[above & (upper > 0)],
            (expected - counts)[above & (upper > 0)],
            rtol=1e-8,
            atol=1e-10,
        )
        assert (above & (upper > 0)).sum() > 12
        return
    np.testing.assert_allclose(upper, expected, **EXACT)
    assert [verdict == "alarm" for verdict in by_week(result, "alarm")] == [
        bool(verdict) for verdict in EXPECTED[f"ears_{method}"]["alarm"]
    ]


def test_disproportionality_is_the_closed_forms_of_r(patients: Any) -> None:
    """Ratios by epitools, chi-squared by chisq.test with Yates's correction (which R makes smaller
    in a table that is near what is expected), the rest by qgamma, ppois and p.adjust."""
    result, expected = (
        patients(run="disproportionality", drug="ward", event="stage", min_reports=1),
        EXPECTED["disproportionality"],
    )
    rows = {(row["drug"], row["event"]): row for row in result.tables["pairs"].rows}
    keys = [(drug, event) for drug in "abcde" for event in ("i", "ii", "iii")]
    for name, values in expected.items():
        ours = [rows[key][name] for key in keys]
        finite = [
            i
            for i, our_row in enumerate(ours)
            if our_row is not None
            and (name != "chi_squared" or abs(rows[keys[i]]["n"] - rows[keys[i]]["expected"]) > 0.5)
        ]
        assert len(finite) >= 9, name
        np.testing.assert_allclose(
            [ours[i] for i in finite], [values[i] for i in finite], **EXACT, err_msg=name
        )


@pytest.mark.parametrize("estimand", ["ate", "att", "overlap"])
def test_propensity_weighting_is_glm_then_weighted_survfit_and_coxph(
    estimand: str, patients: Any
) -> None:
    options = {
        "treatment": "treated",
        "confounders": "age + sex + stage",
        "outcome": "Surv(time, cause != 'none')",
        "estimand": estimand,
    }
    result, expected = patients(run="propensity", **options), EXPECTED[f"propensity_{estimand}"]
    np.testing.assert_allclose(column(result, "score", "estimate"), expected["score"], **EXACT)
    np.testing.assert_allclose(
        column(result, "coefficients", "estimate"), expected["coef"], **EXACT
    )
    np.testing.assert_allclose(column(result, "coefficients", "std_error"), expected["se"], **EXACT)
    np.testing.assert_allclose(column(result, "balance", "smd_before"), expected["before"], **EXACT)
    # after weighting near 0
    np.testing.assert_allclose(
        column(result, "balance", "smd_after"), expected["after"], rtol=1e-8, atol=1e-9
    )
    np.testing.assert_allclose(column(result, "weights", "effective_n"), expected["ess"], **EXACT)
    rows = [row for row in result.tables["curve"].rows if row["time"] in (6, 12, 24, 36)]
    np.testing.assert_allclose([row["estimate"] for row in rows], expected["surv"], **EXACT)
    np.testing.assert_allclose([row["std_error"] for row in rows], expected["se_surv"], **EXACT)


@pytest.mark.parametrize(
    ("pilot", "entry"),
    [("rexetris", "divat"), ("deepsarc", "oropharynx"), ("parcours_idm", "trace")],
)
def test_the_pilots_on_real_data_give_the_pooled_fit(pilot: str, entry: str) -> None:
    document = running.run(pilot, "real").document
    analysis = document.analyses["effet" if entry == "oropharynx" else "modele"]
    rows = analysis.tables["coefficients"]
    np.testing.assert_allclose(
        [row["estimate"] for row in rows], np.atleast_1d(EXPECTED[entry]["coef"]), **EXACT
    )
    np.testing.assert_allclose(
        [row["std_error"] for row in rows], np.atleast_1d(EXPECTED[entry]["se"]), **EXACT
    )


def test_the_meta_analysis_of_the_nodes_is_that_of_metafor() -> None:
    y, se, expected = (
        [0.35, 0.12, 0.61, -0.04, 0.28],
        [0.11, 0.2, 0.15, 0.31, 0.09],
        EXPECTED["meta"],
    )
    rows = {
        f"n{i}": [{"term": "x", "estimate": a, "std_error": b}]
        for i, (a, b) in enumerate(zip(y, se, strict=True))
    }
    tables = meta_analysis.tables(
        rows | {"too few": [{"term": "x", "estimate": None, "std_error": None}]}, 0.95
    )
    names = {
        "estimate": "estimate",
        "std_error": "se",
        "tau_squared": "tau2",
        "i_squared": "i2",
        "q": "q",
        "p_value": "p",
        "fixed_estimate": "fixed",
        "fixed_std_error": "fixed_se",
    }
    for ours, theirs in names.items():
        np.testing.assert_allclose(tables["meta"][0][ours], expected[theirs], **EXACT, err_msg=ours)
    np.testing.assert_allclose(
        [row["estimate"] for row in tables["leave_one_out"]], expected["without"], **EXACT
    )
    np.testing.assert_allclose(
        [row["std_error"] for row in tables["leave_one_out"]], expected["without_se"], **EXACT
    )


RANKED = {
    "cost": {"value": "cost", "by": "treated"},
    "age": {"value": "age", "by": "sex", "step": 0.1},
    "years": {"value": "years", "by": "treated", "step": 0.001},
    "admissions": {"value": "admissions", "by": "sex"},
    "time": {"value": "time", "by": "sex"},
    "small": {"value": "age", "by": "treated", "step": 0.1},
}
SIDES = ("two.sided", "less", "greater")


@pytest.fixture(scope="module")
def sixty_patients(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("sixty")
    table = pandas.read_csv(HERE / "patients.csv", dtype=str, keep_default_na=False)
    first = table.loc[table["person"].astype(int).sort_values().index[:60]]
    contract = contracts.load(HERE / "patients.yaml")
    sites = federations.sites_of(first, [0] * 60, contract, folder)

    def run(**options: Any) -> Result:
        study = federations.study_of({"a": options}, dataset="patients")
        return federations.result(federations.run(study, contract, sites))

    return run


@pytest.mark.parametrize("correct", [True, False], ids=["corrected", "uncorrected"])
@pytest.mark.parametrize("side", range(3), ids=SIDES)
@pytest.mark.parametrize("name", RANKED)
def test_the_rank_sum_test_is_wilcox_test(
    name: str, side: int, correct: bool, patients: Any, sixty_patients: Any
) -> None:
    """Ties in all six; of admissions most people tie. `small` are the first sixty patients, where
    the corrections weigh most. Shifts to 1e-9: R bisects to 1e-11, and the recipe rounds."""
    ask, expected = (
        sixty_patients if name == "small" else patients,
        EXPECTED[f"rank_sum_{name}"],
    )
    result = ask(run="wilcoxon", **RANKED[name], alternative=SIDES[side], correct=correct)
    assert column(result, "groups", "n").tolist() == expected["n"]
    test = result.tables["test"].rows[0]
    p_values = expected["p_value" if correct else "p_uncorrected"]
    np.testing.assert_allclose(
        [test["statistic"], test["p_value"]], [expected["statistic"], p_values[side]], **EXACT
    )
    row = result.tables["superiority"].rows[0]
    np.testing.assert_allclose(
        [row["estimate"], row["std_error"], row["conf_low"], row["conf_high"]],
        [expected["superiority"], expected["superiority_se"], *expected["superiority_ends"]],
        **EXACT,
    )
    np.testing.assert_allclose(column(result, "quantiles", "estimate"), expected["median"], **EXACT)
    assert result.exactness.kind == "exact"
    shift = result.tables["shift"].rows[0]
    assert shift["estimate"] == pytest.approx(expected["shift"], abs=1e-9)
    ends = {
        ("two.sided", True): expected["shift_ends"],
        ("two.sided", False): expected["shift_uncorrected"],
        ("less", True): [None, expected["shift_less"]],
        ("greater", True): [expected["shift_greater"], None],
    }.get((SIDES[side], correct))
    if ends is not None:
        assert [shift["conf_low"], shift["conf_high"]] == pytest.approx(ends, abs=1e-9)


def test_mantel_haenszel_is_mantelhaen_test(patients: Any) -> None:
    options, expected = (
        {"run": "mantel_haenszel", "exposure": "sex", "outcome": "treated", "strata": ["stage"]},
        EXPECTED["mantel_haenszel"],
    )
    result = patients(**options)
    for ours, theirs in (
        ("odds_ratio", "or"),
        ("odds_ratio_low", "low"),
        ("odds_ratio_high", "high"),
    ):
        np.testing.assert_allclose(column(result, "common", ours), [expected[theirs]], **EXACT)
    np.testing.assert_allclose(
        column(result, "test", "statistic"), [expected["statistic"]], **EXACT
    )
    np.testing.assert_allclose(
        column(patients(**options, correct=False), "test", "statistic"),
        [expected["plain"]],
        **EXACT,
    )


def test_anova_is_oneway_test_and_t_test(patients: Any) -> None:
    result, expected = patients(run="anova", value="age", by="ward"), EXPECTED["anova"]
    for ours, theirs in (("statistic", "statistic"), ("p_value", "p"), ("df_residual", "df")):
        np.testing.assert_allclose(column(result, "tests", ours), expected[theirs], **EXACT)
    for ours, theirs in (
        ("estimate", "difference"),
        ("conf_low", "low"),
        ("p_value", "p_difference"),
    ):
        np.testing.assert_allclose(column(result, "differences", ours), expected[theirs], **EXACT)


def test_pca_is_prcomp(patients: Any) -> None:
    result, expected = (
        patients(run="pca", columns=["age", "time", "years", "cost"]),
        EXPECTED["pca"],
    )
    np.testing.assert_allclose(
        column(result, "variance", "variance"), expected["variance"], **EXACT
    )
    np.testing.assert_allclose(
        column(result, "loadings", "estimate"), expected["loadings"], rtol=1e-8, atol=1e-10
    )


def test_k_means_is_scikit_learns_from_the_same_beginning(patients: Any) -> None:
    from sklearn.cluster import KMeans

    columns = ["age", "time", "years"]
    result = patients(run="k_means", columns=columns, groups=4, starts=1)
    table = pandas.read_csv(HERE / "patients.csv")[columns].to_numpy(float)
    scaled = (table - table.mean(0)) / table.std(0, ddof=1)
    values, vectors = np.linalg.eigh(np.cov(scaled.T))
    axis = vectors[:, -1] * np.sign(vectors[np.abs(vectors[:, -1]).argmax(), -1])
    begin = stats.norm.ppf((np.arange(4) + 0.5) / 4)[:, None] * np.sqrt(values[-1]) * axis
    fit = KMeans(4, init=begin, n_init=1, tol=0, max_iter=500).fit(scaled)
    order = np.argsort(-np.bincount(fit.labels_), kind="stable")
    centres = fit.cluster_centers_[order] * table.std(0, ddof=1) + table.mean(0)
    assert column(result, "groups", "n").tolist() == np.bincount(fit.labels_)[order].tolist()
    np.testing.assert_allclose(
        np.stack([column(result, "groups", name) for name in columns], axis=1), centres, **EXACT
    )
    np.testing.assert_allclose(
        result.tables["glance"].rows[0]["within_sum_of_squares"], fit.inertia_, **EXACT
    )


def test_rubins_rules_are_those_of_mice() -> None:
    Q, U = (
        np.array([[0.42, 0.51, 0.38, 0.47, 0.44]]).T,
        np.array([[0.0121, 0.0144, 0.01, 0.0125, 0.0119]]).T,
    )
    pooled, expected = multiple_imputation.pool(Q, U, 200.0), EXPECTED["rubin"]
    estimates = [pooled.estimate[0], pooled.variance[0], pooled.df[0], pooled.missing[0]]
    np.testing.assert_allclose(
        estimates, [expected[name] for name in ("estimate", "variance", "df", "fmi")], **EXACT
    )


def test_pathways_are_the_directly_follows_graph_of_pm4py(visits: Any) -> None:
    """pathways.json was made by pathways_by_pm4py.py."""
    expected = json.loads((HERE / "pathways.json").read_text())
    rows = visits(run="pathways", step="step", time="day").tables["edges"].rows
    assert {
        f"{row['row']} > {row['column']}": row["times"] for row in rows if row["times"]
    } == expected["edges"]
    assert {
        row["column"]: row["n"] for row in rows if row["row"] == "(start)" and row["n"]
    } == expected["begin"]
    assert {
        row["row"]: row["n"] for row in rows if row["column"] == "(end)" and row["n"]
    } == expected["end"]
