"""A study's cohort at this node: rows are chosen, checked or clipped, and columns read when needed.

In exact mode the data must satisfy their contract, or the study is refused. In mode dp nothing may
be revealed that depends on one row, a refusal included, so the rows are made to satisfy the
contract: values move into their range, a value that cannot be read is missing, and no person keeps
more rows than the contract allows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import duckdb

from federation import errors
from federation.arrays import Ints
from federation.cohort import Cache, Cohort, Fetch, Values
from federation.contract import Contract
from federation.expression import quote_name
from federation.schema import Field, Schema
from nodes import (
    block_workers,
    buckets,
    checked_versions,
    clipped_blocks,
    cohort_blocks,
    cohort_table,
    column_arrays,
    connectors,
    contract_counts,
    contract_sql,
    fingerprints,
    kept_cohorts,
    row_limit,
    tallies,
)
from nodes.checked_versions import Checked, CheckedVersions
from nodes.cohort_table import Order
from nodes.connectors import FILE, formats
from nodes.contract_sql import Finding
from nodes.kept_cohorts import KeptCohorts
from nodes.people import People
from nodes.row_limit import Limited
from nodes.rows_in_place import RowsInPlace
from nodes.site import Dataset, Storage


def note_people(
    dataset: Dataset, storage: Storage, checked: CheckedVersions, version: str | None
) -> None:
    """Notes the fingerprint of all people of a version that was checked, for later studies that
    hold their rows. Files of text would be read once more for it."""
    contract = dataset.contract
    if version is None or contract.person is None or not formats.of(dataset)[0].by_column:
        return
    connection = connectors.connect_to(dataset, storage)
    connectors.open_rows(connection, dataset, [contract.person])
    if cohort_blocks.is_large(contract_counts.rows_of(connection), [], storage):
        return
    hashes = cohort_table.hashes_of_keys(
        connection, contract_counts.key_of(connection, contract, contract.person)
    )
    if checked_versions.version_of(dataset) == version:
        checked.keep_print(version, fingerprints.fingerprint(hashes, checked.salt))


# -- exact mode
@dataclass(frozen=True)
class Opened:
    """A cohort; the contract's rules that the columns in use break (the cohort must not be used
    then); and the people of its rows, where these are read. `held`, `in_any_order`: as in
    kept_cohorts."""

    cohort: Cohort
    findings: Sequence[Finding] = ()
    people: People | None = None
    held: frozenset[str] | None = None
    in_any_order: bool = False

    @property
    def n_values(self) -> int:
        """Rows times columns, of the cohort and of the dataset that it was chosen from."""
        everyone = self.cohort.everyone
        rows = self.cohort.rows + (everyone.rows if everyone is not None else 0)
        return rows * len(self.held or ())

    def anew(self) -> Opened:
        """The same rows for a study, without what another one derived from them."""
        if self.people is None:
            return self
        cohort = self.cohort
        everyone = None if cohort.everyone is None else replace(cohort.everyone, cache=Cache())
        fetch = _handed_on(cohort.fetch)
        return replace(self, cohort=replace(cohort, fetch=fetch, cache=Cache(), everyone=everyone))


def open_checked(
    dataset: Dataset,
    storage: Storage,
    schema: Schema,
    fields: Iterable[Field],
    where: str | None,
    *,
    only_counts: bool = False,
    remembered: Iterable[str] = (),
    open_cohorts: KeptCohorts[Opened] | None = None,
    in_blocks: bool = False,
    in_any_order: bool = False,
    checked: CheckedVersions | None = None,
) -> Opened:
    """Opens a cohort of exact mode. `only_counts`: only combinations of categories will be needed;
    where every row is a unit of its own, they are counted in the source itself. `remembered`:
    contract columns of earlier conditions on such rows, which are counted again beside those of
    this study. `open_cohorts`: the cohorts of earlier studies. `in_blocks`: the analyses can read
    their rows in blocks, so a large cohort is opened for that. `in_any_order`: no answer depends on
    the order of the rows. `checked`: the versions of files in which this node has found no broken
    rule."""
    asked = tuple(fields)
    more = [schema.fields[name] for name in remembered if name in schema.fields]
    used = _used(schema, [*asked, *more], where)
    if only_counts and dataset.contract.person is None:
        return _open_in_place(dataset, storage, schema, used, where)

    def read(others: Iterable[str]) -> Opened:
        names = sorted({*used, *others})
        settled = None if open_cohorts is None else open_cohorts.settled
        opening = Opening(dataset, storage, schema, names, where, in_blocks, checked, settled)
        return _open(replace(opening, counting=asked if in_any_order else None))

    if open_cohorts is None:
        return read(()).anew()
    condition = schema.express(where).sql if where else None
    opened = open_cohorts.opened(dataset, storage, condition, used, read, in_any_order=in_any_order)
    return opened.anew()


def _open_in_place(
    dataset: Dataset, storage: Storage, schema: Schema, used: Sequence[str], where: str | None
) -> Opened:
    contract = dataset.contract
    connection, _ = _connect(dataset, storage, used)
    tallies.group(connection, used)
    counts, findings = contract_counts.examine_grouped(connection, contract, used)
    if findings:
        return Opened(no_one(contract), findings)
    read = checked_sql(connection, contract, used, counts)
    condition = schema.express(where).sql if where else None
    source = tallies.TallySource(
        connection, dataset, schema, read, condition, None, "", grouped=True
    )
    return Opened(_counted_in_place(source, counts))


@dataclass(frozen=True)
class Opening:
    """A cohort to be opened: the contract columns `used`, and the condition `where`. `settled`: as
    of KeptCohorts. `version`: of its files, before they were opened; None for rows that may change
    without a sign. `counted`: what the checks of these columns counted in this version, so that no
    row is counted; None if they did not. `counting`: the columns by which people are counted, if no
    answer depends on the order of the rows."""

    dataset: Dataset
    storage: Storage
    schema: Schema
    used: Sequence[str]
    where: str | None
    in_blocks: bool
    checked: CheckedVersions | None
    settled: float | None
    version: str | None = None
    counted: Checked | None = None
    counting: Sequence[Field] | None = None

    @property
    def is_unchanged(self) -> bool:
        return checked_versions.version_of(self.dataset, self.settled) == self.version

    @property
    def stays(self) -> bool:
        """Whether the rows are read where they lie, and not copied before they are checked."""
        if self.version is None:
            return False
        return self.counted is not None or self.is_by_column

    @property
    def is_by_column(self) -> bool:
        return formats.of(self.dataset)[0].by_column

    @property
    def condition(self) -> str | None:
        return self.schema.express(self.where).sql if self.where else None


def _open(opening: Opening) -> Opened:
    """If files change while their rows are read where they lie, they are opened anew."""
    version = checked_versions.version_of(opening.dataset, opening.settled)
    columns = contract_counts.needed(opening.dataset.contract, opening.used)
    counted = None if opening.checked is None else opening.checked.of(version, columns)
    first = replace(opening, version=version, counted=counted)
    try:
        opened = _open_rows(first)
    except (duckdb.Error, errors.DataError):
        if not first.stays or first.is_unchanged:
            raise
    else:
        if version is None or first.is_unchanged:
            return _of_version(opened, first)
        if not first.stays:
            return opened
    return _open_rows(replace(opening, counting=None))


def _of_version(opened: Opened, opening: Opening) -> Opened:
    """Names the version whose people these all are."""
    is_whole = opening.where is None and opening.dataset.contract.person is not None
    if opened.people is not None and is_whole:
        opened.people.version = opening.version
    return opened


def _open_rows(opening: Opening) -> Opened:
    dataset, storage, used = opening.dataset, opening.storage, opening.used
    contract = dataset.contract
    connection, is_fixed = _connect(dataset, storage, used, with_places=opening.in_blocks)
    rows = contract_counts.rows_of(connection) if opening.counted is None else opening.counted.rows
    is_large = opening.in_blocks and cohort_blocks.is_large(rows, used, storage)
    if opening.counting is not None and not is_large:
        opened = _open_in_any_order(connection, opening, rows)
        if opened is not None:
            return opened
    if is_large and FILE in map(quote_name, cohort_table.source_types(connection)):
        opened = _open_in_files(connection, opening, rows)
        if opened is not None:
            return opened
    if not opening.stays:
        cohort_table.hold_source(connection, contract_counts.needed(contract, used))
    is_first = opening.counted is None and not is_large
    order = _order_of_people(connection, contract) if is_first else None
    counts, findings = _examined(connection, opening, rows, None if order is None else rows)
    if findings:
        return Opened(no_one(contract), findings)
    read = checked_sql(connection, contract, used, counts)
    is_unique = (
        contract.person is not None
        and contract_counts.people_in(contract, counts) == counts["", "rows"]
    )
    table = CheckedTable(connection, contract, read, used, is_fixed, is_unique, order)
    if is_large:
        size = cohort_blocks.rows_of_block(used, storage)
        in_dataset = contract_counts.people_in(contract, counts)
        return Opened(_sorted_in_blocks(table, opening.condition, in_dataset, size))
    everyone = _everyone(table) if opening.where else None
    return _tabulated(
        table, opening.condition, contract_counts.people_in(contract, counts), everyone
    )


def _open_in_any_order(
    connection: duckdb.DuckDBPyConnection, opening: Opening, rows: int
) -> Opened | None:
    """A cohort that is read where its files lie, in their order; None if a person may have several
    rows, or if the files may change without a sign."""
    contract, counting = opening.dataset.contract, opening.counting
    is_single = contract.person is not None and contract.rows_per_person == 1
    if not (counting and is_single and opening.version and opening.is_by_column):
        return None
    everyone = _in_place(connection, opening)
    people = People(everyone.hashes, opening.version)
    if opening.counted is None and cohort_table.has_equal(people.hashes):
        return None
    if opening.counted is not None and opening.counted.people < rows:
        return None
    if opening.where is None:
        everyone.hold(counting)
    _, findings = _examined(connection, opening, rows, rows, everyone.complete())
    if findings:
        return Opened(no_one(contract), findings)
    cohort, held = Cohort(None, rows, rows, 1, everyone.fetch), frozenset(opening.used)
    if opening.condition is None:
        _read_people(people, everyone, opening)
        return Opened(cohort, (), people, held, in_any_order=True)
    chosen = everyone.chosen(opening.condition)
    chosen.hold(counting)
    n_chosen = len(chosen.arrays[counting[0]])
    some = _chosen_people(people, everyone, chosen, opening, 2 * n_chosen > rows)
    _read_people(some, chosen, opening)
    cohort = Cohort(None, n_chosen, rows, 1, chosen.fetch, everyone=cohort)
    return Opened(cohort, (), some, held, in_any_order=True)


def _chosen_people(
    people: People, everyone: RowsInPlace, chosen: RowsInPlace, opening: Opening, are_most: bool
) -> People:
    """The people of some rows. If these are most of all, whose fingerprint is noted, theirs is that
    less the others'."""
    notes, condition = opening.checked, opening.condition
    if not are_most or notes is None or not people.is_noted(notes):
        return People(chosen.hashes)
    others = everyone.chosen(f"NOT coalesce(({condition}), FALSE)").hashes()
    whole, part = (
        people.print_of_all(notes.salt, notes),
        fingerprints.fingerprint(others, notes.salt),
    )
    return People(chosen.hashes, prints={notes.salt: fingerprints.less(whole, part)})


