"""The structure of a CSV file under RFC 4180, checked over the whole file before DuckDB reads it.

Nothing is inferred from a sample. The header line gives the columns and the delimiter; every record
below it needs as many fields as the header; a value that holds a delimiter, a quote or a line
ending is quoted as a whole, with its quotes doubled. The records are counted, so that the rows that
DuckDB reads can be compared with the file.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from federation import text
from federation.arrays import Ints
from federation.expression import quote_text
from nodes.connectors import csv_types
from nodes.connectors.bits import Bits, Bytes, Flags
from nodes.connectors.csv_types import AS_TEXT, Plan, Text

DELIMITERS = ",;\t|"
LF, CR, QUOTE = 10, 13, 34
BLOCK_BYTES = 1 << 19  # the arrays of a block fit the processor's cache
MAX_RECORD_BYTES = 1 << 26
MAX_VALUE_BYTES = 2_000_000  # of one record, which DuckDB holds in a buffer of sixteen of them
MAX_PROBLEMS = 5  # named one by one; the others are counted
NOT_UTF8 = (
    "not UTF-8 text: save the file as UTF-8, or write its encoding as in `read: {encoding: cp1252}`"
)
NUL_BYTE = "a NUL byte, so the file is damaged or not text: export it again as CSV"
CUT_OFF = "the file is cut off, or damaged: copy it again"
NOTE = "if it is a note or a comment, take it out of the file"
SHORT = "if a line ending stands in a value, quote the value"
WIDE = "if a value holds the delimiter, quote the value"
END = f"{WIDE}; if all records end with the delimiter, end the header's line with it, too"
TOO_LONG = (
    "more than 2 MB in one record: correct its quotes, or leave the long column out of the export"
)
_ENDINGS = {"CR": b"\r", "LF": b"\n", "CRLF": b"\r\n"}
QUOTES_AND_SPACES = {ord(character): None for character in '" '}
OTHER_KINDS = {
    b"\xff\xfe\0\0": "UTF-32: save it as UTF-8",
    b"PK\x03\x04": "an archive or a workbook: give it its own name, as in .xlsx or .zip",
    b"\xd0\xcf\x11\xe0": "an older workbook of Excel: give it the name .xls",
    b"\x1f\x8b": "compressed: give it the name .csv.gz",
    b"PAR1\x15": "a Parquet file: give it the name .parquet",
    b"%PDF": "a PDF: export the table as CSV",
    b"SQLite format 3": "a database of SQLite: read it in a mapping (docs/mapping.md)",
    b"$FL2": "a file of SPSS: give it the name .sav",
}
BOM, UTF16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


class MalformedCsvError(ValueError):
    """The file is not one table.
    `problems`: one sentence for each, with its line and no value of a row."""

    def __init__(self, *problems: str) -> None:
        self.problems: Sequence[str] = problems
        super().__init__("\n".join(problems))


@dataclass(frozen=True)
class Dialect:
    """What the producer declares. `delimiter`: None if the header shows it. `first_line`: the
    number of the header's line in the producer's file."""

    delimiter: str | None = None
    first_line: int = 1


@dataclass(frozen=True)
class Header:
    """`names`: the columns, canonically spelled, in file order.
    `lengths`: bytes of the BOM and the record."""

    names: tuple[str, ...]
    delimiter: str
    lengths: tuple[int, int]
    record: bytes


@dataclass(frozen=True)
class Layout:
    """How to read a whole file. `records`: rows below the header. `one_ending`: do all records end
    alike? Where they do not, DuckDB loses letters, and reads the copy that
    `write_with_one_ending` makes. `types`: of the columns, by their place in the header, that
    DuckDB may read in their own type; `options`: DuckDB's, for those types."""

    header: Header
    records: int
    one_ending: bool
    types: Mapping[int, str] = field(default_factory=dict)
    options: str = ""

    def relation(self, path: Path, types: Mapping[int, str] | None = None) -> str:
        """The SQL of the file's rows, its columns under their places, as text except those of
        `types`; with an option for everything that DuckDB would guess otherwise."""
        header, types = self.header, types or {}
        raw = ", ".join(f"'c{i}': '{types.get(i, 'VARCHAR')}'" for i in range(len(header.names)))
        options = (
            f"auto_detect = false, header = true, delim = {quote_text(header.delimiter)}, "
            "quote = '\"', escape = '\"', comment = '', skip = 0, nullstr = '', "
            "null_padding = false, ignore_errors = false, strict_mode = true, parallel = true, "
            f"max_line_size = {MAX_VALUE_BYTES}, columns = {{{raw}}}"
            f"{self.options if types else ''}"
        )
        return f"read_csv({quote_text(str(path))}, {options})"


