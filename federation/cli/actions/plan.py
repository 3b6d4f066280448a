"""`hdh study plan`: costs, remaining budgets, refusals and expected widths of intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from federation import client, credentials, datasets, own_folder
from federation import study as studies
from federation.cli import screen
from federation.cli.actions import plan_tables, study_files
from federation.cli.console import Console
from simulations import planning
from simulations.planning import PlannedNode
from strategies import registry


def plan(
    path: Path,
    contract_path: Path | None,
    node_files: Sequence[Path],
    sizes: Sequence[str],
    output: str,
    *,
    at_hub: bool = False,
    keys: Path | None = None,
) -> None:
    """Prints the plan. `sizes`: nodes as NAME=N. `at_hub`: also the nodes that the hub knows."""
    study, contract, source = study_files.load(path, contract_path)
    loaded = datasets.load(study, path.parent, source, contract_path)
    if at_hub and study.coordinator == studies.LOCAL:  # as it would be submitted
        name = credentials.load(keys or own_folder.home()).name
        study = study.model_copy(update={"coordinator": name})
    tasks = registry.plan(study, contract, source)
    nodes = [
        *planning.nodes_of_sizes(sizes, study, tasks, contract),
        *planning.nodes_of_files(study, tasks, loaded, node_files, len(sizes) + len(node_files)),
        *(_nodes_at_hub(path, contract_path, keys) if at_hub else ()),
    ]
    planned = planning.of(study, contract, nodes)
    if output == "json":
        screen.document(planning.document(planned))
    else:
        plan_tables.show(planned, Console(highlight=False))


def _nodes_at_hub(path: Path, contract: Path | None, keys: Path | None) -> list[PlannedNode]:
    from strategies import installed

    with client.connect(keys, completed=installed.signed) as hub:
        return [planning.node_at_hub(state) for state in hub.plan(path, contract)]
