"""The secure sum: exact over the survivors of any dropout, with one test for each lie of a hub."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.arrays import Words
from federation.messages import Part
from federation.secagg import aggregation, keys, masks, packing, participant, shares
from federation.secagg.errors import SecaggError
from federation.secagg.participant import SecAggState
from federation.secagg.terms import Advert, Opening, Terms

RNG = np.random.default_rng(7)


def identity(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def terms_of(
    n: int, threshold: int, *, colluders: int = 0, length: int = 50, bits: Any = 64
) -> Terms:
    roster = {f"n{i:03d}": keys.public_identity(identity(f"n{i:03d}")) for i in range(n)}
    return Terms("release-1", roster, threshold, colluders, length, bits)


@dataclass
class Sum:
    """One secure sum, a phase at a time, so that a test can stand between hub and nodes."""

    terms: Terms
    vectors: dict[str, Words]
    states: dict[str, SecAggState] = field(default_factory=dict)
    adverts: dict[str, Advert] = field(default_factory=dict)
    dealt: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    masked: dict[str, Words] = field(default_factory=dict)
    signatures: dict[str, bytes] = field(default_factory=dict)
    openings: dict[str, Opening] = field(default_factory=dict)

    def advertise(self, lost: frozenset[str] = frozenset()) -> None:
        for name in self.terms.roster.keys() - lost:
            self.states[name], self.adverts[name] = participant.advertise(
                self.terms, name, identity(name)
            )

    def deal(self, lost: frozenset[str] = frozenset()) -> None:
        for name in self.adverts.keys() - lost:
            self.states[name], self.dealt[name] = participant.deal(self.states[name], self.adverts)

    def mask(self, lost: frozenset[str] = frozenset()) -> None:
        routed = aggregation.route(self.terms, self.dealt)
        for name in self.dealt.keys() - lost:
            self.states[name], self.masked[name] = participant.mask(
                self.states[name], self.dealt, routed[name], self.vectors[name].copy()
            )

    def sign(self, lost: frozenset[str] = frozenset()) -> None:
        for name in self.masked.keys() - lost:
            self.states[name], self.signatures[name] = participant.sign_survivors(
                self.states[name], frozenset(self.masked)
            )

    def unmask(self, lost: frozenset[str] = frozenset()) -> None:
        for name in self.signatures.keys() - lost:
            self.states[name], self.openings[name] = participant.unmask(
                self.states[name], self.signatures
            )

    def total(self) -> Words:
        return aggregation.open_sum(
            self.terms, self.adverts, frozenset(self.dealt), self.masked, self.openings
        )


def begin(
    n: int = 5, threshold: int = 3, *, colluders: int = 0, length: int = 50, bits: Any = 64
) -> Sum:
    terms = terms_of(n, threshold, colluders=colluders, length=length, bits=bits)
    return Sum(
        terms, {name: RNG.integers(0, 2**bits, length, dtype=terms.dtype) for name in terms.roster}
    )


def through(sum_: Sum, until: str) -> Sum:
    for phase in ("advertise", "deal", "mask", "sign", "unmask"):
        getattr(sum_, phase)()
        if phase == until:
            return sum_
    return sum_


def plain(sum_: Sum, names: set[str]) -> Words:
    total = np.zeros(sum_.terms.length, sum_.terms.dtype)
    for name in names:
        total += sum_.vectors[name]
    return total


PHASES = ["advertise", "deal", "mask", "sign", "unmask"]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("phase", [None, *PHASES])
def test_the_sum_of_the_survivors_is_exact_whenever_a_node_drops(
    phase: str | None, bits: int
) -> None:
    sum_ = begin(5, 3, length=masks.CHUNK_BYTES * 8 // bits + 7, bits=bits)
    for name in PHASES:
        getattr(sum_, name)(frozenset({"n001", "n004"}) if name == phase else frozenset())
    np.testing.assert_array_equal(sum_.total(), plain(sum_, set(sum_.masked)))
    assert len(sum_.masked) == (3 if phase in ("advertise", "deal", "mask") else 5)


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 9), st.data())
def test_any_dropouts_that_leave_a_threshold_leave_the_sum_exact(
    n: int, data: st.DataObject
) -> None:
    threshold = n // 2 + 1
    sum_ = begin(n, threshold, length=3)
    spare = n - threshold
    for phase in PHASES:
        present = sorted(
            {
                "advertise": sum_.terms.roster,
                "deal": sum_.adverts,
                "mask": sum_.dealt,
                "sign": sum_.masked,
                "unmask": sum_.signatures,
            }[phase]
        )
        lost = data.draw(
            st.lists(st.sampled_from(present), max_size=spare, unique=True), label=phase
        )
        spare -= len(lost)
        getattr(sum_, phase)(frozenset(lost))
    np.testing.assert_array_equal(sum_.total(), plain(sum_, set(sum_.masked)))


def test_more_dropouts_than_the_threshold_allows_open_nothing() -> None:
    sum_ = through(begin(5, 4), "deal")
    sum_.mask(frozenset({"n000", "n001"}))
    with pytest.raises(SecaggError, match="3 nodes are left, but 4 are needed"):
        sum_.sign()


def test_strict_mode_stops_at_the_first_dropout() -> None:
    sum_ = begin(4, 4)
    sum_.advertise(frozenset({"n002"}))
    with pytest.raises(SecaggError, match="3 nodes are left, but 4 are needed"):
        sum_.deal()


# -- lies of the hub
def refused(match: str, act: Callable[[], object]) -> None:
    with pytest.raises(SecaggError, match=match):
        act()


def test_the_hub_swaps_a_nodes_keys_for_its_own() -> None:
    sum_ = through(begin(), "advertise")
    hub_keys = keys.pair(identity("hub"))
    sum_.adverts["n001"] = replace(sum_.adverts["n001"], mask=hub_keys.public)
    refused(
        "keys presented for n001 are not signed",
        lambda: participant.deal(sum_.states["n000"], sum_.adverts),
    )


def test_the_hub_shows_a_node_other_keys_than_its_own() -> None:
    sum_ = through(begin(), "advertise")
    _, other = participant.advertise(sum_.terms, "n000", identity("n000"))
    refused(
        "keys for this node that are not its own",
        lambda: participant.deal(sum_.states["n000"], sum_.adverts | {"n000": other}),
    )


def test_the_hub_inserts_a_node() -> None:
    sum_ = through(begin(), "advertise")
    refused(
        "not in the roster",
        lambda: participant.deal(
            sum_.states["n000"], sum_.adverts | {"ghost": sum_.adverts["n001"]}
        ),
    )


def test_the_hub_changes_the_roster_for_some() -> None:
    """The roster is part of what every key and signature is bound to:
    another roster, another sum."""
    sum_ = through(begin(5, 4), "advertise")
    other = replace(
        sum_.terms, roster={**sum_.terms.roster, "ghost": keys.public_identity(identity("ghost"))}
    )
    _, advert = participant.advertise(other, "n001", identity("n001"))
    refused(
        "keys presented for n001 are not signed",
        lambda: participant.deal(sum_.states["n000"], sum_.adverts | {"n001": advert}),
    )


def test_the_hub_gives_one_nodes_keys_as_anothers() -> None:
    sum_ = through(begin(), "advertise")
    refused(
        "not signed by its identity",
        lambda: participant.deal(
            sum_.states["n000"], sum_.adverts | {"n001": sum_.adverts["n002"]}
        ),
    )


def test_the_hub_replays_keys_of_an_earlier_sum() -> None:
    before = through(begin(), "advertise")
    sum_ = begin()
    sum_.terms = replace(sum_.terms, release="release-2")
    sum_.advertise()
    refused(
        "keys presented for n001 are not signed",
        lambda: participant.deal(
            sum_.states["n000"], sum_.adverts | {"n001": before.adverts["n001"]}
        ),
    )


def test_the_hub_changes_or_misdirects_an_envelope() -> None:
    sum_ = through(begin(), "deal")
    routed = aggregation.route(sum_.terms, sum_.dealt)["n000"]
    broken = bytes([routed["n001"][0] ^ 1]) + routed["n001"][1:]
    for envelopes in (routed | {"n001": broken}, routed | {"n001": routed["n002"]}):
        refused(
            "was changed, or belongs to another node",
            lambda envelopes=envelopes: participant.mask(
                sum_.states["n000"], sum_.dealt, envelopes, sum_.vectors["n000"].copy()
            ),
        )


def test_the_hub_withholds_an_envelope() -> None:
    """A node masks with all its neighbours among those who dealt, or not at all: none of its masks
    can be left out."""
    sum_ = through(begin(), "deal")
    routed = aggregation.route(sum_.terms, sum_.dealt)["n000"]
    del routed["n001"]
    refused(
        "envelopes must come from exactly the dealers that are neighbours",
        lambda: participant.mask(
            sum_.states["n000"], sum_.dealt, routed, sum_.vectors["n000"].copy()
        ),
    )


def test_the_hub_tells_nodes_of_different_dealers() -> None:
    """To cut n000 and n001 off from the others, it tells them that n004 did not deal, and the
    others that all did. The streams between the two groups then do not cancel,
    and what it opens is noise."""
    sum_ = through(begin(5, 3), "deal")
    survivors = {
        name: (set(sum_.dealt) - {"n004"} if name in ("n000", "n001") else set(sum_.dealt))
        for name in sum_.dealt
    }
    for name, dealers in survivors.items():
        envelopes = {sender: sum_.dealt[sender][name] for sender in dealers - {name}}
        sum_.states[name], sum_.masked[name] = participant.mask(
            sum_.states[name], dealers, envelopes, sum_.vectors[name].copy()
        )
    for name in sum_.dealt.keys() - {"n000", "n001"}:
        sum_.states[name], sum_.signatures[name] = participant.sign_survivors(
            sum_.states[name], frozenset(sum_.masked)
        )
    refused(
        "must be nodes that dealt",
        lambda: participant.sign_survivors(sum_.states["n000"], frozenset(sum_.masked)),
    )
    sum_.unmask()
    opened = sum_.total()
    assert not np.array_equal(opened, plain(sum_, set(sum_.masked)))
    assert np.unpackbits(
        (opened ^ plain(sum_, set(sum_.masked))).view(np.uint8)
    ).mean() == pytest.approx(0.5, abs=0.05)  # 3,200 bits: 5 sd


def test_the_hub_asks_for_a_masked_vector_twice() -> None:
    sum_ = through(begin(), "mask")
    refused(
        "answered once",
        lambda: participant.mask(
            sum_.states["n000"],
            sum_.dealt,
            aggregation.route(sum_.terms, sum_.dealt)["n000"],
            sum_.vectors["n000"].copy(),
        ),
    )


def test_the_hub_claims_that_a_survivor_dropped() -> None:
    """It holds n001's vector, and wants both its seed (from some) and its key (from others): each
    node signs one set."""
    sum_ = through(begin(5, 3), "mask")
    without = frozenset(sum_.masked) - {"n001"}
    state, _ = participant.sign_survivors(sum_.states["n000"], without)
    refused("answered once", lambda: participant.sign_survivors(state, frozenset(sum_.masked)))
    refused("this node included", lambda: participant.sign_survivors(sum_.states["n001"], without))


def test_the_hub_sends_two_survivor_sets() -> None:
    """With 2t > n + c no two sets find enough signers: here 3 sign one and 2 the other, of a
    threshold of 3."""
    sum_ = through(begin(5, 3), "mask")
    everyone, without = frozenset(sum_.masked), frozenset(sum_.masked) - {"n004"}
    signatures = {}
    for name, survivors in {
        "n000": everyone,
        "n001": everyone,
        "n002": everyone,
        "n003": without,
    }.items():
        sum_.states[name], signatures[name] = participant.sign_survivors(
            sum_.states[name], survivors
        )
    refused(
        "too few survivors have signed the same list",
        lambda: participant.unmask(sum_.states["n003"], signatures),
    )
    _, opening = participant.unmask(sum_.states["n000"], signatures)
    assert not opening.keys  # for the set that did find enough, nobody's key is opened


def test_the_hub_forges_signatures_of_survivors() -> None:
    sum_ = through(begin(5, 3), "sign")
    forged = dict.fromkeys(sum_.signatures, sum_.signatures["n000"])
    refused("too few survivors", lambda: participant.unmask(sum_.states["n000"], forged))


def test_the_hub_asks_for_shares_twice() -> None:
    sum_ = through(begin(), "unmask")
    refused("answered once", lambda: participant.unmask(sum_.states["n000"], sum_.signatures))


def test_no_node_ever_gives_both_shares_of_one() -> None:
    sum_ = through(begin(5, 3), "deal")
    sum_.mask(frozenset({"n003"}))
    sum_.sign()
    sum_.unmask()
    for opening in sum_.openings.values():
        assert set(opening.keys) == {"n003"} and not set(opening.seeds) & set(opening.keys)


@pytest.mark.parametrize(
    ("n", "threshold", "colluders"),
    [(2, 2, 0), (5, 2, 0), (4, 2, 0), (5, 3, 1), (5, 6, 0), (4, 4, 3)],
)
def test_terms_that_would_let_two_sets_open_are_refused(
    n: int, threshold: int, colluders: int
) -> None:
    refused(
        "secure sum needs|threshold must|hides nothing",
        lambda: participant.advertise(
            terms_of(n, threshold, colluders=colluders), "n000", identity("n000")
        ),
    )


def test_a_node_sits_only_under_its_own_identity() -> None:
    refused(
        "under its own identity",
        lambda: participant.advertise(terms_of(4, 3), "n000", identity("n001")),
    )


def test_a_low_order_key_is_refused() -> None:
    refused("public key is not valid", lambda: keys.shared(keys.pair(identity("x")), bytes(32)))


@pytest.mark.parametrize(("field_", "owner"), [("keys", "n003"), ("seeds", "n001")])
def test_a_wrong_share_is_told(field_: str, owner: str) -> None:
    """Of a dropped node's key or of a survivor's seed: or else the mask would stay in the sum, and
    look like numbers."""
    sum_ = through(begin(5, 3), "deal")
    sum_.mask(frozenset({"n003"}))
    sum_.sign()
    sum_.unmask()
    liar = sorted(sum_.openings)[0]
    sum_.openings[liar] = replace(
        sum_.openings[liar],
        **{field_: {**getattr(sum_.openings[liar], field_), owner: b"\x01" * shares.BYTES}},
    )
    refused(f"a share of {owner}'s {field_[:-1]} is wrong", sum_.total)


def test_what_the_hub_sees_of_a_node_is_uniform() -> None:
    """The same vector of zeros, masked 200 times: every byte value about equally often (chi-squared
    at 1e-6)."""
    seen = []
    for _ in range(200):
        sum_ = begin(3, 2, length=64)
        sum_.vectors["n000"][:] = 0
        seen.append(through(sum_, "mask").masked["n000"].view(np.uint8))
    counts = np.bincount(np.concatenate(seen), minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 380  # chi2.isf(1e-6, 255) is 372


def test_fewer_shares_than_the_threshold_say_nothing_of_the_secret() -> None:
    """For any other secret there is a polynomial through the same two shares:
    of three they tell nothing."""
    dealt = shares.split(b"\x05" * 32, [1, 2, 3], 3, lambda size: RNG.bytes(size))
    weight = shares.weights((1, 2, 3))
    assert shares.join(dealt, weight) == b"\x05" * 32
    wanted = int.from_bytes(b"\x07" * 32, "little")
    guess = sum(weight[point] * int.from_bytes(dealt[point], "little") for point in (1, 2))
    third = (wanted - guess) * pow(weight[3], -1, shares.PRIME) % shares.PRIME
    assert (
        shares.join({1: dealt[1], 2: dealt[2], 3: third.to_bytes(shares.BYTES, "little")}, weight)
        == b"\x07" * 32
    )


def part_of(values: list[float], sensitivity: float) -> Part:
    array = np.array(values)
    return Part({"x": array}, {"people": np.array([7])}, {"x": sensitivity})


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20), st.integers(3, 50))
def test_fixed_point_is_right_to_half_a_unit(values: list[float], nodes: int) -> None:
    part = part_of(values, np.inf)
    slots = packing.exact_slots(part)
    words = packing.pack(
        slots, [packing.to_steps(part.sums["x"], slots[0]), part.cells["people"]], nodes
    )
    back, people = packing.unpack(slots, words)
    assert (
        np.abs(back * slots[0].unit - part.sums["x"]).max()
        <= 2.0**-25 * (1 + 1e-9) + np.abs(part.sums["x"]).max() * 2**-52
    )
    assert people.tolist() == [7]


@pytest.mark.parametrize("value", [2.0**39, -(2.0**39), np.inf, np.nan, 2.0**39 / 3 + 1])
def test_what_does_not_fit_is_refused(value: float) -> None:
    part = part_of([value], np.inf)
    slots = packing.exact_slots(part)
    refused(
        "too large",
        lambda: packing.pack(
            slots, [packing.to_steps(part.sums["x"], slots[0]), part.cells["people"]], 3
        ),
    )


def test_the_unit_follows_what_one_person_can_do() -> None:
    """Costs of up to 10^12 each from ten million people fit, to 35 bits of one person's share."""
    part = part_of([1e19, -3e11], 1e12)
    slots = packing.exact_slots(part)
    assert slots[0].unit == 2.0**5
    words = sum(
        (
            packing.pack(
                slots, [packing.to_steps(part.sums["x"], slots[0]), part.cells["people"]], 3
            )
            for _ in range(3)
        ),
        np.zeros(3, np.uint64),
    )
    assert (packing.unpack(slots, words)[0] * slots[0].unit).tolist() == pytest.approx(
        [3e19, -9e11], rel=1e-9
    )


