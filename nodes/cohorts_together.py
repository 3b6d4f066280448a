"""The cohorts of many small nodes that one process simulates, opened in one pass over their rows.

A node opens its cohort with a dozen queries, which take longer than the rows of a small node. Here
the same SQL checks and hashes the rows of all nodes, and each gets its own: the same rows in the
same order, with the same hashes and the same broken rules, as if it had opened them alone. Each
node then judges its study by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb

from federation.arrays import Ints
from federation.cohort import Fetch, Values
from federation.contract import Contract
from federation.expression import quote_text
from federation.schema import Field
from nodes import cohort_table, cohorts, column_arrays, connectors, contract_counts, contract_sql
from nodes.cohort_table import EVERYONE, NAME, Order
from nodes.cohorts import Opened
from nodes.connectors import FILE, PLACE
from nodes.kept_cohorts import KeptCohorts
from nodes.reading import AS_IT_IS
from nodes.site import Dataset, Storage

LEAST = 20  # nodes; fewer open their cohorts one by one, as deployed nodes do
Counts = Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class Alike:
    """Datasets under one contract, whose files have the same columns. `rows`: of all. `names`: of
    the columns, under the contract's names."""

    datasets: Mapping[str, Dataset]  # by file
    rows: int
    names: frozenset[str]

    @property
    def contract(self) -> Contract:
        return next(iter(self.datasets.values())).contract


class CohortsTogether(KeptCohorts[Opened]):
    """`datasets`: of the nodes, in files that only this process writes. The cohorts that were
    opened together last stay open."""

    def __init__(self, datasets: Iterable[Dataset]) -> None:
        super().__init__(settled=0.0)
        self._datasets = list(datasets)
        self._alike: dict[str, Alike | None] = {}  # by contract
        self._batch: tuple[str | None, ...] = ()  # the contract, the limits and the condition
        self._opened: Mapping[str, Opened] = {}
        self._columns: frozenset[str] = frozenset()

    def opened(
        self,
        dataset: Dataset,
        storage: Storage,
        condition: str | None,
        columns: Iterable[str],
        read: Callable[[Iterable[str]], Opened],
        *,
        in_any_order: bool = False,
    ) -> Opened:
        wanted, alike = frozenset(columns), self._alike_of(dataset, storage)
        if alike is not None and alike.datasets.get(dataset.source) == dataset:
            self._open(alike, storage, condition, wanted)
            if dataset.source in self._opened:
                return self._opened[dataset.source]
        return super().opened(dataset, storage, condition, wanted, read, in_any_order=in_any_order)

    def column_names(self, dataset: Dataset, storage: Storage) -> frozenset[str]:
        alike = self._alike_of(dataset, storage)
        if alike is not None and alike.datasets.get(dataset.source) == dataset:
            return alike.names
        return super().column_names(dataset, storage)

    def _alike_of(self, dataset: Dataset, storage: Storage) -> Alike | None:
        contract = dataset.contract.hash
        if contract not in self._alike:
            some = [each for each in self._datasets if each.contract.hash == contract]
            self._alike[contract] = _alike(list(filter(_can_join, some)), storage)
        return self._alike[contract]

    def _open(
        self, alike: Alike, storage: Storage, condition: str | None, columns: frozenset[str]
    ) -> None:
        """Opens the cohorts, with the columns of earlier studies too if there is room for them."""
        batch = alike.contract.hash, storage.model_dump_json(), condition
        before = self._columns if batch == self._batch else frozenset[str]()
        if batch == self._batch and columns <= before:
            return
        self._batch, self._columns, self._opened = batch, frozenset(), {}
        for some in (before | columns, columns):
            if alike.rows * len(some) <= storage.max_values:
                self._columns, self._opened = some, open_all(alike, storage, condition, some)
                return


def _can_join(dataset: Dataset) -> bool:
    """Whether it is a Parquet file whose rows are read as they are."""
    is_changed = any((dataset.rows_where, dataset.table, dataset.view, dataset.is_linked))
    is_plain = Path(dataset.source).suffix == ".parquet" and dataset.read == AS_IT_IS
    return is_plain and not is_changed


def _alike(datasets: Sequence[Dataset], storage: Storage) -> Alike | None:
    """None for too few nodes, and for more rows than are held at a time."""
    if len(datasets) < LEAST:
        return None
    with connectors.shared(storage) as connection:
        same, rows = connectors.alike(connection, datasets)
    if len(same) < LEAST or rows > storage.max_values:
        return None
    names = connectors.column_names(same[0], storage)
    return Alike({dataset.source: dataset for dataset in same}, rows, names)


def open_all(
    alike: Alike, storage: Storage, condition: str | None, columns: Iterable[str]
) -> dict[str, Opened]:
    """By the file of each dataset, the cohort that its node would open; none of a file without
    rows. `condition`: its SQL."""
    contract, used = alike.contract, sorted(columns)
    names = contract_counts.needed(contract, used)
    connection = connectors.shared(storage)
    if not connectors.open_together(connection, list(alike.datasets.values()), names):
        return {}
    counts = _counts(connection, contract, names)
    most = _max_rows(connection, contract, counts)
    opened = {
        file: Opened(cohorts.no_one(contract), findings)
        for file, each in counts.items()
        if (findings := contract_sql.judge(contract, each, most.get(file, 1)))
    }
    if opened:
        broken = ", ".join(map(quote_text, opened))
        connection.execute(f"DELETE FROM source WHERE {FILE} IN ({broken})")
    whole = {file: counts[file] for file in alike.datasets if file in counts.keys() - opened.keys()}
    if whole:
        sql = _sql(connection, contract, used, list(whole.values()))
        opened |= _checked(Rows(connection, contract, storage, sql, used), condition, whole)
    return opened


