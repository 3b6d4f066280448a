"""A cohort in blocks: cut between people, read where it lies if it can stay there, and never after
its files changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pytest

from federation import schema as schemas
from federation.contract import Contract
from federation.messages import TaskId
from nodes import cohort_blocks, cohorts, contract_counts, fingerprints, kept_cohorts, sides
from nodes.cohorts import Opened
from nodes.site import Dataset, Site, Storage
from tests import federations

CONTRACT = federations.contract_of(
    "dataset: people\nversion: 1\nperson: id\nrows_per_person: 3\ncolumns:\n"
    "  id: {type: string}\n  x: {type: number, range: [0, 1000]}\n"
    "  g: {type: category, levels: [a, b]}\n"
)
ALONE = CONTRACT.model_copy(update={"rows_per_person": 1})
TINY = Storage(max_values=100)  # blocks of 10 rows of two columns


def rows(n: int, each: int = 1) -> pandas.DataFrame:
    rng = np.random.default_rng(n)
    return pandas.DataFrame(
        {
            "id": [f"p{i // each}" for i in range(n)],
            "x": rng.integers(0, 1000, n),
            "g": rng.choice(["a", "b"], n),
        }
    )


def written(people: pandas.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        people.to_csv(path, index=False)
    else:
        duckdb.sql(f"COPY (SELECT * FROM people) TO '{path}' (FORMAT parquet)")
    return path


def opened(path: Path, contract: Contract, storage: Storage, where: str | None = None) -> Opened:
    schema = schemas.build(contract, {})
    fields = [schema.fields["x"], schema.fields["g"]]
    dataset = Dataset(contract, str(path))
    return cohorts.open_checked(dataset, storage, schema, fields, where, in_blocks=True)


def columns(opening: Opened, contract: Contract) -> list[tuple[float, ...]]:
    """Each row of all blocks: its column x, its person and the person's hash."""
    fields = [schemas.build(contract, {}).fields["x"]]
    listed, before = [], 0
    for block in opening.cohort.blocks():
        held = opening.people
        hashes = block.hashes() if block.hashes is not None else held.hashes if held else None
        assert hashes is not None
        values = block.columns(fields)["x"]
        listed += list(zip(values, block.person + before, hashes, strict=True))
        before += block.people
    return listed


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("where", [None, "g == 'a'"])
def test_blocks_of_people_with_several_rows_have_the_rows_and_order_of_the_whole(
    suffix: str, where: str | None, tmp_path: Path
) -> None:
    path = written(rows(300, each=3), tmp_path / f"people{suffix}")
    whole, cut = (opened(path, CONTRACT, storage, where) for storage in (Storage(), TINY))
    assert whole.cohort.in_blocks is None and cut.cohort.in_blocks is not None
    blocks = list(cut.cohort.blocks())
    assert len(blocks) > 10 and max(block.rows for block in blocks) < 60
    assert columns(cut, CONTRACT) == columns(whole, CONTRACT)
    assert cut.cohort.people == whole.cohort.people == sum(block.people for block in blocks)
    assert cut.cohort.people_in_dataset == whole.cohort.people_in_dataset == 100


def test_rows_of_different_people_are_read_where_they_lie(tmp_path: Path) -> None:
    path = written(rows(300), tmp_path / "people.parquet")
    whole, cut = (opened(path, ALONE, storage, "x < 900") for storage in (Storage(), TINY))
    x = duckdb.sql(f"SELECT x FROM '{path}' WHERE x < 900").fetchnumpy()["x"]
    listed = columns(cut, ALONE)
    np.testing.assert_array_equal([row[0] for row in listed], x)
    assert {row[0::2] for row in listed} == {row[0::2] for row in columns(whole, ALONE)}


def test_the_fingerprint_of_a_row_without_a_person_is_that_of_its_place(tmp_path: Path) -> None:
    """Whether it is read in blocks or held, so that the two are compared."""
    contract = federations.contract_of(
        "dataset: people\nversion: 1\nunit: visit\ncolumns:\n"
        "  x: {type: number, range: [0, 1000]}\n  g: {type: category, levels: [a, b]}\n"
    )
    (tmp_path / "visits").mkdir()
    for number in range(2):
        written(rows(150 + number), tmp_path / "visits" / f"{number}.parquet")
    prints = []
    for storage in (Storage(), TINY):
        listed = columns(opened(tmp_path / "visits", contract, storage, "x < 500"), contract)
        hashes = np.array([row[2] for row in listed], np.uint64)
        prints.append(fingerprints.fingerprint(hashes, b"12345678"))
    assert prints[0] == prints[1]


