"""The observed notation of a source beside its `read:` keys: each observation with its line, a
value and the key to write.

For the producer's own screen. Nothing is applied: a key takes effect once the producer writes it,
and the check then reads every row.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import Any

from federation import text
from federation.contract import Column
from nodes import day_formats, odd_values, samples
from nodes.connectors import csv_file
from nodes.contract_sql import FIRST_DAY, LAST_DAY, NO, YES
from nodes.reading import Reading
from nodes.samples import Sample, slug
from nodes.site import Dataset, Storage

NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
NOTATIONS: Sequence[tuple[str, str | None]] = (
    (".", None),
    (",", None),
    (".", " "),
    (",", " "),
    (",", "."),
    (".", ","),
    (",", "'"),
    (".", "'"),
)
MARKS = {",": "a comma", ".": "a point", " ": "a space", "'": "an apostrophe"}
DAYS = (
    *("dd/mm/yyyy", "dd-mm-yyyy", "dd.mm.yyyy", "dd mm yyyy"),
    *("yyyymmdd", "yyyy/mm/dd", "yyyy.mm.dd", "yyyy/m/d", "yyyy-m-d", "ddmmyyyy"),
    *("d/m/yyyy", "d-m-yyyy", "d.m.yyyy", "mm/dd/yyyy", "m/d/yyyy"),
    *("dd/mm/yy", "dd-mm-yy", "dd.mm.yy", "d/m/yy", "d-m-yy", "d.m.yy", "mm/dd/yy"),
    *("ddmmyy", "yymmdd"),
)
NAMED_MONTHS = (
    *("d mmm yyyy", "d-mmm-yyyy", "ddmmmyyyy", "d/mmm/yyyy", "d.mmm.yyyy"),
    *("d mmm yy", "d-mmm-yy", "ddmmmyy", "d/mmm/yy"),
)
TIMES = ("hh:mm", "hh:mm:ss")
SHORT_TIME = "([01]?[0-9]|2[0-3])[:hH][0-5][0-9]"
COMPACT_MOMENTS = ("yyyymmddhhmmss", "yyyymmddhhmm")
YES_WORDS = {*YES, "oui", "o", "vrai", "v", "x"}
NO_WORDS = {*NO, "non", "n", "faux", "f"}
MAX_FORMATS = 3
NOTED = ("number", "date", "boolean")  # kinds with a notation
SPAN_YEARS = 99  # years of two digits end with the current one


@dataclass(frozen=True)
class Seen:
    """`column`: of the contract; empty for the file as a whole. `line`: 0 where there is none.
    `key`: the one to write under `read:`; empty where no key helps, and `meaning` names the
    remedy. `doubt`: the other notation that reads the value too, part of `meaning`."""

    column: str
    line: int
    value: str
    meaning: str
    key: str = ""
    doubt: str = ""

    def doubted(self, doubt: str) -> Seen:
        return replace(self, meaning=f"{self.meaning}; {doubt}", doubt=doubt) if doubt else self


@dataclass(frozen=True)
class Recognised:
    """`keys`: those of `read:` that the source needs beside the ones that it has."""

    keys: Mapping[str, Any] = field(default_factory=dict)
    seen: Sequence[Seen] = ()

    def of(self, column: str) -> list[Seen]:
        return [each for each in self.seen if each.column == column]


Values = Sequence[tuple[int, str]]  # the line and the text of each value


def recognise(dataset: Dataset, storage: Storage, today: date) -> Recognised:
    """DataError if the source cannot be read at all."""
    sample = samples.take(dataset, storage)
    return _joined(
        [
            *_file(sample, dataset.read),
            _columns(sample, dataset),
            *_values(sample, dataset, today),
        ]
    )


def _joined(parts: Iterable[Recognised]) -> Recognised:
    keys: dict[str, Any] = {}
    seen: list[Seen] = []
    for part in parts:
        keys |= part.keys
        seen += part.seen
    return Recognised(keys, seen)


# -- the file
def _file(sample: Sample, read: Reading) -> Iterable[Recognised]:
    file = sample.file
    if file is None:
        if sample.skip != read.skip and sample.skip:
            meaning = f"the header stands on row {sample.skip + 1}"
            yield _with_key("skip", sample.skip, Seen("", sample.skip + 1, "", meaning))
        return
    if file.encoding != (read.encoding or "utf-8") and not _same_text(sample, read.encoding):
        yield _encoding(file.encoding, file.line, file.word)
    if file.broken_line:
        meaning = f"this line is not {file.encoding} text, as the others are: correct the export"
        yield Recognised({}, [Seen("", file.broken_line, "", meaning)])
    if file.skip != read.skip:
        meaning = f"the header stands on line {file.skip + 1}"
        yield _with_key("skip", file.skip, Seen("", file.skip + 1, sample.names[0], meaning))
    if read.delimiter is None and len(file.delimiters) > 1:
        others = " and ".join(map(repr, file.delimiters[1:]))
        meaning = (
            f"the header holds {file.delimiters[0]!r} and {others}; the first divides it evenly"
        )
        yield _with_key("delimiter", file.delimiters[0], Seen("", file.skip + 1, "", meaning))
    elif read.delimiter is None and file.delimiters[0] not in csv_file.DELIMITERS:
        meaning = f"{file.delimiters[0]!r} divides the header"
        yield _with_key("delimiter", file.delimiters[0], Seen("", file.skip + 1, "", meaning))
    elif read.delimiter not in (None, *file.delimiters):
        meaning = f"the header has no {read.delimiter!r}"
        yield _with_key("delimiter", file.delimiters[0], Seen("", file.skip + 1, "", meaning))


def _same_text(sample: Sample, declared: str | None) -> bool:
    """Latin-1 and cp1252 are the same for a file without a byte that only cp1252 has; then both
    will do."""
    file = sample.file
    return file is not None and file.encoding == "cp1252" and declared == "latin-1"


def _encoding(encoding: str, line: int, word: str) -> Recognised:
    if encoding == "utf-8":
        meaning = "the file is UTF-8 text: leave `encoding` out"
        return Recognised({"encoding": "utf-8"}, [Seen("", line, word, meaning, "encoding: utf-8")])
    also = ", as Windows writes it" if encoding == "cp1252" else ""
    return _with_key(
        "encoding", encoding, Seen("", line, word, f"the file is {encoding} text{also}")
    )


def _with_key(key: str, value: Any, seen: Seen) -> Recognised:
    return Recognised({key: value}, [replace(seen, key=f"{key}: {written(value)}")])


def written(value: Any) -> str:
    """A value as it is written in YAML."""
    if isinstance(value, str):
        plain = re.fullmatch(r"[^\W\d_][\w /-]*", value) and value.lower() not in (
            "true", "false", "null", "yes", "no", "y", "n", "on", "off",
        )  # fmt: skip
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {written(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    return str(value)


# -- the columns
def _columns(sample: Sample, dataset: Dataset) -> Recognised:
    """The source's name of each contract column that it does not have under its own."""
    free = [name for name in sample.names if name and name not in dataset.headers]
    slugs = {slug(name): name for name in free}
    mapped, seen = {}, []
    for name in dataset.contract.columns:
        if dataset.read.written(name) in sample.names:
            continue
        near = get_close_matches(slug(name), list(slugs), n=1, cutoff=0.75)
        near = near or _holding(slug(name), list(slugs))
        if near:
            header = slugs.pop(near[0])
            mapped[name] = header
            line = sample.file.skip + 1 if sample.file else 1
            key = f"columns: {written({name: header})}"
            seen.append(Seen(name, line, header, f"the source spells {name} otherwise", key))
        else:
            listed = ", ".join(map(repr, free[:20]))
            meaning = f"no column looks like {name}; write its name under `columns`: {listed}"
            seen.append(Seen(name, 0, "", meaning))
    columns = {"columns": {**dataset.read.columns, **mapped}} if mapped else {}
    return Recognised(columns, seen)


