"""One's own rows in `fed.simulate`: every usual frame is read alike, and what cannot be read, or
breaks the contract, is told with its node, its column, a value and the remedy."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pytest

import federation as fed
from federation import errors, language, message_texts

CONTRACT = {
    "dataset": "people",
    "version": 1,
    "unit": "row",
    "columns": {
        "age": {"type": "number", "range": [0, 120]},
        "sex": {"type": "category", "levels": ["F", "M"]},
        "diabetes": {"type": "boolean"},
        "entry": {"type": "date"},
    },
}
STUDY = fed.Study("people", mode="exact", min_nodes=1, where="entry >= '2020-03-01'").describe(
    "table", ["age", "sex", "diabetes"]
)
DRAW = np.random.default_rng(5)
DAYS = pandas.Timestamp("2020-01-01") + pandas.to_timedelta(DRAW.integers(0, 300, 200), unit="D")
FRAME = pandas.DataFrame(
    {
        "age": DRAW.integers(20, 90, 200).astype(float),
        "sex": DRAW.choice(["F", "M"], 200),
        "diabetes": DRAW.random(200) < 0.4,
        "entry": DAYS,
    }
)


def changed(**columns: Any) -> pandas.DataFrame:
    return FRAME.assign(**columns)


def words(frame: pandas.DataFrame, column: str, yes: str, no: str) -> pandas.DataFrame:
    return frame.assign(**{column: frame[column].map({True: yes, False: no})})


def result_of(rows: Any, **more: Any) -> Any:
    with fed.simulate({"a": rows}, CONTRACT, **more) as nodes:
        return STUDY.run(nodes, progress=False)["table"]


SAME: dict[str, Callable[[], Any]] = {
    "categorical": lambda: changed(sex=FRAME["sex"].astype("category")),
    "nullable": lambda: FRAME.convert_dtypes(),
    "arrow inside pandas": lambda: FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "Decimal": lambda: changed(age=[Decimal(int(age)) for age in FRAME["age"]]),
    "numbers as text": lambda: changed(age=FRAME["age"].map(str)),
    "0 and 1": lambda: changed(diabetes=FRAME["diabetes"].astype(int)),
    "python days": lambda: changed(entry=FRAME["entry"].dt.date),
    "ISO days": lambda: changed(entry=FRAME["entry"].dt.strftime("%Y-%m-%d")),
    "a zone west": lambda: changed(entry=FRAME["entry"].dt.tz_localize("America/Martinique")),
    "a zone east": lambda: changed(entry=FRAME["entry"].dt.tz_localize("Europe/Paris")),
    "an index of meaning": lambda: FRAME.set_index("sex"),
    "two indexes": lambda: FRAME.set_index(["sex", "age"]),
    "an index that is a column, too": lambda: FRAME.set_index("sex", drop=False),
    "a shuffled index": lambda: FRAME.set_axis(range(200, 0, -1)),
    "more columns": lambda: changed(other=1),
    "polars": lambda: polars.from_pandas(FRAME),
    "a lazy frame": lambda: polars.from_pandas(FRAME).lazy(),
    "polars with a zone": lambda: polars.from_pandas(FRAME).with_columns(
        polars.col("entry").dt.replace_time_zone("Europe/Paris")
    ),
    "Arrow": lambda: pyarrow.Table.from_pandas(FRAME),
}


@pytest.mark.parametrize("rows", SAME.values(), ids=SAME)
def test_every_usual_frame_of_the_same_people_gives_the_same_numbers(rows: Any) -> None:
    expected = FRAME.query("entry >= '2020-03-01'")
    tidy = result_of(rows()).tidy("numbers").set_index("column")
    assert tidy.loc["age", "mean"] == pytest.approx(expected["age"].mean())
    assert tidy.loc["age", "n"] == len(expected)


def renamed(**names: str) -> pandas.DataFrame:
    return FRAME.rename(columns=names)


UNREADABLE: dict[str, tuple[Any, str]] = {
    "no such file": ("people.csv", "node 'a': people.csv: no such file; correct the path"),
    "two columns of a name": (
        FRAME.assign(other=1).set_axis(["age", "sex", "diabetes", "entry", "age"], axis=1),
        "several columns have the name 'age': rename them",
    ),
    "names of two levels": (pandas.concat({"x": FRAME}, axis=1), "names of several levels"),
    "no column": (pandas.DataFrame(), "its frame has no column"),
    "a list": (FRAME.to_dict("records"), r"its rows are a list.*give pandas.DataFrame\(rows\)"),
    "a dict": (FRAME.to_dict("list"), r"its rows are a dict.*give pandas.DataFrame\(rows\)"),
    "an array": (FRAME[["age"]].to_numpy(), r"are a ndarray.*give pandas.DataFrame\(rows\)"),
    "a column": (FRAME["age"], r"are a Series.*give pandas.DataFrame\(rows\)"),
    "nothing": (None, "its NoneType cannot be read as a table"),
}


@pytest.mark.parametrize(("rows", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_rows_that_are_no_table_are_told_with_the_remedy(rows: Any, message: str) -> None:
    with pytest.raises(errors.InputError, match=f"node 'a'.*{message}|{message}"):
        result_of(rows)


@pytest.mark.parametrize(
    ("frames", "contract", "message"),
    [
        ({"Besançon CHU": FRAME}, CONTRACT, "call it 'besancon-chu'"),
        ({1: FRAME}, CONTRACT, "call it 'node-1'"),
        ({"a": FRAME}, None, "the contract is a NoneType: give the path"),
    ],
)
def test_names_and_contracts_of_a_wrong_type_are_told(
    frames: Any, contract: Any, message: str
) -> None:
    with pytest.raises(errors.InputError, match=message):
        fed.simulate(frames, contract)


BROKEN: dict[str, tuple[pandas.DataFrame, str]] = {
    "French days": (
        changed(entry=FRAME["entry"].dt.strftime("%d/%m/%Y")),
        "a: entry: line 2 has '../../....', a day as dd/mm/yyyy: write `date: dd/mm/yyyy`",
    ),
    "French numbers": (
        changed(age=[f"{age:.1f}".replace(".", ",") for age in FRAME["age"]]),
        "a: age: line 2 has '..,0', a comma before the decimals: write `decimal",
    ),
    "French words": (
        words(FRAME, "diabetes", "oui", "non"),
        "a: diabetes: line 2 has '(oui|non)', a word for yes or no",
    ),
    "a name with an accent": (
        renamed(age="Âge"),
        "a: age: the column 'Âge' may be it: .*read={'columns': {'age': 'Âge'}}",
    ),
    "no such column": (FRAME.drop(columns="sex"), "a: sex: add the column"),
    "a level's capital": (
        changed(sex=FRAME["sex"].str.lower()),
        "a: sex: .*'[fm]' is spelled differently from the level '[FM]'",
    ),
    "out of range": (changed(age=FRAME["age"] + 100), "a: age: .*line . has '1..[.]0'"),
    "no row": (FRAME.iloc[:0], "a: the table has no rows"),
}


@pytest.mark.parametrize(("frame", "message"), BROKEN.values(), ids=BROKEN)
def test_the_owner_of_the_rows_is_shown_what_breaks_the_contract(
    frame: pandas.DataFrame, message: str
) -> None:
    with pytest.raises(errors.InputError, match=f"(?s)nodes needed gave.*{message}"):
        result_of(frame).tidy()


@pytest.mark.parametrize(
    ("frame", "read"),
    [
        (BROKEN["French days"][0], {"date": "dd/mm/yyyy"}),
        (BROKEN["French numbers"][0], {"decimal": ","}),
        (BROKEN["French words"][0], {"yes": ["oui"], "no": ["non"]}),
        (BROKEN["a name with an accent"][0], {"columns": {"age": "Âge"}}),
        (BROKEN["French days"][0], {"a": {"date": "dd/mm/yyyy"}}),
    ],
)
def test_the_keys_of_read_are_those_of_a_node(
    frame: pandas.DataFrame, read: dict[str, Any]
) -> None:
    tables = result_of(frame, read=read).tidy("numbers"), result_of(FRAME).tidy("numbers")
    pandas.testing.assert_frame_equal(*tables)


def test_an_unknown_key_of_read_is_told_with_the_keys() -> None:
    with pytest.raises(errors.InputError, match="read: unknown key 'dates'; did you mean 'date'"):
        result_of(FRAME, read={"dates": "dd/mm/yyyy"})


def test_a_node_that_gave_no_part_is_shown_beside_the_numbers() -> None:
    frames = {"a": FRAME, "b": changed(sex=FRAME["sex"].str.lower())}
    with fed.simulate(frames, CONTRACT) as nodes:
        result = STUDY.run(nodes, progress=False)
        findings = nodes.check()
    assert repr(result["table"]) == "<table: describe, released without b>"
    listed = result["table"].nodes().set_index("node")
    assert listed.loc["a", "people"] > 0 and "unknown level" in listed.loc["b", "reason"]
    for html in (result._repr_html_(), result["table"]._repr_html_()):
        assert "<p>b: data: the data here break their contract" in html
    assert findings[["node", "column", "rule", "rows"]].values.tolist() == [
        ["b", "sex", "all missing", 200],
        ["b", "sex", "unknown level", 200],
    ]


def test_rows_that_keep_their_contract_have_no_finding() -> None:
    with fed.simulate({"a": FRAME}, CONTRACT) as nodes, warnings.catch_warnings():
        findings = nodes.check()
    assert list(findings) == ["node", "column", "rule", "rows", "remedy"] and findings.empty


def test_a_path_and_the_address_of_a_table_are_read(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "people.csv", index=False)
    tables = result_of(str(tmp_path / "people.csv")).tidy(), result_of(FRAME).tidy()
    pandas.testing.assert_frame_equal(*tables)


# -- the study
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("coxph", "no analysis 'coxph'; did you mean 'cox'?"),
        ("describ", "did you mean 'describe'?"),
        ("logistic", "did you mean 'glm'?"),
        ("zzz", "no analysis 'zzz'; the analyses are anova, boosted_trees, "),
    ],
)
def test_a_verb_that_is_none_is_told_with_the_one_that_is_meant(name: str, message: str) -> None:
    study = fed.Study("people")
    with pytest.raises(AttributeError, match=re.escape(message)):
        getattr(study, name)
    assert not hasattr(study, "_repr_pretty_") and copy.copy(study) == study


@pytest.mark.parametrize("key", ["epsilon", "delta"])
def test_an_epsilon_in_mode_exact_is_a_mistake(key: str) -> None:
    study = fed.Study("people", mode="exact", **{key: 1e-7}).describe("ages", ["age"])
    with pytest.raises(errors.StudyError, match=f"privacy.{key}: mode exact adds no noise"):
        study.run(fed.simulate({"a": FRAME}, CONTRACT), progress=False)


@pytest.mark.parametrize(
    ("sign", "word"), [("&", "and"), ("&&", "and"), ("|", "or"), ("||", "or"), ("~", "not")]
)
def test_a_sign_of_another_language_is_told_with_the_word_for_it(sign: str, word: str) -> None:
    study = fed.Study("people", mode="exact", where=f"age > 30 {sign} sex == 'F'")
    with pytest.raises(errors.StudyError, match=re.escape(f"cannot read '{sign}' in ")) as refused:
        study.describe("ages", ["age"]).run(fed.simulate({"a": FRAME}, CONTRACT), progress=False)
    assert f"; write `{word}`" in str(refused.value)


# -- French
@pytest.mark.parametrize(
    ("english", "french"),
    [
        (
            "lyon: data: the data here break their contract: range (age), wrong type (bmi); the"
            " producer sees more with `hdh node check`",
            "lyon: données\u00a0: ici, les données sont contraires à leur contrat\u00a0: hors de"
            " l'intervalle (age), type inattendu (bmi)\u00a0; le producteur en voit plus avec"
            " `hdh node check`",
        ),
        (
            "p.yaml: analyses.model.column: this key is missing; add it",  # a key keeps its name
            "p.yaml: analyses.model.column: cette clé manque\u00a0; ajoutez-la",
        ),
        (
            "correct the values, add the level to the contract's `levels`, or recode it in a"
            " mapping; line 4 has 'x'; line 5 has '#N/A', a code of absence: write"
            ' `missing: ["#N/A"]` in the contract',
            "corrigez les valeurs, ajoutez la modalité aux `levels` du contrat, ou recodez-la dans"
            " un `mapping`\u00a0; la ligne 4 a 'x'\u00a0; la ligne 5 a '#N/A', un code"
            ' d\'absence\u00a0: écrivez `missing: ["#N/A"]` dans le contrat',
        ),
    ],
)
def test_a_refusal_about_rows_is_french_to_its_rules(english: str, french: str) -> None:
    with language.using("fr"):
        assert message_texts.translated(english) == french


def test_every_rule_of_a_refusal_has_its_french() -> None:
    same = {"differencing"}
    with language.using("fr"):
        for rule, text in message_texts.RULES.items():
            assert rule in same or language.tr(text) != text
