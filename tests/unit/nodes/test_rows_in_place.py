"""A study that only counts people reads its columns where they lie, and no person's key where the
fingerprint of all of them is noted. It answers, refuses and remembers what it would in any order of
the rows; a note or a file that is not what it was is worth nothing."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pytest

from aggregator import rounds
from federation import errors
from federation import schema as schemas
from federation.cli.actions import node_data
from federation.messages import TaskId
from federation.schema import Field
from federation.study import Study
from nodes import (
    checked_versions,
    cohort_table,
    cohorts,
    column_arrays,
    fingerprints,
    kept_cohorts,
    level_lookup,
    rows_in_place,
    state_folder,
    study_opening,
)
from nodes import site as sites
from nodes.cohorts import Opened
from nodes.kept_cohorts import KeptCohorts
from nodes.people import People
from nodes.rows_in_place import RowsInPlace
from nodes.site import Dataset, Policy, Site
from simulations import local
from tests import federations

CONTRACT = """dataset: people
version: 1
person: id
columns:
  id: {type: string}
  age: {type: number, range: [0, 120]}
  arm: {type: category, levels: [a, b, c], missing: [NA], max_missing: 0.5}
  ward: {type: category, levels: [north, south]}
  ill: {type: boolean}
  old: {type: boolean, max_missing: 0.5}
