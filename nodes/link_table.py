"""The linked people at a helper: written as a Parquet file of the linked contract, and compared
with the people who were not linked."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Floats, Ints
from federation.contract import Column
from federation.disclosure import suppression
from federation.disclosure.rules import is_small
from federation.expression import quote_name, quote_text
from federation.linkage import cascade
from federation.linkage.errors import LinkError
from federation.linkage.table import PERSON, STEP, LinkedColumn, step_column
from federation.results import Row
from federation.study import Link
from nodes import connectors
from nodes.link_parties import Opened
from nodes.site import Storage

CHUNK = 2**18
NUMBERS = ("linked", "unlinked", "mean_linked", "mean_unlinked")


@dataclass(frozen=True)
class LinkReport:
    """How a link went, past the helper's door: a count that could tell of few people is None.

    `people`: of the left. `compared`: rows of table `linkage`. `steps`: of a cascade."""

    node: str
    people: int | None
    linked: int
    expected_false: float
    compared: Sequence[Row]
    steps: Sequence[Row]

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def report(opened: Opened, left: Sequence[LinkedColumn], node: str, min_cell: int) -> LinkReport:
    is_linked = opened.is_linked
    n, linked = len(is_linked), int(is_linked.sum())
    few = 0 < n - linked < min_cell or linked < min_cell
    everyone = np.array([[linked, n - linked]])
    compared = _rows(node, "people", ("all",), everyone, min_cell)
    for i, column in enumerate(left):
        compared += _compared(node, column, opened.left[:, i], is_linked, min_cell)
    feared = sum(step.expected_false for step in opened.steps)
    return LinkReport(
        node, None if few else n, linked, feared, compared, _steps(opened, node, min_cell)
    )


def numbers(report_: LinkReport) -> dict[str, int]:
    """How many numbers about each column the table `linkage` of a report holds."""
    counted = Counter[str]()
    for row in report_.compared:
        counted[str(row["column"])] += sum(row[name] is not None for name in NUMBERS)
    return dict(counted)


def check(opened: Opened, link: Link, min_cell: int, node: str) -> None:
    """LinkError if too few people are linked, or so few are not linked that an answer about the
    linked people and one about all people of the left would tell of them."""
    people, linked = len(opened.is_linked), int(opened.is_linked.sum())
    if linked < min_cell or linked < link.min_linked_share * people:
        raise LinkError(
            "link_share",
            f"fewer people of {node} are linked than the study needs; compare how both holders "
            "write the identifiers",
        )
    if 0 < people - linked < min_cell:
        raise LinkError(
            "link_share",
            f"so few people of {node} are unlinked that exact answers about the others would tell "
            "of them; use mode dp, or another cohort",
        )


def _compared(
    node: str, column: LinkedColumn, values: Floats, linked: NDArray[np.bool_], min_cell: int
) -> list[Row]:
    """Linked and unlinked people by a column of the left; of a number, their means."""
    missing, sides = np.isnan(values), (linked, ~linked)
    if column.column.type in ("category", "boolean"):
        levels = (*(column.column.levels or ("no", "yes")), "missing")
        codes = np.where(missing, len(levels) - 1, values).astype(np.int64)
        counts = [np.bincount(codes[side], minlength=len(levels)) for side in sides]
        return _rows(node, column.name, levels, np.stack(counts, axis=1), min_cell)
    counts = [np.array([(side & ~missing).sum(), (side & missing).sum()]) for side in sides]
    rows = _rows(node, column.name, ("known", "missing"), np.stack(counts, axis=1), min_cell)
    for name, side in zip(("linked", "unlinked"), sides, strict=True):
        if rows[0][name] is not None and rows[0][name] >= min_cell:
            rows[0][f"mean_{name}"] = float(values[side & ~missing].mean())
    return rows


def _rows(node: str, column: str, levels: Sequence[str], counts: Ints, min_cell: int) -> list[Row]:
    """`counts` (n_levels, 2): of linked and of unlinked people."""
    hidden, *_ = suppression.suppress_tables([counts], min_cell)
    if is_small(counts.sum(0), min_cell).any():
        hidden = np.ones_like(hidden)
    rows = []
    for level, numbers, mask in zip(levels, counts, hidden, strict=True):
        if level == "missing" and not numbers.any():
            continue
        linked, unlinked = (
            None if is_hidden else int(number)
            for number, is_hidden in zip(numbers, mask, strict=True)
        )
        row: Row = {"node": node, "column": column, "level": level}
        rows.append(
            row
            | {"linked": linked, "unlinked": unlinked, "mean_linked": None, "mean_unlinked": None}
        )
    return rows


def _steps(opened: Opened, node: str, min_cell: int) -> list[Row]:
    """The steps of a cascade, added up; a step that adds few people is shown with the next."""
    if opened.step is None:
        return []
    counts = np.bincount(opened.step[opened.is_linked], minlength=len(opened.steps))
    everyone, last = int(counts.sum()), 0
    rows: list[Row] = []
    sums = zip(counts.cumsum().tolist(), cascade.cumulative(opened.steps), strict=True)
    for linked, (number, feared) in sums:
        if 0 < linked - last < min_cell or 0 < everyone - linked < min_cell:
            continue
        last = linked
        rows.append(
            {"node": node, "step": number, "linked": linked, "expected_false": round(feared, 2)}
        )
    return rows


def by_value(opened: Opened) -> Ints:
    """(n,) an order of the people that is the same in every attempt, but for those who have the
    same values."""
    columns = [*opened.left.T, *opened.right.T, opened.is_linked.astype(np.float64)]
    return np.lexsort([np.ascontiguousarray(column).view(np.uint64) for column in columns])


def digest(opened: Opened, order: Ints) -> bytes:
    """The same for the same people, in whatever order and attempt (32 bytes). `order`: of
    `by_value`."""
    hashed = hashlib.sha256()
    for start in range(0, len(order), CHUNK):
        rows = order[start : start + CHUNK]
        values = np.column_stack([opened.left[rows], opened.right[rows], opened.is_linked[rows]])
        hashed.update(values.tobytes())
    return hashed.digest()


# -- the file
def write(
    opened: Opened,
    order: Ints,
    left: Sequence[LinkedColumn],
    right: Sequence[LinkedColumn],
    file: Path,
    link: Link,
    storage: Storage,
) -> None:
    """One row a person in the `order` of `by_value`, under 62 bits of the token that the person had
    in this attempt: 12 characters, which a database keeps without a place elsewhere. Two of 8e6
    people share them with a chance of 1e-5; then the table breaks its contract, and the study
    can be run again."""
    written = order if link.keep == "all" else order[opened.is_linked[order]]
    columns: dict[str, Column] = {linked.name: linked.column for linked in (*left, *right)}
    values = [column[written] for column in (*opened.left.T, *opened.right.T)]
    if opened.step is not None:
        columns[STEP] = step_column(link)
        step = opened.step[written]
        values.append(np.where(step < 0, np.nan, step))
    arrays = {f"c{i}": column for i, column in enumerate(values)}
    arrays["token"] = opened.tokens[written, 0]
    listed = [
        f"{_value(column, f'c{i}')} AS {quote_name(name)}"
        for i, (name, column) in enumerate(columns.items())
    ]
    who = f"to_base(CAST(token >> 2 AS BIGINT), 36, 12) AS {PERSON}"
    rows = f"SELECT {', '.join([*listed, who])} FROM opened"
    connection = connectors.connect(storage)
    connection.register("opened", arrays)
    options = "FORMAT parquet, USE_TMP_FILE false"
    connection.execute(f"COPY ({rows}) TO {quote_text(str(file))} ({options})")
    connection.close()


def _value(column: Column, name: str) -> str:
    """The SQL of a value from its number; NULL where it is NaN."""
    is_known = f"{name} IS NOT NULL AND NOT isnan({name})"
    if column.type == "category":
        levels = ", ".join(quote_text(level) for level in column.levels)
        value = f"list_extract([{levels}], CAST({name} AS INTEGER) + 1)"
    elif column.type == "boolean":
        value = f"{name} <> 0"
    elif column.type == "date":
        value = f"DATE '1970-01-01' + CAST({name} AS INTEGER)"
    else:
        value = name
    return f"CASE WHEN {is_known} THEN {value} END"
