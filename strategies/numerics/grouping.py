"""Groups of people: combinations of the levels of categories and yes-or-no columns, in the contract's order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from federation.expression import ExpressionError
from federation.messages import Ints
from federation.schema import Field, Schema


def fields(names: Iterable[str], schema: Schema, what: str) -> tuple[Field, ...]:
    """The columns that define groups; `what` says what is given by them, as in `rates are given by category`."""
    return check([schema.field(name) for name in names], what)


def check(found: Iterable[Field], what: str) -> tuple[Field, ...]:
    groups = tuple(found)
    for field in groups:
        if field.kind not in ("category", "boolean"):
            raise ExpressionError(
                f'{field.name!r} is a {field.kind}; {what}: derive one, as in `{{older: "age >= 65"}}`'
            )
    return groups


def labels(groups: Sequence[Field]) -> tuple[str, ...]:
    """`sex=f, treated=yes`: one label for each combination of levels; `all` if nothing defines groups."""
    found = [""]
    for field in groups:
        found = [
            f"{label}, {field.name}={level}" if label else f"{field.name}={level}"
            for label in found
            for level in field.groups
        ]
    return tuple(found) if groups else ("all",)


def combination(groups: Sequence[Field], columns: Mapping[str, Any], kept: Any) -> Ints:
    """The index among `labels` of each of the rows `kept`, which are complete."""
    index = np.zeros(len(kept), np.int64)
    for field in groups:
        index = index * len(field.groups) + columns[field.name][kept].astype(np.int64)
    return index
