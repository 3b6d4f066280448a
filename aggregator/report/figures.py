"""The figures of a report, drawn as inline SVG from released rows: curves, forest plots,
histograms."""

from __future__ import annotations

import bisect
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aggregator.report import words
from aggregator.report.intervals import curve_of
from federation import errors, language
from federation.language import tr

try:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter
except ModuleNotFoundError:
    raise errors.SetupError(
        "figures are drawn by matplotlib, which is not installed:"
        " pip install 'hdh-federation[simulation]'"
    ) from None

Rows = Sequence[Mapping[str, Any]]
Labels = Mapping[str, str]  # of terms, in the reader's language
NO_LABELS: Labels = {}
# Colour-blind readers can distinguish these colours.
PALETTE = (
    "#0b5394",
    "#c1440e",
    "#2d7d46",
    "#7a3e9d",
    "#8c6d1f",
    "#00798c",
    "#b0305c",
    "#555555",
)
MAX_AT_RISK = 8  # curves with a line of numbers at risk
MAX_CURVES = 24  # beyond it, nobody can tell the curves of a figure apart
STYLE = {
    "svg.hashsalt": "hdh",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


@dataclass(frozen=True)
class Picture:
    """A figure, and its text for those who do not see it."""

    figure: Figure = field(repr=False)
    label: str

    @property
    def svg(self) -> str:
        buffer = io.StringIO()
        with rc_context(STYLE):
            canvas = FigureCanvasSVG(self.figure)
            canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
        svg = re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL)
        label = html.escape(self.label)
        return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)

    def png(self, dots_per_inch: int = 200) -> bytes:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        buffer = io.BytesIO()
        with rc_context(STYLE):
            FigureCanvasAgg(self.figure)
            self.figure.savefig(
                buffer, format="png", dpi=dots_per_inch, metadata={"Software": None}
            )
        return buffer.getvalue()


def _picture(figure: Figure, label: str) -> Picture:
    """With numbers on linear axes as the reader's language writes them."""
    for axes in figure.axes if language.current() != "en" else ():
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            if isinstance(formatter, ScalarFormatter) and axis.get_scale() == "linear":
                axis.set_major_formatter(_Localised())
    return Picture(figure, label)


class _Localised(ScalarFormatter):
    def __call__(self, x: float, pos: int | None = None) -> str:
        return language.number(str(super().__call__(x, pos)))


def curves(rows: Rows, level: str = "", time: str = "") -> Picture:
    """Step curves by group with their intervals, and the numbers at risk below them: of survival,
    or of cumulative incidence if the rows have a `cause`. Of many groups, the first MAX_CURVES.
    `time`: the label of the axis."""
    first = 0.0 if "cause" in rows[0] else 1.0
    by_curve: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_curve.setdefault(curve_of(row), []).append(row)
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for index, group in enumerate(list(by_curve)[:MAX_CURVES]):
            shown = [row for row in by_curve[group] if row["estimate"] is not None]
            times = [0.0, *(row["time"] for row in shown)]
            colour = PALETTE[index % len(PALETTE)]
            axes.step(
                times,
                [first, *(row["estimate"] for row in shown)],
                where="post",
                color=colour,
                lw=1.8,
                label=group,
            )
            low, high = (
                [first, *(row[name] if row[name] is not None else row["estimate"] for row in shown)]
                for name in ("conf_low", "conf_high")
            )
            axes.fill_between(times, low, high, step="post", color=colour, alpha=0.15, lw=0)
        highest = max(
            (row["conf_high"] or row["estimate"] for row in rows if row["estimate"] is not None),
            default=1.0,
        )
        axes.set(
            ylim=(0, 1.02 if first else min(1.02, 1.3 * highest + 0.01)),
            xlim=(0, None),
            xlabel=time or tr("time"),
            ylabel=words.with_level(tr("survival") if first else tr("cumulative incidence"), level),
        )
        if len(by_curve) > MAX_CURVES:
            title = tr("the first {shown} of {n} curves").format(shown=MAX_CURVES, n=len(by_curve))
            axes.set_title(title, fontsize=9)
        axes.legend(frameon=False, loc="lower left" if first else "upper left")
        _numbers_at_risk(figure, axes, rows)
        label = tr("Kaplan-Meier curves") if first else tr("Cumulative incidence curves")
        return _picture(figure, label)


