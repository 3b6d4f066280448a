"""The cost of a simulated federation grows as the number of its nodes: what all nodes compute from
the same public bytes is computed once in a process."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from federation.arrays import Words
from federation.messages import Part, Query, State, TaskId
from federation.secagg import aggregation, keys, participant, shares, terms
from federation.secagg.errors import SecaggError
from nodes import secure_sum, service
from simulations import local
from strategies import admissible, once_per_state, registry
from strategies.admissible import Limits
from tests import federations
from tests.growth.test_results import exponent

TASK = TaskId("a")
SIZES = [40, 80, 160]  # in rosters above 32 nodes, each has 12 neighbours


def identity(name: str) -> bytes:
    return hashlib.sha256(f"growth {name}".encode()).digest()


def roster_of(n: int) -> tuple[tuple[str, bytes], ...]:
    names = [f"n{n}-{i:03d}" for i in range(n)]
    return tuple((name, keys.public_identity(identity(name))) for name in names)


@dataclass(frozen=True)
class Signed:
    """A secure sum of n vectors, in which each node reads the messages as they are sent, up to the
    signatures of the survivors."""

    agreed: terms.Terms
    states: dict[str, participant.SecAggState]
    adverts: dict[str, bytes]
    dealt: dict[str, dict[str, bytes]]
    masked: dict[str, Words]
    signatures: dict[str, bytes]


def signed_by_all(n: int) -> Signed:
    roster = roster_of(n)
    agreed = [terms.agreed(f"growth {n}", roster, n - 2, 0, 3) for _ in roster]
    nodes = dict(zip(dict(roster), agreed, strict=True))
    states, adverts, dealt, masked = {}, {}, {}, {}
    for name, node_terms in nodes.items():
        states[name], advert = participant.advertise(node_terms, name, identity(name))
        adverts[name] = advert.to_bytes()
    for name in nodes:
        read = {other: terms.advert_from(content) for other, content in adverts.items()}
        states[name], dealt[name] = participant.deal(states[name], read)
    routed = aggregation.route(agreed[0], dealt)
    for name in nodes:
        vector = np.ones(3, np.uint64)
        states[name], masked[name] = participant.mask(states[name], dealt, routed[name], vector)
    signed = {}
    for name in nodes:
        states[name], signed[name] = participant.sign_survivors(states[name], frozenset(nodes))
    return Signed(agreed[0], states, adverts, dealt, masked, signed)


def summed(n: int) -> Words:
    of = signed_by_all(n)
    openings = {
        name: participant.unmask(state, of.signatures)[1] for name, state in of.states.items()
    }
    adverts = {name: terms.advert_from(content) for name, content in of.adverts.items()}
    return aggregation.open_sum(of.agreed, adverts, frozenset(of.dealt), of.masked, openings)


def counts_of(n: int, patch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often a sum over n nodes does what costs processor time."""
    memories: dict[str, Any] = {
        "signatures verified": keys._is_valid,
        "keys parsed": terms.advert_from,
        "terms made": terms.agreed,
    }
    secrets, looked_at, real, is_signed = [0], [0], keys.shared, keys.is_signed

    def shared(pair: keys.Pair, public: bytes) -> bytes:
        secrets[0] += 1
        return real(pair, public)

    def signed(public: bytes, signature: bytes, content: bytes) -> bool:
        looked_at[0] += 1
        return is_signed(public, signature, content)

    patch.setattr(keys, "shared", shared)
    patch.setattr(keys, "is_signed", signed)
    before = {name: function.cache_info().misses for name, function in memories.items()}
    assert summed(n).tolist() == [n] * 3
    patch.undo()
    done = {name: f.cache_info().misses - before[name] for name, f in memories.items()}
    return {**done, "secrets agreed": secrets[0], "signatures looked at": looked_at[0]}


def test_a_secure_sum_verifies_parses_and_agrees_as_often_a_node_whatever_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = [counts_of(n, monkeypatch) for n in SIZES]
    assert {each["terms made"] for each in counted} == {1}
    for name in counted[0].keys() - {"terms made"}:
        assert exponent(SIZES, [each[name] for each in counted]) < 1.1, name
    assert counted[-1]["signatures verified"] <= 2 * SIZES[-1]  # of keys, and of survivors


def test_a_share_of_a_node_that_holds_none_does_not_spoil_a_secret() -> None:
    """The first name of the roster, whose share would be taken first, is no holder."""
    agreed = terms.agreed("growth shares", roster_of(40), 38, 0, 3)
    first = min(agreed.roster)
    name = next(each for each in agreed.roster if first not in agreed.holders_of(each))
    points = {holder: agreed.point(holder) for holder in agreed.holders_of(name)}
    seed = identity("seed")
    split = shares.split(seed, list(points.values()), agreed.shares_needed, os.urandom)
    openings = {
        holder: participant.Opening({name: split[point]}, {}) for holder, point in points.items()
    }
    openings[first] = participant.Opening({name: bytes(len(split[points[name]]))}, {})
    advert = terms.Advert(b"", b"", participant.seed_hash(agreed, name, seed), b"")
    opened = aggregation._seed_key(agreed, name, advert, openings)
    assert opened == participant.seed_key(agreed, seed)


@pytest.mark.parametrize("forged", ["shuffled", "of another list", "too few"])
def test_signatures_that_one_node_has_verified_count_for_another_with_their_bytes_alone(
    forged: str,
) -> None:
    of = signed_by_all(40)
    first, second = of.states["n40-000"], of.states["n40-001"]
    participant.unmask(first, of.signatures)
    shown = {
        "shuffled": dict(zip(of.signatures, reversed(of.signatures.values()), strict=True)),
        "of another list": {
            name: keys.sign(identity(name), of.agreed.survivors_content(frozenset([name])))
            for name in of.signatures
        },
        "too few": dict(list(of.signatures.items())[: of.agreed.quorum - 1]),
    }[forged]
    with pytest.raises(SecaggError, match="too few survivors have signed the same list"):
        participant.unmask(second, shown)
    participant.unmask(second, of.signatures)


