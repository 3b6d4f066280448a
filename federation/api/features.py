"""The features of a model from the columns of a frame: levels of categories, products of terms.

Values are compared with the contract's levels as nodes compare them: 2.0 and "2.0" are the level 2,
True is the level true, a day at midnight is that day. A value that is no level is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from federation import errors, text

if TYPE_CHECKING:
    import pandas

    from aggregator.document import ModelColumn
    from aggregator.model_terms import Factors

WHOLE = re.compile(r"(-?\d+)\.0+")
YES, NO = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
WORDS = dict.fromkeys(YES, "true") | dict.fromkeys(NO, "false")
MAX_SHOWN = 12  # levels in a message


def of(
    frame: pandas.DataFrame,
    names: Sequence[str],
    columns: Mapping[str, ModelColumn],
    analysis: str,
) -> pandas.DataFrame:
    """(n_rows, n_features): `age` is the column of that name, `sex[F]` is 1 where sex is F and 0
    where it is another level, `age:sex[F]` is their product. Missing where a column is missing.

    `columns`: of the model. A column `sex[F]` of the frame counts as it is. InputError names what
    the frame lacks, and each value that the model does not know."""
    import pandas

    from aggregator.model_terms import factors_of

    read: dict[str, Any] = {}
    features, absent = {}, []
    for name in names:
        factors: Factors | None = [(name, None)]
        if name not in frame.columns:
            factors = factors_of(name, columns)
        if factors is None or any(column not in frame.columns for column, _ in factors):
            absent.append(name)
            continue
        for column, _ in factors:
            if column not in read:
                read[column] = _read(frame[column], column, columns.get(column), analysis)
        parts = [
            read[column] if level is None else _is_level(read[column], columns[column], level)
            for column, level in factors
        ]
        features[name] = np.prod(parts, axis=0)
    if absent:
        raise errors.InputError(
            f"{analysis}: the frame lacks the columns {', '.join(absent)}; a term such as 'sex[F]' "
            "is made of a column sex with the contract's levels"
        )
    return pandas.DataFrame(features, index=frame.index)


def _is_level(indices: Any, column: ModelColumn, level: str) -> Any:
    index = list(column.levels).index(level)
    return np.where(np.isnan(indices), np.nan, indices == index)


def _read(values: Any, name: str, column: ModelColumn | None, analysis: str) -> Any:
    """(n_rows,), NaN where missing: numbers, 0 and 1 for no and yes, or indices of levels."""
    if column is not None and column.kind == "category":
        return _indices(values, name, column.levels, analysis, str)
    if column is not None and column.kind == "boolean":
        return _indices(values, name, ("false", "true"), analysis, _yes_or_no)
    return _numbers(values, name, analysis)


def _yes_or_no(written: str) -> str:
    return WORDS.get(written.lower(), written)


def _numbers(values: Any, name: str, analysis: str) -> Any:
    """A text is a number if it is written as one; a day is none."""
    import pandas

    given = values if values.dtype.kind in "biuf" else values.astype(object)
    given = given.where(given.notna(), np.nan)
    try:
        return pandas.to_numeric(given).to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        raise errors.InputError(
            f"{analysis}: column {name!r} is {values.dtype}, and not a number in every row; give "
            "numbers, with missing values as NaN"
        ) from None


def _indices(
    values: Any, name: str, levels: Sequence[str], analysis: str, level_of: Callable[[str], str]
) -> Any:
    """(n_rows,): the index of each row's level; NaN where the value is missing or blank.
    `level_of`: the level that a text stands for."""
    given = values.astype(object)
    places = {level: float(i) for i, level in enumerate(levels)}
    index_of: dict[Any, float] = {}
    unknown: list[str] = []
    for value in given.dropna().unique():
        spellings = [spelling for spelling in _spellings(value) if spelling]
        index = next((places[level] for level in map(level_of, spellings) if level in places), None)
        index_of[value] = np.nan if index is None else index
        unknown += spellings[:1] if index is None else []
    if unknown:
        raise errors.InputError(
            f"{analysis}: column {name!r} has {_listed(list(map(repr, unknown)))}, which the model "
            f"does not know; its levels are {_listed(levels)}; correct the frame, or make the "
            "value missing"
        )
    return given.map(index_of).to_numpy(np.float64, na_value=np.nan)


def _listed(levels: Sequence[str]) -> str:
    more = f" and {len(levels) - MAX_SHOWN} more" if len(levels) > MAX_SHOWN else ""
    return f"{', '.join(levels[:MAX_SHOWN])}{more}"


def _spellings(value: Any) -> Iterator[str]:
    """The texts that a level of this value may be written as; the first is the value as it is. A
    blank text gives an empty one, which is missing at a node too."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool):
        yield str(value)
        yield str(value).lower()
    elif isinstance(value, int | float | Decimal):
        yield str(value)
        yield str(int(value)) if value % 1 == 0 else f"{value:f}".rstrip("0")
    elif isinstance(value, datetime) and value.time() == time():
        yield value.date().isoformat()
    elif isinstance(value, date):  # or a time of a day
        yield value.isoformat()
    else:
        written = text.canonical(str(value))
        yield written
        if whole := WHOLE.fullmatch(written):
            yield whole[1]
