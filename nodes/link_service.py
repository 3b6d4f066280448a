"""A node's part in the links of studies, as the hub asks for it in short queries.

    admit    whether this node takes part, in the role that its staff approved
    meet     a holder charges the study; each party signs its keys of this attempt
    join     the other parties' keys; from here on a thread sends and takes the messages
    watch    how far the thread is; at the helper's end, what may be told of the link
    forget   the study is over: the helper deletes the linked people

After its own restart a node knows none of this, says so, and the hub begins another attempt, with
new keys. A charge is made once for each study."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from federation import errors
from federation.linkage.errors import LinkError
from federation.linkage.keys import Meeting
from federation.linkage.routes import Role
from federation.messages import (
    LINK,
    LINK_PHASES,
    Answer,
    Phase,
    Query,
    Refusal,
    Reply,
    SecAggMessage,
)
from federation.privacy import accounting
from federation.study import Study
from nodes import ledger, link_proposals, links, memory, service, state_folder
from nodes.ledger import Account
from nodes.link_proposals import LinkProposal
from nodes.links import HelperRows, Party
from nodes.session import NodeContext

log = logging.getLogger("hdh.node")
UNKNOWN = Refusal(
    "link_unknown", "this node does not know this attempt at the link, since it was restarted"
)
LOST = Refusal("link_lost", "this helper was restarted, and its linked people are gone: link again")

CHANGED = Refusal(
    "link_changed",
    "the holders' people or values are not those of this study's earlier attempt, and exact answers"
    " about both would tell of the few that differ: change the study, or use mode dp",
)


ATTEMPT = re.compile(r"[0-9a-f]{32}")  # it is part of the name of a file


class StoppableRelay(links.Relay, Protocol):
    stopped: threading.Event
    moved: int


@dataclass
class Attempt:
    """One attempt at the link of a left holder, at this node. `run`: as in Query. `failed`: why it
    ended. `rows`: those that the helper keeps, once linked."""

    run: str
    proposal: LinkProposal
    role: Role
    left: str
    meeting: Meeting = field(repr=False)
    relay: StoppableRelay = field(repr=False)
    thread: threading.Thread | None = field(default=None, repr=False)
    failed: Refusal | None = None
    rows: HelperRows | None = field(default=None, repr=False)

    @property
    def is_working(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


@dataclass
class Answering:
    """The linked people of a left holder, and the context in which the helper answers for them."""

    run: str
    rows: HelperRows
    study: Study
    context: NodeContext


@dataclass
class LinkService:
    """`relay`: makes the relay of an attempt. `admitted`: by run. `attempts`: by name. `answering`:
    by run and left holder."""

    context: NodeContext
    relay: Callable[[], StoppableRelay]
    admitted: dict[str, LinkProposal] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    answering: dict[tuple[str, str], Answering] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        links.forget_remains(self.context)

    @property
    def is_needed(self) -> bool:
        """Whether this process holds what a restart would lose."""
        return bool(self.answering) or any(attempt.is_working for attempt in self.attempts.values())

    def answer(self, query: Query, now: datetime) -> Reply:
        """To a query in a phase of a link, or for the linked people of a left holder."""
        with self.lock:
            if query.left:
                return self._answer_for_left(query, now)
            name = self.context.site.name
            try:
                answered = self._phase(query, now)
                charged = self._charged(query)
            except errors.LedgerError:
                answered, charged = Refusal("ledger", "this node's ledger is not in order"), 0
            return Reply(name, query.round, {LINK: answered}, None, charged)

    def end(self, run: str) -> None:
        """The run is over, however it ended."""
        with self.lock:
            self.admitted.pop(run, None)
            for name, attempt in list(self.attempts.items()):
                if attempt.run == run:
                    self._give_up(name)
            for key in [key for key in self.answering if key[0] == run]:
                self._forget(key)

    # -- the phases
    def _phase(self, query: Query, now: datetime) -> Answer:
        phase, site = query.phase, self.context.site
        assert phase is not None and phase.name in LINK_PHASES
        refused = service.not_approved(query, self.context, now)
        if refused is None and site.name not in query.members:
            refused = Refusal("participants", "this node is not among those of the query: name it")
        if refused is not None and phase.name != "forget":
            return service.as_sent(refused, site)
        try:
            answered = _PHASES[phase.name](self, query, phase, now)
        except LinkError as error:
            answered = Refusal(error.rule, error.remedy)
        except errors.StudyError as error:
            answered = Refusal("study", str(error))
        return service.as_sent(answered, site) if isinstance(answered, Refusal) else answered

    def _admit(self, query: Query, phase: Phase, now: datetime) -> Answer:
        proposal = self._proposal(query)
        if isinstance(proposal, Refusal):
            return proposal
        role = proposal.roles[self.context.site.name]
        refused = link_proposals.refusal(proposal, self.context.site, now) or links.hold_back(
            proposal.plan, role, self.context, now
        )
        if refused is not None:
            return refused
        self.end(query.run)
        self.admitted[query.run] = proposal
        return SecAggMessage({"role": role.encode()})

    def _proposal(self, query: Query) -> LinkProposal | Refusal:
        """As the staff approved it, with the parties that are there now."""
        approvals = self.context.approvals
        proposed = approvals.proposed(query.run) if approvals is not None else None
        if proposed is None:
            return Refusal("approval", "this linked study was never proposed here")
        proposal = link_proposals.read(query.study, proposed.ticket, proposed.link)
        here = {name: role for name, role in proposal.roles.items() if name in query.members}
        return replace(proposal, roles=here)

    def _meet(self, query: Query, phase: Phase, now: datetime) -> Answer:
        """A holder claims its cohort and charges the study before it sends anything."""
        proposal = self.admitted.get(query.run)
        if proposal is None:
            return UNKNOWN
        plan, context = proposal.plan, self.context
        role, left = proposal.roles[context.site.name], _text(phase, "left")
        if left not in proposal.named("left") or (role == "left" and left != context.site.name):
            return Refusal("link_parties", "this is not a left holder of the link")
        if not ATTEMPT.fullmatch(phase.attempt) or self._is_used(phase.attempt, query.run, left):
            raise LinkError(
                "link_message",
                "an attempt of this name has begun before, and its keys serve once; begin anew",
            )
        refused = links.claim_cohort(plan, role, context, now) or links.charge(
            plan, role, context, now
        )
        if refused is not None:
            return refused
        self._give_up_former(query.run, left)
        right = proposal.named("right")[0]
        terms = links.terms(plan, phase.attempt, left, right, context, query.run)
        meeting, advert = links.meet(terms, context)
        self.attempts[phase.attempt] = Attempt(
            query.run, proposal, role, left, meeting, self.relay()
        )
        return SecAggMessage({"advert": advert})

    def _join(self, query: Query, phase: Phase, now: datetime) -> Answer:
        attempt = self._attempt(query, phase)
        if attempt is None or attempt.thread is not None:
            return UNKNOWN
        adverts = phase.messages[LINK]
        party = links.party(
            attempt.proposal.plan, attempt.meeting, adverts, self.context, attempt.relay
        )
        attempt.thread = threading.Thread(target=self._work, args=(attempt, party), daemon=True)
        attempt.thread.start()
        return SecAggMessage({"state": b"working"})

    def _watch(self, query: Query, phase: Phase, now: datetime) -> Answer:
        attempt = self._attempt(query, phase)
        if attempt is None or attempt.thread is None:
            return UNKNOWN
        if attempt.is_working:
            return SecAggMessage({"state": b"working", "moved": str(attempt.relay.moved).encode()})
        if attempt.failed is not None:
            return attempt.failed
        if attempt.rows is None or query.study.privacy.mode == "dp":
            return SecAggMessage({"state": b"done"})
        if self._are_others(self.answering[query.run, attempt.left], now):
            self._forget((query.run, attempt.left))
            return CHANGED
        return SecAggMessage({"state": b"done", "report": attempt.rows.report.to_json().encode()})

    def _is_used(self, name: str, run: str, left: str) -> bool:
        """Whether an attempt of this name is another one. The same may be asked for twice, until
        its messages begin."""
        begun = self.attempts.get(name)
        return begun is not None and (
            (begun.run, begun.left) != (run, left) or begun.thread is not None
        )

    def _attempt(self, query: Query, phase: Phase) -> Attempt | None:
        """Of the query's run. A run in another mode may not tell what this attempt knows."""
        attempt = self.attempts.get(phase.attempt)
        return attempt if attempt is not None and attempt.run == query.run else None

    def _over(self, query: Query, phase: Phase, now: datetime) -> Answer:
        deleted = sorted(left for run, left in self.answering if run == query.run)
        self.end(query.run)
        return SecAggMessage({"deleted": json.dumps(deleted).encode()})

    # -- the work of an attempt
    def _work(self, attempt: Attempt, party: Party) -> None:
        try:
            rows = WORK[attempt.role](party)
        except LinkError as error:
            attempt.failed = service.as_sent(Refusal(error.rule, error.remedy), self.context.site)
        # A bug must not disclose data, and must end this attempt.
        except Exception as error:
            log.error("a link failed: %s", type(error).__name__)
            attempt.failed = Refusal("link_failed", f"the link failed here: {type(error).__name__}")
        else:
            if rows is not None:
                self._keep(attempt, rows)
        memory.give_back()
        if attempt.failed is not None:
            study = attempt.proposal.plan.study
            self.context.audit(
                "link_ended", study=study.study, study_hash=study.hash, rule=attempt.failed.rule
            )

    def _keep(self, attempt: Attempt, rows: HelperRows) -> None:
        study = attempt.proposal.plan.study
        with self.lock:
            if attempt.relay.stopped.is_set():
                links.forget(rows, self.context, study)
                return
            attempt.rows = rows
            context = NodeContext(rows.site, approvals=self.context.approvals)
            self.answering[attempt.run, attempt.left] = Answering(attempt.run, rows, study, context)

    def _give_up(self, name: str) -> None:
        self.attempts.pop(name).relay.stopped.set()

    def _give_up_former(self, run: str, left: str) -> None:
        for name, attempt in list(self.attempts.items()):
            if attempt.left == left and attempt.run == run:
                self._give_up(name)
        if (run, left) in self.answering:
            self._forget((run, left))

    def _forget(self, key: tuple[str, str]) -> None:
        answering = self.answering.pop(key)
        links.forget(answering.rows, self.context, answering.study)

    # -- answers for linked people
    def _answer_for_left(self, query: Query, now: datetime) -> Reply:
        answering = self.answering.get((query.run, query.left))
        if answering is None:
            return Reply(query.left, query.round, dict.fromkeys(query.states, LOST))
        # Also where the hub asks without having watched the link to its end.
        if answering.study.privacy.mode == "exact" and self._are_others(answering, now):
            return Reply(query.left, query.round, dict.fromkeys(query.states, CHANGED))
        context = answering.context
        if context.site.state is not None and not context.site.roster:
            context = answering.context = self._with_roster(answering)
        self._grant(answering, context, now)
        reply = service.answer(replace(query, left="", witnesses={}), context, now)
        return replace(reply, head=None)  # of a ledger that is this study's alone

    def _with_roster(self, answering: Answering) -> NodeContext:
        """The left holders of the study here, each with an identity for secure sums among them."""
        roster = {
            left: state_folder.public_identity(other.rows.site.state)
            for (run, left), other in self.answering.items()
            if run == answering.run
        }
        return replace(answering.context, site=replace(answering.context.site, roster=roster))

    def _grant(self, answering: Answering, context: NodeContext, now: datetime) -> None:
        """The holders have charged the whole study, which is what its linked people may cost."""
        if answering.study.privacy.mode != "dp":
            return
        account = context.site.account(answering.study.dataset, now.year)
        if not ledger.has_grant(context.ledger, account):
            at = now.isoformat(timespec="seconds")
            rho, study_hash = answering.study.privacy.rho, answering.study.hash
            ledger.grant(context.ledger, account, rho, by="link", at=at, study=study_hash)

    def _are_others(self, answering: Answering, now: datetime) -> bool:
        """Whether an earlier attempt at this study linked other people, or other values."""
        book, name = answering.context.ledger, f"{answering.study.dataset} linked"
        account = Account(name, "person", now.year)  # the account of no dataset
        at = now.isoformat(timespec="seconds")
        stored = ledger.remember(
            book,
            "cohort",
            account,
            answering.study.hash,
            "linked people",
            answering.rows.digest,
            at,
        )
        return stored != answering.rows.digest

    def _charged(self, query: Query) -> int:
        """Of a holder, in pico-rho."""
        study, proposal = query.study, self.admitted.get(query.run)
        role = proposal.roles[self.context.site.name] if proposal else "helper"
        if proposal is None or role == "helper":
            return 0
        dataset = proposal.plan.dataset_of(role)
        cost = ledger.spent_by(self.context.ledger, dataset, study.hash)
        return accounting.equivalent(cost, study.privacy.delta)


