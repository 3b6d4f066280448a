"""The features of a model from the columns of a frame: levels of categories, products of terms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from federation import errors

if TYPE_CHECKING:
    import pandas

LEVEL = re.compile(r"(?P<column>.+)\[(?P<level>[^\[\]]*)\]")


def of(frame: pandas.DataFrame, names: Sequence[str], analysis: str) -> pandas.DataFrame:
    """(n_rows, n_features): each feature is a column of its name; or `sex[F]`, 1 where the column
    sex is F and else 0; or `age:sex[F]`, the product of both. InputError names what is missing."""
    import pandas

    columns = {name: _feature(frame, name) for name in names}
    absent = [name for name, column in columns.items() if column is None]
    if absent:
        raise errors.InputError(
            f"{analysis}: the frame lacks the columns {', '.join(absent)}; a term such as 'sex[F]' "
            "is made of a column sex with the contract's levels"
        )
    return pandas.DataFrame(columns, index=frame.index)


def _feature(frame: pandas.DataFrame, name: str) -> Any:
    """(n_rows,), missing where the column is; None if it cannot be made."""
    if name in frame.columns:
        return frame[name]
    level = LEVEL.fullmatch(name)
    if level and level["column"] in frame.columns:
        column = frame[level["column"]]
        return (column.astype(str) == level["level"]).astype(float).where(column.notna())
    factors = name.split(":")
    parts = [_feature(frame, factor) for factor in factors] if len(factors) > 1 else [None]
    if any(part is None for part in parts):
        return None
    return np.prod([np.asarray(part, np.float64) for part in parts], axis=0)