# -- large rosters: neighbours on a ring
def connected(names: set[str], terms: Terms) -> bool:
    reached = {min(names)}
    while True:
        more = {other for name in reached for other in terms.neighbours_of(name) & names} | reached
        if more == reached:
            return reached == names
        reached = more


@settings(max_examples=40, deadline=None)
@given(
    st.integers(33, 120), st.integers(0, 25), st.integers(0, 4), st.randoms(use_true_random=False)
)
def test_the_ring_stays_in_one_piece_without_dropouts_and_colluders(
    n: int, dropouts: int, colluders: int, rng: object
) -> None:
    """Whichever they are: the worst choice, a stretch of the ring, as well as any other."""
    terms = Terms("r", {f"n{i:03d}": bytes([i]) * 32 for i in range(n)}, n - dropouts, colluders, 1)
    if not 2 * terms.threshold > n + colluders:
        return
    terms.check()
    assert all(
        name in terms.neighbours_of(other)
        for name in terms.ring
        for other in terms.neighbours_of(name)
    )  # both ways
    assert {len(terms.neighbours_of(name)) for name in terms.ring} == {terms.degree}
    assert terms.shares_needed > colluders
    removed = dropouts + colluders
    stretches = [
        set(terms.ring[:removed]),
        set(terms.ring[1 : 1 + removed // 2])
        | set(terms.ring[n // 2 : n // 2 + removed - removed // 2]),
    ]
    for out in [*stretches, *(set(rng.sample(terms.ring, removed)) for _ in range(5))]:  # type: ignore[attr-defined]
        assert connected(set(terms.roster) - out, terms)


@pytest.mark.parametrize("phase", [None, *PHASES])
def test_the_sum_over_a_ring_is_exact_whenever_nodes_drop(phase: str | None) -> None:
    sum_ = begin(40, 35, colluders=2, length=masks.CHUNK_BYTES // 8 + 7)
    assert sum_.terms.degree == 12
    # neighbours of each other: the most shares lost in one place
    lost = frozenset(sum_.terms.ring[:5])
    for name in PHASES:
        getattr(sum_, name)(lost if name == phase else frozenset())
    np.testing.assert_array_equal(sum_.total(), plain(sum_, set(sum_.masked)))


@pytest.mark.parametrize(
    "encoding",
    [
        bytes(32),
        b"\x01" + bytes(31),
        (2**255 - 20).to_bytes(32, "little"),
        (2**255 - 19).to_bytes(32, "little"),
        bytes(31) + b"\x80",
    ],
)
def test_an_identity_of_small_order_signs_nothing(encoding: bytes) -> None:
    """Plain Ed25519 accepts the zero signature under some of them, for one message in a few."""
    assert not any(
        keys.is_signed(encoding, bytes([1, *bytes(63)]), bytes([i]))
        or keys.is_signed(encoding, bytes(64), bytes([i]))
        for i in range(64)
    )
