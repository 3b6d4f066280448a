"""YAML read strictly, with the line of every key, so that an error can name it."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from federation import errors, limits, model_words, yaml_values
from federation.yaml_values import Key, YamlValueError

ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)
# keys that were renamed before the first release, with the names that replace them
RENAMED: Mapping[str, Sequence[str]] = {
    "most_epsilon": ["max_epsilon"],
    "most_delta": ["max_delta"],
    "most_epsilon_per_year": ["max_epsilon_per_year"],
    "most_parameters_per_person": ["max_parameters_per_person"],
    "most_steps": ["max_steps"],
    "most_events": ["max_events"],
    "most_weight": ["max_weight"],
    "least": ["min_rows", "min_reports"],
}


@dataclass(frozen=True)
class Source:
    """The plain values of a YAML file, and where each of them stands."""

    name: str
    values: Mapping[str, Any]
    lines: Mapping[Key, int]

    def at(self, *key: str | int) -> str:
        """`study.yaml:12`, the line of `key` or of its nearest ancestor that has one."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.lines:
                return f"{self.name}:{self.lines[key[:length]]}"
        return self.name


def read(path: Path, error: type[errors.InputError], *, nfc: bool = True) -> Source:
    """`nfc`: see `yaml_values.read`; a file that names other files keeps their spelling."""
    try:
        with path.open("rb") as file:
            encoded = file.read(limits.MAX_YAML + 1)
        if len(encoded) > limits.MAX_YAML:
            raise error(
                f"{path}: larger than {limits.MAX_YAML // 2**20} MB, and not read; give the YAML"
                " file, or take out what is not needed"
            )
        content = encoded.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as reason:
        raise error(f"{path}: cannot be read as UTF-8 text ({type(reason).__name__})") from None
    return parse(content, name=str(path), error=error, nfc=nfc)


def parse(content: str, *, name: str, error: type[errors.InputError], nfc: bool = True) -> Source:
    try:
        document = yaml_values.read(content, nfc=nfc)
    except YamlValueError as invalid:
        raise error(
            *(
                f"{name}:{line}: {message}" if line else f"{name}: {message}"
                for line, message in invalid.problems
            )
        ) from None
    if not isinstance(document.values, dict):
        raise error(
            f"{name}: holds no `key: value` lines; see `hdh study schema` for the expected keys"
        )
    return Source(name, document.values, document.lines)


def build(
    model: type[ModelT],
    values: Mapping[str, Any],
    source: Source,
    *,
    under: Key,
    error: type[errors.InputError],
) -> ModelT:
    """`values` as a frozen `model`; every mistake in them becomes one line of one error."""
    try:
        return model.model_validate(dict(values))
    except pydantic.ValidationError as invalid:
        messages = [_say(problem, model, source, under) for problem in invalid.errors()]
        raise error(*dict.fromkeys(messages)) from None


def _say(problem: Any, model: type[pydantic.BaseModel], source: Source, under: Key) -> str:
    where = tuple(part for part in problem["loc"] if not _is_form(part))
    key = (*under, *where)
    fields = _fields(model, where[:-1])
    last = where[-1] if where else ""
    path = ".".join(str(part) for part in key).removesuffix(".[key]")
    place = f"{source.at(*key)}: {path}: " if path else f"{source.at(*key)}: "
    if problem["type"] == "extra_forbidden" and (new := _renamed(str(last), fields)):
        return f"{source.at(*key)}: unknown key {str(last)!r}; it is now {new!r}"
    if problem["type"] == "extra_forbidden" and fields:
        near = difflib.get_close_matches(str(last), fields, n=1)
        suggestion = f"did you mean {near[0]!r}? " if near else ""
        at, keys = source.at(*key), ", ".join(fields)
        parent = ".".join(str(part) for part in key[:-1])
        if parent and not source.lines:  # of a study in Python, which has no lines to look at
            at = f"{at}: {parent}"
        return f"{at}: unknown key {str(last)!r}; {suggestion}the keys are {keys}"
    if problem["type"] == "string_pattern_mismatch":
        shape = (
            "lower-case letters, digits, - and _"
            if "a-z" in problem["ctx"]["pattern"]
            else "letters, digits and _"
        )
        return (
            f"{source.at(*key)}: {path}:"
            f" {problem['input']!r} is not a valid name; use {shape}, and start with a letter"
            + _near_name(str(problem["input"]), problem["ctx"]["pattern"])
        )
    return f"{place}{model_words.say(problem)}"


def _near_name(text: str, pattern: str) -> str:
    """A valid name for a text with accents, blanks or capitals; empty if there is none."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_")
    for tried in (name, name.lower()):
        if re.fullmatch(pattern, tried):
            return f", as in {tried}"
    return ""


def _is_form(part: str | int) -> bool:
    """Is this the name that pydantic gives to one form of a union, as in `tuple[float, float]`?"""
    return isinstance(part, str) and part.endswith("]") and part != "[key]"


def _renamed(key: str, keys: Sequence[str]) -> str | None:
    """The name among `keys` that has replaced `key`."""
    return next((name for name in RENAMED.get(key, ()) if name in keys), None)


def _fields(model: Any, where: Key) -> list[str]:
    """The keys of `model` at `where`, a path through nested models and mappings of models."""
    for step in where:
        model = _step(model, step)
        if model is None:
            return []
    return (
        [field.alias or name for name, field in model.model_fields.items()]
        if hasattr(model, "model_fields")
        else []
    )


def _step(model: Any, step: str | int) -> Any:
    if not hasattr(model, "model_fields"):
        return None
    by_alias = {field.alias or name: field for name, field in model.model_fields.items()}
    if step not in by_alias:
        return model
    return _first_model(by_alias[str(step)].annotation)


def _first_model(annotation: Any) -> Any:
    if hasattr(annotation, "model_fields"):
        return annotation
    return next(
        (
            model
            for arg in getattr(annotation, "__args__", ())
            if (model := _first_model(arg)) is not None
        ),
        None,
    )
