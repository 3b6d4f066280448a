"""The SQL of a contract, run at the node:
columns read as their types, and the checks of the data."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from federation.contract import Column, Contract
from federation.expression import quote_name, quote_text
from federation.terminologies import TERMINOLOGIES, Terminology
from federation.text import INVISIBLE, SPACES
from nodes import level_lookup

EXACT_WHOLE = 2**53  # doubles hold every whole number up to it
FIRST_DAY, LAST_DAY = "1900-01-01", "2100-12-31"  # other dates are codes or slips of the pen
YES, NO = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
TOTALS = (  # where an identifier should stand
    "(sous[- ]?|sub[- ]?|grand[- ])?tota(l|ux)( .*)?|général|ensemble|sommes?|sum|moyennes?|mean|"
    "effectifs?"
)
MIDNIGHT = "[0-9]{4}-[0-9]{2}-[0-9]{2}[ T]00:00(:00(\\.0+)?)?(Z|[+-]00(:?00)?)?"
INTEGERS = frozenset(
    [
        "BIGINT",
        "INTEGER",
        "SMALLINT",
        "TINYINT",
        "HUGEINT",
        "UBIGINT",
        "UINTEGER",
        "USMALLINT",
        "UTINYINT",
        "UHUGEINT",
    ]
)


def typed(
    name: str,
    column: Column,
    raw_type: str,
    *,
    whole: bool = False,
    clamp: bool = False,
    text: str = "",
) -> str:
    """The SQL of a raw column read as its type. Missing codes, NaN, dates beyond any life and (with
    `outside: missing`) outliers become NULL; with `clamp`, other outliers move to the nearer end of
    the range.

    `raw_type`: DuckDB's name of the source's type; a number that arrives as a number is not parsed.
    `whole`: the column is known to hold no missing value. `text`: the SQL of a category's canonical
    text, if the relation holds it."""
    if column.kind == "array":
        return _array(name, column, raw_type)
    value = _cast(name, column, raw_type, text)
    if whole:
        return value
    if column.kind == "category":
        return f"CASE WHEN {level_lookup.is_level(value, column.levels)} THEN {value} END"
    if column.kind in ("date", "number"):
        low, high = _ends(column)
        keep = _possible(value) if column.kind == "date" else f"NOT isnan({value})"
        if column.outside == "missing" and column.range:
            keep += f" AND {value} BETWEEN {low} AND {high}"
        if clamp:
            value = f"greatest(least({value}, {high}), {low})"
        return f"CASE WHEN {keep} THEN {value} END"
    return value


def _ends(column: Column) -> tuple[str, str]:
    """The SQL of the ends of a column's range; of what its type can hold, where it has none."""
    if column.kind != "date":
        low, high = column.interval
        return repr(_finite(low)), repr(_finite(high))
    days = column.range or (FIRST_DAY, LAST_DAY)
    return f"DATE '{days[0]}'", f"DATE '{days[1]}'"


def coded(name: str, column: Column, raw_type: str, value: str) -> str:
    """`value`, the SQL of a column as its type; that of a category as the index of its level. A
    text that is a level as it stands is not searched for spaces and odd letters."""
    if column.kind != "category":
        return value
    raw, kind = quote_name(name), level_lookup.type_of(column.levels)
    level = f"CAST({value} AS {kind})"
    if raw_type != "VARCHAR":
        return level
    is_level = level_lookup.is_level(raw, column.levels)
    return f"CASE WHEN {is_level} THEN CAST({raw} AS {kind}) ELSE {level} END"


def written_level(name: str, column: Column) -> str:
    """The SQL of a category's level, if a text is one as it stands."""
    return level_lookup.cast(quote_name(name), column.levels)


def _possible(value: str) -> str:
    return f"{value} BETWEEN DATE '{FIRST_DAY}' AND DATE '{LAST_DAY}'"


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
    if column.kind not in ("number", "date") or column.outside != "refuse" or column.range is None:
        return "FALSE"
    value = _cast(name, column, raw_type)
    low, high = _ends(column)
    is_value = f"NOT isnan({value})" if column.kind == "number" else _possible(value)
    return f"coalesce({is_value} AND {value} NOT BETWEEN {low} AND {high}, FALSE)"


