"""study.yaml as a frozen Study. A mistake is reported with its file, its line and a remedy."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from federation import derivations, errors, extensions, limits, yaml_source
from federation.contract import Day, Frozen, Name, Slug
from federation.privacy import accounting
from federation.yaml_source import Source

LOCAL = "local"  # the coordinator of a study that names none
PURPOSES = (
    "quality-of-care",
    "research",
    "surveillance",
    "health-policy",
    "pharmacovigilance",
    "innovation",
)
FORBIDDEN = ("promotion-of-health-products", "insurance-selection")


Label = Annotated[str, pydantic.StringConstraints(max_length=200), limits.Readable]
Title = Annotated[str, pydantic.StringConstraints(max_length=limits.MAX_TITLE), limits.Readable]
Question = Annotated[
    str, pydantic.StringConstraints(max_length=limits.MAX_QUESTION), limits.Readable
]


def _extension_key(key: str) -> str:
    if re.fullmatch(extensions.KEY, key) is None:
        raise ValueError(
            f"{limits.shown(key, 80)!r} must be KIND.NAME, as in networks.two_layers, where KIND is"
            f" {', '.join(extensions.KINDS[:-1])} or {extensions.KINDS[-1]}"
        )
    return key


def _digest(digest: str) -> str:
    if re.fullmatch(extensions.DIGEST, digest) is None:
        raise ValueError("must be 64 hexadecimal digits, as `hdh extensions` prints them")
    return digest


ExtensionKey = Annotated[str, pydantic.AfterValidator(_extension_key)]
Digest = Annotated[str, pydantic.AfterValidator(_digest)]


class Purpose(Frozen):
    """The purpose of a study.

    Article L1461-1 V of the French public-health code forbids two purposes."""

    interest: Literal["public"]
    category: str

    @pydantic.field_validator("category")
    @classmethod
    def _lawful(cls, category: str) -> str:
        if category in FORBIDDEN:
            raise ValueError(
                f"{category!r} is forbidden by the public-health code (article L1461-1 V), so no "
                "node may answer"
            )
        if category not in PURPOSES:
            raise ValueError(
                f"{category!r} is not a known purpose; the purposes are {', '.join(PURPOSES)}"
            )
        return category


class Authorisation(Frozen):
    reference: Label = pydantic.Field(min_length=1)
    expires: Day


class CohortRule(Frozen):
    """The cohort of a study.

    `codes`: sets of codes by name, for in_codes(). `derive`: columns as expressions, or as a
    mapping with `group`, `recode`, or `value` and its `range`. Both are written out as expressions,
    so that a node reads expressions only."""

    codes: Mapping[Name, tuple[str, ...]] = {}
    derive: Mapping[Name, str] = {}
    where: str | None = None

    @pydantic.field_validator("derive", mode="before")
    @classmethod
    def _as_expressions(cls, derive: Any) -> Any:
        if not isinstance(derive, dict):
            return derive
        return {
            name: derivations.expression(definition) if isinstance(definition, dict) else definition
            for name, definition in derive.items()
        }

    @pydantic.model_validator(mode="after")
    def _with_codes(self) -> CohortRule:
        """The sets of codes stand in the expressions themselves."""
        if not self.codes:
            return self
        derive = {name: derivations.with_codes(t, self.codes) for name, t in self.derive.items()}
        where = None if self.where is None else derivations.with_codes(self.where, self.codes)
        return CohortRule(derive=derive, where=where)


class DatasetEntry(Frozen):
    """One of several datasets of a study.

    `cohort`: of this dataset alone, before anything else. `per_person`: the columns that a person
    gets from their rows here, each by sum, count, min, max, any, first or last. `rename`: new names
    (old: new) of columns whose name another dataset also has."""

    cohort: CohortRule = CohortRule()
    per_person: Mapping[Name, str] = {}
    rename: Mapping[Name, Name] = {}


class Link(Frozen):
    """People known to two holders, joined at a third node.

    `on`: the identifier by which they are matched, in both contracts. `cascade`: instead, lists of
    identifiers, tried one after the other. `left`: the dataset whose people the study is about.
    `right`: the dataset that adds columns. `helper`: the node that matches them. `keep`: the left's
    people who are linked, or all. `canaries`: made-up people that expose a dishonest helper.
    `min_linked_share`: below this share of the left's people the study ends. `precision`: the share
    of links that are right, where an audit of a sample has found it; table `corrected` needs it."""

    on: Name | None = None
    cascade: tuple[tuple[Name, ...], ...] = ()
    left: Slug
    right: Slug
    helper: Slug
    ending: Literal["together"] = "together"
    keep: Literal["linked", "all"] = "linked"
    canaries: int = pydantic.Field(64, ge=16, le=4096)
    min_linked_share: float = pydantic.Field(0.5, ge=0, le=1)
    precision: float | None = pydantic.Field(None, ge=0.5, le=1)

    @pydantic.model_validator(mode="after")
    def _matched_in_one_way(self) -> Link:
        if (self.on is None) == (not self.cascade):
            raise ValueError("needs either `on`, an identifier, or `cascade`, lists of them")
        if not all(self.cascade) or len(self.cascade) > 16:
            raise ValueError("cascade: needs 1 to 16 lists, each with an identifier at least")
        if self.left == self.right:
            raise ValueError("left and right must be two datasets")
        return self

    @property
    def identifiers(self) -> tuple[str, ...]:
        """All identifiers that the link compares, each once."""
        named = (self.on,) if self.on else (name for names in self.cascade for name in names)
        return tuple(dict.fromkeys(name for name in named if name))


class SecureSum(Frozen):
    """A secure sum: the hub learns the sum over the nodes, and no single node's part.

    `dropouts`: how many nodes may stop answering before the sum is opened; with 0, the first one
    ends the sum. `colluders`: how many nodes may collude with the hub without learning another
    node's part."""

    dropouts: int = pydantic.Field(0, ge=0)
    colluders: int = pydantic.Field(1, ge=0)


