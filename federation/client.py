"""A coordinator's client of the hub, for notebooks and for `hdh study`.

from federation.client import connect

hub = connect()
run = hub.submit("study.yaml")
run.watch()
run.result().table("coefficients")
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from federation import contract as contracts
from federation import credentials, datasets, errors, limits
from federation import study as studies
from federation.contract import Contract
from federation.credentials import Credentials
from federation.own_folder import home
from federation.study import Study
from federation.study_result import StudyResult
from federation.tickets import REHEARSAL, RunTicket, ticket

OVER = ("complete", "partial", "failed", "refused", "cancelled")
MAX_WAIT_S = 90 * 86_400.0  # from a submission to its deadline for approvals
PLANNED_S = 120.0  # for a call that plans: its turn at the hub, then the plan, then the nodes
CLOCK_S = 300.0  # by which two clocks may differ
GivenContract = Contract | Mapping[str, Contract] | Path | str | None
MessageT = TypeVar("MessageT")


def _as_it_is(study: Study) -> Study:
    return study


def connect(
    folder: Path | str | None = None, *, completed: Callable[[Study], Study] = _as_it_is
) -> Hub:
    """The hub at which `folder` is enrolled. SetupError if it is not enrolled anywhere."""
    party = credentials.load(Path(folder) if folder is not None else home())
    if party.role == "node":
        raise errors.SetupError(
            f"{party.folder}: a node is enrolled here, and nodes cannot submit studies; give the "
            "folder of a coordinator's keys"
        )
    hub = Hub(party, credentials.channel(party), completed)
    hub.renew_if_due()
    return hub


@dataclass(frozen=True)
class NodeState:
    """A node's decision on a study. `people`: as the node declares it; 0 if it does not."""

    node: str
    verdict: str
    reason: str
    online: bool
    people: int


@dataclass(frozen=True)
class Held:
    """A dataset that a node holds. `people`: as the node declares it; 0 if it does not."""

    node: str
    contract: Contract
    people: int
    online: bool


@dataclass(frozen=True)
class Status:
    """The state of a study: waiting, running, complete, partial, failed, refused or cancelled.

    `rounds_to_come`, `seconds_left`: at most, of a running study; 0 if nobody can say."""

    number: int
    study: str
    study_hash: str
    coordinator: str
    state: str
    reason: str
    progress: str
    submitted: datetime
    deadline: datetime
    started: datetime | None
    finished: datetime | None
    nodes: Sequence[NodeState]
    rounds_done: int = 0
    rounds_to_come: int = 0
    seconds_left: float = 0.0

    @property
    def over(self) -> bool:
        return self.state in OVER

    def line(self) -> str:
        """The state in one line, with the nodes that are awaited, the progress or the reason."""
        undecided = [
            node.node if node.online else f"{node.node} (offline)"
            for node in self.nodes
            if node.verdict in ("asked", "waiting")
        ]
        if self.state == "waiting" and undecided:
            return f"waiting for {', '.join(undecided)}"
        if self.state == "waiting":
            return f"waiting: {self.reason}" if self.reason else "about to start"
        details = self.progress or self.reason
        return self.state + (f": {details}" if details else "")

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(node.node)}</td><td>{escape(node.verdict)}</td>"
            f"<td>{escape(node.reason)}</td></tr>"
            for node in self.nodes
        )
        return (
            f"<p><b>{escape(self.study)}</b> (number {self.number}): {escape(self.line())}</p>"
            "<table><tr><th>node</th><th>decision</th><th>reason</th></tr>"
            f"{rows}</table>"
        )


