"""`hdh simulate`: a study, some tables, and a whole federation on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import sqlalchemy as sa
from rich.text import Text

from aggregator import database, report
from aggregator.document import Document
from aggregator.report import folder as folders
from federation import datasets as joint
from federation import errors, language
from federation.cli import screen
from federation.cli.actions import document as documents
from federation.cli.actions import study_files, tables
from federation.cli.console import Console
from federation.contract import Contract
from federation.study import Study
from federation.yaml_source import Source
from nodes import connectors, reading
from nodes import site as node_sites
from nodes.reading import Reading
from nodes.site import Dataset, Storage
from simulations import local, own_rows, whole_run
from simulations.answering import Holders
from simulations.pilots import running
from simulations.pilots.common import Size


@dataclass(frozen=True)
class Federation:
    """A study and the dataset of each node. `notes` go into the result. `contracts`: the contract
    of each dataset, if the study has several."""

    study: Study
    contract: Contract
    source: Source
    datasets: Mapping[str, Dataset]
    notes: Sequence[str] = ()
    contracts: Mapping[str, Contract] = field(default_factory=dict)

    @property
    def holders(self) -> Holders:
        return Holders(self.study, self.contract, self.datasets, self.contracts)

    def noted(self, *notes: str) -> Federation:
        return replace(self, notes=[*self.notes, *notes])


def run(
    name: str,
    *,
    data: Path | None,
    split_by: str | None,
    node: Sequence[str],
    nodes: int | None,
    contract: Path | None,
    seed: int,
    out: Path,
    engine: str,
    strict: bool,
    output: str,
    variant: str = "study",
    size: Size = "small",
    workers_: int | None = None,
    read: Sequence[str] = (),
) -> None:
    """Writes the documents. RefusalError if no node answered, ModelError if an analysis failed."""
    console = Console(stderr=output == "json", highlight=False)
    _check_options(data, split_by, node, nodes, read)
    _make_folder(out)
    folders.earlier(out)  # a folder that holds another study is refused before the study runs
    with tempfile.TemporaryDirectory(prefix="hdh-") as scratch:
        if name in running.names() and data is None and not node:
            federation = _pilot(name, variant, Path(scratch), seed, size)
        else:
            federation = _of_tables(name, variant, contract, data, split_by, node, nodes)
            federation = replace(federation, datasets=_read_as(federation.datasets, read))
        whole_run.check(federation.holders)
        if not strict:
            federation = federation.noted(*_assumptions(federation.study))
        _show_start(federation, engine, console)
        settings = whole_run.Settings(
            Path(scratch), out, engine, strict, workers_, federation.notes
        )
        with console.status("checking the study") as spinner:
            document = whole_run.run(
                federation.holders, federation.source, settings, spinner.update
            )
    _write(document, out)
    lines = own_rows.below_error(document.model_dump(mode="json"), federation.datasets)
    if output == "json":
        screen.document(document.model_dump(mode="json"))
    else:
        documents.show(document, out, console)
    for line in lines:
        console.print(Text(line), soft_wrap=True)  # translated already
    documents.raise_failures(document, shorten=output == "text")


# -- the federation
def _check_options(
    data: Path | None,
    split_by: str | None,
    node: Sequence[str],
    nodes: int | None,
    read: Sequence[str],
) -> None:
    if read and not node:
        raise errors.InputError(
            "--read tells how the tables of --node are written; give --node NAME=FILE for each node"
        )
    if data is not None and node:
        raise errors.InputError(
            "give either --data with --split-by, or --node NAME=FILE for each node, not both"
        )
    if data is None and (split_by or nodes):
        raise errors.InputError(
            "--split-by and --nodes tell how to split a table; give it with --data FILE"
        )


def _pilot(name: str, variant: str, scratch: Path, seed: int, size: Size) -> Federation:
    ready = running.prepare(name, variant, scratch, seed=seed, size=size)
    return Federation(
        ready.study, ready.contract, ready.source, ready.datasets, [ready.note], ready.contracts
    )


def _of_tables(
    name: str,
    variant: str,
    contract_path: Path | None,
    data: Path | None,
    split_by: str | None,
    node: Sequence[str],
    nodes: int | None,
) -> Federation:
    """A study, or a pilot's study, on the tables that the options name."""
    path = _study_path(name, variant)
    study, contract, source = study_files.load(path, contract_path)
    if study.datasets:
        contracts = joint.load(study, path.parent, source)
        held = _held(node, contracts, study)
        return Federation(study, contract, source, held, contracts=contracts)
    if node:
        return Federation(study, contract, source, _named(node, contract))
    if data is None or split_by is None:
        raise errors.InputError(
            "no data: give --data FILE --split-by COLUMN, or --node NAME=FILE for each node"
        )
    parts = local.split(contract, data, split_by, nodes)
    grouped = f" and grouped into {nodes}" if nodes else ""
    note = f"the nodes are simulated: one table, split by {split_by}{grouped}"
    return Federation(study, contract, source, parts, [note])


def _study_path(name: str, variant: str) -> Path:
    if name in running.names():
        return Path(running.load(name).__file__).parent / f"{variant}.yaml"
    if not Path(name).exists():
        pilots = ", ".join(running.names())
        raise errors.InputError(f"{name}: neither a file nor a pilot; the pilots are {pilots}")
    return Path(name)


