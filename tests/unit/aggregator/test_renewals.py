"""A coordinator's certificate is renewed by their next connection in its last two months."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator import pki
from federation import client, credentials
from tests import hub_services
from tests.hub_services import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with hub_services.running(tmp_path_factory.mktemp("hub") / "hub") as running:
        yield running


def keys(service: Service, folder: Path, name: str, days: int) -> Path:
    """The folder of a new coordinator, whose certificate expires in so many days."""
    party = service.enrol(name, "coordinator")
    csr = credentials.request(credentials.private_key(party["key"]))
    (folder / "own.key").write_bytes(party["key"])
    (folder / "own.crt").write_text(
        pki.certify(service.hub.pki, csr, name, "coordinator", days=days)
    )
    (folder / "ca.crt").write_bytes((service.hub.pki / "ca.crt").read_bytes())
    address = service.hub.public_address("api")
    hub = {"name": name, "role": "coordinator", "api": address, "fleet": "", "flower_id": "0"}
    (folder / "hub.json").write_text(json.dumps(hub))
    return folder


@pytest.mark.parametrize(("days", "is_renewed"), [(59, True), (1, True), (70, False)])
def test_it_is_renewed_in_its_last_two_months(
    days: int, is_renewed: bool, service: Service, tmp_path: Path
) -> None:
    folder = keys(service, tmp_path, f"ana{days}", days)
    before = (folder / "own.key").read_bytes()
    with client.connect(folder) as hub:
        assert hub.list() == []
    left = credentials.days_left((folder / "own.crt").read_bytes())
    assert (left > 300) == is_renewed
    assert (folder / "own.key").read_bytes() == before
    with client.connect(folder) as hub:  # with the new one
        assert hub.list() == []


def test_a_hub_that_is_away_is_asked_at_the_next_connection(
    service: Service, tmp_path: Path
) -> None:
    folder = keys(service, tmp_path, "bob", 10)
    about = json.loads((folder / "hub.json").read_text())
    (folder / "hub.json").write_text(json.dumps({**about, "api": "localhost:1"}))
    client.connect(folder).close()
    assert credentials.days_left((folder / "own.crt").read_bytes()) < 11
