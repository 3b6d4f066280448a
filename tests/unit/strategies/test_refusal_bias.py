"""Estimates that are shown near the limit of the noise,
where chance decides whether they are shown.

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
from federation.arrays import Floats
from federation.contract import Contract
from federation.messages import State
from federation.privacy import cumulative
from federation.results import Result
from strategies import registry
from strategies.epidemiology import mantel_haenszel_dp, rates_dp
from strategies.numerics import selection
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


# -- numbers that decide on themselves: an interval among the numbers that are shown
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5.5, (4.427465, -1.994498, 7.309306)),
        (6, (5.686276, 2.067427, 7.932672)),
        (9, (8.99996, 7.030916, 10.95996)),
    ],
)
def test_the_interval_of_a_number_that_exceeds_a_limit_is_the_one_of_r(
    value: float, expected: Sequence[float]
) -> None:
    """f <- function(p, x, L) uniroot(function(m) pnorm(x - m, lower.tail = FALSE) /
    pnorm(L - m, lower.tail = FALSE) - p, c(-20, 20), tol = 1e-12)$root, for p = 0.5, 0.025, 0.975
    and L = 5. The value 9 has nearly its ordinary interval, 9 -+ 1.96."""
    shown_ = selection.above(value, 5.0, 1.0, 1.959963985, least=-20.0)
    estimate = [float(shown_.estimate), float(shown_.low), float(shown_.high)]
    assert estimate == pytest.approx(expected, abs=1e-5)


def test_numbers_that_exceed_a_limit_have_intervals_that_hold_however_few_exceed_it() -> None:
    """Truths from 0.7 to 2 times a limit of five standard deviations; an ordinary interval holds
    the first of them 29 times in a hundred. A median of 0.5 and a coverage of 0.95 over at least
    5,000 numbers have standard errors of 0.007 and 0.003."""
    rng = np.random.default_rng(0)
    for truth in (3.5, 4.5, 5.0, 6.0, 10.0):
        values = truth + rng.normal(size=100_000)
        values = values[values > 5][:8000]
        inference = selection.above(values, 5.0, 1.0, 1.96, least=selection.LEAST * 5)
        held = (inference.low <= truth) & (truth <= inference.high)
        assert len(values) > 5000
        assert held.mean() == pytest.approx(0.95, abs=0.012)
        assert (inference.estimate < truth).mean() == pytest.approx(0.5, abs=0.03)


def test_a_number_without_noise_keeps_its_value() -> None:
    inference = selection.above([3.0, 1e6], 0.0, 0.0, 1.96, least=0.0)
    assert inference.estimate == pytest.approx([3.0, 1e6], rel=1e-9)
    assert inference.low == pytest.approx(inference.high, rel=1e-9)


def coverage(intervals: Sequence[tuple[float, float]], truth: float) -> float:
    assert len(intervals) >= 60, "too few are shown"
    return float(np.mean([low <= truth <= high for low, high in intervals]))


# of 95 % intervals: three standard errors of 0.95 over 60 of them
LEAST_OF_FEW = 0.86

GROUPS = contract_with(
    "  group: {type: category, levels: [a, b]}\n"
    "  visits: {type: number, range: [0, 8]}\n  years: {type: number, range: [0, 2]}\n"
)


@pytest.mark.parametrize("fraction", federations.first([0.8, 0.9]))
def test_rates_and_ratios_at_the_limit_of_the_noise_hold_the_truth(fraction: float) -> None:
    """Person-time of group b is at this fraction of its limit. Ordinary intervals hold the rate 64
    % and 79 % of the time."""
    rng = np.random.default_rng(1)
    task = task_of(
        {"run": "rates", "events": "visits", "time": "years", "by": ["group"]}
        | {"reference": "group=a"},
        GROUPS,
    )
    noise = {"events": 100.0**2, "time": 40.0**2, "people": 1.0}
    time = np.array([[50_000.0], [fraction * rates_dp.SURE * 40]])
    rate = np.array([[0.4], [50.0]])

    def draw() -> Total:
        people = np.array([50_000.0, 0, 0])
        return noised(
            {"events": rng.poisson(rate * time), "time": time, "people": people}, noise, rng
        )

    results = shown(draw, task, 400)
    rates_shown = [row for row in (r.tables["rates"].rows[1] for r in results) if row["rate"]]
    ends = [(row["conf_low"], row["conf_high"]) for row in rates_shown]
    assert coverage(ends, 50.0) > LEAST_OF_FEW
    ratios = [r.tables["ratios"].rows[0] for r in results]
    ends = [(row["rate_ratio_low"], row["rate_ratio_high"]) for row in ratios if row["rate_ratio"]]
    assert coverage(ends, 50 / 0.4) > LEAST_OF_FEW


REPORTS = contract_with(
    "  drug: {type: category, levels: [d0, d1, d2, d3]}\n"
    "  event: {type: category, levels: [e0, e1, e2, e3]}\n"
)


@pytest.mark.slow
def test_a_pair_of_drug_and_event_at_the_limit_of_the_noise_holds_the_truth() -> None:
    """16 pairs with noise of eight reports: one is shown above 2.73 x 8 = 21.9, and has 14 in
    truth. An ordinary interval holds its information component 66 % of the time."""
    rng = np.random.default_rng(2)
    task = task_of({"run": "disproportionality", "drug": "drug", "event": "event"}, REPORTS)
    noise = {"pairs": 64.0, "drugs": 64.0, "events": 64.0, "people": 1.0}
    mean = np.full((4, 4), 500.0)
    mean[0, 0] = 14.0
    truth = math.log2(14 * 8000 / mean[0].sum() / mean[:, 0].sum())

    def draw() -> Total:
        pairs = rng.poisson(mean)
        margins = {"drugs": pairs.sum(1), "events": pairs.sum(0)}
        return noised({"pairs": pairs, **margins, "people": np.array([8000.0, 0, 0])}, noise, rng)

    pairs = [row for result in shown(draw, task, 700) for row in result.tables["pairs"].rows]
    ends = [
        (row["ic_low"], row["ic_high"])
        for row in pairs
        if (row["drug"], row["event"]) == ("d0", "e0")
    ]
    assert coverage(ends, truth) > LEAST_OF_FEW


WALKS = federations.contract_of(
    "dataset: people\nversion: 1\nperson: id\nrows_per_person: 6\ncolumns:\n"
    "  id: {type: string}\n  step: {type: category, levels: [a, b, c]}\n"
    "  day: {type: number, range: [0, 1000]}\n"
)


@pytest.mark.slow
def test_a_transition_at_the_limit_of_the_noise_holds_the_truth() -> None:
    """15 possible transitions with noise of ten people: a count is shown above 2.71 x 10 = 27.1,
    and is 15 in truth. An ordinary interval holds it 82 % of the time."""
    rng = np.random.default_rng(3)
    task = task_of({"run": "pathways", "step": "step", "time": "day", "beginnings": 0}, WALKS)
    edges = np.full((4, 4), 1000.0)
    edges[0, 1] = 15.0
    empty = np.zeros((0, 1))
    sums = {
        "edges": edges, "beginnings": np.zeros(0), "came": empty, "reached": empty,
        "people": np.array([5000.0, 0, 0, 9000]),
    }  # fmt: skip
    noise = dict.fromkeys(sums, 100.0)
    results = shown(lambda: noised(sums, noise, rng), task, 700)
    rows = [row for result in results for row in result.tables["edges"].rows]
    ends = [
        (row["conf_low"], row["conf_high"])
        for row in rows
        if (row["row"], row["column"]) == ("a", "b")
    ]
    assert coverage(ends, 15.0) > 0.87  # three standard errors of 0.95 over 60


TABLE = contract_with(
    "  row: {type: category, levels: [a, b]}\n  column: {type: category, levels: [u, v, w]}\n"
)


@pytest.mark.slow
def test_a_share_of_a_row_at_the_limit_of_the_noise_holds_the_truth() -> None:
    """The row has 0.8 times the 52 people of its limit, 70 % of them in one cell. An ordinary
    interval holds that share 88 % of the time, and is centred on 0.6."""
    rng = np.random.default_rng(4)
    task = task_of({"run": "crosstab", "rows": "row", "columns": "column"}, TABLE)

    def draw() -> Total:
        counts = np.array([[500, 500, 500], rng.multinomial(42, [0.7, 0.2, 0.1])])
        sums = {"counts": counts, "people": np.array([1542.0, 0, 0])}
        return noised(sums, {"counts": 100.0, "people": 1.0}, rng)

    rows = [result.tables["counts"].rows[3] for result in shown(draw, task, 700)]
    rows = [row for row in rows if row["row_share"] is not None]
    assert coverage([(row["share_low"], row["share_high"]) for row in rows], 0.7) > 0.92
    # the median of 250 shares with a standard deviation of 0.25 has an error of 0.02
    assert np.median([row["row_share"] for row in rows]) == pytest.approx(0.7, abs=0.06)


AMOUNTS = contract_with("  amount: {type: number, range: [0, 10]}\n")


def test_a_mean_at_the_limit_of_the_noise_holds_the_truth() -> None:
    """Everybody's amount is 8, and 100 people is 0.8 times a limit of 125. An ordinary interval
    holds the mean 80 % of the time, since it is shown if the number
    of people is too high by chance."""
    rng = np.random.default_rng(5)
    task = task_of({"run": "describe", "columns": ["amount"], "quantiles": [0.5]}, AMOUNTS)
    bins = task.plan.fine
    histogram = np.zeros((1, bins), np.int64)
    histogram[0, bins * 8 // 10] = 100
    sums = {
        "histogram": cumulative.encode(histogram), "moments": np.array([[60.0, 36.0]]),
        "known": np.array([100.0]), "levels": np.empty(0), "people": np.array([100.0, 0, 0]),
    }  # fmt: skip
    # the histogram's total is too noisy to add to the number of known values
    noise = {"histogram": 1e12, "moments": 100.0, "known": 625.0, "levels": 1.0, "people": 1.0}
    rows = [
        row
        for result in shown(lambda: noised(sums, noise, rng), task, 600)
        for row in result.tables["numbers"].rows
    ]
    assert coverage([(row["conf_low"], row["conf_high"]) for row in rows], 8.0) > LEAST_OF_FEW
