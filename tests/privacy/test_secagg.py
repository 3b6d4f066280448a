"""The secure sum: exact over the survivors whoever drops when, and one test for each lie that a hub may tell."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.secagg import fixed, hub, keys, masks, node, shares
from federation.secagg.errors import SecaggError
from federation.secagg.masks import Words
from federation.secagg.node import Seat
from federation.secagg.terms import Advert, Opening, Terms

RNG = np.random.default_rng(7)


def identity(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def terms_of(n: int, threshold: int, *, colluders: int = 0, length: int = 50) -> Terms:
    roster = {f"n{i:03d}": keys.public_identity(identity(f"n{i:03d}")) for i in range(n)}
    return Terms("release-1", roster, threshold, colluders, length)


@dataclass
class Sum:
    """One secure sum, a phase at a time, so that a test can stand between hub and nodes."""

    terms: Terms
    vectors: dict[str, Words]
    seats: dict[str, Seat] = field(default_factory=dict)
    adverts: dict[str, Advert] = field(default_factory=dict)
    dealt: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    masked: dict[str, Words] = field(default_factory=dict)
    signatures: dict[str, bytes] = field(default_factory=dict)
    openings: dict[str, Opening] = field(default_factory=dict)

    def advertise(self, gone: frozenset[str] = frozenset()) -> None:
        for name in self.terms.roster.keys() - gone:
            self.seats[name], self.adverts[name] = node.open_seat(self.terms, name, identity(name))

    def deal(self, gone: frozenset[str] = frozenset()) -> None:
        for name in self.adverts.keys() - gone:
            self.seats[name], self.dealt[name] = node.deal(self.seats[name], self.adverts)

    def mask(self, gone: frozenset[str] = frozenset()) -> None:
        routed = hub.route(self.dealt)
        for name in self.dealt.keys() - gone:
            self.seats[name], self.masked[name] = node.mask(self.seats[name], routed[name], self.vectors[name])

    def sign(self, gone: frozenset[str] = frozenset()) -> None:
        for name in self.masked.keys() - gone:
            self.seats[name], self.signatures[name] = node.sign_survivors(self.seats[name], frozenset(self.masked))

    def unmask(self, gone: frozenset[str] = frozenset()) -> None:
        for name in self.signatures.keys() - gone:
            self.seats[name], self.openings[name] = node.unmask(self.seats[name], self.signatures)

    def total(self) -> Words:
        return hub.open_sum(self.terms, self.adverts, frozenset(self.dealt), self.masked, self.openings)


def begin(n: int = 5, threshold: int = 3, *, colluders: int = 0, length: int = 50) -> Sum:
    terms = terms_of(n, threshold, colluders=colluders, length=length)
    return Sum(terms, {name: RNG.integers(0, 2**64, length, dtype=np.uint64) for name in terms.roster})


def through(one: Sum, until: str) -> Sum:
    for phase in ("advertise", "deal", "mask", "sign", "unmask"):
        getattr(one, phase)()
        if phase == until:
            return one
    return one


def plain(one: Sum, names: set[str]) -> Words:
    total = np.zeros(one.terms.length, np.uint64)
    for name in names:
        total += one.vectors[name]
    return total


PHASES = ["advertise", "deal", "mask", "sign", "unmask"]


@pytest.mark.parametrize("phase", [None, *PHASES])
def test_the_sum_of_the_survivors_is_exact_whenever_a_node_drops(phase: str | None) -> None:
    one = begin(5, 3, length=masks.CHUNK + 7)
    for name in PHASES:
        getattr(one, name)(frozenset({"n001", "n004"}) if name == phase else frozenset())
    np.testing.assert_array_equal(one.total(), plain(one, set(one.masked)))
    assert len(one.masked) == (3 if phase in ("advertise", "deal", "mask") else 5)


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 9), st.data())
def test_any_dropouts_that_leave_a_threshold_leave_the_sum_exact(n: int, data: st.DataObject) -> None:
    threshold = n // 2 + 1
    one = begin(n, threshold, length=3)
    spare = n - threshold
    for phase in PHASES:
        present = sorted({"advertise": one.terms.roster, "deal": one.adverts, "mask": one.dealt, "sign": one.masked, "unmask": one.signatures}[phase])
        gone = data.draw(st.lists(st.sampled_from(present), max_size=spare, unique=True), label=phase)
        spare -= len(gone)
        getattr(one, phase)(frozenset(gone))
    np.testing.assert_array_equal(one.total(), plain(one, set(one.masked)))


def test_more_dropouts_than_the_threshold_allows_open_nothing() -> None:
    one = through(begin(5, 4), "deal")
    one.mask(frozenset({"n000", "n001"}))
    with pytest.raises(SecaggError, match="3 nodes are left, and 4 are needed"):
        one.sign()


def test_strict_mode_stops_at_the_first_dropout() -> None:
    one = begin(4, 4)
    one.advertise(frozenset({"n002"}))
    with pytest.raises(SecaggError, match="3 nodes are left, and 4 are needed"):
        one.deal()


# -- lies of the hub
def refused(match: str, act: Callable[[], object]) -> None:
    with pytest.raises(SecaggError, match=match):
        act()


def test_the_hub_swaps_a_nodes_keys_for_its_own() -> None:
    one = through(begin(), "advertise")
    own = keys.pair(identity("hub"))
    one.adverts["n001"] = replace(one.adverts["n001"], mask=own.public)
    refused("keys shown for n001 are not signed", lambda: node.deal(one.seats["n000"], one.adverts))


def test_the_hub_shows_a_node_other_keys_than_its_own() -> None:
    one = through(begin(), "advertise")
    _, other = node.open_seat(one.terms, "n000", identity("n000"))
    refused("other keys than this node's own", lambda: node.deal(one.seats["n000"], one.adverts | {"n000": other}))


def test_the_hub_inserts_a_node() -> None:
    one = through(begin(), "advertise")
    refused("not in the roster", lambda: node.deal(one.seats["n000"], one.adverts | {"ghost": one.adverts["n001"]}))


def test_the_hub_changes_the_roster_for_some() -> None:
    """The roster is part of what every key and signature is bound to: another roster, another sum."""
    one = through(begin(5, 4), "advertise")
    other = replace(one.terms, roster={**one.terms.roster, "ghost": keys.public_identity(identity("ghost"))})
    _, advert = node.open_seat(other, "n001", identity("n001"))
    refused("keys shown for n001 are not signed", lambda: node.deal(one.seats["n000"], one.adverts | {"n001": advert}))


def test_the_hub_gives_one_nodes_keys_as_anothers() -> None:
    one = through(begin(), "advertise")
    refused("not signed by its identity", lambda: node.deal(one.seats["n000"], one.adverts | {"n001": one.adverts["n002"]}))


def test_the_hub_replays_keys_of_an_earlier_sum() -> None:
    before = through(begin(), "advertise")
    one = begin()
    one.terms = replace(one.terms, release="release-2")
    one.advertise()
    refused("keys shown for n001 are not signed", lambda: node.deal(one.seats["n000"], one.adverts | {"n001": before.adverts["n001"]}))


def test_the_hub_changes_or_misdirects_an_envelope() -> None:
    one = through(begin(), "deal")
    routed = hub.route(one.dealt)["n000"]
    broken = bytes([routed["n001"][0] ^ 1]) + routed["n001"][1:]
    refused("was changed, or is meant for another", lambda: node.mask(one.seats["n000"], routed | {"n001": broken}, one.vectors["n000"]))
    refused("was changed, or is meant for another", lambda: node.mask(one.seats["n000"], routed | {"n001": routed["n002"]}, one.vectors["n000"]))


def test_the_hub_asks_for_a_masked_vector_twice() -> None:
    one = through(begin(), "mask")
    refused("answered once", lambda: node.mask(one.seats["n000"], hub.route(one.dealt)["n000"], one.vectors["n000"]))


def test_the_hub_claims_that_a_survivor_dropped() -> None:
    """It holds n001's vector, and wants both its seed (from some) and its key (from others): each node signs one set."""
    one = through(begin(5, 3), "mask")
    without = frozenset(one.masked) - {"n001"}
    seat, _ = node.sign_survivors(one.seats["n000"], without)
    refused("answered once", lambda: node.sign_survivors(seat, frozenset(one.masked)))
    refused("this node among them", lambda: node.sign_survivors(one.seats["n001"], without))


