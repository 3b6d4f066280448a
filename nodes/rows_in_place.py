"""Rows of Parquet files that are read where they lie, in the order of their files.

An analysis that only counts people gives the same in any order. Its few columns are read at once
and stay as arrays: no table is written, no key is hashed and nothing is sorted. What else is asked
of the rows, which is rare, is read from the files when it is asked, if they are still the same; the
rows are copied for those who ask more often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import duckdb
import numpy as np

from federation import errors
from federation.cohort import Values, complete
from federation.expression import quote_name
from federation.schema import Field
from nodes import cohort_table, column_arrays
from nodes.cohort_table import KEY
from nodes.fingerprints import Words

MAX_LATER = 4  # times that columns are read from the files once the cohort is open


@dataclass(eq=False)
class RowsInPlace:
    """`columns`: the SQL of each column over those of `source`; `texts`: of the categories that are
    texts there, the SQL of a level that is written as the text is; `key`: the SQL of the person.
    `where`: the condition that chooses the rows. `is_unchanged`: whether the files are still those
    that were opened. `arrays`: columns that were read. `n_later`: how often others were asked for;
    then `is_copied` into a table."""

    connection: duckdb.DuckDBPyConnection
    columns: Mapping[str, str]
    texts: Mapping[str, str]
    key: str
    where: str | None
    is_unchanged: Callable[[], bool]
    arrays: dict[Field, Values] = field(default_factory=dict, repr=False)
    n_later: int = 0
    is_copied: bool = False

    def chosen(self, condition: str) -> RowsInPlace:
        """The rows for which a condition holds."""
        return replace(self, where=condition, arrays={}, n_later=0, is_copied=False)

    def as_written(self) -> RowsInPlace:
        """The same rows. Where each text of a category is a level, a condition on it searches no
        text for spaces and odd letters."""
        names = list(self.texts)
        counts = [f"count({self.texts[name]}) = count({quote_name(name)})" for name in names]
        if not names:
            return self
        (row,) = self.connection.execute(f"SELECT {', '.join(counts)} FROM source").fetchall()
        plain = {
            name: self.texts[name] for name, is_plain in zip(names, row, strict=True) if is_plain
        }
        return replace(self, columns={**self.columns, **plain})

    def hold(self, fields: Sequence[Field]) -> None:
        """Reads columns that will be asked for, before the caller looks whether the files are
        unchanged."""
        wanted = list(dict.fromkeys(fields))
        read = self._codes([each for each in wanted if each.name in self.texts])
        others = [each for each in wanted if each.name not in read]
        read |= column_arrays.read(self.connection, others, self._rows())
        for each in wanted:
            read[each.name].flags.writeable = False  # several studies are given them
            self.arrays[each] = read[each.name]

    def _codes(self, fields: Sequence[Field]) -> dict[str, Values]:
        """The indices of categories that are written as their levels are, so that no text is
        searched for spaces and odd letters; without those in which some text is no level."""
        if not fields:
            return {}
        listed = ", ".join(f"{_code(each)} AS c{i}" for i, each in enumerate(fields))
        rows = self._rows(*(f"{self.texts[each.name]} AS {_level(each)}" for each in fields))
        arrays = self.connection.execute(f"SELECT {listed} FROM {rows}").fetchnumpy()
        read = {}
        for i, each in enumerate(fields):
            codes = arrays[f"c{i}"]  # masked where it is NULL somewhere
            n_absent = int(np.count_nonzero(np.ma.getmask(codes)))
            if not n_absent or len(codes) - n_absent == self._given(each):
                read[each.name] = np.ma.filled(codes, -1)
        return read

    def _given(self, each: Field) -> int:
        """The rows with a text in a category."""
        level = _level(each)
        sql = f"SELECT count({level}) FROM {self._rows(f'{quote_name(each.name)} AS {level}')}"
        ((texts,),) = self.connection.execute(sql).fetchall()
        return int(texts)

    def complete(self) -> set[str]:
        """The columns that were read, and of which each row has a value."""
        return {
            each.name for each, values in self.arrays.items() if complete({each.name: values}).all()
        }

    def fetch(self, asked: Iterable[Field]) -> Mapping[str, Values]:
        fields = list(asked)
        absent = [each for each in fields if each not in self.arrays]
        read = {each.name: self.arrays[each] for each in fields if each in self.arrays}
        if absent:
            read |= self._later(absent)
        return read

    def _later(self, fields: Sequence[Field]) -> Mapping[str, Values]:
        self.n_later += 1
        if self.n_later > MAX_LATER and not self.is_copied:
            with suppress(duckdb.OutOfMemoryException), self._unchanged():
                copied = (
                    f"CREATE OR REPLACE TEMP TABLE {self._table} AS SELECT * FROM {self._rows()}"
                )
                self.connection.execute(copied)
                self.is_copied = True
        if self.is_copied:
            return column_arrays.read(self.connection, fields, self._table)
        with self._unchanged():
            return column_arrays.read(self.connection, fields, self._rows())

    def hashes(self) -> Words:
        """(n_rows,) of the person of each row."""
        rows = self._rows(f"{self.key} AS {KEY}")
        with self._unchanged():
            sql = f"SELECT {cohort_table.FIRST_HASH} AS hash FROM {rows}"
            return np.asarray(self.connection.execute(sql).fetchnumpy()["hash"], np.uint64)

    @property
    def _table(self) -> str:
        return cohort_table.EVERYONE if self.where is None else cohort_table.NAME

    def _rows(self, *more: str) -> str:
        """The relation of the rows. `more`: SQL of further columns."""
        columns = [f"{sql} AS {quote_name(name)}" for name, sql in self.columns.items()]
        rows = f"(SELECT {', '.join([*columns, *more]) or '1'} FROM source)"
        return rows if self.where is None else f"(SELECT * FROM {rows} WHERE {self.where})"

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """SourceError if the files are not those that were opened."""
        changed = errors.SourceError("the files of a cohort changed while it was read")
        try:
            yield
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error:  # its words can hold a row
            raise changed from None
        if not self.is_unchanged():
            self.is_copied = False
            raise changed


def _code(each: Field) -> str:
    return f"CAST(enum_code({_level(each)}) AS {column_arrays.width(each)})"


def _level(each: Field) -> str:
    return quote_name(f"hdh level {each.name}")  # no contract column has a space in its name
