"""The folder of a hub: hub.yaml, keys, database and jobs."""

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
from federation import addresses, audit, errors, lock, logs, replacements, yaml_source
from federation.contract import Frozen
from federation.notices import Notify

FILE, LOCK = "hub.yaml", "hub.lock"
TOKEN, SECRET = "control.token", "superexec.secret"
_ADDRESS = r"^.+:\d{1,5}$"


class HubFile(Frozen):
    """`hosts`: the names and addresses under which nodes and coordinators reach this machine; they
    are sent the first one.

    Ports. `fleet`: the nodes' rounds (Flower). `api`: the hub's service for nodes and coordinators
    (gRPC, mutual TLS). `enrol`: enrolment by invitation (gRPC, TLS without a client certificate).
    `admin`: Flower's control port, and `metrics`: Prometheus; both serve this machine only.

    `max_running`: studies that run at one time; 0: one for each processor, and two at least.
    Coordinators take turns. `max_open_studies`: of one coordinator, that have not ended.

    `max_connections`, `max_connections_per_address`: that a port keeps open at one time, in all and
    of one address. Nodes behind one address have two or three each.

    `parcel_gigabytes`, `parcel_gigabytes_per_node`: sealed messages of a link that may lie here at
    one time, of a study, and of a node in a study. `transcript_days`: how long the transcript of a
    released result is kept.

    `syslog`: a socket or HOST:PORT, and `otlp`: the URL of a collector, that get the log too.
    `notify`: who is told by webhook or email what happens to studies."""

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
    max_running: int = pydantic.Field(0, ge=0)
    max_open_studies: int = pydantic.Field(100, ge=1)
    max_connections: int = pydantic.Field(2000, ge=16)
    max_connections_per_address: int = pydantic.Field(256, ge=8)
    log_megabytes: int = pydantic.Field(20, ge=1)
    parcel_gigabytes: float = pydantic.Field(2.0, gt=0)
    parcel_gigabytes_per_node: float = pydantic.Field(1.0, gt=0)
    transcript_days: float = pydantic.Field(365.0, ge=0)
    syslog: str = pydantic.Field("", pattern=rf"{logs.SYSLOG}|^$")
    otlp: str = pydantic.Field("", pattern=rf"{logs.OTLP}|^$")
    notify: Notify | None = None

    @pydantic.field_validator("hosts")
    @classmethod
    def _named(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(addresses.host(host) for host in hosts)
        except errors.InputError as error:
            raise ValueError(str(error)) from None


@dataclass(frozen=True)
class HubSettings:
    """The folder, and the contents of its hub.yaml."""

    folder: Path
    file: HubFile

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def jobs(self) -> Path:
        return self.folder / "jobs"

    @property
    def parcels(self) -> Path:
        return self.folder / "parcels"

    @property
    def transcripts(self) -> Path:
        return self.folder / "transcripts"

    @property
    def audit(self) -> Path:
        return self.folder / "audit.jsonl"

    @property
    def notify(self) -> Notify | None:
        return self.file.notify.under(self.folder) if self.file.notify else None

    @property
    def database(self) -> str:
        """The database's URL; a relative SQLite path is relative to the folder."""
        url = self.file.database
        local = "sqlite:///"
        if url.startswith(local) and not url.startswith(local + "/"):
            return f"{local}{self.folder / url.removeprefix(local)}"
        return url

    @property
    def token(self) -> str:
        """The bearer token of Flower's control port."""
        return (self.folder / TOKEN).read_text().strip()

    def check_keys(self) -> float:
        """Days until the server's certificate expires. SetupError if a key, a certificate or a
        secret is missing, or cannot be used."""
        for name in (TOKEN, SECRET):
            path = self.folder / name
            try:
                is_sound = bool(path.read_bytes().strip())
                if name == TOKEN:
                    path.read_text(encoding="ascii")
            except (OSError, ValueError):
                is_sound = False
            if not is_sound:
                raise errors.SetupError(
                    f"{path}: is missing or empty; put it back from a backup, or write 48 random"
                    " characters into it: only the hub's own processes use it"
                )
        return pki.check(self.pki)

    def public_address(self, which: str) -> str:
        """The public address of the port `which`."""
        _, port = addresses.split(getattr(self.file, which))
        return addresses.joined(self.file.hosts[0], port)


def init(
    folder: Path,
    hosts: list[str],
    port: int,
    database: str | None,
    listen: str,
    *,
    token: str = "",
    **more: Any,
) -> HubSettings:
    """Creates the folder of a new hub: authority, secrets, database, hub.yaml. It uses five ports
    from `port` on. `token`: URI of the authority's key; `more`: other keys of hub.yaml."""
    if (folder / FILE).exists():
        raise errors.SetupError(
            f"{folder}: a hub is already there; choose another folder,"
            f" or start it with `hdh hub run {folder}`"
        )
    if not 0 < port <= 65531:
        raise errors.InputError(
            f"--port {port}: choose a port between 1024 and 65531; the hub uses five from there on"
        )
    hosts = [addresses.host(host) for host in hosts]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chmod(folder, 0o700)
    ports = enumerate(("fleet", "api", "enrol"), start=port)
    public = {name: addresses.joined(listen, number) for number, name in ports}
    local = {name: f"127.0.0.1:{port + i}" for i, name in enumerate(("admin", "metrics"), start=3)}
    values: dict[str, Any] = {"hosts": hosts, **public, **local}
    values |= {"database": database or "sqlite:///registry.db", **more}
    hub = HubSettings(folder, HubFile.model_validate(values))
    databases.open_registry(hub.database, new=True).dispose()
    pki.make_authority(hub.pki, hosts, token=token)
    pki.make_secret(folder / SECRET)
    replacements.write_secret(folder / TOKEN, secrets.token_urlsafe(32).encode())
    hub.jobs.mkdir(mode=0o700, exist_ok=True)
    audit.write(hub.audit, "hub made", hosts=hosts, authority=pki.fingerprint(hub.pki).hex())
    header = (
        f"# The hub's configuration; `hdh hub run {folder.name}` reads it at its start."
        " All keys: `hdh study schema hub`\n"
    )
    (folder / FILE).write_text(header + yaml.safe_dump(values, sort_keys=False))
    return hub


def load(folder: Path) -> HubSettings:
    if not (folder / FILE).exists():
        raise errors.SetupError(f"{folder}: no hub here; create one with `hdh hub init {folder}`")
    source = yaml_source.read(folder / FILE, errors.InputError, nfc=False)
    hub = HubSettings(
        folder.resolve(),
        yaml_source.build(HubFile, source.values, source, under=(), error=errors.InputError),
    )
    replacements.finish(hub.pki)  # of keys and certificates, if one was interrupted
    return hub


def is_running(folder: Path) -> bool:
    """Whether a hub runs in the folder."""
    return lock.is_held(folder / LOCK)
