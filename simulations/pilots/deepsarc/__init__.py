"""Deepsarc (Centre Léon Bérard): which sarcoma care lowers the risk of relapse, among comparable
patients?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas
from numpy.typing import NDArray
from scipy import special

from federation.arrays import Floats
from simulations.pilots import common
from simulations.pilots.common import Main, Size

NOTE = (
    "synthetic patients whose treatment and risk depend on the same covariates; the centres hold"
    " the treatment, SNDS the relapse; columns approximate published descriptions of NETSARC"
)
REAL_NOTE = (
    "192 real patients of six institutions (SurvSet, d.oropha.rec), two institutions per node;"
    " times are on a grid of months"
)
SIZES: Mapping[Size, int] = {"small": 10_000, "full": 50_000}
NODES = {
    "centre-leon-berard": 0.3,
    "gustave-roussy": 0.25,
    "institut-bergonie": 0.2,
    "institut-curie": 0.15,
    "oscar-lambret": 0.1,
}
HOLDS = {**dict.fromkeys(NODES, "netsarc"), "cnam": "snds"}
RATIO = ("hazard_ratio", "hazard_ratio_low", "hazard_ratio_high")
MAIN = {
    "study": Main(
        "hazard ratio of relapse with review, weighted",
        "effet",
        where={"term": "rcp_avant"},
        columns=RATIO,
        truth="hr_marginal",
    ),
    "private": Main(
        "hazard ratio of relapse with review, adjusted",
        "ajuste",
        where={"term": "rcp_avant"},
        columns=RATIO,
        truth="hr_review",
    ),
    "real": Main(
        "hazard ratio of death with chemotherapy, weighted",
        "effet",
        where={"term": "treatm[2]"},
        columns=RATIO,
    ),
}


def people(
    rng: np.random.Generator, n: int, planted: Mapping[str, float]
) -> tuple[pandas.DataFrame, Floats]:
    """Patients before treatment, and their hazard of relapse without review."""
    age, size = (
        np.clip(rng.normal(58, 16, n), 18, 100).round(),
        np.clip(rng.gamma(3, 3, n), 0.5, 30).round(1),
    )
    grade, site = (
        rng.choice(["g1", "g2", "g3"], n, p=[0.25, 0.35, 0.4]),
        rng.choice(["membre", "tronc", "retroperitoine", "tete_cou"], n, p=[0.5, 0.2, 0.2, 0.1]),
    )
    hazard = planted["relapse_per_month"] * planted["hr_size_10"] ** ((size - 9) / 10)
    hazard = hazard * np.where(
        grade == "g2", planted["hr_grade_2"], np.where(grade == "g3", planted["hr_grade_3"], 1.0)
    )
    return pandas.DataFrame(
        {
            "age": age,
            "sexe": rng.choice(["f", "m"], n),
            "taille": size,
            "grade": grade,
            "siege": site,
        }
    ), hazard


def make(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    rng, n = np.random.default_rng([seed, 2]), SIZES[size]
    planted = common.truth(__file__)
    table, hazard = people(rng, n, planted)
    severe = (
        0.05 * (table["taille"] - 9)
        + 0.6 * (table["grade"] == "g3")
        + 0.3 * (table["siege"] == "retroperitoine")
        - 0.01 * (table["age"] - 58)
    )
    reviewed = rng.random(n) < special.expit(severe.to_numpy() - 0.2)
    time, end = (
        common.weibull(rng, hazard * np.where(reviewed, planted["hr_review"], 1.0)),
        rng.uniform(12, 96, n),
    )
    table["rcp_avant"] = reviewed
    table.insert(0, "patient", [f"p{i}" for i in range(n)])
    table.insert(1, "nir", common.nirs(rng, n))
    follow_up, relapsed = common.month_grid(np.minimum(time, end), 96), time <= end
    centres = common.by_node(table, common.spread(rng, n, NODES))
    return common.write(centres | {"cnam": snds(rng, table["nir"], follow_up, relapsed)}, directory)


def snds(
    rng: np.random.Generator,
    nir: pandas.Series[str],
    follow_up: Floats,
    relapsed: NDArray[np.bool_],
) -> pandas.DataFrame:
    """Up to three times of care of each patient, the last of which ends the follow-up; and of as
    many other people."""
    n = len(nir)
    last = pandas.DataFrame({"beneficiaire": nir, "mois": follow_up, "evenement": relapsed})
    earlier = [
        pandas.DataFrame(
            {"beneficiaire": nir, "mois": np.floor(follow_up * rng.random(n)), "evenement": False}
        )[rng.random(n) < 0.6]
        for _ in range(2)
    ]
    others = pandas.DataFrame(
        {
            "beneficiaire": common.strangers(nir.to_numpy(str)),
            "mois": rng.integers(1, 97, n),
            "evenement": rng.random(n) < 0.3,
        }
    )
    rows = pandas.concat([last, *earlier, others])
    return rows.sample(frac=1, random_state=n).reset_index(drop=True)


def make_real(directory: Path) -> dict[str, Path]:
    raw = common.real("d.oropha.rec")
    table = raw[["pid", "time", "event"]].assign(
        age=raw["num_age"],
        nstage=raw["num_nstage"],
        tstage=raw["num_tstage"],
        **{name: raw[f"fac_{name}"].astype(int) for name in ("sex", "treatm", "inst")},
    )
    node = np.array(list(NODES)[:3])[(table["inst"].to_numpy() - 1) % 3]
    return common.write(common.by_node(table, node), directory)


def marginal(n: int = 2_000_000) -> float:
    """The target of weighting: the hazard ratio of a Cox model if review were randomised, with the
    follow-up of the pilot. It is closer to 1 than the ratio at equal covariates, because patients
    with high hazards leave first."""
    rng, planted = np.random.default_rng(7), common.truth(__file__)
    _, hazard = people(rng, n, planted)
    reviewed = rng.random(n) < 0.5
    time, end = (
        common.weibull(rng, hazard * np.where(reviewed, planted["hr_review"], 1.0)),
        rng.uniform(12, 96, n),
    )
    stop, event = common.month_grid(np.minimum(time, end), 96).astype(int), time <= end
    beta = 0.0
    at_risk = [
        np.bincount(stop[reviewed == arm], minlength=98)[::-1].cumsum()[::-1]
        for arm in (False, True)
    ]
    died = [np.bincount(stop[event & (reviewed == arm)], minlength=98) for arm in (False, True)]
    for _ in range(20):  # Newton on Breslow's partial likelihood of one indicator
        treated = at_risk[1] * np.exp(beta)
        share = treated / np.maximum(treated + at_risk[0], 1e-12)
        d = died[0] + died[1]
        beta += float((died[1] - d * share).sum() / (d * share * (1 - share)).sum())
    return float(np.exp(beta))
