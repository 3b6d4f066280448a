"""The limits of everything that a peer sends: the one place that decides how long a text, how large
a number, how many entries and how deep a nesting may be.

Hub, nodes and coordinators apply them at their doors, before anything is stored, logged or shown.
A text that only people read is cleaned and cut; anything else that breaks its limit is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pydantic

MAX_REASON = 500  # characters of a refusal, a reason or a remedy
MAX_TITLE = 300
MAX_QUESTION = 2000
MAX_VERSION = 32
MAX_STUDY = 10**6  # characters of a study as JSON
MAX_CONTRACT = 4 * 10**6  # characters of a contract as JSON
MAX_PEM = 20_000
MAX_NODES = 1000
MAX_ANALYSES = 200
MAX_HOLDINGS = 1000
MAX_RUNS = 1000
MAX_FORMULA = 5000  # characters
MAX_TERMS = 200  # of a formula
MAX_WRITTEN_OUT = 5000  # terms that products and powers of a formula write out, with repetitions
MAX_COLUMNS = 5000  # of a design matrix, whose categories are written out
MAX_LEVELS = 100_000  # of a category, and so of a factor that a model eliminates
MAX_EXPRESSION = 2000  # characters
MAX_SQL = 100_000  # characters to which one expression is compiled, derived columns included
MAX_PIECES = 4_000_000  # characters of all pieces of an expression
MAX_CODES = 10_000  # characters of an expression with its sets of codes
MAX_WRITTEN_OUT_CODES = 10**6  # characters, before it is compared with MAX_EXPRESSION
MAX_DERIVED = 200  # columns
MAX_YAML = 4 * 2**20  # bytes of a YAML file
MAX_DEPTH = 32  # of a JSON text
MAX_WHOLE = 2**63 - 1  # SQLite's and PostgreSQL's largest whole number
MAX_MOMENT = 2.0**35  # seconds since 1970: some thousand years, which every calendar can show

# C0 and C1 controls, bidirectional marks, line separators, surrogates: they move a terminal's
# cursor, reverse a line, or cannot be written as UTF-8.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_STRINGS_AND_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89abAB]")


def _readable(text: str) -> str:
    if not is_clean(text.replace("\n", "").replace("\t", "")):
        raise ValueError("holds a control character, which nobody sees; remove it")
    return text


Readable = pydantic.AfterValidator(_readable)  # of texts of a study or a contract


class LimitError(ValueError):
    """A peer's message breaks a limit. The text names the field, and no content."""


# -- texts
def shown(text: str, max_length: int = MAX_REASON) -> str:
    """A peer's text as people may see it: control characters replaced, cut at `max_length`."""
    clean = _CONTROL.sub("\ufffd", re.sub(r"\s*[\r\n\t]\s*", " ", text[: 4 * max_length + 4]))
    return clean if len(clean) <= max_length else clean[: max_length - 1] + "…"


def is_clean(text: str) -> bool:
    """Whether a text holds no character that `shown` replaces."""
    return _CONTROL.search(text) is None


def named(text: Any, subject: str, *, max_length: int = 200) -> str:
    """A peer's name for something, such as an array. LimitError unless it is a clean short text."""
    if not isinstance(text, str) or len(text) > max_length or not is_clean(text):
        raise LimitError(f"{subject} is no name of at most {max_length} characters")
    return text


# -- numbers
def whole(value: Any, subject: str, *, low: int = 0, high: int = MAX_WHOLE) -> int:
    """A peer's whole number. LimitError if it is of another type, or not between the limits."""
    if type(value) is not int or not low <= value <= high:
        raise LimitError(f"{subject} is no whole number from {low} to {high}")
    return value


def listed(value: Any, subject: str, *, max_items: int) -> list[Any]:
    """A peer's list. LimitError if it is none, or too long."""
    if not isinstance(value, list) or len(value) > max_items:
        raise LimitError(f"{subject} is no list of at most {max_items} entries")
    return value


# -- parsers
@contextmanager
def parsing(subject: str, error: type[Exception]) -> Iterator[None]:
    """Around every parser of foreign bytes: whatever goes wrong inside becomes `error`, which
    refuses this message and nothing else. The content may be made for any failure, including
    RecursionError and the MemoryError of a declared size, so every exception is caught here."""
    try:
        yield
    except error:
        raise
    except LimitError as broken:
        raise error(f"not {subject}: {broken}") from None
    except Exception as reason:
        raise error(f"not {subject}: {type(reason).__name__}") from None


def json_of(content: bytes | str, *, max_bytes: int, max_depth: int = MAX_DEPTH) -> Any:
    """The values of a peer's JSON text. ValueError if it is no JSON, longer or nested deeper than
    allowed, holds NaN or an infinite number, or a text that UTF-8 cannot write."""
    encoded = content.encode() if isinstance(content, str) else content
    if len(encoded) > max_bytes:
        raise LimitError(f"longer than {max_bytes} bytes")
    if _depth(encoded) > max_depth:
        raise LimitError(f"nested more than {max_depth} deep")
    values = json.loads(encoded, parse_constant=_no_constant, parse_float=_finite)
    if _SURROGATE.search(encoded):
        json.dumps(values, ensure_ascii=False).encode()  # UnicodeEncodeError if one stands alone
    return values


