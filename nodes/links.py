"""A linked study at one node: its role as a holder or as the helper, its messages, and the rows
that a helper keeps until the study ends.

The messages go through a `Relay`, which sees sealed envelopes only: the hub's parcels, or a
dictionary in a simulation."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np

from federation.arrays import Floats
from federation.contract import Contract, Identifier
from federation.linkage import forms, keys, sealing, streams
from federation.linkage import table as tables
from federation.linkage.keys import LinkTerms, Meeting
from federation.linkage.pseudonyms import Words
from federation.linkage.routes import Role
from federation.linkage.sealing import Channel
from federation.linkage.table import LinkedColumn, LinkedTable
from federation.messages import Refusal
from federation.privacy import accounting
from federation.privacy.accounting import Gaussian
from federation.study import Link, Study
from nodes import (
    ledger,
    link_parties,
    link_rows,
    link_table,
    memory_file,
    service,
    state_folder,
)
from nodes.ledger import Account, Claim
from nodes.link_parties import Holder, Left
from nodes.link_rows import Request
from nodes.link_table import LinkReport
from nodes.memory_file import MemoryFile
from nodes.session import NodeContext
from nodes.site import Dataset, Site
from strategies import used_columns

FOLDER = "links"


class Relay(Protocol):
    """Carries messages. `put` may be given envelopes that are computed as they are taken."""

    def put(self, channel: Channel, envelopes: Iterable[bytes]) -> None: ...
    def take(self, channel: Channel) -> Iterator[bytes]: ...


@dataclass(frozen=True)
class LinkPlan:
    """What all parties derive from the study and the two contracts. `left`, `right`: the columns
    that each holder sends, in the order of the table."""

    study: Study
    link: Link
    table: LinkedTable
    contracts: Mapping[str, Contract]
    left: Sequence[LinkedColumn]
    right: Sequence[LinkedColumn]

    @property
    def rules(self) -> str:
        """The identifiers by which people are matched, and the columns that are sent: part of the
        terms that the parties sign."""
        stated = {
            "forms": forms.VERSION,
            "contracts": {name: contract.hash for name, contract in sorted(self.contracts.items())},
            "columns": [[column.name, column.sql] for column in (*self.left, *self.right)],
        }
        return json.dumps(stated, sort_keys=True)

    def dataset_of(self, role: Role) -> str:
        return {"left": self.link.left, "right": self.link.right, "helper": self.study.dataset}[
            role
        ]

    def identifiers(self, dataset: str) -> list[Identifier]:
        return [self.contracts[dataset].identifiers[name] for name in self.link.identifiers]


def plan(study: Study, contracts: Mapping[str, Contract]) -> LinkPlan:
    """StudyError where the study does not fit the contracts."""
    table = tables.linked(study, contracts)
    assert study.link is not None
    sent = used_columns.of_study(study, table.contract)
    left, right = (
        [column for column in table.side(dataset) if column.name in sent]
        for dataset in (study.link.left, study.link.right)
    )
    return LinkPlan(study, study.link, table, contracts, left, right)


# -- admission
def admit(plan_: LinkPlan, role: Role, parties: int, site: Site, now: datetime) -> Refusal | None:
    """Checks the link against the site's policy, before a row is read or a message is sent.
    `parties`: the holders and the helper."""
    study, link = plan_.study, plan_.link
    if role == "helper":
        refused = (
            None if site.policy.links.helps else _closed("does not help to link others' people")
        )
        return refused or _admit_study(study, plan_.table.contract, parties, site, now)
    contract = plan_.contracts[plan_.dataset_of(role)]
    site = site.under(contract.dataset, contract.hash)
    dataset = site.datasets.get(contract.dataset)
    if dataset is None or dataset.contract.hash != contract.hash:
        return Refusal(
            "contract",
            f"this node has no dataset {contract.dataset!r} with this contract: use the same file",
        )
    return (
        _admit_policy(plan_, link.right if role == "left" else link.left, site)
        or _admit_study(study, contract, parties, site, now)
        or _admit_columns(plan_, role)
    )


def hold_back(plan_: LinkPlan, role: Role, context: NodeContext, now: datetime) -> Refusal | None:
    """What a holder's own state says against a study that its policy admits."""
    if role == "helper":
        return None
    study, name = plan_.study, plan_.dataset_of(role)
    context = context.under(name, plan_.contracts[name].hash)
    return service.unchecked(study, context.site, name) or service.spends_budget(
        study, context, now, name
    )