def _read_people(people: People, rows: RowsInPlace, opening: Opening) -> None:
    """Reads what the rules of disclosure will compare, while the files are those that were checked:
    the fingerprint of all people, or the hash of each where some rows will not count."""
    if opening.checked is None or len(rows.complete()) < len(set(opening.counting or ())):
        people.read()
    else:
        people.print_of_all(opening.checked.salt, opening.checked)


def _in_place(connection: duckdb.DuckDBPyConnection, opening: Opening) -> RowsInPlace:
    contract, counted = opening.dataset.contract, opening.counted
    raw_types = cohort_table.source_types(connection)
    whole = frozenset[str]() if counted is None else counted.whole
    read = {
        name: contract_sql.typed(name, contract.columns[name], raw_types[name], whole=name in whole)
        for name in contract_counts.needed(contract, opening.used)
    }
    coded = {
        name: contract_sql.coded(name, contract.columns[name], raw_types[name], read[name])
        for name in opening.used
    }
    texts = {
        name: contract_sql.written_level(name, contract.columns[name])
        for name in contract_counts.texts_of_few_values(contract, opening.used, raw_types)
    }
    key = read[str(contract.person)]
    rows = RowsInPlace(connection, coded, texts, key, None, lambda: opening.is_unchanged)
    return rows if opening.where is None else rows.as_written()


