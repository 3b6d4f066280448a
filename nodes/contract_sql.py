"""The SQL of a contract: columns read as their types, and the checks of the data. Runs at the node."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from federation.contract import Column, Contract
from federation.expression import Kind, quote_name, quote_text

SQL_TYPE: Mapping[Kind, str] = {
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "string": "VARCHAR",
    "category": "VARCHAR",
    "array": "BLOB",
}
NUMERIC = frozenset(
    [
        "DOUBLE",
        "FLOAT",
        "BIGINT",
        "INTEGER",
        "SMALLINT",
        "TINYINT",
        "UBIGINT",
        "UINTEGER",
        "USMALLINT",
        "UTINYINT",
        "HUGEINT",
    ]
)
MANY_LEVELS = 8  # above it a lookup is quicker than comparing with one level after the other


def typed(
    name: str, column: Column, raw_type: str, *, whole: bool = False, clamp: bool = False
) -> str:
    """The SQL of a raw column read as its type. Missing codes, NaN and (with `outside: missing`) outliers
    become NULL; with `clamp` other outliers move to the nearer end of the range.

    `raw_type`: DuckDB's name of the source's type; a number that arrives as a number is not parsed.
    `whole`: the column is known to hold no missing value."""
    if column.kind == "array":
        return _array(name, column, raw_type)
    value = _cast(name, column, raw_type)
    if whole:
        return value
    if column.kind == "category" and len(column.levels) > MANY_LEVELS:
        return f"CAST(TRY_CAST({value} AS ENUM({_texts(column.levels)})) AS VARCHAR)"
    if column.kind == "category":
        return f"CASE WHEN {value} IN ({_texts(column.levels)}) THEN {value} END"
    if column.kind == "number":
        low, high = column.interval
        keep = f"NOT isnan({value})"
        if column.outside == "missing" and column.range:
            keep += f" AND {value} BETWEEN {low!r} AND {high!r}"
        if clamp:
            value = f"greatest(least({value}, {_finite(high)!r}), {_finite(low)!r})"
        return f"CASE WHEN {keep} THEN {value} END"
    return value


def _array(name: str, column: Column, raw_type: str) -> str:
    """NULL where the shape differs or an entry is not a number."""
    raw, size = quote_name(name), math.prod(column.shape)
    if raw_type == "BLOB":
        return f"CASE WHEN octet_length({raw}) = {size} THEN {raw} END"
    numbers = f"TRY_CAST({raw} AS FLOAT[])"
    bad = f"list_bool_or(list_transform({numbers}, lambda x: x IS NULL OR isnan(x)))"
    return f"CASE WHEN len({numbers}) = {size} AND NOT {bad} THEN {numbers} END"


def _finite(end: float) -> float:
    return end if math.isfinite(end) else math.copysign(1.7976931348623157e308, end)


def outside(name: str, column: Column, raw_type: str) -> str:
    """The SQL of a condition: would `clamp` move this value?"""
    if column.kind != "number" or column.outside != "refuse" or column.range is None:
        return "FALSE"
    value = _cast(name, column, raw_type)
    low, high = column.range
    return f"coalesce(NOT isnan({value}) AND {value} NOT BETWEEN {low!r} AND {high!r}, FALSE)"


def _cast(name: str, column: Column, raw_type: str) -> str:
    raw = _known(name, column, raw_type)
    if column.kind == "category" and (
        raw_type in NUMERIC or all(re.fullmatch(r"-?\d+", level) for level in column.levels)
    ):
        # 3.0 is the level '3'
        return f"regexp_replace(CAST({raw} AS VARCHAR), '^(-?[0-9]+)\\.0+$', '\\1')"
    if column.kind == "category" and raw_type != "VARCHAR":
        return f"CAST({raw} AS VARCHAR)"
    if raw_type == SQL_TYPE[column.kind]:
        return raw
    return f"TRY_CAST({raw} AS {SQL_TYPE[column.kind]})"


def _is_native(column: Column, raw_type: str) -> bool:
    """Does the source deliver the column in its own type, so that no text is parsed?"""
    return not column.missing and (
        (column.kind == "number" and raw_type in NUMERIC)
        or (column.kind in ("boolean", "date") and raw_type == SQL_TYPE[column.kind])
    )


def _known(name: str, column: Column, raw_type: str) -> str:
    raw = quote_name(name)
    if _is_native(column, raw_type):
        return raw
    text = f"trim(CAST({raw} AS VARCHAR))" if raw_type != "VARCHAR" else f"trim({raw})"
    blank = f"{text} IN ('', {_texts(column.missing)})" if column.missing else f"{text} = ''"
    return f"CASE WHEN {blank} THEN NULL ELSE {raw} END"


def _texts(texts: Iterable[str]) -> str:
    return ", ".join(quote_text(text) for text in texts)


@dataclass(frozen=True)
class Check:
    """A rule of the contract, and the SQL that counts the rows which break it."""

    column: str
    rule: str
    sql: str


def checks(
    contract: Contract,
    names: Sequence[str],
    raw_types: Mapping[str, str],
    weight: str | None = None,
) -> list[Check]:
    """The checks of the named columns, each an aggregate over the raw table. `weight`: a column that holds the
    number of rows for which a row stands."""

    def count(condition: str) -> str:
        return (
            f"count(*) FILTER ({condition})"
            if weight is None
            else f"CAST(coalesce(sum({weight}) FILTER ({condition}), 0) AS BIGINT)"
        )

    listed = [Check("", "rows", count("TRUE"))]
    if contract.person is not None:
        listed.append(
            Check(contract.person, "people", f"count(DISTINCT {quote_name(contract.person)})")
        )
    for name in names:
        column, raw_type = contract.columns[name], raw_types[name]
        if column.kind == "array":
            listed += _array_checks(name, column, raw_type, count)
            continue
        value, cast = typed(name, column, raw_type), _cast(name, column, raw_type)
        listed.append(Check(name, "missing", count(f"{value} IS NULL")))
        if column.kind != "string" and not _is_native(column, raw_type):
            given = (
                f"trim(CAST({_known(name, column, raw_type)} AS VARCHAR)) NOT IN ('', 'nan', 'NaN')"
            )
            rule, lost = (
                ("unknown level", value) if column.kind == "category" else ("wrong type", cast)
            )
            listed.append(Check(name, rule, count(f"{given} AND {lost} IS NULL")))
        if column.kind == "number" and column.outside == "refuse":
            low, high = map(_finite, column.interval)
            listed.append(Check(name, "range", count(f"{value} NOT BETWEEN {low!r} AND {high!r}")))
    return listed


def _array_checks(
    name: str, column: Column, raw_type: str, count: Callable[[str], str]
) -> list[Check]:
    """An array is never missing, since no value could stand for it."""
    value, (low, high) = _array(name, column, raw_type), column.interval
    listed = [
        Check(name, "missing", count("FALSE")),
        Check(name, "wrong shape", count(f"{value} IS NULL")),
    ]
    if raw_type != "BLOB":
        listed.append(
            Check(
                name, "range", count(f"list_min({value}) < {low!r} OR list_max({value}) > {high!r}")
            )
        )
    return listed


@dataclass(frozen=True)
class Finding:
    """A broken rule. `rows` is shown to the producer only; the hub learns the rule and the column."""

    column: str
    rule: str
    rows: int
    remedy: str


def judge(
    contract: Contract, counts: Mapping[tuple[str, str], int], max_rows: int
) -> list[Finding]:
    """The broken rules, from the counts of `checks` and `max_rows`, the largest number of rows of a person."""
    rows = counts["", "rows"]
    if rows == 0:
        return [
            Finding("", "empty", 0, "the table has no rows: check the source's path and filter")
        ]
    broken = []
    if max_rows > contract.rows_per_person:
        broken.append(
            Finding(
                str(contract.person),
                "duplicate person",
                max_rows,
                f"a person has more than {contract.rows_per_person} row(s): remove the duplicates, or "
                "raise rows_per_person",
            )
        )
    for (name, rule), count in counts.items():
        if rule in _REMEDY and count:
            broken.append(Finding(name, rule, count, _REMEDY[rule]))
        elif rule == "missing" and count and name == contract.person:
            broken.append(Finding(name, "person missing", count, "every row needs its person"))
        elif rule == "missing" and count == rows and not contract.columns[name].may_be_empty:
            broken.append(
                Finding(
                    name,
                    "all missing",
                    count,
                    "the column holds no value: check its name and its missing codes, or declare "
                    "that it `may_be_empty`",
                )
            )
        elif rule == "missing" and count > contract.columns[name].max_missing * rows:
            broken.append(
                Finding(name, "too much missing", count, "complete the column or raise max_missing")
            )
    return broken


_REMEDY = {
    "wrong type": "correct the values, or list the code among `missing`",
    "wrong shape": "each row needs as many numbers as the `shape` says, as a list or as bytes: correct the "
    "rows, or leave them out",
    "unknown level": "correct the values, or add the level to the contract's `levels`",
    "range": "correct the values, widen `range`, or set `outside: missing`",
}