def _holding(name: str, slugs: Sequence[str]) -> list[str]:
    """The only header with all words of a name, such as `age (ans)` for age."""
    words = set(name.split("_"))
    holding = [each for each in slugs if words <= set(each.split("_"))]
    return holding if len(holding) == 1 else []


# -- the values
def _values(sample: Sample, dataset: Dataset, today: date) -> Iterable[Recognised]:
    headers = {**dataset.read.columns, **_columns(sample, dataset).keys.get("columns", {})}
    by_kind: dict[str, dict[str, Values]] = {}
    for name, column in dataset.contract.columns.items():
        header = headers.get(name, name)
        if header in sample.names and column.kind in (*NOTED, "category"):
            values = [pair for pair in sample.column(header) if pair[1] not in column.missing]
            by_kind.setdefault(column.kind, {})[name] = values
    numbers = _numbers(by_kind.get("number", {}), dataset.read)
    days = _dates(by_kind.get("date", {}), dataset.read, today)
    words = _booleans(by_kind.get("boolean", {}), dataset.read)
    yield from (numbers, days, words)
    read = dataset.read.model_copy(update={**numbers.keys, **words.keys})
    yield _odd_values(by_kind, dataset.contract.columns, read)


def _numbers(columns: Mapping[str, Values], read: Reading) -> Recognised:
    """The notation that reads the most values; of equal ones, the first in the table."""
    values = Counter(value for pairs in columns.values() for _, value in pairs)
    counts = [
        sum(n for value, n in values.items() if reads(value))
        for reads in (reads_number(*notation) for notation in NOTATIONS)
    ]
    present = NOTATIONS.index((read.decimal, read.thousands))
    best = counts.index(max(counts, default=0)) if counts else 0
    if not values or counts[best] <= counts[present]:
        return Recognised()
    decimal, thousands = NOTATIONS[best]
    keys: dict[str, Any] = {"decimal": decimal} if decimal != read.decimal else {}
    keys |= {"thousands": thousands} if thousands != read.thousands else {}
    others = [NOTATIONS[i] for i, count in enumerate(counts) if count == counts[best] and i > best]
    rival = next((n for n in others if n[0] != decimal and (thousands is None or n[1])), None)
    parts = [f"{MARKS[decimal]} before the decimals"] if decimal != read.decimal else []
    parts += [f"{MARKS[thousands]} between thousands"] if thousands else []
    meaning = "; ".join(parts)
    doubt = ""
    if rival and rival[1]:
        doubt = f"or is {MARKS[rival[1]]} between thousands? Compare with another source"
    seen = _examples(columns, NOTATIONS[present], NOTATIONS[best], meaning, keys)
    return Recognised(keys, [each.doubted(doubt) for each in seen])


