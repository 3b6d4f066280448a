"""The linked people at a helper: written as a Parquet file of the linked contract, and compared with those
whom no link was found for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
from numpy.typing import NDArray

from federation.contract import Column
from federation.expression import quote_name, quote_text
from federation.linkage import cascade
from federation.linkage.errors import LinkError
from federation.linkage.table import PERSON, STEP, LinkedColumn, step_column
from federation.messages import Floats, Ints
from federation.results import Row
from federation.study import Link
from nodes import connectors
from nodes.link_parties import Opened
from nodes.site import Storage


@dataclass(frozen=True)
class Covariate:
    """A column of the left, by which linked and unlinked people are compared. `counts` (n_levels, 2): of
    linked and of unlinked people; the last level is `missing`. `sums` (2, 2): of a number, its sum and
    that of its squares, for linked and unlinked people."""

    name: str
    levels: Sequence[str]
    counts: Ints
    sums: Floats | None = None


@dataclass(frozen=True)
class LinkReport:
    """How a link went. `people`: of the left; `linked` of them. `by_step`: rows of a cascade."""

    node: str
    people: int
    linked: int
    expected_false: float
    by_step: Sequence[Row]
    covariates: Sequence[Covariate]


def report(opened: Opened, left: Sequence[LinkedColumn], node: str) -> LinkReport:
    linked = opened.is_linked
    return LinkReport(
        node,
        len(linked),
        int(linked.sum()),
        sum(step.expected_false for step in opened.steps),
        [
            {"step": number, "linked": links, "expected_false": feared}
            for number, links, feared in cascade.cumulative(_of_people(opened))
        ],
        [_covariate(one, opened.left[:, i], linked) for i, one in enumerate(left)],
    )


def _of_people(opened: Opened) -> Sequence[cascade.Step]:
    """The steps with the links of people only: the helper knows by now who is made up."""
    if opened.step is None:
        return ()
    counts = np.bincount(opened.step[opened.is_linked], minlength=len(opened.steps))
    return [
        cascade.Step(int(links), step.expected_false, step.is_weak)
        for links, step in zip(counts, opened.steps, strict=True)
    ]


def _covariate(one: LinkedColumn, values: Floats, linked: NDArray[np.bool_]) -> Covariate:
    sides = linked, ~linked
    missing = np.isnan(values)
    if one.column.type in ("category", "boolean"):
        levels = one.column.levels or ("no", "yes")
        codes = np.where(missing, len(levels), values).astype(np.int64)
        counts = [np.bincount(codes[side], minlength=len(levels) + 1) for side in sides]
        return Covariate(one.name, (*levels, "missing"), np.stack(counts, axis=1))
    counts = [np.array([(side & ~missing).sum(), (side & missing).sum()]) for side in sides]
    known = [values[side & ~missing] for side in sides]
    sums = np.array([[v.sum(), (v * v).sum()] for v in known])
    return Covariate(one.name, ("known", "missing"), np.stack(counts, axis=1), sums)


def check(found: LinkReport, link: Link, min_cell: int) -> None:
    """LinkError where too few people are linked, or so few are not that their number would tell of them."""
    unlinked = found.people - found.linked
    if found.linked < min_cell or found.linked < link.min_linked_share * found.people:
        raise LinkError(
            "link_share",
            f"fewer people of {found.node} are linked than the study needs; compare how both holders write "
            "the identifiers",
        )
    if 0 < unlinked < min_cell and link.keep == "all":
        raise LinkError(
            "link_share",
            f"too few people of {found.node} are unlinked to keep them apart; use keep: linked",
        )


# -- the file
def write(
    opened: Opened,
    left: Sequence[LinkedColumn],
    right: Sequence[LinkedColumn],
    file: Path,
    link: Link,
) -> None:
    """One row a person, in the order of their values, under the token that they had in this attempt. The
    file appears whole, readable by its owner only."""
    kept = np.ones(len(opened.is_linked), np.bool_) if link.keep == "all" else opened.is_linked
    columns: dict[str, Column] = {one.name: one.column for one in (*left, *right)}
    values = [*opened.left[kept].T, *opened.right[kept].T]
    if opened.step is not None:
        columns[STEP] = step_column(link)
        values.append(np.where(opened.step[kept] < 0, np.nan, opened.step[kept]))
    frame = pandas.DataFrame({f"c{i}": column for i, column in enumerate(values)})
    frame["who"] = [token.tobytes().hex() for token in opened.tokens[kept]]
    listed = [
        f"{_value(column, f'c{i}')} AS {quote_name(name)}"
        for i, (name, column) in enumerate(columns.items())
    ]
    rows = f"SELECT {', '.join([*listed, f'who AS {PERSON}'])} FROM opened ORDER BY ALL"
    part = file.with_suffix(".part")
    part.touch(mode=0o600)
    connection = connectors.connect(Storage())
    connection.register("opened", frame)
    connection.execute(f"COPY ({rows}) TO {quote_text(str(part))} (FORMAT parquet)")
    connection.close()
    os.replace(part, file)


def _value(column: Column, name: str) -> str:
    """The SQL of a value from its number; NULL where it is NaN."""
    known = f"{name} IS NOT NULL AND NOT isnan({name})"
    if column.type == "category":
        levels = ", ".join(quote_text(level) for level in column.levels)
        value = f"list_extract([{levels}], CAST({name} AS INTEGER) + 1)"
    elif column.type == "boolean":
        value = f"{name} <> 0"
    elif column.type == "date":
        value = f"DATE '1970-01-01' + CAST({name} AS INTEGER)"
    else:
        value = name
    return f"CASE WHEN {known} THEN {value} END"
