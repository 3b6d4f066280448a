"""People known to a register and to an insurer, as two tables, and the same people joined in one
place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from aggregator import linkage as linkages
from aggregator import release, rounds
from aggregator.document import Document
from federation import datasets, errors, yaml_source
from federation.contract import Contract
from federation.linkage import table
from federation.study import Study
from nodes import link_rows
from nodes.site import Dataset
from simulations import linked, local

NOW = datetime(2026, 11, 1, tzinfo=UTC)
REGISTER = """
dataset: register
version: 1
person: nir
identifiers:
  nir: {column: nir, form: nir13}
  birth: {column: born, form: date}
  name: {column: surname, form: text}
  first: {column: first, form: text}
  sex: {column: sex, form: text}
columns:
  nir: {type: string}
  surname: {type: string}
  first: {type: string}
  born: {type: date}
  sex: {type: category, levels: [f, m]}
  age: {type: number, range: [0, 110], step: 1, max_missing: 0.5}
  grade: {type: category, levels: [low, middle, high]}
  year: {type: number, range: [2000, 2025], step: 1}
  seen: {type: date}
"""
INSURER = """
dataset: insurer
version: 2
person: number
rows_per_person: 6
identifiers:
  nir: {column: number, form: nir13}
  birth: {column: birthday, form: date}
  name: {column: family, form: text}
  first: {column: given, form: text}
  sex: {column: gender, form: text}
columns:
  number: {type: string}
  family: {type: string}
  given: {type: string}
  birthday: {type: date}
  gender: {type: string}
  spent: {type: number, range: [0, 500], step: 1, unit: euros}
  months: {type: number, range: [0, 60], step: 1}
  died: {type: boolean}
  day: {type: date}
  drug: {type: category, levels: [a, b]}
"""
STUDY = """
study: linked
title: t
question: q
purpose: {interest: public, category: research}
authorisation: {reference: A, expires: 2030-01-01}
datasets:
  register: {cohort: {where: "year >= 2005"}}
  insurer:
    per_person: {spent: "sum(spent)", months: "max(months)", died: "any(died)", visits: "count()",
                 drug: "last(drug, day)", last_day: "max(day)"}
