"""Made-up rows keep their contract, whatever it says, and studies run on them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import duckdb
import numpy as np
import pytest
import yaml

import federation as fed
from federation import contract as contracts
from federation import errors
from federation.cli.actions import dummies, simulate
from federation.linkage import forms
from federation.terminologies import TERMINOLOGIES
from nodes import contract_counts, site
from nodes.site import Storage
from simulations import dummy
from simulations.pilots import parcours_idm
from tests import federations

PILOTS = Path(__file__).parents[3] / "simulations" / "pilots"
CONTRACTS = [
    path
    for path in sorted(PILOTS.glob("*/*.yaml"))
    if "columns" in yaml.safe_load(path.read_text(encoding="utf-8").replace("<<:", "merged:"))
]
EVERYTHING = """
dataset: everything
version: 1
person: id
rows_per_person: 3
columns:
  id: {type: string}
  n: {type: number, range: [-5, 5]}
  grid: {type: number, range: [0.1, 0.9], step: 0.25}
  free: {type: number}
  whole: {type: integer, range: [3, 7]}
  full: {type: integer, range: [0, 9], max_missing: 0}
  b: {type: boolean}
  g: {type: category, levels: [a, b, "1"]}
  centre: {type: category, levels: [c1, c2, c3, c4], within_node: true}
  cim: {type: code, terminology: cim-10}
  ccam: {type: code, terminology: ccam}
  atc: {type: code, terminology: atc}
  cip: {type: code, terminology: cip13}
  loinc: {type: code, terminology: loinc}
  s: {type: string}
  d: {type: date, range: [2020-01-01, 2020-12-31]}
  any_day: {type: date}
  image: {type: array, shape: [4, 4], range: [0, 1]}
"""


def check(path: Path, folder: Path) -> None:
    contract = contracts.load(path)
    for written in dummy.write(contract, 60, 2, folder, seed=1):
        dataset = site.dataset_of(contract, str(written))
        counts, findings = contract_counts.examine(dataset, Storage(), list(contract.columns))
        assert not findings, (written, findings)
        if contract.person is not None:
            assert counts[contract.person, "people"] == 30


@pytest.mark.parametrize("path", CONTRACTS, ids=lambda path: path.stem)
def test_rows_keep_the_contracts_of_the_pilots(path: Path, tmp_path: Path) -> None:
    check(path, tmp_path)


def test_rows_keep_a_contract_with_everything(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(EVERYTHING)
    check(tmp_path / "c.yaml", tmp_path / "out")
    rows = duckdb.sql(
        f"SELECT centre, filename FROM read_parquet('{tmp_path / 'out'}/*.parquet',"
        " filename = true) "
        "WHERE centre IS NOT NULL GROUP BY ALL"
    ).fetchall()
    centres = [row[0] for row in rows]
    assert sorted(centres) == ["c1", "c2", "c3", "c4"]  # each at one node
    ((grid,),) = duckdb.sql(
        f"SELECT count(*) FROM '{tmp_path / 'out'}/*.parquet' WHERE grid NOT IN (0.25, 0.5, 0.75)"
    ).fetchall()
    assert grid == 0


def test_the_codes_have_the_form_of_their_terminology() -> None:
    for name, terminology in TERMINOLOGIES.items():
        for code in dummy.CODES[name]:
            assert re.fullmatch(terminology.pattern, code), (name, code)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(EVERYTHING)
    contract = contracts.load(tmp_path / "c.yaml")
    first, again, other = (
        dummy.rows(contract, 20, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert first.drop(columns="image").equals(again.drop(columns="image"))
    assert not first.drop(columns="image").equals(other.drop(columns="image"))


STUDY = """
study: try
title: A try
question: Does the study run?
purpose: {interest: public, category: research}
authorisation: {reference: DR-0, expires: 2027-12-31}
dataset: everything
privacy: {mode: exact, min_cell: 11}
analyses:
  numbers: {run: describe, columns: [n, whole, g]}
  model: {run: glm, model: "n ~ whole + g"}
"""


def test_a_study_runs_on_made_up_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(EVERYTHING.replace("rows_per_person: 3", "rows_per_person: 1"))
    (tmp_path / "study.yaml").write_text(STUDY)
    dummies.write(tmp_path / "c.yaml", 900, 3, tmp_path / "dummy", 0)
    assert "hdh simulate STUDY.yaml" in capsys.readouterr().out
    simulate.run(
        str(tmp_path / "study.yaml"),
        data=None,
        split_by=None,
        node=[f"node-{i}={tmp_path / 'dummy' / f'node-{i}.parquet'}" for i in (1, 2, 3)],
        nodes=None,
        contract=tmp_path / "c.yaml",
        seed=0,
        out=tmp_path / "out",
        engine="local",
        strict=False,
        output="text",
    )
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    assert {each["status"] for each in document["analyses"].values()} == {"released"}


def test_a_linked_study_runs_on_made_up_rows_of_two_contracts() -> None:
    """The people of both are linked by the identifier of one name, and one in ten is at the left
    alone."""
    pilot = Path(parcours_idm.__file__).parent
    emust, suites = (contracts.load(pilot / f"{name}.yaml") for name in ("emust", "suites"))
    rng = np.random.default_rng(0)
    frames = {
        f"samu-{k}": ("emust", dummy.rows(emust, 140, rng, (k, 5), 140 * k)) for k in range(5)
    }
    insured = dummy.rows(suites, 700, rng)
    frames["cnam"] = ("suites", insured[insured["beneficiaire"].str[-1] != "3"])
    study = fed.Study.read(pilot / "linked.yaml")
    with fed.simulate(frames, [emust, suites]) as nodes:
        result = study.run(nodes, progress=False)
    assert result["modele"].content["n"]["linked"] == 630


@pytest.mark.parametrize("form", ["nir13", "text", "date"])
def test_identifiers_have_their_form_and_tell_people_apart(form: str) -> None:
    contract = federations.contract_of(f"""
dataset: d
version: 1
person: id
identifiers: {{x: {{column: x, form: {form}}}}}
columns:
  id: {{type: string}}
  x: {{type: string}}
""")
    values = dummy.rows(contract, 2500, np.random.default_rng(0))["x"]
    assert all(forms.normalise(form, value) is not None for value in values)
    assert values.nunique() == 2500


def test_a_folder_in_use_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(EVERYTHING)
    with pytest.raises(errors.InputError, match="not empty"):
        dummies.write(tmp_path / "c.yaml", 10, 1, tmp_path, 0)
    with pytest.raises(errors.InputError, match="more nodes than people"):
        dummies.write(tmp_path / "c.yaml", 2, 3, tmp_path / "out", 0)
