"""Where a study runs: on nodes that this process simulates, or at a hub."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from federation import client, errors
from federation import contract as contracts
from federation import datasets as joint
from federation import study as studies
from federation.api.plan import StudyPlan
from federation.api.result import Result
from federation.api.study import Study
from federation.client import GivenContract, Hub
from federation.contract import Contract
from federation.yaml_source import Source

if TYPE_CHECKING:
    from simulations.answering import Holders

Say = Callable[[str], Any]
Given = Contract | Mapping[str, Any] | Path | str


class Federation(Protocol):
    """Nodes that can be asked. `progress`: whether the rounds are shown, or where they go."""

    def run(self, study: Study, *, progress: bool | Say = True) -> Result: ...

    def plan(self, study: Study) -> StudyPlan: ...


# -- simulated nodes
def simulate(
    frames: Mapping[str, Any],
    contract: Given | Sequence[Given],
    *,
    strict: bool = False,
    processes: int | None = None,
) -> Simulation:
    """Nodes in this process, each with its own rows.

    `frames`: by the name of a node, a pandas or polars frame, an Arrow table, or the path of a
    file. `contract`: of the rows, as a path, a Contract, or its content as a mapping; of a study of
    several datasets a list, where each node has a pair (dataset, frame). `strict`: the nodes are
    as careful as real ones are by default. `processes`: how many share the nodes."""
    return Simulation(frames, contract, strict=strict, processes=processes)


class Simulation:
    """Nodes in this process. Their rows are copied to a private folder, which `close` removes."""

    def __init__(
        self,
        frames: Mapping[str, Any],
        contract: Given | Sequence[Given],
        *,
        strict: bool = False,
        processes: int | None = None,
    ) -> None:
        from federation.api import frames as tables

        listed = contract if isinstance(contract, list | tuple) else [contract]
        self.contracts = {one.dataset: one for one in map(_contract, listed)}
        self.strict, self.processes = strict, processes
        self._folder = tempfile.TemporaryDirectory(prefix="hdh-")
        self.datasets = tables.datasets(frames, self.contracts, Path(self._folder.name))

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self.datasets)

    def run(self, study: Study, *, progress: bool | Say = True) -> Result:
        """The result of a study. It holds what a hub would release, and nothing else."""
        from simulations import whole_run

        checked, source = study.checked(own_rows=True)
        holders = self._holders(checked, source)
        with tempfile.TemporaryDirectory(prefix="hdh-") as scratch, _progress(progress) as say:
            whole_run.check(holders)
            settings = whole_run.Settings(
                Path(scratch), Path(scratch), strict=self.strict, processes=self.processes
            )
            document = whole_run.run(holders, source, settings, say)
        return Result(document.model_dump(mode="json"))

    def plan(self, study: Study) -> StudyPlan:
        """What the study costs, and who would refuse, with the true number of rows of each node."""
        from federation.api import sizes
        from simulations import planning

        checked, source = study.checked(own_rows=True)
        holders = self._holders(checked, source)
        nodes = sizes.planned(holders, strict=self.strict)
        return StudyPlan(planning.of(checked, holders.contract, nodes))

    def _holders(self, study: studies.Study, source: Source) -> Holders:
        from simulations.answering import Holders

        names = sorted(study.datasets) or [study.dataset]
        for name in names:
            if name not in self.contracts:
                raise errors.StudyError(
                    f"study {study.study}: the nodes hold {', '.join(self.contracts)}, and no "
                    f"dataset {name!r}; name theirs with `dataset`"
                )
        loaded = {name: self.contracts[name] for name in names}
        several = loaded if study.datasets else {}
        return Holders(study, joint.contract_of(study, loaded, source), self.datasets, several)

    def close(self) -> None:
        """Removes the copies of the rows."""
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Simulation of {len(self.datasets)} nodes: {', '.join(self.datasets)}>"


def _contract(given: Given) -> Contract:
    if isinstance(given, Contract):
        return given
    if isinstance(given, Mapping):
        from federation import yaml_source

        name = f"contract {given.get('dataset', '')}".strip()
        return yaml_source.build(
            Contract, given, Source(name, given, {}), under=(), error=errors.ContractError
        )
    return contracts.load(Path(given))


@contextmanager
def _progress(given: bool | Say) -> Iterator[Say]:
    """The place where progress goes: a line that is replaced, in a terminal or a notebook."""
    if callable(given):
        yield given
    elif not given:
        yield lambda _: None
    else:
        from rich.console import Console

        with Console(stderr=True, highlight=False).status("checking the study") as status:
            yield status.update


# -- a hub
def connect(folder: Path | str | None = None, *, contract: GivenContract = None) -> AtHub:
    """The hub at which the keys in `folder` are enrolled (by default HDH_HOME, or ~/.hdh).

    `contract`: of the studies' dataset; by default the one that the nodes at the hub hold."""
    return AtHub(client.connect(folder), contract)


class AtHub:
    """The nodes of a hub. `hub` submits and follows studies without waiting for them."""

    def __init__(self, hub: Hub, contract: GivenContract = None) -> None:
        self.hub, self.contract = hub, contract

    def run(
        self,
        study: Study,
        *,
        progress: bool | Say = True,
        deadline_s: float = 0.0,
        nodes: Sequence[str] = (),
    ) -> Result:
        """Submits the study under your signature, waits until it has ended, and returns its result.
        RefusalError if it has none."""
        checked, _ = study.checked()
        contract = self._contract(checked)
        run = self.hub.submit(checked, contract, deadline_s=deadline_s, nodes=nodes)
        with _progress(progress) as say:
            status = run.watch(say)
        if status.state not in ("complete", "partial"):
            raise errors.RefusalError(
                f"study {status.study} (number {status.number}) is {status.line()}"
            )
        return Result(run.result().document)

    def plan(self, study: Study) -> StudyPlan:
        """The decision that each node would take, and what the study costs there."""
        from simulations import planning

        checked, _ = study.checked()
        given = self._contract(checked)
        if checked.coordinator == client.LOCAL:
            checked = checked.model_copy(update={"coordinator": self.hub.party.name})
        nodes = [planning.node_at_hub(state) for state in self.hub.plan(checked, given)]
        loaded = given if isinstance(given, Mapping) else {checked.dataset: _contract(given)}
        return StudyPlan(planning.of(checked, joint.contract_of(checked, loaded), nodes))

    def _contract(self, study: studies.Study) -> Contract | Mapping[str, Contract]:
        """As given, or as the nodes hold it. StudyError if they hold different ones."""
        if isinstance(self.contract, Mapping):
            return self.contract
        if self.contract is not None:
            return _contract(self.contract)
        held = self.hub.datasets()
        names = sorted(study.datasets) or [study.dataset]
        loaded = {name: _one_contract(name, held) for name in names}
        return loaded if study.datasets else loaded[study.dataset]

    def close(self) -> None:
        self.hub.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _one_contract(name: str, held: Sequence[client.Held]) -> Contract:
    found = {one.contract.hash: one.contract for one in held if one.contract.dataset == name}
    if len(found) != 1:
        count = "no node holds it" if not found else "the nodes hold it under unlike contracts"
        raise errors.StudyError(
            f"dataset {name!r}: {count}; see `hdh study datasets`, and give `contract` to "
            "fed.connect"
        )
    return next(iter(found.values()))
