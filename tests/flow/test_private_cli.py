"""Privacy on the command line, as a coordinator and a producer type it: plan, simulate, grant,
ledger, identity, roster, bucket."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.flow.test_cli import ORACLE, hdh

STUDY = """
study: arms
title: Arms
question: Do the arms differ?
purpose: {interest: public, category: research}
authorisation: {reference: DR-1, expires: 2099-12-31}
dataset: people
privacy: {epsilon: 0.8}
analyses:
  arms:  {run: crosstab, rows: arm, columns: sex, budget: 3}
  score: {run: glm, model: "score ~ age"}
"""
NODE = """
node: limoges
datasets:
  people: {contract: people.yaml, source: people.csv, people: 5000}
policy: {min_nodes: 1}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "node.yaml").write_text(NODE)
    (tmp_path / "people.yaml").write_text((ORACLE / "people.yaml").read_text())
    (tmp_path / "people.csv").write_text((ORACLE / "people.csv").read_text())
    return tmp_path


def plan(folder: Path, *more: str) -> Any:
    done = hdh("study", "plan", "study.yaml", "--format", "json", *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_study_is_planned_granted_run_and_accounted_for(folder: Path) -> None:
    before = plan(folder, "--node", "node.yaml")
    assert before["nodes"][0]["refuses"].startswith("budget: ") and not before["intervals"]
    assert not (folder / "state").exists(), "planning leaves a node as it was"
    granted = hdh(
        "node", "grant", "people", "--epsilon", "3", "--by", "data protection officer", cwd=folder
    )
    assert granted.returncode == 0 and "epsilon 3.000 more" in granted.stdout
    unchecked = plan(folder, "--node", "node.yaml")["nodes"][0]["refuses"]
    assert unchecked.startswith("unchecked: ") and "hdh node check" in unchecked
    assert hdh("node", "check", cwd=folder).returncode == 0
    after = plan(folder, "--node", "node.yaml", "--people", "lyon=3000")
    assert [node["refuses"] for node in after["nodes"]] == [None, None]
    limoges = next(node for node in after["nodes"] if node["node"] == "limoges")
    assert limoges["rho_left_after"] == pytest.approx(limoges["rho_left"] - after["rho"])
    rhos = {analysis["analysis"]: analysis["rho"] for analysis in after["analyses"]}
    assert rhos["arms"] == pytest.approx(3 * rhos["score"], rel=1e-6) and sum(
        rhos.values()
    ) == pytest.approx(after["rho"], rel=1e-6)
    text = hdh("study", "plan", "study.yaml", "--node", "node.yaml", cwd=folder).stdout
    for words in ("epsilon 0.8, delta 1e-06", "limoges", "5\u202f000", "at double", "a count"):
        assert words in text
    shown = hdh("node", "ledger", cwd=folder)
    assert (
        shown.returncode == 0
        and "by data protection officer" in " ".join(shown.stdout.split())
        and "3.000" in shown.stdout
    )
    accounts = json.loads(hdh("node", "ledger", "--format", "json", cwd=folder).stdout)
    assert (
        accounts["accounts"][0]["left"] == accounts["accounts"][0]["granted"]
        and len(accounts["entries"]) == 1
    )
    assert "is intact: 1 entry" in hdh("node", "ledger", "verify", cwd=folder).stdout


def test_the_widths_forecast_are_those_that_come(folder: Path) -> None:
    """A count's noise is known beforehand: its interval is as wide as was said; and it halves
    nearly with double the epsilon."""
    forecast_rows = plan(
        folder,
        *(
            part
            for site in ("ansm", "curie", "limoges", "spf")
            for part in ("--people", f"{site}=150")
        ),
    )["intervals"]
    width = {
        label: next(row["width"] for row in rows if row["analysis"] == "arms")
        for label, rows in forecast_rows.items()
    }
    assert 1.8 < width["half"] / width["this"] < 2.2 and 1.8 < width["this"] / width["double"] < 2.2
    done = hdh(
        "simulate",
        "study.yaml",
        "--data",
        "people.csv",
        "--split-by",
        "site",
        "--out",
        "out",
        cwd=folder,
    )
    result = json.loads((folder / "out" / "result.json").read_text())["analyses"]["arms"]
    counts = [
        row for row in result["tables"]["counts"] if "(all)" not in (row["row"], row["column"])
    ]
    assert 2 * 1.959964 * counts[0]["noise_sd"] == pytest.approx(width["this"], rel=1e-6)
    assert (
        result["exactness"] == "noised"
        and result["privacy"]["mode"] == "dp"
        and result["privacy"]["study_epsilon"] == 0.8
    )
    assert (
        "the data of one person change these results by no more than epsilon 0.8"
        in " ".join(done.stdout.split())
        and "noise" in (folder / "out" / "report.html").read_text()
    )


@pytest.mark.slow
def test_a_model_that_will_drown_in_noise_is_forecast(folder: Path) -> None:
    """Before it has cost anything. A lucky draw of the noise could prove it wrong with a chance
    below 1e-6."""
    people = [
        part for site in ("ansm", "curie", "limoges", "spf") for part in ("--people", f"{site}=150")
    ]
    for epsilon, model, enough in (("0.2", "age + dose + arm + sex", False), ("20", "sex", True)):
        (folder / "study.yaml").write_text(
            STUDY.replace("0.8", epsilon).replace("score ~ age", f"score ~ {model}")
        )
        widths = [
            row["width"]
            for row in plan(folder, *people)["intervals"]["this"]
            if row["analysis"] == "score"
        ]
        assert len(widths) >= 2 and all((width is not None) == enough for width in widths)
        done = hdh(
            "simulate",
            "study.yaml",
            "--data",
            "people.csv",
            "--split-by",
            "site",
            "--out",
            f"out{epsilon}",
            cwd=folder,
        )
        printed = " ".join((done.stdout + done.stderr).split())
        assert ("does not stand clear of its noise" in printed) != enough
    (folder / "study.yaml").write_text(STUDY.replace("0.8", "0.05"))
    assert "no result" in hdh("study", "plan", "study.yaml", *people, cwd=folder).stdout


def test_a_secure_simulation_says_what_the_hub_saw(folder: Path) -> None:
    (folder / "study.yaml").write_text(
        STUDY.replace(
            "{epsilon: 0.8}",
            "{epsilon: 20, noise: distributed, secure_sum: {dropouts: 1, colluders: 0}}",
        )
    )
    done = hdh(
        "simulate",
        "study.yaml",
        "--data",
        "people.csv",
        "--split-by",
        "site",
        "--out",
        "out",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "the hub saw only sums over nodes" in " ".join(done.stdout.split())
    result = json.loads((folder / "out" / "result.json").read_text())["analyses"]["arms"]
    assert [(node["status"], node["people"]) for node in result["nodes"]] == [
        ("answered", None)
    ] * 4


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["node", "grant", "peopel", "--epsilon", "1", "--by", "x"],
            2,
            "no dataset 'peopel'; the datasets are people",
        ),
        (
            ["node", "grant", "people", "--epsilon", "0", "--by", "x"],
            7,
            "a grant must be more than nothing",
        ),
        (
            ["node", "grant", "people", "--epsilon", "1", "--by", " "],
            2,
            "--by must name the person who decides",
        ),
        (
            ["node", "grant", "people", "--epsilon", "30", "--by", "dpo"],
            2,
            "the promise to a person is weak; grant less, or add --yes",
        ),
        (["node", "withdraw", "people", "--by", "dpo"], 7, "has no grant to take back"),
        (["study", "plan", "study.yaml", "--people", "limoges"], 2, "write it as NAME=N"),
        (["node", "bucket", "other", "--out", "b"], 2, "no dataset 'other'"),
        (["node", "roster"], 2, "there is no roster; write `roster: roster.yaml`"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str], code: int, message: str, folder: Path
) -> None:
    done = hdh(*arguments, cwd=folder)
    assert done.returncode == code and message in done.stderr and "Traceback" not in done.stderr