def test_the_hub_sends_two_survivor_sets() -> None:
    """With 2t > n + c no two sets find enough signers: here 3 sign one and 2 the other, of a threshold of 3."""
    one = through(begin(5, 3), "mask")
    everyone, without = frozenset(one.masked), frozenset(one.masked) - {"n004"}
    signatures = {}
    for name, said in {"n000": everyone, "n001": everyone, "n002": everyone, "n003": without}.items():
        one.seats[name], signatures[name] = node.sign_survivors(one.seats[name], said)
    refused("too few survivors have signed the same set", lambda: node.unmask(one.seats["n003"], signatures))
    _, opening = node.unmask(one.seats["n000"], signatures)
    assert not opening.keys  # for the set that did find enough, nobody's key is opened


def test_the_hub_forges_signatures_of_survivors() -> None:
    one = through(begin(5, 3), "sign")
    forged = dict.fromkeys(one.signatures, one.signatures["n000"])
    refused("too few survivors", lambda: node.unmask(one.seats["n000"], forged))


def test_the_hub_asks_for_shares_twice() -> None:
    one = through(begin(), "unmask")
    refused("answered once", lambda: node.unmask(one.seats["n000"], one.signatures))


def test_no_node_ever_gives_both_shares_of_one() -> None:
    one = through(begin(5, 3), "deal")
    one.mask(frozenset({"n003"}))
    one.sign()
    one.unmask()
    for opening in one.openings.values():
        assert set(opening.keys) == {"n003"} and not set(opening.seeds) & set(opening.keys)


