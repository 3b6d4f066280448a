"""The predictions of a released mixed model for this node's own people, written for the producer
and never sent."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federation import errors
from federation import schema as schemas
from federation.study import Study
from nodes import cohorts
from nodes.site import Site
from strategies import registry
from strategies.regression import mixed_model


def write(study: Study, name: str, document: Mapping[str, Any], site: Site, out: Path) -> int:
    """Writes one line for each person of the cohort with complete rows: their key, and their
    deviations from the fixed effects (best linear unbiased predictions). Returns the number of
    lines. InputError if study and result do not match, DataError if the data break their
    contract."""
    analysis = document.get("analyses", {}).get(name, {})
    tables = analysis.get("tables", {})
    if document.get("study_hash") != study.hash:
        raise errors.InputError(
            "the result belongs to another study, or to another version of this one;"
            " give the study of this result"
        )
    if analysis.get("run") != "mixed_model" or not {"coefficients", "random"} <= tables.keys():
        raise errors.InputError(
            f"{name!r} is not a released mixed model of this result;"
            " only a mixed model has individual predictions"
        )
    if study.dataset not in site.datasets:
        raise errors.SiteError(
            f"this node has no dataset {study.dataset!r};"
            f" the datasets are {', '.join(site.datasets)}"
        )
    dataset = site.datasets[study.dataset]
    task = registry.plan(study, dataset.contract)[name]
    if task.plan.by is not None:
        raise errors.InputError(
            f"{name!r} has random effects of {task.plan.by.name}, not of people,"
            " so it has no individual predictions"
        )
    schema = schemas.build(dataset.contract, study.cohort.derive)
    opened = cohorts.open_checked(dataset, site.storage, schema, task.fields, study.cohort.where)
    if opened.findings:
        raise errors.DataError("the data here break their contract; run `hdh node check`")
    persons, deviations = mixed_model.predict(
        opened.cohort, task, tables["coefficients"], tables["random"]
    )
    keys = cohorts.keys(dataset, site.storage, schema, task.fields, study.cohort.where)
    with os.fdopen(
        os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        "w",
        newline="",
        encoding="utf-8",
    ) as file:
        writer = csv.writer(file)
        writer.writerow([str(dataset.contract.person), *task.plan.random.names])
        writer.writerows(
            [keys[person], *map(repr, map(float, values))]
            for person, values in zip(persons.tolist(), deviations, strict=True)
        )
    return len(persons)
