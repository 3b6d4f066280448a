"""Pilots on real data that no R recipe covers: their numbers are those of the pooled rows."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from simulations.pilots import arac, ns_park, running


@pytest.mark.slow
def test_the_spread_of_real_medical_costs_is_that_of_the_pooled_people() -> None:
    run = running.run("arac", "real")
    table, site = arac.first_year()
    costs = table["hors_hopital"] + table["hopital"]
    x = np.sort(costs.to_numpy(float))
    n = len(x)
    gini = 2 * (np.arange(1, n + 1) @ x) / (n * x.sum()) - (n + 1) / n
    assert (
        run.row["estimate"] == pytest.approx(gini, rel=1e-9)
        and run.row["people"] == n
        and run.row["nodes"] == site.nunique() == 3
    )
    rows = {row["group"]: row for row in run.document.analyses["par_part"].tables["summary"]}
    for part, some in table.groupby("part"):
        assert rows[f"part={part}"]["mean"] == pytest.approx(
            (some["hors_hopital"] + some["hopital"]).mean(), rel=1e-9
        )
    assert rows["part=0"]["mean"] > rows["part=95 or 100"]["mean"], (
        "free care was used more: the experiment's own finding"
    )


def test_the_fit_to_real_voices_is_statsmodels_pooled_one() -> None:
    run = running.run("ns_park", "real")
    table = ns_park.voices()
    X = sm.add_constant(table[["ppe", "dfa", "rpde", "homme"]].astype(float))
    fit = sm.GLM(table["parkinson"].astype(float), X, family=sm.families.Binomial()).fit(tol=1e-12)
    rows = {row["term"]: row for row in run.document.analyses["voix"].tables["coefficients"]}
    for name in ("ppe", "dfa", "rpde", "homme"):
        assert rows[name]["estimate"] == pytest.approx(fit.params[name], rel=1e-7)
        assert rows[name]["std_error"] == pytest.approx(fit.bse[name], rel=1e-6)


@pytest.mark.slow
def test_the_network_tells_real_eights_better_than_a_line_through_their_pixels() -> None:
    run = running.run("deep_piste", "real")
    digits = load_digits()
    line = cross_val_predict(
        LogisticRegression(C=0.01, max_iter=2000),
        digits.data / 16,
        digits.target == 8,
        method="decision_function",
        cv=5,
    )
    assert run.row["estimate"] > roc_auc_score(digits.target == 8, line) > 0.9
