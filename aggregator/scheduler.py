"""A study's way through the hub: proposed to nodes, started when they have decided, watched, ended.

All that must survive a crash is in the registry. A hub that was killed starts its running studies anew: a node gives what it
has answered before once more, and charges nothing for it.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from aggregator import database, enrolment, jobs
from aggregator.database import Decided, Party, Submitted
from aggregator.document import Document
from aggregator.flower import control as flower_control
from aggregator.flower.control import Control
from aggregator.jobs import Job
from aggregator.settings import HubSettings
from federation import audit, errors, receipts
from federation import study as studies
from federation.contract import Contract
from federation.messages import LedgerHead
from federation.rpc import hub_pb2
from federation.secagg import keys

log = logging.getLogger("hdh.hub")
LOOK_S, IDLE_S = 0.1, 1.0
TIDY_S = 5.0
MAX_ATTEMPTS = 3
WAKE_S = 60.0
ASKED_A_SECOND = 20  # how often all nodes together may ask the SuperLink for news unbidden; it serves 200 requests a second
WAIT_FOR_NODES_S = 15.0


@dataclass
class NodeConnections:
    """The nodes' open lines: what is to be said to each."""

    lines: dict[str, queue.Queue[hub_pb2.Notice | None]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def connect(self, node: str) -> queue.Queue[hub_pb2.Notice | None]:
        """A new line; an older one of the same node is told to end."""
        line: queue.Queue[hub_pb2.Notice | None] = queue.Queue()
        with self.lock:
            before = self.lines.get(node)
            self.lines[node] = line
        if before is not None:
            before.put(None)
        return line

    def disconnect(self, node: str, line: queue.Queue[hub_pb2.Notice | None]) -> None:
        with self.lock:
            if self.lines.get(node) is line:
                del self.lines[node]

    def tell(self, nodes: Sequence[str], notice: hub_pb2.Notice) -> None:
        with self.lock:
            for node in nodes:
                if node in self.lines:
                    self.lines[node].put(notice)

    def online(self) -> frozenset[str]:
        with self.lock:
            return frozenset(self.lines)


@dataclass
class Scheduler:
    hub: HubSettings
    engine: sa.Engine
    control: Control
    board: NodeConnections = field(default_factory=NodeConnections)
    news: threading.Event = field(default_factory=threading.Event)
    asked: dict[str, int] = field(
        default_factory=dict
    )  # by job: how many queries the nodes were told to look for
    rehearsals: dict[str, queue.Queue[tuple[str, hub_pb2.Decision]]] = field(default_factory=dict)

    # -- in
    def submit(self, values: Mapping[str, Any], asked: Sequence[str]) -> Submitted:
        one = database.submit(self.engine, values, asked)
        audit.write(
            self.hub.audit,
            "submitted",
            number=one.number,
            study=one.study,
            study_hash=one.study_hash,
            coordinator=one.coordinator,
            nodes=list(asked),
        )
        self.board.tell(asked, hub_pb2.Notice(proposal=proposal_of(one, len(asked))))
        self.news.set()
        return one

    def decide(self, node: Party, decision: hub_pb2.Decision) -> None:
        """A node's word, if it is signed by it. RefusalError if it is not."""
        if decision.rehearsal:
            for waiting in list(self.rehearsals.values()):
                waiting.put((node.name, decision))
            return
        content = receipts.decision_content(
            decision.study_hash, decision.verdict, decision.by, decision.at
        )
        if decision.verdict not in ("approved", "refused", "waiting"):
            raise errors.InputError("a node approves, refuses or waits")
        if decision.verdict != "waiting" and not keys.is_signed(
            bytes.fromhex(node.identity), decision.signature, content
        ):
            raise errors.RefusalError("the decision is not signed by the node's identity")
        for one in database.in_states(self.engine, "waiting", "running"):
            if one.study_hash == decision.study_hash:
                told = Decided(
                    one.number,
                    node.name,
                    decision.verdict,
                    decision.reason,
                    decision.by,
                    decision.at,
                    decision.signature.hex(),
                )
                if database.decide(self.engine, told) and decision.verdict != "waiting":
                    audit.write(
                        self.hub.audit,
                        decision.verdict,
                        node=node.name,
                        number=one.number,
                        study_hash=one.study_hash,
                        by=decision.by,
                        why=decision.reason,
                    )
        self.news.set()

    def cancel(self, one: Submitted, by: str) -> None:
        if database.move(
            self.engine,
            one.number,
            "cancelled",
            out_of=("waiting", "running"),
            reason=f"cancelled by {by}",
            finished=time.time(),
        ):
            audit.write(
                self.hub.audit, "cancelled", number=one.number, study_hash=one.study_hash, by=by
            )
            jobs.remove(self.hub.jobs, job_name(one.number, one.attempts))
            if one.flower_run:
                with suppress(errors.SetupError):
                    flower_control.stop(self.control, int(one.flower_run))
            self._tell_ended(one)

    # -- the loop
    def run(self, stop: threading.Event) -> None:
        self._resume()
        tidied = 0.0
        running = True
        while not stop.is_set():
            self.news.wait(LOOK_S if running else IDLE_S)
            self.news.clear()
            try:
                under_way = database.in_states(self.engine, "waiting", "running")
                running = any(one.state == "running" for one in under_way)
                for one in under_way:
                    if self._is_revoked(one.coordinator):
                        self.cancel(one, "the hub, since its coordinator was revoked")
                    elif one.state == "waiting":
                        self._consider(one)
                    else:
                        self._look(one, tidied)
                if time.monotonic() - tidied > TIDY_S:
                    enrolment.take_off(self.engine, self.control)
                    tidied = time.monotonic()
            except (
                errors.SetupError,
                sa.exc.SQLAlchemyError,
            ) as error:  # the SuperLink or the database is away
                log.warning("%s", str(error).splitlines()[0])
                stop.wait(1.0)

    def _resume(self) -> None:
        """What ran when the hub stopped, starts again; its former run is stopped, should it live still."""
        for one in database.in_states(self.engine, "running"):
            with suppress(errors.SetupError):
                flower_control.stop(self.control, int(one.flower_run or 0))
            self._again(one, "the hub was restarted")

    def _again(self, one: Submitted, why: str) -> None:
        jobs.remove(self.hub.jobs, job_name(one.number, one.attempts))
        if one.attempts >= MAX_ATTEMPTS:
            self._end(one, "failed", f"{why}; given up after {MAX_ATTEMPTS} attempts")
        elif database.move(
            self.engine,
            one.number,
            "waiting",
            out_of=("running",),
            reason=f"{why}; it starts again",
            flower_run="",
        ):
            log.warning("study %s (number %d): %s; it starts again", one.study, one.number, why)
            audit.write(
                self.hub.audit,
                "starts again",
                number=one.number,
                study_hash=one.study_hash,
                why=why,
            )

    def _is_revoked(self, coordinator: str) -> bool:
        party = database.party(self.engine, coordinator)
        return party is not None and party.revoked is not None

    def _consider(self, one: Submitted) -> None:
        said = database.decided(self.engine, one.number)
        approved = [each for each in said if each.verdict == "approved"]
        open_ = [each for each in said if each.verdict in ("asked", "waiting")]
        needed = studies.parse(one.written).min_nodes
        if len(approved) + len(open_) < needed:
            self._end(one, "refused", _too_few(said, needed))
        elif open_ and time.time() < one.deadline:
            return
        elif len(approved) < needed:
            self._end(
                one, "refused", "the deadline for approvals has passed: " + _too_few(said, needed)
            )
        else:
            self._start(one, [each.node for each in approved])

    def _start(self, one: Submitted, nodes: Sequence[str]) -> None:
        parties = {
            party.name: party
            for party in database.enrolled(self.engine, "node")
            if party.revoked is None and party.name in nodes
        }
        study, contract = studies.parse(one.written), Contract.model_validate_json(one.contract)
        by_id = {party.flower_id: name for name, party in parties.items()}
        job = Job(
            study,
            contract,
            by_id,
            {name: party.identity for name, party in parties.items()},
            WAIT_FOR_NODES_S,
            self.hub.file.round_timeout_s,
        )
        name = job_name(one.number, one.attempts + 1)
        jobs.write(self.hub.jobs, name, job)
        self._wake(nodes)
        if not database.move(
            self.engine,
            one.number,
            "running",
            out_of=("waiting",),
            started=one.started or time.time(),
            attempts=one.attempts + 1,
            reason="",
        ):
            return
        try:
            run = flower_control.start(self.control, self.hub.jobs, name)
        except errors.SetupError:
            database.move(
                self.engine, one.number, "waiting", out_of=("running",), attempts=one.attempts
            )
            raise
        database.update(self.engine, one.number, flower_run=str(run))
        audit.write(
            self.hub.audit,
            "started",
            number=one.number,
            study_hash=one.study_hash,
            nodes=sorted(parties),
            attempt=one.attempts + 1,
        )
        log.info(
            "study %s (number %d) starts with %s", one.study, one.number, ", ".join(sorted(parties))
        )

    def _wake(self, nodes: Sequence[str]) -> None:
        self.board.tell(
            nodes,
            hub_pb2.Notice(wake=hub_pb2.Wake(seconds=WAKE_S, every=len(nodes) / ASKED_A_SECOND)),
        )

    def _look(self, one: Submitted, tidied: float) -> None:
        name = job_name(one.number, one.attempts)
        found, asked = jobs.read_result(self.hub.jobs, name), jobs.asked(self.hub.jobs, name)
        if found is not None:
            self.asked.pop(name, None)
            self._finish(one, found)
        elif asked != self.asked.get(name, 0):
            self.asked[name] = asked
            self._wake(
                [
                    each.node
                    for each in database.decided(self.engine, one.number)
                    if each.verdict == "approved"
                ]
            )
        elif time.monotonic() - tidied > TIDY_S and self._has_died(one):
            self._again(one, "its process at the hub has died")

    def _has_died(self, one: Submitted) -> bool:
        """Flower says that the run is over, and there is no result; that may have come between the two looks."""
        over = bool(one.flower_run) and flower_control.is_over(self.control, int(one.flower_run))
        return over and jobs.read_result(self.hub.jobs, job_name(one.number, one.attempts)) is None

    def _finish(self, one: Submitted, found: Mapping[str, Any]) -> None:
        jobs.remove(self.hub.jobs, job_name(one.number, one.attempts))
        if "error" in found:
            self._end(one, "failed", f"{found['error']}: {found['message']}")
            return
        values = {**found["document"], "receipt": self._receipt(one, found["nodes"])}
        sealed = receipts.seal(
            values, (self.hub.pki / "hub.key").read_bytes(), (self.hub.pki / "hub.crt").read_bytes()
        )
        document = Document.model_validate(sealed)
        run = database.write(self.engine, document)
        self._end(
            one,
            database.status_of(document),
            "",
            run=run,
            sha256=receipts.digest(json.dumps(sealed, sort_keys=True).encode()),
        )

    def _receipt(self, one: Submitted, nodes: Mapping[str, Any]) -> dict[str, Any]:
        said = {
            each.node: {
                "verdict": each.verdict,
                "by": each.by,
                "at": each.at,
                "signature": each.signature,
            }
            for each in database.decided(self.engine, one.number)
        }
        return {
            "study": studies.parse(one.written).canonical(),
            "authority": (self.hub.pki / "ca.crt").read_text(),
            "coordinator": {
                "name": one.coordinator,
                "certificate": one.certificate,
                "signature": one.signature,
            },
            "nodes": {node: {**given, "approval": said[node]} for node, given in nodes.items()},
        }

    def _end(
        self, one: Submitted, state: str, reason: str, *, run: int | None = None, sha256: str = ""
    ) -> None:
        if database.move(
            self.engine,
            one.number,
            state,
            out_of=("waiting", "running"),
            reason=reason,
            run=run,
            finished=time.time(),
        ):
            log.info("study %s (number %d): %s %s", one.study, one.number, state, reason)
            audit.write(
                self.hub.audit,
                state,
                number=one.number,
                study_hash=one.study_hash,
                why=reason,
                sha256=sha256,
            )
            self._tell_ended(one)

    def _tell_ended(self, one: Submitted) -> None:
        nodes = [each.node for each in database.decided(self.engine, one.number)]
        self.board.tell(nodes, hub_pb2.Notice(ended=hub_pb2.Ended(study_hash=one.study_hash)))

    # -- out
    def progress(self, one: Submitted) -> str:
        said = (
            jobs.read_progress(self.hub.jobs, job_name(one.number, one.attempts))
            if one.state == "running"
            else ""
        )
        done, _, phase = said.partition(", ")
        return (
            ""
            if not said
            else f"{done} round{'' if done == '1' else 's'} done" + (f", {phase}" if phase else "")
        )

    def open_proposals(self, node: str) -> list[hub_pb2.Proposal]:
        """Those that a node is to be told of when it connects."""
        found = []
        for one in database.in_states(self.engine, "waiting", "running"):
            asked = [each.node for each in database.decided(self.engine, one.number)]
            if node in asked:
                found.append(proposal_of(one, len(asked)))
        return found

    def witness(self, node: str) -> LedgerHead:
        return jobs.witnesses(self.hub.jobs).get(node, LedgerHead(0, "0" * 64))

    def rehearse(
        self, proposal: hub_pb2.Proposal, study_hash: str, nodes: Sequence[str], seconds: float
    ) -> dict[str, hub_pb2.Decision]:
        """What the nodes that are online would say."""
        key, answers = (
            f"{study_hash}-{time.monotonic_ns()}",
            queue.Queue[tuple[str, hub_pb2.Decision]](),
        )
        self.rehearsals[key] = answers
        try:
            self.board.tell(nodes, hub_pb2.Notice(proposal=proposal))
            waiting, said = set(nodes) & self.board.online(), dict[str, hub_pb2.Decision]()
            until = time.monotonic() + seconds
            while waiting and (left := until - time.monotonic()) > 0:
                with suppress(queue.Empty):
                    node, decision = answers.get(timeout=left)
                    if decision.study_hash == study_hash and node in waiting:
                        waiting.remove(node)
                        said[node] = decision
            return said
        finally:
            del self.rehearsals[key]


def proposal_of(one: Submitted, nodes: int) -> hub_pb2.Proposal:
    contract = Contract.model_validate_json(one.contract)
    return hub_pb2.Proposal(
        study=one.written,
        contract_hash=contract.hash,
        certificate=one.certificate,
        signature=bytes.fromhex(one.signature),
        nodes=nodes,
        deadline=one.deadline,
    )


def job_name(number: int, attempt: int) -> str:
    return f"{number}-{attempt}"


def _too_few(said: Sequence[Decided], needed: int) -> str:
    words = "; ".join(
        f"{each.node}: {each.reason or 'gave no word' if each.verdict != 'approved' else 'approved'}"
        for each in said
    )
    return f"{sum(each.verdict == 'approved' for each in said)} of the {needed} nodes needed have approved ({words})"
