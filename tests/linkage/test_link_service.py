"""A linked study between a hub and three or more nodes in one process, each with its state folder:
phases, charges, restarts, and what is left."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas
import pytest

from aggregator import linkage as linkages
from aggregator import linked as linked_hub
from aggregator import release, rounds, secure_sum
from aggregator.document import Document
from aggregator.linkage import Linkage
from aggregator.linked import Linking, Parties
from aggregator.parcels import Address, Attempt
from federation import audit, codec, datasets, errors
from federation.linkage import keys
from federation.linkage.errors import LinkError
from federation.linkage.routes import ROUTES
from federation.linkage.sealing import Channel
from federation.messages import LINK, Phase, Query, Refusal, Reply, SecAggMessage, State
from federation.study import Study
from federation.tickets import RunTicket, ticket
from nodes import (
    ledger,
    link_proposals,
    link_service,
    link_table,
    service,
    source_checks,
    state_folder,
)
from nodes.approvals import Approvals, Proposed
from nodes.link_service import LinkService
from nodes.session import NodeContext
from simulations import linked, local
from strategies import registry
from tests.linkage import two_holders
from tests.linkage.test_linked_studies import ANALYSES, assert_same, thirds
from tests.linkage.two_holders import CONTRACTS, NOW

Queues = dict[tuple[str, str, str, str], "queue.Queue[bytes | None]"]
EXACT = {"a": ANALYSES["crosstab"], "b": ANALYSES["rates"]}


@dataclass
class QueueRelay:
    queues: Queues
    stopped: threading.Event = field(default_factory=threading.Event)
    moved: int = 0

    def _queue(self, channel: Channel) -> queue.Queue[bytes | None]:
        key = channel.terms.attempt, channel.sender, channel.receiver, channel.kind
        return self.queues.setdefault(key, queue.Queue())

    def put(self, channel: Channel, envelopes: Iterable[bytes]) -> None:
        for envelope in envelopes:
            self._queue(channel).put(envelope)
            self.moved += len(envelope)
        self._queue(channel).put(None)

    def take(self, channel: Channel) -> Iterator[bytes]:
        while not self.stopped.is_set():
            try:
                envelope = self._queue(channel).get(timeout=0.05)
            except queue.Empty:
                continue
            if envelope is None:
                return
            yield envelope
        raise LinkError("link_ended", "given up")


@dataclass
class Federation:
    """`before`: called with each query before a node answers it. `silent`: nodes that do not."""

    study: Study
    folder: Path
    roles: Mapping[str, str]
    queues: Queues = field(default_factory=dict)
    services: dict[str, LinkService] = field(default_factory=dict)
    before: Callable[[str, Query], None] = lambda name, query: None
    messages: list[str] = field(default_factory=list)
    begin_attempt: Callable[[Attempt], Any] = lambda attempt: None

    @property
    def ticket(self) -> RunTicket:
        deadline = NOW.timestamp() + 3600
        return ticket("hub", 1, self.study.hash, self.contract.hash, self.roles, deadline)

    @property
    def run_digest(self) -> str:
        return self.ticket.digest

    @property
    def contract(self) -> Any:
        return datasets.contract_of(self.study, CONTRACTS)

    def state(self, name: str) -> Path:
        return self.folder / name / "state"

    def events(self, name: str) -> list[str]:
        return [str(entry["event"]) for entry in audit.entries(self.state(name) / "audit.jsonl")]

    def begin(self, site: Any) -> None:
        """A node's process, which begins with nothing in its memory."""
        approvals = Approvals(state_folder.create(site.state) / "approvals.sqlite")
        context = NodeContext(site, approvals=approvals)
        self.services[site.name] = LinkService(context, lambda: QueueRelay(self.queues))

    def restart(self, name: str) -> None:
        context = self.services[name].context
        for attempt in self.services[name].attempts.values():
            attempt.relay.stopped.set()
        self.begin(context.site)

    def send(self, queries: Mapping[str, Query]) -> Sequence[Reply]:
        helper = Parties.of(self.roles).helper
        replies = []
        for name, query in queries.items():
            node = helper if query.left else name
            self.before(node, query)
            sent = codec.query_from_bytes(codec.query_to_bytes(query))
            replies.append(self.services[node].answer(sent, NOW))
        return replies

    def run(self) -> Document:
        parties = Parties.of(self.roles)
        linking = Linking(
            self.study, self.contract.hash, self.run_digest, parties, lambda: None,
            self.begin_attempt, self.send, self.send, 20.0,
            self.messages.append, (0.01, 0.1),
        )  # fmt: skip
        ask = secure_sum.ask_of(
            linked_hub.for_lefts(self.send), lambda study: registry.plan(study, self.contract)
        )
        outcome, reports = linked_hub.run(
            linking,
            lambda: rounds.run(
                self.study, self.contract, ask, parties.lefts, ticket=self.run_digest
            ),
        )
        document = release.clear(outcome, started=NOW, finished=NOW, engine="local")
        return linkages.added(document, Linkage(self.study, reports))


