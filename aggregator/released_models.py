"""Estimators for models that scikit-learn has no class for. All that they know are parameters of
the constructor, so a clone predicts as they do; `fit` is refused, since the rows are with the
nodes."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from federation import errors
from federation.arrays import Floats
from strategies.learning import boosted_trees

# For scikit-learn's check_estimator(model, expected_failed_checks=NOT_APPLICABLE): all checks but
# these hold. Those that `fit` a table of their own cannot begin.
FIT = "fit is refused: the rows are with the nodes, and another study fits the model again"
CLONE = "a clone keeps the released model, since all of it are parameters of the constructor"
NOT_APPLICABLE: Mapping[str, str] = {
    f"check_{name}": FIT
    for name in (
        *("classifier_data_not_an_array", "classifiers_classes", "classifiers_one_label"),
        *("classifiers_regression_target", "classifiers_train", "complex_data"),
        *("decision_proba_consistency", "dict_unchanged", "dont_overwrite_parameters"),
        *("dtype_object", "estimator_sparse_array", "estimator_sparse_matrix"),
        *("estimator_sparse_tag", "estimators_dtypes", "estimators_empty_data_messages"),
        *("estimators_fit_returns_self", "estimators_nan_inf", "estimators_overwrite_params"),
        *("estimators_pickle", "f_contiguous_array_estimator", "fit1d", "fit2d_1feature"),
        *("fit2d_1sample", "fit2d_predict1d", "fit_idempotent", "fit_score_takes_y"),
        *("methods_sample_order_invariance", "methods_subset_invariance"),
        *("n_features_in_after_fitting", "pipeline_consistency", "positive_only_tag_during_fit"),
        *("readonly_memmap_input", "regressor_data_not_an_array", "regressors_int"),
        *("regressors_no_decision_function", "regressors_train", "requires_y_none"),
        *("supervised_y_2d", "supervised_y_no_nan"),
    )
} | {
    f"check_{name}": CLONE
    for name in ("estimators_unfitted", "fit_check_is_fitted", "n_features_in")
}


class Released(BaseEstimator):  # type: ignore[misc]
    """`names`: of the features, in their order."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = names

    @property
    def feature_names_in_(self) -> Any:
        return np.array(self.names, dtype=object)

    @property
    def n_features_in_(self) -> int:
        return len(self.names)

    def __sklearn_is_fitted__(self) -> bool:
        return len(self.names) > 0

    def fit(self, X: Any, y: Any = None) -> Released:
        raise errors.InputError(
            "this model was fitted by a federated study; submit another study to fit it again"
        )

    def _read(self, X: Any) -> Floats:
        """(n_rows, n_features). A frame may have its columns in any order."""
        check_is_fitted(self)
        rows: Floats
        if hasattr(X, "columns"):
            has_all = set(self.names) <= set(X.columns)
            chosen = X[list(self.names)] if has_all else X
            rows = validate_data(self, chosen, reset=False, dtype=np.float64)
            return rows
        rows = check_array(X, dtype=np.float64)
        if rows.shape[1] != len(self.names):
            raise ValueError(
                f"X has {rows.shape[1]} features, but {type(self).__name__} is expecting "
                f"{len(self.names)} features as input"
            )
        return rows


class RelativeRisk(Released):
    """The logarithm of a relative risk: of a hazard ratio, or of a rate ratio.

    `coefficients` (n_features,). A person with all features 0 has the risk 0; a model without an
    intercept gives no more than differences."""

    def __init__(self, names: Sequence[str] = (), coefficients: Sequence[float] = ()) -> None:
        super().__init__(names)
        self.coefficients = coefficients

    def predict(self, X: Any) -> Floats:
        """(n_rows,): the log of the relative risk; higher is worse, as in scikit-survival."""
        return np.asarray(self._read(X) @ np.asarray(self.coefficients, np.float64))


