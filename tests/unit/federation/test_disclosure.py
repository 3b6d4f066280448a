"""The small-cell rules: the numbers shown must not reveal the numbers withheld."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from federation.disclosure import node_door, rules, suppression
from federation.disclosure.rules import Rules
from federation.messages import Part

K = 11


def part(people: int, parameters: int = 0, **cells: list[int]) -> Part:
    return Part(
        {},
        {
            "people": np.array([people]),
            **{name: np.array(counts) for name, counts in cells.items()},
        },
        {},
        parameters,
    )


@pytest.mark.parametrize(
    ("people", "everyone", "rule"),
    [
        (10, 500, "cohort_size"),
        (0, 0, "cohort_size"),
        (495, 500, "cohort_complement"),
        (500, 500, None),
        (489, 500, None),
        (11, 22, None),
    ],
)
def test_a_cohort_and_its_complement_are_nobody_or_enough(
    people: int, everyone: int, rule: str | None
) -> None:
    refusal = node_door.check_cohort(people, everyone, Rules(K))
    assert (refusal.rule if refusal else None) == rule


def test_too_many_coefficients_for_the_people_are_refused() -> None:
    refusal = node_door.check_part(part(30, parameters=10), Rules(K))
    assert refusal is not None and refusal.rule == "parameters"
    assert node_door.check_part(part(31, parameters=10), Rules(K)) is None


def test_small_cells_stay_at_a_node_that_shows_none() -> None:
    refusal = node_door.check_part(part(100, counts=[90, 10]), Rules(K))
    assert refusal is not None and refusal.rule == "small_cells"
    assert node_door.check_part(part(100, counts=[90, 10]), Rules(K, hub_sees_cells=True)) is None
    assert node_door.check_part(part(100, counts=[100, 0]), Rules(K)) is None


def test_a_refusal_names_no_count() -> None:
    for refusal in (
        node_door.check_cohort(7, 500, Rules(K)),
        node_door.check_part(part(100, counts=[93, 7]), Rules(K)),
        node_door.check_part(part(8), Rules(K)),
    ):
        assert refusal is not None and not {"7", "8", "93"} & set(
            str(refusal).replace(":", " ").replace(",", " ").split()
        )


tables = hnp.arrays(
    np.int64, st.tuples(st.integers(2, 4), st.integers(2, 4)), elements=st.integers(0, 30)
)


@settings(max_examples=300)
@given(tables)
def test_no_line_gives_away_what_it_withholds(counts: np.ndarray) -> None:
    """With its total shown, a line withholds nothing,
    or at least two cells that together hold k people."""
    hidden, rows_hidden, columns_hidden = suppression.suppress_tables([counts], K)
    assert (hidden | ~rules.is_small(counts, K)).all()
    for lines, masks, totals_hidden in (
        (counts, hidden, rows_hidden),
        (counts.T, hidden.T, columns_hidden),
    ):
        for line, mask, total_hidden in zip(lines, masks, totals_hidden, strict=True):
            assert total_hidden or not mask.any() or (mask.sum() >= 2 and line[mask].sum() >= K)
            assert total_hidden or not rules.is_small(np.array([line.sum()]), K).any()


def test_a_table_without_small_cells_is_shown_whole() -> None:
    hidden, rows_hidden, columns_hidden = suppression.suppress_tables(
        [np.array([[20, 0], [11, 50]])], K
    )
    assert not (hidden.any() or rows_hidden.any() or columns_hidden.any())


def test_secondary_suppression_takes_the_smallest_other_cell() -> None:
    hidden, _, _ = suppression.suppress_tables(
        [np.array([[5, 40, 60], [70, 30, 80], [90, 95, 99]])], K
    )
    assert hidden.tolist() == [[True, True, False], [True, True, False], [False, False, False]]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), min_size=1, max_size=12))
def test_between_released_times_of_a_curve_nobody_or_enough_leave(
    steps: list[tuple[int, int]],
) -> None:
    events, exits = (np.array(column) for column in zip(*steps, strict=True))
    left = (events + exits).sum() - np.cumsum(events + exits)
    released = suppression.merge_steps([(events, exits, left)], K)
    for first, last in itertools.pairwise([-1, *released]):
        for counts in (events, exits):
            total = counts[first + 1 : last + 1].sum()
            assert total == 0 or total >= K
        assert left[last] == 0 or left[last] >= K
