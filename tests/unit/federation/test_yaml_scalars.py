"""YAML as people write it: a value means what it says, or the message names the line and the text
to write instead."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pydantic
import pytest
from pydantic_core import PydanticKnownError, core_schema

from aggregator import settings
from federation import errors, model_words, study, yaml_source
from federation.contract import Contract
from federation.study import Study
from nodes import site as sites
from nodes.site import SiteFile
from strategies import registry
from tests import federations

CONTRACT = """dataset: d
version: 1
unit: visit
columns:
  g: {type: category, levels: [CODES]}
  x: {type: number, missing: [CODES]}
"""
STUDY = """study: s
title: t
question: q
purpose: {interest: public, category: research}
authorisation: {reference: DR-1, expires: 2027-12-31}
dataset: d
analyses:
  a: {run: describe, columns: [x]}
"""


@pytest.mark.parametrize(
    "code",
    [
        "01000",
        "01100",
        "38000",
        "05",
        "08",
        "1:30",
        "12:30:45",
        "1_000",
        "1.10",
        "1.0",
        "010000024",
        "0x1F",
        "0o17",
        "0b11",
        "1e5",
        "1E400",
        "+5",
        "-0",
        ".5",
        "5.",
        ".inf",
        ".nan",
        "yes",
        "no",
        "on",
        "off",
        "Oui",
        "y",
        "N",
        "true",
        "True",
        "FALSE",
        "2027-02-30",
        "2024-01-01",
        "2024-1-1",
        "2001-12-14t21:59:43.10-05:00",
        "=",
        "<<",
        "99999999999999999999999999",
        "1e",
        "1.2.3",
        "000",
        "+33612345678",
    ],
)
def test_a_code_keeps_the_text_of_the_file(code: str) -> None:
    contract = federations.contract_of(CONTRACT.replace("CODES", f"{code}, other"))
    assert contract.columns["g"].levels == contract.columns["x"].missing == (code, "other")
    listed = (
        CONTRACT.replace("[CODES]", f"\n      - {code}\n      - other")
        .replace("{type", "\n    type")
        .replace(",", "\n   ")
        .replace("}", "")
    )
    assert federations.contract_of(listed).columns["g"].levels == (code, "other")


@pytest.mark.parametrize("code", ["null", "~", "Null", "NULL"])
def test_no_value_is_no_code(code: str) -> None:
    with pytest.raises(
        errors.ContractError,
        match=rf"contract.yaml:5: columns.g.levels.1: {code} means no value: put it in quotes",
    ):
        federations.contract_of(CONTRACT.replace("CODES", f"a, {code}"))
    assert federations.contract_of(CONTRACT.replace("CODES", f'a, "{code}"')).columns[
        "g"
    ].levels == ("a", code)


def test_an_empty_item_is_no_code() -> None:
    with pytest.raises(
        errors.ContractError, match=r"contract\.yaml:2: levels.0: an empty item means no value"
    ):
        yaml_source.parse("levels:\n  -\n  - a\n", name="contract.yaml", error=errors.ContractError)


@pytest.mark.parametrize("code", ["[a, b]", "{a: b}"])
def test_a_code_is_a_single_text(code: str) -> None:
    with pytest.raises(
        errors.ContractError,
        match=r"contract\.yaml:5: columns.g.levels: each code must be a single text",
    ):
        federations.contract_of(CONTRACT.replace("CODES", code))


def read(line: str) -> Any:
    """The value of `v` in a study's file."""
    return yaml_source.parse(
        f"title: t\n{line}\n", name="study.yaml", error=errors.StudyError
    ).values["v"]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("0", 0),
        ("12", 12),
        ("-12", -12),
        ("+12", 12),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("1e-6", 1e-6),
        ("2.5E+3", 2500.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("=", "="),
        ("2027-12-31", "2027-12-31"),
        ("'010'", "010"),
        ('"1:30"', "1:30"),
        ("12a", "12a"),
        ("1-2", "1-2"),
        ("a:b", "a:b"),
        ("é", "é"),
        ("0.10.1", "0.10.1"),
        ("9007199254740992", 2**53),
        ("DR-2026-000", "DR-2026-000"),
        ("0be30f74", "0be30f74"),  # a key, and no binary number
        ("0o89", "0o89"),
    ],
)
def test_a_scalar_is_what_it_says(written: str, value: Any) -> None:
    scalar = read(f"v: {written}")
    assert scalar == value and type(scalar) is type(value)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("010", "leading zero"),
        ("08", "leading zero"),
        ("010000024", "leading zero"),
        ("-017", "leading zero"),
        ("00.5", "leading zero"),
        ("0x1F", "hexadecimal"),
        ("0o17", "octal"),
        ("0b11", "binary"),
        ("1_000", "underscores"),
        ("1_000.5", "underscores"),
        ("1:30", "base 60"),
        ("12:30:45", "base 60"),
        ("190:20:30.15", "base 60"),
        (".inf", "no finite number"),
        ("-.INF", "no finite number"),
        (".nan", "no finite number"),
        ("9007199254740993", "too large a number"),
        ("9" * 5000, "too large a number"),
        ("2027-02-30", "not in the calendar"),
        ("2027-13-01", "not in the calendar"),
        ("2027-2-3", "write a day as 2026-01-31"),
        ("2027-12-31T10:00:00Z", "write a day as 2026-01-31"),
        ("2027-12-31 10:00:00", "write a day as 2026-01-31"),
        ("!!int '5'", "tag (!!int)"),
        ("!!python/object:os.system x", "tag (!!python/object:os.system)"),
        ("!!timestamp 2027-02-30", "tag (!!timestamp)"),
        ("!!binary a", "tag (!!binary)"),
        ("!!set {a, b}", "tag (!!set)"),
        ("!own x", "tag (!own)"),
        ("{? [a, b] : c}", "a key must be a text"),
        ("{? {a: b} : c}", "a key must be a text"),
        ("{<<: {a: 1}}", "merge keys"),
        ("{~: a}", "a key is empty"),
        ("{null: a}", "a key is empty"),
        ("{a: 1, a: 2}", "key 'a' appears twice"),
        ("{1: a, '1': b}", "key '1' appears twice"),
        ("@x", "YAML reserves: put the value in quotes"),
        ("`x`", "YAML reserves"),
        ("%x", "YAML reserves"),
        ("*x", "names an anchor that does not exist"),
        ("*", "begins with * or &"),
        ("*é", "begins with * or &"),
        ("& b", "begins with * or &"),
        ("[*]", "begins with * or &"),
        ("a: b", "a second `: ` in the line"),
        ('"C:\\data"', "use single quotes"),
        ("[a, b", "bracket or brace is not closed"),
        ("{a: 1", "bracket or brace"),
        ("[a b] c", "the indentation differs"),
        ("a\x07b", "control character"),
        ("a\x00b", "control character"),
        ("a\u2028b", "invisible line separator"),
        ("a\x85b", "invisible line separator"),
        ("'l'été'", "quote"),
        ("- a", "write it on the next line"),
    ],
)
def test_a_surprise_names_its_line_and_the_remedy(written: str, message: str) -> None:
    with pytest.raises(errors.StudyError) as caught:
        read(f"v: {written}")
    assert str(caught.value).startswith("study.yaml:2: "), caught.value
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('a: 1\ntitle: "never closed\nb: 2\nc: 3\n', 2, "a quote opens here"),
        ("a: 1\ntitle: 'never closed\nb: 2\n", 2, "a quote opens here"),
        ('a: 1\ntitle: "never closed\nb: "x"\nc: 3\n', 2, "a quote opens here"),
        ("a: 1\nb: [x, 'y\nc: 'z'\nd: 4\n", 2, "a quote opens here"),
        ("a: 1\n\tb: 2\n", 2, "use spaces"),
        ("a:\n\t- b\n", 2, "use spaces"),
        ("a: 1\n  b: 2\n", 2, "indent"),
        ("a:\n  b: 1\n c: 2\n", 3, "indentation"),
        ("a: 1\nb\nc: 2\n", 2, "`key: value`"),
        ("a: 1\nb:2\nc: 3\n", 2, "`key: value`"),
        ("a: 1\nb:\u00a02\nc: 3\n", 2, "no-break space"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a: &x 1\nb: 2\n? [a, b]\n: c\n", 3, "a key must be a text"),
        ("a: 1\na: 2\n", 2, "appears twice"),
    ],
)
def test_a_file_that_is_no_yaml_names_the_line_to_correct(
    text: str, line: int, message: str
) -> None:
    with pytest.raises(errors.StudyError) as caught:
        yaml_source.parse(text, name="f.yaml", error=errors.StudyError)
    assert str(caught.value).startswith(f"f.yaml:{line}: ") and message in str(caught.value), (
        caught.value
    )


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [*x]",
        "a: &a [x]\n"
        + "".join(
            f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '*a'] * 10)}]\n" for i in range(9)
        ),
        "[" * 5000,
        "",
        "- a",
        "text",
    ],
)
def test_nothing_ends_in_a_traceback(text: str) -> None:
    with pytest.raises(errors.StudyError):
        yaml_source.parse(text, name="f.yaml", error=errors.StudyError)


