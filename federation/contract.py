"""A dataset's contract: what its columns are, what a study may do with them, and the SQL that checks the data.

The producer writes it once. A study is checked against it before a node is asked, the node checks its rows against
it, and every category's levels and every clipping bound come from it, never from the data.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic

from federation import errors, expression, yaml_source
from federation.expression import EVERYTHING, Interval, Kind, quote_name, quote_text

Name = Annotated[str, pydantic.StringConstraints(pattern=r"^[^\W\d]\w{0,62}$")]
Slug = Annotated[str, pydantic.StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
SQL_TYPE: Mapping[Kind, str] = {
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "string": "VARCHAR",
    "category": "VARCHAR",
    "array": "BLOB",
}


class Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy works out its own cached values: one with another field has another hash."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(copied).model_fields.keys():
            del copied.__dict__[name]
        return copied


class Description(Frozen):
    fr: str = ""
    en: str = ""


class Column(Frozen):
    """One column. `range` is plausible and enforced: a value outside it breaks the contract, or is read as missing.

    An array is an image or a series: in each row as many numbers as its `shape` says, in the order of its last axis first, as a list or
    (if they are whole and from 0 to 255) as bytes."""

    type: Literal["number", "boolean", "category", "string", "date", "array"]
    shape: tuple[Annotated[int, pydantic.Field(ge=1, le=4096)], ...] = ()
    unit: str | None = None
    range: tuple[float, float] | None = None
    step: float | None = pydantic.Field(
        None, gt=0
    )  # the values are recorded in whole steps of this size
    levels: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # codes that mean "not known"
    outside: Literal["refuse", "missing"] = "refuse"
    max_missing: float = pydantic.Field(
        1.0, ge=0, le=1
    )  # share of rows, above which the data break the contract
    may_be_empty: bool = False  # a producer may hold no value of it at all
    within_node: bool = False  # no level of this category has rows at two nodes
    use: tuple[
        str, ...
    ] = ()  # coordinators who may use this column; empty: whoever may use the dataset
    description: Description = Description()

    @pydantic.field_validator("levels", "missing", mode="before")
    @classmethod
    def _codes_are_text(cls, codes: Any) -> Any:
        if not isinstance(codes, list | tuple):
            raise ValueError("must be a list, as in [a, b]")
        return [str(code).lower() if isinstance(code, bool) else str(code) for code in codes]

    @pydantic.model_validator(mode="after")
    def _coherent(self) -> Column:
        if (self.type == "category") != bool(self.levels):
            raise ValueError(
                "a category needs its closed list of `levels`, and no other type has one"
            )
        if len(set(self.levels)) < len(self.levels):
            raise ValueError("a level appears twice; keep one")
        if (self.type == "array") != bool(self.shape) or len(self.shape) > 3:
            raise ValueError(
                "an array needs its `shape`, of one to three numbers, and no other type has one"
            )
        if self.type == "array" and (self.range is None or self.step or self.outside != "refuse"):
            raise ValueError(
                "an array needs the `range` of its numbers, has no `step`, and nothing `outside` is read as missing"
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


class Contract(Frozen):
    """The whole of contract.yaml."""

    dataset: Slug
    version: int = pydantic.Field(ge=1)
    description: Description = Description()
    unit: Slug = (
        "person"  # who or what is protected: a person, or a visit where nothing says who came twice
    )
    person: Name | None = (
        None  # the column that tells whose row it is; none: every row is a unit of its own
    )
    rows_per_person: int = pydantic.Field(
        1, ge=1
    )  # at most; more break the contract, or are left out in mode dp
    nodes_per_person: int = pydantic.Field(1, ge=1)  # at how many nodes a person may have rows
    use: tuple[
        str, ...
    ] = ()  # coordinators who may use the dataset; empty: any that the site admits
    columns: Mapping[Name, Column]

    @pydantic.model_validator(mode="after")
    def _person_is_a_column(self) -> Contract:
        if self.person is None and (self.unit == "person" or self.rows_per_person > 1):
            raise ValueError(
                "person: name the column that identifies a person; if there is none, say what a row is, as in `unit: visit`"
            )
        if self.person is not None and self.person not in self.columns:
            raise ValueError(
                f"person: {self.person!r} is not among the columns; name the column that identifies a person"
            )
        return self

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


# -- a study's view of the columns: the contract's, and those that the study derives
@dataclass(frozen=True)
class Field:
    """A column that an analysis can ask of a cohort: a contract column, a derived one, or an expression."""

    name: str
    kind: Kind
    sql: str
    interval: Interval = EVERYTHING
    levels: tuple[str, ...] = ()
    step: float | None = None
    unit: str | None = None
    within_node: bool = False
    shape: tuple[int, ...] = ()  # of an array
    index: str | None = (
        None  # SQL of the index of a category's level, where there is a quicker way to it than by its name
    )

    @property
    def groups(self) -> tuple[str, ...]:
        """The levels of a category; no and yes of a condition, in the order in which its values 0 and 1 index them."""
        return self.levels if self.kind == "category" else ("no", "yes")


@dataclass(frozen=True)
class Schema:
    contract: Contract
    fields: Mapping[str, Field]
    sources: Mapping[str, frozenset[str]]  # the contract columns that each field needs

    def field(self, text: str) -> Field:
        """The field of that name, else the expression that `text` writes; ExpressionError says what is wrong."""
        if text in self.fields:
            return self.fields[text]
        return _field(text, self.express(text))

    def express(self, text: str) -> expression.Expression:
        compiled = expression.compile(text, self.fields)
        inlined = {name: self.fields[name].sql for name in compiled.names}
        needed = frozenset(column for name in compiled.names for column in self.sources[name])
        return expression.Expression(
            text,
            _inline(compiled.sql, inlined),
            compiled.kind,
            compiled.interval,
            compiled.levels,
            needed,
        )

    def columns_of(self, text: str) -> frozenset[str]:
        return self.sources[text] if text in self.fields else self.express(text).names


def schema(contract: Contract, derive: Mapping[str, str]) -> Schema:
    """Derived columns may lean on each other, in any order. Raises DeriveError for the first that is wrong."""
    fields = {
        name: Field(
            name,
            c.kind,
            quote_name(name),
            c.interval,
            c.levels,
            c.step,
            c.unit,
            c.within_node,
            c.shape,
        )
        for name, c in contract.columns.items()
    }
    sources = {name: frozenset([name]) for name in fields}
    if taken := [name for name in derive if name in fields]:
        raise DeriveError(
            taken[0], f"column {taken[0]!r} exists already; give the derived column another name"
        )
    waiting = dict(derive)
    while waiting:
        made, wrong = _derived(Schema(contract, fields, sources), waiting)
        if not made:
            name, error = next(iter(wrong.items()))
            raise DeriveError(name, str(error))
        fields |= {name: _field(name, one) for name, one in made.items()}
        sources |= {name: one.names for name, one in made.items()}
        waiting = {name: waiting[name] for name in wrong}
    return Schema(contract, fields, sources)


def _derived(
    known: Schema, waiting: Mapping[str, str]
) -> tuple[dict[str, expression.Expression], dict[str, expression.ExpressionError]]:
    """Which of `waiting` can be made of the columns known so far, and what is wrong with the others."""
    made, wrong = {}, {}
    for name, text in waiting.items():
        try:
            made[name] = known.express(text)
        except expression.ExpressionError as error:
            wrong[name] = error
    return made, wrong


class DeriveError(expression.ExpressionError):
    """`name` is the derived column that is wrong."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(message)


