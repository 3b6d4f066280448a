"""The path of a new user, timed: from `pip install` of the wheel into an empty environment to a
forest plot, by the lines of docs/python.md and docs/r.md as they are written.

`python -m benchmarks.fresh [FOLDER]`. Installing depends on the network and on pip's cache; it is
shown, and has no limit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADING = "## Ten lines from frames to a forest plot"
NEEDED_BY_R = ("jsonlite", "processx", "generics", "survival")
LIMITS = {"ten lines of Python": 10.0, "ten lines of R": 20.0}  # seconds


@dataclass(frozen=True)
class Step:
    name: str
    seconds: float


def lines(page: str, language: str) -> str:
    """The code of a page's section that a new user copies."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").split(HEADING)[1]
    block = re.split(r"^```", text, maxsplit=2, flags=re.MULTILINE)[1].partition("\n")
    assert block[0] == language, f"{page}: its first block is {block[0]!r}"
    return re.sub(r"^(>>>|\.\.\.) ?", "", block[2], flags=re.MULTILINE)


def wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def install(path: Path, folder: Path) -> Path:
    """The `bin` of a new environment with the wheel and its extra `simulation`."""
    venv.create(folder, with_pip=True)
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    run([str(folder / "bin" / "pip"), "install", "--quiet", f"{path}[simulation]", *constraints])
    return folder / "bin"


def play_python(programs: Path, folder: Path) -> None:
    """Leaves forest.svg in `folder`."""
    (folder / "ten.py").write_text(lines("python.md", "python"), encoding="utf-8")
    run([str(programs / "python"), "ten.py"], folder)


def install_r(folder: Path) -> None:
    """The R package, into a library of its own. What it needs comes from the distribution."""
    folder.mkdir()
    package = str(ROOT / "clients" / "r")
    run(["R", "CMD", "INSTALL", "--no-docs", "--no-test-load", "-l", str(folder), package])


def play_r(programs: Path, library: Path, folder: Path) -> None:
    """Leaves Rplots.pdf in `folder`."""
    (folder / "ten.R").write_text(lines("r.md", "r"), encoding="utf-8")
    more = {"R_LIBS": str(library), "HDH_COMMAND": str(programs / "hdh")}
    run(["Rscript", "ten.R"], folder, more)


def run(command: list[str], folder: Path | None = None, more: Mapping[str, str] = {}) -> None:
    """Without the variables by which this process found its own packages."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=environment | more, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def has_r() -> bool:
    if shutil.which("Rscript") is None:
        return False
    listed = ", ".join(f'"{name}"' for name in NEEDED_BY_R)
    asked = f"cat(setdiff(c({listed}), rownames(installed.packages())))"
    return not subprocess.run(["Rscript", "-e", asked], capture_output=True, text=True).stdout


def play(folder: Path) -> list[Step]:
    """The steps with their seconds; those of R where it is installed."""
    built, steps = wheel(folder), list[Step]()

    def timed(name: str, begun: float) -> None:
        steps.append(Step(name, time.perf_counter() - begun))

    begun = time.perf_counter()
    programs = install(built, folder / "environment")
    timed("pip install of the wheel, into an empty environment", begun)
    for name in ("ten lines of Python", "the same again"):
        begun = time.perf_counter()
        play_python(programs, folder)
        timed(name, begun)
    if has_r():
        begun = time.perf_counter()
        install_r(folder / "library")
        timed("R CMD INSTALL", begun)
        begun = time.perf_counter()
        play_r(programs, folder / "library", folder)
        timed("ten lines of R", begun)
    return steps


def main() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        chosen = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder)
        steps = play(chosen)
    for step in steps:
        sys.stdout.write(f"{step.seconds:8.2f} s  {step.name}\n")
    return all(step.seconds <= LIMITS.get(step.name, float("inf")) for step in steps)


if __name__ == "__main__":
    sys.exit(not main())
