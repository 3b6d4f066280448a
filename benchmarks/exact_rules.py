"""The rules of exact mode: their cost, the ordinary models that they refuse, and the people that a
lying hub still isolates.

python -m benchmarks.exact_rules cost refusals in_a_row parts hub
"""

from __future__ import annotations

import os

os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas

from aggregator import rounds
from benchmarks import tables, timing
from federation.disclosure import support as rules_of
from federation.messages import TaskId
from federation.study import Study
from nodes import admission, noised_answer, study_opening, support
from nodes.site import Policy, Site
from simulations import local
from strategies import support as counted
from strategies.regression import glm
from tests import federations

ROWS = 1_000_000
STRICT = Policy(min_nodes=1, modes=("exact", "dp"))


# -- cost
MODEL = {
    "run": "glm",
    "family": "binomial",
    "model": "died ~ " + " + ".join(f"x{i}" for i in range(tables.COLUMNS)),
}
DP = {"mode": "dp", "epsilon": 1}


def cost() -> bool:
    """A logistic regression of a million rows and 20 columns at one node, from its file to the
    result: CPU time outside the kernel with the checks of a mode, over that without; the median of
    eleven turns."""
    met = True
    for label, study, checks, limit in (
        ("exact: admission, support, leverage", federations.study_of({"a": MODEL}), EXACT, 1.15),
        ("dp: admission, values in range, faults", federations.study_of({"a": MODEL}, privacy=DP),
         PRIVATE, 1.05),
    ):  # fmt: skip
        seconds = _with_and_without(study, checks)
        medians = {name: statistics.median(each) for name, each in seconds.items()}
        detail = ", ".join(f"{name} {value:.2f} s" for name, value in medians.items())
        met &= timing.report(label, medians["with"] / medians["without"], limit, detail)
    return met


Checks = Mapping[
    tuple[Any, str], Callable[..., Any]
]  # by module and name, what stands in its place
ADMITTED: Checks = {(admission, "admit"): lambda query, states, *_: dict(states)}
EXACT: Checks = {
    **ADMITTED,
    (support, "check"): lambda *_: None,
    (support, "is_steered_too_far"): lambda *_: False,
    (support, "check_study"): lambda *_: None,
    (counted, "with_counts"): lambda part, *_: part,
}
PRIVATE: Checks = {
    **ADMITTED,
    (study_opening, "within_contract"): lambda cohort: cohort,
    (noised_answer, "_part_of"): lambda compute, *_: compute(),
}


def _with_and_without(study: Study, checks: Checks) -> dict[str, list[float]]:
    agreed = tables.contract()
    with tempfile.TemporaryDirectory() as folder:
        (site,) = tables.sites(tables.people(ROWS), agreed, 1, Path(folder))

        def run() -> None:
            outcome = rounds.run(study, agreed, local.ask_of([site], federations.NOW), [site.name])
            assert outcome.runs[TaskId("a")].result is not None, outcome.runs[TaskId("a")].failed

        def unchecked() -> None:
            with ExitStack() as stack:
                for (module, name), other in checks.items():
                    stack.enter_context(mock.patch.object(module, name, other))
                run()

        return timing.in_turns({"with": run, "without": unchecked}, 11, timing.user_seconds)