def _order_of_people(connection: duckdb.DuckDBPyConnection, contract: Contract) -> Order | None:
    """The order of the rows of a contract with one row a person; None if two people's hashes are
    equal, as those of one person are. It counts the people faster than the engine does."""
    if contract.person is None or contract.rows_per_person > 1:
        return None
    hashes = cohort_table.hashes_of_keys(
        connection, contract_counts.key_of(connection, contract, contract.person)
    )
    order = cohort_table.ordered((hashes,), contract, is_fixed=True)
    return None if order.has_ties else order


def _examined(
    connection: duckdb.DuckDBPyConnection,
    opening: Opening,
    rows: int,
    people: int | None = None,
    whole: Collection[str] = (),
) -> tuple[Mapping[tuple[str, str], int], Sequence[Finding]]:
    """The counts of the rows' checks, kept for later studies if no rule is broken; or those that
    were kept. `whole`: as of `_examine`."""
    contract, used = opening.dataset.contract, opening.used
    if opening.counted is not None:
        return opening.counted.counts(contract.person), ()
    counts, findings = contract_counts.examine_opened(
        connection, contract, used, rows, people, whole
    )
    if opening.checked is not None and opening.version and not findings and opening.is_unchanged:
        opening.checked.keep(
            opening.version, contract_counts.needed(contract, used), contract.person, counts
        )
    return counts, findings


