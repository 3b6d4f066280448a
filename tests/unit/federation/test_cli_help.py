"""The help of every command reads as plain text, its examples run, and shells can complete it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from typer.main import get_command

from federation.cli import main

ROOT = get_command(main.app)
TOO_LATE = ("rich", "numpy", "pydantic", "yaml", "federation.cli.node", "federation.cli.study")


def commands(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    """The context of `command` and of every command below it."""
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            inner = below.make_context(name, ["--help"], context, resilient_parsing=True)
            yield from commands(inner.command, inner)


CONTEXTS = {
    context.command_path: context
    for context in commands(ROOT, click.Context(ROOT, info_name="hdh", max_content_width=100))
}


def epilog(context: click.Context) -> str:
    return context.command.epilog or ""


EXAMPLES = [
    line.strip()
    for context in CONTEXTS.values()
    for line in epilog(context).splitlines()
    if line.strip().startswith("hdh ")
]


def test_all_commands_were_found() -> None:
    assert {"hdh study submit", "hdh node ledger verify", "hdh hub coordinator add"} <= set(
        CONTEXTS
    )
    assert len(CONTEXTS) > 45 and len(EXAMPLES) > 30


@pytest.mark.parametrize("path", CONTEXTS)
def test_help_is_plain_and_says_each_thing_once(path: str) -> None:
    text = CONTEXTS[path].get_help()
    assert "\\[" not in text
    titles = re.findall(r"^([A-Z][a-z ]+):$", text, re.MULTILINE)
    assert len(titles) == len(set(titles)) and "Positional arguments" not in titles


@pytest.mark.parametrize("path", CONTEXTS)
def test_every_command_argument_and_option_has_a_help_text(path: str) -> None:
    context = CONTEXTS[path]
    assert context.command.help
    undocumented = [
        parameter.name
        for parameter in context.command.get_params(context)
        if not (parameter.get_help_record(context) or ("", "hidden"))[1]
        .partition("[")[0]
        .strip(" \\")
    ]
    assert undocumented == []


def test_required_arguments_and_options_are_marked() -> None:
    text = " ".join(CONTEXTS["hdh node grant"].get_help().split())
    assert "DATASET The name of a dataset of this node. [required]" in text
    assert "--by NAME Who decides; recorded in the ledger. [required]" in text


@pytest.mark.parametrize("path", CONTEXTS)
def test_limits_are_called_max_or_min(path: str) -> None:
    options = [option for parameter in CONTEXTS[path].command.params for option in parameter.opts]
    assert not [option for option in options if re.match(r"--(most|least)", option)]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_names_a_command_and_its_options(example: str) -> None:
    words = shlex.split(example.partition(" > ")[0])[1:]
    command: click.Command = ROOT
    context = click.Context(ROOT, info_name="hdh")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.get_command(context, words[0])
        assert below is not None, example
        command, words = below, words[1:]
    command.make_context(None, words)  # a UsageError if an option or an argument is wrong


def python(*arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])} | variables,
    )
    return done.stdout


def test_the_root_help_imports_none_of_the_nouns() -> None:
    """Measured by `python -X importtime`, each of these costs more than the whole help does."""
    code = (
        "import sys\nfrom federation.cli import main\n"
        "try: main.app(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {TOO_LATE} if name in sys.modules])"
    )
    assert python("-c", code).splitlines()[-1] == "[]"


@pytest.mark.parametrize("noun", main.NOUNS)
def test_a_noun_is_described_alike_in_both_helps(noun: str) -> None:
    assert main.NOUNS[noun] in " ".join(CONTEXTS[f"hdh {noun}"].get_help().split())


@pytest.mark.parametrize(
    ("typed", "noun"), [("stduy", "study"), ("nod", "node"), ("pilot", "pilots")]
)
def test_a_misspelt_noun_is_recognised(typed: str, noun: str) -> None:
    with pytest.raises(click.UsageError) as error:
        ROOT.main([typed], standalone_mode=False)
    assert error.value.format_message().count(f"Did you mean '{noun}'") == 1


@pytest.mark.parametrize(
    ("shell", "expected"),
    [("bash", "complete -o default -F _hdh_completion hdh"), ("zsh", "#compdef hdh")],
)
def test_a_completion_script_comes_for_a_shell(shell: str, expected: str) -> None:
    script = python(
        "-m", "federation.cli.main", "--show-completion", shell,
        _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
    )  # fmt: skip
    assert expected in script and "_HDH_COMPLETE=complete_" + shell in script


@pytest.mark.parametrize(
    ("typed", "completions"),
    [
        ("hdh st", ["study"]),
        ("hdh node led", ["ledger"]),
        ("hdh study submit --dead", ["--deadline"]),
        ("hdh hub coordinator a", ["add"]),
    ],
)
def test_bash_completes_nouns_commands_and_options(typed: str, completions: list[str]) -> None:
    answer = python(
        "-m", "federation.cli.main",
        _HDH_COMPLETE="complete_bash",
        COMP_WORDS=typed,
        COMP_CWORD=str(len(typed.split()) - 1),
    )  # fmt: skip
    assert answer.split() == completions
