"""Counting in the source itself: the same numbers as reading every row, and no person with more
rows than the contract allows."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pandas
import pytest

from federation import errors
from federation import schema as schemas
from federation.cohort import Tally
from federation.contract import Contract
from nodes import buckets, cohorts, row_limit, tallies
from nodes.site import Dataset, Storage
from strategies.numerics import counting
from strategies.protocol import Total
from tests import federations

TEXT = """
dataset: visits
version: 1
person: id
rows_per_person: 3
columns:
  id: {type: string}
  g: {type: category, levels: [a, b, c], missing: [unknown]}
  h: {type: boolean}
  age: {type: number, range: [0, 110]}
"""
CONTRACT = federations.contract_of(TEXT)
VISITS = federations.contract_of(TEXT.replace("person: id\nrows_per_person: 3", "unit: visit"))
RNG = np.random.default_rng(11)
N = 4000
TABLE = pandas.DataFrame(
    {
        "id": [f"p{i}" for i in RNG.zipf(1.6, N) % 900],
        "g": RNG.choice(["a", "b", "c", "unknown", "other", ""], N),
        "h": RNG.choice(["true", "false", ""], N, p=[0.5, 0.4, 0.1]),
        "age": RNG.integers(-20, 130, N),
    }
)
WHERE = "age >= 40"


def count(
    dataset: Dataset,
    contract: Contract,
    where: str | None = None,
    *,
    only_counts: bool = True,
    salt: str = "s",
) -> Tally:
    schema = schemas.build(contract, {"older": "age >= 65"})
    fields = [schema.field("g"), schema.field("h")]
    cohort = cohorts.open_clipped(
        dataset, Storage(), schema, fields, where, salt, only_counts=only_counts
    ).cohort
    if cohort.count is not None:
        return cohort.count(fields)
    from strategies.numerics import counting

    return counting.cross(cohort, fields)


def csv_of(table: pandas.DataFrame, contract: Contract, folder: Path) -> Dataset:
    table.to_csv(folder / "t.csv", index=False)
    return Dataset(contract, str(folder / "t.csv"))


def expected(table: pandas.DataFrame) -> np.ndarray:
    cells = np.zeros((3, 2), int)
    for i, level in enumerate("abc"):
        for j, answer in enumerate(("false", "true")):
            cells[i, j] = ((table["g"] == level) & (table["h"] == answer)).sum()
    return cells


@pytest.mark.parametrize("where", [None, WHERE])
def test_units_without_a_person_all_count(where: str | None, tmp_path: Path) -> None:
    dataset = csv_of(TABLE, VISITS, tmp_path)
    counted, read = (count(dataset, VISITS, where, only_counts=only) for only in (True, False))
    chosen = TABLE if where is None else TABLE[TABLE["age"] >= 40]
    np.testing.assert_array_equal(counted.cells, expected(chosen))
    np.testing.assert_array_equal(read.cells, counted.cells)
    assert counted.people[:2].tolist() == [
        expected(chosen).sum(),
        len(chosen) - expected(chosen).sum(),
    ]


@pytest.mark.parametrize("where", [None, WHERE])
@pytest.mark.parametrize("bucketed", [False, True])
def test_each_person_keeps_at_most_so_many_rows(
    where: str | None, bucketed: bool, tmp_path: Path
) -> None:
    dataset = csv_of(TABLE, CONTRACT, tmp_path)
    if bucketed:
        assert buckets.write(dataset, Storage(), tmp_path / "b", 4) == N
        dataset = Dataset(CONTRACT, str(tmp_path / "b"))
        assert buckets.are_whole(dataset)
    chosen = TABLE if where is None else TABLE[TABLE["age"] >= 40]
    rows_of = chosen["id"].value_counts()
    assert rows_of.max() > 50 > 3
    counted, read = (count(dataset, CONTRACT, where, only_counts=only) for only in (True, False))
    limited = int(rows_of.clip(upper=3).sum())
    assert (
        counted.people[:2].sum() == read.people[:2].sum() == limited
    )  # complete and missing rows together
    assert counted.people[2] == (rows_of > 3).sum()  # those who lost rows
    assert (
        where or read.people[2] <= counted.people[2]
    )  # read row by row: if a complete one stays, and ages moved count too
    assert (counted.cells <= expected(chosen)).all() and (read.cells <= expected(chosen)).all()
    few = chosen[chosen["id"].map(rows_of) <= 3]
    assert (counted.cells >= expected(few)).all()  # whoever has few keeps all


def test_another_salt_keeps_other_rows_and_the_same_salt_the_same(tmp_path: Path) -> None:
    dataset = csv_of(TABLE, CONTRACT, tmp_path)
    first, again, other = (count(dataset, CONTRACT, salt=salt).cells for salt in ("s", "s", "t"))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("where", [None, WHERE])
def test_people_whose_hashes_agree_in_part_keep_their_own_rows(
    where: str | None, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With so few bits of a person's hash nearly all people share a group, as a few do in a
    national table."""
    dataset = csv_of(TABLE, CONTRACT, tmp_path)
    whole = count(dataset, CONTRACT, where)
    sound = tallies._count_words
    few = (np.uint64(2**bits - 1), np.uint64(3))  # of 2 x 3 cells: 3 bits

    def shared(words: np.ndarray, size: int, max_rows: int) -> tuple[Tally, np.ndarray]:
        tally, large = sound(
            (words >> few[1] & few[0]) << few[1] | words & np.uint64(7), size, max_rows
        )
        colliding = words[np.isin(words >> few[1] & few[0], large)]
        return tally, np.unique(colliding >> few[1])

    monkeypatch.setattr(tallies, "_count_words", shared)
    parts = count(dataset, CONTRACT, where)
    np.testing.assert_array_equal(parts.cells, whole.cells)
    np.testing.assert_array_equal(parts.people, whole.people)