def federation(
    folder: Path,
    tables: two_holders.Tables,
    study: Study,
    lefts: Mapping[str, pandas.DataFrame] | None = None,
) -> Federation:
    holders = two_holders.holders(folder, tables, lefts)
    roles = {name: "left" if name != "cnam" else "right" for name in holders} | {"casd": "helper"}
    federated = Federation(study, folder, roles)
    contracts = {name: contract.canonical() for name, contract in CONTRACTS.items()}
    sites = [
        replace(site, state=federated.state(site.name))
        for site in linked.sites_of(study, holders, local.SIMULATED)
    ]
    roster = {site.name: state_folder.public_identity(site.state) for site in sites}
    for site in sites:
        federated.begin(replace(site, roster=roster))
        approvals = federated.services[site.name].context.approvals
        assert approvals is not None
        approvals.propose(_proposed(federated, link_proposals.to_text(contracts, roles)))
        for name, dataset in site.datasets.items():
            source_checks.record(site.state, name, dataset, passed=True)
            _grant(federated.services[site.name].context, name, study)
    return federated


def _proposed(federated: Federation, link: str) -> Proposed:
    at, study = NOW.isoformat(), federated.study
    return Proposed(
        federated.ticket, study.study, study.canonical(), study.coordinator, "key", at,
        federated.ticket.deadline, 0, "approved", "", "policy", at, link,
    )  # fmt: skip


def _grant(context: NodeContext, dataset: str, study: Study) -> None:
    if study.privacy.mode == "dp":
        account = context.site.account(dataset, NOW.year)
        at = NOW.isoformat()
        ledger.grant(context.ledger, account, study.privacy.rho, by="test", at=at, study=study.hash)


@pytest.fixture(scope="module")
def tables() -> two_holders.Tables:
    return two_holders.make(500, 700, 450)


def private(**changes: Any) -> Study:
    privacy = {"mode": "dp", "epsilon": 20, "delta": 1e-5}
    return two_holders.study(analyses={"a": ANALYSES["crosstab"]}, privacy=privacy, **changes)


def is_phase(query: Query, name: str) -> bool:
    return query.phase is not None and query.phase.name == name


def test_parties_with_state_folders_give_the_joined_answers_and_delete_the_rows(tables, tmp_path):
    federated = federation(tmp_path, tables, two_holders.study(analyses=EXACT))
    result = federated.run()
    assert_same(
        result,
        two_holders.run_joined(federated.study, {"lyon": two_holders.joined(tables)}, tmp_path),
    )
    assert result.analyses["a"].n["linked"] > 0
    assert federated.messages[:2] == ["asking the parties", "linking lyon"]
    assert federated.events("casd") == ["link_kept", "link_deleted"]
    assert not list(federated.state("casd").rglob("*.parquet"))
    assert not federated.services["casd"].is_needed


@pytest.mark.parametrize(
    "secure_sum_of", [{"dropouts": 0}, pytest.param(None, marks=pytest.mark.slow)]
)
def test_the_helper_answers_for_three_left_holders(secure_sum_of, tmp_path):
    tables = two_holders.make(900, 1500, 800)
    privacy = {"mode": "exact", "secure_sum": secure_sum_of}
    study = two_holders.study(analyses=EXACT, privacy=privacy, min_nodes=5)
    federated = federation(tmp_path, tables, study, thirds(tables.left))
    joined = {
        name: two_holders.joined(two_holders.Tables(part, tables.right))
        for name, part in thirds(tables.left).items()
    }
    expected = two_holders.run_joined(study, joined, tmp_path)
    assert_same(federated.run(), expected, within=1e-6)  # a secure sum rounds to its grid
    assert federated.events("casd").count("link_deleted") == 3


