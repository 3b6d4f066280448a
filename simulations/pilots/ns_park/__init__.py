"""NS-Park: how does Parkinson's disease run, and what slows it down?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas
from numpy.typing import NDArray

from federation.arrays import Ints
from simulations.pilots import common
from simulations.pilots.common import Main, Size

NOTE = (
    "synthetic patients with a planted course; columns approximate published descriptions of the"
    " NS-Park cohort"
)
LINKED_NOTE = (
    "synthetic patients with a planted course: the centres hold the slopes, SNDS the drugs;"
    " columns approximate published descriptions of the NS-Park cohort and SNDS"
)
REAL_NOTE = (
    "252 real people, 188 of them with Parkinson's disease, who spoke a vowel (R, modeldata,"
    " pd_speech), assigned to three nodes in turn"
)
SIZES: Mapping[Size, int] = {"small": 3000, "full": 20_000}
NODES = {"chu-lille": 0.2, "chu-toulouse": 0.2, "hcl-lyon": 0.2, "pitie-salpetriere": 0.4}
MAIN = {
    "study": Main(
        "points a year less under an agonist",
        "cours",
        where={"term": "annees:agoniste"},
        truth="agonist_per_year",
    ),
    "private": Main(
        "points a year less under an agonist, from slopes",
        "cours",
        where={"term": "agoniste"},
        truth="agonist_per_year",
    ),
}
MAIN |= dict.fromkeys(("linked", "linked-private"), MAIN["private"])
MAIN["real"] = Main(
    "log-odds of Parkinson's disease for a tenth more pitch period entropy",
    "voix",
    where={"term": "ppe"},
)
HOLDS = {**dict.fromkeys(NODES, "pentes"), "cnam": "delivrances"}
# Of the patients, the share that SNDS knows. Each centre has eleven whom it does not know, or more.
KNOWN_SHARE = 0.95
VISITS = np.array([0, 0.5, 1, 2, 3, 4, 6, 8.0])


def visits(seed: int, size: Size) -> tuple[pandas.DataFrame, Ints]:
    """The visits, and whose each is."""
    rng, n = np.random.default_rng([seed, 7]), SIZES[size]
    planted = common.truth(__file__)
    agonist, age = rng.random(n) < 0.5, np.clip(rng.normal(62, 9, n), 30, 90).round()
    level, slope = rng.normal(24, planted["sd_level"], n), rng.normal(0, planted["sd_slope"], n)
    years = VISITS + np.where(VISITS > 0, rng.uniform(-0.2, 0.2, (n, len(VISITS))), 0.0)
    rate = planted["points_per_year"] + planted["agonist_per_year"] * agonist + slope
    score = (
        level[:, None]
        + 1.5 * (age[:, None] - 62) / 10
        + rate[:, None] * years
        + rng.normal(0, planted["sd_visit"], years.shape)
    )
    is_seen = rng.random(years.shape) < 0.9
    who = np.repeat(np.arange(n), len(VISITS))[is_seen.ravel()]
    table = pandas.DataFrame(
        {
            "annees": years[is_seen].round(3),
            "updrs": np.clip(score[is_seen], -30, 132).round(2),
            "agoniste": agonist[who],
            "age": age[who],
        }
    )
    table.insert(0, "patient", np.char.add("n", who.astype(str)))
    return table, who


def make(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    table, who = visits(seed, size)
    node = common.spread(np.random.default_rng([seed, 70]), SIZES[size], NODES)
    return common.write(common.by_node(table, node[who]), directory)


def make_linked(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    """The centres' slopes, without the drugs; and SNDS's drugs, of as many other people too."""
    patients = slopes(*visits(seed, size))
    rng, n = np.random.default_rng([seed, 71]), len(patients)
    nir, is_known = common.nirs(rng, n), rng.random(n) < KNOWN_SHARE
    drugs = common.shuffled(
        rng,
        _deliveries(rng, nir[is_known], patients.pop("agoniste").to_numpy()[is_known]),
        _deliveries(rng, common.strangers(nir), rng.random(n) < 0.01),
    )
    patients.insert(1, "nir", nir)
    centres = common.by_node(patients, common.spread(rng, n, NODES))
    return common.write(centres | {"cnam": drugs}, directory)


def _deliveries(
    rng: np.random.Generator, nir: common.Texts, agonist: NDArray[np.bool_]
) -> pandas.DataFrame:
    """One to six for each person; of those with an agonist, one at least is of it."""
    number = np.repeat(np.arange(len(nir)), rng.integers(1, 7, len(nir)))
    first = np.r_[True, number[1:] != number[:-1]]
    is_agonist = agonist[number] & (first | (rng.random(len(number)) < 0.5))
    month = rng.integers(0, 97, len(number))
    return pandas.DataFrame({"beneficiaire": nir[number], "mois": month, "agoniste": is_agonist})


def make_private(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    """What each centre works out of the visits."""
    table, who = visits(seed, size)
    patients = slopes(table, who)
    node = common.spread(np.random.default_rng([seed, 70]), SIZES[size], NODES)
    return common.write(
        common.by_node(patients.drop(columns="age"), node[patients.index.to_numpy()]), directory
    )


def slopes(table: pandas.DataFrame, who: Ints) -> pandas.DataFrame:
    """A slope for each patient with three visits or more; the index is the patient's number."""
    n = np.bincount(who)
    sums = {
        name: np.bincount(who, values)
        for name, values in (("t", table["annees"]), ("y", table["updrs"]))
    }
    cross, square = (
        np.bincount(who, table["annees"] * table["updrs"]),
        np.bincount(who, table["annees"] ** 2),
    )
    spread = square - sums["t"] ** 2 / np.maximum(n, 1)
    has_slope = (n >= 3) & (spread > 4)  # over two years and more
    slope = (cross - sums["t"] * sums["y"] / np.maximum(n, 1))[has_slope] / spread[has_slope]
    numbers = np.flatnonzero(has_slope)
    return pandas.DataFrame(
        {
            "patient": np.char.add("n", numbers.astype(str)),
            "pente": np.clip(slope, -8, 12).round(3),
            "agoniste": np.bincount(who, table["agoniste"])[has_slope] > 0,
            "age": (np.bincount(who, table["age"]) / np.maximum(n, 1))[has_slope].round(),
        },
        index=numbers,
    )


def make_real(directory: Path) -> dict[str, Path]:
    table = voices()
    return common.write(
        common.by_node(table, np.array(list(NODES)[:3])[np.arange(len(table)) % 3]), directory
    )


def voices() -> pandas.DataFrame:
    """In tenths, so that a step of each is one that voices differ by."""
    raw = common.real_of_r("modeldata", "pd_speech")
    measured = {"ppe": "PPE", "dfa": "DFA", "rpde": "RPDE"}
    table = pandas.DataFrame(
        {name: (10 * raw[column]).round(4) for name, column in measured.items()}
    )
    table.insert(0, "patient", [f"v{number}" for number in raw["rownames"]])
    return table.assign(
        homme=raw["gender"].astype(int) == 1, parkinson=raw["class"].astype(str) == "PD"
    )
