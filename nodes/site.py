"""node.yaml as a frozen Site: the datasets of a node, the places of their rows,
and its producer's policy."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from federation import contract as contracts
from federation import errors, logs, yaml_source
from federation.contract import Contract, Day, Frozen, Name, Slug
from federation.disclosure.rules import THIN, Rules
from federation.notices import Notify
from federation.study import FORBIDDEN, PURPOSES, Digest, ExtensionKey
from nodes import dataset_versions
from nodes.dicom_keys import Dicom
from nodes.ledger import Account
from nodes.reading import AS_IT_IS, Reading

log = logging.getLogger("hdh.node")
Mode = Literal["exact", "dp"]
TEMPORARY = "tmp"  # in the state folder: temporary files of the query engine
# The name of a dataset, with the version of its contract where several stand side by side.
Label = Annotated[
    str, pydantic.StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}(@[1-9][0-9]{0,8})?$")
]


class Links(Frozen):
    """The links that this node takes part in; none unless the producer lists them.

    `with`: the datasets to which its people may be linked. `helpers`: the nodes that may match
    them. `endings`: `together`, where the helper opens the linked rows. `modes`: `exact` trusts the
    other holder not to pick out single people, so it needs a signed agreement. `helps`: this node
    may be a helper."""

    with_: tuple[Slug, ...] = pydantic.Field((), alias="with")
    helpers: tuple[Slug, ...] = ()
    endings: tuple[Literal["together"], ...] = ("together",)
    modes: tuple[Literal["exact", "dp"], ...] = ("dp",)
    helps: bool = False


class Policy(Frozen):
    """What the producer allows. The stricter of this and the study applies.
    Defaults are the safe ones.

    `hub_sees_cells`: the hub is an authorised secure platform, and may see this node's small cells,
    which it suppresses at its own door; otherwise a Part that holds a cell of fewer than `min_cell`
    people is refused. `secure_sum: required`: the hub never sees a sum of this node alone. `noise:
    distributed`: under a secure sum this node may add only its share of the noise, provided that at
    least `honest_nodes` nodes add theirs. `colluders`: the minimum number of other nodes that a
    secure sum must assume to collude with the hub. `extensions`: the networks, analyses and
    strategies that do not come with hdh and that studies may use here, each with its hash, or `any`
    for whatever version is installed. In mode dp a network or an analysis needs its hash, because
    the privacy of people rests on its code.
    """

    analyses: tuple[str, ...] | None = None  # None: all that are installed
    extensions: Mapping[ExtensionKey, Literal["any"] | Digest] = {}
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
    modes: tuple[Mode, ...] = (
        "dp",
    )  # exact mode trusts the coordinator within the rules of disclosure.md
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
    min_nodes_apart: int = pydantic.Field(
        3, ge=1
    )  # between the node sets of two exact studies under a secure sum, unless they are the same
    # Coefficients and cells about one column, for a study and for a coordinator's year, as a share
    # of the people.
    max_parameters_per_person: float = pydantic.Field(0.33, gt=0)
    hub_sees_cells: bool = False
    terse: bool = False  # say No without the reason
    links: Links = Links()


Cluster = Annotated[str, pydantic.Field(pattern=r"^ray://[^/\s]+:\d+$")]


class Storage(Frozen):
    """Limits of the node's own query engine.

    `temp_directory`: where rows beyond `memory_limit` go, up to `max_temp_directory_size`. A node
    writes none to its disk unless its node.yaml names one of the two; without `temp_directory` they
    then go to `tmp` in its state folder, or, outside a node, to the machine's own folder.
    `max_values`: values of a cohort that are held as arrays, of 8 bytes each: the columns of each
    row, and three for its person; a larger cohort is read in blocks of a fifth of it, by analyses
    that can. `workers`: how many processes
    compute the parts of such blocks, if they are read from files; or the address of a Ray cluster
    whose machines see the same files, as in `ray://HOST:PORT`. The numbers are the same."""

    memory_limit: str = pydantic.Field("4GB", pattern=r"^\d+(\.\d+)?(KB|MB|GB|TB)$")
    temp_directory: Path | None = None
    max_temp_directory_size: str = pydantic.Field("20GB", pattern=r"^\d+(\.\d+)?(KB|MB|GB|TB)$")
    max_values: int = pydantic.Field(25_000_000, ge=1)
    workers: Annotated[int, pydantic.Field(ge=1, le=256)] | Cluster = 1


class RawSource(Frozen):
    """A raw table of a mapping. `types`: the types of the columns that are not text; a value that
    cannot be read as its type is an error. `dicom`: the source is a folder of DICOM files.
    `engine`: the database server that runs `query`; its rows are streamed into Parquet files."""

    source: str
    table: str | None = None
    read: Reading = AS_IT_IS
    types: Mapping[Name, Literal["number", "integer", "boolean", "date"]] = {}
    engine: str | None = None
    query: str | None = None
    dicom: Dicom | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @pydantic.model_validator(mode="after")
    def _engine_has_a_query(self) -> RawSource:
        if (self.engine is None) != (self.query is None):
            raise ValueError("`engine` and `query` belong together")
        if self.engine is not None and self.table is not None:
            raise ValueError("an engine has a `query`, and no `table`")
        if self.dicom is not None and (self.engine or self.table or self.read != AS_IT_IS):
            raise ValueError("a folder of DICOM files has no `engine`, `table` or `read`")
        return self


class DatasetEntry(Frozen):
    """A dataset of node.yaml.

    `people`: about how many, as the producer declares it, for forecasts. `modes`: the modes of the
    policy in which this dataset is answered; a dataset with a budget of epsilon is answered in
    exact mode only if `exact` is listed here. `read`: how its files are written. `mapping`: a file
    of SQL that makes the contract's columns from raw `sources`; `codes`: its sets of codes."""

    contract: Path
    source: str | None = None
    table: str | None = None
    people: int | None = pydantic.Field(None, ge=1)
    modes: tuple[Mode, ...] | None = None
    read: Reading = AS_IT_IS
    mapping: Path | None = None
    sources: Mapping[Name, RawSource] = {}
    codes: Mapping[Name, tuple[str, ...]] = {}

    @pydantic.model_validator(mode="after")
    def _one_origin(self) -> DatasetEntry:
        if (self.source is None) == (self.mapping is None):
            raise ValueError("a dataset has either its `source`, or a `mapping` with raw `sources`")
        if (self.mapping is not None) != bool(self.sources):
            raise ValueError("`mapping` and `sources` belong together")
        if self.mapping is not None and (self.table or self.read != AS_IT_IS):
            raise ValueError("`table` and `read` of a mapping belong to each of its `sources`")
        if self.codes and self.mapping is None:
            raise ValueError("`codes` are sets of codes for the SQL of a `mapping`")
        return self


