"""The hub's door: the contents of a released document, table by table."""

from __future__ import annotations

import itertools
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from aggregator import release, report
from aggregator.document import Document
from federation.cli.actions import study_files as studies
from federation.disclosure import hub_door
from federation.results import Result, Table
from tests import federations

K = 11
N = {"people": 500, "rows": 500, "missing": 0}


def cleared(table: Table, **more: Table) -> dict[str, Any]:
    tables, _ = hub_door.clear_tables({"": Result({"t": table, **more}, N)}, K)[""]
    return tables


def cells(counts: list[list[int]]) -> Table:
    return Table(
        [
            {"row": f"r{i}", "column": f"c{j}", "n": n, "row_share": 0.5}
            for i, row in enumerate(counts)
            for j, n in enumerate(row)
        ],
        door="cells",
    )


def test_a_small_cell_is_null_with_the_reason_beside_it_never_zero() -> None:
    rows = cleared(cells([[5, 100, 100], [100, 100, 100], [100, 100, 100]]))["t"]
    first = next(row for row in rows if (row["row"], row["column"]) == ("r0", "c0"))
    assert first == {"row": "r0", "column": "c0", "n": None, "row_share": None, "suppressed": "<11"}
    assert (
        sum(row.get("suppressed") == "withheld" for row in rows) == 3
    )  # one more in its row, its column, and theirs


def test_an_empty_cell_is_zero() -> None:
    assert (
        next(row for row in cleared(cells([[0, 50], [50, 50]]))["t"] if row["column"] == "c0")["n"]
        == 0
    )


def test_a_test_over_a_table_with_withheld_cells_is_withheld() -> None:
    chi = Table([{"statistic": 3.1, "df": 1}], follows="t")
    assert cleared(cells([[5, 100], [100, 100]]), chi=chi)["chi"] == [
        {"statistic": None, "df": None, "suppressed": "withheld"}
    ]
    assert cleared(cells([[50, 100], [100, 100]]), chi=chi)["chi"] == [{"statistic": 3.1, "df": 1}]


def test_a_curve_keeps_its_estimates_and_merges_small_steps() -> None:
    rows = [
        {
            "group": "g",
            "time": float(t),
            "n_risk": 100 - 8 * t,
            "n_event": 4,
            "n_censor": 4,
            "n_left": 92 - 8 * t,
            "estimate": 0.99**t,
        }
        for t in range(11)
    ]
    shown = cleared(Table(rows, door="curve"))["t"]
    visible = [row for row in shown if "suppressed" not in row]
    assert visible and all(row["n_event"] >= K and row["n_censor"] >= K for row in visible)
    assert all(row["estimate"] == 0.99 ** row["time"] for row in visible)
    assert (
        visible[1]["n_risk"]
        == visible[0]["n_risk"] - visible[0]["n_event"] - visible[0]["n_censor"]
    )  # of the merged step's start
    assert (
        shown[-1]["suppressed"] == "<11"
        and shown[-1]["estimate"] is None
        and "n_left" not in shown[0]
    )


def test_estimates_of_few_people_are_null() -> None:
    shown = cleared(
        Table([{"column": "x", "n": 7, "mean": 3.2}, {"column": "y", "n": 70, "mean": 3.4}])
    )["t"]
    assert (
        shown[0] == {"column": "x", "n": None, "mean": None, "suppressed": "<11"}
        and shown[1]["mean"] == 3.4
    )


def test_an_extreme_quantile_that_few_people_lie_beyond_is_null() -> None:
    shown = cleared(
        Table([{"column": "x", "probability": 0.01, "estimate": 1.0, "beyond": {"estimate": 5}}])
    )["t"]
    assert shown[0]["estimate"] is None and shown[0]["suppressed"] == "<11"


