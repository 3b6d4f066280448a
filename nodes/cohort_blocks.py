"""A cohort too large to hold, read in blocks of people.

The rows of Parquet files are read where they lie, if each row has another person: nothing is
copied, and the files must stay as they were checked. Other rows, and those of people with several
rows, go into the cohort's table, sorted as a cohort that is held would be, so that a block is a
range of the table. What exceeds the engine's memory goes to the disk only if the producer allows
it. In mode dp the rows of a block are cut to the contract; `nodes/clipped_blocks.py` says where
they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from federation import errors
from federation.arrays import Ints
from federation.cohort import Apart, Blocks, Cohort, Fetch, Values, Words, unread, within_contract
from federation.contract import Contract
from federation.expression import quote_name, quote_text
from federation.schema import Field
from nodes import (
    block_workers,
    cohort_table,
    column_arrays,
    connectors,
    kept_cohorts,
    memory,
    ray_cluster,
    row_limit,
)
from nodes.cohort_table import MOVED, PERSON, PERSON_AGAIN
from nodes.connectors import FILE, PLACE, formats
from nodes.row_limit import Limited
from nodes.site import Dataset, Storage

SHARE = 5  # a block holds so small a part of the values that may be held
MAX_ROWS = 500_000  # of a block, since an analysis derives more of a row than its columns
OF_PERSON = 3  # values that a row takes beside its columns: two hashes and the number of its person
SEVERAL = "hdh_several"  # the table of people whose rows are read elsewhere
Read = Callable[[], Iterator[Cohort]]


def is_large(rows: int, columns: Sequence[str], storage: Storage) -> bool:
    return rows * (len(columns) + OF_PERSON) > storage.max_values


def rows_of_block(columns: Sequence[str], storage: Storage) -> int:
    rows = storage.max_values // SHARE // (len(columns) + OF_PERSON)
    return min(max(1, rows), MAX_ROWS)


@dataclass(frozen=True)
class Stretch:
    """Neighbouring rows. `where`: the SQL that finds them; `number`: the SQL of a row's number in
    the whole source, from 1; `rows`: how many there are."""

    where: str
    number: str
    rows: int


@dataclass(frozen=True)
class Clip:
    """How rows are cut to the contract in mode dp. `moved`: the SQL over the raw columns of the
    condition that a value of the row moves into its range. `several` (n_people,): hashes of the
    people who have several rows, which are read elsewhere."""

    moved: str
    several: Words = field(default_factory=lambda: np.empty(0, np.uint64))


# -- files that are read where they lie
@dataclass(frozen=True)
class Files:
    """Rows in Parquet files, which satisfy their contract unless `clip` is set. `version`: the
    files before they were checked, as in kept_cohorts. `columns`: the SQL of each column over the
    raw ones, coded; `key`: that of the person. `size`: rows of a block."""

    connection: Any  # of DuckDB; None where the files are not open
    dataset: Dataset
    storage: Storage
    version: Sequence[kept_cohorts.File]
    columns: Mapping[str, str]
    key: str | None
    size: int
    clip: Clip | None = None

    def relation(self, stretch: Stretch, condition: str | None) -> str:
        """The typed columns of a stretch, with the hash of each row's person."""
        listed = [f"{sql} AS {quote_name(name)}" for name, sql in self.columns.items()]
        listed.append(f"hash({self.key or stretch.number}) AS {PERSON}")
        where = [stretch.where]
        if self.clip is not None:
            listed.append(f"({self.clip.moved}) AS {MOVED}")
            where += [] if self.key is None else [f"({self.key}) IS NOT NULL"]
            if len(self.clip.several):
                where.append(f"hash({self.key}) NOT IN (SELECT hash FROM {SEVERAL})")
        rows = f"(SELECT {', '.join(listed)} FROM source WHERE {' AND '.join(where)})"
        return f"{rows} WHERE ({condition})" if condition else rows

    @property
    def have_changed(self) -> bool:
        return kept_cohorts.files_of(self.dataset.source) != self.version


def can_stay(dataset: Dataset, people: int, rows: int) -> bool:
    """Whether each row of files with places has another person, and a number of its own."""
    if dataset.contract.person is not None:
        return people == rows
    return dataset.rows_where is None


def in_files(files: Files, condition: str | None) -> Cohort:
    """The rows that meet a condition, and all of them in `everyone`."""
    stretches = list(_stretches(files))
    everyone = _of_files(files, stretches, None, sum(stretch.rows for stretch in stretches))
    if condition is None:
        return everyone
    chosen = _counted(files, stretches, condition)
    return replace(_of_files(files, chosen, condition, everyone.people), everyone=everyone)


def clipped_in_files(files: Files, condition: str | None) -> Cohort:
    """The rows of mode dp that meet a condition, of people with one row each."""
    hold_several(files)
    chosen = _counted(files, list(_stretches(files)), condition)
    return _of_files(files, chosen, condition, sum(stretch.rows for stretch in chosen))


