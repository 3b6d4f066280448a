"""A node's folder: created with safe defaults, changed in one place, backed up and restored."""

from __future__ import annotations

import dataclasses
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from federation import errors
from federation.cli.actions import node_setup
from federation.privacy.accounting import PICO
from federation.tickets import ticket
from nodes import backups, daemon, ledger, memory_file, row_files, setup, state_folder
from nodes import site as sites
from nodes.approvals import Approvals, Proposed
from nodes.ledger import Account
from nodes.site import Policy
from tests import federations
from tests.deployments import CONTRACT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return setup.init(tmp_path / "node", "lyon")


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    (tmp_path / "people.yaml").write_text(CONTRACT.canonical())
    (tmp_path / "rows.csv").write_text("age,ill\n40,true\n")
    return tmp_path / "people.yaml"


RECEIVED = "1970-01-01T00:00:00+00:00"


def written(path: Path, *given: Any, replace: bool = False) -> str:
    new, site = setup.new_dataset(path, *given), sites.load(path)
    contract = setup.dataset(path, new).contract
    place = (
        setup.place_of(path, site, contract, None)
        if replace
        else setup.place_beside(path, site, contract)
    )
    setup.write_dataset(path, new, place)
    return contract.dataset


def test_what_is_written_is_what_holds_when_nothing_is(path: Path) -> None:
    site = sites.load(path)
    assert site.name == "lyon" and site.policy == Policy() and not site.datasets
    assert (path.parent / "state" / "identity.key").stat().st_mode & 0o077 == 0


def test_every_commented_key_is_a_key(path: Path) -> None:
    """Taking the # away gives a file that can be read."""
    text = path.read_text()
    text = re.sub(r"(?m)^  # (\w+: )", r"  \1", text)
    path.write_text(text)
    assert sites.load(path).policy.authorisations


def test_a_second_init_changes_nothing(path: Path) -> None:
    before = path.read_text()
    with pytest.raises(errors.SetupError, match="already exists"):
        setup.init(path.parent, "nice")
    assert path.read_text() == before


def test_a_dataset_is_added_and_nothing_else_changes(path: Path, contract: Path) -> None:
    before = path.read_text()
    assert written(path, contract, str(contract.parent / "rows.csv"), None, 400) == "people"
    site = sites.load(path)
    assert site.datasets["people"].people == 400 and Path(site.datasets["people"].source).exists()
    added = [line for line in path.read_text().splitlines() if line not in before.splitlines()]
    assert len(added) == 2 and added[0] == "datasets:" and added[1].startswith("  people: ")
    with pytest.raises(errors.SiteError, match="is already there"):
        written(path, contract, str(contract.parent / "rows.csv"), None, None)
    with pytest.raises(errors.InputError, match="no such file"):
        written(setup.init(path.parent / "b", "nice"), contract, "nothing.csv", None, None)


def test_a_second_dataset_goes_beside_the_first(path: Path, contract: Path) -> None:
    written(path, contract, str(contract.parent / "rows.csv"), None, None)
    other = contract.with_name("others.yaml")
    other.write_text(CONTRACT.canonical().replace('"people"', '"others"'))
    written(path, other, "postgresql://reader@db/care", "care.others", None)
    assert set(sites.load(path).datasets) == {"people", "others"}


def test_a_key_accepted_before_stays_whatever_the_hub_says(path: Path) -> None:
    assert setup.accept_roster(path, {"lyon": b"a" * 32, "nice": b"b" * 32}) == []
    assert setup.accept_roster(
        path, {"lyon": b"a" * 32, "nice": b"c" * 32, "brest": b"d" * 32}
    ) == ["nice"]
    assert sites.load(path).roster == {"lyon": b"a" * 32, "nice": b"b" * 32, "brest": b"d" * 32}


def test_the_unit_restarts_always_and_writes_nowhere_else(path: Path) -> None:
    unit = setup.unit(path, "hdh")
    assert (
        "Restart=always" in unit
        and "StartLimitIntervalSec=0" in unit
        and f"ReadWritePaths={path.resolve().parent}" in unit
        and "User=hdh" in unit
    )


