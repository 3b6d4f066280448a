"""The first rows of a source as texts, each with its line, for the producer's own screen: no study
ever uses them."""

from __future__ import annotations

import codecs
import csv
import io
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

from federation import text
from federation.expression import quote_name
from nodes import connectors, row_files
from nodes.connectors import csv_file, csv_source, formats, workbook
from nodes.connectors.csv_file import DELIMITERS, MalformedCsvError
from nodes.reading import AS_IT_IS
from nodes.reading import DELIMITERS as KNOWN_DELIMITERS
from nodes.site import Dataset, Storage

MAX_ROWS, MAX_SKIPPED = 20_000, 30
PIECE_BYTES = 1 << 24
LETTERS = "éèêëàâäçîïôöùûüœæÉÈÊËÀÂÄÇÎÏÔÖÙÛÜŒÆ’€«»°²µ"
CANDIDATES = ("cp1252", "iso-8859-15", "mac-roman", "cp850")
UNUSUAL = re.compile(rb"[A-Za-z]*[\x80-\xff][A-Za-z\x80-\xff]*")
# A capital with an accent before a small letter, or behind one: another encoding made it.
MIXED = re.compile(
    "[A-Za-z][ÉÈÊËÀÂÄÇÎÏÔÖÙÛÜŒÆ](?=[a-z])|[a-z][ÉÈÊËÀÂÄÇÎÏÔÖÙÛÜŒÆ]|[a-z][«»²µ€][a-z]"
)
NOT_LETTERS = "ÃÂ¤¦¨´¸¼½¾‚ŠŽ"  # what letters become in another encoding


@dataclass(frozen=True)
class TextFile:
    """How a text file looks. `skip`: the number of lines above its header. `delimiters`: those in
    the header, the most likely one first. `line` and `word`: the first word that is not ASCII.
    `broken_line`: the first that is not in this encoding; 0 if there is none."""

    encoding: str
    skip: int
    delimiters: Sequence[str]
    line: int = 0
    word: str = ""
    broken_line: int = 0


@dataclass(frozen=True)
class Sample:
    """`names`: the columns as the source spells them. `rows`: line (or row) number and texts of
    each; None is NULL. `file`: the look of a text file. `skip`: the rows above the header of a
    sheet."""

    names: Sequence[str]
    rows: Sequence[tuple[int, Sequence[str | None]]]
    file: TextFile | None = None
    skip: int = 0

    def column(self, name: str) -> Iterator[tuple[int, str]]:
        """The lines and values of a column, spelled canonically; blank ones are left out."""
        at = self._places[name]
        for line, cells in self.rows:
            value = cells[at] if at < len(cells) else None
            if value is not None and (canonical := text.canonical(value)):
                yield line, canonical

    @cached_property
    def _places(self) -> Mapping[str, int]:
        """By canonical name, the first column that has it."""
        return {text.canonical(each): i for i, each in reversed(list(enumerate(self.names)))}


def take(dataset: Dataset, storage: Storage) -> Sample:
    """The sample; DataError if the source cannot be read at all."""
    if "://" not in dataset.source:
        chosen, paths = formats.of(replace(dataset, read=AS_IT_IS))
        if chosen.name == "CSV":
            with csv_source.named(dataset, 1, len(paths)):
                return _of_text(paths[0], dataset.headers)
        if chosen.name == "Excel":
            rows = workbook.first_rows(dataset, paths[0], MAX_SKIPPED + 20)
            skip = _header_row(rows, dataset.headers)
            read = dataset.read.model_copy(update={"skip": skip})
            return replace(_of_rows(replace(dataset, read=read), storage), skip=skip)
    return _of_rows(dataset, storage)


def _of_rows(dataset: Dataset, storage: Storage) -> Sample:
    raw = replace(dataset, read=AS_IT_IS.model_copy(update=_file_keys(dataset)))
    names = [name for name in connectors.names_in_order(raw, storage) if name]
    connection = connectors.connect(storage)
    connectors.open_rows(connection, raw, names)
    described = connection.execute("DESCRIBE source").fetchall()
    types = {str(row[0]): str(row[1]) for row in described}
    listed = ", ".join(as_text(name, types[name]) for name in names)
    rows = connection.execute(f"SELECT {listed} FROM source LIMIT {MAX_ROWS}").fetchall()
    first = 2 + dataset.read.skip
    return Sample(names, [(number, row) for number, row in enumerate(rows, first)])


