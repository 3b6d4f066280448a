"""A coordinator's client of the hub, for notebooks and for `hdh study`.

from federation.client import connect

hub = connect()
run = hub.submit("study.yaml")
run.watch()
run.result().table("coefficients")
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from federation import contract as contracts
from federation import credentials, errors
from federation import study as studies
from federation.contract import Contract
from federation.credentials import Credentials
from federation.study import Study

if TYPE_CHECKING:
    import pandas

OVER = ("complete", "partial", "failed", "refused", "cancelled")
LOCAL = "local"  # a study's coordinator, where it names none


def home() -> Path:
    """Where a coordinator's keys lie: the folder HDH_HOME, or ~/.hdh."""
    return Path(os.environ.get("HDH_HOME") or Path.home() / ".hdh")


def connect(folder: Path | str | None = None) -> Hub:
    """The hub at which this folder is enrolled. SetupError if it is not: `hdh study enrol` first."""
    own = credentials.load(Path(folder) if folder is not None else home())
    if own.role == "node":
        raise errors.SetupError(
            f"{own.folder}: this is a node's enrolment; studies are submitted by coordinators"
        )
    return Hub(own, credentials.channel(own))


@dataclass(frozen=True)
class NodeState:
    node: str
    verdict: str
    reason: str
    online: bool
    people: int


@dataclass(frozen=True)
class Status:
    """How a study is. `state`: waiting, running, complete, partial, failed, refused, cancelled."""

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

    @property
    def over(self) -> bool:
        return self.state in OVER

    def line(self) -> str:
        """In one line: what is awaited, or what came of it."""
        if self.state == "waiting":
            open_ = [
                one.node + ("" if one.online else " (offline)")
                for one in self.nodes
                if one.verdict in ("asked", "waiting")
            ]
            return (
                f"waiting for {', '.join(open_)}"
                if open_
                else f"about to start{f': {self.reason}' if self.reason else ''}"
            )
        return f"{self.state}{f': {self.progress or self.reason}' if self.progress or self.reason else ''}"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(one.node)}</td><td>{escape(one.verdict)}</td><td>{escape(one.reason)}</td></tr>"
            for one in self.nodes
        )
        return f"<p><b>{escape(self.study)}</b> (number {self.number}): {escape(self.line())}</p><table><tr><th>node</th><th>says</th><th></th></tr>{rows}</table>"


@dataclass(frozen=True)
class Hub:
    own: Credentials
    channel: Any = field(repr=False)

    def submit(
        self,
        study: Study | Path | str,
        contract: Contract | Path | str | None = None,
        *,
        deadline_s: float = 0.0,
        nodes: Sequence[str] = (),
    ) -> Run:
        """Asks the nodes. `contract`: DATASET.yaml beside the study, if it is not given. `deadline_s`: how long approvals are
        waited for (0: as long as the hub says)."""
        with self._calls() as stub:
            found = stub.Submit(self._request(study, contract, deadline_s, nodes), timeout=60)
        return Run(self, int(found.number), found.study)

    def plan(
        self,
        study: Study | Path | str,
        contract: Contract | Path | str | None = None,
        *,
        nodes: Sequence[str] = (),
    ) -> Sequence[NodeState]:
        """What each node would say to the study; nothing runs."""
        with self._calls() as stub:
            return _node_states(
                stub.Plan(self._request(study, contract, 0.0, nodes), timeout=60).nodes
            )

    def list(self, most: int = 50) -> Sequence[Status]:
        """Newest first: a coordinator's own, an operator's all."""
        from federation.rpc import hub_pb2

        with self._calls() as stub:
            return [
                _status(one)
                for one in stub.List(hub_pb2.ListRequest(most=most), timeout=60).studies
            ]

    def run(self, study: str | int) -> Run:
        """By number, hash or name."""
        from federation.rpc import hub_pb2

        with self._calls() as stub:
            found = stub.Get(hub_pb2.StudyRequest(study=str(study)), timeout=60)
        return Run(self, int(found.number), found.study)

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

    def _request(
        self,
        study: Study | Path | str,
        contract: Contract | Path | str | None,
        deadline_s: float,
        nodes: Sequence[str],
    ) -> Any:
        from federation.rpc import hub_pb2

        made, agreed = self._made(study, contract)
        signature = credentials.sign_study(self.own.key, made.hash)
        return hub_pb2.SubmitRequest(
            study=made.model_dump_json(),
            contract=agreed.canonical(),
            signature=signature,
            deadline_s=deadline_s,
            nodes=nodes,
        )

    def _made(
        self, study: Study | Path | str, contract: Contract | Path | str | None
    ) -> tuple[Study, Contract]:
        """The study under this coordinator's name."""
        if isinstance(study, Study):
            made, beside = study, None
        else:
            made, beside = studies.load(Path(study))[0], Path(study).parent
        if not isinstance(contract, Contract):
            path = (
                Path(contract)
                if contract is not None
                else beside / f"{made.dataset}.yaml"
                if beside is not None
                else None
            )
            if path is None or not path.exists():
                raise errors.StudyError(
                    f"study {made.study}: no contract {path or made.dataset + '.yaml'} for dataset {made.dataset!r}; give `contract`"
                )
            contract = contracts.load(path)
        return (
            made.model_copy(update={"coordinator": self.own.name})
            if made.coordinator == LOCAL
            else made
        ), contract

    @contextmanager
    def _calls(self) -> Iterator[Any]:
        import grpc

        from federation.rpc import hub_pb2_grpc

        try:
            yield hub_pb2_grpc.CoordinationStub(self.channel)
        except grpc.RpcError as error:
            raise credentials.hub_error(error, self.own.api) from None


