"""Outcomes of a training other than yes or no: classes, numbers and survival, against pooled torch,
scikit-learn and lifelines."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import yaml
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.utils import concordance_index
from sklearn import metrics
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch.nn import functional as F

from aggregator import estimators, report
from federation import errors
from federation.expression import ExpressionError
from federation.results import Result
from federation.schema import Field
from simulations import local
from strategies import registry
from strategies.learning import (
    evaluation_classes,
    evaluation_numbers,
    evaluation_survival,
    networks,
    outcomes,
    scores,
)
from strategies.learning.local_training import Scored
from strategies.learning.outcomes import Outcome
from tests import federations

torch.set_num_threads(1)
CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  x: {type: number, range: [-3, 3]}
  z: {type: number, range: [-3, 3]}
  stage: {type: category, levels: [early, middle, late]}
  weight: {type: number, range: [40, 140], unit: kg}
  days: {type: number, range: [0, 100], unit: day}
  died: {type: boolean}
  free: {type: number}
  day: {type: date}
""")
TRAIN = {"run": "train", "network": "mlp", "widths": [6], "rounds": 5, "learning_rate": 0.2}
FULL = {"batch": 0, "validation": 0}
MODELS = {
    "classes": "stage ~ x + z",
    "number": "weight ~ x + z",
    "hazards": "Surv(days, died) ~ x + z",
}


def table(n: int = 600) -> pandas.DataFrame:
    rng = np.random.default_rng(5)
    x, z = rng.uniform(-3, 3, (2, n)).round(3)
    stage = np.digitize(x + z + rng.normal(size=n), [-1, 1])
    death = rng.exponential(40 * np.exp(-0.5 * x), n) + 1e-3 * np.arange(n) / n
    leaves = rng.uniform(5, 100, n)
    return pandas.DataFrame(
        {
            "id": [f"p{i}" for i in range(n)],
            "x": x,
            "z": z,
            "stage": np.array(["early", "middle", "late"])[stage],
            "weight": np.clip(85 + 8 * x - 5 * z + rng.normal(0, 4, n), 40, 140).round(2),
            "days": np.minimum(death, leaves).clip(0, 100).round(6),
            "died": (death <= leaves).astype(int),
            "free": x,
            "day": "2020-01-01",
        }
    )


def sites_of(folder: Path, rows: pandas.DataFrame) -> Any:
    return federations.sites_of(rows, np.arange(len(rows)) % 3, CONTRACT, folder)


def run(options: dict[str, Any], folder: Path, rows: pandas.DataFrame) -> Result:
    study = federations.study_of({"a": options})
    return federations.result(federations.run(study, CONTRACT, sites_of(folder, rows)))


def task_of(options: dict[str, Any], **more: Any) -> Any:
    return registry.plan(federations.study_of({"a": options}, **more), CONTRACT)["a"]


# -- against pooled torch
def hazard_loss(out: torch.Tensor, rows: pandas.DataFrame, edges: np.ndarray) -> torch.Tensor:
    """Gensheimer and Narasimhan's likelihood, person by person and interval by interval."""
    total = torch.zeros(())
    for i, (time, died) in enumerate(zip(rows["days"], rows["died"], strict=True)):
        for j in range(len(edges) - 1):
            low, high = edges[j], edges[j + 1]
            has_event = died and low < time <= high
            lived = time > high or (not died and time >= (low + high) / 2)
            if has_event:
                total = total - F.logsigmoid(out[i, j])
            elif lived:
                total = total - F.logsigmoid(-out[i, j])
    return total / len(rows)


def pooled_loss(kind: str, out: torch.Tensor, rows: pandas.DataFrame, outcome: Outcome) -> Any:
    if kind == "classes":
        stage = rows["stage"].map({"early": 0, "middle": 1, "late": 2}).to_numpy()
        return F.cross_entropy(out, torch.from_numpy(stage))
    if kind == "number":
        scaled = ((rows["weight"] - 90) / 50).to_numpy(np.float32)
        return F.mse_loss(out[:, 0], torch.from_numpy(scaled))
    return hazard_loss(out, rows, np.asarray(outcome.edges))


