"""The node's half of a secure sum: it opens, checks and answers what the hub carries,
phase by phase.

The hub chooses who is asked and when. It cannot choose the nodes with which this node adds up (the
operator's roster does), nor how many must agree (the study does, within the site's policy), nor
open the same sums for two different sets of nodes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from federation import limits
from federation.arrays import Words
from federation.disclosure.support import REFUSAL
from federation.messages import Answer, Part, Query, Refusal, SecAggMessage, State, TaskId
from federation.secagg import packing, terms
from federation.secagg.errors import SecaggError
from federation.secagg.terms import Advert, Terms
from federation.study import Study
from nodes import ledger, noised_answer, support
from nodes.ledger import Claim
from nodes.noised_answer import BudgetAccess
from nodes.pending_sums import PendingSum
from nodes.remembered import Entries
from nodes.session import NodeContext, StudySession
from nodes.site import Site
from strategies import budget

MAX_PENDING_SUMS = 200  # sums begun and not finished: the oldest are forgotten
NODES = "nodes"  # the kind of the ledger's entries on the node sets of exact studies
LIST = ""  # the item of an envelope that lists names


@dataclass(frozen=True)
class Request:
    """One query of the hub in a phase of secure sums, and where it is answered.

    `session`: the study at this node. `now`: the time at which the answers are given."""

    query: Query
    session: StudySession
    context: NodeContext
    now: datetime


def admit(query: Query, site: Site) -> Refusal | None:
    """Whether the hub asks as the study says, and with whom this node would add up."""
    if (query.study.privacy.secure_sum is None) != (query.phase is None):
        return Refusal(
            "secure_sum", "a part leaves in a secure sum if, and only if, the study has one"
        )
    return strangers(query.members, site) if query.phase is not None else None


def strangers(names: frozenset[str], site: Site) -> Refusal | None:
    """Refuses a sum with nodes whose identity this site's operator has not accepted."""
    if names <= site.roster.keys():
        return None
    unknown = sorted(names.difference(site.roster.keys()))
    return Refusal(
        "roster",
        f"{', '.join(unknown)}: not in the roster that this site's operator has accepted: "
        "ask them to accept it",
    )


def admit_study(study: Study, nodes: int, site: Site) -> Refusal | None:
    """The study's secure sum over so many nodes, or its lack of one, against the site's policy."""
    privacy, policy = study.privacy, site.policy
    if privacy.secure_sum is None:
        if policy.secure_sum == "required":
            return Refusal(
                "secure_sum",
                "this site's parts leave in a secure sum only: write `secure_sum: true` in the "
                "study's privacy",
            )
        return None
    if privacy.secure_sum.colluders < policy.colluders:
        return Refusal(
            "colluders",
            f"this site assumes that {policy.colluders} nodes may side with the hub: write "
            f"`colluders: {policy.colluders}`",
        )
    honest = nodes - privacy.secure_sum.dropouts - privacy.secure_sum.colluders
    if _adds_share(study, site) and honest < policy.honest_nodes:
        need = (
            f"this site adds a share of the noise only beside {policy.honest_nodes} honest nodes "
            "in all"
        )
        return Refusal("honest_nodes", f"{need}: add nodes, or write `noise: node`")
    return None


def _adds_share(study: Study, site: Site) -> bool:
    """Both must want it: the stricter adds all of the noise."""
    return study.privacy.noise == "distributed" and site.policy.noise == "distributed"


