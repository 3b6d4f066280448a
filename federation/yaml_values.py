"""Reads YAML strictly: a value is a text, a plain decimal number, true, false, null, a list or a
mapping.

PyYAML follows YAML 1.1, in which 010 is 8, 1:30 is 90, 1_000 is 1000 and 2027-02-30 is an
exception. Here nothing changes value: codes and keys keep the text of the file, and every other
scalar that two readers could take for different values is refused, with its line and the remedy.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import yaml

from federation import limits

Key = tuple[str | int, ...]
# Lists under these keys hold codes, read as the text of the file.
CODES = ("levels", "missing", "yes", "no")
MAX_NODES = 300_000  # aliases of aliases multiply them
MAX_CHARACTERS = 4 * limits.MAX_YAML  # of all texts, those behind aliases each time
MAX_WHOLE = 2**53
TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

NULL = ("", "~", "null", "Null", "NULL")
BOOLEANS = {"true": True, "True": True, "false": False, "False": False}
WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
DECIMAL = re.compile(
    r"[-+]?((0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+|(0|[1-9][0-9]*)(?=[eE]))([eE][-+]?[0-9]+)?"
)
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
AMBIGUOUS = {
    re.compile(pattern): kind
    for pattern, kind in (
        (r"[-+]?0[0-9_]+([.][0-9_]*)?", "a number with a leading zero, which some read as octal"),
        (
            r"[-+]?0(x[0-9a-fA-F_]+|o[0-7_]+|b[01_]+)",
            "a hexadecimal, octal or binary number",
        ),
        (r"[-+]?[0-9][0-9_]*_[0-9_]*([.][0-9_]*)?([eE][-+]?[0-9]+)?", "a number with underscores"),
        (r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+([.][0-9_]*)?", "a number in base 60, or a time"),
        (r"[-+]?[.](inf|Inf|INF)|[.](nan|NaN|NAN)", "no finite number"),
    )
}
MOMENT = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?")
SEPARATORS = re.compile("[\x85\u2028\u2029]")


class YamlValueError(ValueError):
    """`problems`: pairs (line, message); line 0 if the problem has no line."""

    def __init__(self, *problems: tuple[int, str]) -> None:
        self.problems: Sequence[tuple[int, str]] = problems
        super().__init__(*problems)


@dataclass(frozen=True)
class Document:
    values: Any
    lines: Mapping[Key, int]


def read(content: str, *, nfc: bool) -> Document:
    """The values of one YAML document and the lines of its keys. `nfc`: normalise texts, because a
    coordinator and a producer may encode é differently."""
    if (odd := SEPARATORS.search(content)) is not None:
        line = content.count("\n", 0, odd.start()) + 1
        raise YamlValueError((line, "an invisible line separator stands here; remove it"))
    try:
        root = _Loader(content.removeprefix("\ufeff")).get_single_node()
        reader = _Reader(nfc)
        values = None if root is None else reader.value(root, ())
    except yaml.YAMLError as error:
        raise YamlValueError(_syntax(error, content)) from None
    except RecursionError:
        nested = "an alias (*) contains itself, or the nesting is too deep; write it out"
        raise YamlValueError((0, nested)) from None
    if reader.problems:
        raise YamlValueError(*reader.problems)
    return Document(values, reader.lines)


class _Loader(yaml.SafeLoader):
    """Composes nodes, and leaves every plain scalar as text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


