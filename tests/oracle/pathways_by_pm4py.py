"""The directly-follows graph of visits.csv by pm4py 2.7 (AGPL-3: not a dependency): `python
tests/oracle/pathways_by_pm4py.py > pathways.json` in an environment that has it. Steps on one day
follow the contract's order of levels, as in `pathways`."""

import json
from pathlib import Path

import pandas
import pm4py  # type: ignore[import-not-found]

LEVELS = ["emergency", "ward", "surgery", "home"]
table = pandas.read_csv(Path(__file__).parent / "visits.csv")
table["rank"] = table["step"].map(LEVELS.index)
table["when"] = (
    pandas.Timestamp("2026-01-01")
    + pandas.to_timedelta(table["day"], "D")
    + pandas.to_timedelta(table["rank"], "s")
)
log = pm4py.format_dataframe(
    table.sort_values(["person", "when"]),
    case_id="person",
    activity_key="step",
    timestamp_key="when",
)
edges, begin, end = pm4py.discover_dfg(log)
print(
    json.dumps(
        {
            "edges": {f"{a} > {b}": int(n) for (a, b), n in sorted(edges.items())},
            "begin": begin,
            "end": end,
        },
        indent=1,
    )
)
