"""Parcours IDM: which way do patients go after a heart attack, and does care keep to the
recommendations?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray

from federation.arrays import Floats, Ints
from simulations.pilots import common
from simulations.pilots.common import Main, Size

NOTE = (
    "synthetic pathways with planted shares; columns approximate published descriptions of e-MUST"
    " and"
    " the SNDS"
)
LINKED_NOTE = (
    "synthetic heart attacks: the emergency services know who called them, SNDS how patients fared;"
    " columns approximate published descriptions of e-MUST and SNDS"
)
REAL_NOTE = (
    "1,878 real patients of the TRACE study (SurvSet), which have no hospital:"
    " they are assigned to four nodes in turn, and a fifth holds the deaths"
)
SIZES: Mapping[Size, int] = {"small": 4000, "full": 60_000}
REGIONS = {
    "ars-bretagne": "bretagne",
    "ars-idf": "idf",
    "ars-occitanie": "occitanie",
    "ars-paca": "paca",
}
SHARES = {"ars-bretagne": 0.15, "ars-idf": 0.4, "ars-occitanie": 0.2, "ars-paca": 0.25}
LINKED_SIZES: Mapping[Size, int] = {"small": 12_000, "full": 60_000}
REGISTER = "insee"
HOLDS = {**dict.fromkeys(REGIONS, "emust"), "cnam": "suites"}
REAL_HOLDS = {**dict.fromkeys(REGIONS, "services"), REGISTER: "deces"}
KNOWN_SHARE = 0.95  # of the patients, the share that SNDS knows
ROW = {"indicator": "statine", "group": "all"}
RATIO = ("hazard_ratio", "hazard_ratio_low", "hazard_ratio_high")
MAIN = {
    name: Main(
        "statin within 30 days of angioplasty", "parcours", "indicators", ROW, truth="statin"
    )
    for name in ("study", "private")
} | {
    **dict.fromkeys(
        ("linked", "linked-private"),
        Main(
            "hazard ratio of death for patients who did not call 15",
            "modele",
            where={"term": "sans_appel"},
            columns=RATIO,
            truth="hr_no_call",
        ),
    ),
    "real": Main(
        "hazard ratio of death with heart failure", "modele", where={"term": "chf"}, columns=RATIO
    ),
}


def make(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    """The care of each patient, and an end of follow-up, in the row of the first step."""
    rng, n = np.random.default_rng([seed, 5]), SIZES[size]
    planted = common.truth(__file__)
    table = _steps(rng, n, planted)
    died, back, end = (
        rng.exponential(1 / rate, n)
        for rate in (planted["death_per_month"], planted["readmission_per_month"], 1 / 60)
    )
    end = np.minimum(end, 24)
    first = np.minimum(died, back)
    issue = np.where(first > end, "aucune", np.where(died < back, "deces", "readmission"))
    begins = ~table["patient"].duplicated()
    who = table["patient"].to_numpy()
    table["suivi"] = np.where(begins, common.month_grid(np.minimum(first, end), 24)[who], np.nan)
    table["issue"] = np.where(begins, issue[who], "")
    node = common.spread(rng, n, SHARES)
    table["region"] = np.array([REGIONS[name] for name in node])[who]
    return common.write(
        common.by_node(table.assign(patient="i" + table["patient"].astype(str)), node[who]),
        directory,
    )


def _steps(rng: np.random.Generator, n: int, planted: Mapping[str, Any]) -> pandas.DataFrame:
    """The steps of each patient's care, in the order of their days."""
    called = rng.random(n) < 0.6
    steps = [_step("appel_15", np.flatnonzero(called), np.zeros(n))]
    arrived = np.where(called, rng.exponential(0.08, n), 0.0)
    steps.append(_step("urgences", np.flatnonzero(~called | (rng.random(n) < 0.5)), arrived))
    seen = arrived + rng.exponential(0.2, n)
    viewed = rng.random(n) < 0.9
    steps.append(_step("coronarographie", np.flatnonzero(viewed), seen))
    soon = rng.random(n) < planted["angioplasty_in_a_day"]
    late = ~soon & (rng.random(n) < 0.4)
    opened, opened_at = (
        viewed & (soon | late),
        seen + np.where(soon, rng.uniform(0, 0.95, n), rng.uniform(1.5, 10, n)),
    )
    steps.append(_step("angioplastie", np.flatnonzero(opened), opened_at))
    steps.append(_step("usic", np.flatnonzero(rng.random(n) < 0.7), seen + rng.uniform(0.5, 2, n)))
    treated = rng.random(n) < planted["statin"]
    after = np.where(treated, rng.uniform(0.5, 29.5, n), rng.uniform(31, 120, n))
    steps.append(
        _step(
            "statine", np.flatnonzero(opened & (treated | (rng.random(n) < 0.5))), opened_at + after
        )
    )
    for name, share, low, high in (("consultation", 0.8, 20, 90), ("readaptation", 0.35, 15, 60)):
        steps.append(
            _step(name, np.flatnonzero(rng.random(n) < share), seen + rng.uniform(low, high, n))
        )
    return (
        pandas.concat(steps).sort_values(["patient", "jour"], kind="stable").reset_index(drop=True)
    )