def converted(name: str, column: Column, raw_type: str) -> str:
    """The SQL of a raw column as its type, without the limits of the contract."""
    return _cast(name, column, raw_type)


def _cast(name: str, column: Column, raw_type: str, text: str = "") -> str:
    """NULL where the value cannot be read, or could be read only as another value."""
    raw = _present(name, column, raw_type, text)
    if column.kind == "category":
        return _as_level(raw, column, raw_type)
    if column.type == "integer":
        number = _as_number(raw, raw_type)
        return f"CASE WHEN {number} = floor({number}) OR isnan({number}) THEN {number} END"
    if column.kind == "number":
        return _as_number(raw, raw_type)
    if column.terminology is not None:
        return _as_code(raw, TERMINOLOGIES[column.terminology])
    if column.kind == "boolean":
        return _as_boolean(raw, raw_type)
    if column.kind == "date":
        return _as_date(raw, raw_type)
    return raw


def _as_level(text: str, column: Column, raw_type: str) -> str:
    if _is_number(raw_type) or all(re.fullmatch(r"-?\d+", level) for level in column.levels):
        return f"regexp_replace({text}, '^(-?[0-9]+)\\.0+$', '\\1')"  # 3.0 is the level '3'
    return text


def _as_code(text: str, terminology: Terminology) -> str:
    """The code in its one spelling; NULL where it has not the form of one."""
    code = terminology.sql(text)
    return f"CASE WHEN regexp_full_match({code}, {quote_text(terminology.pattern)}) THEN {code} END"


def _as_number(raw: str, raw_type: str) -> str:
    if raw_type == "DOUBLE":
        return raw
    if _is_number(raw_type) or raw_type == "BOOLEAN":
        return f"CAST({raw} AS DOUBLE)"
    if _is_text(raw_type):  # DuckDB reads 1_000 as 1000, and +-5 as -5
        odd = f"contains(replace({raw}, '+-', '_'), '_')"
        return f"CASE WHEN NOT {odd} THEN TRY_CAST({raw} AS DOUBLE) END"
    return "CAST(NULL AS DOUBLE)"


def _as_boolean(raw: str, raw_type: str) -> str:
    """DuckDB takes every number but 0 for true."""
    if raw_type == "BOOLEAN":
        return raw
    if _is_number(raw_type):
        return f"CASE {raw} WHEN 1 THEN TRUE WHEN 0 THEN FALSE END"
    if not _is_text(raw_type):
        return "CAST(NULL AS BOOLEAN)"
    word = f"lower({raw})"
    is_yes = f"{word} IN ({level_lookup.texts(YES)})"
    is_no = f"{word} IN ({level_lookup.texts(NO)})"
    return f"CASE WHEN {is_yes} THEN TRUE WHEN {is_no} THEN FALSE END"


def _as_date(raw: str, raw_type: str) -> str:
    """A date, or a time at midnight (in UTC, if it has a zone): DuckDB would drop hours, and read
    12-03-24 as the year 12."""
    if raw_type == "DATE":
        return raw
    if raw_type.startswith("TIMESTAMP"):
        day = f"CAST({raw} AS DATE)"
        return f"CASE WHEN CAST({day} AS {raw_type}) = {raw} THEN {day} END"
    if not _is_text(raw_type):
        return "CAST(NULL AS DATE)"
    day = f"TRY_CAST({raw} AS DATE)"
    return (
        f"CASE WHEN CAST({day} AS VARCHAR) = {raw} THEN {day} "
        f"WHEN regexp_full_match({raw}, '{MIDNIGHT}') THEN TRY_CAST(left({raw}, 10) AS DATE) END"
    )


def _is_number(raw_type: str) -> bool:
    return raw_type in INTEGERS or raw_type in ("DOUBLE", "FLOAT") or raw_type.startswith("DECIMAL")


def _is_text(raw_type: str) -> bool:
    return raw_type == "VARCHAR" or raw_type.startswith("ENUM")


