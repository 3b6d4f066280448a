"""Derived columns written as mappings, and named sets of codes, as expressions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from federation import limits, model_words
from federation.contract import Frozen
from federation.expression import quote_text


class Group(Frozen):
    """A number in groups. `cuts`: where the next group begins. `labels`: one more than cuts, or
    none."""

    column: str = pydantic.Field(alias="from")
    cuts: tuple[float, ...] = pydantic.Field(min_length=1)
    labels: tuple[str, ...] = ()

    def expression(self) -> str:
        cuts = [f"{cut:.12g}" for cut in self.cuts]
        return f"group({', '.join([self.column, *cuts, *map(quote_text, self.labels)])})"


class Recode(Frozen):
    """A category with some levels put together. `merge`: the new level, and the levels that it
    stands for."""

    column: str = pydantic.Field(alias="from")
    merge: Mapping[str, tuple[str, ...]] = pydantic.Field(min_length=1)

    def expression(self) -> str:
        pairs = [
            text for new, levels in self.merge.items() for old in levels for text in (old, new)
        ]
        return f"recode({', '.join([self.column, *map(quote_text, pairs)])})"


class Derivation(Frozen):
    """One of `group`, `recode`, or a `value` with the `range` outside which it is missing."""

    group: Group | None = None
    recode: Recode | None = None
    value: str | None = None
    range: tuple[float, float] | None = None

    @pydantic.model_validator(mode="after")
    def _check_kind(self) -> Derivation:
        if sum(each is not None for each in (self.group, self.recode, self.value)) != 1:
            raise ValueError("a derived column is an expression, or one of group, recode and value")
        if (self.value is None) != (self.range is None):
            raise ValueError("`value` and `range` belong together")
        return self


def expression(definition: Mapping[str, Any]) -> str:
    """The expression of a derived column that is written as a mapping. ValueError with what is
    wrong."""
    try:
        derivation = Derivation.model_validate(definition)
    except pydantic.ValidationError as invalid:
        raise ValueError(_worded(invalid)) from None
    if derivation.group is not None:
        return derivation.group.expression()
    if derivation.recode is not None:
        return derivation.recode.expression()
    assert derivation.range is not None
    low, high = derivation.range
    return f"within({derivation.value}, {low:.12g}, {high:.12g})"


def _worded(invalid: pydantic.ValidationError) -> str:
    problem = invalid.errors()[0]
    where, message = ".".join(map(str, problem["loc"])), model_words.say(problem)
    return f"{where}: {message}" if where else message


def with_codes(text: str, codes: Mapping[str, Sequence[str]]) -> str:
    """The expression with the sets of codes in place of their names, inside in_codes()."""

    def written_out(call: re.Match[str]) -> str:
        first, *sets = [argument.strip() for argument in call.group(1).split(",")]
        if any(each.startswith(("'", '"')) for each in sets):
            return call.group()
        listed = [quote_text(", ".join(codes[each])) if each in codes else each for each in sets]
        return f"in_codes({', '.join([first, *listed])})"

    longest = max((sum(map(len, each)) + 4 * len(each) for each in codes.values()), default=0)
    uses = text.lower().count("in_codes(") * (1 + text.count(","))
    if len(text) > limits.MAX_CODES or uses * longest > limits.MAX_WRITTEN_OUT_CODES:
        raise ValueError("an expression with its sets of codes is too long; name fewer of them")
    return re.sub(r"in_codes\(([^()]*)\)", written_out, text, flags=re.IGNORECASE)
