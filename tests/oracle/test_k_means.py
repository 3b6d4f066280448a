"""k-means finds the groups that scikit-learn finds as the best of 50 starts of k-means++, where one
start does not."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from tests import fits

RANGE = "type: number, range: [-30, 30]"


def mixture(seed: int, groups: int, columns: int) -> pandas.DataFrame:
    rng = np.random.default_rng(seed)
    middles = rng.normal(0, 3, (groups, columns))
    values = middles[rng.integers(0, groups, 400)] + rng.normal(0, 1, (400, columns))
    names = [f"x{j}" for j in range(columns)]
    return pandas.DataFrame(values, columns=names).assign(person=range(400))


def inertia(table: pandas.DataFrame, groups: int, starts: int) -> float:
    """Over the variances, as scikit-learn's on standardised columns."""
    names = [name for name in table if name != "person"]
    result = fits.fit(
        table,
        fits.contract(dict.fromkeys(names, RANGE)),
        run="k_means",
        columns=names,
        groups=groups,
        starts=starts,
        rounds=300,
    )
    assert not result.notes
    return float(result.tables["glance"].rows[0]["within_sum_of_squares"])


CASES = [
    (seed, groups, columns) for seed in (0, 1, 2) for groups, columns in ((3, 2), (5, 3), (7, 2))
]


@pytest.mark.parametrize(("seed", "groups", "columns"), CASES)
def test_twenty_starts_end_in_the_tightest_groups(seed: int, groups: int, columns: int) -> None:
    from sklearn.cluster import KMeans

    table = mixture(seed, groups, columns)
    values = table.drop(columns="person").to_numpy()
    scaled = (values - values.mean(0)) / values.std(0, ddof=1)
    best = KMeans(groups, n_init=50, tol=0, random_state=0).fit(scaled).inertia_
    assert inertia(table, groups, 20) <= best * (1 + 1e-3)  # a few people may lie on the border


def test_one_start_is_not_enough() -> None:
    """Were it, the test above would show nothing."""
    worse = [
        inertia(mixture(*case), case[1], 1) > 1.02 * inertia(mixture(*case), case[1], 20)
        for case in CASES
    ]
    assert any(worse)
