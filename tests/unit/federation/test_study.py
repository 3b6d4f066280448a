"""Each kind of mistake in a study or a contract: one error with file, line, culprit and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation import contract as contracts
from federation import errors, study
from simulations.pilots import dialysis
from strategies import registry

PILOT = Path(str(dialysis.__file__)).parent
TEXT = (PILOT / "study.yaml").read_text()
CONTRACT = contracts.load(PILOT / "dialysis.yaml")
COX = (
    'model:  {run: cox, model: "Surv(time, event) ~ age + begin + diabetes", strata: centre,'
    " results: both}"
)


def check(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    study_, source = study.load(path)
    registry.plan(study_, CONTRACT, source)


def test_the_pilot_is_in_order(tmp_path: Path) -> None:
    check(tmp_path, TEXT)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (
            "min_nodes: 3",
            "min_node: 3",
            7,
            "unknown key 'min_node'; did you mean 'min_nodes'\\? the keys are study, title",
        ),
        ("min_nodes: 3", "min_nodes: three", 7, "min_nodes: must be a whole number, not 'three'"),
        (
            "min_nodes: 3",
            "min_nodes: 0",
            7,
            "min_nodes: must be at least 1",
        ),
        ("title: Survival on dialysis\n", "", 0, "title: this key is missing; add it"),
        ("quality-of-care", "insurance-selection", 4, "forbidden by the public-health code"),
        ("quality-of-care", "curiosity", 4, "is not a known purpose; the purposes are"),
        ("interest: public", "interest: private", 4, "purpose.interest: must be 'public'"),
        ("expires: 2027-12-31", "expires: soon", 5, "authorisation.expires"),
        (
            "dataset: dialysis ",
            "dataset: hearts ",
            6,
            "the study asks for dataset 'hearts', but the contract is for 'dialysis'",
        ),
        (
            "disease = 'diabetes'",
            "disease = 'diabete'",
            10,
            "unknown level 'diabete'; the levels are congen, diabetes",
        ),
        ("disease = 'diabetes'", "diseas = 'diabetes'", 10, "unknown column 'diseas'"),
        ('# where: "age >= 18"', 'where: "age >= "', 11, "cohort.where: .* ends too early"),
        ('# where: "age >= 18"', 'where: "age + 18"', 11, "is a number, not a condition"),
        (
            "run: cox",
            "run: coxph",
            18,
            "unknown analysis 'coxph'; did you mean 'cox'\\? the analyses are anova, boosted_trees",
        ),
        ("strata: centre", "strate: centre", 18, "unknown key 'strate'; did you mean 'strata'"),
        ("strata: centre", "strata: center", 18, "strata: unknown column 'center'"),
        ("strata: centre", "ties: exact", 18, "ties: must be one of 'efron', 'breslow'"),
        ("age + begin + diabetes", "age + beginn", 18, "unknown column 'beginn'"),
        ("Surv(time, event) ~ age + begin", "time ~ age + begin", 18, r"needs Surv\(time, event\)"),
        (
            "Surv(time, event) ~ age + begin",
            "Surv(time, age) ~ begin",
            18,
            "the event must be a yes-or-no column",
        ),
        (
            "columns: [age, begin, disease]",
            "columns: [age, patient]",
            16,
            "'patient' says whose row it is, and no study may use it",
        ),
        ("columns: [age, begin, disease]", "columns: []", 16, "columns"),
        (
            "rows: disease, columns: event",
            "rows: age, columns: event",
            17,
            "'age' is a number; a cross-table needs categories",
        ),
        ("every: 3", "every: -3", 19, "every: must be greater than 0"),
        (
            "mode: exact",
            "mode: dp",
            18,
            "run: cox is not offered in mode dp: a person is in the risk set of every earlier "
            "event",
        ),
        ("mode: exact", "epsilon: 0", 13, "epsilon: must be greater than 0"),
        (
            "mode: exact",
            "mode: exact, noise: distributed",
            13,
            "noise: distributed needs mode dp and a secure_sum",
        ),
        (
            "mode: exact",
            "secure_sum: {dropout: 1}",
            13,
            "unknown key 'dropout'; did you mean 'dropouts'",
        ),
        (
            "mode: exact",
            "mode: exact, secure_sum: true",
            0,
            "analyses.causes: a secure sum hides the results of single nodes; write results: "
            "combine",
        ),
        ("min_nodes: 3", "min_nodes: 3\nmin_nodes: 4", 8, "key 'min_nodes' appears twice"),
        ("cohort: ", "cohort: [", 0, "not valid YAML"),
    ],
)
def test_a_mistake_names_file_line_culprit_and_remedy(
    old: str, new: str, line: int, message: str, tmp_path: Path
) -> None:
    assert old in TEXT
    with pytest.raises(errors.StudyError, match=message) as caught:
        check(tmp_path, TEXT.replace(old, new, 1))
    assert (
        f"study.yaml:{line}: " in str(caught.value) if line else "study.yaml" in str(caught.value)
    )


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    text = TEXT.replace("run: cox", "run: coxph").replace(
        "columns: [age, begin, disease]", "columns: [agee]"
    )
    with pytest.raises(errors.StudyError) as caught:
        check(tmp_path, text)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("text", ["", "just words", "- a\n- list", "\x00", "a: &x [*x]"])
def test_what_is_no_study_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(errors.StudyError):
        check(tmp_path, text)


PRIVATE = (
    TEXT.replace("privacy: {mode: exact, min_cell: 11}", "")
    .replace("run: cox", "run: piecewise_exponential")
    .replace(", strata: centre", "")
)


def test_differential_privacy_is_the_default(tmp_path: Path) -> None:
    check(tmp_path, PRIVATE)
    assert (privacy := study.load(tmp_path / "study.yaml")[0].privacy).mode == "dp" and (
        privacy.epsilon,
        privacy.delta,
    ) == (1.0, 1e-6)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("every: 3", "every: 3, budget: 0", "budget: must be greater than 0"),
        ("title:", "privacy: {epsilon: 0.000001}\ntitle:", "budget is too small"),
        (
            "[age, begin, disease]",
            "[age], method: exact",
            "unknown key 'method'; the keys are columns, quantiles, bins",
        ),
        (
            "every: 3",
            "every: 3}\n  p: {run: glm, model: age ~ disease, family: poisson, rounds: 20",
            "analyses.p: the budget is too small for an array of so many real numbers",
        ),
        ("every: 3", "grid: {step: 0.1}", "mode dp allows at most 1500: write a coarser"),
    ],
)
def test_what_differential_privacy_cannot_carry_is_said_before_anyone_is_asked(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(errors.StudyError, match=message):
        check(tmp_path, PRIVATE.replace(old, new.encode().decode("unicode_escape")))


def test_an_unbounded_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(PRIVATE.replace("[age, begin, disease]", "[begin]"))
    study_, source = study.load(path)
    boundless = CONTRACT.model_copy(
        update={
            "columns": {
                **CONTRACT.columns,
                "age": CONTRACT.columns["age"].model_copy(update={"range": None}),
            }
        }
    )
    with pytest.raises(
        errors.StudyError,
        match=r"analyses\.model: mode dp needs a bound on how far .* `range` in the contract to the"
        " columns behind age",
    ):
        registry.plan(study_, boundless, source)


def test_a_copy_with_another_field_has_another_hash() -> None:
    study_, _ = study.load(PILOT / "study.yaml")
    assert (
        study_.model_copy(update={"title": "other"}).hash != study_.hash == study_.model_copy().hash
    )


def test_any_edit_changes_the_hash_and_comments_do_not(tmp_path: Path) -> None:
    def hash_of(text: str) -> str:
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return study.load(path)[0].hash

    assert hash_of(TEXT) == hash_of(TEXT.replace("# the demo", "# our demo"))
    assert (
        len(
            {
                hash_of(TEXT),
                hash_of(TEXT.replace("every: 3", "every: 4")),
                hash_of(TEXT.replace("min_cell: 11", "min_cell: 12")),
            }
        )
        == 3
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("person: patient", "person: patients", "'patients' is not among the columns"),
        ("range: [0, 110]", "range: [110, 0]", "from a lower to a higher number"),
        (
            "type: boolean",
            "type: bool",
            "columns.event.type: must be one of 'number', 'integer', 'boolean'",
        ),
        (
            "levels: [congen, diabetes, hypert, other, renal]",
            "levels: [congen, congen]",
            "a level appears twice",
        ),
        (
            "levels: [congen, diabetes, hypert, other, renal]",
            "unit: none",
            "a category needs its closed list",
        ),
        ("    unit: years", "    unti: years", "unknown key 'unti'; did you mean 'unit'"),
        (
            "  patient:",
            "  pa.tient:",
            "'pa.tient' is not a valid name; use letters, digits and _, and start with a letter,"
            " as in pa_tient",
        ),
        (
            "  patient:",
            f"  {'é' * 64}:",
            f"columns.{'é' * 64}: must have at most 63 characters, not",
        ),
        ("version: 1", "version: 0", "version: must be at least 1"),
    ],
)
def test_a_contracts_mistake_names_line_and_remedy(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "dialysis.yaml"
    text = (PILOT / "dialysis.yaml").read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(errors.ContractError, match=message) as caught:
        contracts.load(path)
    assert "dialysis.yaml:" in str(caught.value)
