"""Answers of a hub that lies or is broken, which a party would store: what cannot be right is
refused, and the party goes on with what it had."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from aggregator import api, enrolment, pki, settings
from federation import credentials, errors, limits
from federation.cli.main import app
from federation.credentials import Credentials
from federation.rpc import hub_pb2
from nodes import daemon, setup, state_folder
from nodes import site as sites
from tests import hub_services
from tests.hub_services import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with hub_services.running(tmp_path_factory.mktemp("hub") / "hub") as running:
        yield running


def party(service: Service, folder: Path, name: str, role: str, days: int = 365) -> Credentials:
    """A party whose certificate is good for so many days."""
    keys = service.enrol(name, role)
    folder.mkdir(parents=True)
    csr = credentials.request(credentials.private_key(keys["key"]))
    (folder / "own.key").write_bytes(keys["key"])
    (folder / "own.crt").write_text(pki.certify(service.hub.pki, csr, name, role, days=days))
    (folder / "ca.crt").write_bytes((service.hub.pki / "ca.crt").read_bytes())
    addresses = {which: service.hub.public_address(which) for which in ("api", "fleet")}
    hub = {"name": name, "role": role, "flower_id": "1", **addresses}
    (folder / "hub.json").write_text(json.dumps(hub))
    return credentials.load(folder)


# -- certificates
def another_key(service: Service, csr: str, name: str, role: str) -> str:
    other = credentials.request(ec.generate_private_key(ec.SECP256R1()))
    return pki.certify(service.hub.pki, other, name, role)


def another_name(service: Service, csr: str, name: str, role: str) -> str:
    return pki.certify(service.hub.pki, csr, "eve", role)


def another_role(service: Service, csr: str, name: str, role: str) -> str:
    return pki.certify(service.hub.pki, csr, name, "node")


def garbage(service: Service, csr: str, name: str, role: str) -> str:
    return "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def nothing(service: Service, csr: str, name: str, role: str) -> str:
    return ""


def too_much(service: Service, csr: str, name: str, role: str) -> str:
    return pki.certify(service.hub.pki, csr, name, role) + "#" * limits.MAX_PEM


def of_itself(service: Service, csr: str, name: str, role: str) -> str:
    return (service.hub.pki / "ca.crt").read_text()


LIES = (another_key, another_name, another_role, garbage, nothing, too_much, of_itself)
Lie = Callable[[Service, str, str, str], str]


@pytest.mark.parametrize("lie", LIES)
def test_a_certificate_that_is_not_ones_own_replaces_none(
    lie: Lie, service: Service, tmp_path: Path
) -> None:
    name = f"ana-{lie.__name__.replace('_', '-')}"
    mine = party(service, tmp_path / "keys", name, "coordinator", days=10)
    before = mine.certificate

    def renew(request: hub_pb2.RenewRequest, timeout: float) -> hub_pb2.RenewReply:
        return hub_pb2.RenewReply(certificate=lie(service, request.csr, name, "coordinator"))

    with pytest.raises(errors.SetupError, match="sent a"):
        credentials.renew_if_due(mine, SimpleNamespace(Renew=renew))
    assert credentials.load(mine.folder).certificate == before


@pytest.mark.parametrize("lie", LIES)
def test_an_enrolment_with_a_certificate_of_another_leaves_nothing_behind(
    lie: Lie, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"bob-{lie.__name__.replace('_', '-')}"
    invited = enrolment.invite(service.hub, service.scheduler.engine, name, "coordinator", 1.0)
    honest = enrolment.enrol

    def enrol(hub: Any, engine: Any, control: Any, request: Any) -> hub_pb2.EnrolReply:
        reply = honest(hub, engine, control, request)
        reply.certificate = lie(service, request.csr, name, "coordinator")
        return reply

    monkeypatch.setattr(enrolment, "enrol", enrol)
    with pytest.raises(errors.SetupError, match="sent a"):
        credentials.enrol(tmp_path / "keys", service.hub.file.enrol, invited.to_text(), None, "1")
    assert not (tmp_path / "keys").exists()


# -- rosters
@pytest.mark.parametrize(
    ("name", "identity"), [("nice", "aa"), ("nice", ""), ("a b", "aa" * 32), ("../x", "aa" * 32)]
)
def test_a_roster_of_the_hub_that_no_node_could_read_changes_nothing(
    name: str, identity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_services.running(tmp_path / "hub") as service:
        file = setup.init(tmp_path / "node", "lyon")
        party(service, tmp_path / "node" / "state" / state_folder.HUB, "lyon", "node")
        stranger = SimpleNamespace(name=name, identity=identity, revoked=None)
        monkeypatch.setattr(api.database, "enrolled", lambda *_: [stranger])
        result = CliRunner().invoke(app, ["node", "roster", "--from-hub", "--site", str(file)])
    assert isinstance(result.exception, errors.SetupError), (result.output, result.exception)
    assert not (tmp_path / "node" / "roster.yaml").exists()
    sites.load(file)


# -- answers that never end
def dripping(hub: settings.HubSettings, answer: bytes) -> tuple[socket.socket, threading.Event]:
    """A port with the hub's certificate that answers each request with these bytes, one each
    second, and what is set at the first of them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(hub.pki / "hub.crt", hub.pki / "hub.key")
    door, begun = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip(near: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(near, server_side=True) as connection:
            connection.recv(65536)
            for i in range(len(answer)):
                connection.sendall(answer[i : i + 1])
                begun.set()
                time.sleep(1)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(door.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return door, begun


HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000, HEAD * 2000],
    ids=["its headers", "what is no answer"],
)
def test_a_hub_that_drips_its_answer_does_not_hold_up_a_node_that_is_asked_to_end(
    answer: bytes, service: Service, tmp_path: Path
) -> None:
    door, begun = dripping(service.hub, answer)
    file = setup.init(tmp_path / "node", "lyon")
    state = state_folder.create(tmp_path / "node" / "state")
    mine = party(service, tmp_path / "made", f"lyon-{len(answer)}", "node")
    mine.folder.rename(state / state_folder.HUB)
    hub = {"name": "lyon", "role": "node", "flower_id": "1", "api": "localhost:1"}
    address = f"localhost:{door.getsockname()[1]}"
    (state / state_folder.HUB / "hub.json").write_text(json.dumps({**hub, "fleet": address}))
    # The wait is shortened, as nothing else is.
    start = (
        "from pathlib import Path; from nodes import daemon; daemon.STOP_S = 2.0;"
        f" daemon.run(Path({str(file)!r}))"
    )
    with door, subprocess.Popen([sys.executable, "-c", start], stderr=subprocess.PIPE) as process:
        try:
            assert begun.wait(60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
        finally:
            process.kill()
    assert not daemon.status(state)["running"]
    assert '"stopped"' in (state / state_folder.AUDIT).read_text()
