"""An attack on every private analysis: how well does an observer of everything that leaves a node
recognise whether one person was there?

The attacker knows everyone else's rows and the person's, chosen to move the sums as far as a person
can. Each study is run thousands of times with them and without, through the node's real service;
from all the noised numbers of all rounds the attacker works out the likelihood ratio and guesses.
Releases of Gaussians that cost rho in all allow no test better than Phi^-1(TPR) - Phi^-1(FPR) <=
sqrt(2 rho) (Dong, Roth, Su 2022), so the attacker's success rates, with their confidence, give a
lower bound on what the releases really cost (Nasr et al. 2023). It must stay below what is claimed,
and must pass it when the engine is broken on purpose.

    python -m tests.privacy.audit [RUNS]     the long version, for `make audit`

With 500 runs it takes some 20 minutes of a busy machine with two cores, and the lower bounds of the
19 analyses lie between a third and five sixths of the claimed mu. A fault that 200 runs do not show
is tried in LONGER times as many: the attack on some analyses is far from the best one.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas
import torch
from scipy import stats

from aggregator import rounds, secure_sum
from federation import schema as schemas
from federation.arrays import Floats, Sum
from federation.contract import Contract
from federation.messages import NoisedAnswer, Part, Query, Reply, State, TaskId
from federation.privacy import accounting, fixed_point, noise
from federation.privacy.accounting import Cost
from federation.privacy.fixed_point import ExactSum
from federation.privacy.noise import Entropy
from federation.study import Study
from nodes import cohort_blocks, cohorts, contract_sql, noised_answer, row_limit
from nodes.cohort_blocks import Stretch
from nodes.session import NodeContext, StudySession
from nodes.site import Dataset, Policy, Site, Storage
from simulations import local
from strategies import budget, registry
from strategies.protocol import AnyTask
from strategies.survival import piecewise_exponential
from tests import federations

LONGER = 8
EPSILON, CONFIDENCE = 6.0, 0.999  # of each bound: a sound engine fails one audit in a thousand
POLICY = Policy(min_nodes=1, modes=("exact", "dp"), max_epsilon=20, hub_sees_cells=True)
torch.set_num_threads(1)
CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
rows_per_person: 2
columns:
  id: {type: string}
  x: {type: number, range: [-3, 3]}
  z: {type: number, range: [-3, 3]}
  g: {type: category, levels: [a, b]}
  y: {type: boolean}
  k: {type: number, range: [0, 10]}
  time: {type: number, range: [0, 60], step: 1}
  event: {type: boolean}
""")
OTHERS = 400
BLOCKS = 3000  # values in memory, so that everyone is in about eight blocks


def others(people: int = OTHERS) -> pandas.DataFrame:
    """Two rows each; whoever has a high x answers no, so that a yes there moves a logistic model as
    far as it can be moved."""
    rng = np.random.default_rng(3)
    n = 2 * people
    x = rng.uniform(-3, 3, n).round(3)
    return pandas.DataFrame(
        {
            "id": [f"p{i // 2}" for i in range(n)],
            "x": x,
            "z": rng.uniform(-3, 3, n).round(3),
            "g": rng.choice(["a", "b"], n),
            "y": (rng.random(n) < 1 / (1 + np.exp(3 * x))).astype(int),
            "k": rng.poisson(0.5, n).clip(0, 10),
            "time": rng.integers(1, 61, n),
            "event": (rng.random(n) < 0.3).astype(int),
        }
    )


TARGET = {"id": "target", "x": 3, "z": 3, "g": "b", "y": 1, "k": 10, "time": 1, "event": 1}


LOGISTIC = {
    "run": "train",
    "model": "y ~ x",
    "network": "logistic",
    "sampling": 1.0,
    "validation": 0,
    "clip": 0.2,
    "learning_rate": 0.1,
}


@dataclass(frozen=True)
class Case:
    name: str
    analysis: Mapping[str, Any]
    target: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 2
    soon: bool = False  # everyone else has the event, and soon
    people: int = OTHERS  # besides the target
    in_blocks: bool = False  # of few people each
    # in what the person's last row differs from the first
    other: Mapping[str, Any] = field(default_factory=dict)


