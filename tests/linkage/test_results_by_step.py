"""`results: by_step`: an analysis of a cascade's people over all steps, and over its first ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.document import AnalysisDocument
from federation import codec, datasets
from federation import schema as schemas
from federation.disclosure import differing, hub_door
from federation.disclosure.rules import Rules
from federation.messages import Answer, Part, Query, Refusal, Reply, State, TaskId
from federation.results import Counts, Result, Table
from federation.study import Study
from nodes import functionals, results_by_step, service
from nodes.session import NodeContext
from simulations import linked, local
from strategies import registry
from tests.linkage import two_holders as holders
from tests.linkage.two_holders import CONTRACTS, NOW, Tables

STEPS = [["name", "first", "birth"], ["first", "birth", "sex"], ["name", "birth"]]
CASCADE = {"on": None, "cascade": STEPS, "min_linked_share": 0.0}
ANALYSES: Mapping[str, Mapping[str, Any]] = {
    "model": {"run": "glm", "model": "spent ~ C(grade) + visits"},
    "table": {"run": "crosstab", "rows": "grade", "columns": "died"},
    "curve": {
        "run": "kaplan_meier",
        "model": "Surv(months, died) ~ 1",
        "grid": {"step": 1},
        "every": 20,
    },
    "numbers": {"run": "describe", "columns": ["spent", "grade"]},
    "test": {"run": "wilcoxon", "value": "spent", "by": "died"},
}


DATASETS = {**holders.values(holders.STUDY)["datasets"], "register": {}}


def study(**changes: Any) -> Study:
    return holders.study(**{"link": CASCADE, "analyses": ANALYSES, "datasets": DATASETS, **changes})


def by_step(*names: str, **changes: Any) -> Study:
    analyses = {name: {**ANALYSES[name], "results": "by_step"} for name in names or ANALYSES}
    return study(**{"analyses": analyses, **changes})


def misspelt(second: int, third: int, n: int = 1200) -> Tables:
    """Everybody is at both holders; of `second` people the family names differ, so that step 2
    links them, and of `third` others the first names, so that step 3 does."""
    tables = holders.make(n, n, both=n)
    left = tables.left.assign(year=2010)
    left["surname"] += np.where(np.arange(n) < second, "x", "")
    is_third = (np.arange(n) >= second) & (np.arange(n) < second + third)
    left["first"] += np.where(is_third, "x", "")
    return Tables(left, tables.right)


def answers(
    tables: Tables, folder: Path, asked: Study | None = None
) -> Mapping[str, AnalysisDocument]:
    given = holders.holders(folder, tables)
    return holders.run_linked(asked or by_step(), given).analyses


def of_joined(tables: Tables, folder: Path, people: list[int], name: str) -> AnalysisDocument:
    """The same analysis, of some of the left's people, joined by pandas."""
    frame = holders.joined(replace(tables, left=tables.left.iloc[people])).assign(link_step="1")
    asked = study(analyses={name: ANALYSES[name]})
    return holders.run_joined(asked, {"lyon": frame}, folder).analyses[name]


@pytest.fixture(scope="module")
def tables() -> Tables:
    return misspelt(second=600, third=400, n=2400)


LINKED = {  # numbers of the left's people
    "step 1": [*range(1000, 2400)],
    "steps 1 to 2": [*range(600), *range(1000, 2400)],
    "steps 1 to 3": [*range(2400)],
}
EACH = ["model", *(pytest.param(name, marks=pytest.mark.slow) for name in [*ANALYSES][1:])]


@pytest.mark.parametrize("name", EACH)
def test_the_results_of_the_first_steps_are_those_of_the_people_whom_they_link(
    name, tables, tmp_path
):
    """Tables of many cells give as many numbers in two steps as a site gives of 1,400 people."""
    steps = STEPS[:2] if name in ("numbers", "test") else STEPS
    analysis = answers(tables, tmp_path, by_step(name, link={**CASCADE, "cascade": steps}))[name]
    counted = {row["steps"]: row["people"] for row in analysis.tables["by_step"]}
    assert [*counted] == [*LINKED][: len(steps)]
    for label in counted:
        people = LINKED[label]
        wanted = of_joined(tables, tmp_path, people, name)
        assert counted[label] == wanted.n["people"]
        for table, rows in wanted.tables.items():
            shown = [row for row in analysis.tables[f"{table}_by_step"] if row["steps"] == label]
            assert_equal_where_shown([{"steps": label, **row} for row in rows], shown)


@pytest.mark.parametrize("name", EACH)
def test_the_result_of_all_steps_is_the_one_of_a_study_without_results_by_step(
    name, tables, tmp_path
):
    alone = answers(tables, tmp_path, study(analyses={name: ANALYSES[name]}))[name]
    analysis = answers(tables, tmp_path, by_step(name))[name]
    assert alone.n == analysis.n
    for table, rows in alone.tables.items():
        assert len(rows) == len(analysis.tables[table])
        for row, other in zip(rows, analysis.tables[table], strict=True):
            assert numbers(row) == pytest.approx(numbers(other), rel=1e-9)


