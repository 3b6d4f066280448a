"""The grammar of expressions: tokens, precedence and types, by recursive descent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from functools import reduce
from operator import or_
from typing import Any

from federation import intervals, limits, terminologies
from federation.expression import truth
from federation.expression.terms import (
    ColumnType,
    ExpressionError,
    Piece,
    Term,
    UnknownColumnError,
    quote_name,
    quote_text,
)
from federation.expression.truth import Truth
from federation.intervals import Interval

MAX_DEPTH = 50  # of parentheses, signs, powers and negations
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)"
    r"|(?P<string>'(?:[^']|'')*'|\"[^\"]*\")|(?P<name>[^\W\d]\w*)"
    r"|(?P<quoted>`[^`]+`)|(?P<op>\*\*|<=|>=|!=|<>|==|[-+*/^%=<>(),]))"
)
# Signs of other languages, the longer ones first, and what is written here.
_OF_OTHERS = {"&&": "and", "&": "and", "||": "or", "|": "or", "~": "not", "!": "not"}
_COMPARE = {"=": "=", "==": "=", "!=": "<>", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_WORDS = {"and", "or", "not", "in", "between", "true", "false", "is"}
Function = Callable[["Reader", str, list[Term]], Term]


@dataclass
class Reader:
    """Recursive descent over the tokens of an expression. `functions`: by lower-case name."""

    text: str
    columns: Mapping[str, ColumnType]
    functions: Mapping[str, Function]
    tokens: list[tuple[str, str]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    pieces: list[Piece] = field(default_factory=list)
    at: int = 0
    depth: int = 0

    def __post_init__(self) -> None:
        if len(self.text) > limits.MAX_EXPRESSION:
            raise ExpressionError(
                f"the expression is longer than {limits.MAX_EXPRESSION:,} characters; derive a"
                " column first"
            )
        position = 0
        while self.text[position:].strip():
            match = _TOKEN.match(self.text, position)
            if match is None:
                rest = self.text[position:].strip()
                culprit = next((sign for sign in _OF_OTHERS if rest.startswith(sign)), rest[0])
                remedy = (
                    f"write `{_OF_OTHERS[culprit]}`"
                    if culprit in _OF_OTHERS
                    else "see docs/coordinator.md for the expressions"
                )
                raise ExpressionError(f"cannot read {culprit!r} in {self.text!r}; {remedy}")
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
            culprit = self.peek()[1] or "the end"
            raise ExpressionError(f"expected {wanted!r} but found {culprit!r} in {self.text!r}")

    def expect_end(self) -> None:
        if self.peek()[0] != "end":
            raise ExpressionError(
                f"cannot read {self.peek()[1]!r} after a complete expression in {self.text!r}"
            )

    # -- grammar, loosest first
    def disjunction(self) -> Term:
        with self.deeper():
            left = self.conjunction()
            while self.take("or"):
                left = self.logical("OR", left, self.conjunction())
        return left

    @contextmanager
    def deeper(self) -> Iterator[None]:
        """Around all that an expression can nest, which a text of one repeated character would nest
        deeper than Python's stack."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ExpressionError(
                f"{self.text!r} is nested more than {MAX_DEPTH} deep; derive a column first"
            )
        yield
        self.depth -= 1

    def conjunction(self) -> Term:
        left = self.negation()
        while self.take("and"):
            left = self.logical("AND", left, self.negation())
        return left

    def negation(self) -> Term:
        if self.take("not"):
            with self.deeper():
                term = self.negation()
            sql = f"(NOT {self.boolean(term)})"
            return Term(sql, "boolean", (0, 1), shape=term.shape, truth=~term.truth)
        return self.comparison()

    def comparison(self) -> Term:
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

    def sum(self) -> Term:
        left = self.product()
        while operator := self.take("+", "-"):
            left = self.arithmetic(operator, left, self.product())
        return left

    def product(self) -> Term:
        left = self.sign()
        while operator := self.take("*", "/", "%"):
            left = self.arithmetic(operator, left, self.sign())
        return left

    def sign(self) -> Term:
        if self.take("-"):
            with self.deeper():
                term = self.number(self.sign())
            shape: Any = "linear" if term.shape == "scaled" else term.shape
            interval = (-term.interval[1], -term.interval[0])
            whole = term.is_whole
            return Term(f"(-{term.sql})", "number", interval, shape=shape, is_whole=whole)
        return self.power()

    def power(self) -> Term:
        base = self.atom()
        if self.take("^", "**"):
            with self.deeper():
                exponent = self.number(self.sign())
            low, high = exponent.interval
            if low != high:
                raise ExpressionError(
                    f"the exponent in {self.text!r} must be a number, as in `age ^ 2`"
                )
            base = self.number(base)
            sql = f"pow({base.sql}, {exponent.sql})"
            return self.derived(Term(sql, "number", intervals.power(base.interval, low)), base)
        return base

    def atom(self) -> Term:
        if self.take("("):
            term = self.disjunction()
            self.expect(")")
            return term
        kind, token = self.peek()
        self.at += 1
        if kind == "number":
            value = float(token)
            sql = f"CAST({token} AS DOUBLE)"
            whole = value.is_integer()
            return Term(sql, "number", (value, value), shape="constant", is_whole=whole)
        if kind == "string":
            text = token[1:-1].replace("''", "'") if token[0] == "'" else token[1:-1]
            return Term(quote_text(text), "string", literal=text, shape="constant")
        if kind == "name" and token.lower() in ("true", "false"):
            always = truth.ALWAYS if token.lower() == "true" else truth.NEVER
            return Term(token.upper(), "boolean", (0, 1), shape="constant", truth=always)
        if kind == "name" and self.peek()[1] == "(" and token.lower() not in _WORDS:
            return self.call(token)
        if kind in ("name", "quoted") and token.lower() not in _WORDS:
            return self.column(token.strip("`"))
        if token.lower() == "between":
            raise ExpressionError(
                f"{self.text!r}: write `between` behind a value, as in age between 40 and 60"
            )
        raise ExpressionError(
            f"a value is missing before {token!r} in {self.text!r}"
            if token
            else f"{self.text!r} ends too early"
        )

    def column(self, name: str) -> Term:
        if name not in self.columns:
            raise UnknownColumnError(name, self.columns)
        column = self.columns[name]
        self.names.add(name)
        sql = quote_name(name)
        return Term(
            sql,
            column.kind,
            column.interval,
            column.levels,
            shape="scaled",
            terminology=column.terminology,
            name=name,
            is_whole=column.is_whole,
            truth=column.truth or truth.holds(sql),
        )

    def call(self, name: str) -> Term:
        self.expect("(")
        arguments: list[Term] = []
        while not self.take(")"):
            arguments.append(self.argument(name.lower(), len(arguments)))
            if not self.take(","):
                self.expect(")")
                break
        function = self.functions.get(name.lower())
        if function is None:
            raise ExpressionError(
                f"unknown function {name!r}; the functions are {', '.join(self.functions)}"
            )
        return function(self, name.lower(), arguments)

    def argument(self, function: str, at: int) -> Term:
        try:
            return self.disjunction()
        except UnknownColumnError as unknown:
            if function == "in_codes" and at:
                raise ExpressionError(
                    f"there is no set of codes {unknown.name!r}: name it under `cohort.codes`, or "
                    "write codes in quotes, as in 'I60-I64'"
                ) from None
            if function in ("recode", "starts_with") and at:
                raise ExpressionError(
                    f"{unknown.name!r} in {self.text!r} is a text: put it in quotes"
                ) from None
            raise

    # -- pieces
    def derived(self, term: Term, *of: Term) -> Term:
        """`term`, noted as a piece unless every term that it is derived from is literal."""
        if all(source.is_constant for source in of):
            return replace(term, shape="constant")
        self.pieces.append(Piece("condition" if term.kind == "boolean" else "number", term.sql))
        return term

    def needs(self, condition: str, always: bool, argument: Term) -> None:
        """Notes that a function has no value where `condition` on its argument fails."""
        if not always and not argument.is_constant:
            self.pieces.append(Piece("edge" if argument.shape == "scaled" else "domain", condition))

    # -- types
    def number(self, term: Term) -> Term:
        if term.kind == "boolean":
            sql = f"CAST({term.sql} AS DOUBLE)"
            return Term(sql, "number", (0, 1), shape=term.shape, is_whole=True)
        if term.kind != "number":
            raise ExpressionError(
                f"{self.text!r} does arithmetic on a {term.kind}; compare it instead,"
                " as in `column = 'level'`"
            )
        return term

    def boolean(self, term: Term) -> str:
        if term.kind != "boolean":
            raise ExpressionError(
                f"{self.text!r} needs a yes-or-no condition where it has a {term.kind}"
            )
        return term.sql

    def logical(self, operator: str, left: Term, right: Term) -> Term:
        sql = f"({self.boolean(left)} {operator} {self.boolean(right)})"
        both = left.truth & right.truth if operator == "AND" else left.truth | right.truth
        return self.derived(Term(sql, "boolean", (0, 1), truth=both), left, right)

    def arithmetic(self, operator: str, left: Term, right: Term) -> Term:
        if operator == "-" and "date" in (left.kind, right.kind):
            left, right = self.as_kind(left, right), self.as_kind(right, left)
        if left.kind == right.kind == "date" and operator == "-":
            between = intervals.combine("-", left.interval, right.interval)
            sql = f"CAST({left.sql} - {right.sql} AS DOUBLE)"
            return self.derived(Term(sql, "number", between, is_whole=True), left, right)
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
        is_whole = left.is_whole and right.is_whole and operator != "/"
        term = Term(sql, "number", interval, shape=shape, is_whole=is_whole)
        return term if shape != "made" else self.derived(term, left, right)

    def compare(self, left: Term, operator: str, right: Term) -> Term:
        if operator not in ("=", "<>") and (left.terminology or right.terminology):
            raise ExpressionError(self.no_order(left, right))
        if left.literal is not None and right.literal is None:
            left, right = right, self.as_kind(left, right)
            operator = _MIRRORED.get(operator, operator)
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
        sql = f"({left.sql} {operator} {right.sql})"
        term = Term(sql, "boolean", (0, 1), truth=_compared(left, operator, right))
        if _is_certain(operator, left.interval, right.interval):
            return replace(term, shape="constant")
        return self.derived(term, left, right)

    def no_order(self, left: Term, right: Term) -> str:
        code = next((term for term in (left, right) if term.terminology), None)
        if code is None:
            return f"{self.text!r} orders a {left.kind}, which has no order; use = or in"
        return (
            f"{self.text!r} orders the codes of {code.name!r}, which have no order; use "
            f"in_codes({code.name}, 'FIRST-LAST') or starts_with({code.name}, 'BEGINNING')"
        )

    def as_kind(self, term: Term, other: Term) -> Term:
        """Gives a quoted literal the type of the value that it is compared with, and refuses an
        unknown level."""
        if term.literal is None:
            return term
        if other.kind == "category":
            if term.literal not in other.levels:
                raise ExpressionError(
                    f"unknown level {term.literal!r}; the levels are {', '.join(other.levels)}"
                )
            return Term(term.sql, "category", literal=term.literal, shape="constant")
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
            return Term(f"DATE '{day.isoformat()}'", "date", days, shape="constant")
        if other.terminology is not None:
            code = self.code(term, other)
            return Term(quote_text(code), "string", literal=code, shape="constant")
        return term

    def code(self, term: Term, of: Term) -> str:
        """The text of a literal, as the whole codes of a column are spelled."""
        spelled = self.prefix(term, of)
        terminology = terminologies.TERMINOLOGIES[str(of.terminology)]
        if not terminology.is_code(spelled):
            raise ExpressionError(
                f"{term.literal!r} is the beginning of a code of {of.terminology}, and no code: "
                f"write starts_with({of.name}, {term.literal!r})"
            )
        return spelled

    def prefix(self, term: Term, of: Term) -> str:
        """The text of a literal, as the codes or levels of a column are spelled."""
        if term.literal is None:
            raise ExpressionError(
                f"{self.text!r} needs a code in quotes, as in starts_with(diagnosis, 'I21')"
            )
        terminology = terminologies.TERMINOLOGIES.get(of.terminology or "")
        if terminology is None:
            return term.literal
        spelled = terminology.spelled(term.literal)
        if not terminology.is_prefix(spelled):
            raise ExpressionError(
                f"{term.literal!r} is no code of {of.terminology}; write it as in "
                f"'{terminology.example}'"
            )
        return spelled

    def membership(self, left: Term, negated: bool) -> Term:
        self.expect("(")
        options = [self.sum()]
        while self.take(","):
            options.append(self.sum())
        self.expect(")")
        noted = len(self.pieces)  # a list is one condition, not as many as it has members
        compared = [self.compare(left, "=", option) for option in options]
        del self.pieces[noted:]
        either = " OR ".join(each.sql for each in compared)
        among = reduce(or_, (each.truth for each in compared))
        sql = f"(NOT ({either}))" if negated else f"({either})"
        term = Term(sql, "boolean", (0, 1), truth=~among if negated else among)
        return self.derived(term, left, *options)

    def between(self, left: Term, negated: bool) -> Term:
        """Both ends count."""
        low = self.sum()
        self.expect("and")
        high = self.sum()
        both = self.logical("AND", self.compare(left, ">=", low), self.compare(left, "<=", high))
        return replace(both, sql=f"(NOT {both.sql})", truth=~both.truth) if negated else both


