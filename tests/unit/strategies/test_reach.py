"""How far a linear predictor can go over a contract's rows: what a node admits, and a fit of many
levels stays within."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas
import pytest

from federation import cohort as cohorts
from federation import formula
from federation import schema as schemas
from federation.messages import State
from strategies import admissible
from strategies.numerics import newton
from tests import fits

CONTRACT = fits.contract(
    {
        "a": "type: category, levels: [a0, a1, a2]",
        "b": "type: category, levels: [b0, b1, b2, b3]",
        "f": "type: boolean",
        "x": "type: number, range: [-1, 5]",
        "y": "type: number, range: [0, 1]",
    }
)
# All combinations of levels, and both ends of the number.
GRID = np.array(list(itertools.product(range(3), range(4), range(2), [-1.0, 5.0])))
ROWS = {"a": GRID[:, 0].astype(np.int16), "b": GRID[:, 1].astype(np.int16), "f": GRID[:, 2]}
ROWS["x"] = GRID[:, 3]


def ends(model: str, beta: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of X beta for scaled coefficients: the interval that we state, and that of all rows."""
    terms = formula.compile(model, schemas.build(CONTRACT, {})).terms
    scaling = newton.scaling(terms, centred=True)
    X = cohorts.design(
        terms, ROWS, slice(None), centre=scaling.centre, scale=scaling.scale, intercept=True
    )
    beta = beta[: X.shape[1]]
    eta = X @ beta
    return newton.predictor_interval(scaling, beta, True), (float(eta.min()), float(eta.max()))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("model", ["y ~ x", "y ~ a", "y ~ a + x", "y ~ a + b + f + x"])
def test_without_interactions_it_is_that_of_all_rows(model: str, seed: int) -> None:
    stated, seen = ends(model, np.random.default_rng(seed).normal(size=20))
    assert stated == pytest.approx(seen, abs=1e-10)  # it is wider by its rounding


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "model", ["y ~ a * b", "y ~ a:x + b", "y ~ a * x + f:b:x", "y ~ a + C(a, ref='a1')"]
)
def test_with_interactions_it_holds_all_rows_and_no_more_than_the_sum_of_all_columns(
    model: str, seed: int
) -> None:
    beta = np.random.default_rng(seed).normal(size=40)
    (low, high), (lowest, highest) = ends(model, beta)
    assert low <= lowest and highest <= high
    assert high - low < 2 * np.abs(beta).sum()


def test_a_column_without_a_range_leaves_the_predictor_without_limits() -> None:
    contract = fits.contract({"x": "type: number", "y": "type: boolean"})
    task = fits.task_of(contract, {"run": "glm", "family": "binomial", "model": "y ~ x"}, {})
    assert newton.predictor_interval(task.plan.scaling, np.zeros(2), True) == (-np.inf, np.inf)


# -- many levels
def people(n_levels: int, rows: int) -> pandas.DataFrame:
    """Events of one person in ten at the first site, and of one in two to four at the others."""
    site = np.repeat(np.arange(n_levels), rows)
    place = np.tile(np.arange(rows), n_levels)
    share = np.where(site == 0, 0.1, 0.25 + 0.25 * (site % 7) / 6)
    ill = place < np.round(share * rows)
    # Those who fall ill do so at the times 1, 2, 3 ... of their site, the others leave at 12.
    time = np.where(ill, 1 + place % 9, 12)
    return pandas.DataFrame(
        {
            "person": np.arange(len(site)).astype(str),
            "site": [f"l{i}" for i in site],
            "ill": ill,
            "n": 1.0 + place % 3 + 3 * (site > 0),
            "time": time.astype(float),
        }
    )


def contract_of(n_levels: int) -> Any:
    return fits.contract(
        {
            "site": f"type: category, levels: [{', '.join(f'l{i}' for i in range(n_levels))}]",
            "ill": "type: boolean",
            "n": "type: number, range: [0, 9]",
            "time": "type: number, range: [0, 12], step: 1",
        }
    )


@pytest.mark.parametrize(
    ("family", "response", "link"),
    [("binomial", "ill", lambda mean: np.log(mean / (1 - mean))), ("poisson", "n", np.log)],
)
def test_a_factor_of_400_levels_has_the_estimates_of_its_means(
    family: str, response: str, link: Any
) -> None:
    """A model with one factor is saturated: its coefficients are differences of the levels' means
    on the scale of the link."""
    table = people(400, 40)
    means = link(table.groupby("site", sort=False)[response].mean())
    result = fits.fit(table, contract_of(400), run="glm", family=family, model=f"{response} ~ site")
    rows = result.tables["coefficients"].rows
    expected = [means.iloc[0], *(means.iloc[1:] - means.iloc[0])]
    # Newton's method ends at steps of 1e-9 of a standard error, which is below 1.
    assert [row["estimate"] for row in rows] == pytest.approx(expected, abs=1e-8)


def test_a_cox_model_of_many_levels_is_the_same_whichever_is_the_reference() -> None:
    """The first level differs from all others, so that the sum of their coefficients is large."""
    table, contract = people(200, 40), contract_of(200)
    first, second = (
        {
            row["term"].rpartition("[")[2]: row["estimate"]
            for row in fits.fit(table, contract, run="cox", model=f"Surv(time, ill) ~ {site}")
            .tables["coefficients"]
            .rows
        }
        for site in ("site", "C(site, ref='l5')")
    )
    assert sum(first.values()) / 2 > admissible.MAX_PREDICTOR
    assert first["l5]"] == pytest.approx(-second["l0]"], abs=1e-7)
    assert first["l9]"] - first["l5]"] == pytest.approx(second["l9]"], abs=1e-7)


@pytest.mark.parametrize("run", ["glm", "cox"])
def test_a_state_with_one_level_out_of_reach_is_refused_by_its_name(run: str) -> None:
    options = {
        "glm": {"family": "binomial", "model": "ill ~ site"},
        "cox": {"model": "Surv(time, ill) ~ site"},
    }
    task = fits.task_of(contract_of(400), {"run": run, **options[run]}, {})
    limits = task.analysis.limits(task)
    step = "newton" if run == "glm" else "risk"
    beta = np.full(len(task.plan.names), 0.5)  # in all 200, and 0.5 or 1 in a row
    assert admissible.problem(limits, State(step, {"beta": beta})) == ""
    beta[7] = 150.0
    assert repr(task.plan.names[7]) in admissible.problem(limits, State(step, {"beta": beta}))
