"""How many rows of a dataset break each rule of its contract, counted by the engine."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import duckdb

from federation.contract import Contract
from federation.expression import quote_name
from nodes import cohort_table, connectors, contract_sql, spellings, tallies
from nodes.contract_sql import Check, Finding
from nodes.site import Dataset, Storage

CHECKS_PER_SCAN = 60  # planning takes the square of it
PEOPLE_AT_ONCE = 10_000_000  # who are told apart in one pass over the rows: 400 MB


def examine(
    dataset: Dataset, storage: Storage, columns: Sequence[str]
) -> tuple[dict[tuple[str, str], int], list[Finding]]:
    """The counts of every check of `columns`, and the rules that they break.
    For the producer's eyes."""
    connection = connectors.connect(storage)
    connectors.open_rows(connection, dataset, needed(dataset.contract, columns))
    counts, findings = examine_opened(connection, dataset.contract, columns, rows_of(connection))
    explained = spellings.explain(
        connection, dataset.contract, cohort_table.source_types(connection), findings
    )
    return counts, explained


def examine_columns(
    dataset: Dataset, storage: Storage, columns: Sequence[str]
) -> tuple[int, list[Finding]]:
    """The number of rows, and the rules that `columns` break. That no person has more than one row
    is left to the caller: a database needs a table of all people for it."""
    connection, contract = connectors.connect(storage), dataset.contract
    connectors.open_rows(connection, dataset, needed(contract, columns))
    counts = count_rules(connection, contract, columns, without_people=True, by_value=False)
    return counts["", "rows"], contract_sql.judge(contract, counts, max_rows=1)


def examine_opened(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    columns: Sequence[str],
    rows: int,
    people: int | None = None,
    whole: Collection[str] = (),
) -> tuple[dict[tuple[str, str], int], list[Finding]]:
    """`people`: if they are counted already. `whole`: categories of which every row was seen to
    have a level."""
    counts: dict[tuple[str, str], int] = {}
    passes = math.ceil(rows / PEOPLE_AT_ONCE)
    in_passes = passes > 1 and contract.person is not None
    if people is None and in_passes:
        people = _count_people(connection, contract, passes)
    if people is not None:
        counts[str(contract.person), "people"] = people
    used = needed(contract, columns)
    counts |= count_rules(
        connection,
        contract,
        used,
        without_people=people is not None,
        by_value=not in_passes,
        whole=whole,
    )
    most = (
        1
        if people_in(contract, counts) == counts["", "rows"] or contract.person is None
        else _max_rows(connection, contract, contract.person)
    )
    return counts, contract_sql.judge(contract, counts, most)


def count_rules(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    columns: Sequence[str],
    *,
    without_people: bool,
    by_value: bool,
    whole: Collection[str] = (),
) -> dict[tuple[str, str], int]:
    """`by_value`: each value of a column of few is judged once, in a scan of its own."""
    raw_types = cohort_table.source_types(connection)
    listed = [
        check
        for check in checks_of_typed(contract, columns, raw_types)
        if not (without_people and check.rule == "people")
    ]
    counts = dict.fromkeys(((check.column, check.rule) for check in listed), 0)
    grouped = texts_of_few_values(contract, columns, raw_types) if by_value else []
    checks = [check for check in listed if check.column not in grouped]
    for name in set(grouped).difference(whole):
        counts |= _count_values(connection, contract, name, raw_types)
    for some, relation in scans(contract, checks, raw_types):
        keys = [(check.column, check.rule) for check in some]
        counts |= zip(keys, _count(connection, some, relation), strict=True)
    return counts


def checks_of_typed(
    contract: Contract, columns: Sequence[str], raw_types: Mapping[str, str]
) -> list[Check]:
    """The checks of columns in a relation of `scans`."""
    read = {name: contract_sql.as_typed(name) for name in needed(contract, columns)}
    return contract_sql.checks(contract, columns, raw_types, read=read)


def scans(
    contract: Contract,
    checks: Sequence[Check],
    raw_types: Mapping[str, str],
    beside: Sequence[str] = (),
) -> Iterator[tuple[Sequence[Check], str]]:
    """The checks, some at a time, with the relation in which they are counted. `beside`: further
    columns of that relation."""
    for start in range(0, len(checks), CHECKS_PER_SCAN):
        some = checks[start : start + CHECKS_PER_SCAN]
        names = [name for name in dict.fromkeys(check.column for check in some) if name]
        yield some, contract_sql.with_typed(contract, names, raw_types, "source", beside)


