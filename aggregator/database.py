"""The hub's database: enrolled parties, submitted studies, the nodes' decisions, and every result.

It is SQLite, or PostgreSQL if the URL says so. This module holds the schema; `migrations/` brings
an older database to it.
"""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aggregator.document import Document
from federation import errors
from federation.contract import Contract

VERSION = "0003"  # the newest of migrations/versions
STATES = ("waiting", "running", "complete", "partial", "failed", "refused", "cancelled")
OVER = STATES[2:]
HASH_START = "[0-9a-f]{6,64}"  # fewer digits might name a study by chance

metadata = sa.MetaData()
runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study", sa.String(64), nullable=False),
    sa.Column("study_hash", sa.String(64), nullable=False, index=True),
    sa.Column("engine", sa.String(16), nullable=False),
    sa.Column("started", sa.String(40), nullable=False),
    sa.Column("finished", sa.String(40), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("result", sa.Text, nullable=False),
)
event_rows = sa.Table(
    "happenings",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.ForeignKey("runs.id"), nullable=False, index=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("node", sa.String(64), nullable=False),
    sa.Column("what", sa.Text, nullable=False),
)
invitations = sa.Table(
    "invitations",
    metadata,
    sa.Column("secret_hash", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("made", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("used", sa.Float),
)
parties = sa.Table(
    "parties",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("key_id", sa.String(64), nullable=False, unique=True),
    sa.Column("identity", sa.String(64), nullable=False),
    sa.Column("flower_id", sa.String(24), nullable=False),
    sa.Column("former_flower_ids", sa.Text, nullable=False),  # JSON; to unregister at the SuperLink
    sa.Column("enrolled", sa.Float, nullable=False),
    sa.Column("revoked", sa.Float),
    sa.Column("seen", sa.Float),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("holdings", sa.Text, nullable=False),  # dataset -> its versions: JSON
)
studies = sa.Table(
    "studies",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("study", sa.String(64), nullable=False),
    sa.Column("study_hash", sa.String(64), nullable=False, index=True),
    sa.Column("coordinator", sa.String(64), nullable=False, index=True),
    sa.Column("written", sa.Text, nullable=False),
    sa.Column("contract", sa.Text, nullable=False),
    sa.Column("certificate", sa.Text, nullable=False),
    sa.Column("signature", sa.String(256), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("submitted", sa.Float, nullable=False),
    sa.Column("deadline", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("finished", sa.Float),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("flower_run", sa.String(24), nullable=False),
    sa.Column("run", sa.ForeignKey("runs.id")),
    sa.Column("link", sa.Text, nullable=False, server_default=""),  # Holders: JSON
)
decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("number", sa.ForeignKey("studies.number"), primary_key=True),
    sa.Column("node", sa.String(64), primary_key=True),
    sa.Column("verdict", sa.String(16), nullable=False),  # asked, waiting, approved, refused
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("by", sa.String(120), nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("signature", sa.String(128), nullable=False),
)
version = sa.Table(
    "alembic_version", metadata, sa.Column("version_num", sa.String(32), primary_key=True)
)


@dataclass(frozen=True)
class Party:
    """Who is enrolled. Every call looks its caller up, so this holds nothing that is large."""

    name: str
    role: str
    key_id: str
    identity: str
    flower_id: int
    former_flower_ids: Sequence[int]
    enrolled: float
    revoked: float | None
    seen: float | None
    version: str


@dataclass(frozen=True)
class DatasetHolder(Party):
    """A party with the datasets that it holds. `holdings`: by dataset, its versions."""

    holdings: Mapping[str, Sequence[Mapping[str, Any]]]

    def holds(self, contract: Contract) -> bool:
        versions = self.holdings.get(contract.dataset, ())
        return any(held.get("contract") == contract.hash for held in versions)

    def people(self, dataset: str) -> int:
        """About how many people a dataset has, as its node declares it; 0 if it does not."""
        return max((held.get("people") or 0 for held in self.holdings.get(dataset, ())), default=0)


@dataclass(frozen=True)
class Holders:
    """Of a study of several datasets. `contracts`: by dataset, canonical JSON. `roles`: left, right
    or helper, by node, where there is a link. `held`: without a link, each node's dataset."""

    contracts: Mapping[str, str]
    roles: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def from_text(text: str) -> Holders:
        return Holders(**json.loads(text))

    def to_text(self) -> str:
        return json.dumps(
            {"contracts": dict(self.contracts), "roles": dict(self.roles), "held": dict(self.held)}
        )

    @property
    def asked(self) -> list[str]:
        """The nodes that take part."""
        return sorted(self.roles or self.held)

    def named(self, role: str) -> list[str]:
        return sorted(node for node, node_role in self.roles.items() if node_role == role)


@dataclass(frozen=True)
class Submitted:
    """A study at the hub, without its texts; times in seconds since 1970."""

    number: int
    study: str
    study_hash: str
    coordinator: str
    state: str
    reason: str
    submitted: float
    deadline: float
    started: float | None
    finished: float | None
    attempts: int
    flower_run: str
    run: int | None

    @property
    def over(self) -> bool:
        return self.state in OVER


@dataclass(frozen=True)
class SignedStudy(Submitted):
    """A study with all that its coordinator has signed, which may be megabytes."""

    written: str
    contract: str
    certificate: str
    signature: str
    link: str = ""

    @property
    def holders(self) -> Holders | None:
        """None unless the study has several datasets."""
        return Holders.from_text(self.link) if self.link else None


@dataclass(frozen=True)
class Decided:
    number: int
    node: str
    verdict: str
    reason: str
    by: str
    at: str
    signature: str


def open_registry(url: str, *, new: bool = False) -> sa.Engine:
    """The database at `url`, migrated to this version's schema. SetupError if it cannot be reached,
    its schema is newer, or it is empty, unless it is to be `new`: a hub with an empty registry
    would tell its nodes that they are revoked."""
    local = url.startswith("sqlite")
    url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = None
    try:
        engine = sa.create_engine(
            url, connect_args={"timeout": 30} if local else {}, pool_pre_ping=not local
        )
        if local:
            sa.event.listen(engine, "connect", _durable)
            # SQLite moves what was committed into the file when its last connection closes.
            weakref.finalize(engine, engine.pool.dispose)
        with engine.begin() as connection:
            schema_version = _schema_version(connection, new)
        if schema_version != VERSION:
            _migrate(engine, schema_version)
        return engine
    except (sa.exc.SQLAlchemyError, ImportError, errors.SetupError) as reason:
        if engine is not None:
            engine.dispose()
        if isinstance(reason, errors.SetupError):
            raise
        why = str(getattr(reason, "orig", None) or reason).strip().splitlines()[0]
        raise errors.SetupError(
            f"the database {sa.engine.make_url(url).render_as_string()} cannot be used ({why});"
            " check `database` in hub.yaml"
        ) from None


def _schema_version(connection: sa.Connection, new: bool) -> str | None:
    """The schema's version; None if it is older than the first numbered one. An empty database that
    is to be `new` is given the newest schema."""
    tables = sa.inspect(connection).get_table_names()
    if "alembic_version" in tables:
        return connection.execute(sa.select(version.c.version_num)).scalar()
    if tables:
        return None
    if not new:
        raise errors.SetupError(
            f"the database {connection.engine.url.render_as_string()} holds no registry of a hub:"
            " put it back from a backup, or check `database` in hub.yaml"
        )
    metadata.create_all(connection)
    connection.execute(version.insert().values(version_num=VERSION))
    return VERSION


def _durable(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _migrate(engine: sa.Engine, schema_version: str | None) -> None:
    from alembic import command
    from alembic.config import Config

    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    if schema_version is not None and schema_version > VERSION:
        raise errors.SetupError(
            f"a newer hdh wrote the database (schema {schema_version}; this one reads {VERSION});"
            " install that version"
        )
    with engine.begin() as connection:
        settings.attributes["connection"] = connection
        if schema_version is None:
            command.stamp(settings, "0001")  # older than the first numbered schema
        command.upgrade(settings, "head")


# -- results
def write(engine: sa.Engine, document: Document) -> int:
    """Stores a result; returns the number of its run."""
    provenance = document.provenance
    text = json.dumps(document.model_dump(mode="json"), ensure_ascii=False)
    row = {
        "study": document.study,
        "study_hash": document.study_hash,
        "engine": provenance["engine"],
        "started": provenance["started"],
        "finished": provenance["finished"],
    }
    with engine.begin() as connection:
        inserted = connection.execute(
            runs.insert().values(**row, status=status_of(document), result=text)
        ).inserted_primary_key
        assert inserted is not None, "one row was inserted"
        run = int(inserted[0])
        events: list[dict[str, Any]] = [{"run": run, **event} for event in provenance["events"]]
        if events:
            connection.execute(event_rows.insert(), events)
    return run


def status_of(document: Document) -> str:
    statuses = {analysis.status for analysis in document.analyses.values()}
    if statuses == {"released"}:
        return "complete"
    return "partial" if "released" in statuses else "failed"


def result(engine: sa.Engine, run: int) -> str:
    with engine.connect() as connection:
        return str(
            connection.execute(sa.select(runs.c.result).where(runs.c.id == run)).scalar_one()
        )


# -- who is enrolled
def invite(
    engine: sa.Engine, secret_hash: str, name: str, role: str, invited: float, expires: float
) -> None:
    """Stores an invitation; it replaces an unused one of the same name."""
    with engine.begin() as connection:
        connection.execute(
            invitations.delete().where(invitations.c.name == name, invitations.c.used.is_(None))
        )
        connection.execute(
            invitations.insert().values(
                secret_hash=secret_hash, name=name, role=role, made=invited, expires=expires
            )
        )


def invitation(engine: sa.Engine, secret_hash: str, now: float) -> tuple[str, str] | None:
    """The name and role of an invitation; None if it is unknown, used or expired."""
    with engine.connect() as connection:
        row = connection.execute(
            sa.select(invitations.c.name, invitations.c.role).where(_is_valid(secret_hash, now))
        ).one_or_none()
    return None if row is None else (str(row.name), str(row.role))


def use_invitation(engine: sa.Engine, secret_hash: str, now: float) -> bool:
    """Marks an invitation as used. False if it was not valid any more."""
    with engine.begin() as connection:
        marked = connection.execute(
            invitations.update().where(_is_valid(secret_hash, now)).values(used=now)
        )
        return marked.rowcount == 1


def _is_valid(secret_hash: str, now: float) -> Any:
    return sa.and_(
        invitations.c.secret_hash == secret_hash,
        invitations.c.used.is_(None),
        invitations.c.expires > now,
    )


def open_invitations(engine: sa.Engine, now: float) -> list[tuple[str, str, float]]:
    """The name, role and expiry of each invitation that can still be used."""
    query = sa.select(invitations.c.name, invitations.c.role, invitations.c.expires).where(
        invitations.c.used.is_(None), invitations.c.expires > now
    )
    with engine.connect() as connection:
        return [
            (str(row.name), str(row.role), float(row.expires)) for row in connection.execute(query)
        ]


def party(engine: sa.Engine, name: str) -> Party | None:
    return next(iter(_parties(engine, parties.c.name == name)), None)


def party_by_key(engine: sa.Engine, key_id: str) -> Party | None:
    return next(iter(_parties(engine, parties.c.key_id == key_id)), None)


def enrolled(engine: sa.Engine, *roles: str) -> list[Party]:
    """The parties of these roles, including revoked ones, sorted by name."""
    return _parties(engine, parties.c.role.in_(roles))


def dataset_holders(engine: sa.Engine, *roles: str) -> list[DatasetHolder]:
    """The parties of these roles with the datasets that they hold, sorted by name."""
    rows = _rows(engine, sa.select(parties).where(parties.c.role.in_(roles)))
    return [
        DatasetHolder(**_party_values(row), holdings=_holdings(row["holdings"])) for row in rows
    ]


def _parties(engine: sa.Engine, where: Any) -> list[Party]:
    small = [column for column in parties.c if column is not parties.c.holdings]
    return [Party(**_party_values(row)) for row in _rows(engine, sa.select(*small).where(where))]


def _rows(engine: sa.Engine, query: sa.Select[Any]) -> Sequence[Mapping[Any, Any]]:
    with engine.connect() as connection:
        return connection.execute(query.order_by(parties.c.name)).mappings().all()


def _party_values(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        **{name: value for name, value in row.items() if name != "holdings"},
        "flower_id": int(row["flower_id"]),
        "former_flower_ids": json.loads(row["former_flower_ids"]),
    }


def _holdings(text: str) -> dict[str, list[dict[str, Any]]]:
    """An earlier release stored one version of each dataset, without a list."""
    stored = json.loads(text)
    return {name: held if isinstance(held, list) else [held] for name, held in stored.items()}


def enrol(
    engine: sa.Engine,
    name: str,
    role: str,
    key_id: str,
    identity: str,
    flower_id: int,
    version: str,
    now: float,
) -> None:
    """Stores a new party, or a new key of an enrolled one. Its former Flower id is stored until it
    is unregistered at the SuperLink."""
    row = {
        "role": role,
        "key_id": key_id,
        "identity": identity,
        "flower_id": str(flower_id),
        "enrolled": now,
        "revoked": None,
        "version": version,
    }
    before = party(engine, name)
    with engine.begin() as connection:
        if before is None:
            connection.execute(
                parties.insert().values(name=name, former_flower_ids="[]", holdings="{}", **row)
            )
        else:
            connection.execute(
                parties.update()
                .where(parties.c.name == name)
                .values(former_flower_ids=_former_ids(before), **row)
            )


def _former_ids(before: Party) -> str:
    """The Flower ids of a party that gives up its present one, in JSON."""
    ids = [*before.former_flower_ids]
    return json.dumps([*ids, before.flower_id] if before.flower_id else ids)


def revoke(engine: sa.Engine, name: str, now: float) -> None:
    before = party(engine, name)
    if before is None:
        raise errors.InputError(f"nobody called {name!r} is enrolled; see `hdh hub nodes`")
    values = {"revoked": before.revoked or now, "former_flower_ids": _former_ids(before)}
    with engine.begin() as connection:
        connection.execute(
            parties.update().where(parties.c.name == name).values(flower_id="0", **values)
        )
        connection.execute(
            invitations.delete().where(invitations.c.name == name, invitations.c.used.is_(None))
        )


def set_flower_id(engine: sa.Engine, name: str, flower_id: int) -> None:
    """After a node was registered anew at a SuperLink that had lost its own database."""
    with engine.begin() as connection:
        connection.execute(
            parties.update().where(parties.c.name == name).values(flower_id=str(flower_id))
        )


def forget_former(engine: sa.Engine, name: str) -> None:
    with engine.begin() as connection:
        connection.execute(
            parties.update().where(parties.c.name == name).values(former_flower_ids="[]")
        )


def seen(
    engine: sa.Engine,
    name: str,
    now: float,
    version: str | None = None,
    holdings: Mapping[str, Any] | None = None,
) -> None:
    values: dict[str, Any] = {"seen": now}
    if version is not None:
        values["version"] = version
    if holdings is not None:
        values["holdings"] = json.dumps(holdings)
    with engine.begin() as connection:
        connection.execute(parties.update().where(parties.c.name == name).values(**values))


# -- studies
def submit(engine: sa.Engine, values: Mapping[str, Any], asked: Sequence[str]) -> Submitted:
    """Stores a study under the number that its coordinator has signed. RefusalError if another has
    this number."""
    number = int(values["number"])
    rows = [
        {
            "number": number,
            "node": node,
            "verdict": "asked",
            "reason": "",
            "by": "",
            "at": "",
            "signature": "",
        }
        for node in asked
    ]
    study = {**values, "state": "waiting", "reason": "", "attempts": 0, "flower_run": ""}
    try:
        with engine.begin() as connection:
            connection.execute(studies.insert().values(study))
            connection.execute(decisions.insert(), rows)
    except sa.exc.IntegrityError:
        raise errors.RefusalError(
            f"the hub has a study of number {number} already: submit yours again"
        ) from None
    return submitted(engine, number)


def newest_number(engine: sa.Engine) -> int:
    """0 if there is no study yet."""
    with engine.connect() as connection:
        return int(connection.execute(sa.select(sa.func.max(studies.c.number))).scalar() or 0)


def submitted(engine: sa.Engine, number: int) -> Submitted:
    return _studies(engine, studies.c.number == number)[0]


def signed(engine: sa.Engine, number: int) -> SignedStudy:
    """A study with its texts."""
    query = sa.select(studies).where(studies.c.number == number)
    with engine.connect() as connection:
        return SignedStudy(**connection.execute(query).mappings().one())


def by_number(engine: sa.Engine, number: int) -> Submitted | None:
    rows = _studies(engine, studies.c.number == number)
    return rows[0] if rows else None


def find(engine: sa.Engine, named: str, coordinator: str | None) -> Submitted | None:
    """A study by its number, by its hash or the start of the hash, or by its name (the newest of
    that name). `coordinator`: consider only the studies of this coordinator."""
    if named.isdecimal() and len(named) < 10:
        matches: Any = studies.c.number == int(named)
    else:
        matches = studies.c.study == named
        if re.fullmatch(HASH_START, named):
            starts = studies.c.study_hash.startswith(named, autoescape=True)
            matches = sa.or_(matches, starts)
    rows = _studies(engine, sa.and_(matches, _of_coordinator(coordinator)), 1)
    return rows[0] if rows else None


def newest(engine: sa.Engine, coordinator: str | None, max_studies: int) -> list[Submitted]:
    return _studies(engine, _of_coordinator(coordinator), max_studies)


def _of_coordinator(coordinator: str | None) -> Any:
    return sa.true() if coordinator is None else studies.c.coordinator == coordinator


def in_states(engine: sa.Engine, *states: str) -> list[Submitted]:
    return _studies(engine, studies.c.state.in_(states))[::-1]


def _studies(engine: sa.Engine, where: Any, max_studies: int | None = None) -> list[Submitted]:
    texts = SignedStudy.__dataclass_fields__.keys() - Submitted.__dataclass_fields__.keys()
    light = [column for column in studies.c if column.name not in texts]
    newest_first = sa.select(*light).where(where).order_by(studies.c.number.desc())
    with engine.connect() as connection:
        rows = connection.execute(newest_first.limit(max_studies)).mappings()
        return [Submitted(**row) for row in rows]


def update(engine: sa.Engine, number: int, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(studies.update().where(studies.c.number == number).values(**values))


def move(
    engine: sa.Engine, number: int, state: str, *, out_of: Sequence[str], **values: Any
) -> bool:
    """Moves a study from one of the states `out_of` to `state`. False if it was in none of them."""
    with engine.begin() as connection:
        moved = connection.execute(
            studies.update()
            .where(studies.c.number == number, studies.c.state.in_(out_of))
            .values(state=state, **values)
        )
        return bool(moved.rowcount)


def decide(engine: sa.Engine, decided: Decided) -> bool:
    """Stores a node's decision. False if the node was not asked, or had already decided so."""
    with engine.begin() as connection:
        mine = sa.and_(decisions.c.number == decided.number, decisions.c.node == decided.node)
        before = connection.execute(sa.select(decisions.c.verdict).where(mine)).scalar()
        if before is None or before == decided.verdict:
            return False
        values = {
            "verdict": decided.verdict,
            "reason": decided.reason,
            "by": decided.by,
            "at": decided.at,
            "signature": decided.signature,
        }
        connection.execute(decisions.update().where(mine).values(**values))
    return True


def decided(engine: sa.Engine, number: int) -> list[Decided]:
    with engine.connect() as connection:
        return [
            Decided(**row)
            for row in connection.execute(
                sa.select(decisions).where(decisions.c.number == number).order_by(decisions.c.node)
            ).mappings()
        ]
