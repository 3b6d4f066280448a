"""An append-only log: one JSON object per line, each with the hash of the previous one.

Every line is on the disk before `write` returns. A line that is changed, removed or inserted breaks
the chain. Lines cut off at the end are detected by the witness, a file beside the log that holds
the number and hash of the last entry.

A log that has become long goes on in a new file, whose first entry continues the chain. The former
file is named after its last entry, and may be kept elsewhere: the hub keeps the hashes that nodes
have announced.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from federation import errors, limits

GENESIS = "0" * 64
MAX_ENTRY = 64 * 2**10  # bytes of the details of an entry
MAX_TEXT = 2000  # characters of one of its texts
MAX_ITEMS = 1000  # of one of its lists
CHUNK = 2**16  # bytes, in which the end of a log is searched
MAX_LOG = 64 * 2**20  # bytes of a file
ROTATED = "rotated"  # the first entry of a file that continues another
_ROTATED_NAME = re.compile(r"-(\d{12})\.[^.]*$")  # of a former file: the number of its last entry


def write(path: Path, event: str, **details: Any) -> None:
    """Appends `event`. SetupError if the log cannot be written.

    `details` are JSON values. They must hold nothing that was read from a row. They may come from a
    peer, and are cleaned and cut: whatever is written can be read back."""
    try:
        with _locked(path) as file:
            last = _last(file)
            if file.seek(0, os.SEEK_END) < MAX_LOG:
                _append(file, path, _entry(last, event, details))
                os.chmod(path, 0o600)
                return
            _rotate(path, last)
        write(path, event, **details)
    except OSError as reason:
        raise errors.SetupError(
            f"the audit log {path.name} cannot be written ({reason.strerror}), and nothing is "
            "answered without it; check the disk"
        ) from None


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """The file that the log is written to now, for this writer alone."""
    while True:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return


def _entry(last: Mapping[str, Any], event: str, details: Mapping[str, Any]) -> dict[str, Any]:
    entry = {
        "seq": last["seq"] + 1,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "event": event,
        **_bounded(details),
        "prev": last["hash"],
    }
    return {**entry, "hash": _digest(entry)}


def _append(file: IO[bytes], path: Path, entry: Mapping[str, Any]) -> None:
    _store(file, entry)
    _bear_witness(path, entry)


def _store(file: IO[bytes], entry: Mapping[str, Any]) -> None:
    file.write(json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _bear_witness(path: Path, entry: Mapping[str, Any]) -> None:
    """After the entry is stored: a log may be longer than its witness says, and never shorter."""
    _witness(path).write_text(f"{entry['seq']} {entry['hash']}\n", encoding="ascii")


def _rotate(path: Path, last: Mapping[str, Any]) -> None:
    """Gives the file a name of its own, and puts a new one in its place, which goes on with the
    chain. A crash leaves the one or the other there."""
    former = path.with_name(f"{path.stem}-{last['seq']:012d}{path.suffix}")
    new = path.with_name(path.name + ".part")
    with os.fdopen(os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "r+b") as file:
        former.unlink(missing_ok=True)  # of a crash before the replacement
        os.link(path, former)
        entry = _entry(last, ROTATED, {"former": former.name})
        _store(file, entry)
        os.replace(new, path)
    _bear_witness(path, entry)


def files(path: Path) -> list[Path]:
    """The files of a log that are here, the oldest first. After a crash in the middle of a rotation
    the last one has two names."""
    numbered = re.compile(rf"{re.escape(path.stem)}-\d{{12}}{re.escape(path.suffix)}")
    former = [each for each in path.parent.glob(f"{path.stem}-*") if numbered.fullmatch(each.name)]
    if not path.exists():
        return sorted(former)
    return [*(each for each in sorted(former) if not each.samefile(path)), path]


def entries(path: Path) -> Iterator[Mapping[str, Any]]:
    for each in files(path):
        with each.open(encoding="utf-8") as file:
            yield from map(_parse, (line for line in file if line.endswith("\n")))


def newest(path: Path, max_entries: int) -> list[Mapping[str, Any]]:
    """The last entries, in their order. The end of the log is read, however long it is."""
    newest_last: list[Mapping[str, Any]] = []
    for each in reversed(files(path)):
        if (missing := max_entries - len(newest_last)) <= 0:
            break
        with each.open("rb") as file:
            *complete, _ = _tail(file, missing)[1].split(b"\n")
        newest_last[:0] = map(_parse, complete[-missing:])
    return newest_last


def after(path: Path, seq: int) -> Iterator[Mapping[str, Any]]:
    """The entries after number `seq`. Only what is new is read, however long the log is: a rotated
    file is named after its last entry, and the place in a file is found by bisection."""
    for each in files(path):
        last = _ROTATED_NAME.search(each.name) if each != path else None
        if last is not None and int(last[1]) <= seq:
            continue
        with each.open("rb") as file:
            _seek_after(file, seq)
            for line in file:
                if line.endswith(b"\n") and (entry := _parse(line))["seq"] > seq:
                    yield entry


def _seek_after(file: IO[bytes], seq: int) -> None:
    """Goes to the start of a line: that of the first entry after `seq`, or one before it."""
    low, high = 0, file.seek(0, os.SEEK_END)
    while high - low > CHUNK:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()  # the rest of a line
        line = file.readline()
        is_before = line.endswith(b"\n") and _parse(line).get("seq", 0) <= seq
        low, high = (middle, high) if is_before else (low, middle)
    file.seek(low)
    if low:
        file.readline()


def head(path: Path) -> tuple[int, str]:
    """The number and hash of the last entry."""
    if not path.exists():
        return 0, GENESIS
    with _locked(path) as file:
        last = _last(file)
    return int(last["seq"]), str(last["hash"])


def check_writable(path: Path) -> None:
    """Opens the log and finds its last entry, as `write` does. SetupError or LedgerError if the
    next event could not be written."""
    if not path.exists():
        return
    try:
        head(path)
    except OSError as reason:
        raise errors.SetupError(
            f"the audit log {path.name} cannot be written ({reason.strerror}); check the disk and "
            "the file's owner"
        ) from None


def verify(path: Path) -> tuple[int, str]:
    """The number and hash of the last entry. LedgerError names the first entry that breaks the
    chain.

    A last line that a crash left incomplete is no entry: `write` removes it. Where the oldest file
    here continues another, the chain is verified from there on."""
    seq, previous = 0, GENESIS
    for entry in entries(path):
        if not seq and entry.get("event") == ROTATED:
            seq, previous = _continued(entry)
        body = {key: value for key, value in entry.items() if key != "hash"}
        if (
            entry.get("seq") != seq + 1
            or entry.get("prev") != previous
            or entry.get("hash") != _digest(body)
        ):
            raise errors.LedgerError(
                f"entry {seq + 1} of {path.name} was changed or is missing; compare with a backup"
            )
        seq, previous = entry["seq"], entry["hash"]
    if (witnessed := _witnessed(path)) is not None:
        last_seq, last_hash = witnessed
        if last_seq > seq or (last_seq == seq and last_hash != previous):
            raise errors.LedgerError(
                f"{path.name} ends at entry {seq}, but its witness has recorded entry {last_seq}: "
                "entries were cut off; compare with a backup"
            )
    return seq, previous


def _witnessed(path: Path) -> tuple[int, str] | None:
    """The number and hash that the witness has recorded; None if there is no witness."""
    witness = _witness(path)
    try:
        number, recorded = witness.read_text(encoding="ascii").split()
        return int(number), recorded
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise errors.LedgerError(
            f"{witness.name}, the witness of {path.name}, cannot be read: whether entries were cut"
            " off is not known; compare with a backup"
        ) from None


def _continued(entry: Mapping[str, Any]) -> tuple[int, str]:
    """The number and hash of the last entry of the file before, which is kept elsewhere."""
    seq, previous = entry.get("seq"), entry.get("prev")
    return (seq - 1, previous) if isinstance(seq, int) and isinstance(previous, str) else (0, "")


def _bounded(details: Mapping[str, Any]) -> dict[str, Any]:
    """The details as they are written: clean texts, short lists, finite numbers. Of details that
    are too long all the same, the hash is written."""
    bounded = {limits.shown(name, 60): _short(value, 4) for name, value in details.items()}
    encoded = json.dumps(bounded, ensure_ascii=False).encode()
    if len(encoded) <= MAX_ENTRY:
        return bounded
    return {"too_long": len(encoded), "sha256_of_details": hashlib.sha256(encoded).hexdigest()}


def _short(value: Any, depth: int) -> Any:
    """`depth`: of the lists and mappings that are written out."""
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping) and depth:
        items = list(value.items())[:MAX_ITEMS]
        return {limits.shown(str(name), 200): _short(item, depth - 1) for name, item in items}
    if isinstance(value, list | tuple) and depth:
        return [_short(item, depth - 1) for item in value[:MAX_ITEMS]]
    return limits.shown(str(value), MAX_TEXT)


def _last(file: Any) -> Mapping[str, Any]:
    """The last complete entry, however long it is.

    A line that a crash left incomplete is removed: `write` had not returned, so nothing was
    answered."""
    start, tail = _tail(file, 1)
    complete = tail[: tail.rfind(b"\n") + 1]
    if len(complete) < len(tail):
        file.truncate(start + len(complete))
    if not complete:
        return {"seq": 0, "hash": GENESIS}
    return _parse(complete[:-1].rsplit(b"\n", 1)[-1])


def _tail(file: IO[bytes], n_lines: int) -> tuple[int, bytes]:
    """The end of a file from some place on, and that place: at least so many complete lines, or the
    whole file."""
    tail, start = b"", file.seek(0, os.SEEK_END)
    while start and tail.count(b"\n") <= n_lines:
        step = min(start, max(CHUNK, len(tail)))
        start -= step
        file.seek(start)
        tail = file.read(step) + tail
    return start, tail


def _parse(line: str | bytes) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        raise errors.LedgerError(
            "a line of the audit log is not a valid entry; compare with a backup"
        )
    return entry


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps(body, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    ).hexdigest()


def _witness(path: Path) -> Path:
    return path.with_name(path.name + ".head")
