"""`hdh simulate` of a linked study, from files; and the hub, which does not take one yet."""

from __future__ import annotations

import json

import pytest

from federation import client, errors
from federation.cli.actions import simulate
from tests.linkage import two_holders


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


def simulated(folder, *nodes: str, contract=None):
    simulate.run(
        str(folder / "study.yaml"),
        data=None,
        split_by=None,
        node=nodes,
        nodes=None,
        contract=contract,
        seed=0,
        out=folder / "out",
        engine="local",
        strict=False,
        output="json",
    )
    return json.loads((folder / "out" / "result.json").read_text())


@pytest.mark.parametrize("written", ["lyon={}/left.csv", "lyon=register:{}/left.csv"])
def test_a_nodes_dataset_is_the_one_whose_columns_its_file_has_or_as_written(written, folder):
    nodes = [written.format(folder), f"cnam={folder}/right.csv", "casd=helper"]
    found = simulated(folder, *nodes)
    analysis = found["analyses"]["all"]
    assert analysis["status"] == "released"
    assert analysis["n"]["linked"] > 0
    assert {row["column"] for row in analysis["tables"]["linkage"]} == {"people", "grade"}
    assert found["provenance"]["nodes"] == ["lyon"]
    assert not list((folder / "out").rglob("*.parquet"))


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


def test_the_hub_says_that_it_does_not_take_studies_of_several_datasets(folder):
    study = two_holders.study()
    with pytest.raises(errors.StudyError, match="hdh simulate"):
        client._load_contract(study, None, folder)
