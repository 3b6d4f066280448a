"""Sealed parts of messages between the parties of a link, on the hub's disk until they are taken.

The hub cannot read them. It takes the messages of `federation/linkage/routes.py` in the attempt
that it has begun, and no others, so that no party can begin an attempt or invent a message. A
message has one sender and one receiver; its parts arrive in order, and a part stays until the
receiver asks for the next one, so either end may break off and go on. Memory holds a few numbers a
message. What lies on disk is limited for each study and each node; a sender whose part does not fit
waits."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from federation import errors
from federation.linkage.routes import ROUTES

MAX_BYTES = 4 * 2**20  # of a part
FILE_BYTES = 4096  # that a part counts at least, since it takes a file
ASKED_S = 1.0  # so long the attempt that was begun is taken for the same, without another look
_ATTEMPT = re.compile(r"[0-9a-f]{32}")


class FullError(Exception):
    """There is no room for this part until others are taken."""


@dataclass(frozen=True)
class Attempt:
    """An attempt at the link of a left holder that the hub has begun, and its parties."""

    name: str
    left: str
    right: str
    helper: str

    def has(self, address: Address) -> bool:
        """Whether this is the address of a message of this attempt."""
        if address.attempt != self.name or address.kind not in ROUTES:
            return False
        by_role = {"left": self.left, "right": self.right, "helper": self.helper}
        sender, receiver = ROUTES[address.kind]
        return (address.sender, address.receiver) == (by_role[sender], by_role[receiver])


@dataclass(frozen=True)
class Address:
    """Of a message. `sender`, `receiver`: names of nodes, as their certificates say."""

    study_hash: str
    attempt: str
    sender: str
    receiver: str
    kind: str


@dataclass(frozen=True)
class Part:
    """`sha256` (32 bytes): of the content, as the sender states it."""

    content: bytes
    sha256: bytes
    is_last: bool


@dataclass
class _Waiting:
    """The parts of a message that are here, from `first` up to `after`, which comes next.
    `newest`: the hash of the last one."""

    first: int = 0
    after: int = 0
    newest: bytes = b""
    is_complete: bool = False


@dataclass
class Parcels:
    """`per_study`, `per_node`, bytes: what may lie here at one time. `begun`: the attempt that the
    hub has begun last for a study, by its hash; None where no link of it runs. `attempts`: those
    that parts are here of. `asked`: when each of them was last found to be the one that is begun,
    since the hub's database would be read twice for each MB."""

    folder: Path
    per_study: int
    per_node: int
    begun: Callable[[str], Attempt | None]
    attempts: dict[str, Attempt] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)
    waiting: dict[Address, _Waiting] = field(default_factory=dict)
    sizes: Counter[tuple[str, str]] = field(default_factory=Counter)  # by study and sender
    news: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        """Parts of an earlier process are deleted: every study that ran starts again, with new
        keys."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def put(self, address: Address, number: int, part: Part) -> None:
        """The part is on disk when this returns. The same part may come twice."""
        _check(part)
        with self.news:
            self._admit(address)
            message = self.waiting.setdefault(address, _Waiting())
            if number == message.after - 1 and part.sha256 == message.newest:
                return
            if number != message.after or message.is_complete:
                raise errors.InputError(f"part {message.after} of the message comes next")
            self._check_room(address, len(part.content))
            _write(self._path(address, number), part.content)
            self.sizes[address.study_hash, address.sender] += _size(len(part.content))
            message.after, message.newest = number + 1, part.sha256
            message.is_complete = part.is_last
            self.news.notify_all()

    def take(self, address: Address, number: int, seconds: float) -> Part | None:
        """A part, once it is there, and within so many seconds; the parts before it are deleted."""
        with self.news:
            self._admit(address)
            self.news.wait_for(lambda: self._has(address, number), seconds)
            if not self._has(address, number):
                return None
            message = self.waiting[address]
            if number < message.first:
                raise errors.InputError("this part was taken, and is gone")
            for received in range(message.first, number):
                self._delete(address, received)
            message.first = number
            content = self._path(address, number).read_bytes()
            is_last = message.is_complete and number == message.after - 1
        return Part(content, hashlib.sha256(content).digest(), is_last)

    def end(self, study_hash: str) -> None:
        """Deletes everything of a study."""
        with self.news:
            self._forget(study_hash)
            self.attempts.pop(study_hash, None)
            self.asked.pop(study_hash, None)

    @property
    def bytes_here(self) -> int:
        return sum(self.sizes.values())

    def _admit(self, address: Address) -> None:
        """RefusalError unless the message belongs to the attempt that the hub has begun. The first
        message of a new attempt deletes what is left of the former one."""
        latest, now = self.attempts.get(address.study_hash), time.monotonic()
        is_recent = now - self.asked.get(address.study_hash, -math.inf) < ASKED_S
        if latest is not None and latest.has(address) and is_recent:
            return
        attempt = self.begun(address.study_hash)
        if attempt is None or not attempt.has(address) or not _ATTEMPT.fullmatch(attempt.name):
            raise errors.RefusalError(
                "this is no message of an attempt at a link that this hub has begun"
            )
        if self.attempts.get(address.study_hash) != attempt:
            self._forget(address.study_hash)
            self.attempts[address.study_hash] = attempt
        self.asked[address.study_hash] = now

    def _forget(self, study_hash: str) -> None:
        shutil.rmtree(self.folder / study_hash, ignore_errors=True)
        for address in [waiting for waiting in self.waiting if waiting.study_hash == study_hash]:
            del self.waiting[address]
        for key in [stored for stored in self.sizes if stored[0] == study_hash]:
            del self.sizes[key]
        self.news.notify_all()

    def _has(self, address: Address, number: int) -> bool:
        message = self.waiting.get(address)
        return message is not None and number < message.after

    def _check_room(self, address: Address, size: int) -> None:
        size, of_node = _size(size), self.sizes[address.study_hash, address.sender]
        of_study = sum(n for (study, _), n in self.sizes.items() if study == address.study_hash)
        if of_node + size > self.per_node or of_study + size > self.per_study:
            raise FullError

    def _path(self, address: Address, number: int) -> Path:
        of_study = self.folder / address.study_hash / address.attempt
        return of_study / address.sender / address.receiver / address.kind / str(number)

    def _delete(self, address: Address, number: int) -> None:
        path = self._path(address, number)
        self.sizes[address.study_hash, address.sender] -= _size(path.stat().st_size)
        path.unlink()


def _size(content: int) -> int:
    """What a part of so many bytes counts."""
    return max(content, FILE_BYTES)


def _check(part: Part) -> None:
    if not part.content:
        raise errors.InputError("a part of a message is sealed, and none is empty")
    if len(part.content) > MAX_BYTES:
        raise errors.InputError(f"a part of a message has at most {MAX_BYTES} bytes")
    if hashlib.sha256(part.content).digest() != part.sha256:
        raise errors.InputError("the part does not have its hash; send it again")


def _write(path: Path, content: bytes) -> None:
    """The part appears whole, readable by the hub only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.part")
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    os.replace(half, path)