def test_a_column_that_hides_the_places_goes_into_a_table(tmp_path: Path) -> None:
    table = rows(300).rename(columns={"g": "filename"})
    text = CONTRACT.model_dump_json().replace('"g"', '"filename"')
    contract = Contract.model_validate_json(text).model_copy(update={"rows_per_person": 1})
    path = written(table, tmp_path / "people.parquet")
    schema = schemas.build(contract, {})
    fields = [schema.fields["x"], schema.fields["filename"]]
    cut = cohorts.open_checked(
        Dataset(contract, str(path)), TINY, schema, fields, None, in_blocks=True
    )
    assert cut.cohort.in_blocks is not None and cut.cohort.rows == 300
    assert len(columns(cut, contract)) == 300


def study(storage: Storage, path: Path, between: Any = lambda: None) -> Any:
    contract = ALONE
    asked = federations.study_of({"a": {"run": "glm", "model": "g ~ x", "family": "binomial"}})
    sites = [Site("n0", {"people": Dataset(contract, str(path))}, federations.OPEN, storage)]
    ask, rounds = federations.ask_of(sites), []

    def asking(query: Any) -> Any:
        if rounds:
            between()
        rounds.append(query.round)
        return ask(query)

    return federations.run(asked, contract, sites, asking).runs[TaskId("a")]


def test_the_sides_that_a_producer_sees_are_counted_in_blocks(tmp_path: Path) -> None:
    table = rows(300)
    table.loc[:9, "g"] = None
    path = written(table, tmp_path / "people.parquet")
    asked = federations.study_of(
        {"a": {"run": "glm", "model": "g ~ old + few", "family": "binomial"}},
        cohort={"derive": {"old": "x > 500", "few": "if(x > 700, 1, 0)"}, "where": "x < 980"},
    )
    shown = [
        sides.of_study(
            asked, Site("n0", {"people": Dataset(ALONE, str(path))}, federations.OPEN, storage)
        )
        for storage in (Storage(), TINY)
    ]
    assert len(shown[0]) == 3 and shown[1] == shown[0]


def test_files_that_change_between_two_rounds_end_the_study(tmp_path: Path) -> None:
    path = written(rows(300), tmp_path / "people.parquet")
    assert study(TINY, path).result is not None

    def rewritten() -> None:
        written(rows(300), path)

    outcome = study(TINY, path, rewritten)
    assert outcome.result is None
    assert outcome.refusals["n0"].rule == "source"

    def removed() -> None:
        path.unlink(missing_ok=True)

    outcome = study(TINY, path, removed)
    assert outcome.result is None
    assert outcome.refusals["n0"].rule == "source"
    assert str(path) not in str(outcome)


def test_a_file_with_a_duplicate_person_breaks_its_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = rows(300)
    table.loc[7, "id"] = "p6"
    path = written(table, tmp_path / "people.parquet")
    for storage, at_once in ((Storage(), 1_000), (TINY, 1_000), (TINY, 30)):
        # in ten passes, the last time
        monkeypatch.setattr(contract_counts, "PEOPLE_AT_ONCE", at_once)
        findings = opened(path, ALONE, storage).findings
        assert [finding.rule for finding in findings] == ["duplicate person"]


def test_a_block_holds_a_fifth_of_what_may_be_held() -> None:
    """Of each row its columns, and three values for its person."""
    storage = Storage(max_values=1_000)
    assert cohort_blocks.is_large(201, ["x", "y"], storage)
    assert not cohort_blocks.is_large(200, ["x", "y"], storage)
    assert cohort_blocks.rows_of_block(["x", "y"], storage) == 40
    assert cohort_blocks.rows_of_block([], Storage(max_values=10**9)) == 500_000
    assert Storage().max_values < kept_cohorts.MAX_VALUES
