"""A kept cohort saves a reading of the rows, and changes neither an answer nor a refusal."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from aggregator import rounds
from aggregator.rounds import Outcome
from federation import errors
from federation import schema as schemas
from federation.messages import TaskId
from federation.results import Result
from federation.study import Study
from nodes import cohorts, connectors, fingerprints, kept_cohorts
from nodes.cohorts import Opened
from nodes.kept_cohorts import KeptCohorts
from nodes.people import People
from nodes.site import Dataset, Policy, Site, Storage
from simulations import local
from tests import federations

COLUMNS = """
  age: {type: number, range: [0, 120]}
  bmi: {type: number, range: [10, 60]}
  ill: {type: boolean}
  rare: {type: boolean}
  sex: {type: category, levels: [f, m]}
"""
CONTRACTS = {
    "people": "dataset: people\nversion: 1\nperson: id\nrows_per_person: 3\ncolumns:\n"
    "  id: {type: string}" + COLUMNS,
    "rows": "dataset: people\nversion: 1\nunit: row\ncolumns:" + COLUMNS,
}
STRICT = Policy(min_nodes=1, modes=("exact", "dp"), max_epsilon=20)
LOGISTIC = {"run": "glm", "family": "binomial", "model": "ill ~ age + sex"}


def table() -> pandas.DataFrame:
    draw = np.random.default_rng(4)
    return pandas.DataFrame(
        {
            "id": draw.permutation(np.repeat(np.arange(3000), 2)),
            "age": draw.uniform(0, 100, 6000),
            "bmi": [90.0, *draw.uniform(15, 40, 5999)],  # one value breaks the contract
            "ill": draw.random(6000) < 0.4,
            "rare": np.arange(6000) % 1500 == 0,  # four rows
            "sex": draw.choice(["f", "m"], 6000),
        }
    )


def site_of(folder: Path, contract: str = "people", kind: str = "parquet") -> Site:
    agreed, path = federations.contract_of(CONTRACTS[contract]), folder / f"rows.{kind}"
    if kind == "parquet":
        table().to_parquet(path)
    else:
        table().to_csv(path, index=False)
    return Site("n0", {"people": Dataset(agreed, str(path))}, STRICT)


def describe(*columns: str, **more: Any) -> Study:
    return federations.study_of({"a": {"run": "describe", "columns": list(columns)}}, **more)


def where(condition: str, **more: Any) -> dict[str, Any]:
    return {"cohort": {"where": condition, **more}}


# In their order at one node: the third is refused for a value, others for their size or because
# their people are nearly those of the first.
STUDIES = [
    federations.study_of({"a": LOGISTIC}),
    describe("age", "ill"),
    describe("bmi"),
    describe("age", "sex"),
    describe("age", **where("age >= 30")),
    federations.study_of({"a": LOGISTIC}, **where("age >= 30")),
    describe("sex", **where("old", derive={"old": "age >= 30"})),
    describe("age", **where("rare")),
    describe("ill", **where("not rare")),
    describe("ill", **where("age >= 30.05")),
    federations.study_of({"a": {**LOGISTIC, "model": "ill ~ bmi"}}),
    describe("age", privacy={"epsilon": 5.0}),
]


def answers(
    site: Site, open_cohorts: KeptCohorts[Opened] | None, studies: Iterable[Study]
) -> list[str]:
    """What a node with one ledger answers to each study, or why it refuses."""
    contexts = local.contexts_of([site], entropy=lambda n: bytes(n), open_cohorts=open_cohorts)
    send, contract = local.send_of(contexts, federations.NOW), site.datasets["people"].contract
    texts = []
    for study in studies:
        outcome = rounds.run(study, contract, lambda query: send({"n0": query}), ["n0"])
        texts.append(summary(outcome))
    return texts


def summary(outcome: Outcome) -> str:
    run = outcome.runs[TaskId("a")]
    texts = (run.failed, run.withheld, [str(refusal) for refusal in run.refusals.values()])
    return str(texts if run.result is None else (*texts, rounded(run.result)))


def rounded(result: Result) -> str:
    """A person's rows may lie in another order beside more columns: sums differ in the last bit."""
    return re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.9g}", str(result))


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The columns of each reading of the source."""
    read: list[tuple[str, ...]] = []
    real = connectors.open_rows

    def counted(connection: Any, dataset: Dataset, columns: Any, **more: Any) -> bool:
        read.append(tuple(columns))
        return real(connection, dataset, columns, **more)

    monkeypatch.setattr(connectors, "open_rows", counted)
    return read


@pytest.mark.parametrize(
    ("contract", "kind"),
    federations.first([("people", "parquet"), ("rows", "csv"), ("rows", "parquet")]),
)
def test_a_node_that_keeps_cohorts_answers_and_refuses_as_one_that_does_not(
    contract: str, kind: str, tmp_path: Path, readings: list[tuple[str, ...]]
) -> None:
    site = site_of(tmp_path, contract, kind)
    expected = answers(site, None, STUDIES)
    fresh = len(readings)
    assert answers(site, KeptCohorts(settled=0.0), STUDIES) == expected
    assert len(readings) - fresh < fresh
    rules = ("data: ", "cohort_size: ", "differencing: ")
    assert all(any(rule in texts for texts in expected) for rule in rules)
    assert sum("Result(" in texts for texts in expected) >= 4


def test_rows_are_read_once_for_studies_on_the_same_cohort(
    tmp_path: Path, readings: list[tuple[str, ...]]
) -> None:
    site, open_cohorts = site_of(tmp_path), KeptCohorts[Opened](settled=0.0)
    answers(site, open_cohorts, [describe("age", "ill"), describe("age"), describe("ill")])
    assert readings == [("id", "age", "ill")]
    answers(site, open_cohorts, [describe("sex"), describe("age", "sex"), describe("ill")])
    assert readings[1:] == [("id", "age", "ill", "sex")]
    condition = where("age >= 30")
    answers(site, open_cohorts, [describe("age", **condition), describe("ill", **condition)])
    assert readings[2:] == [("id", "age"), ("id", "age", "ill")]


def test_a_value_that_breaks_the_contract_refuses_the_studies_that_read_it_and_no_other(
    tmp_path: Path, readings: list[tuple[str, ...]]
) -> None:
    site, open_cohorts = site_of(tmp_path), KeptCohorts[Opened](settled=0.0)
    good, bad, again = answers(
        site, open_cohorts, [describe("age"), describe("bmi"), describe("age")]
    )
    assert good == again and "range" in bad
    assert readings == [("id", "age"), ("id", "age", "bmi"), ("id", "bmi")]


def test_the_rows_of_a_private_study_are_never_kept(
    tmp_path: Path, readings: list[tuple[str, ...]]
) -> None:
    private = [describe("age", privacy={"epsilon": e}) for e in (5.0, 6.0)]
    answers(site_of(tmp_path), KeptCohorts(settled=0.0), [describe("age"), *private])
    assert len(readings) == 3


def test_the_fingerprint_of_a_kept_cohort_is_of_its_people_and_of_the_nodes_salt() -> None:
    """Simulated nodes of one process share kept cohorts, and each has a secret of its own."""
    hashes = np.arange(500, dtype=np.uint64)
    people = People.of(hashes)
    some = people.some(hashes < 400)
    for salt in (b"a" * 8, b"b" * 8) * 2:
        assert people.print_of_all(salt) == fingerprints.fingerprint(hashes, salt)
        assert some.print_of_all(salt) == fingerprints.fingerprint(hashes[:400], salt)
        for n in (0, 1, 100, 250, 251, 499, 500):
            print_ = people.print_of(hashes < n, salt)
            assert print_ == fingerprints.fingerprint(hashes[:n], salt)


@pytest.mark.parametrize("change", ["content", "just written"])
def test_a_file_that_has_changed_or_may_be_changing_is_read_again(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readings: list[tuple[str, ...]]
) -> None:
    site = site_of(tmp_path)
    open_cohorts = KeptCohorts[Opened](settled=0.0 if change == "content" else kept_cohorts.SETTLED)
    written = (tmp_path / "rows.parquet").stat().st_ctime
    passed = 1000 if change == "content" else 1
    monkeypatch.setattr(time, "time", lambda: written + passed)
    before = answers(site, open_cohorts, [describe("age")])
    if change == "content":
        other = table().assign(age=50)
        other.to_parquet(tmp_path / "rows.parquet")
    after = answers(site, open_cohorts, [describe("age")])
    assert len(readings) == 2 and (before == after) == (change != "content")
    monkeypatch.setattr(time, "time", lambda: written + 2000)
    answers(site, open_cohorts, [describe("age"), describe("age")])
    assert len(readings) == 2 + (change != "content")


@dataclass(frozen=True)
class Few:
    """A cohort of one row."""

    held: frozenset[str] | None
    n_values: int = 1
    in_any_order: bool = False


def test_what_a_kept_cohort_takes_from_the_next_study_is_given_back(tmp_path: Path) -> None:
    dataset = site_of(tmp_path).datasets["people"]
    open_cohorts, asked = KeptCohorts[Few](settled=0.0), list[tuple[str, ...]]()

    def read(more: Iterable[str]) -> Few:
        asked.append(tuple(more))
        if len(asked) == 2:
            raise errors.SourceError("no room")
        return Few(frozenset(["sex", *more]))

    for columns in (["sex"], ["age"]):
        open_cohorts.opened(dataset, Storage(), None, columns, read)
    assert asked == [(), ("sex",), ()]


def test_kept_cohorts_fit_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, open_cohorts = site_of(tmp_path).datasets["people"], KeptCohorts[Few](settled=0.0)
    monkeypatch.setattr(kept_cohorts, "MAX_VALUES", 10)
    opened = []

    def read(more: Iterable[str]) -> Few:
        opened.append(1)
        return Few(frozenset(["age"]), 4)

    for condition in ("a", "b", "c", "c", "a"):
        open_cohorts.opened(dataset, Storage(), condition, ["age"], read)
    assert len(opened) == 4


@pytest.mark.parametrize(
    "change",
    federations.first(
        [
            {"source": "rows.duckdb", "table": "view"},
            {"source": "postgresql://h/d"},
            {"is_linked": True},
        ],
        2,
    ),
)
def test_rows_that_may_change_without_a_sign_are_not_kept(
    change: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "rows.duckdb").touch()
    if change.get("source") == "rows.duckdb":  # its view may read other files
        change = {**change, "source": str(tmp_path / "rows.duckdb")}
    dataset = replace(site_of(tmp_path).datasets["people"], **change)
    open_cohorts, opened = KeptCohorts[Few](settled=0.0), []

    def read(more: Iterable[str]) -> Few:
        opened.append(1)
        return Few(frozenset(["age"]))

    for _ in range(2):
        open_cohorts.opened(dataset, Storage(), None, ["age"], read)
    assert len(opened) == 2


def test_few_cohorts_stay_and_a_large_dataset_counts_with_the_few_chosen_from_it(
    tmp_path: Path,
) -> None:
    dataset, open_cohorts = site_of(tmp_path).datasets["people"], KeptCohorts[Few](settled=0.0)
    read_again = []

    def read(size: int, name: str, _: Iterable[str]) -> Few:
        read_again.append(name)
        return Few(frozenset(["age"]), size)

    def open_all(sizes: dict[str, int]) -> None:
        for name, size in sizes.items():
            open_cohorts.opened(dataset, Storage(), name, ["age"], partial(read, size, name))

    open_all({f"age > {i}": 1 for i in range(kept_cohorts.MAX_COHORTS + 1)})
    read_again.clear()
    open_all({"age > 1": 1, "age > 0": 1})
    assert read_again == ["age > 0"]
    read_again.clear()
    open_all({"age < 1": kept_cohorts.MAX_VALUES, "age > 3": 1, "age < 1 ": 1})
    assert read_again == ["age < 1", "age > 3", "age < 1 "]


def test_the_size_of_a_kept_cohort_counts_the_dataset_that_it_was_chosen_from(
    tmp_path: Path,
) -> None:
    dataset = site_of(tmp_path).datasets["people"]
    schema = schemas.build(dataset.contract, {})
    few = cohorts.open_checked(dataset, Storage(), schema, [schema.field("age")], "age >= 90")
    everyone = few.cohort.everyone
    assert everyone is not None and few.cohort.rows < everyone.rows
    assert few.n_values == (few.cohort.rows + everyone.rows) * len(few.held or ())
