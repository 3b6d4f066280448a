"""How a producer's file writes its values: the `read:` keys of a dataset in node.yaml, and the SQL
that follows from them.

Nothing is inferred: a value is read in the notation that its producer declares, or it becomes a
text that no type reads, so that the check counts it. ISO dates and numbers that arrive as numbers
need no key.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from federation import errors, text, yaml_source
from federation.contract import Column, Frozen, Name
from federation.expression import quote_name, quote_text
from nodes import contract_sql
from nodes.day_formats import ISO_DAY, OFFSET, SEPARATOR, TIME, date_format, moment_format

Encoding = Literal[
    "utf-8",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "latin-1",
    "iso-8859-15",
    "cp1252",
    "cp850",
    "cp437",
    "mac-roman",
]
ENCODINGS: Mapping[str, str] = {
    "utf8": "utf-8",
    "utf-8-sig": "utf-8",
    "utf16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "latin1": "latin-1",
    "latin9": "iso-8859-15",
    "iso-8859-1": "latin-1",
    "windows-1252": "cp1252",
    "ansi": "cp1252",
    "macroman": "mac-roman",
}
DELIMITERS = (",", ";", "\t", "|", ":", "^", "~")
FILE_KEYS = ("encoding", "delimiter", "skip", "labels")  # only some formats of files have them
UNREADABLE = "unreadable: "  # before a value that is not written as declared: no type reads it


class Reading(Frozen):
    """The `read:` keys of a dataset; each says how its producer's files are written.

    `encoding`, `delimiter`, `skip` (lines above the header): of a text file. `columns`: the
    source's name of a contract column. `decimal`, `thousands`: the marks in a number. `date`:
    formats of a day; `datetime`: formats of a day with a time, whose day is kept. `first_year`: a
    year of two digits is one of the hundred years that begin there. `time_zone`: where the day of a
    time with an offset is taken. `yes`, `no`: the words of a boolean, in any capitals. `labels`: a
    file of Stata, SPSS or SAS gives the labels of its codes."""

    encoding: Encoding | None = None
    delimiter: str | None = None
    skip: int = pydantic.Field(0, ge=0, le=1000)
    columns: Mapping[Name, str] = {}
    decimal: Literal[".", ","] = "."
    thousands: Literal[" ", ".", ",", "'"] | None = None
    date: tuple[str, ...] = ()
    datetime: tuple[str, ...] = ()
    first_year: int | None = pydantic.Field(None, ge=1800, le=2100)
    time_zone: str | None = None
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()
    labels: bool = False

    @pydantic.field_validator("encoding", mode="before")
    @classmethod
    def _usual_name(cls, value: Any) -> Any:
        lower = value.lower().replace("_", "-") if isinstance(value, str) else value
        return ENCODINGS.get(lower, lower) if isinstance(lower, str) else value

    @pydantic.field_validator("delimiter", mode="before")
    @classmethod
    def _one_delimiter(cls, value: Any) -> Any:
        value = {"tab": "\t", "\\t": "\t"}.get(value, value) if isinstance(value, str) else value
        if value is not None and value not in DELIMITERS:
            raise ValueError('must be ",", ";", "|", ":", "^", "~" or tab')
        return value

    @pydantic.field_validator("date", "datetime", "yes", "no", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        listed = [value] if isinstance(value, str | int | bool) else value
        if isinstance(listed, list) and all(isinstance(item, str) for item in listed):
            return listed
        if isinstance(listed, tuple):
            return listed
        raise ValueError('must be a text or a list of texts, as in ["Oui", "O"]')

    @pydantic.field_validator("columns")
    @classmethod
    def _one_column_each(cls, columns: Mapping[str, str]) -> Mapping[str, str]:
        names = {name: text.canonical(written) for name, written in columns.items()}
        if len(set(names.values())) < len(names):
            raise ValueError("two columns have the same name in the source; keep one")
        return names

    @pydantic.field_validator("time_zone")
    @classmethod
    def _time_zone_exists(cls, name: str | None) -> str | None:
        if name is not None and name not in zoneinfo.available_timezones():
            raise ValueError(f"{name!r} is no time zone: write it as in Europe/Paris")
        return name

    @pydantic.model_validator(mode="after")
    def _coherent(self) -> Reading:
        if self.decimal == self.thousands:
            raise ValueError(
                "decimal and thousands are the same mark, so no number could be read: correct one"
            )
        formats = [*map(date_format, self.date), *map(moment_format, self.datetime)]
        days = [date_format(written).shape for written in self.date]
        moments = [moment_format(written).shape for written in self.datetime]
        if len(set(days)) < len(days) or len(set(moments)) < len(moments):
            raise ValueError(
                "two formats of a date fit the same texts, which would be read as two days: keep "
                "one"
            )
        if self.first_year is None and any("yy" in each.pieces for each in formats):
            raise ValueError(
                "a year of two digits needs `first_year`: it is one of the hundred years from there"
            )
        if bool(self.yes) != bool(self.no):
            raise ValueError("`yes` and `no` belong together: list the words of both")
        folded = [text.canonical(word).lower() for word in (*self.yes, *self.no)]
        if len(set(folded)) < len(folded):
            raise ValueError("a word stands twice in `yes` and `no`: keep it once")
        return self

    @property
    def file_keys(self) -> list[str]:
        """Those of the keys given that only some formats of files have."""
        return [key for key in FILE_KEYS if getattr(self, key)]

    @property
    def about_values(self) -> bool:
        """Whether a key says how values are written."""
        return any(getattr(self, key) != value for key, value in NO_NOTATION.items())

    def written(self, name: str) -> str:
        """The source's name of a contract column."""
        return self.columns.get(name, name)


