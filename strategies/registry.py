"""The analyses by name, and the tasks of a study. Only this module maps a study to code.

The table is static, so mypy checks every module against the protocols of `protocol.py`. A row
imports its modules when a study first needs them, so that a command loads no analysis that it does
not run.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from federation import errors, extensions, formula_parser, yaml_source
from federation import schema as schemas
from federation.contract import Contract
from federation.expression import ExpressionError, Piece
from federation.linkage.table import STEP
from federation.schema import DeriveError, Field, Schema
from federation.study import AnalysisEntry, Study
from federation.yaml_source import Source
from strategies import budget
from strategies.protocol import (
    AnyExactAnalysis,
    AnyPrivateAnalysis,
    AnyPrivateTraining,
    AnyTask,
    Task,
)


@dataclass(frozen=True)
class Row:
    """The modules of one analysis: the exact protocol, and the private one, which may be a
    training."""

    exact: AnyExactAnalysis
    private: AnyPrivateAnalysis | None = None
    training: AnyPrivateTraining | None = None

    @property
    def dp(self) -> AnyPrivateAnalysis | None:
        return self.training or self.private


_TABLE: dict[str, Callable[[], Row]] = {}
NOT_PRIVATE: dict[str, str] = {}


def _analysis(*, not_private: str = "") -> Callable[[Callable[[], Row]], Callable[[], Row]]:
    """A row of the table, under the function's name. `not_private`: the reason why mode dp does not
    offer it."""

    def enter(row: Callable[[], Row]) -> Callable[[], Row]:
        _TABLE[row.__name__] = cache(row)
        if not_private:
            NOT_PRIVATE[row.__name__] = not_private
        return row

    return enter


# -- descriptive
@_analysis(
    not_private="run: glm with the groups in the model gives their differences, with intervals "
    "that include the noise"
)
def anova() -> Row:
    from strategies.descriptive import anova

    return Row(anova)


@_analysis()
def crosstab() -> Row:
    from strategies.descriptive import crosstab, crosstab_dp

    return Row(crosstab, private=crosstab_dp)


@_analysis()
def describe() -> Row:
    from strategies.descriptive import describe, describe_dp

    return Row(describe, private=describe_dp)


@_analysis()
def inequality() -> Row:
    from strategies.descriptive import inequality, inequality_dp

    return Row(inequality, private=inequality_dp)


@_analysis(
    not_private="noise rotates the components, and no interval says how far; run: describe "
    "shows each column"
)
def pca() -> Row:
    from strategies.descriptive import pca

    return Row(pca)


@_analysis()
def wilcoxon() -> Row:
    from strategies.descriptive import wilcoxon, wilcoxon_dp

    return Row(wilcoxon, private=wilcoxon_dp)


# -- regression
@_analysis()
def glm() -> Row:
    from strategies.regression import glm, glm_dp

    return Row(glm, private=glm_dp)


@_analysis(
    not_private="each round needs the whole trajectory of every person; run: glm gives the "
    "fixed effects, with all rows of a person bounded together"
)
def mixed_model() -> Row:
    from strategies.regression import mixed_model

    return Row(mixed_model)


@_analysis(
    not_private="its draws depend on fits that would carry noise; run: glm takes the complete rows"
)
def multiple_imputation() -> Row:
    from strategies.regression import multiple_imputation

    return Row(multiple_imputation)


# -- survival
@_analysis(
    not_private="a person is in the risk set of every earlier event, so the noise would drown "
    "the answer; run: piecewise_exponential gives hazard ratios"
)
def cox() -> Row:
    from strategies.survival import cox

    return Row(cox)


@_analysis()
def cumulative_incidence() -> Row:
    from strategies.survival import cumulative_incidence, cumulative_incidence_dp

    return Row(cumulative_incidence, private=cumulative_incidence_dp)


@_analysis(
    not_private="a person is weighted in the risk set of every later event; run: "
    "cumulative_incidence shows the curves of each group"
)
def fine_gray() -> Row:
    from strategies.survival import fine_gray

    return Row(fine_gray)


@_analysis()
def kaplan_meier() -> Row:
    from strategies.survival import kaplan_meier, kaplan_meier_dp

    return Row(kaplan_meier, private=kaplan_meier_dp)


@_analysis()
def piecewise_exponential() -> Row:
    from strategies.survival import piecewise_exponential, piecewise_exponential_dp

    return Row(piecewise_exponential, private=piecewise_exponential_dp)


# -- epidemiology
@_analysis()
def disproportionality() -> Row:
    from strategies.epidemiology import disproportionality, disproportionality_dp

    return Row(disproportionality, private=disproportionality_dp)


@_analysis()
def mantel_haenszel() -> Row:
    from strategies.epidemiology import mantel_haenszel, mantel_haenszel_dp

    return Row(mantel_haenszel, private=mantel_haenszel_dp)


@_analysis()
def pathways() -> Row:
    from strategies.epidemiology import pathways, pathways_dp

    return Row(pathways, private=pathways_dp)


@_analysis()
def rates() -> Row:
    from strategies.epidemiology import rates, rates_dp

    return Row(rates, private=rates_dp)


@_analysis()
def sccs() -> Row:
    from strategies.epidemiology import sccs, sccs_dp

    return Row(sccs, private=sccs_dp)


@_analysis()
def surveillance() -> Row:
    from strategies.epidemiology import surveillance, surveillance_dp

    return Row(surveillance, private=surveillance_dp)


# -- causal
@_analysis(
    not_private="each weight depends on a fit that carries noise; run: piecewise_exponential "
    "with the confounders in the model adjusts for them"
)
def propensity() -> Row:
    from strategies.causal import propensity

    return Row(propensity)


# -- learning
@_analysis(
    not_private="each split would need noise of its own, and noised trees predict little; run: "
    "glm spends the same budget better"
)
def boosted_trees() -> Row:
    from strategies.learning import boosted_trees

    return Row(boosted_trees)


@_analysis(not_private="use run: glm, which spends the same budget better")
def fedavg() -> Row:
    from strategies.learning import fedavg

    return Row(fedavg)


@_analysis(
    not_private="noise in each round moves people from group to group, and no interval says how far"
)
def k_means() -> Row:
    from strategies.learning import k_means

    return Row(k_means)


@_analysis()
def train() -> Row:
    from strategies.learning import train, train_dp

    return Row(train, training=train_dp)


ANALYSES = tuple(sorted(_TABLE))
NAMES = frozenset(ANALYSES)
PRIVATE = tuple(name for name in ANALYSES if name not in NOT_PRIVATE)


# -- analyses that a site installs (`hdh.analyses`)
_MEMBERS = ("TRAITS", "Options", "prepare", "start", "limits", "local", "combine")
_EXACT, _PRIVATE = (*_MEMBERS, "roles"), (*_MEMBERS, "rounds", "shares", "forecast")
_TRAINING = (*_PRIVATE, "sampling", "step_sensitivity", "inside")


def row(name: str) -> Row:
    """The modules of an analysis. ExtensionError if it is neither built in nor installed
    soundly."""
    if name in _TABLE:
        return _TABLE[name]()
    installed = extensions.imported(f"analyses.{name}", Row, "a Row of strategies.registry")
    wanted = ((installed.exact, _EXACT), (installed.private, _PRIVATE))
    for module, members in (*wanted, (installed.training, _TRAINING)):
        missing = [member for member in members if module and not hasattr(module, member)]
        if missing:
            raise errors.ExtensionError(
                f"analyses.{name}: its module has no {', '.join(missing)}, which"
                " strategies/protocol.py asks for; ask its author"
            )
    return installed


def is_named(module: str) -> bool:
    """Whether `module_named` knows a module: those of this package, and no other code."""
    return module.startswith("strategies.")


def module_named(module: str) -> Any:
    """A module of an analysis, as a process that computes blocks is told of it."""
    if not is_named(module):
        raise errors.ExtensionError(f"{module} is no module of the analyses of this version")
    return importlib.import_module(module)


def analysis(name: str) -> AnyExactAnalysis:
    return row(name).exact


def private(name: str) -> AnyPrivateAnalysis:
    """The protocol of an analysis under differential privacy. KeyError if it has none."""
    module = row(name).dp
    if module is None:
        raise KeyError(name)
    return module


def preload(names: Iterable[str] = ANALYSES) -> None:
    """Imports what a study of these analyses may need, so that the first study does not wait for
    it."""
    formula_parser.loaded()
    importlib.import_module("scipy.special")
    for name in NAMES.intersection(names):
        row(name)


def version(name: str) -> int:
    """The trait `version` of an analysis; 0 for a name that is not installed."""
    try:
        return analysis(name).TRAITS.version
    except errors.ExtensionError:
        return 0


def plan(study: Study, contract: Contract, source: Source | None = None) -> dict[str, AnyTask]:
    """The study's tasks. Raises StudyError with every mistake of the study against the contract."""
    source = source or Source(f"study {study.study}", {}, {})
    if study.dataset != contract.dataset:
        raise errors.StudyError(
            f"{source.at('dataset')}: the study asks for dataset {study.dataset!r},"
            f" but the contract is for {contract.dataset!r}; give the contract of the dataset"
        )
    schema = cohort_schema(study, contract, source)
    tasks: dict[str, AnyTask] = {}
    if other_code := _other_code(study, source):
        raise errors.StudyError(*other_code)  # before any of it is imported
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
                where=_pieces_of(study.cohort.where, schema),
                by_step=_steps(study, entry, schema),
            )
            budget.check(study, tasks[name])
        except errors.StudyError as error:
            problems += error.problems
        except ExpressionError as error:
            problems.append(f"{source.at('analyses', name)}: analyses.{name}: {error}")
    if problems:
        raise errors.StudyError(*problems)
    return tasks


