"""Made-up rows from a contract alone, so that a study can be written and run before anyone grants
access.

Every value is drawn by the contract's types, levels and ranges, each column by itself: nothing real
is in them, and no result says anything about people. Identifiers follow from a person's number, so
that the made-up people of two contracts with an identifier of one name can be linked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from federation.arrays import Ints
from federation.contract import Column, Contract
from federation.expression import quote_text

MAX_ROWS = 5  # of one person
MISSING = 0.05  # the share of missing values, where the contract allows them
WITHOUT_RANGE = (0.0, 100.0)
DAYS = (date(2018, 1, 1), date(2025, 12, 31))
CODES: Mapping[str, Sequence[str]] = {
    "cim-10": ["A09", "E119", "F320", "I10", "I210", "I500", "I639", "J189", "N185", "S720"],
    "ccam": ["DDQH012", "DEQP003", "HHQE005", "NEKA020", "YYYY600"],
    "atc": ["A10BA02", "B01AA03", "C09AA05", "C10AA05", "J01CA04", "N02BE01"],
    "cip13": ["3400930000001", "3400930000018", "3400930000025"],
    "loinc": ["4548-4", "718-7", "2160-0"],
}


@dataclass(frozen=True)
class _Draw:
    """What a column is drawn from. `place`: which of how many nodes the rows are of. `people`
    (n_rows,): the number of each row's person among those of all nodes."""

    rng: np.random.Generator
    rows: int
    place: tuple[int, int]
    people: Ints


def write(contract: Contract, people: int, nodes: int, folder: Path, seed: int) -> list[Path]:
    """A Parquet file for each node, with about the same number of people."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, first = [], 0
    for place in range(nodes):
        count = people // nodes + (place < people % nodes)
        rng = np.random.default_rng([seed, place])
        frame = rows(contract, count, rng, (place, nodes), first)
        first += count
        path = folder / f"node-{place + 1}.parquet"
        with duckdb.connect() as connection:
            connection.register("frame", frame)
            connection.execute(f"COPY frame TO {quote_text(str(path))} (FORMAT parquet)")
        paths.append(path)
    return paths


def rows(
    contract: Contract,
    people: int,
    rng: np.random.Generator,
    place: tuple[int, int] = (0, 1),
    first: int = 0,
) -> Any:
    """A data frame of the contract's columns. Each person has at most `rows_per_person` rows, and
    at most five. `first`: the number of the first person, from which identifiers follow."""
    import pandas

    of = np.arange(people)
    if contract.rows_per_person > 1:
        most = min(contract.rows_per_person, MAX_ROWS)
        of = np.repeat(of, rng.integers(1, most, people, endpoint=True))
    draw = _Draw(rng, len(of), place, first + of)
    identifiers = {each.column: (name, each.form) for name, each in contract.identifiers.items()}
    columns = {}
    for name, column in contract.columns.items():
        if name in identifiers and column.type in ("string", "category", "date"):
            columns[name] = _identifiers(*identifiers[name], column, draw)
        elif name == contract.person:
            columns[name] = np.array([f"p{place[0] + 1}-{number:06d}" for number in of], object)
        else:
            columns[name] = _with_missing(column, _KINDS[column.type](column, draw), draw)
    return pandas.DataFrame(columns)


def _with_missing(column: Column, values: Any, draw: _Draw) -> Any:
    share = min(MISSING, column.max_missing / 2)
    if column.type == "array" or not share:
        return values
    is_missing = draw.rng.random(draw.rows) < share
    objects = np.asarray(values, object)
    objects[is_missing] = None
    return objects


def _numbers(column: Column, draw: _Draw) -> Any:
    low, high = column.interval if column.range else WITHOUT_RANGE
    if column.step is None:
        return np.round(draw.rng.uniform(low, high, draw.rows), 3).clip(low, high)
    first, last = math.ceil(low / column.step), math.floor(high / column.step)
    return draw.rng.integers(first, last, draw.rows, endpoint=True) * column.step


def _booleans(column: Column, draw: _Draw) -> Any:
    return draw.rng.random(draw.rows) < 0.5


def _levels(column: Column, draw: _Draw) -> Any:
    """Of a category that is `within_node`, each level belongs to one node."""
    levels = list(column.levels)
    if column.within_node:
        place, nodes = draw.place
        levels = levels[place::nodes] or levels[:1]
    return draw.rng.choice(np.array(levels, object), draw.rows)


def _codes(column: Column, draw: _Draw) -> Any:
    return draw.rng.choice(np.array(CODES[str(column.terminology)], object), draw.rows)


def _texts(column: Column, draw: _Draw) -> Any:
    return np.array([f"text {number}" for number in draw.rng.integers(0, 1000, draw.rows)], object)


def _days(column: Column, draw: _Draw) -> Any:
    low, high = column.range or DAYS
    assert isinstance(low, date) and isinstance(high, date)
    offsets = draw.rng.integers(0, (high - low).days, draw.rows, endpoint=True)
    return np.array([low + timedelta(int(offset)) for offset in offsets], object)


def _arrays(column: Column, draw: _Draw) -> Any:
    low, high = column.interval
    size = math.prod(column.shape)
    values = draw.rng.uniform(low, high, (draw.rows, size)).clip(low, high)
    return [list(map(float, row)) for row in values]


def _identifiers(name: str, form: str, column: Column, draw: _Draw) -> Any:
    """One for each person, of the form in which identifiers are compared, whatever the contract.
    There is no month 40 to 49, so that a NIR is nobody's."""
    numbers = draw.people.tolist()
    if column.levels:
        return np.array([column.levels[each % len(column.levels)] for each in numbers], object)
    if column.type == "date":
        low, high = column.range or DAYS
        assert isinstance(low, date) and isinstance(high, date)
        span = (high - low).days + 1
        return np.array([low + timedelta(1009 * each % span) for each in numbers], object)
    of_form: Mapping[str, Callable[[int], str]] = {
        "nir13": lambda each: (
            f"{1 + each % 2}{each // 10**6 % 100:02}4{each % 10}99{each % 10**6:06}"
        ),
        "date": lambda each: (DAYS[0] + timedelta(1009 * each % 2900)).isoformat(),
        "text": lambda each: f"{name} {_letters(each)}",
    }
    return np.array([of_form[form](each) for each in numbers], object)


def _letters(number: int) -> str:
    """0 as A, 25 as Z, 26 as AA: a name has no digits."""
    letters = ""
    while number >= 0:
        number, letter = number // 26 - 1, chr(ord("A") + number % 26)
        letters = letter + letters
    return letters


_KINDS: Mapping[str, Callable[[Column, _Draw], Any]] = {
    "number": _numbers,
    "integer": _numbers,
    "boolean": _booleans,
    "category": _levels,
    "code": _codes,
    "string": _texts,
    "date": _days,
    "array": _arrays,
}