class SiteFile(Frozen):
    """The whole of node.yaml.

    `datasets`: by name, or as NAME@VERSION where several versions of a dataset stand side by side.
    `state`: the folder of the ledger and of this node's own secrets. `roster`: the file that lists
    the nodes with which this one takes part in secure sums, each with its identity key, as this
    node's operator has accepted them.

    `persons`: by dataset, the register of people that its rows are about. Datasets of one register
    share one budget. The default register is named after the contract's person column, so datasets
    with the same person column share a budget.

    `syslog`: a socket or HOST:PORT, and `otlp`: the URL of a collector, that get the log too.
    `notify`: who is told by webhook or email that a study waits or was decided."""

    node: Slug
    datasets: Mapping[Label, DatasetEntry] = {}
    persons: Mapping[Slug, Slug] = {}
    policy: Policy = Policy()
    storage: Storage = Storage()
    state: Path = Path("state")
    roster: Path | None = None
    syslog: str = pydantic.Field("", pattern=rf"{logs.SYSLOG}|^$")
    otlp: str = pydantic.Field("", pattern=rf"{logs.OTLP}|^$")
    notify: Notify | None = None

    @pydantic.field_validator("datasets", "persons", "policy", mode="before")
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
                    f"the key of {name!r} is not 64 hexadecimal digits; copy the line that its "
                    "`hdh node identity` prints"
                )
        if len(set(nodes.values())) < len(nodes):
            raise ValueError("two nodes have the same key; each node has its own")
        return nodes


