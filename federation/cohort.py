"""The rows that an analysis sees at a node: columns as numpy arrays, read on request.

A number or a yes-or-no column is float64 with NaN where missing; a category is an index into the
contract's levels, -1 where missing; an array column (n_rows, *shape) is uint8 or float32, and never
missing. Rows keep one order for the life of a cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Floats, Ints
from federation.formula import Factor, Term
from federation.schema import Field

COLUMNS_AT_ONCE = 20  # of one query
Values = NDArray[Any]
Words = NDArray[np.uint64]
Fetch = Callable[[Iterable[Field]], Mapping[str, Values]]
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Tally:
    """cells (n_levels, ...), one axis per category: the number of rows with each combination of
    levels. people (3,): the number of rows with all categories, of rows with a missing one, and of
    people who lost rows or were clipped."""

    cells: Ints
    people: Ints


class Key(NamedTuple, Generic[T]):
    """The name of a cached value, which carries the value's type."""

    name: str
    task: str
    detail: Hashable = ()


class Cache:
    """Values that an analysis derives at a node and uses again in later rounds of the study.

    The node drops the cache with the study's session, so an analysis must be able to derive a
    missing value again, or to do without it."""

    def __init__(self) -> None:
        self._values: dict[Key[Any], Any] = {}

    def once(self, key: Key[T], build: Callable[[], T]) -> T:
        """The value of `key`; built now if it is missing."""
        if key not in self._values:
            self._values[key] = build()
        value: T = self._values[key]
        return value

    def get(self, key: Key[T], default: T) -> T:
        value: T = self._values.get(key, default)
        return value

    def put(self, key: Key[T], value: T) -> None:
        self._values[key] = value


class Apart(Protocol):
    """Other processes that read the blocks."""

    def __call__(
        self,
        compute: Callable[[Cohort, Any], T],
        given: Mapping[int, Any] = ...,
        first: int = ...,
    ) -> Iterator[T]:
        """What `compute` makes of each block, and of what is `given` for its number (or None), in
        the order of the blocks and from the number `first`. All of it can be pickled."""


@dataclass(frozen=True)
class Then(Generic[S, T]):
    """One function after another, as other processes can call it."""

    first: Callable[..., S]
    second: Callable[[S], T]

    def __call__(self, *given: Any) -> T:
        return self.second(self.first(*given))


@dataclass(frozen=True)
class Blocks:
    """How a cohort that is too large to hold is read: in blocks, each a cohort of some people with
    all of their rows. `rows`: in all blocks. `read`: gives every block once, in a fixed order.
    `apart`: what is computed of each block by other processes, if these can read the blocks, of
    which the sums of an analysis may be asked; `at_node`: by processes of this machine, of which
    anything may be. `have_changed`: whether files that are read where they lie are others than when
    the cohort was opened."""

    rows: int
    read: Callable[[], Iterator[Cohort]]
    apart: Apart | None = None
    at_node: Apart | None = None
    have_changed: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Cohort:
    """The rows of a study at a node.

    `numbered` (n_rows,): the person of each row, numbered from 0; None if each row has another
    person. `fetch`: reads columns of all rows. `clipped` (n_rows,): in mode dp, True for the rows
    of people whose values or rows were cut to the contract. `count`: counts combinations of
    categories without reading columns, if the source can. `seed`: of random sampling in mode dp,
    which nobody outside may predict; 0 in exact mode. `release`: seed of random numbers that differ
    for every release. `everyone`: in exact mode, all rows of the dataset if the study selects some
    of them. `in_blocks`: set if the rows are read in blocks only; then `numbered` and `fetch` are
    those of the blocks. `hashes`: of a block, reads the hash of each row's person (n_rows,)."""

    numbered: Ints | None
    people: int
    people_in_dataset: int
    rows_per_person: int
    fetch: Fetch
    cache: Cache = field(default_factory=Cache, repr=False)
    clipped: NDArray[np.bool_] | None = None
    count: Callable[[Sequence[Field]], Tally] | None = None
    seed: int = field(default=0, repr=False)
    release: bytes = field(default=b"", repr=False)
    everyone: Cohort | None = field(default=None, repr=False)
    in_blocks: Blocks | None = field(default=None, repr=False)
    hashes: Callable[[], Words] | None = field(default=None, repr=False)

    @property
    def rows(self) -> int:
        if self.in_blocks is not None:
            return self.in_blocks.rows
        return self.people if self.numbered is None else len(self.numbered)

    def blocks(self) -> Iterator[Cohort]:
        """Cohorts of some people each; only this one if it is held as a whole."""
        return iter([self]) if self.in_blocks is None else self.in_blocks.read()

    @property
    def person(self) -> Ints:
        """(n_rows,): the person of each row."""
        return np.arange(self.people) if self.numbered is None else self.numbered

    def count_people(self, keep: NDArray[np.bool_]) -> int:
        """The number of people with a row in the mask `keep` (n_rows,)."""
        if self.numbered is None:
            return int(np.count_nonzero(keep))
        return len(np.unique(self.numbered[keep]))

    def once(self, key: Key[T], build: Callable[[], T]) -> T:
        """The cached value of `key`; built now if it is missing."""
        return self.cache.once(key, build)

    def columns(self, fields: Iterable[Field]) -> Mapping[str, Values]:
        return self.fetch(tuple(fields))

    def each_column(self, fields: Iterable[Field]) -> Iterator[tuple[Field, Values]]:
        """Each field with its column, of which so many are read at once that queries are few and
        memory holds no wide table."""
        listed = tuple(fields)
        for start in range(0, len(listed), COLUMNS_AT_ONCE):
            some = listed[start : start + COLUMNS_AT_ONCE]
            columns = self.columns(some)
            yield from ((field, columns[field.name]) for field in some)


