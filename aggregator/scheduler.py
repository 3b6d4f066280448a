"""The scheduler of the hub: proposes a study to nodes, starts it once they have decided, watches
it, and ends it.

The database holds everything that must survive a crash. A hub that was killed restarts its running
studies: a node sends its earlier answers again, and charges nothing for them.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sqlalchemy as sa

from aggregator import (
    database,
    enrolment,
    jobs,
    linked_studies,
    retention,
    transcript,
    turns,
)
from aggregator.connections import NodeConnections
from aggregator.database import Decided, Party, SignedStudy, Submitted
from aggregator.document import Document, reasons
from aggregator.flower import control as flower_control
from aggregator.flower.control import Control
from aggregator.jobs import Job, Progress
from aggregator.parcels import Attempt, Parcels
from aggregator.settings import HubSettings
from aggregator.under_way import Contracted, UnderWay, Verdict
from federation import audit, credentials, errors, receipts
from federation import contract as contracts
from federation import study as studies
from federation.messages import LedgerHead
from federation.rpc import hub_pb2
from federation.secagg import keys
from federation.tickets import REHEARSAL, RunTicket, ticket

log = logging.getLogger("hdh.hub")
LOOK_S, IDLE_S = 0.1, 1.0
TIDY_S = 5.0
RETENTION_S = 3600.0  # between two looks for transcripts whose time is over
MAX_ATTEMPTS = 3
WAKE_S = 60.0
REASONS_S = 10.0  # in which connected nodes may give their reasons for a study that cannot start
# The rate at which all nodes together ask a SuperLink that has no query for them.
POLLS_PER_S = 20
WAIT_FOR_NODES_S = 15.0


@dataclass
class Scheduler:
    hub: HubSettings
    engine: sa.Engine
    control: Control
    connections: NodeConnections = field(default_factory=NodeConnections)
    news: threading.Event = field(default_factory=threading.Event)
    # By job: the number of queries for which the nodes were woken.
    asked: dict[str, int] = field(default_factory=dict)
    # Numbers are drafted before a study is signed, so they are given here and not by the database.
    drafted: int = 0
    last_turn: dict[str, float] = field(default_factory=dict)  # by coordinator
    drafting: threading.Lock = field(default_factory=threading.Lock)
    rehearsals: dict[str, queue.Queue[tuple[str, hub_pb2.Decision]]] = field(default_factory=dict)
    started: Callable[[], None] = lambda: None  # called when Flower has a run to start
    parcels: Parcels = field(init=False)
    under_way: UnderWay = field(init=False)

    def __post_init__(self) -> None:
        self.under_way = UnderWay(self.engine)
        per_study, per_node = (
            int(gigabytes * 2**30)
            for gigabytes in (
                self.hub.file.parcel_gigabytes,
                self.hub.file.parcel_gigabytes_per_node,
            )
        )
        self.parcels = Parcels(self.hub.parcels, per_study, per_node, self.attempt_of)

    # -- in
    def next_number(self) -> int:
        """A number that no study has, and that was not drafted since this process started."""
        with self.drafting:
            self.drafted = max(self.drafted, database.newest_number(self.engine)) + 1
            return self.drafted

    def has_drafted(self, number: int) -> bool:
        """Whether a study may have this number. A coordinator who chose the largest one would leave
        none for the others."""
        with self.drafting:
            return REHEARSAL < number <= max(self.drafted, database.newest_number(self.engine))

    def ticket(self, submitted: Submitted) -> RunTicket:
        """What the coordinator of a study has signed."""
        nodes = [each.node for each in database.decided(self.engine, submitted.number)]
        return self._ticket_with(submitted, nodes)

    def _run(self, submitted: Submitted) -> str:
        """The digest of a study's ticket, which a node may ask for as often as it likes."""
        digest = self.under_way.runs.get(submitted.number)
        if digest is None:
            digest = self.under_way.runs[submitted.number] = self.ticket(submitted).digest
        return digest

    def _ticket_with(self, submitted: Submitted, nodes: Sequence[str]) -> RunTicket:
        return ticket(
            credentials.authority_id((self.hub.pki / "ca.crt").read_bytes()),
            submitted.number,
            submitted.study_hash,
            self.under_way.contract(submitted.number).hash,
            nodes,
            submitted.deadline,
        )

    def submit(self, values: Mapping[str, Any], asked: Sequence[str]) -> Submitted:
        self._check_quota(str(values["coordinator"]))
        submitted = database.submit(self.engine, values, asked)
        audit.write(
            self.hub.audit,
            "submitted",
            number=submitted.number,
            study=submitted.study,
            study_hash=submitted.study_hash,
            coordinator=submitted.coordinator,
            nodes=list(asked),
        )
        proposal = self._proposal(submitted.number, asked)
        self.connections.tell(asked, hub_pb2.Notice(proposal=proposal))
        self.news.set()
        return submitted

    def _check_quota(self, coordinator: str) -> None:
        """RefusalError if a coordinator has as many open studies as they may have."""
        under_way = database.in_states(self.engine, "waiting", "running")
        most = self.hub.file.max_open_studies
        if sum(each.coordinator == coordinator for each in under_way) >= most:
            raise errors.RefusalError(
                f"you have {most} studies at this hub that have not ended, and may have no more;"
                " wait for some to end, or cancel them"
            )

    def decide(self, node: Party, decision: hub_pb2.Decision) -> None:
        """Stores a node's decision on an open run. RefusalError if the node has not signed it."""
        if decision.rehearsal:
            for answers in list(self.rehearsals.values()):
                answers.put((node.name, decision))
            return
        _check_signed(node, decision)
        for submitted in database.in_states(self.engine, "waiting", "running"):
            if self._run(submitted) == decision.run:
                self._store_decision(submitted, node, decision)
        self.news.set()

    def _store_decision(
        self, submitted: Submitted, node: Party, decision: hub_pb2.Decision
    ) -> None:
        stored = Decided(
            submitted.number,
            node.name,
            decision.verdict,
            decision.reason,
            decision.by,
            decision.at,
            decision.signature.hex(),
        )
        is_new = database.decide(self.engine, stored)
        self.under_way.changed(submitted.number)
        if is_new and decision.verdict != "waiting":
            audit.write(
                self.hub.audit,
                decision.verdict,
                node=node.name,
                number=submitted.number,
                study_hash=submitted.study_hash,
                by=decision.by,
                why=decision.reason,
            )

    def cancel(self, submitted: Submitted, by: str) -> None:
        if database.move(
            self.engine,
            submitted.number,
            "cancelled",
            out_of=("waiting", "running"),
            reason=f"cancelled by {by}",
            finished=time.time(),
        ):
            audit.write(
                self.hub.audit,
                "cancelled",
                number=submitted.number,
                study_hash=submitted.study_hash,
                by=by,
            )
            jobs.remove(self.hub.jobs, job_name(submitted.number, submitted.attempts))
            if submitted.flower_run:
                with suppress(errors.SetupError):
                    flower_control.stop(self.control, int(submitted.flower_run))
            self._tell_ended(submitted)

    # -- the loop
    def run(self, stop: threading.Event) -> None:
        tidied = 0.0
        looked = -RETENTION_S
        running, is_resumed = True, False
        while not stop.is_set():
            self.news.wait(LOOK_S if running else IDLE_S)
            self.news.clear()
            try:
                if not is_resumed:
                    self._resume()
                    is_resumed = True
                under_way = database.in_states(self.engine, "waiting", "running")
                self.under_way.keep_only([submitted.number for submitted in under_way])
                running = any(submitted.state == "running" for submitted in under_way)
                ready = [each for each in under_way if self._is_ready(each, tidied)]
                self._start_in_turn(ready, [each for each in under_way if each.state == "running"])
                if time.monotonic() - tidied > TIDY_S:
                    enrolment.take_off(self.engine, self.control)
                    tidied = time.monotonic()
                if time.monotonic() - looked > RETENTION_S:
                    self.delete_expired()
                    looked = time.monotonic()
            # The SuperLink or the database cannot be reached, or the disk is full: try again.
            except (errors.SetupError, sa.exc.SQLAlchemyError, OSError) as error:
                log.warning("%s", str(error).splitlines()[0])
                stop.wait(1.0)

    def _is_ready(self, submitted: Submitted, tidied: float) -> bool:
        """Whether a study could start now. Moves it on if it is not."""
        try:
            if self._is_revoked(submitted.coordinator):
                self.cancel(submitted, "the hub, since its coordinator was revoked")
            elif submitted.state == "waiting":
                return self._consider(submitted)
            else:
                self._look(submitted, tidied)
        # An older version took it, under wider limits. It must not stop the others.
        except errors.InputError:
            self._end(submitted, "failed", "this version of the hub cannot read the study")
        except jobs.DamagedError as damaged:
            self._again(submitted, str(damaged))
        return False

    def _start_in_turn(self, ready: Sequence[Submitted], running: Sequence[Submitted]) -> None:
        """Starts as many studies as there are places, and tells the others their place."""
        by_number = {each.number: each for each in ready}
        queue_ = turns.queue(
            [turns.Ready(each.number, each.coordinator, each.attempts > 0) for each in ready],
            [each.coordinator for each in running],
            self.last_turn,
        )
        free = max(0, turns.places(self.hub.file.max_running) - len(running))
        waiting = len(queue_) - min(free, len(queue_))
        for place, study in enumerate(queue_):
            submitted = by_number[study.number]
            if place < free and self._same_link(submitted) is not None:
                continue  # its other run has just started
            if place < free:
                self.last_turn[study.coordinator] = time.time()
                self._start(submitted, self._approved(submitted))
            elif submitted.reason != (reason := turns.place(place - free, waiting)):
                database.update(self.engine, study.number, reason=reason)

    def _approved(self, submitted: Submitted) -> list[str]:
        decisions = self.under_way.decided(submitted.number)
        return [each.node for each in decisions if each.verdict == "approved"]

    def delete_expired(self) -> None:
        """Deletes the transcripts whose time is over, and says so in the audit log."""
        study = partial(database.by_number, self.engine)
        days, now = self.hub.file.transcript_days, time.time()
        for over in retention.expired(self.hub.transcripts, self.hub.jobs, study, days, now):
            over.path.unlink(missing_ok=True)
            audit.write(self.hub.audit, "transcript deleted", number=over.number, why=over.why)

    def _resume(self) -> None:
        """Restarts the studies that were running when the hub stopped, but for those whose result
        was there already. Their former Flower runs are stopped, in case they still run."""
        for submitted in database.in_states(self.engine, "running"):
            name = job_name(submitted.number, submitted.attempts)
            with suppress(jobs.DamagedError):
                if jobs.read_result(self.hub.jobs, name) is not None:
                    continue  # the next look stores it
            with suppress(errors.SetupError):
                flower_control.stop(self.control, int(submitted.flower_run or 0))
            self._again(submitted, "the hub was restarted")
        self._sweep()

    def _sweep(self) -> None:
        """Removes the files of jobs that ended while the hub was stopped between their end and the
        removal of their files."""
        self.delete_expired()  # says in the audit log which transcripts go
        under_way = database.in_states(self.engine, "waiting", "running")
        names = {job_name(each.number, each.attempts) for each in under_way}
        if number := jobs.sweep(self.hub.jobs, names, {each.study_hash for each in under_way}):
            log.info("removed %d files of studies that have ended", number)

    def _again(self, submitted: Submitted, why: str) -> None:
        self.parcels.end(submitted.study_hash)
        jobs.remove(self.hub.jobs, job_name(submitted.number, submitted.attempts))
        if submitted.attempts >= MAX_ATTEMPTS:
            self._end(submitted, "failed", f"{why}; given up after {MAX_ATTEMPTS} attempts")
        elif database.move(
            self.engine,
            submitted.number,
            "waiting",
            out_of=("running",),
            reason=f"{why}; it starts again",
            flower_run="",
        ):
            log.warning(
                "study %s (number %d): %s; it starts again", submitted.study, submitted.number, why
            )
            audit.write(
                self.hub.audit,
                "starts again",
                number=submitted.number,
                study_hash=submitted.study_hash,
                why=why,
            )

    def _is_revoked(self, coordinator: str) -> bool:
        party = database.party(self.engine, coordinator)
        return party is not None and party.revoked is not None

    def _consider(self, submitted: Submitted) -> bool:
        """Whether a waiting study may start. Ends it as soon as the nodes' decisions or the
        deadline exclude that, but not before every connected node has given its reason."""
        decisions = self.under_way.decided(submitted.number)
        approved = [each.node for each in decisions if each.verdict == "approved"]
        undecided = [each for each in decisions if each.verdict in ("asked", "waiting")]
        needs = self.under_way.requirements(submitted.number)
        if not needs.suffice([*approved, *(each.node for each in undecided)]):
            if not self._may_still_say(submitted, undecided):
                self._end(submitted, "refused", _too_few(decisions, needs.needed))
        elif undecided and time.time() < submitted.deadline:
            pass
        elif not needs.suffice(approved):
            why = "the deadline for approvals has passed: " + _too_few(decisions, needs.needed)
            self._end(submitted, "refused", why)
        elif (other := self._same_link(submitted)) is not None:
            reason = f"waits for the end of number {other}, another run of this linked study"
            if submitted.reason != reason:
                database.update(self.engine, submitted.number, reason=reason)
        else:
            return True
        return False

    def _may_still_say(self, submitted: Submitted, undecided: Sequence[Verdict]) -> bool:
        """Whether a connected node has not answered yet, and has still a moment to do so."""
        online = self.connections.online()
        is_early = time.time() < submitted.submitted + REASONS_S
        return is_early and any(
            each.verdict == "asked" and each.node in online for each in undecided
        )

    def _same_link(self, submitted: Submitted) -> int | None:
        """The number of another run of a linked study that is running. They run one after the
        other, because the sealed parts of a link lie at the hub under the study's hash."""
        is_linked = self.under_way.requirements(submitted.number).is_linked
        running = database.in_states(self.engine, "running") if is_linked else []
        same = [other.number for other in running if other.study_hash == submitted.study_hash]
        return next(iter(same), None)

    def _start(self, submitted: Submitted, nodes: Sequence[str]) -> None:
        """Writes the job, wakes the nodes, and starts a Flower run."""
        job = self._job(submitted, nodes)
        name = job_name(submitted.number, submitted.attempts + 1)
        jobs.write(self.hub.jobs, name, job)
        self._wake(nodes)
        if not database.move(
            self.engine,
            submitted.number,
            "running",
            out_of=("waiting",),
            started=submitted.started or time.time(),
            attempts=submitted.attempts + 1,
            reason="",
        ):
            return
        try:
            run = flower_control.start(self.control, self.hub.jobs, name)
        except errors.SetupError:
            database.move(
                self.engine,
                submitted.number,
                "waiting",
                out_of=("running",),
                attempts=submitted.attempts,
            )
            raise
        self.started()
        database.update(self.engine, submitted.number, flower_run=str(run))
        names = sorted(job.nodes.values())
        audit.write(
            self.hub.audit,
            "started",
            number=submitted.number,
            study_hash=submitted.study_hash,
            nodes=names,
            attempt=submitted.attempts + 1,
        )
        log.info(
            "study %s (number %d) starts with %s",
            submitted.study,
            submitted.number,
            ", ".join(names),
        )

    def _job(self, submitted: Submitted, nodes: Sequence[str]) -> Job:
        parties = [
            party
            for party in database.enrolled(self.engine, "node")
            if party.revoked is None and party.name in nodes
        ]
        signed = database.signed(self.engine, submitted.number)
        study, holders = studies.parse(signed.written), signed.holders
        linked = holders if holders and holders.roles else None
        return Job(
            study,
            contracts.parse(signed.contract),
            {party.flower_id: party.name for party in parties},
            {party.name: party.identity for party in parties},
            WAIT_FOR_NODES_S,
            self.hub.file.round_timeout_s,
            run=self.ticket(submitted).digest,
            roles={name: linked.roles[name] for name in nodes} if linked else {},
            correctable=linked_studies.correctable(study, linked.contracts) if linked else (),
        )

    def _wake(self, nodes: Sequence[str]) -> None:
        wake = hub_pb2.Wake(seconds=WAKE_S, every=len(nodes) / POLLS_PER_S)
        self.connections.tell(nodes, hub_pb2.Notice(wake=wake))

    def _look(self, submitted: Submitted, tidied: float) -> None:
        """Looks after a running study: its result, queries that nodes must fetch, its end."""
        name = job_name(submitted.number, submitted.attempts)
        result, asked = jobs.read_result(self.hub.jobs, name), jobs.asked(self.hub.jobs, name)
        if result is not None:
            self.asked.pop(name, None)
            self._finish(submitted, result)
        elif asked != self.asked.get(name, 0):
            self.asked[name] = asked
            self._wake(self._approved(submitted))
        elif time.monotonic() - tidied > TIDY_S and self._has_died(submitted):
            self._again(submitted, "its process at the hub has died")

    def _has_died(self, submitted: Submitted) -> bool:
        """Whether Flower's run has ended without a result. The result is read again after the run's
        status, in case it was written in between."""
        over = bool(submitted.flower_run) and flower_control.is_over(
            self.control, int(submitted.flower_run)
        )
        return (
            over
            and jobs.read_result(self.hub.jobs, job_name(submitted.number, submitted.attempts))
            is None
        )

    def _finish(self, submitted: Submitted, result: Mapping[str, Any]) -> None:
        """Stores the result, and only then removes the job: a hub that ends in between, or a
        database that fails, finds the result again."""
        name = job_name(submitted.number, submitted.attempts)
        if "error" in result:
            self._end(submitted, "failed", f"{result['error']}: {result['message']}")
            jobs.remove(self.hub.jobs, name)
            return
        transcript_hash = self._keep_transcript(submitted)
        values = {
            **result["document"],
            "receipt": self._receipt(submitted, result["nodes"], transcript_hash),
        }
        sealed = receipts.seal(
            values, (self.hub.pki / "hub.key").read_bytes(), (self.hub.pki / "hub.crt").read_bytes()
        )
        document = Document.model_validate(sealed)
        run = database.write(self.engine, document)
        self._end(
            submitted,
            database.status_of(document),
            "; ".join(reasons(document)),
            run=run,
            sha256=receipts.digest(json.dumps(sealed, sort_keys=True).encode()),
        )
        jobs.remove(self.hub.jobs, name)

    def _keep_transcript(self, submitted: Submitted) -> str | None:
        """Moves the transcript of a study out of its job, unless that was done before the hub was
        restarted. Returns its hash, or None without one."""
        path = jobs.transcript(self.hub.jobs, job_name(submitted.number, submitted.attempts))
        stored = self.hub.transcripts / f"{submitted.number}.gz"
        if path.exists():
            self.hub.transcripts.mkdir(mode=0o700, exist_ok=True)
            path.replace(stored)
        return transcript.digest(stored) if stored.exists() else None

    def _receipt(
        self, submitted: Submitted, nodes: Mapping[str, Any], transcript_hash: str | None
    ) -> dict[str, Any]:
        approvals = {
            each.node: {
                "verdict": each.verdict,
                "by": each.by,
                "at": each.at,
                "signature": each.signature,
            }
            for each in database.decided(self.engine, submitted.number)
        }
        run, signed = self.ticket(submitted), database.signed(self.engine, submitted.number)
        return {
            "study": studies.parse(signed.written).canonical(),
            "transcript": transcript_hash,
            "authority": (self.hub.pki / "ca.crt").read_text(),
            "run": {
                "number": run.number,
                "contract_hash": run.contract_hash,
                "nodes": list(run.nodes),
                "deadline": run.deadline,
            },
            "coordinator": {
                "name": submitted.coordinator,
                "certificate": signed.certificate,
                "signature": signed.signature,
            },
            "nodes": {
                node: {**replies, "approval": approvals[node]} for node, replies in nodes.items()
            },
        }

    def _end(
        self,
        submitted: Submitted,
        state: str,
        reason: str,
        *,
        run: int | None = None,
        sha256: str = "",
    ) -> None:
        if database.move(
            self.engine,
            submitted.number,
            state,
            out_of=("waiting", "running"),
            reason=reason,
            run=run,
            finished=time.time(),
        ):
            log.info(
                "study %s (number %d): %s %s", submitted.study, submitted.number, state, reason
            )
            audit.write(
                self.hub.audit,
                state,
                number=submitted.number,
                study_hash=submitted.study_hash,
                why=reason,
                sha256=sha256,
            )
            self._tell_ended(submitted)

    def _tell_ended(self, submitted: Submitted) -> None:
        self.parcels.end(submitted.study_hash)
        nodes = [each.node for each in database.decided(self.engine, submitted.number)]
        run = self._ticket_with(submitted, nodes).digest
        self.connections.tell(nodes, hub_pb2.Notice(ended=hub_pb2.Ended(run=run)))

    # -- out
    def progress(self, submitted: Submitted) -> str:
        """The rounds done by a running study and to come, the present phase of a secure sum, and
        the time left, in words."""
        return in_words(self.rounds_of(submitted), submitted.started or 0.0)

    def rounds_of(self, submitted: Submitted) -> Progress:
        """How far a running study is."""
        if submitted.state != "running":
            return Progress()
        return jobs.read_progress(self.hub.jobs, job_name(submitted.number, submitted.attempts))

    def open_proposals(self, node: str) -> list[hub_pb2.Proposal]:
        """The open studies that a node is sent when it connects."""
        proposals = []
        for submitted in database.in_states(self.engine, "waiting", "running"):
            asked = [each.node for each in self.under_way.decided(submitted.number)]
            if node in asked:
                proposals.append(self._proposal(submitted.number, asked))
        return proposals

    def _proposal(self, number: int, asked: Sequence[str]) -> hub_pb2.Proposal:
        signed = database.signed(self.engine, number)
        return proposal_of(signed, asked, self.under_way.contract(number))

    def attempt_of(self, study_hash: str) -> Attempt | None:
        """The attempt at a link that the run of a linked study has begun; None without one."""
        for submitted in database.in_states(self.engine, "running"):
            if submitted.study_hash != study_hash:
                continue
            if self.under_way.requirements(submitted.number).is_linked:
                name = job_name(submitted.number, submitted.attempts)
                with suppress(jobs.DamagedError):
                    return jobs.attempt(self.hub.jobs, name)
        return None

    def ended(self, runs: Sequence[str]) -> list[str]:
        """Of the runs that a node keeps open, those that are not open here: it may have been
        offline when they ended."""
        under_way = database.in_states(self.engine, "waiting", "running")
        is_open = {self._run(submitted) for submitted in under_way}
        return [run for run in runs if run not in is_open]

    def witness(self, node: str) -> LedgerHead:
        return jobs.witnesses(self.hub.jobs).get(node, LedgerHead(0, "0" * 64))

    def rehearse(
        self, proposal: hub_pb2.Proposal, study_hash: str, nodes: Sequence[str], seconds: float
    ) -> dict[str, hub_pb2.Decision]:
        """The decisions that the connected nodes would take, by node."""
        key = f"{study_hash}-{time.monotonic_ns()}"
        answers = queue.Queue[tuple[str, hub_pb2.Decision]]()
        self.rehearsals[key] = answers
        try:
            self.connections.tell(nodes, hub_pb2.Notice(proposal=proposal))
            waiting = set(nodes) & self.connections.online()
            decisions: dict[str, hub_pb2.Decision] = {}
            until = time.monotonic() + seconds
            while waiting and (left := until - time.monotonic()) > 0:
                with suppress(queue.Empty):
                    node, decision = answers.get(timeout=left)
                    if decision.study_hash == study_hash and node in waiting:
                        waiting.remove(node)
                        decisions[node] = decision
            return decisions
        finally:
            del self.rehearsals[key]


