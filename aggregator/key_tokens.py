"""The key of an authority on a PKCS#11 token: a smart card, an HSM, or SoftHSM.

Beside a certificate lies a file with the URI of its key (RFC 7512), and the key never leaves the
token:

    pkcs11:token=hdh;object=ca?module-path=/usr/lib/softhsm/libsofthsm2.so

The token's PIN is in the environment, where the password of an encrypted key would be. A token
locks itself after a few wrong ones, and each enrolment and each renewal opens it: so a PIN that was
refused is not tried again by the same process, and none at a token that has a single try left."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import unquote

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation import errors

CURVE = "secp384r1"
PIN = "HDH_AUTHORITY_PASSWORD"
_LOCK = threading.Lock()  # a PKCS#11 module is one for the whole process
WRONG_PIN = f"does not accept the PIN; start the hub with it in {PIN}"


@dataclass
class Refusals:
    """The PINs that tokens have refused, as hashes under a key that no other process knows."""

    secret: bytes = field(default_factory=lambda: os.urandom(32))
    hashes: set[bytes] = field(default_factory=set)

    def add(self, where: Place, pin: str) -> None:
        self.hashes.add(self._hash(where, pin))

    def has(self, where: Place, pin: str) -> bool:
        return self._hash(where, pin) in self.hashes

    def _hash(self, where: Place, pin: str) -> bytes:
        named = "\0".join((where.module, where.token, pin)).encode()
        return hmac.digest(self.secret, named, hashlib.sha256)


_REFUSED = Refusals()


@dataclass(frozen=True)
class Place:
    """Where a key is. `module`: the library of the token's maker. `token`, `key`: their labels."""

    module: str
    token: str
    key: str


def place(uri: str) -> Place:
    """InputError for another URI."""
    path, _, query = uri.strip().removeprefix("pkcs11:").partition("?")
    parts = (part.partition("=") for part in (*path.split(";"), *query.split("&")))
    values = {name: unquote(value) for name, _, value in parts}
    names = ("module-path", "token", "object")
    if not uri.strip().startswith("pkcs11:") or not all(values.get(name) for name in names):
        raise errors.InputError(
            "the URI of a key on a token is written"
            " 'pkcs11:token=LABEL;object=LABEL?module-path=FILE.so'"
        )
    return Place(*(values[name] for name in names))


class TokenKey(ec.EllipticCurvePrivateKey):
    """An elliptic-curve key that signs on its token."""

    def __init__(self, where: Place, pin: str) -> None:
        self.where, self.pin = where, pin
        with _session(where, pin) as session:
            self._public = _public(session, where)

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        from pkcs11 import KeyType, Mechanism, ObjectClass
        from pkcs11.util.ec import encode_ecdsa_signature

        assert isinstance(signature_algorithm, ec.ECDSA)
        algorithm = signature_algorithm.algorithm
        assert isinstance(algorithm, hashes.HashAlgorithm)
        digest = hashes.Hash(algorithm)
        digest.update(data)
        with _session(self.where, self.pin) as session:
            key = session.get_key(ObjectClass.PRIVATE_KEY, KeyType.EC, label=self.where.key)
            signature = key.sign(digest.finalize(), mechanism=Mechanism.ECDSA)
        encoded: bytes = encode_ecdsa_signature(signature)
        return encoded

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def exchange(self, *_: Any) -> NoReturn:
        raise TypeError("this key signs only")

    def private_numbers(self) -> NoReturn:
        raise TypeError("the key does not leave its token")

    def private_bytes(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("the key does not leave its token")

    def __copy__(self) -> TokenKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenKey:
        return self


def make(where: Place, pin: str) -> TokenKey:
    """Generates the key on its token. SetupError if the token has one of this label."""
    from pkcs11 import Attribute, KeyType, ObjectClass
    from pkcs11.util.ec import encode_named_curve_parameters

    with _session(where, pin, writes=True) as session:
        before = session.get_objects(
            {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: where.key}
        )
        if list(before):
            raise errors.SetupError(
                f"the token {where.token!r} has a key {where.key!r} already; choose another object"
            )
        curve = {Attribute.EC_PARAMS: encode_named_curve_parameters(CURVE)}
        session.create_domain_parameters(KeyType.EC, curve, local=True).generate_keypair(
            store=True, label=where.key
        )
    return TokenKey(where, pin)


@contextmanager
def _session(where: Place, pin: str, *, writes: bool = False) -> Iterator[Any]:
    """A session of the token, for one thread at a time."""
    try:
        import pkcs11
    except ImportError:
        raise errors.SetupError(
            "a key on a token needs python-pkcs11: pip install 'hdh-federation[pkcs11]'"
        ) from None
    with _LOCK, _explained(where, pin):
        if pin and _REFUSED.has(where, pin):
            raise errors.SetupError(f"the token {where.token!r} {WRONG_PIN}")
        token = pkcs11.lib(where.module).get_token(token_label=where.token)
        if pin and token.flags & pkcs11.TokenFlag.USER_PIN_FINAL_TRY:
            raise errors.SetupError(
                f"the token {where.token!r} has one try left for its PIN: enter the right one with"
                " the program of the token's maker, then start the hub again"
            )
        with token.open(user_pin=pin or None, rw=writes) as session:
            yield session


@contextmanager
def _explained(where: Place, pin: str) -> Iterator[None]:
    """SetupError for what a token or its library refuses."""
    from pkcs11 import exceptions

    try:
        yield
    except (exceptions.PinIncorrect, exceptions.PinInvalid, exceptions.PinLenRange):
        _REFUSED.add(where, pin)
        why = WRONG_PIN
    except (exceptions.PinLocked, exceptions.PinExpired):
        why = "has locked its PIN; its security officer can reset it"
    except exceptions.NoSuchKey:
        why = f"holds no private key {where.key!r}; check `object` of the URI, and the PIN in {PIN}"
    except exceptions.NoSuchToken:
        why = "is not there; plug it in, or check `token` of the URI"
    except (exceptions.PKCS11Error, OSError, RuntimeError) as reason:
        why = f"cannot be used ({type(reason).__name__}); check `module-path` of the URI"
    else:
        return
    raise errors.SetupError(f"the token {where.token!r} {why}")


def _public(session: Any, where: Place) -> ec.EllipticCurvePublicKey:
    from pkcs11 import KeyType, ObjectClass
    from pkcs11.util.ec import encode_ec_public_key

    public_key_object = session.get_key(ObjectClass.PUBLIC_KEY, KeyType.EC, label=where.key)
    key = serialization.load_der_public_key(encode_ec_public_key(public_key_object))
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key