def _examples(
    columns: Mapping[str, Values],
    present: tuple[str, str | None],
    best: tuple[str, str | None],
    meaning: str,
    keys: Mapping[str, Any],
) -> list[Seen]:
    """The first value of each column that the new notation reads, and the present one does not."""
    before, after = reads_number(*present), reads_number(*best)
    key = ", ".join(f"{name}: {written(value)}" for name, value in keys.items())
    firsts = {
        name: next((pair for pair in pairs if after(pair[1]) and not before(pair[1])), None)
        for name, pairs in columns.items()
    }
    return [Seen(name, *pair, meaning, key) for name, pair in firsts.items() if pair]


def reads_number(decimal: str, thousands: str | None) -> Callable[[str], bool]:
    """Whether a text is a number in a notation; the same rule as the SQL of `nodes.reading`."""
    mark, point = re.escape(thousands or "\0"), re.escape(decimal)
    mark = "['’]" if thousands == "'" else mark
    pattern = re.compile(
        f"[+\u2212-]?([0-9]+({point}[0-9]*)?|{point}[0-9]+|[0-9]{{1,3}}({mark}[0-9]{{3}})+({point}[0-9]*)?)"
        "([eE][+-]?[0-9]+)?"
    )
    return lambda value: pattern.fullmatch(value) is not None


def _dates(columns: Mapping[str, Values], read: Reading, today: date) -> Recognised:
    first_year = read.first_year or today.year - SPAN_YEARS
    declared = [
        *((written_, "") for written_ in read.date),
        *((written_, "datetime") for written_ in read.datetime),
    ]
    chosen = [_Format.of(written_, bool(time), first_year) for written_, time in declared]
    left = {
        name: [pair for pair in pairs if not _is_read(pair[1], chosen)]
        for name, pairs in columns.items()
    }
    new, seen = _new_formats(left, first_year)
    keys: dict[str, Any] = {}
    for key, is_moment in (("date", False), ("datetime", True)):
        names = [each.written for each in new if each.is_moment == is_moment]
        if names:
            keys[key] = [*getattr(read, key), *names]
    if any("yy" in each.day.pieces for each in new) and read.first_year is None:
        keys["first_year"] = first_year
    if read.time_zone is None and (
        odd := _first(left, day_formats.ISO_DAY + "[ T].*" + day_formats.OFFSET)
    ):
        keys["time_zone"] = "Europe/Paris"
        seen.append(
            Seen(
                *odd,
                "a time with its offset: name the zone whose day counts",
                "time_zone: Europe/Paris",
            )
        )
    return Recognised(keys, seen)


