"""The plan of a study as `hdh study plan` prints it: costs, budgets and widths of intervals."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from aggregator.report import words
from federation import message_texts
from federation.cli.actions import tables
from federation.cli.console import Console
from federation.language import tr
from federation.privacy import accounting
from federation.privacy.accounting import Cost
from federation.results import Row
from federation.study import Study
from simulations.planning import SCALES, Forecasts, Plan, PlannedNode
from strategies import budget


def show(plan: Plan, console: Console) -> None:
    study = plan.study
    title = tr(" ({hash}), mode {mode}").format(hash=study.hash[:12], mode=study.privacy.mode)
    console.print(Text.assemble((study.study, "bold"), title))
    if study.privacy.mode == "dp":
        _show_costs(plan, console)
    if plan.nodes:
        console.print(_nodes(study, plan.nodes))
    else:
        console.print(
            tr("No node is named. For budgets and widths give --node NODE.yaml or --people NAME=N.")
        )
    if plan.forecasts:
        console.print(_widths(plan.forecasts))
        console.print(
            tr(
                "Expected full widths of the intervals, computed from the contract's ranges and "
                "the declared sizes. Assumed: half of all yes/no answers are yes, numbers are "
                "spread evenly, a third of the people have the event. Real data will differ."
            ),
            style="dim",
        )
    elif study.privacy.mode == "dp" and plan.nodes:
        console.print(
            tr(
                "Widths cannot be forecast: no node declares its size (`people` of a dataset in "
                "node.yaml)."
            ),
            style="yellow",
        )


def _show_costs(plan: Plan, console: Console) -> None:
    privacy = plan.study.privacy
    tight = accounting.tight_epsilon(Cost(privacy.rho), privacy.delta)
    unit = tr(plan.contract.unit)
    console.print(
        tr(
            "At each node one {unit} is protected with epsilon {epsilon}, delta {delta}: rho {rho}"
        ).format(
            unit=unit,
            epsilon=words.shown(privacy.epsilon, "g"),
            delta=words.shown(privacy.delta, "g"),
            rho=words.shown(privacy.rho / accounting.PICO, ".6f"),
        )
    )
    composed = tr("(by tight composition, epsilon {epsilon}).")
    console.print(composed.format(epsilon=words.shown(tight, ".3f")), style="dim")
    console.print(
        tr(
            "Over all nodes, one {unit} with rows at {n} of them ({why}): epsilon {epsilon}."
        ).format(
            unit=unit,
            n=plan.nodes_of_person,
            why=tr(plan.contract.why_nodes),
            epsilon=words.shown(plan.epsilon_over_nodes, ".3f"),
        )
    )
    console.print(_costs(plan.study))
    for row in plan.trainings:
        console.print(_training(row), style="dim")


def _training(row: Row) -> str:
    return tr(
        "{analysis}: {steps} steps, each on a random sample of {sampling} % of the people "
        "({epochs} epochs in total), with noise of {noise} times the clipping norm: epsilon "
        "{epsilon}{by_opacus}."
    ).format(
        analysis=row["analysis"],
        steps=row["steps"],
        sampling=words.shown(100 * row["sampling"], "g"),
        epochs=words.shown(row["epochs"], "g"),
        noise=words.shown(row["noise_multiplier"], "g"),
        epsilon=words.shown(row["epsilon"], ".3f"),
        by_opacus=_by_opacus(row["epsilon_by_opacus"]),
    )


def _by_opacus(epsilon: float | None) -> str:
    if epsilon is None:
        return ""
    text = tr(", and {epsilon} by the accountant of Opacus")
    return text.format(epsilon=words.shown(epsilon, ".3f"))


def _costs(study: Study) -> Table:
    title = f"\n{tr('Cost of each analysis')}"
    table = tables.plain(tr("analysis"), tr("run"), title=title)
    for name in (tr("weight"), "epsilon", "rho"):
        table.add_column(name, justify="right")
    for name, entry in study.analyses.items():
        rho = budget.of_analysis(study, name)
        table.add_row(
            name,
            entry.run,
            words.shown(entry.budget, "g"),
            words.shown(accounting.epsilon(rho, study.privacy.delta), ".3f"),
            words.shown(rho / accounting.PICO, ".6f"),
        )
    return table


def _nodes(study: Study, nodes: Sequence[PlannedNode]) -> Table:
    table = tables.plain(tr("node"), title=f"\n{tr('At each node')}")
    for name in (tr("people"), tr("left before"), tr("left after")):
        table.add_column(name, justify="right")
    table.add_column(tr("answers"))
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
    before = words.shown(accounting.epsilon(node.left, delta), ".3f")
    if node.refusal:
        return before, "?"
    return before, words.shown(accounting.epsilon(node.left - study.privacy.rho, delta), ".3f")


def _answer(node: PlannedNode) -> Text:
    if node.refusal:
        reason = message_texts.translated(str(node.refusal))
        return Text(tr("no: {reason}").format(reason=reason), style="yellow")
    return Text(tr("yes, once its staff approves") if node.waits else tr("yes"))


def _widths(forecasts: Forecasts) -> Table:
    title = f"\n{tr('Expected intervals')}"
    table = tables.plain(tr("analysis"), tr("of"), tr("level"), title=title)
    widths = (tr("width at half"), tr("at this epsilon"), tr("at double"))
    for name in (tr("sampling s.d."), tr("noise s.d."), *widths):
        table.add_column(name, justify="right")
    for rows in zip(*(forecasts[label] for _, label in SCALES), strict=True):
        row = rows[1]
        table.add_row(
            row["analysis"],
            message_texts.translated(row["what"]),
            f"{words.shown(100 * row['conf_level'], 'g')} %",
            _figure(row["sampling_sd"]),
            _figure(row["noise_sd"]),
            *(tr("no result") if row["width"] is None else _figure(row["width"]) for row in rows),
        )
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else words.shown(value, ".3g")
