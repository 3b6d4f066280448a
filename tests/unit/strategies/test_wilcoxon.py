"""The rank-sum test: laws beyond R's numbers, its mistakes, and its noise."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy import linalg, stats

from federation import errors
from federation.arrays import Floats
from federation.privacy import cumulative
from federation.results import Result
from federation.study import Study
from strategies import registry
from strategies.descriptive import wilcoxon_dp
from strategies.numerics import rank_sum, rank_sum_dp
from strategies.numerics.rank_sum_dp import NoisedGroups, Superiority
from strategies.protocol import Total
from tests import federations

CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  days: {type: number, unit: days, range: [-20, 40], step: 1}
  fine: {type: number, range: [0, 1501], step: 1}
  open: {type: number}
  plain: {type: number, range: [0, 40]}
  treated: {type: boolean}
  arm: {type: category, levels: [drug, placebo]}
  stage: {type: category, levels: [i, ii, iii]}
""")


def people(n: int = 60, seed: int = 0) -> pandas.DataFrame:
    rng = np.random.default_rng(seed)
    treated = rng.integers(0, 2, n)
    days = np.clip(np.rint(rng.normal(3 + 4 * treated, 6)), -20, 40).astype(int)
    return pandas.DataFrame(
        {"id": np.arange(n), "days": days, "treated": treated, "plain": days + 20.25}
    ).assign(arm=np.where(treated, "drug", "placebo"), fine=0, open=0, stage="i")


def study_of(privacy: dict[str, Any] | None = None, **options: Any) -> Study:
    more = {"privacy": privacy} if privacy else {}
    return federations.study_of({"a": {"run": "wilcoxon", **options}}, **more)


def run(folder: Path, table: pandas.DataFrame, **options: Any) -> Result:
    site = federations.site_of("n", table, CONTRACT, folder)
    return federations.result(federations.run(study_of(**options), CONTRACT, [site]))


def row(result: Result, table: str) -> Any:
    return result.tables[table].rows[0]


# -- the exact test
def test_swapping_the_groups_mirrors_every_number(tmp_path: Path) -> None:
    table = people()
    less = run(tmp_path, table, value="days", by="arm", alternative="less")
    other = run(tmp_path, table, value="days", by="arm", reference="drug", alternative="greater")
    n_x, n_y = (r["n"] for r in less.tables["groups"].rows)
    assert [r["group"] for r in less.tables["groups"].rows] == ["arm=drug", "arm=placebo"]
    assert [r["group"] for r in other.tables["groups"].rows] == ["arm=placebo", "arm=drug"]
    test, mirrored = row(less, "test"), row(other, "test")
    assert test["statistic"] == n_x * n_y - mirrored["statistic"]
    assert (test["z"], test["p_value"]) == pytest.approx((-mirrored["z"], mirrored["p_value"]))
    assert row(less, "superiority")["estimate"] == pytest.approx(
        1 - row(other, "superiority")["estimate"]
    )
    assert row(less, "shift")["estimate"] == -row(other, "shift")["estimate"]
    assert row(less, "shift")["conf_high"] == -row(other, "shift")["conf_low"]


def test_values_below_zero_and_beside_the_grid_are_counted_at_the_nearer_point(
    tmp_path: Path,
) -> None:
    """`plain` is `days` + 20.25, and counts as `days` + 20: the ranks are the same."""
    exact = run(tmp_path, people(), value="days", by="treated")
    rounded = run(tmp_path, people(), value="plain", by="treated", step=1)
    assert exact.exactness.kind == "exact"
    assert rounded.exactness.kind == "approximate" and "multiple of 1;" in rounded.exactness.why
    assert row(exact, "test") == row(rounded, "test")
    assert row(exact, "quantiles")["estimate"] + 20 == row(rounded, "quantiles")["estimate"]


def differences(x: Floats, y: Floats) -> Floats:
    """The differences of all pairs, ascending, one by one."""
    values = np.arange(len(x))
    return np.sort(
        np.subtract.outer(
            np.repeat(values, x.astype(int)), np.repeat(values, y.astype(int))
        ).ravel()
    )


