"""formulaic's parser of the Wilkinson grammar, without the rest of formulaic.

`import formulaic` also loads pandas and scipy.sparse, which build its matrices and take half a
second. The parser needs neither, so its modules are loaded before the package's own `__init__`,
which runs as soon as somebody asks the package for one of its names.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

PACKAGE = "formulaic"
TRANSFORMS = f"{PACKAGE}.transforms"
_LOADING = threading.Lock()


class _Postponed(ModuleType):
    """A package whose `__init__` runs at the first use of a name that it defines."""

    def __getattr__(self, name: str) -> Any:
        loader = None if self.__spec__ is None else self.__spec__.loader
        if name.startswith("__") or loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        object.__setattr__(self, "__class__", ModuleType)
        loader.exec_module(self)
        return getattr(self, name)


def terms(text: str) -> Any:
    """The terms of a formula, with an intercept unless the formula removes it."""
    parser = loaded().DefaultFormulaParser(include_intercept=True)
    with _LOADING, _without_transforms():
        return parser.get_terms(text)


def tree(text: str) -> Any:
    """The operators of a formula and their operands, before any term is written out."""
    parser = loaded().DefaultFormulaParser(include_intercept=True)
    with _LOADING, _without_transforms():
        return parser.get_ast(text)


@contextmanager
def _without_transforms() -> Iterator[None]:
    """The parser lists the variables of the left side, which only the sign `.` needs; for that list
    it would import the functions of formulaic, and with them the matrices."""
    if TRANSFORMS in sys.modules:
        yield
        return
    empty = ModuleType(TRANSFORMS)
    empty.__dict__["TRANSFORMS"] = {}
    sys.modules[TRANSFORMS] = empty
    try:
        yield
    finally:
        del sys.modules[TRANSFORMS]


def loaded() -> ModuleType:
    """The modules of the parser."""
    with _LOADING:
        spec = None if PACKAGE in sys.modules else importlib.util.find_spec(PACKAGE)
        if spec is not None:
            package = importlib.util.module_from_spec(spec)
            package.__class__ = _Postponed
            sys.modules[PACKAGE] = package
        return importlib.import_module(f"{PACKAGE}.parser")
