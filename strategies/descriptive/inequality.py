"""How unequally an amount is spread, by group: mean, quantiles, Gini coefficient, Lorenz curve, and
the share of the top.

Node: how many people have each amount, on a grid that the contract or the study gives. Hub: the
measures of the pooled distribution, with their linearised standard errors (Davidson 2009;
quantiles: Woodruff 1952). Exact where amounts lie on the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pydantic

from federation import cohort as cohorts
from federation import errors
from federation.arrays import Floats, Ints
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Door, Exactness, Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.numerics import counting, grouping, value_grid
from strategies.numerics.counting import Mask
from strategies.numerics.value_grid import ValueGrid
from strategies.options import ConfLevel, Probability
from strategies.protocol import Prepared, Roles, Task, Total, Traits

MAX_CELLS = 5_000_000
NUMBERS = 8  # of each group beside quantiles and shares: mean, Gini coefficient, errors

TRAITS = Traits(over_people=protocol.always_over_people)


class Options(Frozen):
    """`step`: the width of the cells that amounts are counted in, by default the contract's; an
    amount between two of them counts at the nearer one. `lorenz`: at how many equal parts of the
    people the curve is given. `top`: which shares of the people to look at."""

    value: str
    by: tuple[str, ...] = ()
    step: float | None = pydantic.Field(None, gt=0)
    quantiles: tuple[Probability, ...] = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
    lorenz: int = pydantic.Field(10, ge=2, le=100)
    top: tuple[Probability, ...] = (0.01, 0.05, 0.1)
    conf_level: ConfLevel = 0.95


@dataclass(frozen=True)
class Plan:
    value: Field
    by: tuple[Field, ...]
    labels: tuple[str, ...]
    grid: ValueGrid


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    value = schema.field(options.value)
    low, high = value.interval
    if value.kind != "number" or not 0 <= low < high < math.inf:
        raise ExpressionError(
            f"value: {value.name!r} must be a number whose contract range starts at 0 or more and"
            " ends somewhere"
        )
    by = grouping.fields(options.by, schema, "groups are of categories")
    labels, grid = grouping.labels(by), value_grid.agree(value, options.step)
    if len(labels) * grid.size > MAX_CELLS:
        raise ExpressionError(
            f"{len(labels):,} groups and {grid.size:,} cells are more than {MAX_CELLS:,};"
            " use a wider `step`"
        )
    return Prepared(Plan(value, by, labels, grid), (value, *by))


def start(task: Task[Options, Plan]) -> State:
    return State()


def count(cohort: Cohort, task: Task[Options, Plan]) -> tuple[Mask, Ints, int]:
    """The complete rows (n_rows,); rows by group and cell; and how many amounts are not on the
    grid."""
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    rows = np.flatnonzero(keep)
    amounts, group = columns[plan.value.name][rows], grouping.combination(plan.by, columns, rows)
    counts = plan.grid.counts(amounts, group, len(plan.labels))
    return keep, counts, plan.grid.off_grid(amounts)


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    keep, counts, off_grid = count(cohort, task)
    cells = counting.people(cohort, keep) | {"amounts": counts, "off_grid": np.array([off_grid])}
    return Part(
        {"amounts": counts.astype(np.float64)}, cells, {"amounts": float(task.rows_per_person)}
    )


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    if not total.sums["amounts"].sum() > 0:
        raise errors.ModelError(f"{task.name}: nobody in the cohort has an amount; widen it")
    tables = measured(total.sums["amounts"], task, None)
    why = f"amounts are counted at the nearest multiple of {task.plan.grid.step:g}"
    off = int(total.cells["off_grid"][0])
    return Result(
        tables,
        counting.reported(total.cells),
        Exactness("approximate", why) if off else Exactness(),
    )


NoiseOfSum = Callable[
    [Floats], float
]  # the variance that noise in the counts gives to a weighted sum over the cells


def measured(
    counts: Floats, task: Task[Options, Plan], noise: NoiseOfSum | None
) -> dict[str, Table]:
    """The tables, from counts (groups, cells)."""
    plan = task.plan
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    tables: dict[str, list[Row]] = {name: [] for name in ("summary", "quantiles", "lorenz", "top")}
    for label, n in zip(plan.labels, counts, strict=True):
        if not (n.sum() > 0 and n @ plan.grid.values > 0):
            continue
        of_group = _of_group(label, Distribution(n, plan.grid.values, noise), task.options, z)
        for name, rows in of_group.items():
            tables[name] += rows
    door: Door = "groups" if noise is None else "estimates"
    return {
        name: Table(rows, door=door) if name == "summary" else Table(rows)
        for name, rows in tables.items()
    }


def _of_group(
    label: str, distribution: Distribution, options: Options, z: float
) -> dict[str, list[Row]]:
    """The rows of a group in each table. `z`: normal quantile of an interval's upper end."""
    mean = _estimate_row(distribution, *distribution.mean(), z)
    gini = _estimate_row(distribution, *distribution.gini(), z)
    summary = {
        "group": label,
        "n": max(0, round(distribution.size)),
        "mean": mean.pop("estimate"),
        **{f"mean_{key}": value for key, value in mean.items()},
        "gini": gini.pop("estimate"),
        **{f"gini_{key}": value for key, value in gini.items()},
    }
    quantiles = [
        {"group": label, "probability": p, **distribution.quantile(p, z)} for p in options.quantiles
    ]

    def share(p: float, estimate: float, weights: Floats) -> Row:
        interval = _estimate_row(distribution, estimate, weights, z)
        return {"group": label, **_behind(distribution, p), "probability": p, **interval}

    parts = [i / options.lorenz for i in range(1, options.lorenz)]
    lorenz = [share(p, *distribution.lorenz(p)) for p in parts]
    top = []
    for p in options.top:
        estimate, weights = distribution.lorenz(1 - p)
        top.append(share(p, 1 - estimate, -weights))
    return {"summary": [summary], "quantiles": quantiles, "lorenz": lorenz, "top": top}


