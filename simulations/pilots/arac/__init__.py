"""ARAC: what do patients pay themselves, once three insurers are joined with SNDS?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas

from simulations.pilots import common
from simulations.pilots.common import Main, Size

NOTE = (
    "synthetic insured people with a planted spread of what they pay, which no holder has: three"
    " insurers know what they reimburse, and SNDS what obligatory insurance leaves"
)
REAL_NOTE = (
    "5,638 real people in their first year of the RAND health insurance experiment (R,"
    " sampleSelection, RandHIE): costs outside hospital at three nodes of two sites,"
    " those in hospital at one"
    " node"
)
SIZES: Mapping[Size, int] = {"small": 20_000, "full": 1_000_000}
NODES = {"complementaire-a": 0.5, "complementaire-b": 0.3, "complementaire-c": 0.2}
KNOWN_SHARE = 0.97  # of the insured, the share that SNDS knows under the same identifier
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
SITES = {  # pairs of the six sites, so that no node's costs are mostly those of one person
    **dict.fromkeys((1, 2), "ohio-washington"),
    **dict.fromkeys((3, 4), "massachusetts"),
    **dict.fromkeys((5, 6), "south-carolina"),
}
HOLDS = {
    **dict.fromkeys(NODES, "complementaires"),
    "cnam": "snds",
    **dict.fromkeys(SITES.values(), "ambulatoire"),
    "rand-hospitals": "hospital",
}


def make(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    rng, n = np.random.default_rng([seed, 8]), SIZES[size]
    planted = common.truth(__file__)
    cost = np.rint(planted["median_euros"] * np.exp(planted["spread"] * rng.normal(0, 1, n)))
    cost = np.minimum(cost, 10_000)
    share = rng.beta(2, 2, n)  # of what obligatory insurance leaves, how much the insurer pays
    paid = np.minimum(np.rint(cost * share / (1 - share)), 10_000)
    who = np.char.add("a", rng.permutation(4 * n)[:n].astype(str))
    insured = pandas.DataFrame({"assure": who, "rembourse": paid.astype(int)})
    is_known = rng.random(n) < KNOWN_SHARE
    snds = pandas.DataFrame(
        {
            "ben_nir_psa": np.char.add(np.char.upper(who), " ")[is_known],
            "laisse": (cost + paid).astype(int)[is_known],
            "ald": rng.random(is_known.sum()) < 0.18,
        }
    )
    others = pandas.DataFrame(
        {
            "ben_nir_psa": np.char.add("Z", np.arange(n).astype(str)),
            "laisse": rng.integers(0, 500, n),
            "ald": rng.random(n) < 0.18,
        }
    )
    snds = pandas.concat([snds, others]).sample(frac=1, random_state=seed).reset_index(drop=True)
    snds["age"] = rng.choice(
        ["0-19", "20-39", "40-64", "65+"], len(snds), p=[0.23, 0.24, 0.32, 0.21]
    )
    tables = common.by_node(insured, common.spread(rng, n, NODES)) | {"cnam": snds}
    return common.write(tables, directory)


def make_real(directory: Path) -> dict[str, Path]:
    """Costs outside hospital at three pairs of sites, and those of all of them in hospital at one
    node."""
    table, site = first_year()
    outside = table[["assure", "hors_hopital", "part"]]
    inside = table[["assure", "hopital"]].rename(columns={"assure": "patient"})
    return common.write(common.by_node(outside, site) | {"rand-hospitals": inside}, directory)


def first_year() -> tuple[pandas.DataFrame, pandas.Series[str]]:
    """Medical costs in whole dollars, outside and in hospital, and the people's own share of them;
    and the site of each person."""
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
            "hors_hopital": (raw["meddol"] - raw["inpdol"]).clip(lower=0).round(),
            "hopital": raw["inpdol"].round(),
            "part": share,
        }
    )
    return table, raw["site"].astype(int).map(SITES)
