"""A SuperLink that has lost its database is told of the hub's nodes again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aggregator import database, enrolment
from aggregator.flower import control
from federation import errors
from tests import hub_services


class Flower:
    """A SuperLink: the names of its nodes, by Flower's id. `lists`: how often it was asked."""

    def __init__(self) -> None:
        self.nodes, self.lists, self.is_up = dict[int, str](), 0, True

    def registered(self, _control: object) -> set[int]:
        if not self.is_up:
            raise errors.SetupError("Flower's control API does not answer")
        self.lists += 1
        return set(self.nodes)

    def register(self, _control: object, holder: Any, name: str) -> int:
        assert holder.public_key()
        self.nodes[1000 + len(self.nodes)] = name
        return max(self.nodes)


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> Flower:
    superlink = Flower()
    monkeypatch.setattr(control, "registered", superlink.registered)
    monkeypatch.setattr(control, "register", superlink.register)
    return superlink


def test_a_node_that_the_superlink_has_forgotten_is_registered_with_its_own_key(
    tmp_path: Path, flower: Flower
) -> None:
    with hub_services.running(tmp_path / "hub") as service:
        engine = service.scheduler.engine
        certificates = {}
        for number, name in enumerate(("lyon", "nice"), start=7):
            certificates[name] = service.enrol(name, "node")["certificate"].decode()
            database.set_flower_id(engine, name, number)
        flower.nodes = {8: "nice"}
        control: Any = SimpleNamespace()
        registrations = enrolment.Registrations(engine, control)

        def restore(name: str) -> int:
            party = database.party(engine, name)
            assert party is not None
            registrations.restore(party, certificates[name])
            after = database.party(engine, name)
            assert after is not None
            return after.flower_id

        flower.is_up = False
        assert restore("lyon") == 7  # it comes again
        flower.is_up = True
        assert restore("lyon") == 1001 and flower.nodes[1001] == "lyon"
        assert restore("nice") == 8
        lists = flower.lists
        assert [restore("nice") for _ in range(5)] == [8] * 5
        assert flower.lists == lists  # a node that is known costs no request
        assert restore("lyon") == 1001 and len(flower.nodes) == 2
