"""Attacks by a hub that lies: it sends any states, as often as it likes, and uses everything it
sees.

Each attack stands for one way in which the promise of mode dp was once broken, and comes with the
fault that opened it, to be planted again: refusals that depend on a row, and cost nothing; one
sample that is asked for many times; sums that one person moves beyond the sensitivity; and
commitments to numbers that can be guessed. The likelihood ratio test of the audit runs at states
that the hub chooses so that the person moves every sum as far as a search can find.

    python -m tests.privacy.lying_hub [RUNS]     the long version, for `make audit`
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas

from aggregator import rounds, secure_sum
from federation import codec
from federation.messages import (
    LedgerHead,
    NoisedAnswer,
    Part,
    Query,
    Refusal,
    Reply,
    State,
    TaskId,
)
from federation.privacy import fixed_point
from federation.privacy.calibration import Grid
from federation.privacy.noise import Entropy
from federation.study import Study
from nodes import admission, ledger, noised_answer, service
from nodes.session import NodeContext, StudySession
from simulations import local
from strategies import budget, registry
from strategies.learning import per_person_gradients, train_dp
from strategies.protocol import AnyTask
from strategies.survival import piecewise_exponential
from tests import federations
from tests.privacy import audit, fuzz
from tests.privacy.audit import CONTRACT, Case

TASK = TaskId("a")
ROUNDS = (  # cases with more than one round, and so with states that the hub chooses
    "glm binomial",
    "glm binomial, clipped",
    "glm poisson",
    "piecewise_exponential",
    "sccs",
    "train, one step a round",
)
CASES = tuple(case for case in audit.CASES if case.name in ROUNDS)
MANY_CUTS = Case(
    "piecewise_exponential, many cuts",
    fuzz.MORE["piecewise_exponential, many cuts"],
    {"time": 60, "event": 0, "x": 3},
)


# -- 1. refusals that depend on a row
ASKED = {"run": "glm", "model": "y ~ x + z", "family": "binomial"}
QUESTIONS = [
    State("newton", {"beta": np.array([0.0, a, b]), "round": np.zeros(1)})
    for a in (np.inf, -np.inf, 1e308)
    for b in (np.inf, -np.inf, 1e308)
]


def differing_replies(analysis: Mapping[str, Any], states: Sequence[State], folder: Path) -> int:
    """The number of states at which the reply shows, but for noised numbers, whether a person is
    there."""
    others = audit.others()
    others = others.assign(x=others["x"].abs() + 0.1, z=others["z"].abs() + 0.1)
    person = pandas.DataFrame([{**audit.TARGET, "x": -3, "z": 3}] * 2)
    tables = (pandas.concat([others, person], ignore_index=True), others)
    study = federations.study_of({"a": analysis}, privacy={"mode": "dp", "epsilon": 6})
    sites = [_site(table, folder, str(number)) for number, table in enumerate(tables)]
    return sum(
        _visible(study, state, sites[0]) != _visible(study, state, sites[1]) for state in states
    )


def _site(table: pandas.DataFrame, folder: Path, name: str) -> Any:
    folder.joinpath(name).mkdir(exist_ok=True)
    return federations.site_of("n", table, CONTRACT, folder / name, local.SIMULATED)


def _visible(study: Study, state: State, site: Any) -> str:
    """Everything in the reply of a new node but its noised numbers."""
    (context,) = local.contexts_of([site])
    local.granted(context, study, federations.NOW)
    try:
        reply = service.answer(
            Query(study, CONTRACT.hash, 1, ("n",), {TASK: state}), context, federations.NOW
        )
    except Exception as failure:
        return type(failure).__name__
    answer = reply.answers[TASK]
    if isinstance(answer, Refusal):
        return f"{answer} {reply.charged}"
    assert isinstance(answer, NoisedAnswer)
    return f"{sorted(answer.steps)} {reply.charged}"


@contextlib.contextmanager
def any_state() -> Iterator[None]:
    """The old node passed the hub's states to the analysis without a check."""

    def admit(query: Query, states: Any, tasks: Any, node: str, book: Any) -> Any:
        return dict(states)

    with mock.patch.object(admission, "admit", admit):
        yield


@contextlib.contextmanager
def any_state_and_charged_after() -> Iterator[None]:
    """The old node computed first, refused what was not finite, and charged afterwards."""
    charge_first = noised_answer.release

    def release(
        name: str, study: Study, grids: Any, zero: Any, compute: Any, access: Any, **more: Any
    ) -> Any:
        with np.errstate(all="ignore"):
            part = compute()
        if not all(np.isfinite(array).all() for array in part.sums.values()):
            return Refusal("overflow", "a sum is too large for its grid")
        return charge_first(name, study, grids, zero, lambda: part, access, **more)

    with (
        any_state(),
        audit.sums_of_floats(),
        mock.patch.object(noised_answer, "release", release),
    ):
        yield


