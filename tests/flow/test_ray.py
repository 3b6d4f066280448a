"""The same study on Flower's Ray runtime: the same weights for the same seed. (Over real processes:
tests/flow/test_pilots.py, slow.)"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from federation import errors
from simulations import ray
from tests import federations


def simulate(engine: str, out: Path, *words: str) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "federation.cli.main",
        "simulate",
        *words,
        "--engine",
        engine,
        "--out",
        str(out),
        "--format",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def tables_of(document: dict[str, Any]) -> dict[str, Any]:
    return {name: analysis["tables"] for name, analysis in document["analyses"].items()}


@pytest.mark.slow
def test_engines_agree_on_every_number(tmp_path: Path) -> None:
    local, ray_ = (simulate(engine, tmp_path / engine, "ordei") for engine in ("local", "ray"))
    assert tables_of(local) == tables_of(ray_) and tables_of(ray_)


@pytest.mark.slow
def test_engines_train_the_same_weights_to_the_last_bit(tmp_path: Path) -> None:
    documents = {
        engine: simulate(engine, tmp_path / engine, "deep_piste", "--variant", "real")
        for engine in ("local", "ray")
    }
    models = {
        engine: document["analyses"]["lecture"]["model"]["sha256"]
        for engine, document in documents.items()
    }
    assert len(set(models.values())) == 1, models
    tables = {
        engine: document["analyses"]["lecture"]["tables"] for engine, document in documents.items()
    }
    assert tables["local"] == tables["ray"]
    assert (tmp_path / "ray" / "lecture.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"privacy": {"mode": "exact", "secure_sum": True}},
            "a secure sum needs each node to stay",
        ),
        (
            {"analyses": {"a": {"run": "train", "model": "y ~ x", "strategy": "scaffold"}}},
            "stores arrays at each node",
        ),
    ],
)
def test_what_ray_cannot_carry_is_refused(more: dict[str, Any], message: str) -> None:
    study = federations.study_of(
        **{"analyses": {"a": {"run": "describe", "columns": ["x"]}}, **more}
    )
    with pytest.raises(errors.InputError, match=message):
        ray.check(study)
