"""Keys and certificates of the parties that a hub has enrolled: nodes, coordinators and operators.

A private key is created on the machine that uses it and never leaves it. The hub certifies the key
in exchange for a one-time invitation.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from federation import addresses, chains, errors, limits, loopback, replacements
from federation.tickets import RunTicket

ROLES = ("node", "coordinator", "operator")
FILES = ("ca.crt", "own.crt", "own.key", "hub.json")
_PREFIX = "hdh1-"
RENEW_DAYS = 60.0
MessageT = TypeVar("MessageT")


@dataclass(frozen=True)
class Invitation:
    """An invitation as `hdh hub invite` prints it.

    `secret` (32 bytes) works once. `authority` (32 bytes) is the SHA-256 of the certificate of the
    hub's authority."""

    secret: bytes
    authority: bytes

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
            "--token is not an invitation; copy all of what `hdh hub invite` printed, from hdh1- on"
        )
    return Invitation(content[:32], content[32:])


@dataclass(frozen=True)
class Credentials:
    """The folder of an enrolled party, with its key, its certificate and the addresses of its hub.

    `api`, `fleet`: HOST:PORT of the hub's service and of Flower's SuperLink. `flower_id`: of a
    node."""

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
    """SetupError if nobody is enrolled in the folder, or one of its files cannot be used."""
    replacements.finish(folder)  # of an enrolment that was interrupted
    try:
        values = json.loads((folder / "hub.json").read_text(encoding="utf-8"))
        party = Credentials(
            folder,
            values["name"],
            values["role"],
            values["api"],
            values["fleet"],
            int(values["flower_id"]),
        )
    except FileNotFoundError:
        raise errors.SetupError(
            f"{folder}: not enrolled at a hub; ask the hub's operator for an invitation, and use "
            "it with `enrol --hub HOST:PORT --token TOKEN`"
        ) from None
    except (OSError, KeyError, ValueError, TypeError):
        raise _unusable(folder / "hub.json") from None
    _check(party)
    return party


def _check(party: Credentials) -> None:
    """SetupError if the key and the certificates are missing, cannot be read, or do not fit."""
    for name, read in _READERS.items():
        try:
            read((party.folder / name).read_bytes())
        except (OSError, ValueError, TypeError, AssertionError):
            raise _unusable(party.folder / name) from None
    certified = x509.load_pem_x509_certificate(party.certificate)
    if certified.public_key() != private_key(party.key).public_key():
        raise _unusable(party.folder / "own.key", "is not the key of own.crt")


def _unusable(path: Path, why: str = "is missing or cannot be read") -> errors.SetupError:
    return errors.SetupError(f"{path}: {why}; enrol again with a new invitation")


def enrol(folder: Path, hub: str, token: str, identity: bytes | None, version: str) -> Credentials:
    """Creates a key in `folder` and lets the hub at HOST:PORT certify it. If the hub refuses,
    nothing is left behind.

    `identity`: the private identity of a node, whose public half goes to the hub; None for
    coordinators."""
    import grpc

    from federation.rpc import hub_pb2, hub_pb2_grpc
    from federation.secagg import keys

    invited = invitation(token)
    authority = fetch_authority(hub, invited.authority)
    # this key signs each request to Flower, and P-256 signs ten times faster than P-384
    key = ec.generate_private_key(ec.SECP256R1())
    csr = request(key)
    request_ = hub_pb2.EnrolRequest(secret=invited.secret, csr=csr, version=version)
    if identity is not None:
        request_.identity = keys.public_identity(identity)
        request_.signature = keys.sign(identity, csr.encode())
    trust, options = grpc.ssl_channel_credentials(authority), loopback.channel_options(hub)
    with grpc.secure_channel(hub, trust, options) as channel:
        try:
            reply = admitted(hub_pb2_grpc.EnrolmentStub(channel).Enrol(request_, timeout=30), hub)
        except grpc.RpcError as error:
            raise hub_error(error, hub) from None
    _check_issued(reply.certificate.encode(), authority, key, (reply.name, reply.role), hub)
    hub_file = {
        "name": reply.name,
        "role": reply.role,
        "api": reply.api,
        "fleet": reply.fleet,
        "flower_id": str(reply.flower_id),
    }
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = replacements.prepare(folder)
    replacements.write_secret(new / "own.key", private_pem(key))
    replacements.write_secret(new / "ca.crt", authority)
    replacements.write_secret(new / "own.crt", reply.certificate.encode())
    replacements.write_secret(new / "hub.json", json.dumps(hub_file, indent=2).encode() + b"\n")
    replacements.replace(folder)
    return load(folder)


