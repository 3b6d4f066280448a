"""`hdh study`: check a study before anyone is asked, print the schemas."""

from __future__ import annotations

import json
from pathlib import Path

import pydantic
from rich.console import Console

from federation import contract as contracts
from federation import errors, study
from federation.contract import Contract
from federation.study import Study
from federation.yaml_source import Source


def load(path: Path, contract: Path | None) -> tuple[Study, Contract, Source]:
    """The study, and the contract of its dataset: the one given, or DATASET.yaml beside the study."""
    made, source = study.load(path)
    beside = contract or path.parent / f"{made.dataset}.yaml"
    if not beside.exists():
        raise errors.StudyError(
            f"{source.at('dataset')}: no contract {beside} for dataset {made.dataset!r}; put it there, or give --contract FILE"
        )
    return made, contracts.load(beside), source


def check(path: Path, contract: Path | None) -> None:
    from strategies import registry

    made, agreed, source = load(path, contract)
    tasks = registry.plan(made, agreed, source)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{path}: study {made.study!r} is in order (hash {made.hash[:12]})")
    for name, task in tasks.items():
        console.print(
            f"  {name}: {made.analyses[name].run} of {', '.join(field.name for field in task.fields)}"
        )
    console.print(
        f"  against dataset {agreed.dataset!r} version {agreed.version}; nothing was asked of a node"
    )


def schema(what: str) -> None:
    print(json.dumps(schema_of(what), indent=2, ensure_ascii=False))


def schema_of(what: str) -> dict[str, object]:
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
    made = models[what].model_json_schema()
    if what == "study":
        made["properties"]["analyses"]["additionalProperties"] = {"oneOf": _analyses()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"hdh {what}",
        **made,
    }


def _analyses() -> list[dict[str, object]]:
    """One schema per analysis: its name under `run`, and its own options, those of mode dp among them."""
    from strategies import registry

    found: list[dict[str, object]] = []
    for name in registry.ANALYSES:
        options = registry.analysis(name).Options.model_json_schema()
        private = (
            registry.private(name).Options.model_json_schema() if name in registry.PRIVATE else {}
        )
        common = {
            "run": {"const": name},
            "results": {"enum": ["combine", "split", "both"], "default": "combine"},
            "budget": {"type": "number", "default": 1},
        }
        options["properties"] = (
            common | private.get("properties", {}) | options.get("properties", {})
        )
        options["$defs"] = private.get("$defs", {}) | options.get("$defs", {})
        options["required"] = ["run", *options.get("required", [])]
        found.append({**options, "title": name})
    return found
