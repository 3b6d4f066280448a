"""What the checks of unchanged files counted is not counted again, and changes neither an answer
nor a refusal. A file that has changed, or a note that this node did not sign, is worth nothing."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pytest

from aggregator import rounds
from federation import schema as schemas
from federation.cli.actions import node_data
from federation.messages import TaskId
from federation.study import Study
from nodes import (
    checked_versions,
    cohort_table,
    cohorts,
    contract_counts,
    kept_cohorts,
    level_lookup,
)
from nodes import site as sites
from nodes.checked_versions import Checked
from nodes.site import Dataset, Policy, Site, Storage
from simulations import local
from tests import federations

CONTRACT = """dataset: people
version: 1
person: id
rows_per_person: 3
columns:
  id: {type: string}
  age: {type: number, range: [0, 120], max_missing: 0.5}
  bmi: {type: number, range: [10, 60]}
  ill: {type: boolean}
  rare: {type: boolean}
  sex: {type: category, levels: [f, m], max_missing: 0.5}
"""
STRICT = Policy(min_nodes=1, modes=("exact", "dp"), max_epsilon=20)
GOOD = ("age", "ill", "rare", "sex")


def table(rows: int = 3000) -> pandas.DataFrame:
    draw = np.random.default_rng(4)
    frame = pandas.DataFrame(
        {
            "id": [f"p{person}" for person in draw.permutation(np.repeat(np.arange(rows // 2), 2))],
            "age": draw.uniform(0, 100, rows).round(2),
            "bmi": [90.0, *draw.uniform(15, 40, rows - 1)],  # one value breaks the contract
            "ill": draw.random(rows) < 0.4,
            "rare": np.arange(rows) % 1500 == 0,
            "sex": draw.choice(["f", "m"], rows),
        }
    )
    frame.loc[7, "age"] = None
    frame.loc[9, "sex"] = None
    return frame


def write(frame: pandas.DataFrame, path: Path) -> None:
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)


def site_of(folder: Path, kind: str = "parquet", state: str = "state", **storage: Any) -> Site:
    path = folder / f"rows.{kind}"
    if not path.exists():
        write(table(), path)
    dataset = Dataset(federations.contract_of(CONTRACT), str(path))
    (folder / state).mkdir(exist_ok=True)
    return Site("n0", {"people": dataset}, STRICT, Storage(**storage), state=folder / state)


def describe(*columns: str, **more: Any) -> Study:
    return federations.study_of({"a": {"run": "describe", "columns": list(columns)}}, **more)


def where(condition: str) -> dict[str, Any]:
    return {"cohort": {"where": condition}}


STUDIES = [
    federations.study_of({"a": {"run": "glm", "family": "binomial", "model": "ill ~ age + sex"}}),
    describe("age", "ill"),
    describe("bmi"),
    federations.study_of({"a": {"run": "crosstab", "rows": "sex", "columns": "ill"}}),
    describe("age", **where("age >= 30")),
    describe("age", **where("rare")),
    describe("ill", **where("age >= 30.05")),
    describe("age", privacy={"epsilon": 5.0}),
]


def answers(site: Site, studies: Iterable[Study]) -> list[str]:
    """What a node that has just started answers, or why it refuses."""
    contexts = local.contexts_of([site], entropy=lambda n: bytes(n))
    send, contract = local.send_of(contexts, federations.NOW), site.datasets["people"].contract
    texts = []
    for study in studies:
        outcome = rounds.run(study, contract, lambda query: send({"n0": query}), ["n0"])
        run = outcome.runs[TaskId("a")]
        refusals = [str(refusal) for refusal in run.refusals.values()]
        texts.append(f"{run.failed} {run.withheld} {refusals} {run.result}")
    return [re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda n: f"{float(n[0]):.9g}", each) for each in texts]


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_cohorts, "SETTLED", 0.0)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The columns of each count of broken rules."""
    columns: list[tuple[str, ...]] = []
    real = contract_counts.examine_opened

    def watched(connection: Any, contract: Any, some: Any, *more: Any) -> Any:
        columns.append(tuple(some))
        return real(connection, contract, some, *more)

    monkeypatch.setattr(contract_counts, "examine_opened", watched)
    return columns


def check(site: Site, columns: Iterable[str] = GOOD) -> None:
    """As a study of these columns does, and keeps nothing else."""
    dataset = site.datasets["people"]
    schema = schemas.build(dataset.contract, {})
    cohorts.open_checked(
        dataset,
        site.storage,
        schema,
        [schema.fields[name] for name in columns],
        None,
        checked=checked_versions.of_state(site.state),
    )


@pytest.mark.parametrize(
    ("kind", "storage"),
    federations.first(
        [
            ("parquet", {}),
            ("csv", {}),
            ("parquet", {"max_values": 1000}),
            ("csv", {"max_values": 1000}),
        ]
    ),
)
def test_a_node_that_has_checked_answers_and_refuses_as_one_that_has_not(
    kind: str, storage: dict[str, Any], tmp_path: Path, counted: list[tuple[str, ...]]
) -> None:
    asked = STUDIES[:-1] if storage else STUDIES
    fresh = site_of(tmp_path, kind, "fresh", **storage)
    expected = answers(fresh, asked)
    (tmp_path / "fresh" / checked_versions.FILE).unlink()
    number = len(counted)
    site = site_of(tmp_path, kind, **storage)
    (site.state / "secret").write_bytes((tmp_path / "fresh/secret").read_bytes())  # type: ignore[operator]
    check(site)
    counted.clear()
    assert answers(site, asked) == expected
    assert [columns for columns in counted if "bmi" not in columns] == [] and number > len(counted)
    assert any("data: " in text for text in expected) and any(
        "differencing: " in text for text in expected
    )
    assert any("cohort_size: " in text for text in expected)


