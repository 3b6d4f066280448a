"""Checked expressions over contract columns: the only language in which a study speaks about rows.

`disease = 'diabetes'`, `age >= 18 and not missing(size)`, `log(dose / weight)`, `sex in ('f', 'x')`

This module parses an expression, types it against the columns, and compiles it to SQL in which it
quotes every name and literal. Nothing that a study writes is executed as written.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Literal, Protocol

from federation import intervals, terminologies
from federation.intervals import EVERYTHING, Interval

Kind = Literal["number", "boolean", "category", "string", "date", "array"]


class ColumnType(Protocol):
    """What an expression needs to know of a column."""

    @property
    def kind(self) -> Kind: ...
    @property
    def interval(self) -> Interval: ...
    @property
    def levels(self) -> tuple[str, ...]: ...
    @property
    def terminology(self) -> str | None: ...


@dataclass(frozen=True)
class Piece:
    """A part of an expression that can set people apart, for the rules of disclosure in exact mode.

    `condition`: a yes-or-no value that a study writes. `domain`: true where a function has a value,
    so that the people outside are missing. `edge`: the same for a bare column, whose values the
    study did not make. `number`: a value that arithmetic makes; what is linear in a single column
    is none. `influence`: true of the people for whom one column could change the value
    of a whole expression."""

    kind: Literal["condition", "domain", "edge", "number", "influence"]
    sql: str


@dataclass(frozen=True)
class Expression:
    """A typed expression: its SQL, the interval of its values, and its pieces, including the whole
    expression. `never`: by the contract's ranges, a condition that no row meets."""

    text: str
    sql: str
    kind: Kind
    interval: Interval
    levels: tuple[str, ...]
    names: frozenset[str]
    pieces: tuple[Piece, ...] = ()
    never: bool = False


class ExpressionError(ValueError):
    """The message names the culprit and the remedy; the caller adds the file and the line."""


