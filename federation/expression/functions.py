"""The functions of expressions: each types its arguments, and gives the SQL of its value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping

from federation import intervals, terminologies
from federation.expression import truth
from federation.expression.reader import Function, Reader
from federation.expression.terms import ExpressionError, Term, quote_text
from federation.intervals import Interval


def _function(
    sql: str, interval: Callable[[Interval], Interval], low: str = "", high: str = ""
) -> Function:
    """`low` and `high`: conditions on the argument, such as `> 0`, outside which the function has
    no value."""

    def apply(reader: Reader, name: str, arguments: list[Term]) -> Term:
        if len(arguments) != 1:
            raise ExpressionError(f"{name}() takes one value, in {reader.text!r}")
        term = reader.number(arguments[0])
        if low:
            always = term.interval[0] > 0 or (low == ">= 0" and term.interval[0] == 0)
            reader.needs(f"({term.sql} {low})", always, term)
        if high:
            reader.needs(f"({term.sql} {high})", term.interval[1] < 700, term)
        is_whole = name == "floor" or (name == "abs" and term.is_whole)
        ends = interval(term.interval)
        value = Term(sql.format(term.sql), "number", ends, is_whole=is_whole)
        return reader.derived(value, term)

    return apply


def _missing(reader: Reader, name: str, arguments: list[Term]) -> Term:
    if len(arguments) != 1:
        raise ExpressionError(f"missing() takes one column, in {reader.text!r}")
    (term,) = arguments
    absent = truth.is_missing(term.sql, term.values)
    return reader.derived(Term(f"({term.sql} IS NULL)", "boolean", (0, 1), truth=absent), term)


def _if(reader: Reader, name: str, arguments: list[Term]) -> Term:
    if len(arguments) != 3:
        raise ExpressionError(f"if() takes a condition and two numbers, in {reader.text!r}")
    yes, no = reader.number(arguments[1]), reader.number(arguments[2])
    hull = (min(yes.interval[0], no.interval[0]), max(yes.interval[1], no.interval[1]))
    sql = f"(CASE WHEN {reader.boolean(arguments[0])} THEN {yes.sql} ELSE {no.sql} END)"
    return reader.derived(Term(sql, "number", hull), *arguments)


def _starts_with(reader: Reader, name: str, arguments: list[Term]) -> Term:
    column, *beginnings = _coded(reader, name, arguments)
    value = f"CAST({column.sql} AS VARCHAR)"
    prefixes = [reader.prefix(each, column) for each in beginnings]
    either = " OR ".join(f"starts_with({value}, {quote_text(prefix)})" for prefix in prefixes)
    ranges = [(prefix, prefix) for prefix in prefixes]
    return _begins(reader, column, f"({either})", ranges)


def _begins(reader: Reader, column: Term, sql: str, ranges: Iterable[tuple[str, str]]) -> Term:
    """The condition that a code begins with one between the ends of a range."""
    of = [truth.beginning(first, last) for first, last in ranges]
    within = truth.lies_in(column.sql, column.values, of)
    return reader.derived(Term(sql, "boolean", (0, 1), truth=within), column)


def _in_codes(reader: Reader, name: str, arguments: list[Term]) -> Term:
    """Codes that begin with a code of a range: I64.9 is in I60-I64."""
    column, *sets = _coded(reader, name, arguments)
    value, ranges = f"CAST({column.sql} AS VARCHAR)", list[tuple[str, str]]()
    for each in sets:
        if each.literal is None:
            raise ExpressionError(
                f"{reader.text!r}: {name}() needs codes in quotes, as in 'I60-I64', or a name of "
                "`cohort.codes`"
            )
        try:
            ranges += terminologies.ranges(column.terminology, each.literal)
        except ValueError as problem:
            raise ExpressionError(str(problem)) from None
    conditions = [
        f"left({value}, {len(first)}) BETWEEN {quote_text(first)} AND {quote_text(last)}"
        for first, last in ranges
    ]
    return _begins(reader, column, f"({' OR '.join(conditions)})", ranges)


def _coded(reader: Reader, name: str, arguments: list[Term]) -> list[Term]:
    if len(arguments) < 2 or arguments[0].kind not in ("string", "category"):
        raise ExpressionError(
            f"{name}() takes a column of codes and one code or more, as in {name}(diagnosis, 'I21')"
        )
    return arguments


def _of_dates(sql: str, count: int, interval: Callable[..., Interval]) -> Function:
    def apply(reader: Reader, name: str, arguments: list[Term]) -> Term:
        day = Term("", "date")
        dates = [reader.as_kind(term, day) for term in arguments]
        if len(dates) != count or any(term.kind != "date" for term in dates):
            raise ExpressionError(f"{name}() takes {count} date(s), in {reader.text!r}")
        value = sql.format(*(term.sql for term in dates))
        ends = interval(*(term.interval for term in dates))
        of = dates[0] if name == "year" else None
        return reader.derived(Term(value, "number", ends, is_whole=True, day=of), *dates)

    return apply


def _within(reader: Reader, name: str, arguments: list[Term]) -> Term:
    """A value outside the stated range is missing."""
    if len(arguments) != 3:
        raise ExpressionError(
            f"within() takes a number and the two ends of its range, in {reader.text!r}"
        )
    value, low, high = (reader.number(term) for term in arguments)
    ends = (low.interval[0], high.interval[1])
    if (
        low.interval[0] != low.interval[1]
        or high.interval[0] != high.interval[1]
        or ends[0] >= ends[1]
    ):
        raise ExpressionError(
            f"the range in {reader.text!r} must go from a lower to a higher number, as in "
            "within(x, 0, 10)"
        )
    interval = (max(ends[0], value.interval[0]), min(ends[1], value.interval[1]))
    if interval[0] > interval[1]:
        raise ExpressionError(f"{reader.text!r} leaves no value: the range lies outside all values")
    condition = f"({value.sql} BETWEEN {low.sql} AND {high.sql})"
    reader.needs(condition, interval == value.interval, value)
    sql = f"(CASE WHEN {condition} THEN {value.sql} END)"
    return reader.derived(Term(sql, "number", interval), value)


def _group(reader: Reader, name: str, arguments: list[Term]) -> Term:
    """group(age, 40, 60): the levels <40, 40-<60 and 60+; or the labels that follow the cuts."""
    numbers = [term for term in arguments[1:] if term.literal is None]
    labels = [term.literal for term in arguments[1 + len(numbers) :]]
    cuts = [reader.number(term).interval for term in numbers]
    values = [low for low, high in cuts if low == high]
    if not values or len(values) < len(cuts) or values != sorted(set(values)):
        raise ExpressionError(
            f"group() takes a number and rising cuts, as in group(age, 40, 60), in {reader.text!r}"
        )
    levels = _labels(values) if not labels else [str(label) for label in labels]
    if len(levels) != len(values) + 1 or len(set(levels)) < len(levels):
        raise ExpressionError(
            f"{len(values)} cuts make {len(values) + 1} groups: give so many different labels, or "
            f"none, in {reader.text!r}"
        )
    value = reader.number(arguments[0])
    low, high = value.interval
    if beyond := [cut for cut in values if cut <= low or cut > high]:
        raise ExpressionError(
            f"the cut {beyond[0]:.12g} in {reader.text!r} makes a group in which nobody can be, by "
            f"the range from {low:g} to {high:g}: leave it out"
        )
    ends = [f"CAST({cut!r} AS DOUBLE)" for cut in values]
    conditions = [
        f"({value.sql} < {ends[0]})",
        *(f"({value.sql} >= {a} AND {value.sql} < {b})" for a, b in itertools.pairwise(ends)),
        f"({value.sql} >= {ends[-1]})",
    ]
    return _category(reader, dict(zip(conditions, levels, strict=True)), value)


def _category(reader: Reader, conditions: Mapping[str, str], of: Term) -> Term:
    """A category whose levels the study defines: the level of the first condition that holds."""
    by_level: dict[str, list[str]] = {}
    for condition, level in conditions.items():
        by_level.setdefault(level, []).append(condition)
    for listed in by_level.values():
        reader.derived(Term(f"({' OR '.join(listed)})", "boolean", (0, 1)), of)
    cases = "".join(f"WHEN {each} THEN {quote_text(level)} " for each, level in conditions.items())
    return Term(f"(CASE {cases}END)", "category", levels=tuple(by_level))


def _labels(cuts: list[float]) -> list[str]:
    ends = [f"{cut:.12g}" for cut in cuts]
    middle = [f"{low}-<{high}" for low, high in itertools.pairwise(ends)]
    return [f"<{ends[0]}", *middle, f"{ends[-1]}+"]


def _recode(reader: Reader, name: str, arguments: list[Term]) -> Term:
    """recode(way_out, 'died', 'other', 'moved', 'other'): each level and its new name; the others
    keep theirs."""
    column, *texts = arguments
    if column.kind != "category" or not texts or len(texts) % 2:
        raise ExpressionError(
            f"recode() takes a category, and each level with its new name, in {reader.text!r}"
        )
    named = {str(reader.as_kind(old, column).literal): new.literal for old, new in _pairs(texts)}
    if any(new is None for new in named.values()):
        raise ExpressionError(f"a new name must be a text in quotes, in {reader.text!r}")
    conditions = {
        f"({column.sql} = {quote_text(level)})": str(named.get(level, level))
        for level in column.levels
    }
    return _category(reader, conditions, column)


def _pairs(texts: list[Term]) -> list[tuple[Term, Term]]:
    return list(zip(texts[::2], texts[1::2], strict=False))


def _identity(reader: Reader, name: str, arguments: list[Term]) -> Term:
    if len(arguments) != 1:
        raise ExpressionError(f"I() takes one value, in {reader.text!r}")
    return reader.number(arguments[0])


# A logarithm or a root outside its domain is missing, not an error that would tell about a row.
FUNCTIONS: dict[str, Function] = {
    "log": _function(
        "(CASE WHEN {0} > 0 THEN ln({0}) END)", intervals.monotone(math.log, 0.0), "> 0"
    ),
    "log2": _function(
        "(CASE WHEN {0} > 0 THEN log2({0}) END)", intervals.monotone(math.log2, 0.0), "> 0"
    ),
    "log10": _function(
        "(CASE WHEN {0} > 0 THEN log10({0}) END)", intervals.monotone(math.log10, 0.0), "> 0"
    ),
    "sqrt": _function(
        "(CASE WHEN {0} >= 0 THEN sqrt({0}) END)",
        lambda ends: (0.0, math.sqrt(max(0.0, ends[1]))),
        ">= 0",
    ),
    "exp": _function(
        "(CASE WHEN {0} < 700 THEN exp({0}) END)", intervals.monotone(math.exp), high="< 700"
    ),
    "abs": _function(
        "abs({0})",
        lambda ends: (0.0 if ends[0] <= 0 <= ends[1] else min(map(abs, ends)), max(map(abs, ends))),
    ),
    "floor": _function("floor({0})", lambda ends: (ends[0] - 1, ends[1])),
    "missing": _missing,
    "if": _if,
    "year": _of_dates("CAST(year({0}) AS DOUBLE)", 1, intervals.of_year),
    "month": _of_dates("CAST(month({0}) AS DOUBLE)", 1, lambda days: (1.0, 12.0)),
    "age_at": _of_dates("CAST(date_sub('year', {0}, {1}) AS DOUBLE)", 2, intervals.of_age),
    "starts_with": _starts_with,
    "in_codes": _in_codes,
    "within": _within,
    "group": _group,
    "recode": _recode,
    "i": _identity,
}
