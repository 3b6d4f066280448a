"""Released models as scikit-learn estimators: they predict what the pooled fit predicts, and
nothing is unpickled."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy import sparse
from sklearn import metrics
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.utils.estimator_checks import check_estimator

from aggregator import estimators, released_models, report
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
  t: {type: number, range: [0, 30], step: 1}
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
            "t": rng.exponential(9 * np.exp(-0.3 * x), n).round().clip(1, 30),
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
        "hazards": {"run": "cox", "model": "Surv(t, y) ~ x + sex"},
        "survival": {
            "run": "piecewise_exponential",
            "model": "Surv(t, y) ~ x + sex",
            "cuts": [4, 12],
        },
        "rounds": {"run": "fedavg", "model": model.format("y"), "rounds": 3},
        "components": {"run": "pca", "columns": ["x", "z"]},
        "network": {"run": "train", "model": model.format("y"), "widths": [4], "rounds": 1},
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
    [
        ("nothing", "it has .*counts, .*linear"),
        ("table", "a crosstab, which predicts nothing; .*boosted_trees, cox, fedavg"),
    ],
)
def test_what_is_no_model_is_told(
    released: tuple[Path, pandas.DataFrame], name: str, message: str
) -> None:
    with pytest.raises(errors.InputError, match=message):
        estimators.load(released[0], name)


def test_a_federated_model_is_not_fitted_again(released: tuple[Path, pandas.DataFrame]) -> None:
    with pytest.raises(errors.InputError, match="submit another"):
        estimators.load(released[0], "trees").fit([[0.0, 1.0]], [True])


def table(path: Path, analysis: str, name: str) -> pandas.DataFrame:
    document = json.loads(path.read_text())
    return pandas.DataFrame(document["analyses"][analysis]["tables"][name])


def test_a_relative_hazard_is_the_exponential_of_what_is_predicted(
    released: tuple[Path, pandas.DataFrame],
) -> None:
    path, _ = released
    model = estimators.load(path, "hazards")
    ratios = table(path, "hazards", "coefficients").set_index("term")["hazard_ratio"]
    log_risk = model.predict(pandas.DataFrame({"sex[f]": [0.0, 1.0, 0.0], "x": [0.0, 0.0, 2.0]}))
    # By hand: the baseline has the risk 1; two units of x multiply it by the ratio twice.
    assert np.exp(log_risk) == pytest.approx([1, ratios["sex[f]"], ratios["x"] ** 2])


def test_survival_falls_by_the_hazard_of_each_interval(
    released: tuple[Path, pandas.DataFrame],
) -> None:
    path, frame = released
    model = estimators.load(path, "survival")
    X = frame[list(model.feature_names_in_)].head(20)
    baseline = table(path, "survival", "baseline")["hazard"].tolist()
    risk = np.exp(model.predict(X))
    # By hand: exp(-H), where H adds the hazard of each interval over the time spent in it.
    spent = {2: (2, 0, 0), 6: (4, 2, 0), 20: (4, 8, 8)}
    expected = np.stack(
        [np.exp(-risk * np.dot(baseline, parts)) for parts in spent.values()], axis=1
    )
    assert model.predict_survival(X, list(spent)) == pytest.approx(expected)
    assert np.isnan(model.predict_survival(X, [31.0])).all()  # beyond the contract's range


def test_a_model_of_fedavg_has_the_loss_that_its_last_round_told(
    released: tuple[Path, pandas.DataFrame],
) -> None:
    path, frame = released
    model = estimators.load(path, "rounds")
    log_loss = metrics.log_loss(frame["y"], model.predict_proba(frame[model.feature_names_in_]))
    # The loss of a round is that of the model at its start, and each round lowers it.
    losses = table(path, "rounds", "history")["log_loss"]
    assert log_loss < losses.iloc[-1] < losses.iloc[0]


def test_components_are_those_of_scikit_learn_on_scaled_columns(
    released: tuple[Path, pandas.DataFrame],
) -> None:
    path, frame = released
    model = estimators.load(path, "components")
    X = frame[list(model.feature_names_in_)]
    scaled = (X - X.mean()) / X.std()  # over n - 1, as in the study
    expected = PCA().fit_transform(scaled)
    assert np.abs(model.transform(X)) == pytest.approx(np.abs(expected), abs=1e-8)  # either sign


@pytest.mark.parametrize("name", ["trees", "hazards", "survival"])
def test_a_clone_of_a_released_model_predicts_as_it_does(
    released: tuple[Path, pandas.DataFrame], name: str
) -> None:
    path, frame = released
    model = estimators.load(path, name)
    X = frame[list(model.feature_names_in_)]
    in_pipeline = Pipeline([("model", clone(model))])
    assert np.array_equal(in_pipeline.predict(X), model.predict(X))
    reversed_columns = X[X.columns[::-1]]
    assert np.array_equal(model.predict(reversed_columns), model.predict(X))
    with pytest.raises(ValueError, match="1 features"):
        model.predict(np.zeros((3, 1)))
    with pytest.raises(NotFittedError):
        type(model)().predict(X)


OURS = [
    released_models.RelativeRisk(("a", "b"), (1.0, 2.0)),
    released_models.PiecewiseSurvival(("a", "b"), (1.0, 2.0), [{"from": 0, "to": 1, "hazard": 0}]),
    released_models.BoostedTreesClassifier(("a", "b"), (), 0.5),
    released_models.BoostedTreesRegressor(("a", "b"), (), 0.5),
    released_models.NetworkClassifier(("a", "b"), {}),
    released_models.NetworkOfClasses(("a", "b"), {"classes": ["x", "y"]}),
    released_models.NetworkRegressor(("a", "b"), {}),
    released_models.NetworkSurvival(("a", "b"), {"learns": "cox"}),
]


def test_every_class_of_ours_is_checked() -> None:
    leaves = {
        each
        for each in vars(released_models).values()
        if isinstance(each, type) and issubclass(each, released_models.Released)
        if not each.__name__.startswith("_") and each is not released_models.Released
    }
    assert {type(model) for model in OURS} == leaves


@pytest.mark.parametrize("model", OURS, ids=lambda model: type(model).__name__)
def test_scikit_learns_checks_hold_but_those_that_cannot_apply(model: Any) -> None:
    """check_estimator raises on each failure that is not listed; a check that is listed fails for
    the reason that stands there."""
    reports = check_estimator(
        model, on_skip=None, expected_failed_checks=dict(released_models.NOT_APPLICABLE)
    )
    failed = [each for each in reports if each["status"] == "xfail"]
    assert sum(each["status"] == "passed" for each in reports) >= 10 and len(failed) >= 30
    for each in failed:
        listed = each["expected_to_fail_reason"]
        is_refused = "submit another study" in _chain(each["exception"])
        assert is_refused == (listed == released_models.FIT), each["check_name"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("run", ["logistic", "linear", "counts", "rounds"])
def test_the_models_of_scikit_learn_are_its_own_classes(
    released: tuple[Path, pandas.DataFrame], run: str
) -> None:
    """Whose checks are its own: a clone of them can be fitted."""
    model = estimators.load(released[0], run)
    assert type(model).__module__.startswith("sklearn.linear_model")
    check_estimator(model, on_skip=None)


@pytest.mark.parametrize("run", ["trees", "values", "hazards", "survival", "network"])
def test_what_the_checks_would_ask_of_predictions_holds(
    released: tuple[Path, pandas.DataFrame], run: str
) -> None:
    """Of a released model, which check_estimator cannot fit: invariance to order, subsets and
    layout, pickling, and inputs that are refused."""
    path, frame = released
    model = estimators.load(path, run)
    X = frame[list(model.feature_names_in_)].head(30).astype(float)
    expected, rows = model.predict(X), X.to_numpy()
    same = (
        model.predict(rows),
        model.predict(rows[::-1])[::-1],
        np.concatenate([model.predict(rows[:7]), model.predict(rows[7:])]),
        model.predict(np.asfortranarray(rows)),
        model.predict(rows.astype(object)),
        model.predict(rows.tolist()),
        pickle.loads(pickle.dumps(model)).predict(rows),  # noqa: S301 - our own bytes
    )
    for predicted in same:
        assert predicted == pytest.approx(expected)
    state = dict(vars(model))
    model.predict(rows)
    assert vars(model) == state
    wrong = (rows[0], rows + 1j, np.where(rows == rows[0, 0], np.nan, rows), sparse.csr_array(rows))
    for given in wrong:
        with pytest.raises((ValueError, TypeError)):
            model.predict(given)


def _chain(error: BaseException | None) -> str:
    """The texts of an error and of its causes."""
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return " ".join(texts)
