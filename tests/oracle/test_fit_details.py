"""What a result says beside its estimates: null deviances, left-out groups and rows, values that
are no counts, and series without a past. R 4.2.2; the recipes stand beside the numbers."""

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
    found = fits.fit(rows, CONTRACT, run="glm", model=model, family=family)
    assert found.tables["glance"].rows[0]["null_deviance"] == pytest.approx(expected, rel=1e-9)


def values(groups: dict[str, int]) -> Any:
    g = np.repeat(list(groups), list(groups.values()))
    v = np.arange(len(g)) % 7 + (g == "a")
    return pandas.DataFrame({"person": range(len(g)), "g": g, "v": v.astype(float)})


ANOVA = fits.contract(
    {"g": "type: category, levels: [a, b, c, d]", "v": "type: number, range: [0, 20]"}
)


def test_anova_says_that_a_group_of_one_is_in_no_test() -> None:
    found = fits.fit(
        values({"a": 30, "b": 30, "c": 1, "d": 20}), ANOVA, run="anova", value="v", by="g"
    )
    assert any("left out of the tests" in note and "3 of 4" in note for note in found.notes)
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
    found = fits.fit(rows, CONTRACT, run="glm", model="visits ~ dose", family=family)
    assert any("not whole numbers" in note for note in found.notes) == (family == "poisson")
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
    found = fits.fit(rows, CONTRACT, **options)
    assert any("do not end after they begin" in note for note in found.notes)
    assert not any("do not end after" in note for note in clean.notes)
    assert clean.n.missing is not None and found.n.missing is not None
    assert 0 < found.n.missing - clean.n.missing <= 30  # some of them lack a dose


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
    found = fits.fit(
        rows,
        WEEKS,
        run="surveillance",
        week="week",
        by=["g"],
        weeks=[0, 318],
        test=1,
        method=method,
    )
    alarms = {row["series"]: row for row in found.tables["alarms"].rows}
    assert alarms["g=late"]["alarm"] == "alarm"
    assert alarms["g=once"]["alarm"] == "alarm"
    assert alarms["g=flu"]["expected"] > 5
    if "ears" not in method:  # C3 takes the rise of a season for an alarm
        assert alarms["g=flu"]["alarm"] == "none"
    assert alarms["g=never"]["alarm"] == "not tested"
    for row in alarms.values():
        assert row["ratio"] is None or row["ratio_high"] < 1e6
    assert any("outside weeks 0 to 318" in note for note in found.notes)