def at_risk(rows: Rows, times: Sequence[float]) -> dict[str, list[str]]:
    """By group, the number of people at risk at each of `times`: that of the first released time
    from there on, since a curve tells it at its own times only; "·" if it was withheld, and ""
    after the last time."""
    by_group: dict[str, dict[float, Any]] = {}
    for row in rows:
        by_group.setdefault(str(row["group"]), {})[row["time"]] = row.get("n_risk")
    return {group: _at_risk(counts, times) for group, counts in by_group.items()}


def _at_risk(counts: Mapping[float, Any], times: Sequence[float]) -> list[str]:
    """`counts`: the number at risk by released time."""
    released = sorted(counts)
    places = [bisect.bisect_left(released, time) for time in times]
    numbers = [counts[released[i]] for i in places if i < len(released)]
    shown = ["·" if number is None else str(round(number)) for number in numbers]
    return shown + [""] * (len(times) - len(shown))


def _numbers_at_risk(figure: Figure, axes: Any, rows: Rows) -> None:
    """A line of numbers for each group, below the time axis."""
    times = [float(tick) for tick in axes.get_xticks() if 0 <= tick <= axes.get_xlim()[1]]
    lines = at_risk(rows, times)
    has_numbers = any(text.isdigit() for numbers in lines.values() for text in numbers)
    if len(lines) > MAX_AT_RISK or not has_numbers:
        return
    figure.set_figheight(figure.get_figheight() + 0.22 * (len(lines) + 1))
    labels = [tr("at risk"), *lines]
    below = axes.secondary_xaxis(-0.16)
    below.set_xticks(
        [0.0 if time == 0 else time for time in times],
        ["\n".join(["", *(numbers[i] for numbers in lines.values())]) for i in range(len(times))],
    )
    below.tick_params(length=0)
    below.spines["bottom"].set_visible(False)
    axes.annotate(
        "\n".join(labels),
        (0, -0.16),
        xycoords="axes fraction",
        xytext=(-24, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        color="#555555",
    )


def roc(rows: Rows) -> Picture:
    """Sensitivity against 1 - specificity, at the released cuts; a curve for each class, if the
    rows have classes."""
    by_class: dict[str, set[tuple[float, float]]] = {}
    for row in rows:
        points = by_class.setdefault(row.get("class", ""), {(0.0, 0.0), (1.0, 1.0)})
        if row.get("sensitivity") is not None and row.get("specificity") is not None:
            points.add((1 - row["specificity"], row["sensitivity"]))
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="#bbbbbb", lw=1, ls="--")
        for i, (name, points) in enumerate(by_class.items()):
            colour = PALETTE[i % len(PALETTE)]
            places = zip(*sorted(points), strict=True)
            axes.plot(*places, color=colour, lw=1.8, marker="o", ms=3, label=name)
        if len(by_class) > 1:
            axes.legend(frameon=False)
        axes.set(
            xlim=(0, 1),
            ylim=(0, 1.02),
            xlabel=tr("false alarms (1 - specificity)"),
            ylabel=tr("found (sensitivity)"),
        )
        return _picture(figure, tr("ROC curve"))


def calibration(rows: Rows, label: str) -> Picture:
    """The observed mean against the predicted one, by band of predictions. `label`: of the
    outcome."""
    points = [
        (row["predicted"], row["observed"])
        for row in rows
        if row.get("predicted") is not None and row.get("observed") is not None
    ]
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
        if points:
            ends = [pick(value for point in points for value in point) for pick in (min, max)]
            axes.plot(ends, ends, color="#bbbbbb", lw=1, ls="--")
            axes.plot(*zip(*points, strict=True), color=PALETTE[0], lw=1.8, marker="o", ms=4)
        axes.set(
            xlabel=tr("{column}, predicted").format(column=label),
            ylabel=tr("{column}, observed").format(column=label),
        )
        return _picture(figure, tr("Calibration of {column}").format(column=label))


def survival(rows: Rows, time: str) -> Picture:
    """Observed and mean predicted survival by time. `time`: the label of the axis."""
    with rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for colour, name in zip(PALETTE, ("observed", "predicted"), strict=False):
            places = [(row["time"], row[name]) for row in rows if row.get(name) is not None]
            label = tr("observed") if name == "observed" else tr("predicted, on average")
            points = zip((0.0, 1.0), *places, strict=True)
            axes.plot(*points, color=colour, lw=1.8, marker="o", ms=3, label=label)
        axes.set(xlabel=time, ylabel=tr("survival"), ylim=(0, 1.02))
        axes.legend(frameon=False)
        return _picture(figure, tr("Observed and predicted survival"))


