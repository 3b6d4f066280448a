"""When Python searches for cycles: not while it imports, and seldom while it computes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = (100_000, 20, 100)  # formulas of many levels make many objects, and no cycles


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


@contextmanager
def seldom_collected() -> Iterator[None]:
    """A study makes many objects that stay until it ends, and hardly a cycle. A process that
    searches even less often, or never, goes on as it did."""
    before = gc.get_threshold()
    if 0 < before[0] < SELDOM[0]:
        gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
