"""A hub and its nodes whose Python environment has an extension installed, and its study over them.

`python -m tests.deployed_extensions EXAMPLE FOLDER`, by the Python of that environment: prints as
JSON what `hdh extensions`, `hdh study submit` and the result say. Two nodes allow the extensions by
their hashes; the third allows none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import yaml

from federation import contract as contracts
from federation.contract import Contract
from nodes.site import Dataset, Site
from simulations import flower, local
from simulations.flower import Deployment
from tests import deployments

OPEN, CLOSED = ("brest", "lyon", "metz"), "nice"


def people() -> pandas.DataFrame:
    rng = np.random.default_rng(1)
    age, male = rng.integers(20, 90, 800), rng.random(800) < 0.5
    died = rng.random(800) < 1 / (1 + np.exp((60 - age) / 10 - male))
    return pandas.DataFrame({"age": age, "male": male, "died": died})


def sites(contract: Contract, folder: Path) -> list[Site]:
    opened = []
    for name, part in zip((*OPEN, CLOSED), np.array_split(np.arange(800), 4), strict=True):
        path = folder / f"{name}.csv"
        people().iloc[part].to_csv(path, index=False)
        opened.append(local.site(name, Dataset(contract, str(path)), local.SIMULATED))
    return opened


def hdh(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "federation.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HDH_HOME": str(home), "COLUMNS": "200"},
    )


def play(deployment: Deployment, example: Path, folder: Path) -> dict[str, Any]:
    deployments.set_policy(deployment, CLOSED, extensions={})
    deployments.restart(deployment, CLOSED)
    listed = hdh(folder, "extensions", "--format", "json")
    submitted = hdh(
        deployment.keys(),
        "study",
        "submit",
        str(folder / "study.yaml"),
        "--contract",
        str(example / "people.yaml"),
        "--out",
        str(folder / "out"),
    )
    status = hdh(deployment.keys(), "study", "status", "1")
    (path,) = [*(folder / "out").rglob("result.json"), folder / "none"][:1]
    return {
        "extensions": json.loads(listed.stdout),
        "submitted": submitted.stdout + submitted.stderr,
        "status": status.stdout + status.stderr,
        "result": json.loads(path.read_text()) if path.is_file() else None,
        "died": float(people().iloc[:600]["died"].mean()),
    }


def main(example: Path, folder: Path) -> None:
    contract = contracts.load(example / "people.yaml")
    study = yaml.safe_load((example / "study.yaml").read_text()) | {"min_nodes": 2}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    with flower.deployed(sites(contract, folder), folder / "hub", say=lambda _: None) as running:
        sys.stdout.write(json.dumps(play(running, example, folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
