"""A linked study as it is proposed to a node: with its contracts and the role of each party.

The node's staff decides on it, and the node keeps to it when the link begins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from federation import contract as contract_files
from federation import errors, limits
from federation.messages import Refusal
from federation.study import Study
from federation.tickets import RunTicket
from nodes import link_words, links, service
from nodes.links import LinkPlan, Role
from nodes.site import Site


@dataclass(frozen=True)
class LinkProposal:
    """`roles`: by node, of all parties."""

    plan: LinkPlan
    roles: Mapping[str, Role]

    def named(self, role: Role) -> list[str]:
        return sorted(name for name, own in self.roles.items() if own == role)


MAX_LINK = 4 * limits.MAX_CONTRACT  # bytes of all contracts and roles


def to_text(contracts: Mapping[str, str], roles: Mapping[str, str]) -> str:
    """As the node stores it beside the study."""
    return json.dumps({"contracts": dict(contracts), "roles": dict(roles)}, sort_keys=True)


def read(study: Study, run: RunTicket, text: str) -> LinkProposal:
    """StudyError if the contracts are not those of the run that the coordinator signed, or the
    roles are not those of a link between its nodes."""
    try:
        with limits.parsing("a link's contracts and roles", limits.LimitError):
            values = limits.json_of(text, max_bytes=MAX_LINK)
            contracts = {
                limits.named(name, "a dataset"): contract_files.parse(written)
                for name, written in values["contracts"].items()
            }
            roles: dict[str, Role] = dict(values["roles"])
    except limits.LimitError:
        raise errors.StudyError(
            "the contracts of a linked study cannot be read; compare the versions of hub and node"
        ) from None
    if study.link is None or set(contracts) != set(study.datasets):
        raise errors.StudyError("the contracts are not those of the study's datasets")
    proposal = LinkProposal(links.plan(study, contracts), roles)
    if proposal.plan.table.contract.hash != run.contract_hash or set(roles) != set(run.nodes):
        raise errors.StudyError("the contracts or the parties are not those of the signed run")
    _check_roles(study, proposal)
    return proposal


def _check_roles(study: Study, proposal: LinkProposal) -> None:
    assert study.link is not None
    known = set(proposal.roles.values()) <= {"left", "right", "helper"}
    sides = [len(proposal.named(role)) for role in ("right", "helper")]
    if not known or sides != [1, 1] or proposal.named("helper") != [study.link.helper]:
        raise errors.StudyError("the parties are not a left holder, a right holder and the helper")
    if not proposal.named("left"):
        raise errors.StudyError("the link has no left holder")


def refusal(proposal: LinkProposal, site: Site, now: datetime) -> Refusal | None:
    """What this node's policy says, before its staff is asked."""
    role = proposal.roles.get(site.name)
    if role is None:
        return Refusal("link_parties", "this node is none of the link's parties")
    plan = proposal.plan
    refused = links.admit(plan, role, len(proposal.roles), site, now)
    return (
        refused
        or _unknown_party(proposal, site)
        or (
            None if role == "helper" else service.unchecked(plan.study, site, plan.dataset_of(role))
        )
    )


def _unknown_party(proposal: LinkProposal, site: Site) -> Refusal | None:
    if missing := sorted(proposal.roles.keys() - site.roster.keys()):
        return Refusal(
            "link_roster", f"{missing[0]} is not in this node's roster; its operator adds it"
        )
    return None


def describe(proposal: LinkProposal, site: Site) -> list[str]:
    """For the staff of this node, in plain words."""
    role = proposal.roles.get(site.name, "none")
    held = ", ".join(f"{name} ({own})" for name, own in sorted(proposal.roles.items()))
    return [
        f"this is a linked study; this node is its {role}",
        f"the parties are {held}",
        *link_words.describe(proposal.plan),
    ]
