"""Checks that the five top-level packages are ours: their names are common words."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from federation import errors

PACKAGES = ("federation", "nodes", "aggregator", "strategies", "simulations")


def check() -> None:
    home = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found != home / package:
            raise errors.SetupError(
                f"the package {package!r} in use is not the one of hdh-federation; another distribution of that "
                "name shadows it: install hdh-federation in an environment of its own"
            )
