"""The examples of docs/python.md and of the Python interface's docstrings run as written."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_examples_of_the_page_give_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8").replace("\n```", "\n")
    monkeypatch.chdir(tmp_path)  # where the page saves its figure
    examples = doctest.DocTestParser().get_doctest(text, {}, "python.md", "docs/python.md", 0)
    results = doctest.DocTestRunner().run(examples)
    assert results.failed == 0 and results.attempted > 15
    assert (tmp_path / "forest.svg").read_text().startswith("<svg")


def test_the_example_of_a_study_runs() -> None:
    from federation.api import study

    results = doctest.testmod(study)
    assert results.failed == 0 and results.attempted == 3
