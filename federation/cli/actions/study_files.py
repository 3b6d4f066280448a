"""A study before submission: loaded, checked, and described by JSON Schemas."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from federation import datasets, influence, own_folder
from federation import study as studies
from federation.cli import screen
from federation.cli.screen import print
from federation.contract import Contract
from federation.language import tr
from federation.study import Study
from federation.yaml_source import Source

if TYPE_CHECKING:
    from strategies.protocol import AnyTask


def load(path: Path, contract: Path | None) -> tuple[Study, Contract, Source]:
    """The study and its contract: as given,
    or from DATASET.yaml beside the study for each of its datasets."""
    study, source = studies.load(path)
    loaded = datasets.load(study, path.parent, source, contract)
    return study, datasets.contract_of(study, loaded, source), source


def check(path: Path, contract_path: Path | None) -> None:
    from aggregator.flower import strategies as flower_strategies
    from strategies import registry

    flower_strategies.register()
    study, contract, source = load(path, contract_path)
    tasks = registry.plan(study, contract, source)
    studies.check_authorisation(study, datetime.now(UTC).date())
    print(f"{path}: study {study.study!r} is valid ({_hash(study)})")
    for name, task in tasks.items():
        fields = ", ".join(field.name for field in task.fields)
        text = tr("{analysis}: {run} of {fields}")
        text = text.format(analysis=name, run=study.analyses[name].run, fields=fields)
        print(f"  {text}")
    if study.link is not None:
        from nodes import link_words, links

        plan = links.plan(study, datasets.load(study, path.parent, source))
        for line in link_words.describe(plan):
            print(f"  {line}")
    print(
        f"  checked against dataset {contract.dataset!r} version {contract.version}; no node was "
        "asked"
    )
    if study.privacy.mode == "exact":
        _show_expressions(study, contract, tasks)


def _hash(study: Study) -> str:
    """The hash under which the hub and the nodes know the study: it covers the coordinator, whose
    name a submission fills in, and the extensions, whose hashes it fills in."""
    from strategies import installed

    study = installed.signed(study)
    if study.coordinator == studies.LOCAL:
        home = own_folder.home()
        if not own_folder.is_enrolled(home):
            return f"hash {study.hash[:12]}, which changes with your name once you are enrolled"
        from federation import credentials

        name = credentials.load(home).name
        study = study.model_copy(update={"coordinator": name})
    return f"hash {study.hash[:12]}"


def _show_expressions(study: Study, contract: Contract, tasks: Mapping[str, AnyTask]) -> None:
    """The expressions for which a node may refuse the study,
    because too few people are on one side."""
    from federation import schema
    from strategies import study_expressions

    written = study_expressions.of(study, tasks, schema.build(contract, study.cohort.derive))
    if not written:
        return
    print(
        f"  in exact mode a node refuses (support) unless at least {study.privacy.min_cell} of its "
        "people stand on each side of"
    )
    for place, text, field in written:
        print(f"    {place}: {text}")
        if influence.NOBODY in field.pieces:
            print(
                "      too long for a node to count for whom each column decides: every node "
                "refuses it; shorten it"
            )


def print_schema(document: str) -> None:
    screen.document(schema(document))


def schema(document: str) -> dict[str, object]:
    from aggregator.document import Document
    from aggregator.settings import HubFile
    from nodes.site import SiteFile

    models: dict[str, type[pydantic.BaseModel]] = {
        "study": Study,
        "contract": Contract,
        "node": SiteFile,
        "hub": HubFile,
        "result": Document,
    }
    body = models[document].model_json_schema()
    if document == "study":
        body["properties"]["analyses"]["additionalProperties"] = {"oneOf": _analyses()}
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": f"hdh {document}", **body}


def _analyses() -> list[dict[str, Any]]:
    """One schema per analysis: its name under `run`, its options, and those of its private form."""
    from strategies import registry

    return [_analysis(name) for name in registry.ANALYSES]


def _analysis(name: str) -> dict[str, Any]:
    from strategies import registry

    options = registry.analysis(name).Options.model_json_schema()
    private: dict[str, Any] = {}
    if name in registry.PRIVATE:
        private = registry.private(name).Options.model_json_schema()
    common = {
        "run": {"const": name},
        "results": {"enum": ["combine", "split", "both", "by_step"], "default": "combine"},
        "budget": {"type": "number", "default": 1},
    }
    properties = common | private.get("properties", {}) | options.get("properties", {})
    return {
        **options,
        "properties": properties,
        "$defs": private.get("$defs", {}) | options.get("$defs", {}),
        "required": ["run", *options.get("required", [])],
        "title": name,
    }