def _open_in_files(
    connection: duckdb.DuckDBPyConnection, opening: Opening, rows: int
) -> Opened | None:
    """A cohort that is read in blocks from files where they lie; None if they cannot stay there."""
    dataset, storage, used = opening.dataset, opening.storage, opening.used
    contract, version = dataset.contract, kept_cohorts.files_of(dataset.source)
    if isinstance(storage.workers, int):
        block_workers.start(storage.workers)
    counts, findings = _examined(connection, opening, rows)
    if findings:
        return Opened(no_one(contract), findings)
    if not cohort_blocks.can_stay(
        dataset, contract_counts.people_in(contract, counts), counts["", "rows"]
    ):
        return None
    read = checked_sql(connection, contract, used, counts)
    files = cohort_blocks.Files(
        connection,
        dataset,
        storage,
        version,
        cohort_table.coded(connection, contract, {name: read[name] for name in used}),
        None if contract.person is None else read[contract.person],
        cohort_blocks.rows_of_block(used, storage),
    )
    return Opened(cohort_blocks.in_files(files, opening.condition))


def _sorted_in_blocks(
    table: CheckedTable, condition: str | None, in_dataset: int, size: int
) -> Cohort:
    connection, contract, is_fixed = table.connection, table.contract, table.is_fixed
    columns = {name: table.read[name] for name in table.used}

    def written(where: str | None, name: str) -> Cohort:
        cohort_table.write(
            connection,
            contract,
            columns,
            key=table.key,
            where=where,
            is_fixed=is_fixed,
            table=name,
            is_sorted=True,
        )
        people = None if where is None else in_dataset
        return cohort_blocks.in_table(
            connection, contract, size, is_fixed=is_fixed, in_dataset=people, table=name
        )

    cohort = written(condition, cohort_table.NAME)
    if condition is not None:
        cohort = replace(cohort, everyone=written(None, cohort_table.EVERYONE))
    cohort_table.drop_source(connection)
    return cohort


@dataclass(frozen=True)
class CheckedTable:
    """Rows that satisfy their contract. `read`: the SQL of each needed column over the raw ones.
    `used`: the columns of the study. `is_fixed`: the source always has one order. `is_unique`: each
    row has another person. `order`: of all rows, if it is found out already."""

    connection: duckdb.DuckDBPyConnection
    contract: Contract
    read: Mapping[str, str]
    used: Sequence[str]
    is_fixed: bool
    is_unique: bool
    order: Order | None = None

    @property
    def key(self) -> str | None:
        """The SQL of the person's key."""
        return self.read[self.contract.person] if self.contract.person else None


def checked_sql(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    used: Sequence[str],
    counts: Mapping[tuple[str, str], int],
) -> dict[str, str]:
    """The SQL of each column, without a search for missing codes where the check counted none."""
    raw_types = cohort_table.source_types(connection)
    whole = {name for name in used if not counts[name, "missing"]}
    return {
        name: contract_sql.typed(name, contract.columns[name], raw_types[name], whole=name in whole)
        for name in contract_counts.needed(contract, used)
    }


def _counted_in_place(source: tallies.TallySource, counts: Mapping[tuple[str, str], int]) -> Cohort:
    """Rows that are units of their own, of which only combinations of categories are counted."""
    in_dataset = counts["", "rows"]
    if source.where is None:
        return _counted(source, in_dataset, in_dataset)
    everyone = _counted(replace(source, where=None), in_dataset, in_dataset)
    return replace(_counted(source, tallies.rows(source), in_dataset), everyone=everyone)