CASES = (
    Case("describe", {"run": "describe", "columns": ["x", "g"]}, {"x": -3}),
    Case("crosstab", {"run": "crosstab", "rows": "g", "columns": "y"}),
    Case("glm gaussian", {"run": "glm", "model": "z ~ x + g"}),
    Case("glm binomial", {"run": "glm", "model": "y ~ x", "family": "binomial"}),
    Case(
        "glm binomial, clipped", {"run": "glm", "model": "y ~ x", "family": "binomial", "clip": 0.3}
    ),
    Case("glm poisson", {"run": "glm", "model": "k ~ x", "family": "poisson"}),
    Case(
        "kaplan_meier",
        {"run": "kaplan_meier", "model": "Surv(time, event) ~ g", "grid": {"step": 5}},
    ),
    Case(
        "piecewise_exponential",
        {"run": "piecewise_exponential", "model": "Surv(time, event) ~ x", "cuts": [30]},
    ),
    Case(
        "cumulative_incidence",
        {"run": "cumulative_incidence", "model": "Surv(time, g) ~ 1", "grid": {"step": 5}},
    ),
    Case("rates", {"run": "rates", "events": "k", "time": "time", "by": ["g"]}, {"time": 60}),
    Case(
        "sccs",
        {"run": "sccs", "model": "k ~ x + offset(log(time + 1))", "max_events": 5},
        {"time": 0, "k": 10},
        other={"x": -3, "time": 60, "k": 0},
    ),
    Case(
        "disproportionality",
        {"run": "disproportionality", "drug": "g", "event": "y", "min_reports": 1},
        other={"g": "a", "y": 0},
    ),
    Case("inequality", {"run": "inequality", "value": "k", "step": 1}),
    Case("wilcoxon", {"run": "wilcoxon", "value": "k", "by": "y", "step": 1}, {"k": 0}),
    Case(
        "mantel_haenszel",
        {"run": "mantel_haenszel", "exposure": "y", "outcome": "event", "strata": ["g"]},
    ),
    Case(
        "pathways",
        {
            "run": "pathways",
            "step": "g",
            "time": "time",
            "beginnings": 2,
            "indicators": {"on": {"first": "a", "then": "b"}},
        },
        {"g": "a"},
        other={"g": "b", "time": 9},
    ),
    Case("surveillance", {"run": "surveillance", "week": "time", "by": ["g"], "method": "ears"}),
    Case("train, one step a round", {**LOGISTIC, "rounds": 2}, people=100),
    Case("train, steps of its own", {**LOGISTIC, "rounds": 1, "local_steps": 3}, people=100),
)


@dataclass(frozen=True)
class AttackResult:
    """`mu` claimed, and at least this by the attack."""

    name: str
    claimed: float
    lower_bound: float
    runs: int

    @property
    def epsilons(self) -> tuple[float, float]:
        """Claimed, and the lower bound, at delta 1e-6."""
        return tuple(
            accounting.tight_epsilon(Cost(round(accounting.PICO * mu * mu / 2)), 1e-6)
            for mu in (self.claimed, self.lower_bound)
        )  # type: ignore[return-value]

    @property
    def holds(self) -> bool:
        return self.lower_bound <= self.claimed

    def __str__(self) -> str:
        claimed, lower_bound = self.epsilons
        verdict = "holds " if self.holds else "BROKEN"
        return (
            f"{verdict} {self.name}: epsilon at least {lower_bound:.2f} by attack,"
            f" {claimed:.2f} claimed (mu {self.lower_bound:.3f}, {self.claimed:.3f};"
            f" {self.runs} runs each)"
        )


