"""The verbs of a result, for every registered analysis: each gives what its table says, or an error
that names the analyses which have it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import federation as fed
from aggregator import estimators
from aggregator.report import intervals
from aggregator.report.headings import HEADINGS
from federation import errors
from strategies import registry
from tests import federations
from tests.property import test_every_analysis as laws

PERSON = laws.TABLE["person"].astype(int).to_numpy()
FRAMES = {f"node-{i}": laws.TABLE[i == PERSON % 3] for i in range(3)}
QUICK = (
    "anova",
    "cox",
    "crosstab",
    "fedavg",
    "mantel_haenszel",
    "pca",
)  # the others in `make slow`
INTERVAL = re.compile(r"conf_(low|high)$")  # whose heading names the level
OTHERS = tuple(name for name in registry.ANALYSES if name not in QUICK)


@pytest.fixture(scope="module")
def nodes() -> Iterator[fed.Simulation]:
    with fed.simulate(FRAMES, laws.CONTRACT) as nodes:
        yield nodes


def refused(verb: Callable[[], Any], *words: str) -> None:
    with pytest.raises(errors.InputError) as raised:
        verb()
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("name", federations.first((*QUICK, *OTHERS), keep=len(QUICK)))
def test_each_verb_works_or_names_the_analyses_that_have_it(
    name: str, nodes: fed.Simulation
) -> None:
    study = fed.Study("people", mode="exact", min_cell=11)
    study = study.add(name, name, results="both", **laws.EXAMPLES[name][0])
    result = study.run(nodes, progress=False)[name]
    assert result.content["status"] == "released", result.content["reason"]
    tables = [table for table in result.tables if table != "glance"]
    assert all(len(result.tidy(table)) for table in tables)
    assert len(result.glance()) == 1 and result.glance()["n"].iloc[0] > 0
    alone = set(result.by_node()["node"])
    assert alone and alone <= set(FRAMES)  # a node by itself may have too few people
    assert "<table" in result._repr_html_()
    if name in intervals.FIGURES:
        assert all(svg.count("<svg") == 1 for svg in result.plot().svg)
    else:
        refused(result.plot, name, ", ".join(sorted(intervals.FIGURES)))
    if name in intervals.ANALYSES:
        assert "<svg" in result.forest().svg[0]
    else:
        refused(result.forest, name, ", ".join(intervals.ANALYSES))
    _check_headings(result)
    if name in estimators.BUILDERS:
        _check_estimator(result)
    else:
        refused(result.estimator, name, ", ".join(sorted(estimators.BUILDERS)))


def _check_headings(result: fed.AnalysisResult) -> None:
    """A reader sees no name of a program: each table and column has a heading of its own, which
    the catalogue translates, or is a column of the contract."""
    headed = {*HEADINGS, *laws.CONTRACT.columns}
    for table, rows in result.content["tables"].items():
        assert table.removesuffix("_by_step") in headed
        names = {name for row in rows for name in row}
        assert not {name for name in names - headed if not INTERVAL.search(name)}, table


def _check_estimator(result: fed.AnalysisResult) -> None:
    """It predicts the rows of a frame of the contract's columns, and depends on each feature that
    has a coefficient."""
    rows = laws.TABLE.replace("", np.nan).dropna().head(50)
    rows = rows.assign(**{name: rows[name].astype(float) for name in ("age", "dose", "score")})
    fitted = result.augment(rows)
    added = [column for column in fitted.columns if column.startswith("fitted")]
    assert len(fitted) == 50 and added
    assert all(np.isfinite(fitted[column]).all() and fitted[column].nunique() > 1 for column in
               added)  # fmt: skip
