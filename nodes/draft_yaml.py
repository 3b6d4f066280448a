"""A draft as YAML, with a note behind each guess and a mark where a person has to write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from nodes.draft import Draft, Guess
from nodes.recognition import written

MARK = "to fill in"


def contract(draft: Draft, origin: str, today: date) -> str:
    """The contract's text. `origin`: what it was drafted from, in the words of its producer."""
    return "\n".join([*_head(draft, origin, today), "columns:", *_columns(draft)]) + "\n"


def read_keys(draft: Draft) -> str:
    """The `read:` keys, one a line."""
    lines = []
    for key, value in draft.read.items():
        if isinstance(value, Mapping):
            lines += [f"{key}:", *(f"  {name}: {written(each)}" for name, each in value.items())]
        else:
            lines.append(f"{key}: {written(value)}")
    return "\n".join(lines) + "\n"


def _head(draft: Draft, origin: str, today: date) -> Iterator[str]:
    yield (
        f"# Drafted by `hdh node draft` from {origin} on {today.isoformat()}. "
        "Read every line: each guess has a note."
    )
    yield (
        "# The contract is what coordinators and the hub see. "
        "It stays on this machine until you publish it."
    )
    for name in draft.left_out:
        reason = f"several columns have the name {name!r}" if name else "a column has no name"
        yield f"# Not drafted: {reason}. Give each its own in the header, and draft again."
    yield f"dataset: {draft.dataset}"
    yield "version: 1"
    yield f'description: {{fr: "", en: ""}}  # {MARK}'
    if draft.person is None:
        yield (
            f"unit: row  # {MARK}: no column looks like a person's key; "
            "with one, write `person: COLUMN`"
        )
    else:
        yield "unit: person"
        yield f"person: {draft.person}  # guess: compare with the other keys"
        yield (
            f"rows_per_person: {draft.rows_per_person}  # guess: the most rows that a person may "
            "have; fewer is less noise"
        )


def _columns(draft: Draft) -> Iterator[str]:
    width = max((len(guess.name) for guess in draft.columns), default=0) + 1
    for guess in draft.columns:
        notes = f"  # {'; '.join(guess.notes)}" if guess.notes else ""
        label = "" if "description" in guess.keys else ', description: {fr: ""}'
        yield f"  {guess.name + ':':<{width}} {{{_keys(guess)}{label}}}{notes}"


def _keys(guess: Guess) -> str:
    keys = dict(sorted(guess.keys.items(), key=lambda item: item[0] == "description"))
    if guess.missing:
        keys["missing"] = [_Code(code) for code in guess.missing]
    if "levels" in keys:
        keys["levels"] = [_Code(level) for level in keys["levels"]]
    return ", ".join(f"{key}: {_value(value)}" for key, value in keys.items())


class _Code(str):
    """A text that stays a text, whatever it looks like."""


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(_Code(each))}" for key, each in value.items()) + "}"
    if isinstance(value, _Code):
        return written(str(value)) if not str(value).isdigit() else f'"{value}"'
    return str(value)