def numbers(row: dict[str, Any]) -> list[float]:
    return [value for value in row.values() if isinstance(value, int | float)]


def assert_equal_where_shown(wanted: list[dict], shown: list[dict]) -> None:
    """A curve by step may merge more times, and a table hide more cells, than either alone."""
    if wanted and "time" in wanted[0]:
        at = {row["time"]: row["estimate"] for row in wanted}
        same = [row for row in shown if row["time"] in at and row["estimate"] and at[row["time"]]]
        assert len(same) >= 2
        assert [row["estimate"] for row in same] == pytest.approx([at[row["time"]] for row in same])
        return
    assert len(wanted) == len(shown)
    for ours, theirs in zip(shown, wanted, strict=True):
        if "suppressed" not in ours:
            assert ours.keys() == theirs.keys()
            assert [ours[name] for name in ours if isinstance(ours[name], str)] == [
                theirs[name] for name in theirs if isinstance(theirs[name], str)
            ]
            assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"link": {}}, "cascade"),
        ({"link": {**CASCADE, "cascade": STEPS[:1]}}, "two steps or more"),
        ({"link": {**CASCADE, "keep": "all"}}, "keep: linked"),
        ({"privacy": {"mode": "dp"}}, "budget of their own"),
        ({"privacy": {"mode": "exact", "secure_sum": True}}, "secure_sum"),
    ],
)
def test_results_by_step_where_there_are_none_are_refused_with_the_remedy(changes, message):
    with pytest.raises(ValueError, match=message):
        by_step("table", **changes)


def test_a_study_without_a_link_has_no_steps():
    values = holders.values(holders.STUDY) | {"analyses": by_step("table").analyses}
    plain = {name: value for name, value in values.items() if name not in ("datasets", "link")}
    with pytest.raises(ValueError, match="cascade"):
        Study.model_validate({**plain, "dataset": "register"})


# -- small steps
@pytest.mark.parametrize("few", [pytest.param(1, marks=pytest.mark.slow), 10])
def test_a_step_of_few_people_is_shown_with_the_next_only(few, tmp_path):
    analysis = answers(misspelt(second=300, third=few), tmp_path, by_step("model"))["model"]
    rows = {row["steps"]: row for row in analysis.tables["by_step"]}
    assert rows["steps 1 to 2"]["withheld"] and rows["steps 1 to 2"]["people"] is None
    assert rows["step 1"]["people"] == 1200 - 300 - few
    assert rows["steps 1 to 3"]["people"] == 1200
    shown = {row["steps"] for row in analysis.tables["coefficients_by_step"]}
    assert shown == {"step 1", "steps 1 to 3"}


def test_a_step_that_links_nobody_is_not_told_from_one_that_links_few(tmp_path):
    def reasons(third: int) -> list[str]:
        analysis = answers(misspelt(second=300, third=third), tmp_path, by_step("model"))["model"]
        return [row["withheld"] for row in analysis.tables["by_step"]]

    assert reasons(0) == reasons(1)


def test_where_one_of_several_holders_has_a_small_step_the_sum_over_the_others_is_not_shown(
    tmp_path,
):
    tables = misspelt(second=300, third=200)
    lefts = {"lyon": tables.left.iloc[295:], "nantes": tables.left.iloc[:295]}
    given = holders.holders(tmp_path, tables, lefts)
    rows = (
        holders.run_linked(by_step("model", min_nodes=4), given).analyses["model"].tables["by_step"]
    )
    assert [row["people"] for row in rows] == [None, None, 1200]
    assert all("other nodes" in row["withheld"] or "few" in row["withheld"] for row in rows[:2])


# -- differences of counts
def counts(table: list[list[int]]) -> Table:
    levels = [f"r{i}" for i in range(len(table))], [f"c{j}" for j in range(len(table[0]))]
    return Table(
        [
            {"row": levels[0][i], "column": levels[1][j], "n": n, "row_share": n / max(1, sum(row))}
            for i, row in enumerate(table)
            for j, n in enumerate(row)
        ],
        door="cells",
    )


def result(table: list[list[int]]) -> Result:
    n = sum(map(sum, table))
    return Result({"counts": counts(table)}, Counts(people=n, rows=n, missing=0))


def shown(cleared: hub_door.Cleared) -> dict[tuple[str, str], int]:
    """Cells and totals by place."""
    rows = cleared.tables.get("counts", ())
    return {(row["row"], row["column"]): row["n"] for row in rows if row["n"] is not None}


