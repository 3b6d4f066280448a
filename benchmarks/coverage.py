"""Do 95 % intervals under differential privacy hold the truth 95 times in a hundred? 500
federations of each analysis.

Every federation is four nodes of new people, drawn from a law whose parameters are known, and
answers one study at the stated epsilon, noise and all. The benchmark counts how often an interval
holds its truth: the law's parameter or, for a count, the cohort's own number. In each case the
noise is at least as large as the sampling error, so an interval without it would fail; the coverage
of such an interval is shown beside. The Monte Carlo error is that of the mean over federations,
since the intervals of one federation share its people and its noise.

Every private analysis has a case here: `uncovered` names those that lack one, and a test calls it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from aggregator import rounds, secure_sum
from benchmarks import coverage_laws as laws
from benchmarks import timing
from benchmarks.coverage_laws import Intervals, Law, Table
from federation.arrays import Floats
from federation.cohort import Cohort
from federation.contract import Column
from federation.messages import TaskId
from federation.results import Result
from federation.schema import Field
from federation.study import Study
from nodes.session import NodeContext, StudySession
from nodes.site import Dataset, Policy, Site
from simulations import local
from strategies import registry
from tests import federations

NODES, FEDERATIONS, LEAST, MOST = 4, 500, 0.93, 0.97
LEVEL = 0.05  # of the tests
POLICY = Policy(min_nodes=1, max_epsilon=20, noise="distributed", honest_nodes=1)
COLUMNS = {
    "x": Column(type="number", range=(-3, 3)),
    "z": Column(type="number", range=(0, 1)),
    "g": Column(type="category", levels=("a", "b", "c")),
    "h": Column(type="boolean"),
    "y": Column(type="boolean"),
    "s": Column(type="number", range=(0, 10)),
    "k": Column(type="number", range=(0, 8)),
    "time": Column(type="number", range=(0, 60), step=1),
    "event": Column(type="boolean"),
    "years": Column(type="number", range=(0, 2)),
    "stays": Column(type="number", range=(0, 8)),
    "until": Column(type="number", range=(0, 60), step=1),
    "cause": Column(type="category", levels=("none", "relapse", "death")),
}
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
    yearly_stays = np.where(h > 0, STAYS["yes"], STAYS["no"])
    cause = np.where(relapse < death, 1, 2)
    return {
        "x": x,
        "z": z,
        "g": g.astype(np.int16),
        "h": h,
        "y": (rng.random(n) < special.expit(eta)).astype(float),
        "s": (5 + eta + rng.normal(0, 0.8, n)).clip(0, 10),
        "k": rng.poisson(np.exp(eta)).clip(0, 8).astype(float),
        "time": np.maximum(stop, 1e-9),
        "event": ((leaves <= censored) & (leaves <= 60)).astype(float),
        "years": years,
        "stays": rng.poisson(years * yearly_stays).clip(0, 8).astype(float),
        "until": np.maximum(np.minimum(np.minimum(first, censored), 60), 1e-9),
        "cause": np.where(first > np.minimum(censored, 60), 0, cause).astype(np.int16),
    }


PEOPLE = Law(laws.contract(COLUMNS), people)


@dataclass(frozen=True)
class Case:
    """`intervals` yields the intervals of a result; `rejections` states for each test of a true
    null hypothesis whether it rejects at 5 %. `law` draws the people, whose number is `n`."""

    name: str
    n: int
    epsilon: float
    analysis: Mapping[str, Any]
    intervals: Callable[[Result, Table], Intervals]
    rejections: Callable[[Result], Sequence[bool]] = lambda result: ()
    privacy: Mapping[str, Any] = field(default_factory=dict)
    law: Law = PEOPLE


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


def equally_ranked(result: Result, table: Table) -> Intervals:
    """The count k does not depend on h."""
    row = result.tables["superiority"].rows[0]
    yield row["conf_low"], row["conf_high"], 0.5, row["noise_sd"]


def rejected(table: str) -> Callable[[Result], Sequence[bool]]:
    def rejections(result: Result) -> Sequence[bool]:
        p = result.tables[table].rows[0]["p_value"]
        return () if p is None else (p < LEVEL,)

    return rejections


SLOPES = dict(zip(("x", "z", "g[b]", "g[c]"), BETA.tolist(), strict=True))
CASES = (
    Case("describe", 4000, 1.0,
         {"run": "describe", "columns": ["x", "z", "g"], "quantiles": [0.1, 0.5, 0.75]},
         described),
    Case("crosstab", 4000, 0.5, {"run": "crosstab", "rows": "g", "columns": "h"},
         crossed, rejected("chi_squared")),
    Case("glm gaussian", 10_000, 1.0, {"run": "glm", "model": "s ~ x + z + g"},
         coefficients({"(Intercept)": 5.0, **SLOPES})),
    Case("glm binomial", 8000, 1.0,
         {"run": "glm", "model": "y ~ x + z + g", "family": "binomial"},
         coefficients({"(Intercept)": 0.0, **SLOPES})),
    Case("glm poisson", 20_000, 2.0,
         {"run": "glm", "model": "k ~ x + z + g", "family": "poisson"},
         coefficients({"(Intercept)": 0.0, **SLOPES})),
    Case("kaplan_meier", 6000, 1.0,
         {"run": "kaplan_meier", "model": "Surv(time, event) ~ g", "every": 12},
         survival),
    Case("cumulative_incidence", 6000, 1.0,
         {"run": "cumulative_incidence", "model": "Surv(until, cause) ~ g", "every": 12},
         incidence),
    Case("rates", 12_000, 1.0,
         {"run": "rates", "events": "stays", "time": "years", "by": ["h"], "over": ["g"]},
         stays),
    Case("inequality", 4000, 1.0,
         {"run": "inequality", "value": "years", "step": 0.01, "quantiles": [0.1, 0.5, 0.9],
          "top": [0.1, 0.2]},
         unequal),
    Case("wilcoxon, no difference", 4000, 1.0,
         {"run": "wilcoxon", "value": "k", "by": "h", "step": 1},
         equally_ranked, rejected("test")),
    Case("wilcoxon, shift", 4000, 1.0,
         {"run": "wilcoxon", "value": "s", "by": "h", "reference": "no", "step": 0.05},
         laws.ranked, law=laws.SHIFTED_LAW),
    Case("mantel_haenszel", 4000, 0.5,
         {"run": "mantel_haenszel", "exposure": "h", "outcome": "y", "strata": ["g"]},
         odds),
    Case("log-rank", 6000, 1.0,
         {"run": "kaplan_meier", "model": "Surv(time, event) ~ h", "every": 60},
         lambda result, table: iter(()), rejected("log_rank")),
    Case("piecewise_exponential", 20_000, 1.0,
         {"run": "piecewise_exponential", "model": "Surv(time, event) ~ x + z + g"},
         coefficients(SLOPES)),
    Case("glm binomial, secure sum", 6000, 1.0,
         {"run": "glm", "model": "y ~ x + z + g", "family": "binomial"},
         coefficients({"(Intercept)": 0.0, **SLOPES}),
         privacy={"noise": "distributed", "secure_sum": True}),
    Case("sccs", 4000, 1.0,
         {"run": "sccs", "model": "events ~ h + z + offset(log(years))", "max_events": 2},
         coefficients(laws.RATE_RATIOS), law=laws.PERIODS_LAW),
    Case("pathways", 4000, 1.0,
         {"run": "pathways", "step": "step", "time": "day", "beginnings": 2, "by": "h",
          "max_steps": laws.LONGEST,
          "indicators": {"a_b": {"first": "a", "then": "b", "within": laws.WITHIN},
                         "b_c": {"first": "b", "then": "c", "within": laws.WITHIN}}},
         laws.pathways, law=laws.WALKS_LAW),
    Case("disproportionality", 10_000, 1.0,
         {"run": "disproportionality", "drug": "drug", "event": "event"},
         laws.components, law=laws.REPORTS_LAW),
    Case("surveillance, farrington", 30_000, 1.0,
         {"run": "surveillance", "week": "week", "by": ["g"], "test": 4,
          "method": {"farrington": {"alpha": LEVEL}}},
         laws.weekly, laws.alarms, law=laws.cases(season=0.3, tested=4)),
    # Its baseline knows no season, and its limit is z standard deviations of seven weeks, which
    # promises no level: so no rejections are counted.
    Case("surveillance, ears", 30_000, 1.0,
         {"run": "surveillance", "week": "week", "by": ["g"], "method": "ears"},
         laws.weekly, law=laws.cases(season=0.0, tested=1)),
    Case("train", 8000, 4.0,
         {"run": "train", "model": "y ~ x + z + g", "network": "logistic", "rounds": 10,
          "sampling": 0.2, "validation": 0.5, "learning_rate": 10.0},
         laws.ranks, law=laws.ANSWERS_LAW),
)  # fmt: skip


def uncovered(analyses: Iterable[str], cases: Iterable[Case] = CASES) -> list[str]:
    """The analyses without a case, each as a sentence that says what to do."""
    covered = {case.analysis["run"] for case in cases}
    return [
        f"{name}: no case in benchmarks/coverage.py counts how often its 95 % intervals hold the "
        "truth; add a Case to CASES, with the truth that follows from the law of its people"
        for name in sorted(set(analyses) - covered)
    ]


@dataclass(frozen=True)
class Share:
    """How often something happened, with its Monte Carlo standard error;
    `count`: the number of trials."""

    mean: float
    error: float
    count: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} % (+- {100 * self.error:.1f})"


def share(by_federation: Sequence[Sequence[bool]]) -> Share | None:
    """Of all that the federations say. The error is that of a ratio of means over federations."""
    hits, sizes = (np.array([f(each) for each in by_federation]) for f in (sum, len))
    if not sizes.sum():
        return None
    mean = hits.sum() / sizes.sum()
    spread = ((hits - mean * sizes) ** 2).sum() / max(len(sizes) - 1, 1)
    return Share(float(mean), float(np.sqrt(spread / len(sizes)) / sizes.mean()), int(sizes.sum()))


@dataclass(frozen=True)
class Measured:
    """`held`: intervals that hold the truth; `bare`: those that would hold it without the noise's
    part; `rejected`: true null hypotheses that are rejected at 5 %; `failed`: federations without a
    result, of `federations`."""

    held: Share | None
    bare: Share | None
    rejected: Share | None
    failed: int
    federations: int

    @property
    def met(self) -> bool:
        """A case that gives neither an interval nor a test measures nothing."""
        return (
            not (self.held is None and self.rejected is None)
            and (self.held is None or LEAST <= self.held.mean <= MOST)
            and (self.rejected is None or 1 - MOST <= self.rejected.mean <= 1 - LEAST)
            and self.failed <= self.federations // 100
        )

    def __str__(self) -> str:
        words = [f"{self.failed} of {self.federations} without result"]
        if self.rejected is not None:
            words.insert(
                0, f"a true null hypothesis is rejected {self.rejected} of the time at 5 %"
            )
        if self.held is not None and self.bare is not None:
            bare = f"without the noise's part {100 * self.bare.mean:.0f} %"
            words.insert(0, f"95 % intervals hold {self.held} of the time ({bare})")
        return "; ".join(words)


def study_of(case: Case) -> Study:
    return federations.study_of(
        {"a": case.analysis}, privacy={"mode": "dp", "epsilon": case.epsilon, **case.privacy}
    )


def contexts_of(
    law: Law, table: Table, study: Study, rng: np.random.Generator
) -> list[NodeContext]:
    """Four nodes that hold the table's people in memory, and draw their noise from `rng`."""
    tasks = registry.plan(study, law.contract)
    sites = [
        Site(f"n{i}", {"people": Dataset(law.contract, "memory")}, POLICY) for i in range(NODES)
    ]
    contexts = local.contexts_of(sites, rng.bytes)
    for context, cohort in zip(contexts, cohorts_of(law, table, rng), strict=True):
        context.sessions[study.hash] = StudySession(tasks, cohort, context.site.rules(1), None)
    return contexts


