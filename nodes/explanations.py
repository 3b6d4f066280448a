"""The rows behind a finding, and their repair:
lines and values, for the producer's own screen only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import duckdb

from federation.contract import Column
from federation.expression import quote_name, quote_text
from nodes import connectors, contract_sql, samples
from nodes.contract_sql import Finding
from nodes.reading import UNREADABLE
from nodes.recognition import Recognised
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
        return "; ".join(
            f"line {each.line} has {each.value!r}, {each.meaning}"
            + (f": write `{each.key}` under `read:`" if each.key else "")
            for each in seen
        )
    shown = "".join(f"; line {line} has {value!r}" for line, value in examples.get(finding, ()))
    column = dataset.contract.columns[finding.column]
    present = counts["", "rows"] - counts[finding.column, "missing"] + finding.rows
    if finding.rule == "wrong type" and finding.rows > WHOLE_COLUMN * present:
        return (
            f"this column does not hold {_plural(column)}: declare its `type`, or map another "
            f"column{shown}"
        )
    return finding.remedy + shown


def _plural(column: Column) -> str:
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
    return {
        finding: [(lines.get(record, record + 1), value) for record, value in line_list]
        for finding, line_list in places.items()
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
