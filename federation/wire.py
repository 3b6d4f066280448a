"""Our messages in Flower's records: one record of bytes each way, whose meaning is federation/codec.py's alone."""

from __future__ import annotations

from flwr.app import ConfigRecord, Message, RecordDict

from federation import codec
from federation.messages import Query, Reply

ROUND = "query.round"  # the one message type that a node answers
REFUSED = 100  # our error code, clear of Flower's own


def query_record(query: Query) -> RecordDict:
    return RecordDict({"hdh": ConfigRecord({"bytes": codec.query_to_bytes(query)})})


def reply_record(reply: Reply) -> RecordDict:
    return RecordDict({"hdh": ConfigRecord({"bytes": codec.reply_to_bytes(reply)})})


def query_of(message: Message) -> Query:
    return codec.query_from_bytes(_content(message))


def reply_of(message: Message) -> Reply:
    return codec.reply_from_bytes(_content(message))


def _content(message: Message) -> bytes:
    record = message.content.config_records.get("hdh")
    content = record.get("bytes") if record is not None else None
    if not isinstance(content, bytes):
        raise codec.CodecError("no message of ours in this record")
    return content