# -- refusals
FITS: list[dict[str, Any]] = [
    *({"run": "glm", "model": f"score ~ {right}"} for right in (
        "age", "age + sex", "age + sex + arm", "age + I(age**2) + sex", "age * sex",
        "log(dose) + age", "dose + treated", "age + dose + sex + arm + treated",
        "I(age >= 65) + sex", "I(dose / 10) + age + stage", "sex * treated",
        "stage + age + dose",
    )),
    *({"run": "glm", "family": "binomial", "model": f"died ~ {right}"} for right in (
        "age", "age + sex", "age + sex + stage", "treated + age + sex + dose",
        "age + I(age**2)", "log(dose) + treated", "old + sex", "treated * sex", "stage",
        "arm + age",
    )),
    *({"run": "glm", "family": "poisson", "model": f"visits ~ {right}"} for right in (
        "age", "sex + arm", "age + treated + offset(log(years))", "old + dose", "stage + sex",
    )),
    *({"run": "cox", "strata": "node", "model": f"Surv(time, event) ~ {right}"} for right in (
        "age", "age + sex + treated", "stage + age", "treated * sex", "age + dose + arm",
        "log(dose) + old",
    )),
    {"run": "cox", "strata": "node", "model": "Surv(time, event) ~ age + treated",
     "weights": "weight"},
    {"run": "piecewise_exponential", "model": "Surv(time, event) ~ age + treated", "intervals": 3},
    {"run": "anova", "value": "score", "by": "arm"},
    {"run": "pca", "columns": ["age", "dose", "score"]},
    {"run": "mixed_model", "model": "score ~ age + treated", "by": "region"},
    {"run": "glm", "model": "score ~ age + dose", "weights": "weight"},
    {"run": "fedavg", "model": "died ~ age + dose", "rounds": 3},
]  # fmt: skip
CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  age: {type: number, range: [18, 110]}
  sex: {type: category, levels: [f, m]}
  arm: {type: category, levels: [a, b, c]}
  stage: {type: category, levels: [i, ii, iii, iv]}
  region: {type: category, levels: [n, s, e, w]}
  treated: {type: boolean}
  dose: {type: number, range: [0.1, 20]}
  years: {type: number, range: [0.1, 5]}
  weight: {type: number, range: [0, 5]}
  score: {type: number, range: [-50, 150]}
  visits: {type: number, range: [0, 100]}
  died: {type: boolean}
  event: {type: boolean}
  time: {type: number, range: [0, 60], step: 1}