def _other_code(study: Study, source: Source) -> list[str]:
    """The extensions of a study whose code here is not the one that its coordinator signed."""
    return [
        f"{source.at('extensions', key)}: extensions.{key}: another code is installed here, with"
        f" the hash {installed.digest}; install the version that the study names, or write this"
        " hash"
        for key, digest in study.extensions.items()
        if (installed := extensions.find(key)) is not None and installed.digest != digest
    ]


def cohort_schema(study: Study, contract: Contract, source: Source) -> Schema:
    try:
        schema = schemas.build(contract, study.cohort.derive)
    except DeriveError as error:
        raise errors.StudyError(
            f"{source.at('cohort', 'derive', error.name)}: cohort.derive.{error.name}: {error}"
        ) from None
    if study.cohort.where is not None:
        try:
            condition = schema.express(study.cohort.where)
            if condition.kind != "boolean":
                raise ExpressionError(
                    f"{study.cohort.where!r} is a {condition.kind}, not a condition;"
                    " compare it with something"
                )
        except ExpressionError as error:
            raise errors.StudyError(
                f"{source.at('cohort', 'where')}: cohort.where: {error}"
            ) from None
    return schema


def _pieces_of(where: str | None, schema: Schema) -> tuple[Piece, ...]:
    return () if where is None else schema.express(where).pieces


