"""The contract of a dataset: its columns, their types, levels and ranges, and who may use them.

The producer writes it once. A study is checked against it before any node is asked, and the node
checks its rows against it. The levels of a category and the limits of clipping come from the
contract, never from the data.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic

from federation import errors, intervals, limits, model_words, text, yaml_source
from federation.expression import Kind
from federation.intervals import EVERYTHING, Interval
from federation.terminologies import TERMINOLOGIES

# The length stands outside the pattern: pydantic takes 28 ms to compile 62 letters of any script.
Name = Annotated[str, pydantic.StringConstraints(pattern=r"^[^\W\d]\w*$", max_length=63)]
Slug = Annotated[str, pydantic.StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]


Prose = Annotated[str, pydantic.StringConstraints(max_length=5000), limits.Readable]
Code = Annotated[str, pydantic.StringConstraints(max_length=500), limits.Readable]


def _written_day(value: object) -> object:
    """Accepts text only, because pydantic would read a number as seconds since 1970. The message
    is ours, because pydantic's would show what this function returns."""
    if isinstance(value, date):
        return value
    if isinstance(value, str) and re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        return value
    raise ValueError(f"{model_words.DAY}, not {model_words.shown(value)}")


Day = Annotated[date, pydantic.BeforeValidator(_written_day)]


class Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, field: pydantic.ValidationInfo) -> Any:
        """pydantic would read true as 1."""
        values = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(code, bool) for code in values):
            kind = str(cls.model_fields[str(field.field_name)].annotation)
            if re.search(r"\b(int|float)\b", kind) and not re.search(r"\b(bool|Any)\b", kind):
                raise ValueError("must be a number, not true or false")
        return value

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The copy computes its cached values again, because another field changes the hash."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(copied).model_fields.keys():
            del copied.__dict__[name]
        return copied


def _day(value: object) -> date | None:
    """None for a value that is not written as a day, or is not in the calendar."""
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(str(_written_day(value)))
    except ValueError:
        return None


class Description(Frozen):
    fr: Prose = ""
    en: Prose = ""


