"""The folder of a coordinator's keys, for commands that only look whether it is there: what reads
the keys takes as long to load as a study's check."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """HDH_HOME, or ~/.hdh."""
    return Path(os.environ.get("HDH_HOME") or Path.home() / ".hdh")


def is_enrolled(folder: Path) -> bool:
    """Whether the folder holds the credentials of a party."""
    return (folder / "hub.json").exists()
