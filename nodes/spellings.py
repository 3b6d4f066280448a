"""Values that differ from a level in their spelling only, shown with the level on the producer's
own screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import duckdb

from federation import text
from federation.contract import Contract
from federation.expression import quote_name
from nodes import contract_sql
from nodes.contract_sql import Finding

MAX_VALUES, MAX_SHOWN = 1000, 3


def explain(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    raw_types: Mapping[str, str],
    findings: Sequence[Finding],
) -> list[Finding]:
    """The findings. The remedy of an unknown level names values that differ from a level in their
    spelling only."""
    return [
        finding
        if finding.rule != "unknown level"
        else replace(
            finding, remedy=finding.remedy + _alike(connection, contract, raw_types, finding)
        )
        for finding in findings
    ]


def _alike(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    raw_types: Mapping[str, str],
    finding: Finding,
) -> str:
    name, column = finding.column, contract.columns[finding.column]
    value = contract_sql.canonical(quote_name(name), raw_types[name])
    level = contract_sql.typed(name, column, raw_types[name])
    rows = connection.execute(
        f"SELECT DISTINCT value FROM (SELECT {value} AS value, {level} AS level FROM source) "
        f"WHERE level IS NULL AND value IS NOT NULL ORDER BY value LIMIT {MAX_VALUES}"
    ).fetchall()
    levels = {bare(level): level for level in column.levels}
    pairs = [(str(row[0]), levels.get(bare(str(row[0])))) for row in rows]
    shown = [
        f"; {text.spelled(value)} is spelled differently from the level {text.spelled(level)}"
        for value, level in pairs
        if level is not None
    ]
    return "".join(shown[:MAX_SHOWN])


def bare(value: str) -> str:
    """A form that is equal for texts that differ in accents, capitals, spaces or leading zeros."""
    bare = text.folded(text.plain(value))
    return bare.lstrip("0") or bare if bare.isdecimal() else bare
