"""CSV files as one source: each is copied as UTF-8 unless it is UTF-8, inspected as a whole, and
read by name."""

from __future__ import annotations

import codecs
import gzip
import re
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from federation import errors
from federation.expression import quote_name
from nodes import row_files
from nodes.connectors import csv_file, csv_types
from nodes.connectors.csv_file import CUT_OFF, Dialect, Layout, MalformedCsvError
from nodes.connectors.source import Source, by_name, failed_to_read
from nodes.site import Dataset

PIECE_BYTES = 1 << 19  # fits the processor's cache
MAX_SKIPPED_BYTES = 1 << 22
CONTROL = re.compile("[\x80-\x9f]")  # nobody writes them: these bytes are letters of cp1252
HELD = (".csv", ".txt", ".tsv")
# Texts about a table, which producers lay beside it. They are told by their names alone: a table
# that was passed over because of what it holds would be rows that nobody misses.
NOTE = re.compile(
    r"(a[-_ ]?)?(lire|lisez[-_ ]?moi|read[-_ ]?me|notice|licen[cs]e|change[-_ ]?log|copying)"
    r"([-_ .](fr|en|first|avant|v[0-9]+))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Plain:
    """A file as UTF-8 that begins with its header. `first_line`: the number of that line in the
    producer's file."""

    path: Path
    first_line: int


def read(dataset: Dataset, paths: Sequence[Path], scratch: Path, columns: Sequence[str]) -> Source:
    """`columns`: of the contract, those to be read."""
    layouts = []
    paths = _unpacked(dataset, paths, scratch)
    for number, path in enumerate(paths, 1):
        with named(dataset, number, len(paths)):
            plain = as_utf8(path, dataset, scratch)
            layout = _layout(plain, dataset, columns)
            layouts.append((_with_one_ending(plain.path, layout, scratch), layout))
    sources = [_single(dataset, path, layout) for path, layout in layouts]
    return sources[0] if len(sources) == 1 else _together(dataset, sources)


def read_names(dataset: Dataset, paths: Sequence[Path], scratch: Path) -> Source:
    """The names of the first file's columns; no row is read."""
    with named(dataset, 1, len(paths)):
        plain = as_utf8(paths[0], dataset, scratch, only_header=True)
        header = csv_file.read_header(plain.path, dataset.headers, _dialect(dataset, plain))
    return Source("", {name: name for name in header.names})


def inspect(dataset: Dataset, paths: Sequence[Path], scratch: Path) -> None:
    """DataError with the lines that break a file."""
    paths = _unpacked(dataset, paths, scratch)
    for number, path in enumerate(paths, 1):
        with named(dataset, number, len(paths)):
            _layout(as_utf8(path, dataset, scratch), dataset)


def _unpacked(dataset: Dataset, paths: Sequence[Path], scratch: Path) -> list[Path]:
    """The files, those of an archive of several among them, in the order of their names."""
    files: list[Path] = []
    for number, path in enumerate(paths, 1):
        with named(dataset, number, len(paths)):
            files += _members(path, scratch, number) or [path]
    return files


def _members(path: Path, scratch: Path, number: int) -> list[Path]:
    """Copies of an archive's files; none if it holds a single one, which is read where it lies."""
    if path.suffix.lower() != ".zip":
        return []
    copies = []
    with _archive(path) as archive:
        names = _held(archive)
        for at, name in enumerate(names if len(names) > 1 else []):
            copies.append(row_files.copy(scratch / f"archive-{number}-{at:05d}.csv"))
            try:
                with archive.open(name) as member, copies[-1].open("wb") as out:
                    shutil.copyfileobj(member, out)
            except (EOFError, zlib.error):
                raise MalformedCsvError(CUT_OFF) from None
    return copies


def _layout(plain: Plain, dataset: Dataset, columns: Sequence[str] = ()) -> Layout:
    return csv_file.inspect(
        plain.path,
        dataset.headers,
        _dialect(dataset, plain),
        lambda names: csv_types.plan(dataset, names, columns),
    )


def _with_one_ending(path: Path, layout: Layout, scratch: Path) -> Path:
    if layout.one_ending:
        return path
    copy = _copy_in(scratch)
    csv_file.write_with_one_ending(path, copy)
    return copy


def _copy_in(scratch: Path) -> Path:
    return row_files.copy(scratch / f"{secrets.token_hex(8)}.csv")


def _dialect(dataset: Dataset, plain: Plain) -> Dialect:
    return Dialect(dataset.read.delimiter, plain.first_line)


def _single(dataset: Dataset, path: Path, layout: Layout) -> Source:
    names = layout.header.names
    columns = by_name(dataset, names, [f"c{i}" for i in range(len(names))])
    places = {f"c{at}": at for at in layout.types}
    return Source(
        layout.relation(path),
        columns,
        is_temporary=True,
        records=layout.records,
        types={f"c{at}": kind for at, kind in layout.types.items()},
        typed=lambda types: layout.relation(path, {places[raw]: types[raw] for raw in types}),
    )


def _together(dataset: Dataset, sources: Sequence[Source]) -> Source:
    """The rows of several files, whose columns match by name. SourceError if only some have a
    contract column."""
    everywhere = set.intersection(*(set(source.columns) for source in sources))
    partial = [
        name
        for name in dataset.headers
        if name not in everywhere and any(name in source.columns for source in sources)
    ]
    if partial:
        raise errors.SourceError(
            f"dataset {dataset.contract.dataset!r}: some files of the folder have no column "
            f"{partial[0]!r}: write it in every file, or take the others out of the folder"
        )
    names = {f"n{i}": name for i, name in enumerate(sorted(everywhere))}

    def relation(types: Mapping[str, str]) -> str:
        return f"({' UNION ALL '.join(_rows(source, names, types) for source in sources)})"

    of_each = {
        raw: [s.types.get(s.columns[name], "") for s in sources] for raw, name in names.items()
    }
    return Source(
        relation({}),
        {name: raw for raw, name in names.items()},
        is_temporary=True,
        records=sum(source.records or 0 for source in sources),
        types={raw: kinds[0] for raw, kinds in of_each.items() if all(kinds)},
        typed=relation,
    )


def _rows(source: Source, names: Mapping[str, str], types: Mapping[str, str]) -> str:
    """The SQL of one file's rows. `names`: the column behind each of the folder's."""
    listed = ", ".join(
        f"{quote_name(source.columns[name])} AS {raw}" for raw, name in names.items()
    )
    kinds = {source.columns[names[raw]]: kind for raw, kind in types.items()}
    return f"SELECT {listed} FROM {source.typed(kinds) if source.typed else source.relation}"


@contextmanager
def named(dataset: Dataset, number: int, files: int) -> Iterator[None]:
    """Problems of a file as a DataError that names the dataset
    and the file's position in its folder."""
    which = f"file {number} of {files}" if files > 1 else "its CSV file"
    name = dataset.contract.dataset
    try:
        yield
    except MalformedCsvError as malformed:
        raise errors.DataError(
            "\n".join(f"in dataset {name!r}, {which}: {problem}" for problem in malformed.problems)
        ) from None
    except OSError as reason:
        raise failed_to_read(dataset, reason, "check its path and format") from None


# -- a copy as UTF-8
def as_utf8(path: Path, dataset: Dataset, scratch: Path, *, only_header: bool = False) -> Plain:
    reading, is_zip = dataset.read, path.suffix.lower() == ".zip"
    encoding = reading.encoding or "utf-8"
    usual = path.name == path.name.lower() or not path.name.lower().endswith(".gz")
    if encoding == "utf-8" and not reading.skip and not is_zip and usual:
        return Plain(path, 1)
    copy = _copy_in(scratch)
    with opened(path) as raw, copy.open("wb") as out:
        pieces = _decoded(raw, encoding)
        first, line = _without(next(pieces, ""), reading.skip)
        out.write(first.encode())
        for piece in [] if only_header else pieces:
            out.write(piece.encode())
    return Plain(copy, line)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked; of an archive, its first text file. MalformedCsvError if it
    cannot be unpacked."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".gz":
            with gzip.open(path) as unpacked:
                yield cast(IO[bytes], unpacked)
        elif suffix == ".zip":
            with _archive(path) as archive, archive.open(_held(archive)[0]) as member:
                yield member
        else:
            with path.open("rb") as stream:
                yield stream
    except (EOFError, zlib.error):
        raise MalformedCsvError(CUT_OFF) from None


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, RuntimeError):  # RuntimeError: it has a password
        raise MalformedCsvError(
            "the archive is damaged or has a password: unpack it, and name the file"
        ) from None


