"""Compiles a formula such as `Surv(time, event) ~ age + C(sex) + strata(centre)`, as in R, to the
columns of a design matrix.

formulaic parses the Wilkinson grammar. The factors are contract columns and checked expressions.
The levels of a category come from the contract, so that a node that lacks a level builds the same
columns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

from federation import formula_parser, limits
from federation.expression import ExpressionError
from federation.intervals import Interval, product
from federation.schema import Field, Schema


@dataclass(frozen=True)
class Factor:
    """A number, or one level of a category (then its indicator)."""

    field: Field
    level: int | None = None

    @property
    def interval(self) -> Interval:
        return (0.0, 1.0) if self.level is not None else self.field.interval


@dataclass(frozen=True)
class Term:
    """One design column: the product of its factors; no factor is the intercept."""

    name: str
    factors: tuple[Factor, ...]

    @cached_property
    def interval(self) -> Interval:
        if len(self.factors) == 1:
            return self.factors[0].interval
        return reduce(product, (f.interval for f in self.factors), (1.0, 1.0))


@dataclass(frozen=True)
class Model:
    """A model formula, checked against the schema. `response` holds one field, or those inside
    Surv()."""

    text: str
    survival: bool
    response: tuple[Field, ...]
    terms: tuple[Term, ...]
    intercept: bool
    strata: tuple[Field, ...]
    offset: Field | None

    @property
    def fields(self) -> tuple[Field, ...]:
        covariates = [factor.field for term in self.terms for factor in term.factors]
        offset = [self.offset] if self.offset else []
        return tuple(dict.fromkeys((*self.response, *covariates, *self.strata, *offset)))


_CALL = re.compile(r"^\s*(Surv|strata|offset|C|factor|as\.factor)\s*\((.*)\)\s*$", re.DOTALL)


def compile(text: str, schema: Schema, *, causes: bool = False, eliminates: bool = False) -> Model:
    """`causes`: the last argument of Surv() is a category of causes. `eliminates`: the model never
    writes out the levels of its largest factor, so the limit of columns is that of the others.
    Raises ExpressionError, whose message names the culprit and the remedy."""
    left, right = _parse(text)
    survival, response = _response(left, schema, causes) if left else (False, ())
    columns: list[tuple[Variable, ...]] = []
    strata: list[Field] = []
    offset: Field | None = None
    intercept = False
    for term in right:
        if term == ("1",):
            intercept = True
            continue
        special = [
            match
            for factor in term
            if (match := _CALL.match(factor)) and match[1] in ("strata", "offset")
        ]
        if special and len(term) > 1:
            raise ExpressionError(f"{special[0][0]} cannot be part of an interaction in {text!r}")
        if special and special[0][1] == "strata":
            strata += [_stratum(name, schema) for name in _arguments(special[0][2])]
        elif special:
            offset = _number(special[0][2], schema)
        else:
            columns.append(tuple(_factor(factor, schema) for factor in term))
    explaining = [factor.field.name for term in columns for factor in term]
    explaining += [field.name for field in (*strata, *([offset] if offset else []))]
    for name in explaining:
        refuse_outcome(name, response, schema, where=repr(text))
    return Model(
        text,
        survival,
        response,
        tuple(_design(columns, intercept, _largest(columns) if eliminates else 0)),
        intercept,
        tuple(strata),
        offset,
    )


def outcome_fields(text: str, schema: Schema) -> tuple[Field, ...]:
    """The fields on the left of ~: one, or those inside Surv()."""
    return _response(text, schema, causes=False)[1]


def refuse_outcome(text: str, response: Sequence[Field], schema: Schema, *, where: str) -> None:
    """ExpressionError if the column or expression `text` reads every column from which a field of
    `response` is derived. The start of a (start, stop] row is known beforehand, and is no
    outcome."""
    outcome = response[-2:]
    needed = schema.columns_of(text)
    for field in outcome:
        sources = schema.columns_of(field.name)
        if sources and sources <= needed:
            raise ExpressionError(_made_of_outcome(text, field.name, where, len(outcome) > 1))


def weights(name: str | None, response: Sequence[Field], schema: Schema) -> Field | None:
    """The column of a model's `weights`, if it names one. ExpressionError if it is no number from 0
    on, or is derived from the outcome."""
    if name is None:
        return None
    field = schema.field(name)
    if field.kind != "number" or field.interval[0] < 0:
        raise ExpressionError(
            f"weights: {name!r} must be a number whose contract range starts at 0 or more"
        )
    refuse_outcome(field.name, response, schema, where="`weights`")
    return field


def _made_of_outcome(text: str, outcome: str, where: str, survival: bool) -> str:
    remedy = (
        "for an effect that changes with time, write start-stop rows, Surv(start, stop, event),"
        " each with its value at the time; to compare people by their history up to a time,"
        " use `landmark`"
        if survival
        else "leave it out, or choose another response"
    )
    if text == outcome:
        return f"{text!r} in {where} is the outcome, and cannot explain it: {remedy}"
    return (
        f"{text!r} in {where} is derived from the outcome {outcome!r}, and cannot explain it:"
        f" {remedy}"
    )


def _parse(text: str) -> tuple[str, Sequence[tuple[str, ...]]]:
    if len(text) > limits.MAX_FORMULA:
        raise ExpressionError(
            f"a formula is longer than {limits.MAX_FORMULA:,} characters; shorten it"
        )
    if "|" in text:
        raise ExpressionError(
            f"cannot read {text!r}: it has random effects or several parts (|); leave them out"
        )
    if re.search(r"\(([^()]|\([^()]*\))*\^", text) and re.search(r"I\s*\(", text):
        raise ExpressionError(f"{text!r} has a power `^` inside I(); write `**`, as in I(age ** 2)")
    try:
        _expanded(formula_parser.tree(text))
        parsed = formula_parser.terms(text)
    except (ExpressionError, RecursionError):
        raise ExpressionError(_too_many(text)) from None
    except Exception as reason:
        why = formula_parser.reason(reason)
        raise ExpressionError(f"cannot read the formula {text!r}: {why}") from None
    if re.search(r"~\s*$", text):
        raise ExpressionError(
            f"the formula {text!r} has nothing on the right of ~; write 1 there for an intercept"
            " alone"
        )
    if hasattr(parsed, "rhs"):
        sides = (list(parsed.lhs), list(parsed.rhs))
    else:
        sides = ([], list(getattr(parsed, "root", parsed)))
    if any(not hasattr(term, "factors") for side in sides for term in side) or len(sides[0]) > 1:
        raise ExpressionError(f"cannot read {text!r}: one response, `~`, then the terms")
    if len(sides[1]) > limits.MAX_TERMS:
        raise ExpressionError(_too_many(text))
    left = sides[0][0].factors[0].expr if sides[0] else ""
    return left, [tuple(factor.expr for factor in term.factors) for term in sides[1]]


def _too_many(text: str) -> str:
    return (
        f"{text[:200]!r} writes out to more than {limits.MAX_TERMS} terms;"
        " leave out interactions, or lower the power"
    )


def _expanded(node: Any) -> tuple[int, int]:
    """The largest number of terms to which formulaic would write out a part of a formula, and the
    number of its factors. ExpressionError where that is too many, before any is written out."""
    if not hasattr(node, "operator"):
        return 1, 1
    symbol = node.operator.symbol
    if symbol in ("**", "^"):
        terms, factors = _expanded(node.args[0])
        exponent = str(node.args[1])
        if not exponent.isdecimal() or len(exponent) > 2:
            raise ExpressionError("an exponent of terms is a whole number of two digits at most")
        written: int = terms ** int(exponent)
        return _few(written, factors), factors
    parts = [_expanded(each) for each in node.args]
    factors = sum(each for _, each in parts)
    counts = [each for each, _ in parts]
    if symbol in (":", "in", "*", "/") and len(counts) == 2:
        single = sum(counts) if symbol in ("*", "/") else 0
        return _few(single + counts[0] * counts[1], factors), factors
    return _few(sum(counts), factors), factors


def _few(written: int, factors: int) -> int:
    """The number of different terms among those written out: each is a set of factors."""
    if written > limits.MAX_WRITTEN_OUT:
        raise ExpressionError("too many terms")
    return min(written, 1 << min(factors, 20))


def _arguments(inside: str) -> list[str]:
    """Splits `a, f(b, c), d='x'` at its outer commas."""
    parts, depth, quote = [""], 0, ""
    for character in inside:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        depth += (character == "(") - (character == ")") if not quote else 0
        if character == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _response(text: str, schema: Schema, causes: bool) -> tuple[bool, tuple[Field, ...]]:
    call = _CALL.match(text)
    if not call or call[1] != "Surv":
        return False, (schema.field(text),)
    names = _arguments(call[2])
    if len(names) not in (2, 3):
        raise ExpressionError(f"{text} needs Surv(time, event) or Surv(start, stop, event)")
    *times, event = (schema.field(name) for name in names)
    for time in times:
        if time.kind != "number":
            raise ExpressionError(
                f"{time.name!r} in {text} is a {time.kind}; a time must be a number"
            )
    if causes and event.kind != "category":
        raise ExpressionError(
            f"{event.name!r} in {text} is a {event.kind}; competing risks need a category of the"
            " causes, with a level for no event"
        )
    if not causes and event.kind != "boolean":
        raise ExpressionError(
            f"{event.name!r} in {text} is a {event.kind}; the event must be a yes-or-no column,"
            " which the study may derive"
        )
    return True, (*times, event)


def _stratum(text: str, schema: Schema) -> Field:
    field = schema.field(text)
    if field.kind not in ("category", "boolean"):
        raise ExpressionError(
            f"{text!r} is a {field.kind}; strata need a category or a yes-or-no column"
        )
    return field


def _number(text: str, schema: Schema) -> Field:
    field = schema.field(text)
    if field.kind not in ("number", "boolean"):
        raise ExpressionError(f"{text!r} is a {field.kind} where a number is needed")
    return field


@dataclass(frozen=True)
class Variable:
    """A factor of the formula, before it is expanded into one column per level."""

    field: Field
    reference: int | None  # index of the reference level of a category


def _factor(text: str, schema: Schema) -> Variable:
    call = _CALL.match(text)
    if call and call[1] in ("C", "factor", "as.factor"):
        name, *options = _arguments(call[2])
        field = schema.field(name)
        if field.kind == "boolean":
            return Variable(field, None)
        if field.kind != "category":
            raise ExpressionError(
                f"{name!r} is a {field.kind}; C() needs a category of the contract"
            )
        return Variable(field, _reference(options, field))
    field = schema.field(text)
    if field.kind not in ("number", "boolean", "category"):
        raise ExpressionError(
            f"{text!r} is a {field.kind}, and cannot be a term; derive a number,"
            " a category or a condition from it"
        )
    return Variable(field, 0 if field.kind == "category" else None)


_REFERENCE = re.compile(
    r"^(?:ref\s*=\s*|Treatment\(\s*(?:ref\s*=\s*)?|contr\.treatment\(\s*(?:base\s*=\s*)?)?"
    r"['\"](.*?)['\"]\)?$"
)


def _reference(options: list[str], field: Field) -> int:
    if not options:
        return 0
    match = _REFERENCE.match(options[0])
    if match is None or len(options) > 1:
        raise ExpressionError(
            f"cannot read C(..., {', '.join(options)}); only a reference level is offered,"
            f" as C({field.name}, ref='{field.levels[0]}')"
        )
    if match[1] not in field.levels:
        raise ExpressionError(
            f"unknown level {match[1]!r} of {field.name!r};"
            f" the levels are {', '.join(field.levels)}"
        )
    return field.levels.index(match[1])


def _largest(terms: list[tuple[Variable, ...]]) -> int:
    """The number of levels of the largest category that is a term by itself."""
    alone = (term[0].field for term in terms if len(term) == 1 and term[0].reference is not None)
    return max((len(field.levels) for field in alone), default=0)


def _design(terms: list[tuple[Variable, ...]], intercept: bool, eliminated: int = 0) -> list[Term]:
    """The design columns by R's rule: a category in a term has no column for its reference level if
    the model also has the term without that category. `eliminated`: columns beyond the limit."""
    present = {frozenset(f.field.name for f in term) for term in terms} | (
        {frozenset[str]()} if intercept else set()
    )
    columns: list[Term] = []
    for term in sorted(terms, key=len):  # main effects first, as R orders them
        products: list[tuple[str, tuple[Factor, ...]]] = [("", ())]
        for factor in term:
            margin = frozenset(f.field.name for f in term if f is not factor)
            spread = _spread(factor, full=margin not in present)
            if len(columns) + len(products) * len(spread) > limits.MAX_COLUMNS + eliminated:
                raise ExpressionError(
                    f"the levels of {factor.field.name!r} write out to more than"
                    f" {limits.MAX_COLUMNS:,} columns; merge levels, or leave out interactions"
                )
            products = [
                (f"{name}:{label}" if name else label, (*factors, part))
                for name, factors in products
                for label, part in spread
            ]
        if len(term) == 1 and term[0].reference is not None:
            # The columns of all levels of a category add up to the intercept.
            present.add(frozenset())
        columns += [Term(name, factors) for name, factors in products]
    return columns


def _spread(factor: Variable, *, full: bool) -> list[tuple[str, Factor]]:
    if factor.reference is None:
        return [(factor.field.name, Factor(factor.field))]
    levels = [i for i in range(len(factor.field.levels)) if full or i != factor.reference]
    return [
        (f"{factor.field.name}[{factor.field.levels[i]}]", Factor(factor.field, i)) for i in levels
    ]
