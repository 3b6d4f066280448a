"""Queries and replies as Flower records: one record each way, with bytes that federation/codec.py
encodes.

Flower sends arrays in chunks but records as a whole, so a long message travels as an array. Each
query carries a nonce, and each reply the node's signature of both. Flower's servers can therefore
not substitute a reply of another round, run or node.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from federation import codec, limits, receipts

ROUND = "query.round"  # the only message type that a node answers
REFUSED = 100  # our error code, outside the range of Flower's codes
LONG = 2 * 2**20  # bytes; a longer message travels as an array


def query_record(content: bytes, nonce: bytes) -> RecordDict:
    return _record(content, "nonce", nonce)


def reply_record(content: bytes, signature: bytes) -> RecordDict:
    return _record(content, "signature", signature)


def query_of(message: Message) -> tuple[bytes, bytes]:
    """The query's bytes and its nonce."""
    return _content(message), _item(message, "nonce")


def reply_of(message: Message) -> tuple[bytes, bytes]:
    """The reply's bytes and their signature."""
    return _content(message), _item(message, "signature")


def query_digest(content: bytes, nonce: bytes) -> str:
    return receipts.digest(nonce + content)


def _record(content: bytes, name: str, companion: bytes) -> RecordDict:
    if len(content) <= LONG:
        return RecordDict({"hdh": ConfigRecord({"bytes": content, name: companion})})
    return RecordDict(
        {
            "hdh": ConfigRecord({name: companion}),
            "long": ArrayRecord({"bytes": Array(np.frombuffer(content, np.uint8))}),
        }
    )


def _content(message: Message) -> bytes:
    with limits.parsing("an hdh message", codec.CodecError):
        arrays = message.content.array_records.get("long")
        if arrays is None:
            return _item(message, "bytes")
        array = arrays["bytes"].numpy()
        if array.dtype != np.uint8 or array.ndim != 1:
            raise codec.CodecError("the record holds no hdh message")
        return bytes(array.tobytes())


def _item(message: Message, name: str) -> bytes:
    with limits.parsing("an hdh message", codec.CodecError):
        content = message.content.config_records["hdh"][name]
        if not isinstance(content, bytes):
            raise codec.CodecError("the record holds no hdh message")
        return content
