"""The cost of a study grows as the number of its columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pytest

from federation import cohort as cohorts
from federation.cohort import Cohort, Values
from federation.schema import Field
from nodes import connectors, differencing, draft, samples
from nodes.differencing import Earlier, Seen
from nodes.samples import Sample
from nodes.site import Dataset, Storage
from strategies import registry
from tests import counted, federations
from tests.growth.test_results import exponent

SIZES = [20, 200, 2000]


def contract_text(n_columns: int) -> str:
    columns = "\n".join(f"  x{i}: {{type: number, range: [0, 1]}}" for i in range(n_columns))
    return f"dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {{type: string}}\n{columns}\n"


@pytest.mark.parametrize("run", ["describe", "describe in mode dp"])
def test_a_description_reads_twenty_columns_a_query(run: str) -> None:
    names = [f"x{i}" for i in range(200)]
    entry: dict[str, Any] = {"run": "describe", "columns": names}
    privacy = {"privacy": {"epsilon": 1}} if run != "describe" else {}
    study = federations.study_of({"d": entry}, **privacy)
    task = registry.plan(study, federations.contract_of(contract_text(200)))["d"]
    widths: list[int] = []

    def fetch(asked: Iterable[Field]) -> Mapping[str, Values]:
        fields = list(asked)
        widths.append(len(fields))
        return {field.name: np.linspace(0, 1, 50) for field in fields}

    task.analysis.local(Cohort(None, 50, 50, 1, fetch), task, task.analysis.start(task))
    assert widths == [cohorts.COLUMNS_AT_ONCE] * 10


class Counted:
    """A connection that counts what DuckDB plans: the square of the expressions of a query."""

    def __init__(self) -> None:
        self.connection, self.planned = duckdb.connect(), 0

    def execute(self, sql: str) -> Any:
        self.planned += len(re.findall(r"bool_or", sql)) ** 2
        return self.connection.execute(sql)


def test_looking_for_numbers_too_large_for_a_double_plans_as_much_a_column() -> None:
    planned = []
    for n_columns in SIZES:
        counted: Any = Counted()
        names = [f"x{i}" for i in range(n_columns)]
        values = ", ".join(f"{1e16 if name == 'x7' else 0.5} AS {name}" for name in names)
        counted.connection.execute(f"CREATE TABLE source AS SELECT {values}")
        assert connectors._inexact(counted, names) == {"x7"}
        planned.append(counted.planned)
    assert exponent(SIZES[1:], planned[1:]) < 1.1


def seen_of(*columns: Iterable[str]) -> Seen:
    seen = Seen()
    for number, some in enumerate(columns):
        seen.append(Earlier(bytes([number % 256]), frozenset(some), None))
    return seen


def test_groups_of_other_columns_are_not_compared() -> None:
    compared = []
    for n_columns in SIZES:
        seen, n = seen_of(differencing.COHORT), 0
        for i in range(n_columns):
            columns = frozenset({f"x{i}", f"x{i + 1}"})
            n += 1 + len(seen.sharing(columns))
            seen.append(Earlier(b"", columns, None))
        compared.append(n)
    assert exponent(SIZES, compared) < 1.1


def test_groups_that_share_a_column_or_do_not_know_theirs_are_compared_in_their_order() -> None:
    seen = seen_of({"a"}, {"b", "c"}, set(), {"c", "d"}, {"a", "d"}, {"e"})

    def sharing(*names: str) -> list[int]:
        return [earlier.digest[0] for earlier in seen.sharing(frozenset(names))]

    assert sharing("d") == [2, 3, 4]
    assert sharing("b", "a") == [0, 1, 2, 4]
    assert sharing("z") == [2]
    assert sharing() == [0, 1, 2, 3, 4, 5]


# -- a draft
def test_a_draft_scans_the_rows_once_for_many_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = connectors.connect
    monkeypatch.setattr(connectors, "connect", lambda s: counted.Counted(real(s)))
    queries = []
    for n_columns in (4, 20):
        levels, numbers = np.resize(["aa", "bb", "cc"], 300), np.arange(300) / 4
        table = {f"x{i}": numbers if i % 2 else levels for i in range(n_columns)}
        pandas.DataFrame(table).to_csv(tmp_path / f"{n_columns}.csv", index=False)
        source = Dataset(draft.placeholder(), str(tmp_path / f"{n_columns}.csv"))
        counted.Counted.queries = 0
        drafted = draft.of_source("people", source, Storage(), date(2026, 11, 29))
        queries.append(counted.Counted.queries)
        assert [each.keys["type"] for each in drafted.columns[:2]] == ["category", "number"]
        assert drafted.columns[2].keys["levels"] == ["aa", "bb", "cc"]
    assert queries[0] == queries[1]


@pytest.mark.parametrize("n_values", [0, 1, 40, 41, 990, 1010, 5000])
def test_levels_are_counted_where_there_are_few(n_values: int) -> None:
    connection = duckdb.connect()
    texts = [f"é{i}" for i in range(n_values)]
    rows = [*texts, *texts, None]
    connection.execute("CREATE TABLE source AS SELECT unnest(?::VARCHAR[]) AS x", [rows])
    levels = draft._levels(connection, {"x": "x"})["x"]
    if n_values <= draft.MAX_LEVELS:
        assert levels == [(text, 2) for text in sorted(texts)]
    assert (len(levels) > draft.MAX_LEVELS) == (n_values > draft.MAX_LEVELS)


def test_the_columns_of_a_sample_are_found_by_one_look_at_their_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked, real = [0], samples.text.canonical

    def counting(value: str) -> str:
        looked[0] += 1
        return real(value)

    monkeypatch.setattr(samples.text, "canonical", counting)
    names = [f"x{i}" for i in range(300)]
    sample = Sample([*names, "x0"], [(2, [str(i) for i in range(301)])])
    assert [list(sample.column(name)) for name in names] == [[(2, str(i))] for i in range(300)]
    assert looked[0] == 301 + 300
