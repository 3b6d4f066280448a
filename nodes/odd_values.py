"""Values of a source for which no key of `read:` is written, with the remedy of each: codes of
absence, limits of measurement, units, errors of a spreadsheet, numbered answers.

For the producer's own screen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from federation import text
from federation.contract import Column

Values = Sequence[tuple[int, str]]  # the line and the text of each value
ABSENT_WORDS = frozenset(
    [
        *("na", "n/a", "n.a.", "nd", "n.d.", "nr", "n.r.", "nc", "n.c.", "nsp", "nf", "null"),
        *("none", "nan", "#n/a", "#na", "missing", "unknown", "vide", "(vide)", "manquant"),
        *("inconnu", "inconnue", "non connu", "non connue", "non renseigne", "non renseignee"),
        *("non communique", "non disponible", "indisponible", "non fait", "non applicable"),
        *("non realise", "indetermine", "indeterminee", "ne sait pas", "sans objet"),
        *(".", "..", "-", "--", "---", "?", "??", "*", "**", "/"),
    ]
)
SPREADSHEET_ERROR = "#.*[!?/].*|err:[0-9]+"
GARBLED = "accents that were lost in another encoding: export the table again as UTF-8"
IN_A_MAPPING = "in a mapping (docs/mapping.md)"
ODD_NUMBERS: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (
            r"[<>≤≥]=? ?[0-9].*",
            "a limit of measurement: list it among `missing`, or write the number that stands for "
            f"it {IN_A_MAPPING}",
        ),
        (
            SPREADSHEET_ERROR,
            "an error of a spreadsheet: correct its formula, or list it among `missing`",
        ),
        (
            r".*[0-9] ?%",
            f"a percent sign: export the number without it, or take it off {IN_A_MAPPING}",
        ),
        (
            r"\(.*[0-9]\)",
            f"brackets around a number: export a minus sign, or write it {IN_A_MAPPING}",
        ),
        (
            r"[0-9][0-9 .,']*[-\u2212]",
            f"a minus sign behind the number: export it in front, or write it {IN_A_MAPPING}",
        ),
        (
            r"[0-9]+ ?[h:] ?[0-5][0-9].*",
            f"hours and minutes: export them as one number, or convert them {IN_A_MAPPING}",
        ),
        (
            r"[0-9]+ ?([-/]|à|a) ?[0-9]+",
            f"two numbers: declare a category with its levels, or convert them {IN_A_MAPPING}",
        ),
        (
            r"[+-]?[0-9][0-9 .,']* ?([^\W\d_][\w/²³]*[.]?|[€$£µ°][\w/]*)( .*)?",
            f"a unit behind the number: export the number alone, or take it off {IN_A_MAPPING}",
        ),
    )
)
NO_DAY: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (
            r"[2-5][0-9]{4}([.,][0-9]+)?",
            "a number of days, as Excel (from 1900) or SAS (from 1960) keeps dates: export the "
            "column as dates",
        ),
        (r"1[0-9]{9}([0-9]{3})?", f"seconds since 1970: convert them {IN_A_MAPPING}"),
        (
            r"[12][0-9]{3}[-/][01][0-9]|[01]?[0-9][-/][12][0-9]{3}",
            "a month without a day: declare a category or a string, or choose the day "
            f"{IN_A_MAPPING}",
        ),
        (
            r"[12][0-9]{3}",
            f"a year alone: declare `type: integer`, or choose the day {IN_A_MAPPING}",
        ),
        (
            r".* ?[ap][.]?m[.]?",
            f"a time with am or pm: export hours up to 23, or convert them {IN_A_MAPPING}",
        ),
        (r".*[ T]24[:hH]00.*", "24:00, which no day has: export the next day at 00:00"),
    )
)
# Words in pairs of yes and no, which a producer has to confirm.
PAIRS = (
    *(("present", "absent"), ("presente", "absente"), ("positif", "negatif"), ("pos", "neg")),
    *(("+", "-"), ("✓", "✗"), ("ja", "nein"), ("si", "no"), ("decede", "vivant")),
    *(("decedee", "vivante"), ("1", "2"), ("-1", "0"), ("1,0", "0,0"), ("fait", "non fait")),
)


class Odd(NamedTuple):
    """`meaning`: with the remedy."""

    line: int
    value: str
    meaning: str


class Absent(NamedTuple):
    """The first code of absence, and all `codes` that the contract should list."""

    line: int
    value: str
    codes: Sequence[str]


def folded(value: str) -> str:
    return text.plain(value).lower()


def is_absent(value: str) -> bool:
    return folded(value) in ABSENT_WORDS


def is_error(value: str) -> bool:
    """Of a formula that failed; #N/A is a code of absence."""
    return not is_absent(value) and re.fullmatch(SPREADSHEET_ERROR, folded(value)) is not None


def ungarbled(value: str) -> str:
    """The text that was UTF-8, was read as Windows-1252 and saved again, as Ã© for é; any other
    text as it is, also one that has lost letters (U+FFFD)."""
    if value.isascii():
        return value
    try:
        return b"".join(map(_windows_byte, value)).decode()
    except UnicodeError:
        return value


def _windows_byte(character: str) -> bytes:
    """Of the five bytes that Windows-1252 leaves out, the character of the same number."""
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1")


def is_garbled(value: str) -> bool:
    return "\ufffd" in value or ungarbled(value) != value


def garbled(values: Values) -> Iterable[Odd]:
    """The first text whose accents were lost."""
    yield from (Odd(*pair, GARBLED) for pair in [p for p in values if is_garbled(p[1])][:1])


def absent_codes(column: Column, values: Values) -> Absent | None:
    """None if there are none, or if the column holds nothing else."""
    absent = {value: line for line, value in reversed(values) if is_absent(value)}
    absent = {value: line for value, line in absent.items() if value not in column.levels}
    if not absent or len(absent) == len({value for _, value in values}):
        return None
    if column.kind == "boolean" and (pair := pair_of(values)):
        absent = {value: line for value, line in absent.items() if value not in pair}
    if not absent:
        return None
    first = min(absent, key=lambda value: absent[value])
    return Absent(absent[first], first, sorted({*column.missing, *absent}))


def numbers(values: Values) -> Iterable[Odd]:
    """The first of each kind of texts that hold a number, and are none."""
    yield from _firsts(values, ODD_NUMBERS)


def days(values: Values) -> Iterable[Odd]:
    yield from _firsts(values, NO_DAY)


def _firsts(values: Values, kinds: Sequence[tuple[re.Pattern[str], str]]) -> Iterable[Odd]:
    left = [pair for pair in values if not is_absent(pair[1])]
    for pattern, meaning in kinds:
        fitting = [pair for pair in left if pattern.fullmatch(folded(pair[1]))]
        if fitting:
            yield Odd(*fitting[0], meaning)
            left = [pair for pair in left if not pattern.fullmatch(folded(pair[1]))]


def pair_of(values: Values) -> tuple[str, str] | None:
    """The two words of a column that may be a yes and a no, as the source spells them."""
    by_word: dict[str, str] = {}
    for _, value in values:
        by_word.setdefault(folded(value), value)
    answers = [word for word in by_word if word not in ABSENT_WORDS]
    for yes, no in PAIRS:
        if by_word.keys() >= {yes, no} and len({*answers} - {yes, no}) <= 1:
            return by_word[yes], by_word[no]
    return (by_word[answers[0]], by_word[answers[1]]) if len(answers) == 2 else None
