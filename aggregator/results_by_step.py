"""Results by step of a cascade in a document: a table `by_step` of the people behind each number of
steps, and beside each table of the analysis one with the rows of them all, as NAME_by_step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aggregator.document import ReleasedResult
from aggregator.rounds import TaskRun
from federation.disclosure import hub_door
from federation.disclosure.hub_door import Cleared
from federation.messages import steps_label
from federation.results import Row

OTHER_NODES = (
    "not of the same nodes as the result over all steps: at another one these steps or the later "
    "ones link too few people"
)
SUFFIX = "_by_step"


def cleared(whole: TaskRun, by_steps: Mapping[int, TaskRun], k: int) -> dict[int, Cleared]:
    """What may be shown of the results over fewer steps, beside the result of all."""
    if whole.result is None or whole.withheld:
        return {}
    refused = {
        steps: Cleared(reason) for steps, run in by_steps.items() if (reason := _reason(run))
    }
    refused |= {
        steps: Cleared(OTHER_NODES)
        for steps, run in by_steps.items()
        if steps not in refused and sorted(run.nodes) != sorted(whole.nodes)
    }
    others = sorted(by_steps.keys() - refused.keys(), reverse=True)
    runs = [whole, *(by_steps[steps] for steps in others)]
    results = [run.result for run in runs if run.result is not None]
    of_others = hub_door.clear_by_step(results, k)[1:]
    return refused | dict(zip(others, of_others, strict=True))


def _reason(run: TaskRun) -> str:
    """Why a run has no result."""
    return run.withheld or run.failed


def tables(
    whole: ReleasedResult, by_steps: Mapping[int, Cleared], n_steps: int
) -> dict[str, Sequence[Row]]:
    """`whole`: over all of the cascade's `n_steps`."""
    parts = [(steps, by_steps[steps]) for steps in sorted(by_steps)]
    rows = [_row(steps, part.n, part.withheld) for steps, part in parts]
    by_table: dict[str, Sequence[Row]] = {"by_step": [*rows, _row(n_steps, whole.n, "")]}
    for name, of_all in whole.tables.items():
        listed = [*((s, part.tables.get(name, ())) for s, part in parts), (n_steps, of_all)]
        by_table[name + SUFFIX] = [
            {"steps": steps_label(steps), **row} for steps, rows in listed for row in rows
        ]
    return by_table


def _row(steps: int, n: Mapping[str, int | float | None], withheld: str) -> Row:
    counts = {"people": n.get("people"), "events": n.get("events")} if "events" in n else {}
    counts = counts or {"people": n.get("people")}
    return {"steps": steps_label(steps), **counts, "withheld": withheld or None}
