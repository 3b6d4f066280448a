"""A cohort of mode dp in blocks of people: the parts of the blocks add up to the part of the whole
bit for bit, for every private analysis that says so, and a node releases the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pytest

from aggregator import rounds, secure_sum
from federation import codec
from federation.cohort import Cohort
from federation.contract import Contract
from federation.messages import NoisedAnswer, Part, Refusal, Reply
from federation.privacy import cumulative, fixed_point, noise
from federation.privacy.noise import Entropy
from federation.study import Study
from nodes.session import NodeContext
from nodes.site import Dataset, Site, Storage
from simulations import local
from strategies import protocol, registry
from strategies.descriptive import describe_dp
from strategies.regression import glm_dp
from tests import federations
from tests.privacy import audit
from tests.property import test_blocks as exact
from tests.property import test_private_analyses as laws

STREAMED = {
    "describe", "crosstab", "glm", "kaplan_meier", "cumulative_incidence", "rates", "sccs",
    "surveillance", "disproportionality", "inequality", "wilcoxon", "pathways", "mantel_haenszel",
    "piecewise_exponential",
}  # fmt: skip
CASES = [
    case
    for case in laws.CASES
    if laws.task_of(*case).analysis.TRAITS.over_people(laws.task_of(*case))
]
HELD, IN_BLOCKS = Storage(), Storage(max_values=999)
POLICY = federations.OPEN.model_copy(update={"max_epsilon": 100.0})


def test_the_private_analyses_that_read_blocks_are_known() -> None:
    assert {name for name, *_ in CASES} == STREAMED
    assert {name for name, *_ in laws.CASES} - STREAMED == {"train"}


# -- parts
@pytest.mark.parametrize(("name", "options", "rows"), CASES)
@pytest.mark.parametrize("people", [1, 7])
def test_parts_of_people_add_up_to_the_part_of_all_to_the_last_bit(
    name: str, options: dict[str, Any], rows: int, people: int, tmp_path: Path
) -> None:
    task, _, passed = laws.whole_run(name, options, rows)
    cohort = held_rows(laws.cohort_of(laws.SMALL, task, rows, tmp_path), task.fields)
    for state in passed:
        whole = task.analysis.local(cohort, task, state)
        blocks = exact.cut(cohort, people).blocks()
        added = protocol.sum_of(task.analysis.local(block, task, state) for block in blocks)
        assert added.sensitivity == whole.sensitivity
        expected, sums = (fixed_point.folded(part.sums) for part in (whole, added))
        for array, values in expected.items():
            assert sums[array].dtype == values.dtype
            np.testing.assert_array_equal(sums[array], values)


def held_rows(cohort: Cohort, fields: Iterable[Any]) -> Cohort:
    """Rows that are read even where an analysis would count them in the source."""
    if cohort.count is None:
        return cohort
    columns = {
        field.name: np.where(
            laws.SMALL[field.name] == "",
            -1,
            [
                field.groups.index(value) if value in field.groups else 0
                for value in laws.SMALL[field.name]
            ],
        )
        for field in fields
    }
    person = np.unique(laws.SMALL["person"], return_inverse=True)[1]
    order = np.argsort(person, kind="stable")
    return Cohort(
        person[order],
        int(person.max()) + 1,
        int(person.max()) + 1,
        cohort.rows_per_person,
        lambda asked: {field.name: columns[field.name][order] for field in asked},
    )


def test_a_part_of_another_shape_is_not_repeated_over_the_others() -> None:
    wide, narrow = (Part({"sum": np.ones(n)}, {}, {"sum": 1.0}) for n in (3, 1))
    with pytest.raises(TypeError, match="different shapes"):
        protocol.sum_of([wide, narrow])


# -- whole studies
class Drawn:
    """Bytes that depend on a seed and on how often they were asked for."""

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.asked = seed, 0

    def __call__(self, size: int) -> bytes:
        self.asked += 1
        return hashlib.shake_256(f"{self.seed} {self.asked}".encode()).digest(size)


ONE_ROW, TWO_ROWS = laws.CONTRACTS[1], laws.CONTRACTS[2]


def with_faults(rows: pandas.DataFrame) -> pandas.DataFrame:
    """With values far outside or unreadable, people without a key, and people of too many rows."""
    rows = rows.copy()
    for number, value in enumerate(laws.OUTRAGEOUS):
        rows.loc[rows.index[number::41], ["age", "dose", "score", "visits"]] = value
    rows.loc[rows.index[5::37], "person"] = ""
    return pandas.concat([rows, rows.head(9), rows.head(4)], ignore_index=True)


def csv(folder: Path, rows: pandas.DataFrame) -> Path:
    rows.to_csv(folder / "people.csv", index=False)
    return folder / "people.csv"


def parquet(folder: Path, rows: pandas.DataFrame) -> Path:
    path = folder / "people.parquet"
    columns = ", ".join(f"nullif({name}, '') AS {name}" for name in rows)
    duckdb.sql(f"COPY (SELECT {columns} FROM rows) TO '{path}' (FORMAT parquet)")
    return path


def split(folder: Path, rows: pandas.DataFrame) -> Path:
    """The same people in a folder of three files."""
    (folder / "people").mkdir()
    whole = parquet(folder, rows)
    for number in range(3):
        some = f"FROM '{whole}' WHERE hash(age) % 3 = {number}"
        duckdb.sql(f"COPY ({some}) TO '{folder}/people/{number}.parquet' (FORMAT parquet)")
    return folder / "people"


Source = tuple[Callable[[Path, pandas.DataFrame], Path], Contract]
SOURCES: dict[str, Source] = {
    "files": (parquet, ONE_ROW),
    "folder": (split, ONE_ROW),
    "table": (csv, TWO_ROWS),
    "rows of people in a file": (parquet, TWO_ROWS),
    "lines": (csv, ONE_ROW),
}


def study_of(analyses: dict[str, Any], where: str | None = None) -> Study:
    more = {} if where is None else {"cohort": {"where": where}}
    return federations.study_of(analyses, privacy={"mode": "dp", "epsilon": 8}, **more)


def node(path: Path, contract: Contract, storage: Storage, entropy: Entropy) -> NodeContext:
    datasets = {contract.dataset: Dataset(contract, str(path))}
    site = Site("n0", datasets, POLICY, storage)
    (context,) = local.contexts_of([site], entropy)
    context.__dict__["secret"] = b"one secret"  # by which rows of a person are drawn
    return context


def released(
    analyses: dict[str, Any],
    path: Path,
    contract: Contract,
    storage: Storage,
    *,
    where: str | None = None,
    entropy: Entropy | None = None,
) -> list[bytes]:
    """What a node sends in every round of a study."""
    study = study_of(analyses, where)
    contexts = [node(path, contract, storage, entropy or Drawn())]
    send, sent = local.send_of(contexts, federations.NOW), list[bytes]()

    def ask(query: Any) -> Sequence[Reply]:
        replies = send({"n0": query})
        for reply in replies:
            for answer in reply.answers.values():
                assert isinstance(answer, NoisedAnswer), answer
                sent.append(codec.noised_to_bytes(answer))
        return replies

    rounds.run(study, contract, ask, ["n0"])
    return sent


def studies() -> list[Any]:
    """One example of each analysis, and of two from each source; the others by `make slow`."""
    parameters, seen = [], set[str]()
    for name, options, rows in CASES:
        for source, (_, contract) in SOURCES.items():
            if contract.rows_per_person != rows:
                continue
            is_first = name not in seen and (source == "table" or name in ("glm", "describe"))
            marks = () if is_first else (pytest.mark.slow,)
            parameters.append(pytest.param(name, options, source, marks=marks))
        if rows == 2:
            seen.add(name)
    return parameters


@pytest.mark.parametrize(("name", "options", "source"), studies())
def test_a_node_releases_the_same_bytes_in_blocks(
    name: str, options: dict[str, Any], source: str, opened: list[int], tmp_path: Path
) -> None:
    make, contract = SOURCES[source]
    path, where = make(tmp_path, with_faults(laws.TABLE)), None
    if source not in ("folder", "table"):
        where = "dose > 2"
    # an analysis beside it that needs the rows, so that tables are not counted in the source
    analyses = {"a": {"run": name, **options}, "b": {"run": "describe", "columns": ["dose"]}}
    held = released(analyses, path, contract, HELD, where=where)
    assert not opened
    blocks = released(analyses, path, contract, IN_BLOCKS, where=where)
    assert opened and max(opened) > 1
    assert blocks == held


def test_rows_without_a_person_release_the_same_bytes(opened: list[int], tmp_path: Path) -> None:
    text = laws.TEXT.replace("rows_per_person: 2\n", "").replace(
        "person: person\n", "unit: visit\n"
    )
    contract = federations.contract_of(text.replace("  person: {type: string}\n", ""))
    analyses = {"a": {"run": "glm", "model": "score ~ age + sex"}}
    rows = with_faults(laws.TABLE)
    for path in (parquet(tmp_path, rows), csv(tmp_path, rows)):
        held = released(analyses, path, contract, HELD)
        assert not opened
        assert released(analyses, path, contract, IN_BLOCKS) == held
        assert opened.pop() > 1


def test_other_processes_compute_the_same_bytes(opened: list[int], tmp_path: Path) -> None:
    path = parquet(tmp_path, with_faults(laws.TABLE))
    analyses = {"a": {"run": "glm", "model": "died ~ age + dose", "family": "binomial"}}
    alone, apart = (
        released(analyses, path, ONE_ROW, IN_BLOCKS.model_copy(update={"workers": workers}))
        for workers in (1, 2)
    )
    assert min(opened) and alone == apart == released(analyses, path, ONE_ROW, HELD)
    assert registry.is_named(glm_dp.__name__)  # else its blocks are computed in this process


def test_a_secure_sum_with_shares_of_noise_is_the_same_in_blocks(
    opened: list[int], tmp_path: Path
) -> None:
    analyses = {"a": {"run": "glm", "model": "score ~ age + sex"}}
    privacy = {"mode": "dp", "epsilon": 8, "secure_sum": {"colluders": 1}, "noise": "distributed"}
    study = federations.study_of(analyses, privacy=privacy, min_nodes=4)
    path, policy = csv(tmp_path, laws.TABLE), POLICY.model_copy(update={"noise": "distributed"})
    tasks = registry.plan(study, TWO_ROWS)
    results = []
    for storage in (HELD, IN_BLOCKS):
        datasets = {TWO_ROWS.dataset: Dataset(TWO_ROWS, str(path))}
        sites = [Site(f"n{i}", datasets, policy, storage) for i in range(4)]
        contexts = local.contexts_of(sites)
        for number, context in enumerate(contexts):
            object.__setattr__(context, "entropy", Drawn(number))
            context.__dict__["secret"] = b"one secret"
        ask = secure_sum.ask_of(local.send_of(contexts, federations.NOW), lambda _: tasks)
        outcome = rounds.run(study, TWO_ROWS, ask, [site.name for site in sites])
        results.append(federations.result(outcome).tables["coefficients"].rows)
    assert len(opened) == 4 and results[0] == results[1]


# -- where rows are read
def test_people_of_several_rows_do_not_move_the_others_out_of_their_file(
    opened: list[int], tmp_path: Path
) -> None:
    """One person could otherwise decide how much memory the study takes, and whether it fits."""
    analyses = {"a": {"run": "describe", "columns": ["age", "dose"]}}
    rows = laws.TABLE.drop_duplicates("person").reset_index(drop=True)
    for name, table in (("one", rows), ("twice", pandas.concat([rows, rows.head(1)]))):
        (tmp_path / name).mkdir()
        released(analyses, parquet(tmp_path / name, table), ONE_ROW, IN_BLOCKS)
    of_file, with_one_twice, of_table = opened
    assert of_file == with_one_twice > 1 and of_table == 1


def test_a_file_that_changes_ends_the_study_before_anything_more_is_charged(
    opened: list[int], tmp_path: Path
) -> None:
    """And the round before is answered again with the bytes of the first time."""
    path = parquet(tmp_path, laws.TABLE)
    options = {"run": "glm", "model": "died ~ age + dose", "family": "binomial"}
    study = study_of({"a": options})
    context = node(path, ONE_ROW, IN_BLOCKS, Drawn())
    send, queries, replies = local.send_of([context], federations.NOW), [], []

    def ask(query: Any) -> Sequence[Reply]:
        queries.append(query)
        replies.append(send({"n0": query})[0])
        if len(queries) == 1:
            parquet(tmp_path, laws.TABLE.head(150))
        return replies[-1:]

    rounds.run(study, ONE_ROW, ask, ["n0"])
    first, second = (next(iter(reply.answers.values())) for reply in replies)
    assert isinstance(first, NoisedAnswer) and opened
    assert isinstance(second, Refusal) and second.rule == "source"
    assert replies[0].charged == replies[1].charged
    again = next(iter(send({"n0": queries[0]})[0].answers.values()))
    assert isinstance(again, NoisedAnswer)
    assert codec.noised_to_bytes(again) == codec.noised_to_bytes(first)


# -- faults
def test_a_block_that_fails_gives_the_noised_answer_of_nobody(
    opened: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    analyses = {"a": {"run": "describe", "columns": ["age", "dose"]}}
    (tmp_path / "nobody").mkdir()
    nobody = csv(tmp_path / "nobody", laws.TABLE.head(0))
    expected = released(analyses, nobody, TWO_ROWS, HELD)
    sound, read = describe_dp.local, list[int]()

    def failing(cohort: Cohort, *asked: Any) -> Part:
        read.append(cohort.rows)
        if sum(rows > 0 for rows in read) == 3:
            raise ValueError("the dose of Jeanne is 417")
        return sound(cohort, *asked)

    monkeypatch.setattr(describe_dp, "local", failing)
    answers = released(analyses, csv(tmp_path, laws.TABLE), TWO_ROWS, IN_BLOCKS)
    assert max(opened) > 3 and answers == expected
    assert "ValueError" in caplog.text and "Jeanne" not in caplog.text


# -- noise
def spread(path: Path) -> float:
    """The mean of the squared noise of 2,000 numbers, as a share of the variance that is stated."""
    options = {"run": "describe", "columns": ["age", "dose"], "quantile_bins": 200}
    study, squares = study_of({"a": options}), list[Any]()
    task = registry.plan(study, TWO_ROWS)["a"]
    cohort = laws.cohort_of(laws.TABLE, task, 2, path.parent)
    part = task.analysis.local(cohort, task, task.analysis.start(task))
    true = fixed_point.folded(part.sums)["histogram"]
    for seed in range(5):
        entropy = np.random.default_rng(seed).bytes
        (sent,) = released({"a": options}, path, TWO_ROWS, IN_BLOCKS, entropy=entropy)
        answer = codec.noised_from_bytes(sent)
        off = answer.steps["histogram"] - np.rint(true / answer.units["histogram"])
        squares.append(off**2 / answer.variances["histogram"])
    return float(np.mean(squares))


def has_the_scale(share: float) -> bool:
    """To five standard errors of a mean of 2,000 squares."""
    return abs(share - 1) < 5 * (2 / 2000) ** 0.5


def test_noise_in_blocks_has_its_scale_and_no_other(
    opened: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sound = csv(tmp_path, laws.TABLE), noise.discrete_gaussian
    assert has_the_scale(spread(path)) and min(opened) > 1
    for scale in (0.7, 1.3):
        monkeypatch.setattr(
            noise,
            "discrete_gaussian",
            lambda size, variance, entropy, times=Fraction(scale) ** 2: sound(
                size, variance * times, entropy
            ),
        )
        assert not has_the_scale(spread(path))


def test_noise_in_every_block_would_be_seen(
    opened: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rng = csv(tmp_path, laws.TABLE), np.random.default_rng(1)
    sound = protocol.sum_of

    def noised(parts: Iterable[Part]) -> Part:
        return sound(
            replace(part, sums={**part.sums, "histogram": _noised(part.sums["histogram"])})
            for part in parts
        )

    def _noised(histogram: Any) -> Any:
        sd = 2 * cumulative.norm(histogram.shape[1])
        return histogram + np.rint(rng.normal(0, sd, histogram.shape)).astype(np.int64)

    monkeypatch.setattr(protocol, "sum_of", noised)
    assert not has_the_scale(spread(path)) and min(opened) > 1


def test_blocks_that_cut_people_apart_would_be_seen(opened: list[int], tmp_path: Path) -> None:
    """Each block would then let a person have their rows."""
    rows = pandas.concat([laws.TABLE] * 3, ignore_index=True)
    path, analyses = csv(tmp_path, rows), {"a": {"run": "describe", "columns": ["age", "dose"]}}
    with audit.people_cut_apart():
        apart = released(analyses, path, TWO_ROWS, IN_BLOCKS)
    assert opened and apart != released(analyses, path, TWO_ROWS, HELD)
    assert released(analyses, path, TWO_ROWS, IN_BLOCKS) == released(analyses, path, TWO_ROWS, HELD)
