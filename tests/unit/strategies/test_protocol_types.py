"""mypy names the missing member, the misspelt trait and the missing count of a planted module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MEMBERS = (
    "TRAITS",
    "Options",
    "combine",
    "forecast",
    "limits",
    "local",
    "prepare",
    "rounds",
    "shares",
    "start",
)


def reexported(*left_out: str) -> str:
    """A private analysis that has the members of `glm_dp`, all but some."""
    names = [name for name in MEMBERS if name not in left_out]
    return "".join(f"from strategies.regression.glm_dp import {name} as {name}\n" for name in names)


ROW = (
    "import planted\nfrom strategies.regression import glm\nfrom strategies.registry import Row\n"
    "\nrow = Row(glm, private=planted)\n"
)
PLANTED = {
    "a private module without rounds": (reexported("rounds"), ROW, "rounds"),
    "a misspelt trait": (
        "from strategies.protocol import Traits\n\nTRAITS = Traits(tolerent=True)\n",
        "import planted\n",
        "tolerent",
    ),
    "counts without missing": (
        "from federation.results import Counts\n\nn = Counts(people=1, rows=1)\n",
        "import planted\n",
        "missing",
    ),
}


def complaints(folder: Path, module: str, use: str) -> str:
    """What mypy says of `module` and of the code that uses it, with the project's own settings."""
    (folder / "planted.py").write_text(module)
    (folder / "use.py").write_text(use)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    paths = [str(folder / "planted.py"), str(folder / "use.py")]
    environment = {"MYPYPATH": f"{folder}:{ROOT}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [*command, *paths], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    return done.stdout


@pytest.mark.parametrize("fault", PLANTED)
def test_mypy_names_what_is_wrong_with_a_planted_module(fault: str, tmp_path: Path) -> None:
    module, use, member = PLANTED[fault]
    lines = complaints(tmp_path, module, use).splitlines()
    about = [line for line in lines if "planted.py" in line or "use.py" in line]
    assert any(member in line for line in about), lines


def test_mypy_has_nothing_against_a_whole_module(tmp_path: Path) -> None:
    assert "Success" in complaints(tmp_path, reexported(), ROW)
