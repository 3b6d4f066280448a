"""The texts that people read, as `make translations` collects them for federation/locale.

`python -m tests.catalogue` brings hdh.po up to date with the code, and compiles it to hdh.mo. Texts
are arguments of `tr` and `plural`, the help of commands and options, the headings of reports, and
every string of the packages that reads as prose: errors, refusals, notes, states, lines of the
screen. Their values are places such as {0}. What is only logged or asserted is no text."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from babel.messages import mofile, pofile
from babel.messages.catalog import Catalog
from jinja2.ext import extract_from_ast

from federation import language, message_texts, study

ROOT = Path(__file__).parents[1]
PACKAGES = ("federation", "strategies", "nodes", "aggregator", "simulations")
PO = language.FOLDER / "fr" / "LC_MESSAGES" / "hdh.po"
MO = PO.with_suffix(".mo")
REASONS = ("Refusal", "Exactness")
HELPED = ("Option", "Argument", "Noun")
HEADED = ("plain", "add_column")  # the headings of tables on the screen
LOGGED = ("debug", "info", "warning", "error", "exception", "critical")
# Files whose strings are written for programs, or into the documentation.
NOT_READ = ("federation/rpc/", "simulations/pilots/gallery.py")
# Files whose errors are read, and whose other strings are for programs or go into a model's card.
ONLY_ERRORS = ("aggregator/metrics.py", "aggregator/models.py", "federation/systemd.py")
# Strings for programs: commands, code, keys of caches, and French words that sources hold.
CODE = (
    r"(hdh |from |def |return |<|\((?!(?:[a-z]|\{0\}\): )[^|?*\[=]*$)|non |ne sait"
    r"|sans objet|Connection: |Host: |GET |roster: "
    r"|train |private |glm |sccs cells|k_means people|boosted_trees |\[bold\]|hive_|auto_detect"
    r"|multiple_imputation draw|propensity weights|support refusal|\"hdh|--(read|node) \{0\}(=|$)"
    r"|axes fraction|(lower|upper) left|offset points|module .* has no attribute|read_csv\(|seq, "
    r"|run, hub|\(substr|unit: person|encoding: utf|d+ mm+ y|hdh-federation (node|hub)|sign in"
    r"|\[(green|yellow)|quoted scalar|simple key|coins of|\{0\}roster:|\{0\}: \{contract: "
    r"|(but )?found |expected |cannot start any|could not find expected|mapping values are"
    r"|sequence entries|special characters are|unknown escape|the last attempt returns"
    r"|Cannot compare values|Function with name)"
)
ACRONYMS = "HTML|JSON|YAML|DICOM|PKCS|OMOP|SNDS|ATIH|CORS|HMAC|UUID|NULL|UTF"
SQL = rf"\b(?!(?:{ACRONYMS}) )[A-Z]{{4,}} |\b[A-Z]{{2,}}\("
# Texts of libraries, and of values that reports and plans show.
ELSEWHERE: Mapping[str, Sequence[Text]] = {
    "nodes/mapping_sql.py": ("write CREATE TEMP TABLE, VIEW or MACRO, and one SELECT at the end",),
    "click and typer": (
        "Aborted!",
        ("Did you mean {possibility}?", "(Did you mean one of: {possibilities}?)"),
        "Error: {message}",
        ("Got unexpected extra argument ({args})", "Got unexpected extra arguments ({args})"),
        "Invalid value for {param_hint}: {message}",
        "Invalid value: {message}",
        "Missing argument",
        "Missing command.",
        "Missing option",
        "No such command {name!r}.",
        "No such option {name!r}.",
        "Option {name!r} does not take a value.",
        ("Option {name!r} requires an argument.", "Option {name!r} requires {nargs} arguments."),
        "Try '{command} {option}' for help.",
        "directory",
        "file",
        "path",
        "{name} {filename!r} does not exist.",
        "{name} {filename!r} is a directory.",
        "{name} {filename!r} is a file.",
        "{name} {filename!r} is not readable.",
        "{name} {filename!r} is not writable.",
        ("{value!r} is not {choice}.", "{value!r} is not one of {choices}."),
        "{value!r} is not a valid {number_type}.",
        "{value} is not in the range {range}.",
        "Show this message and exit.",
        "Install completion for the current shell.",
        "Show completion for the current shell, to copy it or customize the installation.",
    ),
    "aggregator/document.py": (
        "released", "withheld", "failed", "exact", "approximate", "noised", "answered", "refused",
        "silent", "{0}: withheld: {1}", "{0}: failed: {1}", "{0} was withheld: {1}",
        "{0} failed: {1}", "{0} failed",
    ),
    "federation/cli/actions": (
        "difference",
        "added", "replaced", "none", "never", "running", "ahead of", "behind", "granted", "charged",
        "remaining",
    ),
    "federation/message_texts.py": (
        *message_texts.WORDS, *message_texts.VALUES.values(),
    ),
    "federation/study.py": study.PURPOSES,
    "nodes/ledger.py": (
        "store", "cohort", "condition", "column", "survivors", "functionals", "nodes", "state",
    ),
    "federation/cli/actions/doctor.py": (
        "versions", "disk", "keys", "ledger", "database", "process", "enrolment", "certificate",
        "authority", "clock",
    ),
    "federation/cli/actions/*.py": ("Next:", "Report:", "Result:", "Tables:", "(all)"),
    "aggregator/scheduler.py": (
        "{0}: {1} of the {2} nodes needed gave a part",
        "{0} of at most {1} rounds done, {2}", "{0} rounds done, {1}", "{0} rounds done",
        "new", "removed", "its CSV file", "{0} sends {1}",
    ),
    "federation/client.py": ("{0} (offline)", "waiting: {0}"),
    "federation/expression/terms.py": (
        "number", "boolean", "category", "string", "date", "array", "code", "integer",
    ),
    "audit": (
        "enrolled", "invited", "revoked", "anchored", "mapped", "submitted", "started", "approved",
        "refused", "granted", "cancelled", "complete", "partial", "failed", "ended", "decided",
        "proposed", "waiting", "running", "open", "closed", "offline", "online", "asked", "expired",
    ),
    "roles": ("node", "coordinator", "operator", "hub", "left", "right", "helper"),
    "federation/contract.py": (
        "column {0}: {1}", "{0} and {1} more",
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
    "nodes/recognition.py": ("a comma", "a point", "a space"),
    "nodes/approvals.py": ("approved", "waiting", "in the cohort", "outside", "not known"),
    "strategies/*_dp.py": ("a count", "a weekly count", "a Gini coefficient", "a count of a level"),
}  # fmt: skip
Text = str | tuple[str, str]
PLACE = "\0"
STRINGS = (ast.Constant, ast.JoinedStr, ast.BinOp)
LEAVES = (ast.Name, ast.expr_context, ast.operator)


@cache
def texts() -> dict[Text, list[str]]:
    """Each text, or pair of singular and plural, with its places: `file:line`, or a file."""
    places_of: dict[Text, list[str]] = {}
    for path in sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(NOT_READ):
            for line, text in _of_module(ast.parse(path.read_text(encoding="utf-8")), name):
                places_of.setdefault(text, []).append(f"{name}:{line}")
    for path in sorted((ROOT / "aggregator").rglob("*.j2")):
        tree = jinja2.Environment().parse(path.read_text(encoding="utf-8"))
        for line, _, text in extract_from_ast(tree, ("tr", "plural"), babel_style=False):
            strings = (text,) if isinstance(text, str) else text
            pair = tuple(part for part in strings if part)
            key: Text = pair[0] if len(pair) == 1 else (pair[0], pair[1])
            places_of.setdefault(key, []).append(f"{path.relative_to(ROOT).as_posix()}:{line}")
    for name, listed in ELSEWHERE.items():
        for text in listed:
            places_of.setdefault(text, []).append(name)
    return _without_forms(places_of)


def _without_forms(places_of: dict[Text, list[str]]) -> dict[Text, list[str]]:
    """Without the texts that are a form of a pair, too: a catalogue has them once."""
    singulars = {text[0] for text in places_of if isinstance(text, tuple)}
    return {text: places for text, places in places_of.items() if text not in singulars}


def _of_module(tree: ast.Module, name: str) -> Iterator[tuple[int, Text]]:
    is_cli = name.startswith("federation/cli/") and "/actions/" not in name
    on_screen = name.startswith("federation/cli/actions/")
    is_text = is_line_of_the_screen if on_screen else reads_as_prose
    if re.fullmatch(r"simulations/pilots/\w+/__init__.py", name):
        yield 1, " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
    for node, for_people in _nodes(tree):
        texts_of_node: Iterable[Text] = ()
        if isinstance(node, ast.Call):
            texts_of_node = _of_call(node)
        elif isinstance(node, ast.Raise):
            texts_of_node = _of_error(node)
        elif is_cli and isinstance(node, ast.FunctionDef) and _is_command(node):
            texts_of_node = filter(None, [ast.get_docstring(node)])
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            texts_of_node = _of_assignment(node)
        elif for_people and isinstance(node, STRINGS) and name not in ONLY_ERRORS:
            texts_of_node = filter(is_text, lines_of(template(node) or ""))
        yield from ((getattr(node, "lineno", 0), text) for text in texts_of_node)


def _of_assignment(node: ast.AnnAssign | ast.Assign) -> Iterator[str]:
    if isinstance(node.value, ast.Dict) and _is_list_of_texts(node):
        yield from _constants(node.value.values)
    if isinstance(node, ast.Assign) and _name(node.targets[0]) == "TEMPLATE":
        yield from _constants([node.value])


def _nodes(tree: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes, each with whether its strings are for people. Of a string with places, the
    strings inside the places follow, and its pieces do not."""
    waiting = [(tree, True)]
    while waiting:
        node, for_people = waiting.pop()
        for_people = for_people and not _is_for_programs(node)
        yield node, for_people
        if isinstance(node, STRINGS) and template(node) is not None:
            parts = (part for part in ast.walk(node) if isinstance(part, ast.FormattedValue))
            waiting += [(part.value, for_people) for part in parts]
        else:
            waiting += [(child, for_people) for child in _children(node)]


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below, without names and contexts, which hold no text."""
    for value in vars(node).values():
        if isinstance(value, list):
            yield from (each for each in value if isinstance(each, ast.AST))
        elif isinstance(value, ast.AST) and not isinstance(value, LEAVES):
            yield value


def _is_for_programs(node: ast.AST) -> bool:
    """Docstrings, assertions, lines of the log, examples of commands, and texts of `tr`."""
    if isinstance(node, ast.Call):
        called = node.func
        is_log = isinstance(called, ast.Attribute) and called.attr in LOGGED
        return _name(called) in ("tr", "plural", "counted") or is_log
    if isinstance(node, ast.keyword):
        return node.arg == "examples"
    if isinstance(node, ast.Assign):
        return _name(node.targets[0]) in ("TEMPLATE", "WORDS")
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_docstring or isinstance(node, ast.Assert)


def lines_of(text: str) -> list[str]:
    """The lines of a text, each of which federation/message_texts.py translates by itself; of a
    line of YAML only the comment."""
    lines = [re.sub(r"^ *(\w+Error\|)?| *$", "", line) for line in text.split("\n")]
    return [line.partition("# ")[2] or line for line in lines]


def reads_as_prose(text: str) -> bool:
    """Whether two words stand side by side, which are no command and no SQL."""
    if re.match(CODE, text) or re.search(SQL, text):
        return False
    return bool(re.search(r"[a-z]{2,}[,;:)]* +(?:an? )?[a-z]{2,}", re.sub(r"\{\w*\}", " ", text)))


def is_line_of_the_screen(text: str) -> bool:
    """Whether a text of the command has a word beside another or beside a value."""
    words = re.sub(r"\{\w*\}", "0", text)
    return not re.match(CODE, text) and bool(re.search(r"[a-z]{3,}", words) and " " in words)


def _of_error(node: ast.Raise) -> Iterator[str]:
    if isinstance(node.exc, ast.Call) and _name(node.exc.func).endswith("Error"):
        yield from _messages(node.exc.args)


def _is_list_of_texts(node: ast.AnnAssign | ast.Assign) -> bool:
    targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
    names = {_name(target) for target in targets}
    return bool(names & {"HEADINGS", "NOUNS", "WORDS"}) and isinstance(node.value, ast.Dict)


def _of_call(node: ast.Call) -> Iterator[Text]:
    called = _name(node.func)
    if called == "tr":
        yield from _constants(node.args[:1])
    elif called == "plural":
        if len(forms := tuple(_constants(node.args[:2]))) == 2:
            yield forms[0], forms[1]
    elif called == "counted":
        singular, several = _constants(node.args[1:3])
        yield f"{{n}} {singular}", f"{{n}} {several}"
    elif called in HEADED:
        titles = [word.value for word in node.keywords if word.arg == "title"]
        yield from (text.strip() for text in _constants([*node.args, *titles]))
    elif called in REASONS:
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
        for text in lines_of(template(node) or ""):
            words = re.sub(r"\{\w+\}", "", text)
            if re.search(r"[a-z]{3,}", words) and not re.match(CODE + r"|[a-z_]+$", text):
                yield text


def template(node: ast.expr) -> str | None:
    """The text of a string of Python, with {0}, {1} for its values; None if it is no string."""
    if isinstance(node, ast.Constant):
        return _of_format(node.value) if isinstance(node.value, str) else None
    parts = list(_parts(node))
    if not parts or any(part is None for part in parts) or set(parts) == {PLACE}:
        return None
    places = iter(range(len(parts)))
    return "".join(f"{{{next(places)}}}" if part == PLACE else str(part) for part in parts)


def _of_format(text: str) -> str:
    """A text for `format`: {share:.0f} becomes {share}, and {} becomes {0}."""
    return re.sub(r"\{(\w+):[.\d]*\w?\}", r"{\1}", text.replace("{}", "{0}"))


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
    for text, places in sorted(texts().items(), key=_order):
        message = written.get(text if isinstance(text, str) else text[0])
        files = sorted({place.partition(":")[0] for place in places})
        french = _with_unbreakable_spaces(message.string) if message else None
        catalogue.add(text, french, [(file, None) for file in files])
    return catalogue


def _with_unbreakable_spaces(french: Any) -> Any:
    """The French with no-break spaces before its marks, however it was typed; code stays."""
    if not isinstance(french, str):
        return tuple(map(_with_unbreakable_spaces, french))
    pieces = re.split(r"(`[^`]*`)", french)
    pieces[::2] = [re.sub(r" (?=[:;?!%»](\s|$|[,.)]))", "\u00a0", piece) for piece in pieces[::2]]
    return "".join(pieces)


def _order(entry: tuple[Text, Sequence[str]]) -> tuple[list[str], str]:
    text, places = entry
    return sorted({place.partition(":")[0] for place in places}), str(text)


def untranslated() -> list[str]:
    """`file:line: text` of each text without its French."""
    lacking = [
        message.id
        for message in updated()
        if message.id and not (all(message.string) if message.pluralizable else message.string)
    ]
    return [f"{texts()[text][0]}: {text!r}" for text in map(_key, lacking)]


def _key(text: str | Sequence[str]) -> Text:
    return text if isinstance(text, str) else (text[0], text[1])


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
    print(*missing, sep="\n")
    print(f"{len(updated())} texts; {len(missing)} without a translation")


if __name__ == "__main__":
    main()
