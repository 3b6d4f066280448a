"""Columns of a study as a node's ledger keeps them, to read them again beside a later study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from federation.contract import Contract
from federation.schema import Field

_NAMES = ("name", "kind", "sql", "levels", "step", "index")


def to_values(field: Field) -> dict[str, Any]:
    low = field.interval[0] if np.isfinite(field.interval[0]) else None
    return {name: getattr(field, name) for name in _NAMES} | {"low": low}


def from_values(values: Mapping[str, Any]) -> Field:
    low = -np.inf if values["low"] is None else float(values["low"])
    some = {name: values[name] for name in _NAMES}
    return Field(**(some | {"levels": tuple(values["levels"]), "interval": (low, np.inf)}))


def kinds(contract: Contract) -> dict[str, Any]:
    """The type and the levels of each contract column."""
    return {name: [column.kind, list(column.levels)] for name, column in contract.columns.items()}
