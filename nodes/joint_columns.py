"""The columns that studies make, judged together with those of earlier studies: a linear
combination of sums over few columns can be one person's value where none of the columns singles
that person out.

The floor of (age - 18) / 25 is 3 for one person of 93 alone, and its square and its cube spread
over many people. But 6 times the sum of an income times the first, less 9 times that by the square,
plus 3 times that by the cube, depends on this one person. So a node keeps each condition and number
that an answered study makes, and judges the leverage of people in these columns and in those of a
later study whose answers share a column of the contract with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from federation.arrays import Floats, Ints
from federation.cohort import Cohort
from federation.contract import Contract
from federation.disclosure import support as rules_of
from federation.disclosure.in_blocks import DesignPiece
from federation.disclosure.rules import Rules
from federation.expression import Piece, quote_name
from federation.messages import Refusal
from federation.schema import Field
from nodes import ledger, support_columns, support_in_blocks, written_fields
from nodes.answered import Memory
from nodes.ledger import Account, Ledger
from nodes.remembered import Entries
from strategies import support
from strategies.protocol import AnyTask
from strategies.support import Block, Mask

KIND = "column"
MAX_EARLIER = 200  # columns of earlier studies that are read: the latest
MAX_VALUES = 40_000_000  # rows times columns that are judged together: 320 MB
_NAME = re.compile(r'"([^"]+)"')
TOGETHER = Refusal(
    "differencing",
    "the columns that this study makes single one person out together with those of earlier "
    "studies: use columns that were answered before, fewer terms, or mode dp",
)


@dataclass(frozen=True)
class WrittenColumn:
    """A condition or a number of an answered study. `where`: the condition that chose its rows;
    outside these its column is 0. `columns`: of the contract, about which the answer tells.
    `reads`: by contract column that `piece` or `where` may name, its type and levels."""

    piece: Piece
    where: str | None
    columns: frozenset[str]
    reads: Mapping[str, Any]

    @property
    def key(self) -> tuple[Piece, str | None]:
        return self.piece, self.where

    def to_bytes(self) -> bytes:
        values = {"kind": self.piece.kind, "sql": self.piece.sql, "where": self.where}
        more = {"columns": sorted(self.columns), "reads": self.reads}
        return json.dumps(values | more, sort_keys=True).encode()


def _column_from(content: bytes) -> WrittenColumn:
    values = json.loads(content)
    piece = Piece(values["kind"], values["sql"])
    reads = written_fields.kinds_from(values["reads"])
    return WrittenColumn(piece, values["where"], frozenset(values["columns"]), reads)


def _columns() -> Entries[WrittenColumn]:
    return Entries(_column_from, lambda column: column.columns)


def _beside(
    book: Ledger, account: Account, contract: Contract, columns: frozenset[str]
) -> list[WrittenColumn]:
    """The latest of those of earlier answers about the same people and a column of `columns`, each
    once, as far as this contract reads their columns in the same way."""
    kinds = written_fields.kinds(contract)
    sharing = {
        column.key: column
        for column in ledger.gathered(book, KIND, account, _columns).beside(columns)
        if all(kinds.get(name) == kind for name, kind in column.reads.items())
    }
    return list(sharing.values())[-MAX_EARLIER:]


def columns_beside(
    book: Ledger, account: Account, contract: Contract, columns: frozenset[str]
) -> set[str]:
    """The contract columns that a node reads to judge a study about `columns` together with earlier
    ones."""
    beside = _beside(book, account, contract, columns)
    return {name for column in beside for name in column.reads}


def check(memory: Memory, cohort: Cohort, task: AnyTask, rules: Rules) -> Refusal | None:
    """The reason why a task is not answered beside earlier ones; if it is answered, its columns are
    remembered."""
    new = _columns_of(memory, task)
    if cohort.count is not None or not new:
        return None
    before = _beside(memory.ledger, memory.account, memory.contract, memory.columns_of(task))
    keys = {column.key for column in new}
    earlier = [column for column in before if column.key not in keys]
    is_repeated = keys <= {column.key for column in before}
    if earlier and not is_repeated and _single_out([*earlier, *new], memory, cohort, rules):
        return TOGETHER
    for column in new:
        memory.keep_once(KIND, column.to_bytes())
    return None


def _columns_of(memory: Memory, task: AnyTask) -> list[WrittenColumn]:
    """Those of a task; the condition that chooses its rows is a column of all rows."""
    kinds, about = written_fields.kinds(memory.contract), memory.columns_of(task)

    def column(piece: Piece, where: str | None) -> WrittenColumn:
        named = set(_NAME.findall(f"{piece.sql} {where or ''}")) & kinds.keys()
        return WrittenColumn(piece, where, about, {name: kinds[name] for name in sorted(named)})

    pieces = (piece for piece in support.pieces(task) if piece.kind in ("condition", "number"))
    written = [column(piece, memory.where) for piece in dict.fromkeys(pieces)]
    if memory.where is not None:
        written.append(column(Piece("condition", memory.where), None))
    return written


def _single_out(
    written: Sequence[WrittenColumn], memory: Memory, cohort: Cohort, rules: Rules
) -> bool:
    """Whether the columns single someone out: those of all rows among these, and those of the rows
    that the study's condition chose, if it has one, among these."""
    everyone, contract = cohort.everyone, memory.contract
    if memory.where is None or everyone is None:
        return _stand_out_among(written, cohort, memory.readable, contract, rules)
    alike = [column for column in written if column.where == memory.where]
    named = memory.readable if contract.person is None else memory.names.get("", frozenset())
    return _stand_out_among(alike, cohort, memory.readable, contract, rules) or _stand_out_among(
        written, everyone, named, contract, rules
    )