def _sql(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    used: Sequence[str],
    counts: Sequence[Counts],
) -> Mapping[str, str]:
    """Of each needed column over the raw ones."""
    added_up = {key: sum(each[key] for each in counts) for key in counts[0]}
    return cohorts.checked_sql(connection, contract, used, added_up)


# -- the checks of each file
def _counts(
    connection: duckdb.DuckDBPyConnection, contract: Contract, names: Sequence[str]
) -> Mapping[str, Counts]:
    """Of each file with rows, the counts of every check."""
    raw_types = cohort_table.source_types(connection)
    by_file = defaultdict[str, dict[tuple[str, str], int]](dict)
    every = contract_counts.checks_of_typed(contract, names, raw_types)
    for checks, relation in contract_counts.scans(contract, every, raw_types, beside=[FILE]):
        keys = [(check.column, check.rule) for check in checks]
        listed = ", ".join(check.sql for check in checks)
        rows = connection.execute(f"SELECT {FILE}, {listed} FROM {relation} GROUP BY 1").fetchall()
        for file, *counted in rows:
            by_file[file] |= zip(keys, map(int, counted), strict=True)
    return by_file


def _max_rows(
    connection: duckdb.DuckDBPyConnection, contract: Contract, counts: Mapping[str, Counts]
) -> Mapping[str, int]:
    """Of each file, the largest number of rows of a person; empty where nobody has two."""
    if all(
        contract_counts.people_in(contract, each) == each["", "rows"] for each in counts.values()
    ):
        return {}
    person = str(contract.person)
    raw_type = cohort_table.source_types(connection)[person]
    key = contract_sql.typed(person, contract.columns[person], raw_type)
    rows = connection.execute(
        f"SELECT {FILE}, max(n) FROM (SELECT {FILE}, count(*) AS n FROM (SELECT {FILE}, {key} AS "
        f"key FROM source) WHERE key IS NOT NULL GROUP BY {FILE}, key) GROUP BY 1"
    ).fetchall()
    return {file: int(n) for file, n in rows}


# -- the rows of each file
@dataclass(frozen=True)
class Rows:
    """Rows that satisfy their contract, file after file. `sql`: of each needed column over the raw
    ones. `used`: the columns of the study."""

    connection: duckdb.DuckDBPyConnection
    contract: Contract
    storage: Storage
    sql: Mapping[str, str]
    used: Sequence[str]


def _checked(rows: Rows, condition: str | None, counts: Mapping[str, Counts]) -> dict[str, Opened]:
    everyone = {}
    if condition is not None:
        everyone = {
            file: cohorts.checked_rows(rows.contract, order, fetcher).cohort
            for file, order, fetcher in _written(rows, counts, None, EVERYONE)
        }
    held = frozenset(rows.used)
    opened = {
        file: cohorts.checked_rows(
            rows.contract,
            order,
            fetcher,
            contract_counts.people_in(rows.contract, counts[file]),
            everyone.get(file),
            held,
        )
        for file, order, fetcher in _written(rows, counts, condition, NAME)
    }
    cohort_table.drop_source(rows.connection)
    return opened


def _written(
    rows: Rows, files: Iterable[str], condition: str | None, table: str
) -> Iterator[tuple[str, Order, Callable[[Ints], Fetch]]]:
    """Writes a table of all rows that meet the condition. Of each file, in the order of the rows:
    the order of its own and what reads their columns."""
    connection, contract = rows.connection, rows.contract
    cohort_table.write(
        connection,
        contract,
        {name: rows.sql[name] for name in rows.used},
        key=rows.sql[contract.person] if contract.person else None,
        where=condition,
        is_fixed=True,
        table=table,
        number=f"{PLACE} + 1",
        beside=[FILE],
    )
    sizes = dict(connection.execute(f"SELECT {FILE}, count(*) FROM {table} GROUP BY 1").fetchall())
    hashes = cohort_table.hashes_of(connection, contract, table)
    columns, start = Columns(rows, table), 0
    for file in files:
        rows_here = slice(start, start + sizes.get(file, 0))
        hashes_here = tuple(words[rows_here] for words in hashes)
        order = cohort_table.ordered(hashes_here, contract, is_fixed=True, start=start)
        yield file, order, columns.at
        start = rows_here.stop


class Columns:
    """Columns of a table, each read once for all nodes."""

    def __init__(self, rows: Rows, table: str) -> None:
        self._connection, self._table = rows.connection, table
        self._max_values = rows.storage.max_values
        self._read: dict[Field, Values] = {}

    def at(self, places: Ints) -> Fetch:
        """Gives the values at some places."""
        return partial(self._fetch, places)

    def _fetch(self, places: Ints, asked: Iterable[Field]) -> Mapping[str, Values]:
        fields = list(asked)
        if any(field not in self._read for field in fields):
            if sum(values.size for values in self._read.values()) > self._max_values:
                self._read.clear()
            lacking = [field for field in fields if field not in self._read]
            read = column_arrays.read(self._connection, lacking, self._table)
            self._read |= {field: read[field.name] for field in lacking}
        return {field.name: self._read[field][places] for field in fields}
