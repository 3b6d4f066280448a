"""The columns of a study at which the rules on support, dominance and leverage look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from federation import cohort as cohorts
from federation.arrays import Floats, Ints
from federation.cohort import Cohort
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


def coded(terms: Sequence[Term]) -> list[int]:
    """The places of the columns of a model's largest factor, if that has many levels."""
    return max(designs.large_factors(terms).values(), key=len, default=[])


def dense_terms(terms: Sequence[Term]) -> list[Term]:
    """The other columns of a model."""
    apart = set(coded(terms))
    return [term for place, term in enumerate(terms) if place not in apart]


def design_of(terms: Sequence[Term], rows: Rows) -> tuple[Floats, Ints | None]:
    """The columns of a model, and the codes (n_kept,) of its largest factor if that has many
    levels: its columns are not among them then."""
    X, places = columns_of(dense_terms(terms), rows), coded(terms)
    if not places:
        return X, None
    levels = [terms[place] for place in places]
    return X, designs.codes_of(levels, rows.columns, cohorts.kept_rows(rows.is_used))


def columns_of(terms: Sequence[Term], rows: Rows) -> Floats:
    """(n_used, n_terms): the columns of a model; the mean of a column where it is missing, as it is
    in rows of which something is imputed."""
    rows_kept, size = cohorts.kept_rows(rows.is_used), len(terms)
    zeros, ones = np.zeros(size), np.ones(size)
    X = cohorts.design(terms, rows.columns, rows_kept, centre=zeros, scale=ones)
    for column in X.T:
        missing = np.isnan(column)
        if missing.any():
            column[missing] = 0.0 if missing.all() else column[~missing].mean()
    return X


def level_fields(roles: Roles) -> list[Field]:
    """The columns of a model that have levels."""
    factors = (factor.field for term in roles.terms for factor in term.factors)
    return [field for field in dict.fromkeys(factors) if field.kind != "number"]


def all_columns(tasks: Sequence[AnyTask], cohort: Cohort, schema: Schema) -> list[Floats]:
    """The expressions of the study, the columns that they use, and all numbers, conditions and
    design columns of its analyses; 0 where missing."""
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
    return [np.nan_to_num(np.asarray(column, np.float64), nan=0.0) for column in arrays]


def of_few(
    few: Mapping[Field, Sequence[int]], crossed: Sequence[Term], terms: Sequence[Term], rows: Rows
) -> Floats | None:
    """The columns (n_used, n) in which few people stand out, without the levels that are codes."""
    in_codes = _coded_field(terms)
    columns = [support.product(term, rows) for term in crossed]
    for field, levels in few.items():
        if field != in_codes:
            columns += [(rows.of(field) == level).astype(np.float64) for level in levels]
    return np.stack(columns, axis=1) if columns else None


def few_codes(few: Mapping[Field, Sequence[int]], terms: Sequence[Term]) -> list[int]:
    """The codes of the levels of few people, of the factor that is in codes."""
    field = _coded_field(terms)
    if field is None:
        return []
    places = coded(terms)
    codes = {terms[place].factors[0].level: code for code, place in enumerate(places)}
    return [codes.get(level, len(places)) for level in few.get(field, ())]


def _coded_field(terms: Sequence[Term]) -> Field | None:
    places = coded(terms)
    return terms[places[0]].factors[0].field if places else None
