"""study.yaml, read into a frozen Study; every mistake of writing dies here, with file, line and remedy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pydantic

from federation import errors, yaml_source
from federation.contract import Frozen, Name, Slug
from federation.yaml_source import Source

PURPOSES = (
    "quality-of-care", "research", "surveillance", "health-policy", "pharmacovigilance", "innovation",
    "promotion-of-health-products", "insurance-selection",
)  # fmt: skip
FORBIDDEN = ("promotion-of-health-products", "insurance-selection")


class Purpose(Frozen):
    """Why the study is made. Two purposes are forbidden by article L1461-1 V of the French public-health code."""

    interest: Literal["public"]
    category: str

    @pydantic.field_validator("category")
    @classmethod
    def _lawful(cls, category: str) -> str:
        if category in FORBIDDEN:
            raise ValueError(f"{category!r} is forbidden by the public-health code (article L1461-1 V); no node may answer")
        if category not in PURPOSES:
            raise ValueError(f"{category!r} is not a purpose; the purposes are {', '.join(p for p in PURPOSES if p not in FORBIDDEN)}")
        return category


class Authorisation(Frozen):
    reference: str = pydantic.Field(min_length=1)
    expires: date


class CohortRule(Frozen):
    derive: Mapping[Name, str] = {}
    where: str | None = None


class Privacy(Frozen):
    """`exact`: sums as they are, small cells suppressed. `dp`: differential privacy."""

    mode: Literal["exact", "dp"] = "dp"
    min_cell: int = pydantic.Field(11, ge=1)


class Analysis(Frozen):
    """One entry of `analyses`: `run` names the analysis; the other keys are its options, checked by it."""

    model_config = pydantic.ConfigDict(frozen=True, extra="allow")
    run: str
    results: Literal["combine", "split", "both"] = "combine"

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class Study(Frozen):
    study: Slug
    title: str
    question: str
    purpose: Purpose
    authorisation: Authorisation
    dataset: Slug
    coordinator: str = "local"
    min_nodes: int = pydantic.Field(3, ge=1)
    cohort: CohortRule = CohortRule()
    privacy: Privacy = Privacy()
    analyses: Mapping[Slug, Analysis] = pydantic.Field(min_length=1)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON: any edit of any value changes it, comments and order do not."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    @cached_property
    def runs(self) -> frozenset[str]:
        """The names of the analyses that the study runs."""
        return frozenset(entry.run for entry in self.analyses.values())

    def canonical(self) -> str:
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def load(path: Path) -> tuple[Study, Source]:
    """The study, and its source for later messages about its lines."""
    source = yaml_source.read(path, errors.StudyError)
    return build(source), source


def build(source: Source) -> Study:
    study = yaml_source.build(Study, source.values, source, under=(), error=errors.StudyError)
    if study.privacy.mode == "dp":
        written = "mode" in (source.values.get("privacy") or {})
        said = "mode dp" if written else "no privacy mode is given, and the default, dp,"
        raise errors.StudyError(f"{source.at('privacy', 'mode')}: privacy: {said} is not available in this version; write `privacy: {{mode: exact}}`")
    return study


def parse(canonical: str) -> Study:
    """A study from its canonical JSON, as a node receives it."""
    try:
        return Study.model_validate_json(canonical)
    except pydantic.ValidationError:
        raise errors.StudyError("the study received does not follow the schema of this version") from None
