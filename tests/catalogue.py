"""The texts that people read, as `make translations` collects them for federation/locale.

`python -m tests.catalogue` brings hdh.po up to date with the code, and compiles it to hdh.mo. Texts
are arguments of `tr` and `plural`, the help of commands and options, the headings of reports, and
the messages of errors and refusals, whose values are places such as {0}."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import jinja2
from babel.messages import mofile, pofile
from babel.messages.catalog import Catalog
from jinja2.ext import extract_from_ast

from federation import language

ROOT = Path(__file__).parents[1]
PACKAGES = ("federation", "strategies", "nodes", "aggregator", "simulations")
PO = language.FOLDER / "fr" / "LC_MESSAGES" / "hdh.po"
MO = PO.with_suffix(".mo")
REASONS = ("Refusal", "Exactness")
HELPED = ("Option", "Argument", "Noun")
# Whose errors and refusals are in the catalogue: the rest of the messages stays English.
MESSAGES = ("federation/cli/", "federation/contract.py", "aggregator/report/", "nodes/approvals.py")
ELSEWHERE = {  # texts of libraries, and of values that reports and plans show
    "click and typer": (
        "Show this message and exit.",
        "Install completion for the current shell.",
        "Show completion for the current shell, to copy it or customize the installation.",
    ),
    "aggregator/document.py": (
        "released", "withheld", "failed", "exact", "approximate", "noised", "answered", "refused",
        "silent",
    ),
    "federation/contract.py": (
        "person", "row", "visit", "stay", "nodes_per_person of the contract",
        "the contract gives no nodes_per_person, so every node counts",
    ),
    "federation/model_words.py": (
        "{0}, not {1}", "must be a number", "must be a whole number", "must be true or false",
        "must be a text: put it in quotes",
        "must be a mapping, with a line `key: value` for each entry",
        "must be a day, written as 2026-01-31",
        "must be a day and a time, written as 2026-01-31T12:00:00Z",
        "cannot be read; compare it with the documentation",
    ),
    "nodes/approvals.py": ("approved", "waiting", "in the cohort", "outside", "not known"),
    "strategies/*_dp.py": ("a count", "a weekly count", "a Gini coefficient", "a count of a level"),
}  # fmt: skip
Text = str | tuple[str, str]
PLACE = "\0"


@cache
def texts() -> dict[Text, list[str]]:
    """Each text, or pair of singular and plural, with the files that it stands in."""
    places_of: dict[Text, list[str]] = {}
    for path in sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for text in _of_module(ast.parse(path.read_text(encoding="utf-8")), name):
            places_of.setdefault(text, []).append(name)
    for path in sorted((ROOT / "aggregator").rglob("*.j2")):
        tree = jinja2.Environment().parse(path.read_text(encoding="utf-8"))
        for _, _, text in extract_from_ast(tree, ("tr", "plural"), babel_style=False):
            strings = (text,) if isinstance(text, str) else text
            pair = tuple(part for part in strings if part)
            key: Text = pair[0] if len(pair) == 1 else (pair[0], pair[1])
            places_of.setdefault(key, []).append(path.relative_to(ROOT).as_posix())
    for name, listed in ELSEWHERE.items():
        for text in listed:
            places_of.setdefault(text, []).append(name)
    return {text: sorted(set(places)) for text, places in places_of.items()}


def _of_module(tree: ast.Module, name: str) -> Iterator[Text]:
    has_messages = name.startswith(MESSAGES)
    is_cli = name.startswith("federation/cli/") and "/actions/" not in name
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _of_call(node, has_messages=has_messages)
        if has_messages and isinstance(node, ast.Raise):
            yield from _of_error(node)
        if is_cli and isinstance(node, ast.FunctionDef) and _is_command(node):
            yield from filter(None, [ast.get_docstring(node)])
        if isinstance(node, ast.AnnAssign | ast.Assign) and _is_list_of_texts(node):
            assert isinstance(node.value, ast.Dict)
            yield from (text for value in node.value.values for text in _constants([value]))


def _of_error(node: ast.Raise) -> Iterator[str]:
    if isinstance(node.exc, ast.Call) and _name(node.exc.func).endswith("Error"):
        yield from _messages(node.exc.args)


def _is_list_of_texts(node: ast.AnnAssign | ast.Assign) -> bool:
    targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
    names = {_name(target) for target in targets}
    return bool(names & {"HEADINGS", "NOUNS", "WORDS"}) and isinstance(node.value, ast.Dict)


def _of_call(node: ast.Call, *, has_messages: bool) -> Iterator[Text]:
    called = _name(node.func)
    if called == "tr":
        yield from _constants(node.args[:1])
    elif called == "plural":
        singular, several = _constants(node.args[:2])
        yield singular, several
    elif called in REASONS and has_messages:
        yield from _messages(node.args[1:])
    elif called in HELPED or called == "App":
        yield from _constants([word.value for word in node.keywords if word.arg == "help"])


def _is_command(node: ast.FunctionDef) -> bool:
    return any(
        isinstance(decorator, ast.Call) and _name(decorator.func) in ("command", "callback")
        for decorator in node.decorator_list
    )


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _constants(nodes: Iterable[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
            yield node.value
        elif isinstance(node, ast.IfExp):
            yield from _constants([node.body, node.orelse])


def _messages(nodes: Iterable[ast.expr]) -> Iterator[str]:
    for node in nodes:
        text = template(node)
        if text is not None and re.search(r"[a-z]{3,}", re.sub(r"\{\d+\}", "", text)):
            yield text


def template(node: ast.expr) -> str | None:
    """The text of a string of Python, with {0}, {1} for its values; None if it is no string."""
    parts = list(_parts(node))
    if not parts or any(part is None for part in parts):
        return None
    places = iter(range(len(parts)))
    return "".join(f"{{{next(places)}}}" if part == PLACE else str(part) for part in parts)


def _parts(node: ast.expr) -> Iterator[str | None]:
    if isinstance(node, ast.Constant):
        yield node.value if isinstance(node.value, str) else None
    elif isinstance(node, ast.JoinedStr):
        for part in node.values:
            yield str(part.value) if isinstance(part, ast.Constant) else PLACE
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _parts(node.left)
        yield from _parts(node.right)
    else:
        yield PLACE if isinstance(node, ast.Call | ast.Name | ast.Attribute) else None


# -- the catalogue
def updated() -> Catalog:
    """hdh.po with the texts of the code: new ones without a translation, old ones left out."""
    with PO.open("rb") as file:
        written = pofile.read_po(file, locale="fr")
    header = "# The French texts of hdh-federation; `make translations` brings them up to date."
    catalogue = Catalog("fr", project="hdh-federation", header_comment=header, fuzzy=False)
    catalogue.mime_headers = [("Plural-Forms", "nplurals=2; plural=(n > 1);")]
    for text, places in sorted(texts().items(), key=lambda pair: (pair[1], str(pair[0]))):
        message = written.get(text if isinstance(text, str) else text[0])
        catalogue.add(
            text, message.string if message else None, [(place, None) for place in places]
        )
    return catalogue


def untranslated() -> list[Text]:
    return [m.id for m in updated() if m.id and not (all(m.string) if m.pluralizable else m.string)]


def po_text(catalogue: Catalog) -> str:
    buffer = io.BytesIO()
    pofile.write_po(buffer, catalogue, width=100, omit_header=False, include_lineno=False)
    lines = buffer.getvalue().decode().splitlines()
    of_people = ("POT-Creation-Date", "PO-Revision-Date", "Bugs-To", "Last-Translator", "-Team")
    return "\n".join(line for line in lines if not any(name in line for name in of_people)) + "\n"


def mo_bytes() -> bytes:
    with PO.open("rb") as file:
        catalogue = pofile.read_po(file, locale="fr")
    catalogue.creation_date = catalogue.revision_date = datetime(2026, 1, 1, tzinfo=UTC)
    buffer = io.BytesIO()
    mofile.write_mo(buffer, catalogue)
    return buffer.getvalue()


def main() -> None:
    PO.write_text(po_text(updated()), encoding="utf-8")
    MO.write_bytes(mo_bytes())
    missing = untranslated()
    print(f"{len(updated())} texts; {len(missing)} without a translation")


if __name__ == "__main__":
    main()
