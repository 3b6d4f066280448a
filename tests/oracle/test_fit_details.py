"""The parts of a result beside its estimates: null deviances, left-out groups and rows, values that
are not counts, and series without a past. R 4.2.2; the recipes stand beside the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from federation.errors import ModelError
from tests import federations, fits

HERE = Path(__file__).parent
PEOPLE = pandas.read_csv(HERE / "people.csv")
CONTRACT = federations.contract_of((HERE / "people.yaml").read_text())

# d <- read.csv("people.csv", stringsAsFactors = TRUE); of the rows with age, exposure, died, visits
# and score for (f in formulas) print(glm(f, family, d, control = glm.control(epsilon =
# 1e-15))$null.deviance, digits = 15)
OFFSET = "offset(log(exposure + 1))"
NULL_DEVIANCES = [
    ("gaussian", f"score ~ age + sex + {OFFSET}", 6965.6857700158),
    ("gaussian", f"score ~ 0 + age + sex + {OFFSET}", 126271.060347147),
    ("gaussian", "score ~ 0 + age", 146629.89399),
    ("binomial", f"died ~ age + sex + {OFFSET}", 814.706288087472),
    ("binomial", f"died ~ 0 + age + sex + {OFFSET}", 1019.42050976879),
    ("binomial", "died ~ 0 + age", 810.982201255136),
    ("poisson", f"visits ~ age + sex + {OFFSET}", 678.767551557736),
    ("poisson", f"visits ~ 0 + age + sex + {OFFSET}", 854.817907998179),
    ("poisson", "visits ~ 0 + age", 2055.73887913245),
]


@pytest.mark.parametrize(("family", "model", "expected"), NULL_DEVIANCES)
def test_the_null_deviance_is_that_of_r_with_an_offset_and_without_an_intercept(
    family: str, model: str, expected: float
) -> None:
    rows = PEOPLE.dropna(subset=["age", "exposure", "died", "visits", "score"])
    result = fits.fit(rows, CONTRACT, run="glm", model=model, family=family)
    assert result.tables["glance"].rows[0]["null_deviance"] == pytest.approx(expected, rel=1e-9)


def values(groups: dict[str, int]) -> Any:
    g = np.repeat(list(groups), list(groups.values()))
    v = np.arange(len(g)) % 7 + (g == "a")
    return pandas.DataFrame({"person": range(len(g)), "g": g, "v": v.astype(float)})


ANOVA = fits.contract(
    {"g": "type: category, levels: [a, b, c, d]", "v": "type: number, range: [0, 20]"}
)


def test_anova_says_that_a_group_of_one_is_in_no_test() -> None:
    result = fits.fit(
        values({"a": 30, "b": 30, "c": 1, "d": 20}), ANOVA, run="anova", value="v", by="g"
    )
    assert any("left out of the tests" in note and "3 of 4" in note for note in result.notes)
    full = fits.fit(
        values({"a": 30, "b": 30, "c": 9, "d": 20}), ANOVA, run="anova", value="v", by="g"
    )
    assert not full.notes


def test_anova_refuses_a_reference_of_one_by_name() -> None:
    rows = values({"a": 30, "b": 30, "c": 1, "d": 20})
    with pytest.raises(ModelError, match="reference: group 'c'"):
        fits.fit(rows, ANOVA, run="anova", value="v", by="g", reference="c")


@pytest.mark.parametrize("family", ["poisson", "gaussian"])
def test_a_poisson_model_of_fractions_says_that_they_are_no_counts(family: str) -> None:
    """R warns: non-integer x."""
    rows = PEOPLE.assign(visits=PEOPLE.visits + 0.5 * (PEOPLE.index % 2))
    result = fits.fit(rows, CONTRACT, run="glm", model="visits ~ dose", family=family)
    assert any("not whole numbers" in note for note in result.notes) == (family == "poisson")
    whole = fits.fit(PEOPLE, CONTRACT, run="glm", model="visits ~ dose", family=family)
    assert not any("not whole numbers" in note for note in whole.notes)


@pytest.mark.parametrize(
    "options",
    [
        {"run": "cox", "model": "Surv(start, stop, event) ~ dose"},
        {"run": "kaplan_meier", "model": "Surv(start, stop, event) ~ 1"},
        {"run": "cumulative_incidence", "model": "Surv(start, stop, arm) ~ 1"},
        {"run": "piecewise_exponential", "model": "Surv(start, stop, event) ~ dose", "cuts": [9]},
    ],
)
def test_rows_that_end_as_they_begin_are_left_out_with_a_note(options: dict[str, Any]) -> None:
    rows = PEOPLE.copy()
    rows["start"] = np.minimum(rows["start"], rows["stop"] - 1)
    clean = fits.fit(rows, CONTRACT, **options)
    rows.loc[:19, "start"] = rows.loc[:19, "stop"]
    rows.loc[20:29, "start"] = rows.loc[20:29, "stop"] + 1
    result = fits.fit(rows, CONTRACT, **options)
    assert any("do not end after they begin" in note for note in result.notes)
    assert not any("do not end after" in note for note in clean.notes)
    assert clean.n.missing is not None and result.n.missing is not None
    assert 0 < result.n.missing - clean.n.missing <= 30  # some of them lack a dose


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"run": "cox", "model": "Surv(start, stop, event) ~ dose"}, "end after they begin"),
        ({"run": "kaplan_meier", "model": "Surv(start, stop, event) ~ 1"}, "end after they begin"),
        (
            {"run": "cumulative_incidence", "model": "Surv(start, stop, arm) ~ 1"},
            "end after they begin",
        ),
        (
            {
                "run": "piecewise_exponential",
                "model": "Surv(start, stop, event) ~ dose",
                "cuts": [9],
            },
            "end after they begin",
        ),
        (
            {"run": "cox", "model": "Surv(stop, event) ~ dose", "landmark": 59},
            "after the landmark",
        ),
    ],
)
def test_a_cohort_that_loses_its_events_to_a_rule_names_the_rule(
    options: dict[str, Any], rule: str
) -> None:
    """The message was that nobody has an event."""
    rows = PEOPLE.assign(start=PEOPLE["stop"])
    with pytest.raises(ModelError, match=f"no event.*{rule}"):
        fits.fit(rows, CONTRACT, **options)


COUNTS = fits.contract(
    {
        "k": "type: number, range: [0, 9]",
        "y": "type: boolean",
        "x": "type: number, range: [-3, 3]",
        "far": "type: number, range: [-2000, 2000]",
        "steady": "type: number, range: [-10, 30]",
        "g": "type: category, levels: [a, b, c]",
    },
    rows_per_person=20,
)


def counts(**more: Any) -> pandas.DataFrame:
    i = np.arange(60)
    columns = {
        "person": i,
        "k": i % 4,
        "y": i % 2,
        "x": i % 7 - 3.0,
        "g": np.array(list("abc"))[i % 3],
    }
    return pandas.DataFrame(columns | {"far": 0.0, "steady": 0.1} | more)


# i <- 0:59; k <- i %% 4; x <- (i %% 7) - 3
# coef(glm(k ~ x + offset(rep(30, 60)), family = poisson)), and so on
@pytest.mark.parametrize(
    ("far", "intercept", "slope"),
    [
        (30.0, -29.5935216099621, 0.0140286145883),
        (-25.0, 25.4064783900379, 0.0140286145883),
        (20.0 + np.arange(60) % 3, -20.901624019308, 0.021988911542),
    ],
)
def test_a_poisson_model_has_the_estimate_of_r_at_an_offset_far_from_its_counts(
    far: Any, intercept: float, slope: float
) -> None:
    result = fits.fit(
        counts(far=far), COUNTS, run="glm", model="k ~ x + offset(far)", family="poisson"
    )
    estimates = [row["estimate"] for row in result.tables["coefficients"].rows]
    assert estimates == pytest.approx([intercept, slope], rel=1e-8)  # digits of the numbers above


@pytest.mark.parametrize("family", ["binomial", "poisson"])
@pytest.mark.parametrize("far", [800.0, -800.0, 1600.0 * (np.arange(60) % 2) - 800.0])
def test_an_offset_that_leaves_no_likely_response_is_refused_by_name(family: str, far: Any) -> None:
    response = "y" if family == "binomial" else "k"
    with pytest.raises(ModelError, match=r"offset\(far\) is so large.*check its unit"):
        fits.fit(
            counts(far=far), COUNTS, run="glm", model=f"{response} ~ x + offset(far)", family=family
        )


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("steady ~ x", {"steady": 0.1}),  # R warns: essentially perfect fit
        ("steady ~ x", {"steady": 2 * (np.arange(60) % 7) + 0.3}),
        ("steady ~ g", {"steady": (np.arange(60) % 3) / 7}),
    ],
)
def test_a_linear_model_of_rows_without_a_residual_has_no_errors(model: str, more: Any) -> None:
    result = fits.fit(counts(**more), COUNTS, run="glm", model=model)
    for row in result.tables["coefficients"].rows:
        assert row["estimate"] is not None and row["std_error"] is None and row["p_value"] is None
    assert any("fits every row exactly" in note for note in result.notes)


def test_a_linear_model_with_as_many_coefficients_as_rows_has_no_errors() -> None:
    """R gives NaN for every standard error; a variance of 1 was taken."""
    rows = counts(steady=(np.arange(60) % 5).astype(float)).head(4)
    result = fits.fit(rows, COUNTS, run="glm", model="steady ~ x + g")
    assert [row["std_error"] for row in result.tables["coefficients"].rows] == [None] * 4
    assert result.tables["glance"].rows[0]["dispersion"] is None


@pytest.mark.parametrize("value", [0.1, 1.0, 1 / 3, -7.7])
def test_a_value_that_does_not_vary_has_no_component_no_test_and_no_deviation(value: float) -> None:
    """The difference of two equal sums is a rounding error, from which a correlation of
    1.000000002, an F of infinity and a standard deviation of 7e-8 were computed."""
    rows = counts(steady=value)
    with pytest.raises(ModelError, match="steady does not vary"):
        fits.fit(rows, COUNTS, run="pca", columns=["steady", "x"])
    with pytest.raises(ModelError, match="'steady' does not vary within any group"):
        fits.fit(rows, COUNTS, run="anova", value="steady", by="g")
    (row,) = fits.fit(rows, COUNTS, run="describe", columns=["steady"]).tables["numbers"].rows
    assert row["sd"] == 0.0


@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_more_groups_than_different_rows_are_refused(distinct: int) -> None:
    """R: more cluster centers than distinct data points."""
    rows = counts(x=(np.arange(60) % distinct).astype(float))
    with pytest.raises(ModelError, match="a group holds nobody"):
        fits.fit(rows, COUNTS, run="k_means", columns=["x", "steady"], groups=distinct + 1)


@pytest.mark.parametrize("by", [{}, {"by": "g"}])
def test_random_effects_of_a_single_person_or_level_are_refused(by: Any) -> None:
    """lme4: grouping factors must have > 1 sampled level."""
    rows = counts(person=7, g="a", steady=np.arange(60) % 5).head(20)
    with pytest.raises(ModelError, match=r"has a single (person|level of 'g')"):
        fits.fit(rows, COUNTS, run="mixed_model", model="steady ~ x", **by)


WEEKS = fits.contract(
    {
        "week": "type: number, range: [0, 400], step: 1",
        "g": "type: category, levels: [flu, rare, late, once, never]",
    },
    rows_per_person=100,
)


@pytest.mark.parametrize(
    "method",
    [
        {"farrington": {"years": 5}},
        {"farrington": {"years": 4, "limit": "muan"}},
        {"farrington": {"years": 3, "limit": "delta", "trend": False}},
        {"farrington": {"years": 5, "variant": "r-surveillance"}},
        {"ears": {"method": "C1"}},
        {"ears": {"method": "C3"}},
    ],
)
def test_a_syndrome_never_seen_before_is_an_alarm_and_loses_no_other_series(method: Any) -> None:
    weeks = np.arange(320)
    counts = {
        "flu": 12 + np.rint(6 * np.sin(weeks / 52 * 6.283)).astype(int),
        "late": np.where(weeks < 318, 0, 9),
        "once": np.where(weeks < 318, (weeks == 200) * 3, 9),  # a single week of the past has some
    }
    rows = pandas.DataFrame(
        [(w, g) for g, series in counts.items() for w in weeks for _ in range(series[w])],
        columns=["week", "g"],
    )
    rows["person"] = rows.index // 50
    result = fits.fit(
        rows,
        WEEKS,
        run="surveillance",
        week="week",
        by=["g"],
        weeks=[0, 318],
        test=1,
        method=method,
    )
    alarms = {row["series"]: row for row in result.tables["alarms"].rows}
    assert alarms["g=late"]["alarm"] == "alarm"
    assert alarms["g=once"]["alarm"] == "alarm"
    assert alarms["g=flu"]["expected"] > 5
    if "ears" not in method:  # C3 takes the rise of a season for an alarm
        assert alarms["g=flu"]["alarm"] == "none"
    assert alarms["g=never"]["alarm"] == "not tested"
    for row in alarms.values():
        assert row["ratio"] is None or row["ratio_high"] < 1e6
    assert any("outside weeks 0 to 318" in note for note in result.notes)
