"""The chained log: every change is detected, also at its end; a line that a crash cut short is not
an event."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from federation import audit, errors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    for i in range(5):
        audit.write(tmp_path / "log", "events", number=i, why="é")
    return tmp_path / "log"


def test_a_whole_log_is_in_order(path: Path) -> None:
    assert audit.verify(path)[0] == 5
    assert [entry["number"] for entry in audit.entries(path)] == list(range(5))
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("line", range(5))
def test_a_changed_line_is_told(path: Path, line: int) -> None:
    lines = path.read_text().splitlines()
    entry = json.loads(lines[line])
    lines[line] = json.dumps({**entry, "number": 99})
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(errors.LedgerError, match=f"entry {line + 1} of log was changed"):
        audit.verify(path)


@pytest.mark.parametrize("line", range(5))
def test_a_line_that_is_taken_out_is_told(path: Path, line: int) -> None:
    lines = path.read_text().splitlines()
    del lines[line]
    path.write_text("".join(entry + "\n" for entry in lines))
    with pytest.raises(errors.LedgerError):
        audit.verify(path)


def test_a_line_cut_short_by_a_crash_is_taken_off_and_the_next_goes_on(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b'{"seq": 6, "at"')
    audit.write(path, "after the crash")
    assert audit.verify(path)[0] == 6


def test_many_writers_make_one_chain(tmp_path: Path) -> None:
    threads = [
        threading.Thread(
            target=lambda i=i: [audit.write(tmp_path / "log", "x", by=i) for _ in range(10)]
        )
        for i in range(5)
    ]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert audit.verify(tmp_path / "log")[0] == 50


def test_a_log_that_cannot_be_written_stops_what_needs_it(tmp_path: Path) -> None:
    with pytest.raises(errors.SetupError, match="cannot be written"):
        audit.write(tmp_path / "no-folder" / "log", "x")


@pytest.mark.parametrize(
    "details",
    [
        {"why": "x" * 2**21},
        {"why": "a\ud800b\x1b[2J\n"},
        {"nodes": ["n" * 3000] * 5000},
        {"deadline": float("nan")},
        {"nested": {"a": [{"b": {"c": {"d": 1}}}]}},
        {"k" * 10_000: 1},
    ],
    ids=["long", "control", "list", "nan", "nested", "key"],
)
def test_whatever_a_peer_sends_the_log_can_be_read_back_and_written_on(
    details: dict[str, object], path: Path
) -> None:
    audit.write(path, "refused", **details)
    audit.write(path, "after")
    assert audit.verify(path)[0] == 7
    assert max(map(len, path.read_bytes().splitlines())) < 2 * audit.MAX_ENTRY


def test_a_log_that_an_older_version_wrote_with_a_long_entry_goes_on(tmp_path: Path) -> None:
    """Two megabytes in one entry: the last entry is found without a limit on its length."""
    path = tmp_path / "log"
    entry = {"seq": 1, "at": "2026-01-01", "event": "x", "why": "y" * 2**21, "prev": audit.GENESIS}
    entry["hash"] = audit._digest(entry)
    path.write_text(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n")
    audit.check_writable(path)
    audit.write(path, "after")
    assert audit.verify(path)[0] == 2


def test_verify_takes_a_line_cut_short_by_a_crash_for_no_entry_as_the_writer_does(
    path: Path,
) -> None:
    path.write_bytes(path.read_bytes() + b'{"seq": 6, "at"')
    assert audit.verify(path)[0] == 5


def test_a_log_whose_end_no_writer_can_read_is_told(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"garbage\n")
    with pytest.raises(errors.LedgerError, match="not a valid entry"):
        audit.check_writable(path)


# -- a log in several files
@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log of thirty entries in files of at most about 2,000 bytes."""
    monkeypatch.setattr(audit, "MAX_LOG", 2000)
    for i in range(30):
        audit.write(tmp_path / "log.jsonl", "events", number=i)
    return tmp_path / "log.jsonl"


