"""Linked studies over real processes: the answers of the joined table, and what is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from federation import audit, receipts
from simulations.flower import Deployment
from tests.linkage import deployed, two_holders
from tests.linkage.test_linked_studies import assert_same


@pytest.fixture(scope="module")
def tables() -> two_holders.Tables:
    return two_holders.make()


@pytest.fixture(scope="module")
def deployment(tables, tmp_path_factory) -> Iterator[Deployment]:
    with deployed.federation(tmp_path_factory.mktemp("hub"), tables) as running:
        yield running


def events(deployment: Deployment, node: str) -> list[str]:
    return [str(entry["event"]) for entry in audit.entries(deployment.state(node) / "audit.jsonl")]


def test_every_number_is_that_of_the_joined_table_and_nothing_is_left(
    deployment: Deployment, tables, tmp_path: Path
) -> None:
    study = deployed.study().model_copy(update={"coordinator": "coordinator"})
    found = deployed.submit(deployment, study)
    expected = two_holders.run_joined(study, {"lyon": two_holders.joined(tables)}, tmp_path)
    assert_same(found, expected)
    assert found.analyses["all"].n["linked"] > 0
    assert found.analyses["all"].tables["linkage"]
    document = found.model_dump(mode="json")
    assert receipts.verify(document, None, {}) == []
    assert {"lyon", "cnam", "casd"} == document["receipt"]["nodes"].keys()
    last = document["receipt"]["nodes"]["casd"]["replies"][-1]
    assert last["phase"] == "forget"
    assert events(deployment, "casd").count("link_deleted") == 1
    assert not list(deployment.state("casd").rglob("*.parquet"))
    assert not list(deployment.hub.parcels.rglob("*"))