def texts_of_few_values(
    contract: Contract, columns: Iterable[str], raw_types: Mapping[str, str]
) -> list[str]:
    """The columns of texts that have few values if they satisfy the contract."""
    return [
        name
        for name in columns
        if contract.columns[name].kind == "category"
        and raw_types[name] == "VARCHAR"
        and name != contract.person
    ]


def _count_values(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    name: str,
    raw_types: Mapping[str, str],
    weight: str = "count(*)",
) -> dict[tuple[str, str], int]:
    """The counts of a column's checks. Each of its values is judged once, and counts as often as it
    occurs: `weight` is the SQL of that."""
    values = (
        f"(SELECT {quote_name(name)}, {weight} AS {tallies.ROWS} FROM source GROUP BY 1)"
        if name
        else "source"
    )
    texts = {}
    if name and contract.columns[name].kind == "category":
        values, texts[name] = contract_sql.with_text(name, raw_types[name], values)
    listed = contract_sql.checks(
        contract, [name] if name else [], raw_types, tallies.ROWS, texts=texts
    )
    some = [check for check in listed if check.column == name]
    counted = _count(connection, some, values)
    return {(name, check.rule): n for check, n in zip(some, counted, strict=True)}


def _count_people(connection: duckdb.DuckDBPyConnection, contract: Contract, passes: int) -> int:
    """The number of people, some of them at a time: the engine holds all whom it counts."""
    key = key_of(connection, contract, str(contract.person))
    people = 0
    for number in range(passes):
        ((n,),) = connection.execute(
            f"SELECT count(DISTINCT key) FROM (SELECT {key} AS key FROM source) "
            f"WHERE hash(key) % {passes} = {number}"
        ).fetchall()
        people += int(n)
    return people


def examine_grouped(
    connection: duckdb.DuckDBPyConnection, contract: Contract, columns: Sequence[str]
) -> tuple[dict[tuple[str, str], int], list[Finding]]:
    """The same for a source made by `tallies.group`:
    each value of each column, as often as it occurs."""
    raw_types = cohort_table.source_types(connection)
    counts: dict[tuple[str, str], int] = {}
    for name in ["", *columns]:
        counts |= _count_values(connection, contract, name, raw_types, f"sum({tallies.ROWS})")
    return counts, contract_sql.judge(contract, counts, 1)


def people_in(contract: Contract, counts: Mapping[tuple[str, str], int]) -> int:
    return counts["", "rows"] if contract.person is None else counts[contract.person, "people"]


def needed(contract: Contract, columns: Iterable[str]) -> list[str]:
    person = [] if contract.person is None else [contract.person]
    return list(dict.fromkeys([*person, *columns]))


def _count(
    connection: duckdb.DuckDBPyConnection, checks: Sequence[Check], relation: str
) -> Sequence[int]:
    """Rules that a quick condition shows to be kept count 0, and the others are counted."""
    quick = [check.is_clean or check.sql for check in checks]
    (row,) = connection.execute(f"SELECT {', '.join(quick)} FROM {relation}").fetchall()
    counts = [0 if check.is_clean else int(n) for check, n in zip(checks, row, strict=True)]
    broken = [i for i, check in enumerate(checks) if check.is_clean and not row[i]]
    if broken:
        listed = ", ".join(checks[i].sql for i in broken)
        (exact,) = connection.execute(f"SELECT {listed} FROM {relation}").fetchall()
        for i, n in zip(broken, exact, strict=True):
            counts[i] = int(n)
    return counts


def _max_rows(connection: duckdb.DuckDBPyConnection, contract: Contract, person: str) -> int:
    """The largest number of rows of a person."""
    key = key_of(connection, contract, person)
    rows = connection.execute(
        f"SELECT max(n) FROM (SELECT count(*) AS n FROM (SELECT {key} AS key FROM source) "
        "WHERE key IS NOT NULL GROUP BY key)"
    ).fetchall()
    return int(rows[0][0] or 0)


def key_of(connection: duckdb.DuckDBPyConnection, contract: Contract, person: str) -> str:
    """The SQL of a row's person over the raw columns."""
    raw_type = cohort_table.source_types(connection)[person]
    return contract_sql.typed(person, contract.columns[person], raw_type)


def rows_of(connection: duckdb.DuckDBPyConnection) -> int:
    ((rows,),) = connection.execute("SELECT count(*) FROM source").fetchall()
    return int(rows)
