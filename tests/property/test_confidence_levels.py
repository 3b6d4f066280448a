"""The level of an interval is the one that the study asks for, and the one that the report names,
for every registered analysis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.document import AnalysisDocument
from aggregator.report import html, words
from federation.results import Row
from simulations import planning
from strategies import registry
from tests import federations
from tests.property import test_every_analysis as laws
from tests.property import test_private_analyses as private_laws

HAS_LEVEL = [
    name
    for name in registry.ANALYSES
    if "conf_level" in registry.analysis(name).Options.model_fields
]
CONTRACT = private_laws.CONTRACTS[2]


def document(name: str, folder: Path, **options: Any) -> Any:
    study = federations.study_of(
        {"a": {"run": name, "results": "both", **laws.EXAMPLES[name][0], **options}}
    )
    split = laws.TABLE["person"].astype(int).to_numpy() % 3
    sites = federations.sites_of(laws.TABLE, split, laws.CONTRACT, folder)
    return federations.document(federations.run(study, laws.CONTRACT, sites))


def intervals(analysis: AnalysisDocument) -> dict[tuple[Any, ...], tuple[float, float]]:
    """The ends of every released interval, by table, row and name."""
    rows: list[tuple[str, int, Row]] = [
        (table, i, dict(row))
        for table, rows in analysis.tables.items()
        for i, row in enumerate(rows)
    ]
    names = {column[:-4] for *_, row in rows for column in row if column.endswith("_low")}
    return {
        (table, i, name): (row[f"{name}_low"], row[f"{name}_high"])
        for table, i, row in rows
        for name in names
        if row.get(f"{name}_low") is not None and row.get(f"{name}_high") is not None
    }


@pytest.mark.parametrize(
    "name", federations.first(("glm", *(name for name in HAS_LEVEL if name != "glm")))
)
def test_every_interval_is_of_the_level_that_the_study_asks_for(name: str, tmp_path: Path) -> None:
    """A lower level gives a narrower interval inside the wider one; a number that ignores
    `conf_level` gives the same one twice. Ends that are values of the data, as of a median, lie on
    the grid of the table's values, and may be the same at both levels."""
    levels = {}
    for level in (0.95, 0.8):
        folder = tmp_path / str(level)
        folder.mkdir()
        released = document(name, folder, conf_level=level)
        assert released.analyses["a"].status == "released", released.analyses["a"].reason
        levels[level] = intervals(released.analyses["a"])
        page = html.page(released)
        other = {0.95: "80 %", 0.8: "95 %"}[level]
        shown = page.split('<h2 id="a">')[1].replace("95 % limit", "")
        if levels[level]:
            assert f"Intervals: {100 * level:g} %." in shown
        assert f"{other} low" not in shown and f"{other} interval" not in shown
    wide, narrow = levels[0.95], levels[0.8]
    both = wide.keys() & narrow.keys()
    spread = {key for key in both if wide[key][1] - wide[key][0] > 1e-9}
    assert len(spread) > len(both) / 2 or not both
    for key in spread:
        width = [ends[1] - ends[0] for ends in (narrow[key], wide[key])]
        on_grid = all(2 * end % 1 == 0 for end in (*narrow[key], *wide[key]))
        assert width[0] < width[1] * (1 - 1e-6) or (on_grid and width[0] == width[1]), key
        assert wide[key][0] <= narrow[key][0] + 1e-12 and narrow[key][1] <= wide[key][1] + 1e-12


@pytest.mark.parametrize("name", registry.ANALYSES)
def test_a_heading_names_the_level_of_its_analysis(name: str) -> None:
    options = registry.analysis(name).Options.model_validate(laws.EXAMPLES[name][0])
    asked = options.model_copy(update={"conf_level": 0.9}) if name in HAS_LEVEL else options
    analysis = AnalysisDocument.model_construct(options=asked.model_dump(mode="json"))
    level = words.level_of(analysis)
    assert level == ("90 %" if name in HAS_LEVEL else "95 %")
    assert words.heading("conf_low", level) == f"{level} low"
    assert words.heading("mean_conf_high", level) == f"mean {level} high"


@pytest.mark.parametrize(
    ("level", "shown"), [(0.999, "99.9 %"), (0.57, "57 %"), (0.125, "12.5 %"), (0.99, "99 %")]
)
def test_a_level_is_written_without_the_error_of_a_float(level: float, shown: str) -> None:
    assert words.level_of(AnalysisDocument.model_construct(options={"conf_level": level})) == shown


def test_a_document_of_an_earlier_version_names_no_level() -> None:
    assert words.level_of(AnalysisDocument.model_construct(options={})) == ""
    assert words.heading("conf_low") == "interval low"


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in registry.PRIVATE
        if "conf_level" in registry.private(name).Options.model_fields
    ],
)
def test_the_widths_of_a_plan_are_of_the_level_that_the_study_asks_for(name: str) -> None:
    widths = {}
    for level in (0.95, 0.8):
        example = {"run": name, **private_laws.EXAMPLES[name][0], "conf_level": level}
        study = federations.study_of({"a": example}, privacy={"mode": "dp", "epsilon": 8})
        tasks = registry.plan(study, CONTRACT)
        nodes = planning.nodes_of_sizes(["a=100000", "b=100000"], study, tasks, CONTRACT)
        rows = planning.of(study, CONTRACT, nodes).forecasts["this"]
        assert {row["conf_level"] for row in rows} == {level}
        widths[level] = np.array([np.nan if row["width"] is None else row["width"] for row in rows])
    forecast = np.isfinite(widths[0.95]) & np.isfinite(widths[0.8])
    assert forecast.any() and (widths[0.8][forecast] < widths[0.95][forecast]).all()
