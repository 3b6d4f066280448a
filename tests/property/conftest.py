"""What the laws of cohorts in blocks share."""

from __future__ import annotations

from typing import Any

import pytest

from federation.cohort import Cohort
from nodes import cohort_blocks


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of blocks of the cohorts that were opened in blocks."""
    blocks: list[int] = []
    make = cohort_blocks._in_blocks

    def counted(*args: Any) -> Cohort:
        cohort = make(*args)
        blocks.append(sum(1 for _ in cohort.blocks()))
        return cohort

    monkeypatch.setattr(cohort_blocks, "_in_blocks", counted)
    monkeypatch.setattr(cohort_blocks, "SHARE", 1)
    return blocks