def test_a_cell_whose_difference_from_a_wider_result_is_small_is_not_shown():
    whole, narrow = [[50, 60], [70, 80]], [[47, 40], [50, 60]]
    first, second = hub_door.clear_by_step([result(whole), result(narrow)], 11)
    assert shown(first)["r0", "c0"] == 50
    assert ("r0", "c0") not in shown(second)
    assert second.tables["counts"]


def test_a_result_is_compared_with_all_wider_ones_and_not_with_the_next_alone():
    """The next wider one hides its cell, since the whole has 3 more there; one equal to it may not
    show the cell in its place."""
    tables = [[[50, 90], [90, 90]], [[47, 70], [70, 70]], [[47, 50], [50, 50]]]
    *_, third = hub_door.clear_by_step([result(table) for table in tables], 11)
    assert ("r0", "c0") not in shown(third)


@pytest.mark.parametrize("seed", range(40))
def test_no_difference_of_two_shown_cells_or_totals_is_small(seed):
    """Tables of 3 x 4 cells over four numbers of steps, each a part of the one before."""
    rng = np.random.default_rng(seed)
    table, tables = rng.integers(0, 60, (3, 4)), []
    for _ in range(4):
        tables.append(table.tolist())
        table = rng.binomial(table, 0.8)
    cleared = [shown(each) for each in hub_door.clear_by_step([*map(result, tables)], 11)]
    assert cleared[0]
    for i, wider in enumerate(cleared):
        for narrower in cleared[i + 1 :]:
            apart = [n - narrower[place] for place, n in wider.items() if place in narrower]
            assert not any(0 < difference < 11 for difference in apart)


def test_differences_of_a_curve_are_those_of_the_people_at_each_time():
    def row(time: float, risk: int, event: int, censor: int) -> dict[str, Any]:
        left = risk - event - censor
        names = {"group": "all", "time": time, "n_risk": risk, "n_left": left}
        return names | {"n_event": event, "n_censor": censor, "estimate": 0.5}

    wider = Table(
        [row(1, 100, 5, 5), row(2, 90, 10, 0), row(3, 80, 6, 0), row(4, 74, 20, 54)], "curve"
    )
    narrower = Table([row(1, 60, 4, 0), row(3, 56, 6, 0), row(4, 50, 10, 40)], "curve")
    n = Counts(people=100, rows=100, missing=0)
    apart = differing.of(Result({"curve": wider}, n), Result({"curve": narrower}, n))
    rows = [
        (row["time"], row["n_risk"], row["n_event"], row["n_censor"], row["n_left"])
        for row in apart.tables["curve"].rows
    ]
    assert rows == [(1, 40, 1, 5, 34), (2, 34, 10, 0, 24), (3, 24, 0, 0, 24), (4, 24, 10, 14, 0)]


def test_one_person_of_a_level_between_two_steps_is_not_told_by_their_difference(tmp_path):
    """Of the 40 people whom step 3 links, one has the fourth grade. The sums of `spent` by grade
    over all steps, less those over two, would be her costs."""
    tables = misspelt(300, 40)
    grades = sorted(tables.left["grade"].unique())
    tables.left.loc[300:338, "grade"] = grades[0]
    tables.left.loc[339, "grade"] = grades[-1]
    analysis = answers(tables, tmp_path, by_step("model"))["model"]
    withheld = {row["steps"]: row["withheld"] for row in analysis.tables["by_step"]}
    assert withheld["steps 1 to 2"] and not withheld["steps 1 to 3"]


def test_one_person_who_is_most_of_a_column_between_two_steps_is_not_told_either(tmp_path):
    """The 40 people whom step 3 links spent nearly nothing, but for one."""
    tables = misspelt(300, 40)
    nir = tables.right["number"].str.replace(" ", "")
    spent = tables.right["spent"].mask(nir.isin(tables.left["nir"][300:340]), 1)
    spent = spent.mask(nir == tables.left["nir"][339], 400)
    right = tables.right.assign(spent=spent)
    analysis = answers(replace(tables, right=right), tmp_path, by_step("model"))["model"]
    withheld = {row["steps"]: row["withheld"] for row in analysis.tables["by_step"]}
    assert withheld["steps 1 to 2"] and not withheld["steps 1 to 3"]


# -- at a node, whatever its hub asks
@contextmanager
def helper(tables: Tables, asked: Study, folder: Path, **policy: Any) -> Iterator[NodeContext]:
    """The helper with the linked people of the left, under a policy of its own."""
    given = holders.holders(folder, tables)
    with linked.linking(asked, CONTRACTS, given, local.SIMULATED, NOW) as people:
        (site,) = people.sites
        yield NodeContext(replace(site, policy=site.policy.model_copy(update=policy)))


