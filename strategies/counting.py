"""Who stands behind the numbers of a Part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from federation import cohort as cohorts
from federation.cohort import Cohort
from federation.messages import Ints


def people(cohort: Cohort, keep: Any) -> dict[str, Ints]:
    """The cells that every Part has: people, rows and missing rows of the complete cases `keep` (n_rows,)."""
    rows = int(np.count_nonzero(keep))
    someone = cohort.people if rows == cohort.rows else cohorts.count_people(cohort.person[keep], cohort.rows_per_person)
    return {"people": np.array([someone]), "rows": np.array([rows]), "missing": np.array([cohort.rows - rows])}


def reported(cells: Mapping[str, Ints], *more: str) -> dict[str, int]:
    return {name: int(cells[name].sum()) for name in ("people", "rows", "missing", *more)}
