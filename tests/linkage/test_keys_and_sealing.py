"""Keys signed by roster identities, and messages that a hub can neither read, change, replay nor
cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from federation.linkage import keys, sealing
from federation.linkage.errors import LinkError
from federation.linkage.sealing import Channel
from federation.secagg import keys as identities
from tests.linkage import parties


def met(attempt: str = "first", **changes):
    agreement = parties.terms(attempt, **changes)
    return {
        name: keys.meet(agreement, name, parties.IDENTITIES[name], np.random.default_rng(i).bytes)
        for i, name in enumerate(parties.NAMES)
    }


def test_each_pair_of_parties_has_one_secret_which_the_third_lacks():
    secrets = parties.agreed(parties.terms())
    pairs = list(itertools.combinations(parties.NAMES, 2))
    for a, b in pairs:
        assert secrets[a][b] == secrets[b][a]
    assert len({secrets[a][b] for a, b in pairs}) == 3


def test_a_hub_that_swaps_keys_is_refused():
    parties_met = met()
    adverts = {name: advert for name, (_, advert) in parties_met.items()}
    forged = identities.pair(bytes([9]) * 32).public
    faults = {
        "the hub's own key": forged + adverts["cnam"][32:],
        "the key of another party": adverts["casd"],
        "a cut advert": adverts["cnam"][:-1],
        "no advert": b"",
        "an advert of another attempt": met("second")["cnam"][1],
        "an advert for another study": met(study_hash="other")["cnam"][1],
        "an advert under other rules": met(on="psa 2")["cnam"][1],
    }
    for fault in faults.values():
        with pytest.raises(LinkError, match="link_signature"):
            keys.agree(parties_met["lyon"][0], adverts | {"cnam": fault})


def test_a_point_of_small_order_is_refused_though_it_is_signed():
    agreement = parties.terms()
    meeting, _ = keys.meet(agreement, "lyon", parties.IDENTITIES["lyon"])
    public = bytes(32)
    content = agreement.context("advert", "cnam", public.hex())
    advert = public + identities.sign(parties.IDENTITIES["cnam"], content)
    with pytest.raises(LinkError, match="not valid"):
        keys.agree(meeting, {"cnam": advert, "casd": advert})


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"helper": "cnam"}, "link_parties"),
        ({"left": "cnam"}, "link_parties"),
        ({"helper": "unknown"}, "link_roster"),
        ({"roster": {name: bytes(32) for name in parties.NAMES}}, "link_roster"),
    ],
)
def test_terms_of_three_parties_that_are_not_three_are_refused(changes, rule):
    with pytest.raises(LinkError, match=rule):
        keys.meet(parties.terms(**changes), "cnam", parties.IDENTITIES["cnam"])


def test_a_party_that_the_roster_holds_under_another_identity_is_refused():
    with pytest.raises(LinkError, match="link_roster"):
        keys.meet(parties.terms(), "lyon", parties.IDENTITIES["cnam"])


# -- messages
def channel(**changes) -> Channel:
    values = {"sender": "cnam", "receiver": "casd", "kind": "rows", "secret": bytes(32)}
    return Channel(**{"terms": parties.terms(), **values, **changes})


CHUNKS = [b"one", b"two " * 100, b"", b"four"]


@pytest.mark.parametrize("content", [[], [b""], [b"one"], CHUNKS])
def test_a_message_opens_to_what_was_sealed(content):
    assert b"".join(sealing.unseal(channel(), sealing.seal(channel(), content))) == b"".join(
        content
    )


def test_nothing_of_a_message_is_readable_and_no_two_messages_are_equal():
    first, second = (b"".join(sealing.seal(channel(), [b"a known row"])) for _ in range(2))
    assert b"known" not in first
    assert first != second


@pytest.mark.parametrize(
    "fault",
    [
        lambda sealed: sealed[:-1],
        lambda sealed: sealed[1:],
        lambda sealed: [sealed[1], sealed[0], *sealed[2:]],
        lambda sealed: [sealed[0], sealed[0], *sealed[1:]],
        lambda sealed: [*sealed, sealed[-1]],
        lambda sealed: [bytes([sealed[0][0] ^ 1]) + sealed[0][1:], *sealed[1:]],
        lambda sealed: [sealed[0][:-1], *sealed[1:]],
        lambda sealed: [b"", *sealed[1:]],
        lambda sealed: [],
    ],
)
def test_a_message_that_is_cut_changed_or_put_in_another_order_does_not_open(fault):
    sealed = list(sealing.seal(channel(), CHUNKS))
    with pytest.raises(LinkError, match="link_message"):
        list(sealing.unseal(channel(), fault(sealed)))


@pytest.mark.parametrize(
    "other",
    [
        {"sender": "lyon"},
        {"receiver": "lyon"},
        {"kind": "tokens"},
        {"secret": bytes([1]) * 32},
        {"terms": parties.terms("second")},
        {"terms": parties.terms(study_hash="edited")},
    ],
)
def test_a_message_opens_in_its_own_place_only(other):
    with pytest.raises(LinkError, match="link_message"):
        list(sealing.unseal(channel(**other), sealing.seal(channel(), CHUNKS)))
