"""The units of the daemons are accepted by systemd, and leave the kernel little to be asked for."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from aggregator import settings
from federation import errors, language, systemd
from federation.cli.actions import parties
from nodes import setup

MAX_EXPOSURE = 2.5  # of 10, by `systemd-analyze security`; sshd has 9.6, chronyd 3.9
Print = Callable[[], None]


@pytest.fixture(params=["node", "hub"])
def unit(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    if request.param == "node":
        return setup.unit(setup.init(tmp_path / "node", "lyon"), "hdh")
    settings.init(tmp_path / "hub", ["localhost"], 8443, None, "127.0.0.1")
    parties.print_unit(tmp_path / "hub", "hdh")
    return capsys.readouterr().out


def test_a_unit_may_write_to_its_own_folder_only(unit: str, tmp_path: Path) -> None:
    (written,) = re.findall(r"(?m)^ReadWritePaths=(.*)$", unit)
    assert Path(written).parent == tmp_path.resolve() and "ProtectSystem=strict" in unit
    (command,) = re.findall(r"(?m)^ExecStart=(.*)$", unit)
    assert Path(command.split()[0]).name == "hdh" and command.split()[2] == "run"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_knows_every_line_and_counts_little_exposure(unit: str, tmp_path: Path) -> None:
    file = tmp_path / "hdh-test.service"
    # The command is there on the machine that the unit is for, and maybe not on this one.
    file.write_text(re.sub(r"(?m)^ExecStart=.*$", "ExecStart=/bin/true", unit))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert file.name not in verified.stderr, verified.stderr
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", rated.stdout)
    assert float(exposure) <= MAX_EXPOSURE, rated.stdout


@pytest.mark.parametrize("name", ["a b", "a%n", "a;b", "a\nExecStartPre=b", "a$b"])
def test_a_folder_that_would_be_read_as_something_else_is_refused(name: str) -> None:
    daemon = systemd.Daemon("hdh-node", "node", ["node", "run"], Path("/srv") / name, "8G")
    with pytest.raises(errors.InputError, match="systemd unit"):
        systemd.unit(daemon, "hdh")


def test_a_unit_that_was_asked_for_in_french_starts_a_daemon_in_french(tmp_path: Path) -> None:
    path = setup.init(tmp_path / "node", "lyon")
    with language.using("fr"):
        assert "Environment=HDH_LANG=fr\n" in setup.unit(path, "hdh")
    assert "HDH_LANG" not in setup.unit(path, "hdh")
