"""Released models as scikit-learn estimators: they predict what the pooled fit predicts, and
nothing is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor
from sklearn.metrics import roc_auc_score

from aggregator import estimators, report
from federation import errors
from tests import federations

CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  x: {type: number, range: [-3, 3]}
  sex: {type: category, levels: [m, f]}
  y: {type: boolean}
  z: {type: number, range: [-20, 20]}
  k: {type: number, range: [0, 60]}
""")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pandas.DataFrame]:
    folder = tmp_path_factory.mktemp("released")
    rng = np.random.default_rng(0)
    n = 900
    x, f = rng.uniform(-3, 3, n).round(3), rng.integers(0, 2, n)
    frame = pandas.DataFrame(
        {
            "id": [f"p{i}" for i in range(n)],
            "x": x,
            "sex": np.where(f == 1, "f", "m"),
            "y": (rng.random(n) < 1 / (1 + np.exp(-x - f))).astype(int),
            "z": (2 * x - f + rng.normal(0, 1, n)).clip(-20, 20),
            "k": rng.poisson(np.exp(0.4 * x + 0.2 * f)).clip(0, 60),
        }
    )
    model = "{} ~ x + sex"
    analyses: dict[str, Any] = {
        "logistic": {"run": "glm", "model": model.format("y"), "family": "binomial"},
        "linear": {"run": "glm", "model": model.format("z")},
        "counts": {"run": "glm", "model": model.format("k"), "family": "poisson"},
        "trees": {"run": "boosted_trees", "model": model.format("y"), "trees": 8, "depth": 3},
        "values": {
            "run": "boosted_trees",
            "model": model.format("z"),
            "family": "gaussian",
            "trees": 8,
        },
        "table": {"run": "crosstab", "rows": "sex", "columns": "y"},
    }
    sites = federations.sites_of(frame, rng.integers(0, 3, n), CONTRACT, folder)
    report.write(
        federations.document(federations.run(federations.study_of(analyses), CONTRACT, sites)),
        folder / "out",
    )
    return folder / "out" / "result.json", frame.assign(**{"sex[f]": f.astype(float)})


@pytest.mark.parametrize(
    ("name", "kind", "outcome"),
    [
        ("logistic", LogisticRegression(C=np.inf, tol=1e-10), "y"),
        ("linear", LinearRegression(), "z"),
        ("counts", PoissonRegressor(alpha=0, tol=1e-10), "k"),
    ],
)
def test_a_linear_model_predicts_what_scikit_learns_pooled_fit_predicts(
    released: tuple[Path, pandas.DataFrame], name: str, kind: Any, outcome: str
) -> None:
    path, frame = released
    model = estimators.load(path, name)
    X = frame[list(model.feature_names_in_)]
    fit = kind.fit(X, frame[outcome])
    predict = "predict_proba" if name == "logistic" else "predict"
    # their solvers' tolerance
    assert isinstance(model, type(kind)) and np.allclose(
        getattr(model, predict)(X), getattr(fit, predict)(X), rtol=1e-4, atol=1e-4
    )


def test_boosted_trees_predict_with_names_or_in_their_order(
    released: tuple[Path, pandas.DataFrame],
) -> None:
    path, frame = released
    model = estimators.load(path, "trees")
    X = frame[list(model.feature_names_in_)]
    risk = model.predict_proba(X)[:, 1]
    assert (
        np.array_equal(risk, model.predict_proba(X.to_numpy())[:, 1])
        and model.score(X, frame["y"] == 1) > 0.7
    )
    note = next(
        iter(__import__("json").loads(path.read_text())["analyses"]["trees"]["tables"]["glance"])
    )["auc"]
    # counted in bins of a thousandth
    assert roc_auc_score(frame["y"], risk) == pytest.approx(note, abs=1e-3)
    assert estimators.load(path, "values").score(X, frame["z"]) > 0.8


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing", "it has counts, linear"), ("table", "only glm and boosted_trees have estimators")],
)
def test_what_is_no_model_is_told(
    released: tuple[Path, pandas.DataFrame], name: str, message: str
) -> None:
    with pytest.raises(errors.InputError, match=message):
        estimators.load(released[0], name)


def test_a_federated_model_is_not_fitted_again(released: tuple[Path, pandas.DataFrame]) -> None:
    with pytest.raises(errors.InputError, match="submit another"):
        estimators.load(released[0], "trees").fit([[0.0, 1.0]], [True])
