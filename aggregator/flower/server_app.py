"""Flower's ServerApp at the hub: it reads a job from the hub's folder, runs it, and writes the
result there."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Context, Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp

from aggregator import (
    checkpoints,
    jobs,
    linkage,
    linked,
    release,
    rounds,
    secure_sum,
    transcript,
)
from aggregator.document import Document
from aggregator.flower import ask as flower_ask
from aggregator.flower import outbox
from aggregator.flower.ask import Away, Patience
from aggregator.flower.inbox import Inbox
from aggregator.jobs import Progress
from aggregator.linkage import Linkage
from aggregator.linked import Linking, Parties
from aggregator.rounds import Outcome
from aggregator.secure_sum import Send
from aggregator.transcript import Recorder
from federation import codec, errors, limits, receipts, wire
from federation.messages import Query, Reply
from federation.receipts import Asked, Signed
from federation.secagg import keys
from strategies import registry

app = ServerApp()
log = logging.getLogger("hdh.hub")
LOOK_S = 10.0
# What Flower says of a node without a heartbeat, and of a message that a SuperLink has lost.
AWAY = (
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
)


@dataclass(frozen=True)
class Sent:
    """A query on its way to `node`. `asked`: what the reply's signature must contain."""

    node: str
    asked: Asked


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

    @property
    def ids(self) -> Mapping[str, int]:
        """Flower's id of each node."""
        return {name: node_id for node_id, name in self.job.nodes.items()}

    def push(self, queries: Mapping[str, Query]) -> Mapping[str, str]:
        """Sends each node its query; those for linked people go to the helper. A query to many
        nodes is one record, which Flower stores once."""
        signers = {name: self._signer(name, query) for name, query in queries.items()}
        nonce = os.urandom(16)
        contents = {id(query): codec.query_to_bytes(query) for query in queries.values()}
        records = {key: wire.query_record(content, nonce) for key, content in contents.items()}
        digests = {key: wire.query_digest(content, nonce) for key, content in contents.items()}
        messages = [
            Message(
                records[id(query)],
                dst_node_id=self.ids[signers[name]],
                message_type=wire.ROUND,
                group_id=str(query.round),
            )
            for name, query in queries.items()
        ]
        ids = outbox.push(self.grid, messages)
        for query in {id(query): query for query in queries.values()}.values():
            if self.recorder:
                self.recorder.pushed(nonce, query, contents[id(query)])
        for message_id, (name, query) in zip(ids, queries.items(), strict=True):
            self.sent[message_id] = Sent(signers[name], receipts.asked(query, digests[id(query)]))
        self.queries += len(ids)
        jobs.ask(self.folder, self.name, self.queries)
        return dict(zip(ids, queries, strict=True))

    def _signer(self, name: str, query: Query) -> str:
        """The node that answers under a name."""
        return Parties.of(self.job.roles).helper if query.left else name

    def pull(self, message_ids: Iterable[str]) -> Iterable[tuple[str, Reply | str]]:
        for message_id, message in self.inbox.pull(message_ids).items():
            sent = self.sent.pop(message_id)
            yield message_id, message if isinstance(message, str) else self._read(message, sent)

    def _read(self, message: Message, sent: Sent) -> Reply | str:
        if message.has_error():
            reason = limits.shown(f"error {message.error.code}: {message.error.reason}")
            return Away(reason) if message.error.code in AWAY else reason
        try:
            content, signature = wire.reply_of(message)
            digest = receipts.digest(content)
            if not self._is_signed(sent, digest, signature):
                return "its signature is not valid for this query; dropped"
            reply = codec.reply_from_bytes(content)
        except codec.CodecError as error:
            return f"{error}; dropped"
        if linked.is_waiting(reply):
            return reply
        asked = sent.asked
        signed = Signed(
            asked.round, asked.phase, asked.left, asked.query, digest, len(content), signature.hex()
        )
        self.signed.setdefault(sent.node, []).append(signed)
        self.charged[sent.node] = max(reply.charged, self.charged.get(sent.node, 0))
        return reply

    def _is_signed(self, sent: Sent, digest: str, signature: bytes) -> bool:
        """Whether the node that was asked has signed these bytes as its answer to this query."""
        identity = bytes.fromhex(self.job.identities[sent.node])
        return keys.is_signed(identity, signature, receipts.reply_content(sent.asked, digest))

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
    result = _result(grid, jobs.read(folder, name), folder, name)
    jobs.finish(folder, name, json.dumps(result, ensure_ascii=False))