def cohorts_of(law: Law, table: Table, rng: np.random.Generator) -> Iterator[Cohort]:
    """The table's people in four parts of equal size, each with all rows of its people."""
    rows = len(next(iter(table.values())))
    person = table.get("person", np.arange(rows))
    ends = np.linspace(0, person[-1] + 1, NODES + 1).astype(int)
    for first, end in pairwise(ends.tolist()):
        here = slice(*np.searchsorted(person, [first, end]))
        columns = {name: column[here] for name, column in table.items()}
        numbered = person[here] - first if "person" in table else None
        rows_per_person = law.contract.rows_per_person
        seed = int.from_bytes(rng.bytes(16), "little")
        yield Cohort(
            numbered, end - first, end - first, rows_per_person, partial(_fetch, columns), seed=seed
        )


def _fetch(columns: Table, asked: Iterable[Field]) -> Table:
    return {field.name: columns[field.name] for field in asked}


def result_of(case: Case, study: Study, number: int, seed: int) -> tuple[Result | None, Table]:
    """The answer of federation `number`, and its people."""
    rng = np.random.default_rng([seed, number])
    table = case.law.draw(rng, case.n)
    contexts = contexts_of(case.law, table, study, rng)
    ask = secure_sum.ask_of(
        local.send_of(contexts, federations.NOW),
        lambda planned: registry.plan(planned, case.law.contract),
    )
    names = [context.site.name for context in contexts]
    outcome = rounds.run(study, case.law.contract, ask, names)
    return outcome.runs[TaskId("a")].result, table