def audit(
    case: Case,
    runs: int,
    folder: Path,
    *,
    bend: Callable[[AnyTask], AnyTask] = lambda task: task,
    entropy: Entropy = os.urandom,
) -> AttackResult:
    """`bend` puts a fault into the analysis; another `entropy` than the node's own makes a test
    that can be run again."""
    study = federations.study_of({"a": case.analysis}, privacy={"mode": "dp", "epsilon": EPSILON})
    task = remembering(bend(registry.plan(study, CONTRACT)["a"]))
    rest = others(case.people)
    if case.soon:
        rest = rest.assign(time=1 + rest["time"] // 4, event=1)
    person = [{**TARGET, **case.target}] * (case.rows - 1) + [
        {**TARGET, **case.target, **case.other}
    ]
    table = pandas.concat([rest, pandas.DataFrame(person)], ignore_index=True)
    here = [
        cohort_of(some, task, folder, in_blocks=case.in_blocks)
        for some in (table, table[table["id"] != "target"])
    ]
    return attack(case.name, study, task, CONTRACT, here, runs, entropy)


def attack(
    name: str,
    study: Study,
    task: AnyTask,
    contract: Contract,
    here: Sequence[Any],
    runs: int,
    entropy: Entropy,
) -> AttackResult:
    """`here`: the cohort with the person, and without."""
    without_noise = _without_noise(task, here)
    ratios = [
        np.array(
            [
                _ratio(study, task, contract, cohort, here, without_noise, entropy)
                for _ in range(runs)
            ]
        )
        for cohort in here
    ]
    return result_of(name, study, ratios)


def result_of(name: str, study: Study, ratios: Sequence[Any]) -> AttackResult:
    """The test of log likelihood ratios (n_runs,) with the person, and without."""
    runs = len(ratios[0])
    true, false = (int(np.count_nonzero(values > 0)) for values in ratios)
    least = stats.beta.ppf((1 - CONFIDENCE) / 2, true, runs - true + 1) if true else 0.0
    most = (
        stats.beta.ppf(1 - (1 - CONFIDENCE) / 2, false + 1, runs - false) if false < runs else 1.0
    )
    lower_bound = max(0.0, float(stats.norm.ppf(least) - stats.norm.ppf(most)))
    return AttackResult(name, math.sqrt(2 * study.privacy.rho / accounting.PICO), lower_bound, runs)


def remembering(task: AnyTask) -> AnyTask:
    """The task, whose analysis computes the part of a cohort at a state once. An attack asks the
    same state in each run, and the part has no noise yet. A training's part depends on the coins of
    its release, which are others in each run."""
    sound = task.analysis
    parts: dict[object, tuple[Part, Any]] = {}

    class Remembering:
        def __getattr__(self, name: str) -> Any:
            return getattr(sound, name)

        def local(self, cohort: Any, task: AnyTask, state: State) -> Part:
            arrays = sorted((name, array.tobytes()) for name, array in state.values.items())
            coins = cohort.release if task.training is not None else b""
            key = (id(cohort.cache), coins, state.step, *arrays)
            if key not in parts:  # a cache that is let go could have the number of another
                parts[key] = sound.local(cohort, task, state), cohort.cache
            return parts[key][0]

    return replace(task, analysis=Remembering())


def cohort_of(
    table: pandas.DataFrame, task: AnyTask, folder: Path, *, in_blocks: bool = False
) -> Any:
    path = folder / "audited.csv"
    table.to_csv(path, index=False)
    only_counts = task.analysis.TRAITS.only_counts
    return cohorts.open_clipped(
        Dataset(CONTRACT, str(path)),
        Storage(max_values=BLOCKS) if in_blocks else Storage(),
        schemas.build(CONTRACT, {}),
        task.fields,
        None,
        "salt",
        only_counts=only_counts,
        in_blocks=in_blocks,
    ).cohort


Sums = Mapping[str, Sum]


def _without_noise(task: AnyTask, both: Sequence[Any]) -> Callable[[State], list[Sums]]:
    """The sums of both cohorts at a state;
    a state that returns in another run is not computed again."""
    parts: dict[tuple[object, ...], list[Sums]] = {}

    def at(state: State) -> list[Sums]:
        arrays = sorted((name, array.tobytes()) for name, array in state.values.items())
        key = (state.step, *arrays)
        if key not in parts:
            parts[key] = [
                fixed_point.folded(noised_answer.part_of(task, state, cohort).sums)
                for cohort in both
            ]
        return parts[key]

    return at


def _ratio(
    study: Study,
    task: AnyTask,
    contract: Contract,
    cohort: Any,
    both: Sequence[Any],
    without_noise: Callable[[State], list[Sums]],
    entropy: Entropy,
) -> float:
    """The logarithm of how much likelier what left the node is with the person than without."""
    answers: list[tuple[State, NoisedAnswer]] = []
    context = NodeContext(
        Site("n", {contract.dataset: Dataset(contract, "memory")}, POLICY),
        {study.hash: StudySession({"a": task}, cohort, _RULES, None)},
        entropy=entropy,
    )
    send = local.send_of([context], federations.NOW)

    def listening(queries: Mapping[str, Query]) -> Sequence[Reply]:
        replies = send(queries)
        answer = replies[0].answers[TaskId("a")]
        assert isinstance(answer, NoisedAnswer), answer
        answers.append((queries["n"].states[TaskId("a")], answer))
        return replies

    with mock.patch.object(registry, "plan", return_value={"a": task}):
        rounds.run(study, contract, secure_sum.ask_of(listening, lambda _: {"a": task}), ["n"])
    total = 0.0
    for state, answer in answers:
        if state.step == "descend":
            total += _of_steps(study, task, state, answer, answers[0][1], both)
            continue
        for name, steps in answer.steps.items():
            off = [
                (steps - np.rint(sums[name] / answer.units[name])).astype(float)
                for sums in without_noise(state)
            ]
            total += float((off[1] ** 2).sum() - (off[0] ** 2).sum()) / (2 * answer.variances[name])
    return total


def _of_steps(
    study: Study,
    task: AnyTask,
    state: State,
    answer: NoisedAnswer,
    first: NoisedAnswer,
    both: Sequence[Any],
) -> float:
    """The same of steps that the node took by itself: where they led, less where they would have
    led without noise. Exact for a single step; of several, the noise of each also turns the next a
    little, which is left out."""
    people = first.steps["people"] * first.units["people"]
    went = answer.steps["update"] * answer.units["update"]
    led = [
        budget.training(task)
        .inside(cohort, task, state, lambda slope: slope, people)
        .sums["update"]
        for cohort in both
    ]
    step, options = budget.step_grid(study, task, state), task.options
    each = (
        max(float(people[0]), 1.0)
        * options.learning_rate
        / budget.training(task).in_a_step(float(people[0]), task)
    )  # type: ignore[attr-defined]
    variance = options.local_steps * float(step.variance) * (step.unit * each) ** 2
    return float(((went - led[1]) ** 2).sum() - ((went - led[0]) ** 2).sum()) / (2 * variance)


def membership(runs: int, folder: Path, *, epsilon: float | None) -> tuple[float, float]:
    """Who sees the released network alone, and knows a person with an answer that surprises,
    guesses from the loss whether they were trained on. The lower bound of epsilon at delta 1e-6
    that the guesses show, and the advantage (true less false positive rate).

    Half of the people take part in each step. Without `epsilon` the same network is trained without
    noise: then the attack finds them."""
    rest = others()
    table = pandas.concat([rest, pandas.DataFrame([TARGET] * 2)], ignore_index=True)
    loss = np.empty((2, runs))
    noisy = {**LOGISTIC, "sampling": 0.5, "rounds": 4, "learning_rate": 3.0}
    plain = {
        "run": "train",
        "model": "y ~ x",
        "network": "logistic",
        "validation": 0,
        "rounds": 4,
        "learning_rate": 3.0,
        "batch": 0,
    }
    for row, some in enumerate((table, rest)):
        (folder / str(row)).mkdir(exist_ok=True)
        sites = federations.sites_of(some, np.zeros(len(some), int), CONTRACT, folder / str(row))
        for run in range(runs):
            privacy = {"mode": "exact"} if epsilon is None else {"mode": "dp", "epsilon": epsilon}
            study = federations.study_of(
                {"a": plain if epsilon is None else noisy}, privacy=privacy, title=str(run)
            )
            result = federations.result(
                federations.run(study, CONTRACT, [replace(site, policy=POLICY) for site in sites])
            )
            assert result.model is not None
            # of x at the end of its range, and the answer yes
            loss[row, run] = -float(result.model.weights[0] + result.model.weights[1])
            if epsilon is None:
                loss[row] = loss[row, 0]
                break
    cut = float(np.median(loss)) if epsilon is not None else float(loss.mean())
    true, false = (int(np.count_nonzero(values < cut)) for values in loss)
    least = stats.beta.ppf((1 - CONFIDENCE) / 2, true, runs - true + 1) if true else 0.0
    most = (
        stats.beta.ppf(1 - (1 - CONFIDENCE) / 2, false + 1, runs - false) if false < runs else 1.0
    )
    return max(0.0, math.log(max(least - 1e-6, 1e-9) / most)), (true - false) / runs


_RULES = Site("n", {}, POLICY).rules(1)


# -- engines broken on purpose
@contextlib.contextmanager
def half_the_noise() -> Iterator[None]:
    sound = noise.discrete_gaussian
    with mock.patch.object(
        noise,
        "discrete_gaussian",
        lambda size, variance, entropy: sound(size, Fraction(variance) / 4, entropy),
    ):
        yield


@contextlib.contextmanager
def sums_of_floats() -> Iterator[None]:
    """Exact sums hold each factor within its bound once more, which hides faults before them."""

    def whole(sums: Floats) -> ExactSum:
        return ExactSum(sums, np.zeros_like(sums))

    with mock.patch.multiple(
        fixed_point,
        gram=lambda X, weights, bound: whole((X * weights[:, None]).T @ X),
        product=lambda X, values, bound: whole(values @ X),
        total=lambda values, bound: values.sum(-1),
    ):
        yield


@contextlib.contextmanager
def values_not_clipped() -> Iterator[None]:
    sound = contract_sql.typed
    with (
        sums_of_floats(),
        mock.patch.object(
            contract_sql, "typed", lambda *given, **more: sound(*given, **{**more, "clamp": False})
        ),
    ):
        yield


@contextlib.contextmanager
def rows_not_limited() -> Iterator[None]:
    sound = row_limit.choose
    with mock.patch.object(
        row_limit, "choose", lambda person, max_rows: sound(person, 1_000_000 * max_rows)
    ):
        yield


@contextlib.contextmanager
def follow_up_not_ended() -> Iterator[None]:
    with (
        sums_of_floats(),
        mock.patch.object(
            piecewise_exponential,
            "capped_hazard",
            lambda hazard, most: (hazard, np.zeros(hazard.shape[1], np.bool_)),
        ),
    ):
        yield


@contextlib.contextmanager
def people_cut_apart() -> Iterator[None]:
    """Blocks by the number of a row: the limit on a person's rows holds in each of them."""
    thirds = [Stretch(f"rowid % 3 = {third}", "rowid + 1", 0) for third in range(3)]
    with mock.patch.object(cohort_blocks, "_by_hash", return_value=thirds):
        yield


def halved_bounds(task: AnyTask) -> AnyTask:
    """The analysis states half of what one person can do."""
    sound = task.analysis

    class Bent:
        def __getattr__(self, name: str) -> Any:
            return getattr(sound, name)

        def local(self, cohort: Any, task: AnyTask, state: State) -> Part:
            part = sound.local(cohort, task, state)
            return replace(
                part,
                sensitivity={name: length / 2 for name, length in part.sensitivity.items()},
            )

    return replace(task, analysis=Bent(), private=Bent())  # type: ignore[arg-type]


FAULTS: Mapping[str, tuple[Case, Callable[[], Any], Callable[[AnyTask], AnyTask]]] = {
    **{f"half the noise, {case.name}": (case, half_the_noise, lambda task: task) for case in CASES},
    "values not clipped": (
        replace(CASES[7], target={"x": 30}),
        values_not_clipped,
        lambda task: task,
    ),
    "rows not limited": (
        Case("describe", CASES[0].analysis, {"x": -3}, rows=6),
        rows_not_limited,
        lambda task: task,
    ),
    "follow-up not ended": (
        replace(CASES[7], target={"time": 60, "event": 0}, soon=True),
        follow_up_not_ended,
        lambda task: task,
    ),
    "half the noise, in blocks": (
        replace(CASES[0], in_blocks=True),
        half_the_noise,
        lambda task: task,
    ),
    "people cut apart by blocks": (
        Case("describe", CASES[0].analysis, {"x": -3}, rows=6, in_blocks=True),
        people_cut_apart,
        lambda task: task,
    ),
    "half the sensitivity": (CASES[1], contextlib.nullcontext, halved_bounds),
}


def first_caught(
    fault: str, runs: int, folder: Path, *, entropy: Entropy = os.urandom
) -> AttackResult:
    """The attack on an engine with a fault, and a longer one if the first does not show it."""
    case, broken, bend = FAULTS[fault]
    with broken():
        outcome = audit(case, runs, folder, bend=bend, entropy=entropy)
        if outcome.holds:
            outcome = audit(case, LONGER * runs, folder, bend=bend, entropy=entropy)
    return outcome


def main() -> bool:
    from tests.privacy import linked_audit

    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    sound = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in CASES:
            outcome = audit(case, runs, folder)
            print(outcome, flush=True)
            sound = sound and outcome.holds
        for fault in FAULTS:
            outcome = first_caught(fault, max(200, runs // 10), folder)
            print(f"{'caught' if not outcome.holds else 'MISSED'} {fault}: {outcome}", flush=True)
            sound = sound and not outcome.holds
        sound = linked_audit.audit_all(runs, folder) and sound
        for epsilon in (1.0, EPSILON):
            shown, advantage = membership(max(200, runs // 5), folder, epsilon=epsilon)
            print(
                f"{'holds ' if shown <= epsilon else 'BROKEN'} membership in a released network:"
                f" epsilon at least {shown:.2f}, {epsilon:g} claimed (advantage {advantage:.2f})",
                flush=True,
            )
            sound = sound and shown <= epsilon
        shown, advantage = membership(200, folder, epsilon=None)
        print(
            f"{'caught' if advantage > 0.9 else 'MISSED'} no noise,"
            f" membership in a released network (advantage {advantage:.2f})",
            flush=True,
        )
        sound = sound and advantage > 0.9
    return sound


if __name__ == "__main__":
    sys.exit(not main())
