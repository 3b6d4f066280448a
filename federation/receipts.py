"""The receipt of a released result: who asked, who answered what, what it cost, signed by those who can know.

A node signs each of its replies together with the query that it answers; the hub signs the document. So a result can be
checked years later, offline: that these nodes gave these bytes for this study, and that nobody changed it since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from federation import credentials
from federation.secagg import keys


@dataclass(frozen=True)
class Signed:
    """A reply as it came: its bytes' hash and length, the hash of the query that it answers, and the node's signature."""

    round: int
    phase: str
    query: str
    reply: str
    bytes: int
    signature: str


def reply_content(study_hash: str, query: str, reply: str) -> bytes:
    """What a node signs: this reply, to that query, of this study."""
    return f"hdh reply 1\n{study_hash}\n{query}\n{reply}".encode()


def decision_content(study_hash: str, verdict: str, by: str, at: str) -> bytes:
    """What a node signs when it lets a study in, or does not."""
    return f"hdh decision 1\n{study_hash}\n{verdict}\n{by}\n{at}".encode()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def document_content(document: Mapping[str, Any]) -> bytes:
    """The document without the hub's signature, in the one way to write it."""
    receipt = {key: value for key, value in (document.get("receipt") or {}).items() if key != "hub"}
    text = json.dumps(
        {**document, "receipt": receipt}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return b"hdh result 1\n" + text.encode()


def seal(document: Mapping[str, Any], key: bytes, certificate: bytes) -> dict[str, Any]:
    """The document with the hub's signature in its receipt. `key`, `certificate`: the hub's own, PEM."""
    signature = credentials.private_key(key).sign(
        document_content(document), ec.ECDSA(hashes.SHA256())
    )
    hub = {"certificate": certificate.decode(), "signature": signature.hex()}
    return {**document, "receipt": {**(document.get("receipt") or {}), "hub": hub}}


def verify(
    document: Mapping[str, Any], authority: bytes | None, roster: Mapping[str, bytes]
) -> Sequence[str]:
    """What is wrong with a result, in words; nothing, if all holds. Without `authority` the hub's and the coordinator's
    certificates are taken as they are; nodes in `roster` must have the identity that it gives."""
    receipt = document.get("receipt")
    if not receipt:
        return ["it has no receipt: a simulation, or an older version, wrote it"]
    return [
        *_study(document, receipt),
        *_coordinator(document, receipt, authority),
        *_nodes(document, receipt, roster),
        *_hub(document, receipt, authority),
    ]


def _study(document: Mapping[str, Any], receipt: Mapping[str, Any]) -> list[str]:
    return (
        []
        if digest(str(receipt.get("study", "")).encode()) == document.get("study_hash")
        else ["the study in the receipt is not the one that the result names"]
    )


def _coordinator(
    document: Mapping[str, Any], receipt: Mapping[str, Any], authority: bytes | None
) -> list[str]:
    said = receipt.get("coordinator") or {}
    issuer = authority or str(receipt.get("authority", "")).encode()
    found = credentials.signer_of_study(
        str(said.get("certificate", "")).encode(),
        issuer,
        str(document.get("study_hash")),
        _hex(said.get("signature")),
        None,
    )
    if found is None or found[0] != said.get("name"):
        return ["the coordinator's signature over the study does not hold"]
    return []


def _nodes(
    document: Mapping[str, Any], receipt: Mapping[str, Any], roster: Mapping[str, bytes]
) -> list[str]:
    wrong, study_hash = [], str(document.get("study_hash"))
    nodes = receipt.get("nodes") or {}
    for node, said in nodes.items():
        identity = _hex(said.get("identity"))
        if node in roster and roster[node] != identity:
            wrong.append(f"{node}: its identity is not the one of the roster")
        approval = said.get("approval") or {}
        content = decision_content(
            study_hash,
            str(approval.get("verdict")),
            str(approval.get("by")),
            str(approval.get("at")),
        )
        if approval.get("verdict") != "approved" or not keys.is_signed(
            identity, _hex(approval.get("signature")), content
        ):
            wrong.append(f"{node}: its approval is not signed by it")
        for one in said.get("replies", []):
            if not keys.is_signed(
                identity,
                _hex(one["signature"]),
                reply_content(study_hash, one["query"], one["reply"]),
            ):
                wrong.append(f"{node}: its reply of round {one['round']} is not signed by it")
    answered = {
        one["node"]
        for found in document.get("analyses", {}).values()
        for one in found["nodes"]
        if one["status"] == "answered"
    }
    wrong += [
        f"{node}: answered, and has signed nothing"
        for node in sorted(answered)
        if not (nodes.get(node) or {}).get("replies")
    ]
    return wrong


def _hub(
    document: Mapping[str, Any], receipt: Mapping[str, Any], authority: bytes | None
) -> list[str]:
    hub = receipt.get("hub") or {}
    try:
        certificate = x509.load_pem_x509_certificate(str(hub.get("certificate", "")).encode())
        certificate.verify_directly_issued_by(
            x509.load_pem_x509_certificate(authority or str(receipt.get("authority", "")).encode())
        )
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(
            _hex(hub.get("signature")), document_content(document), ec.ECDSA(hashes.SHA256())
        )
    except (ValueError, TypeError, AssertionError, InvalidSignature):
        return [
            "the hub's signature does not hold: the document was changed, or another hub made it"
        ]
    return []


def _hex(text: Any) -> bytes:
    try:
        return bytes.fromhex(str(text or ""))
    except ValueError:
        return b""
