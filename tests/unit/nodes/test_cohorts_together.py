"""Cohorts that are opened together are those that each node opens alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

import federation as fed
from federation import schema as schemas
from federation.cohort import Cohort
from nodes import cohorts, cohorts_together, connectors
from nodes.cohorts import Opened
from nodes.cohorts_together import CohortsTogether
from nodes.kept_cohorts import KeptCohorts
from nodes.site import Dataset, Storage
from tests import federations
from tests.counted import Counted

COLUMNS = """
  age: {type: number, range: [0, 120]}
  ill: {type: boolean}
  sex: {type: category, levels: [f, m]}
"""
PEOPLE = (
    "dataset: people\nversion: 1\nperson: id\nrows_per_person: 3\ncolumns:\n  id: {type: string}"
)
CONTRACTS = {
    "people": federations.contract_of(PEOPLE + COLUMNS),
    "rows": federations.contract_of("dataset: people\nversion: 1\nunit: row\ncolumns:" + COLUMNS),
}
N_NODES = cohorts_together.LEAST + 5
DERIVED = {"old": "age >= 65"}
WHERE = (None, "age > 40", "age > 119")  # at the last, no row is left at most nodes


def frame(node: int) -> pandas.DataFrame:
    draw = np.random.default_rng(node)
    rows = 2 * draw.integers(20, 60)
    return pandas.DataFrame(
        {
            "id": draw.permutation(np.repeat([f" p{node}-{i} " for i in range(rows // 2)], 2)),
            "age": np.where(draw.random(rows) < 0.1, np.nan, draw.uniform(0, 100, rows)),
            "ill": draw.random(rows) < 0.4,
            "sex": draw.choice(["f", "m", ""], rows),
        }
    )


def frames() -> dict[str, pandas.DataFrame]:
    """Some of them break the contract, have other types, or no rows."""
    tables = {f"n{node:02d}": frame(node) for node in range(N_NODES)}
    tables["n02"].loc[3, "age"] = 300
    tables["n03"].loc[:3, "id"] = "one person"
    tables["n04"] = tables["n04"].iloc[:0]
    tables["n05"] = tables["n05"].astype({"age": str})
    tables["n06"].loc[7, "id"] = None
    tables["n07"]["more"] = 1
    return tables


def datasets(folder: Path, unit: str) -> dict[str, Dataset]:
    held = {}
    for name, table in frames().items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
        held[name] = Dataset(CONTRACTS[unit], str(folder / f"{name}.parquet"))
    return held


def opened(
    held: Iterable[Dataset],
    where: str | None,
    open_cohorts: KeptCohorts[Opened] | None,
    columns: Iterable[str] = ("old", "ill", "sex", "age"),
    storage: Storage | None = None,
) -> list[Opened]:
    cohorts_of_all = []
    for dataset in held:
        schema = schemas.build(dataset.contract, DERIVED)
        fields = [schema.fields[name] for name in columns]
        each = cohorts.open_checked(
            dataset, storage or Storage(), schema, fields, where, open_cohorts=open_cohorts
        )
        cohorts_of_all.append(each)
    return cohorts_of_all


def rows_of(cohort: Cohort, unit: str) -> dict[str, Any]:
    schema = schemas.build(CONTRACTS[unit], DERIVED)
    names = ("age", "old", "ill", "sex")
    read = cohort.columns([schema.fields[name] for name in names]) if cohort.people else {}
    return {
        "people": cohort.people,
        "people_in_dataset": cohort.people_in_dataset,
        "person": None if cohort.person is None else cohort.person.tolist(),
        **{name: (values.dtype, values.tobytes()) for name, values in read.items()},
    }


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("unit", CONTRACTS)
def test_each_node_gets_what_it_would_open_alone(
    tmp_path: Path, unit: str, where: str | None
) -> None:
    held = datasets(tmp_path, unit)
    together = opened(held.values(), where, CohortsTogether(held.values()))
    alone = opened(held.values(), where, None)
    assert sum(bool(each.findings) for each in alone) >= 2
    for single, shared in zip(alone, together, strict=True):
        assert shared.findings == single.findings
        if single.findings:
            continue
        assert rows_of(shared.cohort, unit) == rows_of(single.cohort, unit)
        assert single.people is not None and shared.people is not None
        assert shared.people.hashes.tolist() == single.people.hashes.tolist()
        assert (
            (single.cohort.everyone is None) == (shared.cohort.everyone is None) == (where is None)
        )
        if single.cohort.everyone is not None and shared.cohort.everyone is not None:
            assert rows_of(shared.cohort.everyone, unit) == rows_of(single.cohort.everyone, unit)


def test_the_columns_of_every_node_are_those_of_its_file(tmp_path: Path) -> None:
    held = datasets(tmp_path, "people")
    together = CohortsTogether(held.values())
    for dataset in held.values():
        names = connectors.column_names(dataset, Storage())
        assert together.column_names(dataset, Storage()) == names


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    real = connectors.shared
    monkeypatch.setattr(connectors, "shared", lambda *given: Counted(real(*given)))
    return Counted


def alike(n_nodes: int) -> Mapping[str, pandas.DataFrame]:
    return {f"n{node:03d}": frame(node).dropna() for node in range(n_nodes)}


def queries_of(simulation: fed.Simulation, study: fed.Study) -> tuple[int, dict[str, Any]]:
    before = Counted.queries
    result = study.run(simulation, progress=False)
    return Counted.queries - before, result["a"].content


def test_queries_are_as_many_whatever_the_number_of_nodes(counted: type[Counted]) -> None:
    study = fed.Study("people", mode="exact").glm("a", "ill ~ age", family="binomial")
    asked = []
    for n_nodes in (cohorts_together.LEAST, 2 * cohorts_together.LEAST):
        with fed.simulate(alike(n_nodes), CONTRACTS["people"]) as held:
            asked.append(queries_of(held, study)[0])
            assert queries_of(held, study.describe("b", ["age"]))[0] == 0
    assert asked[0] == asked[1] > 0


def test_a_study_has_the_same_result_from_nodes_that_open_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = fed.Study("people", mode="exact", where="age > 10")
    study = study.glm("a", "ill ~ age + sex", family="binomial")
    results = []
    for least in (cohorts_together.LEAST, 1000):
        monkeypatch.setattr(cohorts_together, "LEAST", least)
        with fed.simulate(alike(N_NODES), CONTRACTS["people"]) as held:
            results.append(study.run(held, progress=False)["a"].content)
    assert results[0] == results[1]


def test_cohorts_that_are_too_large_together_are_opened_alone(
    tmp_path: Path, counted: type[Counted]
) -> None:
    held = datasets(tmp_path, "people")
    storage = Storage(max_values=2 * sum(map(len, frames().values())))
    together = CohortsTogether(held.values())
    for columns, is_small in ((["age"], True), (["age", "sex", "ill"], False), (["ill"], True)):
        before = Counted.queries
        shared = opened(held.values(), None, together, columns, storage)
        by_node = (Counted.queries - before) / len(held)  # three nodes always open alone
        assert by_node < 4 if is_small else by_node > 8
        for single, each in zip(opened(held.values(), None, None, columns), shared, strict=True):
            assert each.findings == single.findings
            if single.people is not None and each.people is not None:
                assert (each.people.hashes == single.people.hashes).all()
            assert each.cohort.people == single.cohort.people