def read_header(path: Path, expected: Collection[str], dialect: Dialect = Dialect()) -> Header:
    """The header line. `expected`: the contract's columns;
    they decide where it holds several delimiters."""
    with _opened(path) as stream:
        return _header(next(_blocks(stream), b""), expected, dialect)


def inspect(
    path: Path,
    expected: Collection[str],
    dialect: Dialect = Dialect(),
    plan: Callable[[Sequence[str]], Plan] = lambda names: AS_TEXT,
) -> Layout:
    """The layout of the whole file; MalformedCsvError with the lines that break it. `plan`: of the
    columns' types, from the header's names."""
    with _opened(path) as stream:
        blocks = _blocks(stream)
        first = next(blocks, b"")
        header = _header(first, expected, dialect)
        planned = plan(header.names)
        scan = _Scan(header, planned.rules, endings={_ending(first[: sum(header.lengths)])})
        above = _count_lines(first[: sum(header.lengths)])
        scan.check(first[sum(header.lengths) :], line=dialect.first_line + above)
        for block in blocks:
            scan.check(block, scan.next_line)
    if scan.problems:
        more = scan.broken - len(scan.problems)
        raise MalformedCsvError(*scan.problems, *([f"and {more} more like these"] if more else []))
    types = {at: kind for at, kind in planned.types.items() if at not in scan.texts}
    return Layout(header, scan.records, len(scan.endings) <= 1, types, planned.options)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if path.suffix == ".gz":
        with gzip.open(path) as unpacked:
            yield cast(BinaryIO, unpacked)
    else:
        with path.open("rb") as stream:
            yield stream


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    """The file in pieces, each of which ends where a record ends; the last piece gets the file's
    line ending if it lacks one."""
    rest, ending = b"", b"\n"
    try:
        while piece := stream.read(BLOCK_BYTES):
            rest += piece
            end = len(rest) if len(rest) > MAX_RECORD_BYTES else _last_end(rest)
            if end:
                yield rest[:end]
                ending = _ENDINGS[_ending(rest[:end])]
                rest = rest[end:]
    except (EOFError, zlib.error):
        raise MalformedCsvError(CUT_OFF) from None
    if rest:
        if b"\n" in rest or b"\r" in rest:
            ending = _ENDINGS["CRLF" if b"\r\n" in rest else "LF" if b"\n" in rest else "CR"]
        yield rest if rest.endswith((b"\n", b"\r")) else rest + ending


def _ending(record: bytes) -> str:
    return "CRLF" if record.endswith(b"\r\n") else "CR" if record.endswith(b"\r") else "LF"


def write_with_one_ending(path: Path, copy: Path) -> None:
    """A copy whose records all end with LF. Line endings inside quotes are values, and stay."""
    with _opened(path) as stream, copy.open("wb") as out:
        for block in _blocks(stream):
            text = Text(block, DELIMITERS[0])
            quoted = text.of('"').odd()
            outside = (text.of("\r\n") - quoted).places()
            ends = (_ends(text) - quoted).places()
            changed = text.array.copy()
            changed[ends] = LF
            out.write(np.delete(changed, np.setdiff1d(outside, ends)).tobytes())


def _last_end(block: bytes) -> int:
    """Where the last whole record ends; 0 if none does."""
    ending = b"\n" if b"\n" in block else b"\r"
    limit = len(block) if ending == b"\n" else len(block) - 1  # a final CR may be half of a CRLF
    if b'"' not in block:
        return block.rfind(ending, 0, limit) + 1
    at, quotes = limit, block.count(b'"', 0, limit)
    while (before := block.rfind(ending, 0, at)) >= 0:
        quotes -= block.count(b'"', before, at)
        if quotes % 2 == 0:
            return before + 1
        at = before
    return 0


def _count_lines(block: bytes) -> int:
    return block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")


