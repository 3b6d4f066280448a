"""The measures of a histogram of scores, against scikit-learn on the scores themselves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from strategies.learning import scores


@pytest.fixture(scope="module")
def people() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-odds in the middles of bins, so that binning loses nothing; answers;
    and the histogram."""
    rng = np.random.default_rng(4)
    answers = rng.random(5000) < 0.3
    place = np.clip(rng.normal(np.where(answers, 540, 470), 60), 0, scores.BINS - 1).astype(int)
    log_odds = scores.middles(scores.BINS)[place]
    return (
        log_odds,
        answers,
        scores.count(log_odds, answers.astype(float), scores.BINS).astype(float),
    )


def test_area_and_precision_are_scikit_learns(
    people: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    log_odds, answers, counts = people
    assert scores.area(counts)[0] == pytest.approx(roc_auc_score(answers, log_odds), abs=1e-12)
    assert scores.average_precision(counts) == pytest.approx(
        average_precision_score(answers, log_odds), abs=1e-12
    )


def test_the_standard_error_of_the_area_is_delongs(
    people: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """By its definition, over pairs: DeLong, DeLong, Clarke-Pearson 1988."""
    log_odds, answers, counts = people
    x, y = log_odds[answers], log_odds[~answers]
    wins = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    expected = np.sqrt(wins.mean(1).var(ddof=1) / len(x) + wins.mean(0).var(ddof=1) / len(y))
    assert scores.area(counts)[1] == pytest.approx(expected, rel=1e-10)


def test_the_interval_of_the_area_holds_the_truth_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(0), 0
    true = float(special.ndtr(1 / np.sqrt(2)))  # of two normal laws a standard deviation apart
    for _ in range(400):
        answers = rng.random(300) < 0.4
        counts = scores.count(
            rng.normal(answers.astype(float), 1.0), answers.astype(float), scores.BINS
        ).astype(float)
        auc, error = scores.area(counts)
        held += abs(auc - true) < scores.Z * error
    # 380 are expected, with a standard deviation of 4.4; the limits are three of them, and a little
    # more below, because the interval is normal with only 120 yes.
    assert 365 <= held <= 392


def test_calibration_is_the_logistic_fit_of_answers_on_scores(
    people: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    log_odds, answers, counts = people
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(log_odds[:, None], answers)
    intercept, slope = scores.calibration(counts)
    assert (intercept, slope) == (
        pytest.approx(fit.intercept_[0], abs=1e-5),
        pytest.approx(fit.coef_[0, 0], abs=1e-5),
    )


def test_calibration_of_badly_calibrated_scores_solves_its_equations() -> None:
    """200 small tables: scores far off, too wide, or the wrong way round."""
    x = scores.middles(scores.BINS)
    solved = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n, (middle, intercept, slope) = int(rng.choice([15, 40, 300])), rng.normal(0, [4, 4, 1.5])
        log_odds = rng.normal(middle, rng.choice([0.1, 1.0, 5.0]), n)
        answers = rng.random(n) < special.expit(intercept + slope * log_odds)
        no, yes = scores.count(log_odds, answers.astype(float), scores.BINS)
        fitted = scores.calibration(np.stack([no, yes]).astype(float))
        first, last = (
            np.argmax([no > 0, yes > 0], axis=1),
            [np.flatnonzero(c)[-1:] for c in (no, yes)],
        )
        overlap = all(map(len, last)) and first[1] < last[0] and first[0] < last[1]
        assert overlap == bool(np.isfinite(fitted).all())
        if not overlap:
            continue
        solved += 1
        excess = yes - (no + yes) * special.expit(fitted[0] + fitted[1] * x)
        assert abs(excess.sum()) < 1e-6 and abs(excess @ x) < 1e-5  # 1e-10 of a coefficient is left
    assert solved > 100


@pytest.mark.parametrize("wrong", ["no yes", "no no", "apart", "apart but for one bin"])
def test_no_calibration_is_given_where_the_regression_has_no_solution(wrong: str) -> None:
    counts = np.zeros((2, scores.BINS))
    if wrong in ("no yes", "no no"):
        counts[int(wrong == "no no"), 400:600] = 3
    else:
        counts[0, 300:500], counts[1, 500:700] = 2, 1
        counts[0, 500] = wrong == "apart but for one bin"
    assert np.isnan(scores.calibration(counts)).all()


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.7])
def test_the_cells_at_a_cut_are_those_of_a_confusion_matrix(
    people: tuple[np.ndarray, np.ndarray, np.ndarray], probability: float
) -> None:
    log_odds, answers, counts = people
    place = scores.threshold_cut(scores.BINS, probability)
    row, start = scores.at_cut(counts, place), place * 2 * scores.REACH / scores.BINS - scores.REACH
    assert 0 <= start - special.logit(probability) < 2 * scores.REACH / scores.BINS
    (tn, fp), (fn, tp) = confusion_matrix(answers, log_odds >= start)
    assert [
        row[name] for name in ("true_negative", "false_positive", "false_negative", "true_positive")
    ] == [tn, fp, fn, tp]
    benefit, everyone = scores.net_benefit(counts, place, probability)
    assert benefit == pytest.approx(tp / 5000 - fp / 5000 * probability / (1 - probability))
    assert everyone == pytest.approx(
        answers.mean() - (~answers).mean() * probability / (1 - probability)
    )


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_no_more_are_called_back_than_the_rate(
    people: tuple[np.ndarray, np.ndarray, np.ndarray], rate: float
) -> None:
    counts = people[2]
    place = scores.recall_cut(counts, rate)
    recalled = counts[:, place:].sum() / counts.sum()
    assert recalled <= rate < counts[:, place - 1 :].sum() / counts.sum()


@pytest.mark.parametrize("n", [30, 200, 5000])
def test_every_band_holds_enough_people_of_either_kind(n: int) -> None:
    rng = np.random.default_rng(n)
    answers = rng.random(n) < 0.15
    counts = scores.count(
        rng.normal(2 * answers - 1, 1.0), answers.astype(float), scores.BINS
    ).astype(float)
    starts = scores.edges(counts, [scores.recall_cut(counts, 0.1), 500])
    rows = scores.bands(counts, starts)
    assert (
        sum(row["n"] for row in rows) == n and sum(row["n_event"] for row in rows) == answers.sum()
    )
    for row in rows if len(rows) > 1 else []:
        assert row["n"] >= scores.LEAST and all(
            k == 0 or k >= scores.CELL for k in (row["n_event"], row["n"] - row["n_event"])
        )
    assert len(rows) > 1 or n == 30


def test_scores_beyond_the_reach_count_as_the_last(
    people: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    counts = scores.count(np.array([-99.0, 99.0]), np.array([0.0, 1.0]), 10)
    assert counts[0, 0] == 1 and counts[1, -1] == 1


def test_without_both_kinds_there_is_no_area() -> None:
    assert all(np.isnan(scores.area(np.array([[3.0, 4.0], [0.0, 0.0]]))))
