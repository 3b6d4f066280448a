"""The engines of a simulation."""

from __future__ import annotations

import typer

from federation.cli.main import app
from simulations import engines


def test_the_words_of_engine_are_the_table_of_engines() -> None:
    """`hdh --help` imports no engine, so that it has words of its own: this test keeps both
    equal."""
    command = typer.main.get_command(app).commands["simulate"]  # type: ignore[attr-defined]
    (option,) = (parameter for parameter in command.params if parameter.name == "engine")
    assert list(option.type.choices) == list(engines.ENGINES), (
        "name the engine in `--engine` of federation/cli/main.py, and in simulations/engines.py"
    )