def fetch_authority(hub: str, fingerprint: bytes) -> bytes:
    """The certificate of the hub's authority (PEM), downloaded from the hub.

    SetupError if its fingerprint is not the one in the invitation."""
    host, _ = addresses.split(hub)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # no certificate is trusted yet: the one that arrives is compared with the fingerprint
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            addresses.connection(hub, 15) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            chain = _chain(wrapped)
    except OSError as reason:
        raise errors.SetupError(
            f"the hub {hub} cannot be reached ({reason}); check the address, the port and the "
            "firewall"
        ) from None
    for encoded in chain:
        certificate = x509.load_der_x509_certificate(encoded)
        if certificate.fingerprint(hashes.SHA256()) == fingerprint:
            return certificate.public_bytes(serialization.Encoding.PEM)
    raise errors.SetupError(
        f"{hub} is not the hub of this invitation: its authority has another fingerprint. Stop "
        "here, and ask the hub's operator"
    )


def _chain(wrapped: ssl.SSLSocket) -> Sequence[bytes]:
    """All certificates that the server sent, in DER.

    The method is public from Python 3.13 on; before, only the inner object has it."""
    if hasattr(wrapped, "get_unverified_chain"):
        return list(wrapped.get_unverified_chain())
    inner: Any = wrapped._sslobj  # type: ignore[attr-defined]
    der = 2
    return [certificate.public_bytes(der) for certificate in inner.get_unverified_chain()]


def request(key: ec.EllipticCurvePrivateKey) -> str:
    """A certificate signing request in PEM, without a name: the invitation determines the name."""
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


_READERS: Mapping[str, Callable[[bytes], object]] = {
    "ca.crt": x509.load_pem_x509_certificate,
    "own.crt": x509.load_pem_x509_certificate,
    "own.key": private_key,
}


def channel(party: Credentials) -> Any:
    """A gRPC channel to the hub's service, with mutual TLS."""
    import grpc

    secure = grpc.ssl_channel_credentials(party.authority, party.key, party.certificate)
    options = [
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", 256 * 2**20),
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 15_000),
    ]
    return grpc.secure_channel(party.api, secure, [*options, *loopback.channel_options(party.api)])


def admitted(reply: MessageT, hub: str) -> MessageT:
    """The hub's answer, if it keeps the limits of every field; SetupError if not."""
    try:
        limits.admit(reply)
    except limits.LimitError as broken:
        raise errors.SetupError(
            f"the hub {hub} sent an answer that this version does not take ({broken}); compare the"
            " versions"
        ) from None
    return reply


def hub_error(error: Any, hub: str) -> errors.HdhError:
    """A gRPC error as an error of hdh. The hub sends its own errors as `CLASS|message`."""
    import grpc

    code, details = error.code(), _cleaned(str(error.details() or ""))
    kind, _, text = details.partition("|")
    if kind in ("InputError", "StudyError", "ContractError"):
        return getattr(errors, kind)(*text.splitlines())  # type: ignore[no-any-return]
    if kind in ("RefusalError", "SetupError"):
        return getattr(errors, kind)(text)  # type: ignore[no-any-return]
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return errors.SetupError(f"the hub {hub} cannot be reached{_remedy(details)}")
    return errors.SetupError(f"the hub {hub} answered {code.name}: {details}")