@dataclass(frozen=True)
class View:
    """A node's dataset as one of several side by side. `held_contract`: its own contract, whose
    budget pays. `columns`: its own column behind each column of the joint contract; columns of
    other datasets are absent."""

    held_contract: Contract
    columns: Mapping[str, str]


@dataclass(frozen=True)
class TableMapping:
    """How a dataset is made from raw tables. `folder`: where its rows are written. `home`: the
    folder to which its sources' relative paths refer."""

    sql: Path
    sources: Mapping[str, RawSource]
    codes: Mapping[str, Sequence[str]]
    folder: Path
    home: Path


@dataclass(frozen=True)
class Dataset:
    """A contract, the place of its rows (a file, a folder or a PostgreSQL URL), and their notation.

    `link_numbers`: by column, how many numbers the table of a link released before any analysis.
    `key`: of its entry in node.yaml."""

    contract: Contract
    source: str
    table: str | None = None
    rows_where: str | None = None  # set by a simulation: the share of a table that this node holds
    people: int | None = None
    view: View | None = None
    is_linked: bool = False  # made by a link at this node, not held by its producer
    read: Reading = AS_IT_IS
    mapping: TableMapping | None = None
    modes: tuple[Mode, ...] | None = None
    link_numbers: Mapping[str, int] = field(default_factory=dict)
    key: str = ""

    @property
    def paying(self) -> Contract:
        """The contract whose budget pays for answers."""
        return self.contract if self.view is None else self.view.held_contract

    @property
    def as_held(self) -> Dataset:
        """Without the view of a study of several datasets."""
        return replace(self, contract=self.paying, view=None)

    def use_of(self, column: str) -> tuple[str, ...]:
        """The coordinators who may use a column;
        all of them if empty, or if another dataset holds it."""
        if self.view is None:
            return self.contract.columns[column].use
        contract_column = self.view.columns.get(column)
        return (
            self.view.held_contract.columns[contract_column].use
            if contract_column is not None
            else ()
        )

    def own_columns(self, columns: Iterable[str]) -> frozenset[str]:
        """The columns under the names of the contract that pays, under which the ledger keeps
        what earlier answers were about."""
        names = self.view.columns if self.view is not None else {}
        return frozenset(names.get(name, name) for name in columns)

    @property
    def headers(self) -> list[str]:
        """The source's names of the contract's columns."""
        return [self.read.written(name) for name in self.contract.columns]


def dataset_of(
    contract: Contract,
    source: str,
    table: str | None = None,
    *,
    people: int | None = None,
    read: Reading = AS_IT_IS,
    modes: tuple[Mode, ...] | None = None,
) -> Dataset:
    """The dataset at `source`, which may name its table as in FILE.duckdb#TABLE."""
    address, mark, named = source.rpartition("#")
    if mark and table is None and not Path(source).exists():
        source, table = address, named
    return Dataset(contract, source, table, people=people, read=read, modes=modes)


