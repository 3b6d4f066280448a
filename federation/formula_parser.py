"""formulaic's parser of the Wilkinson grammar, without the rest of formulaic.

`import formulaic` also loads pandas and scipy.sparse, which build its matrices and take half a
second. The parser needs neither, so its modules are loaded before the package's own `__init__`,
which runs as soon as somebody asks the package for one of its names.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

# What the parser says, and the words of a message for it, with the remedy.
REASONS = (
    (r"Unknown.operator.'(.+)'", "{0} is no operator here: write ~, +, : or * between columns"),
    (r"context.(?:marker|was.closed)", "a bracket or quote is open, or closed once too often"),
    (
        r"Operator.`(.+)`.(?:has.insuff?icient|is.incorrectly)",
        "{0} stands where nothing is before or behind it, or stands twice: take it out",
    ),
    (r"Missing.operator.between.`(.+)`.and.`(.+)`", "write an operator between {0} and {1}"),
    (r"Numeric.literals", "a number other than 0 and 1 is no term: write it inside I()"),
    (r"The `\.` operator", "a point stands for no columns here: name each"),
)
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


def reason(problem: Exception) -> str:
    """The parser's problem in plain words."""
    first_line = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
    first_words = re.sub(r"\s*⧛.*?⧚", "", first_line)
    for pattern, words in REASONS:
        if (match := re.search(pattern, first_words)) is not None:
            return words.format(*(f"`{part}`" for part in match.groups()))
    return first_words


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
