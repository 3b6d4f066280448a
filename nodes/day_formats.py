"""How a source writes days: formats such as `dd/mm/yyyy` or `d mmm yyyy`, with or without a time,
and the SQL that reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from federation import text
from federation.expression import quote_text

LETTERS = {"j": "d", "a": "y"}  # jj/mm/aaaa is dd/mm/yyyy
PARTS = re.compile("yyyy|yy|mmm+|mm|dd|hh|ss|m|d")
SEPARATOR = "(?: à |, | |T)"  # between a day and its time
TIME = "([01]?[0-9]|2[0-3])[:hH][0-5][0-9](:[0-5][0-9]([.,][0-9]+)?)?"
COMPACT = {
    "hhmm": "([01][0-9]|2[0-3])[0-5][0-9]",
    "hhmmss": "([01][0-9]|2[0-3])[0-5][0-9][0-5][0-9]",
}
OFFSET = " ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)"
ISO_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
# In French and in English, without accents and points.
MONTHS: Sequence[Sequence[str]] = (
    ("jan", "janv", "janvier", "january"),
    ("fev", "fevr", "fevrier", "feb", "february"),
    ("mar", "mars", "march"),
    ("avr", "avril", "apr", "april"),
    ("mai", "may"),
    ("juin", "jun", "june"),
    ("juil", "juill", "juillet", "jul", "july"),
    ("aou", "aout", "aug", "august"),
    ("sep", "sept", "septembre", "september"),
    ("oct", "octobre", "october"),
    ("nov", "novembre", "november"),
    ("dec", "decembre", "december"),
)
MONTH = "mmm"  # the piece of a month's name
WEEKDAY = "(?:(?:lun|mar|mer|jeu|ven|sam|dim)(?:di|credi|dredi|edi|anche)?[.]?,? )?"


@dataclass(frozen=True)
class DateFormat:
    """`written`: as in the file, with `dd`, `mm` or `mmm` (a month's name), `yyyy` or `yy` (or the
    French letters). `pieces`: its parts and the characters between them. `time`: the regular
    expression of what follows the day."""

    written: str
    pieces: tuple[str, ...]
    time: str = ""

    @property
    def pattern(self) -> str:
        """The regular expression of a whole value; each part of the day is a group."""
        if MONTH not in self.pieces:
            day = "".join(_GROUPS.get(piece, re.escape(piece)) for piece in self.pieces)
            return day + self.time
        named = {**_GROUPS, "d": "([0-9]{1,2})(?:er)?"}
        day = "".join(named.get(piece, re.escape(piece)) for piece in self.pieces)
        return f"(?i){WEEKDAY}{day}{self.time}"

    @property
    def shape(self) -> str:
        """Two formats of one shape fit the same texts."""
        sizes = {MONTH: "A"}
        return self.time + "".join(
            sizes.get(piece, "0" * max(len(piece), 2)) if piece in _GROUPS else piece
            for piece in self.pieces
        )

    @property
    def parts(self) -> list[str]:
        return [piece for piece in self.pieces if piece in _GROUPS]

    def iso(self, value: str, first_year: int | None) -> str:
        """The SQL of the ISO text of `value`, an SQL text that fits the pattern."""
        pieces = {
            part[0]: f"regexp_extract({value}, {quote_text(self.pattern)}, {number})"
            for number, part in enumerate(self.parts, 1)
        }
        if all(piece not in ("m", "d", MONTH) for piece in self.pieces):
            pieces = {
                part[0]: f"substr({value}, {start + 1}, {len(part)})"
                for part, start in self._places()
            }
        year = pieces["y"]
        if "yy" in self.pieces:
            assert first_year is not None
            ahead = f"(CAST({year} AS INTEGER) - {first_year % 100} + 100) % 100"
            year = f"CAST({first_year} + {ahead} AS VARCHAR)"
        month, day = (
            f"lpad({pieces[part]}, 2, '0')" if part in self.pieces else pieces[part]
            for part in "md"
        )
        month = _number_of(month) if MONTH in self.pieces else month
        return f"concat({year}, '-', {month}, '-', {day})"

    def fits(self, value: str) -> str:
        """The SQL of the condition that `value` has this form. Where a wrong digit cannot become
        another day, positions suffice: the contract's SQL compares the day with its text."""
        between = "".join(piece for piece in self.pieces if piece not in _GROUPS)
        if self.time or {"yy", "m", "d", MONTH} & set(self.pieces) or set("_%") & set(between):
            return f"regexp_full_match({value}, {quote_text(self.pattern)})"
        places = "".join("_" * len(piece) if piece in _GROUPS else piece for piece in self.pieces)
        return f"{value} LIKE {quote_text(places)}"

    def _places(self) -> Iterable[tuple[str, int]]:
        start = 0
        for piece in self.pieces:
            if piece in _GROUPS:
                yield piece, start
            start += len(piece)


_GROUPS = {
    "yyyy": "([0-9]{4})",
    "yy": "([0-9]{2})",
    "mm": "([0-9]{2})",
    "dd": "([0-9]{2})",
    "m": "([0-9]{1,2})",
    "d": "([0-9]{1,2})",
    MONTH: "([a-zéèûôî]{3,9})[.]?",
}


def _number_of(name: str) -> str:
    """The SQL of a month's two digits from the SQL of its name; an unknown name gives none, and
    then no day."""
    cases = " ".join(
        f"WHEN {quote_text(spelling)} THEN '{number:02d}'"
        for number, spellings in enumerate(MONTHS, 1)
        for spelling in spellings
    )
    return f"CASE strip_accents(lower({name})) {cases} ELSE '' END"


def month_number(name: str) -> int:
    """The month of a name; 0 for a word that is none."""
    spelling = text.plain(name).lower()
    return next((number for number, each in enumerate(MONTHS, 1) if spelling in each), 0)


def date_format(written: str) -> DateFormat:
    """ValueError unless it names each of day, month and year once."""
    letters = "".join(LETTERS.get(letter, letter) for letter in written.strip().lower())
    letters = re.sub("mmm+", MONTH, letters)
    pieces = tuple(piece for piece in re.split(f"({PARTS.pattern})", letters) if piece)
    parts = [piece[0] for piece in pieces if piece in _GROUPS]
    others = "".join(piece for piece in pieces if piece not in _GROUPS)
    if sorted(parts) != ["d", "m", "y"] or re.search(r"[A-Za-z0-9%]", others):
        raise ValueError(f"{written!r} is no format of a day: write it as in dd/mm/yyyy")
    return DateFormat(written, pieces)


def moment_format(written: str) -> DateFormat:
    """The format of a day and a time, of which the day counts. ValueError if the time is not hh:mm
    or hh:mm:ss, or hhmm or hhmmss at the end of yyyymmdd."""
    compact = re.fullmatch("((?:yyyy|aaaa)mm(?:dd|jj))(hhmm(?:ss)?)", written.strip().lower())
    if compact:
        return replace(date_format(compact[1]), written=written, time=COMPACT[compact[2]])
    day, time = _divided(written.strip())
    if not re.fullmatch("hh[:h]mm(:ss)?", time.lower()):
        raise ValueError(
            f"{written!r} is no format of a day and a time: write it as in dd/mm/yyyy hh:mm"
        )
    return replace(date_format(day), written=written, time=SEPARATOR + TIME)


def _divided(written: str) -> tuple[str, str]:
    """Day and time, at the last separator; a day with a month's name holds spaces itself."""
    pieces = re.fullmatch(f"(.*?){SEPARATOR}([hH][^ ]*)", written)
    return (pieces[1], pieces[2]) if pieces else (written, "")
