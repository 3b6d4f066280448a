"""Which rows of a result's tables a forest plot shows, and under which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
INTERCEPT = "(Intercept)"
SUBJECTS = ("term", "drug", "event", "indicator", "group", "series", "week")
ANALYSES = (  # whose results have a table that `drawable` finds
    "anova", "cox", "disproportionality", "fine_gray", "glm", "mantel_haenszel", "mixed_model",
    "multiple_imputation", "pathways", "piecewise_exponential", "propensity", "rates", "sccs",
    "wilcoxon",
)  # fmt: skip
FIGURES = (*ANALYSES, "cumulative_incidence", "describe", "kaplan_meier", "train")  # of the report
FOLLOW = ("meta", "leave_one_out")  # tables over nodes
BY_STEP = "_by_step"  # the end of the names of tables over the steps of a cascade
NOT_DRAWN = ("time", "probability", "from")  # columns of curves, quantiles and baselines


@dataclass(frozen=True)
class Interval:
    """The names of the columns of an estimate and of the ends of its interval."""

    estimate: str
    low: str
    high: str

    @property
    def is_ratio(self) -> bool:
        return self.low != "conf_low"


def of(row: Row) -> Interval | None:
    """The columns of a ratio if the row has one (`hazard_ratio` with `hazard_ratio_low`), else of
    `estimate`. None if a number is missing."""
    ratios = [
        name for name in row if f"{name}_low" in row and (name.endswith("ratio") or name == "ror")
    ]
    wanted = (
        Interval(ratios[0], f"{ratios[0]}_low", f"{ratios[0]}_high")
        if ratios
        else Interval("estimate", "conf_low", "conf_high")
    )
    ends = [row.get(name) for name in (wanted.estimate, wanted.low, wanted.high)]
    return wanted if all(end is not None for end in ends) else None


def drawable(tables: Mapping[str, Sequence[Row]]) -> tuple[str, list[Row]]:
    """The first table of estimates with intervals, the coefficients before all others, and those of
    its rows that have one; ("", []) if there is no such table."""
    for name in sorted(tables, key=lambda name: name != "coefficients"):
        rows = [row for row in tables[name] if of(row) and not set(NOT_DRAWN) & set(row)]
        if rows and name not in FOLLOW and not name.endswith(BY_STEP):
            return name, rows
    return "", []


def label(row: Row, table: str) -> str:
    """The subject of a row; the name of its table if it is about everyone."""
    subjects = [str(row[name]) for name in SUBJECTS if row.get(name) is not None]
    return ", ".join(subjects) or table


def curve_of(row: Row) -> str:
    """The label of the curve that a row belongs to."""
    words = [str(row["group"])] if row["group"] != "all" or "cause" not in row else []
    return ": ".join([*words, *([row["cause"]] if "cause" in row else [])])
