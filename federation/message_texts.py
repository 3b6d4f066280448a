"""Messages that arrive in English, in the reader's language: of errors, refusals, notes, events.

A message crosses from node to hub to coordinator as English text, so that each reader has it in
their own language. It is compared with the texts of the catalogue, where values are places such as
{0}: the text with the most letters of its own wins, and its values are translated in turn."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

from federation import language

PLACE = re.compile(r"\{(\w+)\}")
MARGINS = re.compile(r"((?:# )? *)(.*?)( *)", re.DOTALL)
NO_BREAK = "\u00a0"
NAME = re.compile(r"(?:study )?[\w./@\[\]-]+(?:, [\w./@-]+)*(?::\d+)?: ")
COMMENT = re.compile(r"(?<=# ).+$", re.MULTILINE)
# The words that a value may be, as texts of the catalogue; another word is a name, and stays.
WORDS = (
    "yes", "no", "none", "never", "added", "replaced", "running", "behind", "node", "coordinator",
    "operator", "helper", "waiting", "asked", "approved", "refused", "cancelled", "complete",
    "partial", "failed", "released", "withheld", "answered", "silent", "open", "closed", "online",
    "offline", "enrolled", "revoked", "expired", "exact", "approximate", "noised", "person", "row",
    "visit", "stay", "grant", "charge", "withdrawal", "answer", "boolean", "category", "string",
    "date", "array", "code", "new", "removed", "empty",
    "there",
)  # fmt: skip
VALUES = {word: word for word in WORDS} | {
    "number": "a number", "left": "left holder", "right": "right holder", "range": "out of range",
}  # fmt: skip
# The rules of refusals that are no keys of a YAML file, of which each keeps its name.
RULES = {
    "approval": "the approval", "cohort_complement": "people left out",
    "cohort_size": "cohort size",
    "column": "column", "data": "the data", "differencing": "differences of studies",
    "functionals": "released numbers", "ledger": "budget ledger", "link_changed": "changed link",
    "link_failed": "failed link", "link_lost": "lost link", "link_parties": "parties of a link",
    "link_roster": "roster of a link", "link_unknown": "unknown link",
    "memory": "memory of the node", "no_answer": "no answer",
    "node_set": "set of nodes", "operator": "the hub's operator", "overflow": "numeric overflow",
    "small_cells": "small cells", "steered": "steered sums",
    "study_budget": "budget of a study", "unchecked": "unchecked data",
}  # fmt: skip
BROKEN = re.compile(r"([a-z]+(?: [a-z]+)*) \((\w+)\)")  # a rule and its column
MIN_LONG = 12  # characters
MAX_DEPTH = 6  # of messages inside messages
MAX_LENGTH = 4000  # characters; a longer text stays English


def translated(message: str) -> str:
    """The message in the reader's language, line by line; what the catalogue lacks stays as it
    is."""
    if language.current() == "en" or len(message) > MAX_LENGTH:
        return message
    return "\n".join(_line(line, language.current()) for line in message.split("\n"))


def comments(text: str) -> str:
    """A file of YAML with its comments in the reader's language."""
    return COMMENT.sub(lambda comment: translated(comment[0]), text)


def cell(text: str) -> str:
    """A cell of a table. It may be data, so of single words only those of VALUES are translated; a
    comma in a number is a decimal comma, which the table has written."""
    if re.fullmatch(r"[\d,.\s%<-]*,[\d,.\s%<-]*", text):
        return text
    return "\n".join(_translated(line, MAX_DEPTH - 1) for line in text.split("\n"))


@lru_cache(maxsize=4096)
def _line(line: str, code: str) -> str:
    """`code`: the language, for the cache."""
    return _translated(line, MAX_DEPTH)


def _translated(text: str, depth: int) -> str:
    """The text without its margins, translated between them."""
    margins = MARGINS.fullmatch(text)
    assert margins is not None
    start, content, end = margins.groups()
    return f"{start}{_content(content, depth)}{end}"


def _content(text: str, depth: int) -> str:
    if numbered := re.fullmatch(r"(\d+): (.+)", text, re.DOTALL):  # behind `line`
        return f"{numbered[1]}{language.colon()} {_content(numbered[2], depth)}"
    if not re.search(r"[a-z]{2}", text):
        return language.value(text)
    if depth < MAX_DEPTH and re.fullmatch(r"[\w-]+", text):
        return language.tr(VALUES[text]) if text in VALUES else text
    if (rules := _broken_rules(text)) is not None:
        return rules
    exact = _exact(text)
    if exact != text or depth == 0:
        return exact
    behind = list(_behind_places(text))
    for place, rest in behind:
        if _exact(rest) != rest:
            return f"{_place(place, depth)}: {_exact(rest)}"
    head = text.partition("; ")[0]
    if head and head != text and language.tr(head) != head:
        return _in_pieces(text, depth)
    fitting = [(place, *fit) for place, rest in [("", text), *behind] if (fit := _fitting(rest))]
    if not fitting:
        return _in_pieces(text, depth)
    place, template, match = max(fitting, key=lambda each: each[1].letters)
    values = {
        name: value if name in template.verbatim else _translated(value, depth - 1)
        for name, value in zip(template.names, match.groups(), strict=True)
    }
    filled = _filled(language.tr(template.key), values)
    return f"{_place(place, depth)}: {filled}" if place else filled


