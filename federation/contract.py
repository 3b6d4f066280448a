"""The contract of a dataset: its columns, their types, levels and ranges, and who may use them.

The producer writes it once. A study is checked against it before any node is asked, and the node checks
its rows against it. The levels of a category and the limits of clipping come from it, never from the data.
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

from federation import errors, text, yaml_source
from federation.expression import EVERYTHING, Interval, Kind

Name = Annotated[str, pydantic.StringConstraints(pattern=r"^[^\W\d]\w{0,62}$")]
Slug = Annotated[str, pydantic.StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]


def _written_day(value: object) -> object:
    """A number would be taken for seconds since 1970."""
    if not isinstance(value, str):
        return value if isinstance(value, date) else ""
    return value if re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", value) else ""


Day = Annotated[date, pydantic.BeforeValidator(_written_day)]


class Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The copy computes its own cached values, since another field changes the hash."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(copied).model_fields.keys():
            del copied.__dict__[name]
        return copied


class Description(Frozen):
    fr: str = ""
    en: str = ""


class Column(Frozen):
    """One column.

    `range` is enforced: a value outside it breaks the contract, or is read as missing (`outside: missing`).
    `step`: the values are recorded in whole steps of this size.
    `levels`: the closed list of a category. `missing`: codes that mean "not known".
    `max_missing`: the share of missing rows above which the data break the contract.
    `may_be_empty`: a producer may hold no value of the column at all.
    `within_node`: no level of this category has rows at two nodes.
    `use`: the coordinators who may use the column; empty: all who may use the dataset.
    `shape`: of an array, an image or a series. Each row holds as many numbers as the shape says, the last
    axis varying fastest, as a list or (whole numbers from 0 to 255) as bytes."""

    type: Literal["number", "boolean", "category", "string", "date", "array"]
    shape: tuple[Annotated[int, pydantic.Field(ge=1, le=4096)], ...] = ()
    unit: str | None = None
    range: tuple[float, float] | None = None
    step: float | None = pydantic.Field(None, gt=0)
    levels: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    outside: Literal["refuse", "missing"] = "refuse"
    max_missing: float = pydantic.Field(1.0, ge=0, le=1)
    may_be_empty: bool = False
    within_node: bool = False
    use: tuple[str, ...] = ()
    description: Description = Description()

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
        if (self.type == "category") != bool(self.levels):
            raise ValueError(
                "a category needs its closed list of `levels`; no other type has levels"
            )
        if len(set(self.levels)) < len(self.levels):
            raise ValueError("a level appears twice; keep one")
        if (self.type == "array") != bool(self.shape) or len(self.shape) > 3:
            raise ValueError(
                "an array needs its `shape`, of one to three numbers; no other type has a shape"
            )
        if self.type == "array" and (self.range is None or self.step or self.outside != "refuse"):
            raise ValueError(
                "an array needs the `range` of its numbers, and takes neither `step` nor `outside`"
            )
        if self.type not in ("number", "array") and (self.range or self.step):
            raise ValueError(f"a {self.type} has no `range` or `step`; only a number has")
        if self.range and not self.range[0] < self.range[1]:
            raise ValueError("the range must go from a lower to a higher number")
        if self.within_node and self.type != "category":
            raise ValueError("only a category can be `within_node`")
        return self

    @property
    def kind(self) -> Kind:
        return self.type

    @property
    def interval(self) -> Interval:
        return (0.0, 1.0) if self.type == "boolean" else self.range or EVERYTHING


class Identifier(Frozen):
    """An identifier that another holder may know too: the `column` that holds it, the `form` in which
    identifiers are compared, and the `version` of the form's rules."""

    column: Name
    form: Literal["nir13", "text", "date"]
    version: Literal[1] = 1


class Contract(Frozen):
    """The whole of contract.yaml.

    `unit`: what is protected: a person, or a visit where nothing links the visits of a person.
    `person`: the column that identifies the person of a row; without it each row is a unit of its own.
    `rows_per_person`: the most rows that a person may have; in mode dp surplus rows are left out.
    `nodes_per_person`: the most nodes at which a person may have rows.
    `identifiers`: by name, those by which a study may link people to another dataset. Their columns stand
    in no condition, derivation or analysis; a category may, since its levels are public and few.
    `use`: the coordinators who may use the dataset; empty: all whom the site admits."""

    dataset: Slug
    version: int = pydantic.Field(ge=1)
    description: Description = Description()
    unit: Slug = "person"
    person: Name | None = None
    rows_per_person: int = pydantic.Field(1, ge=1)
    nodes_per_person: int = pydantic.Field(1, ge=1)
    identifiers: Mapping[Name, Identifier] = {}
    use: tuple[str, ...] = ()
    columns: Mapping[Name, Column]

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
                f"person: {self.person!r} is not among the columns; name the column that identifies "
                "a person"
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

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def canonical(self) -> str:
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )


def load(path: Path) -> Contract:
    source = yaml_source.read(path, errors.ContractError)
    return yaml_source.build(Contract, source.values, source, under=(), error=errors.ContractError)