@pytest.mark.parametrize("kind", federations.first(MODELS, keep=3))
def test_federated_training_is_that_of_the_pooled_rows(kind: str, tmp_path: Path) -> None:
    """One step a round on all people. In 32-bit floats: five steps agree to five digits."""
    rows = table(150)
    options = {**TRAIN, **FULL, "model": MODELS[kind], "intervals": 5}
    task, net = task_of(options), None
    net = networks.build(task.plan.network, 0)
    inputs = torch.from_numpy((rows[["x", "z"]].to_numpy() / 3).astype(np.float32))
    optimiser = torch.optim.SGD(net.parameters(), 0.2)
    for _ in range(5):
        optimiser.zero_grad()
        pooled_loss(kind, net(inputs), rows, task.plan.outcome).backward()
        optimiser.step()
    model = run(options, tmp_path, rows).model
    assert model is not None
    assert np.allclose(model.weights, networks.weights(net), rtol=1e-4, atol=2e-5)


LONG = {**FULL, "network": "logistic", "widths": [], "rounds": 300, "learning_rate": 1.0}


@pytest.mark.slow
def test_a_linear_network_learns_the_classes_of_a_multinomial_regression(tmp_path: Path) -> None:
    """To three digits of the probabilities: 1,500 steps of gradient descent."""
    rows = table()
    options = {**TRAIN, **LONG, "model": MODELS["classes"], "rounds": 1500, "learning_rate": 3.0}
    model = run(options, tmp_path, rows).model
    assert model is not None
    X = rows[["x", "z"]].to_numpy() / 3
    W, b = model.weights[:6].reshape(3, 2), model.weights[6:]
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        X, pandas.Categorical(rows["stage"], ["early", "middle", "late"]).codes
    )
    ours = torch.softmax(torch.from_numpy(X @ W.T + b), 1).numpy()
    assert np.allclose(ours, theirs.predict_proba(X), atol=1e-3)


@pytest.mark.slow
def test_a_linear_network_learns_a_number_as_least_squares_does(tmp_path: Path) -> None:
    """To 1e-4 of the range: gradient descent converges at the rate of the smallest eigenvalue."""
    rows = table()
    result = run({**TRAIN, **LONG, "model": MODELS["number"], "learning_rate": 0.4}, tmp_path, rows)
    assert result.model is not None
    X = rows[["x", "z"]].to_numpy() / 3
    theirs = LinearRegression().fit(X, rows["weight"]).predict(X)
    ours = 90 + 50 * (X @ result.model.weights[:2] + result.model.weights[2])
    assert np.allclose(ours, theirs, atol=100 * 1e-4)
    glance = result.tables["glance"].rows[0]
    assert glance["rmse"] == pytest.approx(
        math.sqrt(metrics.mean_squared_error(rows["weight"], theirs)), rel=1e-3
    )
    assert glance["r2"] == pytest.approx(metrics.r2_score(rows["weight"], theirs), abs=1e-3)


def test_a_linear_network_with_loss_cox_is_a_cox_model_with_a_stratum_for_each_node(
    tmp_path: Path,
) -> None:
    """lifelines' coefficients, to three digits: gradient descent."""
    rows = table()
    options = {**TRAIN, **LONG, "model": MODELS["hazards"], "loss": "cox", "learning_rate": 3.0}
    result = run({**options, "rounds": 150}, tmp_path, rows)
    assert result.model is not None
    frame = rows[["days", "died"]].assign(
        x=rows["x"] / 3, z=rows["z"] / 3, node=np.arange(len(rows)) % 3
    )
    theirs = CoxPHFitter().fit(frame, "days", "died", strata=["node"])
    assert np.allclose(result.model.weights[:2], theirs.params_[["x", "z"]], atol=2e-3)
    assert result.tables["glance"].rows[0]["concordance"] == pytest.approx(
        concordance_index(
            np.ceil(rows["days"] / 5), -frame[["x", "z"]] @ theirs.params_, rows["died"]
        ),
        abs=2e-3,  # scores within 0.032 of the log hazard count as ties
    )