def losses(rows: Rows) -> Picture:
    """The loss of each round, in training and in validation."""
    with rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for colour, name in zip(PALETTE, ("train_loss", "validation_loss"), strict=False):
            points = [(row["round"], row[name]) for row in rows if row.get(name) is not None]
            if points:
                label = tr("training") if name == "train_loss" else tr("validation")
                axes.plot(*zip(*points, strict=True), color=colour, lw=1.8, label=label)
        axes.set(xlabel=tr("round"), ylabel=tr("loss"))
        axes.legend(frameon=False)
        return _picture(figure, tr("Loss by round"))


def trend(points: Sequence[tuple[float, float, float]], xlabel: str, ylabel: str) -> Picture:
    """Points (x, y, half-width of the interval), with a logarithmic x axis."""
    with rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.add_subplot()
        x, y, half = zip(*points, strict=True)
        axes.errorbar(x, y, half, color=PALETTE[0], lw=1.8, marker="o", ms=4, capsize=3)
        axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log")
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.minorticks_off()
        return _picture(figure, f"{ylabel} by {xlabel}")


def forest(
    pooled: Mapping[str, Any],
    by_node: Mapping[str, Mapping[str, Any]],
    ratio: str,
    level: str = "",
    labels: Labels = NO_LABELS,
) -> Picture:
    """One term: the estimates of each node and of all nodes together, with intervals; a ratio on a
    log axis."""
    low, high = f"{ratio}_low" if ratio else "conf_low", f"{ratio}_high" if ratio else "conf_high"
    lines = [
        (node, row) for node, row in by_node.items() if row.get(ratio or "estimate") is not None
    ] + [(tr("all nodes"), pooled)]
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.9 + 0.32 * len(lines)), layout="constrained")
        axes = figure.add_subplot()
        for y, (_, row) in enumerate(lines):
            last = row is pooled
            colour = PALETTE[1] if last else PALETTE[0]
            axes.plot([row[low], row[high]], [-y, -y], color=colour, lw=1.6)
            axes.plot(
                row[ratio or "estimate"],
                -y,
                "D" if last else "s",
                color=colour,
                ms=7 if last else 5,
            )
        axes.axvline(1 if ratio else 0, color="#999999", lw=0.8, ls="--")
        ends = [row[name] for _, row in lines for name in (low, high)]
        if ratio:
            _log_axis(axes, ends)
        axes.set_yticks([-y for y in range(len(lines))], [name for name, _ in lines])
        _numbers(axes, [(row[ratio or "estimate"], row[low], row[high]) for _, row in lines])
        term = labels.get(pooled["term"], pooled["term"])
        label = words.labelled(words.heading(ratio or "estimate"), term)
        axes.set_xlabel(words.with_level(label, level))
        return _picture(figure, tr("Forest plot of {term}").format(term=term))


def _numbers(axes: Any, values: Sequence[tuple[float, float, float]]) -> None:
    """The estimates and intervals in figures, at the right of each line."""
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(
        [-y for y in range(len(values))],
        [
            tr("{estimate} ({low} to {high})").format(
                estimate=_short(x), low=_short(low), high=_short(high)
            )
            for x, low, high in values
        ],
    )
    beside.tick_params(length=0)
    beside.spines["right"].set_visible(False)


def _short(value: float) -> str:
    digits = f"{value:.0f}" if abs(value) >= 10_000 else f"{value:#.4g}".rstrip(".")
    return language.number(digits)


def _log_axis(axes: Any, ends: Sequence[float]) -> None:
    """Makes the x axis logarithmic, except over a narrow range, where it would have no ticks."""
    if max(ends) > 3 * min(ends):
        from matplotlib.ticker import LogLocator, NullLocator

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda x, _: language.number(f"{x:g}"))


