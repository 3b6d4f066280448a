"""No fit without a finite estimate is released: every fitting analysis x each level as the one
without events x reference or not x interaction x order of levels. A fit that has a finite maximum,
however sparse, is released."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from federation.errors import ModelError
from strategies import registry
from tests import federations, fits

SIZES = {"a": 40, "b": 100, "c": 100}  # people in each level
PERIODS = 4  # rows of each person, for sccs


def people(order: str) -> Any:
    return fits.contract(
        {
            "g": f"type: category, levels: [{', '.join(order)}]",
            "h": "type: boolean",
            "s": "type: category, levels: [u, v], within_node: true",
            "x": "type: number, range: [-4, 4]",
            "y": "type: boolean",
            "k": "type: number, range: [0, 9]",
            "t": "type: number, range: [0, 40], step: 1",
            "cause": "type: category, levels: [none, ours, other]",
            "days": "type: number, range: [1, 400]",
        },
        rows_per_person=PERIODS,
    )


def table(empty: str, *, only_with_h: bool) -> pandas.DataFrame:
    """Half of the people of each level have the event, but nobody of level `empty`, or of those of
    them with h."""
    n = sum(SIZES.values())
    i = np.arange(n)
    g = np.repeat(list(SIZES), list(SIZES.values()))
    h = (i // 2) % 2
    never = (g == empty) & ((h == 1) | (not only_with_h))
    y = np.where(never, 0, i % 2)
    return pandas.DataFrame(
        {
            "person": i,
            "g": g,
            "h": h,
            "s": np.where(i % 2, "u", "v"),  # the two nodes of fits.fit
            "x": np.sin(7.0 * i),
            "y": y,
            "k": np.where(never, 0, (i % 2) * (1 + i % 3)),
            "t": 1 + (i * 7) % 37,
            "cause": np.where(y == 1, "ours", np.where(i % 5 == 0, "other", "none")),
            "days": 10.0 + i % 90,
        }
    )


def both_strata(rows: pandas.DataFrame) -> pandas.DataFrame:
    return pandas.concat([rows, rows.assign(person=rows.person + 1000)], ignore_index=True)


def periods(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Every person in every level, one after the other: events in each period but those without."""
    parts = []
    for turn in range(PERIODS):
        part = rows.assign(g=np.roll(rows["g"], 61 * turn), h=(rows["person"] // 3 + turn) % 2)
        parts.append(part)
    return pandas.concat(parts, ignore_index=True)


MODELS: dict[str, dict[str, Any]] = {
    "glm binomial": {"run": "glm", "model": "y ~ {}", "family": "binomial"},
    "glm binomial offset": {"run": "glm", "model": "y ~ {} + offset(x)", "family": "binomial"},
    "glm poisson": {"run": "glm", "model": "k ~ {}", "family": "poisson"},
    "glm poisson offset": {
        "run": "glm",
        "model": "k ~ {} + offset(log(days))",
        "family": "poisson",
    },
    "multiple_imputation": {
        "run": "multiple_imputation",
        "model": "y ~ {} + x",
        "family": "binomial",
        "impute": ["x"],
        "times": 2,
    },
    "cox": {"run": "cox", "model": "Surv(t, y) ~ {}"},
    "cox breslow robust": {
        "run": "cox",
        "model": "Surv(t, y) ~ {}",
        "ties": "breslow",
        "robust": True,
    },
    "cox strata": {"run": "cox", "model": "Surv(t, y) ~ {} + strata(s)"},
    "cox within node": {"run": "cox", "model": "Surv(t, y) ~ {}", "strata": "node"},
    "fine_gray": {"run": "fine_gray", "model": "Surv(t, cause) ~ {}", "cause": "ours"},
    "piecewise_exponential": {
        "run": "piecewise_exponential",
        "model": "Surv(t, y) ~ {}",
        "cuts": [10, 20],
    },
    "propensity": {"run": "propensity", "treatment": "y", "confounders": "{}"},
    "sccs": {"run": "sccs", "model": "k ~ {} + offset(log(days))"},
}
REFERENCES = {"as the contract has it": "g", "b": "C(g, ref='b')", "c": "C(g, ref='c')"}


def test_every_analysis_that_climbs_a_likelihood_is_here() -> None:
    climbing = {
        name
        for name in registry.ANALYSES
        if any(
            word in Path(str(registry.analysis(name).__file__)).read_text()  # type: ignore[attr-defined]
            for word in ("newton.climb(", "newton.move(", "glm.combine(")
        )
    }
    assert climbing == {options["run"] for options in MODELS.values()}


def fill(options: dict[str, Any], terms: str) -> dict[str, Any]:
    return {
        name: value.format(terms) if isinstance(value, str) else value
        for name, value in options.items()
    }


def rows_for(name: str, empty: str, *, only_with_h: bool) -> pandas.DataFrame:
    rows = table(empty, only_with_h=only_with_h)
    if name == "sccs":
        rows = periods(rows)
        never = (rows["g"] == empty) & ((rows["h"] == 1) | (not only_with_h))
        rows["k"] = np.where(never, 0, 1 + rows["person"] % 2)
    if name == "multiple_imputation":
        rows["x"] = rows["x"].where(rows.index % 11 != 0)
    return rows


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("empty", federations.first(SIZES))
def test_a_level_without_events_is_refused_by_name(name: str, empty: str) -> None:
    rows = rows_for(name, empty, only_with_h=False)
    for order, reference in itertools.product(("abc", "cab"), REFERENCES.values()):
        with pytest.raises(ModelError, match=r"'g\[[abc]\]' diverges"):
            fits.fit(rows, people(order), **fill(MODELS[name], reference))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("empty", federations.first(SIZES))
def test_an_interaction_cell_without_events_is_refused_by_name(name: str, empty: str) -> None:
    rows = rows_for(name, empty, only_with_h=True)
    for order in ("abc", "cab"):
        for terms in ("g * h", "h * g", "g + g:h"):
            with pytest.raises(ModelError, match="diverges"):
                fits.fit(rows, people(order), **fill(MODELS[name], terms))
    without = fits.fit(
        rows, people("abc"), **fill(MODELS[name], "g + h")
    )  # without it, all is finite
    table_name = "score" if name == "propensity" else "coefficients"
    for row in without.tables[table_name].rows:
        assert abs(row["estimate"]) < 8


@pytest.mark.parametrize("name", MODELS)
def test_a_level_with_a_single_event_is_estimated(name: str) -> None:
    """No threshold on the size of a coefficient or of its error: one event bounds a coefficient."""
    rows = rows_for(name, "a", only_with_h=False)
    lonely = rows.index[(rows["g"] == "a")][7]
    rows.loc[lonely, ["y", "k", "cause"]] = [1, 1, "ours"]
    result = fits.fit(rows, people("bac"), **fill(MODELS[name], "g"))
    table_name = "score" if name == "propensity" else "coefficients"
    estimate = {row["term"]: row for row in result.tables[table_name].rows}["g[a]"]
    assert -8 < estimate["estimate"] < -1
    assert 0.5 < estimate["std_error"] < 2


@pytest.mark.parametrize("name", MODELS)
def test_a_column_that_repeats_others_is_left_out_and_the_others_are_unchanged(name: str) -> None:
    """R gives NA for the later of two columns that say the same, and the same estimates for the
    rest."""
    rows = rows_for(name, "a", only_with_h=False)
    rows["y"], rows["k"] = rows.index % 2, 1 + rows.index % 3
    rows["cause"] = np.where(rows["y"] == 1, "ours", "other")
    rows["twice"] = rows["h"] * 2.0
    contract = people("abc")
    derive = {"twice": "h * 2"}
    table_name = "score" if name == "propensity" else "coefficients"
    with_it = fits.fit(rows, contract, derive=derive, **fill(MODELS[name], "g + h + twice"))
    without = fits.fit(rows, contract, **fill(MODELS[name], "g + h"))
    estimates = {row["term"]: row["estimate"] for row in with_it.tables[table_name].rows}
    assert estimates.pop("twice") is None
    if name == "multiple_imputation":
        return  # it predicts the missing numbers too, and moves their draws
    for row in without.tables[table_name].rows:
        assert estimates[row["term"]] == pytest.approx(row["estimate"], rel=1e-7, abs=1e-9)


SMALL = {"y": "type: boolean", "x": "type: number, range: [-10, 10]"}


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([-1, 0, 0, 1], [0, 0, 1, 1]),  # quasi-complete: only the two at 0 overlap
        ([-2, -1, 1, 2], [0, 0, 1, 1]),  # complete
        ([0, 1, 1, 2], [1, 1, 0, 0]),  # quasi-complete, downwards
        ([-1, -1, 3, 3], [0, 0, 0, 1]),  # nobody says yes at -1
    ],
)
def test_separated_numbers_are_refused_by_name(x: list[float], y: list[int]) -> None:
    rows = pandas.DataFrame({"person": range(80), "x": x * 20, "y": y * 20})
    with pytest.raises(ModelError, match=r"'x' diverges"):
        fits.fit(rows, fits.contract(SMALL), run="glm", model="y ~ x", family="binomial")