def _is_native(column: Column, raw_type: str) -> bool:
    """Does the source deliver the column in its own type, so that no text is parsed?"""
    is_whole = column.type != "integer" or raw_type in INTEGERS
    return not column.missing and (
        (column.kind == "number" and _is_number(raw_type) and is_whole)
        or (column.kind == "boolean" and raw_type == "BOOLEAN")
        or (column.kind == "date" and raw_type == "DATE")
    )


def _present(name: str, column: Column, raw_type: str, text: str = "") -> str:
    """The raw value, or its canonical text if it is a text, which may be given;
    NULL where it is blank or a missing code."""
    raw = quote_name(name)
    if _is_native(column, raw_type):
        return raw
    if (
        column.kind == "number"
        and _is_number(raw_type)
        and not any(map(_is_endless, column.missing))
    ):
        return _but_for(
            raw, [number for code in column.missing if (number := _number(code)) is not None]
        )
    text = text or canonical(raw, raw_type, minus=column.kind == "number")
    is_text = column.kind in ("category", "string") or _is_text(raw_type)
    blank = (
        f"{text} IN ('', {level_lookup.texts(column.missing)})"
        if column.missing
        else f"{text} = ''"
    )
    numbers = [repr(number) for code in column.missing if (number := _number(code)) is not None]
    if numbers and (column.kind == "number" or _is_number(raw_type)):
        blank += f" OR TRY_CAST({raw} AS DOUBLE) IN ({', '.join(numbers)})"  # 999.0 is the code 999
    return f"CASE WHEN {blank} THEN NULL ELSE {text if is_text else raw} END"


def _but_for(raw: str, codes: Sequence[float]) -> str:
    """A number, which no code that is a word can equal; NULL where it is a code of absence."""
    if not codes:
        return raw
    listed = ", ".join(map(repr, codes))
    return f"CASE WHEN TRY_CAST({raw} AS DOUBLE) IN ({listed}) THEN NULL ELSE {raw} END"


def _is_endless(code: str) -> bool:
    """Is the code NaN or infinity, which a number can be?"""
    try:
        return not math.isfinite(float(code))
    except ValueError:
        return False


def _number(code: str) -> float | None:
    try:
        number = float(code)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def canonical(raw: str, raw_type: str, *, minus: bool = False) -> str:
    """The SQL of `federation.text.canonical`; fast if a text is plain ASCII without outer spaces.
    `minus`: the sign U+2212 of a number is a hyphen, too."""
    if raw_type != "VARCHAR":
        raw = f"CAST({raw} AS VARCHAR)"
    sign = ("\u2212", "-") if minus else ("", "")
    letters, spaces = sign[0] + SPACES + INVISIBLE, sign[1] + " " * len(SPACES)
    marks = quote_text(f"[{letters}]")  # translate alone costs three times as much
    moved = f"translate({raw}, {quote_text(letters)}, {quote_text(spaces)})"
    plain = f"CASE WHEN regexp_matches({raw}, {marks}) THEN {moved} ELSE {raw} END"
    unusual = f"{raw} LIKE ' %' OR {raw} LIKE '% ' OR strlen({raw}) <> length({raw})"
    return f"CASE WHEN {unusual} THEN nfc_normalize(trim({plain}, ' ')) ELSE {raw} END"


@dataclass(frozen=True)
class Check:
    """A rule of the contract, and the SQL that counts the rows which break it. `is_clean`: the SQL
    of a condition that holds if no row breaks it, and costs less; empty if there is none."""

    column: str
    rule: str
    sql: str
    is_clean: str = ""


def is_total(key: str) -> str:
    """The condition that an identifier is a word for a sum or a mean. `key`: the SQL of its
    text."""
    return f"regexp_full_match(lower(trim({key})), {quote_text(TOTALS)})"