@pytest.mark.parametrize("seed", range(40))
def test_the_shift_is_the_median_of_all_differences_and_its_ends_are_ranks(seed: int) -> None:
    """`pairs` promises that so many differences lie at each end or beyond it."""
    rng = np.random.default_rng(seed)
    cells = int(rng.integers(2, 40))
    x, y = (rng.poisson(rng.uniform(0.3, 3), cells).astype(float) for _ in "xy")
    x[0], y[-1] = x[0] + 1, y[-1] + 1
    every = differences(x, y)
    assert rank_sum.shift(x, y) == np.median(every)
    ends = rank_sum.shift_interval(x, y, 1.0, "two.sided", correct=True)
    for end, beyond in (
        (ends.low, every <= (ends.low or 0)),
        (ends.high, every >= (ends.high or 0)),
    ):
        if end is not None:
            assert end in every and beyond.sum() >= ends.pairs


@pytest.mark.parametrize(("n", "is_shown"), [(11, False), (12, True)])
def test_an_end_of_the_shift_that_few_people_make_is_withheld(
    n: int, is_shown: bool, tmp_path: Path
) -> None:
    """At 11 and 11 people 30 pairs lie beyond an end, which 10 people can make; at 12 and 12, 37,
    for which it takes 12."""
    days = np.r_[np.arange(n), np.arange(n)]
    table = people(2 * n).assign(days=days, treated=np.repeat([0, 1], n))
    site = federations.site_of("n", table, CONTRACT, tmp_path)
    outcome = federations.run(study_of(value="days", by="treated"), CONTRACT, [site])
    (shift,) = federations.document(outcome).analyses["a"].tables["shift"]
    assert shift["estimate"] == 0.0 and "beyond" not in shift
    assert (shift["conf_low"] is not None) == (shift["conf_high"] is not None) == is_shown


def test_a_small_group_takes_the_comparison_with_it(tmp_path: Path) -> None:
    table = people(60).assign(treated=np.r_[np.ones(8, int), np.zeros(52, int)])
    site = federations.site_of("n", table, CONTRACT, tmp_path)
    outcome = federations.run(study_of(value="days", by="treated"), CONTRACT, [site])
    tables = federations.document(outcome).analyses["a"].tables
    for name in ("groups", "test", "superiority", "shift"):
        numbers = [v for r in tables[name] for v in r.values() if isinstance(v, int | float)]
        assert tables[name] and not numbers, name


def test_all_pairs_one_way_give_no_interval_of_the_superiority(tmp_path: Path) -> None:
    table = people(60)
    table["days"] = np.where(table["treated"] == 1, 30, 0) + np.arange(60) % 5
    superiority = row(run(tmp_path, table, value="days", by="treated"), "superiority")
    assert superiority["estimate"] == 0.0
    assert superiority["conf_low"] is superiority["conf_high"] is None


def test_rows_of_one_person_are_noted() -> None:
    for rows, is_noted in ((1, False), (3, True)):
        text = CONTRACT.model_copy(update={"rows_per_person": rows})
        task = registry.plan(study_of(value="days", by="arm"), text)["a"]
        total = Total(
            {"values": np.tile([[3.0], [4.0]], 61)},
            {name: np.array([30]) for name in ("people", "rows", "missing", "off_grid")},
            {},
        )
        result = task.analysis.combine(total, task, task.analysis.start(task))
        assert any("derive one row a person" in note for note in result.notes) == is_noted


MISTAKES = [
    ({"value": "days", "by": "stage"}, r"by: 'stage' has 3 levels.*derive a yes-or-no column"),
    ({"value": "days", "by": "plain"}, "'plain' is a number; two groups are compared"),
    ({"value": "open", "by": "arm"}, "'open' must be a number with a `range`"),
    ({"value": "arm", "by": "arm"}, "'arm' must be a number with a `range`"),
    ({"value": "plain", "by": "arm"}, "'plain' has no `step` in the contract.*`step: 10`"),
    ({"value": "days", "by": "arm", "step": 1e-6}, "makes 60,000,001 cells.*another `step`"),
    ({"value": "days", "by": "arm", "reference": "x"}, "unknown group 'x'.*drug, placebo"),
    ({"value": "days", "by": "arm", "alternative": "more"}, "alternative: "),
    ({"value": "days", "by": "arm", "conf_level": 0.9999}, "conf_level: must be at most 0.999"),
]


@pytest.mark.parametrize(("options", "words"), MISTAKES)
def test_a_mistake_names_the_culprit_and_the_remedy(options: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.StudyError, match=words):
        registry.plan(study_of(**options), CONTRACT)


def test_more_cells_than_noise_can_be_worked_out_for_name_the_step_to_write() -> None:
    privacy = {"mode": "dp", "epsilon": 1}
    with pytest.raises(errors.StudyError, match=r"1,502 cells of 1 .*\(1,500\).*`step: 1.01`"):
        registry.plan(study_of(privacy, value="fine", by="arm"), CONTRACT)
    registry.plan(study_of(privacy, value="fine", by="arm", step=1.01), CONTRACT)