def _step(name: str, who: Ints, at: Floats) -> pandas.DataFrame:
    return pandas.DataFrame({"patient": who, "acte": name, "jour": np.round(at[who], 2)})


def make_linked(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    """The emergency services' heart attacks, and what SNDS knows of these patients and of as many
    others."""
    rng, n = np.random.default_rng([seed, 51]), LINKED_SIZES[size]
    planted = common.truth(__file__)
    nir, called = common.nirs(rng, n), rng.random(n) < 0.6
    age = np.clip(rng.normal(65, 13, n), 25, 100).round()
    opened = rng.random(n) < np.where(called, 0.8, 0.6)
    emust = pandas.DataFrame(
        {
            "dossier": np.char.add("e", np.arange(n).astype(str)),
            "nir": nir,
            "appel_15": called,
            "angioplastie": opened,
            "age": age,
        }
    )
    death = planted["death_per_month"] * planted["hr_no_call"] ** ~called
    death = death * planted["hr_age_10"] ** ((age - 65) / 10)
    statin = rng.random(n) < np.where(opened, planted["statin"], 0.55)
    is_known = rng.random(n) < KNOWN_SHARE
    snds = common.shuffled(
        rng,
        _snds(rng, planted, nir, death, statin)[lambda rows: is_known[rows["number"]]],
        _snds(rng, planted, common.strangers(nir), rng.permutation(death), rng.random(n) < 0.3),
    ).drop(columns="number")
    nodes = common.by_node(emust, common.spread(rng, n, SHARES))
    return common.write(nodes | {"cnam": snds}, directory)


def _snds(
    rng: np.random.Generator,
    planted: Mapping[str, float],
    nir: common.Texts,
    death: Floats,
    statin: NDArray[np.bool_],
) -> pandas.DataFrame:
    """The first month's care, and the row that ends the follow-up."""
    n = len(nir)
    died = common.weibull(rng, death)
    back = common.weibull(rng, np.full(n, planted["readmission_per_month"]))
    end = np.minimum(rng.exponential(60, n), 24)
    first = np.minimum(died, back)
    issue = np.where(first > end, "aucune", np.where(died < back, "deces", "readmission"))
    start = {"mois": 0.0, "issue": "aucune", "statine_30j": statin}
    last = {"mois": common.month_grid(np.minimum(first, end), 24), "issue": issue}
    who = {"beneficiaire": nir, "number": np.arange(n)}
    return pandas.concat(
        [pandas.DataFrame(who | start), pandas.DataFrame(who | last | {"statine_30j": False})]
    )


def make_real(directory: Path) -> dict[str, Path]:
    """Covariates at the wards, deaths at a register."""
    table = trace()
    wards = table.drop(columns=["time", "event"])
    node = np.array(list(REGIONS))[np.arange(len(table)) % len(REGIONS)]
    deaths = table[["pid", "time", "event"]].rename(columns={"pid": "numero"})
    deaths = deaths.sample(frac=1, random_state=1).reset_index(drop=True)
    return common.write(common.by_node(wards, node) | {REGISTER: deaths}, directory)


def trace() -> pandas.DataFrame:
    """One row a patient, with what both holders know."""
    raw = common.real("TRACE")
    flags = {
        name: raw[f"fac_{name}"].astype(float).astype(int) for name in ("chf", "diabetes", "vf")
    }
    return raw[["pid", "time", "event"]].assign(
        pid=raw["pid"].astype(str),
        time=raw["time"].astype(float).round(3),
        age=raw["num_age"],
        wmi=raw["num_wmi"],
        **flags,
    )
