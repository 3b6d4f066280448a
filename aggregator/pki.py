"""The hub's own certificate authority: its server certificate, and those of nodes, coordinators and
operators.

`ca` is the root that all parties trust. Where there is an `intermediate`, it signs in the root's
place, and the root's key may lie in a safe. The key of each is NAME.key, or on a token whose URI is
in NAME.pkcs11 (key_tokens.py)."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aggregator import key_tokens
from federation import addresses, chains, credentials, errors, replacements

AUTHORITY_DAYS, INTERMEDIATE_DAYS, CERTIFICATE_DAYS = 3650, 3 * 365, 365
PASSWORD = key_tokens.PIN
ROOT, INTERMEDIATE, WAITING = "ca", "intermediate", "intermediate-new"
KINDS = ("key", "pkcs11")  # of files: a key, and where on a token it is
MAX_COMMON_NAME = 64  # characters; what is verified are the alternative names
LOOPBACK = ("localhost", "127.0.0.1", "::1")  # the addresses between the hub's own processes
# Certificates are valid from yesterday on, in case a node's clock is slow.
EARLIER = timedelta(days=1)


def make_authority(
    folder: Path, hosts: list[str], *, token: str = "", days: int = CERTIFICATE_DAYS
) -> None:
    """Writes ca.crt, ca.key, and a server certificate for the names or addresses in `hosts`. Only
    the owner can read the keys; ca.key is encrypted if PASSWORD is in the environment. `token`: the
    URI under which a token makes and keeps the key instead."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = _new_key(folder, ROOT, token)
    name = _named("hdh hub authority")
    builder = _certificate(name, name, key.public_key(), key, AUTHORITY_DAYS).add_extension(
        x509.BasicConstraints(ca=True, path_length=1), critical=True
    )
    builder = builder.add_extension(_usage(signs=True), critical=True)
    (folder / "ca.crt").write_bytes(
        builder.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)
    )
    _write_server(folder, folder, hosts, days)


def renew_authority(folder: Path, hosts: list[str], *, token: str = "") -> Path:
    """Puts a new authority in the place of the present one, whose certificate stays under `former`
    for the receipts that it vouches for. No certificate of the former one or of its intermediate
    counts any more. Returns where its certificate is."""
    new = replacements.prepare(folder)
    _authority(folder, ROOT)  # only who has its key may replace it
    former = _keep_former(folder, ROOT)
    make_authority(new, hosts, token=token)
    intermediate = [path.name for path in folder.glob(f"{INTERMEDIATE}*")]
    replacements.replace(folder, ["ca.key", "ca.pkcs11", *intermediate])
    return former


def _keep_former(folder: Path, name: str) -> Path:
    certificate = x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())
    digest = certificate.fingerprint(hashes.SHA256()).hex()[:12]
    former = folder / "former" / f"{name}-{digest}.crt"
    former.parent.mkdir(mode=0o700, exist_ok=True)
    former.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return former


# -- the intermediate
def request_intermediate(folder: Path, *, token: str = "") -> str:
    """A new key for an intermediate, under a name of its own until its certificate comes, and the
    request (PEM) that the root's keeper signs."""
    key = _new_key(folder, WAITING, token)
    builder = x509.CertificateSigningRequestBuilder().subject_name(_named("hdh hub intermediate"))
    request = builder.sign(key, hashes.SHA384())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def sign_intermediate(folder: Path, csr: str, *, days: int = INTERMEDIATE_DAYS) -> str:
    """The certificate (PEM) of an intermediate, signed by the root whose certificate and key are in
    `folder`, on whatever machine that is."""
    root, key = _authority(folder, ROOT)
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    if constraints.path_length == 0:
        raise errors.SetupError(
            "this authority was made by an earlier version, and may have no intermediate:"
            " `hdh hub rotate --authority` makes one that may"
        )
    request = read_request(csr)
    public = request.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    days = min(days, _days_left(root))
    builder = _certificate(request.subject, root.subject, public, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_issuer_id(key), critical=False)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    signed = builder.sign(key, hashes.SHA384())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def install_intermediate(folder: Path, certificate: str, hosts: list[str]) -> None:
    """Lets a signed intermediate sign from now on, and renews the server certificate under it.
    Certificates under the former intermediate stay valid. InputError if the root has not signed it,
    or if it is not for the key that waits here."""
    new = replacements.prepare(folder)
    signed = _intermediate_of(folder, certificate)
    waiting = _key(folder, WAITING, signed.public_key())
    if waiting.public_key() != signed.public_key():
        raise errors.InputError(
            "the certificate is not for the key that waits here: sign the newest request"
        )
    if (folder / f"{INTERMEDIATE}.crt").exists():
        _keep_former(folder, INTERMEDIATE)
    kind = "pkcs11" if isinstance(waiting, key_tokens.TokenKey) else "key"
    contents = {
        f"{INTERMEDIATE}.{kind}": (folder / f"{WAITING}.{kind}").read_bytes(),
        f"{INTERMEDIATE}.crt": signed.public_bytes(serialization.Encoding.PEM),
        "ca.crt": (folder / "ca.crt").read_bytes(),  # the server's certificate ends with it
    }
    for name, content in contents.items():
        replacements.write_secret(new / name, content)
    _write_server(new, new, hosts)
    former = [f"{name}.{each}" for name in (INTERMEDIATE, WAITING) for each in KINDS]
    replacements.replace(folder, former)


