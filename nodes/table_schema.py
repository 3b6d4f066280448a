"""A contract drafted from a Table Schema file, such as those of the public schema of the SNDS; no
data are needed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federation import errors
from nodes.draft import Draft, Guess
from nodes.samples import slug

TYPES: Mapping[str, str] = {
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "date": "date",
    "datetime": "date",
    "year": "integer",
    "yearmonth": "string",
    "any": "string",
}
PEOPLE = ("BEN_IDT_ANO", "BEN_NIR_PSA", "NUM_ENQ", "NIR_ANO_17", "BEN_NIR_ANO")
NAMES_OF_CODES: Mapping[str, str] = {
    r"CIM[ -]?10|\bCIM\b|diagnostic (principal|reli|associ)": "cim-10",
    r"\bCCAM\b": "ccam",
    r"\bATC\b": "atc",
    r"CIP[ -]?13|\bC13\b|CIP sur 13": "cip13",
    r"\bLOINC\b": "loinc",
}


def draft(path: Path, dataset: str | None) -> Draft:
    """InputError if the file is no Table Schema."""
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
        fields = [field for field in schema["fields"] if isinstance(field["name"], str)]
    except (OSError, ValueError, KeyError, TypeError):
        raise errors.InputError(
            f"{path} is no Table Schema: a JSON file with `fields`, each with its `name` and `type`"
        ) from None
    name = dataset or slug(str(schema.get("name") or path.stem))
    missing = [code for code in schema.get("missingValues", []) if isinstance(code, str) and code]
    guesses = [_guess(field, missing) for field in fields]
    names = [guess.header for guess in guesses]
    person = next((key for key in PEOPLE if key in names), None)
    read = {"columns": {guess.name: guess.header for guess in guesses}}
    return Draft(name, guesses, read, slug_of(person) if person else None, rows_per_person=1000)


def slug_of(name: str) -> str:
    return "_".join(re.findall("[a-z0-9]+", name.lower()))


def _guess(field: Mapping[str, Any], missing: list[str]) -> Guess:
    kind = TYPES.get(str(field.get("type", "string")), "string")
    limits = field.get("constraints") or {}
    keys, notes = _typed(field, kind, limits if isinstance(limits, dict) else {})
    text = str(field.get("description") or "")
    if text:
        keys["description"] = {"fr": text}
    if nomenclature := str(field.get("nomenclature") or "").strip("- "):
        notes.append(f"nomenclature {nomenclature}")
    return Guess(slug_of(str(field["name"])), str(field["name"]), keys, notes, missing)


def _typed(
    field: Mapping[str, Any], kind: str, limits: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The keys of the column's type, and notes on what is guessed."""
    words = (
        f"{field.get('name', '')} {field.get('nomenclature', '')} {field.get('description', '')}"
    )
    words = words.replace("_", " ")
    code = next(
        (t for pattern, t in NAMES_OF_CODES.items() if re.search(pattern, words, re.I)), None
    )
    if code and kind in ("string", "integer"):
        return {"type": "code", "terminology": code}, [f"taken for {code} from its description"]
    if levels := limits.get("enum"):
        return {"type": "category", "levels": [str(level) for level in levels]}, []
    keys: dict[str, Any] = {"type": kind}
    low, high = limits.get("minimum"), limits.get("maximum")
    if (
        kind in ("number", "integer")
        and isinstance(low, int | float)
        and isinstance(high, int | float)
    ):
        keys["range"] = [low, high]
    notes = {
        "yearmonth": ["a year and a month, kept as text"],
        "year": ["a year, as a whole number"],
    }
    return keys, list(notes.get(str(field.get("type")), []))