class Privacy(Frozen):
    """`mode` exact: sums without noise, with small cells suppressed. `mode` dp: differential
    privacy with (epsilon, delta) for one person over the whole study, at each node.

    `noise` node: each node adds all the noise that its own data need. `noise` distributed: under a
    secure sum each node adds its share only. A site whose policy does not allow shares adds all of
    it in either case."""

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
                "noise: distributed needs mode dp and a secure_sum, in which each node adds a "
                "share; add both, or write noise: node"
            )
        return self

    @cached_property
    def rho(self) -> int:
        """The budget of the whole study at one node, in pico-rho."""
        return accounting.rho_for(self.epsilon, self.delta) if self.mode == "dp" else 0

    def threshold(self, nodes: int) -> int:
        """How many of `nodes` must sign the list of survivors before a secure sum is opened."""
        return nodes - (self.secure_sum.dropouts if self.secure_sum else 0)

    def honest(self, nodes: int) -> int:
        """How many shares of noise are certain: those of nodes that neither drop out nor collude
        with the hub."""
        if self.secure_sum is None or self.noise == "node":
            return 1
        return max(1, nodes - self.secure_sum.dropouts - self.secure_sum.colluders)


class AnalysisEntry(Frozen):
    """One entry of `analyses`. `run` names the analysis. `version`, if given, is the version of the
    analysis that the study needs. `budget` is its weight beside the other analyses in mode dp.
    `results`: of all nodes together (combine), of each node by itself (split), both, or by_step: of
    all people of a link by a cascade, and of those whom its first steps link. All other keys are
    options, which the analysis checks."""

    model_config = pydantic.ConfigDict(frozen=True, extra="allow")
    run: Annotated[str, pydantic.StringConstraints(max_length=60)]
    version: int | None = pydantic.Field(None, ge=1)
    results: Literal["combine", "split", "both", "by_step"] = "combine"
    budget: float = pydantic.Field(1.0, gt=0)

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class Study(Frozen):
    """The whole of study.yaml. If there are several datasets, `datasets` replaces `dataset`; the
    study's own `dataset` is then the name of their combination. `extensions`: the hash of each
    network, analysis and strategy that does not come with hdh; every node compares it with the code
    that is installed there."""

    study: Slug
    title: Title
    question: Question
    purpose: Purpose
    authorisation: Authorisation
    dataset: Slug
    datasets: Mapping[Slug, DatasetEntry] = {}
    link: Link | None = None
    coordinator: Label = LOCAL
    min_nodes: int = pydantic.Field(3, ge=1)
    cohort: CohortRule = CohortRule()
    privacy: Privacy = Privacy()
    extensions: Mapping[ExtensionKey, Digest] = {}
    analyses: Mapping[Slug, AnalysisEntry] = pydantic.Field(
        min_length=1, max_length=limits.MAX_ANALYSES
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _several_datasets_have_one_name(cls, values: Any) -> Any:
        entries = values.get("datasets") if isinstance(values, dict) else None
        if not isinstance(entries, dict) or not entries:
            return values
        together = joint_name(entries)
        if values.get("dataset", together) != together:
            raise ValueError("give either `dataset` or `datasets`, not both")
        return {**values, "dataset": together}

    @pydantic.model_validator(mode="after")
    def _datasets_are_linked_or_stand_side_by_side(self) -> Study:
        if self.datasets and len(self.datasets) < 2:
            raise ValueError("datasets: for a single dataset write `dataset` and `cohort`")
        if self.link is None:
            for name, entry in self.datasets.items():
                if entry.per_person or entry.cohort != CohortRule():
                    raise ValueError(
                        f"datasets.{name}: `per_person` and a cohort of its own need a `link`; "
                        "without one, write the study's `cohort`"
                    )
        elif set(self.datasets) != {self.link.left, self.link.right}:
            raise ValueError("link: needs exactly two `datasets`, its left and its right")
        return self

    @pydantic.model_validator(mode="after")
    def _secure_sums_are_of_all_nodes(self) -> Study:
        per_node = [
            name for name, entry in self.analyses.items() if entry.results in ("split", "both")
        ]
        if self.privacy.secure_sum and per_node:
            raise ValueError(
                f"analyses.{per_node[0]}: a secure sum hides the results of single nodes; write "
                "results: combine, or leave out secure_sum"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _results_by_step_are_of_a_cascade(self) -> Study:
        by_step = [name for name, entry in self.analyses.items() if entry.results == "by_step"]
        if by_step and (reason := self._no_results_by_step()):
            raise ValueError(f"analyses.{by_step[0]}: results: by_step {reason}")
        return self

    def _no_results_by_step(self) -> str:
        """The reason why the study has none; empty if it may have them."""
        if self.link is None or len(self.link.cascade) < 2:
            return "needs a `link` by a `cascade` of two steps or more; write results: combine"
        if self.link.keep == "all":
            return (
                "is about the people whom each step links, and keep: all adds those whom none does;"
                " write keep: linked"
            )
        if self.privacy.mode == "dp":
            return (
                "is for mode exact, since the results of each step would need a budget of their"
                " own; in mode dp use `by: [link_step]`, or write results: combine"
            )
        if self.privacy.secure_sum:
            return (
                "does not go with secure_sum, under which a node with one small step would leave"
                " all results; write results: combine, or leave out secure_sum"
            )
        return ""

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON. It changes with every value,
        but not with comments or order."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    @cached_property
    def runs(self) -> frozenset[str]:
        """The names of the analyses that the study runs."""
        return frozenset(entry.run for entry in self.analyses.values())

    @property
    def other_parties(self) -> int:
        """The right holder and the helper of a link, who take part beside the nodes that answer."""
        return 0 if self.link is None else 2

    @property
    def steps(self) -> int:
        """The number of steps of a cascade; 0 without one."""
        return 0 if self.link is None else len(self.link.cascade)

    @property
    def min_answers(self) -> int:
        """The nodes without whose answers the study ends."""
        return max(1, self.min_nodes - self.other_parties)

    def canonical(self) -> str:
        """Without `extensions` where there are none, as in studies of the time before them, whose
        hash so remains."""
        values = self.model_dump(mode="json", exclude=None if self.extensions else {"extensions"})
        return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def joint_name(datasets: Iterable[str]) -> str:
    """The name of what several datasets give together."""
    return "-".join(sorted(datasets))


def check_authorisation(study: Study, today: date) -> None:
    """StudyError if the authorisation has expired: every node would refuse the study."""
    if study.authorisation.expires < today:
        raise errors.StudyError(
            f"study {study.study}: its authorisation {study.authorisation.reference!r} expired on"
            f" {study.authorisation.expires}; renew it, and correct `authorisation`"
        )


def load(path: Path) -> tuple[Study, Source]:
    """The study, and its source, which error messages need to name lines."""
    source = yaml_source.read(path, errors.StudyError)
    return build(source), source


def build(source: Source) -> Study:
    study = yaml_source.build(Study, source.values, source, under=(), error=errors.StudyError)
    usual = Privacy.model_fields
    private = [  # a study that was written with all its defaults holds them, too
        key for key in ("delta", "epsilon") if getattr(study.privacy, key) != usual[key].default
    ]
    if study.privacy.mode == "exact" and private:
        key = private[-1]
        raise errors.StudyError(
            f"{source.at('privacy', key)}: privacy.{key}: mode exact adds no noise; leave this key "
            "out, or write mode: dp"
        )
    return study


def parse(canonical: str) -> Study:
    """A study from its canonical JSON, as a node receives it.
    StudyError if it does not fit the schema."""
    try:
        with limits.parsing("a study of this version", limits.LimitError):
            limits.json_of(canonical, max_bytes=4 * limits.MAX_STUDY)
            return Study.model_validate_json(canonical)
    except limits.LimitError:
        raise errors.StudyError(
            "the study received does not fit the schema of this version; compare the versions of "
            "hub and node"
        ) from None
