"""A file of a hub's or a node's folder that is missing or damaged: whoever starts or examines it is
told which one, and what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aggregator import database, enrolment, jobs, settings
from federation import credentials, errors
from federation.cli.main import app
from federation.messages import LedgerHead
from nodes import setup, state_folder
from simulations import flower
from tests import hub_services


def delete(path: Path) -> None:
    path.unlink()


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff\x00garbage" * 50)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = (delete, garbage, cut, empty, directory)
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub in `hub`, and in `node` a node that is enrolled there."""
    folder = tmp_path_factory.mktemp("made")
    with hub_services.running(folder / "hub") as service:
        invited = enrolment.invite(service.hub, service.scheduler.engine, "ana", "coordinator", 1.0)
        enrolled = folder / "node" / "state" / state_folder.HUB
        setup.init(folder / "node", "lyon")
        state_folder.identity(state_folder.create(folder / "node" / "state"))
        credentials.enrol(enrolled, service.hub.file.enrol, invited.to_text(), None, "1")
    return folder


def doctor(folder: Path) -> str:
    result = CliRunner().invoke(app, ["doctor", str(folder)])
    assert isinstance(result.exception, (errors.HdhError, type(None))), result.exc_info
    return result.output + str(result.exception)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *product(("pki/ca.crt", "pki/hub.crt", "pki/hub.key"), DAMAGES),
        *product(("control.token",), (delete, garbage, empty, directory)),
        *product(("superexec.secret",), (delete, empty, directory)),
    ],
)
def test_a_hub_says_which_of_its_keys_cannot_be_used(
    parties: Path, tmp_path: Path, name: str, damage: Damage
) -> None:
    hub = settings.load(Path(shutil.copytree(parties / "hub", tmp_path / "hub")))
    assert hub.check_keys() > 300
    damage(hub.folder / name)
    with pytest.raises(errors.SetupError, match=rf"{Path(name).name}: is"):
        hub.check_keys()
    assert Path(name).name in doctor(hub.folder)


def test_a_hub_does_not_serve_with_the_key_or_the_authority_of_another(
    parties: Path, tmp_path: Path
) -> None:
    other = settings.init(tmp_path / "other", ["localhost"], 18443, None, "127.0.0.1")
    for name, why in (("hub.key", "is not the key of"), ("ca.crt", "is not signed by")):
        hub = settings.load(Path(shutil.copytree(parties / "hub", tmp_path / name)))
        shutil.copy(other.pki / name, hub.pki / name)
        with pytest.raises(errors.SetupError, match=why):
            hub.check_keys()


@pytest.mark.parametrize("damage", [garbage, cut, empty, directory])
def test_damaged_witnesses_of_ledgers_are_told_and_not_forgotten(
    parties: Path, tmp_path: Path, damage: Damage
) -> None:
    hub = settings.load(Path(shutil.copytree(parties / "hub", tmp_path / "hub")))
    jobs.keep_witnesses(hub.jobs, {"lyon": LedgerHead(7, "0" * 64)})
    assert jobs.witnesses(hub.jobs) == {"lyon": LedgerHead(7, "0" * 64)}
    damage(hub.jobs / jobs.WITNESSES)
    with pytest.raises(errors.SetupError, match=r"witnesses\.json is damaged"):
        jobs.witnesses(hub.jobs)
    assert "witnesses.json is damaged" in doctor(hub.folder)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["audit.jsonl.head", "registry.db", "pki/ca.key"])
def test_doctor_examines_a_damaged_hub_to_its_end(
    parties: Path, tmp_path: Path, name: str, damage: Damage
) -> None:
    hub = Path(shutil.copytree(parties / "hub", tmp_path / "hub"))
    for left in ("registry.db-wal", "registry.db-shm"):
        (hub / left).unlink(missing_ok=True)
    damage(hub / name)
    printed = doctor(hub)
    assert "port metrics" in printed  # the last check
    if (name, damage) not in (("audit.jsonl.head", delete), ("pki/ca.key", delete)):
        assert "failed" in printed


@pytest.mark.parametrize("damage", [delete, empty])
def test_a_hub_does_not_start_with_an_empty_registry(
    parties: Path, tmp_path: Path, damage: Damage
) -> None:
    """It would tell each of its nodes that it was revoked, as after a disk that is not mounted."""
    hub = settings.load(Path(shutil.copytree(parties / "hub", tmp_path / "hub")))
    for left in ("registry.db-wal", "registry.db-shm"):
        (hub.folder / left).unlink(missing_ok=True)
    damage(hub.folder / "registry.db")
    with pytest.raises(errors.SetupError, match="holds no registry of a hub"):
        database.open_registry(hub.database)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["own.crt", "own.key", "ca.crt", "hub.json"])
def test_a_party_says_which_of_its_files_cannot_be_used(
    parties: Path, tmp_path: Path, name: str, damage: Damage
) -> None:
    """gRPC ends the process without a word at an empty key."""
    node = Path(shutil.copytree(parties / "node", tmp_path / "node"))
    enrolled = node / "state" / state_folder.HUB
    damage(enrolled / name)
    expected = (
        "not enrolled" if (name, damage) == ("hub.json", delete) else f"{name}: is missing or"
    )
    with pytest.raises(errors.SetupError, match=expected):
        credentials.load(enrolled)
    assert "enrolment" in doctor(node) or name == "hub.json"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["secret", "identity.key", "approvals.sqlite", "audit.jsonl.head"])
def test_doctor_examines_a_damaged_node_to_its_end(
    parties: Path, tmp_path: Path, name: str, damage: Damage
) -> None:
    node = Path(shutil.copytree(parties / "node", tmp_path / "node"))
    path = node / "state" / name
    if not path.exists():
        path.write_bytes(b"1 " + b"0" * 64)
    damage(path)
    assert "enrolment" in doctor(node)


def test_a_key_of_another_party_is_told(parties: Path, tmp_path: Path) -> None:
    enrolled = Path(
        shutil.copytree(parties / "node" / "state" / state_folder.HUB, tmp_path / "own")
    )
    shutil.copy(parties / "hub" / "pki" / "hub.key", enrolled / "own.key")
    with pytest.raises(errors.SetupError, match=r"is not the key of own\.crt"):
        credentials.load(enrolled)


def test_a_hub_of_ipv6_and_of_a_long_name_is_made_and_checked(tmp_path: Path) -> None:
    name = f"{'hub-' * 12}x.{'example-' * 5}x.org"
    hub = settings.init(tmp_path / "hub", [name, "[::1]"], flower.free_ports(5), None, "::1")
    hub = settings.load(hub.folder)
    assert hub.file.hosts == (name, "::1") and hub.file.api.startswith("[::1]:")
    assert hub.check_keys() > 300


@pytest.mark.parametrize("host", ["a b", "", "hôpital.fr", "hub.example.org:8443"])
def test_a_host_that_is_none_makes_no_hub_and_is_told_with_its_line(
    tmp_path: Path, host: str
) -> None:
    with pytest.raises(errors.InputError):
        settings.init(tmp_path / "hub", [host], 8443, None, "127.0.0.1")
    assert not (tmp_path / "hub").exists()
    hub = settings.init(tmp_path / "hub", ["localhost"], 8443, None, "127.0.0.1")
    path = hub.folder / settings.FILE
    path.write_text(path.read_text().replace("- localhost", f"- '{host}'"))
    with pytest.raises(errors.InputError, match=r"hub\.yaml:\d+: hosts"):
        settings.load(hub.folder)