def test_a_correction_is_no_option_of_mode_dp() -> None:
    with pytest.raises(errors.StudyError, match="correct"):
        registry.plan(
            study_of({"mode": "dp", "epsilon": 1}, value="days", by="arm", correct=True), CONTRACT
        )


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (people().assign(days=5), "all values are in one cell of the grid"),
        (people().assign(treated=1), "nobody of the group treated=no has a value"),
    ],
    ids=["all equal", "an empty group"],
)
def test_a_comparison_of_nothing_says_so(
    table: pandas.DataFrame, words: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=words):
        run(tmp_path, table, value="days", by="treated")


# -- its noise
CELLS = 20
INVERSE = linalg.toeplitz(cumulative.inverse(CELLS), np.zeros(CELLS))
A = 0.5 * np.sign(np.subtract.outer(np.arange(CELLS), np.arange(CELLS)))


def test_the_variances_of_the_grid_are_those_of_the_matrices() -> None:
    size = rank_sum_dp.grid(CELLS)
    ranks, total = A @ INVERSE, np.ones(CELLS) @ INVERSE
    assert size.of_pairs == pytest.approx(((INVERSE.T @ A @ INVERSE) ** 2).sum(), rel=1e-12)
    assert size.of_total == pytest.approx(total @ total, rel=1e-12)
    np.testing.assert_allclose(size.of_cell, (INVERSE**2).sum(1), rtol=1e-12)
    np.testing.assert_allclose(size.of_rank, (ranks**2).sum(1), rtol=1e-12)


def law(mean: float) -> Floats:
    weights = stats.norm.pdf((np.arange(CELLS) + 0.5) / CELLS, mean, 0.15)
    return np.asarray(weights / weights.sum())


def noised(rng: np.random.Generator, counts: Floats, multiplier: float) -> tuple[Floats, float]:
    """Decoded counts, with the noise of a plain count of that standard deviation."""
    sd = multiplier * cumulative.norm(CELLS)
    return counts + INVERSE @ rng.normal(0, sd, CELLS), sd**2


def released(n: int, multiplier: float, means: tuple[float, float]) -> list[Superiority]:
    """Of one pair of groups, 3,000 times."""
    rng = np.random.default_rng(1)
    results = []
    for _ in range(3000):
        (x, variance), (y, _) = (noised(rng, n * law(mean), multiplier) for mean in means)
        results.append(NoisedGroups(x, y, variance).superiority(1.96))
    return results


@pytest.mark.parametrize(("n", "multiplier"), federations.first([(200, 9.3), (400, 6.0)]))
def test_the_stated_noise_of_the_superiority_is_that_of_repeated_releases(
    n: int, multiplier: float
) -> None:
    """4 % is three errors of a standard deviation of 3,000."""
    results = released(n, multiplier, (0.65, 0.45))
    rms = math.sqrt(np.mean([result.noise**2 for result in results]))
    assert rms == pytest.approx(np.std([result.theta for result in results]), rel=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("n", federations.first([200, 400]))
def test_noise_does_not_move_the_sampling_error_of_the_superiority(n: int) -> None:
    """1 % is five errors of the mean of 3,000. Squares with the noise left in are 2 % too small at
    200 people; those with the noise of each rank taken out, and not that of their mean, 10 %."""
    squares = [result.sampling**2 for result in released(n, 9.3, (0.5, 0.5))]
    exact = rank_sum.superiority(n * law(0.5), n * law(0.5))[1] ** 2
    assert np.mean(squares) == pytest.approx(exact, rel=0.01)


def test_the_interval_of_the_superiority_holds_the_truth_far_from_one_half() -> None:
    """0.021 is three binomial errors of 5 % of 1,000 federations, each with people of its own."""
    rng = np.random.default_rng(6)
    p, q = law(0.65), law(0.38)
    truth = float(p @ (np.cumsum(q) - q / 2))
    assert truth > 0.88
    held = []
    for _ in range(1000):
        (x, variance), (y, _) = (noised(rng, rng.multinomial(400, r), 9.3) for r in (p, q))
        interval = NoisedGroups(x, y, variance).superiority(1.96)
        held.append(interval.low <= truth <= interval.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.021)


@pytest.mark.slow
@pytest.mark.parametrize("multiplier", federations.first([9.3, 0.0]))
def test_true_hypotheses_are_rejected_one_time_in_twenty_and_the_shift_is_held(
    multiplier: float,
) -> None:
    """1,000 federations of two groups of 400: 0.021 is three binomial errors of 5 %; the interval
    of a shift by two cells is held between 93 and 97 times in a hundred."""
    rng = np.random.default_rng(2)
    p, moved = law(0.5), np.r_[0.0, 0.0, law(0.5)[:-2]]
    z, held = [], []
    for _ in range(1000):
        x, y, w = (rng.multinomial(400, q / q.sum()) for q in (p, p, moved))
        (a, variance), (b, _), (c, _) = (noised(rng, n, multiplier) for n in (x, y, w))
        z.append(NoisedGroups(a, b, variance).z())
        _, low, high = NoisedGroups(c, b, variance).shift(1.96)
        assert low is not None and high is not None
        held.append(low <= 2 <= high)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.05, abs=0.021)
    assert 0.93 <= np.mean(held) <= 0.97


