"""A federation of real processes for linked studies: two holders, a helper, and a coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas

from federation.study import Study
from simulations import flower, linked, local
from simulations.flower import Deployment
from tests.linkage import two_holders
from tests.linkage.two_holders import CONTRACTS, Tables

ANALYSES = {
    "all": {"run": "crosstab", "rows": "grade", "columns": "drug"},
    "costs": {"run": "glm", "model": "spent ~ age + C(grade)", "family": "gaussian"},
}


def study(name: str = "linked", **changes: Any) -> Study:
    return two_holders.study(**{"study": name, "analyses": ANALYSES, **changes})


@contextmanager
def federation(
    folder: Path,
    tables: Tables,
    lefts: dict[str, pandas.DataFrame] | None = None,
    mode: str = "exact",
    **more: Any,
) -> Iterator[Deployment]:
    asked = study(privacy={"mode": mode})
    (folder / "data").mkdir()
    holders = two_holders.holders(folder / "data", tables, lefts)
    sites = linked.sites_of(asked, holders, local.SIMULATED)
    with flower.deployed(sites, folder, say=lambda _: None, **more) as running:
        yield running


def submit(deployment: Deployment, asked: Study) -> Any:
    return flower.submit(deployment, asked, CONTRACTS, say=lambda _: None)
