"""The numbers and lists in the documents agree with the code."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from federation.privacy import accounting
from tests.privacy import exact_attacks

ROOT = Path(__file__).parents[2]
PRIVACY = (ROOT / "docs" / "privacy.md").read_text()
TABLE = re.findall(
    r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PRIVACY, re.MULTILINE
)


@pytest.mark.parametrize("row", TABLE)
def test_the_noise_that_an_epsilon_means_is_what_is_written(row: tuple[str, ...]) -> None:
    epsilon, of_one, of_four, distributed, year = map(float, row)
    rho = accounting.rho_for(epsilon, 1e-6)
    sd = 1 / math.sqrt(2 * rho / accounting.PICO)
    assert [of_one, of_four, distributed] == pytest.approx(
        [sd, 2 * sd, math.sqrt(4 / 3) * sd], abs=0.06
    )
    assert year == pytest.approx(accounting.epsilon(12 * rho, 1e-6), abs=0.006)


def test_the_table_is_there() -> None:
    assert len(TABLE) == 4


@pytest.mark.parametrize("page", ["producer.md", "producer.fr.md"])
def test_every_rule_by_which_a_node_refuses_has_a_row_for_producers(page: str) -> None:
    code = "".join(
        path.read_text()
        for folder in ("nodes", "federation")
        for path in (ROOT / folder).rglob("*.py")
    )
    rules = set(re.findall(r'Refusal\(\s*"(\w+)"', code)) - {"refused"}  # what a terse site says
    text = (ROOT / "docs" / page).read_text()
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text.partition("`nodes/service.py`")[2], re.M)
    listed = set(re.findall(r"\w+", " ".join(rows)))
    assert rules <= listed, rules - listed


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (
            "disclosure.md",
            r"(\d+) sequences of studies.* (\d+) of them were written after the rules",
        ),
        ("disclosure.fr.md", r"(\d+) suites d'études, dont (\d+) écrites après les règles"),
    ],
)
def test_both_pages_on_disclosure_count_the_attacks_that_are_tried(page: str, words: str) -> None:
    stated = re.search(words, (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert stated
    assert [int(number) for number in stated.groups()] == [
        len(exact_attacks.ATTACKS),
        len(list(exact_attacks.variants())),
    ]


def test_every_file_that_a_document_names_is_there() -> None:
    """Of this repository: `folder/file.py` and the like, in README, CONTRIBUTING and docs."""
    folders = "federation|strategies|nodes|aggregator|simulations|tests|benchmarks|deploy|clients"
    named = re.compile(rf"`((?:{folders}|docs)/[\w/.-]+\.[A-Za-z]+)")
    documents = [*ROOT.glob("*.md"), ROOT / "benchmarks" / "README.md", *ROOT.glob("docs/**/*.md")]
    missing = {
        f"{path.relative_to(ROOT)}: {file}"
        for path in documents
        if path.name not in ("CHANGELOG.md", "DECISIONS.md")  # they tell of what was
        for file in named.findall(path.read_text(encoding="utf-8"))
        if "NAME" not in file and not (ROOT / file).exists()
    }
    assert not missing


def test_a_french_page_has_the_anchors_that_links_name() -> None:
    """They are those of the English headings: a link from any page leads to either language."""
    docs = ROOT / "docs"
    missing = set()
    for path in docs.rglob("*.md"):
        for target, anchor in re.findall(r"\]\(([\w/.-]*)\.md#([\w-]+)\)", path.read_text()):
            french = path.parent / f"{target}.fr.md"
            if french.exists() and f"{{#{anchor}}}" not in french.read_text():
                missing.add(f"{french.relative_to(docs)}: {{#{anchor}}}")
    assert not missing


def test_every_command_in_the_documents_is_one() -> None:
    """`hdh study submit` and the like, in README and docs."""
    import typer
    from typer.main import get_command

    from federation.cli import main

    root = get_command(main.app)
    context = typer.Context(root)
    seen = 0
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for words in re.findall(r"(?:`|\$ |\n  )hdh ((?:[a-z]+ ?)+)", path.read_text()):
            command = root
            for word in words.split():
                if not hasattr(command, "commands"):
                    break
                command_ = command.get_command(context, word)
                assert command_ is not None, f"{path.name}: hdh {words}"
                command = command_
                seen += 1
    assert seen > 80


def test_every_key_of_hub_yaml_and_of_the_policy_is_described() -> None:
    from aggregator.settings import HubFile
    from nodes.setup import TEMPLATE
    from nodes.site import Policy

    operator, producer = (
        (ROOT / "docs" / f"{name}.md").read_text() for name in ("hub-operator", "producer")
    )
    assert [key for key in HubFile.model_fields if f"`{key}`" not in operator] == []
    assert [key for key in Policy.model_fields if f"{key}:" not in producer + TEMPLATE] == []


def test_every_pilot_and_study_is_in_the_gallery() -> None:
    from simulations.pilots import running

    gallery = (ROOT / "docs" / "pilots.md").read_text()
    for name in running.names():
        section = gallery.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert all(
            f"**{variant}**" in section and f"\n| {variant} |" in section
            for variant in running.variants(name)
        ), name
    assert all(
        (ROOT / "docs" / path).exists() for path in re.findall(r"\((figures/[^)]+)\)", gallery)
    )