@dataclass
class _Reader:
    nfc: bool
    lines: dict[Key, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)
    nodes: int = 0
    characters: int = 0

    def value(self, node: yaml.Node, key: Key) -> Any:
        self.nodes += 1
        line = node.start_mark.line + 1
        self.characters += len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        if self.nodes > MAX_NODES or self.characters > MAX_CHARACTERS:
            raise YamlValueError(
                (line, "the aliases (*) expand to too many values; write the values out")
            )
        if node.tag not in TAGS:
            self.problems.append(
                (line, f"a tag ({_short(node.tag)}) has no meaning here; leave it out")
            )
        if isinstance(node, yaml.MappingNode):
            return dict(self._pairs(node, key))
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*key, i)) for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, key)

    def _pairs(self, node: yaml.MappingNode, key: Key) -> Iterator[tuple[str, Any]]:
        seen = set()
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            if not isinstance(name_node, yaml.ScalarNode):
                self.problems.append((line, "a key must be a text, not a list or a mapping"))
                continue
            name = self._text(name_node.value)
            if name_node.style is None and (name == "<<" or name in NULL):
                merge = "merge keys (<<) are not read; write the keys out"
                self.problems.append((line, merge if name == "<<" else "a key is empty; name it"))
                continue
            if name in seen:
                self.problems.append((line, f"key {name!r} appears twice; keep one"))
            seen.add(name)
            self.lines[(*key, name)] = line
            yield name, self.value(value_node, (*key, name))

    def _item(self, node: yaml.Node, key: Key) -> Any:
        self.lines[key] = node.start_mark.line + 1
        return self.value(node, key)

    def _scalar(self, node: yaml.ScalarNode, key: Key) -> Any:
        text, line = self._text(node.value), node.start_mark.line + 1
        if node.style is not None:
            return text
        is_code = len(key) > 1 and key[-2] in CODES and isinstance(key[-1], int)
        if not is_code:
            value, problem = plain(text)
        else:
            value, problem = text, _unwritten(text)
        if problem:
            self.problems.append((line, f"{'.'.join(map(str, key))}: {problem}"))
        return value

    def _text(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self.nfc else text


def plain(text: str) -> tuple[Any, str]:
    """The value of a scalar without quotes, and its problem, or an empty string."""
    if text in NULL:
        return None, ""
    if text in BOOLEANS:
        return BOOLEANS[text], ""
    if WHOLE.fullmatch(text):
        return _whole(text)
    if DECIMAL.fullmatch(text):
        is_finite = math.isfinite(float(text))
        return float(text), "" if is_finite else f"{text!r} is too large a number"
    if MOMENT.fullmatch(text):
        return text, _moment(text)
    kind = next((kind for pattern, kind in AMBIGUOUS.items() if pattern.fullmatch(text)), "")
    remedy = f"{text!r} is {kind}: put it in quotes if it is a text, else write a plain number"
    return text, remedy if kind else ""


def _whole(text: str) -> tuple[Any, str]:
    if len(text) <= 17 and abs(int(text)) <= MAX_WHOLE:
        return int(text), ""
    shown = text if len(text) <= 40 else text[:40] + "..."
    return text, f"{shown} is too large a number: put it in quotes if it is a code"


def _moment(text: str) -> str:
    if not DAY.fullmatch(text):
        return f"{text!r}: write a day as 2026-01-31, and put any other text in quotes"
    try:
        date.fromisoformat(text)
    except ValueError:
        return f"{text!r} is not in the calendar: correct the day, or put the text in quotes"
    return ""


def _unwritten(text: str) -> str:
    if text not in NULL:
        return ""
    return f"{text or 'an empty item'} means no value: put it in quotes if it is a code"


def _short(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


# -- syntax errors
_SYNTAX = {
    "mapping values are not allowed": (
        "a second `: ` in the line, or a wrong indentation: put the value in quotes,"
        " or indent the line like its neighbours"
    ),
    "could not find expected ':'": "each line needs `key: value`, with a space after the colon",
    "cannot start any token": (
        "a value begins with a character that YAML reserves: put the value in quotes"
    ),
    "found unexpected end of stream": (
        "a quote opens here and is never closed: add the closing quote"
    ),
    "found unexpected document separator": (
        "a quote opens here and is never closed: add the closing quote"
    ),
    "expected alphabetic or numeric character": (
        "a value begins with * or &, which YAML reserves: put the value in quotes"
    ),
    "found undefined alias": (
        "a value that begins with * names an anchor that does not exist: put the value in quotes"
    ),
    "found duplicate anchor": "an anchor (&) appears twice: give the second one another name",
    "but found another document": (
        "a second document begins here: remove the line `---`, or make two files"
    ),
    "unknown escape character": "in double quotes a backslash begins an escape: use single quotes",
    "expected escape sequence": "in double quotes a backslash begins an escape: use single quotes",
    "expected ',' or": "a bracket or brace is not closed, or a comma is missing",
    "expected <block end>": (
        "the indentation differs from the line above, or a quote or bracket ends too early"
    ),
    "special characters are not allowed": "a control character stands here; remove it",
    "expected the node content": "a value is missing, or a bracket is not closed",
    "sequence entries are not allowed": (
        "a list begins on the line of its key: write it on the next line"
    ),
}
_OPENING = re.compile(r"""(?:^|[:,\[{-])\s*(["'])""")


def _syntax(error: yaml.YAMLError, content: str) -> tuple[int, str]:
    """The line of PyYAML's error, and a message with a remedy."""
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "")
    line = _line(error, content)
    context = str(getattr(error, "context", ""))
    begins = getattr(error, "context_mark", None)
    if begins is not None and "quoted scalar" in context and "unexpected" in problem:
        line = begins.line + 1
    elif (opened := _unclosed(content, line)) is not None:
        remedy = "a quote opens here and is not closed in its line: add the closing quote"
        return opened, f"not valid YAML: {remedy}"
    elif begins is not None and any(part in context for part in ("simple key", "flow ")):
        line = begins.line + 1
    remedy = next((words for part, words in _SYNTAX.items() if part in problem), "")
    text = content.split("\n")[line - 1] if 0 < line <= content.count("\n") + 1 else ""
    if "\t" in text[: len(text) - len(text.lstrip())] or "'\\t'" in problem:
        remedy = "the line is indented with a tab: use spaces"
    elif "\u00a0" in text:
        remedy = "the line holds a no-break space: replace it with a space"
    return (
        line,
        f"not valid YAML: {remedy or 'the line cannot be read: compare it with its neighbours'}",
    )


def _line(error: yaml.YAMLError, content: str) -> int:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return int(mark.line) + 1
    position = getattr(error, "position", None)
    return 0 if position is None else content.count("\n", 0, int(position)) + 1


def _unclosed(content: str, before: int) -> int | None:
    """The first line, up to `before`, on which a quoted value opens and does not end."""
    for number, line in enumerate(content.split("\n")[:before], 1):
        match = _OPENING.search(line)
        if match is not None and line.count(match.group(1), match.end()) == 0:
            return number
    return None