class UnknownColumnError(ExpressionError):
    """`name` is no column."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        super().__init__(f"unknown column {name!r}; the columns are {', '.join(list(known)[:20])}")


def compile(text: str, columns: Mapping[str, ColumnType]) -> Expression:
    reader = _Reader(text, columns)
    term = reader.disjunction()
    reader.expect_end()
    names, pieces = frozenset(reader.names), tuple(dict.fromkeys(reader.pieces))
    return Expression(
        text, term.sql, term.kind, term.interval, term.levels, names, pieces, term.never
    )


_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)"
    r"|(?P<string>'(?:[^']|'')*'|\"[^\"]*\")|(?P<name>[^\W\d]\w*)"
    r"|(?P<quoted>`[^`]+`)|(?P<op>\*\*|<=|>=|!=|<>|==|[-+*/^%=<>(),]))"
)
_COMPARE = {"=": "=", "==": "=", "!=": "<>", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_WORDS = {"and", "or", "not", "in", "between", "true", "false", "is"}


@dataclass(frozen=True)
class _Term:
    sql: str
    kind: Kind
    interval: Interval = EVERYTHING
    levels: tuple[str, ...] = ()
    literal: str | None = (
        None  # the text of a quoted literal, until it is compared with a category or a date
    )
    shape: Literal["constant", "scaled", "linear", "made"] = "made"
    terminology: str | None = None
    never: bool = False  # a condition that no row fulfils, by the contract's ranges
    name: str = ""  # of a column

    @property
    def is_constant(self) -> bool:
        return self.shape == "constant"


@dataclass
class _Reader:
    """Recursive descent over the tokens of one expression. A term's `shape` says how it was made:
    of literals alone, a column times a literal, linear in a column, or in another way."""

    text: str
    columns: Mapping[str, ColumnType]
    tokens: list[tuple[str, str]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    pieces: list[Piece] = field(default_factory=list)
    at: int = 0
    depth: int = 0

    def __post_init__(self) -> None:
        if len(self.text) > 2000:
            raise ExpressionError(
                "the expression is longer than 2,000 characters; derive a column first"
            )
        position = 0
        while self.text[position:].strip():
            match = _TOKEN.match(self.text, position)
            if match is None:
                culprit = self.text[position:].strip()[0]
                raise ExpressionError(
                    f"cannot read {culprit!r} in {self.text!r};"
                    " see docs/coordinator.md for the expressions"
                )
            self.tokens.append((str(match.lastgroup), match.group(str(match.lastgroup))))
            position = match.end()

    # -- tokens
    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def take(self, *wanted: str) -> str | None:
        kind, token = self.peek()
        word = token.lower() if kind == "name" else token
        if kind in ("op", "name") and word in wanted:
            self.at += 1
            return word
        return None

    def expect(self, wanted: str) -> None:
        if self.take(wanted) is None:
            found = self.peek()[1] or "the end"
            raise ExpressionError(f"expected {wanted!r} but found {found!r} in {self.text!r}")

    def expect_end(self) -> None:
        if self.peek()[0] != "end":
            raise ExpressionError(
                f"cannot read {self.peek()[1]!r} after a complete expression in {self.text!r}"
            )

    # -- grammar, loosest first
    def disjunction(self) -> _Term:
        self.depth += 1
        if self.depth > 50:
            raise ExpressionError(
                f"{self.text!r} is nested more than 50 deep; derive a column first"
            )
        left = self.conjunction()
        while self.take("or"):
            left = self.logical("OR", left, self.conjunction())
        self.depth -= 1
        return left

    def conjunction(self) -> _Term:
        left = self.negation()
        while self.take("and"):
            left = self.logical("AND", left, self.negation())
        return left

    def negation(self) -> _Term:
        if self.take("not"):
            self.depth += 1
            term = self.negation()
            self.depth -= 1
            return _Term(f"(NOT {self.boolean(term)})", "boolean", (0, 1), shape=term.shape)
        return self.comparison()

    def comparison(self) -> _Term:
        left = self.sum()
        negated = (
            self.peek()[1].lower() == "not"
            and self.at + 1 < len(self.tokens)
            and self.tokens[self.at + 1][1].lower() in ("in", "between")
        )
        if negated:
            self.take("not")
        if self.take("in"):
            return self.membership(left, negated)
        if self.take("between"):
            return self.between(left, negated)
        operator = self.take(*_COMPARE)
        if operator is None:
            return left
        return self.compare(left, _COMPARE[operator], self.sum())

    def sum(self) -> _Term:
        left = self.product()
        while operator := self.take("+", "-"):
            left = self.arithmetic(operator, left, self.product())
        return left

    def product(self) -> _Term:
        left = self.sign()
        while operator := self.take("*", "/", "%"):
            left = self.arithmetic(operator, left, self.sign())
        return left

    def sign(self) -> _Term:
        if self.take("-"):
            term = self.number(self.sign())
            shape: Any = "linear" if term.shape == "scaled" else term.shape
            interval = (-term.interval[1], -term.interval[0])
            return _Term(f"(-{term.sql})", "number", interval, shape=shape)
        return self.power()

    def power(self) -> _Term:
        base = self.atom()
        if self.take("^", "**"):
            exponent = self.number(self.sign())
            low, high = exponent.interval
            if low != high:
                raise ExpressionError(
                    f"the exponent in {self.text!r} must be a number, as in `age ^ 2`"
                )
            base = self.number(base)
            sql = f"pow({base.sql}, {exponent.sql})"
            return self.made(_Term(sql, "number", intervals.power(base.interval, low)), base)
        return base

    def atom(self) -> _Term:
        if self.take("("):
            term = self.disjunction()
            self.expect(")")
            return term
        kind, token = self.peek()
        self.at += 1
        if kind == "number":
            value = float(token)
            sql = f"CAST({token} AS DOUBLE)"
            return _Term(sql, "number", (value, value), shape="constant")
        if kind == "string":
            text = token[1:-1].replace("''", "'") if token[0] == "'" else token[1:-1]
            return _Term(quote_text(text), "string", literal=text, shape="constant")
        if kind == "name" and token.lower() in ("true", "false"):
            return _Term(token.upper(), "boolean", (0, 1), shape="constant")
        if kind == "name" and self.peek()[1] == "(" and token.lower() not in _WORDS:
            return self.call(token)
        if kind in ("name", "quoted") and token.lower() not in _WORDS:
            return self.column(token.strip("`"))
        raise ExpressionError(
            f"a value is missing before {token!r} in {self.text!r}"
            if token
            else f"{self.text!r} ends too early"
        )

    def column(self, name: str) -> _Term:
        if name not in self.columns:
            raise UnknownColumnError(name, self.columns)
        column = self.columns[name]
        self.names.add(name)
        return _Term(
            quote_name(name),
            column.kind,
            column.interval,
            column.levels,
            shape="scaled",
            terminology=column.terminology,
            name=name,
        )

    def call(self, name: str) -> _Term:
        self.expect("(")
        arguments = []
        while not self.take(")"):
            arguments.append(self.disjunction())
            if not self.take(","):
                self.expect(")")
                break
        function = _FUNCTIONS.get(name.lower())
        if function is None:
            raise ExpressionError(
                f"unknown function {name!r}; the functions are {', '.join(_FUNCTIONS)}"
            )
        return function(self, name.lower(), arguments)

    # -- pieces
    def made(self, term: _Term, *of: _Term) -> _Term:
        """`term`, noted as a piece unless all that it is made `of` is literal."""
        if all(one.is_constant for one in of):
            return replace(term, shape="constant")
        self.pieces.append(Piece("condition" if term.kind == "boolean" else "number", term.sql))
        return term

    def needs(self, condition: str, always: bool, argument: _Term) -> None:
        """Notes that a function has no value where `condition` on its argument fails."""
        if not always and not argument.is_constant:
            self.pieces.append(Piece("edge" if argument.shape == "scaled" else "domain", condition))

    # -- types
    def number(self, term: _Term) -> _Term:
        if term.kind == "boolean":
            return _Term(f"CAST({term.sql} AS DOUBLE)", "number", (0, 1), shape=term.shape)
        if term.kind != "number":
            raise ExpressionError(
                f"{self.text!r} does arithmetic on a {term.kind}; compare it instead,"
                " as in `column = 'level'`"
            )
        return term

    def boolean(self, term: _Term) -> str:
        if term.kind != "boolean":
            raise ExpressionError(
                f"{self.text!r} needs a yes-or-no condition where it has a {term.kind}"
            )
        return term.sql

    def logical(self, operator: str, left: _Term, right: _Term) -> _Term:
        sql = f"({self.boolean(left)} {operator} {self.boolean(right)})"
        never = left.never or right.never if operator == "AND" else left.never and right.never
        return self.made(_Term(sql, "boolean", (0, 1), never=never), left, right)

    def arithmetic(self, operator: str, left: _Term, right: _Term) -> _Term:
        if operator == "-" and "date" in (left.kind, right.kind):
            left, right = self.as_kind(left, right), self.as_kind(right, left)
        if left.kind == right.kind == "date" and operator == "-":
            between = intervals.combine("-", left.interval, right.interval)
            days = _Term(f"CAST({left.sql} - {right.sql} AS DOUBLE)", "number", between)
            return self.made(days, left, right)
        left, right = self.number(left), self.number(right)
        shape = _shape(operator, left, right)
        if operator in "/%":
            low, high = right.interval
            self.needs(f"({right.sql} <> 0)", not low <= 0 <= high, right)
            sql = f"({left.sql} {operator} nullif({right.sql}, 0))"
            interval = intervals.quotient(left.interval, right.interval, operator)
        else:
            sql = f"({left.sql} {operator} {right.sql})"
            interval = intervals.combine(operator, left.interval, right.interval)
        term = _Term(sql, "number", interval, shape=shape)
        return term if shape != "made" else self.made(term, left, right)

    def compare(self, left: _Term, operator: str, right: _Term) -> _Term:
        if left.literal is not None and right.literal is None:
            left, right = right, self.as_kind(left, right)
            operator = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(operator, operator)
        else:
            right = self.as_kind(right, left)
        if "boolean" in (left.kind, right.kind) and "number" in (left.kind, right.kind):
            left, right = self.number(left), self.number(right)
        if left.kind != right.kind:
            raise ExpressionError(
                f"{self.text!r} compares a {left.kind} with a {right.kind}{_remedy(left, right)}"
            )
        if left.kind in ("category", "boolean", "string") and operator not in ("=", "<>"):
            raise ExpressionError(self.no_order(left, right))
        ordered = left.kind in ("number", "date")
        never = ordered and intervals.never(operator, left.interval, right.interval)
        term = _Term(f"({left.sql} {operator} {right.sql})", "boolean", (0, 1), never=never)
        if _is_certain(operator, left.interval, right.interval):
            return replace(term, shape="constant")
        return self.made(term, left, right)

    def no_order(self, left: _Term, right: _Term) -> str:
        code = next((term for term in (left, right) if term.terminology), None)
        if code is None:
            return f"{self.text!r} orders a {left.kind}, which has no order; use = or in"
        return (
            f"{self.text!r} orders the codes of {code.name!r}, which have no order; use "
            f"in_codes({code.name}, 'FIRST-LAST') or starts_with({code.name}, 'BEGINNING')"
        )

    def as_kind(self, term: _Term, other: _Term) -> _Term:
        """Gives a quoted literal the type of the value that it is compared with, and refuses an
        unknown level."""
        if term.literal is None:
            return term
        if other.kind == "category":
            if term.literal not in other.levels:
                raise ExpressionError(
                    f"unknown level {term.literal!r}; the levels are {', '.join(other.levels)}"
                )
            return _Term(term.sql, "category", literal=term.literal, shape="constant")
        if other.kind == "date":
            try:
                day = date.fromisoformat(term.literal)
                if day.isoformat() != term.literal:  # 2026-W05-6 and 20260131 are dates of Python
                    raise ValueError
            except ValueError:
                raise ExpressionError(
                    f"{term.literal!r} is not a date; write it as '2026-01-31'"
                ) from None
            days = intervals.of_days(day, day)
            return _Term(f"DATE '{day.isoformat()}'", "date", days, shape="constant")
        if other.terminology is not None:
            return _Term(quote_text(self.prefix(term, other)), "string", shape="constant")
        return term

    def prefix(self, term: _Term, of: _Term) -> str:
        """The text of a literal, as the codes or levels of a column are spelled."""
        if term.literal is None:
            raise ExpressionError(
                f"{self.text!r} needs a code in quotes, as in starts_with(diagnosis, 'I21')"
            )
        known = terminologies.TERMINOLOGIES.get(of.terminology or "")
        if known is None:
            return term.literal
        spelled = known.spelled(term.literal)
        if not known.is_prefix(spelled):
            raise ExpressionError(
                f"{term.literal!r} is no code of {of.terminology}; write it as in '{known.example}'"
            )
        return spelled

    def membership(self, left: _Term, negated: bool) -> _Term:
        self.expect("(")
        options = [self.sum()]
        while self.take(","):
            options.append(self.sum())
        self.expect(")")
        noted = len(self.pieces)  # a list is one condition, not as many as it has members
        compared = [self.compare(left, "=", option) for option in options]
        del self.pieces[noted:]
        either = " OR ".join(each.sql for each in compared)
        never = not negated and all(each.never for each in compared)
        sql = f"(NOT ({either}))" if negated else f"({either})"
        return self.made(_Term(sql, "boolean", (0, 1), never=never), left, *options)

    def between(self, left: _Term, negated: bool) -> _Term:
        """Both ends count."""
        low = self.sum()
        self.expect("and")
        high = self.sum()
        both = self.logical("AND", self.compare(left, ">=", low), self.compare(left, "<=", high))
        return replace(both, sql=f"(NOT {both.sql})", never=False) if negated else both


def quote_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _shape(operator: str, left: _Term, right: _Term) -> Any:
    """Of a sum, product or quotient: whether it is still linear in one column."""
    if left.is_constant and right.is_constant:
        return "constant"
    literal, other = (left, right) if left.is_constant else (right, left)
    if not literal.is_constant or other.shape not in ("scaled", "linear") or operator == "%":
        return "made"
    if operator in "+-":
        return "linear"
    if operator == "/" and literal is left:
        return "made"
    return other.shape if literal.interval[0] > 0 else "linear"


_QUOTES = {
    "category": "put a level in quotes, as in g = '01'",
    "string": "write a number without quotes, and a text in quotes",
    "date": "put a day in quotes, as in '2026-01-31'",
}


def _remedy(left: _Term, right: _Term) -> str:
    """What to write where a code or a day without quotes was read as a number, or a number with
    quotes as a text."""
    kinds = {left.kind, right.kind}
    words = [_QUOTES[kind] for kind in kinds & _QUOTES.keys() if "number" in kinds]
    return f"; {words[0]}" if words else ""


def _is_certain(operator: str, a: Interval, b: Interval) -> bool:
    """Whether the contract's ranges alone decide a comparison of numbers."""
    above, below = a[0] - b[1], b[0] - a[1]  # how far a lies above b at least, and below it
    if operator in ("<", ">="):
        return above >= 0 or below > 0
    if operator in ("<=", ">"):
        return above > 0 or below >= 0
    return above > 0 or below > 0