"""
STRICT = Policy(min_nodes=1, modes=("exact", "dp"), max_epsilon=20)
N = 2000
CROSSTABS = [("ward", "ill"), ("ward", "arm"), ("old", "arm")]
RUNS: list[dict[str, Any]] = [
    *({"run": "crosstab", "rows": rows, "columns": columns} for rows, columns in CROSSTABS),
    {"run": "mantel_haenszel", "exposure": "ill", "outcome": "old", "strata": ["ward"]},
    {"run": "disproportionality", "drug": "arm", "event": "ward"},
]
WHERES = [None, "age < 70", "ward == 'south' and age > 20", "age < 70.5", "arm == 'a'"]


def table(rows: int = N) -> pandas.DataFrame:
    draw = np.random.default_rng(3)
    arm = draw.choice(["a", "b", " b", "c\u00a0", "NA"], rows).astype(object)
    arm[draw.random(rows) < 0.1] = None
    old = draw.choice(np.array([True, False, None], object), rows)
    return pandas.DataFrame(
        {
            "id": [f"p{person}" for person in draw.permutation(rows)],
            "age": np.where(draw.random(rows) < 0.05, np.nan, draw.uniform(0, 100, rows).round(2)),
            "arm": arm,
            "ward": draw.choice(["north", "south"], rows),
            "ill": draw.random(rows) < 0.4,
            "old": old,
        }
    )


def site_of(folder: Path, state: str = "state", frame: pandas.DataFrame | None = None) -> Site:
    path = folder / "rows.parquet"
    if frame is not None or not path.exists():
        (table() if frame is None else frame).to_parquet(path, index=False)
    (folder / state).mkdir(exist_ok=True)
    (folder / state / "secret").write_bytes(bytes(32))
    dataset = Dataset(federations.contract_of(CONTRACT), str(path))
    return Site("n0", {"people": dataset}, STRICT, state=folder / state)


def study(run: dict[str, Any], where: str | None = None) -> Study:
    return federations.study_of({"a": run}, **({"cohort": {"where": where}} if where else {}))


STUDIES = [study(run, where) for where in WHERES for run in RUNS]


def answers(
    site: Site, studies: list[Study], open_cohorts: KeptCohorts[Opened] | None = None
) -> list[str]:
    ask = local.ask_of([site], federations.NOW, open_cohorts)
    contract, texts = site.datasets["people"].contract, []
    for each in studies:
        run = rounds.run(each, contract, ask, ["n0"]).runs[TaskId("a")]
        refusals = [str(refusal) for refusal in run.refusals.values()]
        texts.append(f"{run.failed} {run.withheld} {refusals} {run.result}")
    return texts


def remembered(site: Site) -> list[tuple[str, bytes]]:
    """All that a node keeps of its answers; the fingerprints of people are among it."""
    rows = state_folder.open_ledger(site.state).connection.execute(
        "SELECT release, content FROM answers ORDER BY rowid"
    )
    return [(str(release), bytes(content)) for release, content in rows]


def afresh(site: Site, folder: Path, state: str) -> Site:
    """The node after a restart, with its notes and a ledger without answers."""
    assert site.state is not None
    shutil.copytree(site.state, folder / state, ignore=shutil.ignore_patterns("ledger*"))
    return replace(site, state=folder / state)


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_cohorts, "SETTLED", 0.0)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The condition of each reading of people's keys."""
    conditions: list[str | None] = []
    real = RowsInPlace.hashes

    def watched(rows: RowsInPlace) -> Any:
        conditions.append(rows.where)
        return real(rows)

    monkeypatch.setattr(RowsInPlace, "hashes", watched)
    return conditions


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has all rows put in the order of their hashes, as other studies need it."""
    return lambda: monkeypatch.setattr(study_opening, "_in_any_order", lambda task: False)


@pytest.mark.parametrize("order", ["as asked", "conditions first"])
def test_a_node_answers_refuses_and_remembers_as_if_its_rows_had_an_order(
    order: str, tmp_path: Path, in_order: Callable[[], None], hashed: list[str | None]
) -> None:
    studies = STUDIES if order == "as asked" else STUDIES[::-1]
    site, texts = site_of(tmp_path), []
    texts.append(answers(site, studies))
    session = afresh(site, tmp_path, "session")
    texts.append(answers(session, studies, KeptCohorts[Opened](settled=0.0)))
    assert len(hashed) > 10
    in_order()
    ordered = site_of(tmp_path, "ordered")
    expected = answers(ordered, studies)
    assert texts == [expected, expected]
    assert remembered(site) == remembered(session) == remembered(ordered)
    assert sum("Result(" in text for text in expected) > 5
    assert any("differencing: " in text for text in expected)


def test_no_key_is_read_where_all_people_are_counted_and_their_fingerprint_is_noted(
    tmp_path: Path, hashed: list[str | None]
) -> None:
    site, whole = site_of(tmp_path), study(RUNS[0])
    expected = answers(site, [whole])
    assert hashed == [None]
    restarted = afresh(site, tmp_path, "restarted")
    assert answers(restarted, [whole]) == expected and len(hashed) == 1
    assert remembered(restarted) == remembered(site)
    answers(restarted, [study(RUNS[1])])  # whose rows lack values
    assert hashed == [None, None]


@pytest.mark.parametrize(
    ("max_values", "kind"), [(10**7, "parquet"), (1000, "parquet"), (10**7, "csv")]
)
def test_hdh_node_check_notes_the_people_whom_a_study_would_hold(
    max_values: int, kind: str, tmp_path: Path, hashed: list[str | None]
) -> None:
    frame = table()
    path = tmp_path / f"rows.{kind}"
    frame.to_parquet(path, index=False) if kind == "parquet" else frame.to_csv(path, index=False)
    (tmp_path / "people.yaml").write_text(CONTRACT)
    (tmp_path / "node.yaml").write_text(
        "node: n0\npolicy: {min_nodes: 1, modes: [exact], min_cell: 11}\n"
        f"storage: {{max_values: {max_values}}}\n"
        f"datasets:\n  people: {{contract: people.yaml, source: rows.{kind}}}\n"
    )
    node_data.check(tmp_path / "node.yaml", None, "json")
    site = sites.load(tmp_path / "node.yaml")
    assert site.state is not None
    is_noted = max_values > 1000 and kind == "parquet"
    assert (site.state / checked_versions.PEOPLE).exists() == is_noted
    texts = answers(site, [study(RUNS[0])])
    fresh = site_of(tmp_path, "fresh", frame=frame)
    (tmp_path / "fresh" / "secret").write_bytes((site.state / "secret").read_bytes())
    assert hashed == [] and answers(fresh, [study(RUNS[0])]) == texts and hashed == [None]
    if max_values > 1000:
        assert remembered(fresh) == remembered(site)


# -- notes that are not this node's, or not of this version
def note(site: Site) -> Path:
    (path,) = (site.state / checked_versions.PEOPLE).iterdir()  # type: ignore[operator]
    return path


def _of_others(site: Site, folder: Path) -> None:
    """The note of other people, which this node signed for another version of the same file."""
    other = folder / "other"
    other.mkdir()
    elsewhere = site_of(other, frame=table(N - 3))
    answers(elsewhere, [study(RUNS[0])])
    note(site).write_bytes(note(elsewhere).read_bytes())


def _another_node(site: Site, folder: Path) -> None:
    (site.state / "secret").write_bytes(bytes(31) + b"1")  # type: ignore[operator]


def _one_bit(site: Site, folder: Path) -> None:
    content = bytearray(note(site).read_bytes())
    content[100] ^= 1
    note(site).write_bytes(bytes(content))


def _short(site: Site, folder: Path) -> None:
    note(site).write_bytes(note(site).read_bytes()[:-1])


def _empty(site: Site, folder: Path) -> None:
    note(site).write_bytes(b"")


def _folder(site: Site, folder: Path) -> None:
    path = note(site)
    path.unlink()
    path.mkdir()


def _written_again(site: Site, folder: Path) -> None:
    """Other people in a file of the same size, with the same time of change."""
    path = Path(site.datasets["people"].source)
    before = path.stat()
    frame = table()
    frame.loc[:4, "id"] = [f"q{n}" for n in range(5)]
    frame.to_parquet(path, index=False)
    with path.open("ab") as file:
        file.truncate(before.st_size) if path.stat().st_size > before.st_size else None
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    frame.to_parquet(path, index=False)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [_of_others, _another_node, _one_bit, _short, _empty, _folder, _written_again],
)
def test_a_note_that_is_not_of_these_people_is_worth_nothing(
    change: Callable[[Site, Path], None], tmp_path: Path, hashed: list[str | None]
) -> None:
    site, whole = site_of(tmp_path), study(RUNS[0])
    answers(site, [whole])
    restarted = afresh(site, tmp_path, "restarted")
    change(restarted, tmp_path)
    hashed.clear()
    texts = answers(restarted, [whole])
    assert hashed == [None] and "Result(" in texts[0]
    fresh = site_of(tmp_path, "fresh")
    (fresh.state / "secret").write_bytes((restarted.state / "secret").read_bytes())  # type: ignore[operator]
    assert answers(fresh, [whole]) == texts
    assert remembered(fresh) == remembered(restarted)


def test_a_note_holds_for_its_salt_alone(tmp_path: Path) -> None:
    """Simulated nodes with state folders may share the rows of one file."""
    site = site_of(tmp_path)
    answers(site, [study(RUNS[0])])
    notes, version = checked_versions.of_state(site.state), note(site).name
    assert notes is not None and notes.print_of(version) is not None
    assert replace(notes, salt=bytes(8)).print_of(version) is None
    people = People(lambda: np.arange(50, dtype=np.uint64), version)
    expected = fingerprints.fingerprint(people.hashes, bytes(8))
    assert people.print_of_all(bytes(8), notes) == expected
    assert people.print_of_all(notes.salt, notes) == notes.print_of(version)


def test_a_note_goes_with_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_versions, "MAX_VERSIONS", 2)
    site = site_of(tmp_path)
    for number in range(4):
        site_of(tmp_path, frame=table(N + number))
        answers(replace(site, state=site.state), [study(RUNS[0], f"age < {number + 1000}")])
        answers(replace(site, state=site.state), [study(RUNS[0])])
    notes = list((site.state / checked_versions.PEOPLE).iterdir())  # type: ignore[operator]
    assert 0 < len(notes) <= 2
    assert {path.stat().st_mode & 0o777 for path in notes} == {0o600}
    versions = checked_versions.of_state(site.state)
    assert versions is not None
    assert {path.name for path in notes} <= versions._read().keys()
    versions.keep_print("0" * 64, bytes(fingerprints.BYTES))  # of which nothing was counted
    assert versions.print_of("0" * 64) is None


# -- files that change
@pytest.mark.parametrize("is_checked", [True, False])
def test_a_file_that_changes_while_its_columns_are_read_is_read_anew(
    is_checked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, whole = site_of(tmp_path), study(RUNS[0])
    if is_checked:
        answers(site, [whole])
        site = afresh(site, tmp_path, "restarted")
    real = RowsInPlace.hold

    def changing(rows: RowsInPlace, fields: Any) -> None:
        monkeypatch.setattr(RowsInPlace, "hold", real)
        real(rows, fields)
        site_of(tmp_path, frame=table(N + 50))

    monkeypatch.setattr(RowsInPlace, "hold", changing)
    texts = answers(site, [whole])
    fresh = site_of(tmp_path, "fresh")
    assert answers(fresh, [whole]) == texts and f"people={N + 50}" in texts[0]
    assert remembered(fresh) == remembered(site)


def test_no_fingerprint_is_noted_of_people_who_were_read_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, whole = site_of(tmp_path), study(RUNS[0])
    answers(site, [whole])
    site = afresh(site, tmp_path, "restarted")
    note(site).unlink()
    real = RowsInPlace.hashes

    def changing(rows: RowsInPlace) -> Any:
        site_of(tmp_path, frame=table(N + 50))
        return real(rows)

    monkeypatch.setattr(RowsInPlace, "hashes", changing)
    before = checked_versions.version_of(site.datasets["people"])
    assert f"people={N + 50}" in answers(site, [whole])[0]
    assert not (site.state / checked_versions.PEOPLE / str(before)).exists()  # type: ignore[operator]


def test_what_is_asked_after_the_files_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier conditions are looked at in all rows, once the cohort is open."""
    site = site_of(tmp_path)
    answers(site, [study(RUNS[0], "age < 50")])
    real = study_opening._memory

    def changing(*given: Any) -> Any:
        site_of(tmp_path, frame=table(N + 50))
        return real(*given)

    monkeypatch.setattr(study_opening, "_memory", changing)
    (text,) = answers(site, [study(RUNS[0])])
    assert "changed while they were read" in text


