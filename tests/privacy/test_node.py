"""A node in mode dp: charged before noised, the same bytes again, no refusal that depends on a row;
and in exact mode no two answers over nearly the same people."""

from __future__ import annotations

import hashlib
import math
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy import stats

from aggregator import rounds, secure_sum
from federation import codec
from federation.messages import (
    Answer,
    LedgerHead,
    NoisedAnswer,
    Part,
    Query,
    Refusal,
    Reply,
    State,
    TaskId,
)
from federation.privacy import accounting
from federation.study import Study
from nodes import fingerprints, ledger, service, state_folder
from nodes.ledger import Account, Ledger
from nodes.session import NodeContext
from nodes.site import Policy, Site
from simulations import local
from strategies import registry
from tests import federations

TEXT = """
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  g: {type: category, levels: [a, b]}
  y: {type: boolean}
  x: {type: number, range: [0, 100]}
"""
CONTRACT = federations.contract_of(TEXT)
RNG = np.random.default_rng(6)
N = 300
TABLE = pandas.DataFrame(
    {
        "id": [f"p{i}" for i in range(N)],
        "g": RNG.choice(["a", "b"], N),
        "y": RNG.integers(0, 2, N),
        "x": np.arange(N) % 100,
    }
)
MODEL = {"run": "glm", "model": "y ~ x", "family": "binomial"}
CROSSTAB = {"run": "crosstab", "rows": "g", "columns": "y"}
POLICY = Policy(min_nodes=1, modes=("exact", "dp"), max_epsilon=2, hub_sees_cells=True)
ACCOUNT = Account("people", "person", 2026, "id")


def private(analysis: Mapping[str, Any] = CROSSTAB, *, epsilon: float = 1.0, **more: Any) -> Study:
    return federations.study_of({"a": analysis}, privacy={"mode": "dp", "epsilon": epsilon}, **more)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    open_site = federations.site_of("n", TABLE, CONTRACT, tmp_path, POLICY)
    dataset = replace(open_site.datasets["people"], modes=("exact", "dp"))
    strict = replace(open_site, datasets={"people": dataset}, state=tmp_path / "state")
    ledger.grant(
        state_folder.open_ledger(strict.state),
        ACCOUNT,
        accounting.rho_for(4, 1e-6),
        by="dpo",
        at="2026-01-01",
    )
    return strict


def book_of(site: Site) -> Ledger:
    return state_folder.open_ledger(site.state)


def ask(site: Site | NodeContext, study: Study, state: State | None = None, **more: Any) -> Answer:
    context = site if isinstance(site, NodeContext) else NodeContext(site)
    return reply_of(context, study, state, **more).answers[TaskId("a")]


def reply_of(
    context: NodeContext,
    study: Study,
    state: State | None = None,
    now: Any = federations.NOW,
    **more: Any,
) -> Reply:
    task = registry.plan(study, CONTRACT)["a"]
    query = Query(
        study, CONTRACT.hash, 1, ("n",), {TaskId("a"): state or task.analysis.start(task)}, **more
    )
    return service.answer(query, context, now)


def spent(site: Site) -> int:
    return ledger.granted(book_of(site), ACCOUNT) - ledger.remaining(book_of(site), ACCOUNT)


def bytes_of(answer: Answer) -> bytes:
    assert isinstance(answer, NoisedAnswer), answer
    return codec.noised_to_bytes(answer)


# -- what leaves, and what it costs
def test_only_noised_steps_leave_and_the_study_pays_for_them(site: Site) -> None:
    reply = reply_of(NodeContext(site), private())
    answer = reply.answers[TaskId("a")]
    assert (
        isinstance(answer, NoisedAnswer)
        and set(answer.steps) == {"counts", "people"}
        and all(a.dtype == np.int64 for a in answer.steps.values())
    )
    assert 0.99 * private().privacy.rho < spent(site) <= private().privacy.rho
    assert reply.head == ledger.head(book_of(site))
    assert codec.reply_to_bytes(
        codec.reply_from_bytes(codec.reply_to_bytes(reply))
    ) == codec.reply_to_bytes(reply)


