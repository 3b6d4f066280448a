"""In mode dp a deployed node begins no study on a source that its staff has not checked."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas
import pytest

from federation import errors
from federation.cli.actions import node_data
from federation.messages import NoisedAnswer, Query, Refusal, TaskId
from federation.study import Study
from federation.tickets import ticket
from nodes import ledger, service, source_checks, state_folder
from nodes import site as sites
from nodes.approvals import Approvals, Proposed
from nodes.session import NodeContext
from nodes.site import Dataset
from strategies import registry
from tests import federations

CONTRACT = """dataset: people
version: 1
person: id
columns:
  id: {type: string}
  age: {type: number, range: [0, 110]}
"""
NODE = """node: n
policy: {min_nodes: 1}
datasets:
  people: {contract: people.yaml, source: people.csv}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "people.yaml").write_text(CONTRACT)
    (tmp_path / "node.yaml").write_text(NODE)
    table(tmp_path)
    return tmp_path


def table(folder: Path, rows: int = 200, age: str = "50") -> None:
    frame = pandas.DataFrame({"id": [f"p{row}" for row in range(rows)], "age": age})
    frame.to_csv(folder / "people.csv", index=False)


def study(mode: str = "dp") -> Study:
    privacy = {"mode": "dp", "epsilon": 1} if mode == "dp" else {"mode": "exact"}
    return federations.study_of({"a": {"run": "describe", "columns": ["age"]}}, privacy=privacy)


def rule(folder: Path) -> str:
    """The rule by which a deployed node refuses an approved study; empty if it answers."""
    site, asked = sites.load(folder / "node.yaml"), study()
    approvals = Approvals(state_folder.create(folder / "state") / "approvals.sqlite")
    now = federations.NOW
    deadline = now.timestamp() + 3600
    contract = site.datasets["people"].contract
    run = ticket("hub", 1, asked.hash, contract.hash, ["n"], deadline)
    approvals.propose(
        Proposed(run, "s", "{}", "c", "k", now.isoformat(), deadline, verdict="approved")
    )
    ledger.grant(
        state_folder.open_ledger(site.state),
        site.account("people", now.year),
        asked.privacy.rho,
        by="dpo",
        at="now",
    )
    task = registry.plan(asked, contract)["a"]
    states = {TaskId("a"): task.analysis.start(task)}
    query = Query(asked, contract.hash, 1, ("n",), states, run=run.digest)
    answer = service.answer(query, NodeContext(site, approvals=approvals), now)
    given = answer.answers[TaskId("a")]
    if isinstance(given, Refusal):
        return given.rule
    assert isinstance(given, NoisedAnswer)
    return ""


def test_answers_are_held_until_a_check_has_passed(folder: Path) -> None:
    assert rule(folder) == "unchecked"
    node_data.check(folder / "node.yaml", None, "json")
    assert rule(folder) == ""


def test_a_check_that_fails_takes_an_earlier_one_back(folder: Path) -> None:
    node_data.check(folder / "node.yaml", None, "json")
    table(folder, age="50,5")
    with pytest.raises(errors.DataError):
        node_data.check(folder / "node.yaml", None, "json")
    assert rule(folder) == "unchecked"


def _more_rows(folder: Path) -> None:
    table(folder, rows=201)


def _same_size(folder: Path) -> None:
    table(folder, age="51")
    os.utime(folder / "people.csv", ns=(1, 1))


def _another_contract(folder: Path) -> None:
    (folder / "people.yaml").write_text(CONTRACT.replace("110", "120"))


def _another_file(folder: Path) -> None:
    (folder / "people.csv").rename(folder / "others.csv")
    (folder / "node.yaml").write_text(NODE.replace("people.csv", "others.csv"))


@pytest.mark.parametrize("change", [_more_rows, _same_size, _another_contract, _another_file])
def test_a_source_that_has_changed_is_checked_again(
    folder: Path, change: Callable[[Path], None]
) -> None:
    node_data.check(folder / "node.yaml", None, "json")
    change(folder)
    assert rule(folder) == "unchecked"


def test_a_folder_is_known_by_all_its_files_and_a_database_by_address_and_table(
    folder: Path,
) -> None:
    contract = sites.load(folder / "node.yaml").datasets["people"].contract
    parts = folder / "parts"
    parts.mkdir()
    (parts / "1.parquet").write_bytes(b"1")
    several = Dataset(contract, str(parts))
    before = source_checks.fingerprint(several)
    (parts / "2.parquet").write_bytes(b"2")
    assert source_checks.fingerprint(several) != before
    database = Dataset(contract, "postgresql://reader:secret@host:5432/data", "people")
    same = replace(database, source="postgresql://other:word@host:5432/data")
    assert source_checks.fingerprint(database) == source_checks.fingerprint(same)
    other = replace(database, table="others")
    assert source_checks.fingerprint(database) != source_checks.fingerprint(other)


def test_exact_studies_and_simulations_are_not_held(folder: Path) -> None:
    site = sites.load(folder / "node.yaml")
    assert service.unchecked(study("exact"), site) is None
    assert service.unchecked(study(), replace(site, state=None)) is None
