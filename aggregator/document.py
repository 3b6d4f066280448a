"""result.json: the document of a released study. The names of columns follow broom's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from federation.contract import Frozen

SCHEMA_VERSION = 1


class Contribution(Frozen):
    """What a node gave. `people` is null where there are too few to say."""

    node: str
    status: Literal["answered", "refused", "silent"]
    people: int | None
    reason: str | None


class ReleasedResult(Frozen):
    """Tables that passed the door. `n` null: suppressed."""

    status: Literal["released", "withheld", "failed"]
    reason: str | None
    exactness: Literal["exact", "approximate", "noised"] | None
    why: str | None
    n: Mapping[str, int | float | None]
    suppressed: int
    notes: Sequence[str]
    rounds: int
    tables: Mapping[str, Sequence[Mapping[str, Any]]]


class AnalysisDocument(ReleasedResult):
    run: str
    privacy: Mapping[str, Any]
    nodes: Sequence[Contribution]
    by_node: Mapping[str, ReleasedResult]
    model: Mapping[str, Any] | None = None  # of a training: aggregator/models.py


class Document(Frozen):
    """result.json. The names of columns follow broom's; a suppressed number is null, with `suppressed` beside it."""

    schema_version: Literal[1]
    study: str
    title: str
    question: str
    study_hash: str
    analyses: Mapping[str, AnalysisDocument]
    provenance: Mapping[str, Any]
    receipt: Mapping[str, Any] | None = None  # of a study over a real hub: federation/receipts.py
