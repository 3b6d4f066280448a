"""REXETRIS (CHU de Limoges): does more exposure to immunosuppressants keep a kidney graft alive for
longer?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas

from federation.arrays import Floats
from simulations.pilots import common
from simulations.pilots.common import Main, Size

NOTE = (
    "synthetic grafts with a planted effect of exposure;"
    " columns approximate published descriptions of ABIS and Cristal"
)
LINKED_NOTE = (
    "synthetic grafts whose exposure the centres measured, and whose end the national register"
    " Cristal knows; columns approximate published descriptions of ABIS and Cristal"
)
REAL_NOTE = (
    "5,943 real grafts of the DIVAT cohort (SurvSet); they are split by year of transplantation,"
    " because the data name no centre"
)
SIZES: Mapping[Size, int] = {"small": 8000, "full": 20_000}
NODES = {"agence-biomedecine": 0.3, "chu-bordeaux": 0.2, "chu-limoges": 0.2, "chu-toulouse": 0.3}
CENTRES = {"chu-bordeaux": 0.3, "chu-limoges": 0.3, "chu-toulouse": 0.4}
HOLDS = {**dict.fromkeys(CENTRES, "abis"), "agence-biomedecine": "cristal"}
KNOWN_SHARE = 0.97  # of the grafts, the share that Cristal knows under the centre's number
RATIO = ("hazard_ratio", "hazard_ratio_low", "hazard_ratio_high")
MAIN = dict.fromkeys(
    ("study", "private", "linked", "linked-private"),
    Main(
        "hazard ratio of graft loss per 50 mg.h/L",
        "modele",
        where={"term": "exposition"},
        columns=RATIO,
        truth="hr_per_50",
    ),
) | {
    "real": Main(
        "hazard ratio of failure after an earlier graft",
        "modele",
        where={"term": "graft"},
        columns=RATIO,
    ),
}
VISITS = np.array([0, 6, 24, 60, 120.0])  # months of the intervals' ends


def make(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    rng, n = np.random.default_rng([seed, 1]), SIZES[size]
    planted = common.truth(__file__)
    donor, delayed = np.clip(rng.normal(52, 15, n), 10, 90).round(), rng.random(n) < 0.25
    # The exposure at each visit.
    level = np.clip(rng.normal(150, 45, n), 40, 280)[:, None] + rng.normal(
        0, 40, (n, len(VISITS) - 1)
    )
    widths = np.diff(VISITS)
    mean_so_far = np.clip(
        (np.maximum(level, 0) * widths).cumsum(1) / widths.cumsum(), 0, 300
    ).round(1)
    fixed = planted["hr_donor_age_10"] ** ((donor - 50) / 10) * planted["hr_delayed"] ** delayed
    loss = (
        planted["loss_per_month"]
        * fixed[:, None]
        * planted["hr_per_50"] ** ((mean_so_far - 150) / 50)
    )
    death = np.broadcast_to(planted["death_per_month"] * 1.04 ** (donor - 50)[:, None], loss.shape)
    table = intervals(rng, loss, death, rng.uniform(24, 120, n))
    who = table["patient"].to_numpy()
    table["auc_tacrolimus"], table["age_donneur"] = (
        mean_so_far[who, table.pop("interval")],
        donor[who],
    )
    table["reprise_retardee"] = delayed[who]
    node = common.spread(rng, n, NODES)
    return common.write(
        common.by_node(table.assign(patient="g" + table["patient"].astype(str)), node[who]),
        directory,
    )


def intervals(
    rng: np.random.Generator, loss: Floats, death: Floats, end: Floats
) -> pandas.DataFrame:
    """One row per patient and interval until the first event or `end`. A time is drawn in each
    interval from its constant hazards, and rounded to the month."""
    rows = []
    alive = np.ones(len(end), np.bool_)
    for i, (start, stop) in enumerate(itertools.pairwise(VISITS)):
        who = np.flatnonzero(alive & (end > start))
        wait = rng.exponential(1.0, len(who)) / (loss[who, i] + death[who, i])
        until = np.minimum(np.minimum(start + wait, stop), end[who])
        events = (start + wait <= stop) & (start + wait <= end[who])
        of_loss = rng.random(len(who)) < loss[who, i] / (loss[who, i] + death[who, i])
        issue = np.where(events, np.where(of_loss, "perte", "deces"), "aucune")
        rows.append(
            pandas.DataFrame(
                {
                    "patient": who,
                    "interval": i,
                    "debut": start,
                    "fin": np.ceil(until),
                    "issue": issue,
                }
            )
        )
        alive[who[events | (until >= end[who])]] = False
    return pandas.concat(rows, ignore_index=True)


def make_linked(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    """The centres' measured exposures, of which their mean matters; and Cristal's donors and ends
    of grafts, those of other centres among them."""
    rng, n = np.random.default_rng([seed, 21]), SIZES[size]
    planted = common.truth(__file__)
    number = np.char.add("C", rng.permutation(9 * n)[: 2 * n].astype(str))
    who = np.repeat(np.arange(n), rng.integers(1, 5, n))
    level = np.clip(rng.normal(150, 45, n), 40, 280)
    auc = np.clip(level[who] + rng.normal(0, 25, len(who)), 0, 300).round(1)
    mean = np.bincount(who, auc) / np.bincount(who)
    grafts = _cristal(rng, planted, mean).assign(numero=number[:n])
    others = _cristal(rng, planted, rng.permutation(mean)).assign(numero=number[n:])
    measured = pandas.DataFrame({"numero": number[who], "auc_tacrolimus": auc})
    centres = common.by_node(measured, common.spread(rng, n, CENTRES)[who])
    cristal = common.shuffled(rng, grafts[rng.random(n) < KNOWN_SHARE], others)
    return common.write(centres | {"agence-biomedecine": cristal}, directory)


def _cristal(
    rng: np.random.Generator, planted: Mapping[str, float], exposure: Floats
) -> pandas.DataFrame:
    """Donors, and months until the graft is lost, the patient dies or follow-up ends."""
    n = len(exposure)
    donor, delayed = np.clip(rng.normal(52, 15, n), 10, 90).round(), rng.random(n) < 0.25
    loss = (
        planted["loss_per_month"]
        * planted["hr_donor_age_10"] ** ((donor - 50) / 10)
        * planted["hr_delayed"] ** delayed
        * planted["hr_per_50"] ** ((exposure - 150) / 50)
    )
    lost = common.weibull(rng, loss)
    died = common.weibull(rng, planted["death_per_month"] * 1.04 ** (donor - 50))
    end = rng.uniform(24, 120, n)
    first = np.minimum(lost, died)
    issue = np.where(first > end, "aucune", np.where(lost < died, "perte", "deces"))
    months = common.month_grid(np.minimum(first, end), 120)
    return pandas.DataFrame(
        {"age_donneur": donor, "reprise_retardee": delayed, "mois": months, "issue": issue}
    )


def make_real(directory: Path) -> dict[str, Path]:
    raw = common.real("dataDIVAT1").rename(
        columns={"num_ageR": "age", "fac_sexR": "sex", "fac_graft": "graft"}
    )
    year = raw["num_year_tx"].astype(int).to_numpy()
    node = np.array(list(NODES))[np.digitize(year, [2001, 2004, 2007])]
    return common.write(
        common.by_node(
            raw[["pid", "time", "event", "age", "sex", "graft"]].assign(
                graft=raw["graft"].astype(int)
            ),
            node,
        ),
        directory,
    )
