"""The people of the attacks in exact mode. The target is the one woman of 93 at node n0, in two
worlds that differ in her record."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import duckdb
import numpy as np
import pandas

CONTRACT = """
dataset: people
version: 1
person: nir
columns:
  nir: {type: string}
  age: {type: number, range: [18, 110]}
  sex: {type: category, levels: [F, M]}
  band: {type: category, levels: [young, middle, old, oldest]}
  region: {type: category, levels: [n, s, e, w]}
  ward: {type: category, levels: [w0, w1, w2, w3, w4, w5, w6, w7]}
  income: {type: number, range: [0, 1000000]}
  dose: {type: number, range: [0, 20]}
  begin: {type: number, range: [0, 60]}
  birth: {type: date}
  time: {type: number, range: [0, 60], step: 1}
  event: {type: boolean}
  cause: {type: category, levels: [none, relapse, death]}
  treated: {type: boolean}
  hiv: {type: boolean}
  lab: {type: number, range: [0, 300]}
  visits: {type: number, range: [0, 50]}
  weight: {type: number, range: [0, 3]}
  week: {type: number, range: [0, 103], step: 1}
  seen: {type: date}
  diagnosis: {type: code, terminology: cim-10}
"""
VISITS = CONTRACT.replace("person: nir\n", "unit: visit\n").replace("  nir: {type: string}\n", "")
STEPS = """
dataset: people
version: 1
person: nir
rows_per_person: 12
columns:
  nir: {type: string}
  age: {type: number, range: [18, 110]}
  sex: {type: category, levels: [F, M]}
  hiv: {type: boolean}
  step: {type: category, levels: [doctor, emergency, surgery, home]}
  day: {type: number, range: [0, 4000], step: 1}
  days: {type: number, range: [1, 100], step: 1}
  exposed: {type: boolean}
  events: {type: number, range: [0, 9], step: 1}
"""
WORLDS = ("healthy", "ill")
PEOPLE = 400  # of each node
FOLDER = tempfile.TemporaryDirectory(prefix="attacks-")


def people(world: str, node: int, n: int = PEOPLE) -> pandas.DataFrame:
    """`n` people of a node; the first of node 0 is the target."""
    rng = np.random.default_rng(100 + node)
    age = np.rint(np.clip(rng.normal(62, 14, n), 20, 91))
    table = pandas.DataFrame(
        {
            "nir": [f"p{node}{i:03d}" for i in range(n)],
            "age": age,
            "sex": rng.choice(["F", "M"], n),
            "band": "",
            "region": rng.choice(list("nsew"), n),
            "ward": rng.choice([f"w{i}" for i in range(8)], n),
            "income": np.rint(rng.lognormal(10.2, 0.4, n)),
            "dose": rng.uniform(1, 19, n).round(2),
            "begin": rng.integers(0, 60, n),
            "birth": "",
            "time": rng.integers(1, 60, n),
            "event": rng.random(n) < 0.4,
            "cause": rng.choice(["none", "relapse", "death"], n, p=[0.5, 0.3, 0.2]),
            "treated": rng.random(n) < 0.5,
            "hiv": rng.random(n) < 0.15,
            "lab": rng.normal(150, 20, n).clip(0, 300).round(1),
            "visits": rng.poisson(4, n),
            "weight": rng.uniform(0.5, 1.5, n).round(3),
            "week": rng.integers(0, 104, n),
            "seen": [f"2025-{month:02d}-15" for month in rng.integers(1, 12, n)],
            "diagnosis": rng.choice(["I10", "E11.9", "C50.1", "I21.4", "J44.0"], n),
        }
    )
    if node == 0:
        _set_target(table, world)
    bounds = [0, 50, 65, 80, 200]
    table["band"] = pandas.cut(
        table["age"], bounds, right=False, labels=["young", "middle", "old", "oldest"]
    ).astype(str)
    table["birth"] = [f"{2026 - int(a)}-06-15" for a in table["age"]]
    return table


def _set_target(table: pandas.DataFrame, world: str) -> None:
    """Makes the first person the target."""
    ill = world == "ill"
    target = {
        "age": 93,
        "sex": "F",
        "region": "n",
        "ward": "w3",
        "hiv": ill,
        "event": ill,
        "time": 59 if ill else 31,
        "income": 123457 if ill else 23457,
        "cause": "death" if ill else "none",
        "treated": ill,
        "dose": 18.0 if ill else 4.0,
        "seen": "2025-12-24",
        "diagnosis": "B20.1" if ill else "I10",
    }
    for name, value in target.items():
        table.loc[0, name] = value
    table.loc[0, "lab"] = np.nan


def steps(world: str, node: int, n: int = PEOPLE) -> pandas.DataFrame:
    """Two to five steps of each of `n` people. The target goes home from surgery eleven times, and
    where she is ill after twenty days more each time."""
    rng = np.random.default_rng(200 + node)
    table, rows = people(world, node, n), []
    for place, person in enumerate(table.itertuples()):
        is_target = node == 0 and place == 0
        names = ["surgery", "home"] * 6 if is_target else [
            *rng.choice(["doctor", "emergency"], 1),
            *rng.choice(["doctor", "emergency", "surgery", "home"], rng.integers(1, 5)),
        ]  # fmt: skip
        day = int(rng.integers(0, 300))
        for step in names:
            is_exposed = bool(rng.random() < 0.4)
            events = int(rng.poisson(0.8 if is_exposed else 0.3)) + 9 * (is_target and is_exposed)
            rows.append(
                (person.nir, person.age, person.sex, person.hiv, step, day,
                 int(rng.integers(5, 100)), is_exposed, min(events, 9))
            )  # fmt: skip
            day += int(rng.integers(1, 40)) + (20 if is_target and world == "ill" else 0)
    names = ["nir", "age", "sex", "hiv", "step", "day", "days", "exposed", "events"]
    return pandas.DataFrame(rows, columns=names)


@cache
def rows_of(world: str, node: int, unit: str, n: int) -> Path:
    """The file of a node's rows, written once for all attacks."""
    if unit == "step":
        rows = steps(world, node, n)
    else:
        rows = people(world, node, n).drop(columns=["nir"] if unit == "visit" else [])
    path = Path(FOLDER.name) / f"{world}-{unit}-{n}-n{node}.parquet"
    dates = [f"CAST({name} AS DATE) AS {name}" for name in ("birth", "seen") if name in rows]
    chosen = f"SELECT * REPLACE ({', '.join(dates)}) FROM rows" if dates else "FROM rows"
    duckdb.sql(f"COPY ({chosen}) TO '{path}'")
    assert len(rows) >= n
    return path
