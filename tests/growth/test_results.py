"""The cost of releasing and showing a result grows as its rows, whatever the number of groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from aggregator.report import figures, html
from federation.disclosure import hub_door
from federation.results import Result, Row, Table
from federation.secagg import keys
from nodes.session import NodeContext
from simulations import local
from tests import federations

PEOPLE = {"people": 500, "rows": 500, "missing": 0}


class CountedRow(dict[str, Any]):
    """A row that counts how often its group is read."""

    reads = 0

    def __getitem__(self, name: str) -> Any:
        CountedRow.reads += name == "group"
        return super().__getitem__(name)


def curve_rows(n_groups: int, n_times: int = 4) -> list[Row]:
    step = {"n_event": 20, "n_censor": 20, "estimate": 0.5, "conf_low": 0.4, "conf_high": 0.6}
    return [
        CountedRow(
            group=f"g{group}",
            time=float(time),
            n_risk=200 - 40 * time,
            n_left=160 - 40 * time,
            **step,
        )
        for group in range(n_groups)
        for time in range(n_times)
    ]


def exponent(sizes: list[int], counts: list[int]) -> float:
    """The slope of log count on log size."""
    return float(np.polyfit(np.log(sizes), np.log(counts), 1)[0])


def test_releasing_curves_reads_each_row_as_often_whatever_the_number_of_groups() -> None:
    sizes, counts = [10, 100, 1000], []
    for n_groups in sizes:
        CountedRow.reads = 0
        table = Table(curve_rows(n_groups), door="curve")
        tables, _ = hub_door.clear_tables({"": Result({"t": table}, PEOPLE)}, 11)[""]
        assert len(tables["t"]) == 4 * n_groups
        counts.append(CountedRow.reads)
    assert exponent(sizes, counts) < 1.1


def test_drawing_curves_reads_each_row_as_often_whatever_the_number_of_groups() -> None:
    sizes, counts = [10, 100, 1000], []
    for n_groups in sizes:
        CountedRow.reads = 0
        svg = figures.curves(curve_rows(n_groups)).svg
        counts.append(CountedRow.reads)
    assert exponent(sizes, counts) < 1.1
    assert "the first 24 of 1000 curves" in svg


@pytest.mark.parametrize("side", [10, 100, 300])
def test_the_page_of_a_large_cross_table_stays_small_and_names_the_file_with_all_cells(
    side: int,
) -> None:
    rows = [
        {"row": f"r{i}", "column": f"c{j}", "n": 50, "row_share": 0.5}
        for i in range(side)
        for j in range(side)
    ]
    columns, lines, more = html._matrix(rows)
    shown = sum(len(cells) for _, cells in lines)
    assert shown + more == side * side and shown <= html.MAX_ROWS * html.MAX_COLUMNS
    assert [cell["column"] for cell in lines[1][1] if cell] == columns
    assert bool(more) == (side > html.MAX_COLUMNS)


def test_the_rest_of_a_cross_table_is_named_in_the_page(tmp_path: Path) -> None:
    levels = [f"l{i}" for i in range(60)]
    contract = federations.contract_of(
        f"dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {{type: string}}\n"
        f"  g: {{type: category, levels: [a, b]}}\n"
        f"  h: {{type: category, levels: [{', '.join(levels)}]}}\n"
    )
    table = pandas.DataFrame({"id": np.arange(1200), "g": ["a", "b"] * 600, "h": levels * 20})
    study = federations.study_of({"c": {"run": "crosstab", "rows": "g", "columns": "h"}})
    sites = federations.sites_of(table, np.arange(1200) % 2, contract, tmp_path)
    page = html.page(federations.document(federations.run(study, contract, sites)))
    assert 'more cells are in <a href="tables/c.counts.csv">tables/c.counts.csv</a>' in page


def test_a_simulated_identity_is_derived_once(monkeypatch: pytest.MonkeyPatch) -> None:
    derived: list[bytes] = []
    real = keys.public_identity
    monkeypatch.setattr(keys, "public_identity", lambda key: derived.append(b"") or real(key))
    sites = [local.Site(name, {}, local.SIMULATED, local.Storage()) for name in "abc"]
    contexts: list[NodeContext] = local.contexts_of(sites)
    for context in contexts:
        for _ in range(5):
            assert set(dict(context.site.roster)) == {"a", "b", "c"}
    assert len(derived) == 3
