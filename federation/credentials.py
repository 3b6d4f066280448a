"""Keys and certificates of those whom a hub has enrolled: nodes, coordinators, operators.

A private key is made where it is used and never leaves; the hub signs a certificate for it against a one-time invitation.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from federation import errors, loopback

ROLES = ("node", "coordinator", "operator")
FILES = ("ca.crt", "own.crt", "own.key", "hub.json")
_PREFIX = "hdh1-"


@dataclass(frozen=True)
class Invitation:
    """What `hdh hub invite` prints: a secret that counts once, and the fingerprint of the authority that must answer."""

    secret: bytes
    authority: bytes  # SHA-256 of its certificate

    def to_text(self) -> str:
        return _PREFIX + base64.urlsafe_b64encode(self.secret + self.authority).decode().rstrip("=")


def invitation(text: str) -> Invitation:
    body = text.strip().removeprefix(_PREFIX)
    try:
        content = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except ValueError:
        content = b""
    if not text.strip().startswith(_PREFIX) or len(content) != 64:
        raise errors.InputError(
            "--token is not an invitation; copy the whole word that `hdh hub invite` printed, from hdh1- on"
        )
    return Invitation(content[:32], content[32:])


@dataclass(frozen=True)
class Credentials:
    """A folder of an enrolled party: its key, its certificate, its hub."""

    folder: Path
    name: str
    role: str
    api: str
    fleet: str
    flower_id: int

    @property
    def authority(self) -> bytes:
        return (self.folder / "ca.crt").read_bytes()

    @property
    def certificate(self) -> bytes:
        return (self.folder / "own.crt").read_bytes()

    @property
    def key(self) -> bytes:
        return (self.folder / "own.key").read_bytes()

    @property
    def expires(self) -> datetime:
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc


def load(folder: Path) -> Credentials:
    try:
        values = json.loads((folder / "hub.json").read_text(encoding="utf-8"))
        return Credentials(
            folder,
            values["name"],
            values["role"],
            values["api"],
            values["fleet"],
            int(values["flower_id"]),
        )
    except FileNotFoundError:
        raise errors.SetupError(
            f"{folder}: not enrolled at a hub; ask its operator for an invitation, and use it with `enrol --hub HOST:PORT --token TOKEN`"
        ) from None
    except (OSError, KeyError, ValueError):
        raise errors.SetupError(
            f"{folder / 'hub.json'}: cannot be read; enrol again with a new invitation"
        ) from None


def are_there(folder: Path) -> bool:
    return (folder / "hub.json").exists()


def enrol(folder: Path, hub: str, token: str, identity: bytes | None, version: str) -> Credentials:
    """Makes a key in `folder`, and has it certified by the hub at HOST:PORT. `identity`: a node's, whose public half is shown.
    Nothing is left behind if the hub says no."""
    import grpc

    from federation.rpc import hub_pb2, hub_pb2_grpc
    from federation.secagg import keys

    invited = invitation(token)
    authority = fetch_authority(hub, invited.authority)
    key = ec.generate_private_key(
        ec.SECP256R1()
    )  # signs each request to Flower, and ten times faster than P-384
    csr = request(key)
    request_ = hub_pb2.EnrolRequest(secret=invited.secret, csr=csr, version=version)
    if identity is not None:
        request_.identity = keys.public_identity(identity)
        request_.signature = keys.sign(identity, csr.encode())
    trust, options = grpc.ssl_channel_credentials(authority), loopback.channel_options(hub)
    with grpc.secure_channel(hub, trust, options) as channel:
        try:
            reply = hub_pb2_grpc.EnrolmentStub(channel).Enrol(request_, timeout=30)
        except grpc.RpcError as error:
            raise hub_error(error, hub) from None
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_secret(folder / "own.key", private_pem(key))
    (folder / "ca.crt").write_bytes(authority)
    (folder / "own.crt").write_text(reply.certificate)
    hub_file = {
        "name": reply.name,
        "role": reply.role,
        "api": reply.api,
        "fleet": reply.fleet,
        "flower_id": str(reply.flower_id),
    }
    (folder / "hub.json").write_text(json.dumps(hub_file, indent=2) + "\n")
    return load(folder)


def fetch_authority(hub: str, fingerprint: bytes) -> bytes:
    """The certificate (PEM) of the hub's authority, as the hub shows it, if it is the one that the invitation names."""
    host, port = address(hub)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = (
        False,
        ssl.CERT_NONE,
    )  # what comes is compared with the fingerprint
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=15) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            shown = _chain(wrapped)
    except OSError as reason:
        raise errors.SetupError(
            f"the hub {hub} cannot be reached ({reason}); check the address, the port and the firewall"
        ) from None
    for one in shown:
        certificate = x509.load_der_x509_certificate(one)
        if certificate.fingerprint(hashes.SHA256()) == fingerprint:
            return certificate.public_bytes(serialization.Encoding.PEM)
    raise errors.SetupError(
        f"{hub} is not the hub of this invitation: its authority has another fingerprint. Do not go on; ask the operator"
    )


