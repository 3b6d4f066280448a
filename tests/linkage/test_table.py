"""Studies over two datasets: their words, their mistakes, and the contract on which they run."""

from __future__ import annotations

import pytest

from federation import contract as contracts
from federation import datasets, errors, yaml_source
from federation import schema as schemas
from federation import study as studies
from federation.contract import Contract
from federation.expression import ExpressionError
from federation.linkage import table
from federation.study import Study
from strategies import registry, used_columns

NETSARC = """
dataset: netsarc
version: 1
person: nir
identifiers:
  psa: {column: nir, form: nir13}
  birth: {column: born, form: date}
  sex: {column: sex, form: text}
columns:
  nir: {type: string}
  born: {type: date}
  sex: {type: category, levels: [f, m]}
  age: {type: number, range: [0, 110], step: 1}
  grade: {type: category, levels: [low, high]}
  year: {type: number, range: [2000, 2025]}
  note: {type: string}
"""
SNDS = """
dataset: snds
version: 3
person: ben
rows_per_person: 10
identifiers:
  psa: {column: ben, form: nir13}
  birth: {column: naissance, form: date}
  sex: {column: sexe, form: text}
columns:
  ben: {type: string}
  naissance: {type: date}
  sexe: {type: category, levels: ["1", "2"]}
  spent: {type: number, range: [-5, 100], step: 1, unit: euros}
  died: {type: boolean}
  day: {type: date}
  drug: {type: category, levels: [a, b]}
"""
STUDY = """
study: linked
title: t
question: q
purpose: {interest: public, category: research}
authorisation: {reference: A, expires: 2030-01-01}
datasets:
  netsarc: {cohort: {where: "year >= 2010"}}
  snds:
    per_person: {spent: "sum(spent)", died: "any(died)", visits: "count()",
                 last_drug: "last(drug, day)", most: "max(spent)"}
link: {on: psa, left: netsarc, right: snds, helper: casd}
min_nodes: 1
privacy: {mode: exact}
analyses: {death: {run: glm, model: "died ~ age + C(grade) + log(spent + 100)", family: binomial}}
"""


def values(text: str) -> dict:
    """By the house's own reader: YAML's would take the key `on` for true."""
    return dict(yaml_source.parse(text, name="study.yaml", error=errors.StudyError).values)


def contracts_of(*texts: str) -> dict[str, Contract]:
    built = [Contract.model_validate(values(text)) for text in texts or (NETSARC, SNDS)]
    return {contract.dataset: contract for contract in built}


def study_of(**changes) -> Study:
    return Study.model_validate({**values(STUDY), **changes})


# -- identifiers
@pytest.mark.parametrize(
    "use",
    [
        lambda schema: schema.express("nir = '1'"),
        lambda schema: schema.field("nir"),
        lambda schema: schema.express("missing(born)"),
        lambda schema: schema.express("born < '1980-01-01'"),
    ],
)
def test_an_identifier_stands_in_no_expression_and_the_error_says_so(use):
    schema = schemas.build(contracts_of()["netsarc"], {})
    with pytest.raises(ExpressionError, match="whose row it is"):
        use(schema)


@pytest.mark.parametrize(
    "analyses",
    [
        {"a": {"run": "describe", "columns": ["nir"]}},
        {"a": {"run": "glm", "model": "age ~ born", "family": "gaussian"}},
        {"a": {"run": "rates", "events": "age", "time": "age", "by": ["nir"]}},
    ],
)
def test_an_identifier_stands_in_no_analysis(analyses):
    study = study_of(analyses=analyses, datasets={}, link=None, dataset="netsarc")
    with pytest.raises(errors.StudyError, match="whose row it is"):
        registry.plan(study, contracts_of()["netsarc"])


def test_an_identifier_stands_in_no_cohort():
    changes = {"dataset": "netsarc", "datasets": {}, "link": None}
    for cohort in ({"where": "nir = '1'"}, {"derive": {"x": "missing(nir)"}}):
        study = study_of(
            cohort=cohort, analyses={"a": {"run": "describe", "columns": ["age"]}}, **changes
        )
        with pytest.raises(errors.StudyError, match="whose row it is"):
            registry.plan(study, contracts_of()["netsarc"])


def test_a_category_may_be_an_identifier_and_a_covariate():
    assert "sex" in schemas.build(contracts_of()["netsarc"], {}).fields


def test_a_derived_column_cannot_take_the_name_of_an_identifier():
    with pytest.raises(ExpressionError, match="exists already"):
        schemas.build(contracts_of()["netsarc"], {"nir": "age + 1"})


def test_an_identifier_of_no_column_breaks_its_contract():
    with pytest.raises(ValueError, match="not among the columns"):
        contracts_of(NETSARC.replace("column: nir", "column: nobody"))


