"""One folder per study: the files of an earlier result are replaced, and other files are never
touched."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from federation import errors

RESULT, TABLES = "result.json", "tables"


def names(document: Mapping[str, Any]) -> frozenset[str]:
    """The files that `report.write` writes for a document, other than result.json and
    report.html."""
    files = set()
    for name, analysis in document["analyses"].items():
        parts = {name: analysis} | {
            f"{name}@{node}": part for node, part in (analysis.get("by_node") or {}).items()
        }
        files |= {
            f"{TABLES}/{part}.{table}.csv"
            for part, result in parts.items()
            for table, rows in (result.get("tables") or {}).items()
            if rows
        }
        if analysis.get("model") is not None:
            files |= {f"{name}.safetensors", f"{name}.md"}
    return frozenset(files)


def earlier(folder: Path) -> frozenset[str]:
    """The files of an earlier result in the folder. InputError if the folder holds tables or a
    result that hdh did not write."""
    result, tables = folder / RESULT, folder / TABLES
    listed: frozenset[str] = frozenset()
    if result.exists():
        try:
            document = json.loads(result.read_text(encoding="utf-8"))
            _ = document["study_hash"]
            listed = names(document)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise _foreign(folder, RESULT) from None
    here = {f"{TABLES}/{path.name}" for path in tables.iterdir()} if tables.is_dir() else set()
    if others := sorted(here - listed):
        raise _foreign(folder, others[0])
    return frozenset(name for name in listed if _is_inside(name) and (folder / name).is_file())


def clear(folder: Path) -> None:
    """Removes the files of an earlier result."""
    for name in earlier(folder):
        (folder / name).unlink()


def _is_inside(name: str) -> bool:
    parts = Path(name).parts
    return len(parts) == (2 if parts[0] == TABLES else 1) and ".." not in parts


def _foreign(folder: Path, name: str) -> errors.InputError:
    return errors.InputError(
        f"--out {folder}: {name} there is not part of an earlier result of hdh;"
        " name a new folder, or move the file away"
    )


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns an error of the disk, or of the folder's permissions, into one that names the
    folder."""
    try:
        yield
    except OSError as reason:
        raise errors.SetupError(
            f"--out {folder}: the results cannot be written there"
            f" ({reason.strerror or type(reason).__name__});"
            " free some space, or name a folder on another disk"
        ) from None