def test_a_backup_holds_the_state_and_the_configuration_and_both_are_restored(
    path: Path, contract: Path, tmp_path: Path
) -> None:
    written(path, contract, str(contract.parent / "rows.csv"), None, None)
    state = path.parent / "state"
    budget_ledger = state_folder.open_ledger(state)
    ledger.grant(budget_ledger, Account("people", "visit", 2026), PICO, by="dpo", at="2026-01-01")
    Approvals(state / "approvals.sqlite").propose(proposed("ab" * 32, 1.0))
    identity = state_folder.public_identity(state)
    setup.accept_roster(path, {"nice": bytes(32)})
    file = tmp_path / "backup.tar.gz"
    assert backups.write(state, file, path) == 1 and file.stat().st_mode & 0o077 == 0
    with pytest.raises(errors.SetupError, match="not empty"):
        backups.restore(file, state)
    new = tmp_path / "new"
    new.mkdir()
    restored = backups.restore_configuration(file, new / path.name)
    (held,) = {*restored} - {path.name, "roster.yaml"}  # the contract
    assert len(restored) == 3 and (new / held).read_bytes() == (path.parent / held).read_bytes()
    assert backups.restore(file, new / "state") == 1
    assert state_folder.public_identity(new / "state") == identity
    (proposal,) = Approvals(new / "state" / "approvals.sqlite").all()
    assert proposal.study_hash == "ab" * 32 and proposal.verdict == "waiting"
    before, after = sites.load(path), sites.load(new / path.name)
    assert dict(after.roster) == dict(before.roster) == {"nice": bytes(32)}
    assert after.policy == before.policy
    assert {name: each.contract.hash for name, each in after.datasets.items()} == {
        name: each.contract.hash for name, each in before.datasets.items()
    }
    assert not (new / "state" / "configuration").exists()
    (new / "roster.yaml").write_text("nodes: {}\n")
    assert backups.restore_configuration(file, new / path.name) == []  # nothing is overwritten
    assert (new / "roster.yaml").read_text() == "nodes: {}\n"


def test_a_backup_replaces_an_earlier_one_of_its_name_and_no_other_file(
    path: Path, tmp_path: Path
) -> None:
    state, file = path.parent / "state", tmp_path / "backup.tar.gz"
    state_folder.public_identity(state)
    for expected in (0, 1):
        assert backups.write(state, file, path) == expected
        account = Account("people", "visit", 2026)
        ledger.grant(state_folder.open_ledger(state), account, PICO, by="dpo", at="2026-01-01")
    assert backups.restore(file, tmp_path / "new") == 1
    other = tmp_path / "letter.txt"
    other.write_text("of somebody else")
    with pytest.raises(errors.InputError, match="is no backup of a node"):
        backups.write(state, other, path)
    assert other.read_text() == "of somebody else"
    for restore in (backups.restore, backups.restore_configuration):
        with pytest.raises(errors.InputError, match="cannot be read as a backup"):
            restore(other, tmp_path / "third" / "node.yaml")
    assert not list(tmp_path.glob("*.part"))


def test_a_backup_holds_no_row(path: Path, tmp_path: Path) -> None:
    """Those of linked people lie in memory, behind a link; temporary ones end with a process."""
    state = path.parent / "state"
    state_folder.public_identity(state)
    rows = memory_file.make(state_folder.create(state / "links") / "register.parquet")
    rows.target.write_bytes(b"rows of people")
    (row_files.private_folder(state / "tmp") / "spilled").write_bytes(b"rows of people")
    backups.write(state, tmp_path / "backup.tar.gz", path)
    rows.delete()
    with tarfile.open(tmp_path / "backup.tar.gz") as archive:
        held = [each.name for each in archive]
    assert not [name for name in held if name.startswith(("links", "tmp"))]