def is_for_link(query: Query) -> bool:
    return bool(query.left) or (query.phase is not None and query.phase.name in LINK_PHASES)


def is_waiting(reply: Reply) -> bool:
    """Whether a reply says no more than that a link goes on."""
    answered = reply.answers.get(LINK)
    return isinstance(answered, SecAggMessage) and answered.items.get("state") == b"working"


def _as_left(party: Party) -> None:
    left = links.send_list(party)
    memory.give_back()  # the right holder sends its rows for minutes, and may be on this machine
    left = links.send_places(party, left)
    links.send_columns(party, left)


def _as_helper(party: Party) -> HelperRows:
    listed = links.take_list(party)
    held = links.match(party, listed)
    held = links.show_made_up(party, held)
    return links.keep_rows(party, listed, held)


WORK: Mapping[Role, Callable[[Party], HelperRows | None]] = {
    "left": _as_left,
    "right": links.send_rows,
    "helper": _as_helper,
}
_PHASES: Mapping[str, Callable[[LinkService, Query, Phase, datetime], Answer]] = {
    "admit": LinkService._admit,
    "meet": LinkService._meet,
    "join": LinkService._join,
    "watch": LinkService._watch,
    "forget": LinkService._over,
}


def _text(phase: Phase, name: str) -> str:
    return phase.messages.get(LINK, {}).get(name, b"").decode(errors="replace")
