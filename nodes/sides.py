"""How many people here stand on each side of what a study writes: for the producer's screen, before
they approve it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from federation import schema as schemas
from federation.arrays import Ints
from federation.cohort import Cohort
from federation.disclosure import in_blocks
from federation.disclosure import support as rules_of
from federation.disclosure.in_blocks import OffMode, Piece
from federation.schema import Field
from federation.study import Study
from nodes import cohorts
from nodes.site import Site
from strategies import registry, study_expressions, support
from strategies.support import Block


@dataclass(frozen=True)
class Sides:
    """An expression of a study. `place`: its place in the study. `text`: the expression as written.
    `people`: on each side, by the side's name. `share`: for a number, the most that one person
    gives to the sum of distances from its median."""

    place: str
    text: str
    people: Mapping[str, int]
    share: float | None = None


def of_study(study: Study, site: Site) -> list[Sides]:
    """DataError where the data cannot be read."""
    dataset = site.datasets[study.dataset]
    tasks = registry.plan(study.model_copy(update={"privacy": _exact(study)}), dataset.contract)
    schema = schemas.build(dataset.contract, study.cohort.derive)
    fields = [field for task in tasks.values() for field in task.fields]
    opened = cohorts.open_checked(
        dataset, site.storage, schema, fields, study.cohort.where, in_blocks=not dataset.is_linked
    )
    cohort = opened.cohort
    return [
        _sides(
            place,
            text,
            field,
            cohort if place != study_expressions.WHERE else cohort.everyone or cohort,
        )
        for place, text, field in study_expressions.of(study, tasks, schema)
    ]


def _exact(study: Study) -> object:
    """Roles are of exact mode; a private study's conditions are shown as well."""
    return study.privacy.model_copy(update={"mode": "exact", "noise": "node"})


def _sides(place: str, text: str, field: Field, cohort: Cohort) -> Sides:
    if cohort.in_blocks is not None:
        return _sides_in_blocks(place, text, field, cohort)
    rows = support.all_rows(cohort)
    column = cohort.columns([field])[field.name]
    is_known = support.is_known(column)
    people = {"missing": rows.people(~is_known)} if not is_known.all() else {}
    if field.kind != "number":
        groups = {name: rows.people(column == i) for i, name in enumerate(field.groups)}
        return Sides(place, text, groups | people)
    values, n = np.unique(column[is_known], return_counts=True)
    mode = values[n.argmax()] if len(values) else np.nan
    person = None if rows.person is None else rows.person[is_known]
    share = rules_of.share(column[is_known], person)
    sides = {"at the most frequent value": rows.people(column == mode)}
    sides["at others"] = rows.people(is_known & (column != mode))
    return Sides(place, text, sides | people, share)


def _sides_in_blocks(place: str, text: str, field: Field, cohort: Cohort) -> Sides:
    """Of a number, at least so many people as a few blocks show, if these are many."""
    blocks, names = support.all_blocks(cohort), (*field.groups, "missing")
    if field.kind != "number":
        people = sum(blocks.each(partial(_people_by_level, field)), np.zeros(len(names), np.int64))
        counts = dict(zip(names, people.tolist(), strict=True))
        return Sides(place, text, {k: n for k, n in counts.items() if n or k != "missing"})
    counted, missing = OffMode(), 0
    for of_block, absent in blocks.each(partial(_people_off_mode, field)):
        counted.join(of_block)
        missing += absent
    share = in_blocks.share(blocks.pieces(partial(_piece, field)))
    if counted.is_settled:
        sides = {"at others, at least": counted.least}
    else:
        sides = {"at the most frequent value": counted.at_mode, "at others": counted.away}
    return Sides(place, text, sides | ({"missing": missing} if missing else {}), share)


def _people_by_level(field: Field, block: Block) -> Ints:
    """(n_levels + 1,) of a block; at last those without a value."""
    column, rows = block.of(field), block.rows
    people = support.level_people(column, len(field.groups), rows.person)
    return np.append(people, rows.people(~support.is_known(column)))


def _people_off_mode(field: Field, block: Block) -> tuple[OffMode, int]:
    """Of a block; and the people without a value."""
    column, rows = block.of(field), block.rows
    return OffMode.of(column, rows.person), rows.people(~support.is_known(column))


def _piece(field: Field, block: Block) -> Piece:
    return Piece(block.of(field), block.rows.person)