# -- 2. one sample, asked for many times
def answers_about_one_sample(folder: Path, asks: int) -> int:
    """The largest number of different answers about one sample of people.

    The hub asks for the same weights under many numbers of a round."""
    study = federations.study_of(
        {"a": {**audit.LOGISTIC, "sampling": 0.3, "rounds": asks}},
        privacy={"mode": "dp", "epsilon": 6},
    )
    start = registry.plan(study, CONTRACT)["a"].analysis.start(registry.plan(study, CONTRACT)["a"])
    (context,) = local.contexts_of([_site(audit.others(), folder, "n")])
    local.granted(context, study, federations.NOW)
    samples: dict[bytes, set[bytes]] = {}
    _ask(study, context, start)
    for number in range(asks):
        round_ = np.array([number * 1e-9])
        state = State("step", {"weights": start["weights"], "round": round_})
        with _drawn_samples() as drawn:
            answer = _ask(study, context, state)
        if isinstance(answer, NoisedAnswer) and drawn:
            samples.setdefault(drawn[-1], set()).add(answer.steps["gradient"].tobytes())
    return max((len(answers) for answers in samples.values()), default=0)


@contextlib.contextmanager
def _drawn_samples() -> Iterator[list[bytes]]:
    """The samples that the node draws meanwhile, which only this test can see."""
    samples: list[bytes] = []
    draw = train_dp.drawn

    def drawn(*arguments: Any) -> Any:
        chosen = draw(*arguments)
        samples.append(chosen.tobytes())
        return chosen

    with mock.patch.object(train_dp, "drawn", drawn):
        yield samples


def _ask(study: Study, context: NodeContext, state: State, task: TaskId = TASK) -> Any:
    query = Query(study, CONTRACT.hash, 1, ("n",), {task: state})
    return service.answer(query, context, federations.NOW).answers[task]


@contextlib.contextmanager
def coins_of_the_study() -> Iterator[None]:
    """The old coins depended on the study and the whole part of the round's number."""
    with (
        any_state(),
        mock.patch.object(noised_answer, "with_coins", lambda cohort, name, salt: cohort),
    ):
        yield


# -- 3. states of the hub's choice
MEDDLED: Sequence[Callable[[State], State]] = (  # the same state again under another guise
    lambda state: State(
        state.step,
        {name: array + 1e-9 * (name == "round") for name, array in state.values.items()},
    ),
    lambda state: State(
        state.step,
        {name: array * (1 + 1e-9 * (name != "round")) for name, array in state.values.items()},
    ),
    lambda state: State(
        state.step,
        {name: np.where(array == 0, -0.0, array) for name, array in state.values.items()},
    ),
)


def attack(case: Case, runs: int, folder: Path, *, entropy: Entropy) -> audit.AttackResult:
    """The audit's test at the worst states that a search finds, each asked in every guise."""
    study = federations.study_of(
        {"a": case.analysis}, privacy={"mode": "dp", "epsilon": audit.EPSILON}
    )
    task = audit.remembering(registry.plan(study, CONTRACT)["a"])
    last_row = {**audit.TARGET, **case.target, **case.other}
    person = [{**audit.TARGET, **case.target}] * (case.rows - 1) + [last_row]
    table = pandas.concat([audit.others(case.people), pandas.DataFrame(person)], ignore_index=True)
    both = [audit.cohort_of(rows, task, folder) for rows in (table, table[table["id"] != "target"])]
    states = worst_states(task, both)
    parts = [[_part(cohort, task, state) for cohort in both] for state in states]
    ratios = [
        np.array([_ratio(study, task, cohort, states, parts, entropy) for _ in range(runs)])
        for cohort in both
    ]
    return audit.result_of(case.name, study, ratios)


def _part(cohort: Any, task: AnyTask, state: State) -> Part:
    part = task.analysis.local(cohort, task, state)
    return replace(part, sums=fixed_point.folded(part.sums))


def worst_states(task: AnyTask, both: Sequence[Any], tries: int = 40) -> list[State]:
    """For each round, the admissible state at which the person moves the sums the furthest."""
    assert task.private is not None
    rng, states = np.random.default_rng(5), []
    for template in task.private.rounds(task):
        tried = [template, *(fuzz.at_the_limits(task, template, rng) for _ in range(tries))]
        states.append(max(tried, key=lambda state: _move(task, state, both)))
    return states


