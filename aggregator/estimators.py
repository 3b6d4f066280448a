"""Released models as scikit-learn estimators, built from result.json without unpickling anything.

model = estimators.load("out/result.json", "mortality")
model.predict_proba(frame[list(model.feature_names_in_)])
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor

from federation import errors
from federation.arrays import Floats
from strategies.learning import boosted_trees

INTERCEPT = "(Intercept)"


def load(path: Path | str, analysis: str) -> Any:
    """The estimator of an analysis `glm` or `boosted_trees`. Its features are the terms of the
    model, listed in `feature_names_in_`; the term `sex[F]` of a category is 1 for F and else 0.
    InputError if the document has no such released model."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    return of(document, analysis, str(path))


def of(document: Mapping[str, Any], analysis: str, path: str = "the result") -> Any:
    """The same, from the content of result.json. `path` names it in messages."""
    if analysis not in document["analyses"]:
        raise errors.InputError(
            f"{path}: no analysis {analysis!r}; it has {', '.join(document['analyses'])}"
        )
    result = document["analyses"][analysis]
    builders = {"glm": _linear, "boosted_trees": _boosted}
    if result["run"] not in builders:
        raise errors.InputError(
            f"{path}: {analysis!r} is a {result['run']};"
            f" only {' and '.join(builders)} have estimators"
        )
    if result["status"] != "released":
        raise errors.InputError(f"{path}: {analysis!r} was {result['status']}: {result['reason']}")
    return builders[result["run"]](result["tables"])


def _linear(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    # An aliased term has no estimate, and adds nothing to the linear predictor.
    estimates = {row["term"]: row["estimate"] or 0.0 for row in tables["coefficients"]}
    names = [name for name in estimates if name != INTERCEPT]
    coefficients = np.array([estimates[name] for name in names])
    intercept = float(estimates.get(INTERCEPT, 0.0))
    columns = tables["coefficients"][0]
    estimator: Any
    if "odds_ratio" in columns:
        estimator = LogisticRegression()
        estimator.classes_ = np.array([False, True])
        estimator.coef_, estimator.intercept_ = coefficients[None], np.array([intercept])
        return _named(estimator, names)
    estimator = PoissonRegressor() if "rate_ratio" in columns else LinearRegression()
    estimator.coef_, estimator.intercept_ = coefficients, intercept
    if "rate_ratio" in columns:
        estimator._base_loss = estimator._get_loss()
    return _named(estimator, names)


def _named(estimator: Any, names: Sequence[str]) -> Any:
    estimator.feature_names_in_ = np.array(names, dtype=object)
    estimator.n_features_in_ = len(names)
    return estimator


def _boosted(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    glance = tables["glance"][0]
    names = [row["term"] for row in tables["importance"]]
    kind = BoostedTreesClassifier if "auc" in glance else BoostedTreesRegressor
    return _named(kind(list(tables["trees"]), glance["base"]), names)


class _Boosted(BaseEstimator):  # type: ignore[misc]
    """`trees`: the rows of the result's table `trees`. `base`: the score without any tree."""

    feature_names_in_: Any

    def __init__(self, trees: Any = None, base: float = 0.0) -> None:
        self.trees, self.base = trees, base

    def __sklearn_is_fitted__(self) -> bool:
        return self.trees is not None

    def fit(self, X: Any, y: Any) -> _Boosted:
        raise errors.InputError(
            "these trees were grown by a federated study; submit another study to grow new ones"
        )

    def decision_function(self, X: Any) -> Floats:
        names = list(self.feature_names_in_)
        columns = {
            name: np.asarray(X[name] if hasattr(X, "columns") else np.asarray(X)[:, j], np.float64)
            for j, name in enumerate(names)
        }
        return boosted_trees.predict(self.trees, self.base, columns)


class BoostedTreesClassifier(ClassifierMixin, _Boosted):  # type: ignore[misc]
    classes_ = np.array([False, True])

    def predict_proba(self, X: Any) -> Floats:
        yes = 1 / (1 + np.exp(-self.decision_function(X)))
        return np.stack([1 - yes, yes], axis=1)

    def predict(self, X: Any) -> Any:
        return self.decision_function(X) > 0


class BoostedTreesRegressor(RegressorMixin, _Boosted):  # type: ignore[misc]
    def predict(self, X: Any) -> Floats:
        return self.decision_function(X)
