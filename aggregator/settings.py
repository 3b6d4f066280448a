"""A hub's folder: hub.yaml, its keys, its database, its jobs."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import yaml

from aggregator import database as databases
from aggregator import pki
from federation import audit, credentials, errors, yaml_source
from federation.contract import Frozen

FILE = "hub.yaml"
_ADDRESS = r"^.+:\d{1,5}$"


class HubFile(Frozen):
    """`hosts`: the names and addresses under which nodes and coordinators reach this machine; the first is the one told to them.

    `fleet`: where nodes exchange the rounds (Flower). `api`: where nodes and coordinators talk to the hub (gRPC, mutual TLS).
    `enrol`: where invitations are used (gRPC; TLS without client certificate). `admin`: Flower's own control port; `metrics`:
    Prometheus; both are for this machine only."""

    hosts: tuple[str, ...] = pydantic.Field(min_length=1)
    fleet: str = pydantic.Field("0.0.0.0:8443", pattern=_ADDRESS)
    api: str = pydantic.Field("0.0.0.0:8444", pattern=_ADDRESS)
    enrol: str = pydantic.Field("0.0.0.0:8445", pattern=_ADDRESS)
    admin: str = pydantic.Field(
        "127.0.0.1:8446", pattern=r"^(127\.\d+\.\d+\.\d+|localhost|\[::1\]):\d{1,5}$"
    )
    metrics: str = pydantic.Field("127.0.0.1:8447", pattern=_ADDRESS)
    database: str = "sqlite:///registry.db"
    round_timeout_s: float = pydantic.Field(600.0, gt=0)
    deadline_h: float = pydantic.Field(24.0, gt=0)
    log_megabytes: int = pydantic.Field(20, ge=1)


@dataclass(frozen=True)
class HubSettings:
    """The folder, and what its hub.yaml says."""

    folder: Path
    file: HubFile

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def jobs(self) -> Path:
        return self.folder / "jobs"

    @property
    def audit(self) -> Path:
        return self.folder / "audit.jsonl"

    @property
    def database(self) -> str:
        """A relative SQLite path is relative to the folder."""
        url = self.file.database
        local = "sqlite:///"
        return (
            f"{local}{self.folder / url.removeprefix(local)}"
            if url.startswith(local) and not url.startswith(local + "/")
            else url
        )

    @property
    def token(self) -> str:
        """The bearer token of Flower's control port."""
        return (self.folder / "control.token").read_text().strip()

    def told(self, which: str) -> str:
        """The address of a port as others are told it."""
        host = self.file.hosts[0]
        return f"{f'[{host}]' if ':' in host else host}:{credentials.address(getattr(self.file, which))[1]}"


def init(
    folder: Path, hosts: list[str], port: int, database: str | None, listen: str, **more: Any
) -> HubSettings:
    """Makes the folder of a new hub: authority, secrets, database, hub.yaml. Five ports, from `port` on; `more`: other keys."""
    if (folder / FILE).exists():
        raise errors.SetupError(
            f"{folder}: there is a hub already; choose another folder, or start it with `hdh hub run {folder}`"
        )
    if not 0 < port <= 65531:
        raise errors.InputError(
            f"--port {port}: choose one between 1024 and 65531; five are used from it on"
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chmod(folder, 0o700)
    ports = dict(
        zip(("fleet", "api", "enrol", "admin", "metrics"), range(port, port + 5), strict=True)
    )
    values: dict[str, Any] = {
        "hosts": hosts,
        **{
            name: f"{listen if name in ('fleet', 'api', 'enrol') else '127.0.0.1'}:{at}"
            for name, at in ports.items()
        },
    }
    values |= {"database": database or "sqlite:///registry.db", **more}
    hub = HubSettings(folder, HubFile.model_validate(values))
    databases.open_registry(hub.database).dispose()
    pki.make_authority(hub.pki, hosts)
    pki.make_secret(folder / "superexec.secret")
    credentials.write_secret(folder / "control.token", secrets.token_urlsafe(32).encode())
    hub.jobs.mkdir(mode=0o700, exist_ok=True)
    audit.write(hub.audit, "hub made", hosts=hosts, authority=pki.fingerprint(hub.pki).hex())
    text = f"# The hub's configuration; `hdh hub run {folder.name}` reads it at its start. All keys: `hdh study schema hub`\n"
    (folder / FILE).write_text(text + yaml.safe_dump(values, sort_keys=False))
    return hub


def load(folder: Path) -> HubSettings:
    if not (folder / FILE).exists():
        raise errors.SetupError(f"{folder}: no hub here; make one with `hdh hub init {folder}`")
    source = yaml_source.read(folder / FILE, errors.InputError, nfc=False)
    return HubSettings(
        folder.resolve(),
        yaml_source.build(HubFile, source.values, source, under=(), error=errors.InputError),
    )
