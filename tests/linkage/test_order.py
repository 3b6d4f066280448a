"""How a holder reads its people: NIRs as numbers, nobody twice, and an order that nobody knows."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.linkage import forms, packing
from federation.linkage.errors import LinkError
from nodes import link_order, link_rows
from tests.linkage import two_holders

SEED = bytes(31) + b"\1"
NIRS = st.from_regex(r"[1-8][0-9]{4}([0-9]{2}|2[ABab])[0-9]{6}", fullmatch=True)
# each has 13 characters, and is no plain NIR or one that a database reads as another number
ODD = ["1e00000000012", "1E00000000012", "+123456789012", "-123456789012", " 186117510004",
       "0186117510004", "9861175100043", "186117510004.", "18611_5100043", "\uff11861175100043",
       "186112A100043", "186112b100043", "1 86 11 75 10", None, ""]  # fmt: skip


@given(st.lists(st.one_of(NIRS, st.sampled_from(ODD)), min_size=1, max_size=20))
def test_a_database_reads_the_numbers_of_nirs_as_we_do(written: list[str | None]):
    sql = f"SELECT {link_rows.nir_number('t')} FROM (SELECT unnest(CAST(? AS VARCHAR[])) AS t)"
    numbers = [number for (number,) in duckdb.execute(sql, [written]).fetchall()]
    for text, number in zip(written, numbers, strict=True):
        spelled = forms.normalise("nir13", text)
        is_plain = text is not None and text == spelled and text.isdigit()
        assert number == (packing.nir_number(spelled) if is_plain else packing.UNUSABLE)


@given(st.lists(NIRS, min_size=2, max_size=20, unique_by=str.upper))
def test_no_two_nirs_share_a_number(written: list[str]):
    assert len(set(packing.packed("nir13", written).tolist())) == len(written)


def rows_in_order(n: int, size: int, seed: bytes) -> tuple[list[np.ndarray], np.ndarray]:
    chunks = ([np.arange(i, min(i + size, n))] for i in range(0, n, size))
    shuffled = list(link_order.shuffled(chunks, seed))
    places = np.concatenate([places for _, places in shuffled])
    return [arrays[0] for arrays, _ in shuffled], places


@pytest.mark.parametrize(("n", "size"), [(1, 10), (300, 1), (5000, 1000), (600_000, 2**18)])
def test_every_row_leaves_once_in_an_ascending_order_of_places(n: int, size: int):
    chunks, places = rows_in_order(n, size, SEED)
    assert np.array_equal(np.sort(np.concatenate(chunks)), np.arange(n))
    assert (places[1:] > places[:-1]).all()
    assert all(len(chunk) >= link_order.MIN_ROWS for chunk in chunks[:-1])


def test_a_row_leaves_at_any_place_whatever_its_place_was():
    """Over 1,200 seeds the place of each of 6 rows is uniform: of 36 counts of expectation 200 the
    chi-square statistic on 25 degrees of freedom stays below its quantile of 1e-6."""
    counts = np.zeros((6, 6))
    for seed in range(1200):
        chunks, _ = rows_in_order(6, 4, seed.to_bytes(32, "big"))
        counts[np.concatenate(chunks), np.arange(6)] += 1
    assert ((counts - 200) ** 2 / 200).sum() < 79.0


def test_rows_that_were_dealt_to_one_pile_leave_in_no_order():
    """Of 199,999 neighbours half ascend; the standard deviation of their share is below 0.002."""
    chunks, places = rows_in_order(200_000, 50_000, SEED)
    rows, piles = np.concatenate(chunks), places >> np.uint64(56)
    ascends = (rows[1:] > rows[:-1])[piles[1:] == piles[:-1]]
    assert abs(ascends.mean() - 0.5) < 0.01


def test_no_chunk_leaves_before_all_have_come():
    come = []

    def chunks():
        for i in range(3):
            come.append(i)
            yield [np.arange(10)]

    next(link_order.shuffled(chunks(), SEED))
    assert come == [0, 1, 2]


@pytest.mark.parametrize(
    "values",
    [[1, -32768, 32767], [1, 32768], [1, np.nan, 3e7 + 2], [0.1, 1], [1e300, -np.inf, np.nan]],
)
def test_numbers_lose_nothing_where_they_take_less_memory(values: list[float]):
    column = np.array(values, np.float64)
    assert np.array_equal(link_order.narrow(column), column, equal_nan=True)


def test_columns_that_fit_take_less_memory():
    columns = np.array([[0.0, 240.0], [0.5, np.nan], [0.1, 1.0]])
    assert [link_order.narrow(column).itemsize for column in columns] == [2, 4, 8]


def people_of(folder: Path, numbers: list[str]) -> int:
    """Of a right holder of one row a person, in exact mode."""
    path = folder / "right.csv"
    rows = pandas.DataFrame({"number": numbers, "spent": 1})
    rows.to_csv(path, index=False)
    read = two_holders.people_alone(path, "number", SEED)
    return sum(len(people.places) for people in read)


NUMBERS = [f"{10**12 + i}" for i in range(3000)]


def test_a_person_with_two_rows_is_refused_before_anything_leaves(tmp_path: Path):
    assert people_of(tmp_path, NUMBERS) == 3000
    with pytest.raises(LinkError, match="duplicate person"):
        people_of(tmp_path, [*NUMBERS, NUMBERS[1234]])


def test_two_keys_that_share_64_bits_are_two_people(tmp_path: Path, monkeypatch):
    """One pair in 2e19 does: then the database counts the people itself."""
    monkeypatch.setattr(link_rows.Keys, "repeat", lambda self: True)
    assert people_of(tmp_path, NUMBERS) == 3000
