"""Columns of a study as a node's ledger keeps them, to read them again beside a later study."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from federation.contract import Contract
from federation.schema import Field

MAX_LISTED = 32  # levels of a column
_NAMES = ("name", "kind", "sql", "levels", "step", "index")


def to_values(field: Field) -> dict[str, Any]:
    low = field.interval[0] if np.isfinite(field.interval[0]) else None
    return {name: getattr(field, name) for name in _NAMES} | {"low": low}


def from_values(values: Mapping[str, Any]) -> Field:
    low = -np.inf if values["low"] is None else float(values["low"])
    some = {name: values[name] for name in _NAMES}
    return Field(**(some | {"levels": tuple(values["levels"]), "interval": (low, np.inf)}))


def kinds(contract: Contract) -> dict[str, Any]:
    """The type and the levels of each contract column. Many levels are named by their hash: each
    answer about a column writes them."""
    return {
        name: [column.kind, _written_levels(column.levels)]
        for name, column in contract.columns.items()
    }


def kinds_from(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an entry, by column. An entry of a former version lists all levels."""
    return {
        name: [kind, _written_levels(tuple(levels)) if isinstance(levels, list) else levels]
        for name, (kind, levels) in values.items()
    }


@lru_cache(maxsize=256)
def _written_levels(levels: tuple[str, ...]) -> Any:
    if len(levels) <= MAX_LISTED:
        return list(levels)
    return {"sha256": hashlib.sha256(json.dumps(levels).encode()).hexdigest()}
