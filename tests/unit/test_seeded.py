"""The streams that make luck the same in each run of a test."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas
import pytest

from nodes.session import NodeContext
from nodes.site import Policy, Site
from tests import federations, seeded

CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  x: {type: number, range: [0, 1]}
""")
TABLE = pandas.DataFrame({"id": [f"p{i}" for i in range(600)], "x": np.arange(600) % 2})
POLICY = Policy(min_nodes=1, modes=("dp",), hub_sees_cells=True)


def noised_mean(folder: Path) -> float:
    study = federations.study_of(
        {"a": {"run": "describe", "columns": ["x"]}},
        privacy={"mode": "dp", "epsilon": 1.0, "delta": 1e-6},
    )
    sites = federations.sites_of(TABLE, np.arange(600) % 3, CONTRACT, folder, POLICY)
    (row,) = federations.result(federations.run(study, CONTRACT, sites)).tables["numbers"].rows
    return float(row["mean"])


def again(label: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Two noised means, as a fresh process would give them to the test `label`."""
    monkeypatch.setattr(seeded, "_drawn", type(seeded._drawn)())
    with seeded.streams_of(label):
        return [noised_mean(folder), noised_mean(folder)]


def test_a_test_meets_the_same_noise_each_time_and_other_noise_than_its_neighbour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = again("one", tmp_path, monkeypatch)
    assert again("one", tmp_path, monkeypatch) == first
    assert len({*first, *again("other", tmp_path, monkeypatch)}) == 4, "each study has its noise"


def test_secrets_differ_between_nodes_and_between_contexts() -> None:
    contexts = [NodeContext(Site(name, {}, POLICY)) for name in ("n0", "n1", "n1")]
    assert len({context.secret for context in contexts}) == 3
    assert len({context.identity for context in contexts}) == 3


def test_entropy_that_a_test_gives_is_used_and_the_operating_systems_is_replaced() -> None:
    given = np.random.default_rng(1).bytes
    assert NodeContext(Site("n0", {}, POLICY), entropy=given).entropy is given
    assert NodeContext(Site("n0", {}, POLICY)).entropy is not os.urandom
