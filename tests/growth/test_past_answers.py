"""The cost of a study grows as its own work, whatever a node has answered before: what the ledger
remembers is read once, and fingerprints of the same people are one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from aggregator import rounds
from federation.messages import LedgerHead
from nodes import differencing, fingerprints, ledger, written_fields
from nodes.answered import Memory
from nodes.differencing import Earlier, Group, Seen
from nodes.ledger import Account, Ledger
from simulations import local
from tests import federations
from tests.growth.test_results import exponent

AT = "2026-11-29T12:00:00+00:00"
ACCOUNT = Account("people", "person", 2026)
SALT = b"saltsalt"
N_ROWS, N_COLUMNS = 600, 12


class Lines:
    """What was read of a ledger, in order."""

    def __init__(self) -> None:
        self.read: list[bytes] = []

    def add(self, seq: int, content: bytes) -> None:
        self.read.append(content)


def remember(book: Ledger, *contents: bytes, kind: str = "rows") -> None:
    for content in contents:
        ledger.remember(book, kind, ACCOUNT, "study", content.hex(), content, AT)


def test_an_entry_is_read_once_and_those_that_come_are_added(tmp_path: Path) -> None:
    book = ledger.open_ledger(tmp_path / "ledger.sqlite")
    remember(book, b"a", b"b")
    lines = ledger.gathered(book, "rows", ACCOUNT, Lines)
    remember(book, b"other", kind="column")
    remember(ledger.open_ledger(tmp_path / "ledger.sqlite"), b"c")  # by another process
    assert ledger.gathered(book, "rows", ACCOUNT, Lines) is lines
    assert lines.read == [b"a", b"b", b"c"]
    assert lines.read == list(ledger.remembered(book, "rows", "people"))
    other = Account("others", "person", 2026)
    assert ledger.gathered(book, "rows", other, Lines).read == []


def test_all_is_read_again_where_another_ledger_lies_now() -> None:
    book = ledger.open_ledger(Path(":memory:"))
    remember(book, b"a", b"b")
    key = ("rows", "people", "", Lines)
    book.gathered[key] = LedgerHead(1, "of another ledger"), Lines()
    assert ledger.gathered(book, "rows", ACCOUNT, Lines).read == [b"a", b"b"]


def test_what_could_not_be_read_is_read_again() -> None:
    class Failing(Lines):
        fails = True

        def add(self, seq: int, content: bytes) -> None:
            super().add(seq, content)
            if Failing.fails and content == b"b":
                raise MemoryError

    book = ledger.open_ledger(Path(":memory:"))
    remember(book, b"a", b"b")
    with pytest.raises(MemoryError):
        ledger.gathered(book, "rows", ACCOUNT, Failing)
    Failing.fails = False
    assert ledger.gathered(book, "rows", ACCOUNT, Failing).read == [b"a", b"b"]


# -- fingerprints
def group(people: np.ndarray[Any, Any], *columns: str, chosen: str | None = None) -> Group:
    print_ = np.frombuffer(fingerprints.fingerprint(people.astype(np.uint64), SALT), np.uint64)
    return Group(print_, frozenset(columns), chosen)


def is_near_by_definition(new: Group, others: list[Group], k: int) -> bool:
    """All pairs and triples, with all buckets of their fingerprints."""
    for other in others:
        apart = fingerprints.apart(new.print - other.print)
        named = None not in (new.chosen, other.chosen)
        if 0 < apart < k or (apart == 0 and named and new.chosen != other.chosen):
            return True
    latest = [other.print for other in others[-differencing.MAX_TRIPLES :]]
    return any(
        0 < fingerprints.apart(new.print + sign * a - b) < k
        for a in latest
        for b in latest
        for sign in (np.uint64(1), ~np.uint64(0))
    )


def memory_of(book: Ledger, k: int) -> Memory:
    nothing: list[Any] = [None] * 3
    return Memory(book, nothing[0], ACCOUNT, *nothing[1:], SALT, None, None, frozenset(), {}, k)


@pytest.mark.parametrize("k", [5, 11, 80])
@pytest.mark.parametrize("n_people", [40, 3000])
@pytest.mark.parametrize("seed", range(4))
def test_folded_fingerprints_refuse_what_whole_ones_do(k: int, n_people: int, seed: int) -> None:
    """Few people, of whom most buckets hold nobody; and so many that all hold some. `k` may exceed
    the folds."""
    rng = np.random.default_rng(seed)
    people, book = np.arange(n_people), ledger.open_ledger(Path(":memory:"))
    decided = []
    for _ in range(12):
        near = [people[rng.random(n_people) < 0.6] for _ in range(3)]
        cut = int(rng.integers(0, 2 * k))
        near += [near[0][cut:], np.setdiff1d(near[0], near[1][:cut])]
        near += [np.setdiff1d(people, near[2])[cut:]]
        names = rng.choice(list("abc"), 2, replace=False)
        new, *earlier = (group(some, *names, chosen="xy"[len(some) % 2]) for some in near)
        past = earlier[: rng.integers(0, 6)]
        remember(book, *(each.to_bytes() for each in past), kind=differencing.KIND)
        seen = ledger.gathered(book, differencing.KIND, ACCOUNT, Seen)
        contents = ledger.remembered(book, differencing.KIND, "people")
        others = list(map(differencing.group_from, contents))
        beside = [other for other in others if other.columns & new.columns]
        is_near = differencing._is_any_near([new], [Earlier.of(new)], memory_of(book, k))
        assert is_near == is_near_by_definition(new, beside, k)
        assert [e.columns for e in seen.sharing(new.columns)] == [o.columns for o in beside]
        decided.append(is_near)
    assert len(set(decided)) == 2 or k == 80


def test_the_people_of_many_answers_are_compared_once() -> None:
    book, people = ledger.open_ledger(Path(":memory:")), np.arange(2000)
    columns = [f"x{i}" for i in range(100)]
    remember(book, *(group(people, x, "y").to_bytes() for x in columns), kind=differencing.KIND)
    new = group(people[::2], "y")
    before = read_whole(book)
    assert not differencing._is_any_near([new], [Earlier.of(new)], memory_of(book, 11))
    seen = ledger.gathered(book, differencing.KIND, ACCOUNT, Seen)
    assert len(seen.prints._numbers) == 2 and len(seen.sharing(frozenset("y"))) == 100
    assert read_whole(book) == before  # folds show that they are far apart


def read_whole(book: Ledger) -> int:
    seen = ledger.gathered(book, differencing.KIND, ACCOUNT, Seen)
    return len(seen.prints._whole)


# -- whole studies
def contract() -> Any:
    columns = "".join(f"  x{i}: {{type: number, range: [0, 1]}}\n" for i in range(N_COLUMNS))
    return federations.contract_of(
        f"dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {{type: string}}\n{columns}"
    )


def sites(folder: Path) -> list[Any]:
    draw = np.random.default_rng(1)
    names = [f"x{i}" for i in range(N_COLUMNS)]
    table = pandas.DataFrame(draw.random((N_ROWS, N_COLUMNS)), columns=names)
    return [federations.site_of("n0", table.assign(id=range(N_ROWS)), contract(), folder)]


def model(number: int) -> dict[str, Any]:
    first, second = number % N_COLUMNS, (number + 1 + number // N_COLUMNS) % N_COLUMNS
    if first == second:
        second = (second + 3) % N_COLUMNS
    return {"run": "glm", "family": "gaussian", "model": f"x{first} ~ x{second}"}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the steps of SQLite's machine in all ledgers."""
    counted, real = [0], ledger.open_ledger

    def count() -> int:
        counted[0] += 1
        return 0

    def opened(path: Path) -> Ledger:
        book = real(path)
        book.connection.set_progress_handler(count, 10)
        return book

    monkeypatch.setattr(ledger, "open_ledger", opened)
    return counted