def run(case: Case, federations_: int, seed: int) -> Measured:
    study = study_of(case)
    held, bare, rejections, failed = [], [], [], 0
    for number in range(federations_):
        result, table = result_of(case, study, number, seed)
        if result is None:
            failed += 1
            continue
        intervals = np.array(list(case.intervals(result, table))).reshape(-1, 4)
        held.append(holds(*intervals.T).tolist())
        bare.append(holds_without_noise(*intervals.T).tolist())
        rejections.append(case.rejections(result))
    return Measured(share(held), share(bare), share(rejections), failed, federations_)


def holds(low: Floats, high: Floats, truth: Floats, noise: Floats) -> NDArray[np.bool_]:
    return (low <= truth) & (truth <= high)


def holds_without_noise(
    low: Floats, high: Floats, truth: Floats, noise: Floats
) -> NDArray[np.bool_]:
    half = np.sqrt(np.maximum(((high - low) / 2) ** 2 - (1.96 * noise) ** 2, 0.0))
    return np.abs((low + high) / 2 - truth) <= half


def main() -> bool:
    wanted, number = sys.argv[1:2], int(sys.argv[2]) if len(sys.argv) > 2 else FEDERATIONS
    lacking = uncovered(registry.PRIVATE)
    print("".join(f"MISSED {line}\n" for line in lacking), end="")
    met = not lacking
    for seed, case in enumerate(CASES):
        if wanted and wanted[0] not in case.name:
            continue
        measured = run(case, number, seed)
        verdict = "met   " if measured.met else "MISSED"
        print(
            f"{verdict} {case.name}, n = {case.n}, epsilon {case.epsilon:g}: {measured}", flush=True
        )
        met = met and measured.met
    return met


if __name__ == "__main__":
    assert timing.ONE_THREAD
    sys.exit(not main())