def test_taking_a_person_away_moves_the_counts_by_that_persons_rows_alone(tmp_path: Path) -> None:
    whole = count(csv_of(TABLE, CONTRACT, tmp_path), CONTRACT)
    for person in TABLE["id"].value_counts().index[:5]:
        rest = count(csv_of(TABLE[TABLE["id"] != person], CONTRACT, tmp_path), CONTRACT)
        assert (rest.cells <= whole.cells).all() and (whole.people - rest.people)[:2].sum() == 3


def test_many_passes_give_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = csv_of(TABLE, CONTRACT, tmp_path)
    whole = count(dataset, CONTRACT)
    monkeypatch.setattr(tallies, "AT_ONCE", 500)
    parts = count(dataset, CONTRACT)
    np.testing.assert_array_equal(parts.cells, whole.cells)
    np.testing.assert_array_equal(parts.people, whole.people)


def test_a_bucket_changed_by_hand_is_not_trusted(tmp_path: Path) -> None:
    """Rows put into a bucket say nothing true of how many a person has:
    they are bounded all the same."""
    buckets.write(csv_of(TABLE, CONTRACT, tmp_path), Storage(), tmp_path / "b", 4)
    dataset = Dataset(CONTRACT, str(tmp_path / "b"))
    path = next((tmp_path / "b").glob("**/*.parquet"))
    many = pandas.DataFrame(
        {
            "id": ["new"] * 500,
            "g": ["a"] * 500,
            "h": ["true"] * 500,
            "age": [50] * 500,
            "hdh_rows": [1] * 500,
        }
    )
    import duckdb

    duckdb.sql(
        f"COPY (SELECT * EXCLUDE (hdh_bucket) FROM '{path}' UNION ALL BY NAME SELECT * FROM many)"
        f" TO '{path}.new' (FORMAT parquet)"
    )
    assert len(many)
    Path(f"{path}.new").replace(path)
    assert not buckets.are_whole(dataset)
    counted = count(dataset, CONTRACT)
    assert counted.people[:2].sum() == TABLE["id"].value_counts().clip(upper=3).sum() + 3


def test_buckets_need_a_person(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError, match="names no person"):
        buckets.write(csv_of(TABLE, VISITS, tmp_path), Storage(), tmp_path / "b", 4)