@pytest.mark.parametrize("n_earlier", [1, rows_in_place.MAX_LATER + 3])
def test_rows_that_are_often_asked_about_later_are_copied_once(
    n_earlier: int, tmp_path: Path, in_order: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, copied = site_of(tmp_path), list[str]()
    studies = [study(RUNS[0], f"age < {10 * (9 - n)}") for n in range(n_earlier)]
    open_cohorts = KeptCohorts[Opened](settled=0.0)
    texts = answers(site, studies, open_cohorts)
    real = column_arrays.read

    def watched(connection: Any, fields: Any, relation: str) -> Any:
        copied.append(relation) if fields else None
        return real(connection, fields, relation)

    monkeypatch.setattr(column_arrays, "read", watched)
    texts += answers(site, [study(RUNS[0]), study(RUNS[0])], open_cohorts)
    from_files = [relation for relation in copied if "FROM source" in relation]
    assert 0 < len(from_files) <= rows_in_place.MAX_LATER + 1
    assert (cohort_table.EVERYONE in copied) == (n_earlier > 1)
    in_order()
    assert (
        answers(site_of(tmp_path, "ordered"), [*studies, study(RUNS[0]), study(RUNS[0])]) == texts
    )


def test_a_copy_of_files_that_changed_meanwhile_is_not_used() -> None:
    connection = duckdb.connect()
    connection.execute("CREATE TEMP VIEW source AS SELECT 1 AS x")
    rows = RowsInPlace(connection, {"x": '"x"'}, {}, '"x"', None, lambda: False)
    rows.n_later = rows_in_place.MAX_LATER
    for _ in range(2):
        with pytest.raises(errors.SourceError):
            rows.fetch([Field("x", "number", '"x"')])
    rows.is_unchanged = lambda: True
    assert rows.fetch([Field("x", "number", '"x"')])["x"].tolist() == [1.0]


def test_a_file_that_is_gone_refuses_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of(tmp_path)
    answers(site, [study(RUNS[0], "age < 50")])
    real = study_opening._memory

    def removing(*given: Any) -> Any:
        (tmp_path / "rows.parquet").unlink()
        return real(*given)

    monkeypatch.setattr(study_opening, "_memory", removing)
    (text,) = answers(site, [study(RUNS[0])])
    assert "changed while they were read" in text


# -- broken contracts
def _duplicate(frame: pandas.DataFrame) -> None:
    frame.loc[5, "id"] = frame.loc[900, "id"]


def _nobody(frame: pandas.DataFrame) -> None:
    frame.loc[5, "id"] = None


def _two_nobodies(frame: pandas.DataFrame) -> None:
    frame.loc[5:6, "id"] = None


def _unknown_level(frame: pandas.DataFrame) -> None:
    frame.loc[7, "ward"] = "east"


def _half_missing(frame: pandas.DataFrame) -> None:
    frame.loc[:1500, "arm"] = "NA"


def _out_of_range(frame: pandas.DataFrame) -> None:
    frame.loc[7, "age"] = 130.0


BREAKING = [_duplicate, _nobody, _two_nobodies, _unknown_level, _half_missing, _out_of_range]


@pytest.mark.parametrize("breaking", BREAKING)
def test_broken_rules_are_found_as_ever(
    breaking: Callable[[pandas.DataFrame], None], tmp_path: Path, in_order: Callable[[], None]
) -> None:
    frame = table()
    breaking(frame)
    studies = [study(RUNS[1]), study(RUNS[1], "age < 70")]
    texts = answers(site_of(tmp_path, frame=frame), studies)
    assert "the data here break their contract" in texts[1]
    if breaking is not _out_of_range:  # of a column that the first study does not read
        assert not list((tmp_path / "state" / checked_versions.PEOPLE).glob("*"))
    in_order()
    assert answers(site_of(tmp_path, "ordered"), studies) == texts


# -- what is read
@pytest.mark.parametrize(("is_number", "many"), [(True, 32), (False, 32), (False, 2)])
def test_categories_are_read_as_they_are_where_their_texts_are_no_levels(
    is_number: bool, many: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the levels are more than `many`, so that each text is looked up by its hash."""
    monkeypatch.setattr(level_lookup, "MANY", many)
    frame = table()
    if is_number:
        frame["arm"] = frame["arm"].map({"a": 1.0, "b": 2.0}.get)
    text = CONTRACT.replace("0.5", "0.9")
    text = text.replace("[a, b, c]", "['1', '2']") if is_number else text
    frame.to_parquet(tmp_path / "rows.parquet", index=False)
    site = site_of(tmp_path)
    dataset = replace(site.datasets["people"], contract=federations.contract_of(text))
    columns = []
    for any_order in (True, False):
        schema = schemas.build(dataset.contract, {})
        fields = [schema.fields[name] for name in ("arm", "ward", "ill", "old")]
        opened = cohorts.open_checked(
            dataset, site.storage, schema, fields, None, in_any_order=any_order
        )
        assert opened.in_any_order == any_order and opened.people is not None
        order = np.argsort(opened.people.hashes)
        read = opened.cohort.columns(fields)
        columns.append({name: values[order] for name, values in read.items()})
        assert opened.cohort.columns([replace(fields[0], name="again")])["again"].dtype == np.int16
    for name, values in columns[0].items():
        assert values.dtype == columns[1][name].dtype
        assert np.array_equal(values, columns[1][name], equal_nan=values.dtype.kind == "f")


def test_an_ordered_cohort_serves_a_count_and_not_the_other_way_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, opened = site_of(tmp_path), list[bool]()
    real = cohorts._open_rows
    monkeypatch.setattr(
        cohorts,
        "_open_rows",
        lambda opening: opened.append(opening.counting is not None) or real(opening),
    )
    open_cohorts = KeptCohorts[Opened](settled=0.0)
    logistic = study({"run": "glm", "model": "ill ~ ward", "family": "binomial"})
    for each in (study(RUNS[0]), study(RUNS[0]), logistic, logistic, study(RUNS[0])):
        answers(site, [each], open_cohorts)
    assert opened == [True, False]
    open_cohorts = KeptCohorts[Opened](settled=0.0)
    opened.clear()
    for each in (logistic, study(RUNS[0])):
        answers(site, [each], open_cohorts)
    assert opened == [False]


# -- sums and hashes
@pytest.mark.parametrize("n", [0, 1, 5, 3000, 2**16 - 1, 2**16, 2**16 + 1, 200_000])
def test_a_fingerprint_is_the_sum_of_the_mixed_hashes_of_each_bucket(n: int) -> None:
    words = np.random.default_rng(n).integers(0, 2**64, n, dtype=np.uint64)
    mixed = fingerprints._mixed(words ^ np.uint64(int.from_bytes(b"saltsalt", "little")))
    sums = np.zeros(fingerprints.BUCKETS, np.uint64)
    np.add.at(sums, (mixed % fingerprints.BUCKETS).astype(np.int64), mixed)
    whole = fingerprints.fingerprint(words, b"saltsalt")
    assert whole == sums.tobytes()
    parts = [
        fingerprints.fingerprint(some, b"saltsalt") for some in (words[: n // 3], words[n // 3 :])
    ]
    assert fingerprints.less(whole, parts[0]) == parts[1]


def test_equal_hashes_are_seen_wherever_their_bits_put_them() -> None:
    draw = np.random.default_rng(8)
    for n, top in itertools.product((0, 1, 2, 50, 5000, 300_000), (2**64, 2**22, 2**60)):
        words = draw.integers(0, top, n, dtype=np.uint64)
        assert cohort_table.has_equal(words) == (len(np.unique(words)) < n)
        apart = np.unique(words)
        draw.shuffle(apart)
        for shift in (0, 1, 21, 42):  # many words then share the bits of a place
            assert not cohort_table.has_equal(apart)
            moved = (apart & np.uint64(2**20 - 1)) << np.uint64(shift)
            assert cohort_table.has_equal(moved) == (len(np.unique(moved)) < len(moved))
        if n > 1:
            apart[-1] = apart[0]
            assert cohort_table.has_equal(apart)
