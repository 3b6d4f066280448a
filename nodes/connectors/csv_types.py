"""The columns of a CSV file that DuckDB reads in their own types: those whose bytes show that it
reads each value as `reading` and `contract_sql` would. The others are read as texts.

DuckDB takes 1_000 for 1000, +-5 for -5, 1 00,5 for 100.5, 7/5/23 for the year 23 and epoch for a
day. A rule finds such spellings in the bytes, and their columns stay texts. A value that DuckDB
cannot read at all ends its reading, and the caller reads that column again as a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import or_

import numpy as np

from federation.contract import Column
from federation.expression import quote_text
from nodes import day_formats
from nodes.connectors.bits import Bits, Bytes
from nodes.site import Dataset

NUMBER, DAY, TRUTH = "DOUBLE", "DATE", "BOOLEAN"
ISO = "yyyy-mm-dd"
DIRECTIVES: Mapping[str, str] = {"yyyy": "%Y", "mm": "%m", "dd": "%d"}
SEPARATORS = ("/", "-", ".")
WHOLE, POINTED = re.compile("[+-]?[0-9]+"), re.compile(r"[+-]?[0-9]+\.[0-9]+")


@dataclass(frozen=True)
class Text:
    """A block of the file, and the sets of its bytes that rules ask for."""

    block: bytes
    delimiter: str
    sets: dict[str, Bits] = field(default_factory=dict)

    @cached_property
    def array(self) -> Bytes:
        return np.frombuffer(self.block, np.uint8)

    def of(self, characters: str) -> Bits:
        """The places of any of the characters."""
        places = [self._of_one(character) for character in characters]
        return reduce(or_, places)

    def _of_one(self, character: str) -> Bits:
        if character not in self.sets:
            is_here = character.encode() in self.block
            self.sets[character] = (
                Bits.where(self.array == ord(character)) if is_here else Bits.none(len(self.block))
            )
        return self.sets[character]

    @cached_property
    def digits(self) -> Bits:
        return Bits.where((self.array - np.uint8(ord("0"))) < 10)

    @cached_property
    def borders(self) -> Bits:
        """The bytes that stand before or after a value."""
        return self.of(f'{self.delimiter}\r\n"')

    @cached_property
    def starts(self) -> Bits:
        """The first bytes of values."""
        return self.borders.after(1).with_first()

    def has_any(self, characters: str) -> bool:
        return any(character.encode() in self.block for character in characters)

    def has_pair(self, letters: str) -> bool:
        """Do these two small letters stand here side by side, perhaps as capitals? True also where
        two other characters differ from them as a capital does."""
        folded = self._folded
        pair = np.frombuffer(letters.encode(), np.uint16)
        size = len(folded)
        aligned = (folded[start : start + (size - start) // 2 * 2] for start in (0, 1))
        return any(bool((part.view(np.uint16) == pair).any()) for part in aligned)

    @cached_property
    def _folded(self) -> Bytes:
        return self.array | np.uint8(0x20)


@dataclass(frozen=True)
class Rule:
    """`may_break`: could a block break the rule? It costs less than `broken`. `columns`: their
    places in the header. `broken`: the places of a block where DuckDB could read another value in
    such a column."""

    may_break: Callable[[Text], bool]
    columns: frozenset[int]
    broken: Callable[[Text], Bits]


@dataclass(frozen=True)
class Plan:
    """`types`: by the column's place in the header. `options`: DuckDB's, which these types need."""

    types: Mapping[int, str] = field(default_factory=dict)
    options: str = ""
    rules: Sequence[Rule] = ()


AS_TEXT = Plan()


def plan(dataset: Dataset, names: Sequence[str], wanted: Iterable[str]) -> Plan:
    """`names`: of the header. `wanted`: the contract's columns to be read. A condition that chooses
    rows was written for texts."""
    if dataset.rows_where is not None:
        return AS_TEXT
    columns = {name: dataset.contract.columns[name] for name in wanted if _has(dataset, name)}
    chosen = {
        dataset.read.written(name): type_of(column, dataset) for name, column in columns.items()
    }
    types = {
        names.index(header): chosen[header]
        for header in chosen
        if chosen[header] and names.count(header) == 1
    }
    return Plan(types, _options(dataset), list(_rules(dataset, types)))


def _has(dataset: Dataset, name: str) -> bool:
    return name in dataset.contract.columns


def type_of(column: Column, dataset: Dataset) -> str:
    """DuckDB's type; empty where the column is to be read as text."""
    read = dataset.read
    if column.kind == "number" and all(_is_numeric(code, dataset) for code in column.missing):
        return NUMBER
    if column.missing:
        return ""
    if column.kind == "boolean" and not read.yes:
        return TRUTH
    if column.kind == "date" and _day(dataset) is not None:
        return DAY
    return ""