def _admit_study(
    study: Study, contract: Contract, parties: int, site: Site, now: datetime
) -> Refusal | None:
    others = study.other_parties
    return service.admit_study(study, contract, parties - others, site, now, others=others)


def _admit_policy(plan_: LinkPlan, other: str, site: Site) -> Refusal | None:
    links, link = site.policy.links, plan_.link
    if other not in links.with_:
        return _closed(f"does not link its people to {other!r}")
    if link.helper not in links.helpers:
        return _closed(f"does not take {link.helper!r} for a helper")
    if link.ending not in links.endings:
        return _closed(f"does not allow a link that ends {link.ending}")
    if plan_.study.privacy.mode not in links.modes:
        return _closed(f"links people in mode {' or '.join(links.modes)} only")
    return None


def _closed(offer: str) -> Refusal:
    return Refusal(
        "links", f"this site {offer}: ask its producer, who decides it under `policy.links`"
    )


def _admit_columns(plan_: LinkPlan, role: Role) -> Refusal | None:
    """A contract column may be open to some coordinators only."""
    contract = plan_.contracts[plan_.dataset_of(role)]
    sent = plan_.left if role == "left" else plan_.right
    closed = sorted(
        source
        for column in sent
        for source in column.sources
        if (use := contract.columns[source].use) and plan_.study.coordinator not in use
    )
    if closed:
        return Refusal(
            "column",
            f"coordinator {plan_.study.coordinator!r} may not use {', '.join(closed)}: leave it "
            "out, or ask the producer",
        )
    return None


def claim_cohort(
    plan_: LinkPlan, role: Role, context: NodeContext, now: datetime
) -> Refusal | None:
    """Exact answers about two sets of linked people that differ by a few reveal something about
    those few, and no holder knows who is linked. So a pair of datasets has one cohort a year, kept
    in the ledger, whichever of them is the left; and so have the other datasets of this node about
    the same people."""
    study = plan_.study
    if role == "helper" or context.site.state is None or study.privacy.mode == "dp":
        return None
    entries = {name: entry.cohort.model_dump(mode="json") for name, entry in study.datasets.items()}
    link = plan_.link
    chosen = [entries, study.cohort.where, link.left, link.keep, link.on, link.cascade]
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).digest()
    account = Account(study.dataset, "person", now.year)
    dataset = plan_.dataset_of(role)
    people = context.site.account(dataset, now.year).register or dataset
    other = link.right if dataset == link.left else link.left
    stored = ledger.remember(
        context.ledger, "cohort", account, study.hash, f"link {people} {other} {now.year}",
        digest, now.isoformat(timespec="seconds"),
    )  # fmt: skip
    if stored == digest:
        return None
    return Refusal(
        "differencing",
        "another cohort of these two datasets was linked this year in exact mode: use that one, "
        "or mode dp",
    )


def charge(plan_: LinkPlan, role: Role, context: NodeContext, now: datetime) -> Refusal | None:
    """Charges the whole study in mode dp before anything is sent,
    since a holder sees no further query."""
    study = plan_.study
    if study.privacy.mode == "exact" or role == "helper":
        return None
    dataset = plan_.dataset_of(role)
    event = Gaussian(Fraction(1), accounting.variance_for(Fraction(1), study.privacy.rho))
    claim = Claim(
        f"link {study.hash} {dataset}", study.hash, study.privacy.rho, {"link": event},
        study.privacy.delta,
    )  # fmt: skip
    account = context.site.account(dataset, now.year)
    return ledger.charge(context.ledger, account, claim, now.isoformat(timespec="seconds"))


