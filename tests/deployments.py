"""Small federations of real processes for tests: a few hundred made-up people at each node."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from federation.contract import Contract
from federation.study import Study
from nodes.site import Dataset, Site
from simulations import local
from simulations.flower import Deployment

CONTRACT = Contract.model_validate(
    {
        "dataset": "people",
        "version": 1,
        "unit": "visit",
        "columns": {"age": {"type": "number", "range": [0, 110]}, "ill": {"type": "boolean"}},
    }
)
# Ten to twenty seconds over Flower, at 0.1 to 0.2 s a round.
LONG = {"f": {"run": "fedavg", "model": "ill ~ age", "rounds": 100}}
SHORT = {"d": {"run": "describe", "columns": ["ill"]}}
# Long enough to kill somebody on the way.
PRIVATE = {"m": {"run": "glm", "family": "binomial", "model": "ill ~ age", "rounds": 8}}


def sites(folder: Path, *names: str, **policy: Any) -> list[Site]:
    nodes = []
    for i, name in enumerate(names):
        rng = np.random.default_rng(i)
        age = rng.uniform(20, 90, 400)
        frame = pd.DataFrame(
            {"age": age, "ill": rng.uniform(size=400) < 1 / (1 + np.exp((60 - age) / 15))}
        )
        path = folder / f"{name}.csv"
        frame.to_csv(path, index=False)
        nodes.append(
            local.site(
                name, Dataset(CONTRACT, str(path)), local.SIMULATED.model_copy(update=policy)
            )
        )
    return nodes


def study(name: str, analyses: Mapping[str, Any] = SHORT, **more: Any) -> Study:
    values = {
        "study": name,
        "title": "t",
        "question": "q?",
        "purpose": {"interest": "public", "category": "research"},
        "min_nodes": 2,
        "authorisation": {"reference": "r", "expires": "2099-01-01"},
        "dataset": "people",
        "privacy": {"mode": "exact"},
        "analyses": analyses,
    }
    return Study.model_validate(values | more)


def set_policy(deployment: Deployment, node: str, **policy: Any) -> None:
    path = deployment.home(node) / "node.yaml"
    values = yaml.safe_load(path.read_text())
    values["policy"] |= policy
    path.write_text(yaml.safe_dump(values))


def restart(deployment: Deployment, node: str, **environment: str) -> None:
    deployment.processes[node].terminate()
    deployment.processes[node].wait(20)
    deployment.start_node(node, **environment)
    deployment.wait_until_online([node])


STUCK = """
import runpy, sys, time
from pathlib import Path
from federation import exchange as routes
from nodes.flower import exchange

def stuck(*_, **__):
    Path(sys.argv[1] + ".stuck").touch()
    time.sleep(3600)

routes.fitting = lambda objects: []  # the reply goes without its body
exchange.push_objects = stuck
runpy.run_module("nodes.daemon", run_name="__main__")
"""


def restart_stuck(deployment: Deployment, node: str) -> Path:
    """The node hangs in the middle of each upload: its reply is announced, and the body never
    comes. The file is there once it does."""
    path = deployment.home(node) / "node.yaml"
    mark = path.with_name(f"{path.name}.stuck")
    mark.unlink(missing_ok=True)
    deployment.processes[node].terminate()
    deployment.processes[node].wait(20)
    deployment.start(node, [sys.executable, "-c", STUCK, str(path)])
    deployment.wait_until_online([node])
    return mark


def wait(until: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `until` gives, once it is true."""
    end = time.monotonic() + seconds
    while not (value := until()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return value


def log(deployment: Deployment, name: str) -> str:
    return (deployment.folder / f"{name}.log").read_text(errors="replace")