def _behind(distribution: Distribution, p: float) -> Row:
    """For the door, in exact mode: the people on the emptier side of the share `p`."""
    return {"beyond": {"estimate": distribution.beyond(p)}} if distribution.noise is None else {}


def _estimate_row(distribution: Distribution, estimate: float, weights: Floats, z: float) -> Row:
    # noised counts may be negative: cut off one by one they would add people who are not there
    sampling = max(float(distribution.n @ weights**2), 0.0)
    noised = distribution.noise(weights) if distribution.noise else 0.0
    error = math.sqrt(sampling + noised)
    row: Row = {
        "estimate": estimate,
        "std_error": error,
        "conf_low": estimate - z * error,
        "conf_high": estimate + z * error,
    }
    return row if distribution.noise is None else row | {"noise_sd": math.sqrt(noised)}


@dataclass(frozen=True)
class Distribution:
    """How many people `n` (cells,) have each of `amounts` (cells,), ascending. A measure comes with
    its influence (cells,): how much one more person in a cell moves it."""

    n: Floats
    amounts: Floats
    noise: NoiseOfSum | None

    @property
    def size(self) -> float:
        return float(self.n.sum())

    @property
    def total(self) -> float:
        return float(self.n @ self.amounts)

    def mean(self) -> tuple[float, Floats]:
        mean = self.total / self.size
        return mean, (self.amounts - mean) / self.size

    def gini(self) -> tuple[float, Floats]:
        """Half of the mean difference between two people, over the mean."""
        x, N, T = self.amounts, self.size, self.total
        below = np.cumsum(self.n) - self.n / 2  # with half of those who have the same
        held = np.cumsum(self.n * x) - self.n * x / 2
        gini = float(2 * (self.n * x) @ below / (N * T) - 1)
        # one more in a cell raises the rank of all above it
        influence = 2 * (x * below + (T - held)) / (N * T)
        return gini, influence - (gini + 1) * (1 / N + x / T)

    def rank(self, p: float) -> int:
        """The cell where the people first reach the share p."""
        reached = np.maximum.accumulate(np.cumsum(self.n)) >= p * self.size - 1e-9
        return int(np.argmax(reached))

    def lorenz(self, p: float) -> tuple[float, Floats]:
        """What the poorest share p of the people hold of all: those in the cell at p by part."""
        at, x = self.rank(p), self.amounts
        q = float(x[at])
        held = float((self.n * x)[:at].sum() + (p * self.size - self.n[:at].sum()) * q)
        share = held / self.total
        return share, (np.minimum(x - q, 0.0) + p * q - share * x) / self.total

    def beyond(self, p: float) -> int:
        """How many people lie on the emptier side of the quantile at `p`."""
        return int(min(p, 1 - p) * self.size + 1e-9)

    def quantile(self, p: float, z: float) -> Row:
        """The amount that a share p of the people do not exceed (R's type 1).

        The limits of its interval are the quantiles at p plus or minus the error of p (Woodruff
        1952). In exact mode `beyond` counts for the door the people beyond each of the three."""
        at = self.rank(p)
        weights: Floats = np.where(np.arange(len(self.n)) <= at, 1 - p, -p) / self.size
        error = math.sqrt(p * (1 - p) / self.size + (self.noise(weights) if self.noise else 0.0))
        ends = [min(max(p + side * z * error, 0.0), 1.0) for side in (-1, 1)]
        shares = dict(zip(("estimate", "conf_low", "conf_high"), (p, *ends), strict=True))
        row: Row = {name: float(self.amounts[self.rank(q)]) for name, q in shares.items()}
        if self.noise is not None:
            return row
        return row | {"beyond": {name: self.beyond(q) for name, q in shares.items()}}


def roles(task: Task[Options, Plan]) -> Roles:
    plan, options = task.plan, task.options
    numbers = len(plan.labels) * (
        len(options.quantiles) + len(options.top) + options.lorenz + NUMBERS
    )
    tops = (round(1 - share, 12) for share in options.top)
    lorenz = (round(i / options.lorenz, 12) for i in range(1, options.lorenz))
    grid = value_grid.cut(plan.value, plan.grid, numbers, options.quantiles, (*tops, *lorenz))
    return Roles(amounts=(plan.value,), groups=plan.by, grids=(grid,))


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
