"""Rows of Parquet files that are read where they lie, in the order of their files.

An analysis that only counts people gives the same in any order. Its few columns are read at once
and stay as arrays: no table is written, no key is hashed and nothing is sorted. What else is asked
of the rows, which is rare, is read from the files when it is asked, if they are still the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import duckdb
import numpy as np

from federation import errors
from federation.cohort import Values, complete
from federation.expression import quote_name
from federation.schema import Field
from nodes import cohort_table, column_arrays, level_lookup
from nodes.cohort_table import KEY
from nodes.fingerprints import Words


@dataclass(frozen=True)
class RowsInPlace:
    """`columns`: the SQL of each column over those of `source`; `texts`: the categories among them
    that are texts there; `key`: the SQL of the person. `where`: the condition that chooses the
    rows. `is_unchanged`: whether the files are still those that were opened. `arrays`: columns that
    were read."""

    connection: duckdb.DuckDBPyConnection
    columns: Mapping[str, str]
    texts: Collection[str]
    key: str
    where: str | None
    is_unchanged: Callable[[], bool]
    arrays: dict[Field, Values] = field(default_factory=dict, repr=False)

    def chosen(self, condition: str) -> RowsInPlace:
        """The rows for which a condition holds."""
        return replace(self, where=condition, arrays={})

    def hold(self, fields: Sequence[Field]) -> None:
        """Reads columns that will be asked for, before the caller looks whether the files are
        unchanged."""
        wanted = list(dict.fromkeys(fields))
        read = self._codes([each for each in wanted if each.name in self.texts])
        others = [each for each in wanted if each.name not in read]
        read |= column_arrays.read(self.connection, others, self._relation())
        for each in wanted:
            read[each.name].flags.writeable = False  # several studies are given them
            self.arrays[each] = read[each.name]

    def _codes(self, fields: Sequence[Field]) -> dict[str, Values]:
        """The indices of categories that are written as their levels are, so that no text is
        searched for spaces and odd letters; without those in which some text is no level."""
        if not fields:
            return {}
        listed = ", ".join(f"{_code(each)} AS c{i}" for i, each in enumerate(fields))
        arrays = self.connection.execute(f"SELECT {listed} FROM {self._relation()}").fetchnumpy()
        read = {}
        for i, each in enumerate(fields):
            codes = arrays[f"c{i}"]  # masked where it is NULL somewhere
            n_absent = int(np.count_nonzero(np.ma.getmask(codes)))
            if not n_absent or len(codes) - n_absent == self._given(each):
                read[each.name] = np.ma.filled(codes, -1)
        return read

    def _given(self, each: Field) -> int:
        """The rows with a text in a category."""
        sql = f"SELECT count({_raw(each.name)}) FROM {self._relation()}"
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
            read |= column_arrays.read(self.connection, absent, self._relation())
            self._require_unchanged()
        return read

    def hashes(self) -> Words:
        """(n_rows,) of the person of each row."""
        key = f"{self.key} AS {KEY}"
        sql = f"SELECT {cohort_table.FIRST_HASH} AS hash FROM {self._relation(key)}"
        words = np.asarray(self.connection.execute(sql).fetchnumpy()["hash"], np.uint64)
        self._require_unchanged()
        return words

    def _relation(self, *more: str) -> str:
        columns = [f"{sql} AS {quote_name(name)}" for name, sql in self.columns.items()]
        raws = [f"{quote_name(name)} AS {_raw(name)}" for name in self.texts]
        rows = f"(SELECT {', '.join([*columns, *raws, *more]) or '1'} FROM source)"
        return rows if self.where is None else f"(SELECT * FROM {rows} WHERE {self.where})"

    def _require_unchanged(self) -> None:
        if not self.is_unchanged():
            raise errors.SourceError("the files of a dataset changed while they were read")


def _code(each: Field) -> str:
    level = level_lookup.cast(_raw(each.name), each.levels)
    return f"CAST(enum_code({level}) AS {column_arrays.width(each)})"


def _raw(name: str) -> str:
    return quote_name(f"hdh raw {name}")  # no contract column has a space in its name
