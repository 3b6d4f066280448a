"""The extensions that a study uses, and those that are installed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from federation import extensions
from federation.extensions import Extension, Kind
from federation.study import Study
from strategies import registry
from strategies.learning import networks, server_optimizers

BUILT_IN: Mapping[Kind, frozenset[str]] = {
    "analyses": registry.NAMES,
    "networks": frozenset(networks.INPUT),
    "strategies": frozenset(server_optimizers.BUILT_IN),
}
_OPTIONS: Mapping[str, Kind] = {"network": "networks", "strategy": "strategies"}


def used(study: Study) -> list[str]:
    """The keys of the extensions that a study names, such as networks.two_layers."""
    keys = set[str]()
    for entry in study.analyses.values():
        named: dict[Kind, object] = {"analyses": entry.run}
        if entry.run == "train":
            named |= {kind: entry.options.get(option) for option, kind in _OPTIONS.items()}
        keys |= {
            f"{kind}.{name}"
            for kind, name in named.items()
            if isinstance(name, str) and name not in BUILT_IN[kind] and ":" not in name
        }
    return sorted(keys)


def every() -> list[Extension]:
    """All extensions that are installed here, with what speaks against one that cannot be used."""
    return [_beside_ours(extension) for extension in extensions.every()]


def _beside_ours(extension: Extension) -> Extension:
    kind, _, name = extension.key.partition(".")
    if any(name in BUILT_IN[ours] for ours in BUILT_IN if ours == kind):
        problem = (
            f"this version of hdh has {name!r} itself, and uses its own: its author must rename it"
        )
        return replace(extension, problem=problem)
    return extension


def of(study: Study) -> list[Extension]:
    """Those of a study that are installed here."""
    present = (extensions.find(key) for key in used(study))
    return [extension for extension in present if extension is not None]


def signed(study: Study) -> Study:
    """The study with the hash of each extension that it uses and whose hash it does not state, as
    it is installed here. For its coordinator, before signing."""
    here = {extension.key: extension.digest for extension in of(study) if not extension.problem}
    if not set(here) - set(study.extensions):
        return study
    return study.model_copy(update={"extensions": here | dict(study.extensions)})