def _is_numeric(code: str, dataset: Dataset) -> bool:
    """Is the code of absence the same value as a number?"""
    plain = (dataset.read.decimal, dataset.read.thousands) == (".", None)
    return bool(WHOLE.fullmatch(code) or (plain and POINTED.fullmatch(code)))


def _day(dataset: Dataset) -> day_formats.DateFormat | None:
    """The one format of days, if each of its parts has its full width."""
    read = dataset.read
    if read.datetime or read.time_zone or len(read.date) > 1:
        return None
    day = day_formats.date_format(read.date[0] if read.date else ISO)
    between = day.pieces[1::2]
    is_full = set(day.pieces[::2]) == set(DIRECTIVES) and len(between) == 2
    return day if is_full and between[0] == between[1] and between[0] in SEPARATORS else None


def _options(dataset: Dataset) -> str:
    day, read = _day(dataset), dataset.read
    options: dict[str, str | None] = {
        "decimal_separator": read.decimal,
        "thousands": read.thousands,
    }
    if day is not None:
        options["dateformat"] = "".join(DIRECTIVES.get(piece, piece) for piece in day.pieces)
    return "".join(f", {key} = {quote_text(value)}" for key, value in options.items() if value)


# -- the rules
def _rules(dataset: Dataset, types: Mapping[int, str]) -> Iterable[Rule]:
    numbers = frozenset(at for at, kind in types.items() if kind == NUMBER)
    days = frozenset(at for at, kind in types.items() if kind == DAY)
    decimal, thousands = dataset.read.decimal, dataset.read.thousands
    if numbers:
        yield Rule(_with("_"), numbers, _underscored)
        yield Rule(_with("+"), numbers, lambda text: text.of("+") & text.of("-").before(1))
    if numbers and thousands is not None:
        yield Rule(_with(thousands), numbers, lambda text: _ungrouped(text, thousands, decimal))
        yield Rule(_with("eE"), numbers, lambda text: _exponents(text, decimal))
    day = _day(dataset)
    if days and day is not None:
        yield Rule(_with("hH", "ch"), days, lambda text: _side_by_side(text, "cC", "hH"))
        yield Rule(_with("fF", "nf"), days, lambda text: _side_by_side(text, "nN", "fF"))
        yield Rule(_with(day.pieces[1]), days, lambda text: _other_days(text, day))


def _with(characters: str, pair: str = "") -> Callable[[Text], bool]:
    return lambda text: text.has_any(characters) and (not pair or text.has_pair(pair))


def _underscored(text: Text) -> Bits:
    return text.of("_") & text.digits.after(1) & text.digits.before(1)


def _ungrouped(text: Text, mark: str, decimal: str) -> Bits:
    """The marks that do not stand between one to three digits, or a group, and a group of three."""
    marks, digits = text.of(mark), text.digits
    first = text.starts | (text.of("+-") | marks).after(1)  # where a run of digits may begin
    one_digit = digits.after(1)
    two_digits = one_digit & digits.after(2)
    three_digits = two_digits & digits.after(3)
    before = (
        (one_digit & first.after(1))
        | (two_digits & first.after(2))
        | (three_digits & first.after(3))
    )
    group = digits.before(1) & digits.before(2) & digits.before(3)
    end = (text.borders | marks | text.of(decimal)).before(4)
    return marks - (before & group & end)


def _exponents(text: Text, decimal: str) -> Bits:
    before = (text.digits | text.of(decimal)).after(1)
    return text.of("eE") & before & (text.digits | text.of("+-")).before(1)


def _side_by_side(text: Text, first: str, second: str) -> Bits:
    """Where `epoch` and `infinity` can be, which DuckDB reads as days in any format."""
    return text.of(second) & text.of(first).after(1)


def _other_days(text: Text, day: day_formats.DateFormat) -> Bits:
    """The separators outside a whole value of the format. No day begins with a separator."""
    separators, start = text.of(day.pieces[1]), text.starts
    two_digits = text.digits & text.digits.before(1)
    of_width = {2: two_digits, 4: two_digits & two_digits.before(2)}
    matches, at, inside = start, 0, []
    for piece in day.pieces:
        is_part = piece in DIRECTIVES
        matches &= (of_width[len(piece)] if is_part else separators).before(at)
        if not is_part:
            inside.append(at)
        at += len(piece)
    matches &= text.borders.before(at)
    for place in inside:
        separators -= matches.after(place)
    return separators - start
