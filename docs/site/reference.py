"""The reference pages of the site, generated from the code: commands, YAML keys, analyses, the
Python interface, and refusals."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import typer

import federation
from federation import errors, language, message_texts
from federation.cli import main
from federation.cli.actions import study_files
from strategies import registry

ROOT = Path(__file__).parents[2]
FILES = {
    "study": "study.yaml",
    "contract": "DATASET.yaml",
    "node": "node.yaml",
    "hub": "hub.yaml",
}
Schema = Mapping[str, Any]


def pages() -> dict[str, str]:
    """The path of each page below docs/, and its Markdown."""
    return {
        "reference/commands.md": commands(),
        "reference/yaml.md": yaml_keys(),
        "reference/analyses.md": analyses(),
        "reference/python.md": python(),
        "reference/refusals.md": refusals(),
    }


# -- commands
def commands() -> str:
    root = typer.main.get_command(main.app)
    sections = [_command_section(*entry) for entry in _walk(root, "hdh")]
    return "\n".join(["# Commands", "", "As `--help` says it.", "", *sections])


def _walk(command: click.Command, name: str) -> Iterator[tuple[click.Command, str]]:
    if not isinstance(command, click.Group):
        yield command, name
        return
    context = click.Context(command, info_name=name)
    for child_name in command.list_commands(context):
        child = command.get_command(context, child_name)
        assert child is not None
        yield from _walk(child, f"{name} {child_name}")


def _command_section(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name)
    records = [
        record
        for parameter in command.get_params(context)
        if (record := parameter.get_help_record(context)) is not None
    ]
    rows = [(f"`{option}`", text.replace("\\[", "[")) for option, text in records]
    examples = [line.strip() for line in (command.epilog or "").splitlines() if "hdh " in line]
    parts = [
        f"## {name}",
        inspect.cleandoc(command.help or "").replace("\b\n", ""),
        _fence("text", command.get_usage(context)),
        _table(("option", "meaning"), rows),
        *([_fence("console", "\n".join(f"$ {line}" for line in examples))] if examples else []),
    ]
    return "\n\n".join(parts) + "\n"


# -- keys of the YAML files
def yaml_keys() -> str:
    sections = [_file_section(kind, name) for kind, name in FILES.items()]
    intro = (
        "A key that is not listed here is refused with its line. `hdh study schema KIND` prints "
        "the same as a JSON Schema, with which an editor completes and checks a file."
    )
    return "\n".join(["# Keys of the YAML files", "", intro, "", *sections])


def _file_section(kind: str, name: str) -> str:
    schema: Schema = study_files.schema(kind)
    definitions = dict(schema.get("$defs", {}))
    models = {name: schema} | {
        title: model for title, model in definitions.items() if _is_of_file(title, model)
    }
    parts = [f"## {name}"] + [
        _model_section(title, model, top=title == name) for title, model in models.items()
    ]
    return "\n\n".join(parts) + "\n"


def _is_of_file(title: str, model: Schema) -> bool:
    """False for the options of analyses, which have a page of their own."""
    properties = model.get("properties", {})
    return title == "Study" or ("run" not in properties and bool(properties))


def _model_section(title: str, model: Schema, *, top: bool) -> str:
    properties: Mapping[str, Schema] = model.get("properties", {})
    required = set(model.get("required", ()))
    rows = [
        (f"`{key}`", _kind(value), _default(key, value, required))
        for key, value in properties.items()
    ]
    head = [] if top else [f"### {title}"]
    return "\n\n".join(
        [*head, _prose(model.get("description", "")), _table(("key", "value", "default"), rows)]
    )


def _kind(schema: Schema) -> str:
    """The values that a JSON Schema allows, in words."""
    if "$ref" in schema:
        return f"the keys of {schema['$ref'].rpartition('/')[2]}"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            kinds = [_kind(part) for part in schema[union] if part.get("type") != "null"]
            return ", or ".join(dict.fromkeys(kinds))
    return _plain_kind(schema)


def _plain_kind(schema: Schema) -> str:
    kind = schema.get("type")
    if kind == "array":
        items = schema.get("items")
        return f"a list: {_kind(items)}" if isinstance(items, Mapping) else "a list"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"a mapping: {_kind(values)}" if isinstance(values, Mapping) else "a mapping"
    names = {"string": "text", "boolean": "true or false", "integer": "whole number"}
    limits = [
        f"{words} {schema[key]}"
        for key, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "more than"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "less than"),
        )
        if key in schema
    ]
    return ", ".join([names.get(str(kind), str(kind or "any value")), *limits])


def _default(key: str, schema: Schema, required: Iterable[str]) -> str:
    if key in required:
        return "required"
    default = schema.get("default")
    return "" if default in (None, [], {}) or isinstance(default, dict) else f"`{default}`"


# -- analyses
def analyses() -> str:
    rows = [
        (f"[{name}](../analyses.md#{name})", "yes", _private_mode(name))
        for name in registry.ANALYSES
    ]
    intro = (
        "The options of each analysis, with their defaults. [The analyses](../analyses.md) says "
        "what each computes, what leaves the node, and how it is verified."
    )
    table = _table(("analysis", "mode exact", "mode dp"), rows)
    sections = [_analysis_section(name) for name in registry.ANALYSES]
    return "\n\n".join(["# Analyses and their options", intro, table, *sections]) + "\n"


def _private_mode(name: str) -> str:
    return "yes" if name in registry.PRIVATE else f"no: {registry.NOT_PRIVATE[name]}"


def _analysis_section(name: str) -> str:
    module = registry.analysis(name)
    summary = (inspect.getdoc(module) or "").split("\n\n")[0].replace("\n", " ")
    parts = [f"## {name}", summary, _options(module.Options)]
    if name in registry.PRIVATE:
        parts += ["In mode dp:", _options(registry.private(name).Options)]
    return "\n\n".join(parts)


def _options(options: Any) -> str:
    schema = options.model_json_schema()
    section = _model_section("", schema, top=True)
    nested = [
        _model_section("", model, top=True).strip()
        for model in schema.get("$defs", {}).values()
        if model.get("properties")
    ]
    titles = [title for title, model in schema.get("$defs", {}).items() if model.get("properties")]
    more = [f"{title}:\n\n{text}" for title, text in zip(titles, nested, strict=True)]
    return "\n\n".join([section.strip(), *more])


# -- the Python interface
def python() -> str:
    intro = "`import federation as fed`. [Studies in Python](../python.md) shows them at work."
    sections = [_name_section(name) for name in federation.__all__]
    return "\n\n".join(["# Python interface", intro, *sections]) + "\n"


def _name_section(name: str) -> str:
    member = getattr(federation, name)
    parts = [f"## fed.{name}", _signature(name, member), _prose(inspect.getdoc(member) or "")]
    if inspect.isclass(member):
        parts += [
            part
            for method, value in _methods(member)
            for part in (
                f"### {name}.{method}",
                _signature(method, value),
                _prose(inspect.getdoc(value) or ""),
            )
        ]
    return "\n\n".join(parts)


def _methods(owner: type) -> Iterator[tuple[str, Any]]:
    """The public methods of a class and of its bases of ours, those of the bases first."""
    for base in reversed(owner.__mro__[:-1]):
        for name in vars(base):
            method = getattr(owner, name)
            is_of_base = getattr(method, "__qualname__", "").startswith(f"{base.__name__}.")
            if not name.startswith("_") and inspect.isroutine(method) and is_of_base:
                yield name, method


def _signature(name: str, member: Any) -> str:
    signature = inspect.signature(member)
    parameters = [
        str(parameter).replace("'", "")
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    returns = signature.return_annotation
    ending = "" if returns is inspect.Signature.empty else f" -> {returns}".replace("'", "")
    line = f"{name}({', '.join(parameters)}){ending}"
    if len(line) > 88:
        line = f"{name}(\n" + "".join(f"    {text},\n" for text in parameters) + f"){ending}"
    return _fence("python", line)


# -- refusals and errors
def refusals() -> str:
    by_rule: dict[str, set[str]] = {}
    for folder in ("nodes", "federation"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for rule, message in refusals_in(path.read_text(encoding="utf-8")):
                by_rule.setdefault(rule, set()).add(message)
    rows = [
        (f"`{rule}`", _in_french(rule), "<br>".join(sorted(messages)))
        for rule, messages in sorted(by_rule.items())
        if rule != "refused"
    ]
    intro = (
        "A node that refuses says why by one of these rules, unless its policy is `terse`. "
        "[When each applies](../producer.md#what-a-node-answers-and-what-it-refuses); `…` stands "
        "for a name or a number of the study."
    )
    tree = _fence("text", textwrap.dedent((errors.__doc__ or "").partition("\n\n")[2]).strip())
    return (
        "\n\n".join(
            [
                "# Refusals and errors",
                intro,
                _table(("rule", "in French", "words"), rows),
                "## Errors",
                tree,
            ]
        )
        + "\n"
    )


def _in_french(rule: str) -> str:
    with language.using("fr"):
        return language.tr(message_texts.RULES[rule]) if rule in message_texts.RULES else ""


def refusals_in(code: str) -> Iterator[tuple[str, str]]:
    """The rule and the words of each Refusal in a source."""
    for node in ast.walk(ast.parse(code)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "Refusal"
            and len(node.args) == 2
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value), _words(node.args[1])


def _words(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(part) for part in node.values)
    return "…"


# -- Markdown
def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )


def _fence(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _prose(text: str) -> str:
    """A docstring as Markdown: its examples become blocks of code."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text))
    return "\n\n".join(
        _fence("python", paragraph) if paragraph.startswith(">>>") else paragraph
        for paragraph in paragraphs
    )
