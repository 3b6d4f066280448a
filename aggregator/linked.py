"""A linked study at the hub: the phases of its link, and then the rounds, which the helper answers
for each left holder.

The hub passes the parties' keys on, waits until their sealed messages are through, and learns what
the helper may tell of the link. A party that was restarted does not know the attempt any more: the
hub begins another one, with new keys. A party that refuses, or finds that another has lied, ends
the study."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pydantic

from aggregator.parcels import Attempt
from aggregator.rounds import Outcome
from aggregator.secure_sum import Send
from federation import errors, limits
from federation.messages import LINK, Answer, Phase, Query, Refusal, Reply, SecAggMessage, State
from federation.results import Row
from federation.study import Study

MAX_ATTEMPTS = 3
LOST_RULES = frozenset({"link_unknown", "link_ended", "link_lost", "no_answer"})
MAX_REPORT = 2**20  # bytes of a helper's report
PAUSES_S = (0.1, 3.0)  # the first and the longest between two looks at a link


class LostError(Exception):
    """A party was lost on the way. Another attempt may succeed."""


@dataclass(frozen=True)
class Parties:
    """The nodes of a link, by name."""

    lefts: Sequence[str]
    right: str
    helper: str

    @staticmethod
    def of(roles: Mapping[str, str]) -> Parties:
        def named(role: str) -> list[str]:
            return sorted(node for node, node_role in roles.items() if node_role == role)

        return Parties(named("left"), named("right")[0], named("helper")[0])

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(sorted((*self.lefts, self.right, self.helper)))

    def of_left(self, left: str) -> tuple[str, ...]:
        return left, self.right, self.helper


@dataclass(frozen=True)
class Reported:
    """What a helper tells of the link of one left holder, as in nodes/link_table.py."""

    node: str
    people: int | None
    linked: int
    expected_false: float
    compared: Sequence[Row] = ()
    steps: Sequence[Row] = ()


@dataclass(frozen=True)
class Linking:
    """`run`: as in Query. `wait`: for the parties to be online, which all must be. `begin`: told of
    an attempt before its parties are, so that the hub takes its messages and those of no other.
    `send`: waits for replies as long as for those of a round. `look`: for a moment. `patience_s`:
    the longest time in which no message moves. `say`: shows the progress."""

    study: Study
    contract_hash: str
    run: str
    parties: Parties
    wait: Callable[[], Any]
    begin: Callable[[Attempt], Any]
    send: Send
    look: Send
    patience_s: float
    say: Callable[[str], Any]
    pauses_s: tuple[float, float] = field(default=PAUSES_S)


def run(linking: Linking, rounds: Callable[[], Outcome]) -> tuple[Outcome, list[Reported]]:
    """Links, runs the rounds, and lets the helper forget.

    RefusalError names the party that ended the link."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        is_last = attempt == MAX_ATTEMPTS
        try:
            reports = _link(linking)
            outcome = rounds()
        except LostError as error:
            if is_last:
                raise errors.RefusalError(
                    f"the link was lost {MAX_ATTEMPTS} times; the last time {error}"
                ) from None
            continue
        if is_last or not _is_lost(outcome):
            _ask(linking, linking.send, linking.parties.all, "forget", "")
            return outcome, reports
    raise AssertionError("the last attempt returns or raises")


def for_lefts(send: Send) -> Send:
    """Sends the queries of a round to the helper, one for each left holder."""

    def sent(queries: Mapping[str, Query]) -> Sequence[Reply]:
        return send({left: replace(query, left=left) for left, query in queries.items()})

    return sent


def is_waiting(reply: Reply) -> bool:
    """Whether a reply says no more than that a link goes on."""
    answered = reply.answers.get(LINK)
    return isinstance(answered, SecAggMessage) and answered.items.get("state") == b"working"


def _is_lost(outcome: Outcome) -> bool:
    return any(
        run.result is None and {refusal.rule for refusal in run.refusals.values()} & LOST_RULES
        for run in outcome.runs.values()
    )


def _link(linking: Linking) -> list[Reported]:
    linking.say("asking the parties")
    linking.wait()
    _expect(linking, _ask(linking, linking.send, linking.parties.all, "admit", ""), "admit")
    reports = [_join(linking, left) for left in linking.parties.lefts]
    return [report for report in reports if report is not None]


def _join(linking: Linking, left: str) -> Reported | None:
    """One left holder with the right one; what may be told of it."""
    linking.say(f"linking {left}")
    attempt, names = secrets.token_hex(16), linking.parties.of_left(left)
    linking.begin(Attempt(attempt, *names))
    of_left = {"left": left.encode()}
    met = _expect(
        linking, _ask(linking, linking.send, names, "meet", attempt, of_left), "meet", names
    )
    adverts = {name: items.get("advert", b"") for name, items in met.items()}
    _expect(linking, _ask(linking, linking.send, names, "join", attempt, adverts), "join", names)
    report = _watch(linking, names, attempt)
    return _reported(report) if report else None


def _reported(content: bytes) -> Reported:
    """What the helper tells. RefusalError unless it has the form of a report."""
    with limits.parsing("a report of the helper", errors.RefusalError):
        limits.json_of(content, max_bytes=MAX_REPORT)
        return pydantic.TypeAdapter(Reported).validate_json(content, strict=True)


def _watch(linking: Linking, names: Sequence[str], attempt: str) -> bytes:
    """Waits until all parties are done. LostError if nothing moves."""
    pause, longest = linking.pauses_s
    moved: dict[str, bytes] = {}
    since = time.monotonic()
    while True:
        answers = _ask(linking, linking.look, names, "watch", attempt)
        states = _expect(linking, answers, "watch", [name for name in names if name in answers])
        if all(states.get(name, {}).get("state") == b"done" for name in names):
            return states[linking.parties.helper].get("report", b"")
        news = {name: items.get("moved", b"done") for name, items in states.items()}
        if news.items() - moved.items():
            moved |= news
            since = time.monotonic()
        if time.monotonic() - since > linking.patience_s:
            raise LostError("no message moved for a long time")
        time.sleep(pause)
        pause = min(longest, pause * 1.3)


def _ask(
    linking: Linking,
    send: Send,
    names: Sequence[str],
    phase: str,
    attempt: str,
    items: Mapping[str, bytes] | None = None,
) -> dict[str, Answer]:
    """The answer of each party that gave one."""
    query = Query(
        linking.study,
        linking.contract_hash,
        0,
        linking.parties.all,
        {LINK: State(phase)},
        phase=Phase(phase, attempt, {LINK: dict(items or {})}),
        run=linking.run,
    )
    replies = send(dict.fromkeys(names, query))
    return {reply.node: reply.answers[LINK] for reply in replies if LINK in reply.answers}


def _expect(
    linking: Linking, answers: Mapping[str, Answer], phase: str, names: Sequence[str] = ()
) -> dict[str, Mapping[str, bytes]]:
    """The items of each answer. RefusalError or LostError where there is another."""
    answered: dict[str, Mapping[str, bytes]] = {}
    for name in names or linking.parties.all:
        answer = answers.get(name)
        if answer is None:
            raise LostError(f"{name} did not answer in phase {phase!r}")
        if isinstance(answer, Refusal):
            if answer.rule in LOST_RULES:
                raise LostError(f"{name}: {answer}")
            raise errors.RefusalError(f"{name}: {answer}")
        if not isinstance(answer, SecAggMessage):
            raise errors.RefusalError(f"{name}: its answer does not belong to a link")
        answered[name] = answer.items
    return answered
