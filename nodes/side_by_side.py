"""A study over several datasets without a link, at a node that holds one of them: the dataset
stands there under the joint contract, and its own budget pays for answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from federation import datasets as joint
from federation import limits
from federation.contract import Contract, parse
from federation.messages import Query, Refusal, Reply
from federation.study import Study
from nodes import dataset_versions, link_proposals, service
from nodes.session import NodeContext
from nodes.site import Dataset, Site, View

UNREADABLE = Refusal(
    "contract",
    "the contracts of the study's datasets are not those of the signed run: submit it with `hdh "
    "study submit`",
)


def answer(query: Query, context: NodeContext, now: datetime) -> Reply:
    """As service.answer, also where the study sets datasets side by side."""
    opened = context_of(query, context)
    if isinstance(opened, NodeContext):
        return service.answer(query, opened, now)
    name, refused = context.site.name, service.as_sent(opened, context.site)
    return Reply(name, query.round, dict.fromkeys(service.addressed(query, name), refused))


def is_side_by_side(study: Study) -> bool:
    return bool(study.datasets) and study.link is None


def context_of(query: Query, context: NodeContext) -> NodeContext | Refusal:
    """The context in which this node answers a query. What it keeps open of a study is of one
    study under one contract."""
    study = query.study
    if not is_side_by_side(study) or study.dataset in context.site.datasets:
        return context
    proposed = context.approvals.proposed(query.run) if context.approvals is not None else None
    if proposed is None:
        return Refusal("approval", "this study was never proposed here: submit it through the hub")
    key = study.hash, proposed.ticket.contract_hash
    if key not in context.side_by_side:
        site = site_of(study, proposed.ticket.contract_hash, proposed.link, context.site)
        if isinstance(site, Refusal):
            return site
        while len(context.side_by_side) >= service.MAX_STUDIES:
            context.side_by_side.pop(next(iter(context.side_by_side)))
        context.side_by_side[key] = context.of_site(site)
    return context.side_by_side[key]


def site_of(study: Study, contract_hash: str, text: str, site: Site) -> Site | Refusal:
    """`text`: as link_proposals.to_text writes it, of the run whose contract is signed."""
    try:
        with limits.parsing("the contracts of datasets side by side", limits.LimitError):
            values = limits.json_of(text, max_bytes=link_proposals.MAX_LINK)
            contracts = {str(name): parse(written) for name, written in values["contracts"].items()}
            contract = joint.contract_of(study, contracts)
    except limits.LimitError:
        return UNREADABLE
    if set(contracts) != set(study.datasets):
        return UNREADABLE
    if contract.hash != contract_hash:
        return UNREADABLE
    return placed(study, contract, contracts, site)


def placed(
    study: Study, contract: Contract, contracts: Mapping[str, Contract], site: Site
) -> Site | Refusal:
    """The site with its dataset under the joint `contract`."""
    for name, contract_ in contracts.items():
        site = site.under(name, contract_.hash)
    held = [
        name
        for name, contract_ in contracts.items()
        if name in site.datasets and site.datasets[name].contract.hash == contract_.hash
    ]
    if len(held) != 1:
        number = "several" if held else "none"
        return Refusal(
            "contract",
            f"this node holds {number} of {', '.join(sorted(contracts))} with these contracts, and "
            "answers for one: choose the nodes with --nodes",
        )
    dataset = site.datasets[held[0]]
    refused = _not_compared(study, dataset)
    if refused is not None:
        return refused
    view = View(dataset.contract, joint.view(study.datasets[held[0]], dataset.contract))
    return replace(
        site,
        datasets={**site.datasets, study.dataset: replace(dataset, contract=contract, view=view)},
    )


def _not_compared(study: Study, dataset: Dataset) -> Refusal | None:
    """In exact mode a node compares the people of all its answers on a dataset, by a hash of their
    keys: both contracts must read the same key from a row."""
    contract = dataset.contract
    plain = dataset_versions.essence(dataset_versions.PLAIN)
    if study.privacy.mode == "dp" or dataset_versions.key_of(contract) == plain:
        return None
    return Refusal(
        "differencing",
        f"{contract.dataset} names no person by a column of type string without codes for missing "
        "values, so exact answers side by side cannot be compared with others: use mode dp",
    )


def describe(study: Study, site: Site) -> list[str]:
    """For the staff of this node, in plain words. `site`: with the joint contract."""
    paying = site.datasets[study.dataset].paying.dataset
    return [
        f"this study sets {', '.join(sorted(study.datasets))} side by side: nobody is linked",
        f"this node answers for {paying} alone, from its budget",
    ]
