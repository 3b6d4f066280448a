"""The attack of `audit.py` on linked studies of mode dp: does what a helper sends tell whether one
person was at the left holder, at the right one, or at both?

The links are by an identifier, and are made as in a study: both holders read, clip and choose
their rows, and the helper opens them. The attacker knows everyone else's rows at both holders."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas

from federation import datasets, errors, yaml_source
from federation import schema as schemas
from federation.contract import Contract
from federation.privacy.noise import Entropy
from federation.study import Study
from nodes import cohorts
from nodes.site import Dataset
from simulations import linked, local
from strategies import registry
from strategies.protocol import AnyTask
from tests.privacy import audit
from tests.privacy.audit import AttackResult

Where = Literal["left", "right", "both"]
OTHERS, MORE_ROWS = 400, 6
TEXTS = {
    "register": """
dataset: register
version: 1
person: number
identifiers: {psa: {column: psa, form: text}}
columns:
  number: {type: string}
  psa: {type: string}
  x: {type: number, range: [-3, 3]}
  g: {type: category, levels: [a, b]}
""",
    "claims": """
dataset: claims
version: 1
person: number
rows_per_person: 2
identifiers: {psa: {column: psa, form: text}}
columns:
  number: {type: string}
  psa: {type: string}
  z: {type: number, range: [-3, 3]}
  y: {type: boolean}
""",
}
STUDY = """
study: audited
title: t
question: q
purpose: {interest: public, category: research}
authorisation: {reference: A, expires: 2030-01-01}
datasets: {register: {}, claims: {per_person: {z: "sum(z)", y: "any(y)"}}}
link: {"on": psa, left: register, right: claims, helper: casd}
min_nodes: 1
"""


def _values(text: str) -> dict[str, Any]:
    return dict(yaml_source.parse(text, name="a.yaml", error=errors.StudyError).values)


CONTRACTS = {name: Contract.model_validate(_values(text)) for name, text in TEXTS.items()}
ANALYSES: Mapping[str, Mapping[str, Any]] = {
    "linear model": {"run": "glm", "model": "z ~ x"},
    "cross-table": {"run": "crosstab", "rows": "g", "columns": "y"},
}


@dataclass(frozen=True)
class LinkedCase:
    """`where`: the holders that the person joins. `more`: how many rows more than the contracts
    allow the person has there, each beyond its range."""

    analysis: str
    where: Where
    more: int = 0

    @property
    def name(self) -> str:
        rows = ", with too many rows" if self.more else ""
        return f"linked {self.analysis}, a person at {self.where}{rows}"


CASES = tuple(
    LinkedCase(analysis, where, more)
    for analysis, where, more in (
        ("linear model", "left", 0),
        ("linear model", "right", 0),
        ("linear model", "both", MORE_ROWS),
        ("cross-table", "both", 0),
        ("cross-table", "left", MORE_ROWS),
    )
)


def tables(case: LinkedCase, *, is_there: bool) -> dict[str, pandas.DataFrame]:
    """Both holders' rows. Where the person joins one holder only, the other has them in any
    case."""
    rng = np.random.default_rng(3)
    names = [f"p{i}" for i in range(OTHERS)]
    x = rng.uniform(-3, 3, OTHERS).round(3)
    left = pandas.DataFrame(
        {"number": names, "psa": names, "x": x, "g": rng.choice(["a", "b"], OTHERS)}
    )
    right = pandas.DataFrame(
        {
            "number": names,
            "psa": names,
            "z": (-x + rng.normal(0, 0.5, OTHERS)).clip(-3, 3).round(3),
            "y": rng.random(OTHERS) < 0.5,
        }
    )
    if is_there or case.where == "right":
        left = pandas.concat([left, _person(case, {"x": 3.0, "g": "b"}, "left")])
    if is_there or case.where == "left":
        right = pandas.concat([right, _person(case, {"z": 3.0, "y": True}, "right")])
    return {"register": left, "claims": right}


def _person(case: LinkedCase, row: Mapping[str, Any], side: Where) -> pandas.DataFrame:
    """Under several numbers of the holder, as long as the person has too many rows."""
    joins = case.where in (side, "both")
    numbers = [f"target {i}" for i in range(1 + case.more * joins)]
    wide = {name: 10 * value for name, value in row.items() if isinstance(value, float)}
    return pandas.DataFrame(
        [{"number": n, "psa": "target", **row, **(wide if case.more else {})} for n in numbers]
    )


def study_of(case: LinkedCase) -> Study:
    privacy = {"mode": "dp", "epsilon": audit.EPSILON}
    analyses = {"a": ANALYSES[case.analysis]}
    return Study.model_validate({**_values(STUDY), "privacy": privacy, "analyses": analyses})


def cohort_of(
    study: Study, task: AnyTask, given: Mapping[str, pandas.DataFrame], folder: Path
) -> Any:
    """The linked people, as the helper opens them for a study."""
    holders = {}
    for node, (name, table) in zip(("lyon", "cnam"), given.items(), strict=True):
        path = folder / f"{name}.csv"
        table.to_csv(path, index=False)
        holders[node] = Dataset(CONTRACTS[name], str(path))
    with linked.linking(
        study, CONTRACTS, holders, local.SIMULATED, audit.federations.NOW
    ) as people:
        (site,) = people.sites
        dataset = site.datasets[study.dataset]
        schema = schemas.build(dataset.contract, {})
        return cohorts.open_clipped(dataset, site.storage, schema, task.fields, None, "s").cohort


def attacked(
    case: LinkedCase,
    runs: int,
    folder: Path,
    *,
    bend: Callable[[AnyTask], AnyTask] = lambda task: task,
    entropy: Entropy = os.urandom,
) -> AttackResult:
    study = study_of(case)
    contract = datasets.contract_of(study, CONTRACTS)
    task = audit.remembering(bend(registry.plan(study, contract)["a"]))
    here = [
        cohort_of(study, task, tables(case, is_there=is_there), folder)
        for is_there in (True, False)
    ]
    return audit.attack(case.name, study, task, contract, here, runs, entropy)


# -- engines broken on purpose
FAULTS: Mapping[str, tuple[LinkedCase, Callable[[], Any], Callable[[AnyTask], AnyTask]]] = {
    "half the noise, linked": (CASES[0], audit.half_the_noise, lambda task: task),
    "half the sensitivity, linked": (CASES[3], contextlib.nullcontext, audit.halved_bounds),
}


def caught(fault: str, runs: int, folder: Path, *, entropy: Entropy = os.urandom) -> AttackResult:
    """The attack on an engine with a fault."""
    case, broken, bend = FAULTS[fault]
    with broken():
        return attacked(case, runs, folder, bend=bend, entropy=entropy)


def audit_all(runs: int, folder: Path) -> bool:
    """For `make audit`: whether every case holds, and every fault is caught."""
    outcomes = [(attacked(case, runs, folder), True) for case in CASES]
    outcomes += [(caught(fault, max(400, runs), folder), False) for fault in FAULTS]
    for outcome, is_sound in outcomes:
        print(outcome if is_sound else f"a fault: {outcome}", flush=True)
    return all(outcome.holds == is_sound for outcome, is_sound in outcomes)