def _field(name: str, made: expression.Expression) -> Field:
    return Field(name, made.kind, made.sql, made.interval, made.levels)


def _inline(sql: str, definitions: Mapping[str, str]) -> str:
    """Replaces each quoted column name by its definition, and leaves text literals alone."""
    pattern = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")

    def replace(match: re.Match[str]) -> str:
        token = match.group()
        return definitions.get(token[1:-1].replace('""', '"'), token) if token[0] == '"' else token

    return pattern.sub(replace, sql)


# -- SQL: typed columns, and the checks
MANY_LEVELS = 8  # from here on a lookup is quicker than to compare with one after the other


def typed(
    name: str, column: Column, raw_type: str, *, whole: bool = False, clamp: bool = False
) -> str:
    """The SQL of a raw column read as its type: missing codes, NaN and (if so declared) outliers become NULL; other outliers
    move to the end of the range if `clamp`.

    `raw_type` is DuckDB's name of the type that the source gives it; a number that comes as one needs no reading,
    and in a column that is known to be `whole` nothing is missing."""
    if column.kind == "array":
        return _array(name, column, raw_type)
    value = _cast(name, column, raw_type)
    if whole:
        return value
    if column.kind == "category" and len(column.levels) > MANY_LEVELS:
        return f"CAST(TRY_CAST({value} AS ENUM({_texts(column.levels)})) AS VARCHAR)"
    if column.kind == "category":
        return f"CASE WHEN {value} IN ({_texts(column.levels)}) THEN {value} END"
    if column.kind == "number":
        low, high = column.interval
        keep = f"NOT isnan({value})"
        if column.outside == "missing" and column.range:
            keep += f" AND {value} BETWEEN {low!r} AND {high!r}"
        if clamp:
            value = f"greatest(least({value}, {_finite(high)!r}), {_finite(low)!r})"
        return f"CASE WHEN {keep} THEN {value} END"
    return value


