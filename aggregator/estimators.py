"""Released models as scikit-learn estimators, built from result.json without unpickling anything.

model = estimators.load("out/result.json", "mortality")
model.predict_proba(frame[list(model.feature_names_in_)])
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from aggregator import released_models
from federation import errors, study_result

INTERCEPT = "(Intercept)"
Rows = Sequence[Mapping[str, Any]]
Analysis = Mapping[str, Any]


def load(path: Path | str, analysis: str) -> Any:
    """The estimator of an analysis of BUILDERS. Its features are the terms of the model, listed in
    `feature_names_in_`; the term `sex[F]` of a category is 1 for F and else 0. A model with an
    offset predicts at the offset 0. InputError if the document has no such released model."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    return of(document, analysis, str(path))


def of(document: Mapping[str, Any], analysis: str, path: str = "the result") -> Any:
    """The same, from the content of result.json. `path` names it in messages."""
    if analysis not in document["analyses"]:
        raise errors.InputError(
            f"{path}: no analysis {analysis!r}; it has {', '.join(document['analyses'])}"
        )
    result = document["analyses"][analysis]
    if result["run"] not in BUILDERS:
        raise errors.InputError(
            f"{path}: {analysis!r} is a {result['run']}, which predicts nothing; the analyses with "
            f"an estimator are {', '.join(sorted(BUILDERS))}"
        )
    if result["status"] != "released":
        raise errors.InputError(f"{path}: {study_result.without(analysis, result)}")
    return BUILDERS[result["run"]](result)


# -- linear predictors
def _coefficients(rows: Rows) -> dict[str, float]:
    """By term. An aliased term has no estimate, and adds nothing to the linear predictor."""
    return {row["term"]: row["estimate"] or 0.0 for row in rows}


def _generalised_linear(result: Analysis) -> Any:
    rows: Rows = result["tables"]["coefficients"]
    if "odds_ratio" in rows[0]:
        return _logistic(rows)
    if "rate_ratio" not in rows[0]:
        return _linear(LinearRegression(), rows)
    estimator = _linear(PoissonRegressor(), rows)
    estimator._base_loss = estimator._get_loss()
    return estimator


def _linear(estimator: Any, rows: Rows) -> Any:
    coefficients = _coefficients(rows)
    names = [name for name in coefficients if name != INTERCEPT]
    estimator.coef_ = np.array([coefficients[name] for name in names])
    estimator.intercept_ = float(coefficients.get(INTERCEPT, 0.0))
    return _named(estimator, names)


def _logistic(rows: Rows) -> Any:
    estimator = _linear(LogisticRegression(), rows)
    estimator.classes_ = np.array([False, True])
    estimator.coef_ = estimator.coef_[None]
    estimator.intercept_ = np.array([estimator.intercept_])
    return estimator


def _named(estimator: Any, names: Sequence[str]) -> Any:
    estimator.feature_names_in_ = np.array(names, dtype=object)
    estimator.n_features_in_ = len(names)
    return estimator


def _relative_risk(result: Analysis) -> Any:
    coefficients = _coefficients(result["tables"]["coefficients"])
    return released_models.RelativeRisk(tuple(coefficients), tuple(coefficients.values()))


def _survival(result: Analysis) -> Any:
    coefficients = _coefficients(result["tables"]["coefficients"])
    baseline = result["tables"]["baseline"]
    return released_models.PiecewiseSurvival(
        tuple(coefficients), tuple(coefficients.values()), baseline
    )


# -- learned models
def _boosted(result: Analysis) -> Any:
    tables = result["tables"]
    glance = tables["glance"][0]
    names = tuple(row["term"] for row in tables["importance"])
    kind = (
        released_models.BoostedTreesClassifier
        if "auc" in glance
        else released_models.BoostedTreesRegressor
    )
    return kind(names, list(tables["trees"]), glance["base"])


def _components(result: Analysis) -> Any:
    """A pipeline that scales the columns as the study did, and returns the components."""
    tables = result["tables"]
    names = [row["term"] for row in tables["columns"]]
    scaler = _named(StandardScaler(), names)
    scaler.mean_ = np.array([row["mean"] for row in tables["columns"]])
    scaler.scale_ = np.array([row["sd"] for row in tables["columns"]])
    names_of_components = [row["component"] for row in tables["variance"]]
    loadings = {(row["component"], row["term"]): row["estimate"] for row in tables["loadings"]}
    components = PCA(len(names_of_components))
    components.components_ = np.array(
        [[loadings[component, name] for name in names] for component in names_of_components]
    )
    components.mean_ = np.zeros(len(names))
    components.explained_variance_ = np.array([row["variance"] for row in tables["variance"]])
    components.explained_variance_ratio_ = np.array([row["share"] for row in tables["variance"]])
    components.n_components_, components.n_features_in_ = len(names_of_components), len(names)
    return Pipeline([("scale", scaler), ("components", components)])


def _network(result: Analysis) -> Any:
    model = result["model"]
    kind = NETWORKS[model["about"].get("learns", "yes_no")]
    return kind(tuple(model["about"]["inputs"]), dict(model["about"]), model["base64"])


NETWORKS: Mapping[str, Callable[..., Any]] = {
    "yes_no": released_models.NetworkClassifier,
    "classes": released_models.NetworkOfClasses,
    "number": released_models.NetworkRegressor,
    "hazards": released_models.NetworkSurvival,
    "cox": released_models.NetworkSurvival,
}
BUILDERS: Mapping[str, Callable[[Analysis], Any]] = {
    "boosted_trees": _boosted,
    "cox": _relative_risk,
    "fedavg": lambda result: _logistic(result["tables"]["coefficients"]),
    "fine_gray": _relative_risk,
    "glm": _generalised_linear,
    "mixed_model": lambda result: _linear(LinearRegression(), result["tables"]["coefficients"]),
    "multiple_imputation": _generalised_linear,
    "pca": _components,
    "piecewise_exponential": _survival,
    "propensity": lambda result: _logistic(result["tables"]["score"]),
    "sccs": _relative_risk,
    "train": _network,
}