def test_a_running_node_sees_a_changed_roster(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    setup.accept_roster(path, {"nice": bytes(32)})
    site = sites.load(path)
    copy = dataclasses.replace(site, name="a study's own")
    setup.accept_roster(path, {"brest": bytes(range(32))})
    for each in (site, copy):
        assert each.roster["brest"] == bytes(range(32)) and set(each.roster) == {"nice", "brest"}
    roster = path.parent / "roster.yaml"
    roster.write_text("nodes: {nice: 12")
    assert set(site.roster) == {"nice", "brest"} and "stays as it was" in caplog.text
    roster.write_text(f'nodes: {{"nice": "{bytes(32).hex()}"}}\n')
    assert "brest" not in copy.roster and len(site.roster) == 1


def proposed(
    study_hash: str, deadline: float, received: str = RECEIVED, *, number: int = 1, **decided: Any
) -> Proposed:
    """A run that its coordinator signed."""
    run = ticket("hub", number, study_hash, "c", ["lyon"], deadline)
    return Proposed(run, "s", "{}", "alice", "k", received, deadline, **decided)


def test_an_approval_is_of_a_run_and_a_name_must_be_clear(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path / "approvals.sqlite")
    first = proposed("a" * 64, 1.0, number=1)
    other = proposed("b" * 64, 1.0, "1970-01-01T01:00:00+00:00", number=2)
    for each in (first, other):
        approvals.propose(each)
    with pytest.raises(errors.InputError, match=r"may mean 2 \(bbbbbbbbbbbb\), 1 \(aaaaaaaaaaaa\)"):
        approvals.find("s")
    assert approvals.find("1").run == approvals.find("aaaa").run == first.run
    approvals.decide(first.run, "approved", "", "dpo", "then")
    verdicts = [
        proposal and proposal.verdict
        for proposal in map(approvals.proposed, (first.run, other.run))
    ]
    assert verdicts == ["approved", "waiting"] and approvals.proposed("c" * 64) is None
    assert [each.study_hash for each in approvals.unsent()] == ["a" * 64]
    approvals.mark_sent(approvals.unsent()[0])
    assert not approvals.unsent()
    again = approvals.propose(first)
    assert again.verdict == "approved", "a run that is proposed again keeps its decision"


# -- a contract's life
PEOPLE = (
    "dataset: d\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n  n: {type: number,"
    " range: [0, 9]}\n"
)


def dataset_files(folder: Path) -> tuple[Path, Path]:
    (folder / "d.yaml").write_text(PEOPLE)
    (folder / "d.csv").write_text("id,n\np1,1\np2,2\n")
    return folder / "d.yaml", folder / "d.csv"


def test_nothing_is_written_unless_the_rows_keep_the_contract(path: Path, tmp_path: Path) -> None:
    contract, rows = dataset_files(tmp_path)
    good, bad = rows.read_text(), "id,n\np1,1\np2,99\n"
    for replace in (False, True):
        before = path.read_text()
        rows.write_text(bad)
        with pytest.raises(errors.DataError, match="nothing is written"):
            node_setup.add_dataset(path, contract, str(rows), None, None, None, replace=replace)
        assert path.read_text() == before
        assert (path.parent / "contracts" / "d.yaml").exists() == replace
        rows.write_text(good)
        node_setup.add_dataset(path, contract, str(rows), None, None, None, replace=replace)


def test_a_dataset_is_replaced_with_what_differs_and_removed(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract, rows = dataset_files(tmp_path)
    before = path.read_text()
    with pytest.raises(errors.SiteError, match="to replace"):
        node_setup.add_dataset(path, contract, str(rows), None, None, None, replace=True)
    node_setup.add_dataset(path, contract, str(rows), None, None, None)
    with pytest.raises(errors.SiteError, match="dataset replace"):
        node_setup.add_dataset(path, contract, str(rows), None, None, None)
    contract.write_text(PEOPLE.replace("[0, 9]", "[0, 5]") + "  new: {type: boolean}\n")
    rows.write_text("id,n,new\np1,1,true\n")
    node_setup.add_dataset(path, contract, str(rows), None, 40, None, replace=True)
    output = capsys.readouterr().out
    assert "column n: range was [0.0, 9.0], and is [0.0, 5.0]" in output
    assert "column new is new" in output
    assert sites.load(path).datasets["d"].people == 40
    node_setup.remove_dataset(path, "d")
    assert path.read_text().replace("datasets:\n", "datasets: {}\n") == before
    with pytest.raises(errors.SiteError, match="no dataset 'd'"):
        node_setup.remove_dataset(path, "d")


def test_a_dataset_in_several_lines_is_taken_out_and_comments_stay(
    path: Path, tmp_path: Path
) -> None:
    contract, _ = dataset_files(tmp_path)
    (path.parent / "d.yaml").write_text(contract.read_text())
    (path.parent / "e.yaml").write_text(contract.read_text().replace("dataset: d", "dataset: e"))
    block = (
        "datasets:\n  d:\n    contract: d.yaml\n    source: d.csv   # here\n    read:\n      date:"
        " dd/mm/yyyy\n"
        "  # the other one\n  e: {contract: e.yaml, source: d.csv}\n\n"
    )
    path.write_text(path.read_text().replace("datasets: {}\n", block))
    setup.remove_dataset(path, "d")
    text = path.read_text()
    assert "datasets:\n  # the other one\n  e: {" in text and "dd/mm/yyyy" not in text
    assert "min_cell: 11" in text and list(sites.load(path).datasets) == ["e"]


def test_prose_does_not_change_what_a_contract_is() -> None:
    first = federations.contract_of(PEOPLE)
    other = federations.contract_of(
        PEOPLE.replace(
            "version: 1", "version: 2\nuse: [alice]\ndescription: {fr: Personnes}"
        ).replace("range: [0, 9]", "range: [0, 9], description: {fr: Nombre}")
    )
    assert first.hash == other.hash and first.canonical() != other.canonical()
    assert first.differences(other) == []


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("range: [0, 9]", "range: [0, 8]", "column n: range was [0.0, 9.0], and is [0.0, 8.0]"),
        ("type: number, range: [0, 9]", "type: number", "range was [0.0, 9.0], and is not written"),
        ("type: number", "type: integer", "column n: type was number, and is integer"),
        ("range: [0, 9]", "range: [0, 9], unit: years", "unit was not written, and is years"),
        ("  n: {", "  m: {", "column n is removed"),
        (
            "person: id",
            "person: id\nrows_per_person: 3",
            "rows_per_person was not written, and is 3",
        ),
    ],
)
def test_what_numbers_are_computed_from_changes_it(old: str, new: str, difference: str) -> None:
    original = federations.contract_of(PEOPLE)
    other = federations.contract_of(PEOPLE.replace(old, new))
    assert original.hash != other.hash
    assert difference in "; ".join(original.differences(other))