def test_the_messages_of_a_link_are_those_that_a_hub_takes(tables, tmp_path):
    federated = federation(tmp_path, tables, two_holders.study(analyses=EXACT))
    begun: list[Attempt] = []
    federated.begin_attempt = begun.append
    federated.run()
    (attempt,) = begun
    addresses = [Address(federated.study.hash, *key) for key in federated.queues]
    assert sorted(address.kind for address in addresses) == sorted(ROUTES)
    assert all(attempt.has(address) for address in addresses)


# -- mode dp
def test_holders_charge_before_they_send_and_a_second_run_has_the_same_noise(tables, tmp_path):
    federated, charged = federation(tmp_path, tables, private()), []

    def look(name: str, query: Query) -> None:
        if is_phase(query, "join"):
            dataset = {"lyon": "register", "cnam": "insurer"}.get(name)
            if dataset:
                book = federated.services[name].context.ledger
                charged.append(ledger.is_charged(book, f"link {federated.study.hash} {dataset}"))

    federated.before = look
    first = federated.run()
    assert charged == [True, True]
    assert first.analyses["a"].status == "released"
    assert "linked" not in first.analyses["a"].n
    for name in federated.services:
        federated.restart(name)
    again = federated.run()
    assert again.analyses["a"].tables == first.analyses["a"].tables
    for name in ("lyon", "cnam"):
        book = federated.services[name].context.ledger
        assert sum(entry.kind == "charge" for entry in ledger.history(book)) == 1


def test_a_holder_without_a_budget_ends_the_study_before_anything_is_sent(tables, tmp_path):
    federated = federation(tmp_path, tables, private())
    site = replace(federated.services["cnam"].context.site, state=tmp_path / "poor" / "state")
    context = federated.services["cnam"].context
    federated.services["cnam"].context = replace(
        context, site=replace(site, state=context.site.state)
    )
    object.__setattr__(federated.services["cnam"].context, "ledger", state_folder.open_ledger(None))
    with pytest.raises(errors.RefusalError, match="cnam: budget"):
        federated.run()
    assert not federated.queues


# -- restarts
RESTARTS = [
    (node, phase) for node in ("casd", "lyon", "cnam") for phase in ("watch", "meet", "join")
]


@pytest.mark.parametrize(
    ("node", "phase"),
    [RESTARTS[0], *(pytest.param(*restart, marks=pytest.mark.slow) for restart in RESTARTS[1:])],
)
def test_a_node_restarted_in_any_phase_makes_the_hub_begin_again(node, phase, tables, tmp_path):
    federated, left = federation(tmp_path, tables, two_holders.study(analyses=EXACT)), [1]

    def restart_once(name: str, query: Query) -> None:
        if left and name == node and is_phase(query, phase):
            left.pop()
            federated.restart(node)

    federated.before = restart_once
    result = federated.run()
    assert federated.messages.count("asking the parties") == 2
    assert result.analyses["a"].status == "released"


def test_a_helper_restarted_between_rounds_has_no_rows_and_links_again(tables, tmp_path):
    federated, left = federation(tmp_path, tables, two_holders.study(analyses=EXACT)), [1]

    def restart_once(name: str, query: Query) -> None:
        if left and query.left:
            left.pop()
            files = list(federated.state("casd").rglob("*.parquet"))
            assert len(files) == 1 and files[0].is_symlink()
            linked_site = (
                federated.services["casd"].answering[federated.run_digest, "lyon"].rows.site
            )
            assert linked_site.storage.max_temp_directory_size == "0KB"
            federated.restart("casd")
            assert not files[0].is_symlink()

    federated.before = restart_once
    result = federated.run()
    assert result.analyses["a"].status == "released"
    assert federated.events("casd") == ["link_kept", "link_deleted", "link_kept", "link_deleted"]


def test_another_attempt_in_exact_mode_is_about_the_same_people(tables, tmp_path):
    federated, left = federation(tmp_path, tables, two_holders.study(analyses=EXACT)), [1]

    def restart_over_one_person_less(name: str, query: Query) -> None:
        if left and query.left:
            left.pop()
            tables.left[tables.left["nir"] != linked_nir].to_csv(tmp_path / "lyon.csv", index=False)
            federated.restart("casd")

    people = two_holders.joined(tables)
    linked_nir = people["pseudonym"].iloc[0]
    federated.before = restart_over_one_person_less
    with pytest.raises(errors.RefusalError, match="casd: link_changed"):
        federated.run()
    assert not list(federated.state("casd").rglob("*.parquet"))


