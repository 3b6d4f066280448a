"""Oscour (Santé publique France): which emergency visits stand out from those of the same season in
other years?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb
import numpy as np
import pandas

from federation import contract as contracts
from simulations.pilots import common
from simulations.pilots.common import Main, Size

NOTE = (
    "synthetic visits with seasons, trends and one planted outbreak;"
    " columns approximate the summaries of emergency visits"
)
SIZES: Mapping[Size, int] = {"small": 1_500_000, "full": 130_000_000}
NODES = {
    "oru-auvergne-rhone-alpes": 0,
    "oru-grand-est": 1,
    "oru-ile-de-france": 2,
    "oru-nouvelle-aquitaine": 3,
}  # each with every fourth region
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
