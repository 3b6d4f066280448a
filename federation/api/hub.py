"""The nodes of a hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from federation import client, datasets, errors
from federation import study as studies
from federation.api.federations import Say, contract_of, shown
from federation.api.plan import StudyPlan
from federation.api.result import Result
from federation.api.spoken import spoken
from federation.api.study import Study
from federation.client import GivenContract, Hub
from federation.contract import Contract


@spoken()
def connect(folder: Path | str | None = None, *, contract: GivenContract = None) -> AtHub:
    """The hub at which the keys in `folder` are enrolled (by default HDH_HOME, or ~/.hdh).

    `contract`: of the studies' dataset; by default the one that the nodes at the hub hold."""
    from strategies import installed

    return AtHub(client.connect(folder, completed=installed.signed), contract)


class AtHub:
    """The nodes of a hub. `hub` submits and follows studies without waiting for them."""

    def __init__(self, hub: Hub, contract: GivenContract = None) -> None:
        self.hub, self.contract = hub, contract

    @spoken()
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
        from aggregator import document as documents

        checked, _ = study.checked()
        contract = self._contract(checked)
        run = self.hub.submit(checked, contract, deadline_s=deadline_s, nodes=nodes)
        with shown(progress) as say:
            status = run.watch(say)
        if status.state not in ("complete", "partial"):
            raise errors.RefusalError(
                f"study {status.study} (number {status.number}) is {status.line()}"
            )
        document = run.result().document
        documents.read(document, "the hub's result")
        return Result(document)

    @spoken()
    def plan(self, study: Study) -> StudyPlan:
        """The decision that each node would take, and what the study costs there."""
        from simulations import planning

        checked, _ = study.checked()
        given = self._contract(checked)
        if checked.coordinator == studies.LOCAL:
            checked = checked.model_copy(update={"coordinator": self.hub.party.name})
        nodes = [planning.node_at_hub(state) for state in self.hub.plan(checked, given)]
        loaded = given if isinstance(given, Mapping) else {checked.dataset: contract_of(given)}
        return StudyPlan(planning.of(checked, datasets.contract_of(checked, loaded), nodes))

    def _contract(self, study: studies.Study) -> Contract | Mapping[str, Contract]:
        """As given, or as the nodes hold it. StudyError if they hold different ones."""
        if isinstance(self.contract, Mapping):
            return self.contract
        if self.contract is not None:
            return contract_of(self.contract)
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
    contracts = {
        holding.contract.hash: holding.contract
        for holding in held
        if holding.contract.dataset == name
    }
    if len(contracts) != 1:
        count = (
            "no node holds it" if not contracts else "the nodes hold it under different contracts"
        )
        raise errors.StudyError(
            f"dataset {name!r}: {count}; see `hdh study datasets`, and give `contract` to "
            "fed.connect"
        )
    return next(iter(contracts.values()))
