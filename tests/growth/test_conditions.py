"""A long condition costs as much as its terms, and not as each part that joins some of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from nodes import column_arrays
from tests import federations
from tests.growth.test_results import exponent

TERMS = [10, 30, 90]
CONTRACT = """
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  x: {type: number, range: [0, 1000]}
  ill: {type: boolean}
"""


@pytest.mark.parametrize("word", ["and", "or"])
def test_the_engine_evaluates_each_term_once(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    rows = pandas.DataFrame(
        {
            "id": [f"p{number}" for number in range(2000)],
            "x": draw.uniform(0, 1000, 2000),
            "ill": draw.random(2000) < 0.5,
        }
    )
    contract = federations.contract_of(CONTRACT)
    sites = federations.sites_of(rows, np.arange(2000) % 2, contract, tmp_path)
    real, sizes = column_arrays._read, list[int]()

    def counted(connection: Any, fields: Any, table: str) -> Any:
        sizes[-1] += sum(len(field.sql) for field in fields)
        return real(connection, fields, table)

    monkeypatch.setattr(column_arrays, "_read", counted)
    for n_terms in TERMS:
        terms = [f"x < {600 - number}" for number in range(n_terms)]
        sizes.append(0)
        study = federations.study_of(
            {"a": {"run": "describe", "columns": ["x"]}},
            cohort={"where": f" {word} ".join([*terms, "ill"])},
        )
        federations.run(study, contract, sites)
    assert sizes[0] > 1000 and exponent(TERMS, sizes) < 1.1
