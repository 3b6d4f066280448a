"""A key that was renamed is refused, and the message names the key that replaces it."""

from __future__ import annotations

import re
from pathlib import Path

import pydantic
import pytest

from federation import errors, yaml_source
from nodes import site as sites
from strategies import registry

ROOT = Path(__file__).parents[3]
POLICY = ("epsilon", "delta", "epsilon_per_year", "parameters_per_person")
OPTIONS = [
    ("sccs", "most_events", "max_events"),
    ("pathways", "most_steps", "max_steps"),
    ("propensity", "most_weight", "max_weight"),
    ("boosted_trees", "least", "min_rows"),
    ("disproportionality", "least", "min_reports"),
]


@pytest.mark.parametrize("limit", POLICY)
def test_a_limit_of_the_policy_names_its_new_key(limit: str, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(f"node: lyon\ndatasets: {{}}\npolicy: {{most_{limit}: 1}}\n")
    with pytest.raises(errors.SiteError) as refused:
        sites.load(path)
    assert f"node.yaml:3: unknown key 'most_{limit}'; it is now 'max_{limit}'" in str(refused.value)


@pytest.mark.parametrize(("analysis", "old", "new"), OPTIONS)
def test_an_option_of_an_analysis_names_its_new_key(analysis: str, old: str, new: str) -> None:
    source = yaml_source.parse(f"{old}: 1\n", name="study.yaml", error=errors.StudyError)
    module = registry.private(analysis) if analysis == "sccs" else registry.analysis(analysis)
    with pytest.raises(errors.StudyError) as refused:
        yaml_source.build(
            module.Options,
            source.values,
            source,
            under=(),
            error=errors.StudyError,
        )
    assert f"unknown key '{old}'; it is now '{new}'" in str(refused.value)


def test_an_old_key_where_the_new_one_does_not_belong_is_only_unknown() -> None:
    class Person(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        age: int = 0

    source = yaml_source.parse("most_epsilon: 1\n", name="x.yaml", error=errors.StudyError)
    with pytest.raises(errors.StudyError, match="unknown key 'most_epsilon'; the keys are age"):
        yaml_source.build(Person, source.values, source, under=(), error=errors.StudyError)


def test_no_old_key_is_left_in_a_document_or_a_yaml_file() -> None:
    old = re.compile(
        rf"\b({'|'.join(yaml_source.RENAMED)})\b['\"`]?:|`({'|'.join(yaml_source.RENAMED)})`"
    )
    files = [
        path
        for folder in ("docs", "simulations", "nodes", "tests/oracle", "benchmarks")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".md", ".yaml", ".json") and path.is_file()
    ] + [ROOT / "README.md", ROOT / "nodes" / "setup.py"]
    assert len(files) > 50
    files_ = [str(path.relative_to(ROOT)) for path in files if old.search(path.read_text())]
    assert files_ == []
