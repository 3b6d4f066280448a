"""Flower's door to the hub: a ServerApp that takes a job from the hub's folder, runs it, and leaves the result there."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from aggregator import flower_ask, hub, jobs, release, secure
from aggregator.flower_ask import Patience
from aggregator.hub import Outcome
from federation import codec, errors, wire
from federation.messages import Query, Reply
from strategies import registry

app = ServerApp()
log = logging.getLogger("hdh.hub")


class GridPost:
    """Flower's Grid as a Post. Errors that the hub makes for a node bear the hub's own id: the message id tells."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def push(self, queries: Mapping[int, Query]) -> Mapping[str, int]:
        """The same query to many nodes is one record, which Flower stores once."""
        records = {id(query): wire.query_record(query) for query in queries.values()}
        messages = [Message(records[id(query)], dst_node_id=node_id, message_type=wire.ROUND, group_id=str(query.round)) for node_id, query in queries.items()]
        return dict(zip(self.grid.push_messages(messages), queries, strict=True))

    def pull(self, message_ids: Iterable[str]) -> Iterable[tuple[str, Reply | str]]:
        for message in self.grid.pull_messages(list(message_ids)):
            yield message.metadata.reply_to_message_id, _read(message)


def _read(message: Message) -> Reply | str:
    if message.has_error():
        return f"error {message.error.code}: {message.error.reason}"
    try:
        return wire.reply_of(message)
    except codec.CodecError as error:
        return str(error)


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    folder = Path(str(context.run_config["directory"]))
    name = str(context.run_config["job"])
    job = jobs.read(folder, name)
    found: dict[str, Any] = {"error": "SetupError", "message": "the hub stopped on a bug of its own; its log says more"}
    try:
        found = {"document": _run(grid, job, folder, name).model_dump(mode="json")}
    except errors.HdhError as error:
        found = {"error": type(error).__name__, "message": str(error)}
    finally:  # whoever waits is told, whatever happened
        jobs.finish(folder, name, json.dumps(found, ensure_ascii=False))


def _run(grid: Grid, job: jobs.Job, folder: Path, name: str) -> release.Document:
    notes: list[str] = []
    _wait_for_nodes(grid, job)
    started = datetime.now(UTC)
    said = ["0"]

    def watch(number: int, outcome: Outcome) -> None:
        said[0] = str(number)
        jobs.progress(folder, name, said[0])

    send = flower_ask.send_of(GridPost(grid), job.nodes, Patience(job.timeout_s), notes.append)
    ask = secure.ask_of(send, lambda study: registry.plan(study, job.contract), lambda phase: jobs.progress(folder, name, f"{said[0]}, {phase}"))
    witnesses = jobs.witnesses(folder)
    try:
        outcome = hub.run(job.study, job.contract, ask, list(job.nodes.values()), watch=watch, witnesses=witnesses)
    finally:
        jobs.keep_witnesses(folder, witnesses)
    return release.clear(outcome, started=started, finished=datetime.now(UTC), engine="flower", notes=[*job.notes, *notes])


def _wait_for_nodes(grid: Grid, job: jobs.Job) -> None:
    """Those that are not there in time are asked all the same, and noted as silent."""
    until = time.monotonic() + job.wait_s
    while not job.nodes.keys() <= set(grid.get_node_ids()) and time.monotonic() < until:
        time.sleep(0.1)
