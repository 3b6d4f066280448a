"""Several versions of one dataset at a node: each study is answered on its own, all from one
budget."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation import audit, errors
from federation.cli.actions import node_data, node_setup, simulate
from federation.contract import Contract
from federation.messages import NoisedAnswer, Part, Query, Refusal, TaskId
from federation.study import Study
from nodes import dataset_versions, ledger, service, setup, source_checks, state_folder
from nodes import site as sites
from nodes.dataset_versions import MAX_LINE
from nodes.session import NodeContext
from nodes.site import Dataset, Policy, Site
from strategies import registry
from tests import federations

POLICY = Policy(min_nodes=1, modes=("exact", "dp"), max_epsilon=5, hub_sees_cells=True)
FIRST = """dataset: people
version: 1
person: id
columns:
  id: {type: string}
  age: {type: number, range: [0, 100]}
"""
SECOND = FIRST.replace("version: 1", "version: 2").replace("[0, 100]", "[0, 110]") + (
    "  ill: {type: boolean}\n"
)
DESCRIBED = {"a": {"run": "describe", "columns": ["age"], "bins": 1}}  # one grid in both versions


def rows(folder: Path, name: str, ages: Sequence[float], first: int = 0) -> str:
    lines = [f"p{first + row},{age},{row % 2}" for row, age in enumerate(ages)]
    path = folder / name
    path.write_text("\n".join(["id,age,ill", *lines]) + "\n")
    return str(path)


def site_of(
    folder: Path, first: str = FIRST, second: str = SECOND, persons: Mapping[str, str] | None = None
) -> Site:
    """A node with two versions, read as from node.yaml."""
    for name, text in {"1.yaml": first, "2.yaml": second}.items():
        (folder / name).write_text(text)
    rows(folder, "1.csv", [40.0] * 200)
    rows(folder, "2.csv", [60.0] * 200)
    register = f"persons: {dict(persons)}\n" if persons else ""
    (folder / "node.yaml").write_text(
        "node: n\n"
        f"policy: {POLICY.model_dump(mode='json', include={'min_nodes', 'modes', 'max_epsilon'})}\n"
        f"{register}datasets:\n"
        "  people: {contract: 1.yaml, source: 1.csv, modes: [exact, dp]}\n"
        "  people@2: {contract: 2.yaml, source: 2.csv, modes: [exact, dp]}\n"
    )
    site = sites.load(folder / "node.yaml")
    return replace(site, policy=replace_policy(site.policy))


def replace_policy(policy: Policy) -> Policy:
    return policy.model_copy(update={"hub_sees_cells": True})


def contracts_of(site: Site) -> dict[int, Contract]:
    return {dataset.contract.version: dataset.contract for dataset in site.entries.values()}


def study_of(title: str = "t", mode: str = "exact", **more: Any) -> Study:
    privacy = {"mode": "dp", "epsilon": 1} if mode == "dp" else {"mode": "exact"}
    return federations.study_of(DESCRIBED, privacy=privacy, title=title, **more)


def answered(context: NodeContext, study: Study, contract: Contract) -> Any:
    task = registry.plan(study, contract)["a"]
    states = {TaskId("a"): task.analysis.start(task)}
    query = Query(study, contract.hash, 1, ("n",), states)
    return service.answer(query, context, federations.NOW).answers[TaskId("a")]


def test_a_study_is_answered_from_the_version_whose_contract_it_uses(tmp_path: Path) -> None:
    site, study = site_of(tmp_path), study_of()
    first, second = contracts_of(site)[1], contracts_of(site)[2]
    means = [
        federations.result(federations.run(study, contract, [replace(site, state=None)])).tables
        for contract in (first, second)
    ]
    assert [tables["numbers"].rows[0]["mean"] for tables in means] == [40.0, 60.0]


def test_one_study_under_two_contracts_keeps_two_sessions(tmp_path: Path) -> None:
    """Both runs have the hash of one study: a session kept by that hash alone would answer the
    second from the rows of the first."""
    site, study = site_of(tmp_path), study_of()
    context, contracts = NodeContext(site), contracts_of(site)
    first, second = (answered(context, study, contracts[version]) for version in (1, 2))
    assert isinstance(first, Part) and isinstance(second, Part)
    assert any((first.sums[name] != second.sums[name]).any() for name in first.sums)
    again = answered(context, study, contracts[1])
    assert all((again.sums[name] == first.sums[name]).all() for name in first.sums)


def granted(site: Site, studies: int) -> None:
    rho = studies * study_of(mode="dp").privacy.rho
    books = state_folder.open_ledger(site.state)
    ledger.grant(books, site.account("people", federations.NOW.year), rho, by="dpo", at="now")


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_versions_draw_on_one_budget(tmp_path: Path, order: Sequence[int]) -> None:
    site = site_of(tmp_path)
    for dataset in site.entries.values():
        assert site.state is not None
        source_checks.record(site.state, "people", dataset, passed=True)
    granted(site, 1)
    context, contracts = NodeContext(site), contracts_of(site)
    first, second = (
        answered(context, study_of(f"t{version}", "dp"), contracts[version]) for version in order
    )
    assert isinstance(first, NoisedAnswer)
    assert isinstance(second, Refusal) and second.rule == "budget"


RENAMED = SECOND.replace("person: id", "person: key").replace("  id: {", "  key: {")


def test_versions_with_another_person_column_need_a_register(tmp_path: Path) -> None:
    with pytest.raises(errors.SiteError, match=r"persons: \{people: id\}"):
        site_of(tmp_path, second=RENAMED)
    site = site_of(tmp_path, second=RENAMED, persons={"people": "id"})
    accounts = [
        site.under("people", contract.hash).account("people", 2026).shared
        for contract in contracts_of(site).values()
    ]
    assert accounts[0] == accounts[1] == ("", "id", 2026)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (FIRST, "write `people@1:`"),
        (FIRST.replace("version: 1", "version: 2"), "have the same columns"),
        (SECOND.replace("version: 2", "version: 3"), "write `people@3:`"),
        (SECOND.replace("dataset: people", "dataset: others"), "use that name"),
        (SECOND.replace("person: id", "unit: visit"), "differ in `unit` or `person`"),
    ],
)
def test_versions_that_cannot_stand_side_by_side_are_refused(
    tmp_path: Path, second: str, words: str
) -> None:
    with pytest.raises(errors.SiteError, match=words):
        site_of(tmp_path, second=second)


NEARLY = [40.0] * 199


def test_answers_on_two_versions_are_compared_with_each_other(tmp_path: Path) -> None:
    """The second version lacks one person of the first: the two answers would show them."""
    site = site_of(tmp_path)
    rows(tmp_path, "2.csv", NEARLY)
    context, contracts = NodeContext(site), contracts_of(site)
    assert isinstance(answered(context, study_of(), contracts[1]), Part)
    refused = answered(context, study_of(), contracts[2])
    assert isinstance(refused, Refusal) and refused.rule == "differencing"


@pytest.mark.parametrize("key", ["{type: integer}", "{type: string, missing: ['0']}"])
def test_versions_that_read_the_key_otherwise_give_no_exact_answer(
    tmp_path: Path, key: str
) -> None:
    site = site_of(tmp_path, second=SECOND.replace("id: {type: string}", f"id: {key}"))
    for contract in contracts_of(site).values():
        refused = answered(NodeContext(site), study_of(), contract)
        assert isinstance(refused, Refusal) and refused.rule == "differencing"
    private = service.admit_study(
        study_of(mode="dp"), contracts_of(site)[1], 1, site, federations.NOW
    )
    assert private is None


def test_versions_that_name_the_key_by_another_column_give_no_exact_answer(tmp_path: Path) -> None:
    """The register of `persons:` gives them one budget; it does not say that the keys are equal."""
    second = SECOND.replace("person: id", "person: number").replace("  id:", "  number:")
    site = site_of(tmp_path, second=second, persons={"people": "id"})
    for contract in contracts_of(site).values():
        refused = answered(NodeContext(site), study_of(), contract)
        assert isinstance(refused, Refusal) and refused.rule == "differencing"
        assert service.admit_study(study_of(mode="dp"), contract, 1, site, federations.NOW) is None


def test_a_question_about_another_version_is_counted_as_another_question(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    context, contracts = NodeContext(site), contracts_of(site)
    for version, numbers in ((1, 1), (1, 1), (2, 2)):
        assert isinstance(answered(context, study_of(), contracts[version]), Part)
        counted = list(ledger.remembered(context.ledger, "functionals", "people"))
        assert len(counted) == numbers


def test_two_contracts_of_one_version_are_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.SiteError, match="two different contracts of people have version 2"):
        site_of(tmp_path, first=SECOND.replace("110", "111"))


# -- a contract that no version has
def test_a_refused_contract_is_shown_with_its_differences(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    third = federations.contract_of(
        SECOND.replace("version: 2", "version: 3").replace("110", "120")
    )
    refusal = service.of_another_contract(study_of(), site, third)
    assert refusal.rule == "contract"
    assert "version 2 of this node, column age: range was [0.0, 120.0], and is [0.0, 110.0]" in str(
        refusal
    )
    unknown = service.of_another_contract(study_of(), site, None)
    assert "this node has version 2, 1" in str(unknown)


@pytest.mark.parametrize(
    "stored", ["", "[]", "{", '{"contracts": {"people": 5}}', '{"contracts": {"people": "{}"}}']
)
def test_a_contract_that_is_not_the_signed_one_is_as_none(stored: str) -> None:
    contract = federations.contract_of(FIRST)
    text = json.dumps({"contracts": {"people": contract.canonical()}})
    assert dataset_versions.contract_in(text, "people", contract.hash) == contract
    assert dataset_versions.contract_in(text, "people", "0" * 64) is None
    assert dataset_versions.contract_in(stored, "people", contract.hash) is None


def test_a_long_difference_is_shortened(tmp_path: Path) -> None:
    levels = ", ".join(f"level{number}" for number in range(500))
    more = "".join(f"  c{number}: {{type: boolean}}\n" for number in range(20))
    other = federations.contract_of(
        SECOND + f"  z: {{type: category, levels: [{levels}]}}\n" + more
    )
    refusal = service.of_another_contract(study_of(), site_of(tmp_path), other)
    assert "and 16 more" in refusal.remedy and len(refusal.remedy) < 6 * MAX_LINE


# -- a contract's life
@pytest.fixture
def node(tmp_path: Path) -> Path:
    return setup.init(tmp_path / "node", "lyon")


def add(node: Path, text: str, ages: Sequence[float] = (40.0,) * 20, **more: Any) -> None:
    contract = node.parent / "new.yaml"
    contract.write_text(text)
    source = rows(node.parent, f"{len(text)}.csv", ages)
    node_setup.add_dataset(node, contract, source, None, None, None, **more)


def labels(node: Path) -> list[str]:
    return list(sites.load(node).entries)


def test_versions_are_added_replaced_and_removed_one_by_one(
    node: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = node.read_text()
    add(node, FIRST)
    add(node, SECOND)
    assert labels(node) == ["people@2", "people@1"]
    printed = capsys.readouterr().out
    assert "column ill is new" in printed and "They draw on one budget" in printed
    third = SECOND.replace("version: 2", "version: 3").replace("110", "105")
    with pytest.raises(errors.SiteError, match="Give --version with one of 2, 1"):
        add(node, third, replace=True)
    add(node, third, replace=True, version=1)
    assert labels(node) == ["people@3", "people@2"]
    with pytest.raises(errors.SiteError, match="its versions are people@3, people@2"):
        node_setup.remove_dataset(node, "people")
    node_setup.remove_dataset(node, "people@2")
    assert labels(node) == ["people"]
    node_setup.remove_dataset(node, "people")
    assert node.read_text().replace("datasets:\n", "datasets: {}\n") == before
    events = [entry["event"] for entry in audit.entries(node_setup.audit_path(node))]
    assert events == [
        "dataset added",
        "dataset added",
        "dataset replaced",
        "dataset removed",
        "dataset removed",
    ]


def test_a_version_is_added_only_if_its_rows_keep_its_contract(node: Path) -> None:
    add(node, FIRST)
    before = node.read_text()
    with pytest.raises(errors.DataError, match="nothing is written"):
        add(node, SECOND, ages=(400.0,))
    with pytest.raises(errors.SiteError, match="dataset replace"):
        add(node, FIRST)
    with pytest.raises(errors.SiteError, match="raise `version:`"):
        add(node, SECOND.replace("version: 2", "version: 1"))
    assert node.read_text() == before


def test_a_check_is_of_one_version_and_stays_when_another_is_added(node: Path) -> None:
    add(node, FIRST)
    add(node, SECOND)
    site = sites.load(node)
    private = study_of(mode="dp")
    checked = {
        version: service.unchecked(private, site.under("people", contract.hash)) is None
        for version, contract in contracts_of(site).items()
    }
    assert checked == {1: True, 2: True}
    rows(node.parent, f"{len(SECOND)}.csv", (400.0,) * 20)
    with pytest.raises(errors.DataError, match="people@2"):
        node_data.check(node, "people", "json")
    refused = service.unchecked(private, site.under("people", contracts_of(site)[2].hash))
    assert refused is not None and refused.rule == "unchecked"
    assert service.unchecked(private, site.under("people", contracts_of(site)[1].hash)) is None


def test_simulate_reads_the_version_of_the_study(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    for version, contract in contracts_of(site).items():
        (dataset,) = simulate._named([f"n={tmp_path / 'node.yaml'}"], contract).values()
        assert dataset.contract.version == version
        assert Path(dataset.source).name == f"{version}.csv"
    other = federations.contract_of(FIRST.replace("100", "99"))
    with pytest.raises(errors.InputError, match="column age: range was"):
        simulate._named([f"n={tmp_path / 'node.yaml'}"], other)


def test_a_site_with_one_version_of_each_dataset_is_as_it_was(tmp_path: Path) -> None:
    contract = federations.contract_of(FIRST)
    site = Site("n", {"people": Dataset(contract, "x.csv")}, POLICY)
    assert site.under("people", contract.hash) is site and list(site.entries) == ["people"]
    context = NodeContext(site)
    assert context.under("people", "0" * 64) is context