def _header(block: bytes, expected: Collection[str], dialect: Dialect) -> Header:
    if other := other_kind(block):
        raise MalformedCsvError(other)
    first = f"line {dialect.first_line}"
    bom = len(BOM) if block.startswith(BOM) else 0
    record = _first_record(block[bom:])
    content = record.rstrip(b"\r\n")
    if content.lower().startswith(b"sep="):
        raise MalformedCsvError(
            f"{first} tells a spreadsheet the delimiter: write `read: {{skip: 1}}`,"
            " or remove the line"
        )
    if b"\0" in content:
        raise MalformedCsvError(f"{first}: {NUL_BYTE}")
    if not content:
        raise MalformedCsvError(
            f"{first} is empty: it must name the columns; `read: {{skip: N}}` leaves out N lines "
            "above them"
        )
    try:
        line = content.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedCsvError(f"{first}: {NOT_UTF8}") from None
    delimiters = _delimiters(line) if dialect.delimiter is None else [dialect.delimiter]
    readings = {delimiter: _names(line, delimiter, first) for delimiter in delimiters}
    matches = {
        delimiter: len(set(expected).intersection(names)) for delimiter, names in readings.items()
    }
    best = [delimiter for delimiter, count in matches.items() if count == max(matches.values())]
    if len(best) > 1:
        raise MalformedCsvError(
            f"{first}: the header holds {' and '.join(map(repr, best))}, and either could be the "
            "delimiter: write `read: {delimiter: ...}`, or use the contract's column names"
        )
    return Header(readings[best[0]], best[0], (bom, len(record)), content)


def other_kind(block: bytes) -> str:
    """What a file is that is no text in one byte a letter; empty for a text."""
    kind = next((kind for start, kind in OTHER_KINDS.items() if block.startswith(start)), "")
    if kind:
        return f"the file is {kind}"
    if block.startswith(UTF16):
        return "the file is UTF-16: save it as UTF-8, or write `read: {encoding: utf-16}`"
    if block.lstrip()[:1] == b"<":
        return (
            "the file is HTML or XML under the name of a text file: open it in a spreadsheet, and "
            "export it as CSV"
        )
    wide = utf16_without_mark(block)
    return (
        f"the file is UTF-16 without its mark: write `read: {{encoding: {wide}}}`" if wide else ""
    )


def utf16_without_mark(block: bytes) -> str:
    """The encoding of a text in which every second byte is 0; empty if it is none."""
    start = np.frombuffer(block[:2000], np.uint8)
    even, odd = start[0::2], start[1::2]
    if len(start) < 20 or not start.any():
        return ""
    is_zero = [float((part == 0).mean()) for part in (even, odd)]
    if max(is_zero) < 0.7 or min(is_zero) > 0.1:
        return ""
    return "utf-16-be" if is_zero[0] > is_zero[1] else "utf-16-le"


def _first_record(block: bytes) -> bytes:
    """The bytes up to the first line ending outside quotes, with it."""
    text = Text(block, DELIMITERS[0])
    ends = (_ends(text) - text.of('"').odd()).places()
    return block[: int(ends[0]) + 1] if len(ends) else block


def _delimiters(line: str) -> list[str]:
    """Those that stand outside quotes; the comma where none does."""
    outside = "".join(line.split('"')[::2])
    return [delimiter for delimiter in DELIMITERS if delimiter in outside] or [","]


def _names(line: str, delimiter: str, first: str) -> tuple[str, ...]:
    try:
        (names,) = csv.reader(io.StringIO(line, newline=""), delimiter=delimiter, strict=True)
    except (csv.Error, ValueError):
        raise MalformedCsvError(
            f"{first}: a quoted name does not end, or text follows its end"
        ) from None
    return tuple(map(text.canonical, names))


def _ends(text: Text) -> Bits:
    """The last byte of each line ending: LF, CRLF, or CR alone."""
    if b"\r" not in text.block:
        return text.of("\n")
    return text.of("\n") | (text.of("\r") - text.of("\n").before(1))