def _array(name: str, column: Column, raw_type: str) -> str:
    """NULL where it has another shape, or holds what is no number."""
    raw, size = quote_name(name), math.prod(column.shape)
    if raw_type == "BLOB":
        return f"CASE WHEN octet_length({raw}) = {size} THEN {raw} END"
    numbers = f"TRY_CAST({raw} AS FLOAT[])"
    return f"CASE WHEN len({numbers}) = {size} AND NOT list_bool_or(list_transform({numbers}, lambda x: x IS NULL OR isnan(x))) THEN {numbers} END"


def _finite(end: float) -> float:
    return end if math.isfinite(end) else math.copysign(1.7976931348623157e308, end)


def outside(name: str, column: Column, raw_type: str) -> str:
    """The SQL of whether a value is one that `clamp` moves."""
    if column.kind != "number" or column.outside != "refuse" or column.range is None:
        return "FALSE"
    value = _cast(name, column, raw_type)
    return f"coalesce(NOT isnan({value}) AND {value} NOT BETWEEN {column.range[0]!r} AND {column.range[1]!r}, FALSE)"


def _cast(name: str, column: Column, raw_type: str) -> str:
    raw = _known(name, column, raw_type)
    if column.kind == "category" and (
        raw_type in NUMERIC or all(re.fullmatch(r"-?\d+", level) for level in column.levels)
    ):
        return f"regexp_replace(CAST({raw} AS VARCHAR), '^(-?[0-9]+)\\.0+$', '\\1')"  # 3.0 is the level '3'
    if column.kind == "category" and raw_type != "VARCHAR":
        return f"CAST({raw} AS VARCHAR)"
    if raw_type == SQL_TYPE[column.kind]:
        return raw
    return f"TRY_CAST({raw} AS {SQL_TYPE[column.kind]})"


NUMERIC = (
    "DOUBLE",
    "FLOAT",
    "BIGINT",
    "INTEGER",
    "SMALLINT",
    "TINYINT",
    "UBIGINT",
    "UINTEGER",
    "USMALLINT",
    "UTINYINT",
    "HUGEINT",
)


def _is_native(column: Column, raw_type: str) -> bool:
    """The source's own type leaves nothing to be read from text."""
    return not column.missing and (
        (column.kind == "number" and raw_type in NUMERIC)
        or (column.kind in ("boolean", "date") and raw_type == SQL_TYPE[column.kind])
    )


def _known(name: str, column: Column, raw_type: str) -> str:
    raw = quote_name(name)
    if _is_native(column, raw_type):
        return raw
    text = f"trim(CAST({raw} AS VARCHAR))" if raw_type != "VARCHAR" else f"trim({raw})"
    blank = f"{text} IN ('', {_texts(column.missing)})" if column.missing else f"{text} = ''"
    return f"CASE WHEN {blank} THEN NULL ELSE {raw} END"


def _texts(texts: Iterable[str]) -> str:
    return ", ".join(quote_text(text) for text in texts)


@dataclass(frozen=True)
class Check:
    """One rule of the contract, and the SQL that counts the rows which break it."""

    column: str
    rule: str
    sql: str


