"""A study on Flower's Ray runtime: hundreds of simulated nodes on the cores of a machine, or of a
Ray cluster (RAY_ADDRESS).

A node may answer each round in another worker process. Therefore its ledger and secrets lie in a
folder that all workers can read. Analyses that need one process per node throughout are refused:
secure sums, and trainings that store something at each node between rounds.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from aggregator import release, rounds
from aggregator.document import Document
from aggregator.flower import ask as flower_ask
from aggregator.flower.ask import Patience
from federation import codec, errors, wire
from federation.contract import Contract
from federation.messages import Query, Reply
from federation.study import Study
from nodes import service
from nodes.session import NodeContext
from nodes.site import Site
from simulations import local

HELLO = "query.hello"
TIMEOUT_S = 3600.0
BACKEND = {
    "client_resources": {"num_cpus": 1},
    "init_args": {"log_to_driver": False, "include_dashboard": False},
}


def run(
    study: Study,
    contract: Contract,
    sites: Sequence[Site],
    folder: Path,
    *,
    notes: Sequence[str] = (),
    say: Callable[[str], Any] = print,
) -> Document:
    """Runs the study on Ray. InputError if this engine does not support it, SetupError without
    Ray."""
    check(study)
    if importlib.util.find_spec("ray") is None:
        raise errors.SetupError(
            "the engine ray comes with the extra `ray`: pip install 'hdh-federation[ray]'"
        )
    placed = [replace(site, state=folder / "nodes" / site.name) for site in sites]
    outcome: list[Document | BaseException] = []
    server = _server(study, contract, [site.name for site in sites], notes, say, outcome)
    client = _client(placed)
    say("starting Ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("flwr").setLevel(logging.ERROR)
        os.environ.setdefault("RAY_DEDUP_LOGS", "1")
        # Ray forks its daemons while its gRPC runs; gRPC's fork handlers must not run then.
        os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
        from flwr.simulation import run_simulation

        run_simulation(
            server_app=server,
            client_app=client,
            num_supernodes=len(sites),
            backend_config=BACKEND,
        )
    if not outcome:
        raise errors.SetupError("Ray ended without a result; see its log in /tmp/ray")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def check(study: Study) -> None:
    if study.privacy.secure_sum is not None:
        raise errors.InputError(
            "engine ray: a secure sum needs each node to stay in one process; use --engine local,"
            " or leave out secure_sum"
        )
    for name, entry in study.analyses.items():
        has_memory = (
            entry.options.get("strategy") == "scaffold" or entry.options.get("norm") == "node"
        )
        if entry.run == "train" and has_memory:
            raise errors.InputError(
                f"engine ray: {name} stores arrays at each node between rounds (scaffold, or"
                " `norm: node`); use --engine local"
            )


# -- node
def _client(sites: Sequence[Site]) -> ClientApp:
    app = ClientApp()

    @app.query("hello")  # type: ignore[untyped-decorator]
    def hello(message: Message, context: Context) -> Message:
        name = sites[int(str(context.node_config["partition-id"]))].name
        return Message(RecordDict({"hdh": ConfigRecord({"name": name})}), reply_to=message)

    @app.query("round")  # type: ignore[untyped-decorator]
    def answer(message: Message, context: Context) -> Message:
        content, _ = wire.query_of(message)
        query = codec.query_from_bytes(content)
        node = _context(sites[int(str(context.node_config["partition-id"]))])
        now = datetime.now(UTC)
        reply = service.answer(query, local.granted(node, query.study, now), now)
        return Message(wire.reply_record(codec.reply_to_bytes(reply), b""), reply_to=message)

    return app


def _context(site: Site) -> NodeContext:
    """This worker's context of a node. There is one per thread, because an SQLite connection
    belongs to a thread."""
    contexts: dict[tuple[str, str], NodeContext] = _LOCAL.__dict__.setdefault("contexts", {})
    return contexts.setdefault((site.name, str(site.state)), NodeContext(site))


_LOCAL = threading.local()


# -- hub
def _server(
    study: Study,
    contract: Contract,
    names: Sequence[str],
    notes: Sequence[str],
    say: Callable[[str], Any],
    outcome: list[Document | BaseException],
) -> ServerApp:
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        try:
            outcome.append(_document(grid, study, contract, names, notes, say))
        except BaseException as error:
            outcome.append(error)

    return app


def _document(
    grid: Grid,
    study: Study,
    contract: Contract,
    names: Sequence[str],
    notes: Sequence[str],
    say: Callable[[str], Any],
) -> Document:
    ids = _ids(grid, len(names))
    post = _Post(grid, ids)
    notes = list(notes)
    started = datetime.now(UTC)
    send = flower_ask.send_of(post, ids, Patience(TIMEOUT_S, poll_s=0.01), notes.append)

    def ask(query: Query) -> Sequence[Reply]:
        return send(dict.fromkeys(query.nodes, query))

    outcome = rounds.run(
        study,
        contract,
        ask,
        sorted(ids),
        watch=lambda number, outcome: say(f"round {number} done"),
    )
    return release.clear(
        outcome, started=started, finished=datetime.now(UTC), engine="ray", notes=notes
    )


def _ids(grid: Grid, count: int) -> dict[str, int]:
    """Flower's node ids by the nodes' names; each node is asked for its name."""
    ids: list[int] = []
    while len(ids) < count:
        ids = list(grid.get_node_ids())
    messages = [
        Message(
            RecordDict({"hdh": ConfigRecord({"hello": True})}),
            dst_node_id=node_id,
            message_type=HELLO,
        )
        for node_id in ids
    ]
    replies = list(grid.send_and_receive(messages))
    return {
        str(reply.content.config_records["hdh"]["name"]): int(reply.metadata.src_node_id)
        for reply in replies
        if not reply.has_error()
    }


@dataclass
class _Post:
    """Flower's Grid as a Post. Nothing is signed, because one user runs all processes."""

    grid: Grid
    ids: Mapping[str, int]

    def push(self, queries: Mapping[str, Query]) -> Mapping[str, str]:
        records = {
            id(query): wire.query_record(codec.query_to_bytes(query), b"")
            for query in queries.values()
        }
        messages = [
            Message(records[id(query)], dst_node_id=self.ids[name], message_type=wire.ROUND)
            for name, query in queries.items()
        ]
        return dict(zip(self.grid.push_messages(messages), queries, strict=True))

    def pull(self, message_ids: Iterable[str]) -> Iterable[tuple[str, Reply | str]]:
        for message in self.grid.pull_messages(list(message_ids)):
            asked = message.metadata.reply_to_message_id
            if message.has_error():
                yield asked, f"error {message.error.code}: {message.error.reason}"
            else:
                yield asked, codec.reply_from_bytes(wire.reply_of(message)[0])
