"""The plan of a study as `hdh study plan` prints it: costs, budgets and widths of intervals."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aggregator.report import words
from federation.cli.actions import tables
from federation.privacy import accounting
from federation.privacy.accounting import Cost
from federation.study import Study
from simulations.planning import SCALES, Forecasts, Plan, PlannedNode
from strategies import budget

HEADINGS = {"half": "width at half", "this": "at this epsilon", "double": "at double"}


def show(plan: Plan, console: Console) -> None:
    study = plan.study
    title = f" ({study.hash[:12]}), mode {study.privacy.mode}"
    console.print(Text.assemble((study.study, "bold"), title))
    if study.privacy.mode == "dp":
        _show_costs(plan, console)
    if plan.nodes:
        console.print(_nodes(study, plan.nodes))
    else:
        console.print(
            "No node is named. For budgets and widths give --node NODE.yaml or --people NAME=N."
        )
    if plan.forecasts:
        console.print(_widths(plan.forecasts))
        console.print(
            "Expected full widths of the intervals, computed from the contract's ranges and the "
            "declared sizes. Assumed: half of all yes/no answers are yes, numbers are spread "
            "evenly, a third of the people have the event. Real data will differ.",
            style="dim",
        )
    elif study.privacy.mode == "dp" and plan.nodes:
        console.print(
            "Widths cannot be forecast: no node declares its size (`people` of a dataset in "
            "node.yaml).",
            style="yellow",
        )


def _show_costs(plan: Plan, console: Console) -> None:
    privacy = plan.study.privacy
    tight = accounting.tight_epsilon(Cost(privacy.rho), privacy.delta)
    console.print(
        f"At each node one {plan.contract.unit} is protected with epsilon {privacy.epsilon:g}, "
        f"delta {privacy.delta:g}: rho {privacy.rho / accounting.PICO:.6f}"
    )
    console.print(f"(by tight composition, epsilon {tight:.3f}).", style="dim")
    console.print(
        f"Over all nodes, a {plan.contract.unit} with rows at {plan.nodes_of_person} of them "
        f"({plan.contract.why_nodes}): epsilon {plan.epsilon_over_nodes:.3f}."
    )
    console.print(_costs(plan.study))
    for row in plan.trainings:
        console.print(
            f"{row['analysis']}: {row['steps']} steps, each on a random sample of "
            f"{100 * row['sampling']:g} % of the people ({row['epochs']:g} epochs in total), with "
            f"noise of {row['noise_multiplier']:g} times the clipping norm: epsilon "
            f"{row['epsilon']:.3f}{_by_opacus(row['epsilon_by_opacus'])}.",
            style="dim",
        )


def _by_opacus(epsilon: float | None) -> str:
    return "" if epsilon is None else f", and {epsilon:.3f} by the accountant of Opacus"


def _costs(study: Study) -> Table:
    table = tables.plain("analysis", "run", title="\nCost of each analysis")
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


def _nodes(study: Study, nodes: Sequence[PlannedNode]) -> Table:
    table = tables.plain("node", title="\nAt each node")
    for name in ("people", "left before", "left after"):
        table.add_column(name, justify="right")
    table.add_column("answers")
    for node in nodes:
        people = words.say("n", node.people) if node.people else "?"
        table.add_row(node.name, people, *_budgets(study, node), _answer(node))
    return table


def _budgets(study: Study, node: PlannedNode) -> tuple[str, str]:
    """The budget before and after the study, in epsilon."""
    if study.privacy.mode == "exact":
        return "", ""
    if node.left is None:
        return "?", "?"
    delta = study.privacy.delta
    before = f"{accounting.epsilon(node.left, delta):.3f}"
    if node.refusal:
        return before, "?"
    return before, f"{accounting.epsilon(node.left - study.privacy.rho, delta):.3f}"


def _answer(node: PlannedNode) -> Text:
    if node.refusal:
        return Text(f"no: {node.refusal}", style="yellow")
    return Text("yes, once its staff approves" if node.waits else "yes")


def _widths(forecasts: Forecasts) -> Table:
    table = tables.plain("analysis", "of", "level", title="\nExpected intervals")
    for name in ("sampling s.d.", "noise s.d.", *HEADINGS.values()):
        table.add_column(name, justify="right")
    for rows in zip(*(forecasts[label] for _, label in SCALES), strict=True):
        row = rows[1]
        table.add_row(
            row["analysis"],
            row["what"],
            f"{100 * row['conf_level']:g} %",
            _figure(row["sampling_sd"]),
            _figure(row["noise_sd"]),
            *("no result" if row["width"] is None else _figure(row["width"]) for row in rows),
        )
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
