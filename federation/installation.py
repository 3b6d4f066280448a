"""Checks that the five top-level packages are ours, since their names are common words."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from federation import errors

PACKAGES = ("federation", "nodes", "aggregator", "strategies", "simulations")


def check() -> None:
    """SetupError if another distribution shadows one of the packages."""
    home = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        folder = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if folder != home / package:
            raise errors.SetupError(
                f"another distribution shadows the package {package!r} of hdh-federation; install "
                "hdh-federation in an environment of its own"
            )
