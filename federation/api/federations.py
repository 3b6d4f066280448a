"""Where a study runs: the two verbs that simulated nodes and the nodes of a hub share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from federation import contract as contracts
from federation import errors, yaml_source
from federation.api.plan import StudyPlan
from federation.api.result import Result
from federation.api.study import Study
from federation.contract import Contract
from federation.yaml_source import Source

Say = Callable[[str], Any]
Given = Contract | Mapping[str, Any] | Path | str


class Federation(Protocol):
    """Nodes that can be asked. `progress`: whether the rounds are shown, or where they go."""

    def run(self, study: Study, *, progress: bool | Say = True) -> Result: ...

    def plan(self, study: Study) -> StudyPlan: ...


def contract_of(given: Given) -> Contract:
    if isinstance(given, Contract):
        return given
    if isinstance(given, Mapping):
        name = f"contract {given.get('dataset', '')}".strip()
        return yaml_source.build(
            Contract, given, Source(name, given, {}), under=(), error=errors.ContractError
        )
    if not isinstance(given, str | Path):
        raise errors.InputError(
            f"the contract is a {type(given).__name__}: give the path of a contract, or its content"
            " as a mapping"
        )
    return contracts.load(Path(given))


@contextmanager
def shown(given: bool | Say) -> Iterator[Say]:
    """The place where progress goes: a line that is replaced, in a terminal or a notebook."""
    if callable(given):
        yield given
    elif not given:
        yield lambda _: None
    else:
        from rich.console import Console

        with Console(stderr=True, highlight=False).status("checking the study") as status:
            yield status.update
