"""The audit of coverage: every private analysis has a case in benchmarks/coverage.py, which states
intervals or a test.

How often they hold the truth takes hundreds of federations, and is measured by `make bench`.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import coverage, coverage_laws
from strategies import registry


def test_an_analysis_without_a_case_is_named_with_what_to_do() -> None:
    (line,) = coverage.uncovered((*registry.PRIVATE, "planted"))
    assert line.startswith("planted: no case in benchmarks/coverage.py")
    assert "add a Case to CASES" in line


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=(pytest.mark.slow,) if "secure sum" in case.name else ())
        for case in coverage.CASES
    ],
    ids=lambda case: case.name,
)
def test_a_case_runs_and_measures_something(case: coverage.Case) -> None:
    """One federation: a result, with intervals that can hold their truth and that carry noise, or a
    test."""
    result, table = coverage.result_of(case, coverage.study_of(case), number=0, seed=1)
    assert result is not None
    intervals = np.array(list(case.intervals(result, table))).reshape(-1, 4)
    low, high, truth, noise = intervals.T
    assert len(intervals) or len(case.rejections(result))
    assert np.isfinite(intervals).all() and (low <= high).all()
    assert not len(intervals) or noise.max() > 0
    assert (np.abs(truth - (low + high) / 2) <= 5 * (high - low)).all(), "a truth of something else"


# -- the measure itself
def test_coverage_outside_93_to_97_percent_is_missed() -> None:
    verdicts = {
        held: coverage.Measured(coverage.Share(held, 0.01, 100), None, None, 0, 500).met
        for held in (0.92, 0.93, 0.95, 0.97, 0.98)
    }
    assert verdicts == {0.92: False, 0.93: True, 0.95: True, 0.97: True, 0.98: False}


def test_a_case_that_gives_neither_an_interval_nor_a_test_is_missed() -> None:
    assert not coverage.Measured(None, None, None, 0, 500).met


def test_more_than_one_federation_in_a_hundred_without_a_result_is_missed() -> None:
    held = coverage.Share(0.95, 0.01, 100)
    assert coverage.Measured(held, None, None, 5, 500).met
    assert not coverage.Measured(held, None, None, 6, 500).met


def test_the_error_of_a_share_knows_that_intervals_of_one_federation_agree() -> None:
    """100 federations of ten intervals that all hold or all fail tell as much as 100 intervals:
    sqrt(0.8 x 0.2 / 99) = 0.0402, where 1000 independent intervals would have 0.0127."""
    together = coverage.share([[number % 5 > 0] * 10 for number in range(100)])
    assert together is not None
    assert together.mean == pytest.approx(0.8)
    assert together.error == pytest.approx(0.0402, abs=5e-5)


def test_an_interval_is_judged_with_and_without_the_noise() -> None:
    """Half-width 2, of which the noise's part is 1.96 x 1: sqrt(4 - 3.84) = 0.4 are left without
    it."""
    low, high, noise = np.full(3, -2.0), np.full(3, 2.0), np.ones(3)
    truth = np.array([0.3, 1.9, 2.1])
    assert coverage.holds(low, high, truth, noise).tolist() == [True, True, False]
    assert coverage.holds_without_noise(low, high, truth, noise).tolist() == [True, False, False]


# -- the truths that follow from the laws
def test_the_indicators_of_the_law_are_those_of_many_people() -> None:
    """Person by person, over 20,000 drawn pathways; 0.02 is four standard errors of a share of
    6,000 people."""
    table = coverage_laws.walks(np.random.default_rng(0), 20_000)
    starts = np.flatnonzero(np.r_[True, np.diff(table["person"]) > 0])
    entered, hit = np.zeros(2), np.zeros(2)
    for steps, days, h in zip(
        *(np.split(table[name], starts[1:]) for name in ("step", "day", "h")), strict=True
    ):
        if not (steps == 0).any():
            continue
        at = int(np.argmax(steps == 0))
        in_time = days[at + 1 :] - days[at] <= coverage_laws.WITHIN
        entered[int(h[0])] += 1
        hit[int(h[0])] += ((steps[at + 1 :] == 1) & in_time).any()
    truth = [coverage_laws.reached(group, 0, 1) for group in (0, 1)]
    assert hit / entered == pytest.approx(truth, abs=0.02)


def test_the_pairs_of_the_law_are_those_of_many_reports() -> None:
    """0.003 is four standard errors of a share of 0.1 over 200,000 reports."""
    table = coverage_laws.reports(np.random.default_rng(0), 200_000)
    cell = table["drug"].astype(np.int64) * coverage_laws.EVENTS + table["event"]
    size = coverage_laws.PAIRS.size
    once = np.unique(table["person"] * size + cell) % size
    share = np.bincount(once, minlength=size).reshape(coverage_laws.PAIRS.shape) / 200_000
    assert np.abs(share - coverage_laws.named(coverage_laws.PAIRS)).max() < 0.003
