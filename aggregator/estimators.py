"""Released models as scikit-learn estimators, made from result.json: nothing is unpickled.

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
from federation.messages import Floats
from strategies.learning import boosted_trees

INTERCEPT = "(Intercept)"


def load(path: Path | str, analysis: str) -> Any:
    """The estimator of an analysis `glm` or `boosted_trees`. Its features are the terms of the model, as `feature_names_in_` says: of a
    category `sex[F]`, the column that is 1 for F and else 0. Raises InputError where there is none to make."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    if analysis not in document["analyses"]:
        raise errors.InputError(
            f"{path}: no analysis {analysis!r}; it has {', '.join(document['analyses'])}"
        )
    found = document["analyses"][analysis]
    makers = {"glm": _linear, "boosted_trees": _boosted}
    if found["run"] not in makers:
        raise errors.InputError(
            f"{path}: {analysis!r} is a {found['run']}; estimators are made of {', '.join(makers)}"
        )
    if found["status"] != "released":
        raise errors.InputError(f"{path}: {analysis!r} was {found['status']}: {found['reason']}")
    return makers[found["run"]](found["tables"])


def _linear(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    rows = {
        row["term"]: row["estimate"] or 0.0 for row in tables["coefficients"]
    }  # what was not estimated adds nothing
    names = [name for name in rows if name != INTERCEPT]
    kind = (
        "logit"
        if "odds_ratio" in tables["coefficients"][0]
        else "log"
        if "rate_ratio" in tables["coefficients"][0]
        else "identity"
    )
    coefficients, intercept = (
        np.array([rows[name] for name in names]),
        float(rows.get(INTERCEPT, 0.0)),
    )
    made: Any
    if kind == "logit":
        made = LogisticRegression()
        made.classes_, made.coef_, made.intercept_ = (
            np.array([False, True]),
            coefficients[None],
            np.array([intercept]),
        )
    else:
        made = PoissonRegressor() if kind == "log" else LinearRegression()
        made.coef_, made.intercept_ = coefficients, intercept
        if kind == "log":
            made._base_loss = made._get_loss()
    return _named(made, names)


def _named(made: Any, names: Sequence[str]) -> Any:
    made.feature_names_in_, made.n_features_in_ = np.array(names, dtype=object), len(names)
    return made


def _boosted(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    glance = tables["glance"][0]
    names = [row["term"] for row in tables["importance"]]
    kind = BoostedTreesClassifier if "auc" in glance else BoostedTreesRegressor
    return _named(kind(list(tables["trees"]), glance["base"]), names)


class _Boosted(BaseEstimator):  # type: ignore[misc]
    """`trees` are the rows of the table of that name, `base` the score without them."""

    feature_names_in_: Any

    def __init__(self, trees: Any = None, base: float = 0.0) -> None:
        self.trees, self.base = trees, base

    def __sklearn_is_fitted__(self) -> bool:
        return self.trees is not None

    def fit(self, X: Any, y: Any) -> _Boosted:
        raise errors.InputError(
            "these trees were grown by a federated study; submit another to grow them anew"
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