def test_whoever_asks_again_gets_the_same_bytes_for_nothing(site: Site, tmp_path: Path) -> None:
    """From the same process, after a restart, and after the data have changed: else the answers'
    mean would tell the truth."""
    first = bytes_of(ask(site, private()))
    cost = spent(site)
    context = NodeContext(site)
    assert [bytes_of(ask(context, private())) for _ in range(3)] == [first] * 3
    TABLE.head(50).to_csv(tmp_path / "n.csv", index=False)
    assert bytes_of(ask(site, private())) == first and spent(site) == cost


def test_a_round_is_answered_at_one_state_and_another_state_costs_and_tells_nothing(
    site: Site,
) -> None:
    study = private({**MODEL, "rounds": 3})
    task = registry.plan(study, CONTRACT)["a"]
    start = task.analysis.start(task)
    bytes_of(ask(site, study, start))
    second = State("newton", {"beta": np.array([0.1, 0.5]), "round": np.ones(1)})
    answer, cost = bytes_of(ask(site, study, second)), spent(site)
    for number in range(60):
        moved = State(
            "newton", {"beta": np.array([0.1, 0.5 + 1e-9 * (number + 1)]), "round": np.ones(1)}
        )
        refused = ask(site, study, moved)
        assert isinstance(refused, Refusal) and refused.rule == "state"
    assert bytes_of(ask(site, study, second)) == answer and spent(site) == cost <= study.privacy.rho


def test_without_a_grant_nothing_is_answered_and_nothing_is_charged(site: Site) -> None:
    for other in (replace(site, state=site.state / "fresh"), site):  # type: ignore[operator]
        # a grant is for its year
        now = federations.NOW if other is not site else federations.NOW.replace(year=2027)
        answer = reply_of(
            NodeContext(other),
            private(authorisation={"reference": "r", "expires": "2028-01-01"}),
            now=now,
        ).answers[TaskId("a")]
        assert isinstance(answer, Refusal) and answer.rule == "budget"
    assert spent(site) == 0


def test_the_producers_epsilon_is_not_passed_by_many_studies(site: Site) -> None:
    """4 granted, each study 1: rho adds, so there are more than four,
    and the grant in rho is never passed."""
    answers = [ask(site, private(title=f"study {i}")) for i in range(14)]
    answered = sum(isinstance(answer, NoisedAnswer) for answer in answers)
    assert answered == ledger.granted(book_of(site), ACCOUNT) // private().privacy.rho and spent(
        site
    ) <= ledger.granted(book_of(site), ACCOUNT)
    ledger.verify(book_of(site))


@pytest.mark.parametrize(
    "rows",
    [
        TABLE.head(1),
        TABLE.head(0),
        TABLE.assign(x=1e9),
        TABLE.assign(g="?"),
        TABLE.assign(id="same"),
        TABLE.assign(id=""),
        TABLE.assign(x="x"),
        TABLE.assign(y=""),
    ],
    ids=[
        "one person",
        "nobody",
        "far outside",
        "unknown level",
        "one person, many rows",
        "no person",
        "unreadable",
        "all missing",
    ],
)
def test_no_row_makes_a_node_refuse(rows: pandas.DataFrame, site: Site, tmp_path: Path) -> None:
    """In exact mode each of these is refused;
    here the refusal would tell of the rows that it hangs on."""
    rows.to_csv(tmp_path / "n.csv", index=False)
    for analysis in (CROSSTAB, MODEL, {"run": "describe", "columns": ["x", "g"]}):
        assert isinstance(ask(site, private(analysis, title=str(analysis))), NoisedAnswer)
    exact = federations.study_of(
        {"a": CROSSTAB if "?" in set(rows["g"]) else {"run": "describe", "columns": ["x", "y"]}}
    )
    assert isinstance(ask(replace(site, state=None), exact), Refusal)