link: {on: nir, left: register, right: insurer, helper: casd}
min_nodes: 3
privacy: {mode: exact}
analyses: {all: {run: describe, columns: [age, spent, visits]}}
"""


def values(text: str) -> dict[str, Any]:
    return dict(yaml_source.parse(text, name="a.yaml", error=errors.StudyError).values)


CONTRACTS = {
    "register": Contract.model_validate(values(REGISTER)),
    "insurer": Contract.model_validate(values(INSURER)),
}


def study(**changes: Any) -> Study:
    given = values(STUDY)
    link = {**given["link"], **changes.pop("link", {})}
    return Study.model_validate({**given, "link": link, **changes})


@dataclass(frozen=True)
class Tables:
    left: pandas.DataFrame
    right: pandas.DataFrame


def make(n_left: int = 700, n_right: int = 1500, both: int = 600, seed: int = 0) -> Tables:
    """The effect of age on death and of grade on costs crosses the two tables."""
    rng = np.random.default_rng(seed)
    everyone = n_left + n_right - both
    nir = np.array(
        [f"{1 + i % 2}{10 + i % 80:02d}{1 + i % 12:02d}75{i:06d}" for i in range(everyone)]
    )
    people = pandas.DataFrame({"nir": nir})
    people["sex"] = np.where(np.arange(everyone) % 2 == 0, "m", "f")
    people["surname"] = [f"name {i * 7919 % 5000}" for i in range(everyone)]
    people["first"] = [f"first {i * 104729 % 3000}" for i in range(everyone)]
    people["born"] = pandas.to_datetime("1930-01-01") + pandas.to_timedelta(
        rng.integers(0, 30_000, everyone), "D"
    )
    people["age"] = rng.integers(20, 91, everyone).astype(float)
    people.loc[rng.random(everyone) < 0.05, "age"] = np.nan
    people["grade"] = rng.choice(["low", "middle", "high"], everyone)
    people["year"] = rng.integers(2000, 2021, everyone)
    people["seen"] = pandas.to_datetime("2020-01-01") + pandas.to_timedelta(
        rng.integers(0, 300, everyone), "D"
    )
    left = people.iloc[rng.permutation(n_left)].reset_index(drop=True)
    return Tables(left, _right(rng, people.iloc[n_left - both :]))


def _right(rng: np.random.Generator, people: pandas.DataFrame) -> pandas.DataFrame:
    rows = people.loc[np.repeat(people.index.to_numpy(), rng.integers(1, 7, len(people)))]
    n = len(rows)
    age = rows["age"].fillna(50).to_numpy()
    table_ = pandas.DataFrame(
        {
            "number": [f"{nir[:1]} {nir[1:3]} {nir[3:]}" for nir in rows["nir"]],
            "family": rows["surname"].str.upper().to_numpy(),
            "given": [f" {name} " for name in rows["first"]],
            "birthday": rows["born"].dt.strftime("%Y-%m-%d").to_numpy(),
            "gender": rows["sex"].str.upper().to_numpy(),
            "spent": rng.integers(0, 400, n) + 50 * (rows["grade"] == "high").to_numpy(),
            "months": rng.integers(1, 61, n),
            "died": rng.random(n) < age / 600,
            "day": (
                pandas.to_datetime("2021-01-01") + pandas.to_timedelta(rng.integers(0, 300, n), "D")
            ),
            "drug": rng.choice(["a", "b"], n),
        }
    )
    return table_.sample(frac=1, random_state=1).reset_index(drop=True)


def joined(tables: Tables, *, keep: str = "linked") -> pandas.DataFrame:
    """By pandas, from the same two tables."""
    right = tables.right.assign(nir=tables.right["number"].str.replace(" ", ""))
    ordered = right.sort_values(["nir", "day", "drug"], kind="stable")
    newest = ordered[ordered["day"] == ordered.groupby("nir")["day"].transform("max")]
    per_person = ordered.groupby("nir").agg(
        spent=("spent", "sum"), months=("months", "max"), died=("died", "any"),
        visits=("spent", "size"), last_day=("day", "max"),
    )  # fmt: skip
    per_person["drug"] = newest.groupby("nir")["drug"].min()
    left = tables.left[tables.left["year"] >= 2005]
    how = "left" if keep == "all" else "inner"
    people = left.merge(per_person.reset_index(), on="nir", how=how)
    return people.drop(columns=["surname", "first", "born"]).rename(columns={"nir": "pseudonym"})


def holders(
    folder: Path, tables: Tables, lefts: Mapping[str, pandas.DataFrame] | None = None
) -> dict[str, Dataset]:
    listed = {"lyon": tables.left} if lefts is None else lefts
    written = {name: _written(folder, name, frame, "register") for name, frame in listed.items()}
    return written | {"cnam": _written(folder, "cnam", tables.right, "insurer")}


def _written(folder: Path, name: str, frame: pandas.DataFrame, dataset: str) -> Dataset:
    path = folder / f"{name}.csv"
    frame.to_csv(path, index=False)
    return Dataset(CONTRACTS[dataset], str(path))


def run_linked(
    study_: Study, given: Mapping[str, Dataset], relay: linked.InProcessRelay | None = None
) -> Document:
    contract = datasets.contract_of(study_, CONTRACTS)
    with linked.linking(study_, CONTRACTS, given, local.SIMULATED, NOW, relay) as people:
        document = _run(study_, contract, people.sites)
    return linkages.added(document, people.linkage)


def run_joined(study_: Study, frames: Mapping[str, pandas.DataFrame], folder: Path) -> Document:
    """The study on tables that were joined in one place."""
    contract = table.linked(study_, CONTRACTS).contract
    sites = []
    for name, frame in frames.items():
        path = folder / f"joined-{name}.csv"
        frame.to_csv(path, index=False)
        sites.append(local.site(name, Dataset(contract, str(path))))
    return _run(study_, contract, sites)


def _run(study_: Study, contract: Contract, sites: Any) -> Document:
    ask = local.ask_of(sites, NOW)
    outcome = rounds.run(study_, contract, ask, [site.name for site in sites])
    return release.clear(outcome, started=NOW, finished=NOW, engine="local")


def people_alone(path: Path, key: str | None, secret: bytes) -> Iterator[link_rows.People]:
    """The insurer's people as it reads them for a link in exact mode, of a table with one row each
    and the columns `number` and `spent`. `key`: the column that names a person, if one does."""
    contract = CONTRACTS["insurer"].model_copy(
        update={
            "person": key,
            "rows_per_person": 1,
            "columns": {name: CONTRACTS["insurer"].columns[name] for name in ("number", "spent")},
            "identifiers": {"nir": CONTRACTS["insurer"].identifiers["nir"]},
        }
    )
    everyone = study().datasets["insurer"].cohort
    entry = study().datasets["register"].model_copy(update={"cohort": everyone})
    request = link_rows.Request(entry, [], [contract.identifiers["nir"]], False, secret)
    dataset = Dataset(contract, str(path))
    return link_rows.read(dataset, local.site("cnam", dataset).storage, request)
