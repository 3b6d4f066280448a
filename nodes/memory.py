"""The memory allocator of this process: while it trains, and after a link."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt, glibc
LARGEST, OF_ROWS = 2**30, 2**28


def ready(analyses: Iterable[str]) -> None:
    """Prepares for the first round of these analyses: training needs torch, which takes a second to
    import."""
    if "train" in analyses:
        keep_blocks()
        with contextlib.suppress(ImportError):
            import torch  # noqa: F401


def keep_blocks(largest: int = LARGEST) -> None:
    """Lets the allocator keep freed blocks of up to `largest` bytes, and as many bytes in all. Each
    training step needs blocks of the same sizes, as does each block of rows, and mapping and
    clearing new ones takes a third of it. Has no effect without glibc."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(M_MMAP_THRESHOLD, largest)
        library.mallopt(M_TRIM_THRESHOLD, largest)


def give_back() -> None:
    """Returns freed blocks to the machine, which glibc keeps while a block above them is in use:
    after a link of 6.7e7 people half a gigabyte. Has no effect without glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
