"""A law over the registry: an identifier stands in no place of any analysis. Each column that an
example names is replaced by an identifier, one place after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from federation import errors
from federation.contract import Contract
from federation.study import Study
from strategies import registry
from tests.linkage.test_table import values
from tests.property.test_every_analysis import CONTRACT, EXAMPLES

WITH_NIR = Contract.model_validate(
    CONTRACT.model_dump(exclude_none=True)
    | {
        "identifiers": {"who": {"column": "nir", "form": "nir13"}},
        "columns": {
            **{name: c.model_dump(exclude_none=True) for name, c in CONTRACT.columns.items()},
            "nir": {"type": "string"},
        },
    }
)
HEAD = """
study: plain
title: t
question: q
purpose: {interest: public, category: research}
authorisation: {reference: A, expires: 2030-01-01}
min_nodes: 1
privacy: {mode: exact}
"""


def with_identifier(options: Any) -> Iterator[Any]:
    """The options with one column's name, in one place, replaced by `nir`."""
    if isinstance(options, dict):
        for key, content in options.items():
            yield from ({**options, key: other} for other in with_identifier(content))
    elif isinstance(options, list):
        for i, content in enumerate(options):
            yield from (
                [*options[:i], other, *options[i + 1 :]] for other in with_identifier(content)
            )
    elif isinstance(options, str):
        for word in re.finditer(r"[a-z_]+", options):
            if word[0] in CONTRACT.columns:
                yield f"{options[: word.start()]}nir{options[word.end() :]}"


CASES = [
    (name, options)
    for name, examples in EXAMPLES.items()
    for example in examples
    for options in with_identifier(example)
]


def study_of(**changes: Any) -> Study:
    return Study.model_validate(values(HEAD) | {"dataset": CONTRACT.dataset} | changes)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_an_identifier_stands_in_no_place_of_an_analysis(name, options):
    study = study_of(analyses={"a": {"run": name, **options}})
    with pytest.raises(errors.StudyError, match="whose row it is"):
        registry.plan(study, WITH_NIR)


def test_the_law_looks_at_every_analysis():
    """Without a replacement the same studies are planned, so that the law can fail."""
    assert {name for name, _ in CASES} == set(EXAMPLES)
    for name, examples in EXAMPLES.items():
        for options in examples:
            assert registry.plan(study_of(analyses={"a": {"run": name, **options}}), WITH_NIR)
