"""The rule on two grids of one column: what is too thin between two edges, and which options of an
analysis make a grid."""

from __future__ import annotations

import numpy as np
import pytest

from federation.arrays import Floats
from federation.disclosure import partitions
from federation.disclosure.partitions import Cuts, Rows
from strategies import registry

K = 11
AGES = np.repeat(np.arange(20.0, 80.0), 4)  # four people of each year


def cuts(*edges: float, below: bool = False) -> Cuts:
    return Cuts(np.array(edges), np.full(len(edges), below))


def rows(values: Floats = AGES, group: Floats | None = None) -> Rows:
    groups = np.zeros(len(values)) if group is None else group
    return Rows(values, None, groups.astype(np.int64))


def is_thin(left: Cuts, other: Cuts, some: Rows, *, hides_cells: bool = False) -> bool:
    keys = partitions.keys(left, other, some, 0.0, 1.0)
    return partitions.is_thin_between(left, other, some, K, keys, hides_cells=hides_cells)


@pytest.mark.parametrize(("edge", "expected"), [(42, True), (43, False), (40, False), (41, True)])
def test_fewer_than_k_people_between_two_edges_are_too_few(edge: float, expected: bool) -> None:
    """Four people a year: two years hold 8, three hold 12."""
    assert is_thin(cuts(40), cuts(edge), rows()) is expected


def test_nobody_between_two_edges_is_too_few() -> None:
    alone = AGES[(AGES < 40) | (AGES >= 50)]
    assert is_thin(cuts(42), cuts(48), rows(alone))


def test_few_people_of_one_group_between_two_edges_are_too_few() -> None:
    assert not is_thin(cuts(40), cuts(50), rows())
    group = (np.arange(len(AGES)) % 10 == 0).astype(np.float64)  # four of the forty
    assert is_thin(cuts(40), cuts(50), rows(group=group))


def test_a_finer_grid_is_compared_only_where_the_hub_hides_small_cells() -> None:
    fine, coarse = cuts(30, 32, 60), cuts(30, 60)
    assert not is_thin(fine, coarse, rows())
    assert is_thin(fine, coarse, rows(), hides_cells=True)


def test_people_count_and_not_their_rows() -> None:
    person = np.arange(len(AGES)) // 2  # two rows each
    some = Rows(AGES, person, np.zeros(len(AGES), np.int64))
    assert not is_thin(cuts(40), cuts(45), rows())
    assert is_thin(cuts(40), cuts(45), some)


def test_edges_are_the_same_if_the_contracts_steps_allow_no_value_between() -> None:
    below, above = cuts(40, below=True), cuts(41, below=False)  # up to 40, and under 41
    left, other = partitions.keys(below, above, rows(), 0.0, 1.0)
    assert np.array_equal(left, other)
    halves = rows(np.append(AGES, 40.5))
    left, other = partitions.keys(below, above, halves, 0.0, 1.0)
    assert not np.array_equal(left, other)


def test_partitions_that_differ_for_few_rows_are_nearly_the_same() -> None:
    left, other = (AGES > 40).astype(np.int64), (AGES > 42).astype(np.int64)
    clearly, finer = (AGES > 43).astype(np.int64), (AGES // 10).astype(np.int64)
    assert partitions.is_nearly_the_same(left, other, K)
    assert not partitions.is_nearly_the_same(left, clearly, K)
    assert not partitions.is_nearly_the_same(left, finer, K)


def test_columns_made_of_one_are_compared_by_their_people_in_either_direction() -> None:
    by_age, by_year = (AGES >= 40).astype(np.int64), (AGES < 42).astype(np.int64)
    assert partitions.has_near_edges(by_age, by_year, K)
    assert not partitions.has_near_edges(by_age, (AGES < 44).astype(np.int64), K)


def test_quantiles_are_as_far_apart_as_k_people() -> None:
    assert partitions.has_near_shares([0.5], [0.52], rows(), K)  # 0.02 of 240 are 5
    assert not partitions.has_near_shares([0.5], [0.55], rows(), K)
    assert not partitions.has_near_shares([0.25, 0.5], [0.5, 0.25], rows(), K)


# -- the options of all analyses
WORDS = {
    *("bins", "step", "grid", "every", "weeks", "quantiles", "lorenz", "top", "threshold"),
    *("recall_rates", "cuts", "until", "landmark", "indicators", "max_steps", "beginnings"),
}
COMPARED = {
    ("describe", "bins"),
    ("describe", "quantiles"),
    ("inequality", "step"),
    ("inequality", "quantiles"),
    ("inequality", "lorenz"),
    ("inequality", "top"),
    ("wilcoxon", "step"),
    ("kaplan_meier", "grid"),
    ("kaplan_meier", "every"),
    ("cumulative_incidence", "grid"),
    ("cumulative_incidence", "every"),
    ("propensity", "grid"),
    ("propensity", "every"),
    ("cox", "grid"),
    ("cox", "landmark"),
    ("fine_gray", "grid"),
    ("piecewise_exponential", "cuts"),
    ("piecewise_exponential", "until"),
    ("surveillance", "weeks"),
    ("train", "cuts"),
    ("train", "threshold"),
    ("train", "recall_rates"),
    ("pathways", "indicators"),
    ("pathways", "max_steps"),
    ("pathways", "beginnings"),
}
OTHERWISE = {
    ("disproportionality", "top"): "how many pairs are listed",
    ("pathways", "step"): "names a column",
    ("boosted_trees", "bins"): "of equal frequency, which the hub chooses from the data",
}


def test_every_option_that_cuts_a_column_is_compared() -> None:
    options = {
        (name, option)
        for name in registry.NAMES
        for option in WORDS.intersection(registry.analysis(name).Options.model_fields)
    }
    assert options == COMPARED | OTHERWISE.keys()
