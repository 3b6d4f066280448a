"""False links in a linear model and in proportions, corrected from sums alone."""

from __future__ import annotations

import numpy as np
import pytest

from federation.linkage import corrections
from tests import federations
from tests.linkage import two_holders

N = 50_000


def with_false_links(rng, outcome: np.ndarray, precision: float) -> np.ndarray:
    wrong = np.flatnonzero(rng.random(len(outcome)) > precision)
    linked = outcome.copy()
    linked[wrong] = outcome[rng.permutation(wrong)]
    return linked


def in_full(gram, column_sums, xy, people: int, precision: float):
    """(p,) Chambers's estimator from X'X, X'1 and X'y*: ((l - g) X'X + g X'1 1'X)^-1 X'y*."""
    share = (1 - precision) / (people - 1)
    shrunk = (precision - share) * gram + share * np.outer(column_sums, column_sums)
    return np.linalg.solve(shrunk, xy)


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
    corrected = naive[1:] / corrections.kept_share(N, precision)
    assert naive[1] == pytest.approx(0.5 * precision, abs=4 * 0.0045)
    assert corrected == pytest.approx(truth[1:], abs=4 * 0.0045 / precision)
    assert corrected == pytest.approx(in_full(gram, X.sum(0), xy, N, precision)[1:], rel=1e-9)


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


# -- in the result of a study
ANALYSES = {
    "slopes": {"run": "glm", "model": "spent ~ C(grade) + C(sex)", "family": "gaussian"},
    "shares": {"run": "crosstab", "rows": "grade", "columns": "dear"},
    "both_sides": {"run": "glm", "model": "spent ~ C(grade) + visits", "family": "gaussian"},
    "one_side": {"run": "crosstab", "rows": "drug", "columns": "dear"},
    "logistic": {"run": "glm", "model": "dear ~ C(grade)", "family": "binomial"},
}
COHORT = {"derive": {"dear": "spent / visits > 230"}}


def run(tables, folder, **changes):
    study = two_holders.study(analyses=ANALYSES, cohort=COHORT, **changes)
    return two_holders.run_linked(study, two_holders.holders(folder, tables)).analyses


def with_false_numbers(tables, share: float):
    """The right holder has the numbers of so many people mixed up among one another."""
    rng = np.random.default_rng(0)
    numbers = tables.right["number"].unique()
    wrong = numbers[rng.random(len(numbers)) < share]
    other = dict(zip(wrong, np.roll(wrong, 1), strict=True))
    mixed = tables.right.assign(
        number=tables.right["number"].map(lambda number: other.get(number, number))
    )
    return two_holders.Tables(tables.left, mixed)


def by(rows, *keys: str, value: str) -> dict:
    return {tuple(row[key] for key in keys): row[value] for row in rows}


def test_the_result_of_a_study_with_false_links_is_corrected_by_their_share(tmp_path):
    """Against the same people with right numbers. The slope of grade high is about 50 euros for
    each of 3.5 visits, and false links take three tenths of it. What stays is sampling error: the
    difference has a smaller standard error than the slope."""
    tables = two_holders.make(4000, 5000, 3900)
    wrong = with_false_numbers(tables, 0.3)
    right = run(tables, tmp_path)
    stated = run(wrong, tmp_path, link={"precision": 0.7})
    slope, naive = (
        by(result["slopes"].tables["coefficients"], "term", value="estimate")[("grade[high]",)]
        for result in (right, stated)
    )
    (corrected,) = (
        row for row in stated["slopes"].tables["corrected"] if row["term"] == "grade[high]"
    )
    assert naive < 0.8 * slope
    assert corrected["estimate"] == pytest.approx(slope, abs=2 * corrected["std_error"])
    assert corrected["conf_low"] < slope < corrected["conf_high"]
    assert "(Intercept)" not in {row["term"] for row in stated["slopes"].tables["corrected"]}
    shares, observed = (
        by(result["shares"].tables["counts"], "row", "column", value="row_share")
        for result in (right, stated)
    )
    after = by(stated["shares"].tables["corrected"], "row", "column", value="row_share")
    assert after.keys() == {key for key in shares if "(all)" not in key}
    dear = ("high", "yes")
    assert observed[dear] < shares[dear] - 0.05
    assert after[dear] == pytest.approx(shares[dear], abs=0.05)  # s.e. of 0.5 among 1,100 is 0.015
    assert any("70.00% of the links" in note for note in stated["slopes"].notes)


@pytest.mark.parametrize("name", federations.first(["both_sides", "one_side", "logistic"]))
def test_what_has_no_such_correction_gets_none(name, tmp_path):
    corrected = run(two_holders.make(700, 1500, 650), tmp_path, link={"precision": 0.9})
    assert corrected[name].status == "released"
    assert "corrected" not in corrected[name].tables
    assert "corrected" in corrected["slopes"].tables


def test_without_a_stated_precision_a_link_by_an_identifier_is_not_corrected(tmp_path):
    uncorrected = run(two_holders.make(700, 1500, 650), tmp_path)
    assert not any("corrected" in result.tables for result in uncorrected.values())


def test_a_stated_precision_corrects_noised_answers_too(tmp_path):
    """It is worked out from what is released, so it costs nothing."""
    privacy = {"mode": "dp", "epsilon": 20, "delta": 1e-5}
    study = two_holders.study(
        analyses={"slopes": ANALYSES["slopes"]}, privacy=privacy, link={"precision": 0.9}
    )
    given = two_holders.holders(tmp_path, two_holders.make(700, 1500, 650))
    slopes = two_holders.run_linked(study, given).analyses["slopes"]
    naive = by(slopes.tables["coefficients"], "term", value="estimate")
    after = by(slopes.tables["corrected"], "term", value="estimate")
    share = corrections.kept_share(slopes.n["people"], 0.9)
    assert after == {key: pytest.approx(naive[key] / share) for key in after}