def _counted(source: tallies.TallySource, rows: int, in_dataset: int) -> Cohort:
    return Cohort(
        None,
        rows,
        in_dataset,
        1,
        lambda asked: {},
        count=lambda asked: tallies.count(source, asked),
    )


def _tabulated(
    table: CheckedTable, condition: str | None, in_dataset: int, everyone: Cohort | None
) -> Opened:
    """Writes the rows that meet the condition into the cohort's table. `in_dataset`: the people of
    the whole dataset."""
    contract, connection = table.contract, table.connection
    order = _written(table, condition, cohort_table.NAME)
    cohort_table.drop_source(connection)
    # Without people and an order of its own, a row's hash depends on the columns that are read.
    can_keep = contract.person is not None or table.is_fixed
    return checked_rows(
        contract,
        order,
        partial(column_arrays.fetcher, connection),
        in_dataset,
        everyone,
        frozenset(table.used) if can_keep else None,
    )


def checked_rows(
    contract: Contract,
    order: Order,
    fetcher: Callable[[Ints], Fetch],
    in_dataset: int | None = None,
    everyone: Cohort | None = None,
    held: frozenset[str] | None = None,
) -> Opened:
    """A cohort of rows that satisfy their contract, so that none is lost. `fetcher`: reads the
    columns of rows by their places. `in_dataset`: the people of the whole dataset; None where they
    are the cohort's."""
    limited = _limited(order, contract)
    cohort = Cohort(
        None if contract.rows_per_person == 1 else limited.person,
        limited.people,
        limited.people if in_dataset is None else in_dataset,
        contract.rows_per_person,
        fetcher(order.places[limited.rows]),
        everyone=everyone,
    )
    return Opened(cohort, (), People.of(order.hashes[0][limited.rows]), held)


def _everyone(table: CheckedTable) -> Cohort:
    """All rows of the dataset: the two sides of a study's condition are counted among them, and the
    people between two cohorts are."""
    contract, connection = table.contract, table.connection
    order = _written(table, None, cohort_table.EVERYONE)
    read = partial(column_arrays.fetcher, connection, table=cohort_table.EVERYONE)
    return checked_rows(contract, order, read).cohort


def _written(table: CheckedTable, condition: str | None, name: str) -> Order:
    """Writes the table `name` of the rows that meet the condition, and gives their order."""
    connection, contract, is_fixed = table.connection, table.contract, table.is_fixed
    columns = {column: table.read[column] for column in table.used}

    def written(is_unique: bool) -> Order:
        cohort_table.write(
            connection,
            contract,
            columns,
            key=table.key,
            where=condition,
            is_fixed=is_fixed,
            table=name,
            is_unique=is_unique,
        )
        if condition is None and table.order is not None:
            return table.order
        return cohort_table.order(
            connection, contract, is_fixed=is_fixed, table=name, is_unique=is_unique
        )

    order = written(table.is_unique)
    if table.is_unique and order.has_ties:
        connection.execute(f"DROP TABLE {name}")
        order = written(is_unique=False)
    return order


def _handed_on(fetch: Fetch) -> Fetch:
    """Keeps the columns that were read last until they are asked for once more: the rules of
    support read the columns that the analysis reads next."""
    last_read: dict[tuple[str, ...], Mapping[str, Values]] = {}

    def read(asked: Iterable[Field]) -> Mapping[str, Values]:
        fields = list(asked)
        names = tuple(f"{field.name} {field.sql}" for field in fields)
        if names in last_read:
            return last_read.pop(names)
        last_read.clear()
        last_read[names] = columns = fetch(fields)
        return columns

    return read


def _limited(order: Order, contract: Contract) -> Limited:
    if len(order.hashes) == 1:  # each row is a unit, or has a person of its own
        return row_limit.every_row(len(order.places))
    return row_limit.choose(order.hashes, contract.rows_per_person)


def keys(
    dataset: Dataset, storage: Storage, schema: Schema, fields: Iterable[Field], where: str | None
) -> list[str]:
    """The keys of the people of a cohort that `open_checked` has opened, in the order of their
    numbers. For the producer's eyes."""
    contract = dataset.contract
    used = _used(schema, fields, where)
    connection, is_fixed = _connect(dataset, storage, used)
    raw_types, names = cohort_table.source_types(connection), contract_counts.needed(contract, used)
    typed = {
        name: contract_sql.typed(name, contract.columns[name], raw_types[name]) for name in names
    }
    condition = schema.express(where).sql if where else None
    key = typed[str(contract.person)]
    cohort_table.write(connection, contract, typed, key=key, where=condition, is_fixed=is_fixed)
    cohort_table.drop_source(connection)
    return cohort_table.person_keys(connection, contract)


