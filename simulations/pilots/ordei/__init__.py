"""ORDEI (ANSM): how often are adverse reactions reported, for each drug and for those exposed to
it?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from federation.arrays import Floats
from federation.contract import Contract
from simulations.pilots import common
from simulations.pilots.common import Main, Size

NOTE = (
    "synthetic reports with a planted pair; the reports are at two producers,"
    " the people exposed at two others"
)
SIZES: Mapping[Size, int] = {"small": 6000, "full": 82_000}
DRUGS: Mapping[Size, int] = {"small": 60, "full": 12_000}
EVENTS: Mapping[Size, int] = {"small": 30, "full": 337}  # high-level groups of terms
HOLDS = {
    **dict.fromkeys(("ansm", "crpv-lyon"), "signalements"),
    **dict.fromkeys(("cnam", "msa"), "exposes"),
}
PAIR = {"drug": "m0004", "event": "e003"}
MAIN = {
    "study": Main(
        "reporting odds ratio of the planted pair",
        "signaux",
        "pairs",
        PAIR,
        ("ror", "ror_low", "ror_high"),
        "odds_ratio",
    ),
    "private": Main(
        "information component of the planted pair",
        "signaux",
        "pairs",
        PAIR,
        ("ic", "ic_low", "ic_high"),
        "ic",
    ),
}


def contract(agreed: Contract, size: Size) -> Contract:
    levels = {
        "medicament": [f"m{i + 1:04d}" for i in range(DRUGS[size])],
        "effet": [f"e{i + 1:03d}" for i in range(EVENTS[size])],
    }
    return common.with_levels(agreed, levels)


def shares(size: Size) -> tuple[Floats, Floats]:
    """The shares of each drug and each event in reports: a few are frequent, most are rare."""
    drug, event = 1 / (3 + np.arange(DRUGS[size])) ** 0.9, 1 / (2 + np.arange(EVENTS[size])) ** 0.8
    return drug / drug.sum(), event / event.sum()


def make(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    """A report names one drug and one or two reactions. The reaction of the planted pair is always
    the first, so that the odds ratio equals the planted one."""
    rng, n = np.random.default_rng([seed, 3]), SIZES[size]
    planted = common.truth(__file__)
    pairs = _pairs(rng, n, size, planted)
    node = common.spread(rng, n, {"ansm": 0.6, "crpv-lyon": 0.4})
    exposed = rng.choice(
        DRUGS[size],
        round(n / planted["reports_per_exposed"] / (1 if size == "small" else 5)),
        p=shares(size)[0],
    )
    people = pandas.DataFrame({"beneficiaire": np.arange(len(exposed)), "medicament": exposed})
    reports = common.by_node(pairs, node[pairs["dossier"].to_numpy()])
    taking = common.by_node(people, common.spread(rng, len(exposed), {"cnam": 0.85, "msa": 0.15}))
    named = {name: _named(name, table, "dossier", size) for name, table in reports.items()}
    named |= {name: _named(name, table, "beneficiaire", size) for name, table in taking.items()}
    return common.write(named, directory)


def _pairs(
    rng: np.random.Generator, n: int, size: Size, planted: Mapping[str, Any]
) -> pandas.DataFrame:
    """The number of the report, of its drug and of a reaction, once each."""
    of_drug, of_event = shares(size)
    target, reaction = int(planted["drug"][1:]) - 1, int(planted["event"][1:]) - 1
    drug, event = rng.choice(DRUGS[size], n, p=of_drug), rng.choice(EVENTS[size], n, p=of_event)
    raised = of_event.copy()
    raised[reaction] *= planted["odds_ratio"]
    mine = drug == target
    event[mine] = rng.choice(EVENTS[size], int(mine.sum()), p=raised / raised.sum())
    others = np.delete(np.arange(EVENTS[size]), reaction)
    second = np.flatnonzero(rng.random(n) < 0.3)
    also = rng.choice(others, len(second))
    pairs = pandas.DataFrame(
        {
            "dossier": np.r_[np.arange(n), second],
            "medicament": np.r_[drug, drug[second]],
            "effet": np.r_[event, also],
        }
    )
    return pairs.drop_duplicates()


def _named(node: str, table: pandas.DataFrame, key: str, size: Size) -> pandas.DataFrame:
    """With codes in place of the numbers of drugs and reactions, and keys that differ by node."""
    drugs = np.array([f"m{i + 1:04d}" for i in range(DRUGS[size])])
    events = np.array([f"e{i + 1:03d}" for i in range(EVENTS[size])])
    table = table.assign(
        **{key: node[0] + table[key].astype(str)}, medicament=drugs[table["medicament"]]
    )
    return table.assign(effet=events[table["effet"]]) if "effet" in table else table


def derived_truth(size: Size) -> dict[str, float]:
    """The information component that the planted odds ratio comes to, without shrinkage."""
    planted = common.truth(__file__)
    of_drug, of_event = shares(size)
    d, p = (
        float(of_drug[int(planted["drug"][1:]) - 1]),
        float(of_event[int(planted["event"][1:]) - 1]),
    )
    raised = planted["odds_ratio"] * p / (1 - p + planted["odds_ratio"] * p)
    return {"ic": float(np.log2(raised / (d * raised + (1 - d) * p)))}
