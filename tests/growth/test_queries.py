"""What a study asks grows as its work: DuckDB's queries at the nodes, and requests to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from aggregator import rounds
from federation import cohort as cohorts
from federation.messages import Query, Reply
from nodes import connectors
from nodes.cohorts import Opened
from nodes.kept_cohorts import KeptCohorts
from nodes.site import Site
from simulations import local
from tests import federations
from tests.counted import Counted
from tests.growth.test_results import exponent

MAX_EXPONENT = 1.1
N_COLUMNS = 80


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    real = connectors.connect_to
    monkeypatch.setattr(connectors, "connect_to", lambda *given: Counted(real(*given)))


def sites(folder: Path, n_nodes: int = 2, n_rows: int = 300, n_levels: int = 4) -> list[Site]:
    levels = ", ".join(f"l{i}" for i in range(n_levels))
    columns = "".join(f"  x{i}: {{type: number, range: [0, 1]}}\n" for i in range(N_COLUMNS))
    contract = federations.contract_of(
        "dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n"
        f"  ill: {{type: boolean}}\n  site: {{type: category, levels: [{levels}]}}\n{columns}"
    )
    federation = []
    for node in range(n_nodes):
        draw = np.random.default_rng(node)
        table = pandas.DataFrame(
            draw.random((n_rows, N_COLUMNS)), columns=[f"x{i}" for i in range(N_COLUMNS)]
        ).assign(
            id=[f"{node}-{i}" for i in range(n_rows)],
            ill=np.arange(n_rows) % 3 == 0,
            site=[f"l{i}" for i in draw.integers(0, n_levels, n_rows)],
        )
        path = folder / f"n{node}-{n_rows}-{n_levels}.parquet"
        table.to_parquet(path)
        federation.append(federations.site(f"n{node}", contract, path))
    return federation


def asked(
    nodes: Sequence[Site],
    entry: dict[str, Any],
    open_cohorts: KeptCohorts[Opened] | None = None,
) -> tuple[int, int]:
    """DuckDB's queries, and the requests to a node, of one study."""
    ask, requests = local.ask_of(nodes, federations.NOW, open_cohorts), [0]

    def counting(query: Query) -> Sequence[Reply]:
        requests[0] += 1
        return ask(query)

    study = federations.study_of({"a": entry})
    contract, before = nodes[0].datasets["people"].contract, Counted.queries
    outcome = rounds.run(study, contract, counting, [site.name for site in nodes])
    assert federations.result(outcome)
    return Counted.queries - before, requests[0]


GLM = {"run": "glm", "family": "gaussian", "model": "x2 ~ x0 + x1 + site"}


def test_queries_and_requests_are_as_many_whatever_the_rows_and_levels(tmp_path: Path) -> None:
    rows = [asked(sites(tmp_path, n_rows=n), GLM) for n in (300, 900, 2700)]
    levels = [asked(sites(tmp_path, n_rows=2700, n_levels=n), GLM) for n in (36, 72, 144)]
    assert len(set(rows)) == 1 and len(set(levels)) == 1


def test_queries_grow_as_the_nodes_and_requests_to_each_do_not(tmp_path: Path) -> None:
    nodes = [2, 4, 8]
    counts = [asked(sites(tmp_path, n_nodes=n), GLM) for n in nodes]
    assert exponent(nodes, [queries for queries, _ in counts]) < MAX_EXPONENT
    assert len({requests for _, requests in counts}) == 1


@pytest.mark.slow
def test_queries_grow_as_the_columns_divided_by_those_of_a_query(tmp_path: Path) -> None:
    nodes, columns = sites(tmp_path), [20, 40, 80]
    entries = [{"run": "describe", "columns": [f"x{i}" for i in range(n)]} for n in columns]
    counts = [asked(nodes, entry) for entry in entries]
    assert exponent(columns, [queries for queries, _ in counts]) < MAX_EXPONENT
    # two nodes read 20 columns a query, once for the rules of support and once for the sums
    assert counts[2][0] <= counts[0][0] + 2 * 2 * (80 - 20) / cohorts.COLUMNS_AT_ONCE
    assert len({requests for _, requests in counts}) == 1


def test_a_session_of_studies_reads_its_rows_once(tmp_path: Path) -> None:
    nodes, open_cohorts = sites(tmp_path), KeptCohorts[Opened](settled=0.0)
    entries = [{**GLM, "model": f"x2 ~ {terms}"} for terms in ("x0 + x1 + site", "x0", "x1 + site")]
    first, *others = [asked(nodes, entry, open_cohorts)[0] for entry in entries]
    assert others[0] == others[1] < first / 2