@dataclass(frozen=True)
class Site:
    """`datasets`: by name, the newest version of each. `versions`: by name, all versions of a
    dataset that has several, the newest first."""

    name: str
    datasets: Mapping[str, Dataset]
    policy: Policy = Policy()
    storage: Storage = Storage()
    state: Path | None = None  # none: a ledger in memory, for simulations
    roster: Mapping[str, bytes] = field(default_factory=dict)  # identities (Ed25519, 32 bytes)
    persons: Mapping[str, str] = field(default_factory=dict)  # registers, as in SiteFile
    versions: Mapping[str, tuple[Dataset, ...]] = field(default_factory=dict)
    syslog: str = ""
    otlp: str = ""
    notify: Notify | None = None

    def under(self, name: str, contract_hash: str) -> Site:
        """The site with the version of a dataset that has this contract; this site as it is if no
        version has it."""
        version = next(
            (
                dataset
                for dataset in self.versions.get(name, ())
                if dataset.contract.hash == contract_hash
            ),
            None,
        )
        return self if version is None else replace(self, datasets={**self.datasets, name: version})

    @property
    def entries(self) -> Mapping[str, Dataset]:
        """All datasets: by name, or as NAME@VERSION where a dataset has several versions."""
        return {
            f"{name}@{version.contract.version}" if name in self.versions else name: version
            for name, dataset in self.datasets.items()
            for version in self.versions.get(name, (dataset,))
        }

    def account(self, dataset: str, year: int) -> Account:
        """The account of a dataset's people, which all its versions and other datasets about them
        share."""
        contract = self.datasets[dataset].paying
        if contract.dataset in self.versions:
            contract = self.versions[contract.dataset][0].contract
        register = self.persons.get(contract.dataset, contract.person or "")
        return Account(contract.dataset, contract.unit, year, register)

    def datasets_sharing_account(self, dataset: str) -> list[str]:
        """The other datasets here that share the account of `dataset`."""
        shared = self.account(dataset, 0).shared
        return [
            other
            for other in self.datasets
            if other != dataset and self.account(other, 0).shared == shared
        ]

    def contracts_about_people_of(self, dataset: str) -> list[Contract]:
        """The contracts under which this node gives exact answers about the people of `dataset`:
        those of its versions, and of the other datasets that share its account."""
        if dataset not in self.datasets:
            return []
        shared = [*self.datasets_sharing_account(dataset), dataset]
        held = [self.datasets[name] for name in shared]
        exact = [each for each in held if "exact" in (each.modes or ("exact",))]
        versions = [self.versions.get(each.paying.dataset, (each,)) for each in exact]
        contracts = [version.paying for several in versions for version in several]
        return list({contract.hash: contract for contract in contracts}.values())

    def rules(self, study_min_cell: int, *, in_secure_sum: bool = False) -> Rules:
        """Under a secure sum the hub sees no cell of this node, small or not."""
        policy = self.policy
        return Rules(
            max(policy.min_cell, study_min_cell),
            policy.min_nodes,
            policy.max_parameters_per_person,
            policy.hub_sees_cells or in_secure_sum,
            in_secure_sum,
            min(policy.min_cell, THIN),
        )


def load(path: Path) -> Site:
    source = yaml_source.read(path, errors.SiteError, nfc=False)
    file: Any = yaml_source.build(SiteFile, source.values, source, under=(), error=errors.SiteError)
    entries = {
        label: _entry(source, path.parent, label, entry) for label, entry in file.datasets.items()
    }
    versions = _versions(source, entries, file.persons)
    datasets = {name: several[0] for name, several in versions.items()}
    roster = Roster(path.parent / file.roster) if file.roster else {}
    unknown = sorted(file.persons.keys() - datasets.keys())
    if unknown:
        raise errors.SiteError(
            f"{source.at('persons', unknown[0])}: there is no dataset {unknown[0]!r}; the datasets "
            f"are {', '.join(datasets)}"
        )
    return Site(
        file.node,
        datasets,
        file.policy,
        _of_node(file.storage, path.parent / file.state),
        path.parent / file.state,
        roster,
        file.persons,
        {name: several for name, several in versions.items() if len(several) > 1},
        file.syslog,
        file.otlp,
        file.notify.under(path.parent) if file.notify else None,
    )


def _of_node(storage: Storage, state: Path) -> Storage:
    """The storage of a node, which leaves no row on its disk unless its producer says so."""
    spills = {"temp_directory", "max_temp_directory_size"} & storage.model_fields_set
    return storage.model_copy(
        update={
            "temp_directory": storage.temp_directory or state / TEMPORARY,
            "max_temp_directory_size": storage.max_temp_directory_size if spills else "0KB",
        }
    )