def test_what_one_node_withholds_all_withhold_since_their_sum_is_shown() -> None:
    """Three nodes with 30, 25 and 5 in a cell, and 60 in the pooled table: 60 - 30 - 25 would tell
    the 5."""
    nodes = {
        f"n{i}": Result({"t": cells([[n, 80], [90, 85]])}, N) for i, n in enumerate((30, 25, 5))
    }
    cleared = hub_door.clear_tables(nodes, K)
    patterns = {tuple("suppressed" in row for row in tables["t"]) for tables, _ in cleared.values()}
    assert len(patterns) == 1 and cleared["n0"][0]["t"][0]["n"] is None


def test_a_node_withheld_whole_takes_the_counts_of_the_others_with_it(tmp_path: Path) -> None:
    """Node n0 has few events: with the pooled number of events,
    those of n1 and n2 would tell how many."""
    table = pandas.DataFrame({"id": np.arange(300), "x": np.arange(300) % 97, "g": "a", "y": 0})
    table.loc[
        (table["id"] % 3 == 0) & (table["id"] < 15)
        | (table["id"] % 3 > 0) & (table["id"] % 2 == 0),
        "y",
    ] = 1
    sites = federations.sites_of(table, np.arange(300) % 3, CONTRACT, tmp_path)
    study = federations.study_of(
        {"a": {"run": "glm", "model": "y ~ x", "family": "binomial", "results": "both"}}
    )
    now = datetime(2026, 11, 24, tzinfo=UTC)
    document_ = release.clear(
        federations.run(study, CONTRACT, sites), started=now, finished=now, engine="local"
    ).analyses["a"]
    assert document_.by_node["n0"].status == "withheld"
    assert document_.by_node["n1"].n == {} and list(document_.by_node["n1"].tables) == [
        "coefficients"
    ]
    assert document_.n["events"] == 105


def test_curves_of_nodes_are_released_at_times_that_suit_them_all() -> None:
    def curve(events: list[int]) -> Result:
        left = 400 - np.cumsum(events)
        rows = [
            {
                "group": "g",
                "time": float(t),
                "n_risk": int(left[t] + d),
                "n_event": d,
                "n_censor": 0,
                "n_left": int(left[t]),
                "estimate": 0.5,
            }
            for t, d in enumerate(events)
        ]
        return Result({"t": Table(rows, door="curve")}, N)

    cleared = hub_door.clear_tables(
        {"n0": curve([20, 20, 20, 20]), "n1": curve([20, 4, 20, 20])}, K
    )
    for tables, _ in cleared.values():
        assert [row["time"] for row in tables["t"] if "suppressed" not in row] == [0.0, 2.0, 3.0]


CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  x: {type: number, range: [0, 100]}
  g: {type: category, levels: [a, b, "<script>"]}
  y: {type: boolean}