def hold_several(files: Files) -> None:
    """Makes the table of people whose rows are not read where they lie."""
    assert files.clip is not None
    if len(files.clip.several):
        files.connection.register("hdh_listed", {"hash": files.clip.several})
        files.connection.execute(f"CREATE TEMP TABLE {SEVERAL} AS SELECT hash FROM hdh_listed")
        files.connection.unregister("hdh_listed")


def _counted(files: Files, stretches: Sequence[Stretch], condition: str | None) -> list[Stretch]:
    return [
        replace(stretch, rows=_count(files.connection, files.relation(stretch, condition)))
        for stretch in stretches
    ]


def _stretches(files: Files) -> Iterator[Stretch]:
    """Those of each file, in the order of opening."""
    counted = files.connection.execute(
        f"SELECT {FILE}, max({PLACE}) + 1, count(*) FROM source GROUP BY 1"
    ).fetchall()
    ends = {str(name): int(end) for name, end, _ in counted}
    is_whole = all(end == n for _, end, n in counted)
    before = 0
    for name in map(str, formats.of(files.dataset.as_held)[1]):
        for start in range(0, ends.get(name, 0), files.size):
            end = min(start + files.size, ends[name])
            where = f"{FILE} = {quote_text(name)} AND {PLACE} >= {start} AND {PLACE} < {end}"
            stretch = Stretch(where, f"CAST({PLACE} + {before + 1} AS BIGINT)", end - start)
            if not is_whole:
                rows = _count(files.connection, f"source WHERE {where}")
                stretch = replace(stretch, rows=rows)
            yield stretch
        before += ends.get(name, 0)


def _count(connection: duckdb.DuckDBPyConnection, relation: str) -> int:
    ((n,),) = connection.execute(f"SELECT count(*) FROM {relation}").fetchall()
    return int(n)


def _of_files(
    files: Files, stretches: Sequence[Stretch], condition: str | None, in_dataset: int
) -> Cohort:
    first: dict[Field, Values] = {}

    def blocks() -> Iterator[Cohort]:
        for number, stretch in enumerate(stretches):
            block = block_of(files, stretch, condition, in_dataset)
            if number == 0:
                block = replace(block, fetch=_remembering(block.fetch, first))
            yield block

    people = sum(stretch.rows for stretch in stretches)
    cohort = _in_blocks(files.dataset.contract, people, in_dataset, people, blocks)
    assert cohort.in_blocks is not None
    in_blocks = replace(cohort.in_blocks, have_changed=lambda: files.have_changed)
    if files.storage.workers == 1:
        return replace(cohort, in_blocks=in_blocks)
    asked = Asked(replace(files, connection=None), tuple(stretches), condition, in_dataset)
    workers = files.storage.workers
    if isinstance(workers, str):
        on_cluster: Apart = partial(ray_cluster.results, workers, asked)
        return replace(cohort, in_blocks=replace(in_blocks, apart=on_cluster))
    apart: Apart = partial(block_workers.results, workers, asked)
    return replace(cohort, in_blocks=replace(in_blocks, apart=apart, at_node=apart))


@dataclass(frozen=True)
class Asked:
    """Blocks as another process can read them. `files`: without a connection."""

    files: Files
    stretches: tuple[Stretch, ...]
    condition: str | None
    in_dataset: int

    def open(self, *, is_alone: bool) -> Callable[[int], Cohort]:
        """Opens the files here, and gives a block by its number. `is_alone`: as in
        block_workers."""
        dataset, storage = self.files.dataset, self.files.storage
        person = dataset.contract.person
        names = [*([] if person is None else [person]), *self.files.columns]
        connection = connectors.connect_to(dataset, storage)
        if is_alone:
            connection.execute("SET threads = 1")  # of this process's engine
        connectors.open_rows(connection, dataset, list(dict.fromkeys(names)), with_places=True)
        here = replace(self.files, connection=connection)
        if here.clip is not None:
            hold_several(here)
        return lambda number: block_of(
            here, self.stretches[number], self.condition, self.in_dataset
        )


def block_of(files: Files, stretch: Stretch, condition: str | None, in_dataset: int) -> Cohort:
    contract, relation = files.dataset.contract, files.relation(stretch, condition)
    read = _fetch(files.connection, relation)

    def fetch(asked: Iterable[Field]) -> Mapping[str, Values]:
        with _unchanged(files):
            return read(asked)

    def hashes() -> Words:
        with _unchanged(files):
            return _hashes(files.connection, relation, [PERSON])[0]

    block = Cohort(
        None if contract.rows_per_person == 1 else np.arange(stretch.rows),
        stretch.rows,
        in_dataset,
        contract.rows_per_person,
        fetch,
        hashes=hashes,
    )
    if files.clip is None:
        return block
    with _unchanged(files):
        return within_contract(replace(block, clipped=_moved(files.connection, relation)))


@contextmanager
def _unchanged(files: Files) -> Iterator[None]:
    """SourceError if the files are not those that were checked."""
    changed = errors.SourceError("the files of a cohort changed while it was read")
    try:
        yield
    except duckdb.Error:  # its words can hold a row
        raise changed from None
    if files.have_changed:
        raise changed


