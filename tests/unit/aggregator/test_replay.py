"""A replay exposes a hub that chose a state, a sum or a result, or that hides a query."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from aggregator import linkage, replay, rounds, secure_sum, transcript
from aggregator.linked import for_lefts
from aggregator.rounds import Ask
from aggregator.transcript import Recorder
from federation import audit, codec, datasets, receipts
from federation.messages import Part, Query, Reply, TaskId
from federation.receipts import Asked, reply_content
from federation.secagg import keys
from federation.study import Study
from federation.tickets import ticket
from simulations import linked, local
from strategies import registry
from strategies.numerics import newton
from tests import federations
from tests.deployments import CONTRACT
from tests.linkage import two_holders

NAMES = ("brest", "lyon", "nice", "paris")
MODEL = {"run": "glm", "family": "binomial", "model": "ill ~ age"}
PLAIN: dict[str, Any] = {"mode": "exact"}
SECURE: dict[str, Any] = {"mode": "exact", "secure_sum": True}
Change = Callable[[Query], Query]


@cache
def table(seed: int) -> pandas.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 90, 400)
    ill = rng.random(400) < 1 / (1 + np.exp((60 - age) / 15))
    return pandas.DataFrame({"age": age, "ill": ill})


TRAINING = {"run": "train", "model": "ill ~ age", "network": "mlp", "widths": [2], "rounds": 2}


class Hub:
    """A hub that runs a study with recording, as the deployed one does: `document` with its
    receipt, and the transcript at `path`. `change`: what it makes of its queries, once the round
    loop has written them."""

    def __init__(
        self,
        folder: Path,
        privacy: Mapping[str, Any] = PLAIN,
        change: Change = lambda query: query,
        analyses: Mapping[str, Any] | None = None,
    ) -> None:
        self.signed: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
        self.study: Study = federations.study_of(
            analyses or {"a": MODEL, "d": {"run": "describe", "columns": ["age"]}}, privacy=privacy
        )
        self.path = folder / "7.gz"
        sites = [
            federations.site_of(name, table(seed), CONTRACT, folder)
            for seed, name in enumerate(NAMES)
        ]
        self._send = local.send_of(local.contexts_of(sites), federations.NOW)
        self.recorder = Recorder(self.path)
        self.recorder.begin(CONTRACT)
        plan = registry.plan(self.study, CONTRACT)
        ask: Ask = self.recorder.asking(secure_sum.ask_of(self.send, lambda _: plan))
        outcome = rounds.run(self.study, CONTRACT, lambda query: ask(change(query)), NAMES)
        self.document = federations.document(outcome).model_dump(mode="json")
        self.document["receipt"] = self.receipt()

    def send(self, queries: Mapping[str, Query]) -> Sequence[Reply]:
        """Each node signs its reply with the query that it has received."""
        nonce = os.urandom(16)
        for query in {id(query): query for query in queries.values()}.values():
            self.recorder.pushed(nonce, query, codec.query_to_bytes(query))
        replies = self._send(queries)
        for reply in replies:
            query = queries[reply.node]
            signer = self.study.link.helper if self.study.link else reply.node
            phase = query.phase.name if query.phase else ""
            asked = receipts.digest(nonce + codec.query_to_bytes(query))
            given = receipts.digest(codec.reply_to_bytes(reply))
            record = {
                "round": query.round,
                "phase": phase,
                "left": query.left,
                "query": asked,
                "reply": given,
            }
            self.signed[signer].append(record)
        return replies

    def receipt(self) -> dict[str, Any]:
        return {
            "study": self.study.canonical(),
            "transcript": transcript.digest(self.path),
            "run": {"number": 7, "contract_hash": CONTRACT.hash, "nodes": list(NAMES)},
            "nodes": {node: {"replies": replies} for node, replies in self.signed.items()},
        }

    def problems(self) -> list[str]:
        return list(replay.verify(self.document, self.path))


@pytest.mark.parametrize("privacy", [PLAIN, SECURE], ids=["plain", "secure sum"])
def test_an_honest_run_is_replayed_from_its_sums(privacy: dict[str, Any], tmp_path: Path) -> None:
    hub = Hub(tmp_path, privacy)
    assert hub.document["analyses"]["a"]["status"] == "released"
    assert hub.problems() == []
    assert hub.path.stat().st_mode & 0o077 == 0, "only the hub's owner reads sums"


def chosen(query: Query) -> Query:
    """The hub asks at a steeper slope than follows, in the fourth round."""
    task = TaskId("a")
    if query.round != 4 or task not in query.states:
        return query
    state = query.states[task]
    values = {**state.values, "beta": state.values["beta"] + np.array([0.0, 3.0])}
    return replace(query, states={**query.states, task: replace(state, values=values)})


@pytest.mark.parametrize("privacy", [PLAIN, SECURE], ids=["plain", "secure sum"])
def test_a_state_that_the_hub_chose_is_found(privacy: dict[str, Any], tmp_path: Path) -> None:
    problems = Hub(tmp_path, privacy, chosen).problems()
    assert problems[0].startswith("round 4: the state of a is not the one that follows")


def rewritten(hub: Hub, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> list[str]:
    """The problems after the hub has changed entries of its transcript, and signed it again."""
    import gzip

    with gzip.open(hub.path, "rt") as file:
        entries = [change(json.loads(line)) for line in file]
    with gzip.open(hub.path, "wt") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries if entry is not None)
    hub.document["receipt"]["transcript"] = transcript.digest(hub.path)
    return hub.problems()


def test_a_hub_that_shows_another_state_than_it_asked_at_is_found(tmp_path: Path) -> None:
    """It asks at a chosen state, and shows the query of an honest run in its place."""
    (tmp_path / "honest").mkdir()
    (tmp_path / "lying").mkdir()
    honest, lying = Hub(tmp_path / "honest"), Hub(tmp_path / "lying", change=chosen)
    shown = transcript.read(honest.path)
    fourth = next(round_ for round_ in shown.rounds if round_.query.round == 4)

    def change(entry: dict[str, Any]) -> dict[str, Any]:
        if entry["kind"] != "round":
            return entry
        query = codec.query_from_bytes(transcript.base64.b64decode(entry["query"]))
        if query.round != 4:
            return entry
        text = transcript._text(codec.query_to_bytes(fourth.query))
        return {**entry, "query": text}

    problems = rewritten(lying, change)
    assert any("a query on the wire is not the one of the round" in each for each in problems)


def test_a_hub_that_hides_a_query_is_found(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    pushes = []

    def change(entry: dict[str, Any]) -> dict[str, Any] | None:
        pushes.append(entry["kind"] == "push")
        return None if entry["kind"] == "push" and sum(pushes) == 3 else entry

    problems = rewritten(hub, change)
    assert len([each for each in problems if "a query of round 3 that is not shown" in each]) == 4


def test_a_part_that_no_node_signed_is_found(tmp_path: Path) -> None:
    hub = Hub(tmp_path)

    def change(entry: dict[str, Any]) -> dict[str, Any]:
        if entry["kind"] != "round":
            return entry
        reply = codec.reply_from_bytes(transcript.base64.b64decode(entry["replies"][0]))
        part = next(part for part in reply.answers.values() if isinstance(part, Part))
        name = next(iter(part.sums))
        part.sums[name].flags.writeable = True
        part.sums[name].reshape(-1)[0] += 1.0
        changed = transcript._text(codec.reply_to_bytes(reply))
        return {**entry, "replies": [changed, *entry["replies"][1:]]}

    problems = rewritten(hub, change)
    assert "brest: the part of round 1 is not the one that it signed" in problems


@pytest.mark.parametrize("label", [{"phase": "advertise"}, {"round": 2}])
def test_a_reply_that_is_shown_for_another_query_is_found(
    label: dict[str, Any], tmp_path: Path
) -> None:
    hub = Hub(tmp_path)
    reply = hub.document["receipt"]["nodes"]["lyon"]["replies"][0]
    reply |= label
    wrong = f"lyon: its reply of round {reply['round']} is to a query of another one"
    assert hub.problems() == [wrong]


def test_a_hidden_sum_does_not_fit_where_a_node_was_lost(tmp_path: Path) -> None:
    """A node that is lost after phase `deal` leaves three phases of its round without a reply. The
    hub fills them with the replies of a hidden sum, but these bear the node's signature for the
    phases of that sum."""
    hub = Hub(tmp_path, SECURE)
    node = hub.document["receipt"]["nodes"]["nice"]
    identity = bytes(range(32))
    node["identity"] = keys.public_identity(identity).hex()
    run = ticket("hub", 7, hub.study.hash, CONTRACT.hash, NAMES, 1.0)
    hidden = Asked(run.digest, "00" * 32, 9, "advertise", "")
    for phase in ("mask", "sign", "unmask"):
        slot = next(r for r in node["replies"] if (r["round"], r["phase"]) == (2, phase))
        slot["query"] = hidden.query
        slot["signature"] = keys.sign(identity, reply_content(hidden, slot["reply"])).hex()
    assert hub.problems() == [], "the labels alone fit"
    problems = list(receipts._node({**node, "replies": [slot]}, None, run))
    assert "its reply of round 2 does not bear its signature" in problems
    shown = slot | {"round": hidden.round, "phase": hidden.phase}
    problems = list(receipts._node({**node, "replies": [shown]}, None, run))
    assert problems == ["its approval does not bear its signature"]
    node["replies"].append(shown)
    assert any(
        "answered a query of round 9 that is not shown" in problem for problem in hub.problems()
    )


@pytest.mark.parametrize("privacy", [PLAIN, SECURE], ids=["plain", "secure sum"])
@pytest.mark.parametrize("phase", ["masked", "advertise", ""])
def test_a_query_that_is_hidden_under_another_phase_is_found(
    privacy: dict[str, Any], phase: str, tmp_path: Path
) -> None:
    hub = Hub(tmp_path, privacy)
    replies = hub.document["receipt"]["nodes"]["nice"]["replies"]
    replies.append({**replies[0], "query": "00" * 32, "phase": phase})
    problems = hub.problems()
    assert problems and all(problem.startswith("nice: it answered ") for problem in problems)


def test_sums_of_a_secure_sum_that_were_changed_are_found(tmp_path: Path) -> None:
    hub = Hub(tmp_path, SECURE)

    def change(entry: dict[str, Any]) -> dict[str, Any]:
        if entry["kind"] != "round":
            return entry
        totals = codec.reply_from_bytes(transcript.base64.b64decode(entry["totals"]))
        part = totals.answers.get(TaskId("a"))
        if isinstance(part, Part):
            part.sums["score"].flags.writeable = True
            part.sums["score"][0] += 5.0
        return {**entry, "totals": transcript._text(codec.reply_to_bytes(totals))}

    assert any("is not the one that follows" in each for each in rewritten(hub, change))


def test_a_result_that_does_not_follow_is_found(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    hub.document["analyses"]["a"]["tables"]["coefficients"][1]["estimate"] += 0.01
    assert hub.problems() == ["a: the released result is not the one that follows from the sums"]


def test_rounds_beyond_the_end_of_the_method_are_found(tmp_path: Path) -> None:
    """A hub asks on after the estimate has settled, at states that no method needs."""
    hub = Hub(tmp_path)
    last = transcript.read(hub.path).rounds[-1].query
    more = replace(last, round=last.round + 1)
    hub.recorder.asking(secure_sum.ask_of(hub.send, lambda _: {}))(more)
    hub.document["receipt"] = hub.receipt()
    assert hub.problems() == [f"round {more.round}: the study had ended before it"]


def test_a_file_that_is_not_the_signed_transcript_is_told(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    content = hub.path.read_bytes()
    for changed in (b"", b"x", content[:-20], content + b"x"):
        hub.path.write_bytes(changed)
        assert hub.problems() == ["7.gz is not the transcript whose hash the hub has signed"]
        hub.document["receipt"]["transcript"] = transcript.digest(hub.path)
        assert len(hub.problems()) == 1 and "cannot be re" in hub.problems()[0]
        hub.document["receipt"]["transcript"] = receipts.digest(content)
    hub.path.unlink()
    assert "cannot be read" in hub.problems()[0]
    hub.document["receipt"]["transcript"] = None
    assert "names no transcript" in hub.problems()[0]


@pytest.mark.parametrize(
    "study", [two_holders.study(privacy={"mode": "dp"}), federations.study_of({"a": TRAINING})]
)
def test_a_receipt_without_a_transcript_says_why(study: Study, tmp_path: Path) -> None:
    document = {"receipt": {"transcript": None, "study": study.canonical()}}
    (problem,) = replay.verify(document, tmp_path / "7.gz")
    assert "only exact studies without training" in problem


# -- linked studies
LINKED = two_holders.study(
    analyses={
        "a": {"run": "glm", "family": "gaussian", "model": "age ~ spent"},
        "d": {"run": "crosstab", "rows": "grade", "columns": "drug"},
    }
)
LEFTS = ("caen", "lyon")


class LinkedHub(Hub):
    """The hub of a linked study, whose helper answers for each left holder. `lost`: how many
    attempts end after their first round."""

    def __init__(self, folder: Path, change: Change = lambda query: query, lost: int = 0) -> None:
        tables = two_holders.make(900, 1500, 800)
        lefts = {name: tables.left.iloc[place::2] for place, name in enumerate(LEFTS)}
        self.study, self.path, self.signed = LINKED, folder / "7.gz", {"casd": []}
        self.contract = datasets.contract_of(LINKED, two_holders.CONTRACTS)
        self.recorder = Recorder(self.path)
        self.recorder.begin(self.contract)
        holders = two_holders.holders(folder, tables, lefts)
        with linked.linking(
            LINKED, two_holders.CONTRACTS, holders, local.SIMULATED, two_holders.NOW
        ) as people:
            for attempt in range(lost + 1):
                outcome = self.attempt(people, change, is_lost=attempt < lost)
        document = linkage.added(federations.document(outcome), people.linkage)
        self.document = document.model_dump(mode="json")
        self.document["receipt"] = self.receipt()

    def attempt(self, people: linked.Linked, change: Change, *, is_lost: bool) -> rounds.Outcome:
        contexts = local.contexts_of(people.sites)
        self._send = local.send_of(contexts, two_holders.NOW)
        self.recorder.begin_attempt()
        plan = registry.plan(self.study, self.contract)
        sent = secure_sum.ask_of(for_lefts(self.send), lambda _: plan)
        ask = self.recorder.asking(sent)

        def asked(query: Query) -> Sequence[Reply]:
            return [] if is_lost and query.round > 1 else ask(change(query))

        return rounds.run(self.study, self.contract, asked, LEFTS)

    def receipt(self) -> dict[str, Any]:
        run = {"number": 7, "contract_hash": self.contract.hash, "nodes": ["casd", *LEFTS]}
        return {**super().receipt(), "run": run}


@pytest.mark.parametrize("lost", federations.first([2, 0]))
def test_an_honest_linked_run_is_replayed_from_its_sums(lost: int, tmp_path: Path) -> None:
    hub = LinkedHub(tmp_path, lost=lost)
    assert hub.document["analyses"]["a"]["status"] == "released"
    assert {"linked", "linked_share"} <= hub.document["analyses"]["a"]["n"].keys()
    assert len(transcript.read(hub.path).attempts) == lost + 1
    assert hub.problems() == []


@pytest.mark.parametrize("lost", federations.first([1, 0]))
def test_in_a_linked_run_a_state_that_the_hub_chose_is_found(lost: int, tmp_path: Path) -> None:
    def steeper(query: Query) -> Query:
        task = TaskId("a")
        if query.round != 2 or task not in query.states:
            return query
        values = query.states[task].values
        changed = {name: value + 3.0 for name, value in values.items()}
        state = replace(query.states[task], values=changed)
        return replace(query, states={**query.states, task: state})

    hub = LinkedHub(tmp_path, steeper, lost)
    assert any("the state of a is not the one that follows" in each for each in hub.problems())


def test_in_a_linked_run_a_part_under_another_left_holders_name_is_found(tmp_path: Path) -> None:
    hub = LinkedHub(tmp_path)
    for reply in hub.document["receipt"]["nodes"]["casd"]["replies"]:
        reply["left"] = {"caen": "lyon", "lyon": "caen"}[reply["left"]]
    problems = hub.problems()
    assert "caen: the part of round 1 is not the one that it signed" in problems
    assert "lyon: the part of round 1 is not the one that it signed" in problems


def test_in_a_linked_run_a_part_that_another_node_signed_is_found(tmp_path: Path) -> None:
    """Only the helper speaks for left holders."""
    hub = LinkedHub(tmp_path)
    nodes = hub.document["receipt"]["nodes"]
    nodes["cnam"] = nodes.pop("casd")
    assert "caen: the part of round 1 is not the one that it signed" in hub.problems()


def test_only_a_linked_study_has_several_attempts(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    hub.recorder.begin_attempt()
    rewritten(hub, lambda entry: entry)
    first = transcript.read(hub.path).rounds[0]
    hub.recorder.asking(lambda _: first.replies)(first.query)
    assert any("several attempts" in each for each in rewritten(hub, lambda entry: entry))


def test_a_private_study_and_a_training_have_no_transcript() -> None:
    exact = federations.study_of({"a": MODEL})
    private = federations.study_of({"a": MODEL}, privacy={"mode": "dp", "epsilon": 1})
    training = federations.study_of({"a": TRAINING})
    assert [transcript.is_kept(study_) for study_ in (exact, private, training)] == [
        True,
        False,
        False,
    ]


def test_an_answer_that_the_receipt_leaves_out_is_found_by_the_nodes_audit_log(
    tmp_path: Path,
) -> None:
    run = ticket("hub", 7, "a" * 64, "c", NAMES, 1.0).digest
    document = {"receipt": {"nodes": {"lyon": {"replies": [{"reply": "aa"}, {"reply": "bb"}]}}}}
    path = tmp_path / "audit.jsonl"

    def answered(number: int, digest: str, of_run: str = run) -> None:
        audit.write(path, "answered", run=of_run, round=number, sha256=digest)

    answered(1, "aa")
    answered(2, "bb")
    answered(1, "zz", "another run")
    assert replay.unshown(document, list(audit.entries(path)), run) == []
    answered(2, "cc")
    unshown = replay.unshown(document, list(audit.entries(path)), run)
    assert len(unshown) == 1 and "1 queries of the run" in unshown[0] and "rounds 2" in unshown[0]


def test_a_difference_in_rounding_between_machines_is_no_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(tmp_path)
    inverted = newton.np.linalg.inv
    monkeypatch.setattr(newton.np.linalg, "inv", lambda A: inverted(A) * (1 + 1e-13))
    assert hub.problems() == []