""")


def document(
    tmp_path: Path, analyses: dict[str, Any], *, events: int = 60, missing: int = 0
) -> Document:
    table = pandas.DataFrame(
        {
            "id": np.arange(300),
            "x": np.arange(300) % 97,
            "g": np.where(np.arange(300) % 3 == 0, "a", "b"),
            "y": (np.arange(300) < events).astype(int),
        }
    ).astype(object)
    table.loc[table.index[:missing], "x"] = ""
    sites = federations.sites_of(table, np.arange(300) % 3, CONTRACT, tmp_path)
    outcome = federations.run(federations.study_of(analyses, title="<b>bold</b>"), CONTRACT, sites)
    now = datetime(2026, 11, 24, tzinfo=UTC)
    return release.clear(outcome, started=now, finished=now, engine="local")


def test_a_model_of_few_events_is_withheld_whole(tmp_path: Path) -> None:
    document_ = document(
        tmp_path, {"a": {"run": "glm", "model": "y ~ x", "family": "binomial"}}, events=6
    ).analyses["a"]
    assert (
        document_.status == "withheld"
        and document_.tables == {}
        and "fewer than 11 people" in str(document_.reason)
    )


def test_the_number_of_few_missing_rows_is_null(tmp_path: Path) -> None:
    analyses = {
        "a": {"run": "glm", "model": "y ~ x", "family": "binomial"},
        "d": {"run": "describe", "columns": ["x"]},
    }
    analyses_ = document(tmp_path, analyses, missing=4).analyses
    assert analyses_["a"].n == {"people": 296, "rows": 296, "missing": None, "events": 56}
    row = analyses_["d"].tables["numbers"][0]
    assert row["missing"] is None and row["suppressed"] == "missing <11" and row["mean"] is not None
    assert document(tmp_path, analyses, missing=40).analyses["a"].n["missing"] == 40


def test_no_minimum_or_maximum_is_ever_released(tmp_path: Path) -> None:
    document_ = document(
        tmp_path, {"a": {"run": "describe", "columns": ["x"], "method": "exact"}}
    ).analyses["a"]
    assert not {name for rows in document_.tables.values() for row in rows for name in row} & {
        "min",
        "max",
        "minimum",
        "maximum",
    }


def test_result_json_keeps_to_its_committed_schema() -> None:
    committed = Path(__file__).parents[3] / "docs" / "result.schema.json"
    assert json.loads(committed.read_text()) == studies.schema("result"), (
        "run: hdh study schema result > docs/result.schema.json,"
        " and raise SCHEMA_VERSION if a reader must change"
    )


def test_the_files_of_a_report(tmp_path: Path) -> None:
    document_ = document(
        tmp_path,
        {
            "a": {"run": "glm", "model": "y ~ x + g", "family": "binomial", "results": "both"},
            "d": {"run": "describe", "columns": ["x", "g"]},
        },
    )
    report.write(document_, tmp_path / "out")
    text = (tmp_path / "out" / "result.json").read_text()
    assert Document.model_validate_json(text).model_dump(mode="json") == document_.model_dump(
        mode="json"
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") >= 2
    # nothing is loaded from anywhere
    assert not re.search(
        r"<(link|iframe|img)\b|<script[^>]+src|@import|(src|href)=.?(http|//)|url\(.?http", page
    )
    assert (
        "<b>bold</b>" not in page and "&lt;b&gt;bold" in page and page.count("<script>") == 1
    )  # its own
    rows = pandas.read_csv(tmp_path / "out" / "tables" / "a.coefficients.csv")
    np.testing.assert_allclose(
        rows["estimate"].dropna(),
        [
            row["estimate"]
            for row in document_.analyses["a"].tables["coefficients"]
            if row["estimate"] is not None
        ],
    )
    assert (tmp_path / "out" / "tables" / "a@n0.coefficients.csv").exists()


@pytest.mark.parametrize("document", ["study", "contract", "node", "result"])
def test_schemas_for_editors_are_whole(document: str) -> None:
    schema = studies.schema(document)
    assert schema["$schema"] and schema["properties"]


def test_nodes_with_unlike_numbers_of_groups_are_cleared_together() -> None:
    """Bands of a score end elsewhere at each node. A place that one must hide, all hide."""
    results = {
        "a": Result({"t": groups([(100, 50), (40, 5), (200, 90)])}, N),
        "b": Result({"t": groups([(100, 50), (90, 40)])}, N),
    }
    shown = {node: tables["t"] for node, (tables, _) in hub_door.clear_tables(results, 11).items()}
    assert [len(rows) for rows in shown.values()] == [3, 2]
    assert "suppressed" in shown["a"][1] and "suppressed" in shown["b"][1]
    assert all(row["n"] != 40 for rows in shown.values() for row in rows)


def groups(pairs: list[tuple[int, int]]) -> Table:
    return Table(
        [
            {"group": f"g{i}", "n": n, "n_event": events, "rate": 0.5}
            for i, (n, events) in enumerate(pairs)
        ],
        door="groups",
    )


def test_a_small_group_takes_another_with_it_since_their_total_is_known() -> None:
    rows = cleared(groups([(5, 0), (100, 50), (40, 30), (200, 90)]))["t"]
    assert [row.get("suppressed") for row in rows] == ["<11", None, "withheld", None]
    assert rows[0] == {"group": "g0", "n": None, "n_event": None, "rate": None, "suppressed": "<11"}


def test_few_events_in_a_large_group_hide_it_too() -> None:
    assert [
        row.get("suppressed") for row in cleared(groups([(500, 3), (100, 50), (120, 20)]))["t"]
    ] == ["<11", "withheld", None]


def test_a_row_that_is_listed_only_if_someone_is_in_it_is_left_out_with_its_words() -> None:
    table = Table(
        [{"drug": "x", "event": "rash", "n": 3}, {"drug": "x", "event": "pain", "n": 30}],
        door="listed",
    )
    assert cleared(table)["t"] == [{"drug": "x", "event": "pain", "n": 30}]


def test_of_two_nodes_what_is_not_listed_of_one_is_not_of_the_other() -> None:
    """Else the sum less the one would show the other. What was found (`signal_ic`) does not make it
    another row."""
    first, other = (
        Table([{"drug": "x", "n": n, "signal_ic": signal}], door="listed")
        for n, signal in ((3, "no"), (30, "yes"))
    )
    cleared_ = hub_door.clear_tables(
        {node: Result({"t": table}, N) for node, table in (("a", first), ("b", other))}, K
    )
    assert [tables["t"] for tables, _ in cleared_.values()] == [[], []]


def test_an_alarm_on_a_suppressed_count_is_not_told_and_other_weeks_stay() -> None:
    rows = [
        {"series": "s", "week": week, "n": n, "upper": 9.5, "alarm": "alarm"}
        for week, n in ((1, 10), (2, 40))
    ]
    shown = cleared(Table(rows))["t"]
    assert shown[0] == {
        "series": "s",
        "week": 1,
        "n": None,
        "upper": None,
        "alarm": None,
        "suppressed": "<11",
    }
    assert shown[1] == rows[1]


def test_the_curves_of_competing_causes_are_released_at_the_same_times() -> None:
    """Where one cause has too few events in a step, the other's curve waits too: else the number at
    risk would tell."""
    rows = [
        {
            "group": "g",
            "cause": cause,
            "time": float(t),
            "n_risk": 300 - 30 * t,
            "n_event": events,
            "n_censor": 0,
            "n_left": 270 - 30 * t,
            "estimate": 0.1 * t,
        }
        for cause, events in (("relapse", 6), ("death", 24))
        for t in range(1, 5)
    ]
    shown = [row for row in cleared(Table(rows, door="curve"))["t"] if "suppressed" not in row]
    assert {
        cause: [row["time"] for row in shown if row["cause"] == cause]
        for cause in ("relapse", "death")
    } == {"relapse": [2.0, 4.0], "death": [2.0, 4.0]}
    assert [row["n_event"] for row in shown] == [12, 12, 48, 48]


def bands(*edges: float) -> Table:
    rows = [
        {"band": i, "score_low": low, "score_high": high, "n": 400, "n_event": 100}
        for i, (low, high) in enumerate(itertools.pairwise(edges), start=1)
    ]
    return Table(rows, door="groups")


@pytest.mark.parametrize("other", [(0.0, 0.4, 1.0), (0.0, 0.5, 0.7, 1.0)])
def test_bands_of_nodes_that_chose_their_own_ends_are_withheld(other: tuple[float, ...]) -> None:
    """The pooled count at an end that one node has would reveal the other's."""
    alike = {"a": bands(0.0, 0.5, 1.0), "b": bands(0.0, 0.5, 1.0)}
    for results, suppressed in ((alike, False), (alike | {"b": bands(*other)}, True)):
        cleared = hub_door.clear_tables(
            {node: Result({"bands": table}, N) for node, table in results.items()}, K
        )
        shown = [row for tables, _ in cleared.values() for row in tables["bands"]]
        assert [row["n"] is None for row in shown] == [suppressed] * len(shown)
