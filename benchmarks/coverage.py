"""Do 95 % intervals under differential privacy hold the truth 95 times in a hundred? 500 federations of each analysis.

Every federation is four nodes of new people, drawn from a law whose parameters are known, and answers one study at the
stated epsilon, noise and all. Counted is how often an interval holds what it is about: the law's parameter, or for a count the
cohort's own number. The noise is as large as, or larger than, the sampling error in each of these, so that an interval without
it would fail; how often such an interval would hold is shown beside.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import special, stats

from aggregator import rounds, secure_sum
from benchmarks import timing
from federation.cohort import Cohort
from federation.contract import Column, Contract
from federation.messages import TaskId
from federation.results import Result
from federation.study import Study
from nodes.session import NodeContext, StudySession
from nodes.site import Dataset, Policy, Site
from simulations import local
from strategies import registry
from tests import federations

NODES, FEDERATIONS, LEAST, MOST = 4, 500, 0.93, 0.97
POLICY = Policy(min_nodes=1, modes=("exact", "dp"), max_epsilon=20, noise="distributed", honest_nodes=1)
COLUMNS = {
    "x": Column(type="number", range=(-3, 3)), "z": Column(type="number", range=(0, 1)), "g": Column(type="category", levels=("a", "b", "c")),
    "h": Column(type="boolean"), "y": Column(type="boolean"), "s": Column(type="number", range=(0, 10)), "k": Column(type="number", range=(0, 8)),
    "time": Column(type="number", range=(0, 60), step=1), "event": Column(type="boolean"), "id": Column(type="number", range=(0, 1e9)),
    "years": Column(type="number", range=(0, 2)), "stays": Column(type="number", range=(0, 8)),
    "until": Column(type="number", range=(0, 60), step=1), "cause": Column(type="category", levels=("none", "relapse", "death")),
}  # fmt: skip
CONTRACT = Contract(dataset="people", version=1, person="id", columns=COLUMNS)
Table = Mapping[str, np.ndarray]
BETA = np.array([0.4, -0.5, 0.3, -0.2])  # of x, z, g = b, g = c
HAZARD = 0.02
STAYS = {"no": 0.3, "yes": 0.5}  # a year, by h
CAUSES = {"relapse": 0.03, "death": 0.015}  # their hazards, whatever the covariates


def people(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    x, z, g = rng.normal(0, 1, n).clip(-3, 3), rng.random(n), rng.choice(3, n, p=[0.5, 0.3, 0.2])
    eta = BETA[0] * x + BETA[1] * z + BETA[2] * (g == 1) + BETA[3] * (g == 2)
    leaves, censored = rng.exponential(1 / (HAZARD * np.exp(eta))), rng.uniform(20, 80, n)
    stop = np.minimum(np.minimum(leaves, censored), 60)
    relapse, death = (rng.exponential(1 / hazard, n) for hazard in CAUSES.values())
    first = np.minimum(relapse, death)
    h, years = (rng.random(n) < 0.4).astype(float), rng.uniform(0.2, 2, n)
    return {
        "x": x, "z": z, "g": g.astype(np.int16), "h": h, "y": (rng.random(n) < special.expit(eta)).astype(float),
        "s": (5 + eta + rng.normal(0, 0.8, n)).clip(0, 10), "k": rng.poisson(np.exp(eta)).clip(0, 8).astype(float),
        "time": np.maximum(stop, 1e-9), "event": ((leaves <= censored) & (leaves <= 60)).astype(float),
        "years": years, "stays": rng.poisson(years * np.where(h > 0, STAYS["yes"], STAYS["no"])).clip(0, 8).astype(float),
        "until": np.maximum(np.minimum(np.minimum(first, censored), 60), 1e-9),
        "cause": np.where(first > np.minimum(censored, 60), 0, np.where(relapse < death, 1, 2)).astype(np.int16),
    }  # fmt: skip


Intervals = Iterator[
    tuple[float, float, float, float]
]  # low, high, truth, noise's standard deviation


@dataclass(frozen=True)
class Case:
    """`intervals` yields those of a result; `level`, if given, the p-value of a test whose null hypothesis is true."""

    name: str
    n: int
    epsilon: float
    analysis: Mapping[str, Any]
    intervals: Callable[[Result, Table], Intervals]
    level: Callable[[Result], float | None] = lambda result: None
    privacy: Mapping[str, Any] = field(default_factory=dict)


def coefficients(truth: Mapping[str, float]) -> Callable[[Result, Table], Intervals]:
    def intervals(result: Result, table: Table) -> Intervals:
        for row in result.tables["coefficients"].rows:
            if row["term"] in truth:
                yield row["conf_low"], row["conf_high"], truth[row["term"]], row["noise_sd"]

    return intervals


def described(result: Result, table: Table) -> Intervals:
    law = stats.norm()
    for row in result.tables["numbers"].rows:
        yield (
            row["conf_low"],
            row["conf_high"],
            {"x": 0.0, "z": 0.5}[row["column"]],
            row["noise_sd"],
        )
    for row in result.tables["quantiles"].rows:
        truth = row["probability"] if row["column"] == "z" else law.ppf(row["probability"])
        yield row["conf_low"], row["conf_high"], truth, 0.0
    for code, row in enumerate(result.tables["levels"].rows):
        yield row["conf_low"], row["conf_high"], float((table["g"] == code).sum()), row["noise_sd"]


def crossed(result: Result, table: Table) -> Intervals:
    cells = [
        row for row in result.tables["counts"].rows if "(all)" not in (row["row"], row["column"])
    ]
    share = {"no": 0.6, "yes": 0.4}
    for i, row in enumerate(cells):
        count = float(((table["g"] == i // 2) & (table["h"] == i % 2)).sum())
        yield row["conf_low"], row["conf_high"], count, row["noise_sd"]
        yield row["share_low"], row["share_high"], share[row["column"]], 0.0


def survival(result: Result, table: Table) -> Intervals:
    """By numerical mean over the law of the covariates within each group."""
    rng = np.random.default_rng(99)
    x, z = rng.normal(0, 1, 200_000).clip(-3, 3), rng.random(200_000)
    for row in result.tables["curve"].rows:
        code = "abc".index(row["group"][-1])
        eta = BETA[0] * x + BETA[1] * z + (BETA[2] if code == 1 else BETA[3] if code == 2 else 0.0)
        yield (
            row["conf_low"],
            row["conf_high"],
            float(np.exp(-HAZARD * np.exp(eta) * row["time"]).mean()),
            row["noise_sd"],
        )


def incidence(result: Result, table: Table) -> Intervals:
    whole = sum(CAUSES.values())
    for row in result.tables["curve"].rows:
        yield (
            row["conf_low"],
            row["conf_high"],
            CAUSES[row["cause"]] / whole * (1 - np.exp(-whole * row["time"])),
            row["noise_sd"],
        )


def stays(result: Result, table: Table) -> Intervals:
    for row in result.tables["rates"].rows:
        yield row["conf_low"], row["conf_high"], STAYS[row["group"][2:]], row["noise_sd"]
    for row in result.tables["ratios"].rows:
        low, high = (np.log(row[f"rate_ratio_{end}"]) for end in ("low", "high"))
        yield low, high, np.log(STAYS["yes"] / STAYS["no"]), row["noise_sd"]
    for row in result.tables["standardised"].rows:
        yield row["conf_low"], row["conf_high"], STAYS[row["group"][2:]], row["noise_sd"]


def unequal(result: Result, table: Table) -> Intervals:
    """Of years, which are even between 0.2 and 2: Gini 1.8 / 3 / 2.2."""
    row = result.tables["summary"].rows[0]
    yield row["mean_conf_low"], row["mean_conf_high"], 1.1, row["mean_noise_sd"]
    yield row["gini_conf_low"], row["gini_conf_high"], 1.8 / 3 / 2.2, row["gini_noise_sd"]
    for row in result.tables["quantiles"].rows:
        yield (
            row["conf_low"] - 0.005,
            row["conf_high"] + 0.005,
            0.2 + 1.8 * row["probability"],
            0.0,
        )  # they are given in steps of 0.01
    for row in result.tables["top"].rows:
        p = 1 - row["probability"]
        yield row["conf_low"], row["conf_high"], 1 - (0.2 * p + 0.9 * p * p) / 1.1, row["noise_sd"]


def odds(result: Result, table: Table) -> Intervals:
    """The answer y does not hang on h within g."""
    row = result.tables["common"].rows[0]
    yield (
        float(np.log(row["odds_ratio_low"])),
        float(np.log(row["odds_ratio_high"])),
        0.0,
        row["noise_sd"],
    )


SLOPES = dict(zip(("x", "z", "g[b]", "g[c]"), BETA.tolist(), strict=True))
CASES = (
    Case("describe", 4000, 1.0, {"run": "describe", "columns": ["x", "z", "g"], "quantiles": [0.1, 0.5, 0.75]}, described),
    Case("crosstab", 4000, 0.5, {"run": "crosstab", "rows": "g", "columns": "h"}, crossed, lambda r: r.tables["chi_squared"].rows[0]["p_value"]),
    Case("glm gaussian", 10_000, 1.0, {"run": "glm", "model": "s ~ x + z + g"}, coefficients({"(Intercept)": 5.0, **SLOPES})),
    Case("glm binomial", 8000, 1.0, {"run": "glm", "model": "y ~ x + z + g", "family": "binomial"}, coefficients({"(Intercept)": 0.0, **SLOPES})),
    Case("glm poisson", 20_000, 2.0, {"run": "glm", "model": "k ~ x + z + g", "family": "poisson"}, coefficients({"(Intercept)": 0.0, **SLOPES})),
    Case(
        "kaplan_meier", 6000, 1.0, {"run": "kaplan_meier", "model": "Surv(time, event) ~ g", "every": 12}, survival,
    ),
    Case("cumulative_incidence", 6000, 1.0, {"run": "cumulative_incidence", "model": "Surv(until, cause) ~ g", "every": 12}, incidence),
    Case("rates", 12_000, 1.0, {"run": "rates", "events": "stays", "time": "years", "by": ["h"], "over": ["g"]}, stays),
    Case("inequality", 4000, 1.0, {"run": "inequality", "value": "years", "step": 0.01, "quantiles": [0.1, 0.5, 0.9], "top": [0.1, 0.2]}, unequal),
    Case("mantel_haenszel", 4000, 0.5, {"run": "mantel_haenszel", "exposure": "h", "outcome": "y", "strata": ["g"]}, odds),
    Case("log-rank", 6000, 1.0, {"run": "kaplan_meier", "model": "Surv(time, event) ~ h", "every": 60}, lambda r, t: iter(()), lambda r: r.tables["log_rank"].rows[0]["p_value"]),
    Case("piecewise_exponential", 20_000, 1.0, {"run": "piecewise_exponential", "model": "Surv(time, event) ~ x + z + g"}, coefficients(SLOPES)),
    Case(
        "glm binomial, secure sum", 6000, 1.0, {"run": "glm", "model": "y ~ x + z + g", "family": "binomial"}, coefficients({"(Intercept)": 0.0, **SLOPES}),
        privacy={"noise": "distributed", "secure_sum": True},
    ),
)  # fmt: skip


def study_of(case: Case) -> Study:
    return federations.study_of(
        {"a": case.analysis}, privacy={"mode": "dp", "epsilon": case.epsilon, **case.privacy}
    )


def contexts_of(table: Table, study: Study, rng: np.random.Generator) -> list[NodeContext]:
    """Four nodes that hold the table's rows in memory, and draw their noise from `rng`."""
    tasks = registry.plan(study, CONTRACT)
    n = len(table["x"])
    sites = [Site(f"n{i}", {"people": Dataset(CONTRACT, "memory")}, POLICY) for i in range(NODES)]
    contexts = local.contexts_of(sites, rng.bytes)
    for i, context in enumerate(contexts):
        rows = slice(i * n // NODES, (i + 1) * n // NODES)
        columns = {name: column[rows] for name, column in table.items()}
        count = len(columns["x"])
        cohort = Cohort(
            None,
            count,
            count,
            1,
            lambda asked, columns=columns: {field.name: columns[field.name] for field in asked},
        )  # type: ignore[misc]
        context.sessions[study.hash] = StudySession(tasks, cohort, context.site.rules(1), None)
    return contexts


def run(case: Case, federations_: int, seed: int) -> tuple[float, float, float | None, int]:
    """How often intervals held the truth; how often they would without the noise's part; how often a true null hypothesis was
    rejected at 5 %; and how many federations gave no result."""
    study = study_of(case)
    held, bare, rejected, failed = [], [], [], 0
    for number in range(federations_):
        rng = np.random.default_rng([seed, number])
        table = people(rng, case.n)
        contexts = contexts_of(table, study, rng)
        ask = secure_sum.ask_of(
            local.send_of(contexts, federations.NOW), lambda made: registry.plan(made, CONTRACT)
        )
        result = (
            rounds.run(study, CONTRACT, ask, [context.site.name for context in contexts])
            .runs[TaskId("a")]
            .result
        )
        if result is None:
            failed += 1
            continue
        for low, high, truth, noise in case.intervals(result, table):
            held.append(low <= truth <= high)
            half = (high - low) / 2
            without = np.sqrt(max(half**2 - (1.96 * noise) ** 2, 0.0))
            bare.append(abs((low + high) / 2 - truth) <= without)
        if (p := case.level(result)) is not None:
            rejected.append(p < 0.05)
    return (
        float(np.mean(held)) if held else np.nan,
        float(np.mean(bare)) if bare else np.nan,
        float(np.mean(rejected)) if rejected else None,
        failed,
    )


def main() -> bool:
    wanted, number = sys.argv[1:2], int(sys.argv[2]) if len(sys.argv) > 2 else FEDERATIONS
    met = True
    for seed, case in enumerate(CASES):
        if wanted and wanted[0] not in case.name:
            continue
        held, bare, rejected, failed = run(case, number, seed)
        ok = (
            (np.isnan(held) or LEAST <= held <= MOST)
            and (rejected is None or 1 - MOST <= rejected <= 1 - LEAST)
            and failed <= number // 100
        )
        said = (
            []
            if np.isnan(held)
            else [
                f"95 % intervals hold {100 * held:.1f} % (without the noise's part {100 * bare:.0f} %)"
            ]
        )
        said += (
            [f"a true null hypothesis is rejected {100 * rejected:.1f} % of the time at 5 %"]
            if rejected is not None
            else []
        )
        print(
            f"{'met   ' if ok else 'MISSED'} {case.name}, n = {case.n}, epsilon {case.epsilon:g}: {'; '.join(said)}; {failed} without result",
            flush=True,
        )
        met = met and ok
    return met


if __name__ == "__main__":
    assert timing.ONE_THREAD
    sys.exit(not main())
