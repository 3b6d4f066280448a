"""CSV files as hospitals write them: every record becomes one row, or the message names the line
and nothing of a row."""

from __future__ import annotations

import csv
import gzip
import io
import random
from pathlib import Path

import pytest

from federation import errors
from nodes import connectors
from nodes.connectors import csv_file
from nodes.site import Dataset, Storage
from tests import federations

CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  x: {type: string}
""")
SECRET = "Dupont"  # a value of a row: no message may hold it


def rows(content: bytes, folder: Path, name: str = "t.csv") -> list[tuple[str | None, str | None]]:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    connection = connectors.connect(Storage())
    connectors.open_rows(connection, Dataset(CONTRACT, str(path)), ["id", "x"])
    return connection.execute("SELECT id, x FROM source").fetchall()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"id,x\np1,1\np2,2\n", [("p1", "1"), ("p2", "2")]),
        (b"id,x\np1,1\np2,2", [("p1", "1"), ("p2", "2")]),  # no line ending at the end
        (b"id,x\r\np1,1\r\np2,2\r\n", [("p1", "1"), ("p2", "2")]),
        (b"id,x\rp1,1\rp2,2\r", [("p1", "1"), ("p2", "2")]),
        (b"id,x\np1,1\r\np2,2\np3,3\r\n", [("p1", "1"), ("p2", "2"), ("p3", "3")]),
        (b"id,x\r\np1,1\np2,2\r\n", [("p1", "1"), ("p2", "2")]),
        (b"id,x\np1,1\rp2,2\n", [("p1", "1"), ("p2", "2")]),
        # DuckDB reads 1 for p1 below a lone CR, and a line ending into p2 where there are two CR
        (b"id,x\r\np3,3\rp1,1\n\n\n", [("p3", "3"), ("p1", "1")]),
        (b'id,x\r\n"a","b"\r#x,"c\r\nd"\r\n', [("a", "b"), ("#x", "c\r\nd")]),
        (b"id,x\r\r\np1,1\r\r\np2,2\r\r\n", [("p1", "1"), ("p2", "2")]),
        (b'id,x\n"p1","a\r\n\r\nb"\r\n', [("p1", "a\r\n\r\nb")]),  # the header ends otherwise
        (b'id,x\r\np1,"a\rb"\np2,"\n"', [("p1", "a\rb"), ("p2", "\n")]),
        (b"id,x\n\np1,1\n\n\np2,2\n\n", [("p1", "1"), ("p2", "2")]),
        (b"id,x\r\n\r\np1,1\r\n\r\n", [("p1", "1")]),
        (b"\xef\xbb\xbfid,x\np1,1\n", [("p1", "1")]),
        (b'\xef\xbb\xbf"id","x"\np1,1\n', [("p1", "1")]),
        (b"id,x\n#p1,1\n#p2,2\n", [("#p1", "1"), ("#p2", "2")]),
        (
            b"id,x\n//p1,1\n%p2,2\n--p3,3\n;p4,4\n",
            [("//p1", "1"), ("%p2", "2"), ("--p3", "3"), (";p4", "4")],
        ),
        (b'id,x\n"p1",1\np2,2\n', [("p1", "1"), ("p2", "2")]),
        (b'id,x\np1,"a, b"\np2,"c ""d"""\n', [("p1", "a, b"), ("p2", 'c "d"')]),
        (b'id,x\np1,"a\nb"\np2,"c\r\nd"\n', [("p1", "a\nb"), ("p2", "c\r\nd")]),
        (b"id,x\np1,'a\np2,b'\n", [("p1", "'a"), ("p2", "b'")]),  # only " quotes
        (b"id,x\np1,a\\\np2,b\n", [("p1", "a\\"), ("p2", "b")]),  # a backslash escapes nothing
        (b'id,x\np1,""\np2,\n', [("p1", None), ("p2", None)]),
        (b"id;x\np1;a,b\np2;c\n", [("p1", "a,b"), ("p2", "c")]),
        (b"id\tx\np1\ta b\n", [("p1", "a b")]),
        (b"id|x\np1|1\n", [("p1", "1")]),
        (b'id;x;"a,b,c"\np1;1;2\n', [("p1", "1")]),  # the delimiter is outside quotes
        (b"id;x;a,b,c\np1;1;2\n", [("p1", "1")]),  # of two, the one that gives the contract's names
        (b"x,other,id\n1,z,p1\n", [("p1", "1")]),
        (b"X,x,id\n9,1,p1\n", [("p1", "1")]),  # DuckDB would take X for x
        (b"id,x,x2,x2\np1,1,2,3\n", [("p1", "1")]),  # a name twice, of columns that nobody reads
        (b" id , x\xc2\xa0\np1,1\n", [("p1", "1")]),
        (b"id,x\np1,1\n".replace(b"p1", "é".encode()), [("é", "1")]),
        (
            b"id,x\nNULL,NA\n\\N,nan\n",
            [("NULL", "NA"), ("\\N", "nan")],
        ),  # only empty text is missing
        ("id,x\np1,a\u2028b\u0085c\n".encode(), [("p1", "a\u2028b\u0085c")]),
        (b"id,x\np1,a\x0bb\x0cc\n", [("p1", "a\x0bb\x0cc")]),
        (b"id,x\n", []),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_every_record_becomes_one_row(
    content: bytes, expected: list[tuple[str | None, str | None]], name: str, tmp_path: Path
) -> None:
    assert rows(content, tmp_path, name) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,x\np1,1\nid,x,y\nDupont,2,3\n", "line 3: 3 fields where the header has 2"),
        (b"id,x\np1,1\nDupont\n", "line 3: 1 field where the header has 2"),
        (b"id,x\nDupont,1,\n", "line 2: 3 fields"),  # DuckDB drops an empty last field
        (b"id,x\np1,1\n   \n", "line 3: 1 field"),
        (b"id,x\np1,1\n# fin du fichier\n", "has 2; if it is a note or a comment"),
        (b"id,x\np1,1\n\x1a", "line 3: 1 field"),  # the end of a file under DOS
        (b"id,x\r\n\r\np1,1\r\nDupont\r\n", "line 4: 1 field"),
        (b'id,x\n"p\n1",1\nDupont\n', "line 4: 1 field"),  # a quoted value covers two lines
        (b"id,x\np1,1\nid,x\nDupont,2\n", "line 3: the header stands here again"),
        (b'id,x\r\np1,1\r\n"id","x"\r\nDupont,2\r\n', "line 3: the header stands here again"),
        (
            b"id,x\np1,1\nx,id\n2,Dupont\n",
            "line 3: the header stands here again",
        ),  # in another order
        (b"id,x\np1,1\nID,X \nDupont,2\n", "line 3: the header stands here again"),
        (b'id,x\np1,1\n"X","id"\nDupont,2\n', "line 3: the header stands here again"),
        (b"id,x\np1,1\n\xef\xbb\xbfid,x\nDupont,2\n", "line 3: the header stands here again"),
        (b"id,x\np1,1\n\xef\xbb\xbfDupont,2\n", "line 3: a second file begins here"),
        (
            b"sep=;\nid;x\nDupont;1\n",
            "line 1 tells a spreadsheet the delimiter: write `read: {skip: 1}`",
        ),
        (b"SEP=,\r\nid,x\r\n", "line 1 tells a spreadsheet the delimiter"),
        (b"id,x\np1,1\nDupont," + b"a" * 2_000_001 + b"\n", "line 3: more than 2 MB in one record"),
        (b'id,x\nDupont,"1\np2,2\n', "line 2: a quoted value opens here and never ends"),
        (b'id,x\np1,1\nDupont,"', "line 3: a quoted value opens here and never ends"),
        (b'id,x\nDupont,5"\n', "line 2: a quote inside an unquoted value"),
        (b'id,x\nDupont, "5"\n', "line 2: a quote inside an unquoted value"),
        (b'id,x\nDupont,"5"a\n', "line 2: a quoted value opens here, and text follows"),
        (b'id,x\nDupont,"a\\"b"\n', "line 2: a quoted value opens here, and text follows"),
        (b'id,x\nDupont,"1\np2,2\np3,"3"\n', "line 2: a quoted value opens here, and text follows"),
        (b"id,x\nDu\x00pont,1\n", "line 2: a NUL byte"),
        (b"id,x\np1,1\nDupont,\xe9t\xe9\n", "line 3: not UTF-8 text: save the file as UTF-8"),
        (b"id,x,d\xe9c\xe8s\nDupont,1,2\n", "line 1: not UTF-8 text"),
        ("id,x\nDupont,1\n".encode("utf-16"), "the file is UTF-16: save it as UTF-8"),
        (b"\nid,x\nDupont,1\n", "line 1 is empty"),
        (b"", "line 1 is empty"),
        (b'"id,x\nDupont,1\n', "line 1: a quoted name does not end"),
        (b"id,x,x\nDupont,1,2\n", "several columns 'x'"),
        (b"other;another,more\nDupont,1,2\n", "line 1: the header holds"),
    ],
)
def test_a_file_that_is_not_one_table_names_the_line_and_holds_no_value(
    content: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(errors.DataError) as caught:
        rows(content, tmp_path)
    assert message in str(caught.value)
    assert SECRET not in str(caught.value) and str(tmp_path) not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_an_empty_line_is_refused_where_it_could_be_a_missing_value(tmp_path: Path) -> None:
    contract = federations.contract_of(
        "dataset: d\nversion: 1\nunit: visit\ncolumns:\n  x: {type: string}"
    )
    (tmp_path / "t.csv").write_bytes(b"x\na\n\nb\n")
    with pytest.raises(errors.DataError, match="line 3: an empty line"):
        connectors.open_rows(
            connectors.connect(Storage()), Dataset(contract, str(tmp_path / "t.csv")), ["x"]
        )


def test_five_lines_are_named_and_the_others_are_counted(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError) as caught:
        rows(b"id,x\n" + b"Dupont\n" * 9, tmp_path)
    assert str(caught.value).count("1 field ") == 5 and "4 more like these" in str(caught.value)


@pytest.mark.parametrize(
    "late", [b'"autre, pr\xc3\xa9cis\xc3\xa9"', b'"two\nlines"', b'"say ""so"""', b'"#"']
)
def test_quotes_that_first_stand_far_below_are_read_as_quotes(late: bytes, tmp_path: Path) -> None:
    """DuckDB looks at 20,480 lines to guess whether a file has quotes."""
    content = (
        b"id,x\n" + b"".join(b"p%d,a\n" % i for i in range(21_000)) + b'"q1",' + late + b"\nq2,b\n"
    )
    values = rows(content, tmp_path)
    value = late[1:-1].replace(b'""', b'"').decode()
    assert len(values) == 21_002 and values[-2:] == [("q1", value), ("q2", "b")]


def test_blocks_of_any_size_give_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b'id,x\r\n"p\r\n1","a,""b"""\r\n\r\np2,"\n\n"\r\np3,c\n'
    (tmp_path / "t.csv").write_bytes(content)
    for size in range(1, len(content) + 2):
        monkeypatch.setattr(csv_file, "BLOCK_BYTES", size)
        layout = csv_file.inspect(tmp_path / "t.csv", ["id", "x"])
        assert (layout.records, layout.one_ending) == (3, False)
    (tmp_path / "t.csv").write_bytes(content + b"p4\n")
    for size in (1, 7, 16, 1000):
        monkeypatch.setattr(csv_file, "BLOCK_BYTES", size)
        with pytest.raises(csv_file.MalformedCsvError, match="line 9: 1 field"):
            csv_file.inspect(tmp_path / "t.csv", ["id", "x"])


PARTS = [
    "a", "", " ", "#x", "'", "\\", "p1", '"a,b"', '""', '"a\nb"', '"a\r\n\r\nb"', '"\r"', '"a""b"',
    '"\n"',
]  # fmt: skip


@pytest.mark.parametrize("endings", [["\n"], ["\r\n"], ["\r"], ["\n", "\r\n", "\r"]])
def test_every_value_is_the_one_that_pythons_reader_reads(
    endings: list[str], tmp_path: Path
) -> None:
    """A hundred rows of values that have to do with quotes and line endings, in one file."""
    draw = random.Random(15)
    content = "id,x" + draw.choice(endings)
    for _ in range(100):
        content += f"{draw.choice(PARTS)},{draw.choice(PARTS)}{draw.choice(endings)}"
    expected = list(csv.reader(io.StringIO(content, newline=""), strict=True))[1:]
    values = rows(content.encode(), tmp_path)
    assert values == [(first or None, two or None) for first, two in expected]


def test_a_reader_that_loses_a_row_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = csv_file.Layout.relation
    monkeypatch.setattr(
        csv_file.Layout, "relation", lambda *given: f"(SELECT * FROM {original(*given)} LIMIT 1)"
    )
    with pytest.raises(errors.DataError, match="not every record of the file became a row"):
        rows(b"id,x\np1,1\np2,2\n", tmp_path)


def test_a_file_that_was_cut_off_in_its_compressed_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"id,x\n" + b"Dupont,1\n" * 1000)[:-20])
    with pytest.raises(errors.DataError, match="cut off"):
        connectors.open_rows(
            connectors.connect(Storage()), Dataset(CONTRACT, str(tmp_path / "t.csv.gz")), ["id"]
        )