def as_text(name: str, raw_type: str) -> str:
    """A whole number without the `.0` of its type: statistical packages have no other numbers."""
    value = quote_name(name)
    if raw_type not in ("DOUBLE", "FLOAT"):
        return f"CAST({value} AS VARCHAR)"
    return (
        f"CASE WHEN {value} = trunc({value}) AND abs({value}) < 1e15 "
        f"THEN CAST(CAST({value} AS BIGINT) AS VARCHAR) ELSE CAST({value} AS VARCHAR) END"
    )


def _file_keys(dataset: Dataset) -> dict[str, object]:
    return {key: getattr(dataset.read, key) for key in dataset.read.file_keys}


# -- text files
def _of_text(path: Path, headers: Sequence[str]) -> Sample:
    with csv_source.opened(path) as raw:
        encoding = _encoding(iter(lambda: raw.read(PIECE_BYTES), b""))
    with csv_source.opened(path) as raw:
        decoder = codecs.getincrementaldecoder(encoding)("replace")
        start = raw.read(PIECE_BYTES)
    content = decoder.decode(start).removeprefix("\ufeff")
    if (other := csv_file.other_kind(start)) and not encoding.startswith("utf-16"):
        raise MalformedCsvError(other)
    if not content or "\0" in content:
        raise MalformedCsvError("the file is empty, or no text: export it again as CSV")
    lines = list(islice(io.StringIO(content, newline=None), MAX_ROWS + MAX_SKIPPED))
    delimiter, skip = _header(lines[: MAX_SKIPPED + 20], headers)
    reader = csv.reader(io.StringIO("".join(lines[skip:])), delimiter=delimiter)
    names = next(reader, [])
    rows: list[tuple[int, Sequence[str | None]]] = []
    with suppress(csv.Error):  # the check of the file's structure names the line
        for row in reader:
            rows += [(skip + reader.line_num, row)] if row else []
    others = [each for each in DELIMITERS if each in lines[skip] and each != delimiter]
    broken = next((n for n, line in enumerate(lines, 1) if "\ufffd" in line), 0)
    odd = next(((n, word) for n, line in enumerate(lines, 1) for word in _odd(line)), (0, ""))
    file = TextFile(encoding, skip, [delimiter, *others], *odd, broken)
    return Sample([text.canonical(name) for name in names], rows, file)


def _odd(line: str) -> list[str]:
    return re.findall(r"[^\W\d_]*[^\x00-\x7f][^\W\d_]*", line)


def _encoding(pieces: Iterator[bytes]) -> str:
    """The likeliest encoding of a whole file. Where Latin-1 and cp1252 agree it is cp1252, which
    later exports need."""
    first = next(pieces, b"")
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if wide := csv_file.utf16_without_mark(first):
        return wide
    decoder, high = codecs.getincrementaldecoder("utf-8")(), bytearray()
    is_utf8 = True
    for piece in (first, *pieces):
        try:
            decoder.decode(piece) if is_utf8 else None
        except UnicodeDecodeError:
            is_utf8 = False
        if not is_utf8 or len(high) < 10_000:
            high += b" ".join(UNUSUAL.findall(piece))[:10_000] + b" "
    if is_utf8 or _is_mostly_utf8(bytes(high)):
        return "utf-8"
    return max(CANDIDATES, key=lambda name: _likely(bytes(high), name))


def _is_mostly_utf8(content: bytes) -> bool:
    """Whether the letters of most lines are UTF-8, so that a line of another encoding is a mistake
    in the file."""
    decoded = content.decode("utf-8", "replace")
    letters = sum(not letter.isascii() and letter != "\ufffd" for letter in decoded)
    return letters > decoded.count("\ufffd")