# -- measures
def test_the_measures_of_classes_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    outcome = Outcome("classes", (), ("a", "b", "c"))
    actual = rng.integers(0, 3, 2000)
    out = rng.normal(size=(2000, 3)) + 1.5 * np.eye(3)[actual]
    counts = evaluation_classes.count(
        Scored(out, actual.astype(float), 0.0), outcome, coarse=False
    ).astype(float)
    task = task_of({**TRAIN, "model": MODELS["classes"]})
    predicted, shares = out.argmax(1), torch.softmax(torch.from_numpy(out), 1).numpy()
    crossed = evaluation_classes.confusion(counts, outcome)
    assert (crossed == metrics.confusion_matrix(actual, predicted)).all()
    tables = evaluation_classes.tables(counts, task)
    agreement = tables["agreement"].rows[0]
    expected = {
        "accuracy": metrics.accuracy_score(actual, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(actual, predicted),
        "f1_macro": metrics.f1_score(actual, predicted, average="macro"),
        "kappa": metrics.cohen_kappa_score(actual, predicted),
    }
    assert agreement == pytest.approx(expected, abs=1e-12)
    auc = metrics.roc_auc_score(actual, shares, multi_class="ovr", average="macro")
    # scores within 0.016 log-odds count as ties
    assert evaluation_classes.headline(counts, outcome) == pytest.approx(auc, abs=1e-3)
    each = [row["auc"] for row in tables["classes"].rows]
    assert each == pytest.approx(
        [metrics.roc_auc_score(actual == k, shares[:, k]) for k in range(3)], abs=1e-3
    )


def test_the_measures_of_a_number_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    outcome = Outcome("number", (), middle=90.0, half=50.0)
    actual = rng.uniform(-1, 1, 700)
    out = 0.7 * actual + rng.normal(0.1, 0.2, 700)
    scored = Scored(out, actual, 0.0)
    starts = evaluation_numbers.starts(evaluation_numbers.spread(scored).astype(float))
    counts = evaluation_numbers.count(scored, outcome, coarse=False, starts=starts)
    y, p = 90 + 50 * actual, 90 + 50 * out
    line = LinearRegression().fit(p[:, None], y)
    assert evaluation_numbers.glance(counts, outcome) == pytest.approx(
        {
            "n": 700,
            "rmse": math.sqrt(metrics.mean_squared_error(y, p)),
            "mae": metrics.mean_absolute_error(y, p),
            "r2": metrics.r2_score(y, p),
            "calibration_intercept": line.intercept_,
            "calibration_slope": line.coef_[0],
        },
        rel=1e-9,  # sums of squares, from which means are subtracted
    )
    task = task_of({**TRAIN, "model": MODELS["number"]})
    rows = evaluation_numbers.tables(counts, task, starts=starts)["bands"].rows
    assert len(rows) == evaluation_numbers.BANDS
    for row in rows:  # those of a band, whose ends are in kilograms
        here = (p >= row["score_low"]) & (p < row["score_high"])
        if row["band"] not in (1, len(rows)):  # which hold what is beyond the range too
            assert row["n"] == here.sum()
            assert row["observed"] == pytest.approx(y[here].mean(), rel=1e-12)
            assert row["predicted"] == pytest.approx(p[here].mean(), rel=1e-12)
    assert sum(row["n"] for row in rows) == 700 and min(row["n"] for row in rows) >= scores.LEAST
    assert np.average([row["observed"] for row in rows], weights=[row["n"] for row in rows]) == (
        pytest.approx(y.mean(), rel=1e-12)
    )


@pytest.fixture
def lives() -> tuple[Outcome, np.ndarray, np.ndarray, np.ndarray]:
    """An outcome of six intervals; the interval and the event of 500 people, and their log-odds of
    the event in each interval."""
    rng = np.random.default_rng(4)
    outcome = Outcome("hazards", (), edges=(0.0, 10.0, 20.0, 35.0, 50.0, 75.0, 100.0))
    place, event = rng.integers(0, 6, 500), rng.integers(0, 2, 500)
    out = rng.normal(-1.0, 1.0, (500, 6)) - 0.3 * (place * event)[:, None]
    return outcome, place, event, out


def counts_of(lives: tuple[Outcome, np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    outcome, place, event, out = lives
    answers = np.stack([place, event, place, event], 1).astype(float)
    return evaluation_survival.count(Scored(out, answers, 0.0), outcome, coarse=False)


def test_the_concordance_is_that_of_lifelines(lives: Any) -> None:
    outcome, place, event, out = lives
    hazard = -np.log1p(-1 / (1 + np.exp(-out))).sum(1)
    # scores within 0.032 of the log hazard count as ties
    assert evaluation_survival.headline(counts_of(lives), outcome) == pytest.approx(
        concordance_index(place, -hazard, event), abs=2e-3
    )


def test_unos_concordance_and_the_brier_scores_are_those_of_a_loop_over_people(lives: Any) -> None:
    """Graf's weights: the censoring curve of lifelines, where events of an interval come before
    those who are censored in it."""
    outcome, place, event, out = lives
    edges = np.asarray(outcome.edges)
    survival = np.cumprod(1 - 1 / (1 + np.exp(-out)), axis=1)
    censoring = KaplanMeierFitter().fit(place + 0.5 * (1 - event), 1 - event)
    before = censoring.predict(place).to_numpy()  # nobody is censored at a whole number
    after = censoring.predict(np.arange(6) + 0.5).to_numpy()
    expected = []
    for j in range(5):
        dead, alive = (place <= j) & (event == 1), place > j
        expected.append(
            (
                (survival[dead, j] ** 2 / before[dead]).sum()
                + ((1 - survival[alive, j]) ** 2 / after[j]).sum()
            )
            / 500
        )
    counts = counts_of(lives)
    lived = evaluation_survival.life(counts, outcome)
    scored, _ = evaluation_survival.brier(counts, outcome, lived)
    assert scored[:5] == pytest.approx(expected, rel=1e-9)
    assert evaluation_survival.glance(counts, outcome)["integrated_brier"] == pytest.approx(
        np.trapezoid(expected, edges[1:6]) / (edges[5] - edges[1]), rel=1e-9
    )
    risk = np.log(-np.log(survival[:, -1]))
    agree = pairs = 0.0
    for i in np.flatnonzero(event):
        later = (place > place[i]) | ((place == place[i]) & (event == 0))
        weight = before[i] ** -2
        pairs += weight * later.sum()
        agree += weight * ((risk[later] < risk[i]).sum() + (risk[later] == risk[i]).sum() / 2)
    assert evaluation_survival.glance(counts, outcome)["concordance_uno"] == pytest.approx(
        agree / pairs, abs=2e-3
    )


def test_coxs_loss_is_the_partial_likelihood_of_breslow() -> None:
    """By hand, with ties."""
    out = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64)
    answered = torch.tensor([[1.0, 1], [0, 1], [1, 1], [2, 0]], dtype=torch.float64)
    e = np.exp(out.numpy())
    late = e[0] + e[2] + e[3]
    expected = [math.log(late / e[0]), math.log(e.sum() / e[1]), math.log(late / e[2]), 0.0]
    assert np.allclose(outcomes.cox_losses(out, answered).numpy(), expected, rtol=1e-12)


# -- disclosure
def test_a_rare_class_withholds_the_result(tmp_path: Path) -> None:
    rows = table(300)
    rows.loc[rows["stage"] == "late", "stage"] = "middle"
    rows.loc[:60, "stage"] = "late"  # 21 remain, of whom fewer than 11 are in validation
    rows = rows.drop(index=range(40))
    study = federations.study_of({"a": {**TRAIN, "model": MODELS["classes"]}})
    document = federations.document(federations.run(study, CONTRACT, sites_of(tmp_path, rows)))
    assert document.analyses["a"].status == "withheld" and document.analyses["a"].model is None


def test_a_small_cell_of_the_confusion_table_withholds_what_is_made_of_it(tmp_path: Path) -> None:
    study = federations.study_of({"a": {**TRAIN, "model": MODELS["classes"], "rounds": 30}})
    outcome = federations.run(study, CONTRACT, sites_of(tmp_path, table(900)))
    raw = federations.result(outcome).tables
    assert any(0 < row["n"] < 11 for row in raw["confusion"].rows), "the test needs a small cell"
    tables = federations.document(outcome).analyses["a"].tables
    assert any(row.get("n") is None for row in tables["confusion"])
    assert tables["agreement"][0]["accuracy"] is None
    assert all(row["auc"] is not None for row in tables["classes"])


# -- studies that cannot be trained
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": "free ~ z"}, "has no range in the contract"),
        ({"model": "day ~ z"}, "is a date; training needs a yes-or-no outcome, a category"),
        ({"model": MODELS["classes"], "rows": "views"}, "write rows: examples"),
        ({"model": MODELS["number"], "loss": "cox"}, r"write Surv\(time, event\)"),
        ({"model": "Surv(free, died) ~ x"}, "needs a `range`"),
        ({"model": "Surv(days, days, died) ~ x"}, "leave the start out"),
        ({"model": MODELS["hazards"], "cuts": [50, 20]}, "must increase, between 0 and 100"),
        ({"model": MODELS["hazards"] + " + died"}, "is the outcome"),
    ],
    ids=str,
)
def test_an_outcome_that_cannot_be_learned_is_refused_with_the_reason(
    more: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.StudyError, match=message):
        task_of({**TRAIN, **more})


