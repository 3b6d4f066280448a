"""A result of another machine, a hub's or a file's, that is not what it should be: whoever reads it
is told so, and sees no traceback."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from federation import errors
from federation.cli.main import app
from strategies import registry
from tests import reports
from tests.property import test_every_analysis, test_private_analyses

HOSTILE = (
    *(None, 1, -1, 1e308, True, "", "x" * 10_000, "\x1b[2J", "\u202e", "=cmd|' /C calc'!A0"),
    *([], {}, [[]], [1], {"a": {}}, {"": None}),
)
Place = tuple[str | int, ...]


def places(value: Any, above: Place = ()) -> Iterator[Place]:
    """The place of each value in a document; of a list, those of its first rows."""
    if above:
        yield above
    inner = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value[:2]) if isinstance(value, list) else inner
    for key, content in inner:
        yield from places(content, (*above, key))


def changed(document: dict[str, Any], place: Place, put: Any) -> dict[str, Any]:
    copied = copy.deepcopy(document)
    holder: Any = copied
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = put
    return copied


def test_a_result_of_any_form_is_read_or_refused_by_every_command(tmp_path: Path) -> None:
    document = reports.result().document
    file, rng = tmp_path / "result.json", random.Random(1)
    for number, place in enumerate(rng.sample(list(places(document)), 60)):
        file.write_text(json.dumps(changed(document, place, rng.choice(HOSTILE))))
        out = str(tmp_path / f"out-{number}")
        for command in (("compare", str(file), str(file)), ("export", str(file), "--out", out)):
            ended = CliRunner().invoke(app, ["study", *command])
            is_said = isinstance(ended.exception, errors.HdhError | SystemExit | None)
            assert is_said, (command[0], place, ended.exception)


@pytest.mark.parametrize("name", registry.ANALYSES)
def test_the_options_of_a_released_result_are_read_again(name: str) -> None:
    modules = registry.row(name)
    for module, laws in ((modules.exact, test_every_analysis), (modules.dp, test_private_analyses)):
        for values in laws.EXAMPLES.get(name, []) if module else ():
            options = module.Options.model_validate(values)
            released = json.loads(json.dumps(options.model_dump(mode="json")))
            assert module.Options.model_validate(released) == options


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"analyses":' * 5000,
        b"\xff",
        b'{"analyses": {"a": NaN}}',
        b"{}",
        b"9" * 5000,
    ],
    ids=range(6),
)
def test_a_file_that_is_no_result_is_told_as_that(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_bytes(content)
    ended = CliRunner().invoke(app, ["study", "compare", str(file), str(file)])
    assert isinstance(ended.exception, errors.InputError), ended.exception