def _shape(operator: str, left: Term, right: Term) -> Any:
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


def _remedy(left: Term, right: Term) -> str:
    """What to write where a code or a day without quotes was read as a number, or a number with
    quotes as a text."""
    kinds = {left.kind, right.kind}
    words = [_QUOTES[kind] for kind in kinds & _QUOTES.keys() if "number" in kinds]
    return f"; {words[0]}" if words else ""


def _compared(left: Term, operator: str, right: Term) -> Truth:
    """Of which values a comparison is true. That of two columns is known by their difference."""
    if left.kind == "boolean":
        alike = (left.truth & right.truth) | (~left.truth & ~right.truth)
        return alike if operator == "=" else ~alike
    if left.kind in ("category", "string"):
        return _same_text(left, operator, right)
    if left.is_constant and not right.is_constant:
        left, right, operator = right, left, _MIRRORED.get(operator, operator)
    (value, other), day = right.interval, left.day
    if right.is_constant and value == other and day is not None:
        years = truth.days_of_years(truth.compared(operator, value))
        return truth.lies_in(day.sql, day.values, years)
    if right.is_constant and value == other:
        return truth.lies_in(left.sql, left.values, truth.compared(operator, value))
    if left.sql > right.sql:
        left, right, operator = right, left, _MIRRORED.get(operator, operator)
    is_same = left.sql == right.sql
    between = (0, 0) if is_same else intervals.combine("-", left.interval, right.interval)
    is_whole = left.values.is_whole and right.values.is_whole
    values = truth.numbers(between, is_whole=is_whole)
    return truth.lies_in(f"{left.sql} - {right.sql}", values, truth.compared(operator, 0.0))


def _same_text(left: Term, operator: str, right: Term) -> Truth:
    if right.literal is not None:
        ranges = truth.compared("=", right.literal)
        same = truth.lies_in(left.sql, left.values, ranges)
    else:
        same = truth.holds(" = ".join(sorted((left.sql, right.sql))))
    return same if operator == "=" else ~same


def _is_certain(operator: str, a: Interval, b: Interval) -> bool:
    """Whether the contract's ranges alone decide a comparison of numbers."""
    above, below = a[0] - b[1], b[0] - a[1]  # how far a lies above b at least, and below it
    if operator in ("<", ">="):
        return above >= 0 or below > 0
    if operator in ("<=", ">"):
        return above > 0 or below >= 0
    return above > 0 or below > 0
