"""The short version of the audit: no attack on a sound engine exceeds the stated epsilon, and an
attack on a broken one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.privacy import audit, linked_audit

RUNS = 150
QUICK = (
    "half the noise, crosstab",
    "half the sensitivity",
)


# In `make test` one attack on counts and one on sums;
# all of them in `make slow` and, longer, `make audit`. How far a person moves each array of every
# analysis is measured in tests/property/test_private_analyses.py.
QUICK_CASES = ("crosstab", "glm gaussian")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=() if case.name in QUICK_CASES else pytest.mark.slow)
        for case in audit.CASES
    ],
)
def test_no_attack_shows_more_than_is_claimed(case: audit.Case, tmp_path: Path) -> None:
    outcome = audit.audit(case, RUNS, tmp_path, entropy=np.random.default_rng(1).bytes)
    assert outcome.holds, outcome
    assert outcome.lower_bound > 0.05, (
        "an attack that finds nothing at all does not look where it should"
    )


@pytest.mark.slow
def test_a_released_network_tells_no_more_of_a_person_than_its_epsilon_and_one_without_noise_does(
    tmp_path: Path,
) -> None:
    shown, advantage = audit.membership(20, tmp_path, epsilon=1.0)
    assert shown <= 1.0 and advantage < 0.9
    assert audit.membership(20, tmp_path, epsilon=None)[1] == 1.0


@pytest.mark.parametrize("fault", QUICK)
def test_a_broken_engine_is_caught(fault: str, tmp_path: Path) -> None:
    case, broken, bend = audit.FAULTS[fault]
    with broken():
        outcome = audit.audit(
            case, RUNS, tmp_path, bend=bend, entropy=np.random.default_rng(2).bytes
        )
    assert not outcome.holds, outcome


QUICK_LINKED = "linked linear model, a person at both, with too many rows"


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, id=case.name, marks=() if case.name == QUICK_LINKED else pytest.mark.slow
        )
        for case in linked_audit.CASES
    ],
)
def test_no_attack_on_linked_people_shows_more_than_is_claimed(
    case: linked_audit.LinkedCase, tmp_path: Path
) -> None:
    entropy = np.random.default_rng(4).bytes
    outcome = linked_audit.attacked(case, RUNS, tmp_path, entropy=entropy)
    assert outcome.holds, outcome
    assert outcome.lower_bound > 0.05


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            fault, marks=[] if fault == "half the sensitivity, linked" else pytest.mark.slow
        )
        for fault in linked_audit.FAULTS
    ],
)
def test_a_broken_link_is_caught(fault: str, tmp_path: Path) -> None:
    entropy = np.random.default_rng(5).bytes
    outcome = linked_audit.caught(fault, 2 * RUNS, tmp_path, entropy=entropy)
    assert not outcome.holds, outcome
