"""The SQL of a mapping: what it may do, and errors that name its line and the remedy.

It reads the tables of `sources:` and nothing else, so that the manifest holds all that its rows
come from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from federation import errors, text
from federation.expression import quote_name, quote_text
from nodes.site import Dataset, TableMapping, located

ADVICE = "write CREATE TEMP TABLE, VIEW or MACRO, and one SELECT at the end"
WHERE = re.compile(r"LINE (\d+):")
NEEDS_CAST = "Cannot compare values of type"
# Their words hold the SQL, and no row.
IN_ITS_WORDS = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException)


@dataclass(frozen=True)
class Statement:
    """`line`: of the file, where it begins."""

    sql: str
    line: int


def write(connection: duckdb.DuckDBPyConnection, dataset: Dataset, sql: str, path: Path) -> int:
    """Writes the contract's columns of the last statement to `path`, by person. How many rows they
    are. From now on the connection opens no other file than `path` and those of the sources."""
    contract = dataset.contract
    name = f"dataset {contract.dataset!r}, its mapping"
    *steps, last = _statements(name, sql)
    _close(connection, dataset.mapping, path)
    statement = last
    try:
        for statement in steps:
            connection.execute(statement.sql)
        statement = last
        connection.execute(f"CREATE TEMP VIEW mapped AS {last.sql}")
        described = connection.execute("DESCRIBE mapped").fetchall()
        _require(name, list(contract.columns), [str(row[0]) for row in described])
        listed = ", ".join(map(quote_name, contract.columns))
        order = f" ORDER BY {quote_name(contract.person)}" if contract.person else ""
        connection.execute(
            f"COPY (SELECT {listed} FROM mapped{order}) TO {quote_text(str(path))} (FORMAT parquet)"
        )
        ((rows,),) = connection.execute(
            f"SELECT count(*) FROM read_parquet({quote_text(str(path))})"
        ).fetchall()
    except duckdb.Error as reason:
        problem = _problem(reason, statement, _tables(connection, dataset.mapping))
        raise errors.DataError(f"{name}: {problem}") from None
    return int(rows)


def _close(connection: duckdb.DuckDBPyConnection, mapping: TableMapping | None, path: Path) -> None:
    """Lets the connection open only `path`, the sources and the engine's own temporary files."""
    home = mapping.home if mapping else path.parent
    sources = mapping.sources.values() if mapping else ()
    places = [Path(located(home, raw.source).split("#")[0]) for raw in sources]
    folders = [place for place in places if place.is_dir()]
    landed = [home / "mapped" / ".landed" / name for name in (mapping.sources if mapping else ())]
    files = [path, *(place for place in places if place.is_file())]
    connection.execute(f"SET allowed_paths = [{_listed(files)}]")
    connection.execute(f"SET allowed_directories = [{_listed([*folders, *landed])}]")
    connection.execute("SET enable_external_access = false")


def _listed(places: Iterable[Path]) -> str:
    return ", ".join(quote_text(str(place)) for place in places)


def _statements(name: str, sql: str) -> list[Statement]:
    """CREATE statements and, at the end, one SELECT."""
    try:
        parsed = duckdb.extract_statements(sql)
    except duckdb.Error as reason:
        raise errors.DataError(f"{name}: {_problem(reason, Statement(sql, 1), ())}") from None
    kinds = [statement.type for statement in parsed]
    create, select = duckdb.StatementType.CREATE, duckdb.StatementType.SELECT
    if not kinds or kinds[-1] != select or any(kind != create for kind in kinds[:-1]):
        raise errors.DataError(f"{name}: {ADVICE}")
    statements, at = [], 0
    for statement in parsed:
        at = sql.find(statement.query.strip(), at)
        stripped = statement.query.strip()
        statements.append(Statement(stripped.rstrip("; \n\t"), sql[: max(at, 0)].count("\n") + 1))
        at = max(at, 0) + len(stripped)
    return statements


# -- errors
def _require(name: str, columns: Sequence[str], given: Sequence[str]) -> None:
    """DataError if the last SELECT lacks a column of the contract, or gives one twice."""
    lacking = [column for column in columns if column not in given]
    if not lacking:
        return
    alike = [
        f"; it gives {text.spelled(other)}: write `AS {quote_name(column)}`"
        for column in lacking[:5]
        for other in given
        if text.folded(other) == text.folded(column)
    ]
    raise errors.DataError(
        f"{name}: its SELECT gives no column {', '.join(map(repr, lacking[:5]))}{''.join(alike)}; "
        f"it gives {', '.join(given[:20])}: add the column to the SELECT, or correct the contract"
    )


def _problem(reason: duckdb.Error, statement: Statement, tables: Sequence[str]) -> str:
    """The engine's first line with the line of the file, and a remedy; or, where its words could
    hold a value, the remedy alone."""
    if isinstance(reason, duckdb.PermissionException):
        return (
            "the SQL opens a file that is not among `sources`: name the file there, and write its "
            "name in the SQL"
        )
    if not isinstance(reason, IN_ITS_WORDS):
        return (
            f"a value does not fit the SQL ({type(reason).__name__}): use TRY_CAST, and look for "
            "the values in the source"
        )
    words = str(reason)
    where = WHERE.search(words)
    line = statement.line + int(where.group(1)) - 1 if where else statement.line
    return f"line {line}: {words.splitlines()[0].rstrip('!')}{_remedy(words, tables)}"


def _remedy(words: str, tables: Sequence[str]) -> str:
    if words.startswith("Catalog Error: Table"):
        return f"; the tables are {', '.join(tables)}"
    if "Function with name in_codes" in words or "Function with name code_set" in words:
        return "; it needs sets of codes: write `codes: {NAME: [I60-I64]}` in node.yaml"
    if NEEDS_CAST in words:
        return (
            "; columns of a text file are texts: declare `types` of the source, or cast the column"
        )
    return ""


def _tables(connection: duckdb.DuckDBPyConnection, mapping: TableMapping | None) -> Sequence[str]:
    created = connection.execute(
        "SELECT table_name FROM duckdb_tables() UNION ALL "
        "SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1"
    ).fetchall()
    sources = list(mapping.sources) if mapping else []
    return [*sources, *(str(row[0]) for row in created if row[0] not in {*sources, "mapped"})]