def test_a_node_that_has_verified_nothing_takes_no_signature_for_verified() -> None:
    of = signed_by_all(40)
    none: Any = dict.fromkeys(of.signatures)
    with pytest.raises((SecaggError, TypeError)):
        participant.unmask(of.states["n40-001"], none)


@pytest.mark.parametrize("names", [(), ("a", "b"), ('"\\', "é\u2028\x07", "😀")])
def test_a_context_is_the_list_in_json(names: tuple[str, ...]) -> None:
    agreed = terms.agreed("growth context", roster_of(3), 3, 0, 3)
    written = json.dumps([agreed.digest.hex(), 'pur"pose', *names]).encode()
    assert agreed.context('pur"pose', *names) == written


@pytest.mark.parametrize("change", ["signature", "content", "public", "length"])
def test_a_verification_that_was_kept_holds_for_its_bytes_alone(change: str) -> None:
    public, content = keys.public_identity(identity("a")), b"content"
    values = [public, keys.sign(identity("a"), content), content]
    assert keys.is_signed(*values) and keys.is_signed(*values)
    changed = {
        "signature": [public, keys.sign(identity("b"), content), content],
        "content": [public, values[1], b"other"],
        "public": [keys.public_identity(identity("b")), values[1], content],
        "length": [public, values[1] + b"\0", content],
    }[change]
    assert not keys.is_signed(*changed)
    assert not keys.is_signed(*changed)  # a refusal that was kept is still a refusal
    assert keys.is_signed(*values)


@pytest.mark.parametrize("content", [b"not json", b'{"a": 1}', b'["\\u0007"]', b"[1]"])
def test_a_list_of_names_that_is_none_is_refused_each_time(content: bytes) -> None:
    for _ in range(2):
        with pytest.raises(SecaggError):
            secure_sum._names({secure_sum.LIST: content})


def test_a_list_of_names_is_parsed_once_for_all_nodes_of_a_process() -> None:
    before = secure_sum._parsed_names.cache_info().misses
    lists = [secure_sum._names({secure_sum.LIST: b'["growth a", "growth b"]'}) for _ in range(5)]
    assert all(names == {"growth a", "growth b"} for names in lists)
    assert secure_sum._parsed_names.cache_info().misses == before + 1


# -- states
PEOPLE = federations.contract_of(
    "dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n"
    "  x: {type: number, range: [-1, 1]}\n  y: {type: boolean}\n"
)
AVERAGING = {"a": {"run": "fedavg", "model": "y ~ x", "rounds": 3}}


def times_judged(nodes: int, folder: Path, patch: pytest.MonkeyPatch) -> int:
    rng, judged, real = np.random.default_rng(0), [0], admissible.problem
    table = pandas.DataFrame(
        {"id": np.arange(60 * nodes), "x": rng.uniform(-1, 1, 60 * nodes).round(3)}
    )
    table["y"] = rng.integers(0, 2, 60 * nodes)
    sites = federations.sites_of(table, np.arange(60 * nodes) % nodes, PEOPLE, folder)

    def problem(limits: Limits, state: State) -> str:
        judged[0] += 1
        return real(limits, state)

    patch.setattr(admissible, "problem", problem)
    federations.result(federations.run(federations.study_of(AVERAGING), PEOPLE, sites))
    patch.undo()
    return judged[0]


def test_a_state_is_judged_once_for_all_nodes_of_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert times_judged(2, tmp_path, monkeypatch) == times_judged(6, tmp_path, monkeypatch)


def test_what_follows_from_a_state_is_that_of_the_state_and_the_task_and_ends_with_the_state() -> (
    None
):
    tasks = [registry.plan(federations.study_of(AVERAGING), PEOPLE)["a"] for _ in range(2)]
    assert tasks[0] is not tasks[1]
    states = [tasks[0].analysis.start(tasks[0]) for _ in range(2)]
    values = [
        once_per_state.once("name", state, task, object) for state in states for task in tasks
    ]
    assert len(set(values)) == 4
    assert once_per_state.once("name", states[1], tasks[1], object) is values[3]
    assert once_per_state.once("other", states[1], tasks[1], object) not in values
    dropped, held = weakref.ref(states[0]), len(once_per_state._VALUES)
    del states[0]
    gc.collect()
    assert dropped() is None and len(once_per_state._VALUES) < held


def test_the_nodes_of_one_process_drop_a_state_that_they_have_answered(tmp_path: Path) -> None:
    """Also one whose negative zeros are other numbers at a node."""
    sites = federations.sites_of(
        pandas.DataFrame({"id": np.arange(60), "x": np.linspace(-1, 1, 60), "y": [0, 1] * 30}),
        np.arange(60) % 1,
        PEOPLE,
        tmp_path,
    )
    study, (context,) = federations.study_of(AVERAGING), local.contexts_of(sites)
    task = registry.plan(study, PEOPLE)["a"]
    state = task.analysis.start(task)
    name = sites[0].name
    query = Query(study, PEOPLE.hash, 1, (name,), {TASK: state})
    reply = service.answer(query, context, federations.NOW)
    assert isinstance(reply.answers[TASK], Part)
    dropped = weakref.ref(state)
    del query, state, reply
    gc.collect()
    assert dropped() is None
