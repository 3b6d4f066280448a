"""Survival of 6,805 Brazilian dialysis patients of 67 centres: the real data set `Dialysis` of the
package SurvSet.

The centres are real; their grouping into four nodes, named after four French producers, is
simulated. Source of the data: de Sa Carvalho et al. 2003, via the R package
RcmdrPlugin.survival.
"""

from __future__ import annotations

from pathlib import Path

from federation import errors
from simulations.pilots.common import Main

NOTE = (
    "real patients of 67 real centres; their grouping into four nodes named after French producers"
    " is simulated"
)
NODES = ("ansm", "centre-leon-berard", "chu-limoges", "sante-publique-france")

MAIN = {
    "study": Main(
        "hazard ratio of death with diabetes",
        "model",
        where={"term": "diabetes"},
        columns=("hazard_ratio", "hazard_ratio_low", "hazard_ratio_high"),
    )
}


def make(directory: Path, *, seed: int) -> dict[str, Path]:
    """One CSV per node. Whole centres are assigned to the nodes in turn, the largest first."""
    try:
        from SurvSet.data import SurvLoader
    except ImportError:
        raise errors.SetupError(
            "the dialysis data come with the extra `demo`: pip install 'hdh-federation[demo]'"
        ) from None
    raw = SurvLoader().load_dataset(ds_name="Dialysis")["df"]
    names = {
        "pid": "patient",
        "fac_center": "centre",
        "fac_disease": "disease",
        "num_age": "age",
        "num_begin": "begin",
    }
    table = raw.rename(columns=names)
    sizes = table["centre"].value_counts(sort=False)
    ordered = sorted(sizes.index, key=lambda centre: (-sizes[centre], centre))
    node_of = {centre: NODES[i % len(NODES)] for i, centre in enumerate(ordered)}
    paths = {}
    for node in NODES:
        paths[node] = directory / f"{node}.csv"
        mine = table[[node_of[centre] == node for centre in table["centre"]]]
        mine[["patient", "time", "event", "age", "begin", "disease", "centre"]].to_csv(
            paths[node], index=False
        )
    return paths
