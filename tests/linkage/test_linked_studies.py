"""Linked studies in one process: they give the answers of the joined table, and end where a party
lies."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas
import pytest

from federation import errors
from federation.linkage.errors import LinkError
from federation.study import Privacy
from nodes import ledger, link_parties, links
from nodes.site import Links, Policy
from simulations import linked, local
from tests.linkage import two_holders
from tests.linkage.two_holders import CONTRACTS, NOW

ANALYSES = {
    "describe": {"run": "describe", "columns": ["age", "spent", "visits", "months"]},
    "crosstab": {"run": "crosstab", "rows": "grade", "columns": "drug"},
    "logistic": {
        "run": "glm",
        "model": "died ~ age + C(grade) + log(spent + 1)",
        "family": "binomial",
    },
    "gaussian": {"run": "glm", "model": "spent ~ age + C(grade) + C(sex)", "family": "gaussian"},
    "cox": {"run": "cox", "model": "Surv(months, died) ~ age + C(grade)"},
    "km": {"run": "kaplan_meier", "model": "Surv(months, died) ~ grade"},
    "rates": {"run": "rates", "events": "died", "time": "months", "by": ["grade"]},
    "mantel": {
        "run": "mantel_haenszel",
        "exposure": "drug",
        "outcome": "died",
        "strata": ["grade"],
    },
    "shares": {"run": "inequality", "value": "spent", "by": ["sex"]},
}


@pytest.fixture(scope="module")
def tables() -> two_holders.Tables:
    return two_holders.make()


def assert_same(linked_document, joined_document, within: float = 1e-9) -> None:
    """Every number to 1e-9: both add the same numbers, in an order that only rounding can tell."""
    for name, analysis in joined_document.analyses.items():
        other = linked_document.analyses[name]
        assert (
            (other.status, other.reason) == (analysis.status, analysis.reason) == ("released", None)
        )
        for table, rows in analysis.tables.items():
            assert len(rows) == len(other.tables[table])
            for row, other_row in zip(rows, other.tables[table], strict=True):
                assert_same_row(row, other_row, within)


def assert_same_row(row, other_row, within: float) -> None:
    assert row.keys() == other_row.keys()
    for key, value in row.items():
        if isinstance(value, float) and math.isfinite(value):
            assert other_row[key] == pytest.approx(value, rel=within, abs=within)
        else:
            assert (
                other_row[key] == value
                or other_row[key] is value
                or (value != value and other_row[key] != other_row[key])
            )


def test_every_number_is_that_of_the_tables_joined_in_one_place(tables, tmp_path):
    study = two_holders.study(analyses=ANALYSES)
    result = two_holders.run_linked(study, two_holders.holders(tmp_path, tables))
    expected = two_holders.run_joined(study, {"lyon": two_holders.joined(tables)}, tmp_path)
    assert_same(result, expected, within=1e-12)


@pytest.mark.parametrize("both", [0, 700])
def test_nobody_or_everybody_may_be_at_both_holders(both, tmp_path):
    """In mode dp nobody linked is no refusal, which would tell; in mode exact it is one."""
    tables = two_holders.make(700, 1500, both)
    study = two_holders.study(analyses={"a": ANALYSES["crosstab"]})
    given = two_holders.holders(tmp_path, tables)
    if both:
        result = two_holders.run_linked(study, given)
        expected = two_holders.run_joined(study, {"lyon": two_holders.joined(tables)}, tmp_path)
        assert_same(result, expected)
        assert result.analyses["a"].n["linked"] == (tables.left["year"] >= 2005).sum()
        return
    with pytest.raises(errors.RefusalError, match="link_share"):
        two_holders.run_linked(study, given)
    private = study.model_copy(update={"privacy": Privacy(mode="dp", epsilon=20, delta=1e-5)})
    counts = two_holders.run_linked(private, given).analyses["a"].tables["counts"]
    assert all(row["n"] < 10 * row["noise_sd"] for row in counts)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_holder_without_people_ends_an_exact_link_and_no_private_one(side, tables, tmp_path):
    frames = {name: getattr(tables, name) for name in ("left", "right")}
    frames[side] = frames[side].head(0)
    study = two_holders.study(analyses={"a": ANALYSES["crosstab"]})
    given = two_holders.holders(tmp_path, two_holders.Tables(**frames))
    with pytest.raises(errors.RefusalError, match=r"data: .* empty"):
        two_holders.run_linked(study, given)
    private = study.model_copy(update={"privacy": Privacy(mode="dp", epsilon=20, delta=1e-5)})
    assert two_holders.run_linked(private, given).analyses["a"].status == "released"


def test_with_keep_all_the_unlinked_stay_with_the_right_columns_missing(tables, tmp_path):
    study = two_holders.study(
        analyses={"a": ANALYSES["describe"], "b": ANALYSES["gaussian"]}, link={"keep": "all"}
    )
    result = two_holders.run_linked(study, two_holders.holders(tmp_path, tables))
    everyone = two_holders.joined(tables, keep="all")
    assert everyone["spent"].isna().sum() > 11
    assert_same(result, two_holders.run_joined(study, {"lyon": everyone}, tmp_path))


def thirds(frame: pandas.DataFrame) -> dict[str, pandas.DataFrame]:
    return {name: frame.iloc[i::3] for i, name in enumerate(("lyon", "nantes", "paris"))}


@pytest.mark.slow
@pytest.mark.parametrize(
    "secure_sum", [None, pytest.param({"dropouts": 0}, marks=pytest.mark.slow)]
)
def test_three_left_holders_link_each_by_itself_and_their_parts_add_up(secure_sum, tmp_path):
    tables = two_holders.make(900, 1500, 800)
    privacy = {"mode": "exact", "secure_sum": secure_sum}
    study = two_holders.study(
        analyses={"a": ANALYSES["rates"], "b": ANALYSES["crosstab"]}, privacy=privacy, min_nodes=5
    )
    result = two_holders.run_linked(
        study, two_holders.holders(tmp_path, tables, thirds(tables.left))
    )
    joined = {
        name: two_holders.joined(two_holders.Tables(part, tables.right))
        for name, part in thirds(tables.left).items()
    }
    expected = two_holders.run_joined(study, joined, tmp_path)
    assert_same(result, expected, within=1e-6)  # a secure sum rounds to its grid


def test_a_study_that_wants_more_nodes_than_take_part_ends(tables, tmp_path):
    study = two_holders.study(min_nodes=4)
    with pytest.raises(errors.RefusalError, match="at least"):
        two_holders.run_linked(study, two_holders.holders(tmp_path, tables))


# -- what a result says
def test_the_result_tells_how_many_are_linked_and_compares_them_with_the_others(tables, tmp_path):
    analysis = two_holders.run_linked(
        two_holders.study(analyses={"a": ANALYSES["crosstab"]}),
        two_holders.holders(tmp_path, tables),
    ).analyses["a"]
    left = tables.left[tables.left["year"] >= 2005]
    here = left["nir"].isin(tables.right["number"].str.replace(" ", ""))
    assert analysis.n["linked"] == here.sum()
    assert analysis.n["linked_share"] == pytest.approx(here.mean(), abs=1e-4)
    assert "expected_false" not in analysis.n
    rows = {(row["column"], row["level"]): row for row in analysis.tables["linkage"]}
    assert rows["people", "all"]["unlinked"] == (~here).sum()
    for level in ("low", "high"):
        row = rows["grade", level]
        assert row["linked"] == (here & (left["grade"] == level)).sum()
        assert row["unlinked"] == (~here & (left["grade"] == level)).sum()


@pytest.mark.parametrize("keep", ["linked", "all"])
def test_a_few_unlinked_people_end_an_exact_study(keep, tmp_path):
    """The left's own exact answers about everyone, less those about the linked, would tell of
    them."""
    tables = two_holders.make(400, 800, 395)
    study = two_holders.study(analyses={"a": ANALYSES["crosstab"]}, link={"keep": keep})
    with pytest.raises(errors.RefusalError, match="link_share: so few people of lyon"):
        two_holders.run_linked(study, two_holders.holders(tmp_path, tables))


def test_a_left_whose_people_are_all_linked_is_answered(tmp_path):
    tables = two_holders.make(400, 800, 400)
    study = two_holders.study(analyses={"a": ANALYSES["crosstab"]})
    analysis = two_holders.run_linked(study, two_holders.holders(tmp_path, tables)).analyses["a"]
    assert (analysis.status, analysis.n["linked_share"]) == ("released", 1.0)


def test_too_few_linked_people_end_the_study_before_any_row_opens(tmp_path):
    tables = two_holders.make(700, 1500, 200)
    with pytest.raises(errors.RefusalError, match="link_share"):
        two_holders.run_linked(two_holders.study(), two_holders.holders(tmp_path, tables))


# -- mode dp
@pytest.mark.parametrize("name", ["crosstab", "describe", "rates"])
def test_in_mode_dp_a_linked_study_is_noised_and_counts_nobody(name, tables, tmp_path):
    privacy = {"mode": "dp", "epsilon": 20, "delta": 1e-5}
    study = two_holders.study(analyses={"a": {**ANALYSES[name]}}, privacy=privacy)
    analysis = two_holders.run_linked(study, two_holders.holders(tmp_path, tables)).analyses["a"]
    assert analysis.status == "released"
    assert analysis.exactness == "noised"
    assert "linked" not in analysis.n
    assert any("one linked row" in note for note in analysis.notes)


def test_in_mode_dp_two_rows_of_one_identifier_are_no_refusal(tables, tmp_path):
    twice = pandas.concat([tables.left, tables.left.head(3).assign(age=30)])
    twice["nir"] = [f"{nir} " if i % 2 else nir for i, nir in enumerate(twice["nir"])]
    twice["nir"] = twice["nir"].str.slice(0, 7) + "-" + twice["nir"].str.slice(7)
    both = two_holders.Tables(twice, tables.right)
    privacy = {"mode": "dp", "epsilon": 20, "delta": 1e-5}
    study = two_holders.study(analyses={"a": ANALYSES["crosstab"]}, privacy=privacy)
    assert (
        two_holders.run_linked(study, two_holders.holders(tmp_path, both)).analyses["a"].status
        == "released"
    )


def test_both_holders_are_charged_for_the_whole_study_before_a_message_is_sent(tables, tmp_path):
    privacy = {"mode": "dp", "epsilon": 1}
    study = two_holders.study(analyses={"a": ANALYSES["crosstab"]}, privacy=privacy)
    plan = links.plan(study, CONTRACTS)
    contexts = contexts_of(study, two_holders.holders(tmp_path, tables))
    for role, name in (("left", "lyon"), ("right", "cnam")):
        refused = links.charge(plan, role, contexts[name], NOW)
        assert refused is not None
        assert refused.rule == "budget"
        linked._grant(plan, role, contexts[name], NOW)
        assert links.charge(plan, role, contexts[name], NOW) is None
        spent = ledger.spent_by(contexts[name].ledger, plan.dataset_of(role), study.hash)
        assert spent.rho == study.privacy.rho
        assert links.charge(plan, role, contexts[name], NOW) is None  # the same study, once
        assert ledger.spent_by(contexts[name].ledger, plan.dataset_of(role), study.hash) == spent


# -- without an identifier
CASCADE = [["name", "first", "birth", "sex"], ["name", "birth"], ["first", "birth", "sex"]]


def cascade_study(**changes):
    study = two_holders.study(link={"on": None, "cascade": CASCADE}, **changes)
    return study


def test_a_cascade_links_people_whose_surname_changed_by_a_later_key(tables, tmp_path):
    married = tables.left.copy()
    changed = married.index % 10 == 0
    married.loc[changed, "surname"] = [f"other {i}" for i in range(changed.sum())]
    both = two_holders.Tables(married, tables.right)
    study = cascade_study(
        analyses={
            "a": ANALYSES["gaussian"],
            "b": {"run": "crosstab", "rows": "link_step", "columns": "grade"},
        }
    )
    result = two_holders.run_linked(study, two_holders.holders(tmp_path, both))
    a = result.analyses["a"]
    assert a.n["linked"] > 0.99 * len(two_holders.joined(both))
    steps = [row["linked"] for row in a.tables["linkage_steps"]]
    assert steps == sorted(steps)
    assert len(steps) >= 2
    assert a.n["expected_false"] < 2
    assert result.analyses["b"].status == "released"


def test_after_a_cascade_the_result_says_what_noise_protects(tables, tmp_path):
    privacy = {"mode": "dp", "epsilon": 20, "delta": 1e-5}
    study = cascade_study(analyses={"a": ANALYSES["crosstab"]}, privacy=privacy)
    analysis = two_holders.run_linked(study, two_holders.holders(tmp_path, tables)).analyses["a"]
    assert any("given the links" in note for note in analysis.notes)


# -- policy
def contexts_of(study, given, policy=None):
    return linked.contexts_of(study.link, given, linked.policy_of(study, policy or local.SIMULATED))


@pytest.mark.parametrize(
    ("changes", "rule", "role"),
    [
        ({"with": []}, "links", "left"),
        ({"with": ["register"]}, "links", "left"),
        ({"helpers": []}, "links", "left"),
        ({"helpers": ["insee"]}, "links", "right"),
        ({"modes": ["dp"]}, "links", "left"),
        ({"endings": []}, "links", "right"),
        ({"helps": False}, "links", "helper"),
    ],
)
def test_a_link_that_a_producer_has_not_opened_is_refused(changes, rule, role, tables, tmp_path):
    study = two_holders.study()
    context = contexts_of(study, two_holders.holders(tmp_path, tables))[NODE_OF[role]]
    allowed = {
        "with": ["register", "insurer"],
        "helpers": ["casd"],
        "modes": ["exact"],
        "helps": True,
    }
    policy = local.SIMULATED.model_copy(
        update={"links": Links.model_validate({**allowed, **changes})}
    )
    refused = links.admit(
        links.plan(study, CONTRACTS), role, 3, with_policy(context, policy).site, NOW
    )
    assert refused is not None
    assert refused.rule == rule


NODE_OF = {"left": "lyon", "right": "cnam", "helper": "casd"}


def with_policy(context, policy):
    return replace(context, site=replace(context.site, policy=policy))


def test_links_are_closed_unless_the_producer_opens_them():
    assert Policy().links == Links()
    assert not Links().helps
    assert Links().with_ == ()
    assert Links().modes == ("dp",)


@pytest.mark.parametrize("role", ["left", "right", "helper"])
def test_a_link_passes_the_rules_of_every_study_too(role, tables, tmp_path):
    study = two_holders.study()
    context = contexts_of(study, two_holders.holders(tmp_path, tables))[NODE_OF[role]]
    plan = links.plan(study, CONTRACTS)
    assert links.admit(plan, role, 3, context.site, NOW) is None
    for changes, rule in (
        ({"purposes": ("innovation",)}, "purpose"),
        ({"coordinators": ("ana",)}, "coordinator"),
        ({"min_nodes": 4}, "min_nodes"),
        ({"analyses": ("glm",)}, "analysis"),
    ):
        policy = context.site.policy.model_copy(update=changes)
        refused = links.admit(plan, role, 3, with_policy(context, policy).site, NOW)
        assert refused is not None
        assert refused.rule == rule


@pytest.mark.parametrize(("mode", "rule"), [("dp", "unchecked"), ("exact", "privacy")])
def test_a_holder_with_a_ledger_holds_back_what_an_unlinked_study_would_not_get(
    mode, rule, tables, tmp_path
):
    """In mode dp a source that no check has passed; in mode exact people for whom a budget was
    granted."""
    study = two_holders.study(privacy={"mode": mode})
    context = contexts_of(study, two_holders.holders(tmp_path, tables))["cnam"]
    context = replace(context, site=replace(context.site, state=tmp_path / "state"))
    plan = links.plan(study, CONTRACTS)
    if mode == "exact":
        assert links.hold_back(plan, "right", context, NOW) is None
        account = context.site.account("insurer", NOW.year)
        ledger.grant(context.ledger, account, 10**12, by="producer", at=NOW.isoformat())
    refused = links.hold_back(plan, "right", context, NOW)
    assert refused is not None
    assert refused.rule == rule


def test_a_pair_of_datasets_has_one_exact_cohort_a_year(tables, tmp_path):
    study = two_holders.study()
    context = contexts_of(study, two_holders.holders(tmp_path, tables))["lyon"]
    context = replace(context, site=replace(context.site, state=tmp_path / "state"))
    plan = links.plan(study, CONTRACTS)
    assert links.claim_cohort(plan, "left", context, NOW) is None
    again = two_holders.study(analyses={"b": ANALYSES["km"]})
    assert links.claim_cohort(links.plan(again, CONTRACTS), "left", context, NOW) is None
    entries = {
        **two_holders.values(two_holders.STUDY)["datasets"],
        "register": {"cohort": {"where": "year >= 2006"}},
    }
    other = two_holders.study(datasets=entries)
    refused = links.claim_cohort(links.plan(other, CONTRACTS), "left", context, NOW)
    assert refused is not None
    assert refused.rule == "differencing"


@pytest.mark.parametrize("change", ["the left", "the people"])
def test_another_left_or_another_dataset_of_the_same_people_is_no_other_pair(
    change, tables, tmp_path
):
    """The two holders change places, or the left holds its people under a second name: the linked
    people of two studies would differ by a few."""
    values = two_holders.values(two_holders.STUDY)
    study = two_holders.study()
    context = contexts_of(study, two_holders.holders(tmp_path, tables))["lyon"]
    site = replace(context.site, state=tmp_path / "state")
    link = values["link"]
    plan = links.plan(study, CONTRACTS)
    if change == "the left":
        swapped = {**link, "left": link["right"], "right": link["left"]}
        again, role = replace(plan, link=plan.link.model_copy(update=swapped)), "right"
    else:
        left = site.datasets[link["left"]]
        contract = left.contract.model_copy(update={"dataset": "second"})
        datasets = {**site.datasets, "second": replace(left, contract=contract)}
        site, role = replace(site, datasets=datasets), "left"
        again = replace(plan, link=plan.link.model_copy(update={"left": "second"}))
        entries = {
            "second" if name == link["left"] else name: entry
            for name, entry in study.datasets.items()
        }
        again = replace(again, study=study.model_copy(update={"datasets": entries}))
    context = replace(context, site=site)
    assert links.claim_cohort(plan, "left", context, NOW) is None
    refused = links.claim_cohort(again, role, context, NOW)
    assert refused is not None
    assert refused.rule == "differencing"


@pytest.mark.parametrize(
    "condition", ["age = 93 and sex = 'f'", "not (age = 90 and sex = 'f')", "year >= 2023"]
)
def test_a_condition_at_a_holder_that_singles_out_few_is_refused_in_the_words_of_none(
    condition, tables, tmp_path
):
    few = tables.left.copy()
    few.loc[few["age"] == 90, "age"] = 89
    few.loc[[0, 1], ["age", "sex"]] = [90, "f"]
    entries = two_holders.values(two_holders.STUDY)["datasets"]
    study = two_holders.study(datasets={**entries, "register": {"cohort": {"where": condition}}})
    given = two_holders.holders(tmp_path, two_holders.Tables(few, tables.right))
    with pytest.raises(errors.RefusalError, match="cohort_size"):
        two_holders.run_linked(study, given)


# -- lies and faults
def refused_by(tables, tmp_path, relay=None) -> str:
    with pytest.raises(errors.RefusalError) as refused:
        two_holders.run_linked(two_holders.study(), two_holders.holders(tmp_path, tables), relay)
    return str(refused.value)


def test_a_holder_with_two_people_under_one_identifier_is_refused_without_naming_them(
    tables, tmp_path
):
    twice = tables.left.copy()
    twice["nir"] = [nir if i else f" {twice['nir'][1]} " for i, nir in enumerate(twice["nir"])]
    twice.loc[0, "nir"] = twice["nir"][1][:1] + "-" + twice["nir"][1][1:]
    twice.loc[[0, 1], "year"] = 2010
    message = refused_by(two_holders.Tables(twice, tables.right), tmp_path)
    assert "link_duplicates" in message
    assert twice["nir"][1] not in message


def test_data_that_break_their_contract_are_refused_by_rule_and_column(tables, tmp_path):
    broken = tables.left.copy()
    broken.loc[0, "grade"] = "unknown-level"
    study_says = two_holders.study(analyses={"a": ANALYSES["crosstab"]})
    given = two_holders.holders(tmp_path, two_holders.Tables(broken, tables.right))
    with pytest.raises(errors.RefusalError, match=r"unknown level \(grade\)"):
        two_holders.run_linked(study_says, given)


def test_a_helper_that_drops_matches_is_caught_before_the_left_sends_its_columns(
    tables, tmp_path, monkeypatch
):
    honest = link_parties.matching.match

    def lying(left, stream, width):
        matched = honest(left, stream, width)
        places = np.flatnonzero(matched.is_matched)[:-1]
        rng = np.random.default_rng(0)
        matched.tokens[places] = rng.permutation(matched.tokens[places])
        return matched

    sent = []
    monkeypatch.setattr(link_parties.matching, "match", lying)
    monkeypatch.setattr(links, "send_columns", record(links.send_columns, sent))
    assert "link_canaries" in refused_by(tables, tmp_path)
    assert sent == ["LinkError"]


def record(function, errors_):
    def called(*arguments):
        try:
            return function(*arguments)
        except LinkError:
            errors_.append("LinkError")
            raise

    return called


class Meddling(linked.InProcessRelay):
    """A hub that meddles with the messages of one kind."""

    def __init__(self, kind: str, fault) -> None:
        super().__init__()
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "fault", fault)

    def put(self, channel, envelopes):
        sealed = list(envelopes)
        super().put(channel, self.fault(sealed) if channel.kind == self.kind else sealed)


KINDS = ("list", "size", "rows", "tokens", "places", "made-up rows", "columns")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "fault",
    [
        lambda sealed: sealed[:-1],
        lambda sealed: [bytes([sealed[0][0] ^ 1]) + sealed[0][1:], *sealed[1:]],
        lambda sealed: [*sealed, sealed[-1]],
    ],
)
def test_a_hub_that_withholds_changes_or_replays_a_message_ends_the_link(kind, fault, tmp_path):
    small = two_holders.make(60, 80, 40)
    assert "link_message" in refused_by(small, tmp_path, Meddling(kind, fault))


def test_the_hub_reads_nothing_of_any_message(tmp_path):
    seen: list[bytes] = []

    def look(sealed):
        seen.extend(sealed)
        return sealed

    small = two_holders.make(60, 80, 40)
    study = two_holders.study(analyses={"a": ANALYSES["crosstab"]})
    for kind in KINDS:
        two_holders.run_linked(study, two_holders.holders(tmp_path, small), Meddling(kind, look))
    nirs = [nir.encode() for nir in small.left["nir"]]
    everything = b"".join(seen)
    assert len(seen) >= len(KINDS)
    assert not any(nir in everything for nir in nirs)
    counts = np.bincount(np.frombuffer(everything, np.uint8), minlength=256)
    assert counts.std() / counts.mean() < 0.1


def test_the_rows_of_linked_people_are_deleted_at_the_end_and_others_were_never_there(
    tables, tmp_path
):
    study = two_holders.study(analyses={"a": ANALYSES["describe"]})
    given = two_holders.holders(tmp_path, tables)
    with linked.linking(study, CONTRACTS, given, local.SIMULATED, NOW) as people:
        (site,) = people.sites
        file = site.datasets[study.dataset].source
        frame = pandas.read_csv(given["lyon"].source)  # the reader of the test can read
        import duckdb

        rows = duckdb.read_parquet(file).df()
        expected = two_holders.joined(tables)
        assert len(rows) == len(expected) < len(frame)
        assert sorted(rows["spent"]) == sorted(expected["spent"].astype(float))
        assert not set(rows["pseudonym"]) & set(tables.left["nir"])
        assert set(rows.columns) == {"age", "spent", "visits", "months", "pseudonym"}
    from pathlib import Path

    assert not Path(file).exists()
    assert not Path(file).parent.exists()
