"""node.yaml, read into a frozen Site: the datasets of a node, where they lie, and the producer's policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from federation import contract as contracts
from federation import errors, yaml_source
from federation.contract import Contract, Frozen, Slug
from federation.disclosure import Rules
from federation.study import FORBIDDEN, PURPOSES


class Policy(Frozen):
    """What the producer allows. The stricter of this and the study wins. Defaults are the safe ones.

    `hub_sees_cells`: the hub is an authorised secure platform, and may see this node's small cells, which it
    suppresses at its own door; without it a Part that holds a cell of fewer than `min_cell` people is refused.
    """

    analyses: tuple[str, ...] | None = None  # None: all that are installed
    coordinators: tuple[str, ...] | None = None  # None: any that the hub admits
    purposes: tuple[str, ...] = tuple(purpose for purpose in PURPOSES if purpose not in FORBIDDEN)
    min_cell: int = pydantic.Field(11, ge=1)
    min_nodes: int = pydantic.Field(3, ge=1)
    most_parameters_per_person: float = pydantic.Field(0.33, gt=0)  # coefficients fitted, as a share of this node's people
    hub_sees_cells: bool = False
    terse: bool = False  # say No without the reason


class Storage(Frozen):
    """Limits of the node's own query engine."""

    memory_limit: str = pydantic.Field("4GB", pattern=r"^\d+(\.\d+)?(KB|MB|GB|TB)$")
    temp_directory: Path | None = None  # None: a fresh private directory, removed at the end
    max_temp_directory_size: str = pydantic.Field("20GB", pattern=r"^\d+(\.\d+)?(KB|MB|GB|TB)$")


class DatasetEntry(Frozen):
    contract: Path
    source: str
    table: str | None = None


class SiteFile(Frozen):
    node: Slug
    datasets: Mapping[Slug, DatasetEntry] = pydantic.Field(min_length=1)
    policy: Policy = Policy()
    storage: Storage = Storage()


@dataclass(frozen=True)
class Dataset:
    """A contract, and where its rows lie: a file, a folder of Parquet, a DuckDB file or a PostgreSQL URL."""

    contract: Contract
    source: str
    table: str | None = None
    rows_where: str | None = None  # set by a simulation: the share of a table that this node holds


@dataclass(frozen=True)
class Site:
    name: str
    datasets: Mapping[str, Dataset]
    policy: Policy = Policy()
    storage: Storage = Storage()

    def rules(self, study_min_cell: int) -> Rules:
        return Rules(max(self.policy.min_cell, study_min_cell), self.policy.min_nodes, self.policy.most_parameters_per_person, self.policy.hub_sees_cells)


def load(path: Path) -> Site:
    source = yaml_source.read(path, errors.SiteError)
    file: Any = yaml_source.build(SiteFile, source.values, source, under=(), error=errors.SiteError)
    datasets = {}
    for name, entry in file.datasets.items():
        contract = contracts.load(path.parent / entry.contract)
        if contract.dataset != name:
            raise errors.SiteError(f"{source.at('datasets', name)}: the contract {entry.contract} is of dataset {contract.dataset!r}; use that name")
        local = entry.source if "://" in entry.source else str(path.parent / entry.source)
        datasets[name] = Dataset(contract, local, entry.table)
    return Site(file.node, datasets, file.policy, file.storage)