def test_an_approval_is_for_one_run_that_begins_in_time_and_ends(tmp_path: Path) -> None:
    approvals, day = Approvals(tmp_path / "approvals.sqlite"), 86_400.0
    runs = {digit: proposed(digit * 64, 10 * day) for digit in "abcd"}

    def standing(digit: str, when: float) -> str | None:
        return approvals.standing(runs[digit].run, when)

    for digit, run in runs.items():
        approvals.propose(run)
        assert standing(digit, 9 * day) == "waiting"
        approvals.decide(run.run, "approved", "", "dpo", "then")
    assert approvals.standing("e" * 64, 0.0) is None
    assert standing("a", 10.9 * day) == "approved"
    assert standing("b", 11.1 * day) == "expired"
    assert standing("a", 40.8 * day) == "approved"
    assert standing("a", 41 * day) == "expired", "30 days from its first query"
    for run in runs.values():
        approvals.propose(run)
    assert standing("a", 50 * day) == standing("b", 50 * day) == "expired", "the same run stays so"
    assert standing("c", 10 * day) == "approved"
    approvals.end(runs["c"].run)
    approvals.propose(runs["c"])
    assert standing("c", 10 * day) == "over"
    later = proposed("c" * 64, 20 * day, number=2)
    approvals.propose(later)
    assert approvals.standing(later.run, 10 * day) == "waiting", "a later run needs a new approval"
    assert not any(standing("d", when) == "approved" for when in (float("nan"), float("inf")))


@pytest.mark.parametrize("deadline", [1e12, 1e300])
def test_no_deadline_keeps_an_approval_for_ever(tmp_path: Path, deadline: float) -> None:
    approvals, day = Approvals(tmp_path / "approvals.sqlite"), 86_400.0
    run = approvals.propose(proposed("a" * 64, deadline, verdict="approved"))
    assert approvals.find("s").deadline == 90 * day
    assert approvals.standing(run.run, 92 * day) == "expired"


@pytest.mark.parametrize("start", ["0b01", "0e12", "1234", "00"])
def test_a_key_that_looks_like_a_number_is_read_back(start: str, tmp_path: Path) -> None:
    key = bytes.fromhex((start + "0" * 64)[:64])
    path = setup.init(tmp_path / "node", "brest")
    setup.accept_roster(path, {"brest": key})
    assert sites.load_roster(path.parent / "roster.yaml") == {"brest": key}


def test_a_node_that_the_hub_has_revoked_says_so(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "the hub does not accept this node any more: this certificate was revoked"
    daemon._write_status(path.parent / "state", {"running": False, "ended": why})
    node_setup.show_status(path, "text")
    assert f"it ended: {why}" in capsys.readouterr().out
    daemon._write_status(path.parent / "state", {"running": False, "ended": ""})
    node_setup.show_status(path, "text")
    assert "it ended" not in capsys.readouterr().out
