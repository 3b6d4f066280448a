"""What a hub and a node of an earlier commit left is read, kept and continued by this one.
recipe.py says how states.tar.gz was made."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from aggregator import database, settings
from federation import audit, receipts
from federation import study as studies
from federation.messages import NoisedAnswer, Query, Reply, TaskId
from federation.privacy.accounting import PICO
from nodes import ledger, service, state_folder
from nodes import site as sites
from nodes.approvals import Approvals, Proposed
from nodes.session import NodeContext
from strategies import registry

STATES = Path(__file__).with_name("states.tar.gz")
WRITTEN = datetime(2026, 11, 28, 23, tzinfo=UTC)  # in the year of the grant
STUDIES = ("exact-ages", "private-ages")


@pytest.fixture
def states(tmp_path: Path) -> Path:
    with tarfile.open(STATES) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture
def node(states: Path) -> NodeContext:
    return NodeContext(sites.load(states / "node" / "node.yaml"))


def result_of(states: Path, study: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((states / "results" / f"{study}.json").read_text())
    return document


def proposals(node: NodeContext) -> dict[str, Proposed]:
    assert node.site.state is not None
    approvals = Approvals(node.site.state / "approvals.sqlite")
    return {proposed.study: proposed for proposed in approvals.all()}


def asked_again(node: NodeContext, study: str) -> Query:
    """The only round of a study, as it was asked then."""
    proposed = proposals(node)[study]
    parsed = studies.parse(proposed.written)
    tasks = registry.plan(parsed, node.site.datasets[parsed.dataset].contract)
    initial = {TaskId(name): task.analysis.start(task) for name, task in tasks.items()}
    nodes, ticket = proposed.ticket.nodes, proposed.ticket
    return Query(parsed, ticket.contract_hash, 1, nodes, initial, run=proposed.run)


def test_a_hub_keeps_its_parties_studies_and_results(states: Path) -> None:
    hub = settings.load(states / "hub")
    engine = database.open_registry(hub.database)
    parties = database.enrolled(engine, "node", "coordinator")
    assert [(party.name, party.role) for party in parties] == [
        ("alice", "coordinator"), ("limoges", "node"), ("lyon", "node"),
    ]  # fmt: skip
    with engine.connect() as connection:
        rows = connection.execute(
            database.studies.select().order_by(database.studies.c.number)
        ).all()
    assert [(row.study, row.state) for row in rows] == [(name, "complete") for name in STUDIES]
    assert audit.verify(hub.audit)[0] == 19
    audit.write(hub.audit, "hub started")
    assert audit.verify(hub.audit)[0] == 20


@pytest.mark.parametrize("study", STUDIES)
def test_a_result_that_was_signed_with_less_is_told_from_one_that_was_changed(
    states: Path, study: str
) -> None:
    """Nodes signed neither round nor phase then. The signatures of all others are as they were."""
    authority = (states / "hub" / "pki" / "ca.crt").read_bytes()
    roster = sites.load_roster(states / "node" / "roster.yaml")
    document = result_of(states, study)
    problems = receipts.verify(document, authority, roster)
    assert [problem.partition(":")[0] for problem in problems] == ["limoges", "lyon"]
    assert all("signed as before November 2026" in problem for problem in problems)
    changed = document["receipt"]["nodes"]["lyon"]["replies"][0]
    changed["reply"] = changed["reply"][:-1] + ("0" if changed["reply"][-1] != "0" else "1")
    assert any(
        "lyon: its reply of round 1 does not bear its signature" in problem
        for problem in receipts.verify(document, authority, roster)
    )


def test_a_node_keeps_its_ledger_approvals_and_audit_log(states: Path, node: NodeContext) -> None:
    assert node.site.state is not None
    audit_log = node.site.state / state_folder.AUDIT
    entries = list(audit.entries(audit_log))
    (private,) = (entry for entry in entries if entry.get("charged_pico_rho"))
    account = node.site.account("people", WRITTEN.year)
    spent = ledger.granted(node.ledger, account) - ledger.remaining(node.ledger, account)
    assert spent == private["charged_pico_rho"] > PICO // 100
    assert ledger.verify(node.ledger).seq > 2
    assert {name: proposed.verdict for name, proposed in proposals(node).items()} == dict.fromkeys(
        STUDIES, "approved"
    )
    assert audit.verify(audit_log)[0] == len(entries)


def test_the_same_private_question_has_the_same_answer_and_costs_nothing(
    states: Path, node: NodeContext
) -> None:
    """The stored answer also where the rows have changed since."""
    account = node.site.account("people", WRITTEN.year)
    before = ledger.remaining(node.ledger, account)
    first = service.answer(asked_again(node, "private-ages"), node, WRITTEN)
    rows = states / "node" / "rows.csv"
    rows.write_text(rows.read_text() + "50,true\n" * 300)
    shutil.copystat(STATES, rows)
    again = service.answer(asked_again(node, "private-ages"), NodeContext(node.site), WRITTEN)
    for reply in (first, again):
        assert all(isinstance(answer, NoisedAnswer) for answer in reply.answers.values()), reply
    assert _integers(first) == _integers(again)
    assert ledger.remaining(node.ledger, account) == before


def _integers(reply: Reply) -> list[Any]:
    return [
        (name, values.tolist())
        for answer in reply.answers.values()
        if isinstance(answer, NoisedAnswer)
        for name, values in answer.steps.items()
    ]


@pytest.mark.parametrize("study", STUDIES)
def test_a_run_that_ended_before_the_upgrade_gets_no_answer_after_it(
    node: NodeContext, study: str
) -> None:
    assert node.site.state is not None
    approving = replace(node, approvals=Approvals(node.site.state / "approvals.sqlite"))
    reply = service.answer(asked_again(node, study), approving, WRITTEN)
    assert {answer.rule for answer in reply.answers.values()} == {"approval"}


def test_a_changed_ledger_of_before_is_still_told(states: Path, node: NodeContext) -> None:
    assert node.site.state is not None
    head = node.site.state / "ledger.sqlite.head"
    head.write_text(head.read_text().replace(head.read_text().split()[0], "999", 1))
    reply = service.answer(asked_again(node, "private-ages"), node, WRITTEN)
    assert {answer.rule for answer in reply.answers.values()} == {"ledger"}