def _held(archive: zipfile.ZipFile) -> list[str]:
    """The text files of an archive, by name."""
    held = [
        name
        for name in archive.namelist()
        if name.lower().endswith(HELD)
        and not name.startswith("__MACOSX/")
        and not is_note(Path(name))
    ]
    if not held:
        raise MalformedCsvError(
            f"the archive holds no file of {', '.join(HELD)}: unpack it, and name the file"
        )
    return sorted(held)


def is_note(path: Path) -> bool:
    """Is it a text about the tables beside it, by its name?"""
    return path.suffix.lower() == ".txt" and NOTE.fullmatch(path.stem) is not None


def _decoded(raw: IO[bytes], encoding: str) -> Iterator[str]:
    """The text in pieces. MalformedCsvError with the line of a byte
    that the encoding does not have."""
    decoder, line = codecs.getincrementaldecoder(encoding)(), 1
    size = MAX_SKIPPED_BYTES  # the first piece holds all lines that are left out
    try:
        while block := raw.read(size):
            size = PIECE_BYTES
            try:
                piece = _latin(block, encoding) or decoder.decode(block)
            except UnicodeDecodeError as problem:
                before = problem.object[: problem.start].count(b"\n")
                raise MalformedCsvError(
                    f"line {line + before}: not {encoding} text: correct `read.encoding`"
                ) from None
            is_latin = encoding in ("latin-1", "iso-8859-15") and _has_controls(block)
            if is_latin and (odd := CONTROL.search(piece)):
                raise MalformedCsvError(
                    f"line {line + piece.count(chr(10), 0, odd.start())}: a control character of "
                    f"{encoding}, which is a letter of cp1252: write `encoding: cp1252`"
                )
            line += piece.count("\n")
            yield piece
        yield decoder.decode(b"", final=True)
    except (EOFError, gzip.BadGzipFile, UnicodeDecodeError):
        raise MalformedCsvError(CUT_OFF) from None


def _latin(block: bytes, encoding: str) -> str:
    """The text of a block in which cp1252 and Latin-1, which decodes faster, are the same; else
    empty."""
    return block.decode("latin-1") if encoding == "cp1252" and not _has_controls(block) else ""


def _has_controls(block: bytes) -> bool:
    """Is a byte among those that are control characters in Latin-1, and letters in cp1252?"""
    return bool(((np.frombuffer(block, np.uint8) & 0xE0) == 0x80).any())


def _without(piece: str, skip: int) -> tuple[str, int]:
    """The text below `skip` lines, and the number of its first line."""
    at = 0
    for _ in range(skip):
        end = re.compile("\r\n|\r|\n").search(piece, at, MAX_SKIPPED_BYTES)
        if end is None:
            raise MalformedCsvError(
                f"`read.skip` is {skip}, and the file has no line below: correct it"
            )
        at = end.end()
    return piece[at:], skip + 1
