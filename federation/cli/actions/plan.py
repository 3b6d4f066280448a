"""`hdh study plan`: what a study would cost, what would be left, who would refuse, and how wide its intervals would be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aggregator import rounds
from aggregator.report import words
from federation import client, credentials, errors
from federation.cli.actions import study_files as studies
from federation.contract import Contract
from federation.messages import Refusal
from federation.privacy import accounting
from federation.privacy.accounting import Cost
from federation.results import Row
from federation.study import Privacy, Study
from nodes import ledger, service, state_folder
from nodes import site as sites
from nodes.ledger import Account
from nodes.site import Site
from strategies import budget, registry
from strategies.protocol import AnyTask

SCALES = ((0.5, "half"), (1.0, "this"), (2.0, "double"))


@dataclass(frozen=True)
class Planned:
    """A node of the plan. `left` in pico-rho before the study, where its ledger is at hand."""

    name: str
    people: int | None
    left: int | None = None
    refusal: Refusal | None = None
    waits: bool = False  # for its staff's word


def plan(
    path: Path,
    contract: Path | None,
    node_files: Sequence[Path],
    sizes: Sequence[str],
    output: str,
    *,
    at_hub: bool = False,
    keys: Path | None = None,
) -> None:
    made, agreed, source = studies.load(path, contract)
    if at_hub and made.coordinator == client.LOCAL:  # as it would be submitted
        made = made.model_copy(update={"coordinator": credentials.load(keys or client.home()).name})
    tasks = registry.plan(made, agreed, source)
    nodes = [
        *_from_sizes(sizes),
        *_from_files(made, agreed, node_files, len(sizes) + len(node_files)),
        *(_from_hub(path, contract, keys) if at_hub else ()),
    ]
    rounds.check_secure_sum(made, max(len(nodes), made.min_nodes))
    forecasts = _forecasts(made, agreed, tasks, nodes)
    if output == "json":
        print(
            json.dumps(
                _document(made, agreed, tasks, nodes, forecasts), indent=2, ensure_ascii=False
            )
        )
    else:
        _show(made, agreed, tasks, nodes, forecasts, Console(highlight=False))


def _from_sizes(sizes: Sequence[str]) -> list[Planned]:
    found = []
    for text in sizes:
        name, _, number = text.partition("=")
        if not name or not number.replace("_", "").isdecimal() or int(number) < 1:
            raise errors.InputError(
                f"--people {text!r}: write it as NAME=N, as in --people limoges=1700"
            )
        found.append(Planned(name, int(number)))
    return found


def _from_hub(path: Path, contract: Path | None, keys: Path | None) -> list[Planned]:
    """What the nodes at the hub say themselves."""
    with client.connect(keys) as hub:
        found = []
        for state in hub.plan(path, contract):
            rule, _, remedy = state.reason.partition(": ")
            refusal = (
                None
                if state.verdict in ("approved", "waiting")
                else Refusal(rule, remedy)
                if remedy
                else Refusal("no word", state.reason)
            )
            found.append(
                Planned(
                    state.node,
                    state.people or None,
                    refusal=refusal,
                    waits=state.verdict == "waiting",
                )
            )
        return found


def _from_files(
    study: Study, contract: Contract, paths: Sequence[Path], nodes: int
) -> list[Planned]:
    return [
        _planned(sites.load(path), study, contract, max(nodes, study.min_nodes)) for path in paths
    ]


def _planned(site: Site, study: Study, contract: Contract, nodes: int) -> Planned:
    now = datetime.now(UTC)
    dataset = site.datasets.get(study.dataset)
    if dataset is None or dataset.contract.hash != contract.hash:
        return Planned(
            site.name,
            None,
            refusal=Refusal("contract", f"it has no dataset {study.dataset!r} with this contract"),
        )
    refusal = service.admit_study(study, contract, nodes, site, now)
    if study.privacy.mode == "exact":
        return Planned(site.name, dataset.people, refusal=refusal)
    account = Account(contract.dataset, contract.unit, now.year)
    left = (
        ledger.remaining(state_folder.open_ledger(site.state), account)
        if state_folder.has_ledger(site.state)
        else 0
    )
    if refusal is None and left < study.privacy.rho:
        refusal = Refusal(
            "budget",
            f"the {now.year} budget of {contract.dataset} does not hold this study: ask for less, or ask its producer for a grant",
        )
    return Planned(site.name, dataset.people, left, refusal)


Forecasts = Mapping[str, Sequence[Row]]


def _forecasts(
    study: Study, contract: Contract, tasks: Mapping[str, AnyTask], nodes: Sequence[Planned]
) -> Forecasts:
    """By label of SCALES; empty without noise, or without sizes."""
    answering = [node for node in nodes if node.refusal is None]
    people = sum(node.people or 0 for node in answering)
    if study.privacy.mode != "dp" or not people:
        return {}
    return {
        label: budget.forecast(_at(study, scale), tasks, people, len(answering))
        for scale, label in SCALES
    }


def _at(study: Study, scale: float) -> Study:
    """The study with another epsilon, which may lie beyond what a study may ask for."""
    privacy = Privacy.model_construct(
        **{**dict(study.privacy), "epsilon": study.privacy.epsilon * scale}
    )
    return Study.model_construct(**{**dict(study), "privacy": privacy})


def _document(
    study: Study,
    contract: Contract,
    tasks: Mapping[str, AnyTask],
    nodes: Sequence[Planned],
    forecasts: Forecasts,
) -> dict[str, Any]:
    privacy = study.privacy
    return {
        "study": study.study, "study_hash": study.hash, "mode": privacy.mode,
        "epsilon": privacy.epsilon if privacy.mode == "dp" else None, "delta": privacy.delta if privacy.mode == "dp" else None,
        "rho": privacy.rho / accounting.PICO, "epsilon_of_a_person_at_several_nodes": _several(study, contract),
        "analyses": [{"analysis": name, "run": study.analyses[name].run, "rho": budget.of_analysis(study, name) / accounting.PICO} for name in tasks],
        "nodes": [
            {
                "node": node.name, "people": node.people, "rho_left": None if node.left is None else node.left / accounting.PICO,
                "rho_left_after": None if node.left is None or node.refusal else (node.left - privacy.rho) / accounting.PICO,
                "refuses": str(node.refusal) if node.refusal else None,
            }
            for node in nodes
        ],
        "trainings": _trainings(study, tasks) if privacy.mode == "dp" else [],
        "intervals": {label: list(rows) for label, rows in forecasts.items()},
    }  # fmt: skip


def _several(study: Study, contract: Contract) -> float | None:
    if study.privacy.mode != "dp" or contract.nodes_per_person == 1:
        return None
    return accounting.epsilon(study.privacy.rho * contract.nodes_per_person, study.privacy.delta)


def _show(
    study: Study,
    contract: Contract,
    tasks: Mapping[str, AnyTask],
    nodes: Sequence[Planned],
    forecasts: Forecasts,
    console: Console,
) -> None:
    privacy = study.privacy
    console.print(
        Text.assemble((study.study, "bold"), f" ({study.hash[:12]}), mode {privacy.mode}")
    )
    if privacy.mode == "dp":
        tight = accounting.tight_epsilon(Cost(privacy.rho), privacy.delta)
        console.print(
            f"At each node one {contract.unit} is protected with epsilon {privacy.epsilon:g}, delta {privacy.delta:g}: rho {privacy.rho / accounting.PICO:.6f}"
        )
        console.print(f"(composed tightly, epsilon {tight:.3f}).", style="dim")
        if (several := _several(study, contract)) is not None:
            console.print(
                f"Someone with rows at {contract.nodes_per_person} nodes, as the contract allows: epsilon {several:.3f}."
            )
        console.print(_costs(study))
        for row in _trainings(study, tasks):
            console.print(
                f"{row['analysis']}: {row['steps']} steps, each on {100 * row['sampling']:g} % of the people by chance ({row['epochs']:g} epochs), "
                f"each with noise of {row['noise_multiplier']:g} times the clip.", style="dim",
            )  # fmt: skip
    console.print(
        _nodes_table(study, nodes)
        if nodes
        else "No node is named: give --node NODE.yaml, or --people NAME=N, for costs and widths."
    )
    if forecasts:
        console.print(_widths(forecasts))
        console.print(
            "Widths are of 95 % intervals, end to end, worked out from the contract's ranges and the declared sizes: half of all answers yes, numbers "
            "spread evenly, a third of the people with the event. The data will differ.", style="dim",
        )  # fmt: skip
    elif privacy.mode == "dp" and nodes:
        console.print(
            "No sizes are declared (`people` of a dataset in node.yaml), so widths cannot be foreseen.",
            style="yellow",
        )


def _costs(study: Study) -> Table:
    table = Table(
        "analysis",
        "run",
        title="\nCost of each analysis",
        title_justify="left",
        title_style="italic",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for name in ("weight", "epsilon", "rho"):
        table.add_column(name, justify="right")
    for name, entry in study.analyses.items():
        rho = budget.of_analysis(study, name)
        table.add_row(
            name,
            entry.run,
            f"{entry.budget:g}",
            f"{accounting.epsilon(rho, study.privacy.delta):.3f}",
            f"{rho / accounting.PICO:.6f}",
        )
    return table


def _trainings(study: Study, tasks: Mapping[str, AnyTask]) -> list[Row]:
    """What the planned steps of each training are, and the noise that keeps them within the study's epsilon."""
    rows: list[Row] = []
    for name, task in tasks.items():
        drawn = next(
            (
                drawn
                for state in budget.private(task).rounds(task)[1:2]
                if (drawn := budget.sampling(task, state))
            ),
            None,
        )
        if drawn is not None:
            steps = drawn.steps * drawn.rounds
            noise = budget.noise_multiplier(study, task, drawn)
            rows.append(
                {
                    "analysis": name,
                    "steps": steps,
                    "sampling": drawn.rate,
                    "epochs": round(steps * drawn.rate, 3),
                    "noise_multiplier": noise,
                }
            )
    return rows


