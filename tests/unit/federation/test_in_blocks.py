"""What the rules of disclosure compute over blocks of people is what they compute of the whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.arrays import Floats, Ints
from federation.disclosure import in_blocks
from federation.disclosure import support as whole
from federation.disclosure.in_blocks import DesignPiece, MaskPiece, OffMode, Pairs, Piece
from nodes import support as node_support
from strategies import support

COLUMNS = ("normal", "binary", "rare", "whole", "constant", "heavy")


@dataclass(frozen=True)
class Table:
    """A column, a design, the codes of a factor and conditions, with the people and the blocks of
    the rows."""

    values: Floats
    X: Floats
    codes: Ints | None
    masks: np.ndarray
    person: Ints | None
    blocks: list[Ints]

    def people(self, rows: Ints) -> Ints | None:
        if self.person is None:
            return None
        return np.unique(self.person[rows], return_inverse=True)[1]

    def column(self) -> list[Piece]:
        return [Piece(self.values[rows], self.people(rows)) for rows in self.blocks]

    def design(self) -> list[DesignPiece]:
        return [
            DesignPiece(
                self.X[rows], self.people(rows), None if self.codes is None else self.codes[rows]
            )
            for rows in self.blocks
        ]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, size = draw(st.integers(1, 120)), draw(st.integers(1, 40))
    person = None
    if draw(st.booleans()):
        person = np.unique(np.sort(rng.integers(0, max(1, n // 2), n)), return_inverse=True)[1]
    values = {
        "normal": rng.normal(size=n),
        "binary": rng.integers(0, 2, n).astype(float),
        "rare": (rng.random(n) < 0.05).astype(float),
        "whole": np.round(rng.normal(size=n)),
        "constant": np.full(n, 3.0),
        "heavy": rng.standard_cauchy(n),
    }[draw(st.sampled_from(COLUMNS))]
    values[rng.random(n) < 0.1] = np.nan
    X = rng.normal(size=(n, draw(st.integers(0, 4))))
    if X.shape[1] > 2 and draw(st.booleans()):
        X[:, 2] = X[:, 0] - 2 * X[:, 1]
    if X.shape[1] > 1 and draw(st.booleans()):
        X[:, 1] = 7
    codes = rng.integers(0, 5, n) if draw(st.booleans()) else None
    owners = np.arange(n) if person is None else person
    blocks = [
        np.flatnonzero((owners >= first) & (owners < first + size))
        for first in range(0, int(owners.max()) + 1, size)
    ]
    return Table(values, X, codes, rng.random((n, 3)) < 0.5, person, blocks)


@settings(max_examples=150, deadline=None)
@given(table=tables())
def test_people_off_the_mode_are_counted_over_blocks(table: Table) -> None:
    counted = OffMode()
    for values, person in table.column():
        counted.add(values, person)
    there = ~np.isnan(table.values)
    person = None if table.person is None else table.person[there]
    assert counted.support == support._off_mode(table.values[there], person)


def test_enough_people_off_the_mode_end_the_counting() -> None:
    rng = np.random.default_rng(1)
    counted = OffMode()
    counted.add(rng.normal(size=20_000), None)
    assert counted.is_settled and counted.support >= in_blocks.ENOUGH
    # Of few people with other values in each block, all blocks are needed.
    counted = OffMode()
    for _ in range(30):
        counted.add(np.r_[np.zeros(9_000), np.ones(10)], None)
    assert counted.support == 300


def test_two_values_of_which_each_block_has_one_are_two_sides() -> None:
    counted = OffMode()
    for value, n in ((0.0, 500), (1.0, 4), (0.0, 500)):
        counted.add(np.full(n, value), None)
    assert (counted.support, counted.away, counted.mode) == (4, 4, 0.0)


@settings(max_examples=150, deadline=None)
@given(table=tables())
def test_the_largest_share_and_the_median_are_those_of_the_whole(table: Table) -> None:
    there = ~np.isnan(table.values)
    person = None if table.person is None else table.person[there]
    expected = whole.share(table.values[there], person)
    assert in_blocks.share(table.column) == pytest.approx(expected, abs=1e-12)
    if there.any():
        assert in_blocks.median(table.column) == np.median(table.values[there])
    rows_per_person = 1 if table.person is None else int(np.bincount(table.person).max())
    if in_blocks.shows_no_large_share(table.column, 0.25, rows_per_person):
        assert expected <= 0.25


@settings(max_examples=150, deadline=None)
@given(table=tables(), far=st.booleans())
def test_the_largest_leverage_is_that_of_the_whole(table: Table, far: bool) -> None:
    hat = float(whole.leverage(table.X, table.person, table.codes).max())
    rows_per_person = 1 if table.person is None else int(np.bincount(table.person).max())
    widths = np.ptp(table.X, axis=0) + (1.0 if far else 1e-9)
    for limit in (hat - 1e-6, hat + 1e-6):
        for bounds in (None, widths):
            verdict = in_blocks.exceeds_leverage(table.design, limit, rows_per_person, bounds)
            assert verdict == (hat > limit)


@settings(max_examples=150, deadline=None)
@given(table=tables(), n_apart=st.integers(0, 3), some=st.integers(0, 5))
def test_columns_judged_elsewhere_are_left_out_as_in_the_whole(
    table: Table, n_apart: int, some: int
) -> None:
    """And levels."""
    n_apart, unjudged = min(n_apart, table.X.shape[1]), list(range(some))
    table.X[:, :n_apart] = table.X[:, :n_apart] > 1.0
    apart, X = table.X[:, :n_apart] if n_apart else None, table.X[:, n_apart:]
    hat = float(whole.leverage(X, table.person, table.codes, apart, unjudged).max())

    def design() -> list[DesignPiece]:
        return [piece._replace(n_apart=n_apart) for piece in table.design()]

    for limit in (hat - 1e-6, hat + 1e-6):
        verdict = in_blocks.exceeds_leverage(design, limit, 9, None, unjudged)
        assert verdict == (hat > limit)


@settings(max_examples=100, deadline=None)
@given(table=tables(), n_apart=st.integers(0, 3), is_judged=st.booleans())
def test_levels_that_end_with_a_block_are_levels_of_the_whole(
    table: Table, n_apart: int, is_judged: bool
) -> None:
    """As those of people whose rows are compared with each other only."""
    codes = np.arange(len(table.values)) if table.person is None else table.person
    n_apart, everyone = min(n_apart, table.X.shape[1]), range(int(codes.max()) + 1)
    apart, X = table.X[:, :n_apart] if n_apart else None, table.X[:, n_apart:]
    unjudged = () if is_judged else everyone
    hat = float(whole.leverage(X, table.person, codes, apart, unjudged).max())

    def design() -> list[DesignPiece]:
        return [
            DesignPiece(
                table.X[rows],
                people,
                np.unique(codes[rows], return_inverse=True)[1],
                n_apart,
                levels_end=True,
            )
            for rows in table.blocks
            for people in [table.people(rows)]
        ]

    for limit in (hat - 1e-6, hat + 1e-6):
        verdict = in_blocks.exceeds_leverage(design, limit, 9, None, () if is_judged else None)
        assert verdict == (hat > limit)


def test_a_column_with_missing_values_proves_nothing() -> None:
    X = np.random.default_rng(3).normal(size=(500, 2))
    X[7, 1] = np.nan
    for n_apart in (0, 1, 2):
        piece = DesignPiece(X, n_apart=n_apart)
        assert in_blocks.exceeds_leverage(lambda piece=piece: [piece], 0.5, 1)


@settings(max_examples=150, deadline=None)
@given(table=tables(), n_levels=st.integers(1, 5))
def test_people_off_the_mode_of_their_level_are_counted_over_blocks(
    table: Table, n_levels: int
) -> None:
    values = np.nan_to_num(table.values)
    levels = np.arange(len(values)) * 7 % n_levels
    rows_per_person = 1 if table.person is None else int(np.bincount(table.person).max())
    pairs = Pairs(rows_per_person)
    for rows in table.blocks:
        pairs.add(values[rows], levels[rows])
    away = node_support._away_within(values, levels)
    assert np.array_equal(values != pairs.most(n_levels)[levels], away)
    assert pairs.least <= in_blocks.count_people(away, table.person)


def test_the_first_blocks_can_show_that_nobody_is_singled_out() -> None:
    rng = np.random.default_rng(2)
    read = []

    def design() -> object:
        for number in range(9):
            read.append(number)
            yield DesignPiece(rng.normal(size=(5_000, 3)).clip(-5, 5))

    assert not in_blocks.exceeds_leverage(design, 0.5, 1, np.full(3, 10.0))  # type: ignore[arg-type]
    assert read == [0]


@settings(max_examples=100, deadline=None)
@given(table=tables(), k=st.integers(1, 60), wide=st.integers(0, 60))
def test_conditions_that_hold_for_nearly_the_same_people_are_seen(
    table: Table, k: int, wide: int
) -> None:
    used = ~np.isnan(table.values)
    masks = table.masks & used[:, None]

    def blocks() -> list[MaskPiece]:
        return [MaskPiece(masks[rows], used[rows], table.people(rows)) for rows in table.blocks]

    def people(mask: np.ndarray) -> int:
        return in_blocks.count_people(mask, table.person)

    is_wide = [min(people(m & used), people(~m & used)) >= wide for m in masks.T]
    expected = any(
        people(masks[:, i] != masks[:, j]) < k and is_wide[i] and is_wide[j]
        for i in range(3)
        for j in range(i)
    )
    most = 1 if table.person is None else int(np.bincount(table.person).max())
    assert in_blocks.are_alike(blocks, 3, k, most, wide=wide) == expected
    none = MaskPiece(masks[:, :0], used, table.person)
    assert not in_blocks.are_alike(lambda: [none], 0, k, most, wide=wide)