# -- the rows that stay, of a table that is read
def test_who_else_is_there_changes_nothing_for_a_person() -> None:
    """Rows as a cohort has them: by person, then by the hash of their content."""
    people = RNG.integers(0, 2**63, 300).astype(np.uint64)
    person = np.sort(people[RNG.integers(0, 300, 2000)])
    again = person * np.uint64(7)
    limited = row_limit.choose((person, again), 2)
    assert limited.people == len(set(person.tolist()))
    assert (
        np.bincount(limited.person).max() == 2
        and len(np.bincount(limited.person)) == limited.people
    )
    many = [p for p, n in zip(*np.unique(person, return_counts=True), strict=True) if n > 2]
    np.testing.assert_array_equal(limited.lost, np.isin(person[limited.rows], many))
    for dropped in np.unique(person)[:20]:
        rest = np.flatnonzero(person != dropped)
        others = row_limit.choose((person[rest], again[rest]), 2)
        np.testing.assert_array_equal(
            rest[others.rows], limited.rows[person[limited.rows] != dropped]
        )


@pytest.mark.parametrize("shift", [0, 24, 31, 63])
def test_people_whose_hashes_agree_in_part_do_not_share_a_limit(shift: int) -> None:
    """In each hash alone, two people may agree; in a national table some do."""
    first, other = np.uint64(1) << np.uint64(shift), np.uint64(2) << np.uint64(shift % 62)
    same = np.full(6, 5, np.uint64)
    differs = np.array([first] * 3 + [other] * 3, np.uint64)
    for hashes in ((same, differs), (differs, same)):
        limited = row_limit.choose(hashes, 2)
        assert limited.people == 2 and limited.rows.tolist() == [0, 1, 3, 4]
        assert limited.lost.all()


def test_a_limit_over_nobody_keeps_nothing() -> None:
    empty = np.empty(0, np.uint64)
    limited = row_limit.choose((empty, empty), 2)
    assert limited.people == len(limited.rows) == 0


@pytest.mark.parametrize("where", [None, WHERE])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_in_exact_mode_too_they_are_counted_and_checked_where_they_lie(
    where: str | None, kind: str, tmp_path: Path
) -> None:
    """The contract's checks then run over distinct rows, each as many times as it is there."""
    table = TABLE[(TABLE["g"] != "other") & TABLE["age"].between(0, 110)]
    path = tmp_path / f"t.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else duckdb.from_df(table).to_parquet(
        str(path)
    )
    schema = schemas.build(VISITS, {})
    fields = [schema.field("g"), schema.field("h")]
    opened = [
        cohorts.open_checked(
            Dataset(VISITS, str(path)), Storage(), schema, fields, where, only_counts=only
        )
        for only in (True, False)
    ]
    assert [cohort.findings for cohort in opened] == [(), ()]
    counted, read = (counting.cross(cohort.cohort, fields) for cohort in opened)
    chosen = table if where is None else table[table["age"] >= 40]
    np.testing.assert_array_equal(counted.cells, expected(chosen))
    np.testing.assert_array_equal(read.cells, counted.cells)
    assert [cohort.cohort.people for cohort in opened] == [len(chosen), len(chosen)]
    assert [cohort.cohort.people_in_dataset for cohort in opened] == [len(table), len(table)]


def test_broken_rows_are_counted_as_often_as_they_are_there(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    TABLE.to_csv(path, index=False)
    schema = schemas.build(VISITS, {})
    opened = [
        cohorts.open_checked(
            Dataset(VISITS, str(path)),
            Storage(),
            schema,
            [schema.field("g")],
            WHERE,
            only_counts=only,
        )
        for only in (True, False)
    ]
    assert opened[0].findings == opened[1].findings != ()
    assert {(finding.rule, finding.rows) for finding in opened[0].findings} == {
        ("unknown level", int((TABLE["g"] == "other").sum())),
        ("range", int((~TABLE["age"].between(0, 110)).sum())),
    }


@pytest.mark.parametrize(("people", "passes"), [(0.0, False), (30.0, False), (30.1, True)])
def test_a_model_needs_a_number_of_rows_that_stands_clear_of_its_noise(
    people: float, passes: bool
) -> None:
    # noise of variance 100, hence of standard deviation 10: three of them are 30
    total = Total({"people": np.array([people, 500.0, 0.0])}, {}, {}, noise={"people": 100.0})
    if passes:
        counting.check_model_rows(total, "model")
    else:
        with pytest.raises(errors.ModelError, match=r"model: .* `hdh node check`"):
            counting.check_model_rows(total, "model")
    assert counting.expects_model(31, 10.0) and not counting.expects_model(30, 10.0)
