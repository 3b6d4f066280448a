"""A released document in the terminal: tables, curves, contributions of the nodes, and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from aggregator import report
from aggregator.document import AnalysisDocument, Document, reasons
from aggregator.report import words
from federation import errors, language
from federation.cli.actions import curves, tables
from federation.cli.console import Console

Rows = Sequence[Mapping[str, Any]]
MAX_ROWS = 12
FILES = {"Report:": "report.html", "Result:": "result.json", "Tables:": "tables"}
WITHHELD = "·"
# tables that are drawn, or are in the report only
NOT_PRINTED = ("histogram", "curve", "leave_one_out", "trees", "overlap", "lorenz")
RATIOS = ("hazard_ratio", "odds_ratio", "rate_ratio", "subdistribution_hazard_ratio")
# columns left out of every table
WIDE = (
    "mean_std_error",
    "mean_conf_low",
    "mean_conf_high",
    "mean_noise_sd",
    "gini_std_error",
    "gini_noise_sd",
)
# the columns of a wide table that fit into eighty characters; the report has all of them
NARROW = {
    "coefficients": (
        "term",
        "estimate",
        "std_error",
        "p_value",
        *(f"{name}{end}" for name in RATIOS for end in ("", "_low", "_high")),
        "noise_sd",
        "suppressed",
    ),
    "confusion": (
        "asked",
        "threshold",
        "true_positive",
        "false_positive",
        "false_negative",
        "true_negative",
        "row",
        "column",
        "n",
        "suppressed",
    ),
    "screening": (
        "asked",
        "recall_rate",
        "sensitivity",
        "conf_low",
        "conf_high",
        "ppv",
        "false_negative",
        "suppressed",
    ),
    "nodes": (
        "node",
        "n",
        "n_event",
        "auc",
        "conf_low",
        "conf_high",
        "rmse",
        "mae",
        "r2",
        "concordance",
        "log_loss",
        "noise_sd",
        "suppressed",
    ),
    "meta": ("term", "nodes", "estimate", "std_error", "i_squared", "p_value"),
    "score": ("term", "estimate", "std_error", "p_value", "odds_ratio"),
    "balance": ("term", "control_before", "treated_before", "smd_before", "smd_after"),
    "ratios": (
        "term",
        "reference",
        "rate_ratio",
        "rate_ratio_low",
        "rate_ratio_high",
        "p_value",
        "suppressed",
    ),
    "rates": (
        "group",
        "n",
        "n_event",
        "person_time",
        "rate",
        "conf_low",
        "conf_high",
        "suppressed",
    ),
    "standardised": ("group", "n_event", "rate", "estimate", "conf_low", "conf_high", "suppressed"),
    "funnel": (
        "group",
        "n_event",
        "expected",
        "estimate",
        "low_95",
        "high_95",
        "position",
        "suppressed",
    ),
    "pairs": (
        "drug",
        "event",
        "n",
        "expected",
        "ror",
        "ror_low",
        "ror_high",
        "ic",
        "ic_low",
        "ic_high",
    ),
    "alarms": ("series", "week", "n", "expected", "upper", "ratio", "alarm", "suppressed"),
    "edges": (
        "row",
        "column",
        "n",
        "row_share",
        "delay_mean",
        "delay_sd",
        "noise_sd",
        "suppressed",
    ),
    "indicators": (
        "indicator",
        "group",
        "n",
        "n_event",
        "estimate",
        "conf_low",
        "conf_high",
        "suppressed",
    ),
    "differences": ("term", "reference", "estimate", "conf_low", "conf_high", "p_value"),
}


def show(document: Document, folder: Path, console: Console) -> None:
    for name, analysis in document.analyses.items():
        _show_analysis(name, analysis, console)
    _show_contributions(document, console)
    console.print(f"\n{_protection(document)}")
    _show_events(document, console)
    rounds, seconds = document.provenance["rounds"], document.provenance["seconds"]
    console.print(f"Study of {tables.counted(rounds, 'round', 'rounds')} in {seconds:.2f} s.")
    for title, file in FILES.items():
        console.print(f"{language.tr(title)}  {folder / file}", soft_wrap=True)


def _protection(document: Document) -> str:
    privacy = next(iter(document.analyses.values())).privacy
    if privacy["mode"] == "dp":
        return (
            "Noise: at each node, the data of one person change these results by no more than "
            f"epsilon {privacy['study_epsilon']:g}, delta {privacy['delta']:g} allow; over all "
            f"nodes, with rows at {privacy['nodes_per_person']} of them, by no more than epsilon "
            f"{privacy['epsilon_per_person_over_all_nodes']:.3g}."
        )
    suppressed = sum(
        analysis.suppressed + sum(node.suppressed for node in analysis.by_node.values())
        for analysis in document.analyses.values()
    )
    if not suppressed:
        return "Suppressed: nothing."
    rows = tables.counted(suppressed, "row", "rows")
    return (
        f"Suppressed: {rows} with a number based on fewer than {privacy['min_cell']} people, or "
        "with a number that would reveal one."
    )


def _show_analysis(name: str, analysis: AnalysisDocument, console: Console) -> None:
    exactness = f"  {language.tr(analysis.exactness)}" if analysis.exactness else ""
    style = "green" if analysis.exactness == "exact" else "yellow"
    console.print(Text.assemble("\n", (name, "bold"), f"  {analysis.run}", (exactness, style)))
    if analysis.reason:
        console.print(f"{analysis.status}: {analysis.reason}", style="red", markup=False)
    if analysis.why:
        console.print(analysis.why, style="dim", markup=False)
    if analysis.privacy["mode"] == "dp" and analysis.status == "released":
        console.print(words.privacy(analysis.privacy), style="dim", markup=False)
    if words.has_intervals(analysis) and words.level_of(analysis) != words.USUAL:
        console.print(f"intervals: {words.level_of(analysis)}", style="dim", markup=False)
    for note in analysis.notes:
        console.print(note, style="yellow", markup=False)
    for table, rows in analysis.tables.items():
        if table == "curve":
            console.print(curves.plot(rows), markup=False)
        if analysis.run == "crosstab" and table == "counts":
            _show_crosstab(rows, console)
        elif table not in NOT_PRINTED and rows:
            shown = transitions(rows) if table == "edges" else rows
            _show_table(table, shown, words.level_of(analysis), console)


def transitions(edges: Rows) -> Rows:
    """The transitions that somebody made, the most frequent first; withheld ones come last."""
    return sorted(
        (row for row in edges if row["n"] != 0 and "(all)" not in (row["row"], row["column"])),
        key=lambda row: -(row["n"] or 0),
    )


def _show_table(name: str, rows: Rows, level: str, console: Console) -> None:
    if name == "glance":
        numbers = (
            f"{words.heading(key, level)} {words.say(key, value)}"
            for key, value in rows[0].items()
            if value is not None
        )
        console.print(", ".join(numbers), style="dim", markup=False)
        return
    columns = [
        column
        for column in report.columns(rows)
        if column in NARROW.get(name, (column,)) and column not in WIDE
    ]
    table = tables.plain(title=None if name in ("coefficients", "counts") else words.heading(name))
    for column in columns:
        numeric = any(isinstance(row.get(column), int | float) for row in rows)
        table.add_column(
            words.heading(column, level),
            justify="right" if numeric else "left",
            overflow="ellipsis" if numeric else "fold",
        )
    for row in rows[:MAX_ROWS]:
        table.add_row(*(Text(_cell(column, row)) for column in columns))
    console.print(table)
    if len(rows) > MAX_ROWS:
        console.print(f"... {len(rows) - MAX_ROWS} more rows in the report", style="dim")


def _show_crosstab(rows: Rows, console: Console) -> None:
    columns = list(dict.fromkeys(row["column"] for row in rows))
    table = tables.plain("")
    for column in columns:
        table.add_column(Text(words.say("column", column)), justify="right")
    for level in dict.fromkeys(row["row"] for row in rows):
        cells = {row["column"]: row for row in rows if row["row"] == level}
        counts = (_count(cells[column]) if column in cells else "" for column in columns)
        table.add_row(Text(words.say("row", level)), *counts)
    console.print(table)


def _count(row: Mapping[str, Any]) -> str:
    if row["n"] is None:
        return WITHHELD
    count, share = words.say("n", row["n"]), words.say("row_share", row["row_share"])
    return f"{count} ({share})" if share and row["column"] != "(all)" else count


def _cell(column: str, row: Mapping[str, Any]) -> str:
    if row.get(column) is None and row.get("suppressed") and column in row:
        return WITHHELD
    return words.say(column, row.get(column))


def _show_contributions(document: Document, console: Console) -> None:
    table: Table = tables.plain("node")
    for name in document.analyses:
        table.add_column(name, justify="right")
    for node in document.provenance["nodes"]:
        contributions = (
            next(entry for entry in analysis.nodes if entry.node == node)
            for analysis in document.analyses.values()
        )
        table.add_row(
            node,
            *(
                entry.status if entry.people is None else words.say("n", entry.people)
                for entry in contributions
            ),
        )
    console.print("\nContributions of the nodes (people behind their sums)", style="italic")
    console.print(table)
    nodes_by_reason: dict[str, list[str]] = {}
    for analysis in document.analyses.values():
        for entry in analysis.nodes:
            if entry.reason:
                nodes_by_reason.setdefault(str(entry.reason), []).append(entry.node)
    for reason, nodes in nodes_by_reason.items():
        console.print(f"{', '.join(dict.fromkeys(nodes))}: {reason}", style="yellow", markup=False)


def _show_events(document: Document, console: Console) -> None:
    """Shows the events that are not refusals; refusals are listed with the contributions."""
    refusals = {entry.reason for analysis in document.analyses.values() for entry in analysis.nodes}
    for event in document.provenance["events"]:
        if event["what"].partition(": ")[2] not in refusals:
            console.print(
                f"Round {event['round']}, {event['node']}: {event['what']}",
                style="yellow",
                markup=False,
            )


def raise_failures(document: Document, *, shorten: bool = False) -> None:
    """ModelError with the reasons if an analysis has no result, RefusalError if none has one.
    `shorten`: without the reasons of each node, which the screen shows already."""
    without_result = reasons(document)
    message = "\n".join(text.partition(" (")[0] if shorten else text for text in without_result)
    if len(without_result) == len(document.analyses):
        raise errors.RefusalError(message)
    if without_result:
        raise errors.ModelError(message)