def _function(
    sql: str, interval: Callable[[Interval], Interval], low: str = "", high: str = ""
) -> Callable[[_Reader, str, list[_Term]], _Term]:
    """`low` and `high`: conditions on the argument, such as `> 0`, outside which the function has
    no value."""

    def apply(reader: _Reader, name: str, arguments: list[_Term]) -> _Term:
        if len(arguments) != 1:
            raise ExpressionError(f"{name}() takes one value, in {reader.text!r}")
        term = reader.number(arguments[0])
        if low:
            always = term.interval[0] > 0 or (low == ">= 0" and term.interval[0] == 0)
            reader.needs(f"({term.sql} {low})", always, term)
        if high:
            reader.needs(f"({term.sql} {high})", term.interval[1] < 700, term)
        return reader.made(_Term(sql.format(term.sql), "number", interval(term.interval)), term)

    return apply


def _missing(reader: _Reader, name: str, arguments: list[_Term]) -> _Term:
    if len(arguments) != 1:
        raise ExpressionError(f"missing() takes one column, in {reader.text!r}")
    return reader.made(_Term(f"({arguments[0].sql} IS NULL)", "boolean", (0, 1)), arguments[0])


def _if(reader: _Reader, name: str, arguments: list[_Term]) -> _Term:
    if len(arguments) != 3:
        raise ExpressionError(f"if() takes a condition and two numbers, in {reader.text!r}")
    yes, no = reader.number(arguments[1]), reader.number(arguments[2])
    hull = (min(yes.interval[0], no.interval[0]), max(yes.interval[1], no.interval[1]))
    sql = f"(CASE WHEN {reader.boolean(arguments[0])} THEN {yes.sql} ELSE {no.sql} END)"
    return reader.made(_Term(sql, "number", hull), *arguments)


