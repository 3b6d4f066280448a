"""The wheel holds exactly the five packages."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from federation import errors, installation

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_exactly_the_five_packages(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(
        installation.PACKAGES
    )
    for needed in (
        "simulations/pilots/dialysis/study.yaml",
        "aggregator/report/page.html.j2",
        "aggregator/bundle/pyproject.toml",
        "federation/py.typed",
        "federation/locale/fr/LC_MESSAGES/hdh.mo",
    ):
        assert needed in names


def test_a_shadowed_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installation.check()
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "__init__.py").write_text("")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from federation import installation;"
        " installation.check()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (
        done.returncode != 0
        and errors.SetupError.__name__ in done.stderr
        and "'nodes'" in done.stderr
    )