def _nodes_table(study: Study, nodes: Sequence[Planned]) -> Table:
    table = Table(
        "node",
        title="\nAt each node",
        title_justify="left",
        title_style="italic",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for name in ("people", "left before", "left after"):
        table.add_column(name, justify="right")
    table.add_column("answers")
    for node in nodes:
        before = (
            "?"
            if node.left is None
            else f"{accounting.epsilon(node.left, study.privacy.delta):.3f}"
        )
        after = (
            "?"
            if node.left is None or node.refusal
            else f"{accounting.epsilon(node.left - study.privacy.rho, study.privacy.delta):.3f}"
        )
        amounts = ("", "") if study.privacy.mode == "exact" else (before, after)
        said = (
            Text(f"no: {node.refusal}", style="yellow")
            if node.refusal
            else Text("yes, when its staff approves" if node.waits else "yes")
        )
        table.add_row(
            node.name, words.say("n", node.people) if node.people else "?", *amounts, said
        )
    return table


def _widths(forecasts: Forecasts) -> Table:
    table = Table(
        "analysis",
        "of",
        title="\nExpected intervals",
        title_justify="left",
        title_style="italic",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    table.add_column("sampling s.d.", justify="right")
    table.add_column("noise s.d.", justify="right")
    for _, label in SCALES:
        table.add_column(
            {"half": "width at half", "this": "at this epsilon", "double": "at double"}[label],
            justify="right",
        )
    for rows in zip(*(forecasts[label] for _, label in SCALES), strict=True):
        this = rows[1]
        widths = ("no result" if row["width"] is None else _figure(row["width"]) for row in rows)
        table.add_row(
            this["analysis"],
            this["what"],
            _figure(this["sampling_sd"]),
            _figure(this["noise_sd"]),
            *widths,
        )
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