def test_the_noise_of_what_leaves_has_the_scale_that_its_charge_says(tmp_path: Path) -> None:
    """1,500 cells of nobody: 0.7 and 1.3 times the scale would be told apart (chi-squared
    at 1e-6)."""
    wide = federations.contract_of(
        f"dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {{type: string}}\n  g: {{type:"
        f" category, levels: {[f'g{i}' for i in range(50)]}}}\n"
        f"  h: {{type: category, levels: {[f'h{i}' for i in range(30)]}}}\n"
    )
    site = federations.site_of(
        "n", pandas.DataFrame({"id": ["p"], "g": ["g0"], "h": ["h0"]}), wide, tmp_path, POLICY
    )
    study = private({"run": "crosstab", "rows": "g", "columns": "h"})
    context = NodeContext(site)
    ledger.grant(context.ledger, ACCOUNT, study.privacy.rho, by="dpo", at="now")
    task = registry.plan(study, wide)["a"]
    answer = service.answer(
        Query(study, wide.hash, 1, ("n",), {TaskId("a"): task.analysis.start(task)}),
        context,
        federations.NOW,
    ).answers[TaskId("a")]
    assert isinstance(answer, NoisedAnswer)
    cells = answer.steps["counts"].ravel()[1:].astype(float)
    (event,) = [
        entry.event["counts"] for entry in ledger.history(context.ledger) if entry.kind == "charge"
    ]
    charged = accounting.from_json(event)
    assert isinstance(charged, accounting.Gaussian)
    variance = float(charged.variance)

    def p_value(scale: float) -> float:
        statistic = float((cells**2).sum() / (variance * scale**2))
        return 2 * min(stats.chi2.cdf(statistic, len(cells)), stats.chi2.sf(statistic, len(cells)))

    assert p_value(1.0) > 1e-6 and p_value(0.7) < 1e-6 and p_value(1.3) < 1e-6
    sigma = math.sqrt(variance) * answer.units["counts"]
    # one person, one cell: rho = 1 / (2 sigma^2)
    assert 1 / (2 * sigma**2) == pytest.approx(0.95 * study.privacy.rho / 1e12, rel=1e-3)


# -- policy
@pytest.mark.parametrize(
    ("policy", "study", "rule"),
    [
        ({"max_epsilon": 0.5}, private(), "epsilon"),
        ({"max_delta": 1e-8}, private(), "epsilon"),
        ({"modes": ("exact",)}, private(), "privacy"),
    ],
)
def test_the_site_says_how_much_privacy_it_wants(
    policy: dict[str, Any], study: Study, rule: str, site: Site
) -> None:
    answer = ask(replace(site, policy=POLICY.model_copy(update=policy)), study)
    assert isinstance(answer, Refusal) and answer.rule == rule and spent(site) == 0


def test_a_site_may_answer_in_mode_dp_only(site: Site) -> None:
    dataset = site.datasets["people"]
    for modes in (("dp",), None):  # written for the dataset; or not at all, and it has a budget
        silent = replace(site, datasets={"people": replace(dataset, modes=modes)})
        answer = ask(silent, federations.study_of({"a": CROSSTAB}))
        assert isinstance(answer, Refusal) and answer.rule == "privacy"


def test_a_site_answers_in_mode_dp_only_until_its_producer_writes_exact() -> None:
    assert Policy().modes == ("dp",)


# -- the ledger in the way
def test_a_broken_ledger_answers_nothing(site: Site) -> None:
    context = NodeContext(site)
    assert context.ledger
    with sqlite3.connect(site.state / "ledger.sqlite") as other:  # type: ignore[operator]
        other.execute("BEGIN IMMEDIATE")
        context.ledger.connection.execute("PRAGMA busy_timeout = 50")
        answer = ask(context, private())
        other.rollback()
    assert isinstance(answer, Refusal) and answer.rule == "ledger"
    assert isinstance(ask(context, private()), NoisedAnswer)