def checks(
    contract: Contract,
    names: Sequence[str],
    raw_types: Mapping[str, str],
    weight: str | None = None,
) -> list[Check]:
    """The checks of the named columns, each an aggregate over the raw table; with `weight`, over one whose rows stand for so many."""

    def count(condition: str) -> str:
        return (
            f"count(*) FILTER ({condition})"
            if weight is None
            else f"CAST(coalesce(sum({weight}) FILTER ({condition}), 0) AS BIGINT)"
        )

    found = [Check("", "rows", count("TRUE"))]
    if contract.person is not None:
        found.append(
            Check(contract.person, "people", f"count(DISTINCT {quote_name(contract.person)})")
        )
    for name in names:
        column, raw_type = contract.columns[name], raw_types[name]
        if column.kind == "array":
            found += _array_checks(name, column, raw_type, count)
            continue
        value, cast = typed(name, column, raw_type), _cast(name, column, raw_type)
        found.append(Check(name, "missing", count(f"{value} IS NULL")))
        if column.kind != "string" and not _is_native(column, raw_type):
            given = (
                f"trim(CAST({_known(name, column, raw_type)} AS VARCHAR)) NOT IN ('', 'nan', 'NaN')"
            )
            rule, lost = (
                ("unknown level", value) if column.kind == "category" else ("wrong type", cast)
            )
            found.append(Check(name, rule, count(f"{given} AND {lost} IS NULL")))
        if column.kind == "number" and column.outside == "refuse":
            low, high = map(_finite, column.interval)
            found.append(Check(name, "range", count(f"{value} NOT BETWEEN {low!r} AND {high!r}")))
    return found


def _array_checks(
    name: str, column: Column, raw_type: str, count: Callable[[str], str]
) -> list[Check]:
    """No array is missing: what would stand for it?"""
    value, (low, high) = _array(name, column, raw_type), column.interval
    found = [
        Check(name, "missing", count("FALSE")),
        Check(name, "wrong shape", count(f"{value} IS NULL")),
    ]
    if raw_type != "BLOB":
        found.append(
            Check(
                name, "range", count(f"list_min({value}) < {low!r} OR list_max({value}) > {high!r}")
            )
        )
    return found


@dataclass(frozen=True)
class Finding:
    """A broken rule: `rows` is for the producer's eyes; to the hub goes only that the rule is broken."""

    column: str
    rule: str
    rows: int
    remedy: str


def judge(
    contract: Contract, counts: Mapping[tuple[str, str], int], max_rows: int
) -> list[Finding]:
    """The rules that `counts` (of `checks`) and `most_rows` (the most rows of one person) break."""
    rows = counts["", "rows"]
    if rows == 0:
        return [
            Finding("", "empty", 0, "the table has no rows: check the source's path and filter")
        ]
    found = []
    if max_rows > contract.rows_per_person:
        found.append(
            Finding(
                str(contract.person),
                "duplicate person",
                max_rows,
                f"a person has more than {contract.rows_per_person} row(s): remove the duplicates or raise rows_per_person",
            )
        )
    for (name, rule), count in counts.items():
        if rule in _REMEDY and count:
            found.append(Finding(name, rule, count, _REMEDY[rule]))
        elif rule == "missing" and count and name == contract.person:
            found.append(Finding(name, "person missing", count, "every row needs its person"))
        elif rule == "missing" and count == rows and not contract.columns[name].may_be_empty:
            found.append(
                Finding(
                    name,
                    "all missing",
                    count,
                    "the column holds no value: check its name and its missing codes, or declare that it `may_be_empty`",
                )
            )
        elif rule == "missing" and count > contract.columns[name].max_missing * rows:
            found.append(
                Finding(name, "too much missing", count, "complete the column or raise max_missing")
            )
    return found


_REMEDY = {
    "wrong type": "correct the values, or list the code among `missing`",
    "wrong shape": "each row needs as many numbers as the `shape` says, in a list, or in bytes: correct the rows, or leave them out",
    "unknown level": "correct the values, or add the level to the contract's `levels`",
    "range": "correct the values, widen `range`, or set `outside: missing`",
}
