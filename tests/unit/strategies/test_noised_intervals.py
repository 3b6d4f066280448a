"""Faults that benchmarks/coverage.py revealed in private intervals, each checked by hand."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest

from benchmarks import coverage_laws
from federation import errors
from federation.messages import State
from federation.privacy import cumulative
from federation.results import Result
from strategies import registry
from strategies.descriptive import inequality, inequality_dp
from strategies.epidemiology import outbreak_limits, pathways, pathways_dp
from strategies.protocol import Total
from tests import federations


def test_a_pathway_begins_with_a_step_and_has_none_after_its_end() -> None:
    """Two kinds of steps (0 and 1; 2 is none), two places: 0 0, 0 1, 0 -, 1 0, 1 1, 1 -; not - 0, -
    1 or - -."""
    expected = [True] * 6 + [False] * 3
    assert pathways.possible_beginnings(2, 2).tolist() == expected
    assert pathways.possible_beginnings(2, 1).tolist() == [True, True, False]
    of_three = pathways.possible_beginnings(1, 3).reshape(2, 2, 2)
    assert np.argwhere(of_three).tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 1]]
    assert pathways.possible_edges(2).tolist() == [True] * 8 + [False]


def test_noise_in_a_cell_that_no_pathway_can_reach_is_not_shown() -> None:
    study = federations.study_of(
        {"a": {"run": "pathways", "step": "step", "time": "day", "beginnings": 2}},
        privacy={"mode": "dp", "epsilon": 1},
    )
    task = registry.plan(study, coverage_laws.WALKS_LAW.contract)["a"]
    sums = {
        "edges": np.full((4, 4), 1000.0),
        "beginnings": np.full(16, 1000.0),
        "came": np.zeros((0, 1)),
        "reached": np.zeros((0, 1)),
        "people": np.array([2000.0, 0.0, 0.0, 5000.0]),
    }
    total = Total(sums, {}, {}, noise=dict.fromkeys(sums, 1.0))
    result = pathways_dp.combine(total, task, State())
    assert not isinstance(result, State)
    edges = {(row["row"], row["column"]) for row in result.tables["edges"].rows}
    assert len(edges) == 15 and ("(start)", "(end)") not in edges
    sequences = [row["sequence"] for row in result.tables["beginnings"].rows]
    # a, b or c, alone or followed by one of three
    assert len(set(sequences)) == len(sequences) == 12
    assert "" not in sequences


def test_the_interval_of_ears_uses_students_quantile() -> None:
    """The weeks 8, 10, 12, 10, 9, 11, 10 have mean 10 and standard deviation sqrt(10 / 6) =
    1.29099; 20 cases are seen. On the scale of logarithms the error is 1.29099 sqrt(1 / 20^2 + 1 /
    (7 x 10^2)) = 0.0809343, and R's qt(0.975, 6) is 2.446912."""
    y = np.array([8.0, 10, 12, 10, 9, 11, 10, 0, 0, 20])[:, None]
    limits = outbreak_limits.ears(y, 9, outbreak_limits.Ears(method="C2"))
    assert limits.expected[0] == pytest.approx(10)
    half = 2.446912 * 1.29099 * math.sqrt(1 / 400 + 1 / 700)
    assert outbreak_limits.Z * limits.spread[0] == pytest.approx(half, rel=1e-5)


def test_noise_adds_as_much_to_a_high_count_as_to_a_low_one() -> None:
    """Counts around 100 with noise of variance 300 have a dispersion of 1 + 300 / 100 = 4. Of an
    outbreak of 400 the variance is 400 + 300 = 700, so its logarithm has 700 / 400^2 = 0.0044; a
    dispersion of 4 would say 4 / 400 = 0.01."""
    rng = np.random.default_rng(0)
    y = rng.poisson(100, (300, 500)) + rng.normal(0, math.sqrt(300), (300, 500))
    y[-1] = 400.0
    method = outbreak_limits.Farrington(trend=False)
    with_noise = outbreak_limits.farrington(y, 299, method, 300.0).spread ** 2
    without = outbreak_limits.farrington(y, 299, method).spread ** 2
    # the level's own error: dispersion over the count of the 21 weeks of that season, 4 / (100 x
    # 21); noise of the mean over 500 series is below 1 %, and the reweighting takes up to a tenth
    # of a dispersion
    level = 4 / 2100
    assert with_noise.mean() == pytest.approx(0.0044 + level, rel=0.1)
    assert without.mean() == pytest.approx(0.01 + level, rel=0.1)


def test_noised_counts_below_nobody_leave_the_sampling_error_as_it_is() -> None:
    """Of 1,000 people in 200 cells: with noise of 10 in each cell a third of them is below 0, and
    the sampling error of the mean amount is sqrt(1 / 12 / 1000) = 0.00913 of a range of 1 as
    before; 3 % is four errors of the mean of 400."""
    amounts = (np.arange(200) + 0.5) / 200
    rng = np.random.default_rng(0)
    sampling = []
    for _ in range(400):
        distribution = inequality.Distribution(
            5 + rng.normal(0, 10, 200), amounts, lambda weights: 0.0
        )
        weights = (amounts - 0.5) / 1000
        sampling.append(
            inequality._estimate_row(distribution, 0.5, weights, 1.96)["std_error"] ** 2
        )
    assert np.mean(sampling) == pytest.approx(1 / 12_000, rel=0.03)


def test_a_group_of_amounts_is_refused_by_its_own_size_which_biases_no_mean() -> None:
    """Amounts fall off steeply, and the group's sum is ten deviations of its noise: half of the
    releases pass. Of those shown the mean of the means is right to 3 %, which is four errors of 200
    means with 10 % of noise. Decided on the sum of the histogram, it is 7 % too high."""
    cells, multiplier, rng = 50, 9.3, np.random.default_rng(0)
    contract = federations.contract_of(
        "dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n"
        "  cost: {type: number, range: [0, 49], step: 1}\n"
    )
    study = federations.study_of(
        {"a": {"run": "inequality", "value": "cost"}}, privacy={"mode": "dp", "epsilon": 1}
    )
    task = registry.plan(study, contract)["a"]
    law = np.exp(-np.arange(cells) / 2.5)
    law /= law.sum()
    truth = float(law @ np.arange(cells))
    sd = multiplier * cumulative.norm(cells)
    deviation = sd * float(cumulative.noise_of(np.arange(cells)))
    share = (1 - 2 * inequality_dp.COUNTS) / inequality_dp.COUNTS
    of_sizes = multiplier * (cells - 1) * math.sqrt(2 * share)
    means = []
    for _ in range(400):
        n = rng.multinomial(round(inequality_dp.CLEAR * deviation / truth), law)
        sizes = np.array([[(cells - 1) * n.sum(), n @ np.arange(cells)]])
        total = Total(
            {
                "amounts": cumulative.encode(n[None]) + rng.normal(0, sd, (1, cells)),
                "sizes": sizes + rng.normal(0, of_sizes, (1, 2)),
                "people": np.array([float(n.sum()), 0.0, 0.0]),
            },
            {},
            {},
            noise={"amounts": sd**2, "sizes": of_sizes**2, "people": 1.0},
        )
        with contextlib.suppress(errors.ModelError):
            result = inequality_dp.combine(total, task, State())
            assert isinstance(result, Result)
            means.append(result.tables["summary"].rows[0]["mean"])
    assert 0.35 < len(means) / 400 < 0.65
    assert np.mean(means) == pytest.approx(truth, rel=0.03)
