"""A large cohort of mode dp, in blocks of people.

Where the rows are read must not hang on one of them. By the contract alone, if it allows a person
one row, the rows of Parquet files are read where they lie, and only those of people who have
several all the same go into the cohort's table, where one is drawn; otherwise all rows go there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar

import duckdb
import numpy as np

from federation.cohort import Blocks, Cohort, Words
from federation.expression import quote_name
from nodes import cohort_blocks, cohort_table, kept_cohorts
from nodes.cohort_blocks import Clip, Files
from nodes.connectors import FILE
from nodes.site import Dataset, Storage

T = TypeVar("T")
AT_ONCE = 10_000_000  # people who are told apart in one pass over the rows: 80 MB


@dataclass(frozen=True)
class Source:
    """Rows of the relation `source`. `columns`: the SQL of each column of the study over the raw
    ones, cut to the contract, and `key` that of the person. `where`: a condition on the columns;
    `moved`: as of `Clip`. `salt`: as of `cohorts.open_clipped`. `is_fixed`: the source always has
    one order. `rows`: how many there are."""

    connection: duckdb.DuckDBPyConnection
    dataset: Dataset
    storage: Storage
    columns: Mapping[str, str]
    key: str | None
    where: str | None
    moved: str
    salt: str
    is_fixed: bool
    rows: int

    @property
    def size(self) -> int:
        return cohort_blocks.rows_of_block(list(self.columns), self.storage)

    @property
    def can_stay(self) -> bool:
        """Whether rows can be read where they lie."""
        contract = self.dataset.contract
        described = self.connection.execute("DESCRIBE source").fetchall()
        if contract.rows_per_person > 1 or FILE not in (
            quote_name(str(row[0])) for row in described
        ):
            return False
        return contract.person is not None or self.dataset.rows_where is None


def opened(source: Source) -> Cohort:
    if not source.can_stay:
        cohort = _in_table(source, source.where)
        cohort_table.drop_source(source.connection)
        return cohort
    several = _several(source)
    files = Files(
        source.connection,
        source.dataset,
        source.storage,
        kept_cohorts.files_of(source.dataset.source),
        cohort_table.coded(source.connection, source.dataset.contract, source.columns),
        source.key,
        source.size,
        Clip(source.moved, several),
    )
    cohort = cohort_blocks.clipped_in_files(files, source.where)
    if not len(several):
        return cohort
    theirs = f"hash({cohort_table.KEY}) IN (SELECT hash FROM {cohort_blocks.SEVERAL})"
    where = f"({source.where}) AND {theirs}" if source.where else theirs
    return _both(cohort, _in_table(source, where))


def _several(source: Source) -> Words:
    """(n_people,): the hashes of people who have several rows, ascending."""
    if source.key is None:
        return np.empty(0, np.uint64)
    passes, several = max(1, math.ceil(source.rows / AT_ONCE)), []
    hashes = f"SELECT hash({source.key}) AS hash FROM source WHERE ({source.key}) IS NOT NULL"
    for number in range(passes):
        arrays = source.connection.execute(
            f"SELECT hash FROM ({hashes}) WHERE hash % {passes} = {number}"
        ).fetchnumpy()
        words = np.sort(np.asarray(arrays["hash"], np.uint64))
        several.append(np.unique(words[1:][words[1:] == words[:-1]]))
    return np.sort(np.concatenate(several))


def _in_table(source: Source, where: str | None) -> Cohort:
    cohort_table.write(
        source.connection,
        source.dataset.contract,
        source.columns,
        key=source.key,
        where=where,
        is_fixed=source.is_fixed,
        salt=source.salt,
        moved=source.moved,
        is_sorted=True,
    )
    return cohort_blocks.in_table(
        source.connection,
        source.dataset.contract,
        source.size,
        is_fixed=source.is_fixed,
        is_clipped=True,
    )


def _both(cohort: Cohort, others: Cohort) -> Cohort:
    """The blocks of some people, and then those of the others."""
    mine, theirs = cohort.in_blocks, others.in_blocks
    assert mine is not None and theirs is not None
    people = cohort.people + others.people
    return replace(
        cohort, people=people, people_in_dataset=people, in_blocks=_chained(mine, theirs)
    )


def _chained(mine: Blocks, theirs: Blocks) -> Blocks:
    def read() -> Iterator[Cohort]:
        return itertools.chain(mine.read(), theirs.read())

    def apart(
        compute: Callable[[Cohort, Any], T],
        given: Mapping[int, Any] = MappingProxyType({}),
        first: int = 0,
    ) -> Iterator[T]:
        assert mine.apart is not None and not given and first == 0, "sums are asked of all blocks"
        here = (compute(block, None) for block in theirs.read())
        return itertools.chain(mine.apart(compute), here)

    return replace(
        mine,
        rows=mine.rows + theirs.rows,
        read=read,
        apart=None if mine.apart is None else apart,
        at_node=None,
    )