def proposal_of(
    signed: SignedStudy, nodes: Sequence[str], contract: Contracted
) -> hub_pb2.Proposal:
    holders = signed.holders
    return hub_pb2.Proposal(
        study=signed.written,
        number=signed.number,
        contract_hash=contract.hash,
        certificate=signed.certificate,
        signature=bytes.fromhex(signed.signature),
        nodes=sorted(nodes),
        deadline=signed.deadline,
        contracts=holders.contracts if holders else {contract.dataset: signed.contract},
        roles=holders.roles if holders else {},
    )


def in_words(progress: Progress, started: float) -> str:
    """`started`: the study, in seconds since 1970."""
    if progress.done is None:
        return ""
    if progress.total:
        words = f"{progress.done} of at most {progress.total} rounds done"
    else:
        words = "1 round done" if progress.done == 1 else f"{progress.done} rounds done"
    words += f", {progress.phase}" if progress.phase else ""
    if left := seconds_left(progress, started):
        time_left = f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min"
        return f"{words}, at most {time_left} left"
    return words


def seconds_left(progress: Progress, started: float) -> float:
    """The time that the rounds to come would take at the pace of those that are done; 0 if nobody
    can say. It changes with each round only, so that a study that is watched sends no more."""
    if not progress.done or not progress.total:
        return 0.0
    pace_s = max(0.0, progress.at - started) / progress.done
    return float(round(pace_s * max(0, progress.total - progress.done)))


def job_name(number: int, attempt: int) -> str:
    return f"{number}-{attempt}"


def _check_signed(node: Party, decision: hub_pb2.Decision) -> None:
    if decision.verdict not in ("approved", "refused", "waiting"):
        raise errors.InputError("a node approves, refuses or waits")
    if decision.verdict == "waiting":
        return
    content = receipts.decision_content(decision.run, decision.verdict, decision.by, decision.at)
    if not keys.is_signed(bytes.fromhex(node.identity), decision.signature, content):
        raise errors.RefusalError("the decision is not signed by the node's identity")


def _too_few(decisions: Sequence[Verdict], needed: int) -> str:
    approved = sum(each.verdict == "approved" for each in decisions)
    words = "; ".join(f"{each.node}: {_in_words(each)}" for each in decisions)
    return f"{approved} of the {needed} nodes needed have approved ({words})"


def _in_words(decision: Verdict) -> str:
    if decision.verdict == "approved":
        return "approved"
    return decision.reason or "did not decide"
