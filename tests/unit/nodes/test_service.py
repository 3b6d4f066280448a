"""The node's policy against the study:
the stricter one applies, and each refusal names its rule."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from federation.messages import Query, Refusal, State, TaskId
from nodes import service
from nodes.session import NodeContext
from nodes.site import Policy, Site
from strategies import registry
from tests import federations

CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  g: {type: category, levels: [a, b]}
  h: {type: category, levels: [c, d], use: [alice]}
  y: {type: boolean}
""")
TABLE = pandas.DataFrame(
    {
        "id": np.arange(100),
        "g": np.where(np.arange(100) < 8, "a", "b"),
        "h": np.where(np.arange(100) < 50, "c", "d"),
        "y": np.arange(100) % 2,
    }
)
OPTIONS = {"run": "crosstab", "rows": "g", "columns": "y"}


def ask(
    tmp_path: Path,
    *,
    policy: dict[str, Any] | None = None,
    query: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    **study: Any,
) -> Any:
    site = federations.site_of(
        "n1",
        TABLE,
        CONTRACT,
        tmp_path,
        Policy(
            **({"min_nodes": 1, "modes": ("exact", "dp"), "hub_sees_cells": True} | (policy or {}))
        ),
    )
    study_ = federations.study_of({"a": options or OPTIONS}, **study)
    task = registry.plan(study_, CONTRACT)["a"]
    full = Query(
        study_, CONTRACT.hash, 1, ("n1", "n2", "n3"), {TaskId("a"): task.analysis.start(task)}
    )
    reply = service.answer(replace(full, **(query or {})), NodeContext(site), federations.NOW)
    return reply.answers[TaskId("a")]


def test_an_admitted_study_is_answered(tmp_path: Path) -> None:
    part = ask(tmp_path)
    assert part.cells["people"].tolist() == [100] and part.sums["counts"].sum() == 100


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("participants", {"query": {"nodes": ("n2", "n3", "n4")}}),
        ("participants", {"policy": {"min_nodes": 3}, "query": {"nodes": ("n1", "n2", "n2")}}),
        ("min_nodes", {"policy": {"min_nodes": 4}}),
        ("min_nodes", {"min_nodes": 4}),
        ("contract", {"query": {"contract_hash": "another"}}),
        ("authorisation", {"authorisation": {"reference": "DR-1", "expires": "2026-11-23"}}),
        ("purpose", {"policy": {"purposes": ("surveillance",)}}),
        ("coordinator", {"policy": {"coordinators": ("alice",)}, "coordinator": "mallory"}),
        ("analysis", {"policy": {"analyses": ("glm", "cox")}}),
        ("column", {"options": {"run": "crosstab", "rows": "h", "columns": "y"}}),
        ("cohort_size", {"policy": {"min_cell": 101}}),
        ("cohort_size", {"cohort": {"where": "g = 'a'"}}),
        ("cohort_complement", {"cohort": {"where": "g = 'b'"}}),
        ("small_cells", {"policy": {"hub_sees_cells": False}}),
        ("study", {"query": {"states": {TaskId("a"): State(), TaskId("b"): State()}}}),
    ],
)
def test_a_no_names_its_rule(rule: str, change: dict[str, Any], tmp_path: Path) -> None:
    if rule == "study":
        site = federations.site_of("n1", TABLE, CONTRACT, tmp_path)
        query = Query(
            federations.study_of({"a": OPTIONS}), CONTRACT.hash, 1, ("n1",), {TaskId("b"): State()}
        )
        answer = service.answer(query, NodeContext(site), federations.NOW).answers[TaskId("b")]
    else:
        answer = ask(tmp_path, **change)
    assert isinstance(answer, Refusal) and answer.rule == rule and len(answer.remedy) > 20


def test_alice_may_use_what_others_may_not(tmp_path: Path) -> None:
    assert not isinstance(
        ask(
            tmp_path, options={"run": "crosstab", "rows": "h", "columns": "y"}, coordinator="alice"
        ),
        Refusal,
    )


def test_the_last_day_of_an_authorisation_counts(tmp_path: Path) -> None:
    assert not isinstance(
        ask(
            tmp_path, authorisation={"reference": "DR-1", "expires": date(2026, 11, 24).isoformat()}
        ),
        Refusal,
    )


def test_the_stricter_min_cell_wins_either_way(tmp_path: Path) -> None:
    for site, study in ((11, 101), (101, 11)):
        answer = ask(
            tmp_path, policy={"min_cell": site}, privacy={"mode": "exact", "min_cell": study}
        )
        assert isinstance(answer, Refusal) and answer.rule == "cohort_size"


def test_a_terse_site_says_no_and_no_more(tmp_path: Path) -> None:
    answer = ask(tmp_path, policy={"terse": True, "purposes": ()})
    assert (
        isinstance(answer, Refusal) and answer.rule == "refused" and "purpose" not in answer.remedy
    )


def test_a_task_addressed_to_another_node_is_not_answered(tmp_path: Path) -> None:
    site = federations.site_of("n1", TABLE, CONTRACT, tmp_path)
    query = Query(
        federations.study_of({"a": OPTIONS}),
        CONTRACT.hash,
        1,
        ("n1", "n2"),
        {TaskId("a", "n2"): State()},
    )
    assert service.answer(query, NodeContext(site), federations.NOW).answers == {}


def test_a_source_that_is_gone_is_a_refusal_without_its_path(tmp_path: Path) -> None:
    site: Site = federations.site_of("n1", TABLE, CONTRACT, tmp_path)
    (tmp_path / "n1.csv").unlink()
    task = registry.plan(study := federations.study_of({"a": OPTIONS}), CONTRACT)["a"]
    query = Query(study, CONTRACT.hash, 1, ("n1",), {TaskId("a"): task.analysis.start(task)})
    answer = service.answer(query, NodeContext(site), federations.NOW).answers[TaskId("a")]
    assert isinstance(answer, Refusal) and answer.rule == "source" and "n1.csv" not in str(answer)
