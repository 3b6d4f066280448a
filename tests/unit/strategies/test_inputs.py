"""Inputs of a network that are written out for some rows at a time have the numbers of the whole
design, those of a linear predictor its products, and a step in pieces the slopes of a whole one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from federation import cohort as cohorts
from federation.messages import Part
from strategies.learning import inputs, local_training
from strategies.numerics import designs
from strategies.protocol import AnyTask
from tests.growth.test_every_analysis import Rows, contract_of, task_of

pytest.importorskip("torch")
MODELS = [
    "died ~ age",
    "died ~ age + sex + arm",
    "died ~ age * arm + sex",
    "died ~ arm:age + C(arm, ref='l7') + age:sex",
]


def task_and_rows(model: str, **options: Any) -> tuple[AnyTask, Rows]:
    task = task_of("train", {"model": model, "rounds": 3, **options}, contract_of(40))
    return task, Rows(task, 3, 40)


def whole(task: AnyTask, rows: Rows) -> Any:
    columns, plan = rows.cohort.columns(task.fields), task.plan
    complete = cohorts.kept_rows(cohorts.complete(columns))
    scaling = plan.scaling
    X = cohorts.design(plan.terms, columns, complete, centre=scaling.centre, scale=scaling.scale)
    return X, inputs.of(plan.terms, columns, complete, scaling)


@pytest.mark.parametrize("model", MODELS)
def test_some_rows_have_the_bits_of_the_whole_design(model: str) -> None:
    X, given = whole(*task_and_rows(model))
    some = np.random.default_rng(1).integers(0, len(X), 50)
    np.testing.assert_array_equal(given[some], X[some])
    assert given.shape == X.shape


@pytest.mark.parametrize("at_once", [10**9, 500])
@pytest.mark.parametrize("model", MODELS)
def test_means_and_deviations_of_pieces_are_those_of_the_whole(
    model: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "AT_ONCE", at_once)
    X, given = whole(*task_and_rows(model))
    some = np.arange(0, len(X), 2)
    for moment, expected in zip(
        given.moments(some), (X[some].mean(0), X[some].std(0)), strict=True
    ):
        np.testing.assert_allclose(moment, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_codes_give_the_predictor_and_the_products_of_the_whole_design(model: str) -> None:
    """To the rounding of sums of 500 terms of size 1."""
    (task, rows), rng = task_and_rows(model), np.random.default_rng(2)
    X, _ = whole(task, rows)
    columns = rows.cohort.columns(task.fields)
    complete = cohorts.kept_rows(cohorts.complete(columns))
    given = inputs.of(task.plan.terms, columns, complete, task.plan.scaling, intercept=True)
    X = np.column_stack([np.ones(len(X)), X])
    beta, values = rng.normal(size=X.shape[1]), rng.normal(size=len(X))
    np.testing.assert_array_equal(given[np.arange(len(X))], X)
    np.testing.assert_allclose(given.predictor(beta), X @ beta, rtol=0, atol=1e-12)
    np.testing.assert_allclose(given.products(values), values @ X, rtol=0, atol=1e-12)


def part_of(model: str, **options: Any) -> Part:
    task, rows = task_and_rows(model, **options)
    return task.analysis.local(rows.cohort, task, task.analysis.start(task))


@pytest.mark.parametrize(
    "options",
    [
        {"model": "died ~ age + arm", "batch": 64, "network": "mlp"},
        {"model": "died ~ age * arm", "batch": 0, "network": "logistic", "scale": "node"},
        {"model": "died ~ arm + sex", "batch": 0, "network": "mlp", "local_epochs": 3},
    ],
)
def test_a_factor_in_codes_trains_as_its_columns(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_codes = part_of(**options)
    monkeypatch.setattr(designs, "MANY", 1000)
    in_columns = part_of(**options)
    for name, values in in_columns.sums.items():
        np.testing.assert_array_equal(in_codes.sums[name], values)
    assert np.abs(in_codes.sums["update"]).max() > 0


@pytest.mark.parametrize("network", ["logistic", "mlp"])
def test_a_step_in_pieces_is_a_whole_one_to_rounding(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 32 bits, in another order of people."""
    options = {"model": "died ~ age + arm", "batch": 0, "network": network, "validation": 0}
    at_once = part_of(**options)
    monkeypatch.setattr(inputs, "AT_ONCE", 2_000)
    asked: list[int] = []
    batch = local_training.batch

    def counted(*given: Any) -> Any:
        asked.append(len(given[1]))
        return batch(*given)

    monkeypatch.setattr(local_training, "batch", counted)
    in_pieces = part_of(**options)
    assert max(asked) * 41 <= 2_000 and len(asked) > 6
    for name, values in at_once.sums.items():
        size = float(np.abs(values).max())
        np.testing.assert_allclose(in_pieces.sums[name], values, rtol=1e-5, atol=1e-5 * size)