def _result(grid: Grid, job: jobs.Job, folder: Path, name: str) -> dict[str, Any]:
    """The result of a study, or why there is none.

    Where this process is told to end, or the SuperLink is gone, it ends without a result: the hub
    then runs the study again. A bug would meet it again, so it is a result."""
    try:
        post = GridPost(grid, job, folder, name, _recorder(job, folder, name))
        document = _run(post)
        return {"document": document.model_dump(mode="json"), "nodes": post.receipt()}
    except errors.HdhError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except httpx.TransportError as error:
        log.warning("the SuperLink cannot be reached (%s)", type(error).__name__)
        raise
    # The hub's process waits for a result, even after a bug.
    except Exception as error:
        log.exception("a study met a bug of ours")
        return {
            "error": "SetupError",
            "message": f"the hub stopped on a bug of ours ({type(error).__name__}); see its log",
        }


def _recorder(job: jobs.Job, folder: Path, name: str) -> Recorder | None:
    if not transcript.is_kept(job.study):
        return None
    recorder = Recorder(jobs.transcript(folder, name))
    recorder.begin(job.contract)
    return recorder


class _Bar:
    """The progress of a run: the rounds that are done, of at most `total`, and the phase."""

    def __init__(self, folder: Path, name: str, total: int) -> None:
        self.folder, self.name, self.total = folder, name, total
        self.rounds_done, self.round_ended = 0, time.time()

    def advance(self, number: int) -> None:
        self.rounds_done, self.round_ended = number, time.time()
        self.enter("")

    def enter(self, phase: str) -> None:
        progress = Progress(self.rounds_done, self.total, phase, self.round_ended)
        jobs.write_progress(self.folder, self.name, progress)


def _run(post: GridPost) -> Document:
    job, folder, name = post.job, post.folder, post.name
    notes: list[str] = []
    _wait_for_nodes(post.grid, job, job.wait_s)
    started = datetime.now(UTC)
    tasks = registry.plan(job.study, job.contract)
    bar = _Bar(folder, name, max(task.analysis.limits(task).max_rounds for task in tasks.values()))
    checkpoint = checkpoints.path(folder / "checkpoints", job.study)
    save = checkpoints.keeper(checkpoint)
    saved = checkpoints.load(checkpoint, job.study, job.contract)
    names = set(job.nodes.values())

    def watch(number: int, outcome: Outcome) -> None:
        bar.advance(number)
        save(number, outcome)

    send = flower_ask.send_of(post, names, Patience(job.timeout_s), notes.append)
    # A helper's ledger of linked people is of one study, and no other study has seen its head.
    witnesses = {} if job.roles else jobs.witnesses(folder)
    ask = secure_sum.ask_of(
        linked.for_lefts(send) if job.roles else send, lambda study: tasks, bar.enter
    )
    if post.recorder:
        ask = post.recorder.asking(ask)

    def run() -> Outcome:
        if post.recorder:
            post.recorder.begin_attempt()
        return rounds.run(
            job.study,
            job.contract,
            ask,
            Parties.of(job.roles).lefts if job.roles else sorted(names),
            watch=watch,
            witnesses=witnesses,
            resume=saved.runs if saved else None,
            ticket=job.run,
        )

    reports: Sequence[linked.Reported] = ()
    try:
        if job.roles:
            outcome, reports = linked.run(_linking(post, send, bar.enter), run)
        else:
            outcome = run()
    finally:
        if not job.roles:
            jobs.keep_witnesses(folder, witnesses)
    checkpoint.unlink(missing_ok=True)
    finished, notes = datetime.now(UTC), [*job.notes, *notes]
    document = release.clear(
        outcome, started=started, finished=finished, engine="flower", notes=notes
    )
    if not job.roles:
        return document
    with limits.parsing("a report of the helper", errors.RefusalError):
        return linkage.added(document, Linkage(job.study, reports, frozenset(job.correctable)))


def _linking(post: GridPost, send: Send, say: Callable[[str], Any]) -> Linking:
    """A look at a link waits a moment only, and who stays silent is asked again."""
    job = post.job
    look = flower_ask.send_of(
        post, set(job.nodes.values()), Patience(min(LOOK_S, job.timeout_s)), lambda note: None
    )
    parties = Parties.of(job.roles)

    def wait() -> None:
        _wait_for_nodes(post.grid, job, job.timeout_s)

    contract = job.contract.hash
    begin = partial(jobs.begin_attempt, post.folder, post.name)
    return Linking(
        job.study, contract, job.run, parties, wait, begin, send, look, job.timeout_s, say
    )


def _wait_for_nodes(grid: Grid, job: jobs.Job, seconds: float) -> None:
    """Waits at most so long. Nodes that are not online by then are asked all the same."""
    until = time.monotonic() + seconds
    while not job.nodes.keys() <= set(grid.get_node_ids()) and time.monotonic() < until:
        time.sleep(0.1)
