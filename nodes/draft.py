"""A contract drafted from a source, on the producer's machine: each guess has a note, and no limit
is a real extreme.

Types come from the first rows, levels and ranges from all of them. Ranges end at round numbers
outside the values, since a contract is public and a smallest or largest value belongs to someone.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from federation import errors, text
from federation.contract import Column, Contract
from federation.expression import quote_name
from federation.terminologies import TERMINOLOGIES
from nodes import connectors, contract_sql, draft_notes, odd_values, recognition, samples
from nodes.connectors import formats
from nodes.connectors.statistical import Label
from nodes.reading import Reading
from nodes.samples import Sample, slug
from nodes.site import Dataset, Storage

MAX_LEVELS, RARE_ROWS, MAX_WORDS = 40, 11, 10
SURELY_MANY = 1000  # values as the engine estimates their number, to a few in a hundred
COLUMNS_PER_SCAN = 20  # each has patterns of its own, which the engine compiles and holds
TOO_MANY = "too many different values for a category"
MOST = 0.95  # the share of the values that have to look alike; the check tells about the others
PERSON_WORDS = (
    "nir",
    "ipp",
    "patient",
    "ident",
    "identifiant",
    "id",
    "enq",
    "psa",
    "idt",
    "ano",
    "personne",
)
DAY_WORDS = (
    *("date", "dat", "dt", "jour", "day", "naissance", "entree", "sortie", "admission", "dob"),
    *("deces", "debut", "fin", "nais", "ddn"),
)
Values = Sequence[tuple[int, str]]


@dataclass(frozen=True)
class Guess:
    """A column of the draft. `header`: the source's name of it. `keys`: of the contract. `notes`:
    the reason for each guess, and what to check."""

    name: str
    header: str
    keys: Mapping[str, Any]
    notes: Sequence[str] = ()
    missing: Sequence[str] = ()


@dataclass(frozen=True)
class Draft:
    """`read`: the keys of `read:` that the source needs. `person`: the column that may identify a
    person. `left_out`: names of several columns, and "" for columns without one."""

    dataset: str
    columns: Sequence[Guess]
    read: Mapping[str, Any] = field(default_factory=dict)
    person: str | None = None
    rows_per_person: int = 1
    people: int | None = None
    left_out: Sequence[str] = ()


def of_source(name: str, source: Dataset, storage: Storage, today: date) -> Draft:
    """`source`: a dataset of which the contract is `placeholder()`."""
    sample, labels = samples.take(source, storage), formats.labels(source)
    if (problem := draft_notes.problem(sample)) is not None:
        raise errors.DataError(f"{Path(source.source).name}: {problem}")
    guesses = [_labelled(guess, sample, labels) for guess in _guesses(sample)]
    contract = _contract(name, guesses)
    recognised = recognition.recognise(replace(source, contract=contract), storage, today)
    keys, doubts = recognised.keys, draft_notes.of_recognition(recognised)
    if renamed := {guess.name: guess.header for guess in guesses if guess.name != guess.header}:
        keys = {**keys, "columns": renamed}
    dataset = replace(source, contract=contract, read=Reading(**keys))
    connection = connectors.connect(storage)
    connectors.open_rows(connection, dataset, list(contract.columns))
    refined = [
        _noted(guess, doubts.get(guess.name, ()))
        for guess in _refined(connection, contract, guesses)
    ]
    draft = Draft(name, refined, keys, left_out=draft_notes.left_out(sample))
    return _with_person(connection, draft, guesses)


def _noted(guess: Guess, more: Sequence[str]) -> Guess:
    return replace(guess, notes=[*guess.notes, *more])


def placeholder() -> Contract:
    """The contract of a source of which nothing is known yet."""
    return Contract.model_validate(
        {"dataset": "draft", "version": 1, "unit": "row", "columns": {"draft": {"type": "string"}}}
    )


def _contract(name: str, guesses: Sequence[Guess]) -> Contract:
    columns = {guess.name: _bare(guess) for guess in guesses}
    return Contract(dataset=name, version=1, unit="row", columns=columns)


def _bare(guess: Guess) -> Column:
    """The column without what has yet to be read from all rows."""
    kind = guess.keys["type"]
    missing = list(guess.missing)
    if kind == "category":
        return Column.model_validate({"type": "string", "missing": missing})
    return Column.model_validate({**guess.keys, "missing": missing})


# -- types, from the sample
def _guesses(sample: Sample) -> list[Guess]:
    used_names: set[str] = set()
    guesses = []
    for header in sample.names:
        if not header or list(sample.names).count(header) > 1:
            continue
        name = _free(slug(odd_values.ungarbled(header)) or "column", used_names)
        used_names.add(name)
        values = list(sample.column(header))
        distinct = {value for _, value in values}
        absent = sorted(filter(odd_values.is_absent, distinct))
        of_formulas = set(filter(odd_values.is_error, distinct))
        errors_of_formulas = [pair for pair in values if pair[1] in of_formulas]
        unusual = {*absent, *of_formulas}
        present = [pair for pair in values if pair[1] not in unusual]
        keys, notes = _type(name, present)
        odd = [*odd_values.numbers(errors_of_formulas), *odd_values.garbled(present)]
        notes = [*notes, *(f"line {each.line}: {each.meaning}" for each in odd)]
        if odd_values.is_garbled(header):
            notes.append(f"the column's name has {odd_values.GARBLED}")
        if absent:
            notes = [*notes, f"{', '.join(map(repr, absent))} taken for codes of absence"]
        guesses.append(Guess(name, header, keys, notes, absent))
    return guesses


def _labelled(guess: Guess, sample: Sample, labels: Mapping[str, Label]) -> Guess:
    """With what the file says of the column. If each of its values has a word, it is a category."""
    label = labels.get(text.canonical(guess.header))
    if label is None:
        return guess
    keys, notes = dict(guess.keys), list(guess.notes)
    if label.words and keys["type"] in ("number", "integer", "category"):
        notes.append(f"the file says {_some(label.words)}")
        if {value for _, value in sample.column(guess.header)} <= set(label.words):
            keys, notes = {"type": "category"}, [n for n in notes if n != draft_notes.FEW]
            notes.append("`read: {labels: true}` gives these words as levels")
        else:
            notes.append("list a code of absence among `missing`")
    if label.text:
        keys["description"] = {"fr": label.text}
        notes.append("the description is the file's")
    return replace(guess, keys=keys, notes=notes)


def _some(words: Mapping[str, str]) -> str:
    listed = [f"{code} = {word}" for code, word in words.items()]
    more = [f"and {len(listed) - MAX_WORDS} more"] if len(listed) > MAX_WORDS else []
    return ", ".join([*listed[:MAX_WORDS], *more])


def _free(name: str, used_names: Iterable[str]) -> str:
    name = name if name[0].isalpha() else f"c_{name}"
    options = [name[:60], *(f"{name[:60]}_{number}" for number in range(2, 1000))]
    return next(option for option in options if option not in set(used_names))


def _type(name: str, values: Values) -> tuple[Mapping[str, Any], list[str]]:
    """The type that most of the values have, and the reason and doubts."""
    texts = [value for _, value in values]
    distinct = set(texts)
    if not texts:
        return {"type": "string", "may_be_empty": True}, ["no value in the first rows"]
    if _is_key(name, texts):
        return {"type": "string"}, ["looks like an identifier"]
    if (code := _terminology(distinct)) is not None:
        return {"type": "code", "terminology": code}, [f"the values have the form of {code}"]
    if _are_words(distinct):
        return {"type": "boolean"}, [f"the values are {', '.join(sorted(distinct))}"]
    if _share(texts, recognition.is_day) >= MOST:
        return {"type": "date"}, ["the values are days"]
    if (number := _number(texts)) is not None and not any(_is_padded(text) for text in texts):
        doubts = draft_notes.of_numbers(number, values)
        return {"type": number}, [*_counted_days(name, texts), *doubts]
    if len(distinct) <= MAX_LEVELS and len(distinct) <= max(12, len(texts) // 5):
        return {"type": "category"}, []
    return {"type": "string"}, draft_notes.of_texts(values) or [TOO_MANY]


def _share(texts: Sequence[str], fits: Callable[[str], bool]) -> float:
    times = Counter(texts)  # most columns have few different values
    return sum(n for text, n in times.items() if fits(text)) / len(texts)


def _is_key(name: str, texts: Sequence[str]) -> bool:
    """A name that says so and mostly different values, or numbers too long to be counted with."""
    named = any(word in PERSON_WORDS for word in name.split("_"))
    different = len(set(texts)) / len(texts)
    long = all(re.fullmatch("[0-9]{11,}", text) for text in texts)
    return (named and different > 0.2) or (long and _terminology(set(texts)) is None)


def _counted_days(name: str, texts: Sequence[str]) -> list[str]:
    """A note on whole numbers that are days as Excel or SAS counts them, by the column's name."""
    is_named = any(word in DAY_WORDS for word in name.split("_"))
    if not is_named or not all(re.fullmatch("[1-5][0-9]{4}", text) for text in texts):
        return []
    return [
        "numbers under the name of a day: if Excel (from 1900) or SAS (from 1960) counted them, "
        "export the column as dates and draft again"
    ]