def _move(task: AnyTask, state: State, both: Sequence[Any]) -> float:
    """The squared move over the squared sensitivity, weighted by each array's share of the
    budget."""
    with_person, without = (_part(cohort, task, state).sums for cohort in both)
    sensitivity = budget.zero(task, state).sensitivity
    return sum(
        share * float(np.linalg.norm(with_person[name] - without[name]) / sensitivity[name]) ** 2
        for name, share in budget.private(task).shares(task, state).items()
    )


def _ratio(
    study: Study,
    task: AnyTask,
    cohort: Any,
    states: Sequence[State],
    parts: Sequence[Sequence[Part]],
    entropy: Entropy,
) -> float:
    """The log likelihood ratio of all different answers of a new node."""
    session = StudySession({"a": task}, cohort, audit._RULES, None)
    site = local.site("n", federations.Dataset(CONTRACT, "memory"))
    context = NodeContext(
        site, {study.hash: session}, plans={study.hash: {"a": task}}, entropy=entropy
    )
    local.granted(context, study, federations.NOW)
    total = 0.0
    for state, both in zip(states, parts, strict=True):
        answers: dict[bytes, NoisedAnswer] = {}
        for asked in (state, *(meddle(state) for meddle in MEDDLED), state):
            for name in (TASK, TaskId("a", "n")):
                answer = _ask(study, context, asked, name)
                if isinstance(answer, NoisedAnswer):
                    answers[codec.noised_to_bytes(answer)] = answer
        total += sum(_log_ratio(answer, both) for answer in answers.values())
    return total


def _log_ratio(answer: NoisedAnswer, both: Sequence[Part]) -> float:
    total = 0.0
    for name, steps in answer.steps.items():
        with_person, without = (
            (steps - np.rint(part.sums[name] / answer.units[name])).astype(float) for part in both
        )
        off = float((without**2).sum() - (with_person**2).sum())
        total += off / (2 * answer.variances[name])
    return total


@contextlib.contextmanager
def cap_lost_in_rounding() -> Iterator[None]:
    """The old code took the last hazard off its running sum."""

    def lost(hazard: Any, max_hazard: float) -> Any:
        gathered = np.cumsum(hazard, axis=0)
        before = np.minimum(gathered - hazard, max_hazard)
        capped = np.maximum(np.minimum(gathered, max_hazard) - before, 0.0)
        return capped, gathered[-1] > max_hazard

    with (
        audit.sums_of_floats(),
        mock.patch.object(piecewise_exponential, "capped_hazard", lost),
    ):
        yield


@contextlib.contextmanager
def lengths_in_32_bits() -> Iterator[None]:
    """The old code trusted every length that it computed in 32 bits, in batches of 64 people."""
    with (
        mock.patch.object(per_person_gradients, "MAX_ERROR", np.inf),
        mock.patch.object(per_person_gradients, "LARGE_BATCH", 64),
    ):
        yield


# -- 4. guesses of what a head commits to
NODES = ("n0", "n1", "n2")


def guessed(folder: Path, guesses: int = 4000) -> int | None:
    """A node's own noised count in a secure sum, found from the heads of its ledger; None if not
    found."""
    study = federations.study_of(
        {"a": {**audit.LOGISTIC, "rounds": 2}},
        privacy={"mode": "dp", "epsilon": 6, "secure_sum": True, "noise": "distributed"},
        min_nodes=3,
    )
    contexts = local.contexts_of(_sites(folder))
    heads = _heads_of(study, contexts)
    charge, store = [
        entry for entry in ledger.history(contexts[0].ledger) if entry.kind in ("charge", "store")
    ][:2]
    after = next((head for head in heads if head.seq == store.seq), None)
    if after is None:
        return None
    previous = _hash_of(contexts[0], charge.seq)  # a charge holds nothing of a row
    task = registry.plan(study, CONTRACT)["a"]
    state = task.analysis.start(task)
    grids = budget.grids(study, task, state, budget.zero(task, state), len(NODES))
    for number in range(-guesses, guesses):
        if _digest_if(number, grids, store, previous) == after.hash:
            return number
    return None