def _exact(text: str) -> str:
    """The translation of a text without places, also before the value that was given instead."""
    translation = language.tr(text)
    asked, mark, given = text.rpartition(", not ")
    if translation != text or not mark or language.tr(asked) == asked:
        return translation
    return _filled(language.tr("{0}, not {1}"), {"0": language.tr(asked), "1": _word(given)})


def _broken_rules(text: str) -> str | None:
    """A list of rules with their columns, as in `wrong type (age), range (weight)`."""
    matches = [BROKEN.fullmatch(part) for part in text.split(", ")]
    rules = [(match, VALUES.get(match[1], match[1])) for match in matches if match]
    if len(rules) < len(matches) or not all(language.tr(rule) != rule for _, rule in rules):
        return None
    return ", ".join(f"{language.tr(rule)} ({match[2]})" for match, rule in rules)


def _word(value: str) -> str:
    return language.tr(VALUES[value]) if value in VALUES else value


def _behind_places(text: str) -> Iterator[tuple[str, str]]:
    """What stands before and behind each of the names at the beginning of a message, such as the
    file and line, the study, and the key that it is about."""
    at = 0
    while match := NAME.match(text, at):
        at = match.end()
        yield text[: at - 2], text[at:]


def _place(names: str, depth: int) -> str:
    """Names before a message. Of a study and a node, the word for it is translated, and the rule of
    a refusal."""
    return ": ".join(_named(name, depth) for name in names.split(": "))


def _named(name: str, depth: int) -> str:
    space = NO_BREAK if language.current() == "fr" else ""
    if name in RULES:
        return f"{language.tr(RULES[name])}{space}"
    return f"{_translated(name, depth - 1)}{space}" if name.startswith("study ") else name


def _fitting(text: str) -> tuple[Template, re.Match[str]] | None:
    """The text of the catalogue that fits, of several the one with the most letters."""
    for template in _templates(language.current()):
        if all(piece in text for piece in template.pieces) and (match := template.match(text)):
            return template, match
    return None


def _filled(text: str, values: Mapping[str, str]) -> str:
    return PLACE.sub(lambda place: values[place[1]], text)


def _in_pieces(text: str, depth: int) -> str:
    """A text that is none of the catalogue: messages side by side, or one behind its place."""
    inside = min(depth, MAX_DEPTH - 1)  # the pieces are shorter, so this ends
    head, semicolon, tail = text.partition("; ")
    if semicolon and not head:
        return f"{NO_BREAK}; {_content(tail, inside)}"
    if semicolon:
        first, others = _content(head, inside), _content(f"; {tail}", inside)
        if first != head or others != f"{NO_BREAK}; {tail}":
            return first + others
    before, colon, after = text.partition(": ")
    if not colon:
        return language.value(text)
    named = _translated(before, inside) if " " in before else before
    space = NO_BREAK if named != before and language.current() == "fr" else ""
    return f"{named}{space}: {_translated(after, inside)}"


@dataclass(frozen=True)
class Template:
    """A text of the catalogue with places. `pieces`: the text between them; `names`: theirs;
    `verbatim`: those whose values are code or a version, and are never translated."""

    key: str
    pieces: Sequence[str]
    names: Sequence[str]
    verbatim: frozenset[str]

    def match(self, text: str) -> re.Match[str] | None:
        """None also if the text is a list of such texts, which are translated one by one."""
        match = self._pattern.fullmatch(text)
        if match is None:
            return None
        long = [piece for piece in self.pieces if len(piece) > MIN_LONG]
        again = [*long, f"; {self.pieces[0]}"]
        repeats = any(piece in value for piece in again for value in match.groups())
        first, *others = text.split("; ")
        is_list = bool(others) and all(map(self._pattern.fullmatch, (first, others[0])))
        return None if repeats or is_list else match

    @property
    def letters(self) -> int:
        return sum(map(len, self.pieces))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        parts = PLACE.split(self.key)
        return re.compile("(.*?)".join(map(re.escape, parts[::2])), re.DOTALL)


@cache
def _templates(code: str) -> list[Template]:
    """The texts of the catalogue with places; the text with the longest pieces first."""
    split = [(key, PLACE.split(key)) for key in language.keys(code) if PLACE.search(key)]
    templates = [
        Template(key, [piece for piece in parts[::2] if piece], parts[1::2], _verbatim(key))
        for key, parts in split
        if len(set(parts[1::2])) == len(parts[1::2])
        and sum(map(str.isalpha, "".join(parts[::2]))) > 2  # "{a}: {b} of {c}" is like any text
    ]
    return sorted(templates, key=lambda template: -template.letters)


def _verbatim(key: str) -> frozenset[str]:
    """The places that stand in code, behind an option, or behind the word version."""
    code = re.findall(r"`[^`]*`|'[^' ]*'|--[a-z-]+ \{\w+\}|[Vv]ersions? \{\w+\}", key)
    return frozenset(name for text in code for name in PLACE.findall(text))
