"""Estimates that are shown near the limit of the noise, where chance decides whether they are
shown.

Each test draws sums with noise, passes them to `combine`, and compares the estimates that are shown
with the truth. A rule that decides on the noised numbers of the estimate itself biases them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from federation import errors
from federation.contract import Contract
from federation.messages import Floats, State
from federation.results import Result
from strategies import registry
from strategies.epidemiology import mantel_haenszel_dp
from strategies.protocol import AnyTask, Total
from tests import federations

RELEASES = 400
LEAST_COVERAGE = 0.92  # of 95 % intervals: three standard errors of 0.95 over 400 intervals


def contract_with(columns: str) -> Contract:
    return federations.contract_of(
        f"dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {{type: string}}\n{columns}"
    )


def task_of(analysis: Mapping[str, Any], contract: Contract) -> AnyTask:
    study = federations.study_of({"a": analysis}, privacy={"mode": "dp", "epsilon": 1})
    return registry.plan(study, contract)["a"]


def shown(draw: Callable[[], Total], task: AnyTask, releases: int = RELEASES) -> Sequence[Result]:
    """The results of those of `releases` draws that are not refused."""
    results = []
    for _ in range(releases):
        with contextlib.suppress(errors.ModelError):
            result = task.analysis.combine(draw(), task, State())
            assert isinstance(result, Result)
            results.append(result)
    return results


STRATA = contract_with(
    "  stratum: {type: category, levels: [a, b, c, d, e, f]}\n"
    "  exposed: {type: boolean}\n  ill: {type: boolean}\n"
)


@pytest.mark.parametrize(
    ("exposure", "risks", "stratum_size"),
    [(0.1, (0.1, 0.3), 1500), (0.5, (0.05, 0.2), 1700), (0.5, (0.5, 0.5), 440)],
    ids=["few are exposed", "few are ill", "all cells are equal"],
)
def test_a_common_odds_ratio_at_the_limit_of_the_noise_is_not_biased(
    exposure: float, risks: tuple[float, float], stratum_size: int
) -> None:
    """The noise has a standard deviation of 18 people in six strata. Decided on the cells that are
    used, the log odds ratio is 0.4 too high, or 0.4 too low, and 70 % or 60 % of intervals hold the
    truth. A quarter of a standard error is five errors of a mean over 400 results."""
    rng, sd = np.random.default_rng(0), 18.0
    task = task_of(
        {"run": "mantel_haenszel", "exposure": "exposed", "outcome": "ill", "strata": ["stratum"]},
        STRATA,
    )
    budget = mantel_haenszel_dp.shares(task, State())
    noise = {name: sd**2 * budget["counts"] / share for name, share in budget.items()}
    unexposed_risk, exposed_risk = risks
    cells = np.array(
        [
            [(1 - exposure) * (1 - unexposed_risk), (1 - exposure) * unexposed_risk],
            [exposure * (1 - exposed_risk), exposure * exposed_risk],
        ]
    )
    truth = math.log(cells[1, 1] * cells[0, 0] / cells[1, 0] / cells[0, 1])

    def draw() -> Total:
        counts = rng.multinomial(stratum_size, cells.ravel(), 6).reshape(6, 2, 2)
        people = np.array([6.0 * stratum_size, 0, 0])
        sums = {"counts": counts, "decision": counts, "people": people}
        return noised({name: sums[name] for name in budget}, noise, rng)

    rows = [result.tables["common"].rows[0] for result in shown(draw, task)]
    assert 0.1 < len(rows) / RELEASES < 0.9, "chance decides whether a result is shown"
    errors_ = np.array([row["estimate"] - truth for row in rows])
    spread = np.array([row["std_error"] for row in rows])
    assert abs(errors_.mean()) < 0.25 * spread.mean()
    assert np.mean(np.abs(errors_) < 1.96 * spread) > LEAST_COVERAGE


def noised(
    sums: Mapping[str, Floats], noise: Mapping[str, float], rng: np.random.Generator
) -> Total:
    drawn = {
        name: array + rng.normal(0, math.sqrt(noise[name]), np.shape(array))
        for name, array in sums.items()
    }
    return Total(drawn, {}, {}, noise=dict(noise))
