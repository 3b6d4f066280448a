"""The hub's own gRPC service: enrolment on one port, nodes and coordinators on another, behind
mutual TLS.

The key of a certificate identifies the caller, and the registry says what they may do. A
coordinator sees their own studies, an operator sees all of them.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any

import grpc
import pydantic
import sqlalchemy as sa
from cryptography import x509
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from aggregator import database, enrolment, linked_studies, pki
from aggregator.database import Holders, Party, Submitted
from aggregator.parcels import Address, FullError, Part
from aggregator.rounds import check_secure_sum
from aggregator.scheduler import Scheduler
from aggregator.settings import HubSettings
from federation import __version__, credentials, errors
from federation import study as studies
from federation.client import CLOCK_S, MAX_WAIT_S
from federation.contract import Contract
from federation.rpc import hub_pb2, hub_pb2_grpc
from federation.study import Study
from federation.tickets import REHEARSAL, ticket
from strategies import registry as analyses

log = logging.getLogger("hdh.hub")
MAX_CALLS = 1000  # open at the same time; each connected node holds one
QUIET_S, SEEN_S = 0.2, 5.0
PARCEL_S = 5.0  # how long a call waits for a part that is not there yet
REHEARSAL_S = 10.0
LARGEST_CALL = 16 * 2**20
NAMES = ("hdh.v1.Enrolment", "hdh.v1.Nodes", "hdh.v1.Coordination")


@dataclass(frozen=True)
class Servers:
    """The server of nodes and coordinators, and the server of enrolment."""

    servers: tuple[grpc.Server, ...]
    health: health.HealthServicer

    def start(self) -> None:
        for server in self.servers:
            server.start()
        self.serving(True)

    def serving(self, ready: bool) -> None:
        """Reports to health checks whether a study could run now."""
        for name in ("", *NAMES):
            self.health.set(
                name,
                health_pb2.HealthCheckResponse.SERVING
                if ready
                else health_pb2.HealthCheckResponse.NOT_SERVING,
            )

    def stop(self) -> None:
        self.health.enter_graceful_shutdown()
        for ended in [server.stop(2) for server in self.servers]:
            ended.wait(5)


def servers(scheduler: Scheduler) -> Servers:
    """SetupError if a port is taken."""
    hub = scheduler.hub
    checks = health.HealthServicer()
    api, enrol = _server(MAX_CALLS), _server(20)
    hub_pb2_grpc.add_NodesServicer_to_server(Nodes(scheduler), api)
    hub_pb2_grpc.add_CoordinationServicer_to_server(Coordination(scheduler), api)
    hub_pb2_grpc.add_EnrolmentServicer_to_server(Enrolment(scheduler), enrol)
    for server in (api, enrol):
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    _listen(api, hub, "api", mutual=True)
    _listen(enrol, hub, "enrol", mutual=False)
    return Servers((api, enrol), checks)


def _server(calls: int) -> grpc.Server:
    options = [
        ("grpc.max_receive_message_length", LARGEST_CALL),
        ("grpc.max_send_message_length", 256 * 2**20),
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]
    return grpc.server(
        futures.ThreadPoolExecutor(calls, thread_name_prefix="grpc"), options=options
    )


def _listen(server: grpc.Server, hub: HubSettings, which: str, *, mutual: bool) -> None:
    pair = ((hub.pki / "hub.key").read_bytes(), (hub.pki / "hub.crt").read_bytes())
    secure = grpc.ssl_server_credentials(
        [pair], (hub.pki / "ca.crt").read_bytes() if mutual else None, require_client_auth=mutual
    )
    address = getattr(hub.file, which)
    try:
        server.add_secure_port(address, secure)
    except RuntimeError:
        raise errors.SetupError(
            f"the port {address} cannot be opened; stop the program that uses it,"
            f" or change `{which}` in hub.yaml"
        ) from None


CODES = {
    errors.InputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.RefusalError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SetupError: grpc.StatusCode.UNAVAILABLE,
}


def _with_status(call: Callable[..., Any]) -> Callable[..., Any]:
    """Sends an HdhError as a gRPC status, from whose text a client rebuilds the same error."""

    @wraps(call)
    def answered(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return call(self, request, context)
        except errors.HdhError as error:
            code = next(code for kind, code in CODES.items() if isinstance(error, kind))
            context.abort(code, f"{type(error).__name__}|{error}")
        except sa.exc.SQLAlchemyError as error:
            log.error("the database is unavailable: %s", type(error).__name__)
            context.abort(
                grpc.StatusCode.UNAVAILABLE,
                "SetupError|the hub's database is unavailable; try again later",
            )

    return answered


def _caller(scheduler: Scheduler, context: grpc.ServicerContext, *roles: str) -> tuple[Party, str]:
    """The caller and their certificate. Aborts the call if the certificate is unknown or revoked,
    or if the caller has none of `roles`."""
    certificate = context.auth_context().get("x509_pem_cert", [b""])[0]
    party = None
    if certificate:
        key_id = credentials.key_id(x509.load_pem_x509_certificate(certificate))
        party = database.party_by_key(scheduler.engine, key_id)
    if party is None or party.revoked is not None:
        context.abort(
            grpc.StatusCode.UNAUTHENTICATED,
            "RefusalError|this certificate was revoked or replaced; ask the hub's operator",
        )
    assert party is not None
    if party.role not in roles:
        context.abort(
            grpc.StatusCode.PERMISSION_DENIED, f"RefusalError|a {party.role} may not do this"
        )
    return party, certificate.decode()


class Enrolment(hub_pb2_grpc.EnrolmentServicer):
    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    @_with_status
    def Enrol(
        self, request: hub_pb2.EnrolRequest, context: grpc.ServicerContext
    ) -> hub_pb2.EnrolReply:
        return enrolment.enrol(
            self.scheduler.hub, self.scheduler.engine, self.scheduler.control, request
        )


class Nodes(hub_pb2_grpc.NodesServicer):
    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def Watch(
        self, request: hub_pb2.Hello, context: grpc.ServicerContext
    ) -> Iterator[hub_pb2.Notice]:
        scheduler = self.scheduler
        node, _ = _caller(scheduler, context, "node")
        holdings: dict[str, list[Mapping[str, Any]]] = {}
        for holding in request.holdings:
            held = {
                "contract": holding.contract_hash,
                "people": holding.people or None,
                "written": holding.contract,
            }
            holdings.setdefault(holding.dataset, []).append(held)
        database.seen(scheduler.engine, node.name, time.time(), request.version, holdings)
        notices = scheduler.connections.connect(node.name)
        context.add_callback(lambda: notices.put(None))
        log.info("node %s is online (hdh %s)", node.name, request.version)
        try:
            head = scheduler.witness(node.name)
            yield hub_pb2.Notice(
                welcome=hub_pb2.Welcome(
                    now=time.time(), head_seq=head.seq, head_hash=head.hash, version=__version__
                )
            )
            for run in scheduler.ended(request.runs):
                yield hub_pb2.Notice(ended=hub_pb2.Ended(run=run))
            for proposal in scheduler.open_proposals(node.name):
                yield hub_pb2.Notice(proposal=proposal)
            yield from self._notices(node.name, notices, context)
        finally:
            scheduler.connections.disconnect(node.name, notices)
            log.info("node %s is offline", node.name)

    def _notices(
        self, node: str, notices: queue.Queue[hub_pb2.Notice | None], context: grpc.ServicerContext
    ) -> Iterator[hub_pb2.Notice]:
        """Sends notices until the connection ends. Every few seconds, checks that the node's
        certificate is still valid."""
        seen = time.monotonic()
        while context.is_active():
            with suppress(queue.Empty):
                notice = notices.get(timeout=SEEN_S)
                if notice is None:
                    return
                yield notice
            if time.monotonic() - seen >= SEEN_S:
                database.seen(self.scheduler.engine, node, time.time())
                _caller(self.scheduler, context, "node")
                seen = time.monotonic()

    @_with_status
    def Decide(self, request: hub_pb2.Decision, context: grpc.ServicerContext) -> hub_pb2.Empty:
        node, _ = _caller(self.scheduler, context, "node")
        self.scheduler.decide(node, request)
        return hub_pb2.Empty()

    @_with_status
    def Renew(
        self, request: hub_pb2.RenewRequest, context: grpc.ServicerContext
    ) -> hub_pb2.RenewReply:
        party, _ = _caller(self.scheduler, context, "node", "coordinator", "operator")
        signing_request = pki.read_request(request.csr)
        if credentials.key_id(signing_request) != party.key_id:
            raise errors.RefusalError(
                "a renewal must be for the same key; for a new key,"
                " ask the hub's operator for an invitation"
            )
        return hub_pb2.RenewReply(
            certificate=pki.certify(self.scheduler.hub.pki, request.csr, party.name, party.role)
        )

    @_with_status
    def Roster(self, request: hub_pb2.Empty, context: grpc.ServicerContext) -> hub_pb2.RosterReply:
        _caller(self.scheduler, context, "node")
        return hub_pb2.RosterReply(
            nodes={
                party.name: bytes.fromhex(party.identity)
                for party in database.enrolled(self.scheduler.engine, "node")
                if party.revoked is None
            }
        )

    # -- sealed messages of a link
    @_with_status
    def Put(self, request: hub_pb2.Parcel, context: grpc.ServicerContext) -> hub_pb2.Empty:
        sender, _ = _caller(self.scheduler, context, "node")
        address = Address(
            request.study_hash, request.attempt, sender.name, request.receiver, request.kind
        )
        try:
            self.scheduler.parcels.put(
                address, request.number, Part(request.content, request.sha256, request.is_last)
            )
        except FullError:
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "the hub waits for parts to be taken; try again"
            )
        return hub_pb2.Empty()

    @_with_status
    def Take(
        self, request: hub_pb2.ParcelRequest, context: grpc.ServicerContext
    ) -> hub_pb2.ParcelReply:
        receiver, _ = _caller(self.scheduler, context, "node")
        address = Address(
            request.study_hash, request.attempt, request.sender, receiver.name, request.kind
        )
        part = self.scheduler.parcels.take(address, request.number, PARCEL_S)
        if part is None:
            return hub_pb2.ParcelReply()
        return hub_pb2.ParcelReply(
            is_there=True, is_last=part.is_last, content=part.content, sha256=part.sha256
        )


def _differences(contract: Contract, held: Mapping[str, Any]) -> str:
    """What differs in a contract that a node holds, in brackets; empty if the node did not send
    it."""
    try:
        other = Contract.model_validate_json(held.get("written", ""))
    except pydantic.ValidationError:
        return ""
    return f" ({'; '.join(contract.differences(other)[:5])})"


class Coordination(hub_pb2_grpc.CoordinationServicer):
    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    @_with_status
    def Draft(
        self, request: hub_pb2.SubmitRequest, context: grpc.ServicerContext
    ) -> hub_pb2.DraftReply:
        party, _ = _caller(self.scheduler, context, "coordinator", "operator")
        study, contract = self._read(request, party)
        asked, _ = self._asked(study, contract, request)
        wait_s = request.deadline_s or self.scheduler.hub.file.deadline_h * 3600
        if not 0 < wait_s <= MAX_WAIT_S:  # NaN is neither
            raise errors.InputError(
                f"the deadline for approvals is at most {MAX_WAIT_S / 86_400:.0f} days away"
            )
        number = REHEARSAL if request.rehearsal else self.scheduler.next_number()
        return hub_pb2.DraftReply(number=number, nodes=asked, deadline=time.time() + wait_s)

    @_with_status
    def Submit(
        self, request: hub_pb2.SubmitRequest, context: grpc.ServicerContext
    ) -> hub_pb2.Status:
        party, certificate = _caller(self.scheduler, context, "coordinator", "operator")
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
        try:
            contract = Contract.model_validate_json(request.contract)
        except pydantic.ValidationError:
            raise errors.ContractError(
                "the contract received does not follow the schema of this version"
            ) from None
        if study.coordinator != party.name:
            raise errors.StudyError(
                f"study {study.study}: its coordinator is {study.coordinator!r},"
                f" but you are {party.name!r}; leave `coordinator` out"
            )
        linked_studies.check(study, contract, request.contracts)
        analyses.plan(study, contract)
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
            for party in database.enrolled(self.scheduler.engine, "node")
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
        nodes: Mapping[str, Party],
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

    @_with_status
    def Datasets(
        self, request: hub_pb2.Empty, context: grpc.ServicerContext
    ) -> hub_pb2.DatasetsReply:
        self._coordinator(context)
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
                for node in database.enrolled(self.scheduler.engine, "node")
                if node.revoked is None
                for name, versions in sorted(node.holdings.items())
                for held in versions
            ]
        )

    @_with_status
    def List(
        self, request: hub_pb2.ListRequest, context: grpc.ServicerContext
    ) -> hub_pb2.ListReply:
        coordinator = self._coordinator(context)
        max_studies = min(request.max_studies or 50, 1000)
        studies = database.newest(self.scheduler.engine, coordinator, max_studies)
        return hub_pb2.ListReply(studies=[self._status(submitted) for submitted in studies])

    @_with_status
    def Get(self, request: hub_pb2.StudyRequest, context: grpc.ServicerContext) -> hub_pb2.Status:
        return self._status(self._study_of(request, context))

    def Watch(
        self, request: hub_pb2.StudyRequest, context: grpc.ServicerContext
    ) -> Iterator[hub_pb2.Status]:
        number = Coordination.Get(self, request, context).number
        last = None
        while context.is_active():
            submitted = database.submitted(self.scheduler.engine, number)
            status = self._status(submitted)
            if status != last:
                yield status
                last = status
            if submitted.over:
                return
            time.sleep(QUIET_S)

    @_with_status
    def Result(
        self, request: hub_pb2.StudyRequest, context: grpc.ServicerContext
    ) -> hub_pb2.ResultReply:
        submitted = self._study_of(request, context)
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

    @_with_status
    def Cancel(
        self, request: hub_pb2.StudyRequest, context: grpc.ServicerContext
    ) -> hub_pb2.Status:
        party, _ = _caller(self.scheduler, context, "coordinator", "operator")
        submitted = self._study_of(request, context)
        if submitted.over:
            raise errors.RefusalError(
                f"study {submitted.study} (number {submitted.number}) has ended: {submitted.state}"
            )
        self.scheduler.cancel(submitted, party.name)
        return self._status(database.submitted(self.scheduler.engine, submitted.number))

    @_with_status
    def Plan(
        self, request: hub_pb2.SubmitRequest, context: grpc.ServicerContext
    ) -> hub_pb2.PlanReply:
        party, certificate = _caller(self.scheduler, context, "coordinator", "operator")
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
        return hub_pb2.PlanReply(
            nodes=[
                self._rehearsed(node, decisions.get(node), node in online, study) for node in asked
            ]
        )

    def _rehearsed(
        self, node: str, decision: hub_pb2.Decision | None, online: bool, study: Study
    ) -> hub_pb2.NodeState:
        if decision is None:
            reason = "did not answer" if online else "is not online"
            decision = hub_pb2.Decision(verdict="asked", reason=reason)
        party = database.party(self.scheduler.engine, node)
        names = study.datasets or [study.dataset]
        people = max((party.people(name) for name in names), default=0) if party else 0
        return hub_pb2.NodeState(
            node=node,
            verdict=decision.verdict,
            reason=decision.reason,
            online=online,
            people=people,
        )

    def _coordinator(self, context: grpc.ServicerContext) -> str | None:
        """The coordinator whose studies the caller may see; None for an operator, who sees all."""
        party, _ = _caller(self.scheduler, context, "coordinator", "operator")
        return None if party.role == "operator" else party.name

    def _study_of(self, request: hub_pb2.StudyRequest, context: grpc.ServicerContext) -> Submitted:
        submitted = database.find(self.scheduler.engine, request.study, self._coordinator(context))
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
        return hub_pb2.Status(
            number=submitted.number,
            study=submitted.study,
            study_hash=submitted.study_hash,
            coordinator=submitted.coordinator,
            state=submitted.state,
            reason=submitted.reason,
            progress=self.scheduler.progress(submitted),
            submitted=submitted.submitted,
            deadline=submitted.deadline,
            started=submitted.started or 0,
            finished=submitted.finished or 0,
            nodes=nodes,
        )