def _likely(content: bytes, encoding: str) -> int:
    """Letters of French words, less signs that letters become in another encoding. A capital within
    a word of small letters is such a sign, too."""
    decoded = content.decode(encoding, "replace")
    return (
        sum(letter in LETTERS for letter in decoded)
        - sum(letter in NOT_LETTERS or letter == "\ufffd" for letter in decoded)
        - 2 * len(MIXED.findall(decoded))
    )


def _header(lines: Sequence[str], headers: Sequence[str]) -> tuple[str, int]:
    """The delimiter, and the number of lines above the header: the line with the most names of
    `headers`; of equal ones, the first that is as wide as the table and has hardly a gap. The
    delimiter divides the lines into the largest table."""
    wanted = {slug(name) for name in headers}
    best, header = (-1, -1, 0), (",", 0)
    for delimiter in KNOWN_DELIMITERS:
        fields = [_fields(line, delimiter) for line in lines]
        width, cells = _table(fields)
        for at, names in enumerate(fields[:MAX_SKIPPED]):
            n_named = len(wanted.intersection(map(slug, names)))
            score = (n_named, cells if _is_header(names, width) else -1, -at)
            if score > best:
                best, header = score, (delimiter, at)
    return header


def _table(lines: Sequence[Sequence[str]]) -> tuple[int, int]:
    """The width of the largest table of lines of one width, and the number of its cells; 0 cells of
    one column."""
    counts = Counter(len(fields) for fields in lines)
    width, number = max(counts.items(), key=lambda item: item[0] * item[1], default=(1, 0))
    return (width, width * number) if width > 1 else (1, 0)


def _is_header(names: Sequence[str], width: int) -> bool:
    """Rows may end with a delimiter that the header lacks; a title, or a line of merged cells above
    the names, stands in few of its cells."""
    filled = sum(bool(name.strip()) for name in names)
    return width - 1 <= len(names) <= width and filled >= max(min(2, width), 0.75 * (width - 1))


def _header_row(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> int:
    """The number of rows above the header of a sheet: the first row with the most names of
    `headers`; if none has any, the first with as many cells as the widest row."""
    wanted = {slug(name) for name in headers}
    scores = [
        (len(wanted.intersection(map(slug, row))), sum(bool(cell.strip()) for cell in row))
        for row in rows[:MAX_SKIPPED]
    ]
    return scores.index(max(scores, default=(0, 0))) if scores else 0


def _fields(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


ARTICLES = ("d", "de", "du", "des", "l", "la", "le", "les", "en", "a", "au")


def slug(name: str) -> str:
    """A header as a column's name: without accents, capitals and articles."""
    words = re.findall("[a-z0-9]+", text.plain(name).lower())
    telling = [word for word in words if word not in ARTICLES] or words
    return "_".join(telling)


def lines_of(dataset: Dataset, storage: Storage, records: Sequence[int]) -> Mapping[int, int]:
    """The line of each record, counted from 0, of a text file; the number of its row elsewhere."""
    wanted, first = set(records), 2 + dataset.read.skip
    if "://" in dataset.source:
        return {record: record + 1 for record in wanted}
    chosen, paths = formats.of(dataset)
    if chosen.name != "CSV" or len(paths) > 1:
        return {record: record + first for record in wanted}
    with row_files.folder(storage.temp_directory or Path(tempfile.gettempdir())) as folder:
        plain = csv_source.as_utf8(paths[0], dataset, folder)
        with csv_source.opened(plain.path) as raw:
            stream = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
            head = stream.readline()
            delimiter = _header([head], dataset.headers)[0]
            reader = csv.reader(stream, delimiter=dataset.read.delimiter or delimiter)
            return _numbered(reader, wanted, plain.first_line)


def _numbered(reader: Iterator[list[str]], wanted: set[int], first_line: int) -> dict[int, int]:
    lines: dict[int, int] = {}
    before, record = 0, -1
    for row in reader:
        record += bool(row)
        if row and record in wanted:
            lines[record] = first_line + 1 + before
        before = reader.line_num  # type: ignore[attr-defined]
        if len(lines) == len(wanted):
            break
    return lines
