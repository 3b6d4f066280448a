"""The outputs of the hub's own processes have a limit while they run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from aggregator import child_process, daemon

WRITER = "import sys\nfor line in sys.stdin:\n    print(line, end='', flush=True)"


def test_the_output_of_a_running_process_is_emptied_and_what_was_there_is_kept_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "superlink.log"
    process = child_process.start(
        [sys.executable, "-S", "-c", WRITER], output=path, environment={}, stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    with process, process.stdin as stdin:
        for turn in range(3):
            stdin.write(b"%d" % turn * 100 + b"\n")
            stdin.flush()
            while not path.exists() or path.stat().st_size < 101:
                assert process.poll() is None
            daemon.bound(path, 1000)
            assert path.stat().st_size == 101  # it is not long
            daemon.bound(path, 100)
            assert path.read_bytes() == b""
            assert path.with_suffix(".log.1").read_bytes() == b"%d" % turn * 100 + b"\n"
    daemon.bound(tmp_path / "none.log", 100)


def test_a_disk_that_is_full_keeps_no_copy_and_gets_room(tmp_path: Path) -> None:
    path = tmp_path / "superlink.log"
    path.write_bytes(b"x" * 200)
    path.with_suffix(".log.1").mkdir()  # nothing can be written there
    daemon.bound(path, 100)
    assert path.read_bytes() == b""
