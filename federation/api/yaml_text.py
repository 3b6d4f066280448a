"""The text of a study.yaml from plain values. It reads back as the same values."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from federation import errors, yaml_source

WIDTH = 100
PLAIN = re.compile(r"[^\W\d][\w ().+*/~^=<>-]*(?<! )")  # of a text that needs no quotes
WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def write(values: Mapping[str, Any]) -> str:
    """StudyError if a value cannot stand in a study."""
    plain = _plain(values, "")
    text = "\n".join(_lines(plain, 0)) + "\n"
    if yaml_source.parse(text, name="study", error=errors.StudyError).values != plain:
        raise errors.StudyError(
            "the study has a list of numbers where codes belong; write the codes as texts"
        )
    return text


def _lines(values: Mapping[str, Any], depth: int) -> Iterator[str]:
    """Keys on lines of their own; a mapping or a list stands on its key's line if it fits there."""
    for key, value in values.items():
        line = f"{'  ' * depth}{_scalar(key)}: {_flow(value)}"
        is_block = isinstance(value, dict) and value
        if is_block and (len(line) > WIDTH or key in ("cohort", "analyses")):
            yield f"{'  ' * depth}{_scalar(key)}:"
            yield from _lines(value, depth + 1)
        else:
            yield line


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{_scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    if PLAIN.fullmatch(value) and value.lower() not in WORDS:
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return ESCAPED.sub(lambda match: f"\\u{ord(match.group()):04x}", quoted)


def _plain(value: Any, where: str) -> Any:
    """The value of texts, numbers, lists and mappings alone, as the file will give it back."""
    if isinstance(value, Mapping):
        return {
            unicodedata.normalize("NFC", str(key)): _plain(item, f"{where}.{key}".lstrip("."))
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "item") and not getattr(value, "shape", None):  # a number of numpy
        value = value.item()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise errors.StudyError(
        f"{where}: a {type(value).__name__} cannot stand in a study; write a text, a finite "
        "number, a list or a mapping"
    )
