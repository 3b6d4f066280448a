"""Imports during which Python does not search for cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Modules are many new objects and no garbage, but their number makes Python search all objects
    of the process for cycles: beside pandas 0.06 s, while a notebook imports hdh. They enter the
    oldest generation at once, which only a full search goes through."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # nobody else has frozen objects, which this would thaw
            gc.freeze()
            gc.unfreeze()
        if was_enabled:
            gc.enable()