def _is_padded(text: str) -> bool:
    """A number with a leading zero is a code: 01 is a département."""
    return re.fullmatch("0[0-9]+", text) is not None


def _terminology(distinct: set[str]) -> str | None:
    """The terminology with the codes of most of the distinct values; of two, the one with the
    longer codes."""
    shares = {
        name: sum(
            re.fullmatch(each.pattern, each.spelled(value)) is not None and len(value) >= 3
            for value in distinct
        )
        / len(distinct)
        for name, each in TERMINOLOGIES.items()
    }
    has_classes = any(len(value) > 3 for value in distinct)  # A10BA02 has the form of both
    best = max(
        shares, key=lambda name: (shares[name], name == "atc" and has_classes, name == "cim-10")
    )
    return best if shares[best] >= MOST else None


def _are_words(distinct: set[str]) -> bool:
    lower = {value.lower() for value in distinct}
    is_yes_no = lower <= {*recognition.YES_WORDS, *recognition.NO_WORDS}
    return (
        is_yes_no
        and len(lower) <= 4
        and lower & recognition.NO_WORDS != set()
        and (lower & recognition.YES_WORDS != set())
    )


def _number(texts: Sequence[str]) -> str | None:
    shares = [_share(texts, recognition.reads_number(*each)) for each in recognition.NOTATIONS]
    if max(shares) < MOST:
        return None
    decimal = recognition.NOTATIONS[shares.index(max(shares))][0]
    return "number" if any(decimal in text for text in texts) else "integer"


