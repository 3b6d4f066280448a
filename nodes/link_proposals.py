"""A linked study as it is proposed to a node: with its contracts and the role of each party.

The node's staff decides on it, and the node keeps to it when the link begins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from federation import contract as contract_files
from federation import errors, limits
from federation.linkage.routes import Role
from federation.messages import Refusal
from federation.study import Study
from federation.tickets import RunTicket
from nodes import link_words, links, service
from nodes.links import LinkPlan
from nodes.site import Site

MAX_CONTRACTS = 8_000_000  # characters, of one proposal; about 20,000 columns
MAX_LINK = 4 * MAX_CONTRACTS  # bytes of the contracts and roles as they are stored


@dataclass(frozen=True)
class LinkProposal:
    """`roles`: by node, of all parties."""

    plan: LinkPlan
    roles: Mapping[str, Role]

    def named(self, role: Role) -> list[str]:
        return sorted(name for name, named_role in self.roles.items() if named_role == role)


def to_text(contracts: Mapping[str, str], roles: Mapping[str, str]) -> str:
    """As the node stores it beside the study. Contracts beyond the limit are not stored."""
    if sum(map(len, contracts.values())) > MAX_CONTRACTS:
        return ""
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
    are_roles = set(proposal.roles.values()) <= {"left", "right", "helper"}
    sides = [len(proposal.named(role)) for role in ("right", "helper")]
    if not are_roles or sides != [1, 1] or proposal.named("helper") != [study.link.helper]:
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
    return refused or _unknown_party(proposal, site) or _unchecked(plan, role, site)


def _unchecked(plan: LinkPlan, role: Role, site: Site) -> Refusal | None:
    if role == "helper":
        return None
    name = plan.dataset_of(role)
    return service.unchecked(plan.study, site.under(name, plan.contracts[name].hash), name)


def _unknown_party(proposal: LinkProposal, site: Site) -> Refusal | None:
    if missing := sorted(proposal.roles.keys() - site.roster.keys()):
        return Refusal(
            "link_roster", f"{missing[0]} is not in this node's roster; its operator adds it"
        )
    return None


def describe(proposal: LinkProposal, site: Site) -> list[str]:
    """For the staff of this node, in plain words."""
    role = proposal.roles.get(site.name, "none")
    held = ", ".join(f"{name} ({node_role})" for name, node_role in sorted(proposal.roles.items()))
    return [
        f"this is a linked study; this node is its {role}",
        f"the parties are {held}",
        *link_words.describe(proposal.plan),
    ]