def test_a_long_log_goes_on_in_another_file_with_the_same_chain(long: Path) -> None:
    files = audit.files(long)
    assert len(files) > 2 and files[-1] == long
    assert all(path.stat().st_size < 2500 and path.stat().st_mode & 0o077 == 0 for path in files)
    entries = list(audit.entries(long))
    assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry["number"] for entry in entries if "number" in entry] == list(range(30))
    assert audit.verify(long) == audit.head(long) == (entries[-1]["seq"], entries[-1]["hash"])


def test_former_files_that_are_kept_elsewhere_leave_a_chain_that_holds(long: Path) -> None:
    expected = audit.verify(long)
    first, second, *_ = audit.files(long)
    first.unlink()
    assert audit.verify(long) == expected
    lines = second.read_text().splitlines(keepends=True)
    second.write_text("".join(lines[1:]))  # without the entry that continues the first file
    with pytest.raises(errors.LedgerError, match="entry 1 of log"):
        audit.verify(long)


def test_a_file_that_is_missing_in_the_middle_or_changed_is_told(long: Path) -> None:
    _, second, *_ = audit.files(long)
    content = second.read_bytes()
    second.write_bytes(content.replace(b'"number":', b'"nummer":', 1))
    with pytest.raises(errors.LedgerError, match="was changed or is missing"):
        audit.verify(long)
    second.unlink()
    with pytest.raises(errors.LedgerError, match="was changed or is missing"):
        audit.verify(long)


def test_many_writers_make_one_chain_of_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_LOG", 1500)
    path = tmp_path / "log.jsonl"

    def write(by: int) -> None:
        for _ in range(20):
            audit.write(path, "x", by=by)

    threads = [threading.Thread(target=write, args=(by,)) for by in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audit.verify(path)
    assert sum(entry["event"] == "x" for entry in audit.entries(path)) == 100
    assert len(audit.files(path)) > 3


def test_a_crash_in_the_middle_of_a_rotation_loses_no_entry(
    long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the new file is put in the place of the former one, which has two names then."""
    last = audit.verify(long)
    monkeypatch.setattr(audit, "MAX_LOG", 1)
    with monkeypatch.context() as crash:
        crash.setattr(audit.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            audit.write(long, "crash")
    monkeypatch.setattr(audit, "MAX_LOG", 2000)
    assert audit.verify(long) == audit.head(long) == last
    assert len(list(audit.entries(long))) == last[0]


@pytest.mark.parametrize("chunk", [1, 50, 2**16])
def test_what_comes_after_an_entry_is_found_wherever_it_lies(
    long: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(audit, "CHUNK", chunk)
    entries = list(audit.entries(long))
    for seq in range(len(entries) + 2):
        assert list(audit.after(long, seq)) == entries[seq:]


def test_what_comes_after_an_entry_is_found_beside_a_line_that_a_crash_cut_short(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "CHUNK", 1)
    path.write_bytes(path.read_bytes() + b'{"seq": 6, "at"')
    assert [entry["seq"] for entry in audit.after(path, 3)] == [4, 5]
    assert list(audit.after(path, 5)) == []


def test_reading_on_opens_no_former_file_and_little_of_the_last(
    long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_LOG", 2**30)
    for _ in range(1000):
        audit.write(long, "x", text="t" * 1000)
    monkeypatch.setattr(audit, "CHUNK", 4096)
    parsed: list[object] = []
    parse = audit._parse
    monkeypatch.setattr(audit, "_parse", lambda line: parsed.append(line) or parse(line))
    last, _ = audit.head(long)
    for former in audit.files(long)[:-1]:
        former.write_text("not even an entry\n")
    parsed.clear()
    assert [entry["seq"] for entry in audit.after(long, last - 2)] == [last - 1, last]
    assert len(parsed) < 30  # of 1,000 lines: about 9 steps of the bisection, and those of a chunk
