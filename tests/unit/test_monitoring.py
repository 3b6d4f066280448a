"""The dashboard and the alerts ask for numbers that hub and nodes give, and can be loaded."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from aggregator import database, metrics, settings
from aggregator.scheduler import Scheduler
from nodes import daemon

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
KINDS = {"row", "stat", "timeseries"}  # of Grafana's own panels
METRIC = re.compile(r"\bhdh_\w+")


def of_node() -> str:
    connection = {"line": "open", "skew_s": 0.2, "rolled_back": False}
    lines = daemon.metrics_lines(
        connection, ["waiting", "approved", "waiting"], 90.0, {"email": True}, 1e9
    )
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def of_hub(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("hub") / "hub"
    hub = settings.init(folder, ["localhost"], 8443, None, "127.0.0.1")
    engine = database.open_registry(hub.database)
    connections = SimpleNamespace(online=lambda: {"lyon": time.time()})
    scheduler = SimpleNamespace(engine=engine, hub=hub, connections=connections)
    with engine.begin() as connection:
        values: dict[str, Any] = dict.fromkeys(database.parties.c.keys(), "")
        values |= {"name": "lyon", "role": "node", "flower_id": "1", "former_flower_ids": "[]"}
        values |= {"holdings": "{}", "enrolled": 1.0, "revoked": None, "seen": None}
        connection.execute(database.parties.insert().values(**values))
    registry = CollectorRegistry()
    notifier = SimpleNamespace(failing={"webhook": False})
    registry.register(metrics.Numbers(cast(Scheduler, scheduler), cast(Any, notifier)))
    return generate_latest(registry).decode()


def names(text: str) -> set[str]:
    return {
        sample.name for family in text_string_to_metric_families(text) for sample in family.samples
    }


def test_a_node_writes_what_prometheus_reads() -> None:
    families = {family.name: family for family in text_string_to_metric_families(of_node())}
    (waiting,) = families["hdh_node_studies_waiting"].samples
    assert waiting.value == 2 and families["hdh_node_studies_waiting"].type == "gauge"
    (failing,) = families["hdh_node_notices_failing"].samples
    assert failing.labels == {"channel": "email"} and failing.value == 1


def expressions() -> list[str]:
    panels = [
        target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])
    ]
    return [*panels, *(rule["expr"] for rule in RULES)]


def test_every_number_that_is_asked_for_is_given_and_every_one_is_shown(of_hub: str) -> None:
    given = names(of_hub) | names(of_node())
    asked = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert asked <= given, asked - given
    assert {name for name in given if name.startswith("hdh_")} == asked


def test_the_dashboard_can_be_loaded() -> None:
    panels = DASHBOARD["panels"]
    assert DASHBOARD["schemaVersion"] >= 36 and DASHBOARD["uid"] and "id" not in DASHBOARD
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["type"] for panel in panels} <= KINDS
    (variable,) = DASHBOARD["templating"]["list"]
    source = {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24 and panel["title"]
        for target in panel.get("targets", []):
            assert target["datasource"] == source == panel["datasource"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells), "two panels lie on each other"


def test_every_alert_says_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert (
            set(rule) <= {"alert", "expr", "for", "annotations"} and rule["annotations"]["summary"]
        )
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_rules() -> None:
    command = ["promtool", "check", "rules", str(FOLDER / "alerts.yaml")]
    subprocess.run(command, check=True, capture_output=True)