def _depth(encoded: bytes) -> int:
    if encoded.count(b"[") + encoded.count(b"{") <= MAX_DEPTH:
        return 0  # too few brackets to be nested too deep
    depth = deepest = 0
    for match in _STRINGS_AND_BRACKETS.finditer(encoded):
        token = match.group()
        if token in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in b"]}":
            depth -= 1
    return deepest


def _no_constant(name: str) -> Any:
    raise LimitError("it holds a number that is not finite")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise LimitError("it holds a number that is not finite")
    return number


# -- messages of hub.proto
@dataclass(frozen=True)
class Shown:
    """A text that only people read: cleaned and cut."""

    max_length: int = MAX_REASON


@dataclass(frozen=True)
class Text:
    """A text that programs read: of this pattern and length, or refused."""

    max_length: int
    pattern: str = ""


@dataclass(frozen=True)
class Bytes:
    max_length: int
    min_length: int = 0


@dataclass(frozen=True)
class Number:
    low: float = 0
    high: float = MAX_WHOLE


Limit = Shown | Text | Bytes | Number
NAME = Text(63, r"[a-z][a-z0-9_-]{0,62}")
NAMES = Text(127, r"[a-z][a-z0-9_-]{0,126}")  # of datasets that stand side by side
HASH = Text(64, r"[0-9a-f]{64}")
NO_HASH = Text(64, r"([0-9a-f]{64})?")
MOMENT = Number(0, MAX_MOMENT)
MOMENT_TEXT = Text(40, r"[0-9T:+.Z-]*")
JSON_STUDY, JSON_CONTRACT, PEM = Text(MAX_STUDY), Text(MAX_CONTRACT), Text(MAX_PEM)
SIGNATURE = Bytes(256)
ADDRESS = Text(300)
ROLE = Text(16, r"[a-z]*")
STATE = Text(16, r"[a-z ]*")