""")


def people(n: int, rng: np.random.Generator) -> pandas.DataFrame:
    """Like those of the oracles: covariates of common shapes, responses that depend on them."""
    age = np.clip(rng.normal(62, 13, n), 18, 100).round(1)
    treated, dose = rng.random(n) < 0.4, rng.gamma(3, 1.5, n).clip(0.1, 20).round(2)
    risk = 0.04 * (age - 62) - 0.5 * treated
    return pandas.DataFrame(
        {
            "id": [f"p{i}" for i in range(n)],
            "age": age,
            "sex": rng.choice(["f", "m"], n),
            "arm": rng.choice(["a", "b", "c"], n),
            "stage": rng.choice(["i", "ii", "iii", "iv"], n, p=[0.4, 0.3, 0.2, 0.1]),
            "region": rng.choice(list("nsew"), n),
            "treated": treated,
            "dose": dose,
            "years": rng.uniform(0.2, 5, n).round(2),
            "weight": rng.uniform(0.3, 3, n).round(2),
            "score": (50 + 8 * risk + rng.normal(0, 10, n)).clip(-50, 150).round(1),
            "visits": rng.poisson(np.exp(1 + risk)).clip(0, 100),
            "died": rng.random(n) < 1 / (1 + np.exp(1 - risk)),
            "event": rng.random(n) < 0.4,
            "time": np.ceil(rng.exponential(20 * np.exp(-risk))).clip(1, 60),
        }
    )


def refusals() -> bool:
    """The share of ordinary models that some strict node refuses for support, by people a node."""
    met = True
    for n, limit in ((200, 0.15), (400, 0.1), (1000, 0.05), (2000, 0.05)):
        refused = list(_refused(n))
        share = len(refused) / len(FITS)
        met &= timing.report(
            f"of {len(FITS)} ordinary models refused, {n} people a node",
            share,
            limit,
            "; ".join(refused),
        )
    return met


def _refused(n: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        sites = _sites(n, Path(folder))
        for fit in FITS:
            rules = _refusals(fit, sites)
            if rules & {"support", "steered", "functionals", "differencing"}:
                yield f"{fit['run']} {fit.get('model', '')} ({', '.join(sorted(rules))})"


def _sites(n: int, folder: Path) -> list[Site]:
    return [
        federations.site_of(
            f"n{i}", people(n, np.random.default_rng([n, i])), CONTRACT, folder, STRICT
        )
        for i in range(3)
    ]


def _refusals(fit: dict[str, Any], sites: list[Site], where: str | None = None) -> set[str]:
    """The rules by which nodes refuse a model."""
    cohort = {"derive": {"old": "age >= 70"}} | ({} if where is None else {"where": where})
    study = federations.study_of({"a": fit}, cohort=cohort)
    run = federations.run(study, CONTRACT, sites).runs[TaskId("a")]
    return {refusal.rule for refusal in run.refusals.values()}


def in_a_row() -> bool:
    """The share of the ordinary models that a strict node refuses beside the others, if one
    coordinator asks all of them in one year."""
    met = True
    for n in (400, 1000):
        with tempfile.TemporaryDirectory() as folder:
            sites = [
                replace(site, state=Path(folder) / f"state {site.name}")
                for site in _sites(n, Path(folder))
            ]
            rules = {"support", "steered", "functionals", "differencing"}
            refused = [fit for fit in FITS if _refusals(fit, sites) & rules]
        share = len(refused) / len(FITS)
        label = f"of {len(FITS)} ordinary models in a row refused, {n} people a node"
        met &= timing.report(label, share, 0.05, "; ".join(str(fit["run"]) for fit in refused))
    return met


PARTS = ("sex = 'f'", "age >= 55")


def parts() -> bool:
    """The share of the ordinary models that a strict node refuses about a part of its people after
    the same models about all of them."""
    for n in (400, 1000, 4000):
        for part in PARTS:
            refused = [fit for fit in FITS if _is_refused_of_a_part(fit, part, n)]
            share = len(refused) / len(FITS)
            some = "; ".join(f"{fit['run']} {fit.get('model', '')}" for fit in refused)
            print(f"{share:.2f} of {len(FITS)} refused where {part}, {n} people a node: {some}")
    return True


def _is_refused_of_a_part(fit: dict[str, Any], part: str, n: int) -> bool:
    """Only because of the answer about all: the part alone is answered."""
    with tempfile.TemporaryDirectory() as folder:
        sites = [
            replace(site, state=Path(folder) / f"state {site.name}")
            for site in _sites(n, Path(folder))
        ]
        alone = [replace(site, state=Path(folder) / f"alone {site.name}") for site in sites]
        if _refusals(fit, sites) or _refusals(fit, alone, part):
            return False
        return "differencing" in _refusals(fit, sites, part)


# -- a hub that lies
ROUNDS = 32  # of a logistic model, at states of the hub's choice after the first


def hub() -> bool:
    """How many people a hub isolates that chooses the states of one approved logistic model: of
    whom one is nine tenths of a sum or of the difference of two; and of whom a linear combination
    of all sums of the study stands clear of all others, by three standard deviations. The latter
    takes a hub that knows all covariates but one; responses enter the sums by their products with
    the columns alone. The same is measured of the sums of an honest run, which no rule of the node
    can refuse."""
    rng = np.random.default_rng(1)
    for label, n in (("a node by itself", 844), ("a secure sum of three nodes", 3 * 844)):
        X = np.column_stack([np.ones(n), rng.normal(size=(n, 2)).clip(-3, 3) / 3])
        for checked in (False, True):
            two = len(_by_two_sums(X, checked=checked))
            every = _by_all_sums(X, checked=checked)
            when = "after" if checked else "before"
            print(f"{label}, {n} people, {when}: {two} by two sums, {every} by all", flush=True)
        for rounds_asked in (8, 16):
            some = _by_all_sums(X, checked=True, rounds_asked=rounds_asked)
            print(f"{label}, {n} people, {rounds_asked} rounds: {some} by all", flush=True)
        for share, intercept in (("a third", -1.0), ("one in 15", -3.5)):
            states = _honest_states(X, np.array([intercept, 3.0, -2.0]))
            some = int((_hat(X, states) > 0.9).sum())
            print(
                f"{label}, {n} people, an honest run, {share} ill, {len(states)} rounds: {some} "
                f"by all",
                flush=True,
            )
        responses = int((rules_of.leverage(X[:, 1:], None) > 0.9).sum())
        print(f"{label}, {n} people: {responses} responses by all sums", flush=True)
    return True


def _is_admitted(X: Any, beta: Any, *, checked: bool) -> bool:
    weights = glm.logistic_variance(X @ beta)
    most = rules_of.share(weights, None, 0.0)
    enough = most <= rules_of.MAX_ROUND_SHARE and weights.sum() >= glm.LEAST_VARIANCE
    return np.abs(beta).sum() <= 50 and (enough or not checked)


def _by_two_sums(X: Any, *, checked: bool, tries: int = 4000) -> set[int]:
    """A search for two states between which one person moves more than all others together: from
    random directions as steep as they may be, across the gap beside a person, then by small steps
    that do better."""
    rng, isolated = np.random.default_rng(2), set[int]()
    for _ in range(tries):
        direction = rng.normal(size=X.shape[1] - 1)
        slopes = direction / np.abs(direction).sum() * np.exp(rng.uniform(0, np.log(40)))
        along = np.sort(X[:, 1:] @ slopes)
        near = int(rng.geometric(0.3)) - 1  # beyond the others, people stand farther apart
        place = near if rng.random() < 0.5 else len(along) - 3 - near
        cuts = (along[place] + along[place + 1]) / 2, (along[place + 1] + along[place + 2]) / 2
        pair = [np.r_[-cut, slopes] for cut in cuts]
        for _ in range(5):
            moved = [beta + rng.normal(size=len(beta)) * 0.02 * np.abs(beta) for beta in pair]
            if _largest(X, moved)[0] > _largest(X, pair)[0]:
                pair = moved
        if all(_is_admitted(X, beta, checked=checked) for beta in pair):
            share, who = _largest(X, pair)
            isolated |= {who} if share > 0.9 else set()
    return isolated


def _largest(X: Any, pair: list[Any]) -> tuple[float, int]:
    """The largest part of the difference of two scores that is one person's, and whose."""
    moved = np.abs(_mean(X @ pair[0]) - _mean(X @ pair[1]))
    who = int(moved.argmax())
    return float(moved[who] / max(moved.sum(), 1e-300)), who


