"""The columns of a study at which the rules on support, dominance and leverage look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from federation import cohort as cohorts
from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Values
from federation.disclosure import support as rules_of
from federation.expression import Piece
from federation.formula import Term
from federation.schema import Field, Schema
from strategies import support
from strategies.numerics import designs
from strategies.protocol import AnyTask, Roles
from strategies.support import Rows


def plain_numbers(roles: Roles) -> list[Field]:
    """The contract's own columns of numbers that are added up."""
    return [f for f in support.own_fields(roles) if f.kind == "number" and not f.pieces]


def made_limit(rows_per_person: int, *, binary: bool) -> float:
    """The largest share of one person in a column that a study makes. In a column of 0 and 1 it
    grows with the rows that a person may have, since the rule of `min_cell` counts people there."""
    if not binary:
        return rules_of.MAX_MADE_SHARE
    return min(rules_of.MAX_MADE_SHARE * rows_per_person, rules_of.MAX_SHARE)


def comparable(pieces: Sequence[Piece]) -> list[Piece]:
    return [piece for piece in pieces if piece.kind not in ("edge", "influence")]


def _coded(terms: Sequence[Term]) -> list[int]:
    """The places of the columns of the largest factor, if that has many levels."""
    return max(designs.large_factors(terms).values(), key=len, default=[])


def dense_terms(terms: Sequence[Term]) -> list[Term]:
    """The other columns of a model."""
    apart = set(_coded(terms))
    return [term for place, term in enumerate(terms) if place not in apart]


def columns_of(terms: Sequence[Term], rows: Rows) -> Floats:
    """(n_used, n_terms): the columns of a model; NaN where missing."""
    size, index = len(terms), cohorts.kept_rows(rows.is_used)
    return cohorts.design(terms, rows.columns, index, centre=np.zeros(size), scale=np.ones(size))


def each_filled(terms: Iterable[Term], rows: Rows) -> Iterator[Floats]:
    """(n_used,) each: the columns of a model one after the other, the mean where missing."""
    for term in terms:
        head, *others = term.factors
        is_plain = not others and head.level is None
        read = rows.of(head.field) if is_plain else support.product(term, rows)
        column = read.astype(np.float64, copy=False)
        if np.isnan(column.sum()):
            column = filled(column[:, None], means_of([column[:, None]]))[:, 0]
        yield column


def codes_of(terms: Sequence[Term], rows: Rows) -> Ints | None:
    """The codes (n_used,) of the largest factor of a model, if that has many levels."""
    coded = [terms[place] for place in _coded(terms)]
    return designs.codes_of(coded, rows.columns, cohorts.kept_rows(rows.is_used)) if coded else None


# -- levels that few people have
Few = Mapping[Field, Sequence[int]]  # levels, by column


def level_fields(terms: Sequence[Term]) -> list[Field]:
    """The columns of a model that have levels."""
    factors = (factor.field for term in terms for factor in term.factors)
    return [field for field in dict.fromkeys(factors) if field.kind != "number"]


def few_of(people: Mapping[Field, Ints], thin: int) -> dict[Field, list[int]]:
    """The levels that some people have here, but fewer than `thin`. `people` (n_levels,): by
    level."""
    few = {field: np.flatnonzero((n > 0) & (n < thin)).tolist() for field, n in people.items()}
    return {field: levels for field, levels in few.items() if levels}


def level_rows(column: Values, n_levels: int) -> Ints:
    """(n_levels,) the number of rows with each level."""
    codes = column[support.is_known(column)].astype(np.int64)
    return np.bincount(codes, minlength=n_levels).astype(np.int64)


def merged(rows: Rows, few: Few, most: Mapping[Field, int]) -> Rows:
    """The rows as if the people of some levels had `most`, the most frequent one."""
    columns = dict(rows.columns)
    for field, levels in few.items():
        column = columns[field.name]
        is_few = np.isin(column, levels)
        columns[field.name] = np.where(is_few, most[field], column).astype(column.dtype)
    return replace(rows, columns=columns)


