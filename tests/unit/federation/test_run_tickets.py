"""A node answers the run that a coordinator signed, and no run that a hub made out of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from aggregator import pki
from federation import credentials, receipts
from federation.credentials import Credentials
from federation.messages import Part, Query, Refusal, TaskId
from federation.rpc import hub_pb2
from federation.secagg import keys
from federation.study import Study
from federation.tickets import RunTicket, ticket
from nodes import hub_stream, service, state_folder
from nodes.approvals import Approvals
from nodes.hub_stream import HubStream
from nodes.session import NodeContext
from nodes.site import Dataset, Policy, Site
from strategies import registry
from tests import federations

CONTRACT = federations.contract_of(
    "dataset: people\nversion: 1\nunit: visit\ncolumns:\n  age: {type: number, range: [0, 110]}\n"
)
NODES = ("brest", "lyon", "nice")
POLICY = Policy(modes=("exact", "dp"), approval="automatic", hub_sees_cells=True)


@dataclass(frozen=True)
class Parties:
    """A hub's authority with the certified key of a coordinator, and the node of Lyon."""

    folder: Path
    key: bytes
    certificate: str
    hub: HubStream

    @property
    def authority(self) -> bytes:
        return (self.folder / "ca.crt").read_bytes()


def parties(folder: Path, policy: Policy = POLICY) -> Parties:
    pki.make_authority(folder / "hub", ["localhost"])
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = pki.certify(folder / "hub", credentials.request(key), "alice", "coordinator")
    state = folder / "state" / "hub"
    state.mkdir(parents=True)
    (state / "ca.crt").write_bytes((folder / "hub" / "ca.crt").read_bytes())
    pandas.DataFrame({"age": range(20, 80)}).to_csv(folder / "people.csv", index=False)
    return Parties(folder / "hub", credentials.private_pem(key), certificate, node(folder, policy))


def node(folder: Path, policy: Policy = POLICY) -> HubStream:
    """The node as it is after a start: what it knows lies in its state folder."""
    site = Site(
        "lyon",
        {"people": Dataset(CONTRACT, str(folder / "people.csv"))},
        policy,
        state=folder / "state",
    )
    approvals = Approvals(state_folder.create(folder / "state") / "approvals.sqlite")
    state = Credentials(folder / "state" / "hub", "lyon", "node", "", "", 1)
    context = NodeContext(site, approvals=approvals)
    return HubStream(context, approvals, state, lambda *_: None, threading.Event())


def asked(**more: Any) -> Study:
    values = {"min_nodes": 3, "privacy": {"mode": "exact"}, "coordinator": "alice"}
    return federations.study_of({"a": {"run": "describe", "columns": ["age"]}}, **values | more)


def signed(who: Parties, **fields: Any) -> RunTicket:
    run = ticket(
        credentials.authority_id(who.authority),
        7,
        asked().hash,
        CONTRACT.hash,
        NODES,
        datetime.now(UTC).timestamp() + 3600,
    )
    return replace(run, **fields)


def proposal(who: Parties, run: RunTicket, **changed: Any) -> hub_pb2.Proposal:
    fields = {
        "study": asked().model_dump_json(),
        "contract_hash": run.contract_hash,
        "certificate": who.certificate,
        "signature": credentials.sign_run(who.key, run),
        "nodes": run.nodes,
        "deadline": run.deadline,
        "number": run.number,
    }
    return hub_pb2.Proposal(**fields | changed)


def verdict(who: Parties, proposed: hub_pb2.Proposal) -> str:
    decision = hub_stream.consider(who.hub, proposed)
    assert decision is not None
    return f"{decision.verdict}: {decision.reason}"


def answer(hub: HubStream, digest: str, later: timedelta = timedelta(), **changed: Any) -> Any:
    study = asked()
    task = registry.plan(study, CONTRACT)["a"]
    query = Query(
        study, CONTRACT.hash, 1, NODES, {TaskId("a"): task.analysis.start(task)}, run=digest
    )
    now = datetime.now(UTC) + later
    return service.answer(replace(query, **changed), hub.context, now).answers[TaskId("a")]


