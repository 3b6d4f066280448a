"""From a certificate to the authority of its hub: directly, or over one intermediate authority.

TLS checks the same at each connection. Here it is checked where a certificate is not of the peer:
that of a coordinator in a proposal, those in a receipt."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from federation import limits

MAX_CERTIFICATES = 4  # in one text: a leaf, an intermediate, the authority, and one to spare


def leaf_of(
    certificates: bytes, authority: bytes, now: datetime | None = None
) -> x509.Certificate | None:
    """The first of the certificates (PEM), if `authority` (PEM) vouches for it, itself or through
    one intermediate among the others. None if not, or if it is not valid at `now` (None: at any
    time)."""
    if len(certificates) > limits.MAX_PEM:
        return None
    try:
        leaf, *others = x509.load_pem_x509_certificates(certificates)
        root = x509.load_pem_x509_certificate(authority)
        if len(others) >= MAX_CERTIFICATES:
            return None
        issuers = [root, *(each for each in others if may_sign(each, root, now))]
        is_issued = any(_issued(leaf, issuer) for issuer in issuers)
    except (ValueError, TypeError):
        return None
    return leaf if is_issued and _is_valid(leaf, now) else None


def may_sign(certificate: x509.Certificate, root: x509.Certificate, now: datetime | None) -> bool:
    """Whether it is an intermediate authority under this root, which signs leaves only."""
    return (
        _issued(certificate, root)
        and _length(root) != 0
        and _length(certificate) == 0
        and _usage(certificate)
        and _is_valid(certificate, now)
    )


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _length(certificate: x509.Certificate) -> int | None:
    """How many authorities may stand under it: -1 if it is none, None without a limit."""
    try:
        value = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return -1
    return value.path_length if value.ca else -1


def _usage(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return False


def _is_valid(certificate: x509.Certificate, now: datetime | None) -> bool:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now is None or begin <= now <= end