@dataclass(frozen=True)
class Hub:
    """A connection to a hub. `party`: the credentials of the coordinator who is connected.
    `completed`: adds to a study, before it is signed, what is known on this machine, such as the
    hashes of extensions."""

    party: Credentials
    channel: Any = field(repr=False)
    completed: Callable[[Study], Study] = field(default=_as_it_is, repr=False)

    def submit(
        self,
        study: Study | Path | str,
        contract: GivenContract = None,
        *,
        deadline_s: float = 0.0,
        nodes: Sequence[str] = (),
    ) -> Run:
        """Submits a study and asks the nodes for their approval.

        The hub first drafts the run: its number, its nodes and its deadline. The signature covers
        these, the study and the contract, so the nodes answer one run and no other.

        `contract`: by default DATASET.yaml beside the study; of several datasets, by dataset.
        `deadline_s`: how long the hub waits
        for approvals; 0: the hub's own setting. `nodes`: by default all that hold the dataset."""
        with self._calls() as stub:
            request, drafted = self._drafted(stub, study, contract, deadline_s, nodes)
            self._sign(request, drafted)
            reply = _admitted(stub.Submit(request, timeout=PLANNED_S))
        return Run(self, drafted.number, reply.study)

    def plan(
        self,
        study: Study | Path | str,
        contract: GivenContract = None,
        *,
        nodes: Sequence[str] = (),
    ) -> Sequence[NodeState]:
        """The decision that each node would take; nothing runs."""
        with self._calls() as stub:
            request, drafted = self._drafted(stub, study, contract, 0.0, nodes, rehearsal=True)
            self._sign(request, replace(drafted, number=REHEARSAL))
            return _node_states(_admitted(stub.Plan(request, timeout=PLANNED_S)).nodes)

    def renew_if_due(self) -> None:
        """Renews this coordinator's certificate in its last two months. A hub that cannot be
        reached now is asked at the next connection."""
        import grpc

        from federation.rpc import hub_pb2_grpc

        # The present certificate is still valid.
        with suppress(grpc.RpcError, OSError, errors.SetupError):
            credentials.renew_if_due(self.party, hub_pb2_grpc.NodesStub(self.channel))

    def datasets(self) -> Sequence[Held]:
        """The datasets that the nodes hold, each with its contract. Those whose contract is missing
        or cannot be read are left out: one node decides for itself alone."""
        from federation.rpc import hub_pb2

        with self._calls() as stub:
            holdings = _admitted(stub.Datasets(hub_pb2.Empty(), timeout=60)).datasets
        held = []
        for holding in holdings:
            with suppress(errors.ContractError):
                contract = contracts.parse(holding.contract)
                held.append(Held(holding.node, contract, holding.people, holding.online))
        return held

    def list(self, max_studies: int = 50) -> Sequence[Status]:
        """The studies of a coordinator, or all studies for an operator; newest first."""
        from federation.rpc import hub_pb2

        request = hub_pb2.ListRequest(max_studies=max_studies)
        with self._calls() as stub:
            return [_status(reply) for reply in _admitted(stub.List(request, timeout=60)).studies]

    def run(self, study: str | int) -> Run:
        """A study at the hub, by number, hash or name."""
        from federation.rpc import hub_pb2

        with self._calls() as stub:
            reply = _admitted(stub.Get(hub_pb2.StudyRequest(study=str(study)), timeout=60))
        return Run(self, int(reply.number), reply.study)

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Hub:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _drafted(
        self,
        stub: Any,
        study: Study | Path | str,
        contract: GivenContract,
        deadline_s: float,
        nodes: Sequence[str],
        *,
        rehearsal: bool = False,
    ) -> tuple[Any, RunTicket]:
        """An unsigned request, and the run that the hub drafts for it.

        SetupError if the hub drafts other nodes than were asked for, or a later deadline."""
        from federation.rpc import hub_pb2

        loaded, loaded_contract, several = self._loaded(study, contract)
        request = hub_pb2.SubmitRequest(
            study=loaded.model_dump_json(),
            contract=loaded_contract.canonical(),
            deadline_s=deadline_s,
            nodes=nodes,
            rehearsal=rehearsal,
            contracts={
                name: dataset_contract.canonical() for name, dataset_contract in several.items()
            },
        )
        draft = _admitted(stub.Draft(request, timeout=PLANNED_S))
        hub = credentials.authority_id(self.party.authority)
        drafted = ticket(
            hub, draft.number, loaded.hash, loaded_contract.hash, draft.nodes, draft.deadline
        )
        _check_draft(drafted, nodes, deadline_s)
        return request, drafted

    def _sign(self, request: Any, drafted: RunTicket) -> None:
        request.ClearField("nodes")
        request.nodes.extend(drafted.nodes)
        request.number, request.deadline = drafted.number, drafted.deadline
        request.signature = credentials.sign_run(self.party.key, drafted)

    def _loaded(
        self, study: Study | Path | str, contract: GivenContract
    ) -> tuple[Study, Contract, Mapping[str, Contract]]:
        """The study in this coordinator's name, its contract, and the contracts of its datasets if
        it has several."""
        folder = None
        if not isinstance(study, Study):
            path = Path(study)
            study, folder = studies.load(path)[0], path.parent
        studies.check_authorisation(study, datetime.now(UTC).date())
        if study.coordinator == studies.LOCAL:
            study = study.model_copy(update={"coordinator": self.party.name})
        study = self.completed(study)
        if study.datasets:
            several = _load_contracts(study, contract, folder)
            return study, datasets.contract_of(study, several), several
        if isinstance(contract, Mapping):
            contract = contract[study.dataset]
        if not isinstance(contract, Contract):
            contract = _load_contract(study, contract, folder)
        return study, contract, {}

    @contextmanager
    def _calls(self) -> Iterator[Any]:
        import grpc

        from federation.rpc import hub_pb2_grpc

        try:
            yield hub_pb2_grpc.CoordinationStub(self.channel)
        except grpc.RpcError as error:
            raise credentials.hub_error(error, self.party.api) from None
        except limits.LimitError as broken:
            raise errors.SetupError(
                f"the hub {self.party.api} sent an answer that this version does not take"
                f" ({broken}); compare the versions"
            ) from None


