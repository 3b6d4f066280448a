"""Secure sums within a study: every analysis, both modes, any dropout; and the attempts of a hub to
get more than the sum."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy import stats

from aggregator import rounds, secure_sum
from aggregator.replies import SummedReply
from aggregator.rounds import Ask, Outcome
from aggregator.secure_sum import Send
from federation import errors
from federation.messages import PHASES, Phase, Query, Refusal, Reply, SecAggMessage, TaskId
from federation.study import Study
from nodes import ledger, service, state_folder
from nodes.session import NodeContext
from nodes.site import Policy, Site
from simulations import faults, local
from strategies import registry
from tests import federations
from tests.property.test_every_analysis import CASES, CONTRACT, TABLE
from tests.property.test_private_analyses import CASES as PRIVATE_CASES

PERSON = TABLE["person"].astype(int).to_numpy()
SPLIT = PERSON % 5
NAMES = [f"n{i}" for i in range(5)]
MANY = pandas.concat(
    [TABLE.assign(person=(PERSON + 1000 * copy).astype(str)) for copy in range(4)],
    ignore_index=True,
)
POLICY = Policy(
    min_nodes=1, modes=("exact", "dp"), max_epsilon=20, noise="distributed", honest_nodes=2
)
CROSSTAB = {"run": "crosstab", "rows": "arm", "columns": "sex"}
SECURE = {"mode": "exact", "secure_sum": {"dropouts": 1, "colluders": 1}}
DISTRIBUTED = {
    "mode": "dp",
    "epsilon": 20,
    "noise": "distributed",
    "secure_sum": {"dropouts": 1, "colluders": 1},
}


@pytest.fixture
def sites(tmp_path: Path) -> list[Site]:
    return federations.sites_of(TABLE, SPLIT, CONTRACT, tmp_path, POLICY)


def ask_of(send: Send) -> Ask:
    return secure_sum.ask_of(send, lambda study: registry.plan(study, CONTRACT))


def run(study: Study, sites: Sequence[Site], fault: Any = None) -> Outcome:
    send = local.send_of(local.contexts_of(sites), federations.NOW)
    return rounds.run(
        study, CONTRACT, ask_of(fault(send) if fault else send), [site.name for site in sites]
    )


def rows_of(outcome: Outcome) -> list[dict[str, Any]]:
    """But for what is of each node by itself, which nobody knows under a secure sum."""
    return [
        row
        for name, table in federations.result(outcome).tables.items()
        if name != "nodes"
        for row in table.rows
    ]


@pytest.mark.parametrize(("name", "options"), federations.first_of_each(CASES))
def test_every_exact_analysis_gives_its_answer_through_a_secure_sum(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """To 1e-6 of itself: sums are rounded to 2^-24, or to 2^-35 of what one person can add.
    Networks count in 32 bits. So many people that nobody dominates a column at any node."""
    near = 1e-6 if name != "train" else 1e-4
    study = federations.study_of({"a": {"run": name, **options}}, privacy=SECURE)
    (tmp_path / "plain").mkdir()
    plain = federations.run(
        federations.study_of({"a": {"run": name, **options}}),
        CONTRACT,
        federations.sites_of(MANY, np.tile(SPLIT, 4), CONTRACT, tmp_path / "plain"),
    )
    assert not plain.runs[TaskId("a")].refusals
    sites = federations.sites_of(MANY, np.tile(SPLIT, 4), CONTRACT, tmp_path, POLICY)
    for row, other in zip(rows_of(plain), rows_of(run(study, sites)), strict=True):
        for column, value in row.items():
            if isinstance(value, float):
                assert other[column] == pytest.approx(value, rel=near, abs=near)
            elif column != "rounds":
                assert other[column] == value


@pytest.mark.parametrize(
    ("name", "options"),
    federations.first_of_each(
        (name, options) for name, options, rows in PRIVATE_CASES if rows == 2
    ),
)
def test_every_private_analysis_runs_through_a_secure_sum(
    name: str, options: dict[str, Any], sites: list[Site]
) -> None:
    """With distributed noise; 300 people are few, so an estimate may drown, and then the message
    says so."""
    summed = run(
        federations.study_of({"a": {"run": name, **options}}, privacy=DISTRIBUTED), sites
    ).runs[TaskId("a")]
    assert summed.nodes == NAMES and not summed.refusals and not summed.first, (
        "the hub holds no node's part"
    )
    if summed.result is None:
        assert re.search("(beside|from) the noise|the noise hides", summed.failed)
    else:
        assert summed.result.exactness.kind == "noised"


@pytest.mark.parametrize("privacy", [SECURE, {**SECURE, "mode": "dp", "epsilon": 20}, DISTRIBUTED])
@pytest.mark.parametrize("after_answering", federations.first([False, True]))
@pytest.mark.parametrize("phase", PHASES)
def test_a_node_may_drop_at_any_phase(
    phase: str, after_answering: bool, privacy: dict[str, Any], sites: list[Site]
) -> None:
    study = federations.study_of({"a": CROSSTAB}, privacy=privacy)
    outcome = run(
        study, sites, lambda send: faults.drops(send, "n3", phase, after_answering=after_answering)
    )
    task_run = outcome.runs[TaskId("a")]
    masked = phase in ("sign", "unmask")  # its letter with the vector had come: it is in the sum
    assert task_run.nodes == (NAMES if masked else [name for name in NAMES if name != "n3"])
    here = TABLE if masked else TABLE[SPLIT != 3]
    counts = {
        (row["row"], row["column"]): row["n"]
        for row in federations.result(outcome).tables["counts"].rows
        if "(all)" not in (row["row"], row["column"])
    }
    for (arm, sex), n in counts.items():
        exact = int(((here["arm"] == arm) & (here["sex"] == sex)).sum())
        assert (
            n == exact if privacy["mode"] == "exact" else abs(n - exact) < 60
        )  # six standard deviations of the noise, and more


def test_two_dropouts_where_one_was_allowed_for_open_nothing(sites: list[Site]) -> None:
    study = federations.study_of({"a": CROSSTAB}, privacy=SECURE)
    outcome = run(
        study, sites, lambda send: faults.drops(faults.drops(send, "n3", "mask"), "n1", "deal")
    )
    task_run = outcome.runs[TaskId("a")]
    assert (
        task_run.result is None
        and "3 nodes were left in the phase 'mask', and 4 are needed" in task_run.failed
    )


def test_strict_mode_ends_at_the_first_dropout(sites: list[Site]) -> None:
    study = federations.study_of({"a": CROSSTAB}, privacy={"mode": "exact", "secure_sum": True})
    outcome = run(study, sites, lambda send: faults.drops(send, "n0", "unmask"))
    assert (
        "4 nodes were left in the phase 'unmask', and 5 are needed"
        in outcome.runs[TaskId("a")].failed
    )


def test_a_node_lost_between_rounds_ends_an_exact_sum_and_not_a_private_one(
    sites: list[Site],
) -> None:
    """Exact sums over five nodes and then over four would tell the fifth's by subtraction."""
    model = {"run": "glm", "model": "died ~ age + sex", "family": "binomial"}

    def leaves(send: Send) -> Send:
        def faulty(queries: Mapping[str, Query]) -> Sequence[Reply]:
            later = next(iter(queries.values())).round >= 3
            return send(
                {name: query for name, query in queries.items() if name != "n2" or not later}
            )

        return faulty

    exact = run(federations.study_of({"a": model}, privacy=SECURE), sites, leaves).runs[TaskId("a")]
    assert (
        exact.result is None and "a sum over other nodes was opened for this study" in exact.failed
    )
    private = run(federations.study_of({"a": model}, privacy=DISTRIBUTED), sites, leaves).runs[
        TaskId("a")
    ]
    assert "n2 left in round 3" in private.notes[0] and private.nodes == ["n0", "n1", "n3", "n4"]


