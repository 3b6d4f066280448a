"""study.yaml, read into a frozen Study; every mistake of writing dies here, with file, line and remedy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pydantic

from federation import errors, yaml_source
from federation.contract import Day, Frozen, Name, Slug
from federation.privacy import accounting
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
            raise ValueError(
                f"{category!r} is forbidden by the public-health code (article L1461-1 V); no node may answer"
            )
        if category not in PURPOSES:
            raise ValueError(
                f"{category!r} is not a purpose; the purposes are {', '.join(p for p in PURPOSES if p not in FORBIDDEN)}"
            )
        return category


class Authorisation(Frozen):
    reference: str = pydantic.Field(min_length=1)
    expires: Day


class CohortRule(Frozen):
    derive: Mapping[Name, str] = {}
    where: str | None = None


class SecureSum(Frozen):
    """The hub learns sums over nodes and no node's own. Up to `dropouts` nodes may fall silent before the sum is opened (0:
    the first one ends it), and up to `colluders` may side with the hub."""

    dropouts: int = pydantic.Field(0, ge=0)
    colluders: int = pydantic.Field(1, ge=0)


class Privacy(Frozen):
    """`exact`: sums as they are, small cells suppressed. `dp`: differential privacy, (epsilon, delta) for one person over
    the whole study at each node.

    `noise`: `node`, each node adds all that it needs by itself; `distributed`, under a secure sum each adds its share.
    The site decides: one that accepts no shares adds all of it."""

    mode: Literal["exact", "dp"] = "dp"
    epsilon: float = pydantic.Field(1.0, gt=0, le=20)
    delta: float = pydantic.Field(1e-6, gt=0, le=1e-3)
    noise: Literal["node", "distributed"] = "node"
    secure_sum: SecureSum | None = None
    min_cell: int = pydantic.Field(11, ge=1)

    @pydantic.field_validator("secure_sum", mode="before")
    @classmethod
    def _yes_or_no(cls, value: Any) -> Any:
        return {} if value is True else None if value is False else value

    @pydantic.model_validator(mode="after")
    def _coherent(self) -> Privacy:
        if self.noise == "distributed" and (self.secure_sum is None or self.mode != "dp"):
            raise ValueError(
                "noise: distributed needs mode dp and a secure_sum, under which each node adds a share; write noise: node"
            )
        return self

    @cached_property
    def rho(self) -> int:
        """The study's whole budget at a node, in pico-rho."""
        return accounting.rho_for(self.epsilon, self.delta) if self.mode == "dp" else 0

    def threshold(self, nodes: int) -> int:
        """How many nodes must agree on who is in a secure sum before it is opened: all but the dropouts."""
        return nodes - (self.secure_sum.dropouts if self.secure_sum else 0)

    def honest(self, nodes: int) -> int:
        """How many shares of noise are counted on: those of nodes that neither drop out nor side with the hub."""
        if self.secure_sum is None or self.noise == "node":
            return 1
        return max(1, nodes - self.secure_sum.dropouts - self.secure_sum.colluders)


class AnalysisEntry(Frozen):
    """One entry of `analyses`: `run` names the analysis, `version` the one that the study was written for, if it matters;
    the other keys are its options, checked by it."""

    model_config = pydantic.ConfigDict(frozen=True, extra="allow")
    run: str
    version: int | None = pydantic.Field(None, ge=1)
    results: Literal["combine", "split", "both"] = "combine"
    budget: float = pydantic.Field(1.0, gt=0)  # in mode dp: its weight beside the other analyses'

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
    analyses: Mapping[Slug, AnalysisEntry] = pydantic.Field(min_length=1)

    @pydantic.model_validator(mode="after")
    def _secure_sums_are_of_all_nodes(self) -> Study:
        if self.privacy.secure_sum and (
            alone := [name for name, entry in self.analyses.items() if entry.results != "combine"]
        ):
            raise ValueError(
                f"analyses.{alone[0]}: a secure sum hides each node's results; write results: combine, or leave out secure_sum"
            )
        return self

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON: any edit of any value changes it, comments and order do not."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    @cached_property
    def runs(self) -> frozenset[str]:
        """The names of the analyses that the study runs."""
        return frozenset(entry.run for entry in self.analyses.values())

    def canonical(self) -> str:
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )


def load(path: Path) -> tuple[Study, Source]:
    """The study, and its source for later messages about its lines."""
    source = yaml_source.read(path, errors.StudyError)
    return build(source), source


def build(source: Source) -> Study:
    return yaml_source.build(Study, source.values, source, under=(), error=errors.StudyError)


def parse(canonical: str) -> Study:
    """A study from its canonical JSON, as a node receives it."""
    try:
        return Study.model_validate_json(canonical)
    except pydantic.ValidationError:
        raise errors.StudyError(
            "the study received does not follow the schema of this version"
        ) from None