def is_refused(given: Any) -> bool:
    return isinstance(given, Refusal) and given.rule == "approval"


def test_the_run_that_was_signed_is_answered_also_after_a_restart(tmp_path: Path) -> None:
    who = parties(tmp_path)
    run = signed(who)
    assert verdict(who, proposal(who, run)) == "approved: "
    assert isinstance(answer(who.hub, run.digest), Part)
    assert isinstance(answer(node(tmp_path), run.digest), Part)


OTHER_STUDY = asked(question="another question?")
CHANGED: dict[str, dict[str, Any]] = {
    "study": {"study": OTHER_STUDY.model_dump_json()},
    "number": {"number": 8},
    "contract": {"contract_hash": "0" * 64},
    "a node more": {"nodes": (*NODES, "paris")},
    "a node less": {"nodes": NODES[:2]},
    "deadline": {"deadline": 4e9},
    "no deadline": {"deadline": float("nan")},
    "a plan": {"number": 0, "rehearsal": True},
    "a run that says that it is a plan": {"rehearsal": True},
}


@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED)
def test_a_proposal_that_a_hub_changes_is_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    who = parties(tmp_path)
    run = signed(who)
    assert "it is not signed by its coordinator" in verdict(who, proposal(who, run, **changed))
    assert is_refused(answer(who.hub, run.digest)), "nothing of it is approved"


def test_a_plan_that_was_signed_never_becomes_a_run(tmp_path: Path) -> None:
    who = parties(tmp_path)
    plan = signed(who, number=0)
    assert verdict(who, proposal(who, plan, rehearsal=True)) == "approved: "
    assert is_refused(answer(who.hub, plan.digest))
    assert "not signed" in verdict(who, proposal(who, plan))


def test_a_run_signed_for_another_hub_is_refused(tmp_path: Path) -> None:
    who = parties(tmp_path)
    run = signed(who, hub="f" * 64)
    assert "not signed" in verdict(who, proposal(who, run))