def answer_to(context: NodeContext, asked: Study, *tasks: TaskId) -> Mapping[TaskId, Answer]:
    contract = datasets.contract_of(asked, CONTRACTS)
    plan = registry.plan(asked, contract)
    states = {task: plan[task.analysis].analysis.start(plan[task.analysis]) for task in tasks}
    query = Query(asked, contract.hash, 1, (context.site.name,), states)
    return service.answer(query, context, NOW).answers


WHOLE, FIRST_TWO, FIRST = (TaskId("table", steps=steps) for steps in (0, 2, 1))


def test_a_node_that_shows_no_small_cells_answers_no_steps_whose_difference_has_one(tmp_path):
    """Of the 30 people whom step 3 links, about 8 of each grade live and 2 die."""
    asked = by_step("table")
    with helper(misspelt(300, 30), asked, tmp_path, hub_sees_cells=False) as context:
        answered = answer_to(context, asked, WHOLE, FIRST_TWO, FIRST)
    assert answered[FIRST_TWO] == results_by_step.BETWEEN
    whole, narrow = answered[WHOLE], answered[FIRST]
    assert isinstance(whole, Part) and isinstance(narrow, Part)
    assert (whole.cells["counts"] - narrow.cells["counts"]).min() >= 11


def test_elsewhere_the_hubs_door_hides_such_a_cell_of_the_steps_and_shows_it_of_all(tmp_path):
    analysis = answers(misspelt(300, 30), tmp_path, by_step("table"))["table"]
    rows = analysis.tables["counts_by_step"]
    two = [row["n"] for row in rows if row["steps"] == "steps 1 to 2"]
    assert None in two
    assert None not in [row["n"] for row in analysis.tables["counts"]]


def test_what_a_node_answers_does_not_depend_on_the_order_in_which_a_hub_asks(tmp_path):
    asked = by_step("table")
    with helper(misspelt(300, 5), asked, tmp_path) as context:
        first = answer_to(context, asked, FIRST_TWO)
        then = answer_to(context, asked, FIRST, WHOLE)
    assert first[FIRST_TWO] == results_by_step.BETWEEN
    assert all(isinstance(answered, Part) for answered in then.values())


def test_steps_between_which_few_people_have_complete_rows_are_refused(tmp_path):
    """Step 3 links 40 people, of whom 5 have an age."""
    tables = misspelt(300, 40)
    tables.left.loc[305:339, "age"] = np.nan
    asked = by_step(analyses={"m": {"run": "glm", "model": "spent ~ age", "results": "by_step"}})
    with helper(tables, asked, tmp_path) as context:
        answered = answer_to(context, asked, TaskId("m"), TaskId("m", steps=2))
    assert isinstance(answered[TaskId("m")], Part)
    assert answered[TaskId("m", steps=2)] == results_by_step.BETWEEN


@pytest.mark.parametrize(
    "task",
    [pytest.param(TaskId("table", steps=3), marks=pytest.mark.slow), TaskId("plain", steps=1)],
)
def test_steps_that_the_study_does_not_have_are_refused(task, tmp_path):
    analyses = {**by_step("table").analyses, "plain": ANALYSES["table"]}
    asked = study(analyses=analyses)
    with helper(misspelt(300, 200), asked, tmp_path) as context:
        refused = answer_to(context, asked, task)[task]
    assert isinstance(refused, Refusal) and "no analysis" in refused.remedy


def test_a_message_names_the_steps_of_a_task_and_of_other_tasks_nothing_more():
    asked = by_step("table")
    query = Query(asked, "contract", 1, ("lyon",), {WHOLE: State(), FIRST_TWO: State()})
    assert list(codec.query_from_bytes(codec.query_to_bytes(query)).states) == [WHOLE, FIRST_TWO]
    reply = Reply("lyon", 1, {task: Refusal("a", "b") for task in (WHOLE, FIRST)})
    assert codec.reply_from_bytes(codec.reply_to_bytes(reply)).answers == reply.answers
    assert b'["table","",{"rule"' in codec.reply_to_bytes(reply)
    assert (str(FIRST_TWO), str(FIRST)) == ("table (steps 1 to 2)", "table (step 1)")


def test_the_plan_counts_the_numbers_of_each_step():
    """A cell in 11 people for each of four steps is more than a number in three people."""
    link = {**CASCADE, "cascade": [*STEPS, ["name", "first"]]}
    asked = by_step("numbers", link=link)
    contract = datasets.contract_of(asked, CONTRACTS)
    tasks, schema = registry.plan(asked, contract), schemas.build(contract, {})
    plain = {"numbers": replace(tasks["numbers"], by_step=())}
    rules = Rules()
    assert functionals.forecast(asked, plain, schema, 600, rules) is None
    refused = functionals.forecast(asked, tasks, schema, 600, rules)
    assert refused is not None and refused.rule == "functionals"