def apart_of(few: Few, crossed: Sequence[Term], terms: Sequence[Term], rows: Rows) -> Floats:
    """(n_used, n): the columns in which few people stand out, besides those of the factor that is
    in codes: the products `crossed`, and the levels of `few`."""
    in_codes = _in_codes(terms)
    columns = [support.product(term, rows) for term in crossed]
    for field, levels in few.items():
        if field != in_codes:
            columns += [(rows.of(field) == level).astype(np.float64) for level in levels]
    n_used = int(np.count_nonzero(rows.is_used))
    return np.stack(columns, axis=1) if columns else np.empty((n_used, 0))


def unjudged_codes(few: Few, terms: Sequence[Term]) -> list[int]:
    """The codes of these levels in the factor that is in codes."""
    coded = [terms[place] for place in _coded(terms)]
    in_codes = _in_codes(terms)
    codes = {term.factors[0].level: place for place, term in enumerate(coded)}
    levels = () if in_codes is None else few.get(in_codes, ())
    return [codes.get(level, len(coded)) for level in levels]


def _in_codes(terms: Sequence[Term]) -> Field | None:
    coded = _coded(terms)
    return terms[coded[0]].factors[0].field if coded else None


# -- all columns
def all_columns(tasks: Sequence[AnyTask], cohort: Cohort, schema: Schema) -> list[Floats]:
    """The expressions of the study, the columns that they use, and all numbers, conditions and
    design columns of its analyses; NaN where missing."""
    fields = [
        field
        for task in tasks
        for field in (*task.fields, *support.own_fields(task.roles or Roles()))
    ]
    names = {name for field in fields if field.pieces for name in schema.columns_of(field.name)}
    fields += [schema.fields[name] for name in sorted(names)]
    fields += [support.as_field(piece) for task in tasks for piece in support.pieces(task)]
    wanted = [field for field in dict.fromkeys(fields) if field.kind in ("number", "boolean")]
    by_sql: dict[str, Field] = {field.sql: field for field in wanted}
    arrays = list(cohort.columns(by_sql.values()).values())
    for task in tasks:
        terms = support.roles_of(task).terms
        spread = [
            term for term in terms if len(term.factors) > 1 or term.factors[0].level is not None
        ]
        if spread:
            columns = cohort.columns(task.fields)
            zeros, ones = np.zeros(len(spread)), np.ones(len(spread))
            design = cohorts.design(spread, columns, slice(None), centre=zeros, scale=ones)
            arrays += list(design.T)
    return [np.asarray(column, np.float64) for column in arrays]


def means_of(pieces: Iterable[Floats]) -> Floats:
    """(n_columns,) the mean of each column over blocks of rows (n_rows, n_columns), without missing
    values; 0 for a column that has no others."""
    return means_from(map(sums_of_values, pieces))


SumsOfValues = tuple[Floats, Ints]  # (n_columns,) each: the sum of the values, and their number


def sums_of_values(X: Floats) -> SumsOfValues:
    return np.nansum(X, axis=0), np.count_nonzero(~np.isnan(X), axis=0)


def means_from(several: Iterable[SumsOfValues]) -> Floats:
    """(n_columns,) as `means_of`, from the sums of each block."""
    total, present = np.zeros(0), np.zeros(0)
    for sums, counts in several:
        if not len(total):
            total, present = np.zeros(len(sums)), np.zeros(len(sums))
        total += sums
        present += counts
    means: Floats = total / np.maximum(present, 1)
    return means


def filled(X: Floats, means: Floats) -> Floats:
    """(n_rows, n_columns) with the mean of its column in the place of a missing value. Such a value
    is in no sum; as a 0 among ages it would make a person stand out who does not."""
    missing = np.isnan(X)
    return np.where(missing, means, X) if missing.any() else X