def test_an_alias_is_read_where_it_stands() -> None:
    source = yaml_source.parse("a: &x [1, 2]\nb: *x\n", name="f.yaml", error=errors.StudyError)
    assert source.values == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("key", ["010000024", "2024", "1:30", "yes", "1.10", "0x1F", "2027-02-30"])
def test_a_key_keeps_the_text_of_the_file(key: str) -> None:
    source = yaml_source.parse(
        f"authorisations: {{{key}: 2027-12-31}}", name="node.yaml", error=errors.SiteError
    )
    assert source.values["authorisations"] == {key: "2027-12-31"}


@pytest.mark.parametrize(
    "written",
    [
        "20271231",
        "1830297600",
        "2027",
        "'2027-12-31T00:00:00'",
        "'20271231'",
        "soon",
        "2027-12-31 00:00:00",
        "2027-02-30",
        "true",
        "",
    ],
)
def test_a_number_is_no_day(written: str, tmp_path: Path) -> None:
    """pydantic takes 20271231 for seconds since 1970."""
    (tmp_path / "study.yaml").write_text(STUDY.replace("2027-12-31", written))
    with pytest.raises(errors.StudyError, match=r"study\.yaml:5: authorisation.expires: "):
        study.load(tmp_path / "study.yaml")
    (tmp_path / "study.yaml").write_text(STUDY)
    assert study.load(tmp_path / "study.yaml")[0].authorisation.expires == date(2027, 12, 31)