# -- messages
@dataclass(frozen=True)
class Party:
    """A node in one attempt, after the keys are agreed. `secrets`: shared with each other party."""

    plan: LinkPlan
    terms: LinkTerms
    context: NodeContext = field(repr=False)
    secrets: Mapping[str, bytes] = field(repr=False)
    relay: Relay = field(repr=False)

    @property
    def name(self) -> str:
        return self.context.site.name

    def send(self, kind: str, receiver: str, content: Iterable[bytes]) -> None:
        channel = Channel(self.terms, self.secrets[receiver], self.name, receiver, kind)
        self.relay.put(channel, sealing.seal(channel, content, self.context.entropy))

    def receive(self, kind: str, sender: str) -> Iterator[bytes]:
        channel = Channel(self.terms, self.secrets[sender], sender, self.name, kind)
        return sealing.unseal(channel, self.relay.take(channel))


def terms(
    plan_: LinkPlan, attempt: str, left: str, right: str, context: NodeContext, run: str = ""
) -> LinkTerms:
    """Of one left holder. The roster is this node's own. `run`: as in Query."""
    parties = (left, right, plan_.link.helper)
    roster = {name: context.site.roster[name] for name in parties if name in context.site.roster}
    return LinkTerms(plan_.study.hash, run, attempt, *parties, plan_.rules, roster)


def meet(terms_: LinkTerms, context: NodeContext) -> tuple[Meeting, bytes]:
    return keys.meet(terms_, context.site.name, context.identity, context.entropy)


def party(
    plan_: LinkPlan,
    meeting: Meeting,
    adverts: Mapping[str, bytes],
    context: NodeContext,
    relay: Relay,
) -> Party:
    return Party(plan_, meeting.terms, context, keys.agree(meeting, adverts), relay)


def _holder(party: Party) -> Holder:
    other = party.terms.right if party.name == party.terms.left else party.terms.left
    return link_parties.holder(
        party.terms,
        party.plan.link,
        party.secrets[other],
        len(party.plan.right),
        party.context.entropy,
    )


def _people(party: Party, role: Role, holder: Holder) -> Iterator[tuple[Words, Floats, Words]]:
    """Chunks of pseudonyms, values and places. In mode dp it is one chunk,
    in which no pseudonym occurs twice."""
    dataset, study = party.plan.dataset_of(role), party.plan.study
    is_private = study.privacy.mode == "dp"
    request = Request(
        study.datasets[dataset],
        party.plan.left if role == "left" else party.plan.right,
        party.plan.identifiers(dataset),
        is_private,
        party.context.entropy(32),
        party.context.site.rules(study.privacy.min_cell).min_cell,
    )
    site = party.context.site.under(dataset, party.plan.contracts[dataset].hash)
    read = link_rows.read(site.datasets[dataset], site.storage, request)
    chunks = (
        (link_parties.names_of(holder, people), people.values, people.places) for people in read
    )
    if not is_private:
        return chunks
    whole = _concatenated(chunks, holder.shape, len(request.columns))
    if not party.plan.link.on:
        return iter([whole])
    names, values = link_parties.unique_people(*whole[:2])  # in the order of their pseudonyms
    return iter([(names, values, streams.fresh_places(len(names), party.context.entropy))])


def _concatenated(
    chunks: Iterable[tuple[Words, Floats, Words]], shape: tuple[int, ...], columns: int
) -> tuple[Words, Floats, Words]:
    nobody = np.zeros((0, *shape), np.uint64), np.zeros((0, columns)), np.zeros(0, np.uint64)
    names, values, places = zip(nobody, *chunks, strict=True)
    return np.concatenate(names), np.concatenate(values), np.concatenate(places)


# -- the six messages, in order
def send_list(party: Party) -> Left:
    holder = _holder(party)
    names, values, _ = _concatenated(
        _people(party, "left", holder), holder.shape, len(party.plan.left)
    )
    left, content = link_parties.left_list(holder, names, values)
    party.send("list", party.terms.helper, content)
    return left


def take_list(party: Party) -> Words:
    """The helper's part. It tells the right holder the number of people, made-up ones included."""
    listed = link_parties.list_of(party.plan.link, party.receive("list", party.terms.left))
    party.send("size", party.terms.right, [streams.dummies_for(len(listed)).to_bytes(8, "little")])
    return listed


def send_rows(party: Party) -> None:
    dummies = int.from_bytes(b"".join(party.receive("size", party.terms.helper)), "little")
    holder = _holder(party)
    content = link_parties.right_rows(holder, _people(party, "right", holder), dummies)
    party.send("rows", party.terms.helper, content)


