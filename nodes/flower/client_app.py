"""Flower's ClientApp at the node: it answers one kind of message, through the service."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from federation import codec, receipts, wire
from federation.messages import Query, Refusal, Reply
from federation.secagg import keys
from nodes import link_service, side_by_side
from nodes.link_service import LinkService
from nodes.session import NodeContext


def app_of(
    node: NodeContext, clock: Callable[[], datetime], links: LinkService | None = None
) -> ClientApp:
    """`links`: answers what belongs to the links of studies; None where there are none, and such
    queries are refused."""
    app = ClientApp()

    @app.query("round")  # type: ignore[untyped-decorator]
    def answer(message: Message, context: Context) -> Message:
        try:
            content, nonce = wire.query_of(message)
            query = codec.query_from_bytes(content)
            if link_service.is_for_link(query) and links is None:
                raise codec.CodecError("a link's query")
        except codec.CodecError:
            node.audit("refused", rule="message", why="not a query of this version")
            return Message(Error(wire.REFUSED, "not a query of this version"), reply_to=message)
        if links is not None and link_service.is_for_link(query):
            reply = links.answer(query, clock())
        else:
            reply = side_by_side.answer(query, node, clock())
        encoded = codec.reply_to_bytes(reply)
        asked = receipts.asked(query, wire.query_digest(content, nonce))
        signed = receipts.reply_content(asked, receipts.digest(encoded))
        if not link_service.is_waiting(reply):
            _audit(node, query, reply, encoded)
        return Message(
            wire.reply_record(encoded, keys.sign(node.identity, signed)), reply_to=message
        )

    return app


def _audit(node: NodeContext, query: Query, reply: Reply, encoded: bytes) -> None:
    """Writes to the audit log, before the reply is sent: the question, its cost, and the answer's
    size and hash."""
    refused = {
        str(task): answer.rule
        for task, answer in reply.answers.items()
        if isinstance(answer, Refusal)
    }
    node.audit(
        "answered" if len(refused) < len(reply.answers) else "refused",
        study=query.study.study,
        study_hash=query.study.hash,
        coordinator=query.study.coordinator,
        run=query.run,
        contract=query.contract_hash,
        round=query.round,
        phase=query.phase.name if query.phase else "",
        analyses=[str(task) for task in reply.answers],
        refused=refused,
        charged_pico_rho=reply.charged,
        bytes=len(encoded),
        sha256=receipts.digest(encoded),
    )