def _first(columns: Mapping[str, Values], pattern: str) -> tuple[str, int, str] | None:
    return next(
        (
            (name, line, value)
            for name, pairs in columns.items()
            for line, value in pairs
            if re.fullmatch(pattern, value)
        ),
        None,
    )


@dataclass(frozen=True)
class _Format:
    written: str
    day: day_formats.DateFormat
    is_moment: bool
    pattern: re.Pattern[str]
    first_year: int

    @staticmethod
    def of(written_: str, is_moment: bool, first_year: int) -> _Format:
        day = (day_formats.moment_format if is_moment else day_formats.date_format)(written_)
        pattern = day.pattern
        if is_moment and written_.endswith(":mm"):
            pattern = pattern.replace(day_formats.TIME, SHORT_TIME)
        return _Format(written_, day, is_moment, re.compile(pattern), first_year)

    def reads(self, value: str) -> bool:
        """Whether the text has this format, and names a date that exists
        and is plausible for a life."""
        match = self.pattern.fullmatch(value)
        if match is None:
            return False
        words = {part: match.group(i) for i, part in enumerate(self.day.parts, 1)}
        numbers = {
            part[0]: day_formats.month_number(word) if part == day_formats.MONTH else int(word)
            for part, word in words.items()
        }
        year = numbers["y"]
        if "yy" in self.day.pieces:
            year = self.first_year + (year - self.first_year) % 100
        try:
            return FIRST_DAY <= date(year, numbers["m"], numbers["d"]).isoformat() <= LAST_DAY
        except ValueError:
            return False


@lru_cache(maxsize=1 << 16)
def is_day(value: str) -> bool:
    """Whether any of the known formats reads the text as a day, with or without a time."""
    return _is_iso(value) or any(each.reads(value) for each in _candidates(1927))


def _is_read(value: str, formats: Sequence[_Format]) -> bool:
    return _is_iso(value) or any(each.reads(value) for each in formats)


def _is_iso(value: str) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return re.fullmatch(day_formats.ISO_DAY + "[ T]00:00(:00)?", value) is not None


@cache
def _candidates(first_year: int) -> Sequence[_Format]:
    days = [_Format.of(written_, False, first_year) for written_ in (*DAYS, *NAMED_MONTHS)]
    moments = [*COMPACT_MOMENTS]
    moments += [f"{day} {time}" for day in ("yyyy-mm-dd", *DAYS, "d mmm yyyy") for time in TIMES]
    return [*days, *(_Format.of(written_, True, first_year) for written_ in moments)]


def _new_formats(
    columns: Mapping[str, Values], first_year: int
) -> tuple[list[_Format], list[Seen]]:
    """Formats for the values that none reads yet:
    at each step the one that reads the most of them."""
    candidates = _candidates(first_year)
    left = {name: list(pairs) for name, pairs in columns.items()}
    chosen: list[_Format] = []
    seen: list[Seen] = []
    while len(chosen) < MAX_FORMATS and any(left.values()):
        free = [c for c in candidates if not any(_clash(c, each) for each in chosen)]
        counts = [
            sum(each.reads(value) for pairs in left.values() for _, value in pairs) for each in free
        ]
        if not counts or not max(counts):
            break
        best = free[counts.index(max(counts))]
        rivals = [
            c.written
            for c, count in zip(free, counts, strict=True)
            if count == max(counts) and _clash(c, best) and _order(c) != _order(best)
        ]
        chosen.append(best)
        seen += _format_examples(best, rivals, left)
        left = {name: [p for p in pairs if not best.reads(p[1])] for name, pairs in left.items()}
    return chosen, seen


def _order(format_: _Format) -> list[str]:
    return [part[0] for part in format_.day.parts]


def _clash(first: _Format, second: _Format) -> bool:
    return first.day.shape == second.day.shape and first.is_moment == second.is_moment


def _format_examples(
    best: _Format, rivals: Sequence[str], left: Mapping[str, Values]
) -> list[Seen]:
    meaning = f"a day and a time as {best.written}; the day is kept" if best.is_moment else ""
    meaning = meaning or f"a day as {best.written}"
    if "yy" in best.day.pieces:
        meaning += (
            f"; a year of two digits is read as {best.first_year} to {best.first_year + SPAN_YEARS}"
        )
    doubt = f"{rivals[0]} reads it too: compare with another source" if rivals else ""
    key = f"{'datetime' if best.is_moment else 'date'}: {written(best.written)}"
    if "yy" in best.day.pieces:
        key += f", first_year: {best.first_year}"
    firsts = {
        name: next((pair for pair in pairs if best.reads(pair[1])), None)
        for name, pairs in left.items()
    }
    return [Seen(name, *pair, meaning, key).doubted(doubt) for name, pair in firsts.items() if pair]