def _starts_with(reader: _Reader, name: str, arguments: list[_Term]) -> _Term:
    column, *beginnings = _coded(reader, name, arguments)
    value = f"CAST({column.sql} AS VARCHAR)"
    either = " OR ".join(
        f"starts_with({value}, {quote_text(reader.prefix(each, column))})" for each in beginnings
    )
    return reader.made(_Term(f"({either})", "boolean", (0, 1)), column)


def _in_codes(reader: _Reader, name: str, arguments: list[_Term]) -> _Term:
    """Codes that begin with a code of a range: I64.9 is in I60-I64."""
    column, *sets = _coded(reader, name, arguments)
    value, conditions = f"CAST({column.sql} AS VARCHAR)", []
    for each in sets:
        if each.literal is None:
            raise ExpressionError(
                f"{reader.text!r}: {name}() needs codes in quotes, as in 'I60-I64', or a name of "
                "`cohort.codes`"
            )
        try:
            listed = terminologies.ranges(column.terminology, each.literal)
        except ValueError as problem:
            raise ExpressionError(str(problem)) from None
        conditions += [
            f"left({value}, {len(first)}) BETWEEN {quote_text(first)} AND {quote_text(last)}"
            for first, last in listed
        ]
    return reader.made(_Term(f"({' OR '.join(conditions)})", "boolean", (0, 1)), column)