def test_without_noise_the_interval_is_that_of_the_exact_mode() -> None:
    rng = np.random.default_rng(3)
    x, y = (rng.multinomial(100, law(m)).astype(float) for m in (0.6, 0.5))
    interval = NoisedGroups(x, y, 1e-12).superiority(1.96)
    theta, error = rank_sum.superiority(x, y)
    exact = (theta, error, *rank_sum.on_logit(theta, error, 1.96))
    assert (interval.theta, interval.sampling, interval.low, interval.high) == pytest.approx(
        exact, rel=1e-6
    )


# -- when it refuses
MULTIPLIER = 9.3  # of epsilon 1 over four nodes with noise of their own
VARIANCE = (MULTIPLIER * cumulative.norm(CELLS)) ** 2
LEAST = wilcoxon_dp.CLEAR * math.sqrt(VARIANCE * rank_sum_dp.grid(CELLS).of_total)
STUDY = study_of({"mode": "dp", "epsilon": 1}, value="days", by="arm", step=60 / (CELLS - 1))
TASK = registry.plan(STUDY, CONTRACT)["a"]


def total_of(rng: np.random.Generator, n_x: int, n_y: int) -> Total:
    """Of two groups of one skewed law, as it comes from the nodes."""
    skewed = np.exp(-np.arange(CELLS) / 2)
    counts = np.array([rng.multinomial(n, skewed / skewed.sum()) for n in (n_x, n_y)])
    of_groups = MULTIPLIER**2 * (1 - 2 * wilcoxon_dp.COUNTS) / wilcoxon_dp.COUNTS
    values = cumulative.encode(counts) + rng.normal(0, math.sqrt(VARIANCE), counts.shape)
    groups = np.array([n_x, n_y]) + rng.normal(0, math.sqrt(of_groups), 2)
    people = np.array([float(n_x + n_y), 0.0, 0.0])
    noise = {"values": VARIANCE, "groups": of_groups, "people": of_groups}
    return Total({"values": values, "groups": groups, "people": people}, {}, {}, noise=noise)


def z_of(total: Total) -> float | None:
    """None if the groups are refused."""
    with contextlib.suppress(errors.ModelError):
        result = wilcoxon_dp.combine(total, TASK, TASK.analysis.start(TASK))
        assert isinstance(result, Result)
        return float(row(result, "test")["z"])
    return None


def test_a_group_that_drowns_is_named_with_what_to_do() -> None:
    total = total_of(np.random.default_rng(5), 1000, round(LEAST / 3))
    with pytest.raises(errors.ModelError, match=r"the group arm=placebo does not .*a wider `step`"):
        wilcoxon_dp.combine(total, TASK, TASK.analysis.start(TASK))


@pytest.mark.slow
def test_that_a_group_is_refused_by_its_own_count_biases_no_test() -> None:
    """A reference of as many people as the limit asks for passes half of the time. Of those shown,
    one side is rejected as often as the other: 0.025 is three errors of 5 % of 700. Decided on the
    total of the histogram, the side `less` would be rejected 10 times in a hundred."""
    rng = np.random.default_rng(4)
    asked = [z_of(total_of(rng, 1000, round(LEAST))) for _ in range(1400)]
    z = np.array([value for value in asked if value is not None])
    assert len(z) / len(asked) == pytest.approx(0.5, abs=0.05)
    assert (z > 1.645).mean() == pytest.approx(0.05, abs=0.025)
    assert (z < -1.645).mean() == pytest.approx(0.05, abs=0.025)