@pytest.mark.parametrize("written", ["31/12/2027", "soon", "2027-12", "31.12.2027"])
def test_a_day_in_another_notation_is_shown_as_it_is_written(written: str, tmp_path: Path) -> None:
    """The message ended with: not ''."""
    (tmp_path / "study.yaml").write_text(STUDY.replace("2027-12-31", written))
    with pytest.raises(errors.StudyError, match=rf"as 2026-01-31, not '{written}'"):
        study.load(tmp_path / "study.yaml")


@pytest.mark.parametrize("reference", ["010000024", "1:30", "12_3"])
def test_a_number_of_an_institution_is_quoted_or_refused(reference: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("DR-1", reference))
    with pytest.raises(
        errors.StudyError,
        match=r"study\.yaml:5: authorisation.reference: .* put it in quotes if it is a text",
    ):
        study.load(path)
    path.write_text(STUDY.replace("DR-1", f"'{reference}'"))
    assert study.load(path)[0].authorisation.reference == reference


# -- pydantic's words never reach a person
def test_every_error_type_has_our_words() -> None:
    context = dict.fromkeys(
        [
            "gt",
            "ge",
            "lt",
            "le",
            "multiple_of",
            "min_length",
            "max_length",
            "actual_length",
            "field_type",
            "pattern",
            "expected",
            "error",
            "class",
            "size",
            "encoding_error",
            "method_name",
            "class_name",
            "attribute",
            "expected_tags",
            "discriminator",
            "tag",
            "expected_version",
            "expected_schemes",
            "max_digits",
            "decimal_places",
            "whole_digits",
            "tz_expected",
            "tz_actual",
        ],
        3,
    )
    for kind in typing.get_args(core_schema.ErrorType):
        message = model_words.say(
            {
                "type": kind,
                "msg": "pydantic's",
                "ctx": {**context, "error": "ours"},
                "input": "x",
                "loc": ("a",),
            }
        )
        assert (
            "pydantic" not in message.lower()
            and "{" not in message
            and "nput should" not in message
            and "nvalid" not in message
        )
        words = model_words.WORDS.get(kind)
        try:
            theirs = PydanticKnownError(kind, dict(context)).message()
        except (TypeError, KeyError, ValueError):
            continue
        assert words is None or words.lower() != theirs.lower()