def _used(schema: Schema, fields: Iterable[Field], where: str | None) -> list[str]:
    """The contract columns in use."""
    chosen = schema.columns_of(where) if where else set()
    return sorted({*chosen, *(name for field in fields for name in schema.columns_of(field.name))})


def _connect(
    dataset: Dataset,
    storage: Storage,
    used: Sequence[str],
    bucketed: bool = False,
    with_places: bool = False,
) -> tuple[duckdb.DuckDBPyConnection, bool]:
    """The source's rows, and whether the source always has one order; if `bucketed`, with the
    number of each person's rows; `with_places`: as of `open_rows`."""
    connection = connectors.connect_to(dataset, storage)
    more = [buckets.ROWS] if bucketed else []
    columns = [*contract_counts.needed(dataset.contract, used), *more]
    is_fixed = connectors.open_rows(connection, dataset, columns, with_places=with_places)
    return connection, is_fixed


def no_one(contract: Contract) -> Cohort:
    return Cohort(None, 0, 0, contract.rows_per_person, lambda asked: {})


# -- mode dp
def open_clipped(
    dataset: Dataset,
    storage: Storage,
    schema: Schema,
    fields: Iterable[Field],
    where: str | None,
    salt: str,
    *,
    only_counts: bool = False,
    in_blocks: bool = False,
) -> Opened:
    """Opens a cohort of mode dp. `salt` decides which of a person's rows stay; it is the node's
    own, and different for every study. `only_counts`: only combinations of categories will be
    needed, and rows are counted in the source itself. `in_blocks`: the analyses can read their rows
    in blocks, so a large cohort is opened for that."""
    contract = dataset.contract
    used = _used(schema, fields, where)
    bucketed = only_counts and buckets.are_whole(dataset)
    with_places = in_blocks and not only_counts
    connection, is_fixed = _connect(dataset, storage, used, bucketed, with_places)
    raw_types, names = cohort_table.source_types(connection), contract_counts.needed(contract, used)
    typed = {
        name: contract_sql.typed(name, contract.columns[name], raw_types[name], clamp=True)
        for name in names
    }
    columns = {name: typed[name] for name in used}
    condition = schema.express(where).sql if where else None
    key = None if contract.person is None else typed[contract.person]
    if only_counts:
        read = cohort_table.coded(connection, contract, columns or typed)
        source = tallies.TallySource(connection, dataset, schema, read, condition, key, salt)
        return Opened(replace(_counted(source, 0, 0), rows_per_person=contract.rows_per_person))
    has_numbers = any(contract.columns[name].kind == "number" for name in used)
    moved = _moved(contract, used, raw_types) if has_numbers else "FALSE"
    rows = contract_counts.rows_of(connection) if in_blocks else 0
    if in_blocks and cohort_blocks.is_large(rows, used, storage):
        large = clipped_blocks.Source(
            connection, dataset, storage, columns, key, condition, moved, salt, is_fixed, rows
        )
        return Opened(clipped_blocks.opened(large))
    cohort_table.write(
        connection,
        contract,
        columns,
        key=key,
        where=condition,
        is_fixed=is_fixed,
        salt=salt,
        moved=moved,
    )
    cohort_table.drop_source(connection)
    order = cohort_table.order(connection, contract, is_fixed=is_fixed)
    return Opened(_bounded(connection, contract, order, has_numbers))


def _moved(contract: Contract, used: Iterable[str], raw_types: Mapping[str, str]) -> str:
    """The SQL of the condition that a value of the row moves into its range."""
    outside = (contract_sql.outside(name, contract.columns[name], raw_types[name]) for name in used)
    return " OR ".join(["FALSE", *outside])


def _bounded(
    connection: duckdb.DuckDBPyConnection, contract: Contract, order: Order, has_numbers: bool
) -> Cohort:
    """At most `rows_per_person` rows of each person."""
    limited = _limited(order, contract)
    places, people = order.places[limited.rows], limited.people
    clipped = limited.lost
    if has_numbers:
        clipped = clipped | cohort_table.moved_rows(connection)[places]
    return Cohort(
        None if contract.rows_per_person == 1 else limited.person,
        people,
        people,
        contract.rows_per_person,
        column_arrays.fetcher(connection, places),
        clipped=clipped,
    )