def _coded(reader: _Reader, name: str, arguments: list[_Term]) -> list[_Term]:
    if len(arguments) < 2 or arguments[0].kind not in ("string", "category"):
        raise ExpressionError(
            f"{name}() takes a column of codes and one code or more, as in {name}(diagnosis, 'I21')"
        )
    return arguments


def _of_dates(
    sql: str, count: int, interval: Callable[..., Interval]
) -> Callable[[_Reader, str, list[_Term]], _Term]:
    def apply(reader: _Reader, name: str, arguments: list[_Term]) -> _Term:
        day = _Term("", "date")
        dates = [reader.as_kind(term, day) for term in arguments]
        if len(dates) != count or any(term.kind != "date" for term in dates):
            raise ExpressionError(f"{name}() takes {count} date(s), in {reader.text!r}")
        value = sql.format(*(term.sql for term in dates))
        made = _Term(value, "number", interval(*(term.interval for term in dates)))
        return reader.made(made, *dates)

    return apply


def _within(reader: _Reader, name: str, arguments: list[_Term]) -> _Term:
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
    return reader.made(_Term(sql, "number", interval), value)


def _group(reader: _Reader, name: str, arguments: list[_Term]) -> _Term:
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
    ends = [f"CAST({cut!r} AS DOUBLE)" for cut in values]
    conditions = [
        f"({value.sql} < {ends[0]})",
        *(f"({value.sql} >= {a} AND {value.sql} < {b})" for a, b in itertools.pairwise(ends)),
        f"({value.sql} >= {ends[-1]})",
    ]
    return _category(reader, dict(zip(conditions, levels, strict=True)), value)