def _booleans(columns: Mapping[str, Values], read: Reading) -> Recognised:
    """The words of all columns together, since the keys hold for all of them."""
    declared = {text.canonical(word).lower() for word in (*read.yes, *read.no)} or {*YES, *NO}
    counts = Counter(value for pairs in columns.values() for _, value in pairs)
    new = [word for word in counts if word.lower() not in declared]
    yes = [word for word in counts if word.lower() in YES_WORDS]
    no = [word for word in counts if word.lower() in NO_WORDS]
    if not any(word in (*yes, *no) for word in new):
        return Recognised()
    keys = {
        "yes": list({w.lower(): w for w in [*read.yes, *yes]}.values()) or ["Oui"],
        "no": list({w.lower(): w for w in [*read.no, *no]}.values()) or ["Non"],
    }
    key = ", ".join(f"{name}: {written(words)}" for name, words in keys.items())
    seen = []
    for name, pairs in columns.items():
        pair = next(((n, v) for n, v in pairs if v in new and v in (*yes, *no)), None)
        if pair:
            blank = "" if no else "; an empty cell is missing, and no word for no"
            seen.append(Seen(name, *pair, f"a word for yes or no{blank}", key))
    return Recognised(keys, seen)


def _odd_values(
    by_kind: Mapping[str, Mapping[str, Values]], columns: Mapping[str, Column], read: Reading
) -> Recognised:
    """Values for which no key is written, each kind with its first line."""
    seen: list[Seen] = []
    for pairs_by_name in by_kind.values():
        for name, pairs in pairs_by_name.items():
            if odd := _absent(columns[name], pairs):
                seen.append(Seen(name, *odd))
            others = [pair for pair in pairs if pair[1] not in columns[name].levels]
            seen += [Seen(name, *odd) for odd in odd_values.garbled(others)]
    reads = reads_number(read.decimal, read.thousands)
    for name, pairs in by_kind.get("number", {}).items():
        rest = [pair for pair in pairs if not reads(pair[1])]
        seen += [Seen(name, *odd) for odd in odd_values.numbers(rest)]
        seen += _other_notation(name, rest, pairs, read)
    for name, pairs in by_kind.get("date", {}).items():
        rest = [pair for pair in pairs if not is_day(pair[1])]
        seen += [Seen(name, *odd) for odd in odd_values.days(rest)]
    for name, pairs in by_kind.get("boolean", {}).items():
        seen += _numbered_answers(name, pairs, read)
    return Recognised({}, seen)


def _absent(column: Column, pairs: Values) -> odd_values.Odd | None:
    codes = [pair for pair in pairs if pair[1] not in (*column.levels, *column.missing)]
    odd = odd_values.absent_codes(column, pairs if codes else ())
    if odd is None:
        return None
    meaning = f"a code of absence: write `missing: {written(odd.codes)}` in the contract"
    return odd_values.Odd(odd.line, odd.value, meaning)


def _other_notation(name: str, rest: Values, pairs: Values, read: Reading) -> list[Seen]:
    """The first number that the notation of most numbers does not read, and another one does."""
    others = [reads_number(*notation) for notation in NOTATIONS]
    odd = next((pair for pair in rest if any(reads(pair[1]) for reads in others)), None)
    if odd is None or len(rest) == len(pairs):
        return []
    meaning = (
        f"another notation than `decimal: {written(read.decimal)}`, which reads other numbers "
        "here: correct the export, which mixes the two"
    )
    return [Seen(name, *odd, meaning)]


def _numbered_answers(name: str, pairs: Values, read: Reading) -> list[Seen]:
    """Two words or numbers of which no key says which is yes."""
    declared = {text.canonical(word).lower() for word in (*read.yes, *read.no)} or {*YES, *NO}
    familiar = {*declared, *YES_WORDS, *NO_WORDS}
    pair = odd_values.pair_of(pairs)
    if pair is None or {word.lower() for word in pair} <= familiar:
        return []
    new = next(each for each in pairs if each[1] in pair and each[1].lower() not in declared)
    yes, no = ([word] for word in pair)
    meaning = (
        "not a word for yes or no that is known here: write which is which, as in "
        f"`yes: {written(yes)}, no: {written(no)}`, or declare a category with these levels"
    )
    return [Seen(name, *new, meaning)]