def _steps(study: Study, entry: AnalysisEntry, schema: Schema) -> tuple[Field, ...]:
    """As in Task."""
    if entry.results != "by_step":
        return ()
    steps = [str(step) for step in range(1, study.steps)]
    chosen = [", ".join(f"'{step}'" for step in steps[: n + 1]) for n in range(len(steps))]
    return tuple(schema.field(f"{STEP} in ({listed})") for listed in chosen)


def task(
    name: str,
    entry: AnalysisEntry,
    schema: Schema,
    source: Source,
    *,
    is_private: bool = False,
    secure_sum: bool = False,
    where: tuple[Piece, ...] = (),
    by_step: tuple[Field, ...] = (),
) -> AnyTask:
    """StudyError with the line and the culprit if the entry cannot be run on these columns."""
    key = ("analyses", name)
    _check_entry(name, entry, source, is_private)
    modules = row(entry.run)
    module = private(entry.run) if is_private else modules.exact
    options = yaml_source.build(
        module.Options, entry.options, source, under=key, error=errors.StudyError
    )
    try:
        plan_, fields = module.prepare(options, schema)
    except ExpressionError as error:
        line = source.at(*key, _culprit(entry, str(error)))
        raise errors.StudyError(f"{line}: analyses.{name}: {error}") from None
    prepared: AnyTask = Task(
        name,
        module,
        options,
        plan_,
        tuple(dict.fromkeys(fields)),
        schema.contract.rows_per_person,
        modules.dp if is_private else None,
        modules.training if is_private else None,
    )
    reason = module.TRAITS.refuses(prepared, secure_sum)
    if reason is not None:
        raise errors.StudyError(f"{source.at(*key, 'run')}: analyses.{name}: {reason}")
    return (
        prepared
        if is_private
        else replace(prepared, where=where, roles=modules.exact.roles(prepared), by_step=by_step)
    )


def _check_entry(name: str, entry: AnalysisEntry, source: Source, is_private: bool) -> None:
    """StudyError if this analysis does not exist in this version and mode."""
    key = ("analyses", name)
    run = f"{source.at(*key, 'run')}: analyses.{name}.run"
    if entry.run not in NAMES and extensions.find(f"analyses.{entry.run}") is not None:
        _check_installed(entry.run, run, is_private)
    elif entry.run not in NAMES:
        near = difflib.get_close_matches(entry.run, ANALYSES, n=1)
        suggestion = f"did you mean {near[0]!r}? " if near else ""
        raise errors.StudyError(
            f"{run}: unknown analysis {entry.run!r}; {suggestion}"
            f"the analyses are {', '.join(ANALYSES)}"
        )
    if entry.version not in (None, version(entry.run)):
        raise errors.StudyError(
            f"{source.at(*key, 'version')}: analyses.{name}.version: {entry.run} has version "
            f"{version(entry.run)} here; install the other version, or write this one"
        )
    if is_private and entry.run in NOT_PRIVATE:
        raise errors.StudyError(
            f"{run}: {entry.run} is not offered in mode dp: {NOT_PRIVATE[entry.run]}"
        )


def _check_installed(name: str, run: str, is_private: bool) -> None:
    try:
        modules = row(name)
    except errors.ExtensionError as error:
        raise errors.StudyError(f"{run}: {error}") from None
    if is_private and modules.dp is None:
        raise errors.StudyError(
            f"{run}: {name} is not offered in mode dp: the distribution that brings it has no"
            " private protocol; use mode exact, or another analysis"
        )


def _culprit(entry: AnalysisEntry, message: str) -> str:
    """The option whose text the message quotes, or `run`."""
    texts = ((name, value) for name, value in entry.options.items() if isinstance(value, str))
    return next((name for name, value in texts if value in message), "run")
