"""Linked studies over real processes: the answers of the joined table, and what is left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator import daemon
from federation import audit, errors, receipts
from simulations.flower import Deployment
from tests import deployments
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
    study = deployed.study()
    result = deployed.submit(deployment, study)
    expected = two_holders.run_joined(study, {"lyon": two_holders.joined(tables)}, tmp_path)
    assert_same(result, expected)
    assert result.analyses["all"].n["linked"] > 0
    assert result.analyses["all"].tables["linkage"]
    document = result.model_dump(mode="json")
    assert receipts.verify(document, None, {}) == []
    assert deployed.replayed(deployment, document) == []
    assert {"lyon", "cnam", "casd"} == document["receipt"]["nodes"].keys()
    last = document["receipt"]["nodes"]["casd"]["replies"][-1]
    assert last["phase"] == "forget"
    assert events(deployment, "casd").count("link_deleted") == 1
    assert not list(deployment.state("casd").rglob("*.parquet"))
    assert not list(deployment.hub.parcels.rglob("*"))


def hdh(*arguments: str, home: Path | None = None) -> str:
    environment = {**daemon.environment(Path("/nowhere")), "HDH_HOME": str(home), "COLUMNS": "200"}
    command = [sys.executable, "-m", "federation.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_submitted_study_waits_for_a_helper_whose_staff_reads_who_learns_what(
    deployment: Deployment, tmp_path: Path
) -> None:
    deployments.set_policy(deployment, "casd", approval="manual")
    deployments.restart(deployment, "casd")
    written = {"study": two_holders.STUDY, "register": two_holders.REGISTER}
    for name, text in (written | {"insurer": two_holders.INSURER}).items():
        (tmp_path / f"{name}.yaml").write_text(text)
    home = deployment.keys()
    printed = hdh("study", "submit", str(tmp_path / "study.yaml"), home=home)
    assert "nodes asked: casd, cnam, lyon" in printed
    node_file = str(deployment.home("casd") / "node.yaml")
    deployments.wait(lambda: "waits for you" in hdh("node", "studies", "--site", node_file), 60)
    shown = hdh("node", "show", "linked", "--site", node_file)
    for words in (
        "this node is its helper",
        "the parties are casd (helper), cnam (right), lyon (left)",
        "insurer sends spent (number), visits (number): 3 words a row",
        "it sees no row of anyone else",
    ):
        assert words in shown
    hdh("node", "approve", "linked", "--site", node_file)
    with deployment.connect() as hub:
        assert hub.run("linked").watch(lambda line: None).state == "complete"
    deployments.set_policy(deployment, "casd", approval="automatic")
    deployments.restart(deployment, "casd")


@pytest.mark.slow
def test_a_party_whose_policy_is_closed_ends_the_study_before_it_starts(
    deployment: Deployment,
) -> None:
    policy = {"with": ["register"], "helpers": ["someone"], "modes": ["exact"]}
    deployments.set_policy(deployment, "cnam", links=policy)
    deployments.restart(deployment, "cnam")
    with pytest.raises(errors.RefusalError, match="does not take 'casd' for a helper"):
        deployed.submit(deployment, deployed.study("closed"))
    deployments.set_policy(deployment, "cnam", links={**policy, "helpers": ["casd"]})
    deployments.restart(deployment, "cnam")