# -- rows in the cohort's table
def in_table(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    size: int,
    *,
    is_fixed: bool,
    in_dataset: int | None = None,
    table: str = cohort_table.NAME,
    is_clipped: bool = False,
) -> Cohort:
    """The rows of a table that `cohort_table.write` has sorted. `in_dataset`: the people of the
    whole dataset, if these are others. `is_clipped`: in mode dp, at most `rows_per_person` rows of
    a person are read."""
    if contract.person is None and is_fixed:
        stretches = list(_by_number(connection, table, size))
    else:
        stretches = list(_by_hash(connection, table, size))
    names = [PERSON] if contract.person is None else [PERSON, PERSON_AGAIN]

    def limited(stretch: Stretch) -> tuple[Words, Limited]:
        words = _hashes(connection, f"{table} WHERE {stretch.where}", names)
        if contract.person is None:
            return words[0], row_limit.every_row(len(words[0]))
        return words[0], row_limit.choose(words, contract.rows_per_person)

    people = [limited(stretch)[1].people for stretch in stretches]
    first: dict[Field, Values] = {}

    def block(number: int, stretch: Stretch) -> Cohort:
        words, rows = limited(stretch)
        relation = f"{table} WHERE {stretch.where}"
        fetch = _fetch(connection, relation)
        block = Cohort(
            None if contract.rows_per_person == 1 else rows.person,
            rows.people,
            sum(people) if in_dataset is None else in_dataset,
            contract.rows_per_person,
            _remembering(fetch, first) if number == 0 else fetch,
            hashes=lambda: words,
        )
        if not is_clipped:  # the rows are checked, so nobody has too many
            return block
        clipped = rows.lost | _moved(connection, relation)[rows.rows]
        fetch = _picking(fetch, rows.rows)
        return within_contract(replace(block, fetch=fetch, clipped=clipped, hashes=None))

    def blocks() -> Iterator[Cohort]:
        return (block(number, stretch) for number, stretch in enumerate(stretches))

    rows = sum(stretch.rows for stretch in stretches)
    whole = sum(people) if in_dataset is None else in_dataset
    return _in_blocks(contract, sum(people), whole, rows, blocks)


def _by_number(connection: duckdb.DuckDBPyConnection, table: str, size: int) -> Iterator[Stretch]:
    rows = _count(connection, table)
    for start in range(0, max(rows, 1), size):
        yield _range(start, min(start + size, rows))


def _by_hash(connection: duckdb.DuckDBPyConnection, table: str, size: int) -> Iterator[Stretch]:
    """A power of two of blocks, by the first bits of the people's hashes, so that all rows of a
    person are in one."""
    bits = max(0, (_count(connection, table) // size).bit_length())
    first = f"{PERSON} >> {64 - bits}" if bits else "1"
    counted = connection.execute(
        f"SELECT {first} AS bits, count(*) FROM {table} GROUP BY bits ORDER BY bits"
    ).fetchall() or [(0, 0)]
    start = 0
    for _, n in counted:
        yield _range(start, start + int(n))
        start += int(n)


def _range(start: int, end: int) -> Stretch:
    return Stretch(f"rowid >= {start} AND rowid < {end}", "rowid + 1", end - start)


# -- both
def _in_blocks(contract: Contract, people: int, in_dataset: int, rows: int, read: Read) -> Cohort:
    memory.keep_blocks(memory.OF_ROWS)
    return Cohort(
        None,
        people,
        in_dataset,
        contract.rows_per_person,
        unread,
        in_blocks=Blocks(rows, read),
    )


def _hashes(
    connection: duckdb.DuckDBPyConnection, relation: str, names: Sequence[str]
) -> list[Words]:
    listed = ", ".join(f"{name} AS c{i}" for i, name in enumerate(names))
    arrays = connection.execute(f"SELECT {listed} FROM {relation}").fetchnumpy()
    return [np.asarray(arrays[f"c{i}"], np.uint64) for i in range(len(names))]


def _fetch(connection: duckdb.DuckDBPyConnection, relation: str) -> Fetch:
    return lambda asked: column_arrays.read(connection, list(asked), relation)


def _moved(connection: duckdb.DuckDBPyConnection, relation: str) -> NDArray[np.bool_]:
    """(n_rows,): whether a value of the row moved into its range."""
    arrays = connection.execute(f"SELECT {MOVED} AS moved FROM {relation}").fetchnumpy()
    return np.asarray(arrays["moved"], np.bool_)


def _picking(fetch: Fetch, rows: Ints) -> Fetch:
    return lambda asked: {name: column[rows] for name, column in fetch(asked).items()}


def _remembering(fetch: Fetch, memory: dict[Field, Values]) -> Fetch:
    """Keeps the columns of the first block, which nearly all rules of disclosure need and few of
    them need more."""

    def read(asked: Iterable[Field]) -> Mapping[str, Values]:
        fields = list(asked)
        absent = [field for field in fields if field not in memory]
        columns = fetch(absent)
        memory.update((field, columns[field.name]) for field in absent)
        return {field.name: memory[field] for field in fields}

    return read