def test_a_hub_that_does_not_watch_a_link_learns_nothing_of_other_people(tables, tmp_path):
    federated, asked, replies = (
        federation(tmp_path, tables, two_holders.study(analyses=EXACT)),
        [],
        [],
    )

    def ask_before_watching(name: str, query: Query) -> None:
        if not asked and query.left:
            asked.append(query)
            tables.left[tables.left["nir"] != linked_nir].to_csv(tmp_path / "lyon.csv", index=False)
            federated.restart("casd")
        elif asked and name == "casd" and is_phase(query, "watch"):
            for attempt in list(federated.services["casd"].attempts.values()):
                attempt.thread.join(20)
            replies.append(federated.services["casd"].answer(asked[0], NOW))

    people = two_holders.joined(tables)
    linked_nir = people["pseudonym"].iloc[0]
    federated.before = ask_before_watching
    with pytest.raises(errors.RefusalError, match="casd: link_changed"):
        federated.run()
    assert {answer.rule for reply in replies for answer in reply.answers.values()} == {
        "link_changed"
    }


def test_a_query_of_another_run_learns_nothing_of_an_attempt(tables, tmp_path):
    federated, answers = federation(tmp_path, tables, two_holders.study(analyses=EXACT)), []

    def ask_in_another_run(name: str, query: Query) -> None:
        if is_phase(query, "join") or is_phase(query, "watch"):
            other = replace(query, run="another")  # beyond the door, where it would be approved
            answers.append(link_service._PHASES[query.phase.name](
                federated.services[name], other, query.phase, NOW
            ))  # fmt: skip

    federated.before = ask_in_another_run
    assert federated.run().analyses["a"].status == "released"
    assert set(answers) == {link_service.UNKNOWN}


def test_rows_that_cannot_be_written_whole_leave_nothing_at_the_helper(
    tables, tmp_path, monkeypatch
):
    def write_half(
        opened: Any, order: Any, left: Any, right: Any, file: Path, *others: Any
    ) -> None:
        file.write_bytes(b"half")
        raise OSError("no memory")

    federated = federation(tmp_path, tables, two_holders.study(analyses=EXACT))
    monkeypatch.setattr(link_table, "write", write_half)
    with pytest.raises(errors.RefusalError, match=r"casd: link_failed.*OSError"):
        federated.run()
    assert not [path for path in federated.state("casd").rglob("*.parquet") if path.is_symlink()]


def test_a_node_that_is_restarted_every_time_ends_the_study(tables, tmp_path):
    federated = federation(tmp_path, tables, two_holders.study(analyses=EXACT))
    federated.before = lambda name, query: (
        federated.restart(name) if is_phase(query, "join") else None
    )
    with pytest.raises(errors.RefusalError, match="lost 3 times"):
        federated.run()


# -- what a hub may not do
def phase_query(federated: Federation, name: str, attempt: str = "0" * 32, **items: bytes) -> Query:
    nodes = tuple(sorted(federated.roles))
    phase = Phase(name, attempt, {LINK: items})
    states = {LINK: State(name)}
    return Query(
        federated.study,
        federated.contract.hash,
        0,
        nodes,
        states,
        phase=phase,
        run=federated.run_digest,
    )


def answered(federated: Federation, name: str, query: Query) -> Any:
    return federated.services[name].answer(query, NOW).answers[LINK]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda query: replace(query, study=two_holders.study(title="edited")), "approval"),
        (lambda query: replace(query, contract_hash="other"), "approval"),
        (lambda query: replace(query, nodes=(*query.nodes, "stranger")), "approval"),
        (lambda query: replace(query, run="another"), "approval"),
        (lambda query: replace(query, nodes=("casd", "cnam")), "participants"),
    ],
)
def test_a_link_other_than_the_approved_one_is_refused(change, rule, tables, tmp_path):
    federated = federation(tmp_path, tables, two_holders.study(analyses=EXACT))
    refused = answered(federated, "lyon", change(phase_query(federated, "admit")))
    assert isinstance(refused, Refusal)
    assert refused.rule == rule


