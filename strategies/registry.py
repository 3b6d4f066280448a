"""The analyses by name, and a study's tasks: the one place where a study meets the code that it may run."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from functools import cache
from typing import Any

from federation import contract as contracts
from federation import errors, yaml_source
from federation.contract import Contract, DeriveError, Schema
from federation.expression import ExpressionError
from federation.study import AnalysisEntry as Entry
from federation.study import Study
from federation.yaml_source import Source
from strategies import budget
from strategies.protocol import Analysis, PrivateAnalysis, Task

ANALYSES = (
    "anova", "boosted_trees", "cox", "crosstab", "cumulative_incidence", "describe", "disproportionality", "fedavg", "fine_gray", "glm", "inequality", "k_means",
    "kaplan_meier", "mantel_haenszel", "mixed_model", "multiple_imputation", "pathways", "pca", "piecewise_exponential", "propensity", "rates", "sccs", "surveillance", "train",
)  # fmt: skip
NAMES = frozenset(ANALYSES)
PRIVATE = (
    "crosstab", "cumulative_incidence", "describe", "disproportionality", "glm", "inequality", "kaplan_meier", "mantel_haenszel", "pathways",
    "piecewise_exponential", "rates", "sccs", "surveillance", "train",
)  # fmt: skip
NOT_PRIVATE = {
    "boosted_trees": "each split would need noise of its own, and trees on noise say little; run: glm spends the same budget better",
    "anova": "run: glm with the groups in the model gives their differences, with intervals that include the noise",
    "k_means": "noise in each round moves people from group to group, and no interval tells how far",
    "pca": "noise turns the components, and no interval tells how far; run: describe shows each column",
    "cox": "a person is in the risk set of every earlier event, so the noise would drown the answer; run: piecewise_exponential gives hazard ratios",
    "fine_gray": "it weighs people in the risk set of every later event; run: cumulative_incidence shows the curves of each group",
    "multiple_imputation": "its draws hang on fits that would carry noise; run: glm takes the rows that lack nothing",
    "mixed_model": "each round needs the whole trajectory of every person; run: glm gives the fixed effects, with all rows of a person bounded as one",
    "propensity": "each weight hangs on a fit that carries noise; run: piecewise_exponential with the confounders in the model compares like with like",
    "fedavg": "use run: glm, which spends the same budget better",
}


@cache
def analysis(name: str) -> Analysis:
    module: Any = importlib.import_module(f"strategies.{name}")
    return module  # type: ignore[no-any-return]


@cache
def private(name: str) -> PrivateAnalysis:
    """The protocol of an analysis of PRIVATE under differential privacy: a file of its own beside the exact one."""
    module: Any = importlib.import_module(f"strategies.private_{name}")
    return module  # type: ignore[no-any-return]


def preload(names: Iterable[str] = ANALYSES) -> None:
    """Imports what a study of these analyses may need, so that the first one does not wait for it."""
    importlib.import_module("formulaic")
    for name in NAMES.intersection(names):
        analysis(name)
        if name in PRIVATE:
            private(name)


def version(name: str) -> int:
    """Raised when an analysis gives another answer to the same question than before."""
    return int(getattr(analysis(name), "VERSION", 1)) if name in NAMES else 0


def plan(study: Study, contract: Contract, source: Source | None = None) -> dict[str, Task]:
    """The study's tasks. Raises StudyError with every mistake of the study against the contract."""
    source = source or Source(f"study {study.study}", {}, {})
    if study.dataset != contract.dataset:
        raise errors.StudyError(
            f"{source.at('dataset')}: the study asks for dataset {study.dataset!r}, the contract is of {contract.dataset!r}"
        )
    schema = cohort_schema(study, contract, source)
    tasks: dict[str, Task] = {}
    problems: list[str] = []
    for name, entry in study.analyses.items():
        try:
            tasks[name] = task(
                name,
                entry,
                schema,
                source,
                is_private=study.privacy.mode == "dp",
                secure_sum=study.privacy.secure_sum is not None,
            )
            budget.check(study, tasks[name])
        except errors.StudyError as error:
            problems += error.problems
        except ExpressionError as error:
            problems.append(f"{source.at('analyses', name)}: analyses.{name}: {error}")
    if problems:
        raise errors.StudyError(*problems)
    return tasks


def cohort_schema(study: Study, contract: Contract, source: Source) -> Schema:
    try:
        schema = contracts.schema(contract, study.cohort.derive)
    except DeriveError as error:
        raise errors.StudyError(
            f"{source.at('cohort', 'derive', error.name)}: cohort.derive.{error.name}: {error}"
        ) from None
    if study.cohort.where is not None:
        try:
            condition = schema.express(study.cohort.where)
            if condition.kind != "boolean":
                raise ExpressionError(
                    f"{study.cohort.where!r} is a {condition.kind}, not a condition; compare it with something"
                )
        except ExpressionError as error:
            raise errors.StudyError(
                f"{source.at('cohort', 'where')}: cohort.where: {error}"
            ) from None
    return schema


def task(
    name: str,
    entry: Entry,
    schema: Schema,
    source: Source,
    *,
    is_private: bool = False,
    secure_sum: bool = False,
) -> Task:
    key = ("analyses", name)
    if entry.run not in ANALYSES:
        near = difflib.get_close_matches(entry.run, ANALYSES, n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise errors.StudyError(
            f"{source.at(*key, 'run')}: analyses.{name}.run: unknown analysis {entry.run!r}; {meant}the analyses are {', '.join(ANALYSES)}"
        )
    if entry.version not in (None, version(entry.run)):
        raise errors.StudyError(
            f"{source.at(*key, 'version')}: analyses.{name}.version: {entry.run} has version {version(entry.run)} here; install the other, or write that"
        )
    if is_private and entry.run in NOT_PRIVATE:
        raise errors.StudyError(
            f"{source.at(*key, 'run')}: analyses.{name}.run: {entry.run} is not offered in mode dp: {NOT_PRIVATE[entry.run]}"
        )
    module = private(entry.run) if is_private else analysis(entry.run)
    options = yaml_source.build(
        module.Options, entry.options, source, under=key, error=errors.StudyError
    )
    try:
        made, fields = module.prepare(options, schema)
    except ExpressionError as error:
        culprit = next(
            (
                name
                for name, value in entry.options.items()
                if isinstance(value, str) and value in str(error)
            ),
            "run",
        )
        raise errors.StudyError(f"{source.at(*key, culprit)}: analyses.{name}: {error}") from None
    built = Task(
        name, module, options, made, tuple(dict.fromkeys(fields)), schema.contract.rows_per_person
    )
    why = getattr(module, "refuses", lambda task, secure_sum: None)(built, secure_sum=secure_sum)
    if why is not None:
        raise errors.StudyError(f"{source.at(*key, 'run')}: analyses.{name}: {why}")
    return built