def _entry(source: yaml_source.Source, home: Path, label: str, entry: DatasetEntry) -> Dataset:
    name, _, version = label.partition("@")
    contract = contracts.load(home / entry.contract)
    if contract.dataset != name:
        raise errors.SiteError(
            f"{source.at('datasets', label)}: the contract {entry.contract} is of dataset "
            f"{contract.dataset!r}; use that name"
        )
    if version and contract.version != int(version):
        raise errors.SiteError(
            f"{source.at('datasets', label)}: the contract {entry.contract} has version "
            f"{contract.version}; write `{name}@{contract.version}:`"
        )
    _check_read(source, label, entry, contract)
    return replace(_dataset(home, label, entry, contract), key=label)


def _versions(
    source: yaml_source.Source, entries: Mapping[str, Dataset], persons: Mapping[str, str]
) -> dict[str, tuple[Dataset, ...]]:
    """By name, all versions of each dataset, the newest first."""
    versions: dict[str, list[Dataset]] = {}
    for label, dataset in entries.items():
        several = versions.setdefault(label.partition("@")[0], [])
        several.append(dataset)
        contracts_ = [each.contract for each in several]
        if problem := dataset_versions.problem(contracts_, persons):
            raise errors.SiteError(f"{source.at('datasets', label)}: {problem}")
    return {
        name: tuple(sorted(several, key=lambda each: -each.contract.version))
        for name, several in versions.items()
    }


def _check_read(
    source: yaml_source.Source, name: str, entry: DatasetEntry, contract: Contract
) -> None:
    foreign = [column for column in entry.read.columns if column not in contract.columns]
    if foreign:
        raise errors.SiteError(
            f"{source.at('datasets', name, 'read', 'columns', foreign[0])}: the contract has no "
            f"column {foreign[0]!r}; its columns are {', '.join(contract.columns)}"
        )


def _dataset(home: Path, label: str, entry: DatasetEntry, contract: Contract) -> Dataset:
    if entry.mapping is None:
        local = located(home, str(entry.source))
        return dataset_of(
            contract,
            local,
            entry.table,
            people=entry.people,
            read=entry.read,
            modes=entry.modes,
        )
    folder = home / "mapped" / label
    mapping = TableMapping(home / entry.mapping, entry.sources, entry.codes, folder, home)
    rows = str(folder / "rows.parquet")
    return Dataset(contract, rows, people=entry.people, mapping=mapping, modes=entry.modes)


def located(home: Path, source: str) -> str:
    """A source with its path from `home`; a URL as it is."""
    return source if "://" in source else str(home / source)


class Roster(Mapping[str, bytes]):
    """The identities in roster.yaml (Ed25519, 32 bytes), by node; read again when the file changes,
    so that a running node knows whom its operator accepts. A file that cannot be read changes
    nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen, self.nodes = self._version(), load_roster(path)

    def _version(self) -> tuple[int, ...]:
        try:
            about = self.path.stat()
        except OSError:
            return ()
        return about.st_mtime_ns, about.st_size, about.st_ino

    def _current(self) -> Mapping[str, bytes]:
        version = self._version()
        if version != self.seen:
            self.seen = version
            try:
                self.nodes = load_roster(self.path)
            except errors.SiteError as error:
                log.error("the roster stays as it was: %s", error)
        return self.nodes

    def __getitem__(self, name: str) -> bytes:
        return self._current()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._current())

    def __len__(self) -> int:
        return len(self._current())


def load_roster(path: Path) -> dict[str, bytes]:
    source = yaml_source.read(path, errors.SiteError, nfc=False)
    file = yaml_source.build(RosterFile, source.values, source, under=(), error=errors.SiteError)
    return {name: bytes.fromhex(key) for name, key in file.nodes.items()}


def configuration(path: Path) -> list[Path]:
    """node.yaml and the files that it names, without its sources."""
    source = yaml_source.read(path, errors.SiteError, nfc=False)
    file: Any = yaml_source.build(SiteFile, source.values, source, under=(), error=errors.SiteError)
    entries = file.datasets.values()
    contracts_ = [entry.contract for entry in entries]
    mappings = [entry.mapping for entry in entries if entry.mapping is not None]
    named = [*contracts_, *mappings, *([file.roster] if file.roster else [])]
    files = [path, *(path.parent / name for name in named)]
    return [each for each in dict.fromkeys(files) if each.is_file()]
