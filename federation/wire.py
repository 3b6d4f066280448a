"""Our messages in Flower's records: one record each way, whose bytes are federation/codec.py's alone. Flower cuts arrays into
pieces and sends records whole, so a long message travels as an array.

Beside a query goes a word that is used once; beside a reply, the node's signature over both. So nobody between can put in a
reply of another round, another run or another node.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from federation import codec, receipts

ROUND = "query.round"  # the one message type that a node answers
REFUSED = 100  # our error code, clear of Flower's own
LONG = 2 * 2**20  # bytes, beyond which a message travels as an array


def query_record(content: bytes, nonce: bytes) -> RecordDict:
    return _record(content, "nonce", nonce)


def reply_record(content: bytes, signature: bytes) -> RecordDict:
    return _record(content, "signature", signature)


def query_of(message: Message) -> tuple[bytes, bytes]:
    """The query's bytes, and its nonce."""
    return _content(message), _item(message, "nonce")


def reply_of(message: Message) -> tuple[bytes, bytes]:
    """The reply's bytes, and their signature."""
    return _content(message), _item(message, "signature")


def query_digest(content: bytes, nonce: bytes) -> str:
    return receipts.digest(nonce + content)


def _record(content: bytes, name: str, beside: bytes) -> RecordDict:
    if len(content) <= LONG:
        return RecordDict({"hdh": ConfigRecord({"bytes": content, name: beside})})
    return RecordDict(
        {
            "hdh": ConfigRecord({name: beside}),
            "long": ArrayRecord({"bytes": Array(np.frombuffer(content, np.uint8))}),
        }
    )


def _content(message: Message) -> bytes:
    arrays = message.content.array_records.get("long")
    if arrays is None:
        return _item(message, "bytes")
    try:
        array = arrays["bytes"].numpy()
    except (KeyError, ValueError):
        raise codec.CodecError("no message of ours in this record") from None
    if array.dtype != np.uint8 or array.ndim != 1:
        raise codec.CodecError("no message of ours in this record")
    return bytes(array.tobytes())


def _item(message: Message, name: str) -> bytes:
    record = message.content.config_records.get("hdh")
    content = record.get(name) if record is not None else None
    if not isinstance(content, bytes):
        raise codec.CodecError("no message of ours in this record")
    return content
