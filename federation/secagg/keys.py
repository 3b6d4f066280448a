"""Identities (Ed25519), key agreement (X25519, HKDF-SHA-256) and envelopes (ChaCha20-Poly1305)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from federation.secagg.errors import SecaggError

_RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
_P = 2**255 - 19
_POINTS_OF_ORDER_8 = (
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
)
# y of Ed25519's points of order 1, 2, 4 and 8: for such a key, one signature fits many messages
_SMALL_ORDER = frozenset(
    {0, 1, _P - 1, *(int.from_bytes(bytes.fromhex(y), "little") for y in _POINTS_OF_ORDER_8)}
)
_SIGNATURE_BYTES = 64
_NONCE = b"\x00" * 12  # may be constant, since each envelope has a key of its own


@dataclass(frozen=True)
class Pair:
    """An X25519 key pair for one sum: raw bytes, and the private key as an object."""

    private: bytes
    public: bytes
    key: X25519PrivateKey = field(repr=False, compare=False)


def pair(private: bytes) -> Pair:
    key = X25519PrivateKey.from_private_bytes(private)
    return Pair(private, key.public_key().public_bytes(*_RAW), key)


def shared(pair_: Pair, public: bytes) -> bytes:
    """The 32 bytes that only the holders of the two private keys can compute."""
    try:
        return pair_.key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # a point of small order, with which everyone would know the secret
        raise SecaggError("a public key is not valid") from None


def derive(secret: bytes, purpose: bytes) -> bytes:
    """A key of 32 bytes from a secret, different for each `purpose`."""
    return HKDF(hashes.SHA256(), 32, salt=None, info=purpose).derive(secret)


def seal(key: bytes, content: bytes, context: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(_NONCE, content, context)


def unseal(key: bytes, envelope: bytes, context: bytes) -> bytes:
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, envelope, context)
    except InvalidTag:
        raise SecaggError("an envelope was changed, or belongs to another node") from None


def sign(identity: bytes, content: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(identity).sign(content)


def public_identity(identity: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(identity).public_key().public_bytes(*_RAW)


def is_signed(public: bytes, signature: bytes, content: bytes) -> bool:
    """Whether `signature` is that of `public` on `content`. A longer signature is never kept."""
    return len(signature) == _SIGNATURE_BYTES and _is_valid(public, signature, content)


@lru_cache(maxsize=4096)
def _is_valid(public: bytes, signature: bytes, content: bytes) -> bool:
    """Kept, since each node of a simulation verifies the signatures of all others: 1,000 nodes
    would verify a million times for each sum, and the answer depends on these bytes alone."""
    if _is_of_small_order(public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True


def _is_of_small_order(public: bytes) -> bool:
    return (int.from_bytes(public, "little") & (2**255 - 1)) % _P in _SMALL_ORDER
