"""One process for each folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from federation import errors, lock


def test_a_second_process_is_refused_until_the_first_is_gone_however_it_ends(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lock"
    assert not lock.is_held(path)
    code = (
        "from pathlib import Path; from federation import lock\nwith"
        f" lock.alone(Path({str(path)!r}), 'taken'): print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == b"held\n"
        assert lock.is_held(path)
        with pytest.raises(errors.SetupError, match="taken"), lock.alone(path, "taken"):
            raise AssertionError("two hold it")
        first.kill()
    assert not lock.is_held(path)
    with lock.alone(path, "taken"):
        assert lock.is_held(path)