def _named(node: Sequence[str], contract: Contract) -> dict[str, Dataset]:
    datasets: dict[str, Dataset] = {}
    for text in node:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise errors.InputError(
                f"--node {text!r}: write it as NAME=FILE, as in --node limoges=limoges.csv"
            )
        if name != local.slug(name):
            raise errors.InputError(
                f"--node {text!r}: a node's name consists of lower-case letters, digits and dashes;"
                f" call it {local.slug(name)}"
            )
        if name in datasets:
            raise errors.InputError(f"--node {text!r}: {name} is given twice; use each name once")
        datasets[name] = (
            _of_node(Path(path), contract)
            if path.endswith(".yaml")
            else (node_sites.dataset_of(contract, path))
        )
    return datasets


def _read_as(datasets: Mapping[str, Dataset], read: Sequence[str]) -> dict[str, Dataset]:
    """The datasets with the `read:` keys of `FILE` or, for one node, `NAME=FILE`. A node.yaml has
    its own."""
    keys: dict[str, Reading] = {}
    for text in read:
        name, _, file = text.rpartition("=")
        if name and name not in datasets:
            raise errors.InputError(
                f"--read {text!r}: --node names no {name!r}; add it, or correct"
            )
        keys[name] = reading.load(Path(file))
    return {
        name: replace(dataset, read=keys.get(name) or keys.get("") or dataset.read)
        if dataset.read == reading.AS_IT_IS
        else dataset
        for name, dataset in datasets.items()
    }


def _held(
    node: Sequence[str], contracts: Mapping[str, Contract], study: Study
) -> dict[str, Dataset]:
    """The dataset of each node: as written, `NAME=DATASET:FILE`, or the one whose columns the file
    has. A helper has no dataset, and is written `NAME=helper` or left out."""
    held: dict[str, Dataset] = {}
    for text in node:
        name, _, path = text.partition("=")
        if path == "helper" and study.link is not None and name == study.link.helper:
            continue
        if name in held:
            raise errors.InputError(f"--node {text!r}: {name} is given twice; use each name once")
        dataset, colon, file = path.partition(":")
        if colon and dataset in contracts:
            held |= _named([f"{name}={file}"], contracts[dataset])
            continue
        fitting = [contract for contract in contracts.values() if _fits(Dataset(contract, path))]
        if len(fitting) != 1:
            raise errors.InputError(
                f"--node {text!r}: its columns are those of {'no' if not fitting else 'several'} "
                f"of the datasets {', '.join(contracts)}; write --node {name}=DATASET:FILE"
            )
        held |= _named([text], fitting[0])
    if not held:
        raise errors.InputError("no data: give --node NAME=FILE for each holder of a dataset")
    return held


def _fits(dataset: Dataset) -> bool:
    columns = {name for name, column in dataset.contract.columns.items() if not column.may_be_empty}
    return columns <= connectors.column_names(dataset, Storage())


def _of_node(path: Path, contract: Contract) -> Dataset:
    """The dataset of a node.yaml, as its producer reads it.
    InputError if it has another contract."""
    datasets = node_sites.load(path).under(contract.dataset, contract.hash).datasets
    if contract.dataset not in datasets:
        raise errors.InputError(
            f"{path}: there is no dataset {contract.dataset!r}; the datasets are "
            f"{', '.join(datasets)}"
        )
    dataset = datasets[contract.dataset]
    if dataset.contract.hash != contract.hash:
        raise errors.InputError(
            f"{path}: its contract of {contract.dataset!r} differs from the study's: use one "
            "contract",
            *contract.differences(dataset.contract),
        )
    return dataset


def _assumptions(study: Study) -> list[str]:
    """The respects in which simulated nodes are less strict than real ones."""
    privacy = study.privacy
    if privacy.mode == "dp":
        return [
            f"each simulated producer grants the study its epsilon of {privacy.epsilon:g} (delta "
            f"{privacy.delta:g}); real producers keep a ledger"
        ]
    if privacy.secure_sum is None:
        return [
            "exact mode: the simulated nodes show their sums to the hub, which suppresses small "
            "cells at release (with --strict they do not)"
        ]
    return []


def _show_start(federation: Federation, engine: str, console: Console) -> None:
    study = federation.study
    console.print(f"[bold]{study.title}[/bold]{language.colon()} {study.question}")
    nodes = tables.counted(len(federation.datasets), "node", "nodes")
    console.print(
        f"{nodes}, engine {engine}, study {study.study} ({study.hash[:12]})",
        style="dim",
    )
    for note in federation.notes:
        console.print(f"Note: {note}.", style="dim")


# -- the documents
def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise errors.InputError(
            f"--out {out}: the folder cannot be created ({reason.strerror}); choose another"
        ) from None


def _write(document: Document, out: Path) -> None:
    """The report's files, and the document in the registry of the folder."""
    report.write(document, out)
    with folders.writing(out):
        try:
            store = database.open_registry(f"sqlite:///{out / 'registry.sqlite'}", new=True)
            database.write(store, document)
            store.dispose()
        except (errors.SetupError, sa.exc.SQLAlchemyError):
            raise OSError(None, "registry.sqlite there cannot be used") from None