@pytest.mark.parametrize("phase", ["meet", "join", "watch"])
def test_a_phase_before_its_turn_is_refused(phase, tables, tmp_path):
    federated = federation(tmp_path, tables, two_holders.study(analyses=EXACT))
    assert (
        answered(federated, "lyon", phase_query(federated, phase, left=b"lyon")).rule
        == "link_unknown"
    )


@pytest.mark.parametrize("attempt", ["", "first", "../../../x", "0" * 31, "0" * 33, "G" * 32])
def test_an_attempt_has_a_name_that_leads_to_no_other_file(attempt, tables, tmp_path):
    federated = federation(tmp_path, tables, two_holders.study(analyses=EXACT))
    answered(federated, "casd", phase_query(federated, "admit"))
    refused = answered(federated, "casd", phase_query(federated, "meet", attempt, left=b"lyon"))
    assert refused.rule == "link_message"


def test_an_attempt_of_one_run_is_not_overwritten_by_another(tables, tmp_path):
    """Nor by itself, once its messages have begun."""
    federated = federation(tmp_path, tables, two_holders.study(analyses=EXACT))
    node = federated.services["casd"]
    answered(federated, "casd", phase_query(federated, "admit"))
    query = phase_query(federated, "meet", left=b"lyon")
    answered(federated, "casd", query)
    begun = node.attempts["0" * 32]
    node.admitted["another"] = node.admitted[federated.run_digest]
    other = replace(query, run="another")  # beyond the door, where it would be approved
    with pytest.raises(LinkError, match="has begun before"):
        node._meet(other, other.phase, NOW)
    assert node.attempts["0" * 32] is begun
    assert isinstance(answered(federated, "casd", query), SecAggMessage), (
        "asked twice, as over Flower"
    )
    node.attempts["0" * 32].thread = threading.Thread()
    assert answered(federated, "casd", query).rule == "link_message"


def test_keys_are_signed_for_the_coordinators_run(tables, tmp_path):
    """Adverts of one run, and of one study and attempt, do not open a link of another."""
    federated = federation(tmp_path, tables, two_holders.study(analyses=EXACT))
    adverts = {}
    for name in federated.services:
        answered(federated, name, phase_query(federated, "admit"))
        met = answered(federated, name, phase_query(federated, "meet", left=b"lyon"))
        adverts[name] = met.items["advert"]
    meeting = federated.services["casd"].attempts["0" * 32].meeting
    assert meeting.terms.run == federated.run_digest
    keys.agree(meeting, adverts)
    elsewhere = replace(meeting, terms=replace(meeting.terms, run="another"))
    with pytest.raises(LinkError, match="link_signature"):
        keys.agree(elsewhere, adverts)


def test_a_hub_that_swaps_the_keys_is_refused_by_everyone(tables, tmp_path):
    federated = federation(tmp_path, tables, two_holders.study(analyses=EXACT))
    adverts: dict[str, bytes] = {}
    for name in federated.services:
        assert isinstance(answered(federated, name, phase_query(federated, "admit")), SecAggMessage)
        met = answered(federated, name, phase_query(federated, "meet", left=b"lyon"))
        adverts[name] = met.items["advert"]
    swapped = {"lyon": adverts["cnam"], "cnam": adverts["lyon"], "casd": adverts["casd"]}
    for name in federated.services:
        refused = answered(federated, name, phase_query(federated, "join", **swapped))
        assert refused.rule == "link_signature"
    assert not federated.queues


def test_a_study_that_ends_in_the_middle_leaves_nothing(tables, tmp_path):
    federated = federation(tmp_path, tables, two_holders.study(analyses=EXACT))

    def end(name: str, query: Query) -> None:
        if query.left:
            federated.services["casd"].end(federated.run_digest)

    federated.before = end
    assert federated.run().analyses["a"].status == "failed"
    assert not list(federated.state("casd").rglob("*.parquet"))
    assert federated.events("casd").count("link_kept") == federated.events("casd").count(
        "link_deleted"
    )


def test_a_node_answers_no_phase_of_a_link_outside_of_it(tables, tmp_path):
    """A secure sum's door does not open to a link's phase."""
    federated = federation(tmp_path, tables, two_holders.study(analyses=EXACT))
    reply = service.answer(phase_query(federated, "watch"), federated.services["lyon"].context, NOW)
    assert all(isinstance(answer, Refusal) for answer in reply.answers.values())
