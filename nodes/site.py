"""node.yaml, read into a frozen Site: the datasets of a node, where they lie, and the producer's policy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pydantic

from federation import contract as contracts
from federation import errors, yaml_source
from federation.contract import Contract, Day, Frozen, Slug
from federation.disclosure.rules import Rules
from federation.study import FORBIDDEN, PURPOSES


class Links(Frozen):
    """Which links this node takes part in; none unless the producer says so.

    `with`: the datasets to which its people may be linked. `helpers`: the nodes that may match them.
    `endings`: `together`, where the helper opens the linked rows. `modes`: `exact` trusts the other holder
    not to pick out single people, so it needs a signed agreement. `helps`: this node may be a helper."""

    with_: tuple[Slug, ...] = pydantic.Field((), alias="with")
    helpers: tuple[Slug, ...] = ()
    endings: tuple[Literal["together"], ...] = ("together",)
    modes: tuple[Literal["exact", "dp"], ...] = ("dp",)
    helps: bool = False


class Policy(Frozen):
    """What the producer allows. The stricter of this and the study wins. Defaults are the safe ones.

    `hub_sees_cells`: the hub is an authorised secure platform, and may see this node's small cells, which it
    suppresses at its own door; without it a Part that holds a cell of fewer than `min_cell` people is refused.
    `secure_sum: required`: the hub never sees a sum of this node alone. `noise: distributed`: under a secure sum this node
    may add its share of the noise only, counted on at least `honest_nodes` shares; `colluders`: the least number of other
    nodes that a secure sum must assume to side with the hub.
    """

    analyses: tuple[str, ...] | None = None  # None: all that are installed
    coordinators: tuple[str, ...] | None = None  # None: any that the hub admits
    coordinator_keys: Mapping[
        str, str
    ] = {}  # by name: `hdh study identity` there; the hub cannot put in another of that name
    authorisations: Mapping[str, Day] | None = (
        None  # reference and last day; None: the study's own word
    )
    approval: Literal["manual", "automatic"] = (
        "manual"  # automatic: a study that this policy admits needs no word of a person
    )
    purposes: tuple[str, ...] = tuple(purpose for purpose in PURPOSES if purpose not in FORBIDDEN)
    min_cell: int = pydantic.Field(11, ge=1)
    min_nodes: int = pydantic.Field(3, ge=1)
    modes: tuple[Literal["exact", "dp"], ...] = ("exact", "dp")
    max_epsilon: float = pydantic.Field(
        1.0, gt=0
    )  # of one study, at its delta of at most max_delta
    max_delta: float = pydantic.Field(1e-5, gt=0, lt=1)
    max_epsilon_per_year: float | None = pydantic.Field(
        None, gt=0
    )  # all grants of a dataset's year together, at a delta of 1e-6
    secure_sum: Literal["optional", "required"] = "optional"
    noise: Literal["node", "distributed"] = "node"
    honest_nodes: int = pydantic.Field(3, ge=1)
    colluders: int = pydantic.Field(1, ge=0)
    max_parameters_per_person: float = pydantic.Field(
        0.33, gt=0
    )  # coefficients fitted, as a share of this node's people
    hub_sees_cells: bool = False
    terse: bool = False  # say No without the reason
    links: Links = Links()


class Storage(Frozen):
    """Limits of the node's own query engine."""

    memory_limit: str = pydantic.Field("4GB", pattern=r"^\d+(\.\d+)?(KB|MB|GB|TB)$")
    temp_directory: Path | None = None  # None: a fresh private directory, removed at the end
    max_temp_directory_size: str = pydantic.Field("20GB", pattern=r"^\d+(\.\d+)?(KB|MB|GB|TB)$")


class DatasetEntry(Frozen):
    """`people`: about how many, as the producer declares it, for forecasts."""

    contract: Path
    source: str
    table: str | None = None
    people: int | None = pydantic.Field(None, ge=1)