# By the full name of a field without its package. A map's entries are limited as `NAME.key` and
# `NAME.value`. Every field of hub.proto has a line here, and a test compares the two.
FIELDS: dict[str, Limit] = {
    "EnrolRequest.secret": Bytes(64),
    "EnrolRequest.csr": PEM,
    "EnrolRequest.identity": Bytes(32),
    "EnrolRequest.signature": SIGNATURE,
    "EnrolRequest.version": Shown(MAX_VERSION),
    "EnrolReply.name": NAME,
    "EnrolReply.role": ROLE,
    "EnrolReply.certificate": PEM,
    "EnrolReply.authority": PEM,
    "EnrolReply.api": ADDRESS,
    "EnrolReply.fleet": ADDRESS,
    "EnrolReply.flower_id": Number(0, 2**64 - 1),
    "Hello.version": Shown(MAX_VERSION),
    "Hello.runs": HASH,
    "Hello.audit_seq": Number(),
    "Hello.audit_hash": NO_HASH,
    "Holding.dataset": NAMES,
    "Holding.contract_hash": HASH,
    "Holding.people": Number(),
    "Holding.contract": JSON_CONTRACT,
    "Welcome.now": MOMENT,
    "Welcome.head_seq": Number(),
    "Welcome.head_hash": HASH,
    "Welcome.version": Shown(MAX_VERSION),
    "Proposal.study": JSON_STUDY,
    "Proposal.contract_hash": HASH,
    "Proposal.certificate": PEM,
    "Proposal.signature": SIGNATURE,
    "Proposal.nodes": NAME,
    "Proposal.deadline": MOMENT,
    "Proposal.rehearsal": Number(0, 1),
    "Proposal.number": Number(),
    "Proposal.contracts.key": NAMES,
    "Proposal.contracts.value": JSON_CONTRACT,
    "Proposal.roles.key": NAME,
    "Proposal.roles.value": ROLE,
    "Wake.seconds": Number(0, 86_400),
    "Wake.every": Number(0, 86_400),
    "Ended.run": HASH,
    "Decision.study_hash": HASH,
    "Decision.verdict": ROLE,
    "Decision.reason": Shown(),
    "Decision.by": Text(120),
    "Decision.at": MOMENT_TEXT,
    "Decision.signature": SIGNATURE,
    "Decision.rehearsal": Number(0, 1),
    "Decision.run": HASH,
    "RenewRequest.csr": PEM,
    "RenewReply.certificate": PEM,
    "Parcel.study_hash": HASH,
    "Parcel.attempt": Text(32, r"[0-9a-f]{32}"),
    "Parcel.receiver": NAME,
    "Parcel.kind": Text(31, r"[a-z][a-z -]{0,30}"),
    "Parcel.number": Number(0, 2**40),
    "Parcel.is_last": Number(0, 1),
    "Parcel.content": Bytes(8 * 2**20),
    "Parcel.sha256": Bytes(32),
    "ParcelRequest.study_hash": HASH,
    "ParcelRequest.attempt": Text(32, r"[0-9a-f]{32}"),
    "ParcelRequest.sender": NAME,
    "ParcelRequest.kind": Text(31, r"[a-z][a-z -]{0,30}"),
    "ParcelRequest.number": Number(0, 2**40),
    "ParcelReply.is_there": Number(0, 1),
    "ParcelReply.is_last": Number(0, 1),
    "ParcelReply.content": Bytes(8 * 2**20),
    "ParcelReply.sha256": Bytes(32),
    "RosterReply.nodes.key": NAME,
    "RosterReply.nodes.value": Bytes(32, 32),
    "SubmitRequest.study": JSON_STUDY,
    "SubmitRequest.contract": JSON_CONTRACT,
    "SubmitRequest.signature": SIGNATURE,
    "SubmitRequest.deadline_s": Number(0, MAX_MOMENT),
    "SubmitRequest.nodes": NAME,
    "SubmitRequest.number": Number(),
    "SubmitRequest.deadline": MOMENT,
    "SubmitRequest.rehearsal": Number(0, 1),
    "SubmitRequest.contracts.key": NAMES,
    "SubmitRequest.contracts.value": JSON_CONTRACT,
    "DraftReply.number": Number(),
    "DraftReply.nodes": NAME,
    "DraftReply.deadline": MOMENT,
    "StudyRequest.study": Text(64, r"[0-9]{1,18}|[a-z0-9][a-z0-9_-]*"),
    "ListRequest.max_studies": Number(0, 1000),
    "NodeState.node": NAME,
    "NodeState.verdict": STATE,
    "NodeState.reason": Shown(),
    "NodeState.online": Number(0, 1),
    "NodeState.people": Number(),
    "Status.number": Number(),
    "Status.study": NAME,
    "Status.study_hash": HASH,
    "Status.coordinator": Shown(63),
    "Status.state": STATE,
    "Status.reason": Shown(20 * MAX_REASON),
    "Status.progress": Shown(),
    "Status.submitted": MOMENT,
    "Status.deadline": MOMENT,
    "Status.started": MOMENT,
    "Status.finished": MOMENT,
    "Status.rounds_done": Number(),
    "Status.rounds_to_come": Number(),
    "Status.seconds_left": Number(0, MAX_MOMENT),
    "ResultReply.document": Text(256 * 2**20),
    "HeldDataset.node": NAME,
    "HeldDataset.dataset": NAMES,
    "HeldDataset.contract": JSON_CONTRACT,
    "HeldDataset.people": Number(),
    "HeldDataset.online": Number(0, 1),
}
MAX_ITEMS = {
    "Hello.holdings": MAX_HOLDINGS,
    "Hello.runs": MAX_RUNS,
    "DatasetsReply.datasets": MAX_NODES * MAX_HOLDINGS,
}  # all other lists and maps: MAX_NODES


def admit(message: Any) -> None:
    """Checks a message of hub.proto, and cleans its texts for people in place. LimitError names the
    first field that breaks its limit."""
    for descriptor, value in message.ListFields():
        name = f"{message.DESCRIPTOR.name}.{descriptor.name}"
        if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
            _admit_map(message, descriptor, name, value)
        elif descriptor.is_repeated:
            _check_size(name, value)
            for i, item in enumerate(value):
                if descriptor.message_type is not None:
                    admit(item)
                else:
                    value[i] = _checked(name, item)
        elif descriptor.message_type is not None:
            admit(value)
        elif (checked := _checked(name, value)) != value:
            setattr(message, descriptor.name, checked)


def _admit_map(message: Any, descriptor: Any, name: str, entries: Any) -> None:
    _check_size(name, entries)
    for key, value in entries.items():
        _checked(f"{name}.key", key)
        _checked(f"{name}.value", value)


def _check_size(name: str, values: Any) -> None:
    if len(values) > (most := MAX_ITEMS.get(name, MAX_NODES)):
        raise LimitError(f"{name} has more than {most} entries")


def _checked(name: str, value: Any) -> Any:
    """The value as it may be used."""
    limit = FIELDS[name]
    if isinstance(limit, Shown):
        return shown(value, limit.max_length)
    if isinstance(limit, Number):
        if not limit.low <= value <= limit.high:  # NaN is in no range
            raise LimitError(f"{name} is not between {limit.low:.12g} and {limit.high:.12g}")
    elif len(value) > limit.max_length:
        raise LimitError(f"{name} is longer than {limit.max_length}")
    elif isinstance(limit, Bytes) and len(value) < limit.min_length:
        raise LimitError(f"{name} is shorter than {limit.min_length}")
    elif isinstance(limit, Text) and limit.pattern and not re.fullmatch(limit.pattern, value):
        raise LimitError(f"{name} is not of its form")
    elif isinstance(limit, Text) and not limit.pattern and limit.max_length <= MAX_REASON:
        named(value, name, max_length=limit.max_length)
    return value
