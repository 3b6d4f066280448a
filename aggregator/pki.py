"""The hub's own certificate authority: its server certificate, and those of nodes, coordinators and
operators."""

from __future__ import annotations

import ipaddress
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation import credentials, errors

AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 365
PASSWORD = "HDH_AUTHORITY_PASSWORD"
LOOPBACK = ("localhost", "127.0.0.1", "::1")  # the addresses between the hub's own processes
# Certificates are valid from yesterday on, in case a node's clock is slow.
EARLIER = timedelta(days=1)


def make_authority(folder: Path, hosts: list[str], *, days: int = CERTIFICATE_DAYS) -> None:
    """Writes ca.crt, ca.key, and a server certificate for the names or addresses in `hosts`. Only
    the owner can read the keys; ca.key is encrypted if PASSWORD is in the environment."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hdh hub authority")])
    builder = _certificate(name, name, key.public_key(), key, AUTHORITY_DAYS).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    builder = builder.add_extension(_usage(signs=True), critical=True)
    credentials.write_secret(folder / "ca.key", _protected(key))
    (folder / "ca.crt").write_bytes(
        builder.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)
    )
    renew_server(folder, hosts, days=days)


def renew_authority(folder: Path, hosts: list[str]) -> Path:
    """Puts a new authority in the place of the present one, whose certificate stays under `former`
    for the receipts that it vouches for. No certificate of the former one counts any more. Returns
    where its certificate is."""
    _authority(folder)  # only who has its key may replace it
    former = folder / "former" / f"ca-{fingerprint(folder).hex()[:12]}.crt"
    former.parent.mkdir(mode=0o700, exist_ok=True)
    former.write_bytes((folder / "ca.crt").read_bytes())
    new = folder / "new"
    make_authority(new, hosts)
    for name in ("ca.key", "ca.crt", "hub.key", "hub.crt"):
        os.replace(new / name, folder / name)
    shutil.rmtree(new)
    return former


def renew_server(folder: Path, hosts: list[str], *, days: int = CERTIFICATE_DAYS) -> None:
    """Writes a new key and certificate of the hub's servers: hub.key, and hub.crt, which ends with
    the authority's certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [
        x509.IPAddress(ipaddress.ip_address(host)) if _is_address(host) else x509.DNSName(host)
        for host in dict.fromkeys([*hosts, *LOOPBACK])
    ]
    builder = _leaf(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])]),
        key.public_key(),
        folder,
        days,
    )
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
    )
    credentials.write_secret(folder / "hub.key", credentials.private_pem(key))
    credentials.write_secret(
        folder / "hub.crt", _signed(builder, folder) + (folder / "ca.crt").read_bytes()
    )


def certify(folder: Path, csr: str, name: str, role: str, *, days: int = CERTIFICATE_DAYS) -> str:
    """A client certificate (PEM) for the key of a signing request. InputError if the request cannot
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


def make_secret(path: Path) -> None:
    credentials.write_secret(path, os.urandom(48))


def _leaf(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, folder: Path, days: int
) -> x509.CertificateBuilder:
    authority, signer = _authority(folder)
    builder = _certificate(subject, authority.subject, key, signer, days)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
    )
    return builder.add_extension(_usage(signs=False), critical=True)


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    key = _authority_key(folder / "ca.key")
    if key.public_key() != certificate.public_key():  # nobody would trust what it signs
        raise errors.SetupError(
            "ca.key is not the key of ca.crt, as after a replacement that was interrupted: put "
            "both back from one backup"
        )
    return certificate, key


def _protected(key: ec.EllipticCurvePrivateKey) -> bytes:
    password = os.environ.get(PASSWORD)
    if not password:
        return credentials.private_pem(key)
    encryption = serialization.BestAvailableEncryption(password.encode())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def _authority_key(path: Path) -> ec.EllipticCurvePrivateKey:
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
    return builder.sign(_authority(folder)[1], hashes.SHA384()).public_bytes(
        serialization.Encoding.PEM
    )


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


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
