"""A grant that is probably a slip is asked about, and one that was a slip is taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation import errors
from federation.cli.actions import budget
from nodes import ledger, state_folder
from nodes import site as sites
from tests.deployments import CONTRACT

NODE = """node: lyon
policy: {max_epsilon_per_year: 40}
datasets:
  people: {contract: people.yaml, source: people.csv}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "people.yaml").write_text(CONTRACT.canonical())
    (tmp_path / "people.csv").write_text("age,ill\n40,true\n")
    (tmp_path / "node.yaml").write_text(NODE)
    return tmp_path / "node.yaml"


def grant(path: Path, epsilon: float, *, sure: bool) -> list[str]:
    """The questions that were asked."""
    asked: list[str] = []

    def is_sure(why: str) -> bool:
        asked.append(why)
        return sure

    budget.grant(path, "people", epsilon, 1e-6, 2026, "dpo", is_sure)
    return asked


def granted(path: Path) -> float:
    site = sites.load(path)
    rho = ledger.granted(state_folder.open_ledger(site.state), site.account("people", 2026))
    return round(rho / 1e12, 6)


def test_a_usual_grant_is_not_asked_about(path: Path) -> None:
    assert grant(path, 1.0, sure=False) == [] and granted(path) > 0
    assert grant(path, 3.0, sure=False) == []


@pytest.mark.parametrize(
    ("before", "epsilon", "why"),
    [
        (None, 10.0, "above 8 a year the promise to a person is weak"),
        (6.0, 6.0, "would together be epsilon"),
        (0.3, 3.0, "the largest grant of people before was epsilon 0.3"),
    ],
)
def test_a_grant_far_above_the_usual_is_asked_about(
    before: float | None, epsilon: float, why: str, path: Path
) -> None:
    if before is not None:
        grant(path, before, sure=False)
    held = granted(path)
    with pytest.raises(errors.InputError, match=f"nothing is granted: .*{why}.*add --yes"):
        grant(path, epsilon, sure=False)
    assert granted(path) == held
    (question,) = grant(path, epsilon, sure=True)
    assert why in question and granted(path) > held


def test_a_slip_is_taken_back_by_name_and_the_ledger_says_by_whom(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grant(path, 30.0, sure=True)
    with pytest.raises(errors.InputError, match="--by must name"):
        budget.withdraw(path, "people", 2026, " ")
    budget.withdraw(path, "people", 2026, "dpo")
    assert "Taken back: the last grant of 2026 on people, epsilon 30.000" in capsys.readouterr().out
    assert granted(path) == 0
    budget.show(path, "text")
    assert "withdrawal" in capsys.readouterr().out


def test_no_grant_goes_beyond_the_limit_of_the_policy_whoever_is_sure(path: Path) -> None:
    with pytest.raises(errors.SiteError, match=r"raise policy\.max_epsilon"):
        grant(path, 41.0, sure=True)
