"""The terminologies whose codes a column may hold: the form of a code, and the one spelling in
which codes are compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Terminology:
    """`pattern`: a regular expression of a code in its one spelling. `dropped`: characters that a
    source may write inside a code, and that do not count. `longest`: characters of a code; a prefix
    may have fewer."""

    pattern: str
    example: str
    dropped: str = " "
    longest: int = 20

    def spelled(self, code: str) -> str:
        """The code in capitals, without the characters that do not count."""
        return "".join(letter for letter in code.upper() if letter not in self.dropped)

    def sql(self, value: str) -> str:
        """The SQL of `spelled`."""
        return f"translate(upper({value}), '{self.dropped}', '')"

    def is_prefix(self, code: str) -> bool:
        return re.fullmatch(r"[0-9A-Z+-]+", code) is not None and len(code) <= self.longest


TERMINOLOGIES: Mapping[str, Terminology] = {
    "cim-10": Terminology("[A-Z][0-9]{2}[0-9A-Z+]{0,5}", "I21.0", dropped=" .", longest=8),
    "ccam": Terminology("[A-Z]{4}[0-9]{3}", "DDQH012", longest=7),
    "atc": Terminology("[A-Z]([0-9]{2}([A-Z]([A-Z]([0-9]{2})?)?)?)?", "A10BA02", longest=7),
    "cip13": Terminology("34009[0-9]{8}", "3400930000001", longest=13),
    "loinc": Terminology("[0-9]{1,7}-[0-9]", "4548-4", longest=9),
}


def ranges(terminology: str | None, written: str) -> list[tuple[str, str]]:
    """The first and last prefix of each part of `I60-I64, G45`, in the one spelling. ValueError if
    a part is none."""
    codes = TERMINOLOGIES.get(terminology or "")
    parts = [part.strip() for part in written.split(",")]
    return [_range(codes, part) for part in parts]


def _range(codes: Terminology | None, part: str) -> tuple[str, str]:
    is_loinc = codes is TERMINOLOGIES["loinc"]
    first, dash, last = (part, "", "") if is_loinc else part.partition("-")
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