def match(party: Party, listed: Words) -> link_parties.Held:
    message = party.receive("rows", party.terms.right)
    width = len(party.plan.right) + 1
    held, tokens = link_parties.helper_match(party.plan.link, listed, message, width)
    party.send("tokens", party.terms.left, tokens)
    return held


def send_places(party: Party, left: Left) -> Left:
    with_tokens, places = link_parties.left_places(
        left, party.receive("tokens", party.terms.helper)
    )
    party.send("places", party.terms.helper, places)
    return with_tokens


def show_made_up(party: Party, held: link_parties.Held) -> link_parties.Held:
    shown, rows = link_parties.helper_show(held, party.receive("places", party.terms.left))
    party.send("made-up rows", party.terms.left, rows)
    return shown


def send_columns(party: Party, left: Left) -> None:
    message = party.receive("made-up rows", party.terms.helper)
    party.send("columns", party.terms.helper, link_parties.left_columns(left, message))


# -- the helper's rows
@dataclass(frozen=True)
class HelperRows:
    """The linked people of one left holder at the helper,
    which answers for them as a node named `site.name`.

    Their rows are in this process's memory. The ledger of what the helper has answered is on disk,
    and stays: the same study, run again, gets the same noise. `digest` (32 bytes): of the rows."""

    site: Site
    report: LinkReport
    file: MemoryFile
    digest: bytes = field(repr=False)


def keep_rows(party: Party, listed: Words, held: link_parties.Held) -> HelperRows:
    """LinkError, and nothing is kept, where too few people are linked."""
    plan_, study, site = party.plan, party.plan.study, party.context.site
    message = party.receive("columns", party.terms.left)
    opened = link_parties.helper_open(held, listed, message, len(plan_.left))
    rules = site.rules(study.privacy.min_cell, in_secure_sum=study.privacy.secure_sum is not None)
    left = party.terms.left
    if study.privacy.mode == "exact":
        link_table.check(opened, plan_.link, rules.min_cell, left)
    report = link_table.report(opened, plan_.left, left, rules.min_cell)
    folder = _folder(party.context, study)
    file = memory_file.make(folder / f"{left}.{party.terms.attempt[:8]}.parquet")
    storage = site.storage.model_copy(update={"max_temp_directory_size": "0KB"})  # no row on disk
    try:
        order = link_table.by_value(opened)
        link_table.write(opened, order, plan_.left, plan_.right, file.target, plan_.link, storage)
    except Exception:
        file.delete()
        raise
    party.context.audit("link_kept", study=study.study, study_hash=study.hash, left=left)
    link_numbers = {} if study.privacy.mode == "dp" else link_table.numbers(report)
    dataset = Dataset(
        plan_.table.contract, str(file.path), is_linked=True, link_numbers=link_numbers
    )
    own_state = None if site.state is None else folder / left
    datasets = {study.dataset: dataset}
    answering = replace(
        site, name=left, datasets=datasets, state=own_state, roster={}, storage=storage
    )
    return HelperRows(answering, report, file, link_table.digest(opened, order))


def _folder(context: NodeContext, study: Study) -> Path:
    if context.site.state is None:
        return Path(tempfile.mkdtemp(prefix="hdh-link-"))  # 0700
    folder = state_folder.create(context.site.state) / FOLDER / study.hash[:16]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def forget(rows: HelperRows, context: NodeContext, study: Study) -> None:
    """Deletes the linked people at the end of the study, and says so in the audit log."""
    rows.file.delete()
    folder = rows.file.path.parent
    if not any(folder.iterdir()):
        folder.rmdir()
    context.audit("link_deleted", study=study.study, study_hash=study.hash, left=rows.site.name)


def forget_remains(context: NodeContext) -> None:
    """Removes what a process left behind that ended in the middle of a study. Its memory, which
    held the rows, is gone."""
    if context.site.state is None:
        return
    for path in (context.site.state / FOLDER).glob("*/*.parquet"):
        path.unlink()
        context.audit("link_deleted", study_hash=path.parent.name, left=path.name.partition(".")[0])