class Column(Frozen):
    """One column. An integer is a whole number; a code belongs to a `terminology`, and has no list
    of levels.

    `range` (of a number or a date) is enforced: a value outside it breaks the contract, or is read
    as missing (`outside: missing`). `step`: the values are recorded in whole steps of this size.
    `levels`: the closed list of a category. `missing`: codes that mean "not known".
    `max_missing`: the share of missing rows above which the data break the contract.
    `may_be_empty`: a producer may hold no value of the column at all.
    `within_node`: no level of this category has rows at two nodes.
    `identifier`: the column says whose row it is, as a number of a file does; no study may use it.
    `use`: the coordinators who may use the column; empty: all who may use the dataset.
    `shape`: of an array, such as an image or a series. Each row holds that many numbers, with the
    last axis varying fastest, as a list or (whole numbers from 0 to 255) as bytes."""

    type: Literal["number", "integer", "boolean", "category", "code", "string", "date", "array"]
    terminology: str | None = None
    shape: tuple[Annotated[int, pydantic.Field(ge=1, le=4096)], ...] = ()
    unit: Annotated[Code, pydantic.StringConstraints(max_length=60)] | None = None
    range: tuple[float, float] | tuple[Day, Day] | None = None
    step: float | None = pydantic.Field(None, gt=0)
    levels: tuple[Code, ...] = pydantic.Field((), max_length=limits.MAX_LEVELS)
    missing: tuple[Code, ...] = pydantic.Field((), max_length=1000)
    outside: Literal["refuse", "missing"] = "refuse"
    max_missing: float = pydantic.Field(1.0, ge=0, le=1)
    may_be_empty: bool = False
    within_node: bool = False
    identifier: bool = False
    use: tuple[str, ...] = ()
    description: Description = Description()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _integers_have_a_step(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("type") == "integer":
            return {"step": 1.0, **values}
        return values

    @pydantic.field_validator("range", mode="before")
    @classmethod
    def _two_ends(cls, ends: Any) -> Any:
        """Checked before pydantic tries the forms one after the other, and reports on each."""
        if ends is None:
            return ends
        if isinstance(ends, list | tuple) and len(ends) == 2:
            if all(isinstance(end, float | int) and not isinstance(end, bool) for end in ends):
                return ends
            days = [_day(end) for end in ends]
            if all(days):
                return days
        raise ValueError(
            "must be two numbers, as in [0, 120], or two days, as in [2020-01-01, 2026-12-31]"
        )

    @pydantic.field_validator("levels", "missing", mode="before")
    @classmethod
    def _codes_are_text(cls, codes: Any) -> Any:
        if not isinstance(codes, list | tuple):
            raise ValueError("must be a list, as in [a, b]")
        if not all(isinstance(code, str) for code in codes):
            raise ValueError("each code must be a single text: put it in quotes")
        return [text.canonical(code) for code in codes]

    @pydantic.model_validator(mode="after")
    def _coherent(self) -> Column:
        self._check_levels()
        self._check_array()
        self._check_range()
        self._check_terminology()
        if self.within_node and self.type != "category":
            raise ValueError("only a category can be `within_node`")
        return self

    def _check_levels(self) -> None:
        if (self.type == "category") != bool(self.levels):
            raise ValueError(
                "a category needs its closed list of `levels`; no other type has levels"
            )
        if len(set(self.levels)) < len(self.levels):
            raise ValueError("a level appears twice; keep one")
        if "" in self.levels:
            raise ValueError("an empty text is a missing value, and no level; leave it out")
        if both := set(self.levels).intersection(self.missing):
            raise ValueError(f"{min(both)!r} is among `levels` and `missing`; keep one")

    def _check_array(self) -> None:
        if (self.type == "array") != bool(self.shape) or len(self.shape) > 3:
            raise ValueError(
                "an array needs its `shape`, of one to three numbers; no other type has a shape"
            )
        if self.type == "array" and (self.range is None or self.step or self.outside != "refuse"):
            raise ValueError(
                "an array needs the `range` of its numbers, and takes neither `step` nor `outside`"
            )

    def _check_range(self) -> None:
        if self.type not in ("number", "integer", "array", "date") and self.range:
            raise ValueError(f"a {self.type} has no `range`; only a number or a date has")
        if self.type not in ("number", "integer", "array") and self.step:
            raise ValueError(f"a {self.type} has no `step`; only a number has")
        if self.type == "integer" and self.step and self.step % 1:
            raise ValueError("an integer's `step` is a whole number")
        if self.range and isinstance(self.range[0], date) != (self.type == "date"):
            written = "days as in [2020-01-01, 2026-12-31]" if self.type == "date" else "numbers"
            raise ValueError(f"the range of a {self.type} consists of {written}")
        if self.range and not self.interval[0] < self.interval[1]:
            ends = (
                "an earlier to a later day" if self.type == "date" else "a lower to a higher number"
            )
            raise ValueError(f"the range must go from {ends}")

    def _check_terminology(self) -> None:
        if (self.type == "code") != (self.terminology is not None):
            raise ValueError(
                "a code needs its `terminology`; no other type has one: it is one of "
                + ", ".join(TERMINOLOGIES)
            )
        if self.terminology is not None and self.terminology not in TERMINOLOGIES:
            raise ValueError(
                f"{self.terminology!r} is no terminology here: use one of "
                f"{', '.join(TERMINOLOGIES)}"
            )

    @property
    def kind(self) -> Kind:
        if self.type == "integer":
            return "number"
        return "string" if self.type == "code" else self.type

    @property
    def is_whole(self) -> bool:
        return self.type == "integer"

    @property
    def truth(self) -> None:
        """Only a derived condition is true of some values and false of others."""

    @property
    def interval(self) -> Interval:
        """Where the values lie; of dates, as days."""
        if self.type == "boolean":
            return (0.0, 1.0)
        if self.range is None:
            return EVERYTHING
        low, high = self.range
        if isinstance(low, date) and isinstance(high, date):
            return intervals.of_days(low, high)
        assert isinstance(low, float) and isinstance(high, float)
        return (low, high)


class Identifier(Frozen):
    """An identifier that another holder may also have: the `column` that holds it, the `form` in
    which identifiers are compared, and the `version` of the form's rules."""

    column: Name
    form: Literal["nir13", "text", "date"]
    version: Literal[1] = 1


class Contract(Frozen):
    """The whole of contract.yaml.

    `unit`: what is protected: a person, or a visit where nothing links the visits of a person.
    `person`: the column that identifies the person of a row; without it, each row is a unit.
    `rows_per_person`: the most rows that a person may have; in mode dp surplus rows are left out.
    `nodes_per_person`: the most nodes at which a person may have rows. `identifiers`: by name,
    those by which a study may link people to another dataset. Their columns stand in no condition,
    derivation or analysis; a category may, since its levels are public and few. `use`: the
    coordinators who may use the dataset; empty: all whom the site admits."""

    dataset: Slug
    version: int = pydantic.Field(ge=1)
    description: Description = Description()
    unit: Slug = "person"
    person: Name | None = None
    rows_per_person: int = pydantic.Field(1, ge=1)
    nodes_per_person: int | None = pydantic.Field(None, ge=1)
    identifiers: Mapping[Name, Identifier] = {}
    use: tuple[str, ...] = ()
    columns: Mapping[Name, Column] = pydantic.Field(max_length=10_000)

    @pydantic.model_validator(mode="after")
    def _columns_differ_in_more_than_capitals(self) -> Contract:
        """DuckDB takes X for x."""
        first: dict[str, str] = {}
        for name in self.columns:
            if (other := first.setdefault(name.lower(), name)) != name:
                raise ValueError(
                    f"columns {other!r} and {name!r} differ in capitals only; rename one"
                )
        return self

    @pydantic.model_validator(mode="after")
    def _person_is_a_column(self) -> Contract:
        if self.person is None and (self.unit == "person" or self.rows_per_person > 1):
            raise ValueError(
                "person: name the column that identifies a person; if there is none, name the unit "
                "that a row stands for, as in `unit: visit`"
            )
        if self.person is not None and self.person not in self.columns:
            raise ValueError(
                f"person: {self.person!r} is not among the columns;"
                " name the column that identifies a person"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _identifiers_are_columns(self) -> Contract:
        for name, identifier in self.identifiers.items():
            column = self.columns.get(identifier.column)
            if column is None or column.type == "array":
                raise ValueError(
                    f"identifiers.{name}: {identifier.column!r} is not among the columns that can "
                    "identify a person; name one of them"
                )
        return self

    @property
    def closed_columns(self) -> frozenset[str]:
        """The columns of identifiers, which no condition, derivation or analysis may name."""
        named = {identifier.column for identifier in self.identifiers.values()}
        return frozenset(name for name in named if self.columns[name].type != "category")

    def max_nodes_of_person(self, nodes: int) -> int:
        """The number of nodes, of `nodes`, at which one person may have rows; all of them if the
        contract does not limit it."""
        return min(self.nodes_per_person or nodes, nodes)

    @property
    def why_nodes(self) -> str:
        """The reason for the number of nodes of one person, in words."""
        if self.nodes_per_person is None:
            return "the contract gives no nodes_per_person, so every node counts"
        return "nodes_per_person of the contract"

    @cached_property
    def hash(self) -> str:
        """The identity of the contract: of everything that results are computed from, but not of
        its prose, its version or its users."""
        values = self.model_dump(mode="json", exclude_defaults=True, exclude=PROSE)
        for column in values["columns"].values():
            column.pop("description", None)
            column.pop("use", None)
        return hashlib.sha256(_as_json(values).encode()).hexdigest()

    def differences(self, other: Contract) -> list[str]:
        """The changes that would turn this contract into the other, one a line;
        prose does not count."""
        mine, theirs = (
            each.model_dump(mode="json", exclude_defaults=True, exclude=PROSE | {"columns"})
            for each in (self, other)
        )
        lines = _changes("", mine, theirs)
        for name in dict.fromkeys([*self.columns, *other.columns]):
            if name not in other.columns or name not in self.columns:
                lines.append(f"column {name} is {'removed' if name in self.columns else 'new'}")
                continue
            before, after = (
                each.columns[name].model_dump(
                    mode="json", exclude_defaults=True, exclude={"description", "use"}
                )
                for each in (self, other)
            )
            lines += _changes(f"column {name}: ", before, after)
        return lines

    def canonical(self) -> str:
        """All of it, as it is sent."""
        return _as_json(self.model_dump(mode="json", exclude_defaults=True))


def _changes(where: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [
        f"{where}{key} was {mine.get(key, 'not written')}, and is {theirs.get(key, 'not written')}"
        for key in dict.fromkeys([*mine, *theirs])
        if mine.get(key) != theirs.get(key)
    ]


PROSE = {"description", "version", "use"}  # what no number is computed from


def _as_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def load(path: Path) -> Contract:
    source = yaml_source.read(path, errors.ContractError)
    return yaml_source.build(Contract, source.values, source, under=(), error=errors.ContractError)


def parse(canonical: str) -> Contract:
    """A contract from its canonical JSON, as a peer sends it. ContractError if it does not fit the
    schema."""
    try:
        with limits.parsing("a contract of this version", limits.LimitError):
            limits.json_of(canonical, max_bytes=4 * limits.MAX_CONTRACT)
            return Contract.model_validate_json(canonical)
    except limits.LimitError:
        raise errors.ContractError(
            "the contract received does not follow the schema of this version; compare the versions"
            " of hub and node"
        ) from None