# -- levels and ranges, from all rows
def _refined(
    connection: duckdb.DuckDBPyConnection, contract: Contract, guesses: Sequence[Guess]
) -> list[Guess]:
    described = connection.execute("DESCRIBE source").fetchall()
    raw_types = {str(row[0]): str(row[1]) for row in described}
    values = {each.name: _value(each, contract, raw_types[each.name]) for each in guesses}

    def asked(*kinds: str) -> dict[str, str]:
        return {each.name: values[each.name] for each in guesses if each.keys["type"] in kinds}

    lows, highs = (
        _scanned(connection, asked("number", "integer", "date"), end) for end in ("min", "max")
    )
    levels = _levels(connection, asked("category"))
    return [
        _with_levels(each, levels[each.name])
        if each.name in levels
        else _with_range(each, lows.get(each.name), highs.get(each.name))
        for each in guesses
    ]


def _value(guess: Guess, contract: Contract, raw_type: str) -> str:
    """The SQL of a column's value, or of the text of a level."""
    if guess.keys["type"] == "category" and raw_type in ("DOUBLE", "FLOAT"):
        return samples.as_text(guess.name, raw_type)
    return contract_sql.typed(guess.name, contract.columns[guess.name], raw_type)


def _scanned(
    connection: duckdb.DuckDBPyConnection, values: Mapping[str, str], aggregate: str
) -> dict[str, Any]:
    """An aggregate of each column. A scan serves many columns, so that queries are few."""
    aggregates: dict[str, Any] = {}
    for first in range(0, len(values), COLUMNS_PER_SCAN):
        names = list(values)[first : first + COLUMNS_PER_SCAN]
        listed = ", ".join(f"{aggregate}({values[name]})" for name in names)
        (row,) = connection.execute(f"SELECT {listed} FROM source").fetchall()
        aggregates |= zip(names, row, strict=True)
    return aggregates


