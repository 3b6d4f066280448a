"""The node's connection to the hub, which the node opens and keeps open: it receives studies, and
sends decisions.

The node believes the hub only as far as it can check: it considers a study only if its coordinator
has signed it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc

from federation import __version__, audit, credentials, errors, limits, receipts
from federation import study as studies
from federation.credentials import Credentials
from federation.messages import LedgerHead, Refusal
from federation.rpc import hub_pb2, hub_pb2_grpc
from federation.secagg import keys
from federation.study import Study
from federation.tickets import REHEARSAL, RunTicket, ticket
from nodes import (
    dataset_versions,
    extension_rules,
    ledger,
    link_proposals,
    memory,
    service,
    side_by_side,
    state_folder,
    verdicts,
)
from nodes.approvals import Approvals, Proposed, Verdict
from nodes.session import NodeContext
from nodes.site import Site
from strategies import registry

log = logging.getLogger("hdh.node")
LOOK_S = 0.5  # between two looks for decisions of the staff
MAX_SKEW_S = 5.0  # of the clock; beyond it, Flower refuses this node's signatures


@dataclass
class HubStream:
    """`wake`: called when a study is about to send queries. `state`: shown by `hdh node
    status`. `ended`: called with the digest of a run that is over."""

    context: NodeContext
    approvals: Approvals
    enrolment: Credentials
    wake: Callable[[float, float | None], None]
    stop: threading.Event
    state: dict[str, Any] = field(default_factory=dict)
    ended: Callable[[str], None] = lambda run: None


class RevokedError(Exception):
    """The hub does not accept this node any more."""


def keep(hub: HubStream) -> None:
    """Connects, listens, and connects again, until `stop`. Raises RevokedError."""
    delay = 0.5
    teller = threading.Thread(target=_tell_decisions, args=(hub,), daemon=True)
    teller.start()
    while not hub.stop.is_set():
        started = time.monotonic()
        if credentials.days_left(hub.enrolment.certificate) < 0:
            hub.state["line"] = "certificate expired"
            log.error(
                "this node's certificate has expired: ask the hub's operator for a new invitation,"
                " and `hdh node enrol` again"
            )
        try:
            with credentials.channel(hub.enrolment) as channel:
                _listen(hub, channel)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                raise RevokedError(
                    str(error.details()).partition("|")[2]
                    or "the hub does not accept this node's certificate"
                ) from None
            if not hub.stop.is_set():
                log.warning("%s", credentials.hub_error(error, hub.enrolment.api))
        # For example an error of this node's disk; the hub will propose its studies again.
        except (errors.HdhError, OSError) as error:
            log.error("%s", error)
        hub.state["line"] = "away"
        delay = 0.5 if time.monotonic() - started > 60 else min(delay * 2, 30.0)
        hub.stop.wait(delay * random.uniform(0.8, 1.2))


def _listen(hub: HubStream, channel: grpc.Channel) -> None:
    stub = hub_pb2_grpc.NodesStub(channel)
    hello = _hello(hub.context.site, hub.approvals.open_runs())
    if hub.context.site.state is not None:
        log_file = hub.context.site.state / state_folder.AUDIT
        hello.audit_seq, hello.audit_hash = audit.head(log_file)
    stream = stub.Watch(hello)
    threading.Thread(target=_cancel_at_stop, args=(hub.stop, stream), daemon=True).start()
    for notice in stream:
        if not _is_admitted(hub, notice):
            continue
        kind = notice.WhichOneof("what")
        if kind == "welcome":
            hub.state |= {"line": "open", "since": _now()}
            log.info("the line to the hub %s is open", hub.enrolment.api)
            hub.wake(0.0, None)  # the hub is there: no retry at Flower waits any longer
            _check_welcome(hub, notice.welcome)
            _renew(hub, stub)
        elif kind == "wake":
            hub.wake(notice.wake.seconds, notice.wake.every)
        elif kind == "ended":
            hub.approvals.end(notice.ended.run)
            hub.ended(notice.ended.run)
        elif kind == "proposal":
            decision = consider(hub, notice.proposal)
            if decision is not None:
                stub.Decide(decision, timeout=30)
            if decision is not None and decision.verdict == "approved":
                # The first query is some seconds away; load what it needs now.
                analyses = studies.parse(notice.proposal.study).runs
                registry.preload(analyses)
                memory.ready(analyses)


def _is_admitted(hub: HubStream, notice: hub_pb2.Notice) -> bool:
    """Whether a notice of the hub keeps the limits of federation/limits.py."""
    try:
        limits.admit(notice)
    except limits.LimitError as broken:
        log.error("a notice of the hub is dropped: %s", broken)
        hub.context.audit("refused", rule="message", why=str(broken))
        return False
    return True


def _cancel_at_stop(stop: threading.Event, stream: Any) -> None:
    stop.wait()
    stream.cancel()


def _hello(site: Site, runs: Sequence[str]) -> hub_pb2.Hello:
    holdings = [
        hub_pb2.Holding(
            dataset=dataset.contract.dataset,
            contract_hash=dataset.contract.hash,
            people=dataset.people or 0,
            contract=dataset.contract.canonical(),
        )
        for _, dataset in sorted(site.entries.items())
    ]
    return hub_pb2.Hello(version=__version__, holdings=holdings, runs=runs)


def _check_welcome(hub: HubStream, welcome: hub_pb2.Welcome) -> None:
    skew = time.time() - welcome.now
    hub.state["skew_s"] = round(skew, 1)
    if abs(skew) > MAX_SKEW_S:
        log.error(
            "this machine's clock is %.0f s %s the hub's:"
            " no study can be answered until it is set (NTP)",
            abs(skew),
            "ahead of" if skew > 0 else "behind",
        )
    with suppress(errors.LedgerError):
        ledger.check_witness(
            state_folder.open_ledger(hub.context.site.state),
            LedgerHead(int(welcome.head_seq), welcome.head_hash),
        )
        hub.state.pop("rolled_back", None)
        return
    hub.state["rolled_back"] = True
    log.error(
        "this node's ledger is older than the one that the hub has seen:"
        " no study is answered until the newest copy is restored"
    )
    hub.context.audit("rolled back", seen=int(welcome.head_seq))


def _renew(hub: HubStream, stub: Any) -> None:
    """A hub whose authority's key is elsewhere renews nothing now, and the line to it goes on."""
    try:
        is_renewed = credentials.renew_if_due(hub.enrolment, stub)
    except grpc.RpcError as error:
        refused = credentials.hub_error(error, hub.enrolment.api)
        log.warning("the certificate is not renewed yet: %s", refused)
        return
    except errors.SetupError as refused:
        log.error("the certificate is not renewed: %s", refused)
        hub.context.audit("refused", rule="certificate", why=str(refused))
        return
    except OSError as error:
        log.warning("the renewed certificate cannot be stored: %s", type(error).__name__)
        return
    if is_renewed:
        hub.context.audit("certificate renewed")
        log.info("the certificate is renewed")