@pytest.mark.parametrize(
    "fields",
    [{"deadline": float("nan")}, {"deadline": float("inf")}, {"number": 2**63}],
    ids=["no deadline", "no end", "no such number"],
)
def test_a_signed_run_without_an_end_or_a_number_is_refused(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    who = parties(tmp_path)
    assert "not signed" in verdict(who, proposal(who, signed(who, **fields)))
    assert who.hub.approvals.all() == []


def test_a_run_that_does_not_name_this_node_is_refused(tmp_path: Path) -> None:
    who = parties(tmp_path)
    run = signed(who, nodes=("brest", "nice", "paris"))
    assert "not signed" in verdict(who, proposal(who, run))


QUERIES: dict[str, dict[str, Any]] = {
    "no run": {"run": ""},
    "another run": {"run": "0" * 64},
    "a node that was not asked": {"nodes": (*NODES, "paris")},
    "another node in place of one": {"nodes": ("brest", "lyon", "paris")},
    "another study": {"study": OTHER_STUDY},
}


@pytest.mark.parametrize("changed", QUERIES.values(), ids=QUERIES)
def test_a_query_outside_the_signed_run_is_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    who = parties(tmp_path)
    run = signed(who)
    hub_stream.consider(who.hub, proposal(who, run))
    assert is_refused(answer(who.hub, run.digest, **changed))
    assert isinstance(answer(who.hub, run.digest), Part)


def test_a_contract_that_the_node_took_later_is_outside_the_signed_run(tmp_path: Path) -> None:
    """The node holds this contract now, so that nothing but the ticket tells the two apart."""
    who = parties(tmp_path)
    run = signed(who)
    hub_stream.consider(who.hub, proposal(who, run))
    wider = federations.contract_of(
        "dataset: people\nversion: 1\nunit: visit\ncolumns:\n"
        "  age: {type: number, range: [0, 120]}\n"
    )
    site = who.hub.context.site
    held = replace(site, datasets={"people": replace(site.datasets["people"], contract=wider)})
    later = replace(who.hub, context=NodeContext(held, approvals=who.hub.approvals))
    assert is_refused(answer(later, run.digest, contract_hash=wider.hash))


def _ended(who: Parties, run: RunTicket) -> None:
    who.hub.approvals.end(run.digest)


def _refused_by_staff(who: Parties, run: RunTicket) -> None:
    who.hub.approvals.decide(run.digest, "refused", "", "dpo", "now")


ENDS: dict[str, tuple[Callable[[Parties, RunTicket], None], timedelta]] = {
    "it has ended or was cancelled": (_ended, timedelta()),
    "the staff took its approval back": (_refused_by_staff, timedelta()),
    "it did not begin in time": (lambda *_: None, timedelta(days=2)),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_run_that_is_over_gets_no_answer_also_after_a_restart(
    end: tuple[Callable[[Parties, RunTicket], None], timedelta], tmp_path: Path
) -> None:
    who = parties(tmp_path)
    run = signed(who)
    hub_stream.consider(who.hub, proposal(who, run))
    act, later = end
    act(who, run)
    for hub in (who.hub, node(tmp_path)):
        assert is_refused(answer(hub, run.digest, later))
        hub_stream.consider(hub, proposal(who, run))  # the hub sends the same ticket again
        assert is_refused(answer(hub, run.digest, later))


def test_a_run_ends_thirty_days_after_its_first_query(tmp_path: Path) -> None:
    who = parties(tmp_path)
    run = signed(who)
    hub_stream.consider(who.hub, proposal(who, run))
    assert isinstance(answer(who.hub, run.digest), Part)
    assert isinstance(answer(who.hub, run.digest, timedelta(days=29)), Part)
    assert is_refused(answer(node(tmp_path), run.digest, timedelta(days=31)))


def test_a_coordinator_whose_key_is_not_accepted_any_more_gets_no_answer(tmp_path: Path) -> None:
    who = parties(tmp_path)
    run = signed(who)
    hub_stream.consider(who.hub, proposal(who, run))
    assert isinstance(answer(who.hub, run.digest), Part)
    later = node(tmp_path, POLICY.model_copy(update={"coordinator_keys": {"alice": "0" * 64}}))
    assert is_refused(answer(later, run.digest))


def test_the_same_study_is_run_again_under_a_new_ticket_only(tmp_path: Path) -> None:
    who = parties(tmp_path)
    first, second = signed(who), signed(who, number=8)
    for run in (first, second):
        hub_stream.consider(who.hub, proposal(who, run))
    _ended(who, first)
    assert is_refused(answer(who.hub, first.digest))
    assert isinstance(answer(who.hub, second.digest), Part)


def test_an_old_ticket_begins_no_run_at_a_node_that_lost_its_approvals(tmp_path: Path) -> None:
    who = parties(tmp_path)
    old = signed(who, deadline=datetime.now(UTC).timestamp() - 60)
    for _ in range(2):
        assert "the deadline of this run has passed" in verdict(who, proposal(who, old))
        assert is_refused(answer(who.hub, old.digest))


def test_a_decision_is_signed_for_its_run(tmp_path: Path) -> None:
    who = parties(tmp_path)
    run, other = signed(who), signed(who, number=8)
    decision = hub_stream.consider(who.hub, proposal(who, run))
    assert decision is not None and decision.run == run.digest
    identity = state_folder.public_identity(tmp_path / "state")
    terms = (decision.verdict, decision.by, decision.at)
    for ticket_, is_valid in ((run, True), (other, False)):
        content = receipts.decision_content(ticket_.digest, *terms)
        assert keys.is_signed(identity, decision.signature, content) is is_valid


def test_a_node_asks_about_the_runs_that_it_keeps_open(tmp_path: Path) -> None:
    """It may have been offline when the hub ended one."""
    who = parties(tmp_path)
    run = signed(who)
    hub_stream.consider(who.hub, proposal(who, run))
    assert who.hub.approvals.open_runs() == [run.digest]
    _ended(who, run)
    assert who.hub.approvals.open_runs() == []