def test_a_ledger_older_than_the_hub_has_seen_is_refused(site: Site) -> None:
    seen = ledger.head(book_of(site))
    assert isinstance(ask(site, private(), witnesses={"n": seen}), NoisedAnswer)
    later = LedgerHead(seen.seq + 40, "f" * 64)
    answer = ask(site, private(), witnesses={"n": later})
    assert (
        isinstance(answer, Refusal)
        and answer.rule == "ledger"
        and "restore the newest copy" in answer.remedy
    )


def test_the_hub_drops_a_node_whose_ledger_went_back(tmp_path: Path) -> None:
    sites = federations.sites_of(TABLE, np.arange(N) % 3, CONTRACT, tmp_path, POLICY)
    contexts = local.contexts_of(sites)
    send = local.send_of(contexts, federations.NOW)

    def older(queries: Mapping[str, Query]) -> Sequence[Reply]:
        replies = send(queries)
        return [
            replace(reply, head=LedgerHead(1, "0" * 64))
            if reply.node == "n1" and reply.round == 2
            else reply
            for reply in replies
        ]

    study = private(MODEL)
    outcome = rounds.run(
        study,
        CONTRACT,
        secure_sum.ask_of(older, lambda planned: registry.plan(planned, CONTRACT)),
        ["n0", "n1", "n2"],
    )
    assert any(
        h.node == "n1" and "older than the one seen before" in h.text for h in outcome.events
    )
    witnesses = {"n0": LedgerHead(99, "a" * 64)}
    rounds.run(
        private(title="x"),
        CONTRACT,
        secure_sum.ask_of(send, lambda planned: registry.plan(planned, CONTRACT)),
        ["n0", "n1", "n2"],
        witnesses=witnesses,
    )
    assert witnesses["n0"] == LedgerHead(99, "a" * 64) and witnesses["n1"] == ledger.head(
        contexts[1].ledger
    )


# -- nearly the same people, in exact mode
def exact(where: str | None, **more: Any) -> Study:
    return federations.study_of(
        {"a": {"run": "describe", "columns": ["x"]}},
        cohort={"where": where} if where else {},
        **more,
    )


def test_two_exact_answers_over_nearly_the_same_people_are_not_given(
    site: Site, tmp_path: Path
) -> None:
    """Three people have each x: `x >= 40` leaves out 120, `x >= 41` 123, and the difference is
    three people's sums."""
    assert isinstance(ask(site, exact("x >= 40")), Part)
    answer = ask(site, exact("x >= 41"))
    assert isinstance(answer, Refusal) and answer.rule == "differencing"
    assert isinstance(ask(site, exact("x >= 45")), Part), "of fifteen, twelve differ in x"
    answer = ask(NodeContext(site), exact("x >= 43", title="another day"))
    assert isinstance(answer, Refusal) and answer.rule == "differencing", (
        "after a restart, and against every cohort before"
    )
    assert isinstance(ask(site, exact("x >= 40", title="the same people")), Part)
    answer = ask(site, exact("not (x < 40)", title="the same people, said otherwise"))
    assert isinstance(answer, Refusal) and answer.rule == "differencing", (
        "an answer would tell that nobody is between two conditions"
    )
    ledger.verify(book_of(site))
    pandas.concat([TABLE, TABLE.tail(2).assign(id=["new1", "new2"], x=99)]).to_csv(
        tmp_path / "n.csv", index=False
    )
    answer = ask(site, exact("x >= 40", title="two people more since"))
    assert isinstance(answer, Refusal) and answer.rule == "differencing"


def test_in_mode_dp_the_same_costs_budget_instead(site: Site) -> None:
    for where in ("x >= 40", "x >= 41", "x >= 42"):
        assert isinstance(ask(site, private(cohort={"where": where})), NoisedAnswer)
    assert spent(site) > 2.9 * private().privacy.rho


