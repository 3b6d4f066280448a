"""A factor whose levels are eliminated, or stay codes, under a secure sum: the fit is that of all
rows at one place, though each level has few people at a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from federation.contract import Contract
from federation.results import Result
from strategies import registry
from strategies.numerics import designs
from tests import federations

LEVELS = 130
PEOPLE = 2_000  # about 15 of each level, and 5 at each node
CONTRACT = federations.contract_of(f"""
dataset: people
version: 1
person: id
columns:
  id: {{type: string}}
  age: {{type: number, range: [0, 10]}}
  site: {{type: category, levels: [{", ".join(f"l{i}" for i in range(LEVELS))}]}}
  y: {{type: number, range: [-20, 20]}}
  n: {{type: number, range: [0, 20]}}
  ill: {{type: boolean}}
  time: {{type: number, range: [0, 20], step: 1}}
  event: {{type: boolean}}
""")
MODELS: list[dict[str, Any]] = [
    {"run": "glm", "model": "y ~ age + site"},
    {"run": "glm", "model": "ill ~ age + site", "family": "binomial"},
    {"run": "glm", "model": "n ~ age + site", "family": "poisson"},
    {"run": "piecewise_exponential", "model": "Surv(time, event) ~ age + site", "cuts": [8]},
]


def people() -> pandas.DataFrame:
    rng = np.random.default_rng(11)
    level = np.arange(PEOPLE) % LEVELS
    effect, age = rng.normal(0, 0.4, LEVELS)[level], rng.uniform(0, 10, PEOPLE).round(2)
    risk = 0.1 * (age - 5) + effect
    return pandas.DataFrame(
        {
            "id": [f"p{i}" for i in range(PEOPLE)],
            "age": age,
            "site": [f"l{i}" for i in level],
            "y": (risk + rng.normal(0, 1, PEOPLE)).clip(-20, 20).round(3),
            "n": rng.poisson(np.exp(0.8 + risk)).clip(0, 20),
            "ill": rng.random(PEOPLE) < 1 / (1 + np.exp(-risk)),
            "time": np.ceil(rng.exponential(8 * np.exp(-risk))).clip(1, 20),
            "event": rng.random(PEOPLE) < 0.8,
        }
    )


def fitted(model: dict[str, Any], nodes: int, folder: Path, contract: Contract) -> Result:
    summed = {"mode": "exact", "secure_sum": True} if nodes > 1 else {"mode": "exact"}
    table = people()
    sites = federations.sites_of(table, np.arange(PEOPLE) // 7 % nodes, contract, folder)
    study = federations.study_of({"a": model}, privacy=summed)
    return federations.result(federations.run(study, contract, sites))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model['run']} {model['model']}")
def test_a_secure_sum_with_many_levels_gives_the_pooled_fit(
    model: dict[str, Any], tmp_path: Path
) -> None:
    plan = registry.plan(federations.study_of({"a": model}), CONTRACT)["a"].plan
    assert len(designs.eliminated(plan.model.terms)) == LEVELS - 1
    assert len(getattr(plan, "eliminated", ())) == (LEVELS - 1 if model["run"] == "glm" else 0)
    pooled, summed = (fitted(model, nodes, tmp_path, CONTRACT) for nodes in (1, 3))
    rows = zip(pooled.tables["coefficients"].rows, summed.tables["coefficients"].rows, strict=True)
    for expected, row in rows:
        assert row["term"] == expected["term"]
        for name in ("estimate", "std_error"):
            # the numbers of a sum are rounded before they are masked
            assert row[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-7)
    assert summed.n == pooled.n
