"""The join: exact, blind, and stopped by every lie of a helper that canaries can detect."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from federation.linkage import canaries, keys, matching, pseudonyms, streams
from federation.linkage.errors import LinkError
from federation.linkage.keys import HolderKeys
from tests.linkage import parties

FEWEST_P = 1e-4  # of a seeded test of uniformity: the seeds below pass, a bias of 1 % does not


def people(n_left: int, n_right: int, both: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    everyone = rng.permutation(n_left + n_right - both) + 1
    left = rng.permutation(everyone[:n_left])
    right = rng.permutation(everyone[n_left - both :])
    return left, right, parties.with_ones(right * 3, right % 7)


@pytest.mark.parametrize("both", [0, 1, 150, 300])
@pytest.mark.parametrize("n_right", [300, 2000])
def test_the_left_gets_the_right_row_of_each_common_person_and_zeros_for_the_others(both, n_right):
    left, right, words = people(300, n_right, both)
    join = parties.join(left, right, words)
    by_person = dict(zip(right.tolist(), words.tolist(), strict=True))
    assert join.rows.tolist() == [by_person.get(person, [0, 0, 0]) for person in left.tolist()]
    assert join.rows[:, 0].sum() == both


@pytest.mark.parametrize(("n_left", "n_right"), [(0, 50), (50, 0), (0, 0)])
def test_a_holder_without_people_links_nobody(n_left, n_right):
    left, right, words = people(n_left, n_right, 0)
    assert not parties.join(left, right, words).rows.any()


def test_every_word_of_64_bits_survives_the_masks():
    right = np.arange(1, 2001)
    words = np.random.default_rng(3).integers(0, 2**64, (2000, 5), dtype=np.uint64, endpoint=False)
    words[:, 0] = 1
    assert np.array_equal(parties.join(right[::-1], right, words).rows, words[::-1])


def test_two_rows_of_one_identifier_are_refused_at_either_holder():
    right = np.array([4, 5, 6])
    with pytest.raises(LinkError, match="link_duplicates"):
        parties.join(np.array([4, 4]), right, parties.with_ones(right))
    twice = np.array([4, 5, 4])
    with pytest.raises(LinkError, match="link_duplicates"):
        parties.join(np.array([4, 7]), twice, parties.with_ones(twice))


def test_two_rows_of_one_identifier_are_refused_across_pieces(monkeypatch):
    monkeypatch.setattr(streams, "CHUNK_ROWS", 2)
    right = np.array([4, 5, 6, 4])
    with pytest.raises(LinkError, match="link_duplicates"):
        parties.join(np.array([4]), right, parties.with_ones(right))


def test_pieces_of_any_size_give_the_same_rows(monkeypatch):
    left, right, words = people(90, 200, 60)
    whole = parties.join(left, right, words)
    monkeypatch.setattr(streams, "CHUNK_ROWS", 7)
    assert np.array_equal(parties.join(left, right, words).rows, whole.rows)


# -- what each party sees
def views(join):
    """What the left and the helper see, by name."""
    return {
        "tokens": join.matched.tokens,
        "stream": np.concatenate([piece.rows for piece in join.right]),
        "pseudonyms": join.left.pseudonyms,
        "matched": join.matched.rows,
    }


def are_uniform(seen):
    counts = np.bincount(np.ascontiguousarray(seen).view(np.uint8).ravel(), minlength=256)
    return stats.chisquare(counts).pvalue > FEWEST_P


def test_tokens_at_the_left_and_words_at_the_helper_are_uniform():
    left, right, words = people(4000, 20_000, 3000)
    assert all(map(are_uniform, views(parties.join(left, right, words)).values()))


@pytest.mark.parametrize("view", ["tokens", "stream", "pseudonyms", "matched"])
@pytest.mark.parametrize(
    "fault",
    [
        lambda seen: np.where(np.arange(len(seen))[:, None] % 10 == 0, np.uint64(0), seen),
        lambda seen: seen & np.uint64(2**63 - 1),
        lambda seen: np.arange(seen.size, dtype=np.uint64).reshape(seen.shape),
    ],
    ids=["every tenth row zero", "highest bit clear", "counted"],
)
def test_words_that_are_not_uniform_are_seen_to_be_so(view, fault):
    """Planted faults: the test above can fail for each of its views."""
    left, right, words = people(4000, 20_000, 3000)
    assert not are_uniform(fault(views(parties.join(left, right, words))[view]))


@pytest.mark.parametrize("masked_share", [0, 0.9], ids=["no mask", "a mask on nine words of ten"])
def test_rows_without_masks_are_seen_by_the_helper(masked_share, monkeypatch):
    """The planted fault in the protocol itself: the helper would read the rows."""
    honest = streams.pseudonyms.masks

    def some(key, tokens, width):
        masks = honest(key, tokens, width)
        return masks * (np.arange(masks.size).reshape(masks.shape) % 10 < 10 * masked_share)

    monkeypatch.setattr(streams.pseudonyms, "masks", some)
    left, right, words = people(4000, 20_000, 3000)
    seen = views(parties.join(left, right, words))
    assert not are_uniform(seen["stream"])
    assert are_uniform(seen["tokens"])


def membership_guess(join, left, right, tokens):
    """How often the left, which has the key of pseudonyms, is right about who is at the right, if
    it takes the rank of its own pseudonym for the rank of the token."""
    share = join.left.pseudonyms[:, 0] / 2**64
    guess = np.abs(tokens - share) < 0.02
    people_of = join.left.order[join.left.order < len(left)]
    here = np.isin(left[people_of], right)
    return (guess[join.left.order < len(left)] == here).mean()


def test_the_left_guesses_membership_no_better_than_by_chance():
    left, right, words = people(20_000, 100_000, 10_000, seed=4)
    join = parties.join(left, right, words, seed=4)
    seen = join.matched.tokens[:, 0] / 2**64
    assert membership_guess(join, left, right, seen) == pytest.approx(0.5, abs=0.01)


def test_tokens_in_the_order_of_pseudonyms_would_give_membership_away():
    """The planted fault: the test above can fail."""
    left, right, words = people(20_000, 100_000, 10_000, seed=4)
    join = parties.join(left, right, words, seed=4)
    token_of = np.concatenate([piece.all_tokens[:, 0] for piece in join.right])
    pseudonym_of = np.concatenate([piece.pseudonyms[:, 0] for piece in join.right])
    n_dummies = len(token_of) - len(pseudonym_of)
    drawn = np.random.default_rng(4).integers(0, 2**64, n_dummies, np.uint64)
    ranks = np.argsort(np.argsort(np.concatenate([pseudonym_of, drawn]))) / len(token_of)
    place = dict(zip(token_of.tolist(), ranks, strict=True))
    seen = np.array([place[token] for token in join.matched.tokens[:, 0].tolist()])
    assert membership_guess(join, left, right, seen) > 0.95


def test_no_mask_serves_twice_in_a_stream_nor_in_two_attempts():
    left, right, words = people(50, 400, 30)
    join = parties.join(left, right, np.zeros_like(words) + 1)
    rows = np.concatenate([piece.rows for piece in join.right])
    assert len(np.unique(rows[:, 0])) == len(rows)
    first, second = (parties.terms(attempt) for attempt in ("first", "second"))
    secret = bytes(32)
    assert keys.holder_keys(first, secret) != keys.holder_keys(second, secret)


def test_the_number_of_dummies_covers_the_left_and_tells_its_size_in_steps_of_a_half():
    for n in (0, 1, 1000, 1024, 1025, 1536, 1537, 2_000_000):
        dummies = streams.dummies_for(n)
        assert n <= dummies <= max(1024, 1.5 * n + 1)
    assert len({streams.dummies_for(n) for n in range(1, 4097)}) == 5


# -- a helper that lies
def of_pieces(pieces):
    """The tokens and the rows of some pieces of a stream."""
    return (
        np.concatenate([piece.all_tokens for piece in pieces]),
        np.concatenate([piece.rows for piece in pieces]),
    )


def dropped(share: float, seed: int):
    """The helper keeps this share of its matches, and gives dummies for the others."""

    def lie(matched, stream):
        rng = np.random.default_rng(seed)
        places = np.flatnonzero(matched.is_matched)
        lost = places[rng.random(len(places)) >= share] if share else places[1:]
        tokens, rows = matched.tokens.copy(), matched.rows.copy()
        dummies = [piece for piece in stream if piece.dummies]
        used = (~matched.is_matched).sum()
        spare = of_pieces(dummies)
        matching.fill(tokens, rows, lost, spare[0][used:], spare[1][used:])
        return matching.Matched(tokens, rows, matched.is_matched, matched.right_people)

    return lie


def caught(lie, seed: int = 1) -> bool:
    left, right, words = people(1200, 4000, 1000, seed=seed)
    join = parties.join(left, right, words, seed=seed, lie=lie)
    try:
        canaries.check(join.left.made_up, join.made_up)
    except LinkError:
        return True
    return False


def test_canaries_pass_an_honest_helper():
    assert not any(caught(lambda matched, stream: matched, seed) for seed in range(3))


def test_canaries_catch_a_helper_that_keeps_one_person():
    assert caught(dropped(0.0, 0))


def test_canaries_catch_a_helper_that_keeps_nine_matches_in_ten_20_times_of_20():
    assert sum(caught(dropped(0.9, seed), seed) for seed in range(20)) == 20


def test_canaries_catch_a_helper_that_pairs_the_rows_of_all_matches_anew():
    def lie(matched, stream):
        places = np.flatnonzero(matched.is_matched)
        tokens, rows = matched.tokens.copy(), matched.rows.copy()
        tokens[places], rows[places] = tokens[np.roll(places, 1)], rows[np.roll(places, 1)]
        return matching.Matched(tokens, rows, matched.is_matched, matched.right_people)

    assert caught(lie)


def test_absent_people_catch_a_helper_that_opens_other_people_of_the_right():
    """It gives the tokens of rows that nobody of the left has, in the place of dummies."""

    def lie(matched, stream):
        tokens, rows = matched.tokens.copy(), matched.rows.copy()
        real = [piece for piece in stream if not piece.dummies]
        all_tokens, all_rows = of_pieces(real)
        others = np.flatnonzero(~np.isin(all_tokens[:, 0], tokens[:, 0]))
        unmatched = np.flatnonzero(~matched.is_matched)
        tokens[unmatched], rows[unmatched] = (
            all_tokens[others[: len(unmatched)]],
            all_rows[others[: len(unmatched)]],
        )
        return matching.Matched(tokens, rows, matched.is_matched, matched.right_people)

    assert caught(lie)


def test_canaries_catch_tokens_that_belong_to_no_row():
    def lie(matched, stream):
        return matching.Matched(
            matched.tokens[::-1].copy(), matched.rows, matched.is_matched, matched.right_people
        )

    assert caught(lie)


def test_canaries_catch_a_right_holder_that_sends_another_row_for_them():
    left, right, words = people(100, 400, 50)
    join = parties.join(left, right, words)
    other = join.made_up.copy()
    other[5, 1] += np.uint64(1)
    with pytest.raises(LinkError, match="link_canaries"):
        canaries.check(join.left.made_up, other)


def test_made_up_people_can_be_nobody():
    made_up = canaries.make(bytes(32), 200, 3)
    assert (made_up.blocks[:, 0] >= 0x80).all()
    assert len(np.unique(made_up.blocks, axis=0)) == 400
    assert made_up.at_right == 200
    with pytest.raises(LinkError, match="canaries"):
        canaries.make(bytes(32), 15, 3)


def test_padding_hides_the_number_of_matches_by_its_epsilon():
    """Two-sided geometric noise of scale 1 has a variance of 2 exp(-1) / (1 - exp(-1))^2 = 1.84."""
    drawn = np.array(
        [
            len(canaries.make(bytes([a, b]) * 16, 16, 1, 1.0).blocks) - 32
            for a in range(50)
            for b in range(40)
        ]
    )
    assert drawn.min() >= 0
    assert drawn.mean() == pytest.approx(13, abs=4 * np.sqrt(1.84 / 2000))
    assert drawn.var() == pytest.approx(1.84, rel=0.2)  # a variance of 2000 draws: 4 s.d. is 0.2


def test_a_right_holder_with_too_few_dummies_is_refused():
    names = np.arange(20, dtype=np.uint64).reshape(10, 2)
    piece = streams.Piece(names[:1] + np.uint64(1000), names, bytes(32), 0, dummies=9)
    with pytest.raises(LinkError, match="link_dummies"):
        matching.match(names, [piece], 2)


@pytest.mark.parametrize(
    "change", [{"start": 5}, {"start": 11}, {"token_key": bytes([1]) * 32}], ids=str
)
def test_a_stream_whose_tokens_could_serve_two_rows_is_refused(change):
    names = np.arange(20, dtype=np.uint64).reshape(10, 2)
    first = streams.Piece(names, names, bytes(32), 0)
    second = streams.Piece(names + np.uint64(20), names, bytes(32), 10)
    dummies = streams.Piece(names[:0], names, bytes(32), 20, dummies=10)
    assert matching.match(names, [first, second, dummies], 2).is_matched.all()
    with pytest.raises(LinkError, match="link_shape"):
        matching.match(names, [first, replace(second, **change), dummies], 2)


@pytest.mark.parametrize("n", [1, 5, 4000])
def test_an_index_finds_each_of_its_names_and_no_other(n):
    """Also names that share their first word, or all of its first bits, with one of the index."""
    rng = np.random.default_rng(n)
    names = rng.integers(0, 2**64, (n, 2), np.uint64)
    names[1:3, 0] = names[0, 0]
    others = np.concatenate([names ^ np.uint64([0, 1]), names ^ np.uint64([1, 0]), ~names])
    sought = rng.permutation(np.concatenate([names, others]))
    hits, places = matching.index(names).find(sought)
    assert sorted(places.tolist()) == list(range(n))
    assert np.array_equal(sought[hits], names[places])


def test_a_list_that_holds_no_pseudonyms_is_refused():
    names = np.zeros((1000, 2), np.uint64)
    names[:, 1] = np.arange(1000)
    with pytest.raises(LinkError, match="link_shape"):
        matching.index(names)


@pytest.mark.parametrize("width", [1, 2, 3, 10])
def test_masks_follow_from_tokens_alone_whatever_their_order(width):
    key, row_tokens = bytes(range(32)), pseudonyms.tokens(bytes(32), np.arange(100))
    mask = pseudonyms.masks(key, row_tokens, width)
    assert np.array_equal(pseudonyms.masks(key, row_tokens[::-1], width), mask[::-1])
    assert len(np.unique(mask)) == 100 * width


@pytest.mark.slow
def test_a_join_of_1e6_with_1e7_people_and_10_words_takes_under_15_seconds_of_cpu():
    shared = HolderKeys(bytes(32), bytes([1]) * 32, bytes([2]) * 32)
    made_up, entropy = canaries.make(shared.made_up, 64, 10), np.random.default_rng(0).bytes
    started = time.process_time()
    listed = streams.left_list(
        shared, parties.names(shared, np.arange(10**6) * 10), made_up, entropy
    )

    def chunks():
        for start in range(0, 10**7, 10**6):
            numbers = np.arange(start, start + 10**6)
            places = streams.fresh_places(10**6, entropy) // np.uint64(10)
            yield streams.Placed(
                parties.names(shared, numbers),
                parties.with_ones(*[numbers + j for j in range(9)]),
                places + np.uint64(start // 10**6 * (2**64 // 10)),
            )

    dummies = streams.dummies_for(len(listed.order))
    stream = streams.right_stream(shared, chunks(), made_up, dummies, entropy)
    matched = matching.match(listed.pseudonyms, stream, 10)
    share = streams.left_share(shared, matched.tokens, 10)
    canaries.check(made_up, listed.made_up_of(matching.opened(share, matched.rows)))
    assert matched.is_matched.sum() == 10**6 + 64
    assert time.process_time() - started < 15