# -- studies
def consider(hub: HubStream, proposal: hub_pb2.Proposal) -> hub_pb2.Decision | None:
    """This node's decision on a proposal; None if it cannot be read as a study."""
    now = datetime.now(UTC)
    try:
        study = studies.parse(proposal.study)
    except errors.StudyError:
        log.error("this version cannot read a proposed study; it is not considered")
        hub.context.audit("refused", rule="study", why="this version cannot read the study")
        return None
    run = _ticket(hub, study, proposal)
    signer = _signer(hub, study, proposal, run, now)
    if signer is None:
        return _unsigned(hub, study, proposal, run)
    site = hub.context.site
    reason = _late(hub, run, now) or _policy(study, run, _link_of(proposal), site, now)
    verdict: Verdict = "approved" if site.policy.approval == "automatic" else "waiting"
    verdict = "refused" if reason else verdict
    if proposal.rehearsal:
        why = reason or ("" if verdict == "approved" else "waits for the approval of its staff")
        return _decision(hub, run, verdict, why, "policy", True)
    proposed = _record(hub, study, proposal, run, signer, verdict, reason or "")
    return _decision(hub, run, proposed.verdict, proposed.reason, proposed.by, False, proposed.at)


def _ticket(hub: HubStream, study: Study, proposal: hub_pb2.Proposal) -> RunTicket:
    """The run of a proposal, at the hub where this node is enrolled."""
    return ticket(
        credentials.authority_id(hub.enrolment.authority),
        proposal.number,
        study.hash,
        proposal.contract_hash,
        proposal.nodes,
        proposal.deadline,
    )


