"""`hdh simulate` of a linked study, from files, and its submission: contracts and parties."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from aggregator import linked_studies
from aggregator.database import DatasetHolder
from federation import client, datasets, errors
from federation.cli.actions import simulate
from tests.linkage import two_holders

PARTY: Any = SimpleNamespace(name="alice")


@pytest.fixture
def folder(tmp_path):
    tables = two_holders.make(300, 500, 250)
    tables.left.to_csv(tmp_path / "left.csv", index=False)
    tables.right.to_csv(tmp_path / "right.csv", index=False)
    (tmp_path / "register.yaml").write_text(two_holders.REGISTER)
    (tmp_path / "insurer.yaml").write_text(two_holders.INSURER)
    crosstab = "{all: {run: crosstab, rows: grade, columns: drug}}"
    text = two_holders.STUDY.replace(
        "{all: {run: describe, columns: [age, spent, visits]}}", crosstab
    )
    assert crosstab in text
    (tmp_path / "study.yaml").write_text(text)
    return tmp_path


def simulated(folder, *nodes: str, contract=None, engine="local"):
    simulate.run(
        str(folder / "study.yaml"),
        data=None,
        split_by=None,
        node=nodes,
        nodes=None,
        contract=contract,
        seed=0,
        out=folder / "out",
        engine=engine,
        strict=False,
        output="json",
    )
    return json.loads((folder / "out" / "result.json").read_text())


@pytest.mark.parametrize("written", ["lyon={}/left.csv", "lyon=register:{}/left.csv"])
def test_a_nodes_dataset_is_the_one_whose_columns_its_file_has_or_as_written(written, folder):
    nodes = [written.format(folder), f"cnam={folder}/right.csv", "casd=helper"]
    result = simulated(folder, *nodes)
    analysis = result["analyses"]["all"]
    assert analysis["status"] == "released"
    assert analysis["n"]["linked"] > 0
    assert {row["column"] for row in analysis["tables"]["linkage"]} == {"people", "grade"}
    assert result["provenance"]["nodes"] == ["lyon"]
    assert not list((folder / "out").rglob("*.parquet"))


@pytest.mark.slow
def test_over_flower_the_parties_are_processes_and_the_numbers_are_the_same(folder):
    nodes = [f"lyon={folder}/left.csv", f"cnam={folder}/right.csv"]
    here, there = simulated(folder, *nodes), simulated(folder, *nodes, engine="flower")
    assert there["analyses"]["all"]["tables"] == here["analyses"]["all"]["tables"]
    assert there["analyses"]["all"]["n"] == here["analyses"]["all"]["n"]
    assert there["provenance"]["nodes"] == ["lyon"]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((), "no data"),
        (("lyon={}/left.csv",), "one with 'insurer'"),
        (("cnam={}/right.csv",), "a node with dataset 'register'"),
        (("lyon={}/study.yaml", "cnam={}/right.csv"), "unknown kind of source"),
        (("lyon={}/left.csv", "casd={}/right.csv"), "helper of the link"),
        (("lyon={}/left.csv", "lyon={}/right.csv"), "given twice"),
    ],
)
def test_nodes_that_do_not_make_a_link_are_refused_with_the_remedy(nodes, message, folder):
    with pytest.raises(errors.HdhError, match=message):
        simulated(folder, *(node.format(folder) for node in nodes))


def test_a_file_with_the_columns_of_no_dataset_needs_its_datasets_name(folder):
    (folder / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(errors.InputError, match="DATASET:FILE"):
        simulated(folder, f"lyon={folder}/other.csv", f"cnam={folder}/right.csv")


def test_a_client_sends_the_contract_of_each_dataset_beside_the_study(folder):
    study, contract, several = client.Hub(PARTY, None)._loaded(folder / "study.yaml", None)
    assert study.coordinator == "alice"
    assert several == two_holders.CONTRACTS
    assert contract == datasets.contract_of(study, several)


def test_a_linked_study_without_its_folder_needs_its_contracts_by_name(folder):
    hub, study = client.Hub(PARTY, None), two_holders.study()
    with pytest.raises(errors.StudyError, match="contract for each of register, insurer"):
        hub._loaded(study, None)
    assert hub._loaded(study, two_holders.CONTRACTS)[2] == two_holders.CONTRACTS


# -- who is asked
def party(name: str, dataset: str = "", contract: str = "") -> DatasetHolder:
    contract_ = two_holders.CONTRACTS.get(dataset)
    held = {dataset: [{"contract": contract or contract_.hash}]} if contract_ else {}
    return DatasetHolder(name, "node", "", "", 0, (), 0.0, None, None, "", held)


def nodes(*parties: DatasetHolder) -> dict[str, DatasetHolder]:
    return {party_.name: party_ for party_ in parties}


LYON, NANTES = party("lyon", "register"), party("nantes", "register")
CNAM, CASD = party("cnam", "insurer"), party("casd")
WRITTEN = {name: contract.canonical() for name, contract in two_holders.CONTRACTS.items()}


def test_the_parties_are_all_left_holders_the_right_one_and_the_helper():
    everyone = nodes(LYON, NANTES, CNAM, CASD, party("other"))
    parties = linked_studies.parties(two_holders.study(), WRITTEN, everyone)
    assert parties.roles == {"lyon": "left", "nantes": "left", "cnam": "right", "casd": "helper"}
    chosen = linked_studies.parties(two_holders.study(), WRITTEN, everyone, ["cnam", "nantes"])
    assert chosen.roles == {"nantes": "left", "cnam": "right", "casd": "helper"}


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ((LYON, CNAM), "helper 'casd' is not enrolled"),
        ((LYON, CASD), "no node holds dataset 'insurer'"),
        ((CNAM, CASD), "no node holds dataset 'register'"),
        ((party("lyon", "register", "another"), CNAM, CASD), "no node holds dataset 'register'"),
        ((LYON, CNAM, party("paris", "insurer"), CASD), "choose them with --nodes"),
    ],
)
def test_a_link_without_one_of_its_parties_is_not_submitted(there, message):
    with pytest.raises(errors.HdhError, match=message):
        linked_studies.parties(two_holders.study(), WRITTEN, nodes(*there))


def test_too_few_left_holders_are_refused():
    with pytest.raises(errors.RefusalError, match="needs 4 parties"):
        linked_studies.parties(two_holders.study(min_nodes=4), WRITTEN, nodes(LYON, CNAM, CASD))


def test_a_contract_that_does_not_follow_from_the_datasets_is_refused():
    study, other = two_holders.study(), two_holders.study(cohort={"where": "age > 30"})
    contract = datasets.contract_of(study, two_holders.CONTRACTS)
    linked_studies.check(study, contract, WRITTEN)
    linked_studies.check(other, contract, WRITTEN)
    with pytest.raises(errors.StudyError, match="does not follow"):
        linked_studies.check(study, two_holders.CONTRACTS["register"], WRITTEN)
    with pytest.raises(errors.StudyError, match="without the contracts"):
        linked_studies.check(study, contract, {"register": WRITTEN["register"]})
