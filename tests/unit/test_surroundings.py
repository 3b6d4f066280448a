"""The surroundings of a run: proxies, terminals without Unicode, full disks, folders with other
files, other sources."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.report import folder as folders
from federation import errors, loopback
from federation.cli import main
from nodes import connectors
from nodes.site import Dataset, Storage
from tests import federations

HDH = [sys.executable, "-c", "from federation.cli.main import main; main()"]
HOME = str(Path(__file__).parents[2])
CONTRACT = (
    "dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n  x: {type: number,"
    " range: [0, 10]}\n  ville: {type: category, levels: [Orléans, Nîmes]}\n"
)
STUDY = """study: s
title: Où l'été ? ●
question: Combien ?
purpose: {interest: public, category: research}
authorisation: {reference: R, expires: 2099-12-31}
dataset: people
min_nodes: 1
privacy: {mode: exact, min_cell: 1}
analyses: {ANALYSIS: {run: describe, columns: [x, ville]}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text(STUDY.replace("ANALYSIS", "a"), encoding="utf-8")
    (tmp_path / "other.yaml").write_text(
        STUDY.replace("ANALYSIS", "b").replace("[x, ville]", "[x]"), encoding="utf-8"
    )
    (tmp_path / "people.yaml").write_text(CONTRACT, encoding="utf-8")
    rows = "".join(f"p{i},{i % 7},{'Orléans' if i % 2 else 'Nîmes'}\n" for i in range(60))
    (tmp_path / "n1.csv").write_text("id,x,ville\n" + rows, encoding="utf-8")
    return tmp_path


def simulate(
    folder: Path, *flags: str, study: str = "study.yaml", shell: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [
        *HDH,
        "simulate",
        study,
        "--node",
        "n1=n1.csv",
        "--node",
        "n2=n1.csv",
        "--out",
        "out",
        *flags,
    ]
    return subprocess.run(
        ["bash", "-c", f'{shell} exec "$@"', "bash", *command] if shell else command,
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        timeout=300,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": HOME, **environment},
    )


ASCII = [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp1252"},
]


@pytest.mark.parametrize("environment", federations.first(ASCII))
def test_a_terminal_without_letters_shows_the_result(
    environment: dict[str, str], folder: Path
) -> None:
    done = subprocess.run(
        [*HDH, "simulate", "study.yaml", "--node", "n1=n1.csv", "--out", "out"],
        capture_output=True,
        cwd=folder,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": HOME, **environment},
    )
    assert done.returncode == 0, done.stderr
    assert b"Orl" in done.stdout and b"Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("environment", federations.first(ASCII))
def test_json_keeps_every_letter_on_such_a_terminal(
    environment: dict[str, str], folder: Path
) -> None:
    done = subprocess.run(
        [*HDH, "simulate", "study.yaml", "--node", "n1=n1.csv", "--out", "out", "--format", "json"],
        capture_output=True,
        cwd=folder,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": HOME, **environment},
    )
    assert done.returncode == 0, done.stderr
    encoding = environment.get("PYTHONIOENCODING", "ascii")
    document = json.loads(done.stdout.decode(encoding))
    assert document["title"] == "Où l'été ? ●"
    assert [row["column"] for row in document["analyses"]["a"]["tables"]["levels"]] == [
        "Orléans",
        "Nîmes",
    ]


@pytest.mark.parametrize("kilobytes", federations.first([20, 1]))
def test_a_full_disk_names_the_folder_of_the_results(kilobytes: int, folder: Path) -> None:
    done = simulate(folder, shell=f"ulimit -f {kilobytes};")
    assert done.returncode == 6 and "Traceback" not in done.stderr, done.stderr
    assert (
        "--out out: the results cannot be written there" in done.stderr
        and "hub.yaml" not in done.stderr
    )


@pytest.mark.parametrize(
    "source",
    [
        "oracle://db/prod",
        "s3://bucket/people.parquet",
        "https://example.org/people.csv",
        "jdbc:x://y",
        "file:///people.csv",
        "mysql://h/d",
    ],
)
def test_another_kind_of_source_names_the_kinds_that_exist(source: str) -> None:
    dataset = Dataset(federations.contract_of(CONTRACT), source)
    for read in (
        lambda: connectors.open_rows(connectors.connect(Storage()), dataset, ["id"]),
        lambda: connectors.column_names(dataset, Storage()),
    ):
        with pytest.raises(
            errors.DataError,
            match=r"unknown kind of source .* the kinds are \.csv, .* postgresql://",
        ):
            read()


# -- one study, one folder
def tables(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out" / "tables").iterdir())


def test_the_tables_of_another_study_make_way(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)

    def run(study: str) -> None:
        words = ["simulate", study, "--node", "n1=n1.csv", "--node", "n2=n1.csv", "--out", "out"]
        main.app(words, standalone_mode=False)

    run("study.yaml")
    assert tables(folder) == ["a.levels.csv", "a.numbers.csv", "a.quantiles.csv"] or all(
        name.startswith("a.") for name in tables(folder)
    )
    run("other.yaml")
    assert tables(folder) and all(name.startswith("b.") for name in tables(folder))
    assert not any("levels" in name for name in tables(folder))
    run("study.yaml")
    assert all(name.startswith("a.") for name in tables(folder))


@pytest.mark.parametrize(
    "name", federations.first(["tables/notes.csv", "tables/a.numbers.xlsx", "result.json"])
)
def test_files_of_other_origin_are_never_touched(name: str, folder: Path) -> None:
    path = folder / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    done = simulate(folder)
    assert (
        done.returncode == 2
        and f"{name} there is not part of an earlier result of hdh; name a new folder"
        in done.stderr
    )
    assert path.read_text() == "mine" and not (folder / "out" / "report.html").exists()


def test_a_result_that_names_files_elsewhere_takes_none_away(tmp_path: Path) -> None:
    (tmp_path / "kept.csv").write_text("mine")
    out = tmp_path / "out"
    (out / "tables").mkdir(parents=True)
    names = {
        "../../kept": {"tables": {"x": [1]}},
        "a": {"tables": {"../../kept": [1]}, "model": None},
        "..": {"tables": {}, "model": 1},
    }
    (out / "result.json").write_text(json.dumps({"study_hash": "x", "analyses": names}))
    folders.clear(out)
    assert (tmp_path / "kept.csv").read_text() == "mine"


# -- proxies
@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("localhost:9092", True),
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:5", True),
        ("hub.localhost:5", True),
        ("hub.example.org:9092", False),
        ("10.0.0.1:1", False),
        ("localhost.example.org:1", False),
    ],
)
def test_only_this_machine_is_reached_without_a_proxy(address: str, expected: bool) -> None:
    assert loopback.is_loopback(address) is expected
    assert loopback.channel_options(address) == (
        [("grpc.enable_http_proxy", 0)] if expected else []
    )


def test_every_proxy_variable_is_left_out_in_any_case() -> None:
    names = [
        "http_proxy",
        "HTTP_PROXY",
        "Https_Proxy",
        "grpc_proxy",
        "ALL_PROXY",
        "all_proxy",
        "no_proxy",
        "PATH",
    ]
    assert sorted(loopback.without_proxies(dict.fromkeys(names, "x"))) == ["PATH", "no_proxy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        ["http_proxy", "https_proxy", "no_proxy"],
        ["https_proxy"],
        ["HTTP_PROXY", "HTTPS_PROXY"],
        ["grpc_proxy", "ALL_PROXY", "all_proxy", "http_proxy"],
    ],
)
def test_a_federation_on_this_machine_runs_behind_proxy_variables(
    names: list[str], folder: Path
) -> None:
    values = {
        name: "localhost,127.0.0.1" if name == "no_proxy" else "http://127.0.0.1:9"
        for name in names
    }
    done = simulate(folder, "--engine", "flower", **values)
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [(("3.12",), "python3.12"), (("3.11", "3.13"), "python3.11"), ((), "python3")],
)
def test_make_takes_a_python_that_the_machine_has(
    installed: tuple[str, ...], chosen: str, tmp_path: Path
) -> None:
    """README: Python 3.11 to 3.13. A machine has one of them more often than all."""
    for version in installed:
        (tmp_path / f"python{version}").symlink_to("/bin/true")
    rules = subprocess.run(
        [shutil.which("make") or "make", "--dry-run", "--always-make", ".venv/.base"],
        env={"PATH": str(tmp_path)},
        cwd=HOME,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"{chosen} -m venv .venv " in rules
