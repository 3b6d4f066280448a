"""Identifiers in one spelling: two holders that write a person's
identifier differently get one block.

A block is 16 bytes. `nir13` and `date` are short enough to stand in the block themselves, so
different identifiers never share a block; `text` is hashed. The first bit of a block is 0; made-up
people have 1, so none of them can be a person.

VERSION names these rules. Both contracts of a link state it,
since blocks of two versions do not match.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from federation import text

Form = Literal["nir13", "text", "date"]
Blocks = NDArray[np.uint8]
VERSION = 2
SIZE = 16

_SEPARATORS = re.compile(r"[\s./-]+")
_TYPEWRITER = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201b\u02b9\u02bb\u02bc\u02bd\u2032\u00b4`", "'")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
    | {"\u0153": "oe", "\u0152": "OE", "\u00e6": "ae", "\u00c6": "AE"}
)
_NIR = re.compile(r"[1-8][0-9]{4}(?:[0-9]{2}|2[AB])[0-9]{6}")
_CORSICA = {"2A": "19", "2B": "18"}
_MIDNIGHT = r"(?:[T ]00:00(?::00(?:\.0+)?)?Z?)?"
_DAY = re.compile(r"(\d{4})([-/.]?)(\d{2})\2(\d{2})" + _MIDNIGHT)
_FRENCH_DAY = re.compile(r"(\d{1,2})([-/. ])(\d{1,2})\2(\d{4})" + _MIDNIGHT)


def normalise(form: Form, value: object) -> str | None:
    """The one spelling of an identifier; None if it is missing or not of that form. Idempotent."""
    if value is None or value != value:  # NaN
        return None
    return _NORMALISE[form](str(value))


def nir13(value: str) -> str | None:
    """A French NIR as its 13 characters, without separators; its control key is checked if present.

    Corsican departments stay 2A and 2B. They count as 19 and 18 in the control key only: as an
    identifier, 19 is Correze and 18 is Cher,
    where another person may have the same other digits."""
    compact = _SEPARATORS.sub("", _typed(value)).upper()
    body, key = compact[:13], compact[13:]
    if not compact.isascii() or not _NIR.fullmatch(body) or len(key) not in (0, 2):
        return None
    if key and not (key.isdigit() and int(key) == control_key(body)):
        return None
    return body


def control_key(nir: str) -> int:
    """97 minus the number mod 97, Corsican departments counted as 19 (2A) and 18 (2B)."""
    digits = nir[:5] + _CORSICA.get(nir[5:7], nir[5:7]) + nir[7:]
    return 97 - int(digits) % 97


def plain_text(value: str) -> str | None:
    """NFKC, upper case, single spaces, and the characters of a typewriter. Accents stay: two names
    that differ by one may be two people. So do hyphens, and the dot of a Turkish I."""
    spelled = " ".join(_typed(_typed(value).upper()).split())
    return spelled or None


def _typed(value: str) -> str:
    """The text as a typewriter writes it: one apostrophe, one hyphen, no ligature, no character of
    another width. A program puts the others in by itself, and not in every table."""
    compatible = unicodedata.normalize("NFKC", text.canonical(value).translate(_TYPEWRITER))
    return unicodedata.normalize("NFKC", compatible.translate(_TYPEWRITER))


def day(value: str) -> str | None:
    """A date as YYYY-MM-DD, from that spelling, YYYYMMDD or DD/MM/YYYY; their separators may be
    any, and a time of day midnight."""
    stripped = _typed(value).strip()
    if iso := _DAY.fullmatch(stripped):
        year, month, of_month = iso[1], iso[3], iso[4]
    elif french := _FRENCH_DAY.fullmatch(stripped):
        year, month, of_month = french[4], french[3], french[1]
    else:
        return None
    try:
        return date(int(year), int(month), int(of_month)).isoformat()
    except ValueError:
        return None


_NORMALISE: Mapping[Form, Callable[[str], str | None]] = {
    "nir13": nir13,
    "text": plain_text,
    "date": day,
}


def blocks(form: Form, values: Sequence[object]) -> tuple[Blocks, NDArray[np.bool_]]:
    """(n, 16) blocks of identifiers, and which of them (n,) are usable. Unusable ones are zeros."""
    block_of: dict[object, bytes | None] = {}
    for value in values:
        if value not in block_of:  # dates, communes and first names repeat
            spelled = normalise(form, value)
            block_of[value] = None if spelled is None else block(form, spelled)
    entries = [block_of[value] for value in values]
    content = b"".join(entry or bytes(SIZE) for entry in entries)
    table = np.frombuffer(content, np.uint8).reshape(-1, SIZE)
    return table, np.array([entry is not None for entry in entries], np.bool_)


def block(form: Form, spelled: str) -> bytes:
    """The 16 bytes of a normalised identifier."""
    content = spelled.encode()
    if form != "text":
        return content.ljust(SIZE, b"\0")
    digest = hashlib.sha256(content).digest()[:SIZE]
    return bytes([digest[0] & 0x7F]) + digest[1:]