def _cleaned(details: str) -> str:
    """The hub's words, line by line, as a terminal may show them."""
    lines = details[: 20 * limits.MAX_REASON].split("\n")
    return "\n".join(limits.shown(line, 4 * limits.MAX_REASON) for line in lines)


def _remedy(details: str) -> str:
    if "certificate" in details.lower():
        return (
            ": its certificate or yours is not accepted; check both clocks, and the expiry dates "
            "with `hdh doctor`"
        )
    return "; check the address, the port and the firewall, or ask its operator whether it is up"


# -- signatures over runs
def sign_run(key: bytes, ticket: RunTicket) -> bytes:
    return private_key(key).sign(ticket.content(), ec.ECDSA(hashes.SHA256()))


def signer_of_run(
    certificate: bytes, authority: bytes, ticket: RunTicket, signature: bytes, now: datetime | None
) -> tuple[str, str] | None:
    """Name and key id of the coordinator who signed the ticket; None if the signature is not valid.

    The certificate, with the intermediate's behind it if there is one, must come from `authority`,
    belong to a coordinator or an operator, and be valid at `now` (None: at any time)."""
    try:
        signer = chains.leaf_of(certificate, authority, now)
        key = signer.public_key() if signer is not None else None
        if signer is None or not isinstance(key, ec.EllipticCurvePublicKey):
            return None
        key.verify(signature, ticket.content(), ec.ECDSA(hashes.SHA256()))
    except (ValueError, TypeError, InvalidSignature):
        return None
    name, role = subject(signer)
    return (name, key_id(signer)) if role in ("coordinator", "operator") else None


def key_id(key: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """SHA-256 of the public key, which a certificate shares with its renewals."""
    return hashlib.sha256(
        key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    ).hexdigest()


def authority_id(authority: bytes) -> str:
    """The key id of a hub's authority (PEM), which tells hubs apart; empty if it cannot be read."""
    try:
        return key_id(x509.load_pem_x509_certificate(authority))
    except ValueError:
        return ""


def subject(certificate: x509.Certificate) -> tuple[str, str]:
    """The name and the role of a certificate's holder."""
    values = {attribute.oid: str(attribute.value) for attribute in certificate.subject}
    return values.get(NameOID.COMMON_NAME, ""), values.get(NameOID.ORGANIZATIONAL_UNIT_NAME, "")


def days_left(certificate: bytes, now: datetime | None = None) -> float:
    expires = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    return (expires - (now or datetime.now(UTC))).total_seconds() / 86400


def renew_if_due(party: Credentials, stub: Any) -> bool:
    """Asks the hub for a new certificate for the same key, RENEW_DAYS before the present one
    expires. `stub`: of the hub's service for nodes, which renews for all parties. SetupError if it
    sends anything else, and the present certificate stays."""
    from federation.rpc import hub_pb2

    if days_left(party.certificate) > RENEW_DAYS:
        return False
    key = private_key(party.key)
    reply = admitted(stub.Renew(hub_pb2.RenewRequest(csr=request(key)), timeout=30), party.api)
    certificate = reply.certificate.encode()
    _check_issued(certificate, party.authority, key, (party.name, party.role), party.api)
    replacements.write_secret(party.folder / "own.crt", certificate)
    return True


def _check_issued(
    certificate: bytes,
    authority: bytes,
    key: ec.EllipticCurvePrivateKey,
    holder: tuple[str, str],
    hub: str,
) -> None:
    """SetupError unless the hub's authority certifies this key for `holder`, its name and role: a
    party that stored anything else could not connect any more."""
    leaf = chains.leaf_of(certificate, authority)
    if leaf is None or leaf.public_key() != key.public_key() or subject(leaf) != holder:
        raise errors.SetupError(
            f"the hub {hub} sent a certificate that is not one of its authority for this key, and "
            "nothing was changed; ask its operator to run `hdh doctor`"
        )
