"""The sites that answer a study in a simulation: those of its dataset, of several datasets side by
side, or of linked people for as long as the study runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from aggregator import linkage as linkages
from aggregator.document import Document
from aggregator.linkage import Linkage
from federation.contract import Contract
from federation.study import Study
from nodes.site import Dataset, Policy, Site
from simulations import local


@dataclass(frozen=True)
class Holders:
    """A study, the contract on which its analyses run, and the dataset of each node. `contracts`:
    of each dataset, where the study has several."""

    study: Study
    contract: Contract
    datasets: Mapping[str, Dataset]
    contracts: Mapping[str, Contract] = field(default_factory=dict)


@dataclass(frozen=True)
class Answering:
    sites: Sequence[Site]
    linkage: Linkage | None = None

    def complete(self, document: Document) -> Document:
        """The document with the linkage, if there was one."""
        return document if self.linkage is None else linkages.added(document, self.linkage)


@contextmanager
def sites(
    holders: Holders, policy: Policy, now: datetime, *, as_held: bool = False
) -> Iterator[Answering]:
    """`as_held`: the nodes have their datasets under their own contracts, and set them side by side
    or join the people themselves."""
    study = holders.study
    if study.link is not None:
        from simulations import linked

        if as_held:
            yield Answering(linked.sites_of(study, holders.datasets, policy))
            return
        with linked.linking(study, holders.contracts, holders.datasets, policy, now) as people:
            yield Answering(people.sites, people.linkage)
    elif study.datasets and not as_held:
        yield Answering(local.beside(study, holders.contract, holders.datasets, policy))
    else:
        yield Answering(
            [local.site(name, dataset, policy) for name, dataset in holders.datasets.items()]
        )
