"""The datasets of the nodes at a hub: listed, compared in words, and fetched as contract files."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation import contract as contracts
from federation import errors
from federation.cli.actions import held_datasets
from federation.client import Held
from tests import federations

TEXT = """
dataset: stays
version: 1
person: id
description: {fr: Séjours}
columns:
  id: {type: string}
  age: {type: integer, range: [18, 110], unit: years}
  code: {type: category, levels: ["01", "no", "2A"], missing: ["999"]}
  born: {type: date, range: [1920-01-01, 2008-12-31]}
  image: {type: array, shape: [2, 2], range: [0, 1]}
"""
STAYS = federations.contract_of(TEXT)
OTHER = federations.contract_of(
    TEXT.replace("[18, 110]", "[0, 110]").replace("version: 1", "version: 2")
)
HELD = [
    Held("brest", OTHER, 0, False),
    Held("lyon", STAYS, 900, True),
    Held("nice", STAYS.model_copy(update={"version": 3}), 700, True),
]


def test_the_contract_of_most_nodes_is_compared_with_the_others() -> None:
    (line,) = held_datasets.differences(HELD)
    assert line.endswith("column age: range was [18.0, 110.0], and is [0.0, 110.0]")
    assert line.startswith(f"stays {OTHER.hash[:12]}, compared with {STAYS.hash[:12]}")
    assert held_datasets.differences(HELD[1:]) == []


def test_contracts_are_fetched_as_they_are(tmp_path: Path) -> None:
    paths = held_datasets.write(HELD, tmp_path)
    assert [contracts.load(path).hash for path in paths] == [STAYS.hash, OTHER.hash]
    assert contracts.load(paths[0]).columns["code"].levels == ("01", "no", "2A")
    (path,) = held_datasets.write(HELD[1:2], tmp_path / "one")
    assert path.name == "stays.yaml" and contracts.load(path) == STAYS
    path.write_text("mine")
    with pytest.raises(errors.InputError, match="exists already"):
        held_datasets.write(HELD[1:2], tmp_path / "one")
