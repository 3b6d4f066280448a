"""A fit that begins at released coefficients ends where one from nothing ends, in fewer rounds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest

import federation as fed
from aggregator import rounds
from federation.messages import TaskId
from simulations import local, warm_starts
from tests import federations

CONTRACT: dict[str, Any] = {
    "dataset": "people",
    "version": 1,
    "unit": "row",
    "columns": {
        "age": {"type": "number", "range": [0, 100]},
        "bmi": {"type": "number", "range": [10, 60]},
        "sex": {"type": "category", "levels": ["f", "m"]},
        "ill": {"type": "boolean"},
        "n": {"type": "number", "range": [0, 50]},
        "time": {"type": "number", "range": [0, 24], "step": 1},
        "before": {"type": "number", "range": [-3, 3]},
    },
}
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "binomial": ({"run": "glm", "family": "binomial"}, "ill ~ "),
    "poisson": ({"run": "glm", "family": "poisson"}, "n ~ "),
    "cox": ({"run": "cox"}, "Surv(time, ill) ~ "),
    "cox in strata": ({"run": "cox", "strata": "node"}, "Surv(time, ill) ~ "),
}


def frame(seed: int, n: int = 400) -> pandas.DataFrame:
    draw = np.random.default_rng(seed)
    age, sex = draw.uniform(0, 100, n), draw.choice(["f", "m"], n)
    eta = (age - 50) / 25 + (sex == "m")
    return pandas.DataFrame(
        {
            "age": age,
            "bmi": draw.uniform(15, 40, n),
            "sex": sex,
            "ill": draw.random(n) < 1 / (1 + np.exp(1 - eta)),
            "n": np.minimum(draw.poisson(np.exp(eta / 2)), 50),
            "time": draw.integers(1, 25, n).astype(float),
            "before": draw.uniform(-3, 3, n),
        }
    )


FRAMES = {f"n{seed}": frame(seed) for seed in range(3)}


def study(entry: dict[str, Any], model: str) -> fed.Study:
    return fed.Study("people", mode="exact").add("m", model=model, **entry)


def fitted(nodes: fed.Simulation, entry: dict[str, Any], model: str) -> Any:
    return study(entry, model).run(nodes, progress=False)["m"]


@pytest.mark.parametrize("name", federations.first(MODELS, 3))
@pytest.mark.parametrize("before", ["age + sex", "age + sex + bmi"])
def test_the_optimum_is_the_same_from_the_coefficients_of_another_model(
    name: str, before: str
) -> None:
    entry, response = MODELS[name]
    is_contained = "bmi" not in before
    after = "sex + age + bmi" if is_contained else "age"
    with fed.simulate(FRAMES, CONTRACT) as nodes:
        fitted(nodes, entry, response + before)
        warm = fitted(nodes, entry, response + after)
    with fed.simulate(FRAMES, CONTRACT) as nodes:
        cold = fitted(nodes, entry, response + after)
    for column in ("estimate", "std_error"):
        expected = cold.tidy()[column].to_numpy()
        # Newton's last step is below 1e-9 of the largest coefficient
        np.testing.assert_allclose(warm.tidy()[column], expected, rtol=1e-9, atol=1e-9)
    rounds_of = [int(result.glance()["rounds"].iloc[0]) for result in (warm, cold)]
    assert rounds_of[0] < rounds_of[1] if is_contained else rounds_of[0] == rounds_of[1]


@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_the_same_model_again_has_every_number_of_its_glance(family: str) -> None:
    """With an offset, the deviance of the null model takes rounds of its own."""
    response = {"binomial": "ill", "poisson": "n"}[family]
    entry, model = {"run": "glm", "family": family}, f"{response} ~ age + offset(before)"
    with fed.simulate(FRAMES, CONTRACT) as nodes:
        cold, warm = (fitted(nodes, entry, model).glance().iloc[0] for _ in range(2))
    assert warm["rounds"] < cold["rounds"]
    for name in cold.index.drop("rounds"):
        assert warm[name] == pytest.approx(cold[name], rel=1e-12), name


@pytest.mark.parametrize("name", federations.first(MODELS, 1))
@pytest.mark.parametrize("far", [3.0, -40.0, 1e6])
def test_a_start_that_is_far_off_costs_rounds_and_no_digit(
    name: str, far: float, tmp_path: Any
) -> None:
    (entry, response) = MODELS[name]
    contract = federations.contract_of(str(CONTRACT).replace("'", '"'))
    sites = []
    for node, rows in FRAMES.items():
        rows.to_parquet(tmp_path / f"{node}.parquet")
        sites.append(federations.site(node, contract, tmp_path / f"{node}.parquet"))
    asked = federations.study_of({"a": {**entry, "model": response + "age + sex"}})
    estimates = []
    for starts in ({}, {"a": {"age": far, "sex [m]": far, "(Intercept)": far}}):
        ask = local.ask_of(sites, federations.NOW)
        outcome = rounds.run(asked, contract, ask, list(FRAMES), starts=starts)
        released = outcome.runs[TaskId("a")].result
        assert released is not None, outcome.runs[TaskId("a")].failed
        rows = released.tables["coefficients"].rows
        estimates.append([row["estimate"] for row in rows])
    np.testing.assert_allclose(estimates[0], estimates[1], rtol=1e-9, atol=1e-9)


def test_a_private_study_neither_gives_nor_takes_a_start() -> None:
    starts = warm_starts.Starts()
    entry = {"run": "glm", "family": "binomial", "model": "ill ~ age"}
    exact, private = (
        federations.study_of({"a": entry}, privacy=privacy)
        for privacy in ({"mode": "exact"}, {"epsilon": 1.0})
    )
    with fed.simulate(FRAMES, CONTRACT) as nodes:
        released = study({"run": "glm", "family": "binomial"}, "ill ~ age").run(
            nodes, progress=False
        )
    rows = released["m"].tidy().to_dict("records")
    document: Any = SimpleNamespace(analyses={"a": SimpleNamespace(tables={"coefficients": rows})})
    starts.learn(private, document)
    assert not starts.of(exact)
    starts.learn(exact, document)
    assert set(starts.of(exact)["a"]) == {"(Intercept)", "age"} and not starts.of(private)
