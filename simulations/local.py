"""Whole federations in one process: the hub's loop and the nodes' service, joined by a plain function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import duckdb

from aggregator.hub import Ask
from federation import errors
from federation.contract import Contract
from federation.expression import quote_name, quote_text
from federation.messages import Query, Reply
from nodes import connectors, service
from nodes.service import Office
from nodes.site import Dataset, Policy, Site, Storage

SIMULATED = Policy(min_nodes=1, hub_sees_cells=True)


def ask_of(sites: Sequence[Site], today: date) -> Ask:
    """An `ask` whose nodes answer one after the other, in the order of their names."""
    offices = [Office(site) for site in sorted(sites, key=lambda site: site.name)]

    def ask(query: Query) -> Sequence[Reply]:
        return [service.answer(query, office, today) for office in offices if office.site.name in query.nodes]

    return ask


def site(name: str, dataset: Dataset, policy: Policy = SIMULATED, storage: Storage | None = None) -> Site:
    return Site(name, {dataset.contract.dataset: dataset}, policy, storage or Storage())


def split(contract: Contract, path: Path, column: str, nodes: int | None) -> dict[str, Dataset]:
    """A table as several nodes: one for each value of `column`, or `nodes` groups of values of about equal size."""
    connection = connectors.connect(Storage())
    whole = Dataset(contract, str(path))
    connectors.open_rows(connection, whole, [column])
    rows = connection.execute(f"SELECT CAST({quote_name(column)} AS VARCHAR) AS value, count(*) AS n FROM source GROUP BY 1 ORDER BY n DESC, 1").fetchall()
    if any(value is None for value, _ in rows):
        raise errors.DataError(f"--split-by {column}: some rows have no value there; choose a column without missing values")
    groups = _groups([(str(value), int(n)) for value, n in rows], nodes, column)
    return {name: Dataset(contract, str(path), rows_where=_one_of(column, values)) for name, values in groups.items()}


def _groups(sizes: Sequence[tuple[str, int]], nodes: int | None, column: str) -> dict[str, list[str]]:
    if nodes is None:
        if len(sizes) > 200:
            raise errors.InputError(f"--split-by {column} has {len(sizes)} values; give --nodes N to group them into N nodes")
        return {slug(value): [value] for value, _ in sizes}
    if nodes > len(sizes):
        raise errors.InputError(f"--nodes {nodes} is more than the {len(sizes)} values of {column!r}; give a smaller number")
    groups: list[list[str]] = [[] for _ in range(nodes)]
    weights = [0] * nodes
    for value, n in sizes:  # the largest first, each to the smallest group
        smallest = weights.index(min(weights))
        groups[smallest].append(value)
        weights[smallest] += n
    return {f"node-{i + 1:0{len(str(nodes))}d}": group for i, group in enumerate(groups)}


def slug(text: str) -> str:
    kept = "".join(c if c.isalnum() and c.isascii() else "-" for c in text.lower()).strip("-")
    return kept if kept[:1].isalpha() else f"node-{kept}"


def _one_of(column: str, values: Sequence[str]) -> str:
    return f"CAST({quote_name(column)} AS VARCHAR) IN ({', '.join(quote_text(value) for value in values)})"


def check_within_node(datasets: Mapping[str, Dataset]) -> None:
    """What a real federation takes from the contract is checked here: a `within_node` level lies at one node."""
    contract = next(iter(datasets.values())).contract
    for name in (name for name, column in contract.columns.items() if column.within_node):
        owner: dict[str, str] = {}
        for node, dataset in datasets.items():
            connection = connectors.connect(Storage())
            connectors.open_rows(connection, dataset, [name])
            for level in _levels(connection, name):
                if owner.setdefault(level, node) != node:
                    raise errors.DataError(
                        f"column {name!r} is `within_node` in the contract, but a level has rows at {owner[level]} and {node}: split by {name}, or drop `within_node`"
                    )


def _levels(connection: duckdb.DuckDBPyConnection, name: str) -> list[str]:
    rows = connection.execute(f"SELECT DISTINCT CAST({quote_name(name)} AS VARCHAR) FROM source WHERE {quote_name(name)} IS NOT NULL").fetchall()
    return [str(row[0]) for row in rows]