def test_a_study_of_two_nodes_or_too_many_dropouts_is_refused_before_anyone_is_asked(
    sites: list[Site],
) -> None:
    with pytest.raises(errors.StudyError, match="needs at least three nodes, and 2 are there"):
        run(federations.study_of({"a": CROSSTAB}, privacy=SECURE), sites[:2])
    with pytest.raises(
        errors.StudyError, match="of 5 nodes with 1 colluders at most 1 may drop out, not 2"
    ):
        run(
            federations.study_of(
                {"a": CROSSTAB}, privacy={"mode": "exact", "secure_sum": {"dropouts": 2}}
            ),
            sites,
        )


# -- policy
def test_a_site_that_requires_a_secure_sum_answers_no_other_study(sites: list[Site]) -> None:
    strict = [
        replace(site, policy=POLICY.model_copy(update={"secure_sum": "required"})) for site in sites
    ]
    for privacy in ({"mode": "exact"}, {"mode": "dp", "epsilon": 20}):
        outcome = federations.run(
            federations.study_of({"a": CROSSTAB}, privacy=privacy), CONTRACT, strict
        )
        assert all(
            refusal.rule == "secure_sum" for refusal in outcome.runs[TaskId("a")].refusals.values()
        )
    assert (
        run(federations.study_of({"a": CROSSTAB}, privacy=SECURE), strict).runs[TaskId("a")].result
    )


