"""A federation of real processes for linked studies: two holders, a helper, and a coordinator."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas

from aggregator import replay
from federation.study import Study
from simulations import flower, linked, local
from simulations.flower import Deployment
from tests import deployments
from tests.linkage import two_holders
from tests.linkage.two_holders import CONTRACTS, Tables

ANALYSES = {
    "all": {"run": "crosstab", "rows": "grade", "columns": "drug"},
    "costs": {"run": "glm", "model": "spent ~ age + C(grade)", "family": "gaussian"},
}


def study(name: str = "linked", **changes: Any) -> Study:
    return two_holders.study(**{"study": name, "analyses": ANALYSES, **changes})


@contextmanager
def federation(
    folder: Path,
    tables: Tables,
    lefts: dict[str, pandas.DataFrame] | None = None,
    mode: str = "exact",
    **more: Any,
) -> Iterator[Deployment]:
    asked = study(privacy={"mode": mode})
    (folder / "data").mkdir()
    holders = two_holders.holders(folder / "data", tables, lefts)
    sites = linked.sites_of(asked, holders, local.SIMULATED)
    with flower.deployed(sites, folder, say=lambda _: None, **more) as running:
        yield running


def submit(deployment: Deployment, asked: Study) -> Any:
    return flower.submit(deployment, asked, CONTRACTS, say=lambda _: None)


def replayed(deployment: Deployment, document: Mapping[str, Any]) -> Sequence[str]:
    """The problems that a replay of the result finds."""
    number = document["receipt"]["run"]["number"]
    return replay.verify(document, deployment.hub.transcripts / f"{number}.gz")


# -- lies and deaths: processes that run our code with one function in another's place
LYING = """
import runpy, sys
exec(sys.argv.pop(1))
runpy.run_module({module!r}, run_name="__main__")
"""
DYING = """
import os, signal
from pathlib import Path
import {module} as module
def dying(*given, **named):
    Path({mark!r}).touch()
    os.kill(os.getpid(), signal.SIGKILL)
module.{owner}.{name} = dying
"""


def restart_lying(deployment: Deployment, node: str, lie: str) -> None:
    """The node again, after it has executed `lie`."""
    _stop(deployment, node)
    path = str(deployment.home(node) / "node.yaml")
    script = LYING.format(module="nodes.daemon")
    deployment.start(node, [sys.executable, "-c", script, lie, path])
    deployment.wait_until_online([node])


def restart_hub_lying(deployment: Deployment, lie: str) -> None:
    """The hub again, after it has executed `lie`, and all nodes, since those that run would wait
    before they connect to it again."""
    nodes = [name for name in deployment.processes if name != "hub"]
    for name in [*nodes, "hub"]:
        _stop(deployment, name)
    script, folder = LYING.format(module="aggregator.daemon"), str(deployment.hub.folder)
    deployment.start("hub", [sys.executable, "-c", script, lie, folder])
    deployments.wait(deployment.is_serving, 90)
    for name in nodes:
        deployment.start_node(name)
    deployment.wait_until_online(nodes, 90)


def is_lying(deployment: Deployment, name: str) -> bool:
    command, _ = deployment.starts[name]
    return "-c" in command and bool(command[3])


def restart_honest(deployment: Deployment, name: str) -> None:
    if name == "hub":
        restart_hub_lying(deployment, "")
        return
    _stop(deployment, name)
    deployment.start_node(name)
    deployment.wait_until_online([name], 90)


def _stop(deployment: Deployment, name: str) -> None:
    deployment.processes[name].terminate()
    deployment.processes[name].wait(20)


def restart_dying(deployment: Deployment, node: str, where: str) -> Path:
    """The node again; it kills itself in the function `where` (MODULE:OWNER.NAME). The file that is
    returned is there once it does."""
    module, _, function = where.partition(":")
    owner, _, name = function.rpartition(".")
    mark = deployment.folder / f"{node}.died"
    mark.unlink(missing_ok=True)
    lie = DYING.format(module=module, owner=owner, name=name, mark=str(mark))
    restart_lying(deployment, node, lie)
    return mark
