"""Rows of COPY in binary form are read as they were written, whatever is NULL and however they are
cut into blocks."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.connectors import binary_rows
from nodes.connectors.binary_rows import Field, Levels

LEVELS = ("a", "b, c", "é" * 4, "eight888", "sixteen characters", "x" * 40, "with\0zero")
FIELDS = [Field(">f8"), Field(">i4"), Field("?"), Field(">i8"), Field(), Field("", Levels(LEVELS))]
FORMATS = [field.wire.replace("f8", "d").replace("i4", "i").replace("i8", "q") for field in FIELDS]

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
expected = st.sampled_from(["", *(level for level in LEVELS if "\0" not in level)])
row = st.tuples(
    st.none() | st.floats(allow_nan=False),
    st.none() | st.integers(-(2**31), 2**31 - 1),
    st.none() | st.booleans(),
    st.none() | st.integers(-(2**53), 2**53),
    st.none() | text,
    st.none() | expected | text,
)
Row = tuple[object, ...]


def written(values: Row) -> bytes:
    """A row as the server writes it."""
    cells = b""
    for value, form in zip(values, FORMATS, strict=True):
        if value is None:
            cells += struct.pack(">i", -1)
            continue
        content = str(value).encode() if not form else struct.pack(form, value)
        cells += struct.pack(">i", len(content)) + content
    return struct.pack(">h", len(values)) + cells


def read(blocks: Sequence[Sequence[Row]]) -> list[Row]:
    """NULL and an empty text are both None."""
    columns = []
    for rows in blocks:
        cells = [written(values) for values in rows]
        block = bytearray(b"".join(cells))
        columns.append(binary_rows.columns(block, [len(cell) for cell in cells], FIELDS))
    frame = binary_rows.joined(columns, FIELDS)
    listed = zip(*(frame[name].tolist() for name in frame), strict=True)
    return [
        tuple(None if value == "" or value != value else value for value in values)
        for values in listed
    ]


@given(st.lists(st.lists(row, min_size=1, max_size=8), min_size=1, max_size=3))
def test_rows_are_read_as_they_were_written(blocks: list[list[Row]]) -> None:
    assert read(blocks) == [
        tuple(None if value == "" else value for value in values)
        for rows in blocks
        for values in rows
    ]


def test_expected_texts_are_found_without_decoding_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("a row was decoded")

    rows: list[Row] = [(1.0, 1, True, 1, level) for level in ("a", "é" * 4, "eight888", "", None)]
    fields = [*FIELDS[:4], FIELDS[5]]
    monkeypatch.setattr(binary_rows, "_decoded", decoded)
    monkeypatch.setattr(f"{__name__}.FIELDS", fields)
    monkeypatch.setattr(f"{__name__}.FORMATS", [*FORMATS[:4], ""])
    assert [values[-1] for values in read([rows])] == ["a", "é" * 4, "eight888", None, None]


def test_bytes_that_are_no_such_rows_are_refused() -> None:
    whole = written((1.0, 1, True, 1, "a", "a"))
    for block in (whole + b"\0", whole[:-1], whole.replace(b"\0\x06", b"\0\x07", 1) + whole[2:]):
        with pytest.raises((ValueError, IndexError)):
            binary_rows.columns(bytearray(block), [len(block)], FIELDS)


@pytest.mark.parametrize("is_with_row", [True, False])
def test_the_header_and_the_end_are_taken_away(is_with_row: bool) -> None:
    header = binary_rows.SIGNATURE + struct.pack(">ii", 0, 3) + b"new"
    parts = [header + b"row", b"\xff\xff"] if is_with_row else [header, b"row\xff\xff"]
    block, sizes = bytearray(b"".join(parts)), list(map(len, parts))
    binary_rows.strip(block, sizes, is_first=True, is_last=True)
    assert sizes == [3] and block.startswith(b"row")
    with pytest.raises(ValueError, match="signature"):
        binary_rows.strip(bytearray(b"other"), [5], is_first=True)
    with pytest.raises(ValueError, match="end"):
        binary_rows.strip(bytearray(b"other"), [5], is_last=True)