def _stand_out_among(
    written: Sequence[WrittenColumn],
    cohort: Cohort,
    readable: frozenset[str],
    contract: Contract,
    rules: Rules,
) -> bool:
    """`readable`: the contract columns that the rows of the cohort were read with."""
    some = [column for column in written if readable.issuperset(column.reads)]
    if cohort.in_blocks is not None:
        return bool(some) and _stand_out_in_blocks(some, cohort, contract, rules)
    some = some[-(MAX_VALUES // max(cohort.rows, 1)) :]
    return bool(some) and stands_out(_matrix(some, cohort, contract), cohort.numbered, rules)


def _stand_out_in_blocks(
    written: Sequence[WrittenColumn], cohort: Cohort, contract: Contract, rules: Rules
) -> bool:
    """With all of these columns, since no block holds many values."""

    columns = support.all_blocks(cohort).pieces(partial(_piece, written, contract))
    return support_in_blocks.stands_out(columns, cohort.rows_per_person, rules)


def _piece(written: Sequence[WrittenColumn], contract: Contract, block: Block) -> DesignPiece:
    return DesignPiece(_matrix(written, block.cohort, contract), block.cohort.numbered)


def _matrix(written: Sequence[WrittenColumn], cohort: Cohort, contract: Contract) -> Floats:
    """(n_rows, n): the columns, and the numbers of the contract that they are made of; NaN where
    missing, and 0 where their condition does not hold."""
    names = sorted({name for column in written for name in column.reads})
    sources = [
        Field(name, contract.columns[name].kind, quote_name(name))
        for name in names
        if contract.columns[name].kind in ("number", "boolean")
    ]
    held = {where: f"coalesce(({where}), FALSE)" for where in {column.where for column in written}}
    conditions = (Field(sql, "boolean", sql) for where, sql in held.items() if where is not None)
    pieces = (support.as_field(column.piece) for column in written)
    fields = {field.sql: field for field in (*sources, *conditions, *pieces)}
    columns = cohort.columns(fields.values())
    by_sql = {sql: np.asarray(columns[field.name], np.float64) for sql, field in fields.items()}
    arrays = [by_sql[field.sql] for field in sources]
    for column in written:
        values = by_sql[column.piece.sql]
        if column.where is not None:
            values = np.where(by_sql[held[column.where]] == 1, values, 0.0)
        arrays.append(values)
    return np.stack(arrays, axis=1)


def stands_out(X: Floats, person: Ints | None, rules: Rules) -> bool:
    """Whether a person does in the columns X (n_rows, n_columns), NaN where missing. Those in which
    few people differ here are counted over all nodes, if the hub may see them: the others are
    judged without them, and beside them."""
    X = support_columns.filled(X, support_columns.means_of([X]))
    limit = rules_of.MAX_JOINT_LEVERAGE
    thin = np.zeros(X.shape[1], np.bool_)
    if rules.hub_sees_cells:
        people = [support.count_people(away(column), person) for column in X.T]
        thin = np.array(people) < rules.thin
    if rules_of.largest_leverage(X[:, ~thin], person, limit) > limit:
        return True
    if not thin.any():
        return False
    return rules_of.largest_leverage(X[:, ~thin], person, limit, None, X[:, thin]) > limit


def away(column: Floats) -> Mask:
    """(n_rows,) whose value is not the most frequent one."""
    values, n = np.unique(column, return_counts=True)
    mask: Mask = column != values[n.argmax()] if len(values) else np.zeros(0, np.bool_)
    return mask
