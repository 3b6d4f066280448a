"""Whole federations in one process: a plain function joins the hub's round loop and the nodes'
service."""

from __future__ import annotations

import os
from collections.abc import Iterator, KeysView, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import duckdb

from aggregator import secure_sum
from aggregator.rounds import Ask
from aggregator.secure_sum import Send
from federation import datasets as joint_contracts
from federation import errors
from federation import text as texts
from federation.contract import Contract
from federation.expression import quote_name, quote_text
from federation.messages import Query, Reply
from federation.privacy.noise import Entropy
from federation.study import Study
from nodes import connectors, ledger, service
from nodes.cohorts import Opened
from nodes.kept_cohorts import KeptCohorts
from nodes.session import NodeContext, Plans
from nodes.site import Dataset, Policy, Site, Storage, View, dataset_of
from simulations.workers import Workers, trains_here
from strategies import registry

SIMULATED = Policy(
    min_nodes=1,
    modes=("exact", "dp"),
    hub_sees_cells=True,
    max_epsilon=20,
    max_delta=1e-3,
    noise="distributed",
    honest_nodes=1,
    colluders=0,
)


def ask_of(
    sites: Sequence[Site], now: datetime, open_cohorts: KeptCohorts[Opened] | None = None
) -> Ask:
    """An `ask` whose nodes answer one after the other, in the order of their names, and through
    secure sums if the study asks for them. `open_cohorts`: the cohorts of earlier studies."""
    return secure_sum.ask_of(
        send_of(contexts_of(sites, open_cohorts=open_cohorts), now),
        lambda study: registry.plan(study, sites[0].datasets[study.dataset].contract),
    )


@contextmanager
def asking(
    sites: Sequence[Site], now: datetime, workers: int = 1, study: Study | None = None
) -> Iterator[Ask]:
    """The same, with the nodes in `workers` processes if it is more than 1."""
    if workers <= 1:
        yield ask_of(sites, now)
        return
    with Workers(contexts_of(sites), now, workers, send_of, study) as pool:
        yield secure_sum.ask_of(
            pool.send, lambda study: registry.plan(study, sites[0].datasets[study.dataset].contract)
        )


def contexts_of(
    sites: Sequence[Site],
    entropy: Entropy = os.urandom,
    open_cohorts: KeptCohorts[Opened] | None = None,
) -> list[NodeContext]:
    """Nodes that have accepted one roster of their identities, which are created when a secure sum
    first needs them."""
    roster, plans = _Roster(), dict[tuple[str, ...], Plans]()
    contexts = [
        NodeContext(
            site if site.roster else replace(site, roster=roster),
            entropy=entropy,
            open_cohorts=open_cohorts,
            plans=plans.setdefault(_contracts_of(site), {}),
        )
        for site in sorted(sites, key=lambda site: site.name)
    ]
    roster.contexts = {context.site.name: context for context in contexts}
    return contexts


def _contracts_of(site: Site) -> tuple[str, ...]:
    """Nodes that hold the same datasets under the same contracts share the plans of studies."""
    return tuple(f"{name} {dataset.contract.hash}" for name, dataset in site.datasets.items())


def send_of(contexts: Sequence[NodeContext], now: datetime) -> Send:
    by_name = {context.site.name: context for context in contexts}

    def send(queries: Mapping[str, Query]) -> Sequence[Reply]:
        if "train" in next(iter(queries.values())).study.runs:  # all queries have the same study
            trains_here()
        return [
            service.answer(query, granted(by_name[name], query.study, now), now)
            for name, query in queries.items()
            if name in by_name
        ]

    return send


class _Roster(Mapping[str, bytes]):
    """The public identities of simulated nodes, each derived once."""

    def __init__(self) -> None:
        self.contexts: dict[str, NodeContext] = {}
        self._public: dict[str, bytes] = {}

    def __getitem__(self, name: str) -> bytes:
        if name not in self._public:
            from federation.secagg import keys

            self._public[name] = keys.public_identity(self.contexts[name].identity)
        return self._public[name]

    def keys(self) -> KeysView[str]:
        """Those of a dictionary, whose set operations compare names without calling Python."""
        return self.contexts.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.contexts)

    def __len__(self) -> int:
        return len(self.contexts)