class PiecewiseSurvival(RelativeRisk):
    """The same, with a baseline hazard. `baseline`: the rows of the result's table of that name,
    with columns from, to and hazard."""

    def __init__(
        self,
        names: Sequence[str] = (),
        coefficients: Sequence[float] = (),
        baseline: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(names, coefficients)
        self.baseline = baseline

    def predict_survival(self, X: Any, times: Any) -> Floats:
        """(n_rows, n_times): the probability of no event up to each of `times`. NaN beyond the last
        interval, and beyond one whose hazard was withheld."""
        hazard = self._cumulative_hazard(np.asarray(times, np.float64))
        return np.asarray(np.exp(-np.exp(self.predict(X))[:, None] * hazard))

    def _cumulative_hazard(self, times: Floats) -> Floats:
        """(n_times,): of a person with all features 0."""
        total = np.zeros(len(times))
        for row in self.baseline:
            end = np.inf if row["to"] is None else row["to"]
            hazard = np.nan if row["hazard"] is None else row["hazard"]
            spent = np.clip(times, row["from"], end) - row["from"]
            total += np.where(spent > 0, spent * hazard, 0.0)
        last = max(np.inf if row["to"] is None else row["to"] for row in self.baseline)
        return np.where(times > last, np.nan, total)


class _Boosted(Released):
    """`trees`: the rows of the result's table `trees`. `base`: the score without any tree."""

    def __init__(
        self,
        names: Sequence[str] = (),
        trees: Sequence[Mapping[str, Any]] = (),
        base: float = 0.0,
    ) -> None:
        super().__init__(names)
        self.trees, self.base = trees, base

    def decision_function(self, X: Any) -> Floats:
        columns = dict(zip(self.names, self._read(X).T, strict=True))
        return boosted_trees.predict(self.trees, self.base, columns)


class _YesOrNo(ClassifierMixin):  # type: ignore[misc]
    """A classifier whose `decision_function` is the log-odds of a yes."""

    classes_ = np.array([False, True])

    def predict_proba(self, X: Any) -> Floats:
        """(n_rows, 2): the probabilities of no and of yes."""
        yes = 1 / (1 + np.exp(-self.decision_function(X)))
        return np.stack([1 - yes, yes], axis=1)

    def predict(self, X: Any) -> Any:
        return self.decision_function(X) > 0


class BoostedTreesClassifier(_YesOrNo, _Boosted):
    pass


class BoostedTreesRegressor(RegressorMixin, _Boosted):  # type: ignore[misc]
    def predict(self, X: Any) -> Floats:
        return self.decision_function(X)


class _Network(Released):
    """A trained network, which needs torch (extra `deep`).

    `about`: the model's description in result.json. `content`: its safetensors file in base64."""

    def __init__(
        self,
        names: Sequence[str] = (),
        about: Mapping[str, Any] | None = None,
        content: str = "",
    ) -> None:
        super().__init__(names)
        self.about, self.content = about, content

    def _numbers(self, X: Any) -> Floats:
        """(n_rows, n_outputs): the numbers of the network. `X`: the terms (n_rows, n_features), or
        images or series (n_rows, *shape), in the units of the contract. If each node scaled its
        inputs by itself, so must you."""
        import torch

        from aggregator import models
        from strategies.learning import networks

        about = self._described()
        network = models.network(about)
        rows = self._read(X) if len(network.shape) == 1 else np.asarray(X, np.float64)
        scaled = (rows - np.asarray(about["centre"])) / np.asarray(about["divisor"])
        with torch.no_grad():
            entered = networks.entry(network, torch.as_tensor(scaled, dtype=torch.float32))
            return np.asarray(self._net()(entered).numpy(), np.float64)

    def _described(self) -> Mapping[str, Any]:
        return self.about or {}

    def _net(self) -> Any:
        from aggregator import models

        with tempfile.TemporaryDirectory(prefix="hdh-") as folder:
            path = Path(folder) / "network.safetensors"
            path.write_bytes(base64.b64decode(self.content))
            return models.load(path)


class NetworkClassifier(_YesOrNo, _Network):
    def decision_function(self, X: Any) -> Floats:
        """(n_rows,): the log-odds of a yes."""
        return np.asarray(self._numbers(X)[:, 0])


class NetworkOfClasses(ClassifierMixin, _Network):  # type: ignore[misc]
    """A network that learned several classes."""

    @property
    def classes_(self) -> Any:
        return np.array(self._described().get("classes", ()), dtype=object)

    def decision_function(self, X: Any) -> Floats:
        """(n_rows, n_classes): the log-odds of each class, up to a constant of the row."""
        return self._numbers(X)

    def predict_proba(self, X: Any) -> Floats:
        """(n_rows, n_classes)"""
        numbers = self._numbers(X)
        shares = np.exp(numbers - numbers.max(axis=1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))

    def predict(self, X: Any) -> Any:
        return self.classes_[self._numbers(X).argmax(axis=1)]


class NetworkRegressor(RegressorMixin, _Network):  # type: ignore[misc]
    def predict(self, X: Any) -> Floats:
        """(n_rows,), in the outcome's unit."""
        about = self._described()
        scaled = self._numbers(X)[:, 0]
        return np.asarray(about["outcome_centre"] + about["outcome_divisor"] * scaled)


class NetworkSurvival(_Network):
    """A network that learned survival."""

    @property
    def unique_times_(self) -> Floats:
        """(n_intervals,): the ends of the intervals, in the unit of the time."""
        return np.asarray(self._described().get("edges", (0.0,))[1:], np.float64)

    def predict(self, X: Any) -> Floats:
        """(n_rows,): the log of the relative hazard, or of the cumulative hazard at the end; higher
        is worse, as in scikit-survival."""
        if self._described()["learns"] == "cox":
            return np.asarray(self._numbers(X)[:, 0])
        return np.asarray(np.log(np.maximum(self._cumulative_hazards(X)[:, -1], 1e-300)))

    def predict_survival_function(self, X: Any) -> Floats:
        """(n_rows, n_intervals): the probability of no event up to each of `unique_times_`."""
        return np.asarray(np.exp(-self._cumulative_hazards(X)))

    def predict_survival(self, X: Any, times: Any) -> Floats:
        """(n_rows, n_times): the same up to each of `times`, with a constant hazard within an
        interval. NaN beyond the last one."""
        edges, wanted = np.r_[0.0, self.unique_times_], np.asarray(times, np.float64)
        hazards = np.pad(self._cumulative_hazards(X), ((0, 0), (1, 0)))
        lived = [np.interp(wanted, edges, each, right=np.nan) for each in hazards]
        return np.asarray(np.exp(-np.array(lived).reshape(len(hazards), len(wanted))))

    def _cumulative_hazards(self, X: Any) -> Floats:
        """(n_rows, n_intervals), at the end of each interval."""
        about, numbers = self._described(), self._numbers(X)
        if about["learns"] == "cox":
            return np.asarray(np.exp(numbers) * np.cumsum(about["hazards"]))
        return np.asarray(np.cumsum(np.logaddexp(0.0, numbers), axis=1))
