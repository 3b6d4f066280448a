"""The result of every connector: a relation, its columns under canonical names, and the errors that
name a remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb

from federation import errors, text
from nodes.site import Dataset


@dataclass(frozen=True)
class Source:
    """A dataset's rows in DuckDB. `columns`: the relation's name of each column under its canonical
    spelling. `is_fixed`: another reading gives the same rows in the same order. `is_temporary`: its
    files are removed after reading, so its rows are copied. `is_table`: it is a temporary table of
    these columns, which nobody else reads. `records`: the number of rows in its files, if they are
    counted beforehand. `types`: of the columns that are texts and may be read in a type instead;
    `typed`: the relation that reads some of them so. `has_places`: the relation tells the file of
    each row and its number there, and finds rows by these."""

    relation: str
    columns: Mapping[str, str]
    is_fixed: bool = True
    is_temporary: bool = False
    is_table: bool = False
    records: int | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    typed: Callable[[Mapping[str, str]], str] | None = None
    has_places: bool = False


def described(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, relation: str, *, is_fixed: bool = True
) -> Source:
    names = [
        str(row[0]) for row in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    ]
    return Source(relation, by_name(dataset, names, names), is_fixed)


def by_name(dataset: Dataset, names: Sequence[str], raw: Sequence[str]) -> Mapping[str, str]:
    """The raw column of each canonically spelled name that occurs once in the source. SourceError
    if a column that the contract needs occurs twice."""
    spellings = [text.canonical(name) for name in names]
    twice = [name for name in dataset.headers if spellings.count(name) > 1]
    if twice:
        raise errors.SourceError(
            f"dataset {dataset.contract.dataset!r}: the source has several columns {twice[0]!r}: "
            "keep one"
        )
    return {
        name: raw_name
        for name, raw_name in zip(spellings, raw, strict=True)
        if spellings.count(name) == 1
    }


def unreadable(dataset: Dataset, reason: str) -> errors.DataError:
    return errors.DataError(
        f"dataset {dataset.contract.dataset!r}: the source cannot be read {reason}"
    )


def failed_to_read(dataset: Dataset, kind: BaseException, remedy: str) -> errors.DataError:
    """The error of a library by its kind alone, since its text may hold a row."""
    return errors.DataError(
        f"dataset {dataset.contract.dataset!r}: the source cannot be read"
        f" ({type(kind).__name__}): {remedy}"
    )


def lacks_extra(dataset: Dataset, kind: str, extra: str) -> errors.SetupError:
    return errors.SetupError(
        f"dataset {dataset.contract.dataset!r}: {kind} needs the extra `{extra}`: "
        f"pip install 'hdh-federation[{extra}]'"
    )


def renamed(dataset: Dataset, present: Mapping[str, str]) -> Mapping[str, str]:
    """The raw column of each contract column that `read.columns` maps, and of every other name of
    the source."""
    mapped = {
        name: present[header] for name, header in dataset.read.columns.items() if header in present
    }
    hidden = {*dataset.read.columns, *dataset.read.columns.values()}
    return {name: raw for name, raw in present.items() if name not in hidden} | mapped


def require(dataset: Dataset, columns: Sequence[str], present: Iterable[str]) -> None:
    """SourceError that names the absent columns, and those that are written nearly alike."""
    names = list(present)
    lacking = [column for column in columns if column not in names]
    if not lacking:
        return
    alike = [
        f"; it has {text.spelled(name)}, and the contract says {text.spelled(column)}"
        for column in lacking[:5]
        for name in names
        if text.folded(name) == text.folded(column)
    ]
    mapped = [
        f"; `read.columns` maps {column} to {dataset.read.columns[column]!r}, which is not there"
        for column in lacking[:5]
        if column in dataset.read.columns
    ]
    raise errors.SourceError(
        f"dataset {dataset.contract.dataset!r}: the source has no column "
        f"{', '.join(map(repr, lacking[:5]))}{''.join(alike)}{''.join(mapped)}: rename it there, "
        "map it under `read: {columns: ...}`, or correct the contract"
    )