def _chain(wrapped: ssl.SSLSocket) -> Sequence[bytes]:
    """All certificates that the server sent, DER. Public in Python 3.13; before, on the object inside."""
    if hasattr(wrapped, "get_unverified_chain"):
        return list(wrapped.get_unverified_chain())
    inner: Any = wrapped._sslobj  # type: ignore[attr-defined]
    return [one.public_bytes(2) for one in inner.get_unverified_chain()]  # 2: DER


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise errors.InputError(f"{text!r} is not HOST:PORT, as in hub.example.org:8445")
    return host.strip("[]"), int(port)


def request(key: ec.EllipticCurvePrivateKey) -> str:
    """A certificate signing request, PEM. It names nobody: the invitation does."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def channel(own: Credentials) -> Any:
    """Mutual TLS to the hub's service."""
    import grpc

    secure = grpc.ssl_channel_credentials(own.authority, own.key, own.certificate)
    options = [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000), ("grpc.keepalive_permit_without_calls", 1),
               ("grpc.http2.max_pings_without_data", 0), ("grpc.max_receive_message_length", 256 * 2**20), ("grpc.initial_reconnect_backoff_ms", 500),
               ("grpc.max_reconnect_backoff_ms", 15_000)]  # fmt: skip
    return grpc.secure_channel(own.api, secure, [*options, *loopback.channel_options(own.api)])


def hub_error(error: Any, hub: str) -> errors.HdhError:
    """What the hub said, as an error of ours. The hub puts the exit code of its error before the message."""
    import grpc

    code, said = error.code(), str(error.details() or "")
    kind, _, text = said.partition("|")
    if kind in ("InputError", "StudyError", "ContractError"):
        return getattr(errors, kind)(*text.splitlines())  # type: ignore[no-any-return]
    if kind in ("RefusalError", "SetupError"):
        return getattr(errors, kind)(text)  # type: ignore[no-any-return]
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        reason = _unavailable(said)
        return errors.SetupError(f"the hub {hub} cannot be reached{reason}")
    return errors.SetupError(f"the hub {hub} said {code.name}: {said}")


def _unavailable(said: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in said or "certificate" in said.lower():
        return ": its certificate, or yours, is not accepted; check both clocks, and the expiry with `hdh doctor`"
    return "; check the address, the port and the firewall, or ask its operator whether it is up"


# -- signatures over studies
def sign_study(key: bytes, study_hash: str) -> bytes:
    return private_key(key).sign(_study_content(study_hash), ec.ECDSA(hashes.SHA256()))


def signer_of_study(
    certificate: bytes, authority: bytes, study_hash: str, signature: bytes, now: datetime | None
) -> tuple[str, str] | None:
    """Name and key id of the coordinator who signed the study with a certificate of this authority that is valid `now` (None: at
    any time); None if there is no such."""
    try:
        own, issuer = (
            x509.load_pem_x509_certificate(certificate),
            x509.load_pem_x509_certificate(authority),
        )
        own.verify_directly_issued_by(issuer)
        key = own.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or (
            now is not None and not own.not_valid_before_utc <= now <= own.not_valid_after_utc
        ):
            return None
        key.verify(signature, _study_content(study_hash), ec.ECDSA(hashes.SHA256()))
    except (ValueError, TypeError, InvalidSignature):
        return None
    name, role = subject(own)
    return (name, key_id(own)) if role in ("coordinator", "operator") else None


def key_id(key: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """SHA-256 of the public key: what a certificate and its renewals have in common."""
    return hashlib.sha256(
        key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    ).hexdigest()


def subject(certificate: x509.Certificate) -> tuple[str, str]:
    """Name and role."""
    found = {attribute.oid: str(attribute.value) for attribute in certificate.subject}
    return found.get(NameOID.COMMON_NAME, ""), found.get(NameOID.ORGANIZATIONAL_UNIT_NAME, "")


def days_left(certificate: bytes, now: datetime | None = None) -> float:
    return (
        x509.load_pem_x509_certificate(certificate).not_valid_after_utc - (now or datetime.now(UTC))
    ).total_seconds() / 86400


def _study_content(study_hash: str) -> bytes:
    return b"hdh study 1\n" + study_hash.encode()


def write_secret(path: Path, content: bytes) -> None:
    """Whole or not at all, for its owner only; replaces what was there."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