def answer(
    query: Query, session: StudySession, context: NodeContext, now: datetime
) -> dict[TaskId, Answer]:
    """One phase of the sums of all tasks of the query."""
    assert query.phase is not None
    request = Request(query, session, context, now)
    answers: dict[TaskId, Answer] = {}
    vectors = (
        _nodes_apart(query.members, query, context) or _checked_vectors(query, session)
        if query.phase.name == "advertise" and query.study.privacy.mode == "exact"
        else {}
    )
    if isinstance(vectors, Refusal):
        return dict.fromkeys(query.states, vectors)
    for task_id, state in query.states.items():
        key = (query.phase.attempt, task_id)
        try:
            if query.phase.name == "advertise":
                answers[task_id] = _advertise(key, state, vectors.get(task_id), request)
            elif (pending := context.pending_sums.get(key)) is None:
                raise SecaggError("this node takes no part in that sum; it may have been restarted")
            elif pending.round != query.round:  # the node signs the round with its reply
                raise SecaggError("this sum was begun in another round")
            else:
                answers[task_id] = _PHASES[query.phase.name](
                    key, pending, query.phase.messages.get(task_id, {}), request
                )
        except SecaggError as error:
            context.pending_sums.pop(
                key, None
            )  # nothing more is said in a sum that is not as it should be
            answers[task_id] = Refusal("secure_sum", str(error))
    return answers


def _node_sets() -> Entries[frozenset[str]]:
    return Entries(_node_set, lambda nodes: ())


@lru_cache(maxsize=16)
def _node_set(content: bytes) -> frozenset[str]:
    """Kept, since the nodes of a process remember the same set."""
    return frozenset(json.loads(content))


def _nodes_apart(nodes: frozenset[str], query: Query, context: NodeContext) -> Refusal | None:
    """Refuses sums over node sets that differ by a few nodes between two studies: their difference
    would reveal these nodes' own sums."""
    least = context.site.policy.min_nodes_apart
    account = context.site.account(query.study.dataset, 0)  # the sets of every year
    for other in ledger.gathered(context.ledger, NODES, account, _node_sets).all():
        if nodes != other and len(nodes ^ other) < least:
            return Refusal(
                "node_set",
                f"exact sums over nearly these nodes were answered before: ask the same nodes, or "
                f"sets that differ by {least} at least",
            )
    return None


def _checked_vectors(query: Query, session: StudySession) -> dict[TaskId, Words] | Refusal:
    """The vectors of exact mode, past the node's door. A node takes part in all analyses of a study
    or in none: the difference between two sums over different
    nodes is about the nodes between them."""
    vectors = {}
    for task_id, state in query.states.items():
        task = session.tasks[task_id.analysis]
        part = support.checked_part(task, state, session)
        if part == REFUSAL:  # which of the analyses it was would tell more
            return REFUSAL
        if isinstance(part, Refusal):
            return replace(
                part,
                remedy=f"{task_id}: {part.remedy}; under a secure sum this node takes part in all "
                "analyses of a study or in none",
            )
        arrays = {("sums", name): array for name, array in part.sums.items()} | {
            ("cells", name): array for name, array in part.cells.items()
        }
        slots = packing.exact_slots(part)
        try:
            vectors[task_id] = packing.pack(
                slots,
                [packing.to_steps(arrays[slot.kind, slot.name], slot) for slot in slots],
                len(query.nodes),
            )
        except SecaggError as error:
            return Refusal("secure_sum", f"{task_id}: {error}")
    return vectors


def _advertise(
    key: tuple[str, TaskId],
    state: State,
    exact: Words | None,
    request: Request,
) -> Answer:
    """The first phase: this node's keys. `exact`: the vector, if it needs no charge."""
    from federation.secagg import participant

    query, context = request.query, request.context
    if key in context.pending_sums:
        raise SecaggError(
            "this round of the sum was answered before, or comes too early; it is answered once, "
            "in order"
        )
    share = _adds_share(query.study, context.site)
    part = (
        (lambda: exact, len(exact))
        if exact is not None
        else _to_be_noised(key, state, request, share)
    )
    if isinstance(part, Refusal):
        return part
    vector, length = part
    try:
        agreed = _terms(key, state, query, context, length)
    except KeyError:  # the operator has changed roster.yaml since the query was admitted
        return strangers(query.members, context.site) or Refusal(
            "roster", "this site's roster changes at this moment: ask again"
        )
    secagg_state, advert = participant.advertise(agreed, context.site.name, context.identity)
    while len(context.pending_sums) >= MAX_PENDING_SUMS:
        context.pending_sums.pop(next(iter(context.pending_sums)))
    context.pending_sums[key] = PendingSum(secagg_state, vector, share, query.round)
    return SecAggMessage(
        {
            "advert": advert.to_bytes(),
            "terms": agreed.digest,
            "noise": b"share" if share else b"whole",
        }
    )


