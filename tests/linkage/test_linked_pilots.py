"""The linked pilots, against pandas on the same files in one place: it aggregates, matches and
joins them by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pandas
import pytest

from aggregator import release, rounds
from aggregator.document import Document
from federation.linkage import table
from federation.study import Study
from nodes.site import Dataset
from simulations import answering, local
from simulations.pilots import running
from simulations.pilots.running import Ready
from tests.linkage.test_linked_studies import assert_same_row

NOW = datetime(2026, 11, 1, tzinfo=UTC)
CALL = re.compile(r"(\w+)\((\w*)(?:, (\w+))?\)")
QUICK = ("ns_park", "linked")
EXACT = [
    ("arac", "study"),
    ("arac", "real"),
    ("deepsarc", "study"),
    ("rexetris", "linked"),
    ("ns_park", "linked"),
    ("parcours_idm", "linked"),
    ("parcours_idm", "real"),
    ("hydro", "linked"),
    ("deep_piste", "linked"),
    ("oscour", "linked"),
]
MADE_AT_THE_LINK = {"linkage", "linkage_steps", "corrected"}


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        pytest.param(
            *linked_study,
            marks=[] if linked_study == QUICK else pytest.mark.slow,
            id="-".join(linked_study),
        )
        for linked_study in EXACT
    ],
)
def test_a_linked_pilot_gives_the_answers_of_the_joined_table(name, variant, tmp_path):
    """To 1e-9: both add the same numbers in another order. A network is trained on people drawn by
    their pseudonyms, which are new at each link, so its answer is another one."""
    ready = without_training(running.prepare(name, variant, tmp_path))
    people = joined(ready)
    with answering.sites(ready.holders, local.SIMULATED, NOW) as answer:
        document = answer.complete(document_of(ready, answer.sites))
    expected = document_of(ready, list(sites_of(ready, people, tmp_path)))
    linked = sum(map(len, people.values()))
    for analysis, other in expected.analyses.items():
        linked_one = document.analyses[analysis]
        assert (linked_one.status, linked_one.reason) == (other.status, other.reason)
        assert other.status == "released"
        assert linked_one.n["linked"] == linked
        assert linked_one.n["linked_share"] > 0.9
        assert linked_one.tables.keys() - other.tables.keys() <= MADE_AT_THE_LINK
        for key, rows in other.tables.items():
            for row, found_row in zip(rows, linked_one.tables[key], strict=True):
                assert_same_row(row, found_row, 1e-9)


def without_training(ready: Ready) -> Ready:
    analyses = {name: entry for name, entry in ready.study.analyses.items() if entry.run != "train"}
    study = ready.study.model_copy(update={"analyses": analyses})
    return Ready(study, ready.contract, ready.source, ready.datasets, ready.note, ready.contracts)


def document_of(ready: Ready, sites) -> Document:
    with local.asking(sites, NOW, 1, ready.study) as ask:
        outcome = rounds.run(ready.study, ready.contract, ask, [site.name for site in sites])
    return release.clear(outcome, started=NOW, finished=NOW, engine="local")


def sites_of(ready: Ready, people, folder: Path) -> Iterator:
    contract = table.linked(ready.study, ready.contracts).contract
    for name, frame in people.items():
        path = folder / f"joined-{name}.parquet"
        duckdb.from_df(frame).to_parquet(str(path))
        yield local.site(name, Dataset(contract, str(path)))


# -- the oracle
def joined(ready: Ready) -> dict[str, pandas.DataFrame]:
    """By node of the left: its people who are found at the right, with the columns of both."""
    study, link = ready.study, ready.study.link
    assert link is not None
    sides = {node: per_person(study, held, ready) for node, held in sorted(ready.datasets.items())}
    (right,) = (
        sides[node] for node, held in ready.datasets.items() if held.contract.dataset == link.right
    )
    steps = link.cascade or ((link.on,),)
    return {
        node: matched(sides[node], right, [[f"id {name}" for name in step] for step in steps])
        for node, held in ready.datasets.items()
        if held.contract.dataset == link.left
    }


def per_person(study: Study, held: Dataset, ready: Ready) -> pandas.DataFrame:
    contract, entry = held.contract, study.datasets[held.contract.dataset]
    rows = duckdb.read_parquet(held.source).df()
    if entry.cohort.where:
        rows = rows.query(entry.cohort.where)
    grouped = rows.groupby(contract.person, sort=False)
    wanted = entry.per_person or {
        name: f"max({name})"
        for name in contract.columns
        if name not in contract.closed_columns and name != contract.person
    }
    columns = {
        entry.rename.get(name, name): aggregated(rows, grouped, contract.person, text)
        for name, text in wanted.items()
    }
    names = {
        f"id {name}": rows.groupby(contract.person, sort=False)[identifier.column].first()
        if identifier.column != contract.person
        else grouped.size().index.to_series()
        for name, identifier in contract.identifiers.items()
    }
    spelled = {name: values.astype(str).str.strip().str.upper() for name, values in names.items()}
    return pandas.DataFrame(columns | spelled)


def aggregated(rows, grouped, person: str, text: str) -> pandas.Series:
    called = CALL.fullmatch(text)
    assert called is not None
    function, column, order = called.groups()
    if function in ("first", "last"):
        ordered = rows.sort_values([order, column]).groupby(person)[column]
        return ordered.first() if function == "first" else ordered.last()
    if function == "count":
        return grouped.size()
    return getattr(grouped[column], function)()


def matched(left, right, steps) -> pandas.DataFrame:
    """Step by step: keys that are one's own among the left's people that are still unlinked, and
    among all people of the right. A step that would link more than one stranger in 200 is left
    out."""
    links, free, linked_right = [], left, pandas.Index([])
    for number, step in enumerate(steps, start=1):
        ours = free[~free.duplicated(step, keep=False)]
        theirs = right[~right.duplicated(step, keep=False)]
        theirs = theirs[~theirs.index.isin(linked_right)].reset_index(names="right row")
        both = ours.reset_index(names="left row").merge(
            theirs.drop(columns=[name for name in theirs if name in left and name not in step]),
            on=step,
        )
        crowds = right.groupby(step).size()
        share = (crowds * (crowds - 1)).sum() / len(right)
        strangers = (len(free) - len(both)) * (1 - len(linked_right) / len(right)) * share
        if len(steps) > 1 and strangers > 0.005 * len(both):
            continue
        both["link_step"] = str(number)
        links.append(both)
        free, linked_right = (
            free.drop(both["left row"]),
            linked_right.append(pandas.Index(both["right row"])),
        )
    everyone = pandas.concat(links, ignore_index=True)
    everyone["pseudonym"] = everyone["left row"].astype(str)
    unused = [name for name in everyone if name.startswith("id ")] + ["left row", "right row"]
    return everyone.drop(columns=unused + ([] if len(steps) > 1 else ["link_step"]))
