"""Every analysis is in each of its places, which docs/adding-an-analysis.md lists; for one that is
not, the message says where, and what to write there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from benchmarks import coverage
from strategies import registry
from tests.privacy import audit
from tests.property import test_every_analysis as laws
from tests.property import test_private_analyses as private_laws

ROOT = Path(__file__).parents[2]
ORACLES = (
    *(ROOT / "tests" / "oracle").glob("test_*.py"),
    # those whose other tool is not R
    *(
        ROOT / "tests" / "unit" / "strategies" / f"test_{name}.py"
        for name in ("boosted_trees", "fedavg", "inequality", "multiple_imputation", "train")
    ),
)
GUIDE = "see docs/adding-an-analysis.md"


def lacking(exact: Iterable[str], private: Iterable[str]) -> list[str]:
    """For each place that lacks an analysis, a sentence that says what to do."""
    exact, private = sorted(exact), sorted(private)
    return [
        *(_lacking_laws(exact, private)),
        *(_lacking_oracles(exact)),
        *coverage.uncovered(private),
        *(
            f"{name}: no attack; add a Case to CASES of tests/privacy/audit.py,"
            " with the person who "
            f"moves its sums the farthest; {GUIDE}"
            for name in private
            if name not in {case.analysis["run"] for case in audit.CASES}
        ),
        *(_lacking_words(exact)),
    ]


def _lacking_laws(exact: list[str], private: list[str]) -> list[str]:
    places = (
        (exact, laws.EXAMPLES, "test_every_analysis"),
        (private, private_laws.EXAMPLES, "test_private_analyses"),
    )
    return [
        f"{name}: no example for the laws; add options over tests/oracle/people.yaml to EXAMPLES"
        " of "
        f"tests/property/{module}.py; {GUIDE}"
        for names, examples, module in places
        for name in names
        if name not in examples
    ]


def _lacking_oracles(exact: list[str]) -> list[str]:
    text = "".join(path.read_text() for path in ORACLES)
    compared = set(re.findall(r"""(?:\brun=|"run": )"(\w+)\"""", text))
    return [
        f'{name}: no oracle; compare run="{name}" with another tool in tests/oracle/, with the '
        f"code that made its numbers; {GUIDE}"
        for name in exact
        if name not in compared
    ]


def _lacking_words(exact: list[str]) -> list[str]:
    places = (("analyses.md", "\n## {}\n", "a section"), ("privacy.md", "\n| {}", "a row"))
    return [
        f"{name}: not described; add {entry} to docs/{page}; {GUIDE}"
        for page, pattern, entry in places
        for name in exact
        if pattern.format(name) not in (ROOT / "docs" / page).read_text()
    ]


def test_every_analysis_is_in_all_of_its_places() -> None:
    missing = lacking(registry.ANALYSES, registry.PRIVATE)
    assert not missing, "\n".join(missing)


PLACES = (
    "tests/property/test_every_analysis.py",
    "tests/property/test_private_analyses.py",
    "tests/oracle/,",
    "benchmarks/coverage.py",
    "tests/privacy/audit.py",
    "docs/analyses.md",
    "docs/privacy.md",
)


def test_an_analysis_that_is_nowhere_is_named_once_for_each_place() -> None:
    missing = lacking((*registry.ANALYSES, "planted"), (*registry.PRIVATE, "planted"))
    assert [line.startswith("planted: ") for line in missing] == [True] * len(PLACES)
    guide = (ROOT / "docs" / "adding-an-analysis.md").read_text()
    for place in PLACES:
        assert sum(place in line for line in missing) == 1, place
        assert place.rstrip(",") in guide, place


def test_a_row_has_a_private_module_or_says_why_not() -> None:
    for name in registry.ANALYSES:
        with contextlib.suppress(KeyError):
            registry.private(name)
            assert name in registry.PRIVATE, f"{name} has a private module; drop its `not_private`"
            continue
        assert name in registry.NOT_PRIVATE, (
            f"{name}: its row of strategies/registry.py has no private module; add it, or write in "
            f"`not_private` why there is none and what to run; {GUIDE}"
        )
