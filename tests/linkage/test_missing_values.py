"""What a person gets from rows with missing values, by pandas."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from federation.contract import Contract
from tests.linkage import two_holders

PER_PERSON = {
    "spent": "sum(spent)",
    "least": "min(spent)",
    "most": "max(spent)",
    "visits": "count()",
    "died": "any(died)",
}
INSURER = two_holders.INSURER.replace("unit: euros}", "unit: euros, max_missing: 0.9}").replace(
    "died: {type: boolean}", "died: {type: boolean, max_missing: 0.9}"
)


def with_missing(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Four values in ten are missing, so some people have none."""
    rows = rows.astype({"spent": "Int64", "died": "boolean"})
    for number, name in enumerate(("spent", "died")):
        lost = np.random.default_rng(number).random(len(rows)) < 0.4
        rows.loc[lost, name] = pandas.NA
    return rows


def by_pandas(left: pandas.DataFrame, right: pandas.DataFrame) -> pandas.DataFrame:
    each = right.assign(nir=right["number"].str.replace(" ", "")).groupby("nir")
    people = pandas.DataFrame(
        {
            "spent": each["spent"].sum(min_count=1),
            "least": each["spent"].min(),
            "most": each["spent"].max(),
            "visits": each.size(),
            "died": each["died"].max(),
        }
    )
    return people[people.index.isin(left.loc[left["year"] >= 2005, "nir"])]


def test_missing_values_count_in_no_aggregate_of_a_person(tmp_path, monkeypatch):
    insurer = Contract.model_validate(two_holders.values(INSURER))
    monkeypatch.setitem(two_holders.CONTRACTS, "insurer", insurer)
    complete = two_holders.make()
    tables = two_holders.Tables(complete.left, with_missing(complete.right))
    study = two_holders.study(
        analyses={"a": {"run": "describe", "columns": list(PER_PERSON)}},
        datasets={
            "register": {"cohort": {"where": "year >= 2005"}},
            "insurer": {"per_person": PER_PERSON},
        },
    )
    given = two_holders.holders(tmp_path, tables)
    result = two_holders.run_linked(study, given).analyses["a"]
    people = by_pandas(tables.left, tables.right)
    assert 11 < people["spent"].isna().sum() < len(people) / 2
    numbers = {row["column"]: row for row in result.tables["numbers"]}
    for name in ("spent", "least", "most", "visits"):
        assert numbers[name]["mean"] == pytest.approx(people[name].mean(), rel=1e-12)
        assert numbers[name]["n"] == people[name].notna().sum()
    levels = {row["column"]: row["n"] for row in result.tables["levels"]}
    died = people["died"].value_counts()
    assert (levels["no"], levels["yes"]) == (died[False], died[True])
