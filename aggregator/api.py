"""The hub's own gRPC service: enrolment on one port, nodes and coordinators on another, behind
mutual TLS.

The key of a certificate identifies the caller, and the registry says what they may do. A
coordinator sees their own studies, an operator sees all of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from aggregator import database, enrolment, linked_studies, pki, serving
from aggregator.connections import Outbox
from aggregator.database import DatasetHolder, Holders, Party, Submitted
from aggregator.parcels import Address, Part
from aggregator.planning import Planner
from aggregator.rounds import check_secure_sum
from aggregator.scheduler import Scheduler, seconds_left
from aggregator.serving import Caller, Gate, Kind, Pools, Route, Servers
from federation import __version__, audit, credentials, errors
from federation import contract as contracts
from federation import study as studies
from federation.client import CLOCK_S, MAX_WAIT_S
from federation.contract import Contract
from federation.rpc import hub_pb2
from federation.study import Study
from federation.tickets import REHEARSAL, ticket

log = logging.getLogger("hdh.hub")
QUIET_S, SEEN_S = 0.2, 5.0
PARCEL_S = 5.0  # how long a call waits for a part that is not there yet
REHEARSAL_S = 10.0


def servers(scheduler: Scheduler, planner: Planner) -> Servers:
    """SetupError if a port is taken."""
    gate = Gate(scheduler.engine, Pools())
    return serving.servers(scheduler.hub, gate, routes(scheduler, gate, planner))


def routes(scheduler: Scheduler, gate: Gate, planner: Planner) -> dict[str, Route]:
    """What each method of hub.proto does, and who may call it."""
    enrolment_, nodes = Enrolment(scheduler), Nodes(scheduler, gate)
    coordination = Coordination(scheduler, gate, planner)
    node, people = ("node",), ("coordinator", "operator")
    answers: dict[str, tuple[Any, tuple[str, ...], Kind]] = {
        "Enrolment.Enrol": (enrolment_.Enrol, (), "enrol"),
        "Nodes.Watch": (nodes.Watch, node, "stream"),
        "Nodes.Decide": (nodes.Decide, node, "call"),
        "Nodes.Renew": (nodes.Renew, (*node, *people), "call"),
        "Nodes.Roster": (nodes.Roster, node, "call"),
        "Nodes.Put": (nodes.Put, node, "wait"),
        "Nodes.Take": (nodes.Take, node, "wait"),
        "Coordination.Draft": (coordination.Draft, people, "plan"),
        "Coordination.Submit": (coordination.Submit, people, "plan"),
        "Coordination.List": (coordination.List, people, "call"),
        "Coordination.Get": (coordination.Get, people, "call"),
        "Coordination.Watch": (coordination.Watch, people, "stream"),
        "Coordination.Result": (coordination.Result, people, "call"),
        "Coordination.Cancel": (coordination.Cancel, people, "call"),
        "Coordination.Plan": (coordination.Plan, people, "plan"),
        "Coordination.Datasets": (coordination.Datasets, people, "call"),
    }
    return {
        name: Route(serving.request_of(name), answer, roles, kind)
        for name, (answer, roles, kind) in answers.items()
    }


class Enrolment:
    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def Enrol(self, request: hub_pb2.EnrolRequest, _: None) -> hub_pb2.EnrolReply:
        return enrolment.enrol(
            self.scheduler.hub, self.scheduler.engine, self.scheduler.control, request
        )


class Nodes:
    def __init__(self, scheduler: Scheduler, gate: Gate) -> None:
        self.scheduler, self.gate = scheduler, gate
        self.greetings: dict[str, asyncio.Lock] = {}

    async def Watch(self, request: hub_pb2.Hello, caller: Caller) -> AsyncIterator[hub_pb2.Notice]:
        scheduler, node, run = self.scheduler, caller.party.name, self.gate.pools.run
        async with self.greetings.setdefault(node, asyncio.Lock()):  # a thread for each node
            await run("stream", self._greet, node, request)
            await run("stream", self.registrations.restore, caller.party, caller.certificate)
        outbox = Outbox(asyncio.get_running_loop())
        scheduler.connections.connect(node, outbox)
        log.info("node %s is online (hdh %s)", node, request.version)
        try:
            for notice in await run("stream", self._first_notices, node, request):
                yield notice
            async for notice in self._notices(caller, outbox):
                yield notice
        finally:
            scheduler.connections.disconnect(node, outbox)
            log.info("node %s is offline", node)

    def _greet(self, node: str, request: hub_pb2.Hello) -> None:
        """Stores what a node holds. A contract that this hub cannot read is left out, since every
        coordinator would be sent it."""
        holdings: dict[str, list[Mapping[str, Any]]] = {}
        for holding in request.holdings:
            if not _is_readable(holding):
                log.warning(
                    "node %s: its contract of dataset %s is not one of this version, or not that of"
                    " its hash; the dataset is not offered until the node sends another",
                    node,
                    holding.dataset,
                )
                continue
            held = {
                "contract": holding.contract_hash,
                "people": holding.people or None,
                "written": holding.contract,
            }
            holdings.setdefault(holding.dataset, []).append(held)
        database.seen(self.scheduler.engine, node, time.time(), request.version, holdings)
        self._anchor(node, request.audit_seq, request.audit_hash)

    @cached_property
    def registrations(self) -> enrolment.Registrations:
        return enrolment.Registrations(self.scheduler.engine, self.scheduler.control)

    @cached_property
    def anchors(self) -> dict[str, tuple[str, int]]:
        """By node: the day of its last anchor, and the number of the entry."""
        return {
            str(entry["node"]): (str(entry["at"])[:10], int(entry["entry"]))
            for entry in audit.entries(self.scheduler.hub.audit)
            if entry["event"] == "anchored"
        }

    def _anchor(self, node: str, seq: int, digest: str) -> None:
        """Writes down the last entry of a node's audit log, once a day, so that nobody can change
        what came before it, nor remove it unseen."""
        if not digest:
            return  # a node of an earlier version
        day, last = self.anchors.get(node, ("", 0))
        today = datetime.now(UTC).date().isoformat()
        if seq < last:
            log.error(
                "node %s: its audit log has lost entries: it had %d, and has %d", node, last, seq
            )
        if day != today or seq < last:
            audit.write(self.scheduler.hub.audit, "anchored", node=node, entry=seq, sha256=digest)
            day = today
        self.anchors[node] = (day, seq)

    def _first_notices(self, node: str, request: hub_pb2.Hello) -> list[hub_pb2.Notice]:
        scheduler = self.scheduler
        head = scheduler.witness(node)
        welcome = hub_pb2.Welcome(
            now=time.time(), head_seq=head.seq, head_hash=head.hash, version=__version__
        )
        return [
            hub_pb2.Notice(welcome=welcome),
            *(
                hub_pb2.Notice(ended=hub_pb2.Ended(run=run))
                for run in scheduler.ended(request.runs)
            ),
            *(hub_pb2.Notice(proposal=proposal) for proposal in scheduler.open_proposals(node)),
        ]

    async def _notices(self, caller: Caller, outbox: Outbox) -> AsyncIterator[hub_pb2.Notice]:
        """Notices until the connection ends. Every few seconds, checks that the node's certificate
        is still valid."""
        seen = time.monotonic()
        while True:
            with suppress(TimeoutError):
                notice = await outbox.get(SEEN_S)
                if notice is None:
                    return
                yield notice
            if time.monotonic() - seen >= SEEN_S:
                await self.gate.check(caller)
                name = caller.party.name
                await self.gate.pools.run(
                    "stream", database.seen, self.scheduler.engine, name, time.time()
                )
                seen = time.monotonic()

    def Decide(self, request: hub_pb2.Decision, caller: Caller) -> hub_pb2.Empty:
        node = caller.party
        self.scheduler.decide(node, request)
        return hub_pb2.Empty()

    def Renew(self, request: hub_pb2.RenewRequest, caller: Caller) -> hub_pb2.RenewReply:
        party = caller.party
        signing_request = pki.read_request(request.csr)
        if credentials.key_id(signing_request) != party.key_id:
            raise errors.RefusalError(
                "a renewal must be for the same key; for a new key,"
                " ask the hub's operator for an invitation"
            )
        return hub_pb2.RenewReply(
            certificate=pki.certify(self.scheduler.hub.pki, request.csr, party.name, party.role)
        )

    def Roster(self, request: hub_pb2.Empty, _: Caller) -> hub_pb2.RosterReply:
        return hub_pb2.RosterReply(
            nodes={
                party.name: bytes.fromhex(party.identity)
                for party in database.enrolled(self.scheduler.engine, "node")
                if party.revoked is None
            }
        )

    # -- sealed messages of a link
    def Put(self, request: hub_pb2.Parcel, caller: Caller) -> hub_pb2.Empty:
        sender = caller.party
        address = Address(
            request.study_hash, request.attempt, sender.name, request.receiver, request.kind
        )
        self.scheduler.parcels.put(
            address, request.number, Part(request.content, request.sha256, request.is_last)
        )
        return hub_pb2.Empty()

    def Take(self, request: hub_pb2.ParcelRequest, caller: Caller) -> hub_pb2.ParcelReply:
        receiver = caller.party
        address = Address(
            request.study_hash, request.attempt, request.sender, receiver.name, request.kind
        )
        part = self.scheduler.parcels.take(address, request.number, PARCEL_S)
        if part is None:
            return hub_pb2.ParcelReply()
        return hub_pb2.ParcelReply(
            is_there=True, is_last=part.is_last, content=part.content, sha256=part.sha256
        )


def _is_readable(holding: hub_pb2.Holding) -> bool:
    """Whether the contract of a dataset is the one that its hash and its dataset name. Nodes of an
    earlier version do not send it."""
    if not holding.contract:
        return True
    try:
        contract = contracts.parse(holding.contract)
    except errors.ContractError:
        return False
    return (contract.hash, contract.dataset) == (holding.contract_hash, holding.dataset)


def _differences(contract: Contract, held: Mapping[str, Any]) -> str:
    """What differs in a contract that a node holds, in brackets; empty if the node did not send
    it."""
    try:
        other = contracts.parse(held.get("written", ""))
    except errors.ContractError:
        return ""
    return f" ({'; '.join(contract.differences(other)[:5])})"


def _coordinator(caller: Caller) -> str | None:
    """The coordinator whose studies the caller may see; None for an operator, who sees all."""
    return None if caller.party.role == "operator" else caller.party.name


def _rehearsed(
    node: str, decision: hub_pb2.Decision | None, online: bool, people: int
) -> hub_pb2.NodeState:
    if decision is None:
        reason = "did not answer" if online else "is not online"
        decision = hub_pb2.Decision(verdict="asked", reason=reason)
    return hub_pb2.NodeState(
        node=node,
        verdict=decision.verdict,
        reason=decision.reason,
        online=online,
        people=people,
    )


class Coordination:
    def __init__(self, scheduler: Scheduler, gate: Gate, planner: Planner) -> None:
        self.scheduler, self.gate, self.planner = scheduler, gate, planner

    def Draft(self, request: hub_pb2.SubmitRequest, caller: Caller) -> hub_pb2.DraftReply:
        party = caller.party
        study, contract = self._read(request, party)
        asked, _ = self._asked(study, contract, request)
        wait_s = request.deadline_s or self.scheduler.hub.file.deadline_h * 3600
        if not 0 < wait_s <= MAX_WAIT_S:  # NaN is neither
            raise errors.InputError(
                f"the deadline for approvals is at most {MAX_WAIT_S / 86_400:.0f} days away"
            )
        number = REHEARSAL if request.rehearsal else self.scheduler.next_number()
        return hub_pb2.DraftReply(number=number, nodes=asked, deadline=time.time() + wait_s)

    def Submit(self, request: hub_pb2.SubmitRequest, caller: Caller) -> hub_pb2.Status:
        party, certificate = caller.party, caller.certificate
        study, contract = self._read(request, party)
        asked, holders = self._asked(study, contract, request)
        self._check_signed(request, party, certificate, study, contract)
        check_secure_sum(study, len(asked) - study.other_parties)
        if not self.scheduler.has_drafted(request.number):
            raise errors.InputError(
                f"study {study.study}: the hub has drafted no run {request.number}; submit it again"
            )
        now = time.time()
        if not now <= request.deadline <= now + MAX_WAIT_S + CLOCK_S:
            raise errors.InputError(
                f"study {study.study}: its deadline for approvals has passed; submit it again"
            )
        values = {
            "number": request.number,
            "study": study.study,
            "study_hash": study.hash,
            "coordinator": party.name,
            "written": request.study,
            "contract": contract.canonical(),
            "certificate": certificate,
            "signature": request.signature.hex(),
            "submitted": now,
            "deadline": request.deadline,
            "link": holders.to_text() if holders else "",
        }
        return self._status(self.scheduler.submit(values, asked))

    def _read(self, request: hub_pb2.SubmitRequest, party: Party) -> tuple[Study, Contract]:
        """The study and the contract of a request of their coordinator, which fit each other."""
        study = studies.parse(request.study)
        contract = contracts.parse(request.contract)
        if study.coordinator != party.name:
            raise errors.StudyError(
                f"study {study.study}: its coordinator is {study.coordinator!r},"
                f" but you are {party.name!r}; leave `coordinator` out"
            )
        studies.check_authorisation(study, datetime.now(UTC).date())
        self.planner.check(request.study, request.contract, request.contracts)
        return study, contract

    def _check_signed(
        self,
        request: hub_pb2.SubmitRequest,
        party: Party,
        certificate: str,
        study: Study,
        contract: Contract,
    ) -> None:
        """StudyError if the caller has not signed the ticket of this very run."""
        authority = (self.scheduler.hub.pki / "ca.crt").read_bytes()
        run = ticket(
            credentials.authority_id(authority),
            request.number,
            study.hash,
            contract.hash,
            request.nodes,
            request.deadline,
        )
        signer = credentials.signer_of_run(
            certificate.encode(), authority, run, request.signature, None
        )
        if signer is None or signer[0] != party.name:
            raise errors.StudyError(
                f"study {study.study}: its signature is not valid;"
                " submit it with `hdh study submit`"
            )

    def _asked(
        self, study: Study, contract: Contract, request: hub_pb2.SubmitRequest
    ) -> tuple[list[str], Holders | None]:
        """The nodes that the request names, or else all nodes that hold the dataset under this
        contract; of a study of several datasets, those that hold them and the helper of a link."""
        nodes = {
            party.name: party
            for party in database.dataset_holders(self.scheduler.engine, "node")
            if party.revoked is None
        }
        unknown = [name for name in request.nodes if name not in nodes]
        if unknown:
            raise errors.InputError(
                f"no node {unknown[0]!r} is enrolled here;"
                f" the nodes are {', '.join(nodes) or 'none'}"
            )
        if study.datasets:
            choose = linked_studies.parties if study.link else linked_studies.side_by_side
            holders = choose(study, request.contracts, nodes, sorted({*request.nodes}))
            return holders.asked, holders
        return self._holding(study, contract, request, nodes), None

    def _holding(
        self,
        study: Study,
        contract: Contract,
        request: hub_pb2.SubmitRequest,
        nodes: Mapping[str, DatasetHolder],
    ) -> list[str]:
        holding = [name for name, party in nodes.items() if party.holds(contract)]
        asked = sorted({*request.nodes}) or sorted(holding)
        if len(asked) < study.min_answers:
            other_contract = [
                name
                for name, party in nodes.items()
                if study.dataset in party.holdings and name not in holding
            ]
            hint = "".join(
                f"; {name} holds it under another contract"
                + _differences(contract, nodes[name].holdings[study.dataset][0])
                for name in other_contract
            )
            raise errors.RefusalError(
                f"study {study.study} needs at least {study.min_nodes} nodes (min_nodes),"
                f" and {len(asked)} hold dataset {study.dataset!r} with this contract{hint}"
            )
        return asked

    def Datasets(self, request: hub_pb2.Empty, caller: Caller) -> hub_pb2.DatasetsReply:
        _coordinator(caller)
        online = self.scheduler.connections.online()
        return hub_pb2.DatasetsReply(
            datasets=[
                hub_pb2.HeldDataset(
                    node=node.name,
                    dataset=name,
                    contract=held.get("written", ""),
                    people=held.get("people") or 0,
                    online=node.name in online,
                )
                for node in database.dataset_holders(self.scheduler.engine, "node")
                if node.revoked is None
                for name, versions in sorted(node.holdings.items())
                for held in versions
            ]
        )

    def List(self, request: hub_pb2.ListRequest, caller: Caller) -> hub_pb2.ListReply:
        coordinator = _coordinator(caller)
        max_studies = min(request.max_studies or 50, 1000)
        studies = database.newest(self.scheduler.engine, coordinator, max_studies)
        return hub_pb2.ListReply(studies=[self._status(submitted) for submitted in studies])

    def Get(self, request: hub_pb2.StudyRequest, caller: Caller) -> hub_pb2.Status:
        return self._status(self._study_of(request, caller))

    async def Watch(
        self, request: hub_pb2.StudyRequest, caller: Caller
    ) -> AsyncIterator[hub_pb2.Status]:
        run, checked = self.gate.pools.run, time.monotonic()
        number = (await run("stream", self.Get, request, caller)).number
        last = None
        while True:
            status = await run("stream", self._status_of, number)
            if status != last:
                yield status
                last = status
            if status.state in database.OVER:
                return
            await asyncio.sleep(QUIET_S)
            if time.monotonic() - checked >= SEEN_S:
                await self.gate.check(caller)
                checked = time.monotonic()

    def _status_of(self, number: int) -> hub_pb2.Status:
        return self._status(database.submitted(self.scheduler.engine, number))

    def Result(self, request: hub_pb2.StudyRequest, caller: Caller) -> hub_pb2.ResultReply:
        submitted = self._study_of(request, caller)
        if submitted.run is None:
            why = (
                f"{submitted.state}: {submitted.reason}"
                if submitted.over
                else f"it is still {submitted.state}"
            )
            raise errors.RefusalError(
                f"study {submitted.study} (number {submitted.number}) has no result: {why}"
            )
        return hub_pb2.ResultReply(document=database.result(self.scheduler.engine, submitted.run))

    def Cancel(self, request: hub_pb2.StudyRequest, caller: Caller) -> hub_pb2.Status:
        party = caller.party
        submitted = self._study_of(request, caller)
        if submitted.over:
            raise errors.RefusalError(
                f"study {submitted.study} (number {submitted.number}) has ended: {submitted.state}"
            )
        self.scheduler.cancel(submitted, party.name)
        return self._status(database.submitted(self.scheduler.engine, submitted.number))

    def Plan(self, request: hub_pb2.SubmitRequest, caller: Caller) -> hub_pb2.PlanReply:
        party, certificate = caller.party, caller.certificate
        study, contract = self._read(request, party)
        self._check_signed(request, party, certificate, study, contract)
        asked, holders = self._asked(study, contract, request)
        proposal = hub_pb2.Proposal(
            study=request.study,
            contract_hash=contract.hash,
            certificate=certificate,
            signature=request.signature,
            nodes=asked,
            deadline=request.deadline,
            rehearsal=True,
            contracts=holders.contracts if holders else {study.dataset: contract.canonical()},
            roles=holders.roles if holders else {},
        )
        decisions = self.scheduler.rehearse(proposal, study.hash, asked, REHEARSAL_S)
        online = self.scheduler.connections.online()
        declared = database.dataset_holders(self.scheduler.engine, "node")
        names = study.datasets or [study.dataset]
        people = {node.name: max(node.people(name) for name in names) for node in declared}
        return hub_pb2.PlanReply(
            nodes=[
                _rehearsed(node, decisions.get(node), node in online, people.get(node, 0))
                for node in asked
            ]
        )

    def _study_of(self, request: hub_pb2.StudyRequest, caller: Caller) -> Submitted:
        submitted = database.find(self.scheduler.engine, request.study, _coordinator(caller))
        if submitted is None:
            raise errors.InputError(
                f"you have no study {request.study!r} at this hub; see `hdh study list`"
            )
        return submitted

    def _status(self, submitted: Submitted) -> hub_pb2.Status:
        online = self.scheduler.connections.online()
        nodes = [
            hub_pb2.NodeState(
                node=decision.node,
                verdict=decision.verdict,
                reason=decision.reason,
                online=decision.node in online,
            )
            for decision in database.decided(self.scheduler.engine, submitted.number)
        ]
        rounds = self.scheduler.rounds_of(submitted)
        return hub_pb2.Status(
            number=submitted.number,
            study=submitted.study,
            study_hash=submitted.study_hash,
            coordinator=submitted.coordinator,
            state=submitted.state,
            reason=submitted.reason,
            progress=self.scheduler.progress(submitted),
            rounds_done=rounds.done or 0,
            rounds_to_come=max(0, rounds.total - (rounds.done or 0)),
            seconds_left=seconds_left(rounds, submitted.started or 0.0),
            submitted=submitted.submitted,
            deadline=submitted.deadline,
            started=submitted.started or 0,
            finished=submitted.finished or 0,
            nodes=nodes,
        )