def _honest_states(X: Any, beta: Any) -> list[Any]:
    """The states of Newton's method for responses that follow a logistic model with `beta`."""
    ill = np.random.default_rng(4).random(len(X)) < _mean(X @ beta)
    states = [np.zeros(X.shape[1])]
    while len(states) < ROUNDS:
        mean = _mean(X @ states[-1])
        information = X.T @ (X * (mean * (1 - mean))[:, None])
        step = np.linalg.solve(information, X.T @ (ill - mean))
        if np.abs(step).max() < 1e-9 * max(1.0, np.abs(states[-1]).max()):
            break
        states.append(states[-1] + step)
    return states


def _by_all_sums(X: Any, *, checked: bool, tries: int = 5, rounds_asked: int = ROUNDS) -> int:
    """The most people whom a linear combination of all scores and information matrices of a run
    sets apart from the others, at a relative precision of 1e-9: whose hat value is above 0.9."""
    most, rng = 0, np.random.default_rng(3)
    for _ in range(tries):
        states = [np.zeros(X.shape[1])]
        while len(states) < rounds_asked:
            direction = rng.normal(size=X.shape[1] - 1)
            slopes = direction / np.abs(direction).sum() * np.exp(rng.uniform(0, np.log(25)))
            beta = np.r_[-rng.choice(X[:, 1:] @ slopes), slopes]
            if _is_admitted(X, beta, checked=checked):
                states.append(beta)
        most = max(most, int((_hat(X, states) > 0.9).sum()))
    return most


def _hat(X: Any, states: list[Any]) -> Any:
    pairs = [X[:, j] * X[:, k] for j in range(X.shape[1]) for k in range(j + 1)]
    sums = [column * _mean(X @ beta) for beta in states for column in X.T]
    sums += [column * glm.logistic_variance(X @ beta) for beta in states for column in pairs]
    Z = np.stack(sums, axis=1)
    U, sizes, _ = np.linalg.svd(Z / np.linalg.norm(Z, axis=0), full_matrices=False)
    return (U**2 * (sizes**2 / (sizes**2 + 1e-18))).sum(1)


def _mean(eta: Any) -> Any:
    return 1 / (1 + np.exp(-eta))


if __name__ == "__main__":
    measures = {
        "cost": cost,
        "refusals": refusals,
        "in_a_row": in_a_row,
        "parts": parts,
        "hub": hub,
    }
    wanted = sys.argv[1:] or list(measures)
    results = [measures[name]() for name in wanted]
    sys.exit(0 if all(results) else 1)