def _check_draft(drafted: RunTicket, nodes: Sequence[str], deadline_s: float) -> None:
    latest = time.time() + (deadline_s or MAX_WAIT_S) + CLOCK_S
    if (nodes and drafted.nodes != tuple(sorted(set(nodes)))) or not drafted.deadline <= latest:
        raise errors.SetupError(
            "the hub drafted a run with other nodes or a later deadline than you asked for, and "
            "nothing was signed; check this machine's clock, or ask the hub's operator"
        )


def _load_contracts(
    study: Study, given: GivenContract, folder: Path | None
) -> Mapping[str, Contract]:
    """Of each dataset of a study: as given by name, or NAME.yaml in the study's folder."""
    if isinstance(given, Mapping):
        return given
    if folder is None or given is not None:
        raise errors.StudyError(
            f"study {study.study}: it has a contract for each of {', '.join(study.datasets)}; put "
            "them beside the study as NAME.yaml"
        )
    return {name: contracts.load(folder / f"{name}.yaml") for name in study.datasets}


def _load_contract(study: Study, given: Path | str | None, folder: Path | None) -> Contract:
    """The contract at the path given, or DATASET.yaml in the study's folder."""
    file = f"{study.dataset}.yaml"
    path = Path(given) if given is not None else folder / file if folder is not None else None
    if path is None or not path.exists():
        raise errors.StudyError(
            f"study {study.study}: no contract {path or file} for dataset {study.dataset!r}; give "
            "`contract`"
        )
    return contracts.load(path)


@dataclass(frozen=True)
class Run:
    """A study at the hub."""

    hub: Hub = field(repr=False)
    number: int
    study: str

    def status(self) -> Status:
        with self.hub._calls() as stub:
            return _status(_admitted(stub.Get(self._request(), timeout=60)))

    def statuses(self) -> Iterator[Status]:
        """Each change of state until the study has ended, across restarts of the hub."""
        import grpc

        while True:
            try:
                with self.hub._calls() as stub:
                    for reply in stub.Watch(self._request(), wait_for_ready=True):
                        status = _status(_admitted(reply))
                        yield status
                        if status.over:
                            return
            except errors.SetupError:
                _wait_until_ready(self.hub.channel, grpc)

    def watch(self, say: Callable[[str], Any] = print) -> Status:
        """Passes each change of state to `say`, until the study has ended."""
        last, status = "", None
        for status in self.statuses():
            if status.line() != last:
                last = status.line()
                say(last)
        assert status is not None
        return status

    def result(self) -> StudyResult:
        """The result of the study. RefusalError if there is none, or none yet."""
        with self.hub._calls() as stub:
            document = _admitted(stub.Result(self._request(), timeout=120)).document
            return StudyResult(limits.json_of(document, max_bytes=limits.MAX_RESULT))

    def cancel(self) -> Status:
        with self.hub._calls() as stub:
            return _status(_admitted(stub.Cancel(self._request(), timeout=60)))

    def _request(self) -> Any:
        from federation.rpc import hub_pb2

        return hub_pb2.StudyRequest(study=str(self.number))

    def _repr_html_(self) -> str:
        return self.status()._repr_html_()


def _wait_until_ready(channel: Any, grpc: Any) -> None:
    time.sleep(1)  # a hub whose database is away answers, so the channel alone would not wait
    try:
        grpc.channel_ready_future(channel).result(timeout=300)
    except grpc.FutureTimeoutError:
        raise errors.SetupError(
            "the hub has not answered for five minutes; ask its operator, then run `hdh study "
            "watch` again"
        ) from None


def _admitted(message: MessageT) -> MessageT:
    """The hub's answer, whose texts may be shown. LimitError if it breaks a limit."""
    limits.admit(message)
    return message


def _status(reply: Any) -> Status:
    submitted, deadline = _time(reply.submitted), _time(reply.deadline)
    assert submitted is not None and deadline is not None
    return Status(
        number=int(reply.number),
        study=reply.study,
        study_hash=reply.study_hash,
        coordinator=reply.coordinator,
        state=reply.state,
        reason=reply.reason,
        progress=reply.progress,
        submitted=submitted,
        deadline=deadline,
        started=_time(reply.started),
        finished=_time(reply.finished),
        nodes=_node_states(reply.nodes),
        rounds_done=int(reply.rounds_done),
        rounds_to_come=int(reply.rounds_to_come),
        seconds_left=float(reply.seconds_left),
    )


def _time(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _node_states(nodes: Any) -> list[NodeState]:
    return [
        NodeState(node.node, node.verdict, node.reason, node.online, int(node.people))
        for node in nodes
    ]
