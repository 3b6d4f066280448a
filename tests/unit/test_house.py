"""The house: the imports and calls that an analysis may use, and the retired words of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("federation", "nodes", "aggregator", "strategies", "simulations", "benchmarks", "tests")
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
    "numpy",
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
}
# GLOSSARY.md, CHANGELOG.md and DECISIONS.md tell of the old words; the table of renamed keys holds
# the old keys, and its test writes them.
EXEMPT = {"federation/yaml_source.py", "tests/unit/federation/test_renamed_keys.py"}


def texts() -> Iterator[tuple[str, str]]:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    paths += [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        if path.resolve() != HERE and name not in EXEMPT:
            yield name, path.read_text(encoding="utf-8")


def test_no_retired_word_is_left() -> None:
    left = [
        f"{name}: {match.group()!r} (now: {word})"
        for name, text in texts()
        for pattern, word in RETIRED.items()
        for match in re.finditer(pattern, text)
    ]
    assert not left, left