def _intermediate_of(folder: Path, certificate: str) -> x509.Certificate:
    try:
        signed = x509.load_pem_x509_certificate(certificate.encode())
        root = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    except ValueError:
        raise errors.InputError("the certificate cannot be read; give the file in PEM") from None
    if not chains.may_sign(signed, root, datetime.now(UTC)):
        raise errors.InputError(
            "the certificate is no intermediate of this hub's authority; sign its request with"
            " `hdh hub certify`, beside the key of the same authority"
        )
    return signed


def renew_server(folder: Path, hosts: list[str]) -> None:
    """A new key and certificate of the hub's servers."""
    _write_server(folder, replacements.prepare(folder), hosts)
    replacements.replace(folder)


def _write_server(
    authority: Path, folder: Path, hosts: list[str], days: int = CERTIFICATE_DAYS
) -> None:
    """Writes hub.key, and hub.crt, which ends with the certificate of the `authority` in that
    folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [
        x509.IPAddress(ipaddress.ip_address(host))
        if addresses.is_address(host)
        else x509.DNSName(host)
        for host in dict.fromkeys([*hosts, *LOOPBACK])
    ]
    builder = _leaf(
        _named(hosts[0][:MAX_COMMON_NAME]),
        key.public_key(),
        authority,
        days,
    )
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
    )
    replacements.write_secret(folder / "hub.key", credentials.private_pem(key))
    replacements.write_secret(
        folder / "hub.crt", _signed(builder, authority) + (authority / "ca.crt").read_bytes()
    )


def certify(folder: Path, csr: str, name: str, role: str, *, days: int = CERTIFICATE_DAYS) -> str:
    """A client certificate for the key of a signing request, followed by the intermediate's if
    there is one (PEM). InputError if the request cannot
    be read, or its key has not signed it."""
    request = read_request(csr)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
        ]
    )
    builder = _leaf(subject, request.public_key(), folder, days)  # type: ignore[arg-type]
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
    )
    return _signed(builder, folder).decode()


def read_request(csr: str) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_pem_x509_csr(csr.encode())
    except ValueError:
        raise errors.InputError(
            "the signing request cannot be read; enrol with the same version of hdh as the hub's"
        ) from None
    if not request.is_signature_valid or not isinstance(
        request.public_key(), ec.EllipticCurvePublicKey
    ):
        raise errors.InputError(
            "the signing request is not signed by the elliptic-curve key in it;"
            " enrol with the same version of hdh as the hub's"
        )
    return request


def fingerprint(folder: Path) -> bytes:
    """SHA-256 of the authority's certificate."""
    return x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes()).fingerprint(
        hashes.SHA256()
    )


def describe_signer(folder: Path) -> str:
    """Where the key of the authority that signs is. SetupError if it is here and cannot sign. A
    token is not opened."""
    name = signer_of(folder)
    if not has_key(folder, name):
        return "its key is kept elsewhere: nobody is enrolled or renewed now"
    if (folder / f"{name}.pkcs11").exists():
        return "its key is on a token"
    if b"ENCRYPTED" in (folder / f"{name}.key").read_bytes() and not os.environ.get(PASSWORD):
        return f"its key is encrypted; whether {PASSWORD} opens it is not known here"
    _authority(folder, name)
    return "its key is here, and signs"


def check(folder: Path) -> float:
    """Days until the server's certificate expires. SetupError if a key or a certificate that the
    hub serves with is missing, cannot be read, or does not fit the others."""
    root, chain = (_certificates(folder / name) for name in ("ca.crt", "hub.crt"))
    if signer_of(folder) == INTERMEDIATE:
        _certificates(folder / f"{INTERMEDIATE}.crt")
    try:
        key = credentials.private_key((folder / "hub.key").read_bytes())
    except (OSError, ValueError, TypeError, AssertionError):
        raise _unusable(folder / "hub.key") from None
    if key.public_key() != chain[0].public_key():
        raise _unusable(folder / "hub.key", "is not the key of hub.crt")
    issued = chain[0].not_valid_before_utc + EARLIER  # whether it has expired is told otherwise
    if chains.leaf_of(_pem(chain), _pem(root[:1]), issued) is None:
        raise _unusable(folder / "hub.crt", "is not signed by the authority of ca.crt")
    return credentials.days_left((folder / "hub.crt").read_bytes())


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        raise _unusable(path) from None


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def _unusable(path: Path, why: str = "is missing or cannot be read") -> errors.SetupError:
    remedy = (
        "`hdh hub rotate` makes a new server key and certificate"
        if path.stem == "hub"
        else "put it back from a backup"
    )
    return errors.SetupError(f"{path}: {why}; {remedy}")


