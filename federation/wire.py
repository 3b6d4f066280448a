"""Our messages in Flower's records: one record each way, whose bytes are federation/codec.py's alone.

Beside a query goes a word that is used once; beside a reply, the node's signature over both. So nobody between can put in a
reply of another round, another run or another node.
"""

from __future__ import annotations

from flwr.app import ConfigRecord, Message, RecordDict

from federation import codec, receipts

ROUND = "query.round"  # the one message type that a node answers
REFUSED = 100  # our error code, clear of Flower's own


def query_record(content: bytes, nonce: bytes) -> RecordDict:
    return RecordDict({"hdh": ConfigRecord({"bytes": content, "nonce": nonce})})


def reply_record(content: bytes, signature: bytes) -> RecordDict:
    return RecordDict({"hdh": ConfigRecord({"bytes": content, "signature": signature})})


def query_of(message: Message) -> tuple[bytes, bytes]:
    """The query's bytes, and its nonce."""
    return _item(message, "bytes"), _item(message, "nonce")


def reply_of(message: Message) -> tuple[bytes, bytes]:
    """The reply's bytes, and their signature."""
    return _item(message, "bytes"), _item(message, "signature")


def query_digest(content: bytes, nonce: bytes) -> str:
    return receipts.digest(nonce + content)


def _item(message: Message, name: str) -> bytes:
    record = message.content.config_records.get("hdh")
    content = record.get(name) if record is not None else None
    if not isinstance(content, bytes):
        raise codec.CodecError("no message of ours in this record")
    return content
