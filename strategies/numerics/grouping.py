"""Groups of people: combinations of the levels of categories and yes-or-no columns, in the
contract's order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from federation.arrays import Ints
from federation.expression import ExpressionError
from federation.schema import Field, Schema


def fields(names: Iterable[str], schema: Schema, reason: str) -> tuple[Field, ...]:
    """The columns that define groups. `reason`: the end of the error message, such as `rates are
    given by category`."""
    return check([schema.field(name) for name in names], reason)


def check(columns: Iterable[Field], reason: str) -> tuple[Field, ...]:
    groups = tuple(columns)
    for field in groups:
        if field.kind not in ("category", "boolean"):
            raise ExpressionError(
                f"{field.name!r} is a {field.kind}; {reason}:"
                ' derive one, as in `{older: "age >= 65"}`'
            )
    return groups


def labels(groups: Sequence[Field]) -> tuple[str, ...]:
    """One label for each combination of levels, such as `sex=f, treated=yes`; `all` without
    groups."""
    combinations = [""]
    for field in groups:
        combinations = [
            f"{label}, {field.name}={level}" if label else f"{field.name}={level}"
            for label in combinations
            for level in field.groups
        ]
    return tuple(combinations) if groups else ("all",)


def combination(groups: Sequence[Field], columns: Mapping[str, Any], rows: Any) -> Ints:
    """The index in `labels` of each of the complete rows with index `kept` (n_rows,)."""
    index = np.zeros(len(rows), np.int64)
    for field in groups:
        index = index * len(field.groups) + columns[field.name][rows].astype(np.int64)
    return index