def make_secret(path: Path) -> None:
    replacements.write_secret(path, os.urandom(48))


def _leaf(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, folder: Path, days: int
) -> x509.CertificateBuilder:
    authority, signer = _authority(folder, signer_of(folder))
    days = min(days, _days_left(authority))
    builder = _certificate(subject, authority.subject, key, signer, days)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(_issuer_id(signer), critical=False)
    return builder.add_extension(_usage(signs=False), critical=True)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _issuer_id(signer: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())


def _days_left(certificate: x509.Certificate) -> int:
    """Whole days; SetupError if there is none."""
    days = (certificate.not_valid_after_utc - datetime.now(UTC)).days
    if days < 1:
        raise errors.SetupError(
            "the certificate of the hub's authority has expired: `hdh hub rotate --intermediate`,"
            " or `--authority` if it is the root's"
        )
    return days


def signer_of(folder: Path) -> str:
    """Who signs certificates: ROOT or INTERMEDIATE."""
    return INTERMEDIATE if (folder / f"{INTERMEDIATE}.crt").exists() else ROOT


def _authority(folder: Path, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())
    key = _key(folder, name, certificate.public_key())
    if key.public_key() != certificate.public_key():  # nobody would trust what it signs
        raise errors.SetupError(
            f"{name}.key is not the key of {name}.crt, as after a replacement that was interrupted:"
            " put both back from one backup"
        )
    return certificate, key


def has_key(folder: Path, name: str) -> bool:
    """Whether the key of an authority is here, in a file or on a token."""
    return any((folder / f"{name}.{kind}").exists() for kind in KINDS)


def _new_key(folder: Path, name: str, token: str) -> ec.EllipticCurvePrivateKey:
    """A new key, in a file or on a token, in the place of a former one of either kind."""
    if token:
        token_key = key_tokens.make(key_tokens.place(token), os.environ.get(PASSWORD, ""))
        (folder / f"{name}.key").unlink(missing_ok=True)
        replacements.write_secret(folder / f"{name}.pkcs11", token.encode() + b"\n")
        return token_key
    key = ec.generate_private_key(ec.SECP384R1())
    (folder / f"{name}.pkcs11").unlink(missing_ok=True)
    replacements.write_secret(folder / f"{name}.key", _protected(key))
    return key


def _key(folder: Path, name: str, public: object) -> ec.EllipticCurvePrivateKey:
    """The key of an authority, in a file or on a token. An earlier version that was interrupted may
    have left both: then the one of the `public` key."""
    path, uri = (folder / f"{name}.{kind}" for kind in KINDS)
    if not uri.exists():
        return _key_in(path)
    with suppress(errors.SetupError):
        if path.exists() and (key := _key_in(path)).public_key() == public:
            return key
    return key_tokens.TokenKey(key_tokens.place(uri.read_text()), os.environ.get(PASSWORD, ""))


def _protected(key: ec.EllipticCurvePrivateKey) -> bytes:
    password = os.environ.get(PASSWORD)
    if not password:
        return credentials.private_pem(key)
    encryption = serialization.BestAvailableEncryption(password.encode())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def _key_in(path: Path) -> ec.EllipticCurvePrivateKey:
    """SetupError if the key is kept elsewhere, or is encrypted under another password."""
    if not path.exists():
        raise errors.SetupError(
            "the key of the hub's authority is kept elsewhere, so nobody is enrolled or renewed "
            "now: ask the hub's operator to bring it, and try again"
        )
    content = path.read_bytes()
    password = os.environ.get(PASSWORD, "").encode() if b"ENCRYPTED" in content else None
    try:
        key = serialization.load_pem_private_key(content, password)
    except (ValueError, TypeError):  # a wrong password; none
        raise errors.SetupError(
            f"the key of the hub's authority cannot be opened: start the hub with {PASSWORD} in "
            "its environment, or correct it"
        ) from None
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _signed(builder: x509.CertificateBuilder, folder: Path) -> bytes:
    """The certificate, and that of the intermediate if there is one (PEM)."""
    name = signer_of(folder)
    signed = builder.sign(_authority(folder, name)[1], hashes.SHA384())
    chain = (folder / f"{name}.crt").read_bytes() if name == INTERMEDIATE else b""
    return signed.public_bytes(serialization.Encoding.PEM) + chain


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    days: int,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
    )
    builder = builder.not_valid_before(now - EARLIER).not_valid_after(now + timedelta(days=days))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