@pytest.mark.parametrize(
    ("policy", "privacy", "rule"),
    [
        ({"colluders": 2}, SECURE, "colluders"),
        ({"honest_nodes": 4}, DISTRIBUTED, "honest_nodes"),
        ({"modes": ("dp",)}, SECURE, "privacy"),
        ({"max_epsilon": 1.0}, DISTRIBUTED, "epsilon"),
        ({"max_delta": 1e-9}, DISTRIBUTED, "epsilon"),
    ],
)
def test_a_study_cannot_lower_what_a_site_asks(
    policy: dict[str, Any], privacy: dict[str, Any], rule: str, sites: list[Site]
) -> None:
    strict = [replace(sites[0], policy=POLICY.model_copy(update=policy)), *sites[1:]]
    task_run = run(federations.study_of({"a": CROSSTAB}, privacy=privacy), strict).runs[TaskId("a")]
    assert task_run.refusals["n0"].rule == rule and task_run.nodes == NAMES[1:]


def test_a_site_that_takes_no_shares_adds_all_of_the_noise(sites: list[Site]) -> None:
    careful = [replace(sites[0], policy=POLICY.model_copy(update={"noise": "node"})), *sites[1:]]
    study = federations.study_of({"a": CROSSTAB}, privacy=DISTRIBUTED)
    noise = []
    for some in (sites, careful):
        rows = federations.result(run(study, some)).tables["counts"].rows
        noise.append(rows[0]["noise_sd"] ** 2)
    share = noise[0] / 5  # each of five adds a third: three are counted on
    assert noise[1] == pytest.approx(4 * share + 3 * share)


def test_a_node_with_another_roster_is_left_out_by_name(sites: list[Site]) -> None:
    contexts = local.contexts_of(sites)
    other = dict(contexts[4].site.roster) | {"n0": bytes(32)}
    contexts[4] = NodeContext(replace(contexts[4].site, roster=other), entropy=contexts[4].entropy)
    outcome = rounds.run(
        federations.study_of({"a": CROSSTAB}, privacy=SECURE),
        CONTRACT,
        ask_of(local.send_of(contexts, federations.NOW)),
        [context.site.name for context in contexts],
    )
    task_run = outcome.runs[TaskId("a")]
    assert task_run.refusals["n4"].rule in ("roster", "secure_sum") and task_run.nodes == NAMES[:4]


def test_a_stranger_in_the_query_is_refused_by_everyone(sites: list[Site]) -> None:
    contexts = local.contexts_of(sites[:4])
    strangers = [*contexts, NodeContext(sites[4])]
    outcome = rounds.run(
        federations.study_of({"a": CROSSTAB}, privacy=SECURE),
        CONTRACT,
        ask_of(local.send_of(strangers, federations.NOW)),
        NAMES,
    )
    refusals = outcome.runs[TaskId("a")].refusals
    assert all(
        refusals[name].rule == "roster" and "n4" in refusals[name].remedy for name in NAMES[:4]
    )


# -- a hub that asks otherwise
def letters(
    study: Study,
    contexts: Sequence[NodeContext],
    phase: Phase,
    names: Sequence[str] = NAMES,
    round_: int = 1,
) -> dict[str, Any]:
    """What each node answers to a query of our own making."""
    task = registry.plan(study, CONTRACT)["a"]
    states = {TaskId("a"): task.analysis.start(task)}
    query = Query(study, CONTRACT.hash, round_, tuple(names), states, phase=phase)
    return {
        context.site.name: service.answer(query, context, federations.NOW).answers[TaskId("a")]
        for context in contexts
    }