def test_two_columns_that_separate_only_together_are_refused() -> None:
    """y is yes where x + z > 0: neither column separates by itself."""
    grid = [(x, z) for x in range(-3, 4) for z in range(-3, 4) if x + z]
    rows = pandas.DataFrame(grid * 2, columns=["x", "z"])
    rows["person"], rows["y"] = range(len(rows)), (rows.x + rows.z > 0).astype(int)
    contract = fits.contract(SMALL | {"z": "type: number, range: [-10, 10]"})
    for alone in ("x", "z"):
        fits.fit(rows, contract, run="glm", model=f"y ~ {alone}", family="binomial")
    with pytest.raises(ModelError, match="diverges"):
        fits.fit(rows, contract, run="glm", model="y ~ x + z", family="binomial")


def test_the_treated_without_events_are_refused_in_the_effect_of_a_propensity_study() -> None:
    rows = rows_for("propensity", "a", only_with_h=False)
    rows["h"], rows["y"] = (rows["person"] // 4) % 2, rows.person % 2
    rows.loc[rows["h"] == 1, "y"] = 0
    with pytest.raises(ModelError, match=r"'h' diverges"):
        fits.fit(
            rows,
            people("abc"),
            run="propensity",
            treatment="h",
            confounders="g + x",
            outcome="Surv(t, y)",
        )


def test_a_column_that_is_constant_within_all_strata_is_left_out_of_cox() -> None:
    """Its information is a difference of two equal sums, which rounding makes a small number of
    either sign. R: coxph(Surv(t, y) ~ x + z + strata(s)) gives NA for z = 3 * (s == 'u') - 1, and x
    as without it."""
    rows = rows_for("cox", "a", only_with_h=False)
    rows["z"] = 3.0 * (rows["s"] == "u") - 1
    rows["y"] = rows["person"] % 3 == 0
    contract = people("abc")
    derive = {"z": "if(s = 'u', 3, 0) - 1"}
    strata: dict[str, Any]
    for strata in ({}, {"strata": "node"}):
        right = "strata(s)" if not strata else "0"
        model = "Surv(t, y) ~ x + z" + (" + strata(s)" if right == "strata(s)" else "")
        result = fits.fit(rows, contract, derive=derive, run="cox", model=model, **strata)
        x, z = result.tables["coefficients"].rows
        alone = (
            fits.fit(rows, contract, run="cox", model=model.replace(" + z", ""), **strata)
            .tables["coefficients"]
            .rows[0]
        )
        assert z["estimate"] is None
        assert x["estimate"] == pytest.approx(alone["estimate"], rel=1e-9)


def test_an_interaction_that_nobody_with_an_event_has_is_left_out_of_sccs() -> None:
    """The column is 0 in all periods that tell anything: R's gnm gives NA for it, and finite values
    for the others."""
    rng = np.random.default_rng(3)
    n = 4000
    person = np.repeat(np.arange(n // 4), 4)
    risk = (rng.random(n) < 0.3).astype(int)
    tr = ((rng.random(n) < 0.3) & (risk == 0)).astype(int)
    events = np.zeros(n, int)
    for i in range(n // 4):
        rows = slice(4 * i, 4 * i + 4)
        share = np.exp(1.1 * risk[rows] - 1.0 * tr[rows])
        events[rows] = rng.multinomial(1, share / share.sum())
    table = pandas.DataFrame({"person": person, "k": events, "risk": risk, "tr": tr, "days": 30.0})
    contract = fits.contract(
        {
            "k": "type: number, range: [0, 9]",
            "risk": "type: boolean",
            "tr": "type: boolean",
            "days": "type: number, range: [1, 400]",
        },
        rows_per_person=4,
    )
    model = "k ~ {} + offset(log(days))"
    both = fits.fit(table, contract, run="sccs", model=model.format("risk * tr"))
    main = fits.fit(table, contract, run="sccs", model=model.format("risk + tr"))
    *rest, interaction = both.tables["coefficients"].rows
    assert interaction["estimate"] is None
    for row, expected in zip(rest, main.tables["coefficients"].rows, strict=True):
        assert row["estimate"] == pytest.approx(expected["estimate"], rel=1e-9)
        assert math.isfinite(row["std_error"])


def test_a_remedy_is_offered_only_where_the_study_can_ask_for_it() -> None:
    """The stages of a propensity study take no penalty, and a penalised fit has it already."""
    rows = rows_for("propensity", "a", only_with_h=False)
    with pytest.raises(ModelError, match="diverges") as of_score:
        fits.fit(rows, people("abc"), run="propensity", treatment="y", confounders="g")
    rows["h"], rows["y"] = (rows["person"] // 4) % 2, rows.person % 2
    rows.loc[rows["h"] == 1, "y"] = 0
    options = {"run": "propensity", "treatment": "h", "confounders": "g + x"}
    with pytest.raises(ModelError, match="diverges") as of_effect:
        fits.fit(rows, people("abc"), outcome="Surv(t, y)", **options)
    wide = fits.contract(SMALL | {"x": "type: number, range: [-1000, 1000]"})
    separated = pandas.DataFrame(
        {"person": range(80), "x": [-1, 0, 0, 1] * 20, "y": [0, 0, 1, 1] * 20}
    )
    glm: dict[str, Any] = {"run": "glm", "model": "y ~ x", "family": "binomial"}
    with pytest.raises(ModelError, match=r"penalised fit.*narrow that range") as of_penalised:
        fits.fit(separated, wide, penalty="firth", **glm)
    with pytest.raises(ModelError, match="write `penalty: firth`"):
        fits.fit(separated, wide, **glm)
    for refused in (of_score, of_effect, of_penalised):
        assert "penalty" not in str(refused.value)
