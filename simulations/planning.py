"""The plan of a study: costs, remaining budgets, refusals and expected widths of intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aggregator import rounds
from federation import datasets, errors
from federation.client import NodeState
from federation.contract import Contract
from federation.linkage.routes import Role
from federation.messages import Refusal
from federation.privacy import accounting
from federation.results import Row
from federation.study import Privacy, Study
from nodes import links, service, side_by_side, verdicts
from nodes import site as sites
from nodes.links import LinkPlan
from nodes.site import Site
from strategies import budget, registry
from strategies.protocol import AnyTask

SCALES = ((0.5, "half"), (1.0, "this"), (2.0, "double"))  # of the study's epsilon
Forecasts = Mapping[str, Sequence[Row]]


@dataclass(frozen=True)
class PlannedNode:
    """A node of the plan.

    `people`: as declared; None if unknown. `left`, in pico-rho: the budget before the study; None
    if unknown. `waits`: the node's staff must approve the study first."""

    name: str
    people: int | None
    left: int | None = None
    refusal: Refusal | None = None
    waits: bool = False


@dataclass(frozen=True)
class Plan:
    """`nodes_of_person`: the number of the study's nodes at which one person may have rows."""

    study: Study
    contract: Contract
    nodes: Sequence[PlannedNode]
    nodes_of_person: int
    trainings: Sequence[Row]
    forecasts: Forecasts

    @property
    def epsilon_over_nodes(self) -> float:
        privacy = self.study.privacy
        return accounting.epsilon_over_nodes(privacy.rho, privacy.delta, self.nodes_of_person)


def of(study: Study, contract: Contract, nodes: Sequence[PlannedNode]) -> Plan:
    """The plan of a study that fits its contract. StudyError if its secure sum does not suit so
    many nodes."""
    tasks = registry.plan(study, contract)
    taking_part = max(len(nodes), study.min_nodes)
    rounds.check_secure_sum(study, taking_part)
    return Plan(
        study,
        contract,
        nodes,
        nodes_of_person=contract.max_nodes_of_person(taking_part),
        trainings=trainings(study, tasks) if study.privacy.mode == "dp" else [],
        forecasts=_forecasts(study, tasks, nodes),
    )


# -- the nodes
def nodes_of_sizes(
    sizes: Sequence[str], study: Study, tasks: Mapping[str, AnyTask], contract: Contract
) -> list[PlannedNode]:
    """Nodes with the limits of a policy that says nothing."""
    nodes, rules = [], Site("", {}).rules(study.privacy.min_cell)
    for text in sizes:
        name, _, number = text.partition("=")
        if not name or not number.replace("_", "").isdecimal() or int(number) < 1:
            raise errors.InputError(
                f"--people {text!r}: write it as NAME=N, as in --people limoges=1700"
            )
        refusal = verdicts.asks_too_much(study, tasks, contract, int(number), rules)
        nodes.append(PlannedNode(name, int(number), refusal=refusal))
    return nodes


def nodes_of_files(
    study: Study,
    tasks: Mapping[str, AnyTask],
    loaded: Mapping[str, Contract],
    paths: Sequence[Path],
    nodes: int,
) -> list[PlannedNode]:
    taking_part, sites_ = max(nodes, study.min_nodes), [sites.load(path) for path in paths]
    if study.link is not None:
        plan_ = links.plan(study, loaded)
        return [_party(site, plan_, taking_part) for site in sites_]
    contract = datasets.contract_of(study, loaded)
    if not study.datasets:
        return [_node_of_site(site, study, tasks, contract, taking_part) for site in sites_]
    placed = [(site, side_by_side.placed(study, contract, loaded, site)) for site in sites_]
    return [
        PlannedNode(site.name, None, refusal=placed_site)
        if isinstance(placed_site, Refusal)
        else _node_of_site(placed_site, study, tasks, contract, taking_part)
        for site, placed_site in placed
    ]


def _party(site: Site, plan_: LinkPlan, parties: int) -> PlannedNode:
    """A holder or the helper of a link."""
    link, study, now = plan_.link, plan_.study, datetime.now(UTC)
    role: Role = (
        "helper" if site.name == link.helper else "left" if link.left in site.datasets else "right"
    )
    refusal = links.admit(plan_, role, parties, site, now)
    contract = plan_.contracts.get(plan_.dataset_of(role))
    site = site.under(contract.dataset, contract.hash) if contract is not None else site
    if contract is None or contract.dataset not in site.datasets:
        return PlannedNode(site.name, None, refusal=refusal)
    people = site.datasets[contract.dataset].people
    if study.privacy.mode == "exact":
        return PlannedNode(site.name, people, refusal=refusal)
    left = verdicts.left(site, site.account(contract.dataset, now.year))
    refusal = refusal or verdicts.over_budget(study, site, now.year, contract.dataset)
    refusal = refusal or service.unchecked(study, site, contract.dataset)
    return PlannedNode(site.name, people, left, refusal)


