"""A new user's path: the wheel in an empty environment, and ten lines of Python and of R."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks import fresh


def test_the_lines_to_copy_are_ten_at_most() -> None:
    statements = ast.parse(fresh.lines("python.md", "python")).body
    assert 5 < len(statements) <= 10
    # a statement of R starts a line that neither is indented nor closes a brace
    rows = fresh.lines("r.md", "r").splitlines()
    assert 5 < sum(not row.startswith((" ", "}", ")")) for row in rows if row) <= 10


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_ends_in_forest_plots(tmp_path: Path) -> None:
    """What they take is in `python -m benchmarks.fresh`."""
    steps = fresh.play(tmp_path)
    assert "<svg" in (tmp_path / "forest.svg").read_text(encoding="utf-8")
    if not fresh.has_r():
        pytest.skip("R, or a package that docs/r.md names, is not installed")
    assert (tmp_path / "Rplots.pdf").stat().st_size > 1000
    assert [step.name for step in steps][-1] == "ten lines of R"