def test_the_hub_asks_for_a_part_alone_of_a_study_with_a_secure_sum(sites: list[Site]) -> None:
    study = federations.study_of({"a": CROSSTAB}, privacy=SECURE)
    task = registry.plan(study, CONTRACT)["a"]
    query = Query(study, CONTRACT.hash, 1, tuple(NAMES), {TaskId("a"): task.analysis.start(task)})
    for context in local.contexts_of(sites):
        answer = service.answer(query, context, federations.NOW).answers[TaskId("a")]
        assert isinstance(answer, Refusal) and answer.rule == "secure_sum"


def test_the_hub_asks_twice_within_an_attempt(sites: list[Site]) -> None:
    study = federations.study_of({"a": CROSSTAB}, privacy=SECURE)
    contexts = local.contexts_of(sites)
    first = letters(study, contexts, Phase("advertise", "x", {}))
    again = letters(study, contexts, Phase("advertise", "x", {}))
    assert all(isinstance(answer, SecAggMessage) for answer in first.values())
    assert all(
        isinstance(answer, Refusal) and "answered once" in answer.remedy
        for answer in again.values()
    )


def test_the_hub_begins_in_the_middle(sites: list[Site]) -> None:
    study = federations.study_of({"a": CROSSTAB}, privacy=SECURE)
    for name in PHASES[1:]:
        answers = letters(study, local.contexts_of(sites), Phase(name, "never begun", {}))
        assert all(
            isinstance(answer, Refusal) and "takes no part" in answer.remedy
            for answer in answers.values()
        )


@pytest.mark.parametrize("phase", PHASES[1:])
def test_a_phase_under_another_round_than_its_sum_is_refused(phase: str, sites: list[Site]) -> None:
    """A node signs the round with its reply, so it must be the round of the sum."""
    study = federations.study_of({"a": CROSSTAB}, privacy=SECURE)
    contexts = local.contexts_of(sites)
    letters(study, contexts, Phase("advertise", "x", {}))
    answers = letters(study, contexts, Phase(phase, "x", {}), round_=2)
    assert all(
        isinstance(answer, Refusal) and "begun in another round" in answer.remedy
        for answer in answers.values()
    )


@pytest.mark.parametrize("phase", federations.first(PHASES[1:], 2))
def test_mail_that_is_no_mail_is_refused_and_ends_the_seat(phase: str, sites: list[Site]) -> None:
    study = federations.study_of({"a": CROSSTAB}, privacy=SECURE)
    for junk in ({}, {"": b"[1, 2"}, {"": b'["n0", 3]'}, {"n0": b"short"}):
        contexts = local.contexts_of(sites)
        letters(study, contexts, Phase("advertise", "x", {}))
        answers = letters(study, contexts, Phase(phase, "x", {TaskId("a"): junk}))
        assert all(
            isinstance(answer, Refusal) and answer.rule == "secure_sum"
            for answer in answers.values()
        )
        assert not any(context.pending_sums for context in contexts)


def test_a_second_attempt_over_fewer_nodes_is_not_signed_in_exact_mode(
    sites: list[Site], tmp_path: Path
) -> None:
    """Nor after the nodes were restarted: who was in the sum is on their disks."""
    study = federations.study_of({"a": CROSSTAB}, privacy=SECURE)
    stateful = [replace(site, state=tmp_path / f"state-{site.name}") for site in sites]
    roster = {site.name: state_folder.public_identity(site.state) for site in stateful}
    stateful = [replace(site, roster=roster) for site in stateful]

    def outcome(fault: Any = None) -> Any:
        # new offices: restarted nodes
        send = local.send_of([NodeContext(site) for site in stateful], federations.NOW)
        return rounds.run(study, CONTRACT, ask_of(fault(send) if fault else send), NAMES).runs[
            TaskId("a")
        ]

    assert outcome().result is not None
    assert outcome().result is not None, "the same nodes may add up the same again"
    fewer = outcome(lambda send: faults.drops(send, "n3", "advertise"))
    assert fewer.result is None and "the difference would tell of the nodes between" in fewer.failed
    for site in stateful:
        assert ledger.verify(state_folder.open_ledger(site.state)).seq > 0


