"""The sources that a node's staff has seen pass `hdh node check`.

In mode dp a value that cannot be read counts as missing, so a wrong file gives a plausible answer.
A node therefore gives no answer in mode dp before a check has passed on this very source: the same
contract, the same `read:` keys, and the same files with their sizes and times of change. A database
is identified by its address and table alone. The fact that a source was checked is not an answer to
a study, and depends on no question.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from federation import errors
from nodes import state_folder
from nodes.site import Dataset

FILE = "checked.json"


def fingerprint(dataset: Dataset) -> str:
    content = [
        dataset.contract.hash,
        dataset.table,
        dataset.rows_where,
        dataset.read.model_dump(mode="json"),
        _source(dataset.source),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _source(source: str) -> list[Any]:
    if "://" in source:
        address = urlsplit(source)
        return [address.scheme, address.hostname, address.port, address.path]
    path = Path(source.partition("#")[0]).resolve()
    try:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        stats = [(file, file.stat()) for file in files]
    except OSError:
        return [str(path)]
    return [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats]


def is_checked(state: Path, name: str, dataset: Dataset) -> bool:
    checked = _read(state)
    return fingerprint(dataset) in (checked.get(_key(name, dataset)), checked.get(name))


def _key(name: str, dataset: Dataset) -> str:
    """Each version of a dataset has a check of its own. An earlier release kept one for each
    name."""
    return f"{name} {dataset.contract.hash}"


def record(state: Path, name: str, dataset: Dataset, passed: bool) -> None:
    """Keeps the result of a check; a check that fails takes an earlier one back."""
    key_, now = _key(name, dataset), fingerprint(dataset)
    checked = {key: value for key, value in _read(state).items() if key != key_ and value != now}
    if passed:
        checked[key_] = now
    path = state_folder.create(state) / FILE
    part = path.with_name(f"{FILE}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(checked, indent=2), encoding="utf-8")
        part.replace(path)
    except OSError as reason:
        raise errors.SetupError(
            f"{FILE} in the state folder cannot be written ({reason.strerror}); check the folder's "
            "owner and disk"
        ) from None


def _read(state: Path) -> dict[str, str]:
    try:
        checked = json.loads((state / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return checked if isinstance(checked, dict) else {}
