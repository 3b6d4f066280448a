"""Hydro (heart-failure crises from pacemakers): can a network that reads daily telemonitoring
foresee a stay for heart failure?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb
import numpy as np
import pandas

from simulations.pilots import common
from simulations.pilots.common import Main, Size

NOTE = (
    "synthetic daily series of pacemakers, joined at the node with stays from a claims-like table;"
    " a crisis is preceded by two weeks of decline"
)
LINKED_NOTE = (
    "synthetic daily series of pacemakers, summed up over a window at the hospitals; the stays in"
    " the two weeks after it are known to SNDS alone"
)
SIZES: Mapping[Size, int] = {"small": 1_500, "full": 8_000}
DAYS, WINDOW, AHEAD = 168, 28, 14  # of observation, of a window of the series, and ahead of its end
CHANNELS = ("activite", "frequence_nocturne", "variabilite", "impedance")
NODES = {"chu-bordeaux": 0.2, "chu-lille": 0.3, "chu-nantes": 0.2, "chu-rennes": 0.3}
LINKED_SIZES: Mapping[Size, int] = {"small": 8_000, "full": 8_000}  # one window each
HOLDS = {**dict.fromkeys(NODES, "fenetres"), "cnam": "soins"}
KNOWN_SHARE = 0.97  # of the patients, the share that SNDS knows
AUC = ("auc", "conf_low", "conf_high")
MAIN = {
    "study": Main("area under the ROC curve, GRU", "reseau", "glance", columns=AUC),
    "private": Main("area under the ROC curve, GRU", "reseau", "glance", columns=AUC),
} | dict.fromkeys(
    ("linked", "linked-private"),
    Main("area under the ROC curve, from a window's features", "reseau", "glance", columns=AUC),
)
PRIVATE_PATIENTS = 8_000


def make(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    return _make(directory, seed, SIZES[size])


def make_private(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    return _make(directory, seed, max(SIZES[size], PRIVATE_PATIENTS))


def make_linked(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    """The last window of each patient at the hospitals; and SNDS's care of the days after it, of
    as many other people too."""
    rng, n = np.random.default_rng([seed, 101]), LINKED_SIZES[size]
    daily, stays = people(rng, n, common.truth(__file__), days=WINDOW + AHEAD)
    nir = common.nirs(rng, n)
    # the series end with the window
    table = windows(daily, stays, until=WINDOW).drop(columns=["crise", "telesuivi"])
    table.insert(1, "nir", nir[table["number"]])
    is_known = rng.random(n) < KNOWN_SHARE
    rows = pandas.concat([_deliveries(n), stays.assign(ic=True)])
    numbers = rows.pop("patient").to_numpy()
    of_patients = rows.assign(beneficiaire=nir[numbers])[is_known[numbers]]
    others = rows.assign(beneficiaire=common.strangers(nir)[rng.permutation(n)[numbers]])
    nodes = common.by_node(table, common.spread(rng, n, NODES)[table.pop("number")])
    care = common.shuffled(rng, of_patients, others).rename(columns={"entree": "jour"})
    return common.write(nodes | {"cnam": care}, directory)


def _deliveries(n: int) -> pandas.DataFrame:
    """Drugs for each patient, one time before the window's end and one after."""
    days = pandas.DataFrame({"entree": [10, WINDOW + 5], "ic": False})
    return pandas.DataFrame({"patient": np.arange(n)}).merge(days, how="cross")


def _make(directory: Path, seed: int, n: int) -> dict[str, Path]:
    rng = np.random.default_rng([seed, 10])
    at = common.spread(rng, n, NODES)
    table = windows(*people(rng, n, common.truth(__file__)))
    node = at[table.pop("number").to_numpy()]
    return common.write(common.by_node(table, node), directory)


def people(
    rng: np.random.Generator, n: int, planted: Mapping[str, float], days: int = DAYS
) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """The telemonitoring table, a row for each patient and day; and the stays."""
    decline = np.zeros((n, days), np.float32)
    number, day = np.nonzero(rng.random((n, days // AHEAD)) < planted["crises_per_fortnight"])
    crisis = day * AHEAD + rng.integers(0, AHEAD, len(day))
    for back in range(
        int(planted["warning_days"])
    ):  # it grows until the day of the stay, and is over after it
        before = crisis - back
        declines = before >= 0
        decline[number[declines], before[declines]] = np.maximum(
            decline[number[declines], before[declines]], 1 - back / planted["warning_days"]
        )
    level = rng.standard_normal((n, 1, 4), dtype=np.float32) * np.float32(
        planted["patients_differ"]
    )
    slow = np.cumsum(rng.standard_normal((n, days, 4), dtype=np.float32), axis=1) * np.float32(0.04)
    noise = rng.standard_normal((n, days, 4), dtype=np.float32) * np.float32(planted["daily_noise"])
    direction = np.array([-1.0, 0.8, -0.6, -1.2], np.float32) * np.float32(planted["signal"])
    series = np.clip(level + slow + noise + decline[:, :, None] * direction, -6, 6)
    patient, day = np.repeat(np.arange(n), days), np.tile(np.arange(days), n)
    daily = pandas.DataFrame(
        {
            "patient": patient,
            "jour": day,
            **{name: series[:, :, j].ravel() for j, name in enumerate(CHANNELS)},
        }
    )
    return daily, pandas.DataFrame({"patient": number, "entree": crisis})


def windows(
    daily: pandas.DataFrame, stays: pandas.DataFrame, until: int = DAYS - WINDOW
) -> pandas.DataFrame:
    """The table of a node: for each patient and window, the series as an array, the means and
    trends of its channels, and whether a stay began in the two weeks after it. It is prepared in
    SQL, as a producer would."""
    listed = ", ".join(CHANNELS)
    features = ", ".join(
        f"greatest(least(avg({name}) FILTER (jour % {WINDOW} >= {WINDOW - 7}), 6), -6)"
        f" AS {name}_7j, "
        f"greatest(least(regr_slope({name}, jour % {WINDOW}), 1), -1) AS {name}_pente"
        for name in CHANNELS
    )
    connection = duckdb.connect()
    connection.register("telesuivi", daily)
    connection.register("sejours", stays)
    return connection.execute(
        f"""
        SELECT 'p' || w.patient AS patient, w.patient AS number, EXISTS (
            SELECT 1 FROM sejours s
            WHERE s.patient = w.patient AND s.entree > w.fin AND s.entree <= w.fin + {AHEAD}
        ) AS crise, w.* EXCLUDE (patient, fin)
        FROM (
            SELECT patient, (jour // {WINDOW}) * {WINDOW} + {WINDOW - 1} AS fin,
                flatten(list([{listed}] ORDER BY jour)) AS telesuivi, {features}
            FROM telesuivi WHERE jour < {until} GROUP BY patient, jour // {WINDOW}
        ) w ORDER BY w.patient, w.fin
        """
    ).df()