def test_distributed_noise_is_drawn_and_paid_anew_for_every_attempt(sites: list[Site]) -> None:
    """Two sums over different nodes with the same shares of noise would tell one node's numbers,
    all but bare."""
    study = federations.study_of({"a": CROSSTAB}, privacy=DISTRIBUTED)
    contexts = local.contexts_of(sites)
    send = local.send_of(contexts, federations.NOW)
    assert rounds.run(study, CONTRACT, ask_of(send), NAMES).runs[TaskId("a")].result
    again = rounds.run(study, CONTRACT, ask_of(faults.drops(send, "n3", "advertise")), NAMES).runs[
        TaskId("a")
    ]
    assert again.result is None and "more than the epsilon it declares" in again.failed


def test_whole_noise_is_drawn_once_and_paid_once(sites: list[Site]) -> None:
    study = federations.study_of({"a": CROSSTAB}, privacy={**DISTRIBUTED, "noise": "node"})
    contexts = local.contexts_of(sites)
    send = local.send_of(contexts, federations.NOW)
    tables = [
        federations.result(rounds.run(study, CONTRACT, ask_of(send), NAMES)).tables
        for _ in range(2)
    ]
    assert tables[0]["counts"].rows == tables[1]["counts"].rows
    for context in contexts:
        assert [entry.kind for entry in ledger.history(context.ledger)].count("charge") == 1


def test_the_hub_learns_the_total_and_its_nodes_and_no_part(sites: list[Site]) -> None:
    seen: list[Any] = []
    send = local.send_of(local.contexts_of(sites), federations.NOW)

    def watching(queries: Mapping[str, Query]) -> Sequence[Reply]:
        replies = send(queries)
        seen.extend(answer for reply in replies for answer in reply.answers.values())
        return replies

    ask = ask_of(watching)
    study = federations.study_of({"a": CROSSTAB}, privacy=SECURE)
    task = registry.plan(study, CONTRACT)["a"]
    replies = ask(
        Query(study, CONTRACT.hash, 1, tuple(NAMES), {TaskId("a"): task.analysis.start(task)})
    )
    assert seen and all(isinstance(answer, SecAggMessage) for answer in seen)
    totals = {
        id(summed.total)
        for reply in replies
        if isinstance(reply, SummedReply)
        for summed in reply.summed.values()
    }
    assert len(totals) == 1 and len(replies) == 5


# -- the noise of the total
@pytest.mark.parametrize(("dropouts", "lost"), [(0, ()), (1, ("n3",))])
def test_the_total_has_the_noise_of_its_shares_and_no_other(
    dropouts: int, lost: Sequence[str], tmp_path: Path
) -> None:
    """1,200 cells of nobody: what comes out is the noise. It has the variance that the result
    states, and 0.7 or 1.3 times the scale would be told apart (chi-squared at 1e-6)."""
    levels = [f"l{i}" for i in range(40)]
    contract = federations.contract_of(
        f"dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {{type: string}}\n  a: {{type:"
        f" category, levels: {levels}}}\n  b: {{type: category, levels: {levels[:30]}}}\n"
    )
    table = pandas.DataFrame({"id": np.arange(20), "a": "l0", "b": "l0"})
    sites = federations.sites_of(table, np.arange(20) % 5, contract, tmp_path, POLICY)
    privacy = {
        "mode": "dp",
        "epsilon": 1,
        "noise": "distributed",
        "secure_sum": {"dropouts": dropouts, "colluders": 1},
    }
    study = federations.study_of(
        {"a": {"run": "crosstab", "rows": "a", "columns": "b"}}, privacy=privacy
    )
    send = local.send_of(local.contexts_of(sites), federations.NOW)
    for name in lost:
        send = faults.drops(send, name, "mask")
    ask = secure_sum.ask_of(send, lambda planned: registry.plan(planned, contract))
    task = registry.plan(study, contract)["a"]
    replies = ask(
        Query(study, contract.hash, 1, tuple(NAMES), {TaskId("a"): task.analysis.start(task)})
    )
    reply = replies[0]
    assert isinstance(reply, SummedReply)
    answer = reply.summed[TaskId("a")]
    assert len(answer.nodes) == 5 - len(lost)
    cells = answer.total.sums["counts"].ravel()[1:]
    stated = answer.total.noise["counts"]

    def p_value(scale: float) -> float:
        statistic = float((cells**2).sum() / (stated * scale**2))
        return 2 * min(stats.chi2.cdf(statistic, len(cells)), stats.chi2.sf(statistic, len(cells)))

    assert p_value(1.0) > 1e-6 and p_value(0.7) < 1e-6 and p_value(1.3) < 1e-6
