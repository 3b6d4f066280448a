"""The state folder of a node: the ledger, a secret that salts its hashes, and the key of its
identity."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from federation import errors
from nodes import ledger
from nodes.ledger import Ledger

LEDGER, SECRET, IDENTITY = "ledger.sqlite", "secret", "identity.key"
AUDIT, HUB = "audit.jsonl", "hub"


def open_ledger(folder: Path | None) -> Ledger:
    """The node's ledger; in memory if there is no folder, as in simulations."""
    return ledger.open_ledger(Path(":memory:") if folder is None else create(folder) / LEDGER)


def has_ledger(folder: Path | None) -> bool:
    return folder is not None and (folder / LEDGER).exists()


def secret(folder: Path | None) -> bytes:
    """32 random bytes that only this node knows."""
    return os.urandom(32) if folder is None else _stored(create(folder) / SECRET)


def salt(secret: bytes, about: str) -> bytes:
    """A salt that nobody outside can guess; each purpose has another one."""
    return hmac.new(secret, about.encode(), hashlib.sha256).digest()


def people_salt(secret: bytes) -> bytes:
    """Of the hashes of people that the rules of disclosure compare."""
    return salt(secret, "people")[:8]


def identity(folder: Path | None) -> bytes:
    """The private key (Ed25519, 32 bytes) of this node's identity. It is created at its first use,
    and never leaves the node."""
    return os.urandom(32) if folder is None else _stored(create(folder) / IDENTITY)


def public_identity(folder: Path | None) -> bytes:
    from federation.secagg import keys

    return keys.public_identity(identity(folder))


def create(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as reason:
        raise errors.SetupError(
            f"the state folder {folder.name!r} cannot be created ({reason.strerror});"
            " correct `state` in node.yaml"
        ) from None
    return folder


def _stored(path: Path) -> bytes:
    """The 32 bytes of a file that only its owner can read, random at first. The file appears
    complete or not at all."""
    try:
        if not path.exists():
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(descriptor, os.urandom(32))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            try:
                os.link(part, path)  # fails if another process was first
            except FileExistsError:
                pass
            finally:
                part.unlink()
        content = path.read_bytes()
    except OSError as reason:
        raise errors.SetupError(
            f"{path.name} in the state folder cannot be read or created ({reason.strerror});"
            " check the folder's owner and disk"
        ) from None
    if len(content) != 32:
        raise errors.SetupError(
            f"{path.name} in the state folder is damaged; restore it from the last backup"
        )
    return content
