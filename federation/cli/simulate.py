"""`hdh simulate`: a study, some tables, and a whole federation on this machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from aggregator import checkpoints, database, release, report, rounds
from aggregator.document import Document
from aggregator.rounds import Outcome
from federation import errors
from federation.cli import show
from federation.cli import study as studies
from federation.contract import Contract
from federation.study import Study
from federation.yaml_source import Source
from nodes.site import Dataset, Policy, Site
from simulations import local, workers
from simulations.pilots import running
from simulations.pilots.common import Size
from strategies import registry as analyses


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
) -> None:
    console = Console(stderr=output == "json", highlight=False)
    with tempfile.TemporaryDirectory(prefix="hdh-") as scratch:
        made, agreed, source, datasets, notes = _federation(
            name,
            Path(scratch),
            data=data,
            split_by=split_by,
            node=node,
            nodes=nodes,
            contract=contract,
            seed=seed,
            variant=variant,
            size=size,
        )
        local.check_within_node(datasets)
        policy = Policy(min_nodes=1, modes=("exact", "dp")) if strict else local.SIMULATED
        if not strict:
            notes = [*notes, *_trust(made)]
        sites = [local.site(node_name, dataset, policy) for node_name, dataset in datasets.items()]
        console.print(f"[bold]{made.title}[/bold]: {made.question}")
        console.print(
            f"{len(sites)} nodes, engine {engine}, study {made.study} ({made.hash[:12]})",
            style="dim",
        )
        for note in notes:
            console.print(f"Note: {note}.", style="dim")
        document = _run(
            made, agreed, source, sites, engine, notes, Path(scratch), console, workers_, out
        )
    store = database.open_registry(f"sqlite:///{_folder(out) / 'registry.sqlite'}")
    database.write(store, document)
    store.dispose()
    report.write(document, out)
    if output == "json":
        print(json.dumps(document.model_dump(mode="json"), indent=2, ensure_ascii=False))
    else:
        show.document(document, out, console)
    failed = [str(found.reason) for found in document.analyses.values() if found.status == "failed"]
    if failed and output == "text":  # the reasons of each node stand above
        failed = [reason.partition(" (")[0] for reason in failed]
    if failed and len(failed) == len(document.analyses) and not _answered(document):
        raise errors.RefusalError("\n".join(failed))
    if failed:
        raise errors.ModelError("\n".join(failed))


def _trust(made: Study) -> list[str]:
    privacy = made.privacy
    if privacy.mode == "dp":
        return [
            f"each simulated producer grants the study its epsilon of {privacy.epsilon:g} (delta {privacy.delta:g}); real ones keep a ledger"
        ]
    if privacy.secure_sum is None:
        return [
            "exact mode: the simulated nodes trust the hub with their sums; it suppresses small cells at release (--strict: they do not)"
        ]
    return []


def _answered(document: Document) -> bool:
    return any(
        one.status == "answered" for found in document.analyses.values() for one in found.nodes
    )


def _folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise errors.InputError(
            f"--out {out}: the folder cannot be made ({reason.strerror}); choose another"
        ) from None
    return out


def _run(
    made: Study,
    agreed: Contract,
    source: Source,
    sites: Sequence[Site],
    engine: str,
    notes: Sequence[str],
    scratch: Path,
    console: Console,
    workers_: int | None,
    out: Path,
) -> Document:
    with console.status("checking the study") as status:

        def watch(number: int, outcome: Outcome) -> None:
            still = [
                str(task_id)
                for task_id, one in outcome.runs.items()
                if one.open and not task_id.node
            ]
            keep(number, outcome)
            status.update(
                f"round {number} done" + (f"; still at work: {', '.join(still)}" if still else "")
            )

        if engine == "ray":
            from simulations import ray

            analyses.plan(made, agreed, source)
            return ray.run(made, agreed, sites, scratch, notes=notes, say=status.update)
        if engine == "flower":
            from simulations import flower

            analyses.plan(
                made, agreed, source
            )  # what is wrong with a study is said here, with its lines
            return flower.run(made, agreed, sites, scratch, notes=notes, say=status.update)
        started = datetime.now(UTC)
        kept = checkpoints.path(out, made)
        keep, saved = checkpoints.keeper(kept), checkpoints.load(kept, made, agreed)
        if saved is not None:
            notes = [
                *notes,
                f"goes on after round {saved.round}, where it was stopped; remove {kept.name} to begin anew",
            ]
            console.print(f"Note: {notes[-1]}.", style="dim")
        count = workers.wanted(made, len(sites)) if workers_ is None else min(workers_, len(sites))
        analyses.plan(made, agreed, source)
        with local.asking(sites, started, count, made) as ask:
            outcome = rounds.run(
                made,
                agreed,
                ask,
                [site.name for site in sites],
                source=source,
                watch=watch,
                resume=saved.runs if saved else None,
            )
        kept.unlink(missing_ok=True)
        return release.clear(
            outcome, started=started, finished=datetime.now(UTC), engine=engine, notes=notes
        )


def _federation(
    name: str,
    scratch: Path,
    *,
    data: Path | None,
    split_by: str | None,
    node: Sequence[str],
    nodes: int | None,
    contract: Path | None,
    seed: int,
    variant: str,
    size: Size,
) -> tuple[Study, Contract, Source, Mapping[str, Dataset], list[str]]:
    if data is not None and node:
        raise errors.InputError(
            "give either --data with --split-by, or --node NAME=FILE several times, not both"
        )
    if data is None and (split_by or nodes):
        raise errors.InputError(
            "--split-by and --nodes say how to split a table; give it with --data FILE"
        )
    if name in running.names():
        if data is None and not node:
            ready = running.prepare(name, variant, scratch, seed=seed, size=size)
            return ready.study, ready.contract, ready.source, ready.datasets, [ready.note]
        made, agreed, source = studies.load(
            Path(running.load(name).__file__).parent / f"{variant}.yaml", contract
        )
    else:
        path = Path(name)
        if not path.exists():
            raise errors.InputError(
                f"{name}: neither a file nor a pilot; the pilots are {', '.join(running.names())}"
            )
        made, agreed, source = studies.load(path, contract)
    if node:
        return made, agreed, source, _named(node, agreed), []
    if data is None or split_by is None:
        raise errors.InputError(
            "where are the data? Give --data FILE --split-by COLUMN, or --node NAME=FILE several times"
        )
    note = f"the nodes are simulated: one table, split by {split_by}" + (
        f" and grouped into {nodes}" if nodes else ""
    )
    return made, agreed, source, local.split(agreed, data, split_by, nodes), [note]


def _named(node: Sequence[str], agreed: Contract) -> dict[str, Dataset]:
    datasets: dict[str, Dataset] = {}
    for text in node:
        key, equals, path = text.partition("=")
        if not equals or not path:
            raise errors.InputError(
                f"--node {text!r}: write it as NAME=FILE, as in --node limoges=limoges.csv"
            )
        if key in datasets or key != local.slug(key):
            raise errors.InputError(
                f"--node {text!r}: a node's name is lower-case letters, digits and dashes, and given once"
            )
        datasets[key] = Dataset(agreed, path)
    return datasets
