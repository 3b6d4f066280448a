"""What a node announces when it connects: each node decides for itself alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from aggregator import api, database
from federation import audit
from federation.client import Hub
from federation.rpc import hub_pb2
from tests.deployments import CONTRACT

READABLE = hub_pb2.Holding(
    dataset=CONTRACT.dataset, contract_hash=CONTRACT.hash, people=7, contract=CONTRACT.canonical()
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine_ = database.open_registry(f"sqlite:///{tmp_path / 'hub.sqlite'}", new=True)
    for name in ("lyon", "nice"):
        database.enrol(engine_, name, "node", name, "ab", 7, "0.1", 1.0)
    yield engine_
    engine_.dispose()


def greet(engine: sa.Engine, node: str, *holdings: hub_pb2.Holding) -> None:
    scheduler: Any = SimpleNamespace(engine=engine)
    api.Nodes(scheduler, SimpleNamespace())._greet(  # type: ignore[arg-type]
        node, hub_pb2.Hello(version="1", holdings=holdings)
    )


def announced(**changes: str) -> hub_pb2.Holding:
    holding = hub_pb2.Holding()
    holding.CopyFrom(READABLE)
    for name, value in changes.items():
        setattr(holding, name, value)
    return holding


OTHER = CONTRACT.model_copy(update={"unit": "stay"})


@pytest.mark.parametrize(
    "unreadable",
    [
        announced(contract="no JSON"),
        announced(contract="[" * 1000),
        announced(contract="{}"),
        announced(contract=json.dumps({**json.loads(CONTRACT.canonical()), "newer": 1})),
        announced(contract=OTHER.canonical()),
        announced(dataset="another"),
    ],
    ids=["no JSON", "deep", "empty", "of a newer version", "of another hash", "of another name"],
)
def test_a_contract_that_cannot_be_read_is_left_out_and_the_other_nodes_are_offered(
    unreadable: hub_pb2.Holding, engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    other = announced(dataset="x", contract="")  # a node of an earlier version
    greet(engine, "lyon", unreadable, other)
    greet(engine, "nice", READABLE)
    lyon, nice = database.dataset_holders(engine, "node")
    assert list(lyon.holdings) == ["x"] and nice.holds(CONTRACT)
    assert "node lyon: its contract" in caplog.text


def test_a_coordinator_reads_the_contracts_that_can_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a hub of an earlier version, which stores them unread."""
    fields = {"node": "lyon", "people": 7, "online": True, "dataset": CONTRACT.dataset}
    texts = [CONTRACT.canonical(), "", "{}", "[" * 1000]
    held = [hub_pb2.HeldDataset(contract=text, **fields) for text in texts]
    hub: Any = object.__new__(Hub)

    class Calls:
        def __enter__(self) -> Any:
            reply = hub_pb2.DatasetsReply(datasets=held)
            return SimpleNamespace(Datasets=lambda request, timeout: reply)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(Hub, "_calls", lambda self: Calls())
    assert [holding.contract for holding in hub.datasets()] == [CONTRACT]


def test_the_hub_keeps_the_last_entry_of_a_nodes_audit_log_once_a_day(
    tmp_path: Path, engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    hub = SimpleNamespace(audit=tmp_path / "audit.jsonl")
    scheduler: Any = SimpleNamespace(engine=engine, hub=hub)
    nodes = api.Nodes(scheduler, SimpleNamespace())  # type: ignore[arg-type]

    def greet_with(seq: int) -> list[tuple[object, object]]:
        """What the hub has written down so far."""
        digest = f"{seq:064d}" if seq else ""
        nodes._greet("lyon", hub_pb2.Hello(version="1", audit_seq=seq, audit_hash=digest))
        entries = audit.entries(hub.audit)
        return [(entry["entry"], entry["sha256"]) for entry in entries]

    assert greet_with(0) == []  # a node of an earlier version
    assert greet_with(7) == greet_with(9) == [(7, f"{7:064d}")]
    assert not caplog.records
    assert greet_with(8) == [(7, f"{7:064d}"), (8, f"{8:064d}")]
    assert "node lyon: its audit log has lost entries: it had 9, and has 8" in caplog.text
    nodes = api.Nodes(scheduler, SimpleNamespace())  # type: ignore[arg-type]  # the hub restarts
    assert greet_with(5)[2:] == [(5, f"{5:064d}")]
    assert "node lyon: its audit log has lost entries: it had 8, and has 5" in caplog.text
