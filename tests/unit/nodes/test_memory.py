"""Memory goes back to the machine when a link has ended."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from nodes import memory

MB = 2**20


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_blocks_that_were_freed_below_one_in_use_go_back():
    blocks = [np.ones(64 * 1024, np.uint8) for _ in range(3200)]  # 200 MB, each below mmap's size
    above = np.ones(64 * 1024, np.uint8)
    full = resident()
    del blocks
    assert full - resident() < 150 * MB  # the allocator keeps them
    memory.give_back()
    assert full - resident() > 150 * MB
    assert above.all()