def test_analyses_of_a_study_read_as_much_of_the_ledger_each_whatever_their_number(
    tmp_path: Path, steps: list[int]
) -> None:
    """Each is compared with those before it."""
    numbers, counts, nodes = [10, 30, 90], [], sites(tmp_path)
    for number in numbers:
        study, steps[0] = federations.study_of({f"a{i}": model(i) for i in range(number)}), 0
        federations.run(study, contract(), nodes)
        counts.append(steps[0])
    assert exponent(numbers, counts) < 1.1


def test_a_study_reads_as_much_of_the_ledger_after_many_others(
    tmp_path: Path, steps: list[int]
) -> None:
    nodes, counts = sites(tmp_path), []
    ask = local.ask_of(nodes, federations.NOW)
    for number in range(60):
        study, steps[0] = federations.study_of({"a": model(number)}, study=f"s{number}"), 0
        assert federations.result(rounds.run(study, contract(), ask, ["n0"]))
        counts.append(steps[0])
    assert np.median(counts[50:]) < 1.2 * np.median(counts[5:15])


def test_sums_of_buckets_tell_cohorts_apart_that_are_far_apart() -> None:
    """So that whole fingerprints are read for those alone that may be near."""
    people = np.random.default_rng(1).integers(0, 2**63, 3000, np.uint64)
    prints = [
        np.frombuffer(fingerprints.fingerprint(some, SALT), np.uint64)
        for some in (people, people[300:], people[3:])
    ]
    whole, far, near = map(fingerprints.folded, prints)
    assert fingerprints.apart(whole - far) > 50 and 0 < fingerprints.apart(whole - near) <= 3
    assert np.array_equal(fingerprints.folded(prints[0] - prints[1]), whole - far)


# -- levels
def of_levels(n_levels: int) -> Any:
    levels = ", ".join(f"l{i}" for i in range(n_levels))
    return federations.contract_of(
        "dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n"
        f"  x: {{type: number, range: [0, 1]}}\n  g: {{type: category, levels: [{levels}]}}\n"
    )


def test_an_answer_writes_as_much_whatever_the_levels_of_its_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, real = [0], ledger.remember

    def remember_(*given: Any) -> bytes:
        written[0] += len(given[5])
        return real(*given)

    monkeypatch.setattr(ledger, "remember", remember_)
    sizes = []
    for n_levels in (100, 2000):
        columns = {"id": range(300), "x": np.arange(300) / 300, "g": ["l0", "l1"] * 150}
        table = pandas.DataFrame(columns)
        nodes = [federations.site_of("n0", table, of_levels(n_levels), tmp_path)]
        study = federations.study_of(
            {"a": {"run": "glm", "family": "gaussian", "model": "x ~ 1"}},
            cohort={"where": "g != 'l1'"},
        )
        written[0] = 0
        federations.result(federations.run(study, of_levels(n_levels), nodes))
        sizes.append(written[0])
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("n_levels", [2, 32, 33, 500])
def test_levels_that_a_former_version_listed_are_those_of_the_contract(n_levels: int) -> None:
    contract, other = of_levels(n_levels), of_levels(n_levels + 1)
    kinds = written_fields.kinds(contract)
    listed = {name: [c.kind, list(c.levels)] for name, c in contract.columns.items()}
    assert written_fields.kinds_from(json.loads(json.dumps(listed))) == kinds
    assert written_fields.kinds_from(json.loads(json.dumps(kinds))) == kinds
    assert written_fields.kinds(other)["g"] != kinds["g"]