def unread(asked: Iterable[Field]) -> Mapping[str, Values]:
    """The `fetch` of a cohort in blocks, whose columns nobody may read as a whole."""
    raise NotImplementedError


def empty(fields: Iterable[Field], rows_per_person: int) -> Cohort:
    """A cohort without rows. An analysis computes from it a part of zeros with the names, shapes
    and sensitivities of every part."""
    kinds = {"category": np.int16, "array": np.uint8}

    def column(field: Field) -> Values:
        return np.empty((0, *field.shape), kinds.get(field.kind, np.float64))

    columns = {field.name: column(field) for field in fields}
    return Cohort(
        np.empty(0, np.int64),
        0,
        0,
        rows_per_person,
        lambda asked: {
            field.name: columns[field.name] if field.name in columns else column(field)
            for field in asked
        },
    )


def narrowed(cohort: Cohort, condition: Field) -> Cohort:
    """The rows that were read for which a condition holds, with a cache of their own; in exact mode
    only."""
    return replace(of_rows(cohort, held(cohort, condition)), everyone=cohort)


def of_rows(cohort: Cohort, mask: NDArray[np.bool_]) -> Cohort:
    """Some rows (n_rows,) as all rows of a cohort of their own."""

    def fetch(asked: Iterable[Field]) -> Mapping[str, Values]:
        return {name: column[mask] for name, column in cohort.fetch(asked).items()}

    numbered, people = None, int(np.count_nonzero(mask))
    if cohort.numbered is not None:
        there, numbered = np.unique(cohort.numbered[mask], return_inverse=True)
        people = len(there)
    return replace(
        cohort, numbered=numbered, people=people, fetch=fetch, cache=Cache(), everyone=None
    )


def held(cohort: Cohort, condition: Field) -> NDArray[np.bool_]:
    """(n_rows,): True where a condition holds, and not where it is unknown."""
    return np.asarray(cohort.columns([condition])[condition.name] == 1)


def within_contract(cohort: Cohort) -> Cohort:
    """The cohort with every number clipped to the interval of its field, and missing if it is not
    finite. Sensitivities rest on these intervals, so they are enforced where the rows are read."""

    def fetch(asked: Iterable[Field]) -> Mapping[str, Values]:
        fields = tuple(asked)
        columns = cohort.fetch(fields)
        return {field.name: _within(columns[field.name], field) for field in fields}

    return replace(cohort, fetch=fetch)


def _within(column: Values, field: Field) -> Values:
    if field.kind not in ("number", "boolean"):
        # An index into levels, or an array that was clipped to its range when it was read.
        return column
    low, high = (0.0, 1.0) if field.kind == "boolean" else field.interval
    # fmin and fmax ignore NaN.
    ends = np.fmin.reduce(column, initial=np.inf), np.fmax.reduce(column, initial=-np.inf)
    if not len(column) or (low <= ends[0] and ends[1] <= high and np.isfinite(ends).all()):
        return column
    clipped: Values = np.where(np.isfinite(column), np.clip(column, low, high), np.nan)
    return clipped


def complete(columns: Mapping[str, Values]) -> NDArray[np.bool_]:
    """(n_rows,): True where no column is missing."""
    keep = np.ones(len(next(iter(columns.values()))), np.bool_)
    for column in columns.values():
        if column.ndim > 1:
            continue
        keep &= column >= 0 if column.dtype.kind == "i" else ~np.isnan(column)
    return keep


def kept_rows(keep: NDArray[np.bool_]) -> Any:
    """An index of the rows in `keep`: a slice if these are all rows, because a slice copies
    nothing."""
    return slice(None) if keep.all() else np.flatnonzero(keep)


def design(
    terms: Iterable[Term],
    columns: Mapping[str, Values],
    rows: Any,
    *,
    centre: Floats,
    scale: Floats,
    intercept: bool = False,
) -> Floats:
    """(n_rows, n_terms + intercept), in column order: for each term, the product of its factors
    minus the centre, divided by the scale; after a column of ones if `intercept`."""
    terms = tuple(terms)
    first = next(iter(columns.values()))[rows]
    matrix = np.empty((len(first), len(terms) + intercept), order="F")
    matrix[:, : int(intercept)] = 1.0
    for j, term in enumerate(terms):
        column = matrix[:, j + intercept]
        head, *others = term.factors
        np.subtract(_factor(head, columns, rows), centre[j] if not others else 0.0, out=column)
        for factor in others:
            column *= _factor(factor, columns, rows)
        if others:
            column -= centre[j]
        column *= 1 / scale[j]
    return matrix


def _factor(factor: Factor, columns: Mapping[str, Values], rows: Any) -> Floats:
    column: Floats = columns[factor.field.name][rows]
    return column if factor.level is None else (column == factor.level).astype(np.float64)
