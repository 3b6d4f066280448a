"""`hdh` as people type it: the demo, other people's tables, mistakes, exit codes,
and the time to start."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest

HDH = [str(Path(sys.executable).parent / "hdh")]
ORACLE = Path(__file__).parents[1] / "oracle"
STUDY = """
study: arms
title: Arms
question: Do the arms differ?
purpose: {interest: public, category: research}
authorisation: {reference: DR-1, expires: 2099-12-31}
dataset: people
privacy: {mode: exact, min_cell: 11}
analyses:
  model: {run: cox, model: "Surv(stop, event) ~ age + sex", strata: node}
"""


def hdh(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HDH, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "people.yaml").write_text((ORACLE / "people.yaml").read_text())
    (tmp_path / "people.csv").write_text((ORACLE / "people.csv").read_text())
    return tmp_path


def test_the_demo_is_the_pooled_answer_of_r(tmp_path: Path) -> None:
    done = hdh("simulate", "dialysis", "--out", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    for shown in (
        "0.4127",
        "0.0615",
        "grouping into four nodes",
        "chu-limoges",
        "Suppressed: 32 rows",
        "report.html",
        "result.json",
        "●",
    ):
        assert shown in done.stdout
    result = json.loads((tmp_path / "demo" / "result.json").read_text())
    expected = json.loads((ORACLE / "expected.json").read_text())["dialysis_stratified"]
    rows = result["analyses"]["model"]["tables"]["coefficients"]
    assert [row["estimate"] for row in rows] == pytest.approx(expected["coef"], rel=1e-8)
    assert [row["std_error"] for row in rows] == pytest.approx(expected["se"], rel=1e-8)


def released(path: Path) -> Any:
    return json.loads((path / "result.json").read_text())["analyses"]


def test_a_table_split_by_a_column_and_files_by_name_give_the_same(folder: Path) -> None:
    table = pandas.read_csv(folder / "people.csv", dtype=str, keep_default_na=False)
    named: list[str | Path] = []
    for site, part in table.groupby("site"):
        part.to_csv(folder / f"{site}.csv", index=False)
        named += ["--node", f"{site}={folder / f'{site}.csv'}"]
    by_column = hdh(
        "simulate",
        folder / "study.yaml",
        "--data",
        folder / "people.csv",
        "--split-by",
        "site",
        "--out",
        folder / "a",
    )
    by_name = hdh(
        "simulate", folder / "study.yaml", *named, "--out", folder / "b", "--format", "json"
    )
    assert (by_column.returncode, by_name.returncode) == (0, 0), by_column.stderr + by_name.stderr
    assert (
        released(folder / "a") == released(folder / "b") == json.loads(by_name.stdout)["analyses"]
    )


def test_values_are_grouped_into_so_many_nodes(folder: Path) -> None:
    done = hdh(
        "simulate",
        folder / "study.yaml",
        "--data",
        folder / "people.csv",
        "--split-by",
        "site",
        "--nodes",
        "3",
        "--out",
        folder / "a",
        "--format",
        "json",
    )
    assert json.loads(done.stdout)["provenance"]["nodes"] == ["node-1", "node-2", "node-3"]


def test_strict_nodes_show_no_small_cell_and_say_what_to_do(folder: Path) -> None:
    text = STUDY.replace(
        '{run: cox, model: "Surv(stop, event) ~ age + sex", strata: node}',
        '{run: kaplan_meier, model: "Surv(stop, event) ~ arm"}',
    )
    (folder / "study.yaml").write_text(text)
    done = hdh(
        "simulate",
        folder / "study.yaml",
        "--data",
        folder / "people.csv",
        "--split-by",
        "site",
        "--out",
        folder / "a",
        "--strict",
    )
    assert (
        done.returncode == 4
        and "RefusalError: model: 0 of the 3 nodes needed gave a part" in done.stderr
    )
    assert "small_cells" in done.stdout and "coarsen the grid" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["simulate", "nowhere.yaml"],
            2,
            "InputError: nowhere.yaml: neither a file nor a pilot; the pilots are arac,"
            " deep_piste, deepsarc, dialysis",
        ),
        (["simulate", "study.yaml"], 2, "no data: give --data FILE --split-by COLUMN"),
        (
            ["simulate", "study.yaml", "--data", "people.csv", "--split-by", "ward"],
            3,
            "no column 'ward'",
        ),
        (
            [
                "simulate",
                "study.yaml",
                "--data",
                "people.csv",
                "--split-by",
                "site",
                "--nodes",
                "9",
            ],
            2,
            "--nodes 9 is more than the 4 values",
        ),
        (
            ["simulate", "study.yaml", "--data", "people.csv", "--split-by", "arm"],
            3,
            "split by site, or drop `within_node`",
        ),
        (["simulate", "study.yaml", "--node", "Limoges"], 2, "write it as NAME=FILE"),
        (["simulate", "dialysis", "--nodes", "3"], 2, "give it with --data FILE"),
        (
            ["study", "check", "broken.yaml"],
            2,
            "StudyError: broken.yaml:10: analyses.model: unknown column 'agee'",
        ),
        (["study", "check", "alone/study.yaml"], 2, "no contract alone/people.yaml"),
        (["node", "check", "node.yaml"], 3, "the data break their contract"),
        (["node", "check", "absent.yaml"], 2, "SiteError: absent.yaml: no such file"),
    ],
)
def test_a_mistake_is_one_line_with_an_exit_code_and_no_traceback(
    arguments: list[str], code: int, message: str, folder: Path
) -> None:
    (folder / "broken.yaml").write_text(STUDY.replace("~ age", "~ agee"))
    (folder / "alone").mkdir()
    (folder / "alone" / "study.yaml").write_text(STUDY)
    (folder / "bad.csv").write_text((folder / "people.csv").read_text().replace(",f,", ",woman,"))
    (folder / "node.yaml").write_text(
        "node: limoges\ndatasets:\n  people: {contract: people.yaml, source: bad.csv}\n"
    )
    done = hdh(*arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


def test_node_check_tells_the_producer_what_is_wrong(folder: Path) -> None:
    (folder / "bad.csv").write_text((folder / "people.csv").read_text().replace(",f,", ",woman,"))
    (folder / "node.yaml").write_text(
        "node: limoges\ndatasets:\n  people: {contract: people.yaml, source: bad.csv}\n"
    )
    done = hdh("node", "check", "node.yaml", "--format", "json", cwd=folder)
    (finding,) = json.loads(done.stdout)[0]["findings"]
    assert (
        (finding["column"], finding["rule"]) == ("sex", "unknown level")
        and finding["rows"] > 100
        and "woman" not in done.stdout
    )


def test_a_study_in_order_is_said_to_be(folder: Path) -> None:
    done = hdh("study", "check", "study.yaml", cwd=folder)
    assert done.returncode == 0 and "is valid" in done.stdout and "no node was asked" in done.stdout


def test_help_loads_none_of_the_libraries_of_an_analysis() -> None:
    heavy = ("numpy", "pydantic", "pandas", "duckdb", "grpc", "cryptography", "yaml", "flwr")
    code = (
        "import atexit, sys; from federation.cli.main import main; sys.argv = ['hdh', '--help'];"
        f"atexit.register(lambda: print([m for m in {heavy} if m in sys.modules])); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert "Usage" in done.stdout and done.stdout.splitlines()[-1] == "[]"


def test_help_takes_less_than_half_a_second_of_a_processor() -> None:
    times = []
    for _ in range(3):  # the least of three, in time of the processor: others may use the machine
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert hdh("--help").returncode == 0
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime)
    assert min(times) < 0.5


def test_the_version() -> None:
    assert hdh("--version").stdout.startswith("hdh-federation 0.")
