"""Oscour (Santé publique France): which emergency visits stand out from those of the same season in
other years?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb
import numpy as np
import pandas

from federation import contract as contracts
from federation.arrays import Floats
from simulations.pilots import common
from simulations.pilots.common import Main, Size

NOTE = (
    "synthetic visits with seasons, trends and one planted outbreak;"
    " columns approximate the summaries of emergency visits"
)
LINKED_NOTE = (
    "synthetic strokes, linked without a common identifier: the emergency services hold the delay,"
    " the hospitals' claims the stay; one in twelve has a wrong date or commune"
)
SIZES: Mapping[Size, int] = {"small": 1_500_000, "full": 130_000_000}
NODES = {
    "oru-auvergne-rhone-alpes": 0,
    "oru-grand-est": 1,
    "oru-ile-de-france": 2,
    "oru-nouvelle-aquitaine": 3,
}  # each with every fourth region
LINKED_SIZES: Mapping[Size, int] = {"small": 12_000, "full": 110_000}
HOLDS = {**dict.fromkeys(NODES, "avc"), "atih": "sejours"}
HOSPITALS, COMMUNES = 300, 3000
ROW = {"series": "syndrome=gastro-enterite", "week": 467}
MAIN = {
    name: Main(
        "visits for gastroenteritis over those expected",
        "national",
        "alarms",
        ROW,
        ("ratio", "ratio_low", "ratio_high"),
        "ratio",
    )
    for name in ("study", "private")
}
MAIN |= dict.fromkeys(
    ("linked", "linked-private"),
    Main(
        "days in hospital more after a late arrival",
        "sejour",
        where={"term": "tardive"},
        truth="late_days",
    ),
)
YEAR = 52.0


def cells(rng: np.random.Generator, size: Size) -> pandas.DataFrame:
    """The number of visits by week, region, age and syndrome; about SIZES[size] in all."""
    columns = contracts.load(Path(__file__).parent / "urgences.yaml").columns
    regions, ages, syndromes = (columns[name].levels for name in ("region", "age", "syndrome"))
    planted = common.truth(__file__)
    fixed = np.random.default_rng(11)  # the country is the same for every seed
    of_region, of_age = (
        fixed.dirichlet(np.full(len(regions), 8.0)),
        np.array([0.16, 0.14, 0.46, 0.14, 0.1]),
    )
    of_syndrome = fixed.dirichlet(np.full(len(syndromes), 3.0))
    week, season, phase = (
        np.arange(468),
        fixed.uniform(0, 0.35, len(syndromes)),
        fixed.uniform(0, YEAR, len(syndromes)),
    )
    pattern = np.exp(
        season * np.cos(2 * np.pi * (week[:, None] - phase) / YEAR)
        + fixed.normal(0, 0.0004, len(syndromes)) * week[:, None]
    )
    pattern *= rng.gamma(400.0, 1 / 400.0, pattern.shape)  # more variance than Poisson's: 5 %
    pattern[planted["week"], syndromes.index(planted["syndrome"])] *= planted["ratio"]
    mean = np.einsum("ws,r,a,s->wras", pattern, of_region, of_age, of_syndrome)
    counts = rng.poisson(mean * SIZES[size] / mean.sum())
    index = np.nonzero(counts)
    names = [np.array(regions)[index[1]], np.array(ages)[index[2]], np.array(syndromes)[index[3]]]
    return pandas.DataFrame(
        {
            "semaine": index[0].astype(np.int16),
            "region": names[0],
            "age": names[1],
            "syndrome": names[2],
            "n": counts[index],
        }
    )


def make(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    """One row a visit: each cell is written as often as it has visits."""
    table = cells(np.random.default_rng([seed, 4]), size)
    regions = contracts.load(Path(__file__).parent / "urgences.yaml").columns["region"].levels
    owner = table["region"].map({name: i % len(NODES) for i, name in enumerate(regions)})
    return {
        node: write(table[owner == number], directory / f"{node}.parquet")
        for node, number in NODES.items()
    }


def write(table: pandas.DataFrame, path: Path) -> Path:
    connection = duckdb.connect()
    connection.register("cells", table)
    connection.execute(
        "COPY (SELECT semaine, region, age, syndrome FROM cells, unnest(range(n)))"
        f" TO '{path}' (FORMAT parquet)"
    )
    connection.close()
    return path


def make_linked(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    """Strokes at the emergency services; and the stays of the same patients, with wrong dates and
    communes, among twice as many stays of others."""
    rng, n = np.random.default_rng([seed, 41]), LINKED_SIZES[size]
    planted = common.truth(__file__)
    who = _patients(rng, n)
    late, severe = rng.random(n) < 0.4, rng.random(n) < 0.3
    visits = who.assign(
        passage=np.char.add("v", np.arange(n).astype(str)), tardive=late, grave=severe
    )
    mean = planted["days"] + planted["late_days"] * late + planted["severe_days"] * severe
    stays = _stays(rng, _miswritten(rng, who), mean)[rng.random(n) < 0.95]
    others = _stays(rng, _patients(rng, 2 * n), rng.choice(mean, 2 * n))
    nodes = common.by_node(visits, np.array(list(NODES))[rng.integers(0, len(NODES), n)])
    claims = common.shuffled(rng, stays, others)
    claims["sejour"] = np.char.add("s", np.arange(len(claims)).astype(str))
    return common.write(nodes | {"atih": claims}, directory)


def _patients(rng: np.random.Generator, n: int) -> pandas.DataFrame:
    """What both sides write down of a patient."""
    days = np.datetime64("2023-01-01") + rng.integers(0, 365, n).astype("timedelta64[D]")
    births = np.datetime64("1925-01-01") + rng.integers(0, 25_000, n).astype("timedelta64[D]")
    return pandas.DataFrame(
        {
            "finess": rng.integers(0, HOSPITALS, n).astype(str),
            "jour": days.astype(str),
            "naissance": births.astype(str),
            "sexe": rng.choice(["f", "m"], n),
            "commune": rng.integers(0, COMMUNES, n).astype(str),
        }
    )


def _miswritten(rng: np.random.Generator, who: pandas.DataFrame) -> pandas.DataFrame:
    """Another patient's value, in three hundredths of the days, births and communes; two patients
    in a hundred go on to another hospital."""
    wrong = who.copy()
    shares = {"finess": 0.02, "jour": 0.03, "naissance": 0.03, "commune": 0.03}
    for name, share in shares.items():
        at = np.flatnonzero(rng.random(len(who)) < share)
        wrong.loc[at, name] = rng.permutation(who[name].to_numpy())[at]
    return wrong


def _stays(rng: np.random.Generator, who: pandas.DataFrame, mean: Floats) -> pandas.DataFrame:
    days = np.clip(np.rint(rng.normal(mean, 4.0)), 0, 60)
    return who.assign(duree=days)