# -- the study
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "netsarc"}, "not both"),
        ({"datasets": {"netsarc": {}}, "link": None}, "single dataset"),
        ({"link": None}, "need a `link`"),
        (
            {"link": {"on": "psa", "left": "netsarc", "right": "other", "helper": "h"}},
            "exactly two",
        ),
        ({"link": {"on": "psa", "left": "snds", "right": "snds", "helper": "h"}}, "two datasets"),
        ({"link": {"left": "netsarc", "right": "snds", "helper": "h"}}, "either `on`"),
        (
            {
                "link": {
                    "on": "psa",
                    "cascade": [["a"]],
                    "left": "netsarc",
                    "right": "snds",
                    "helper": "h",
                }
            },
            "either `on`",
        ),
        ({"link": {"cascade": [[]], "left": "netsarc", "right": "snds", "helper": "h"}}, "1 to 16"),
    ],
)
def test_a_study_that_links_in_no_clear_way_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        study_of(**changes)


def test_a_linked_study_has_one_name_for_its_people_and_survives_its_canonical_form():
    study = study_of()
    assert study.dataset == "netsarc-snds"
    assert studies.parse(study.canonical()) == study


def test_a_study_of_one_dataset_is_as_it_was():
    study = study_of(dataset="netsarc", datasets={}, link=None)
    assert study.dataset == "netsarc"
    assert not study.datasets


# -- the linked contract
def test_the_linked_contract_has_the_columns_of_both_and_no_identifier():
    linked = table.linked(study_of(), contracts_of())
    assert set(linked.contract.columns) == {
        "pseudonym",
        "sex",
        "age",
        "grade",
        "year",
        "spent",
        "died",
        "visits",
        "last_drug",
        "most",
    }
    assert linked.contract.rows_per_person == 1
    assert {column.name for column in linked.side("snds")} == {
        "spent",
        "died",
        "visits",
        "last_drug",
        "most",
    }


def test_the_columns_have_one_order_before_and_behind_a_hub():
    """A canonical form has its keys in another order than the file."""
    sent = {
        name: Contract.model_validate_json(contract.canonical())
        for name, contract in contracts_of().items()
    }
    written = table.linked(study_of(), contracts_of())
    received = table.linked(studies.parse(study_of().canonical()), sent)
    assert list(written.columns) == list(received.columns)
    assert list(written.contract.columns) == list(received.contract.columns)


def test_ranges_of_aggregates_follow_from_the_contract():
    """At most 10 rows of -5 to 100 euros."""
    columns = table.linked(study_of(), contracts_of()).contract.columns
    assert columns["spent"].range == (-50, 1000)
    assert columns["visits"].range == (0, 10)
    assert columns["most"].range == (-5, 100)
    assert columns["spent"].unit == "euros"
    assert columns["died"].type == "boolean"
    assert columns["last_drug"].levels == ("a", "b")


def test_every_analysis_prepares_on_the_linked_contract_as_on_any_other():
    contract = table.linked(study_of(), contracts_of()).contract
    assert set(registry.plan(study_of(), contract)) == {"death"}


def test_only_the_columns_that_analyses_need_are_sent():
    contract = table.linked(study_of(), contracts_of()).contract
    assert used_columns.of_study(study_of(), contract) == {"died", "age", "grade", "spent"}
    wider = study_of(cohort={"where": "visits > 1", "derive": {"x": "year - 2000"}})
    assert used_columns.of_study(wider, contract) == {"died", "age", "grade", "spent", "visits"}


@pytest.mark.parametrize(
    "entry",
    [
        {"per_person": {"x": "any(spent > 99)"}},
        {"per_person": {"x": "sum(if(died, spent, 0))"}},
        {"per_person": {"x": "last(drug, spent * 2)"}},
        {"cohort": {"derive": {"y": "spent * 2"}}},
    ],
)
def test_in_mode_exact_a_holder_sends_no_expression_that_nobody_counts(entry):
    """The helper's rules count the people behind what a study writes; a holder's columns pass for
    data."""
    with pytest.raises(errors.StudyError, match="mode exact"):
        table.linked(study_of(datasets=entries(**entry)), contracts_of())
    private = study_of(datasets=entries(**entry), privacy={"mode": "dp"})
    assert table.linked(private, contracts_of())


def entries(**snds):
    return {"netsarc": {}, "snds": {"per_person": {"died": "any(died)"}, **snds}}


@pytest.mark.parametrize(
    ("datasets_", "message"),
    [
        ({"netsarc": {}, "snds": {}}, "may have 10 rows"),
        (entries(per_person={"age": "sum(spent)"}), "rename"),
        (entries(per_person={"x": "sum(drug)"}), "takes a number"),
        (entries(per_person={"x": "any(spent)"}), "takes a boolean"),
        (entries(per_person={"x": "spent"}), "is not one of"),
        (entries(per_person={"x": "median(spent)"}), "is not one of"),
        (entries(per_person={"x": "last(spent)"}), "orders a person's rows"),
        (entries(per_person={"x": "last(spent, drug)"}), "no order"),
        (entries(per_person={"x": "count(spent)"}), "nothing in its brackets"),
        (entries(per_person={"x": "max(ben)"}), "whose row it is"),
        (entries(cohort={"where": "ben = '1'"}), "whose row it is"),
        (entries(cohort={"where": "spent"}), "not a condition"),
        (entries(cohort={"derive": {"y": "nothing + 1"}}), "nothing"),
    ],
)
def test_a_dataset_entry_that_does_not_fit_its_contract_is_refused(datasets_, message):
    study = study_of(datasets=datasets_)
    with pytest.raises(errors.StudyError, match=message):
        table.linked(study, contracts_of())