def _to_be_noised(
    key: tuple[str, TaskId], state: State, request: Request, share: bool
) -> tuple[Callable[[], Words | Refusal], int] | Refusal:
    """How to compute the noised vector when it is asked for, and its length; nothing is charged or
    drawn yet."""
    query, session, context = request.query, request.session, request.context
    task = session.tasks[key[1].analysis]
    zero = budget.zero(task, state)
    try:
        grids = noised_answer.grids(query, task, state, zero)
    except ValueError:
        return Refusal(
            "budget",
            "the study's budget is too small for this round: give it more, or ask for less",
        )
    account = context.site.account(query.study.dataset, request.now.year)
    access = BudgetAccess(context.ledger, account, request.now, context.entropy)
    name = noised_answer.name(query, key[1], state, key[0] if share else noised_answer.WHOLE)
    if refused := _cannot_be_charged(noised_answer.claim(name, query.study, grids), access):
        return refused
    slots = packing.noised_slots(zero, grids)
    cohort = noised_answer.with_coins(session.cohort, name, context.salt)

    def local() -> Part:
        return noised_answer.part_of(task, state, cohort)

    def vector() -> Words | Refusal:
        noised = noised_answer.release(
            name,
            query.study,
            grids,
            zero,
            local,
            access,
            share=share,
            has_changed=noised_answer.has_changed(cohort),
        )
        if isinstance(noised, Refusal):
            return noised
        return packing.pack(slots, [noised.steps[slot.name] for slot in slots], len(query.nodes))

    return vector, packing.length(slots)


def _cannot_be_charged(claim: Claim, access: BudgetAccess) -> Refusal | None:
    if ledger.is_charged(access.ledger, claim.release):
        return None
    return ledger.would_refuse(access.ledger, access.account, claim)


def _terms(
    key: tuple[str, TaskId], state: State, query: Query, context: NodeContext, length: int
) -> Terms:
    """From the study and this node's own roster; of the hub's, the attempt alone."""
    secure = query.study.privacy.secure_sum
    assert secure is not None
    roster = tuple(zip(query.nodes, map(context.site.roster.__getitem__, query.nodes), strict=True))
    release = noised_answer.name(query, key[1], state, f"sum {key[0]}")
    threshold = query.study.privacy.threshold(len(roster))
    return terms.agreed(release, roster, threshold, secure.colluders, length)


def _deal(
    key: tuple[str, TaskId], pending: PendingSum, message: Mapping[str, bytes], request: Request
) -> Answer:
    from federation.secagg import participant

    secagg_state, envelopes = participant.deal(pending.secagg_state, _adverts(message))
    request.context.pending_sums[key] = replace(pending, secagg_state=secagg_state)
    return SecAggMessage(envelopes)


# The last message of public keys, and what it holds: the nodes of a process are sent the same one,
# and each would read the keys of all others.
_ADVERTS: dict[str, tuple[Mapping[str, bytes], Mapping[str, Advert]]] = {}


def _adverts(message: Mapping[str, bytes]) -> Mapping[str, Advert]:
    last = _ADVERTS.get("last")
    if last is None or last[0] is not message:
        last = message, {name: terms.advert_from(content) for name, content in message.items()}
        _ADVERTS["last"] = last
    return last[1]


