"""PIMPON: which drugs should not be taken together?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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
    quarters = rng.permuted(np.tile(np.arange(8), (n, 1)), axis=1)[
        :, :3
    ]  # when A alone, B alone and both are taken
    takes = rng.random((n, 3)) < [0.5, 0.5, 0.6]
    effect = {
        "aucune": 1.0,
        "avant": 1.0,
        "a_seul": planted["rate_ratio_a"],
        "b_seul": planted["rate_ratio_b"],
        "a_et_b": planted["rate_ratio_both"],
    }
    window = np.full((n, 8), "aucune", dtype=object)
    for column, name in enumerate(("a_seul", "b_seul", "a_et_b")):
        who = np.flatnonzero(takes[:, column])
        window[who, quarters[who, column]] = name
    rows = []
    for quarter in range(8):
        days = np.full(n, 91)
        before = (
            np.zeros(n, np.bool_)
            if quarter == 7
            else (window[:, quarter] == "aucune") & (window[:, quarter + 1] != "aucune")
        )
        days[before] -= 14
        season = SEASONS[quarter % 4]
        rows.append(
            pandas.DataFrame(
                {
                    "personne": np.arange(n),
                    "fenetre": window[:, quarter],
                    "saison": season,
                    "jours": days,
                }
            )
        )
        rows.append(
            pandas.DataFrame(
                {
                    "personne": np.flatnonzero(before),
                    "fenetre": "avant",
                    "saison": season,
                    "jours": 14,
                }
            )
        )
    table = pandas.concat(rows, ignore_index=True)
    who = table["personne"].to_numpy()
    of_season = (
        table["saison"].map(dict(zip(SEASONS, (1.2, 1.0, 0.9, 1.0), strict=True))).to_numpy()
    )
    rate = (
        planted["events_per_year"]
        / 365.25
        * frailty[who]
        * table["fenetre"].map(effect).to_numpy(float)
        * of_season
    )
    table["evenements"] = np.minimum(rng.poisson(rate * table["jours"]), 10)
    return common.write(
        common.by_node(
            table.assign(personne="x" + table["personne"].astype(str)),
            common.spread(rng, n, NODES)[who],
        ),
        directory,
    )
