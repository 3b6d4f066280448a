"""The house: the imports and calls that an analysis may use, names that say what they hold, and
the retired words of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "federation", "nodes", "aggregator", "strategies", "simulations", "benchmarks", "deploy",
    "tests",
)  # fmt: skip
HERE = Path(__file__).resolve()

# -- an analysis computes, and reaches nothing else
ALLOWED = {
    "__future__",
    "bisect",
    "collections",
    "copy",
    "dataclasses",
    "difflib",
    "enum",
    "federation",
    "functools",
    "hashlib",
    "itertools",
    "math",
    "statistics",
    "numpy",
    "opacus",
    "operator",
    "pydantic",
    "scipy",
    "sklearn",
    "strategies",
    "torch",
    "typing",
    "weakref",
}
# The registry imports the module of an analysis by its name; networks looks whether torch is
# installed.
LOADERS = {"registry.py", "networks.py"}
FORBIDDEN_CALLS = {"open", "exec", "eval", "compile", "__import__", "input", "print", "breakpoint"}
FORBIDDEN_METHODS = {
    "fromfile", "genfromtxt", "load", "load_library", "loadtxt", "memmap", "open_memmap",
    "save", "savetxt", "savez", "savez_compressed", "tofile", "from_file",
}  # fmt: skip


def offences(code: str, loader: bool = False) -> Iterator[str]:
    """What in the source of an analysis reaches beyond its arguments."""
    allowed = ALLOWED | ({"importlib"} if loader else set())
    for node in ast.walk(ast.parse(code)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (f"imports {name}" for name in names if name.partition(".")[0] not in allowed)
        if isinstance(node, ast.Name) and node.id in FORBIDDEN_CALLS:
            yield f"names the builtin {node.id}"
        if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_METHODS:
            yield f"names {node.attr}, which reads or writes a file"


def test_an_analysis_imports_and_calls_nothing_that_reaches_the_world() -> None:
    imports = [
        f"{path.relative_to(ROOT)} {offence}"
        for path in sorted((ROOT / "strategies").rglob("*.py"))
        for offence in offences(path.read_text(encoding="utf-8"), path.name in LOADERS)
    ]
    assert not imports, (
        "an analysis computes from its arguments alone; move what reads or writes to nodes/, "
        f"aggregator/ or simulations/: {imports}"
    )


@pytest.mark.parametrize(
    "code",
    [
        "import os",
        "import importlib",
        "from urllib import request",
        "from pathlib import Path",
        "open('x')",
        "reader = open",
        "__import__('os')",
        "import numpy as np\nnp.memmap('x')",
        "import torch\ntorch.save(1, 'x')",
        "def f(a):\n    a.tofile('x')",
    ],
)
def test_code_that_reaches_the_world_is_seen(code: str) -> None:
    assert list(offences(code))


# -- words that were retired, and the word that stands there now
RETIRED = {
    r"\b(the_)?office\b|\bOffice\b": "NodeContext",
    r"\bDesk\b": "StudySession",
    r"\bPurse\b": "BudgetAccess",
    r"\bSeat\b": "SecAggState",
    r"\bSitting\b": "PendingSum",
    r"\bMail\b": "SecAggMessage",
    r"\bmail\b": "message, envelope",
    r"\bSwitchboard\b": "NodeConnections",
    r"\bkeeping\.py\b|\bimport keeping\b": "state_folder",
    r"\bzoo\b": "networks",
    r"\bserver_steps\b": "server_optimizers",
    r"\bforesee\(|_foreseen\b|\.foresee\b": "forecast",
    r"\bHappened\b": "Event",
    r"\bmost_(epsilon|delta|parameters|steps|events|weight|hazard)\b": "max_...",
    r"\bLONGEST_ETA\b": "MAX_ETA",
    r"\bstate_folder\.made\b": "state_folder.create",
    r"\bservice\.said\b": "service.as_sent",
    r"\.told\(": "HubSettings.public_address, Approvals.mark_sent",
    r"\bcounting\.what\b": "counting.unit_name",
}
# GLOSSARY.md, CHANGELOG.md and DECISIONS.md tell of the old words; the table of renamed keys holds
# the old keys, and its test writes them.
EXEMPT = {"federation/yaml_source.py", "tests/unit/federation/test_renamed_keys.py"}


# -- names that do not say what they hold, which a reader has to look up at each use
EMPTY_NAMES = {
    "came", "found", "gone", "heard", "him", "kept", "known", "made", "meant", "one", "own", "said",
    "told", "what", "whom", "whose",
}  # fmt: skip


def names_given(code: str) -> Iterator[tuple[int, str]]:
    """The line and the name of each variable, parameter, field, function and class in a source."""
    named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler)
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, named) and node.name is not None:
            yield node.lineno, node.name


def empty_names(code: str) -> list[tuple[int, str]]:
    """Also with underscores around them, as in `_known`, and of a class, as in `Kept`."""
    return [
        (line, name) for line, name in names_given(code) if name.strip("_").lower() in EMPTY_NAMES
    ]


def test_every_name_says_what_it_holds() -> None:
    empty = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, name in empty_names(path.read_text(encoding="utf-8"))
    ]
    assert not empty, f"name the content, such as `coefficients` or `holding`: {empty}"


@pytest.mark.parametrize(
    "code",
    [
        "found = fit()",
        "def f(own: int) -> int: ...",
        "def _told() -> None: ...",
        "class Kept: ...",
        "class A:\n    kept: int",
        "total = sum(one.size for one in parts)",
        "key = lambda one: one.seq",
        "with open_() as made: ...",
        "if (known := look()): ...",
        "for what, n in pairs: ...",
    ],
)
def test_a_name_that_says_nothing_is_seen(code: str) -> None:
    assert empty_names(code)


def texts() -> Iterator[tuple[str, str]]:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    paths += [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        if path.resolve() != HERE and name not in EXEMPT:
            yield name, path.read_text(encoding="utf-8")


def literals(pattern: str) -> list[str]:
    """Of each alternative, the letters without which it matches nowhere: `in` is far faster than a
    search for a word's boundary."""
    bare = re.sub(r"\\b|\(.*?\)\??|\\", "", pattern)
    return bare.split("|")


def test_no_retired_word_is_left() -> None:
    left = [
        f"{name}: {match.group()!r} (now: {word})"
        for name, text in texts()
        for pattern, word in RETIRED.items()
        if any(letters in text for letters in literals(pattern))
        for match in re.finditer(pattern, text)
    ]
    assert not left, left