def _category(reader: _Reader, conditions: Mapping[str, str], of: _Term) -> _Term:
    """A category whose levels the study defines: the level of the first condition that holds."""
    by_level: dict[str, list[str]] = {}
    for condition, level in conditions.items():
        by_level.setdefault(level, []).append(condition)
    for listed in by_level.values():
        reader.made(_Term(f"({' OR '.join(listed)})", "boolean", (0, 1)), of)
    cases = "".join(f"WHEN {each} THEN {quote_text(level)} " for each, level in conditions.items())
    return _Term(f"(CASE {cases}END)", "category", levels=tuple(by_level))


def _labels(cuts: list[float]) -> list[str]:
    ends = [f"{cut:.12g}" for cut in cuts]
    middle = [f"{low}-<{high}" for low, high in itertools.pairwise(ends)]
    return [f"<{ends[0]}", *middle, f"{ends[-1]}+"]


def _recode(reader: _Reader, name: str, arguments: list[_Term]) -> _Term:
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


def _pairs(texts: list[_Term]) -> list[tuple[_Term, _Term]]:
    return list(zip(texts[::2], texts[1::2], strict=False))


def _identity(reader: _Reader, name: str, arguments: list[_Term]) -> _Term:
    if len(arguments) != 1:
        raise ExpressionError(f"I() takes one value, in {reader.text!r}")
    return reader.number(arguments[0])


# A logarithm or a root outside its domain is missing, not an error that would tell about a row.
_FUNCTIONS: dict[str, Callable[[_Reader, str, list[_Term]], _Term]] = {
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