def _levels(
    connection: duckdb.DuckDBPyConnection, values: Mapping[str, str]
) -> dict[str, Sequence[tuple[str, int]]]:
    """The values of each column, in order, and the number of their rows; more than MAX_LEVELS where
    there are too many. The engine counts those of columns that are near to few only."""
    about = _scanned(connection, values, "approx_count_distinct")
    few = {name: value for name, value in values.items() if about[name] <= SURELY_MANY}
    counted = _scanned(connection, few, "histogram")
    too_many = [("", 0)] * (MAX_LEVELS + 1)
    return {
        name: sorted((counted[name] or {}).items()) if name in few else too_many for name in values
    }


def _with_levels(guess: Guess, rows: Sequence[tuple[str, int]]) -> Guess:
    if len(rows) > MAX_LEVELS:
        return replace(guess, keys={"type": "string"}, notes=[TOO_MANY])
    rare = [str(level) for level, count in rows if count < RARE_ROWS]
    rare = [level for level in rare if not odd_values.is_error(level)]
    notes = ["levels are those of the data: add those that other producers have"]
    if rare:
        notes.append(
            f"in fewer than {RARE_ROWS} rows: {', '.join(rare)}; the contract is public, so keep a "
            "level only if it may be known, or merge it"
        )
    listed = [str(level) for level, _ in rows if not odd_values.is_error(str(level))]
    notes += draft_notes.of_levels(listed)
    return replace(guess, keys={**guess.keys, "levels": listed}, notes=[*guess.notes, *notes])


def _with_range(guess: Guess, low: Any, high: Any) -> Guess:
    if low is None:
        return guess
    ends: Any = _around_days(low, high) if isinstance(low, date) else around(low, high)
    note = "the range is wider than the data: make it as narrow as is true of all producers"
    keys = {**guess.keys, "range": list(ends)}
    return replace(guess, keys=keys, notes=[*guess.notes, note])


def around(low: float, high: float) -> tuple[float, float]:
    """Round numbers outside the values; 0 is the lower end where no value is negative."""
    span = max(high - low, abs(high) / 10, 1.0)
    step = 10.0 ** math.floor(math.log10(span))
    below = (math.floor((low - span / 10) / step)) * step
    above = (math.ceil((high + span / 10) / step)) * step
    return (max(below, 0.0) if low >= 0 else below, above)


def _around_days(low: date, high: date) -> tuple[date, date]:
    return (date(max(low.year - 1, 1900), 1, 1), date(min(high.year + 1, 2100), 12, 31))


# -- the person
def _with_person(
    connection: duckdb.DuckDBPyConnection, draft: Draft, guesses: Sequence[Guess]
) -> Draft:
    """The identifier whose name says most about a person, and about how many rows one has."""
    keys = [guess.name for guess in guesses if "looks like an identifier" in guess.notes]
    keys.sort(key=lambda name: [word not in name for word in ("nir", "ipp", "patient", "enq")])
    if not keys:
        return draft
    key = quote_name(keys[0])
    ((totals,),) = connection.execute(
        f"SELECT count(*) FROM source WHERE {contract_sql.is_total(key)}"
    ).fetchall()
    if totals:
        note = "a line of sums or means stands among the rows: leave it out, and draft again"
        columns = [_noted(each, [note] if each.name == keys[0] else []) for each in draft.columns]
        draft = replace(draft, columns=columns)
    ((people, most),) = connection.execute(
        f"SELECT count(*), max(n) FROM (SELECT count(*) AS n FROM source "
        f"WHERE {key} IS NOT NULL GROUP BY {key})"
    ).fetchall()
    rows = 1 if most in (None, 1) else rounded_up(int(most))
    return replace(draft, person=keys[0], rows_per_person=rows, people=rounded_up(int(people)))


def rounded_up(count: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50 ... above `count`."""
    step = int(10 ** (len(str(count)) - 1))
    return next(factor * step for factor in (1, 2, 5, 10, 20) if factor * step > count)
