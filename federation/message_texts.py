"""Messages that arrive in English, in the reader's language: of errors, refusals, notes, events.

A message crosses from node to hub to coordinator as English text, so that each reader has it in
their own language. It is compared with the texts of the catalogue, where values are places such as
{0}: the text with the most letters of its own wins, and its values are translated in turn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from federation import language

PLACE = re.compile(r"\{(\w+)\}")
MAX_DEPTH = 6  # of messages inside messages
MAX_LENGTH = 4000  # characters; a longer text stays English


def translated(message: str) -> str:
    """The message in the reader's language, line by line; what the catalogue lacks stays as it
    is."""
    if language.current() == "en" or len(message) > MAX_LENGTH:
        return message
    return "\n".join(_translated(line, MAX_DEPTH) for line in message.split("\n"))


def _translated(text: str, depth: int) -> str:
    exact = language.tr(text) if text else text
    if exact != text or depth == 0 or not re.search(r"[a-z]{3}", text):
        return exact
    for pieces, names, key in _templates(language.current()):
        if all(piece in text for piece in pieces) and (match := _pattern(key).fullmatch(text)):
            values = {
                name: _translated(value, depth - 1)
                for name, value in zip(names, match.groups(), strict=True)
            }
            return _filled(language.tr(key), values)
    before, colon, after = text.partition(": ")
    return f"{before}: {_translated(after, depth - 1)}" if colon else text


def _filled(text: str, values: Mapping[str, str]) -> str:
    return PLACE.sub(lambda place: values[place[1]], text)


@cache
def _templates(code: str) -> list[tuple[list[str], list[str], str]]:
    """The texts of the catalogue with places: the pieces between them, the names of the places,
    and the text; the text with the longest pieces first."""
    keys = [key for key in language.keys(code) if PLACE.search(key)]
    split = [(PLACE.split(key), key) for key in keys]
    listed = [(parts[::2], parts[1::2], key) for parts, key in split]
    unique = [entry for entry in listed if len(set(entry[1])) == len(entry[1])]
    return sorted(unique, key=lambda entry: -sum(map(len, entry[0])))


@cache
def _pattern(key: str) -> re.Pattern[str]:
    parts = PLACE.split(key)
    return re.compile("(.+?)".join(map(re.escape, parts[::2])), re.DOTALL)