@dataclass
class _Scan:
    """The records of a file, counted and checked block by block. `texts`: the columns that one of
    `rules` keeps as text."""

    header: Header
    rules: Sequence[csv_types.Rule] = ()
    records: int = 0
    next_line: int = 1
    broken: int = 0
    endings: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    texts: set[int] = field(default_factory=set)

    def check(self, block: bytes, line: int) -> None:
        """`line`: the number of the block's first line."""
        text = Text(block, self.header.delimiter)
        array, delimiters, lines = text.array, text.of(text.delimiter), _ends(text).places()
        ends, misplaced = lines, []
        if b'"' in block:
            misplaced = _bad_quotes(text)
            quoted = text.of('"').odd()
            delimiters, ends = delimiters - quoted, lines[~quoted.has(lines)]
        problems = _bad_text(block)
        if not misplaced:  # else the quotes say nothing reliable about the fields
            counts = delimiters.count_before(ends)
            problems += self._widths(array, ends, np.diff(counts, prepend=0) + 1)
            problems += self._joined(block, array, ends)
            self._keep_texts(text, delimiters, ends)
        for at, problem in sorted([*problems, *misplaced[:1]]):
            self.broken += 1
            if len(self.problems) < MAX_PROBLEMS:
                self.problems.append(f"line {line + int(np.searchsorted(lines, at))}: {problem}")
        self.next_line = line + len(lines)

    def _keep_texts(self, text: Text, delimiters: Bits, ends: Ints) -> None:
        """`ends` (n_records,): the last byte of each record."""
        for rule in self.rules:
            if rule.columns <= self.texts or not rule.may_break(text):
                continue
            places = rule.broken(text).places()
            if len(places):
                first = np.concatenate([[0], delimiters.count_before(ends)])
                before = first[np.searchsorted(ends, places)]
                columns = np.bincount(delimiters.count_before(places) - before)
                self.texts |= rule.columns.intersection(np.flatnonzero(columns).tolist())

    def _widths(self, array: Bytes, ends: Ints, widths: Ints) -> list[tuple[int, str]]:
        """`ends` (n_records,): the last byte of each record; `widths` (n_records,): its fields."""
        width = len(self.header.names)
        self._note_endings(array, ends)
        off = np.flatnonzero(widths != width) if width > 1 else np.arange(len(ends))
        starts = np.where(off > 0, ends[off - 1] + 1, 0)
        blank = (widths[off] == 1) & (_lengths(array, starts, ends[off]) == 0)
        self.records += len(ends) - (int(blank.sum()) if width > 1 else 0)
        long = np.flatnonzero(np.diff(ends, prepend=-1) > MAX_VALUE_BYTES)
        problems = [(int(ends[at - 1] + 1) if at else 0, TOO_LONG) for at in long.tolist()]
        if width == 1:
            empty = (
                "an empty line, which could be a missing value or none: write a missing code, "
                "or remove the line"
            )
            return (
                problems + [(int(at), empty) for at in starts[blank]] + self._wrong(starts, widths)
            )
        return problems + self._wrong(starts[~blank], widths[off][~blank])

    def _wrong(self, starts: Ints, widths: Ints) -> list[tuple[int, str]]:
        width = len(self.header.names)
        return [
            (
                int(at),
                f"{count} field{'s' if count > 1 else ''} where the header has {width}; {hint}",
            )
            for at, count in zip(starts.tolist(), widths.tolist(), strict=True)
            if count != width
            for hint in ({width + 1: END, 1: NOTE}.get(count, SHORT if count < width else WIDE),)
        ]

    def _note_endings(self, array: Bytes, ends: Ints) -> None:
        if not len(ends):
            return
        is_lf = array[ends] == LF
        has_cr = (array[np.maximum(ends - 1, 0)] == CR) & (ends > 0)
        kinds = {"CR": ~is_lf, "CRLF": is_lf & has_cr, "LF": is_lf & ~has_cr}
        self.endings |= {kind for kind, here in kinds.items() if here.any()}

    def _joined(self, block: bytes, array: Bytes, ends: Ints) -> list[tuple[int, str]]:
        """The places where another file begins, which was written behind the first: at its header,
        whose columns may have another order, or at its byte order mark. `ends` (n_records,)."""
        starts = np.concatenate([np.zeros(1, np.int64), ends + 1])[: len(ends)]
        lengths = _lengths(array, starts, ends)
        problems = []
        for at in self._like_the_header(array, starts, lengths).tolist():
            record = block[starts[at] : starts[at] + lengths[at]]
            if self._names_in_order(record) == self._own_names:
                problems.append((int(starts[at]), "the header stands here again: leave it out"))
            elif record.startswith(BOM):
                problems.append(
                    (int(starts[at]), "a second file begins here: keep the files apart")
                )
        return problems

    def _like_the_header(self, array: Bytes, starts: Ints, lengths: Ints) -> Ints:
        """The records that begin and end with letters of the header's names, and are about as
        long."""
        (first, last), size = self._header_letters, self._header_bytes
        places = np.flatnonzero(last[array[starts + lengths - 1]])
        places = places[first[array[starts[places]]]]
        long = lengths[places]
        alike = (2 * long >= size) & (long <= 2 * size + 4 * len(self.header.names))
        marked = np.flatnonzero(array[starts] == BOM[0])
        return np.union1d(places[alike], marked[lengths[marked] > len(BOM)])

    @cached_property
    def _header_bytes(self) -> int:
        return sum(len(name.encode()) + 1 for name in self.header.names)

    @cached_property
    def _header_letters(self) -> tuple[Flags, Flags]:
        """(256,) each: is the byte one with which a name begins, or ends?"""
        names = [name.encode() for name in self.header.names]
        first, last = np.zeros(256, np.bool_), np.zeros(256, np.bool_)
        first[_either_case(name[:1] for name in names)] = True
        last[_either_case(name[-1:] for name in names)] = True
        return first, last

    @cached_property
    def _own_names(self) -> Sequence[str]:
        return self._names_in_order(self.header.record)

    def _names_in_order(self, record: bytes) -> Sequence[str]:
        """The fields sorted, without quotes, spaces and, where there are several, capitals: other
        exports write others."""
        content = text.canonical(record.removeprefix(BOM).decode("utf-8", "replace"))
        fields = content.translate(QUOTES_AND_SPACES).split(self.header.delimiter)
        return sorted(field.casefold() for field in fields) if len(fields) > 1 else fields