class SiteFile(Frozen):
    """`state`: the folder of the ledger and of this node's own secrets. `roster`: the file that lists the nodes with which this
    one takes part in secure sums, each with the key of its identity, as its operator has accepted them."""

    node: Slug
    datasets: Mapping[Slug, DatasetEntry] = {}
    policy: Policy = Policy()
    storage: Storage = Storage()
    state: Path = Path("state")
    roster: Path | None = None

    @pydantic.field_validator("datasets", "policy", mode="before")
    @classmethod
    def _may_be_empty(cls, value: Any) -> Any:
        return {} if value is None else value


class RosterFile(Frozen):
    nodes: Mapping[Slug, str] = pydantic.Field(min_length=1)

    @pydantic.field_validator("nodes")
    @classmethod
    def _keys(cls, nodes: Mapping[str, str]) -> Mapping[str, str]:
        for name, key in nodes.items():
            if not re.fullmatch(r"[0-9a-f]{64}", key):
                raise ValueError(
                    f"the key of {name!r} is not 64 hexadecimal digits; copy the line that its `hdh node identity` prints"
                )
        if len(set(nodes.values())) < len(nodes):
            raise ValueError("two nodes have the same key; each node has its own")
        return nodes


@dataclass(frozen=True)
class View:
    """A node's dataset as one of several side by side. `own`: its own contract, whose budget pays. `columns`: its own
    column behind each of the joint contract; those of other datasets are missing here."""

    own: Contract
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Dataset:
    """A contract, and where its rows lie: a file, a folder of Parquet, a DuckDB file or a PostgreSQL URL."""

    contract: Contract
    source: str
    table: str | None = None
    rows_where: str | None = None  # set by a simulation: the share of a table that this node holds
    people: int | None = None
    view: View | None = None
    is_linked: bool = False  # made by a link at this node, not held by its producer

    @property
    def paying(self) -> Contract:
        """The contract whose budget pays for answers."""
        return self.contract if self.view is None else self.view.own

    def use_of(self, column: str) -> tuple[str, ...]:
        """The coordinators who may use a column; all of them if empty, or if another dataset holds it."""
        if self.view is None:
            return self.contract.columns[column].use
        own = self.view.columns.get(column)
        return self.view.own.columns[own].use if own is not None else ()


@dataclass(frozen=True)
class Site:
    name: str
    datasets: Mapping[str, Dataset]
    policy: Policy = Policy()
    storage: Storage = Storage()
    state: Path | None = None  # none: a ledger in memory, for simulations
    roster: Mapping[str, bytes] = field(default_factory=dict)  # identities (Ed25519, 32 bytes)

    def rules(self, study_min_cell: int, *, in_secure_sum: bool = False) -> Rules:
        """Under a secure sum the hub sees no cell of this node, small or not."""
        policy = self.policy
        return Rules(
            max(policy.min_cell, study_min_cell),
            policy.min_nodes,
            policy.max_parameters_per_person,
            policy.hub_sees_cells or in_secure_sum,
        )


def load(path: Path) -> Site:
    source = yaml_source.read(path, errors.SiteError, nfc=False)
    file: Any = yaml_source.build(SiteFile, source.values, source, under=(), error=errors.SiteError)
    datasets = {}
    for name, entry in file.datasets.items():
        contract = contracts.load(path.parent / entry.contract)
        if contract.dataset != name:
            raise errors.SiteError(
                f"{source.at('datasets', name)}: the contract {entry.contract} is of dataset {contract.dataset!r}; use that name"
            )
        local = entry.source if "://" in entry.source else str(path.parent / entry.source)
        datasets[name] = Dataset(contract, local, entry.table, people=entry.people)
    roster = load_roster(path.parent / file.roster) if file.roster else {}
    return Site(file.node, datasets, file.policy, file.storage, path.parent / file.state, roster)


def load_roster(path: Path) -> dict[str, bytes]:
    source = yaml_source.read(path, errors.SiteError, nfc=False)
    file = yaml_source.build(RosterFile, source.values, source, under=(), error=errors.SiteError)
    return {name: bytes.fromhex(key) for name, key in file.nodes.items()}