@pytest.mark.parametrize("apart", [0, 1, 5, 10, 11, 40, 500])
def test_fingerprints_differ_by_no_more_than_the_people_do(apart: int) -> None:
    people = np.random.default_rng(apart).integers(0, 2**64, 20_000, dtype=np.uint64)
    first, other = people[apart // 2 :], people[: len(people) - (apart - apart // 2)]
    differing = fingerprints.differing(
        fingerprints.fingerprint(first, b"saltsalt"),
        fingerprints.fingerprint(np.flip(other), b"saltsalt"),
    )
    assert differing <= apart and differing >= apart - max(0, apart * apart // 4096)
    assert (
        fingerprints.differing(
            fingerprints.fingerprint(first, b"saltsalt"),
            fingerprints.fingerprint(first, b"pepper!!"),
        )
        > 4000
    )


# -- killed at any instant
ANSWERER = """
import hashlib, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.privacy import test_node as t
from dataclasses import replace
from nodes.session import NodeContext
from nodes.site import Dataset, Site
dataset = Dataset(t.CONTRACT, sys.argv[1] + "/n.csv")
site = Site("n", {"people": dataset}, t.POLICY, state=Path(sys.argv[1]) / "state")
context = NodeContext(site)
n = int(sys.argv[2])
t.ask(context, t.private(title=f"first {n}", epsilon=0.05))
print("ready", flush=True)
while True:
    n += 1
    answer = t.ask(context, t.private(title=f"study {n}", epsilon=0.05))
    print("sent", n, hashlib.sha256(t.bytes_of(answer)).hexdigest(), flush=True)
"""


def kill_nodes(site: Site, tmp_path: Path, kills: int, seed: int) -> None:
    """Whatever a node had sent before it was killed is charged, and comes again as the same bytes,
    from another process."""
    rng = random.Random(seed)
    ledger.grant(book_of(site), ACCOUNT, 10**14, by="dpo", at="now")
    root = str(Path(__file__).parents[2])
    sent: dict[int, str] = {}
    for start in range(kills):
        command = [sys.executable, "-c", ANSWERER, str(tmp_path), str(start * 1000), root]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
            assert node.stdout is not None and node.stdout.readline() == "ready\n"
            first = node.stdout.readline()  # however slow the machine is
            time.sleep(rng.uniform(0, 0.3))
            node.send_signal(signal.SIGKILL)
            lines = [
                line.split()
                for line in [first, *node.stdout.read().splitlines(keepends=True)]
                if line.endswith("\n")
            ]
        sent |= {int(line[1]): line[2] for line in lines}
    assert len(sent) >= kills / 2
    budget_ledger = book_of(site)
    charged = {
        entry.study: entry.cost.rho
        for entry in ledger.history(budget_ledger)
        if entry.kind == "charge"
    }
    before = ledger.remaining(budget_ledger, ACCOUNT)
    context = NodeContext(site)
    for number, digest in sent.items():
        study = private(title=f"study {number}", epsilon=0.05)
        assert study.hash in charged
        assert hashlib.sha256(bytes_of(ask(context, study))).hexdigest() == digest
    assert (
        ledger.remaining(budget_ledger, ACCOUNT)
        == before
        == ledger.granted(budget_ledger, ACCOUNT) - sum(charged.values())
    )
    ledger.verify(budget_ledger)


def test_killed_nodes_have_sent_nothing_uncharged_and_send_the_same_again(
    site: Site, tmp_path: Path
) -> None:
    kill_nodes(site, tmp_path, 2, seed=1)


@pytest.mark.slow
def test_hundreds_of_killed_nodes_have_sent_nothing_uncharged(site: Site, tmp_path: Path) -> None:
    kill_nodes(site, tmp_path, 300, seed=2)
