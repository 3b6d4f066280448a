"""A released document in the terminal: tables, curves, who gave what, what was suppressed, where the files are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aggregator import report
from aggregator.document import AnalysisDocument, Document
from aggregator.report import words

Rows = Sequence[Mapping[str, Any]]
MAX_ROWS = 12
LEFT_OUT = (
    "histogram",
    "curve",
    "leave_one_out",
    "trees",
    "overlap",
    "lorenz",
)  # drawn, or in the report
RATIO = ("hazard_ratio", "odds_ratio", "rate_ratio", "subdistribution_hazard_ratio")
LONG = (
    "mean_std_error",
    "mean_conf_low",
    "mean_conf_high",
    "mean_noise_sd",
    "gini_std_error",
    "gini_noise_sd",
)
SHORT = {  # what of a wide table fits into eighty columns; the report has all of it
    "coefficients": (
        "term",
        "estimate",
        "std_error",
        "p_value",
        *(f"{name}{end}" for name in RATIO for end in ("", "_low", "_high")),
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


def document(released: Document, out: Path, console: Console) -> None:
    for name, found in released.analyses.items():
        _analysis(name, found, console)
    _contributions(released, console)
    console.print(f"\n{_protection(released)}")
    _happened(released, console)
    rounds = released.provenance["rounds"]
    console.print(
        f"Study of {rounds} round{'s' if rounds != 1 else ''} in {released.provenance['seconds']:.2f} s."
    )
    console.print(
        f"Report:  {out / 'report.html'}\nResult:  {out / 'result.json'}\nTables:  {out / 'tables'}",
        soft_wrap=True,
    )


def _protection(released: Document) -> str:
    first = next(iter(released.analyses.values())).privacy
    if first["mode"] == "dp":
        return f"Noise: a person's data change what is shown by no more than epsilon {first['study_epsilon']:g}, delta {first['delta']:g} allow, for each node."
    suppressed = sum(
        found.suppressed + sum(one.suppressed for one in found.by_node.values())
        for found in released.analyses.values()
    )
    if not suppressed:
        return "Suppressed: nothing."
    rows = "1 row holds" if suppressed == 1 else f"{suppressed} rows hold"
    return f"Suppressed: {rows} a number that stands on fewer than {first['min_cell']} people, or that would give one away."


def _analysis(name: str, found: AnalysisDocument, console: Console) -> None:
    title = Text.assemble(
        "\n",
        (name, "bold"),
        f"  {found.run}",
        (
            f"  {found.exactness}" if found.exactness else "",
            "green" if found.exactness == "exact" else "yellow",
        ),
    )
    console.print(title)
    if found.reason:
        console.print(f"{found.status}: {found.reason}", style="red", markup=False)
    if found.why:
        console.print(found.why, style="dim", markup=False)
    if found.privacy["mode"] == "dp" and found.status == "released":
        console.print(words.privacy(found.privacy), style="dim", markup=False)
    for note in found.notes:
        console.print(note, style="yellow", markup=False)
    for table, rows in found.tables.items():
        if table == "curve":
            console.print(plot(rows), markup=False)
        if found.run == "crosstab" and table == "counts":
            _crosstab(rows, console)
        elif table not in LEFT_OUT and rows:
            _table(table, taken(rows) if table == "edges" else rows, console)


def taken(edges: Rows) -> Rows:
    """The transitions that anyone takes, the most frequent first; what is withheld comes last."""
    return sorted(
        (row for row in edges if row["n"] != 0 and "(all)" not in (row["row"], row["column"])),
        key=lambda row: -(row["n"] or 0),
    )


def _table(name: str, rows: Rows, console: Console) -> None:
    if name == "glance":
        said = ", ".join(
            f"{words.heading(key)} {words.say(key, value)}"
            for key, value in rows[0].items()
            if value is not None
        )
        console.print(said, style="dim", markup=False)
        return
    kept = [
        column
        for column in report.columns(rows)
        if column in SHORT.get(name, (column,)) and column not in LONG
    ]
    table = Table(
        title=None if name in ("coefficients", "counts") else words.heading(name),
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
        title_style="italic",
    )
    for column in kept:
        numeric = any(isinstance(row.get(column), int | float) for row in rows)
        table.add_column(
            words.heading(column),
            justify="right" if numeric else "left",
            overflow="ellipsis" if numeric else "fold",
        )
    for row in rows[:MAX_ROWS]:
        table.add_row(*(Text(_cell(column, row)) for column in kept))
    console.print(table)
    if len(rows) > MAX_ROWS:
        console.print(f"... {len(rows) - MAX_ROWS} more rows in the report", style="dim")


def _crosstab(rows: Rows, console: Console) -> None:
    columns = list(dict.fromkeys(row["column"] for row in rows))
    table = Table("", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right")
    for level in dict.fromkeys(row["row"] for row in rows):
        cells = {row["column"]: row for row in rows if row["row"] == level}
        table.add_row(
            level, *(_count(cells[column]) if column in cells else "" for column in columns)
        )
    console.print(table)


def _count(row: Mapping[str, Any]) -> str:
    if row["n"] is None:
        return "·"
    share = words.say("row_share", row["row_share"])
    return (
        f"{words.say('n', row['n'])} ({share})"
        if share and row["column"] != "(all)"
        else words.say("n", row["n"])
    )


def _cell(column: str, row: Mapping[str, Any]) -> str:
    if row.get(column) is None and row.get("suppressed") and column in row:
        return "·"
    return words.say(column, row.get(column))


def _contributions(released: Document, console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("node")
    for name in released.analyses:
        table.add_column(name, justify="right")
    for node in released.provenance["nodes"]:
        gave = [
            next(one for one in found.nodes if one.node == node)
            for found in released.analyses.values()
        ]
        table.add_row(
            node,
            *(words.say("n", one.people) if one.people is not None else one.status for one in gave),
        )
    console.print("\nWhat each node gave (people behind its sums)", style="italic")
    console.print(table)
    refused: dict[str, list[str]] = {}
    for one in (one for found in released.analyses.values() for one in found.nodes if one.reason):
        refused.setdefault(str(one.reason), []).append(one.node)
    for reason, nodes in refused.items():
        console.print(f"{', '.join(dict.fromkeys(nodes))}: {reason}", style="yellow", markup=False)


def _happened(released: Document, console: Console) -> None:
    """What is not a refusal: those are said with what each node gave."""
    told = {one.reason for found in released.analyses.values() for one in found.nodes}
    for events in released.provenance["events"]:
        if events["what"].partition(": ")[2] not in told:
            console.print(
                f"Round {events['round']}, {events['node']}: {events['what']}",
                style="yellow",
                markup=False,
            )


def plot(rows: Rows, width: int = 64, height: int = 14) -> str:
    """Curves in characters, one letter per group (and cause); a curve ends where its rows are withheld."""
    from aggregator.report.figures import (
        curve_of,  # matplotlib: only when there is something to draw
    )

    groups = list(dict.fromkeys(map(curve_of, rows)))
    drawn = [row for row in rows if row["estimate"] is not None]
    last = max((row["time"] for row in drawn), default=0.0)
    if not last:
        return "(nothing to draw: every time is withheld)"
    start, ends = (
        0.0 if "cause" in rows[0] else 1.0,
        [row["estimate"] for row in drawn],
    )  # incidence rises from 0, survival falls from 1
    bottom = int(min(ends) * 10) / 10 if start else 0.0
    top = 1.0 if start else min(1.0, int(max(ends) * 10 + 1) / 10)
    grid = [[" "] * width for _ in range(height)]
    for letter, group in zip("●○▲△■□◆◇", groups, strict=False):
        shown = [row for row in drawn if curve_of(row) == group]
        for x in range(width):
            time = last * x / (width - 1)
            if shown and time <= shown[-1]["time"]:
                estimate = next(
                    (row["estimate"] for row in reversed(shown) if row["time"] <= time + 1e-9),
                    start,
                )
                grid[
                    round((height - 1) * (top - estimate) / (top - bottom)) if bottom < top else 0
                ][x] = letter
    lines = [
        f"{top - (top - bottom) * y / (height - 1):5.2f} ┤{''.join(row)}"
        for y, row in enumerate(grid)
    ]
    legend = "   ".join(
        f"{letter} {group}" for letter, group in zip("●○▲△■□◆◇", groups, strict=False)
    )
    return "\n".join(
        [*lines, f"      └{'─' * width}", f"       0{last:>{width - 1}g}", f"       {legend}"]
    )