def test_coxs_loss_is_refused_in_mode_dp_and_the_remedy_is_given() -> None:
    options = {"run": "train", "model": MODELS["hazards"], "loss": "cox", "network": "mlp"}
    with pytest.raises(errors.StudyError, match="in mode dp use loss: hazards"):
        task_of(options, privacy={"mode": "dp", "epsilon": 4, "delta": 1e-5})


# -- under differential privacy
@pytest.mark.parametrize("kind", federations.first(["hazards", "classes", "number"]))
def test_a_private_training_of_each_outcome_finds_what_is_there(kind: str, tmp_path: Path) -> None:
    """At an epsilon so large that little noise is left."""
    options = {
        "run": "train",
        "model": MODELS[kind],
        "network": "logistic",
        "intervals": 5,
        "rounds": 40,
        "validation": 0.5,
        "sampling": 0.3,
        "clip": 1.0,
        "learning_rate": 1.0,
    }
    study = federations.study_of(
        {"a": options}, privacy={"mode": "dp", "epsilon": 20, "delta": 1e-5}
    )
    policy = federations.OPEN.model_copy(update={"max_epsilon": 100.0, "max_delta": 1e-3})
    rows = table(8000)
    sites = federations.sites_of(rows, np.arange(len(rows)) % 2, CONTRACT, tmp_path, policy)
    result = federations.result(
        federations.run(study, CONTRACT, sites, local.ask_of(sites, federations.NOW))
    )
    glance = result.tables["glance"].rows[0]
    # without noise: areas of 0.85, a concordance of 0.7 and an error of 5 kg
    if kind == "number":
        assert glance["rmse"] < 12 and glance["noise_sd"] < 3
    else:
        value = glance["auc" if kind == "classes" else "concordance"]
        assert value > {"classes": 0.75, "hazards": 0.6}[kind] and glance["noise_sd"] < 0.1