@pytest.mark.parametrize(("n", "threshold", "colluders"), [(2, 2, 0), (5, 2, 0), (4, 2, 0), (5, 3, 1), (5, 6, 0)])
def test_terms_that_would_let_two_sets_open_are_refused(n: int, threshold: int, colluders: int) -> None:
    refused("secure sum needs|threshold must", lambda: node.open_seat(terms_of(n, threshold, colluders=colluders), "n000", identity("n000")))


def test_a_node_sits_only_under_its_own_identity() -> None:
    refused("under its own identity", lambda: node.open_seat(terms_of(4, 3), "n000", identity("n001")))


def test_a_low_order_key_is_refused() -> None:
    refused("not a proper one", lambda: keys.agree(identity("x"), bytes(32), b"p"))


def test_a_wrong_share_of_a_key_is_told() -> None:
    one = through(begin(5, 3), "deal")
    one.mask(frozenset({"n003"}))
    one.sign()
    one.unmask()
    liar = sorted(one.openings)[0]
    one.openings[liar] = replace(one.openings[liar], keys={"n003": b"\x01" * shares.BYTES})
    refused("a share of n003's key is wrong", one.total)


def test_what_the_hub_sees_of_a_node_is_uniform() -> None:
    """The same vector of zeros, masked 200 times: every byte value about equally often (chi-squared at 1e-6)."""
    seen = []
    for _ in range(200):
        one = begin(3, 2, length=64)
        one.vectors["n000"][:] = 0
        seen.append(through(one, "mask").masked["n000"].view(np.uint8))
    counts = np.bincount(np.concatenate(seen), minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 380  # chi2.isf(1e-6, 255) is 372


def test_fewer_shares_than_the_threshold_say_nothing_of_the_secret() -> None:
    """For any other secret there is a polynomial through the same two shares: of three they tell nothing."""
    dealt = shares.split(b"\x05" * 32, [1, 2, 3], 3, lambda size: RNG.bytes(size))
    weight = shares.weights([1, 2, 3])
    assert shares.join(dealt, weight) == b"\x05" * 32
    wanted = int.from_bytes(b"\x07" * 32, "little")
    known = sum(weight[point] * int.from_bytes(dealt[point], "little") for point in (1, 2))
    third = (wanted - known) * pow(weight[3], -1, shares.PRIME) % shares.PRIME
    assert shares.join({1: dealt[1], 2: dealt[2], 3: third.to_bytes(shares.BYTES, "little")}, weight) == b"\x07" * 32


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20), st.integers(3, 50))
def test_fixed_point_is_right_to_half_a_unit(values: list[float], nodes: int) -> None:
    array = np.array(values)
    back = fixed.decode(fixed.encode(array, nodes))
    assert np.abs(back - array).max() <= 2.0**-25 * (1 + 1e-9) + np.abs(array).max() * 2**-52


@pytest.mark.parametrize("value", [2.0**39, -(2.0**39), np.inf, np.nan, 2.0**39 / 3])
def test_what_does_not_fit_is_refused(value: float) -> None:
    with pytest.raises(SecaggError, match="too large"):
        fixed.encode(np.array([value]), 3)


def test_negative_sums_come_back() -> None:
    words = fixed.encode(np.array([-2.5, 3.0]), 4) + fixed.encode(np.array([1.25, -7.0]), 4)
    assert fixed.decode(words).tolist() == [-1.25, -4.0]
