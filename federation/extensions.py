"""Networks, analyses and strategies that a site installs beside hdh, found by their entry points.

Nothing is searched before a study names an extension, and nothing is imported before it is used.
The hash of an extension covers the files of its distribution as they lie on disk, not the libraries
that these files import.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from federation import errors

Kind = Literal["analyses", "networks", "strategies"]
KINDS: tuple[Kind, ...] = ("analyses", "networks", "strategies")
NAME = "[a-z][a-z0-9_]{0,59}"
KEY = rf"^({'|'.join(KINDS)})\.{NAME}$"
DIGEST = "^[0-9a-f]{64}$"
T = TypeVar("T")


@dataclass(frozen=True)
class Extension:
    """`key`: such as networks.two_layers. `digest`: SHA-256 over the files of the distribution.
    `problem`: why it cannot be used, with the remedy; empty if nothing speaks against it before it
    is imported."""

    key: str
    distribution: str
    version: str
    digest: str
    problem: str = ""
    entry: EntryPoint | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.key} of {self.distribution} {self.version}"


# The extensions that this process has imported: their digest at that time, and the object.
_LOADED: dict[str, tuple[str, Any]] = {}


def find(key: str) -> Extension | None:
    """None if no distribution here has it."""
    return next((extension for extension in all_of(key.partition(".")[0], key)), None)


def every() -> list[Extension]:
    return [extension for kind in KINDS for extension in all_of(kind)]


def all_of(kind: str, only: str = "") -> list[Extension]:
    """The extensions of a kind by name, or the one with the key `only`."""
    by_name: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry in metadata.entry_points(group=f"hdh.{kind}"):
        if only in ("", f"{kind}.{entry.name}"):
            by_name[entry.name].append(entry)
    return [_described(kind, entries) for _, entries in sorted(by_name.items())]


def _described(kind: str, entries: Sequence[EntryPoint]) -> Extension:
    entry, distribution = entries[0], entries[0].dist
    key = f"{kind}.{entry.name}"
    if distribution is None:
        return Extension(key, "?", "?", "", "it belongs to no distribution: install it with pip")
    if len(entries) > 1:
        names = sorted(each.dist.name for each in entries if each.dist is not None)
        problem = f"{' and '.join(names)} both bring {key}: uninstall all but one of them"
        return Extension(key, " and ".join(names), "?", "", problem)
    digest = digest_of(distribution)
    problem = _problem(entry, distribution, digest, key)
    return Extension(key, distribution.name, distribution.version, digest, problem, entry)


def _problem(entry: EntryPoint, distribution: Distribution, digest: str, key: str) -> str:
    if re.fullmatch(NAME, entry.name) is None:
        return (
            f"{entry.name[:60]!r} is no name of an extension: it needs lower-case letters, digits"
            " and _"
        )
    if not _is_covered(entry, distribution):
        return (
            f"the files of {distribution.name} do not hold the module that it names, as with an"
            " editable installation, so its hash would not cover its code: install it with pip,"
            " without --editable"
        )
    if key in _LOADED and _LOADED[key][0] != digest:
        return f"{distribution.name} has changed since this process loaded it: restart the process"
    return ""


def _is_covered(entry: EntryPoint, distribution: Distribution) -> bool:
    """Whether Python would import the entry point's package from the files of its distribution."""
    try:
        spec = importlib.util.find_spec(entry.module.partition(".")[0])
    except (ImportError, ValueError):
        return False
    if spec is None or spec.origin is None:
        return False
    origin = Path(spec.origin).resolve()
    return any(origin == path.resolve() for _, path in _files(distribution))


# -- the hash
def digest_of(distribution: Distribution) -> str:
    """SHA-256 over the name and version of a distribution and the paths and contents of its
    files."""
    lines = [f"{distribution.name} {distribution.version}"]
    lines += [f"{_digest_of_file(path)} {name}" for name, path in _files(distribution)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _files(distribution: Distribution) -> list[tuple[str, Path]]:
    """The files that are the same wherever the distribution is installed."""
    files = [(file.as_posix(), file) for file in distribution.files or () if _counts(file)]
    return [(name, Path(str(distribution.locate_file(file)))) for name, file in sorted(files)]


def _counts(file: PurePosixPath) -> bool:
    if ".." in file.parts or "__pycache__" in file.parts:
        return False  # a .pyc elsewhere is code that Python imports
    return not file.parts[0].endswith(".dist-info") or file.name == "entry_points.txt"


def _digest_of_file(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "absent"
    return _digest_of_content(path, status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(maxsize=4096)
def _digest_of_content(path: Path, changed: int, size: int, inode: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- importing
def imported(key: str, expected: type[T], needs: str) -> T:
    """The object of an extension. ExtensionError if it is absent, broken or of another type; the
    message names no path. `needs`: the type, in the words of the message."""
    if key not in _LOADED:
        _LOADED[key] = _import(key)
    loaded = _LOADED[key][1]
    if not isinstance(loaded, expected):
        raise errors.ExtensionError(
            f"{key}: its entry point is a {type(loaded).__name__}, and {needs} is needed; ask its"
            " author"
        )
    return loaded


def _import(key: str) -> tuple[str, Any]:
    """The digest of an extension's distribution, and the object of its entry point."""
    extension = find(key)
    if extension is None:
        raise errors.ExtensionError(
            f"{key} is not installed here: install the distribution that brings it"
        )
    if extension.problem or extension.entry is None:
        raise errors.ExtensionError(f"{extension}: {extension.problem}")
    try:
        return extension.digest, extension.entry.load()
    except (Exception, SystemExit) as reason:  # the code of others may end in any way
        raise errors.ExtensionError(
            f"{extension}: it cannot be imported ({type(reason).__name__}); import it in Python to"
            " see why, or ask its author"
        ) from None
