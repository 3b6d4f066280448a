"""The predictions of a released mixed model for this node's own people, written for the producer
and never sent."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from federation import errors
from federation import schema as schemas
from federation.study import Study
from nodes import cohorts, extension_rules
from nodes.site import Site
from strategies import registry
from strategies.regression import mixed_model


def write(study: Study, name: str, document: Mapping[str, Any], site: Site, out: Path) -> int:
    """Writes one line for each person of the cohort with complete rows: their key, and their
    deviations from the fixed effects (best linear unbiased predictions). Returns the number of
    lines. InputError if study and result do not match, RefusalError if the policy does not allow
    an extension of the study, DataError if the data break their contract."""
    _check_document(study, name, document)
    if (refused := extension_rules.refusal(study, site)) is not None:
        raise errors.RefusalError(str(refused))  # a plan imports the code of the study's extensions
    if study.dataset not in site.datasets:
        raise errors.SiteError(
            f"this node has no dataset {study.dataset!r};"
            f" the datasets are {', '.join(site.datasets)}"
        )
    asked = str(document.get("provenance", {}).get("contract_hash", ""))
    dataset = site.under(study.dataset, asked).datasets[study.dataset]
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
    tables = document["analyses"][name]["tables"]
    persons, deviations = mixed_model.predict(
        opened.cohort, task, tables["coefficients"], tables["random"]
    )
    keys = cohorts.keys(dataset, site.storage, schema, task.fields, study.cohort.where)
    lines = (
        [keys[person], *map(repr, map(float, values))]
        for person, values in zip(persons.tolist(), deviations, strict=True)
    )
    _write_csv(out, [str(dataset.contract.person), *task.plan.random.names], lines)
    return len(persons)


def _check_document(study: Study, name: str, document: Mapping[str, Any]) -> None:
    """InputError unless `name` is a released mixed model of the study."""
    analysis = document.get("analyses", {}).get(name, {})
    if document.get("study_hash") != study.hash:
        raise errors.InputError(
            "the result belongs to another study, or to another version of this one;"
            " give the study of this result"
        )
    tables = analysis.get("tables", {}).keys()
    if analysis.get("run") != "mixed_model" or not {"coefficients", "random"} <= tables:
        raise errors.InputError(
            f"{name!r} is not a released mixed model of this result;"
            " only a mixed model has individual predictions"
        )


def _write_csv(out: Path, header: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """A file that only its owner can read."""
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)
