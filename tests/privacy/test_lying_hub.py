"""The short version of the attacks of a hub that lies.

None succeeds on this engine, and each succeeds on an engine with its old fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.privacy import audit, lying_hub

RUNS = 60
QUICK_CASES = ("glm binomial, clipped",)


def test_no_reply_shows_whether_a_person_is_there(tmp_path: Path) -> None:
    """Infinities whose difference is NaN for one person only once asked about that person for
    nothing."""
    questions = lying_hub.QUESTIONS[:4]
    assert lying_hub.differing_replies(lying_hub.ASKED, questions, tmp_path) == 0
    with lying_hub.any_state_and_charged_after():
        assert lying_hub.differing_replies(lying_hub.ASKED, questions, tmp_path) > 0


def test_one_sample_is_answered_once(tmp_path: Path) -> None:
    assert lying_hub.answers_about_one_sample(tmp_path, 12) <= 1
    with lying_hub.coins_of_the_study():
        assert lying_hub.answers_about_one_sample(tmp_path, 12) > 5


def test_no_number_of_a_node_is_found_by_guessing(tmp_path: Path) -> None:
    assert lying_hub.guessed(tmp_path) is None
    with lying_hub.heads_without_salt():
        assert lying_hub.guessed(tmp_path) is not None


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=() if case.name in QUICK_CASES else pytest.mark.slow)
        for case in (*lying_hub.CASES, lying_hub.MANY_CUTS)
    ],
)
def test_states_of_the_hubs_choice_show_no_more_than_is_claimed(
    case: audit.Case, tmp_path: Path
) -> None:
    result = lying_hub.attack(case, RUNS, tmp_path, entropy=np.random.default_rng(1).bytes)
    assert result.holds, result


@pytest.mark.slow
def test_a_cap_that_is_lost_in_rounding_shows_more_than_is_claimed(tmp_path: Path) -> None:
    with lying_hub.cap_lost_in_rounding():
        result = lying_hub.attack(
            lying_hub.MANY_CUTS, 300, tmp_path, entropy=np.random.default_rng(2).bytes
        )
    assert not result.holds, result