def checks(
    contract: Contract,
    names: Sequence[str],
    raw_types: Mapping[str, str],
    weight: str | None = None,
    read: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> list[Check]:
    """The checks of the named columns, each an aggregate over the raw table. `weight`: a column
    that holds the number of rows that each row stands for. `read`: the SQL of columns that the
    table holds as their type already, as `with_typed` does. `texts`: that of canonical texts of
    categories that it holds, as `with_text` does."""

    def count(condition: str) -> str:
        return (
            f"count(*) FILTER ({condition})"
            if weight is None
            else f"CAST(coalesce(sum({weight}) FILTER ({condition}), 0) AS BIGINT)"
        )

    def absent(value: str) -> str:
        return count(f"{value} IS NULL") if weight is not None else f"count(*) - count({value})"

    def value_of(name: str) -> str:
        text = (texts or {}).get(name, "")
        return (read or {}).get(name) or typed(
            name, contract.columns[name], raw_types[name], text=text
        )

    listed = [Check("", "rows", "count(*)" if weight is None else count("TRUE"))]
    if contract.person is not None:
        key = value_of(contract.person)
        listed.append(Check(contract.person, "people", f"count(DISTINCT {key})"))
        if contract.columns[contract.person].type == "string":
            listed.append(Check(contract.person, "line of totals", count(is_total(key))))
    for name in names:
        column, raw_type = contract.columns[name], raw_types[name]
        if column.kind == "array":
            listed += _array_checks(name, column, raw_type, count)
            continue
        value, cast = value_of(name), _cast(name, column, raw_type)
        listed.append(Check(name, "missing", absent(value)))
        if (column.kind != "string" or column.terminology) and not _is_native(column, raw_type):
            given = _given(name, column, raw_type, (texts or {}).get(name, ""))
            rule, lost = (
                ("unknown level", value) if column.kind == "category" else ("wrong type", cast)
            )
            listed.append(Check(name, rule, count(f"{given} AND {lost} IS NULL")))
        if column.kind == "number" and (inexact := _inexact(name, raw_type)):
            listed.append(Check(name, "too many digits", count(inexact), _exact(name, raw_type)))
        if column.outside == "refuse" and (column.kind == "number" or _has_days(column)):
            ends = _ends(column)
            outside = count(f"{value} NOT BETWEEN {ends[0]} AND {ends[1]}")
            listed.append(Check(name, "range", outside, _within(value, ends)))
        if column.kind == "date" and column.outside == "refuse":
            days = f"DATE '{FIRST_DAY}'", f"DATE '{LAST_DAY}'"
            impossible = count(f"NOT {_possible(cast)}")
            listed.append(Check(name, "impossible date", impossible, _within(cast, days)))
    return listed


def _within(value: str, ends: tuple[str, str]) -> str:
    """The SQL of a condition: all values are, but for those that are NULL. An engine finds the ends
    of a column in a third of the time of a count."""
    return f"coalesce(min({value}) >= {ends[0]} AND max({value}) <= {ends[1]}, TRUE)"


def with_text(name: str, raw_type: str, relation: str) -> tuple[str, str]:
    """A relation with the canonical text of a category beside its columns, and that column: most of
    the time of a check of few values is that of planning, and checks name the text many times."""
    text = quote_name(f"hdh text {name}")  # no contract column has a space in its name
    canonical_text = canonical(quote_name(name), raw_type)
    return f"(SELECT *, {canonical_text} AS {text} FROM {relation})", text


def as_typed(name: str) -> str:
    return quote_name(f"hdh typed {name}")  # no contract column has a space in its name


def with_typed(
    contract: Contract,
    names: Iterable[str],
    raw_types: Mapping[str, str],
    relation: str,
    beside: Iterable[str] = (),
) -> str:
    """The named raw columns of a relation, and each once more as its type: an engine plans and
    computes a value once that several checks look at. `beside`: further columns, as they are."""
    listed = [
        *beside,
        *(
            sql
            for name in names
            for sql in (
                quote_name(name),
                f"{typed(name, contract.columns[name], raw_types[name])} AS {as_typed(name)}",
            )
        ),
    ]
    return f"(SELECT {', '.join(listed) or '1'} FROM {relation})"


def _given(name: str, column: Column, raw_type: str, text: str = "") -> str:
    """The SQL of a condition, which is not true where the value is missing."""
    value = _present(name, column, raw_type, text)
    if raw_type == "DOUBLE" and column.kind == "number":
        return f"NOT isnan({value})"
    return f"CAST({value} AS VARCHAR) NOT IN ('nan', 'NaN')"


def _has_days(column: Column) -> bool:
    return column.kind == "date" and column.range is not None


def _inexact(name: str, raw_type: str) -> str:
    """The SQL of a condition: the value is a whole number that a double cannot hold. Empty if the
    raw type has no such number."""
    raw = quote_name(name)
    if raw_type in ("BIGINT", "UBIGINT", "HUGEINT", "UHUGEINT") or raw_type.startswith("DECIMAL"):
        back = f"TRY_CAST(CAST({raw} AS DOUBLE) AS {raw_type})"
        return f"abs(CAST({raw} AS DOUBLE)) >= {EXACT_WHOLE} AND {back} IS DISTINCT FROM {raw}"
    if raw_type != "VARCHAR":
        return ""
    back = f"TRY_CAST(TRY_CAST({raw} AS DOUBLE) AS HUGEINT)"
    return (
        f"strlen({raw}) > 15 AND regexp_full_match({raw}, ' *[+-]?[0-9]+(\\.0*)? *') "
        f"AND {back} IS DISTINCT FROM TRY_CAST(regexp_extract({raw}, '[+-]?[0-9]+') AS HUGEINT)"
    )


def _exact(name: str, raw_type: str) -> str:
    """The SQL of a condition that holds if no number is as large as `_inexact` asks; empty for
    texts."""
    if raw_type == "VARCHAR":
        return ""
    raw = quote_name(name)
    return f"coalesce(min({raw}) > -{EXACT_WHOLE} AND max({raw}) < {EXACT_WHOLE}, TRUE)"


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
    """A broken rule. `rows` is shown to the producer only;
    the hub learns the rule and the column."""

    column: str
    rule: str
    rows: int
    remedy: str


def words(findings: Iterable[Finding]) -> str:
    """What leaves the node about broken rules: their names and columns, and no count."""
    rules = {f"{each.rule} ({each.column})" if each.column else each.rule for each in findings}
    return (
        f"the data here break their contract: {', '.join(sorted(rules))}; the producer sees more "
        "with `hdh node check`"
    )


def judge(
    contract: Contract, counts: Mapping[tuple[str, str], int], max_rows: int
) -> list[Finding]:
    """The broken rules, from the counts of `checks` and from `max_rows`, the most rows that a
    person has."""
    rows = counts["", "rows"]
    if rows == 0:
        return [
            Finding("", "empty", 0, "the table has no rows: check the source's path and filter")
        ]
    broken = []
    if max_rows > contract.rows_per_person:
        remedy = (
            f"a person has more than {contract.rows_per_person} row(s): remove the "
            "duplicates, or raise rows_per_person"
        )
        broken.append(Finding(str(contract.person), "duplicate person", max_rows, remedy))
    for (name, rule), count in counts.items():
        if rule in _REMEDY and count:
            broken.append(Finding(name, rule, count, _REMEDY[rule]))
        elif rule == "missing" and (finding := _missing(contract, name, count, rows)):
            broken.append(finding)
    return broken


def _missing(contract: Contract, name: str, count: int, rows: int) -> Finding | None:
    if count and name == contract.person:
        return Finding(name, "person missing", count, "every row needs its person")
    column = contract.columns[name]
    if count == rows and not column.may_be_empty:
        remedy = (
            "the column holds no value: check its name and its missing codes, or declare "
            "that it `may_be_empty`"
        )
        return Finding(name, "all missing", count, remedy)
    if count > column.max_missing * rows:
        remedy = "complete the column or raise max_missing"
        return Finding(name, "too much missing", count, remedy)
    return None


_REMEDY = {
    "wrong type": "correct the values, or list the code among `missing`",
    "impossible date": f"before {FIRST_DAY} or after {LAST_DAY}: correct the dates, or list the "
    "code among `missing`",
    "too many digits": "a number is read with 15 digits: declare an identifier as `type: string`, "
    "or round it",
    "line of totals": "the person is a word such as Total: leave the lines of sums and means out "
    "of the export",
    "wrong shape": "each row needs as many numbers as the `shape` says, as a list or as bytes: "
    "correct the rows, or leave them out",
    "unknown level": "correct the values, add the level to the contract's `levels`, or recode it "
    "in a mapping",
    "range": "correct the values, widen `range`, or set `outside: missing`",
}
