"""Messages for the errors that pydantic finds in a file: one table over all its error types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUMBER, WHOLE = "must be a number", "must be a whole number"
TEXT = "must be a text: put it in quotes"
LIST, MAPPING = (
    "must be a list, as in [a, b]",
    "must be a mapping, with a line `key: value` for each entry",
)
DAY = "must be a day, written as 2026-01-31"
MOMENT = "must be a day and a time, written as 2026-01-31T12:00:00Z"
BOOLEAN = "must be true or false"

WORDS: Mapping[str, str] = {
    "missing": "this key is missing; add it",
    "extra_forbidden": "this key is not known here; remove it",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "finite_number": "must be a finite number",
    "too_short": "must have at least {min_length} entries, and has {actual_length}",
    "too_long": "must have at most {max_length} entries",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "is not written in the form that is needed here",
    "string_unicode": "must be a text in UTF-8",
    "string_not_ascii": "must be plain ASCII text",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
    "none_required": "must be left out",
    "bool_type": BOOLEAN,
    "bool_parsing": BOOLEAN,
    "int_type": WHOLE,
    "int_parsing": WHOLE,
    "int_from_float": WHOLE,
    "int_parsing_size": "is too large a number",
    "float_type": NUMBER,
    "float_parsing": NUMBER,
    "decimal_type": NUMBER,
    "decimal_parsing": NUMBER,
    "decimal_max_digits": "has too many digits",
    "decimal_max_places": "has too many decimals",
    "decimal_whole_digits": "has too many digits",
    "fraction_type": NUMBER,
    "fraction_parsing": NUMBER,
    "complex_type": NUMBER,
    "complex_str_parsing": NUMBER,
    "string_type": TEXT,
    "bytes_type": TEXT,
    "bytes_too_short": "is too short",
    "bytes_too_long": "is too long",
    "bytes_invalid_encoding": "must be a text in UTF-8",
    "list_type": LIST,
    "tuple_type": LIST,
    "set_type": LIST,
    "frozen_set_type": LIST,
    "deque_type": LIST,
    "iterable_type": LIST,
    "iteration_error": LIST,
    "set_item_not_hashable": "must be a list of single values",
    "dict_type": MAPPING,
    "frozen_dict_type": MAPPING,
    "ordered_dict_type": MAPPING,
    "counter_type": MAPPING,
    "mapping_type": MAPPING,
    "model_type": MAPPING,
    "model_attributes_type": MAPPING,
    "dataclass_type": MAPPING,
    "dataclass_exact_type": MAPPING,
    "named_tuple_type": LIST,
    "invalid_key": "a key must be a text",
    "date_type": DAY,
    "date_parsing": DAY,
    "date_from_datetime_parsing": DAY,
    "date_from_datetime_inexact": DAY,
    "date_past": "must be a day in the past",
    "date_future": "must be a day in the future",
    "time_type": "must be a time, written as 12:00:00",
    "time_parsing": "must be a time, written as 12:00:00",
    "datetime_type": MOMENT,
    "datetime_parsing": MOMENT,
    "datetime_object_invalid": MOMENT,
    "datetime_from_date_parsing": MOMENT,
    "datetime_past": "must be in the past",
    "datetime_future": "must be in the future",
    "timezone_naive": "must have no time zone",
    "timezone_aware": "must have a time zone",
    "timezone_offset": "has another time zone than is needed here",
    "time_delta_type": "must be a length of time",
    "time_delta_parsing": "must be a length of time",
    "uuid_type": "must be an identifier of 32 hexadecimal digits",
    "uuid_parsing": "must be an identifier of 32 hexadecimal digits",
    "uuid_version": "must be an identifier of another version",
    "url_type": "must be an address, as in https://example.org",
    "url_parsing": "must be an address, as in https://example.org",
    "url_syntax_violation": "must be an address, as in https://example.org",
    "url_too_long": "is too long an address",
    "url_scheme": "must be an address that begins with another protocol",
    "union_tag_invalid": "must be one of {expected_tags}",
    "union_tag_not_found": "its kind is missing; add it",
}
OTHER = "cannot be read; compare it with the documentation"
SHOWS_INPUT = 60  # characters of a wrong value


def say(problem: Mapping[str, Any]) -> str:
    """One of pydantic's problems, as `ValidationError.errors()` gives them."""
    context = problem.get("ctx") or {}
    if problem["type"] in ("value_error", "assertion_error"):  # ours already
        return _plain(str(context.get("error") or problem["msg"]))
    words = WORDS.get(problem["type"], OTHER).format_map(_Plain(context))
    if problem["type"] in ("enum", "literal_error") and " or " in (
        choices := str(context.get("expected"))
    ):
        words = f"must be one of {choices.replace(' or ', ', ')}"
    given = problem.get("input")
    if problem["type"] in ("missing", "extra_forbidden") or isinstance(
        given, Mapping | list | tuple
    ):
        return words
    return f"{words}, not {shown(given)}"


def shown(value: object) -> str:
    """A wrong value as a message shows it."""
    written = "empty" if value is None else repr(value)
    return written if len(written) <= SHOWS_INPUT else written[:SHOWS_INPUT] + "..."


class _Plain(dict[str, Any]):
    """Numbers without a trailing .0; nothing for what is not there."""

    def __missing__(self, key: str) -> str:
        return "something else"

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key) if key in self else self.__missing__(key)
        return f"{value:g}" if isinstance(value, float) else value


def _plain(message: str) -> str:
    return message[0].lower() + message[1:] if message else OTHER
