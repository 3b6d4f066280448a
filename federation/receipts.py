"""The receipt of a released result: the coordinator, the replies and their costs, signed by each
party.

A node signs each reply together with the query that it answers, its round and its phase, and the
hub signs the document.
Anyone can therefore check offline, years later, that these nodes sent these bytes for this study
and that nobody has changed the document.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation import chains, credentials, limits
from federation.messages import Query
from federation.secagg import keys
from federation.tickets import RunTicket, ticket


@dataclass(frozen=True)
class Asked:
    """What a reply answers, as the node reads it in the query.

    `run`: digest of the ticket. `query`: hash of the query as it was sent. `phase`: of a secure sum
    or a link, or empty. `left`: the left holder for whose linked people a helper answers, or
    empty."""

    run: str
    query: str
    round: int
    phase: str
    left: str


@dataclass(frozen=True)
class Signed:
    """A reply as it was received: what it answers, as in Asked, its hash, its length in bytes, and
    the signature."""

    round: int
    phase: str
    left: str
    query: str
    reply: str
    bytes: int
    signature: str


def asked(query: Query, digest: str) -> Asked:
    """`digest`: of the query as it was sent."""
    phase = query.phase.name if query.phase else ""
    return Asked(query.run, digest, query.round, phase, query.left)


def reply_content(answers: Asked, reply: str) -> bytes:
    """The bytes that a node signs with a reply. `reply`: its hash."""
    return b"hdh reply 2\n" + json.dumps({**vars(answers), "reply": reply}, sort_keys=True).encode()


def decision_content(run: str, verdict: str, by: str, at: str) -> bytes:
    """The bytes that a node signs when it approves or refuses a run. `run`: digest of its
    ticket."""
    return f"hdh decision 2\n{run}\n{verdict}\n{by}\n{at}".encode()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def document_content(document: Mapping[str, Any]) -> bytes:
    """The bytes that the hub signs: the document without the signature, as canonical JSON."""
    receipt = {key: value for key, value in (document.get("receipt") or {}).items() if key != "hub"}
    text = json.dumps(
        {**document, "receipt": receipt}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return b"hdh result 1\n" + text.encode()


def seal(document: Mapping[str, Any], key: bytes, certificate: bytes) -> dict[str, Any]:
    """The document with the hub's signature in its receipt. `key`, `certificate`: the hub's, in
    PEM."""
    signature = credentials.private_key(key).sign(
        document_content(document), ec.ECDSA(hashes.SHA256())
    )
    hub = {"certificate": certificate.decode(), "signature": signature.hex()}
    return {**document, "receipt": {**(document.get("receipt") or {}), "hub": hub}}


def verify(
    document: Mapping[str, Any], authority: bytes | None, roster: Mapping[str, bytes]
) -> Sequence[str]:
    """The problems of a result, in words; empty if everything matches.

    `authority`, PEM: the authority that must have issued the certificates of the hub and the
    coordinator; None: the one that the receipt names. `roster`: identities that the nodes must
    have."""
    try:
        with limits.parsing("a result with a receipt of this version", limits.LimitError):
            return _problems(document, authority, roster)
    except limits.LimitError as broken:
        return [f"it cannot be read ({broken}): it was changed, or another version wrote it"]


def _problems(
    document: Mapping[str, Any], authority: bytes | None, roster: Mapping[str, bytes]
) -> Sequence[str]:
    receipt = document.get("receipt")
    if not receipt:
        return ["it has no receipt: a simulation or an older version wrote it"]
    issuer = authority or str(receipt.get("authority", "")).encode()
    run = _ticket(document, receipt, issuer)
    if run is None:
        return ["the receipt names no run that its coordinator could have signed"]
    return [
        *_study(document, receipt),
        *_coordinator(receipt, issuer, run),
        *_nodes(document, receipt, roster, run),
        *_hub(document, receipt, authority),
    ]


def _study(document: Mapping[str, Any], receipt: Mapping[str, Any]) -> list[str]:
    return (
        []
        if digest(str(receipt.get("study", "")).encode()) == document.get("study_hash")
        else ["the study in the receipt is not the one that the result names"]
    )


def run_of(document: Mapping[str, Any]) -> str:
    """The digest of the run that a verified receipt names."""
    receipt = document["receipt"]
    run = _ticket(document, receipt, str(receipt["authority"]).encode())
    return run.digest if run else ""


def _ticket(
    document: Mapping[str, Any], receipt: Mapping[str, Any], issuer: bytes
) -> RunTicket | None:
    """The run that the receipt names, of this document's study at the hub of `issuer`."""
    try:
        run = receipt["run"]
        return ticket(
            credentials.authority_id(issuer),
            run["number"],
            str(document.get("study_hash")),
            str(run["contract_hash"]),
            map(str, run["nodes"]),
            run["deadline"],
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _coordinator(receipt: Mapping[str, Any], issuer: bytes, run: RunTicket) -> list[str]:
    coordinator = receipt.get("coordinator") or {}
    signer = credentials.signer_of_run(
        str(coordinator.get("certificate", "")).encode(),
        issuer,
        run,
        _hex(coordinator.get("signature")),
        None,
    )
    if signer is None or signer[0] != coordinator.get("name"):
        return ["the coordinator's signature of this run of the study is not valid"]
    return []


def _nodes(
    document: Mapping[str, Any],
    receipt: Mapping[str, Any],
    roster: Mapping[str, bytes],
    run: RunTicket,
) -> list[str]:
    nodes = receipt.get("nodes") or {}
    answered = {
        entry["node"]
        for analysis in document.get("analyses", {}).values()
        for entry in analysis["nodes"]
        if entry["status"] == "answered"
    }
    unsigned = [node for node in sorted(answered) if not (nodes.get(node) or {}).get("replies")]
    return [
        *(
            f"{node}: {problem}"
            for node, record in nodes.items()
            for problem in _node(record, roster.get(node), run)
        ),
        *(
            f"{node}: the coordinator's run does not ask it"
            for node in nodes
            if node not in run.nodes
        ),
        *(f"{node}: it answered, but the receipt holds none of its replies" for node in unsigned),
    ]


def _node(record: Mapping[str, Any], expected: bytes | None, run: RunTicket) -> Iterator[str]:
    """The problems of one node. `expected`: its identity in the verifier's roster, or None."""
    identity = _hex(record.get("identity"))
    if expected is not None and expected != identity:
        yield "its identity differs from the one in the roster"
    approval = record.get("approval") or {}
    words = [str(approval.get(key)) for key in ("verdict", "by", "at")]
    decision = decision_content(run.digest, *words)
    is_signed = keys.is_signed(identity, _hex(approval.get("signature")), decision)
    if approval.get("verdict") != "approved" or not is_signed:
        yield "its approval does not bear its signature"
    for reply in record.get("replies", []):
        signature, number = _hex(reply.get("signature")), reply.get("round")
        if keys.is_signed(identity, signature, _reply_content(reply, run.digest)):
            continue
        if keys.is_signed(identity, signature, _former_content(reply, run.study_hash)):
            yield (
                f"its reply of round {number} is signed as before November 2026, without round and "
                "phase; verify this result with the version that its provenance names"
            )
        else:
            yield f"its reply of round {number} does not bear its signature"


def _reply_content(reply: Mapping[str, Any], run: str) -> bytes:
    """As the receipt shows the reply: with the labels that the hub has written beside it."""
    labels: list[Any] = [reply.get(name) for name in ("query", "round", "phase", "left")]
    return reply_content(Asked(run, *labels), str(reply.get("reply")))


def _former_content(reply: Mapping[str, Any], study_hash: str) -> bytes:
    """What a node signed before it signed labels. It vouches for less, so it verifies no more."""
    return f"hdh reply 1\n{study_hash}\n{reply.get('query')}\n{reply.get('reply')}".encode()


def _hub(
    document: Mapping[str, Any], receipt: Mapping[str, Any], authority: bytes | None
) -> list[str]:
    hub = receipt.get("hub") or {}
    try:
        issuer = authority or str(receipt.get("authority", "")).encode()
        certificate = chains.leaf_of(str(hub.get("certificate", "")).encode(), issuer)
        key = certificate.public_key() if _is_of_a_server(certificate) else None
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(
            _hex(hub.get("signature")), document_content(document), ec.ECDSA(hashes.SHA256())
        )
    except (ValueError, TypeError, AssertionError, InvalidSignature):
        return [
            "the hub's signature is not valid: the document was changed, or another hub signed it"
        ]
    return []


def _is_of_a_server(certificate: x509.Certificate | None) -> TypeGuard[x509.Certificate]:
    """The authority also signs certificates of nodes and coordinators, who sign no result."""
    if certificate is None:
        return False
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.SERVER_AUTH in usage


def _hex(text: Any) -> bytes:
    try:
        return bytes.fromhex(str(text or ""))
    except ValueError:
        return b""
