"""One spelling for texts that Unicode can write in several ways."""

from __future__ import annotations

import unicodedata

# Every space of Unicode but the usual one: no-break, thin, figure and ideographic ones among them.
SPACES = (
    "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u202f\u205f\u3000"
)
# Nobody sees them: zero-width space, word joiner, byte order mark, soft hyphen, marks of direction.
INVISIBLE = "\u200b\u2060\ufeff\u00ad\u200e\u200f"
_VISIBLE = str.maketrans(dict.fromkeys(SPACES, " ") | dict.fromkeys(INVISIBLE, ""))


def canonical(value: str) -> str:
    """The text in NFC, with every kind of space as a space, without characters that nobody sees,
    and without spaces at either end. The SQL of `contract_sql` does the same."""
    return unicodedata.normalize("NFC", value.translate(_VISIBLE)).strip(" ")


def folded(value: str) -> str:
    """A form that is equal for texts that differ in width, capitals or kinds of spaces only."""
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split())


def spelled(value: str) -> str:
    """The value in quotes, and the code point of each character outside ASCII and Latin letters."""
    unusual = [
        f"U+{ord(character):04X}"
        for character in value
        if not (character.isascii() and character.isprintable())
    ]
    return repr(value) + (f" ({' '.join(unusual)})" if unusual else "")


def plain(value: str) -> str:
    """The text without accents, its ligatures written as letters."""
    if value.isascii():
        return value
    spread = value.replace("œ", "oe").replace("Œ", "OE").replace("æ", "ae").replace("Æ", "AE")
    decomposed = unicodedata.normalize("NFKD", spread)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))
