"""`hdh study plan` of a linked study: the rules of each party, before anyone is asked."""

from __future__ import annotations

import json

import pytest

from federation.cli.actions import plan as action
from tests.linkage import two_holders

POLICY = {
    "lyon": (
        "links: {with: [insurer], helpers: [casd], modes: [exact, dp]}, min_nodes: 3, modes:"
        " [exact, dp]"
    ),
    "cnam": (
        "links: {with: [register], helpers: [casd], modes: [dp]}, min_nodes: 3, modes: [exact, dp]"
    ),
    "casd": "links: {helps: true}, min_nodes: 3, modes: [exact, dp]",
}
DATASET = {"lyon": "register", "cnam": "insurer"}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "register.yaml").write_text(two_holders.REGISTER)
    (tmp_path / "insurer.yaml").write_text(two_holders.INSURER)
    (tmp_path / "study.yaml").write_text(two_holders.STUDY)
    paths = []
    for name, policy in POLICY.items():
        (tmp_path / name).mkdir()
        held = DATASET.get(name)
        entry = f"{held}: {{contract: ../{held}.yaml, source: a.csv, people: 900}}" if held else ""
        path = tmp_path / name / "node.yaml"
        path.write_text(f"node: {name}\ndatasets: {{{entry}}}\npolicy: {{{policy}}}\n")
        paths.append(path)
    return tmp_path / "study.yaml", paths


def planned(files, capsys, **changes):
    study, paths = files
    text = study.read_text()
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    study.write_text(text)
    action.plan(study, None, paths, [], "json")
    return {node["node"]: node for node in json.loads(capsys.readouterr().out)["nodes"]}


def test_each_party_says_whether_it_takes_part_and_why_not(files, capsys):
    nodes = planned(files, capsys)
    assert not nodes["lyon"]["refuses"]
    assert not nodes["casd"]["refuses"]
    assert "links people in mode dp only" in str(nodes["cnam"]["refuses"])
    assert nodes["lyon"]["people"] == 900


def test_another_helper_is_refused_by_both_holders(files, capsys):
    nodes = planned(files, capsys, helper=("helper: casd", "helper: insee"))
    assert "insee" in str(nodes["lyon"]["refuses"])
    assert "insee" in str(nodes["cnam"]["refuses"])


def test_in_mode_dp_a_holder_without_a_budget_says_so_and_keeps_no_trace(files, capsys):
    dp = ("privacy: {mode: exact}", "privacy: {mode: dp, epsilon: 1}")
    nodes = planned(files, capsys, mode=dp)
    assert "budget of register" in str(nodes["lyon"]["refuses"])
    assert "budget of insurer" in str(nodes["cnam"]["refuses"])
    assert not (files[1][0].parent / "state").exists()
