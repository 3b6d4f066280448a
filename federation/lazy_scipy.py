"""Parts of scipy, imported at the first use of one of their names.

Their import takes 0.2 to 0.4 s, and a command that only checks or shows a study computes nothing
with them."""

from __future__ import annotations

import importlib
from typing import Any


class _Lazy:
    """A module that is imported when somebody first reads an attribute."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self._name), name)
        setattr(self, name, value)  # the next reading finds it here
        return value


linalg, optimize, special = _Lazy("scipy.linalg"), _Lazy("scipy.optimize"), _Lazy("scipy.special")
