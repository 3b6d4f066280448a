"""Flower's ServerApp at the hub: it reads a job from the hub's folder, runs it, and writes the
result there."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from aggregator import checkpoints, jobs, release, rounds, secure_sum, transcript
from aggregator.document import Document
from aggregator.flower import ask as flower_ask
from aggregator.flower.ask import Patience
from aggregator.flower.inbox import Inbox
from aggregator.rounds import Outcome
from aggregator.transcript import Recorder
from federation import codec, errors, receipts, wire
from federation.messages import Query, Reply
from federation.receipts import Signed
from federation.secagg import keys
from strategies import registry

app = ServerApp()
log = logging.getLogger("hdh.hub")


@dataclass(frozen=True)
class Sent:
    """A query on its way to `node`. `query`: the hash that the reply's signature must contain."""

    node: str
    query: str
    round: int
    phase: str


@dataclass
class GridPost:
    """Flower's Grid as a Post. It accepts a reply only if the node that was asked has signed it as
    the answer to this query.

    An error that the hub creates for a node carries the hub's id, so the message id identifies the
    node. `signed` and `charged` are for the receipt."""

    grid: Grid
    job: jobs.Job
    folder: Path
    name: str
    recorder: Recorder | None = None
    inbox: Inbox = field(init=False)
    queries: int = 0
    sent: dict[str, Sent] = field(default_factory=dict)
    signed: dict[str, list[Signed]] = field(default_factory=dict)
    charged: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inbox = Inbox(self.grid)

    def push(self, queries: Mapping[int, Query]) -> Mapping[str, int]:
        """Sends each node its query. A query to many nodes is one record, which Flower stores
        once."""
        nonce = os.urandom(16)
        contents = {id(query): codec.query_to_bytes(query) for query in queries.values()}
        records = {key: wire.query_record(content, nonce) for key, content in contents.items()}
        digests = {key: wire.query_digest(content, nonce) for key, content in contents.items()}
        messages = [
            Message(
                records[id(query)],
                dst_node_id=node_id,
                message_type=wire.ROUND,
                group_id=str(query.round),
            )
            for node_id, query in queries.items()
        ]
        ids = list(self.grid.push_messages(messages))
        for query in {id(query): query for query in queries.values()}.values():
            if self.recorder:
                self.recorder.pushed(nonce, query, contents[id(query)])
        for message_id, (node_id, query) in zip(ids, queries.items(), strict=True):
            self.sent[message_id] = Sent(
                self.job.nodes[node_id],
                digests[id(query)],
                query.round,
                query.phase.name if query.phase else "",
            )
        self.queries += len(ids)
        jobs.ask(self.folder, self.name, self.queries)
        return dict(zip(ids, queries, strict=True))

    def pull(self, message_ids: Iterable[str]) -> Iterable[tuple[str, Reply | str]]:
        for message_id, message in self.inbox.pull(message_ids).items():
            sent = self.sent.pop(message_id)
            yield message_id, message if isinstance(message, str) else self._read(message, sent)

    def _read(self, message: Message, sent: Sent) -> Reply | str:
        if message.has_error():
            return f"error {message.error.code}: {message.error.reason}"
        try:
            content, signature = wire.reply_of(message)
            reply = codec.reply_from_bytes(content)
        except codec.CodecError as error:
            return str(error)
        digest = receipts.digest(content)
        identity = bytes.fromhex(self.job.identities[sent.node])
        if not keys.is_signed(
            identity, signature, receipts.reply_content(self.job.study.hash, sent.query, digest)
        ):
            return "its signature is not valid for this query; dropped"
        signed = Signed(sent.round, sent.phase, sent.query, digest, len(content), signature.hex())
        self.signed.setdefault(sent.node, []).append(signed)
        self.charged[sent.node] = max(reply.charged, self.charged.get(sent.node, 0))
        return reply

    def receipt(self) -> dict[str, Any]:
        """By node: its identity, the study's cost there in pico-rho, and its replies."""
        return {
            node: {
                "identity": self.job.identities[node],
                "charged_pico_rho": self.charged[node],
                "replies": [asdict(reply) for reply in replies],
            }
            for node, replies in sorted(self.signed.items())
        }


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    folder = Path(str(context.run_config["directory"]))
    name = str(context.run_config["job"])
    job = jobs.read(folder, name)
    result: dict[str, Any] = {
        "error": "SetupError",
        "message": "the hub stopped on a bug of ours; see the hub's log",
    }
    try:
        post = GridPost(grid, job, folder, name, _recorder(job, folder, name))
        document = _run(post)
        result = {"document": document.model_dump(mode="json"), "nodes": post.receipt()}
    except errors.HdhError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    finally:  # the hub's process waits for a result, even after a bug
        jobs.finish(folder, name, json.dumps(result, ensure_ascii=False))


def _recorder(job: jobs.Job, folder: Path, name: str) -> Recorder | None:
    if not transcript.is_kept(job.study):
        return None
    recorder = Recorder(jobs.transcript(folder, name))
    recorder.begin(job.contract)
    return recorder


def _run(post: GridPost) -> Document:
    job, folder, name = post.job, post.folder, post.name
    notes: list[str] = []
    _wait_for_nodes(post.grid, job)
    started = datetime.now(UTC)
    rounds_done = ["0"]

    def watch(number: int, outcome: Outcome) -> None:
        rounds_done[0] = str(number)
        jobs.progress(folder, name, rounds_done[0])
        save(number, outcome)

    checkpoint = checkpoints.path(folder / "checkpoints", job.study)
    save = checkpoints.keeper(checkpoint)
    saved = checkpoints.load(checkpoint, job.study, job.contract)
    send = flower_ask.send_of(post, job.nodes, Patience(job.timeout_s), notes.append)
    ask = secure_sum.ask_of(
        send,
        lambda study: registry.plan(study, job.contract),
        lambda phase: jobs.progress(folder, name, f"{rounds_done[0]}, {phase}"),
    )
    if post.recorder:
        ask = post.recorder.asking(ask)
    witnesses = jobs.witnesses(folder)
    try:
        outcome = rounds.run(
            job.study,
            job.contract,
            ask,
            list(job.nodes.values()),
            watch=watch,
            witnesses=witnesses,
            resume=saved.runs if saved else None,
            ticket=job.run,
        )
    finally:
        jobs.keep_witnesses(folder, witnesses)
    checkpoint.unlink(missing_ok=True)
    return release.clear(
        outcome,
        started=started,
        finished=datetime.now(UTC),
        engine="flower",
        notes=[*job.notes, *notes],
    )


def _wait_for_nodes(grid: Grid, job: jobs.Job) -> None:
    """Waits at most `job.wait_s`. Nodes that are not online by then are asked all the same."""
    until = time.monotonic() + job.wait_s
    while not job.nodes.keys() <= set(grid.get_node_ids()) and time.monotonic() < until:
        time.sleep(0.1)
