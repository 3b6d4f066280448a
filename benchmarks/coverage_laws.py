"""Laws from which `coverage.py` draws people with several rows each, or with a week, and the true
values of the estimates.

A law has a contract, and draws a table. The true values follow from its parameters in closed form,
or from the table if they are counts of the cohort. No true value is computed by an analysis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from federation.contract import Column, Contract
from federation.results import Result

Array = np.ndarray
Table = Mapping[str, Array]
Interval = tuple[float, float, float, float]  # low, high, truth, standard deviation of the noise
Intervals = Iterator[Interval]


@dataclass(frozen=True)
class Law:
    """`draw(rng, people)`: a table, column by column. A table of several rows a person has the
    column `person` (n_rows,), numbered from 0 in ascending order."""

    contract: Contract
    draw: Callable[[np.random.Generator, int], Table]


def contract(columns: Mapping[str, Column], rows_per_person: int = 1) -> Contract:
    return Contract(
        dataset="people",
        version=1,
        person="id",
        rows_per_person=rows_per_person,
        columns={"id": Column(type="number", range=(0, 1e9)), **columns},
    )


def category(*levels: str) -> Column:
    return Column(type="category", levels=levels)


# -- sccs: events in the periods of a person
PERIODS = 4
RATE_RATIOS = {"h": 0.6, "z": -0.5}  # logarithms


def periods(rng: np.random.Generator, people: int) -> Table:
    """Four periods of each person, exposed or not. Each person has a rate of events, 0.6 a year on
    average."""
    person = np.repeat(np.arange(people), PERIODS)
    h = (rng.random(len(person)) < 0.4).astype(float)
    z, years = rng.random(len(person)), rng.uniform(0.2, 1, len(person))
    rate = rng.gamma(2, 0.3, people)[person]
    events = rng.poisson(rate * years * np.exp(RATE_RATIOS["h"] * h + RATE_RATIOS["z"] * z))
    return {
        "person": person, "h": h, "z": z, "events": events.clip(0, 8).astype(float),
        "years": years, "log(years)": np.log(years),
    }  # fmt: skip


PERIODS_LAW = Law(
    contract(
        {
            "h": Column(type="boolean"),
            "z": Column(type="number", range=(0, 1)),
            "events": Column(type="number", range=(0, 8)),
            "years": Column(type="number", range=(0, 1)),
        },
        PERIODS,
    ),
    periods,
)


# -- pathways: a chain of steps, with a waiting time before each
STEPS, LONGEST, WAIT, WITHIN = ("a", "b", "c"), 6, 10.0, 25.0
BEGIN = np.array([0.5, 0.3, 0.2])
NEXT = np.array(  # (group, step, next step or the end)
    [
        [[0.1, 0.4, 0.2, 0.3], [0.2, 0.1, 0.3, 0.4], [0.2, 0.3, 0.1, 0.4]],
        [[0.2, 0.2, 0.3, 0.3], [0.3, 0.1, 0.2, 0.4], [0.3, 0.1, 0.2, 0.4]],
    ]
)


def walks(rng: np.random.Generator, people: int) -> Table:
    """A pathway of at most six steps for each person; the group `h` changes which step follows."""
    group = (rng.random(people) < 0.5).astype(int)
    step, at = rng.choice(len(STEPS), people, p=BEGIN), rng.exponential(WAIT, people)
    person, rows = np.arange(people), []
    for _ in range(LONGEST):
        rows.append((person, step, at))
        drawn = rng.random((len(person), 1)) > NEXT[group[person], step].cumsum(1)
        following = drawn.sum(1)
        stays = following < len(STEPS)
        person, step = person[stays], following[stays]
        at = at[stays] + rng.exponential(WAIT, len(person))
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    order = np.lexsort((columns[2], columns[0]))
    who, which, when = (column[order] for column in columns)
    return {
        "person": who,
        "step": which.astype(np.int16),
        "day": when,
        "h": group[who].astype(float),
    }


WALKS_LAW = Law(
    contract(
        {
            "step": category(*STEPS),
            "day": Column(type="number", range=(0, 1000)),
            "h": Column(type="boolean"),
        },
        LONGEST,
    ),
    walks,
)


def reached(group: int, first: int, then: int) -> float:
    """Of the people who reach the step `first`, the share who reach `then` within WITHIN days. It
    is a sum over the place of `first` and the number of steps from there, whose waiting times add
    up to a gamma distribution."""
    steps = NEXT[group, :, :-1]
    before, after = steps.copy(), steps.copy()
    before[first], after[then] = 0.0, 0.0
    entered = np.array([BEGIN @ np.linalg.matrix_power(before, k) for k in range(LONGEST)])[
        :, first
    ]
    hits = [
        np.linalg.matrix_power(after, j)[first, then] * stats.gamma.cdf(WITHIN, j, scale=WAIT)
        for j in range(1, LONGEST)
    ]
    in_time = np.r_[0.0, np.cumsum(hits)]
    return float(entered @ in_time[::-1] / entered.sum())


def pathways(result: Result, table: Table) -> Intervals:
    """The true values: counts of the cohort, and indicators of the law."""
    people = int(table["person"][-1]) + 1
    place = np.arange(len(table["person"])) - np.searchsorted(table["person"], table["person"])
    path = np.full((people, LONGEST + 2), len(STEPS))  # the start and the end have one number
    path[table["person"], place + 1] = table["step"]
    names = dict(zip((*STEPS, "(start)"), range(len(STEPS) + 1), strict=True)) | {
        "(end)": len(STEPS)
    }
    for row in result.tables["edges"].rows:
        pair = (path[:, :-1] == names[row["row"]]) & (path[:, 1:] == names[row["column"]])
        yield row["conf_low"], row["conf_high"], float(pair.any(1).sum()), row["noise_sd"]
    for row in result.tables["beginnings"].rows:
        steps = [names[step] for step in row["sequence"].split(" > ")]
        here = (path[:, 1:3] == (*steps, len(STEPS))[:2]).all(1)
        yield row["conf_low"], row["conf_high"], float(here.sum()), row["noise_sd"]
    for row in result.tables["indicators"].rows:
        first, then = (STEPS.index(step) for step in row["indicator"].split("_"))
        truth = reached(int(row["group"] == "h=yes"), first, then)
        yield row["conf_low"], row["conf_high"], truth, row["noise_sd"]


# -- disproportionality: reports of one to three pairs
DRUGS, EVENTS, MOST_PAIRS = 12, 8, 3
_SHARES = (np.arange(1, DRUGS + 1) ** -0.5, np.arange(1, EVENTS + 1) ** -0.3)
_LIFTED = np.outer(*_SHARES)
_LIFTED[2, 3] *= 4  # the planted signals
_LIFTED[7, 5] *= 5
PAIRS = _LIFTED / _LIFTED.sum()


def reports(rng: np.random.Generator, people: int) -> Table:
    person = np.repeat(np.arange(people), rng.integers(1, MOST_PAIRS + 1, people))
    pair = rng.choice(PAIRS.size, len(person), p=PAIRS.ravel())
    return {
        "person": person,
        "drug": (pair // EVENTS).astype(np.int16),
        "event": (pair % EVENTS).astype(np.int16),
    }


REPORTS_LAW = Law(
    contract(
        {
            "drug": category(*(f"d{i}" for i in range(DRUGS))),
            "event": category(*(f"e{i}" for i in range(EVENTS))),
        },
        MOST_PAIRS,
    ),
    reports,
)


def named(share: Array) -> Array:
    """The probability that a report names something at least once, if each of its rows names it
    with the given probability."""
    return np.asarray(np.mean([1 - (1 - share) ** m for m in range(1, MOST_PAIRS + 1)], axis=0))


INFORMATION = np.log2(named(PAIRS) / np.outer(named(PAIRS.sum(1)), named(PAIRS.sum(0))))


def components(result: Result, table: Table) -> Intervals:
    for row in result.tables["pairs"].rows:
        truth = float(INFORMATION[int(row["drug"][1:]), int(row["event"][1:])])
        yield row["ic_low"], row["ic_high"], truth, row["noise_sd"]


# -- surveillance: cases by week and group
WEEKS, OUTBREAK = 180, 1.6
GROUPS = {"a": 0.5, "b": 0.3, "c": 0.2}  # the share of each; the outbreak is in c


def cases(season: float, tested: int) -> Law:
    """Poisson counts, `people` in total on average, with a season of this amplitude, and an
    outbreak in group c in the last weeks."""
    swing = 1 + season * np.sin(2 * np.pi * np.arange(WEEKS) / 52)

    def draw(rng: np.random.Generator, people: int) -> Table:
        mean = people / WEEKS * swing[:, None] * np.array(list(GROUPS.values()))
        mean[-tested:, 2] *= OUTBREAK
        counts = rng.poisson(mean).ravel()
        cell = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        return {"week": cell // len(GROUPS), "g": (cell % len(GROUPS)).astype(np.int16)}

    week = Column(type="number", range=(0, WEEKS - 1), step=1)
    return Law(contract({"week": week, "g": category(*GROUPS)}), draw)


def weekly(result: Result, table: Table) -> Intervals:
    """The log of the observed over the expected count."""
    for row in result.tables["alarms"].rows:
        if row["ratio"] is None:  # not tested
            continue
        truth = np.log(OUTBREAK) if row["series"] == "g=c" else 0.0
        noise = row["noise_sd"] / max(row["n"], 1)
        yield float(np.log(row["ratio_low"])), float(np.log(row["ratio_high"])), truth, noise


def alarms(result: Result) -> list[bool]:
    """Whether each week without an outbreak raises an alarm."""
    rows = result.tables["alarms"].rows
    return [row["alarm"] == "alarm" for row in rows if row["series"] != "g=c"]


# -- wilcoxon: two groups whose values have one shape, and differ by a shift
MIDDLE, SHIFT = 4.8, 0.4  # the median of the group `no`, and how much higher the group `yes` lies


def shifted(rng: np.random.Generator, people: int) -> Table:
    """Normal values of standard deviation 1, which leave the range for one person in a million."""
    h = (rng.random(people) < 0.5).astype(float)
    return {"h": h, "s": (MIDDLE + SHIFT * h + rng.normal(0, 1, people)).clip(0, 10)}


SHIFTED_LAW = Law(
    contract({"h": Column(type="boolean"), "s": Column(type="number", range=(0, 10))}), shifted
)


def ranked(result: Result, table: Table) -> Intervals:
    """Of `yes` against `no`. Values are counted at the nearest twentieth, which moves no truth by
    more than a thousandth of the error."""
    superiority = result.tables["superiority"].rows[0]
    truth = float(stats.norm.cdf(SHIFT / np.sqrt(2)))
    yield superiority["conf_low"], superiority["conf_high"], truth, superiority["noise_sd"]
    shift = result.tables["shift"].rows[0]
    yield shift["conf_low"], shift["conf_high"], SHIFT, 0.0
    for row, truth in zip(result.tables["quantiles"].rows, (MIDDLE + SHIFT, MIDDLE), strict=True):
        yield row["conf_low"], row["conf_high"], truth, 0.0


# -- train: the area under the curve of the network that is released
def answers(rng: np.random.Generator, people: int) -> Table:
    """A yes that `x`, `z` and `g` tell well: the area under the curve of the truth is 0.84."""
    x, z, g = rng.normal(0, 1, people).clip(-3, 3), rng.random(people), rng.choice(2, people)
    eta = 1.5 * x - 2 * (z - 0.5) + (g - 0.5)
    yes = rng.random(people) < special.expit(eta)
    return {"x": x, "z": z, "g": g.astype(np.int16), "y": yes.astype(float)}


ANSWERS_LAW = Law(
    contract(
        {
            "x": Column(type="number", range=(-3, 3)), "z": Column(type="number", range=(0, 1)),
            "g": category("a", "b"), "y": Column(type="boolean"),
        }
    ),
    answers,
)  # fmt: skip


def ranks(result: Result, table: Table) -> Intervals:
    """How often a yes outranks a no, by the logistic network that is released: over 40,000 new
    people of the law."""
    assert result.model is not None
    new = answers(np.random.default_rng(98), 40_000)
    X = np.stack([new["x"], new["z"], new["g"]]) / np.array(result.model.about["divisor"])[:, None]
    rank, yes = stats.rankdata(result.model.weights[:3] @ X), new["y"] > 0
    truth = (rank[yes].mean() - (yes.sum() + 1) / 2) / (~yes).sum()
    for row in (*result.tables["glance"].rows, *result.tables["nodes"].rows):
        if row["auc"] is not None:
            yield row["conf_low"], row["conf_high"], float(truth), row["noise_sd"]
