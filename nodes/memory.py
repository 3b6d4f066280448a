"""How this process asks the operating system for memory while it trains."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt, glibc
LARGEST = 2**30


def ready(analyses: Iterable[str]) -> None:
    """Before the first round of a study of these analyses: training needs torch, which takes a second to import."""
    if "train" in analyses:
        keep_blocks()
        with contextlib.suppress(ImportError):
            import torch  # noqa: F401


def keep_blocks() -> None:
    """Blocks of a training step are as large as those of the step before: kept, they need not be cleared and mapped anew, which takes a
    third of the time of a step. Only glibc has this; elsewhere nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(M_MMAP_THRESHOLD, LARGEST)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST)