def intervals(
    lines: Sequence[tuple[str, float, float, float, float | None]],
    label: str,
    *,
    is_ratio: bool = False,
) -> Picture:
    """Estimates with their intervals, one below the other: (name, estimate, low, high, true
    value). Ratios stand on a log axis, beside a line at 1."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.9 + 0.32 * len(lines)), layout="constrained")
        axes = figure.add_subplot()
        for y, (_, estimate, low, high, truth) in enumerate(lines):
            axes.plot([low, high], [-y, -y], color=PALETTE[0], lw=1.6)
            axes.plot(estimate, -y, "s", color=PALETTE[0], ms=5)
            if truth is not None:
                axes.plot([truth, truth], [-y - 0.35, -y + 0.35], color=PALETTE[1], lw=1.4, ls="--")
        axes.set_yticks([-y for y in range(len(lines))], [name for name, *_ in lines])
        axes.set(xlabel=label, ylim=(-len(lines) + 0.5, 0.5))
        _numbers(axes, [(estimate, low, high) for _, estimate, low, high, _ in lines])
        if is_ratio:
            axes.axvline(1, color="#999999", lw=0.8, ls="--")
            _log_axis(axes, [end for _, _, *ends, _ in lines for end in ends])
        return _picture(figure, tr("{label}: estimates and intervals").format(label=label))


def histogram(rows: Rows, title: str) -> Picture:
    with rc_context(STYLE):
        figure = Figure(figsize=(3.5, 2.2), layout="constrained")
        axes = figure.add_subplot()
        for x, row in enumerate(rows):
            if row["n"] is None:
                axes.plot(x, 0, "x", color="#999999", ms=4)
            else:
                axes.bar(x, row["n"], width=0.95, color=PALETTE[0])
        ends = [rows[0]["column"].split(" to ")[0], rows[-1]["column"].split(" to ")[1]]
        axes.set_xticks([-0.5, len(rows) - 0.5], ends)
        axes.set(title=title, ylabel=tr("people"))
        return _picture(figure, tr("Histogram of {column}").format(column=title))


def pathway(rows: Rows, max_arrows: int = 30) -> Picture:
    """The graph of the steps of pathways, from a released table of transitions. The x of a step is
    its mean place in the pathways; the width of an arrow is proportional to the people who take
    it."""
    shown = sorted(
        (row for row in rows if row["n"] and "(all)" not in (row["row"], row["column"])),
        key=lambda row: -row["n"],
    )[:max_arrows]
    steps = list(dict.fromkeys(name for row in shown for name in (row["row"], row["column"])))
    across = _places(shown, steps)
    down = {
        name: (-1) ** i * (1 + i // 2) * 0.5
        for i, name in enumerate(sorted(steps, key=lambda name: across[name]))
    }
    down |= dict.fromkeys(("(start)", "(end)"), 0.0)
    places = {name: (across[name], down[name]) for name in steps}
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        largest = max((row["n"] for row in shown), default=1)
        for row in shown:
            _arrow(axes, places[row["row"]], places[row["column"]], row["n"] / largest)
        for name in steps:
            box = {"boxstyle": "round", "fc": "white", "ec": "#888888"}
            axes.text(*places[name], name, ha="center", va="center", bbox=box)
        axes.set(
            xlim=(-0.6, max(across.values(), default=1) + 0.6),
            ylim=(min(down.values(), default=0) - 0.6, max(down.values(), default=0) + 0.6),
        )
        axes.axis("off")
        return _picture(figure, tr("Graph of the pathways"))


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], share: float) -> None:
    """`share`: of the people of the widest arrow. A step that leads to itself is a loop."""
    is_loop = start == end
    style = {
        "arrowstyle": "-|>",
        "lw": 0.4 + 3.6 * share,
        "color": PALETTE[0],
        "alpha": 0.55,
        "shrinkA": 14,
        "shrinkB": 14,
        "connectionstyle": f"arc3,rad={0.9 if is_loop else 0.25}",
    }
    tip = (end[0] + 0.12, end[1] + 0.06) if is_loop else end
    axes.annotate("", xy=tip, xytext=start, arrowprops=style)


def _places(rows: Rows, steps: Sequence[str]) -> dict[str, float]:
    """The x of each step: one more than the mean x of the steps that lead to it, weighted by
    people. The start is at 0."""
    import numpy as np

    index = {name: i for i, name in enumerate(steps)}
    flow = np.zeros((len(steps), len(steps)))
    for row in rows:
        if row["row"] != row["column"]:
            flow[index[row["column"]], index[row["row"]]] += row["n"]
    share = flow / np.maximum(flow.sum(1, keepdims=True), 1e-12)
    comes = (flow.sum(1) > 0).astype(float)
    # A factor below 1, so that the solution exists when pathways contain cycles.
    places = np.linalg.solve(np.eye(len(steps)) - 0.85 * share, comes)
    return {name: float(places[i]) for name, i in index.items()}
