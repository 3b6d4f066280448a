"""One person, one account: datasets about the same people share a budget at a node.

The cost to one person over all nodes is stated wherever someone decides or reads."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from federation import errors
from federation.messages import NoisedAnswer, Query, Refusal, TaskId
from federation.privacy import accounting
from federation.privacy.accounting import Gaussian
from nodes import ledger, service, state_folder
from nodes import site as sites
from nodes.ledger import Account, Claim
from nodes.session import NodeContext
from nodes.site import Dataset, Policy, Site
from strategies import registry
from tests import federations

NOW = "2026-11-24T12:00:00+00:00"
POLICY = Policy(min_nodes=1, max_epsilon=5, hub_sees_cells=True)


def contract_of(
    dataset: str, person: str = "patient", unit: str = "person", more: str = ""
) -> federations.Contract:
    key = f"person: {person}\n" if person else ""
    column = f"  {person}: {{type: string}}\n" if person else ""
    return federations.contract_of(
        f"dataset: {dataset}\nversion: 1\nunit: {unit}\n{key}{more}columns:\n{column}  g: {{type:"
        f" category, levels: [a, b]}}\n  y: {{type: boolean}}\n"
    )


def site_of(
    folder: Path, *contracts: federations.Contract, persons: dict[str, str] | None = None
) -> Site:
    rng = np.random.default_rng(1)
    datasets = {}
    for contract in contracts:
        table = pandas.DataFrame(
            {
                contract.person or "x": [f"p{i}" for i in range(100)],
                "g": rng.choice(["a", "b"], 100),
                "y": rng.integers(0, 2, 100),
            }
        )
        table.to_csv(folder / f"{contract.dataset}.csv", index=False)
        datasets[contract.dataset] = Dataset(contract, str(folder / f"{contract.dataset}.csv"))
    return Site("n", datasets, POLICY, state=folder / "state", persons=persons or {})


def answered(site: Site, dataset: str, title: str = "t") -> bool:
    """A study of epsilon 1 about a dataset."""
    study = federations.study_of(
        {"a": {"run": "crosstab", "rows": "g", "columns": "y"}},
        dataset=dataset,
        privacy={"mode": "dp", "epsilon": 1},
        title=title,
    )
    contract = site.datasets[dataset].contract
    task = registry.plan(study, contract)["a"]
    reply = service.answer(
        Query(study, contract.hash, 1, ("n",), {TaskId("a"): task.analysis.start(task)}),
        NodeContext(site),
        federations.NOW,
    )
    answer = reply.answers[TaskId("a")]
    assert isinstance(answer, NoisedAnswer) or (
        isinstance(answer, Refusal) and answer.rule == "budget"
    ), answer
    return isinstance(answer, NoisedAnswer)


def grant(site: Site, dataset: str, epsilon: float) -> None:
    ledger.grant(
        state_folder.open_ledger(site.state),
        site.account(dataset, 2026),
        accounting.rho_for(epsilon, 1e-6),
        by="dpo",
        at=NOW,
    )


def test_a_charge_against_one_dataset_counts_for_all_that_are_about_the_same_people(
    tmp_path: Path,
) -> None:
    site = site_of(tmp_path, contract_of("dialysis"), contract_of("transplants"))
    grant(site, "dialysis", 1.0)
    assert site.datasets_sharing_account("dialysis") == ["transplants"]
    assert answered(site, "transplants"), (
        "the grant is for the people, whatever table says something of them"
    )
    assert not answered(site, "dialysis") and not answered(site, "transplants", "again")
    grant(site, "transplants", 1.0)
    assert answered(site, "dialysis") and not answered(site, "transplants", "again")
    ledger.verify(state_folder.open_ledger(site.state))


@pytest.mark.parametrize(
    ("contracts", "persons"),
    [
        ((contract_of("dialysis"), contract_of("staff")), {"staff": "employees"}),
        ((contract_of("dialysis"), contract_of("staff", person="employee")), {}),
        (
            (
                contract_of("visits", person="", unit="visit"),
                contract_of("stays", person="", unit="visit"),
            ),
            {},
        ),
    ],
    ids=["said to be others", "another key", "no key"],
)
def test_other_people_have_an_account_of_their_own(
    contracts: tuple[federations.Contract, ...], persons: dict[str, str], tmp_path: Path
) -> None:
    site = site_of(tmp_path, *contracts, persons=persons)
    first, second = site.datasets
    assert site.datasets_sharing_account(first) == []
    grant(site, first, 1.0)
    assert not answered(site, second) and answered(site, first)


@pytest.mark.parametrize(
    ("costs", "persons"),
    [
        (contract_of("costs", person="insured"), {"dialysis": "patients", "costs": "patients"}),
        (contract_of("costs", person="insured"), {"costs": "patient"}),
        (contract_of("costs", unit="household"), {}),
        (contract_of("costs", person="", unit="visit"), {"costs": "patient"}),
    ],
    ids=["both by name", "one by the other's key", "another unit, same key", "no key, by name"],
)
def test_datasets_of_one_register_share_an_account(
    costs: federations.Contract, persons: dict[str, str], tmp_path: Path
) -> None:
    site = site_of(tmp_path, contract_of("dialysis"), costs, persons=persons)
    grant(site, "dialysis", 1.0)
    assert answered(site, "costs") and not answered(site, "dialysis")


def test_node_yaml_says_whose_key_a_dataset_has(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "dataset: d\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n"
    )
    text = "node: n\ndatasets:\n  d: {contract: c.yaml, source: d.csv}\n"
    (tmp_path / "node.yaml").write_text(text + "persons: {d: patients}\n")
    assert sites.load(tmp_path / "node.yaml").account("d", 2026) == Account(
        "d", "person", 2026, "patients"
    )
    (tmp_path / "node.yaml").write_text(text)
    assert sites.load(tmp_path / "node.yaml").account("d", 2026).register == "id"
    (tmp_path / "node.yaml").write_text(text + "persons: {e: patients}\n")
    with pytest.raises(errors.SiteError, match="no dataset 'e'; the datasets are d"):
        sites.load(tmp_path / "node.yaml")


def test_what_was_granted_and_charged_before_registers_were_kept_still_counts(
    tmp_path: Path,
) -> None:
    budget_ledger = ledger.open_ledger(tmp_path / "ledger.sqlite")
    before, now = (
        Account("dialysis", "person", 2026),
        Account("dialysis", "person", 2026, "patient"),
    )
    ledger.grant(budget_ledger, before, 100, by="dpo", at=NOW)
    # 60 pico-rho
    event = Gaussian(accounting.Fraction(1), accounting.Fraction(accounting.PICO, 2 * 60))
    assert ledger.charge(budget_ledger, before, Claim("one", "s", 1000, {"x": event}), NOW) is None
    assert ledger.granted(budget_ledger, now) == 100 and ledger.remaining(budget_ledger, now) == 40
    assert ledger.charge(budget_ledger, now, Claim("two", "s", 1000, {"x": event}), NOW) is not None
    ledger.grant(budget_ledger, now, 30, by="dpo", at=NOW)
    assert ledger.charge(budget_ledger, now, Claim("two", "s", 1000, {"x": event}), NOW) is None
    ledger.verify(budget_ledger)


@pytest.mark.parametrize("granted", ["dialysis", "transplants"])
def test_people_with_a_budget_get_no_exact_answer_under_another_name(
    granted: str, tmp_path: Path
) -> None:
    site = site_of(tmp_path, contract_of("dialysis"), contract_of("transplants"))
    site = replace(site, policy=POLICY.model_copy(update={"modes": ("exact", "dp")}))
    assert exact_rule(site) != "privacy"
    grant(site, granted, 1.0)
    assert exact_rule(site) == "privacy"
    open_site = {
        name: replace(dataset, modes=("exact", "dp")) for name, dataset in site.datasets.items()
    }
    assert exact_rule(replace(site, datasets=open_site)) != "privacy", "its producer wrote exact"


def exact_rule(site: Site) -> str:
    """The rule by which an exact study about dialysis is refused, if it is."""
    study = federations.study_of(
        {"a": {"run": "crosstab", "rows": "g", "columns": "y"}},
        dataset="dialysis",
        privacy={"mode": "exact", "min_cell": 1},
    )
    contract = site.datasets["dialysis"].contract
    task = registry.plan(study, contract)["a"]
    query = Query(study, contract.hash, 1, ("n",), {TaskId("a"): task.analysis.start(task)})
    answer = service.answer(query, NodeContext(site), federations.NOW).answers[TaskId("a")]
    return answer.rule if isinstance(answer, Refusal) else ""


# -- over all nodes
@pytest.mark.parametrize(
    ("stated", "nodes", "factor"), [(None, 4, 4), (1, 4, 1), (2, 4, 2), (9, 4, 4)]
)
def test_a_contract_that_does_not_say_counts_every_node(
    stated: int | None, nodes: int, factor: int
) -> None:
    contract = contract_of("d", more=f"nodes_per_person: {stated}\n" if stated else "")
    assert contract.max_nodes_of_person(nodes) == factor


@pytest.mark.parametrize(("stated", "factor"), [("", 3), ("nodes_per_person: 2\n", 2)])
def test_a_result_states_what_the_study_costs_a_person_over_all_nodes(
    stated: str, factor: int, tmp_path: Path
) -> None:
    contract = contract_of("people", more=stated)
    table = pandas.DataFrame(
        {"patient": [f"p{i}" for i in range(600)], "g": ["a", "b"] * 300, "y": [0, 1, 1] * 200}
    )
    policy = POLICY.model_copy(update={"max_delta": 1e-3})
    sites = federations.sites_of(
        table, [f"{i % 3}" for i in range(600)], contract, tmp_path, policy
    )
    study = federations.study_of(
        {"a": {"run": "crosstab", "rows": "g", "columns": "y"}},
        privacy={"mode": "dp", "epsilon": 1},
    )
    document = federations.document(federations.run(study, contract, sites))
    privacy = document.analyses["a"].privacy
    assert privacy["nodes_per_person"] == factor
    total = privacy["epsilon_per_person_over_all_nodes"]
    assert (
        total == pytest.approx(accounting.epsilon(factor * study.privacy.rho, study.privacy.delta))
        and 1 < total < factor
    )
    json.dumps(dict(privacy))


def test_who_approves_and_who_plans_is_told_what_the_study_costs_a_person_over_all_nodes(
    tmp_path: Path,
) -> None:
    from federation.cli.actions import approvals
    from simulations import planning

    site = site_of(tmp_path, contract_of("dialysis"), contract_of("transplants"))
    study = federations.study_of(
        {"a": {"run": "crosstab", "rows": "g", "columns": "y"}},
        dataset="dialysis",
        privacy={"mode": "dp", "epsilon": 1},
        min_nodes=3,
    )
    here, over, beside = approvals.costs(study, site, 4)
    total = accounting.epsilon(4 * study.privacy.rho, study.privacy.delta)
    assert "epsilon 1," in here and f"epsilon {total:.3f}" in over
    assert (
        "at 4 of them (the contract gives no nodes_per_person" in over and "transplants" in beside
    )
    planned = planning.Plan(study, site.datasets["dialysis"].contract, [], 4, [], {})
    assert planning.over_nodes(planned) == {
        "nodes_per_person": 4,
        "nodes_per_person_in_contract": None,
        "epsilon_per_person_over_all_nodes": pytest.approx(total),
    }


# -- commitments
def test_what_a_ledger_commits_to_cannot_be_found_by_guessing(tmp_path: Path) -> None:
    """Of a number with a few thousand likely values, a hash without a salt would tell which it
    is."""
    budget_ledger, account = (
        ledger.open_ledger(tmp_path / "ledger.sqlite"),
        Account("d", "person", 2026, "id"),
    )
    guesses = [str(number).encode() for number in range(2000)]
    ledger.grant(budget_ledger, account, 100, by="dpo", at=NOW)
    ledger.charge(
        budget_ledger,
        account,
        Claim(
            "one",
            "s",
            1000,
            {"x": Gaussian(accounting.Fraction(1), accounting.Fraction(accounting.PICO))},
        ),
        NOW,
    )
    ledger.store(budget_ledger, "one", guesses[1234], NOW)
    ledger.remember(budget_ledger, "cohort", account, "s", "two", guesses[77], NOW)
    committed = [
        entry.event["salted"]
        for entry in ledger.history(budget_ledger)
        if entry.kind in ("store", "cohort")
    ]
    assert len(committed) == 2 and not {
        hashlib.sha256(guess).hexdigest() for guess in guesses
    } & set(committed)
    assert (
        ledger.stored(budget_ledger, "one") == guesses[1234]
        and ledger.verify(budget_ledger).seq == 4
    )
    budget_ledger.connection.execute("UPDATE answers SET salt = ?", (b"x" * 32,))
    with pytest.raises(errors.LedgerError, match="was changed"):
        ledger.verify(budget_ledger)


def test_no_head_of_a_ledger_leaves_in_the_phases_of_a_secure_sum(tmp_path: Path) -> None:
    from aggregator import secure_sum
    from simulations import local

    contract = contract_of("people")
    table = pandas.DataFrame(
        {"patient": [f"p{i}" for i in range(600)], "g": ["a", "b"] * 300, "y": [0, 1, 1] * 200}
    )
    sites = federations.sites_of(
        table, [f"{i % 3}" for i in range(600)], contract, tmp_path, local.SIMULATED
    )
    study = federations.study_of(
        {"a": {"run": "crosstab", "rows": "g", "columns": "y"}},
        privacy={"mode": "dp", "epsilon": 1, "secure_sum": True, "noise": "distributed"},
    )
    send, seen = local.send_of(local.contexts_of(sites), federations.NOW), list[object]()

    def listening(queries: object) -> object:
        replies = send(queries)  # type: ignore[arg-type]
        seen.extend(reply.head for reply in replies)
        return replies

    outcome = federations.run(
        study,
        contract,
        sites,
        secure_sum.ask_of(listening, lambda study: registry.plan(study, contract)),
    )  # type: ignore[arg-type]
    assert federations.result(outcome) and len(seen) == 15 and set(seen) == {None}
    assert replace(sites[0], persons={}).account("people", 2026).register == "patient"
