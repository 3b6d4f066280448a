"""The terminologies whose codes a column may hold: the form of a code, and the one spelling in
which codes are compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Terminology:
    """`pattern`: a regular expression of a code in its one spelling. `beginning`: of its first
    characters. `dropped`: characters that a
    source may write inside a code, and that do not count. `longest`: characters of a code; a prefix
    may have fewer. `end`: a regular expression of what may follow a code, and does not count."""

    pattern: str
    example: str
    beginning: str
    dropped: str = " "
    longest: int = 20
    end: str = ""

    def spelled(self, code: str) -> str:
        """The code in capitals, without what does not count."""
        stripped = "".join(letter for letter in code.upper() if letter not in self.dropped)
        return re.sub(f"({self.end})$", "", stripped) if self.end else stripped

    def sql(self, value: str) -> str:
        """The SQL of `spelled`."""
        stripped = f"translate(upper({value}), '{self.dropped}', '')"
        return f"regexp_replace({stripped}, '({self.end})$', '')" if self.end else stripped

    def is_code(self, code: str) -> bool:
        return re.fullmatch(self.pattern, code) is not None

    def is_prefix(self, code: str) -> bool:
        """Whether a code can begin so."""
        return re.fullmatch(self.beginning, code) is not None and len(code) <= self.longest


# A dagger, an asterisk or a dash behind a code of cim-10 is a mark on it: A17.0+, G01*, I21.-
TERMINOLOGIES: Mapping[str, Terminology] = {
    "cim-10": Terminology(
        "[A-Z][0-9]{2}([0-9X+][0-9A-Z+]{0,4})?",
        "I21.0",
        "[A-Z]([0-9]([0-9]([0-9X+][0-9A-Z+]*)?)?)?",
        dropped=" .",
        longest=8,
        end="[-+*†]+",
    ),
    "ccam": Terminology(
        "[A-Z]{4}[0-9]{3}(-[0-9]{2})?",
        "DDQH012",
        "[A-Z]{1,3}|[A-Z]{4}[0-9]{0,3}|[A-Z]{4}[0-9]{3}-[0-9]{0,2}",
        longest=10,
    ),
    "atc": Terminology(
        "[A-Z]([0-9]{2}([A-Z]([A-Z]([0-9]{2})?)?)?)?",
        "A10BA02",
        "[A-Z]([0-9]([0-9]([A-Z]([A-Z]([0-9][0-9]?)?)?)?)?)?",
        longest=7,
    ),
    "cip13": Terminology("34009[0-9]{8}", "3400930000001", "[0-9]+", longest=13, end="[.]0+"),
    "loinc": Terminology("[0-9]{1,7}-[0-9]", "4548-4", "[0-9]{1,7}(-[0-9]?)?", longest=9),
}
DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"))


def ranges(terminology: str | None, written: str) -> list[tuple[str, str]]:
    """The first and last prefix of each part of `I60-I64, G45`, in the one spelling. ValueError if
    a part is none."""
    codes = TERMINOLOGIES.get(terminology or "")
    parts = [part.strip().translate(DASHES) for part in written.split(",")]
    return [_range(codes, part) for part in parts]


def _range(codes: Terminology | None, part: str) -> tuple[str, str]:
    is_loinc = codes is TERMINOLOGIES["loinc"]
    whole = part.removesuffix(".-")  # I21.- is I21 with all that it is divided into
    first, dash, last = (whole, "", "") if is_loinc else whole.partition("-")
    ends = [
        codes.spelled(end) if codes else end.strip() for end in (first, last if dash else first)
    ]
    if not all(ends) or (codes and not all(map(codes.is_prefix, ends))):
        raise ValueError(f"{part!r} is no code or range of codes: write it as in 'I60-I64'")
    if len(ends[0]) != len(ends[1]) or ends[0] > ends[1]:
        raise ValueError(
            f"{part!r} must go from a lower to a higher code of the same length, as in 'I60-I64'"
        )
    return ends[0], ends[1]
