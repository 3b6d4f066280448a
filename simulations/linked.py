"""Linked studies on one machine: holders and helper as three nodes, whose messages pass sealed
through a dictionary, and the helper's rows as one node for each left holder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from aggregator import link_corrections
from aggregator.linkage import Linkage
from federation import errors
from federation.contract import Contract
from federation.linkage.errors import LinkError
from federation.linkage.routes import Role
from federation.linkage.sealing import Channel
from federation.messages import Refusal
from federation.study import Link, Study
from nodes import ledger, links
from nodes.links import HelperRows, LinkPlan, Party
from nodes.session import NodeContext
from nodes.site import Dataset, Links, Policy, Site, Storage
from simulations import local


@dataclass(frozen=True)
class InProcessRelay:
    """The hub of a simulation: it holds envelopes by their channel, and takes each message once."""

    waiting: dict[tuple[str, str, str], Iterable[bytes]] = field(default_factory=dict)

    def put(self, channel: Channel, envelopes: Iterable[bytes]) -> None:
        self.waiting[channel.sender, channel.receiver, channel.kind] = envelopes

    def take(self, channel: Channel) -> Iterator[bytes]:
        return iter(self.waiting.pop((channel.sender, channel.receiver, channel.kind)))


@dataclass(frozen=True)
class Linked:
    """`sites`: one for each left holder, with its linked people.
    `linkage`: goes into the result."""

    sites: Sequence[Site]
    linkage: Linkage


def policy_of(study: Study, policy: Policy) -> Policy:
    """A simulated producer's policy, which lets this link pass and no other."""
    assert study.link is not None
    allowed = {
        "with": sorted(study.datasets),
        "helpers": [study.link.helper],
        "modes": [study.privacy.mode],
        "helps": True,
    }
    return policy.model_copy(update={"links": Links.model_validate(allowed)})


@contextmanager
def linking(
    study: Study,
    contracts: Mapping[str, Contract],
    holders: Mapping[str, Dataset],
    policy: Policy,
    now: datetime,
    relay: InProcessRelay | None = None,
) -> Iterator[Linked]:
    """The linked people, until the block ends. `holders`: the dataset of each holder, by its node's
    name. RefusalError names the party that does not take part, or the lie that ended the link."""
    plan = links.plan(study, contracts)
    contexts = contexts_of(plan.link, holders, policy_of(study, policy))
    lefts, right = parties_of(plan.link, holders)
    _admit(plan, contexts, lefts, right, now)
    joined: list[HelperRows] = []
    helper = contexts[plan.link.helper]
    try:
        for left in lefts:
            joined.append(join(plan, contexts, left, right, relay or InProcessRelay()))
        yield Linked(
            [linked.site for linked in joined],
            Linkage(
                study,
                [linked.report for linked in joined],
                link_corrections.crossing(study, contracts),
            ),
        )
    finally:
        for linked in joined:
            links.forget(linked, helper, study)


def sites_of(study: Study, holders: Mapping[str, Dataset], policy: Policy) -> list[Site]:
    """The holders and the helper, as the nodes of a federation."""
    assert study.link is not None
    parties_of(study.link, holders)
    return _sites(study.link, holders, policy_of(study, policy))


def _sites(link: Link, holders: Mapping[str, Dataset], policy: Policy) -> list[Site]:
    if link.helper in holders:
        raise errors.InputError(
            f"{link.helper} is the helper of the link, and holds no dataset of it;"
            " name another node"
        )
    sites = [local.site(name, dataset, policy) for name, dataset in holders.items()]
    return [*sites, Site(link.helper, {}, policy, Storage())]


def contexts_of(
    link: Link, holders: Mapping[str, Dataset], policy: Policy
) -> dict[str, NodeContext]:
    sites = _sites(link, holders, policy)
    return {context.site.name: context for context in local.contexts_of(sites)}


def parties_of(link: Link, holders: Mapping[str, Dataset]) -> tuple[list[str], str]:
    """The left holders, and the right one."""
    of = {
        dataset: sorted(
            name for name, holder in holders.items() if holder.contract.dataset == dataset
        )
        for dataset in (link.left, link.right)
    }
    if not of[link.left] or len(of[link.right]) != 1:
        raise errors.InputError(
            f"a link needs a node with dataset {link.left!r}, or several,"
            f" and one with {link.right!r}"
        )
    return of[link.left], of[link.right][0]


def _admit(
    plan: LinkPlan,
    contexts: Mapping[str, NodeContext],
    lefts: Sequence[str],
    right: str,
    now: datetime,
) -> None:
    """Everyone admits the link before anyone is charged."""
    roles: dict[str, Role] = {right: "right", plan.link.helper: "helper"}
    roles |= dict.fromkeys(lefts, "left")
    for name, role in roles.items():
        _expect(name, links.admit(plan, role, len(roles), contexts[name].site, now))
        _expect(name, links.hold_back(plan, role, contexts[name], now))
    for name, role in roles.items():
        _grant(plan, role, contexts[name], now)
        _expect(name, links.claim_cohort(plan, role, contexts[name], now))
        _expect(name, links.charge(plan, role, contexts[name], now))


def _expect(name: str, refused: Refusal | None) -> None:
    if refused is not None:
        raise errors.RefusalError(f"{name}: {refused}")


def _grant(plan: LinkPlan, role: Role, context: NodeContext, now: datetime) -> None:
    """A simulated producer grants the study what it asks for."""
    if plan.study.privacy.mode == "dp" and role != "helper" and context.site.state is None:
        account = context.site.account(plan.dataset_of(role), now.year)
        at = now.isoformat(timespec="seconds")
        rho = plan.study.privacy.rho
        ledger.grant(context.ledger, account, rho, by="simulation", at=at, study=plan.study.hash)


def join(
    plan: LinkPlan,
    contexts: Mapping[str, NodeContext],
    left: str,
    right: str,
    relay: InProcessRelay,
) -> HelperRows:
    """One left holder with the right one: the keys, and the messages in their order."""
    try:
        a, b, h = meet(plan, contexts, left, right, relay)
        listing = links.send_list(a)
        listed = links.take_list(h)
        links.send_rows(b)
        held = links.match(h, listed)
        listing = links.send_places(a, listing)
        held = links.show_made_up(h, held)
        links.send_columns(a, listing)
        return links.keep_rows(h, listed, held)
    except LinkError as error:
        raise errors.RefusalError(f"the link of {left} with {right} ended: {error}") from None


def meet(
    plan: LinkPlan,
    contexts: Mapping[str, NodeContext],
    left: str,
    right: str,
    relay: InProcessRelay,
) -> tuple[Party, Party, Party]:
    names, attempt = (left, right, plan.link.helper), os.urandom(16).hex()
    met = {
        name: links.meet(links.terms(plan, attempt, left, right, contexts[name]), contexts[name])
        for name in names
    }
    adverts = {name: advert for name, (_, advert) in met.items()}
    parties = [links.party(plan, met[name][0], adverts, contexts[name], relay) for name in names]
    return parties[0], parties[1], parties[2]
