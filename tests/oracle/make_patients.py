"""Writes patients.csv, visits.csv and weeks.csv for comparison with R: `python
tests/oracle/make_patients.py`. The numbers have no meaning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas

HERE = Path(__file__).parent
SITES = np.array(["ansm", "curie", "limoges", "spf"])
SHIFT = {"ansm": 0.0, "curie": 3.0, "limoges": -2.0, "spf": 1.0}  # of the score, by site


def patients(rng: np.random.Generator, n: int = 800) -> pandas.DataFrame:
    """One row a person: a treatment that hangs on age and stage, competing events, counts over
    person-time, costs."""
    age = np.clip(rng.normal(60, 13, n).round(1), 18, 100)
    sex, stage = rng.choice(["f", "m"], n), rng.choice(["i", "ii", "iii"], n, p=[0.5, 0.3, 0.2])
    late = (stage == "iii") + 0.5 * (stage == "ii")
    treated = rng.random(n) < 1 / (1 + np.exp(-(0.03 * (age - 60) + 0.8 * late - 0.4)))
    relapse = rng.exponential(40 / np.exp(0.02 * (age - 60) + 0.7 * late - 0.5 * treated))
    death = rng.exponential(70 / np.exp(0.04 * (age - 60) + 0.3 * (sex == "m")))
    end = rng.uniform(10, 60, n)
    time = np.ceil(np.minimum(np.minimum(relapse, death), end))
    cause = np.where(
        end <= np.minimum(relapse, death), "none", np.where(relapse < death, "relapse", "death")
    )
    years = (rng.uniform(0.2, 4, n)).round(3)
    ward = rng.choice(["a", "b", "c", "d", "e"], n, p=[0.3, 0.25, 0.2, 0.15, 0.1])
    admissions = rng.poisson(
        years * np.exp(-0.6 + 0.3 * (sex == "m") + 0.2 * (ward == "b") + 0.01 * (age - 60))
    )
    cost = np.where(
        rng.random(n) < 0.1, 0, np.minimum(np.rint(rng.lognormal(4.5, 1.1, n)), 5000)
    ).astype(int)
    table = {
        "person": np.arange(n),
        "site": rng.choice(SITES, n, p=[0.4, 0.3, 0.2, 0.1]),
        "age": age,
        "sex": sex,
        "stage": stage,
        "treated": treated.astype(int),
        "time": time.astype(int),
        "cause": cause,
        "years": years,
        "ward": ward,
        "admissions": admissions,
        "cost": cost,
    }
    return pandas.DataFrame(table)


def visits(rng: np.random.Generator, n: int = 400) -> pandas.DataFrame:
    """Several rows a person: a score along time with a slope of its own, periods at risk with
    events, and steps of a pathway."""
    rows = []
    site, treated, level, slope = (
        rng.choice(SITES, n),
        rng.random(n) < 0.5,
        rng.normal(0, 4, n),
        rng.normal(0, 0.25, n),
    )
    for person in range(n):
        day, months = 0, np.sort(rng.choice(37, rng.integers(3, 9), replace=False))
        frailty = rng.gamma(2, 0.5)
        for turn, month in enumerate(months):
            window = rng.choice(["none", "a", "b"], p=[0.6, 0.25, 0.15])
            band, days = ["young", "middle", "old"][min(2, turn // 3)], int(rng.integers(10, 100))
            rate = (
                0.01
                * frailty
                * np.exp(0.9 * (window == "a") + 0.3 * (window == "b") + 0.2 * (band == "old"))
            )
            score = (
                20
                + SHIFT[site[person]]
                + level[person]
                + (0.3 + slope[person] - 0.15 * treated[person]) * month
                + rng.normal(0, 2)
            )
            step = rng.choice(["emergency", "ward", "surgery", "home"], p=[0.2, 0.4, 0.1, 0.3])
            rows.append(
                (
                    person,
                    site[person],
                    int(treated[person]),
                    month,
                    round(score, 2),
                    window,
                    band,
                    days,
                    rng.poisson(rate * days),
                    step,
                    day,
                )
            )
            day += int(rng.integers(0, 30))
    names = [
        "person",
        "site",
        "treated",
        "month",
        "score",
        "window",
        "band",
        "days",
        "events",
        "step",
        "day",
    ]
    return pandas.DataFrame(rows, columns=names)


def weeks(rng: np.random.Generator, size: int = 330) -> pandas.DataFrame:
    """One row a visit: weekly counts with a season, a trend in the north, more variance than
    Poisson's, and outbreaks."""
    rows = []
    for region, mean, trend in (("north", 14.0, 0.001), ("south", 6.0, 0.0)):
        for week in range(size):
            rate = (
                mean
                * np.exp(0.4 * np.cos(2 * np.pi * week / 52) + trend * week)
                * rng.gamma(8, 1 / 8)
            )
            rate *= 3 if week in (140, 141, 142, 326, 327) and region == "north" else 1
            rows += [(week, region, rng.choice(SITES)) for _ in range(rng.poisson(rate))]
    return pandas.DataFrame(rows, columns=["week", "region", "site"])


if __name__ == "__main__":
    generator = np.random.default_rng(20261125)
    patients(generator).to_csv(HERE / "patients.csv", index=False)
    visits(generator).to_csv(HERE / "visits.csv", index=False)
    weeks(generator).to_csv(HERE / "weeks.csv", index=False)
