"""Distributions with entry points, written into a folder as pip would install them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from federation import extensions


def plant(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    entries: Mapping[str, str],
    files: Mapping[str, str],
    *,
    distribution: str = "planted",
    version: str = "1.0",
    recorded: bool = True,
) -> None:
    """Installs a distribution for the time of a test. `entries`: such as {"networks.wide":
    "planted_net:WIDE"}. `files`: contents by path. `recorded`: False for an editable installation,
    whose record does not list them."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    info = folder / f"{distribution}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    )
    groups: dict[str, list[str]] = {}
    for key, value in entries.items():
        kind, _, name = key.partition(".")
        groups.setdefault(kind, []).append(f"{name} = {value}")
    (info / "entry_points.txt").write_text(
        "\n".join(line for kind in groups for line in (f"[hdh.{kind}]", *groups[kind])) + "\n"
    )
    listed = [
        *(files if recorded else ()),
        *(f"{info.name}/{file.name}" for file in info.iterdir()),
    ]
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in listed))
    monkeypatch.setattr(extensions, "_LOADED", {})
    monkeypatch.syspath_prepend(folder)
    for path in files:  # packages of the same name that an earlier test has imported
        for module in [path.removesuffix(".py").replace("/", "."), path.partition("/")[0]]:
            monkeypatch.delitem(sys.modules, module, raising=False)