def test_renamed_columns_meet_without_a_clash():
    study = study_of(
        datasets=entries(per_person={"age": "max(spent)"}, rename={"age": "age_spent"})
    )
    assert {"age", "age_spent"} <= set(table.linked(study, contracts_of()).contract.columns)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("psa: {column: ben, form: nir13}", "psa: {column: ben, form: text}"),
        ("  psa: {column: ben, form: nir13}\n", ""),
    ],
)
def test_two_contracts_that_do_not_state_the_same_identifier_are_refused(old, new):
    with pytest.raises(errors.StudyError, match="psa"):
        table.linked(study_of(), contracts_of(NETSARC, SNDS.replace(old, new)))


def test_a_coordinator_must_be_admitted_by_both_producers():
    both = contracts_of(NETSARC + "use: [ana, bob]\n", SNDS + "use: [bob]\n")
    assert table.linked(study_of(), both).contract.use == ("bob",)
    with pytest.raises(errors.StudyError, match="both datasets"):
        table.linked(study_of(), contracts_of(NETSARC + "use: [ana]\n", SNDS + "use: [bob]\n"))


# -- side by side
REPORTS = """
dataset: reports
version: 1
unit: report
person: number
columns:
  number: {type: string}
  drug: {type: category, levels: [a, b]}
  reaction: {type: category, levels: [x, y]}
"""
EXPOSED = """
dataset: exposed
version: 1
unit: report
person: who
columns:
  who: {type: string}
  drug: {type: category, levels: [a, b]}
  months: {type: number, range: [0, 12]}
"""
RATES = {
    "rates": {
        "run": "rates",
        "events": "dataset = 'reports'",
        "time": "dataset = 'exposed'",
        "by": ["drug"],
    }
}


def beside(**changes) -> Study:
    both = {"datasets": {"reports": {}, "exposed": {}}, "link": None, "analyses": RATES}
    return study_of(**{**both, **changes})


def test_datasets_side_by_side_share_the_columns_that_they_describe_alike():
    contract = datasets.side_by_side(beside(), contracts_of(REPORTS, EXPOSED))
    assert list(contract.columns) == ["dataset", "person", "drug", "months", "reaction"]
    assert contract.columns["dataset"].levels == ("exposed", "reports")
    assert set(registry.plan(beside(), contract)) == {"rates"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("levels: [a, b]", "levels: [a, b, c]"),
        ("unit: report", "unit: person"),
        ("person: who\n", ""),
    ],
)
def test_datasets_that_do_not_fit_side_by_side_are_refused(old, new):
    with pytest.raises(errors.StudyError, match="datasets"):
        datasets.side_by_side(beside(), contracts_of(REPORTS, EXPOSED.replace(old, new)))


@pytest.mark.parametrize(
    "entry", [{"per_person": {"x": "count()"}}, {"cohort": {"where": "drug = 'a'"}}]
)
def test_side_by_side_a_dataset_has_no_cohort_of_its_own(entry):
    with pytest.raises(ValueError, match="need a `link`"):
        beside(datasets={"reports": entry, "exposed": {}})


def test_the_check_says_who_sends_which_columns(tmp_path, capsys):
    from federation.cli.actions import study_files

    for name, text in (("netsarc", NETSARC), ("snds", SNDS), ("study", STUDY)):
        (tmp_path / f"{name}.yaml").write_text(text)
    study_files.check(tmp_path / "study.yaml", None)
    output = capsys.readouterr().out
    assert "netsarc sends age (number), grade (category)\n" in output
    assert "snds sends died (boolean), spent (number): 3 words a row" in output
    assert "not who they are" in output
    (tmp_path / "snds.yaml").unlink()
    with pytest.raises(errors.StudyError, match="no contract"):
        study_files.check(tmp_path / "study.yaml", None)


def test_contracts_lie_beside_the_study_under_their_own_names(tmp_path):
    (tmp_path / "netsarc.yaml").write_text(NETSARC)
    (tmp_path / "snds.yaml").write_text(NETSARC)
    study = study_of()
    from federation.yaml_source import Source

    with pytest.raises(errors.StudyError, match="rename the file"):
        datasets.load(study, tmp_path, Source("study.yaml", {}, {}))
    assert contracts.load(tmp_path / "netsarc.yaml").dataset == "netsarc"
