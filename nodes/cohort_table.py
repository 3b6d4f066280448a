"""The rows of a cohort in one table, written once;
every column is read from this table, in one order.

A source may give its rows in another order at each reading: a view with a join or a GROUP BY, a
table on a server. Here the rows are sorted by hashes of their person and of their content. So a
restarted node has the same order, and the other people's rows keep their order when one person
leaves. DuckDB reads a table in the order in which it was written, on any number of threads; sorting
hashes and gathering columns costs less than sorting the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
from numpy.typing import NDArray

from federation.arrays import Ints
from federation.contract import Contract
from federation.expression import quote_name, quote_text
from nodes import contract_sql
from nodes.row_limit import Words

NAME, EVERYONE = "typed", "everyone"
# No contract column has a space in its name.
KEY, PERSON, PERSON_AGAIN, CONTENT, ROW, MOVED = (
    '"hdh key"',
    '"hdh person"',
    '"hdh person again"',
    '"hdh content"',
    '"hdh row"',
    '"hdh moved"',
)
FIRST_HASH = f"hash({KEY})"


def hold_source(connection: duckdb.DuckDBPyConnection, names: Iterable[str]) -> None:
    """Copies the columns `names` of the view `source` into a table of that name, so that the rows
    that are checked are the rows that are analysed."""
    try:
        connection.execute("ALTER VIEW source RENAME TO viewed")
    except duckdb.CatalogException:  # it is a table already
        return
    listed = ", ".join(map(quote_name, names)) or "1"
    connection.execute(f"CREATE TEMP TABLE source AS SELECT {listed} FROM viewed")
    connection.execute("DROP VIEW viewed")


def write(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    columns: Mapping[str, str],
    *,
    key: str | None,
    where: str | None,
    is_fixed: bool,
    salt: str = "",
    moved: str = "FALSE",
    table: str = NAME,
    is_sorted: bool = False,
    is_unique: bool = False,
    number: str = "row_number() OVER ()",
    beside: Iterable[str] = (),
) -> None:
    """Makes the table from `source`. `columns`: the SQL of each column over the raw ones, and `key`
    that of the person. `where`: a condition on the columns; `moved`: a condition on the raw ones.
    `is_fixed`: the source itself always has the same order, which serves if no person is named.
    `is_sorted`: the rows lie in the order that `order` gives them otherwise. `is_unique`: each row
    has another person, so one hash of it puts the rows in order, unless two people share it.
    `number`: the SQL of a row's number in a source of one order. `beside`: columns of `source` that
    no hash depends on."""
    coded_columns = coded(connection, contract, columns)
    typed = [f"{sql} AS {quote_name(name)}" for name, sql in coded_columns.items()]
    typed += beside
    typed.append(f"{key or 'NULL'} AS {KEY}")
    content = f", hash({', '.join([*map(quote_name, columns), quote_text(salt)])}) AS {CONTENT}"
    conditions = [f"({where})"] if where else []
    if key is not None:
        conditions.append(f"{KEY} IS NOT NULL")
    if key is not None and is_unique:
        content, hashes = "", f"{FIRST_HASH} AS {PERSON}"
    elif key is not None:
        hashes = f"{FIRST_HASH} AS {PERSON}, {second_hash(contract, salt)} AS {PERSON_AGAIN}"
    elif is_fixed:
        typed.append(f"{number} AS {ROW}")
        hashes = f"hash({ROW}) AS {PERSON}"
    else:
        copy = f"row_number() OVER (PARTITION BY {CONTENT})"  # tells equal rows apart
        hashes = f"hash({CONTENT}, {copy}) AS {PERSON}"
    rows = f"(SELECT {', '.join([*typed, f'({moved}) AS {MOVED}'])} FROM source)"
    chosen = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    hashed = f"(SELECT *{content} FROM {rows}{chosen})"
    by = [] if key is None and is_fixed else [PERSON, *([PERSON_AGAIN, CONTENT] if key else [])]
    ordered = f" ORDER BY {', '.join(by)}" if is_sorted and by else ""
    connection.execute(
        f"CREATE TEMP TABLE {table} AS SELECT * EXCLUDE ({KEY}), {hashes} FROM {hashed}{ordered}"
    )


def second_hash(contract: Contract, salt: str) -> str:
    """The SQL of another hash of the person, which tells apart two who share the first one. A
    number and a half has other bits than the number, and takes a fifth of the time of its text."""
    salted = quote_text(f"second {salt} ")
    if contract.columns[str(contract.person)].kind == "number":
        return f"hash({KEY} + 0.5, {salted})"
    return f"hash({salted} || CAST({KEY} AS VARCHAR))"


def coded(
    connection: duckdb.DuckDBPyConnection, contract: Contract, columns: Mapping[str, str]
) -> dict[str, str]:
    """The SQL of columns of `source`, each a category as the index of its level: shorter to sort
    and to store than its text, and equal to it in SQL."""
    raw_types = source_types(connection)
    return {
        name: contract_sql.coded(name, contract.columns[name], raw_types[name], sql)
        for name, sql in columns.items()
    }


def source_types(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    return {str(row[0]): str(row[1]) for row in connection.execute("DESCRIBE source").fetchall()}


def drop_source(connection: duckdb.DuckDBPyConnection) -> None:
    try:
        connection.execute("DROP TABLE source")
    except duckdb.CatalogException:  # it is a view
        connection.execute("DROP VIEW source")


@dataclass(frozen=True)
class Order:
    """`places` (n_rows,): the position of each row of the cohort in the table. `hashes`, (n_rows,)
    each: two of the row's person, or one if each row has another person, or one of the row itself
    if no person is named."""

    places: Ints
    hashes: tuple[Words, ...]

    @property
    def has_ties(self) -> bool:
        first = self.hashes[0]
        return bool((first[1:] == first[:-1]).any())


def order(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    *,
    is_fixed: bool,
    table: str = NAME,
    is_unique: bool = False,
) -> Order:
    """The rows of a person lie together, in the order of their content's hashes."""
    hashes = hashes_of(connection, contract, table, is_unique=is_unique)
    return ordered(hashes, contract, is_fixed=is_fixed)


