"""The tutorials, and the pages for users of other tools, played as they are written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pages

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[pages.Reader]:
    reader = pages.Reader(tmp_path)
    yield reader
    reader.stop()


@pytest.mark.parametrize(
    ("page", "commands"),
    [
        ("tutorials/laptop", 5),
        pytest.param("tutorials/producer", 10, marks=pytest.mark.slow),
        pytest.param("tutorials/coordinator", 25, marks=pytest.mark.slow),
        pytest.param("tutorials/laptop.fr", 5, marks=pytest.mark.slow),
        pytest.param("tutorials/producer.fr", 10, marks=pytest.mark.slow),
        pytest.param("tutorials/coordinator.fr", 25, marks=pytest.mark.slow),
        pytest.param("from/datashield", 2, marks=pytest.mark.slow),
        pytest.param("from/ohdsi", 2, marks=pytest.mark.slow),
        pytest.param("from/flower", 9, marks=pytest.mark.slow),
    ],
)
def test_the_page_gives_what_is_written(reader: pages.Reader, page: str, commands: int) -> None:
    """`commands`: how many the page has at least, so that none is overlooked."""
    reader.environment["HDH_LANG"] = "fr" if page.endswith(".fr") else "en"
    reader.follow((DOCS / f"{page}.md").read_text(encoding="utf-8"))
    assert reader.commands >= commands


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        ("a ...\nlast\n", "a 1\nmore\nlast\n", True),
        ("a ...\nlast\n", "a 1\nlast\nmore\n", False),
        ("...\nlast\n", "last\n", True),
        ("first\n...\n", "first\n", True),
        ("first\n...\n", "another\nfirst\n", False),
        ("n  1.5\n", "n 1.6\n", False),
    ],
)
def test_the_output_of_a_page_is_compared(expected: str, output: str, same: bool) -> None:
    assert pages.matches(expected, output) is same


def test_a_command_that_fails_or_shows_something_else_is_noticed(reader: pages.Reader) -> None:
    for block in ("$ hdh study check no.yaml\n", "$ echo 1\n2\n"):
        with pytest.raises(AssertionError):
            reader.follow(f"```console\n{block}```\n")
