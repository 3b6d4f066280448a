"""Enrolment: invitations that can be used once, certificates, and revocation."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from cryptography import x509

from aggregator import database, pki
from aggregator.settings import HubSettings
from federation import audit, credentials, errors
from federation.credentials import Invitation
from federation.rpc import hub_pb2
from federation.secagg import keys

if TYPE_CHECKING:  # a command that invites or revokes need not wait for Flower, which takes 0.4 s
    from aggregator.flower.control import Control

log = logging.getLogger("hdh.hub")

MAX_HOURS = 30 * 24


def invite(hub: HubSettings, engine: sa.Engine, name: str, role: str, hours: float) -> Invitation:
    """An invitation for a new party, or for a new key of an enrolled one. The secret is shown once;
    the hub stores its hash."""
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
        raise errors.InputError(
            f"{name!r} is not a valid name; use lower-case letters, digits, dashes and"
            " underscores, and start with a letter"
        )
    if not 0 < hours <= MAX_HOURS:
        raise errors.InputError(
            f"--hours {hours:g}: an invitation is valid for more than 0 and at most {MAX_HOURS}"
            " hours; choose another number"
        )
    before = database.party(engine, name)
    if before is not None and before.role != role and before.revoked is None:
        raise errors.InputError(
            f"{name!r} is already enrolled as {before.role}; choose another name, or revoke it"
            " first"
        )
    secret, now = os.urandom(32), time.time()
    database.invite(engine, hashlib.sha256(secret).hexdigest(), name, role, now, now + hours * 3600)
    audit.write(hub.audit, "invited", name=name, role=role, hours=hours)
    return Invitation(secret, pki.fingerprint(hub.pki))


def enrol(
    hub: HubSettings, engine: sa.Engine, control: Control, request: hub_pb2.EnrolRequest
) -> hub_pb2.EnrolReply:
    """Enrols the holder of an invitation. RefusalError if the invitation is not valid; it is marked
    as used only after every other step has worked."""
    from aggregator.flower import control as flower_control

    secret_hash, now = hashlib.sha256(request.secret).hexdigest(), time.time()
    name, role = _invitation(hub, engine, secret_hash, now)
    _check_identity(request, role)
    signing_request = pki.read_request(request.csr)
    key_id, identity = credentials.key_id(signing_request), request.identity.hex()
    certificate = pki.certify(hub.pki, request.csr, name, role)
    flower_id = flower_control.register(control, signing_request, name) if role == "node" else 0
    if not database.use_invitation(engine, secret_hash, now):
        if flower_id:
            flower_control.unregister(control, flower_id)
        raise errors.RefusalError(
            "this invitation was used meanwhile; ask the hub's operator for a new one"
        )
    database.enrol(engine, name, role, key_id, identity, flower_id, request.version, now)
    audit.write(
        hub.audit,
        "enrolled",
        name=name,
        role=role,
        key=key_id,
        identity=identity,
        version=request.version,
    )
    return hub_pb2.EnrolReply(
        name=name,
        role=role,
        certificate=certificate,
        authority=(hub.pki / "ca.crt").read_text(),
        api=hub.public_address("api"),
        fleet=hub.public_address("fleet"),
        flower_id=flower_id,
    )


def _invitation(
    hub: HubSettings, engine: sa.Engine, secret_hash: str, now: float
) -> tuple[str, str]:
    """The name and role that the invitation is for."""
    invitation = database.invitation(engine, secret_hash, now)
    if invitation is None:
        audit.write(hub.audit, "enrolment refused", why="no such invitation")
        raise errors.RefusalError(
            "this invitation is not valid: it was used, has expired, or was replaced;"
            " ask the hub's operator for a new one"
        )
    return invitation


def _check_identity(request: hub_pb2.EnrolRequest, role: str) -> None:
    """Nodes enrol with a signature by their identity, the others without."""
    if role != "node" and request.identity:
        raise errors.InputError(f"this invitation is for a {role}; use `hdh study enrol`")
    if role == "node" and not keys.is_signed(
        request.identity, request.signature, request.csr.encode()
    ):
        raise errors.InputError("a node enrols with its identity; use `hdh node enrol`")


def revoke(hub: HubSettings, engine: sa.Engine, name: str) -> None:
    """The hub's own service refuses the party at once; a running hub removes a node from the
    SuperLink within seconds."""
    database.revoke(engine, name, time.time())
    audit.write(hub.audit, "revoked", name=name)


@dataclass
class Registrations:
    """Flower's ids of the nodes that the SuperLink knows, as it last said."""

    engine: sa.Engine
    control: Control
    flower_ids: Set[int] = frozenset()

    def restore(self, party: database.Party, certificate: str) -> None:
        """Registers a node again at a SuperLink whose database was lost, and which would refuse the
        node for ever: its key is that of its certificate."""
        from aggregator.flower import control as flower_control

        if not party.flower_id or party.flower_id in self.flower_ids:
            return
        try:
            self.flower_ids = flower_control.registered(self.control)
            if party.flower_id in self.flower_ids:
                return
            holder = x509.load_pem_x509_certificate(certificate.encode())
            flower_id = flower_control.register(self.control, holder, party.name)
        except errors.SetupError as error:  # the SuperLink is starting; the node comes again
            log.warning("node %s is not registered again yet: %s", party.name, error)
            return
        database.set_flower_id(self.engine, party.name, flower_id)
        log.warning("node %s is registered again: the SuperLink had forgotten it", party.name)


def take_off(engine: sa.Engine, control: Control) -> None:
    """Unregisters, at the SuperLink, the keys of nodes that were revoked or have a new key."""
    from aggregator.flower import control as flower_control

    for party in database.enrolled(engine, "node"):
        if party.former_flower_ids:
            for flower_id in party.former_flower_ids:
                flower_control.unregister(control, flower_id)
            database.forget_former(engine, party.name)