def hashes_of(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    table: str,
    *,
    is_unique: bool = False,
) -> tuple[Words, ...]:
    """The hashes of each row's person and content, in the table's order."""
    has_one = contract.person is None or is_unique
    names = [PERSON] if has_one else [PERSON, PERSON_AGAIN, CONTENT]
    listed = ", ".join(f"{name} AS c{i}" for i, name in enumerate(names))
    arrays = connection.execute(f"SELECT {listed} FROM {table}").fetchnumpy()
    return tuple(np.asarray(arrays[f"c{i}"], np.uint64) for i in range(len(names)))


def hashes_of_keys(connection: duckdb.DuckDBPyConnection, key: str) -> Words:
    """The first hash of the person of each row of `source`. `key`: the SQL of that person."""
    keys = f"(SELECT {key} AS {KEY} FROM source)"
    arrays = connection.execute(f"SELECT {FIRST_HASH} AS hash FROM {keys}").fetchnumpy()
    return np.asarray(arrays["hash"], np.uint64)


def ordered(
    hashes: tuple[Words, ...], contract: Contract, *, is_fixed: bool, start: int = 0
) -> Order:
    """The order of rows that lie together in a table. `start`: the place of the first."""
    if contract.person is None and is_fixed:
        return Order(np.arange(start, start + len(hashes[0])), hashes)
    by = by_hashes(hashes)
    return Order(by + start if start else by, tuple(words[by] for words in hashes[:2]))


def by_hashes(hashes: tuple[Words, ...]) -> Ints:
    """(n_rows,): the order by one hash of each row, or by two of its person and one of its content.
    Two people hardly ever share the first one, so the second one is only compared."""
    if len(hashes) == 1:
        return _argsort(hashes[0])
    first, again, content = hashes
    by = _argsort(content)
    by = by[_argsort(first[by])]
    words, others = first[by], again[by]
    if ((words[1:] == words[:-1]) & (others[1:] != others[:-1])).any():
        return np.lexsort((content, again, first))
    return by


def _argsort(words: Words) -> Ints:
    """(n,): the order of hashes, equal ones as they lie. Two counting sorts by 16 bits each leave
    few of them to compare, and take a third of the time of comparing all."""
    by = np.argsort((words >> np.uint64(32)).astype(np.uint16), kind="stable")
    by = by[np.argsort((words[by] >> np.uint64(48)).astype(np.uint16), kind="stable")]
    upper = words[by] >> np.uint64(32)
    is_same = upper[1:] == upper[:-1]
    alike = np.flatnonzero(np.append(is_same, False) | np.insert(is_same, 0, False))
    by[alike] = by[alike][np.argsort(words[by[alike]], kind="stable")]
    return by


def has_equal(words: Words) -> bool:
    """Whether two hashes (n,) are equal. Each goes to a place by some of its bits, where the last
    one stays: if more are equal to it than there are places, some are equal. The others are looked
    at again. It takes half the time of sorting them."""
    bits = min(max(len(words).bit_length(), 10), 24)
    for shift in (0, (64 - bits) // 2, 64 - bits):
        places = ((words >> np.uint64(shift)) & np.uint64(2**bits - 1)).view(np.int64)
        last, is_taken = np.zeros(2**bits, np.uint64), np.zeros(2**bits, np.bool_)
        last[places], is_taken[places] = words, True
        is_last = last[places] == words
        if np.count_nonzero(is_last) > np.count_nonzero(is_taken):
            return True
        words = words[~is_last]
    return len(np.unique(words)) < len(words)


def moved_rows(connection: duckdb.DuckDBPyConnection) -> NDArray[np.bool_]:
    """(n_rows,) of `moved`, in the table's order."""
    arrays = connection.execute(f"SELECT {MOVED} AS moved FROM {NAME}").fetchnumpy()
    return np.asarray(arrays["moved"], np.bool_)


def person_keys(connection: duckdb.DuckDBPyConnection, contract: Contract) -> list[str]:
    """The key of each person, in the order of the people's numbers."""
    key = quote_name(str(contract.person))
    rows = connection.execute(
        f"SELECT {PERSON}, {PERSON_AGAIN}, any_value(CAST({key} AS VARCHAR)) FROM {NAME} "
        "GROUP BY ALL ORDER BY 1, 2"
    ).fetchall()
    return [str(row[2]) for row in rows]
