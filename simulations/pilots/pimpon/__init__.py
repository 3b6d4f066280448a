"""PIMPON: which drugs should not be taken together?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from simulations.pilots import common
from simulations.pilots.common import Main, Size

NOTE = (
    "synthetic people with a planted interaction;"
    " columns approximate published descriptions of the SNDS"
)
SIZES: Mapping[Size, int] = {"small": 8000, "full": 200_000}
NODES = {"cnam": 0.7, "mgen": 0.1, "msa": 0.2}
RATIO = ("rate_ratio", "rate_ratio_low", "rate_ratio_high")
MAIN = {
    name: Main(
        "rate ratio under both drugs",
        "series",
        where={"term": "fenetre[a_et_b]"},
        columns=RATIO,
        truth="rate_ratio_both",
    )
    for name in ("study", "private")
}
SEASONS = ("hiver", "printemps", "ete", "automne")


def make(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    """Two years of each person, in quarters: one quarter under drug A alone, one under B alone or
    under both, each with a period of fourteen days before it."""
    rng, n = np.random.default_rng([seed, 6]), SIZES[size]
    planted = common.truth(__file__)
    frailty = rng.gamma(1.5, 1 / 1.5, n)
    table = _periods(_windows(rng, n))
    who = table["personne"].to_numpy()
    rate = _rate(table, planted, frailty[who])
    table["evenements"] = np.minimum(rng.poisson(rate * table["jours"]), 10)
    return common.write(
        common.by_node(
            table.assign(personne="x" + table["personne"].astype(str)),
            common.spread(rng, n, NODES)[who],
        ),
        directory,
    )


def _windows(rng: np.random.Generator, n: int) -> Any:
    """(n, 8) the name of each person's exposure in each quarter."""
    # when A alone, B alone and both are taken
    quarters = rng.permuted(np.tile(np.arange(8), (n, 1)), axis=1)[:, :3]
    takes = rng.random((n, 3)) < [0.5, 0.5, 0.6]
    windows = np.full((n, 8), "aucune", dtype=object)
    for column, name in enumerate(("a_seul", "b_seul", "a_et_b")):
        who = np.flatnonzero(takes[:, column])
        windows[who, quarters[who, column]] = name
    return windows


def _periods(windows: Any) -> pandas.DataFrame:
    """One row for each quarter of a person, and one for the fourteen days before an exposure."""
    rows = []
    for quarter in range(8):
        is_last, here = quarter == 7, windows[:, quarter]
        soon = False if is_last else windows[:, quarter + 1] != "aucune"
        before = (here == "aucune") & soon
        days = np.where(before, 91 - 14, 91)
        season = SEASONS[quarter % 4]
        everyone = {"personne": np.arange(len(windows)), "fenetre": here}
        exposed = {"personne": np.flatnonzero(before), "fenetre": "avant"}
        rows.append(pandas.DataFrame({**everyone, "saison": season, "jours": days}))
        rows.append(pandas.DataFrame({**exposed, "saison": season, "jours": 14}))
    return pandas.concat(rows, ignore_index=True)


def _rate(table: pandas.DataFrame, planted: Mapping[str, Any], frailty: Any) -> Any:
    """(n_rows,) events per day of each period. `frailty` (n_rows,): of the row's person."""
    effect = {
        "aucune": 1.0,
        "avant": 1.0,
        "a_seul": planted["rate_ratio_a"],
        "b_seul": planted["rate_ratio_b"],
        "a_et_b": planted["rate_ratio_both"],
    }
    of_season = table["saison"].map(dict(zip(SEASONS, (1.2, 1.0, 0.9, 1.0), strict=True)))
    return (
        planted["events_per_year"]
        / 365.25
        * frailty
        * table["fenetre"].map(effect).to_numpy(float)
        * of_season.to_numpy()
    )