def granted(context: NodeContext, study: Study, now: datetime) -> NodeContext:
    """A simulated producer without a ledger on disk grants the study its budget, once."""
    if (
        study.privacy.mode == "dp"
        and context.site.state is None
        and study.dataset in context.site.datasets
    ):
        account = context.site.account(study.dataset, now.year)
        if not any(
            entry.kind == "grant" and entry.study == study.hash
            for entry in ledger.history(context.ledger)
        ):
            ledger.grant(
                context.ledger,
                account,
                study.privacy.rho,
                by="simulation",
                at=now.isoformat(timespec="seconds"),
                study=study.hash,
            )
    return context


def site(
    name: str, dataset: Dataset, policy: Policy = SIMULATED, storage: Storage | None = None
) -> Site:
    return Site(name, {dataset.contract.dataset: dataset}, policy, storage or Storage())


def beside(
    study: Study, joint: Contract, datasets: Mapping[str, Dataset], policy: Policy = SIMULATED
) -> list[Site]:
    """The nodes of a study of several datasets side by side, each with its own under the joint
    contract."""
    return [
        site(name, replace(dataset, contract=joint, view=View(dataset.contract, seen)), policy)
        for name, dataset in datasets.items()
        for seen in [
            joint_contracts.view(study.datasets[dataset.contract.dataset], dataset.contract)
        ]
    ]


def split(contract: Contract, path: Path, column: str, nodes: int | None) -> dict[str, Dataset]:
    """Splits a table into nodes: one for each value of `column`, or `nodes` groups of values with
    about equal numbers of rows."""
    connection = connectors.connect(Storage())
    whole = dataset_of(contract, str(path))
    connectors.open_rows(connection, whole, [column])
    rows = connection.execute(
        f"SELECT CAST({quote_name(column)} AS VARCHAR) AS value,"
        " count(*) AS n FROM source GROUP BY 1 ORDER BY n DESC, 1"
    ).fetchall()
    if any(value is None for value, _ in rows):
        raise errors.DataError(
            f"--split-by {column}: some rows have no value in this column;"
            " choose a column without missing values"
        )
    groups = _groups([(str(value), int(n)) for value, n in rows], nodes, column)
    return {
        name: replace(whole, rows_where=_one_of(column, values)) for name, values in groups.items()
    }


def _groups(
    sizes: Sequence[tuple[str, int]], nodes: int | None, column: str
) -> dict[str, list[str]]:
    if nodes is None:
        if len(sizes) > 200:
            raise errors.InputError(
                f"--split-by {column} has {len(sizes)} values;"
                " give --nodes N to group them into N nodes"
            )
        return {slug(value): [value] for value, _ in sizes}
    if nodes > len(sizes):
        raise errors.InputError(
            f"--nodes {nodes} is more than the {len(sizes)} values of {column!r};"
            " give a smaller number"
        )
    groups: list[list[str]] = [[] for _ in range(nodes)]
    weights = [0] * nodes
    for value, n in sizes:  # the largest first, each to the smallest group
        smallest = weights.index(min(weights))
        groups[smallest].append(value)
        weights[smallest] += n
    return {f"node-{i + 1:0{len(str(nodes))}d}": group for i, group in enumerate(groups)}


def slug(text: str) -> str:
    """A valid node name from any text."""
    plain = texts.plain(text).lower()  # Besançon is besancon
    name = "".join(c if c.isalnum() and c.isascii() else "-" for c in plain).strip("-")
    return name if name[:1].isalpha() else f"node-{name}"


def _one_of(column: str, values: Sequence[str]) -> str:
    return (
        f"CAST({quote_name(column)} AS VARCHAR) IN"
        f" ({', '.join(quote_text(value) for value in values)})"
    )


def check_within_node(datasets: Mapping[str, Dataset]) -> None:
    """Checks that each level of a `within_node` column lies at one node. A deployed federation
    takes this from the contract."""
    contract = next(iter(datasets.values())).contract
    for name in (name for name, column in contract.columns.items() if column.within_node):
        owner: dict[str, str] = {}
        for node, dataset in datasets.items():
            connection = connectors.connect(Storage())
            connectors.open_rows(connection, dataset, [name])
            for level in _levels(connection, name):
                if owner.setdefault(level, node) != node:
                    raise errors.DataError(
                        f"column {name!r} is `within_node` in the contract,"
                        f" but a level has rows at {owner[level]} and {node}: split by {name},"
                        " or drop `within_node`"
                    )


def _levels(connection: duckdb.DuckDBPyConnection, name: str) -> list[str]:
    rows = connection.execute(
        f"SELECT DISTINCT CAST({quote_name(name)} AS VARCHAR) FROM source WHERE {quote_name(name)}"
        " IS NOT NULL"
    ).fetchall()
    return [str(row[0]) for row in rows]
