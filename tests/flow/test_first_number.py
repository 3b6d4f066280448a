"""From three hospitals' files to a first number: the commands of docs/producer.md, and no SQL."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HDH = str(Path(sys.executable).parent / "hdh")
MAX_COMMANDS = 5
ENCODINGS = {"limoges": "cp1252", "rennes": "cp1252", "lyon": "utf-8-sig"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for hospital in ENCODINGS:
        shutil.copy(ROOT / "tests" / "files" / f"{hospital}.csv", tmp_path)
    return tmp_path


def section() -> str:
    text = (ROOT / "docs" / "producer.md").read_text(encoding="utf-8")
    return text.partition("### From files to a first number\n")[2].partition("\n## ")[0]


def ages(folder: Path) -> list[float]:
    return [
        float(line.split(";")[4].replace(",", "."))
        for hospital, encoding in ENCODINGS.items()
        for line in (folder / f"{hospital}.csv").read_text(encoding).splitlines()[1:]
    ]


def test_the_commands_of_the_page_lead_from_three_files_to_a_first_number(folder: Path) -> None:
    """The mean is that of the ages in the three files, by Python."""
    (study,) = re.findall(r"```yaml\n(.*?)```", section(), re.DOTALL)
    (folder / "study.yaml").write_text(study, encoding="utf-8")
    commands = re.findall(r"^\$ hdh (.*)$", section(), re.MULTILINE)
    drafted, corrected = re.findall(r"`(range: .*?)`", section())
    assert 1 <= len(commands) <= MAX_COMMANDS
    for command in commands:
        if command.startswith("simulate"):
            contract = (folder / "sejours.yaml").read_text(encoding="utf-8")
            assert f"age:                  {{type: number, {drafted}" in contract
            (folder / "sejours.yaml").write_text(contract.replace(drafted, corrected), "utf-8")
        done = subprocess.run(
            [HDH, *shlex.split(command)],
            capture_output=True,
            text=True,
            cwd=folder,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((folder / "out/simulate/result.json").read_text(encoding="utf-8"))
    (row,) = result["analyses"]["ages"]["tables"]["numbers"]
    values = ages(folder)
    assert row["n"] == len(values) == 180
    assert row["mean"] == pytest.approx(sum(values) / 180, rel=1e-9)  # sums in another order


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--read", "sejours.read.yaml"], "give --node NAME=FILE"),
        (["--node", "limoges=limoges.csv", "--read", "lyon=keys.yaml"], "--node names no 'lyon'"),
        (["--node", "limoges=limoges.csv", "--read", "keys.yaml"], "unknown key 'decimals'"),
    ],
)
def test_keys_that_say_nothing_of_a_table_are_refused(
    options: list[str], message: str, folder: Path
) -> None:
    (study,) = re.findall(r"```yaml\n(.*?)```", section(), re.DOTALL)
    (folder / "study.yaml").write_text(study, encoding="utf-8")
    (folder / "keys.yaml").write_text('decimals: ","\n', encoding="utf-8")
    (folder / "sejours.yaml").write_text(
        "dataset: sejours\nversion: 1\nunit: row\ncolumns:\n  age: {type: number}\n"
    )
    done = subprocess.run(
        [HDH, "simulate", "study.yaml", *options],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert message in " ".join((done.stdout + done.stderr).split())
