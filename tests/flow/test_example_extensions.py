"""The example distribution of docs/examples, installed by pip, in a study."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas
import pytest

import federation as fed
from tests import planted

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "hdh-example"


def test_the_example_runs_in_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    package = EXAMPLE / "src" / "hdh_example"
    entries = {
        f"{group.removeprefix('hdh.')}.{name}": value
        for group, names in project["entry-points"].items()
        for name, value in names.items()
    }
    files = {f"hdh_example/{path.name}": path.read_text() for path in package.glob("*.py")}
    planted.plant(tmp_path, monkeypatch, entries, files, distribution=project["name"])
    rows = _people()
    frames = {"a": rows[::3], "b": rows[1::3], "c": rows[2::3]}
    study = fed.Study.read(EXAMPLE / "study.yaml")
    with fed.simulate(frames, str(EXAMPLE / "people.yaml")) as nodes:
        result = study.run(nodes, progress=False)
        private = fed.Study("people", epsilon=10).add("share", "event_share", event="died")
        noised = private.run(nodes, progress=False)
    (share,) = result["share"].tidy()["estimate"]
    assert share == rows["died"].mean()
    history = result["network"].tidy("history")["train_loss"]
    assert history.iloc[-1] < history.iloc[0]
    assert len(result.document["provenance"]["extensions"]) == 3
    (row,) = noised["share"].tidy().to_dict("records")
    assert abs(row["estimate"] - share) < 0.05 and row["conf_low"] < share < row["conf_high"]


@pytest.mark.slow
def test_the_example_is_installed_by_pip_and_runs_in_a_study(tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(EXAMPLE)], check=True, capture_output=True)
    rows = _people()
    nodes = [part for name in ("a", "b", "c") for part in ("--node", f"{name}={name}.csv")]
    for name, part in rows.groupby(np.arange(len(rows)) % 3):
        part.to_csv(tmp_path / f"{'abc'[name]}.csv", index=False)

    def hdh(*arguments: str) -> str:
        command = [sys.executable, "-m", "federation.cli.main", *arguments]
        path = os.pathsep.join([str(site), str(ROOT)])
        environment = os.environ | {"PYTHONPATH": path}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    installed = {each["key"]: each for each in json.loads(hdh("extensions", "--format", "json"))}
    assert set(installed) == {"analyses.event_share", "networks.residual", "strategies.capped"}
    assert not any(each["problem"] for each in installed.values())
    hdh("simulate", str(EXAMPLE / "study.yaml"), *nodes, "--out", "out")
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    (share,) = document["analyses"]["share"]["tables"]["share"]
    assert share["estimate"] == rows["died"].mean()
    assert share["n"] == len(rows)
    history = document["analyses"]["network"]["tables"]["history"]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert {each["digest"] for each in document["provenance"]["extensions"]} == {
        each["digest"] for each in installed.values()
    }


def _people() -> pandas.DataFrame:
    rng = np.random.default_rng(1)
    age, male = rng.integers(20, 90, 600), rng.random(600) < 0.5
    died = rng.random(600) < 1 / (1 + np.exp((60 - age) / 10 - male))
    return pandas.DataFrame({"age": age, "male": male, "died": died})
