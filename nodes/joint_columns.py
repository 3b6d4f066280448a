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

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation.arrays import Floats, Ints
from federation.cohort import Cohort
from federation.contract import Contract
from federation.disclosure import support as rules_of
from federation.disclosure.rules import Rules
from federation.expression import Piece, quote_name
from federation.messages import Refusal
from federation.schema import Field
from nodes import ledger
from nodes.answered import Memory
from nodes.ledger import Account, Ledger
from strategies import support
from strategies.protocol import AnyTask
from strategies.support import Mask

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
class Made:
    """A condition or a number of an answered study. `columns`: of the contract, about which the
    answer tells. `reads`: by contract column that `piece` may name, its type and levels."""

    piece: Piece
    columns: frozenset[str]
    reads: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        values = {"kind": self.piece.kind, "sql": self.piece.sql}
        more = {"columns": sorted(self.columns), "reads": self.reads}
        return json.dumps(values | more, sort_keys=True).encode()


def _made(content: bytes) -> Made:
    values = json.loads(content)
    piece = Piece(values["kind"], values["sql"])
    return Made(piece, frozenset(values["columns"]), values["reads"])


def _kinds(contract: Contract) -> dict[str, Any]:
    return {name: [column.kind, list(column.levels)] for name, column in contract.columns.items()}


def _remembered(book: Ledger, account: Account, contract: Contract) -> Iterator[Made]:
    """Those of earlier answers about the same people, as far as this contract reads their columns
    in the same way."""
    kinds = _kinds(contract)
    for content in ledger.remembered(book, KIND, account.dataset, account.register):
        made = _made(content)
        if all(kinds.get(name) == kind for name, kind in made.reads.items()):
            yield made


def _beside(made: Iterable[Made], columns: frozenset[str]) -> list[Made]:
    """The latest of those about a column of `columns`, each once."""
    sharing = {some.piece: some for some in made if some.columns & columns}
    return list(sharing.values())[-MAX_EARLIER:]


def columns_beside(
    book: Ledger, account: Account, contract: Contract, columns: frozenset[str]
) -> set[str]:
    """The contract columns that a node reads to judge a study about `columns` together with earlier
    ones."""
    beside = _beside(_remembered(book, account, contract), columns)
    return {name for made in beside for name in made.reads}


def check(memory: Memory, cohort: Cohort, task: AnyTask, rules: Rules) -> Refusal | None:
    """The reason why a task is not answered beside earlier ones; if it is answered, its columns are
    remembered."""
    written = dict.fromkeys((*task.where, *support.pieces(task)))
    pieces = [piece for piece in written if piece.kind in ("condition", "number")]
    if cohort.count is not None or not pieces:
        return None
    columns = memory.columns_of(task)
    made = [_of_piece(piece, columns, memory.contract) for piece in pieces]
    earlier = _beside(_remembered(memory.ledger, memory.account, memory.contract), columns)
    before = {some.piece for some in earlier}
    if before and not before.issuperset(pieces):
        together = [*(some for some in earlier if some.piece not in written), *made]
        if _is_told(together, memory, cohort, rules):
            return TOGETHER
    for content in (some.to_bytes() for some in made):
        name = hashlib.sha256(memory.account.dataset.encode() + b"\n" + content).hexdigest()
        memory.keep(KIND, name, content)
    return None


def _of_piece(piece: Piece, columns: frozenset[str], contract: Contract) -> Made:
    named, kinds = set(_NAME.findall(piece.sql)), _kinds(contract)
    return Made(piece, columns, {name: kinds[name] for name in sorted(named & kinds.keys())})


def _is_told(made: Sequence[Made], memory: Memory, cohort: Cohort, rules: Rules) -> bool:
    """Whether the columns single someone out among the rows of the cohort, or, for a study with a
    condition, among all rows, of which fewer columns are read."""
    everyone, named = cohort.everyone, memory.names.get("", frozenset())
    readable = [(cohort, memory.readable)]
    if everyone is not None:
        readable.append((everyone, memory.readable if memory.contract.person is None else named))
    for rows, columns in readable:
        some = [one for one in made if columns.issuperset(one.reads)]
        most = MAX_VALUES // max(rows.rows, 1)
        if some and stands_out(_columns(some[-most:], rows, memory.contract), rows.numbered, rules):
            return True
    return False


def _columns(made: Sequence[Made], cohort: Cohort, contract: Contract) -> Floats:
    """(n_rows, n): the columns that were made, and the numbers that they are made of; 0 where
    missing."""
    names = sorted({name for some in made for name in some.reads})
    sources = [
        Field(name, contract.columns[name].kind, quote_name(name))
        for name in names
        if contract.columns[name].kind in ("number", "boolean")
    ]
    pieces = (support.as_field(some.piece) for some in made)
    by_sql = {field.sql: field for field in (*sources, *pieces)}
    arrays = cohort.columns(by_sql.values()).values()
    return np.stack([np.nan_to_num(np.asarray(a, np.float64), nan=0.0) for a in arrays], axis=1)


def stands_out(X: Floats, person: Ints | None, rules: Rules) -> bool:
    """Whether a person does in the columns X (n_rows, n_columns). Those in which few people differ
    here are counted over all nodes, if the hub may see them: the others are judged without them,
    and beside them."""
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
