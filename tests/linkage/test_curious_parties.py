"""Each party keeps to the protocol, and looks at all that it receives: names, orders, sizes, words.

Each test attacks as that party would."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest

from federation.linkage import canaries, encoding, matching, sealing, streams
from federation.linkage.errors import LinkError
from federation.linkage.sealing import Channel
from nodes import link_parties
from simulations import linked, local
from tests.linkage import parties, two_holders
from tests.linkage.two_holders import CONTRACTS, NOW

STUDY = two_holders.study(analyses={"a": {"run": "crosstab", "rows": "grade", "columns": "drug"}})


@pytest.fixture(scope="module")
def tables():
    return two_holders.make(700, 3000, 600)


class Views:
    """What each party received in a link: by receiver and kind, the opened content."""

    def __init__(self, monkeypatch):
        self.seen: dict[tuple[str, str], list[bytes]] = {}
        honest = sealing.unseal

        def unseal(channel: Channel, envelopes):
            for content in honest(channel, envelopes):
                self.seen.setdefault((channel.receiver, channel.kind), []).append(content)
                yield content

        monkeypatch.setattr(sealing, "unseal", unseal)

    def words(self, receiver: str, kind: str, *shape: int) -> np.ndarray:
        return encoding.words(self.seen[receiver, kind], *shape)

    def stream(self) -> list[streams.Piece]:
        return [encoding.piece_from_bytes(piece) for piece in self.seen["casd", "rows"]]


def views_of(tables, folder, monkeypatch, study=STUDY) -> Views:
    views = Views(monkeypatch)
    with linked.linking(
        study, CONTRACTS, two_holders.holders(folder, tables), local.SIMULATED, NOW
    ):
        return views


# -- the helper
def test_the_helper_meets_no_pseudonym_twice_in_two_links_of_the_same_people(
    tables, tmp_path, monkeypatch
):
    names = []
    for _ in range(2):
        views = views_of(tables, tmp_path, monkeypatch)
        names.append(views.words("casd", "list", 2)[:, 0])
        names.append(np.concatenate([piece.pseudonyms[:, 0] for piece in views.stream()]))
    assert len(np.intersect1d(names[0], names[1])) > 500  # matches of the first link
    assert not len(np.intersect1d(np.concatenate(names[:2]), np.concatenate(names[2:])))


@pytest.mark.parametrize("key", ["number", None], ids=["a person's key", "one row a person"])
def test_the_order_of_the_stream_tells_the_helper_nothing_of_a_person(key, tmp_path):
    """A file in the order of the NIR, and DuckDB's groups in the order of a hash that everybody can
    compute, would both say who is at which place. Here two readings have nothing in common, neither
    with each other nor with the file: rank correlations of 20,000 people have an s.d. of 0.007."""
    path = tmp_path / "insurer.parquet"
    duckdb.sql(
        "SELECT (1000000000000 + i)::VARCHAR AS number, i % 500 AS spent FROM range(20000) t(i)"
    ).to_parquet(str(path))
    orders = [order_of(path, key, bytes([seed]) * 32) for seed in (1, 2)]
    in_file = np.arange(20_000)
    for order, other in ((orders[0], in_file), (orders[1], in_file), orders):
        assert abs(np.corrcoef(order, other)[0, 1]) < 4 * 0.0071
    again = order_of(path, key, bytes([1]) * 32)
    assert np.array_equal(again, orders[0])  # so the order depends on the key alone


def order_of(path, key, secret: bytes) -> np.ndarray:
    """(n,) the place in the stream of each row of the file."""
    read = two_holders.people_alone(path, key, secret)
    blocks = np.concatenate([people.blocks[0] for people in read])
    numbers = [int(bytes(block[:13])) - 10**12 for block in blocks]
    return np.argsort(numbers)


def test_the_helper_cannot_tell_the_canaries_by_their_place_in_the_stream():
    """If they were the last before the dummies, it could keep their matches and mix all others: the
    right places of 64 canaries are as spread as uniform ones, of s.d. 0.29 around 0.5."""
    left, right = np.arange(1000, 3000), np.arange(20_000)
    words = parties.with_ones(right)
    places = []
    for seed in range(4):
        join = parties.join(left, right, words, seed=seed)
        named = np.concatenate([p.pseudonyms[:, 0] for p in join.right if not p.dummies])
        shared = parties.holder_keys(parties.terms(), parties.agreed(parties.terms(), seed))
        mine = streams.made_up_names(shared, join.left.made_up, (2,))[:64, 0]
        places.append(np.flatnonzero(np.isin(named, mine)) / len(named))
    spread = np.concatenate(places)
    assert len(spread) == 4 * 64
    assert spread.mean() == pytest.approx(0.5, abs=4 * 0.29 / 16)
    assert spread.std() == pytest.approx(0.29, rel=0.2)
    assert all(of_run.min() < 0.2 and of_run.max() > 0.8 for of_run in places)


def test_a_helper_that_keeps_the_last_rows_of_the_stream_and_mixes_the_others_is_caught():
    """The attack on canaries that stand last: it passed before they were mixed among the people."""

    def lie(matched, stream):
        last = np.concatenate([p.all_tokens[:, 0] for p in stream if not p.dummies])[-64:]
        others = np.flatnonzero(matched.is_matched & ~np.isin(matched.tokens[:, 0], last))
        tokens, rows = matched.tokens.copy(), matched.rows.copy()
        tokens[others], rows[others] = tokens[np.roll(others, 1)], rows[np.roll(others, 1)]
        return matching.Matched(tokens, rows, matched.is_matched, matched.right_people)

    left, right = np.arange(1000, 3000), np.arange(20_000)
    join = parties.join(left, right, parties.with_ones(right), lie=lie)
    with pytest.raises(LinkError, match="link_canaries"):
        canaries.check(join.left.made_up, join.made_up)


def test_the_rows_of_other_people_stay_uniform_for_the_helper_after_the_left_opened_its_own(
    tables, tmp_path, monkeypatch
):
    """It subtracts every mask that it was given from every row that it was not meant to open."""
    views = views_of(tables, tmp_path, monkeypatch)
    width = 2  # that there is a row, and drug
    pieces = [piece for piece in views.stream() if not piece.dummies]
    rows = np.concatenate([piece.rows for piece in pieces])
    names = np.concatenate([piece.pseudonyms[:, 0] for piece in pieces])
    others = rows[~np.isin(names, views.words("casd", "list", 2)[:, 0])]
    shares = views.words("casd", "columns", width + 1)[:, :width]  # and grade, the left's own
    assert len(others) > 2000
    tried = others[: len(shares)] + shares[: len(others)]
    assert not (tried[:, 0] <= 1).any()
    assert is_uniform(tried)
    assert is_uniform(others)


def is_uniform(words: np.ndarray) -> bool:
    """256 bins of the bytes: chi-squared of 255 degrees of freedom has an s.d. of 23."""
    counts = np.bincount(np.ascontiguousarray(words).view(np.uint8).ravel(), minlength=256)
    expected = counts.sum() / 256
    return abs(((counts - expected) ** 2 / expected).sum() - 255) < 5 * 23


def test_words_that_are_not_uniform_are_seen_to_be_so():
    """Planted faults: the test above can fail. 2,000 rows of 2 words are what it looks at least."""
    words = np.random.default_rng(0).integers(0, 2**64, (2000, 2), np.uint64)
    assert is_uniform(words)
    assert not is_uniform(words & np.uint64(2**63 - 1))
    assert not is_uniform(np.where(np.arange(4000).reshape(2000, 2) % 16 == 0, 0, words))
    assert not is_uniform(np.arange(4000, dtype=np.uint64).reshape(2000, 2))


def test_the_helper_cannot_count_the_matches_before_the_left_has_checked_its_canaries(
    tables, tmp_path, monkeypatch
):
    """The number of made-up people at both holders is drawn for each link, and the left tells the
    places only after the tokens are given. A fixed number would give one count in 8 links; a
    number drawn at epsilon 1 gives one with probability 0.46^8 = 0.002, and the tests' streams are
    fixed."""
    small = two_holders.make(60, 80, 40)
    counted = set()
    honest = link_parties.helper_match

    def match(link, listed, message, width):
        held, tokens = honest(link, listed, message, width)
        counted.add(int(held.matched.is_matched.sum()))
        return held, tokens

    monkeypatch.setattr(link_parties, "helper_match", match)
    given = two_holders.holders(tmp_path, small)
    for _ in range(8):
        with linked.linking(STUDY, CONTRACTS, given, local.SIMULATED, NOW):
            pass
    here = small.left[small.left["year"] >= 2005]["nir"]
    real = here.isin(small.right["number"].str.replace(" ", "")).sum()
    assert len(counted) >= 2
    assert min(counted) >= real + 64


# -- the right holder
def test_the_right_holder_learns_the_size_of_the_left_in_steps_alone(tables, tmp_path, monkeypatch):
    """From 1,024 on the steps are the powers of two and their halves; below it is one step."""
    sizes = set()
    for n in (300, 500, 700):
        some = two_holders.Tables(tables.left.head(n), tables.right)
        views = views_of(some, tmp_path, monkeypatch)
        assert {kind for receiver, kind in views.seen if receiver == "cnam"} == {"size"}
        sizes.add(b"".join(views.seen["cnam", "size"]))
    assert sizes == {(1024).to_bytes(8, "little")}


def test_a_number_of_dummies_between_the_steps_is_refused():
    """A helper could ask for any number, to tell the right holder or the hub a size."""
    holder = link_parties.holder(parties.terms(), STUDY.link, bytes(32), 1, np.random.bytes)
    with pytest.raises(LinkError, match="link_shape"):
        next(link_parties.right_rows(holder, iter([]), 1025))


# -- the left holder
def test_what_the_left_receives_has_the_same_size_whoever_is_linked(tables, tmp_path, monkeypatch):
    """As many tokens as it listed, and rows of people that it made up itself."""
    sizes = []
    for both in (500, 650):
        views = views_of(two_holders.make(700, 3000, both), tmp_path, monkeypatch)
        listed = len(views.words("casd", "list", 2))
        assert len(views.words("lyon", "tokens", 2)) == listed
        in_list = (two_holders.make(700, 3000, both).left["year"] >= 2005).sum()
        sizes.append(len(views.words("lyon", "made-up rows", 2)) - (listed - in_list))
        assert {kind for receiver, kind in views.seen if receiver == "lyon"} == {
            "tokens",
            "made-up rows",
        }
    assert sizes == [0, 0]


def test_the_left_sees_tokens_that_repeat_in_no_later_link(tables, tmp_path, monkeypatch):
    """Otherwise it would know its unmatched people by their dummies, or follow the matched ones."""
    tokens = [
        views_of(tables, tmp_path, monkeypatch).words("lyon", "tokens", 2)[:, 0] for _ in range(2)
    ]
    assert len(np.unique(np.concatenate(tokens))) == sum(map(len, tokens))