WRONG: list[Any] = [
    None,
    "text",
    "12x",
    "-1",
    -1,
    0,
    1.5,
    1e400,
    float("nan"),
    True,
    [],
    ["x"],
    [[1]],
    {},
    {"x": 1},
    {"x": {"y": []}},
    "",
    "a b",
    10**30,
    "2027-02-30",
    b"x",
    date(2027, 1, 1),
]
THEIRS = (
    "input should",
    "unable to parse",
    "invalid character",
    "valid integer",
    "valid string",
    "valid dictionary",
    "valid number",
    "valid date",
    "valid boolean",
    "valid list",
    "valid tuple",
    "pydantic",
    "field required",
    "extra inputs",
    "instance of",
    "string should",
    "value error",
    "ensure this",
    "tuple[",
    "function-",
)


def models() -> Iterator[tuple[str, type[pydantic.BaseModel]]]:
    yield from (("study", Study), ("contract", Contract), ("node", SiteFile))
    for name in registry.ANALYSES:
        yield name, registry.analysis(name).Options
        if name in registry.PRIVATE:
            yield f"{name} dp", registry.private(name).Options


@pytest.mark.parametrize(
    ("name", "model"), list(models()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_wrong_value_of_any_key_is_said_in_our_words(
    name: str, model: type[pydantic.BaseModel]
) -> None:
    source = yaml_source.Source("f.yaml", {}, {})
    messages: list[str] = []
    for key in model.model_fields:
        for value in WRONG:
            try:
                yaml_source.build(model, {key: value}, source, under=(), error=errors.InputError)
            except errors.InputError as error:
                messages.append(str(error))
    assert messages and not [
        line for line in messages if any(words in line.lower() for words in THEIRS)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "version: true",
        "rows_per_person: true",
        "columns: {v: {type: number, max_missing: true}}",
        "columns: {v: {type: number, step: true}}",
        "columns: {v: {type: array, shape: [true, 2], range: [0, 1]}}",
        "columns: {v: {type: number, range: [false, true]}}",
    ],
)
def test_true_is_no_number(text: str) -> None:
    """pydantic reads true as 1."""
    whole = "dataset: d\nversion: 1\nunit: visit\ncolumns: {v: {type: number}}\n"
    lines = [line for line in whole.splitlines() if line.split(":")[0] != text.split(":")[0]]
    with pytest.raises(errors.ContractError, match=r"must be (a number, not true|two numbers)"):
        federations.contract_of("\n".join([*lines, text]))


@pytest.mark.parametrize(
    "ends",
    [
        "[0, ]",
        "0-10",
        "[0]",
        "[0, 1, 2]",
        "[a, b]",
        "[0, 2026-01-01]",
        "{low: 0}",
        "['2026-02-30', 2027-01-01]",
    ],
)
def test_a_range_that_is_no_pair_is_said_in_one_line(ends: str) -> None:
    with pytest.raises(
        errors.ContractError, match=r"columns\.v\.range: must be two numbers"
    ) as failure:
        federations.contract_of(
            f"dataset: d\nversion: 1\nunit: visit\ncolumns: {{v: {{type: number, range: {ends}}}}}"
        )
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    "column",
    ["levels: ['', b]", "levels: [a, 9], missing: [9]", "levels: ['1 ', b], missing: ['1']"],
)
def test_a_level_that_no_row_can_have_is_refused(column: str) -> None:
    with pytest.raises(errors.ContractError, match="missing"):
        federations.contract_of(
            f"dataset: d\nversion: 1\nunit: visit\ncolumns: {{v: {{type: category, {column}}}}}"
        )


@pytest.mark.parametrize(
    "content",
    [
        "study: 0x" + "f" * 100_000,
        "study: 1e" + "9" * 100_000,
        "study: 1" + ":59" * 20_000,
        "a: 1\n" * 20_000,
        "".join(f"k{i}: &a{i} {i}\n" for i in range(50_000)),
        "x: &x {a: 1}\ny:\n" + "  <<: *x\n" * 20_000,
    ],
    ids=["hexadecimal", "exponent", "base 60", "keys twice", "unknown keys", "merge keys"],
)
@pytest.mark.parametrize("name", ["study.yaml", "hub.yaml", "roster.yaml"])
def test_a_file_of_mistakes_is_told_in_a_few_lines_with_their_remedy(
    name: str, content: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    readers: dict[str, Any] = {
        "study.yaml": study.load,
        "hub.yaml": lambda path: settings.load(path.parent),
        "roster.yaml": sites.load_roster,
    }
    with pytest.raises(errors.InputError) as refused:
        readers[name](tmp_path / name)
    assert len(str(refused.value)) < 30_000 and len(refused.value.problems) <= 51
    assert f"{name}:" in str(refused.value).splitlines()[0]