def _either_case(letters: Iterable[bytes]) -> list[int]:
    """The bytes with which a name may begin or end, in quotes and among spaces too."""
    cases = b"".join(letter.lower() + letter.upper() for letter in letters)
    return [*cases, *b'" \xef', *b",;\t|"]


def _lengths(array: Bytes, starts: Ints, ends: Ints) -> Ints:
    """(n_records,), bytes: each record without its line ending."""
    has_cr = (array[np.maximum(ends - 1, 0)] == CR) & (ends > starts) & (array[ends] == LF)
    lengths: Ints = ends - starts - has_cr.astype(np.int64)
    return lengths


def _bad_text(block: bytes) -> list[tuple[int, str]]:
    problems = []
    if (at := block.find(b"\0")) >= 0:
        problems.append((at, NUL_BYTE))
    if not block.isascii():
        try:
            block.decode("utf-8")
        except UnicodeDecodeError as error:
            problems.append((error.start, NOT_UTF8))
    return problems


def _bad_quotes(text: Text) -> list[tuple[int, str]]:
    """The quotes that RFC 4180 does not allow; of a record that does not end, its opening quote."""
    quotes = text.of('"')
    quoted = quotes.odd()
    inside = (quotes & quoted) - text.starts
    follows = quotes - quoted - text.borders.before(1)
    is_open = quoted.has(np.array([quotes.size - 1])).any()
    if inside or follows or is_open:
        return _misplaced(text.array, quotes.places(), text.delimiter)
    return []


def _misplaced(array: Bytes, quotes: Ints, delimiter: str) -> list[tuple[int, str]]:
    """`quotes` (n_quotes,): their places."""
    opening, closing = quotes[0::2], quotes[1::2]
    borders = np.isin(np.arange(256), (ord(delimiter), LF, CR, QUOTE))
    inside = opening[(opening > 0) & ~borders[array[np.maximum(opening - 1, 0)]]]
    after = np.minimum(closing + 1, len(array) - 1)
    follows = opening[: len(closing)][~borders[array[after]]]
    problems = [
        (int(at), "a quote inside an unquoted value: quote the whole value, and double its quotes")
        for at in inside
    ]
    problems += [
        (
            int(at),
            "a quoted value opens here, and text follows its closing quote: double the quotes "
            "inside it",
        )
        for at in follows
    ]
    if len(quotes) % 2 and not problems:
        problems.append(
            (int(quotes[-1]), "a quoted value opens here and never ends: add its closing quote")
        )
    return sorted(problems)
