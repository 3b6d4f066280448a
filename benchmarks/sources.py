"""A producer's file of 1,000,000 x 20 beside DuckDB, which is given the types and the dialect: its
reading, and `hdh node check` beside SUMMARIZE. A French export needs all of the `read:` keys.

Tables of 1,000,000 x 5 and x 20 in PostgreSQL are read beside the server's own COPY in its binary
form, whose bytes the driver hands over and nobody reads. Part of that work is the server's, so its
CPU time is added. One in fifty of all values but the person's are NULL in a second table of 20.

The limit of a CSV file is what the guarantees cost, beside which 1.3 was hoped for. DuckDB takes a
file whose records have other widths, or whose values it reads as 1_000 or `epoch`: a pass over all
bytes finds these, in a quarter to a third of DuckDB's own time.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pandas

from benchmarks import timing
from federation.contract import Column, Contract
from nodes import connectors, contract_counts
from nodes.reading import Reading
from nodes.site import Dataset, Storage

ROWS = 1_000_000
LEVELS = ("autre", "congénital", "diabète", "hypertension", "rénal")
MAX_READING, MAX_COPYING = 1.6, 1.5
KINDS = {"x": "DOUBLE", "n": "DOUBLE", "d": "DATE", "b": "BOOLEAN", "c": "VARCHAR", "p": "VARCHAR"}
FRENCH = Reading(
    delimiter=";", decimal=",", thousands=" ", date=("dd/mm/yyyy",), yes=("Oui",), no=("Non",)
)


@dataclass(frozen=True)
class Export:
    """A file as its producer writes it. `options`: DuckDB's, for its dialect. `words`: its booleans
    are words that DuckDB can read as texts only."""

    name: str
    read: Reading
    options: str
    words: bool = False


PLAIN = Export("plain.csv", Reading(), "delim = ','")
EXPORTS = (
    PLAIN,
    Export(
        "french.csv",
        FRENCH,
        "delim = ';', decimal_separator = ',', thousands = ' ', dateformat = '%d/%m/%Y'",
        words=True,
    ),
    Export(
        "windows.csv",
        FRENCH.model_copy(update={"encoding": "cp1252"}),
        "delim = ';', decimal_separator = ',', thousands = ' ', dateformat = '%d/%m/%Y', "
        "encoding = 'latin-1'",
        words=True,
    ),
)


def people(rows: int) -> pandas.DataFrame:
    rng = np.random.default_rng(1)
    day = pandas.Timestamp("2015-01-01")
    table = {"p": [f"P{i}" for i in range(rows)]}
    table |= {f"x{i}": rng.normal(5000, 1500, rows).clip(0, 9999).round(2) for i in range(8)}
    table |= {f"n{i}": rng.integers(0, 120, rows) for i in range(3)}
    table |= {
        f"d{i}": day + pandas.to_timedelta(rng.integers(0, 3650, rows), unit="D") for i in range(2)
    }
    table |= {f"b{i}": rng.random(rows) < 0.3 for i in range(3)}
    table |= {f"c{i}": np.array(LEVELS)[rng.integers(0, 5, rows)] for i in range(3)}
    return pandas.DataFrame(table)


def contract() -> Contract:
    columns = {"p": Column(type="string")}
    columns |= {f"x{i}": Column(type="number", range=(0, 10_000)) for i in range(8)}
    columns |= {f"n{i}": Column(type="integer", range=(0, 120)) for i in range(3)}
    columns |= {f"d{i}": Column(type="date", range=("2010-01-01", "2030-12-31")) for i in range(2)}
    columns |= {f"b{i}": Column(type="boolean") for i in range(3)}
    columns |= {f"c{i}": Column(type="category", levels=LEVELS) for i in range(3)}
    return Contract(dataset="people", version=1, person="p", columns=columns)


def write(table: pandas.DataFrame, folder: Path) -> None:
    table.to_csv(folder / PLAIN.name, index=False, date_format="%Y-%m-%d")
    french = table.copy()
    for name in table:
        if name[0] == "x":
            french[name] = [
                f"{value:,.2f}".replace(",", " ").replace(".", ",") for value in table[name]
            ]
        elif name[0] == "b":
            french[name] = np.where(table[name], "Oui", "Non")
    options = {"index": False, "sep": ";", "date_format": "%d/%m/%Y"}
    french.to_csv(folder / "french.csv", **options)
    french.to_csv(folder / "windows.csv", encoding="cp1252", **options)


def by_duckdb(export: Export, folder: Path, names: list[str]) -> duckdb.DuckDBPyConnection:
    words = {"b": "VARCHAR"} if export.words else {}
    columns = ", ".join(f"'{name}': '{(KINDS | words)[name[0]]}'" for name in names)
    connection = connectors.connect(Storage())
    connection.execute(
        f"CREATE TEMP TABLE source AS SELECT * FROM read_csv('{folder / export.name}', "
        f"auto_detect = false, header = true, quote = '\"', escape = '\"', {export.options}, "
        f"columns = {{{columns}}})"
    )
    return connection


def by_node(export: Export, folder: Path, agreed: Contract) -> None:
    dataset = Dataset(agreed, str(folder / export.name), read=export.read)
    connectors.open_rows(connectors.connect(Storage()), dataset, list(agreed.columns))


def checked(export: Export, folder: Path, agreed: Contract) -> None:
    dataset = Dataset(agreed, str(folder / export.name), read=export.read)
    _, findings = contract_counts.examine(dataset, Storage(), list(agreed.columns))
    assert not findings, findings


def work(export: Export, folder: Path, agreed: Contract) -> Mapping[str, Callable[[], object]]:
    names = list(agreed.columns)
    return {
        "read": lambda: by_node(export, folder, agreed),
        "duckdb": lambda: by_duckdb(export, folder, names),
        "check": lambda: checked(export, folder, agreed),
        "summarize": lambda: (
            by_duckdb(export, folder, names).execute("SUMMARIZE source").fetchall()
        ),
    }


# -- PostgreSQL
FEW = ("p", "x0", "n0", "d0", "c0")
TYPES = {
    "p": "text",
    "x": "double precision",
    "n": "integer",
    "d": "date",
    "b": "boolean",
    "c": "text",
}


def serve(url: str, rows: int, names: Sequence[str], *, nulls: bool = False) -> None:
    import psycopg

    table = people(rows)[list(names)]
    if nulls:
        rng = np.random.default_rng(2)
        whole = {name: "Int64" for name in names if name[0] == "n"}
        table = table.astype(whole).mask(rng.random(table.shape) < 0.02 * (table.columns != "p"))
    listed = ", ".join(f"{name} {TYPES[name[0]]}" for name in names)
    with psycopg.connect(url) as server, server.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS people; CREATE TABLE people ({listed})")
        with cursor.copy("COPY people FROM STDIN (FORMAT csv)") as copy:
            copy.write(table.to_csv(index=False, header=False, date_format="%Y-%m-%d"))


def by_copy(url: str) -> None:
    import psycopg

    with (
        psycopg.connect(url) as server,
        server.cursor() as cursor,
        cursor.copy("COPY people TO STDOUT (FORMAT binary)") as blocks,
    ):
        for _ in blocks:
            pass


def by_connector(url: str, agreed: Contract) -> None:
    dataset = Dataset(agreed, url, table="people")
    connectors.open_rows(connectors.connect(Storage()), dataset, list(agreed.columns))


def cpu_seconds(home: Path) -> float:
    """CPU seconds of this process and of the server's sessions, all of which have ended."""
    server = int((home / "data" / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{server}/task/{server}/children")
    while any(_is_session(int(child)) for child in children.read_text().split()):
        time.sleep(0.01)
    ticks = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[13:15]
    return time.process_time() + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _is_session(process: int) -> bool:
    """Also of one that has ended, until its CPU time is added to the server's."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
    return not command or command.startswith(b"postgres: hdh ")


def served(folder: Path) -> bool:
    """The connector beside COPY, for few columns, for all of them, and for some that are NULL."""
    from tests import postgresql

    whole, met = contract(), []
    everything = tuple(whole.columns)
    cases = ((FEW, False, ""), (everything, False, ""), (everything, True, " with NULL"))
    with postgresql.running(folder) as url:
        for names, nulls, more in cases:
            columns = {name: whole.columns[name] for name in names}
            agreed = whole.model_copy(update={"columns": columns})
            serve(url, ROWS, names, nulls=nulls)
            s = timing.least(
                {"read": partial(by_connector, url, agreed), "copy": lambda: by_copy(url)},
                repeats=5,
                clock=partial(cpu_seconds, folder),
            )
            label = f"PostgreSQL, {len(names)} columns{more} / COPY in binary form"
            detail = f"{s['read']:.2f} s, {s['copy']:.2f} s"
            met.append(timing.report(label, s["read"] / s["copy"], MAX_COPYING, detail))
    return all(met)


def main() -> None:
    agreed, met = contract(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "postgresql" in sys.argv[1:]:
            sys.exit(not served(folder))
        write(people(ROWS), folder)
        for export in EXPORTS:
            s = timing.least(work(export, folder, agreed), repeats=3)
            detail = f"{s['read']:.2f} s, {s['duckdb']:.2f} s"
            label = f"{export.name}: reading / DuckDB's read_csv"
            met.append(timing.report(label, s["read"] / s["duckdb"], MAX_READING, detail))
            detail = f"{s['check']:.2f} s, {s['summarize']:.2f} s"
            label = f"{export.name}: node check / DuckDB's SUMMARIZE"
            met.append(timing.report(label, s["check"] / s["summarize"], 2, detail))
        home = folder / "server"
        home.mkdir()
        met.append(served(home))
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