def _signer(
    hub: HubStream, study: Study, proposal: hub_pb2.Proposal, run: RunTicket, now: datetime
) -> str | None:
    """The key of the study's coordinator, if they have signed the run, and with the key in this
    node's policy if it names one. A signed rehearsal is no run."""
    is_mine = hub.context.site.name in run.nodes and run.is_sound
    if not is_mine or (run.number == REHEARSAL) != proposal.rehearsal:
        return None
    signer = credentials.signer_of_run(
        proposal.certificate.encode(), hub.enrolment.authority, run, proposal.signature, now
    )
    pinned = hub.context.site.policy.coordinator_keys.get(study.coordinator)
    if signer is None or signer[0] != study.coordinator:
        return None
    return signer[1] if pinned is None or pinned == signer[1] else None


def _late(hub: HubStream, run: RunTicket, now: datetime) -> str | None:
    """Refuses a run after its deadline, unless it is approved already: an old ticket begins no run,
    also if this node has lost its approvals."""
    before = hub.approvals.proposed(run.digest)
    if now.timestamp() <= run.deadline or (before is not None and before.verdict == "approved"):
        return None
    return "approval: the deadline of this run has passed; submit the study again"


def _unsigned(
    hub: HubStream, study: Study, proposal: hub_pb2.Proposal, run: RunTicket
) -> hub_pb2.Decision:
    log.error("study %s is not signed by its coordinator; refused", study.hash[:12])
    hub.context.audit(
        "refused",
        study=study.study,
        study_hash=study.hash,
        coordinator=study.coordinator,
        rule="coordinator",
        why="its signature is not valid",
    )
    reason = "it is not signed by its coordinator with the key known here"
    return _decision(hub, run, "refused", reason, "policy", proposal.rehearsal)


def _record(
    hub: HubStream,
    study: Study,
    proposal: hub_pb2.Proposal,
    run: RunTicket,
    key: str,
    verdict: Verdict,
    reason: str,
) -> Proposed:
    """Stores a proposal with this policy's verdict. An earlier verdict of the staff stands."""
    approvals = hub.approvals
    before = approvals.proposed(run.digest)
    by, at = ("", "") if verdict == "waiting" else ("policy", _now())
    proposed = approvals.propose(
        Proposed(
            run,
            study.study,
            proposal.study,
            study.coordinator,
            key,
            _now(),
            run.deadline,
            0,
            verdict,
            reason,
            by,
            at,
            _link_of(proposal),
        )
    )
    if before is None:
        _report_proposal(hub, study, proposed)
    elif proposed.by == "policy" and proposed.verdict != verdict:  # the policy has changed since
        approvals.decide(run.digest, verdict, reason, "policy", _now())
        return approvals.proposed(run.digest) or proposed
    return proposed