AS_IT_IS = Reading()
NOTATION = ("decimal", "thousands", "date", "datetime", "first_year", "time_zone", "yes", "no")
NO_NOTATION = {key: getattr(AS_IT_IS, key) for key in NOTATION}


def load(path: Path) -> Reading:
    """The keys of a file such as `hdh node draft` writes. InputError if one cannot be meant."""
    source = yaml_source.read(path, errors.InputError, nfc=False)
    return yaml_source.build(Reading, source.values, source, under=(), error=errors.InputError)


def spelled(raw: str, column: Column | None, raw_type: str) -> str:
    """The SQL of a raw column, its texts in the one spelling that `value` expects."""
    name = quote_name(raw)
    if raw_type != "VARCHAR" or column is None or column.kind not in ("number", "date", "boolean"):
        return name
    return contract_sql.canonical(name, raw_type, minus=column.kind == "number")


def value(raw: str, column: Column | None, raw_type: str, reading: Reading) -> str:
    """The SQL of a `spelled` value in the notation that `contract_sql` reads; the value itself if
    no key concerns it."""
    name = quote_name(raw)
    if column is None:
        return name
    as_text = name if raw_type == "VARCHAR" else f"CAST({name} AS VARCHAR)"
    if column.kind == "number" and reading.thousands == "'":
        as_text = f"replace({as_text}, '’', chr(39))"  # of a typographer
    if column.kind == "date" and raw_type.startswith("TIMESTAMP"):
        return _native_day(name, raw_type, reading)
    if column.kind == "boolean" and reading.yes and raw_type != "BOOLEAN":
        return _spared(as_text, column, _boolean(as_text, raw_type, reading))
    if raw_type != "VARCHAR":
        return name
    if column.kind == "number" and (reading.decimal, reading.thousands) != (".", None):
        return _spared(as_text, column, _number(as_text, reading))
    if column.kind == "date" and (reading.date or reading.datetime or reading.time_zone):
        return _spared(as_text, column, _day(as_text, reading))
    return name


def _spared(value: str, column: Column, otherwise: str) -> str:
    """A blank text and the missing codes stay as they are."""
    codes = ", ".join(map(quote_text, ("", *column.missing)))
    return f"CASE WHEN {value} IN ({codes}) THEN {value} ELSE {otherwise} END"


def _number(value: str, reading: Reading) -> str:
    decimal, thousands = reading.decimal, reading.thousands
    plain = value if decimal == "." else f"replace({value}, ',', '.')"
    refused = f"{quote_text(UNREADABLE)} || {value}"
    if thousands is None:  # then the decimal mark is the comma
        return f"CASE WHEN contains({value}, '.') THEN {refused} ELSE {plain} END"
    mark, point = re.escape(thousands), re.escape(decimal)
    grouped = f"[+-]?[0-9]{{1,3}}({mark}[0-9]{{3}})+({point}[0-9]*)?"
    whole = f"replace({value}, {quote_text(thousands)}, '')"
    without = whole if decimal == "." else f"replace({whole}, ',', '.')"
    foreign = "".join({".", ","} - {decimal, thousands})
    others = "".join(f" WHEN contains({value}, '{mark}') THEN {refused}" for mark in foreign)
    return (
        f"CASE WHEN regexp_full_match({value}, {quote_text(grouped)}) THEN {without} "
        f"WHEN contains({value}, {quote_text(thousands)}) THEN {refused}{others} ELSE {plain} END"
    )


def _boolean(value: str, raw_type: str, reading: Reading) -> str:
    whole = f"lower({value})"
    if raw_type != "VARCHAR" or any(word.isdigit() for word in (*reading.yes, *reading.no)):
        whole = f"regexp_replace({whole}, '^(-?[0-9]+)\\.0+$', '\\1')"  # 2.0 is the word 2
    yes, no = (
        ", ".join(quote_text(text.canonical(word).lower()) for word in words)
        for words in (reading.yes, reading.no)
    )
    return (
        f"CASE WHEN {whole} IN ({yes}) THEN 'true' WHEN {whole} IN ({no}) THEN 'false' "
        f"ELSE {quote_text(UNREADABLE)} || {value} END"
    )


def _day(value: str, reading: Reading) -> str:
    cases = [
        f"WHEN {each.fits(value)} THEN {each.iso(value, reading.first_year)}"
        for each in [*map(date_format, reading.date), *map(moment_format, reading.datetime)]
    ]
    if reading.time_zone:
        local = f"TRY_CAST({value} AS TIMESTAMPTZ) AT TIME ZONE {quote_text(reading.time_zone)}"
        moment = f"CAST({local} AS DATE)"
        pattern = quote_text(f"{ISO_DAY}{SEPARATOR}{TIME}{OFFSET}")
        cases.append(f"WHEN regexp_full_match({value}, {pattern}) THEN CAST({moment} AS VARCHAR)")
    return f"CASE {' '.join(cases)} ELSE {value} END"


def _native_day(name: str, raw_type: str, reading: Reading) -> str:
    """A time has the day of its zone, if the producer names one; a local time its own day, if times
    are declared."""
    if raw_type == "TIMESTAMP WITH TIME ZONE" and reading.time_zone:
        return f"CAST({name} AT TIME ZONE {quote_text(reading.time_zone)} AS DATE)"
    if raw_type != "TIMESTAMP WITH TIME ZONE" and reading.datetime:
        return f"CAST({name} AS DATE)"
    return name