@dataclass(frozen=True)
class Run:
    """A study at the hub."""

    hub: Hub = field(repr=False)
    number: int
    study: str

    def status(self) -> Status:
        with self.hub._calls() as stub:
            return _status(stub.Get(self._request(), timeout=60))

    def statuses(self) -> Iterator[Status]:
        """Each change, until the study is over. A hub that goes away meanwhile is waited for."""
        import grpc

        while True:
            try:
                with self.hub._calls() as stub:
                    for found in stub.Watch(self._request(), wait_for_ready=True):
                        status = _status(found)
                        yield status
                        if status.over:
                            return
            except errors.SetupError:
                _ready(self.hub.channel, grpc)

    def watch(self, say: Callable[[str], Any] = print) -> Status:
        """Says each change, until the study is over."""
        said, status = "", None
        for status in self.statuses():
            if status.line() != said:
                said = status.line()
                say(said)
        assert status is not None
        return status

    def result(self) -> StudyResult:
        """RefusalError if there is none (yet)."""
        with self.hub._calls() as stub:
            return StudyResult(json.loads(stub.Result(self._request(), timeout=120).document))

    def cancel(self) -> Status:
        with self.hub._calls() as stub:
            return _status(stub.Cancel(self._request(), timeout=60))

    def _request(self) -> Any:
        from federation.rpc import hub_pb2

        return hub_pb2.StudyRequest(study=str(self.number))

    def _repr_html_(self) -> str:
        return self.status()._repr_html_()


def _ready(channel: Any, grpc: Any) -> None:
    time.sleep(1)  # also where the hub is there, and its database is not
    try:
        grpc.channel_ready_future(channel).result(timeout=300)
    except grpc.FutureTimeoutError:
        raise errors.SetupError(
            "the hub has been away for five minutes; ask its operator, and look again with `hdh study watch`"
        ) from None


@dataclass(frozen=True)
class StudyResult:
    """result.json, with its tables at hand."""

    document: dict[str, Any] = field(repr=False)

    @property
    def tables(self) -> dict[str, list[str]]:
        """The names of the tables, by analysis."""
        return {name: list(found["tables"]) for name, found in self.document["analyses"].items()}

    def table(
        self, name: str, analysis: str | None = None, frame: Literal["pandas", "polars"] = "pandas"
    ) -> Any:
        """A table as a data frame; `analysis` where several have one of that name."""
        having = [
            one for one, tables in self.tables.items() if name in tables and analysis in (None, one)
        ]
        if len(having) != 1:
            known = "; ".join(
                f"{one}: {', '.join(tables) or 'none'}" for one, tables in self.tables.items()
            )
            raise errors.InputError(
                f"{'no' if not having else 'more than one'} table {name!r}{f' of {analysis}' if analysis else ''}; there are {known}"
            )
        rows = self.document["analyses"][having[0]]["tables"][name]
        if frame == "polars":
            import polars

            return polars.DataFrame(rows)
        import pandas

        return pandas.DataFrame(rows)

    def save(self, path: Path | str) -> None:
        Path(path).write_text(
            json.dumps(self.document, indent=2, ensure_ascii=False), encoding="utf-8"
        )

    def _repr_html_(self) -> str:
        parts = [f"<h3>{escape(self.document['title'])}</h3>"]
        for analysis, tables in self.tables.items():
            for name in tables:
                made: pandas.DataFrame = self.table(name, analysis)
                parts.append(
                    f"<h4>{escape(analysis)}: {escape(name)}</h4>{made.head(20).to_html(index=False)}"
                )
        return "".join(parts)


def _status(found: Any) -> Status:
    at = [
        datetime.fromtimestamp(value, UTC) if value else None
        for value in (found.submitted, found.deadline, found.started, found.finished)
    ]
    assert at[0] is not None and at[1] is not None
    return Status(
        int(found.number), found.study, found.study_hash, found.coordinator, found.state, found.reason, found.progress, at[0], at[1], at[2], at[3],
        _node_states(found.nodes),
    )  # fmt: skip


def _node_states(found: Any) -> list[NodeState]:
    return [
        NodeState(one.node, one.verdict, one.reason, one.online, int(one.people)) for one in found
    ]
