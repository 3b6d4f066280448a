"""Who may take part: invitations that count once, certificates, and the way out."""

from __future__ import annotations

import hashlib
import os
import re
import time

import sqlalchemy as sa

from aggregator import database, pki
from aggregator.flower import control as flower_control
from aggregator.flower.control import Control
from aggregator.settings import HubSettings
from federation import audit, credentials, errors
from federation.credentials import Invitation
from federation.rpc import hub_pb2
from federation.secagg import keys

MAX_HOURS = 30 * 24


def invite(hub: HubSettings, engine: sa.Engine, name: str, role: str, hours: float) -> Invitation:
    """For a new party, or for a new key of an old one. The secret is shown once; its hash is kept."""
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
        raise errors.InputError(
            f"{name!r} is not a name: lower-case letters, digits and dashes, and a letter first"
        )
    if not 0 < hours <= MAX_HOURS:
        raise errors.InputError(
            f"--hours {hours:g}: an invitation counts for {MAX_HOURS} hours at most"
        )
    before = database.party(engine, name)
    if before is not None and before.role != role and before.revoked is None:
        raise errors.InputError(
            f"{name!r} is enrolled as {before.role}; choose another name, or revoke it first"
        )
    secret, now = os.urandom(32), time.time()
    database.invite(engine, hashlib.sha256(secret).hexdigest(), name, role, now, now + hours * 3600)
    audit.write(hub.audit, "invited", name=name, role=role, hours=hours)
    return Invitation(secret, pki.fingerprint(hub.pki))


def enrol(
    hub: HubSettings, engine: sa.Engine, control: Control, asked: hub_pb2.EnrolRequest
) -> hub_pb2.EnrolReply:
    """RefusalError if the invitation does not count; it is used up only when all else has worked."""
    secret_hash, now = hashlib.sha256(asked.secret).hexdigest(), time.time()
    invited = database.invitation(engine, secret_hash, now)
    if invited is None:
        audit.write(hub.audit, "enrolment refused", why="no such invitation")
        raise errors.RefusalError(
            "this invitation does not count: it was used, has expired, or was replaced; ask the hub's operator for a new one"
        )
    name, role = invited
    request = pki.read_request(asked.csr)
    if role == "node" and not keys.is_signed(asked.identity, asked.signature, asked.csr.encode()):
        raise errors.InputError("a node enrols with its identity: use `hdh node enrol`")
    if role != "node" and asked.identity:
        raise errors.InputError(f"this invitation is for a {role}: use `hdh study enrol`")
    certificate = pki.certify(hub.pki, asked.csr, name, role)
    flower_id = flower_control.register(control, request, name) if role == "node" else 0
    if not database.use_invitation(engine, secret_hash, now):
        if flower_id:
            flower_control.unregister(control, flower_id)
        raise errors.RefusalError(
            "this invitation was used meanwhile; ask the hub's operator for a new one"
        )
    database.enrol(
        engine,
        name,
        role,
        credentials.key_id(request),
        asked.identity.hex(),
        flower_id,
        asked.version,
        now,
    )
    audit.write(
        hub.audit,
        "enrolled",
        name=name,
        role=role,
        key=credentials.key_id(request),
        identity=asked.identity.hex(),
        version=asked.version,
    )
    return hub_pb2.EnrolReply(
        name=name, role=role, certificate=certificate, authority=(hub.pki / "ca.crt").read_text(), api=hub.told("api"), fleet=hub.told("fleet"),
        flower_id=flower_id,
    )  # fmt: skip


def revoke(hub: HubSettings, engine: sa.Engine, name: str) -> None:
    """At once for the hub's own service; a running hub takes a node off the SuperLink within seconds."""
    database.revoke(engine, name, time.time())
    audit.write(hub.audit, "revoked", name=name)


def take_off(engine: sa.Engine, control: Control) -> None:
    """Off the SuperLink: the keys of nodes that were revoked, or have a new one."""
    for party in database.enrolled(engine, "node"):
        if party.former_flower_ids:
            for flower_id in party.former_flower_ids:
                flower_control.unregister(control, flower_id)
            database.forget_former(engine, party.name)