def _sites(folder: Path) -> list[Any]:
    rows = audit.others()
    return [
        replace(
            federations.site_of(
                name, rows[rows.index // 2 % 3 == number], CONTRACT, folder, local.SIMULATED
            ),
            name=name,
        )
        for number, name in enumerate(NODES)
    ]


def _heads_of(study: Study, contexts: Sequence[NodeContext]) -> list[LedgerHead]:
    """The heads that the first node sends in the phases of a study."""
    send, heads = local.send_of(contexts, federations.NOW), list[LedgerHead]()

    def listening(queries: Mapping[str, Query]) -> Sequence[Reply]:
        replies = send(queries)
        first = next((reply for reply in replies if reply.node == NODES[0]), None)
        if first is not None and first.head is not None and queries[NODES[0]].phase is not None:
            heads.append(first.head)
        return replies

    ask = secure_sum.ask_of(listening, lambda planned: registry.plan(planned, CONTRACT))
    rounds.run(study, CONTRACT, ask, list(NODES))
    return heads


def _hash_of(context: NodeContext, seq: int) -> str:
    row = context.ledger.connection.execute(
        "SELECT hash FROM entries WHERE seq = ?", (seq,)
    ).fetchone()
    return str(row[0])


def _digest_if(number: int, grids: Mapping[str, Grid], store: ledger.Entry, previous: str) -> str:
    """The head of the ledger after the entry `store`, if the noised count was `number`."""
    answer = NoisedAnswer(
        {"people": np.array([number])},
        {name: grid.unit for name, grid in grids.items()},
        {name: float(grid.share) for name, grid in grids.items()},
        federations.NOW.date().isoformat(),
    )
    digest = hashlib.sha256(codec.noised_to_bytes(answer)).hexdigest()
    event = json.dumps({"sha256": digest}, separators=(",", ":"))
    account = store.account
    # fmt: off
    return ledger._digest((
        store.seq, "store", account.dataset, account.label, account.year,
        store.study, store.release,
        0, "", event, store.at, previous,
    ))
    # fmt: on


@contextlib.contextmanager
def heads_without_salt() -> Iterator[None]:
    """The old ledger stored plain hashes, and every reply carried its head."""

    def committed(book: Any, key: str, content: bytes) -> dict[str, str]:
        book.connection.execute(
            "INSERT INTO answers (release, content) VALUES (?, ?)", (key, content)
        )
        return {"sha256": hashlib.sha256(content).hexdigest()}

    answer_without_head = service.answer

    def answer(query: Query, context: NodeContext, now: Any) -> Reply:
        reply = answer_without_head(query, context, now)
        return replace(reply, head=ledger.head(context.ledger))

    with (
        mock.patch.object(ledger, "_committed", committed),
        mock.patch.object(service, "answer", answer),
    ):
        yield


# -- the long version
def main() -> bool:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as name:
        sound = [_report("holds ", "BROKEN", *line) for line in _attacks(runs, Path(name))]
        caught = [_report("caught", "MISSED", *line) for line in _planted(runs, Path(name))]
    return all(sound + caught)


def _report(good: str, bad: str, holds: bool, text: str) -> bool:
    print(f"{good if holds else bad} {text}", flush=True)
    return holds


def _attacks(runs: int, folder: Path) -> Iterator[tuple[bool, str]]:
    yield (
        not differing_replies(ASKED, QUESTIONS, folder),
        "a lying hub: no reply shows whether a person is there",
    )
    yield (
        answers_about_one_sample(folder, 50) <= 1,
        "a lying hub: one answer about each sample",
    )
    yield guessed(folder) is None, "a lying hub: no number is found by guessing"
    for case in (*CASES, MANY_CUTS):
        result = attack(case, runs, folder, entropy=os.urandom)
        yield result.holds, f"a lying hub at states of its choice: {str(result)[7:]}"


def _planted(runs: int, folder: Path) -> Iterator[tuple[bool, str]]:
    with any_state_and_charged_after():
        yield (
            differing_replies(ASKED, QUESTIONS, folder) > 0,
            "planted: any state, charged after the computation",
        )
    with coins_of_the_study():
        yield answers_about_one_sample(folder, 50) > 10, "planted: coins of the study"
    with cap_lost_in_rounding():
        result = attack(MANY_CUTS, max(300, runs // 5), folder, entropy=os.urandom)
        yield not result.holds, "planted: a cap that is lost in rounding"
    with lengths_in_32_bits():
        worst = fuzz.search(fuzz.MORE["train, two layers"], CONTRACT, 200, 1)
        yield worst["gradient"].ratio > fuzz.SOUND, "planted: lengths in 32 bits"
    with heads_without_salt():
        yield guessed(folder) is not None, "planted: heads without salt"


if __name__ == "__main__":
    sys.exit(not main())