def _node_of_site(
    site: Site, study: Study, tasks: Mapping[str, AnyTask], contract: Contract, nodes: int
) -> PlannedNode:
    now = datetime.now(UTC)
    site = site.under(contract.dataset, contract.hash)
    dataset = site.datasets.get(contract.dataset)
    if dataset is None:
        remedy = f"it has no dataset {contract.dataset!r}"
        return PlannedNode(site.name, None, refusal=Refusal("dataset", remedy))
    if dataset.contract.hash != contract.hash:
        refused = service.of_another_contract(study, site, contract)
        return PlannedNode(site.name, None, refusal=refused)
    refusal = verdicts.refusal(study, tasks, site, now, nodes=nodes)
    if study.privacy.mode == "exact":
        return PlannedNode(site.name, dataset.people, refusal=refusal)
    left = verdicts.left(site, site.account(contract.dataset, now.year))
    return PlannedNode(site.name, dataset.people, left, refusal)


def node_at_hub(state: NodeState) -> PlannedNode:
    return PlannedNode(
        state.node,
        state.people or None,
        refusal=None if state.verdict in ("approved", "waiting") else _refusal(state.reason),
        waits=state.verdict == "waiting",
    )


def _refusal(reason: str) -> Refusal:
    """A refusal from its text at the hub, `rule: remedy`, or a node's silence."""
    rule, _, remedy = reason.partition(": ")
    return Refusal(rule, remedy) if remedy else Refusal("no answer", reason)


# -- costs and widths
def _forecasts(
    study: Study, tasks: Mapping[str, AnyTask], nodes: Sequence[PlannedNode]
) -> Forecasts:
    """By label of SCALES; empty in exact mode, or if no size is declared."""
    answering = [node for node in nodes if node.refusal is None]
    people = sum(node.people or 0 for node in answering)
    if study.privacy.mode != "dp" or not people:
        return {}
    return {
        label: budget.forecast(_with_epsilon_times(study, scale), tasks, people, len(answering))
        for scale, label in SCALES
    }


def _with_epsilon_times(study: Study, scale: float) -> Study:
    """The study with its epsilon multiplied, even beyond the largest that a study may have."""
    epsilon = study.privacy.epsilon * scale
    privacy = Privacy.model_construct(**{**dict(study.privacy), "epsilon": epsilon})
    return Study.model_construct(**{**dict(study), "privacy": privacy})


def trainings(study: Study, tasks: Mapping[str, AnyTask]) -> list[Row]:
    """A row for each training on samples: its steps, the noise that they need, and their cost."""
    costs = {name: budget.training_cost(study, task) for name, task in tasks.items()}
    return [{"analysis": name, **cost} for name, cost in costs.items() if cost is not None]


# -- JSON
def document(planned: Plan) -> dict[str, Any]:
    study, privacy = planned.study, planned.study.privacy
    private = privacy.mode == "dp"
    return {
        "study": study.study,
        "study_hash": study.hash,
        "mode": privacy.mode,
        "epsilon": privacy.epsilon if private else None,
        "delta": privacy.delta if private else None,
        "rho": privacy.rho / accounting.PICO,
        **over_nodes(planned),
        "analyses": [
            {"analysis": name, "run": entry.run, "rho": _rho(study, name)}
            for name, entry in study.analyses.items()
        ],
        "nodes": [_node_document(node, privacy.rho) for node in planned.nodes],
        "trainings": planned.trainings,
        "intervals": {label: list(rows) for label, rows in planned.forecasts.items()},
    }


def over_nodes(planned: Plan) -> dict[str, Any]:
    """The cost to one person over all nodes; nothing in exact mode."""
    if planned.study.privacy.mode != "dp":
        return {}
    return {
        "nodes_per_person": planned.nodes_of_person,
        "nodes_per_person_in_contract": planned.contract.nodes_per_person,
        "epsilon_per_person_over_all_nodes": planned.epsilon_over_nodes,
    }


def _rho(study: Study, analysis: str) -> float:
    return budget.of_analysis(study, analysis) / accounting.PICO


def _node_document(node: PlannedNode, cost: int) -> dict[str, Any]:
    after = None if node.left is None or node.refusal else node.left - cost
    return {
        "node": node.name,
        "people": node.people,
        "rho_left": None if node.left is None else node.left / accounting.PICO,
        "rho_left_after": None if after is None else after / accounting.PICO,
        "refuses": str(node.refusal) if node.refusal else None,
    }