def _mask(
    key: tuple[str, TaskId], pending: PendingSum, message: Mapping[str, bytes], request: Request
) -> Answer:
    """Adds up the rows and, in mode dp, charges the budget; nothing that depends on the rows is
    computed before."""
    from federation.secagg import participant

    vector = pending.vector()
    if isinstance(vector, Refusal):
        return vector
    envelopes = {name: content for name, content in message.items() if name != LIST}
    secagg_state, masked = participant.mask(
        pending.secagg_state, _names(message), envelopes, vector
    )
    request.context.pending_sums[key] = replace(pending, secagg_state=secagg_state)
    return SecAggMessage({"masked": masked.tobytes()})


def _sign(
    key: tuple[str, TaskId], pending: PendingSum, message: Mapping[str, bytes], request: Request
) -> Answer:
    from federation.secagg import participant

    survivors = _names(message)
    participant.check_survivors(pending.secagg_state, survivors)
    agreed = pending.secagg_state.terms
    if pending.share and len(survivors) - agreed.colluders < request.query.study.privacy.honest(
        len(agreed.roster)
    ):
        raise SecaggError("too few shares of the noise are left")
    _burn(agreed, survivors, request)
    secagg_state, signature = participant.sign_survivors(pending.secagg_state, survivors)
    request.context.pending_sums[key] = replace(pending, secagg_state=secagg_state)
    return SecAggMessage({"signature": signature})


def _burn(agreed: Terms, survivors: frozenset[str], request: Request) -> None:
    """Fixes one set of survivors for a sum permanently. In exact mode all sums of a study have one
    set, since the difference between two sums would be about the nodes by which their sets differ.
    In mode dp each sum has its own noise."""
    query, context, now = request.query, request.context, request.now
    contract = context.site.datasets[query.study.dataset].contract
    about = (
        [query.study.hash, contract.hash]
        if query.study.privacy.mode == "exact"
        else [agreed.digest.hex()]
    )
    release = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    account = context.site.account(contract.dataset, now.year)
    content = _listed(survivors)
    if (
        ledger.remember(
            context.ledger,
            "survivors",
            account,
            query.study.hash,
            release,
            content,
            now.isoformat(timespec="seconds"),
        )
        != content
    ):
        raise SecaggError(
            "a sum over other nodes was opened for this study; the difference would tell of the "
            "nodes between: submit another study"
        )
    if query.study.privacy.mode == "exact":
        if (near := _nodes_apart(survivors, query, context)) is not None:
            raise SecaggError(near.remedy)
        at = now.isoformat(timespec="seconds")
        name = hashlib.sha256(account.dataset.encode() + b"\n" + content).hexdigest()
        ledger.remember(context.ledger, NODES, account, query.study.hash, name, content, at)


def _unmask(
    key: tuple[str, TaskId], pending: PendingSum, message: Mapping[str, bytes], request: Request
) -> Answer:
    from federation.secagg import participant

    _, opening = participant.unmask(pending.secagg_state, message)
    request.context.pending_sums.pop(key)
    return SecAggMessage(
        {f"seed:{name}": share for name, share in opening.seeds.items()}
        | {f"key:{name}": share for name, share in opening.keys.items()}
    )


@lru_cache(maxsize=4)
def _listed(names: frozenset[str]) -> bytes:
    """Kept, since the nodes of a process write the same list into their ledgers."""
    return json.dumps(sorted(names)).encode()


def _names(message: Mapping[str, bytes]) -> frozenset[str]:
    with limits.parsing("a list of names", SecaggError):
        return _parsed_names(message[LIST])


@lru_cache(maxsize=4)
def _parsed_names(content: bytes) -> frozenset[str]:
    """Kept, since the hub sends one list to all nodes, and many can be in one process."""
    names = limits.json_of(content, max_bytes=64 * limits.MAX_NODES)
    listed = limits.listed(names, "the names", max_items=limits.MAX_NODES)
    return frozenset(limits.named(name, "a name") for name in listed)


_PHASES = {"deal": _deal, "mask": _mask, "sign": _sign, "unmask": _unmask}