def test_a_changed_ledger_is_told(folder: Path) -> None:
    hdh("node", "grant", "people", "--epsilon", "1", "--by", "dpo", cwd=folder)
    with sqlite3.connect(folder / "state" / "ledger.sqlite") as budget_ledger:
        budget_ledger.execute("UPDATE entries SET rho = rho * 10")
    done = hdh("node", "ledger", "verify", cwd=folder)
    assert done.returncode == 7 and "entry 1 of the ledger was changed" in done.stderr


def test_an_empty_ledger_says_what_to_do(folder: Path) -> None:
    done = hdh("node", "ledger", cwd=folder)
    assert done.returncode == 0 and "hdh node grant DATASET --epsilon 3 --by NAME" in done.stdout


def test_operators_accept_each_others_identities(folder: Path) -> None:
    line = hdh("node", "identity", cwd=folder).stdout
    assert hdh("node", "identity", cwd=folder).stdout == line and line.startswith("limoges: ")
    key = folder / "state" / "identity.key"
    assert key.stat().st_mode & 0o777 == 0o600
    (folder / "node.yaml").write_text(NODE + "roster: roster.yaml\n")
    (folder / "roster.yaml").write_text(f"nodes:\n  {line}  lyon: {'ab' * 32}\n")
    shown = hdh("node", "roster", cwd=folder)
    assert shown.returncode == 0 and "lyon" in shown.stdout and "abab abab" in shown.stdout
    (folder / "roster.yaml").write_text(f"nodes:\n  limoges: {'cd' * 32}\n  lyon: {'ab' * 32}\n")
    assert (
        "the roster does not hold this node under its own key"
        in hdh("node", "roster", cwd=folder).stderr
    )
    (folder / "roster.yaml").write_text("nodes:\n  lyon: short\n")
    assert "is not 64 hexadecimal digits; copy the line" in hdh("node", "roster", cwd=folder).stderr


def test_a_table_is_bucketed_once_and_named_as_source(folder: Path) -> None:
    done = hdh("node", "bucket", "people", "--out", "buckets", "--buckets", "4", cwd=folder)
    assert (
        done.returncode == 0
        and "600 rows in 4 buckets" in done.stdout
        and "source: buckets" in done.stdout
    )
    (folder / "node.yaml").write_text(NODE.replace("people.csv", "buckets"))
    assert hdh("node", "check", cwd=folder).returncode == 0
    assert (
        "the folder is not empty"
        in hdh("node", "bucket", "people", "--out", "buckets", cwd=folder).stderr
    )
