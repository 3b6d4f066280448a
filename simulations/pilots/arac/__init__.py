"""ARAC: what do patients pay themselves, once two insurers' accounts are joined?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas

from simulations.pilots import common
from simulations.pilots.common import Main, Size

NOTE = (
    "synthetic insured people with a planted spread of costs;"
    " the joining of two insurers' accounts is not part of this pilot yet"
)
REAL_NOTE = (
    "5,638 real people in their first year of the RAND health insurance experiment (R,"
    " sampleSelection, RandHIE), at its six sites"
)
SIZES: Mapping[Size, int] = {"small": 20_000, "full": 1_000_000}
NODES = {"complementaire-a": 0.6, "complementaire-b": 0.4}
COLUMNS = ("gini", "gini_conf_low", "gini_conf_high")
MAIN = {
    name: Main(
        "Gini coefficient of out-of-pocket costs",
        "restes",
        "summary",
        {"group": "all"},
        COLUMNS,
        "gini",
    )
    for name in ("study", "private")
}
MAIN["real"] = Main(
    "Gini coefficient of medical costs", "depenses", "summary", {"group": "all"}, COLUMNS
)
SITES = {1: "dayton", 2: "seattle", 3: "fitchburg", 4: "franklin", 5: "charleston", 6: "georgetown"}


def make(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    rng, n = np.random.default_rng([seed, 8]), SIZES[size]
    planted = common.truth(__file__)
    cost = np.minimum(
        planted["median_euros"] * np.exp(planted["spread"] * rng.normal(0, 1, n)), 20_000
    )
    table = pandas.DataFrame(
        {
            "assure": np.char.add("a", np.arange(n).astype(str)),
            "reste": np.rint(cost).astype(int),
            "ald": rng.random(n) < 0.18,
        }
    )
    table["age"] = rng.choice(["0-19", "20-39", "40-64", "65+"], n, p=[0.23, 0.24, 0.32, 0.21])
    return common.write(common.by_node(table, common.spread(rng, n, NODES)), directory)


def make_real(directory: Path) -> dict[str, Path]:
    return common.write(common.by_node(*first_year()), directory)


def first_year() -> tuple[pandas.DataFrame, pandas.Series[str]]:
    """Medical costs and the people's own share of them, in whole dollars; and the site of each
    person."""
    raw = common.real_of_r("sampleSelection", "RandHIE")
    raw = (
        raw[(raw["year"] == 1) & raw["meddol"].notna()]
        .drop_duplicates("zper")
        .reset_index(drop=True)
    )
    share = raw["coins"].astype(int).map({0: "0", 25: "25", 50: "50"}).fillna("95 or 100")
    table = pandas.DataFrame(
        {
            "assure": raw["zper"].astype(int).astype(str),
            "depenses": raw["meddol"].round(),
            "part": share,
        }
    )
    return table, raw["site"].astype(int).map(SITES)
