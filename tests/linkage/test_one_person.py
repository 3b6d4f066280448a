"""One person, at the left, at the right or at both, is one linked row: the sensitivities of the
analyses hold."""

from __future__ import annotations

from collections import Counter

import duckdb
import numpy as np
import pandas
import pytest

from nodes import link_parties
from simulations import linked, local
from tests import federations
from tests.linkage import two_holders
from tests.linkage.two_holders import CONTRACTS, NOW

STUDY = two_holders.study(
    analyses={
        "a": {"run": "crosstab", "rows": "grade", "columns": "drug"},
        "b": {"run": "describe", "columns": ["age", "spent"]},
    },
    privacy={"mode": "dp", "epsilon": 1},
)


@pytest.fixture(scope="module")
def tables():
    return two_holders.make(300, 500, 250)


def rows(tables, folder) -> Counter:
    """The linked people without their pseudonyms, which are new at each attempt."""
    given = two_holders.holders(folder, tables)
    with linked.linking(STUDY, CONTRACTS, given, local.SIMULATED, NOW) as people:
        (site,) = people.sites
        frame = duckdb.read_parquet(site.datasets[STUDY.dataset].source).df()
    columns = frame.drop(columns="pseudonym").astype(object).where(frame.notna(), "missing")
    return Counter(columns.itertuples(index=False, name=None))


def without(tables, *, left=None, right=None):
    return two_holders.Tables(
        tables.left if left is None else tables.left[tables.left["nir"] != left],
        tables.right
        if right is None
        else tables.right[tables.right["number"].str.replace(" ", "") != right],
    )


@pytest.mark.parametrize("where", federations.first(["both", "left", "right"]))
def test_a_person_who_leaves_takes_one_row_and_changes_no_other(where, tables, tmp_path):
    everyone = rows(tables, tmp_path)
    present = two_holders.joined(tables)["pseudonym"]
    for nir in (present.iloc[0], present.iloc[-1]):
        sides = {"left": nir, "right": nir} if where == "both" else {where: nir}
        fewer = rows(without(tables, **sides), tmp_path)
        assert sum((everyone - fewer).values()) == 1
        assert not fewer - everyone


def test_a_person_who_is_at_one_holder_only_changes_nothing(tables, tmp_path):
    everyone = rows(tables, tmp_path)
    there = set(tables.right["number"].str.replace(" ", ""))
    stranger = next(nir for nir in tables.left["nir"] if nir not in there)
    assert rows(without(tables, left=stranger), tmp_path) == everyone


def test_a_person_with_more_rows_than_the_contract_allows_stays_in_the_range_of_each_column(
    tables, tmp_path
):
    """Mode dp refuses nobody: 40 rows of 500 euros count as the 6 x 500 that the contract
    allows."""
    nir = two_holders.joined(tables)["pseudonym"].iloc[0]
    mine = (
        tables.right[tables.right["number"].str.replace(" ", "") == nir].head(1).assign(spent=500)
    )
    more = two_holders.Tables(tables.left, pandas.concat([tables.right, *[mine] * 40]))
    gained = rows(more, tmp_path) - rows(tables, tmp_path)
    assert sum(gained.values()) == 1
    assert max(value for row in gained for value in row if isinstance(value, float)) == 3000


def test_which_of_two_rows_of_one_pseudonym_stays_depends_on_these_two_alone():
    rng = np.random.default_rng(0)
    names = rng.integers(0, 2**63, (40, 2)).astype(np.uint64)
    names[20:] = names[:20]
    values = rng.normal(0, 1, (40, 3))
    chosen = dict(zip(*map(as_tuples, link_parties.unique_people(names, values)), strict=True))
    assert len(chosen) == 20
    for dropped in range(0, 20, 5):
        some = np.r_[0:dropped, dropped + 1 : 20 + dropped, 21 + dropped : 40][rng.permutation(38)]
        fewer = zip(
            *map(as_tuples, link_parties.unique_people(names[some], values[some])), strict=True
        )
        assert dict(fewer) == {
            name: row for name, row in chosen.items() if name != tuple(names[dropped])
        }


def as_tuples(rows):
    return [tuple(row) for row in rows]