def _report_proposal(hub: HubStream, study: Study, proposed: Proposed) -> None:
    hub.context.audit(
        "proposed",
        study=study.study,
        study_hash=study.hash,
        coordinator=study.coordinator,
        key=proposed.key_id,
        contract=proposed.ticket.contract_hash,
        verdict=proposed.verdict,
        why=proposed.reason,
    )
    log.info(
        "study %s (%s) of %s: %s %s",
        study.study,
        study.hash[:12],
        study.coordinator,
        proposed.verdict,
        proposed.reason,
    )


def _link_of(proposal: hub_pb2.Proposal) -> str:
    """What the node stores beside the study itself: its contracts, and the roles of a link."""
    if not proposal.contracts:
        return ""
    return link_proposals.to_text(proposal.contracts, proposal.roles)


def _policy(study: Study, run: RunTicket, link: str, site: Site, now: datetime) -> str | None:
    """`link`: what the node stores beside the study."""
    refused = extension_rules.refusal(study, site)
    if refused is not None:  # a plan imports the code of a study's extensions
        return str(service.as_sent(refused, site))
    if study.link is not None:
        return _link_policy(study, run, link, site, now)
    if side_by_side.is_side_by_side(study):
        placed = side_by_side.site_of(study, run.contract_hash, link, site)
        if isinstance(placed, Refusal):
            return str(service.as_sent(placed, site))
        site = placed
    site = site.under(study.dataset, run.contract_hash)
    dataset = site.datasets.get(study.dataset)
    if dataset is None:
        return f"dataset: this node has no dataset {study.dataset!r}"
    if dataset.contract.hash != run.contract_hash:
        asked = dataset_versions.contract_in(link, study.dataset, run.contract_hash)
        return str(service.as_sent(service.of_another_contract(study, site, asked), site))
    try:
        tasks = registry.plan(study, dataset.contract)
    except errors.HdhError as error:
        return str(service.as_sent(Refusal("study", str(error)), site))
    nodes = len(run.nodes)
    refused = verdicts.refusal(study, tasks, site, now, nodes=nodes, names=run.nodes)
    return None if refused is None else str(service.as_sent(refused, site))


def _link_policy(study: Study, run: RunTicket, link: str, site: Site, now: datetime) -> str | None:
    """Of a node that would be a party of the study's link."""
    try:
        read = link_proposals.read(study, run, link)
    except errors.StudyError as error:
        return f"study: {error}"
    refused = link_proposals.refusal(read, site, now)
    if refused is not None:
        return str(service.as_sent(refused, site))
    role = read.roles[site.name]
    if role == "helper":
        return None
    refused = verdicts.over_budget(study, site, now.year, read.plan.dataset_of(role))
    return None if refused is None else str(service.as_sent(refused, site))


def _decision(
    hub: HubStream,
    run: RunTicket,
    verdict: str,
    reason: str,
    by: str,
    rehearsal: bool,
    at: str = "",
) -> hub_pb2.Decision:
    signature = b""
    if not rehearsal and verdict != "waiting":
        signature = keys.sign(
            hub.context.identity,
            receipts.decision_content(run.digest, verdict, by, at := at or _now()),
        )
    return hub_pb2.Decision(
        study_hash=run.study_hash,
        run=run.digest,
        verdict=verdict,
        reason=limits.shown(reason),
        by=by,
        at=at,
        signature=signature,
        rehearsal=rehearsal,
    )


def _tell_decisions(hub: HubStream) -> None:
    """Sends the decisions of the staff, until the hub has received them."""
    while not hub.stop.wait(LOOK_S):
        with (
            suppress(grpc.RpcError, errors.HdhError, OSError),
            credentials.channel(hub.enrolment) as channel,
        ):
            for proposed in hub.approvals.unsent() if hub.state.get("line") == "open" else ():
                decision = _decision(
                    hub,
                    proposed.ticket,
                    proposed.verdict,
                    proposed.reason,
                    proposed.by,
                    False,
                    proposed.at,
                )
                hub_pb2_grpc.NodesStub(channel).Decide(decision, timeout=30)
                hub.approvals.mark_sent(proposed)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