def test_a_field_needs_two_levels_to_be_classes() -> None:
    field = Field("one", "category", '"one"', levels=("a",))
    with pytest.raises(ExpressionError, match="from 2 to 100 classes"):
        outcomes.of([field], None, (), 20)


# -- released
@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of docs/training.md, run."""
    folder = tmp_path_factory.mktemp("outcomes")
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    block = text.split("## Outcomes")[1].split("```yaml\n")[1].split("```")[0]
    analyses = yaml.safe_load(block)["analyses"]
    sites = sites_of(folder, table(1500))
    outcome = federations.run(federations.study_of(analyses), CONTRACT, sites)
    report.write(federations.document(outcome), folder / "out")
    return folder / "out"


def test_released_networks_predict_as_estimators_of_their_outcome(released: Path) -> None:
    rows = table(900)
    X = rows[["z", "x"]]  # in any order
    models = {name: estimators.load(released / "result.json", name) for name in (*MODELS, "cox")}
    classes = models["classes"]
    shares = classes.predict_proba(X)
    assert list(classes.classes_) == ["early", "middle", "late"]
    assert np.allclose(shares.sum(1), 1) and classes.score(X, rows["stage"]) > 0.5
    assert (classes.classes_[shares.argmax(1)] == classes.predict(X)).all()
    assert models["number"].score(X, rows["weight"]) > 0.5
    for name in ("hazards", "cox"):
        model = clone(models[name])
        lives = model.predict_survival_function(X)
        assert lives.shape == (900, 5) and (np.diff(lives, axis=1) <= 0).all()
        assert np.allclose(model.predict_survival(X, [20, 100]), lives[:, [0, 4]])
        half = model.predict_survival(X, [10.0])[:, 0]  # a constant hazard within an interval
        assert np.allclose(half, np.sqrt(lives[:, 0]))
        assert np.isnan(model.predict_survival(X, [101.0])).all()
        # the observed survival at 60 days, and whom the score puts first
        observed = KaplanMeierFitter().fit(rows["days"], rows["died"]).predict(60)
        assert lives[:, 2].mean() == pytest.approx(observed, abs=0.08)
        assert concordance_index(rows["days"], -model.predict(X), rows["died"]) > 0.65


def test_the_report_and_the_card_show_what_each_outcome_is_worth(released: Path) -> None:
    page = (released / "report.html").read_text()
    for name in ("ROC curve", "Calibration of weight (kg)", "Observed and predicted survival"):
        assert f'aria-label="{name}"' in page
    for name, words in {
        "classes": "the log-odds of each class of `stage`, in this order: early, middle, late",
        "number": "`weight`: 90 plus 50 times the number that the network gives",
        "hazards": "in each interval of time between 0, 20, 40, 60, 80, 100",
        "cox": "the log of the relative hazard of `died`",
    }.items():
        assert words in (released / f"{name}.md").read_text()
    assert "| node | n | concordance |" in (released / "hazards.md").read_text()
    assert "| node | n | root mean squared error |" in (released / "number.md").read_text()
