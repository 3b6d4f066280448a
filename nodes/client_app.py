"""Flower's door to the node: a ClientApp that answers one kind of message, through the service and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from federation import codec, wire
from nodes import service
from nodes.office import Office


def app_of(office: Office, clock: Callable[[], datetime]) -> ClientApp:
    app = ClientApp()

    @app.query("round")  # type: ignore[untyped-decorator]
    def answer(message: Message, context: Context) -> Message:
        try:
            query = wire.query_of(message)
        except codec.CodecError:
            return Message(Error(wire.REFUSED, "not a query of this version"), reply_to=message)
        return Message(wire.reply_record(service.answer(query, office, clock())), reply_to=message)

    return app
