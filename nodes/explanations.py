"""The rows behind a finding, and their repair:
lines and values, for the producer's own screen only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import duckdb

from federation.contract import Column
from federation.expression import quote_name, quote_text
from federation.terminologies import TERMINOLOGIES
from nodes import connectors, contract_sql, samples
from nodes.contract_sql import Finding
from nodes.reading import NO_NOTATION, UNREADABLE
from nodes.recognition import Recognised, Seen
from nodes.site import Dataset, Storage

MAX_SHOWN = 3
SHOWN_RULES = ("wrong type", "unknown level", "impossible date", "range")
WHOLE_COLUMN = 0.5  # a share of the values: above it the column is another one, or of another type
Example = tuple[int, str]  # the line and the value


def explain(
    dataset: Dataset,
    storage: Storage,
    counts: Mapping[tuple[str, str], int],
    findings: Sequence[Finding],
    recognised: Recognised,
) -> list[Finding]:
    """The findings with the lines and values that break them, and the key that would read them,
    if any."""
    concerned = [finding for finding in findings if finding.rule in SHOWN_RULES]
    examples = _examples(dataset, storage, concerned) if concerned else {}
    return [
        replace(finding, remedy=_remedy(dataset, counts, finding, examples, recognised))
        if finding in concerned
        else finding
        for finding in findings
    ]


def _remedy(
    dataset: Dataset,
    counts: Mapping[tuple[str, str], int],
    finding: Finding,
    examples: Mapping[Finding, Sequence[Example]],
    recognised: Recognised,
) -> str:
    seen = recognised.of(finding.column)
    if seen and finding.rule in ("wrong type", "impossible date"):
        return "; ".join(map(_observed, seen))
    alone = set(examples.get(finding, ())) - {(each.line, each.value) for each in seen}
    shown = [f"line {line} has {value!r}" for line, value in sorted(alone)]
    column = dataset.contract.columns[finding.column]
    present = counts["", "rows"] - counts[finding.column, "missing"] + finding.rows
    if finding.rule == "wrong type" and finding.rows > WHOLE_COLUMN * present:
        remedy = (
            f"this column does not hold {_plural(column)}: declare its `type`, name another column"
            " under `read: {columns: ...}`, or convert it in a mapping (docs/mapping.md)"
        )
        return "; ".join([remedy, *shown])
    if finding.rule == "unknown level":
        shown += map(_observed, seen)
    elif column.terminology is not None:
        example = TERMINOLOGIES[column.terminology].example
        shown = [f"a code of {column.terminology} is written as in {example}", *shown]
    return "; ".join([finding.remedy, *shown])


def _observed(seen: Seen) -> str:
    if seen.key:
        return (
            f"line {seen.line} has {seen.value!r}, {seen.meaning}: write `{seen.key}` under `read:`"
        )
    return f"line {seen.line} has {seen.value!r}, {seen.meaning}"


def _plural(column: Column) -> str:
    if column.terminology is not None:
        example = TERMINOLOGIES[column.terminology].example
        return f"codes of {column.terminology}, as in {example}"
    return {"date": "dates", "boolean": "yes and no"}.get(column.kind, f"{column.kind}s")


def _examples(
    dataset: Dataset, storage: Storage, findings: Sequence[Finding]
) -> dict[Finding, Sequence[Example]]:
    connection = connectors.connect(storage)
    names = list(dict.fromkeys(finding.column for finding in findings))
    connectors.open_rows(connection, dataset, names, as_text=True)
    described = connection.execute("DESCRIBE source").fetchall()
    types = {str(row[0]): str(row[1]) for row in described}
    places = {finding: _places(connection, dataset, finding, types) for finding in findings}
    records = [record for line_list in places.values() for record, _ in line_list]
    lines = samples.lines_of(dataset, storage, records)
    written = _as_written(dataset, storage, names, records)
    return {
        finding: [
            (lines.get(record, record + 1), written.get((finding.column, record), value))
            for record, value in line_list
        ]
        for finding, line_list in places.items()
    }


def _as_written(
    dataset: Dataset, storage: Storage, names: Sequence[str], records: Sequence[int]
) -> dict[tuple[str, int], str]:
    """By column and record, the texts of the source before any `read:` key is applied."""
    plain = dataset.read.model_copy(update=NO_NOTATION)
    if plain == dataset.read or not records:
        return {}
    connection = connectors.connect(storage)
    connectors.open_rows(connection, replace(dataset, read=plain), names, as_text=True)
    listed = ", ".join(f"CAST({quote_name(name)} AS VARCHAR)" for name in names)
    rows = connection.execute(
        f"SELECT * FROM (SELECT row_number() OVER () - 1 AS record, {listed} FROM source) "
        f"WHERE record IN ({', '.join(map(str, records))})"
    ).fetchall()
    return {
        (name, int(record)): str(value)
        for record, *values in rows
        for name, value in zip(names, values, strict=True)
    }


def _places(
    connection: duckdb.DuckDBPyConnection,
    dataset: Dataset,
    finding: Finding,
    types: Mapping[str, str],
) -> list[tuple[int, str]]:
    """The first records, counted from 0, that break the rule, each with another value."""
    name = finding.column
    column, raw_type = dataset.contract.columns[name], types[name]
    raw = contract_sql.canonical(quote_name(name), raw_type)
    codes = ", ".join(map(quote_text, ("", *column.missing)))
    if finding.rule == "range":
        broken = contract_sql.outside(name, column, raw_type)
    else:
        broken = f"{contract_sql.typed(name, column, raw_type)} IS NULL AND {raw} NOT IN ({codes})"
    rows = connection.execute(
        f"SELECT min(record), value FROM "
        f"(SELECT row_number() OVER () - 1 AS record, {raw} AS value, {broken} AS is_broken "
        f"FROM source) WHERE is_broken GROUP BY value ORDER BY 1 LIMIT {MAX_SHOWN}"
    ).fetchall()
    return [(int(record), str(value).removeprefix(UNREADABLE)) for record, value in rows]