def test_hdh_node_check_spares_the_first_study_its_count(
    tmp_path: Path, counted: list[tuple[str, ...]]
) -> None:
    write(table().drop(columns="bmi").assign(bmi=20.0), tmp_path / "rows.csv")
    (tmp_path / "people.yaml").write_text(CONTRACT)
    (tmp_path / "node.yaml").write_text(
        "node: n0\npolicy: {min_nodes: 1, modes: [exact], hub_sees_cells: true}\ndatasets:\n"
        "  people: {contract: people.yaml, source: rows.csv}\n"
    )
    node_data.check(tmp_path / "node.yaml", None, "json")
    counted.clear()
    site = sites.load(tmp_path / "node.yaml")
    assert "Result(" in answers(site, [describe("age")])[0]
    assert counted == []


def _bad_value(site: Site) -> None:
    """Of the same size, with the same time of change."""
    path = Path(site.datasets["people"].source)
    before, content = path.stat(), path.read_bytes()
    place = content.index(b"\n", content.index(b"\n") + 1) + 1
    line = content[place : content.index(b"\n", place)]
    cells = line.split(b",")
    cells[1] = b"999999"[: len(cells[1])].ljust(len(cells[1]), b"9")
    path.write_bytes(content.replace(line, b",".join(cells), 1))
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _another_node(site: Site) -> None:
    """The note of a node with another secret."""
    assert site.state is not None
    (site.state / "secret").write_bytes(bytes(32))


def _forged(site: Site) -> None:
    note = site.state / checked_versions.FILE  # type: ignore[operator]
    read = json.loads(note.read_text())
    read["versions"][0][1]["columns"].append("bmi")
    read["versions"][0][1]["whole"].append("bmi")
    note.write_text(json.dumps(read))


def _unsigned(site: Site) -> None:
    note = site.state / checked_versions.FILE  # type: ignore[operator]
    read = json.loads(note.read_text())
    note.write_text(json.dumps(read | {"signature": ""}))


def _damaged(site: Site) -> None:
    (site.state / checked_versions.FILE).write_bytes(b"[" * 5000)  # type: ignore[operator]


def _newer_code(site: Site) -> None:
    checked_versions._code.cache_clear()
    checked_versions.duckdb = type("engine", (), {"__version__": "0"})  # type: ignore[assignment]


def _newer_levels(site: Site) -> None:
    """Another code decides which text is a level."""
    checked_versions._code.cache_clear()
    level_lookup.__file__ = site.datasets["people"].source


def _copied(site: Site) -> None:
    """The same bytes in another file."""
    path = Path(site.datasets["people"].source)
    os.utime(path)
    path.write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    "change",
    [
        _bad_value,
        _another_node,
        _forged,
        _unsigned,
        _damaged,
        _newer_code,
        _newer_levels,
        _copied,
    ],
)
def test_what_this_node_has_not_checked_is_checked(
    change: Callable[[Site], None],
    tmp_path: Path,
    counted: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checked_versions, "duckdb", duckdb)
    monkeypatch.setattr(level_lookup, "__file__", level_lookup.__file__)
    site = site_of(tmp_path, "csv")
    check(site)
    check(site)
    assert len(counted) == 1
    time.sleep(0.01)
    change(site)
    (text,) = answers(site, [describe("age")])
    checked_versions._code.cache_clear()
    assert len(counted) == 2 and ("range (age)" in text) == (change is _bad_value)
    if change is _forged:
        assert "range (bmi)" in answers(site, [describe("bmi")])[0]


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_file_that_changes_while_it_is_read_is_read_and_checked_anew(
    is_checked: bool,
    tmp_path: Path,
    counted: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = site_of(tmp_path)
    if is_checked:
        check(site)
    real = cohort_table.write
    other = table().assign(age=200.0)

    def changing(*arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(cohort_table, "write", real)
        write(other, tmp_path / "rows.parquet")
        real(*arguments, **options)

    monkeypatch.setattr(cohort_table, "write", changing)
    assert "range (age)" in answers(site, [describe("age")])[0]
    assert len(counted) == 2


@pytest.mark.parametrize("why", ["broken", "just written", "simulation", "server"])
def test_nothing_is_kept_of(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_of(tmp_path)
    if why == "just written":
        monkeypatch.setattr(kept_cohorts, "SETTLED", 1000.0)
    dataset = site.datasets["people"]
    if why == "server":
        assert checked_versions.version_of(replace(dataset, source="postgresql://h/d")) is None
    elif why == "simulation":
        assert checked_versions.of_state(None) is None
    else:
        check(site, ["bmi"] if why == "broken" else GOOD)
        assert not (tmp_path / "state" / checked_versions.FILE).exists()


def test_columns_are_kept_together_and_a_node_keeps_few_versions(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    check(site, ["age"])
    check(site, ["sex"])
    versions = checked_versions.of_state(site.state)
    assert versions is not None
    version = checked_versions.version_of(site.datasets["people"])
    assert versions.of(version, ["id", "age", "sex"]) == Checked(
        3000, 1500, frozenset(["id", "age", "sex"]), frozenset(["id"])
    )
    assert versions.of(version, ["id", "ill"]) is None
    counts = {("", "rows"): 1, ("x", "missing"): 0}
    for number in range(checked_versions.MAX_VERSIONS + 5):
        versions.keep(str(number), ["x"], None, counts)
    assert versions.of(version, ["id"]) is None and versions.of("54", ["x"]) is not None
    assert (tmp_path / "state" / checked_versions.FILE).stat().st_mode & 0o777 == 0o600
