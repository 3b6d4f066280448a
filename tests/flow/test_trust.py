"""A hub, or an intruder in one, tries to make nodes do things
that their staff has not installed or allowed."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from flwr.cli.build import build_fab_from_disk

from aggregator import database, jobs
from aggregator.flower import control as flower_control
from aggregator.flower.control import Control
from federation import audit, errors
from federation.study import Study
from nodes import state_folder
from nodes.approvals import Approvals
from simulations import flower
from simulations.flower import Deployment
from tests import deployments
from tests.deployments import CONTRACT, study

NODES = ("brest", "lyon")
PYPROJECT = """[project]
name = "{name}"
version = "1.0.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "hdh"
[tool.flwr.app.components]
serverapp = "evil.server_app:app"
clientapp = "evil.client_app:app"
[tool.flwr.app.config]
directory = ""
job = ""
"""
CLIENT = """from pathlib import Path
Path({mark!r}).write_text("executed at import")
from flwr.clientapp import ClientApp
app = ClientApp()
@app.train()
def train(message, context):
    Path({mark!r}).write_text("executed")
"""
SERVER = """from pathlib import Path
import time
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    said = []
    for kind in ("query.round", "train", "query.shell"):
        content = RecordDict({{"hdh": ConfigRecord({{"bytes": b"x", "nonce": b"y"}})}})
        messages = [
            Message(content, dst_node_id=node, message_type=kind) for node in grid.get_node_ids()
        ]
        waiting = set(grid.push_messages(messages))
        until = time.time() + 20
        while waiting and time.time() < until:
            for message in grid.pull_messages(list(waiting)):
                waiting.discard(message.metadata.reply_to_message_id)
                error = message.error if message.has_error() else None
                said.append(f"{{error.code}} {{error.reason}}" if error else "answered")
            time.sleep(0.1)
    Path({said!r}).write_text("\\n".join(said))
"""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    sites = deployments.sites(tmp_path_factory.mktemp("data"), *NODES)
    with flower.deployed(
        sites, tmp_path_factory.mktemp("hub"), say=lambda _: None, round_timeout_s=20
    ) as running:
        yield running


@pytest.fixture
def control(deployment: Deployment) -> Iterator[Control]:
    """Whoever has the hub's token has this."""
    opened = Control(deployment.hub.file.admin, deployment.hub.pki / "ca.crt", deployment.hub.token)
    yield opened
    opened.client.close()


def refusals(deployment: Deployment, node: str) -> list[tuple[str, str]]:
    return [
        (entry.get("rule", ""), entry.get("why", ""))
        for entry in audit.entries(deployment.state(node) / state_folder.AUDIT)
        if entry["event"] == "refused"
    ]


@pytest.mark.parametrize("name", ["evil-bundle", "hdh-bundle"])  # a name proves nothing
def test_a_malicious_bundle_is_refused_logged_and_not_executed(
    name: str,
    deployment: Deployment,
    control: Control,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mark, output = tmp_path / "mark", tmp_path / "said"
    bundle = tmp_path / "bundle"
    (bundle / "evil").mkdir(parents=True)
    (bundle / "pyproject.toml").write_text(PYPROJECT.format(name=name))
    (bundle / "evil" / "__init__.py").write_text("")
    (bundle / "evil" / "client_app.py").write_text(CLIENT.format(mark=str(mark)))
    (bundle / "evil" / "server_app.py").write_text(SERVER.format(said=str(output)))
    (tmp_path / "evil.fab").write_bytes(build_fab_from_disk(bundle))
    monkeypatch.setattr(flower_control, "BUNDLE", tmp_path / "evil.fab")
    before = {node: len(refusals(deployment, node)) for node in NODES}
    flower_control.start(control, tmp_path, "none")
    deployments.wait(lambda: output.exists() and len(output.read_text().splitlines()) == 6, 60)
    assert (
        output.read_text().splitlines()
        == ["100 this node does not take part in runs of an unknown bundle"] * 6
    )
    assert not mark.exists()
    for node in NODES:  # a message that a busy hub delivers again is refused again
        refused = refusals(deployment, node)[before[node] :]
        assert len(refused) >= 3
        assert set(refused) == {("bundle", "this version does not know the run's bundle")}


def run_job(
    deployment: Deployment, control: Control, asked: Study, name: str, run: str = ""
) -> dict[str, object]:
    """The thin bundle with a study that nobody submitted: what the hub's own process makes of it.
    `run`: digest of a ticket that a coordinator has signed."""
    parties = database.enrolled(deployment.engine, "node")
    job = jobs.Job(
        asked,
        CONTRACT,
        {party.flower_id: party.name for party in parties},
        {party.name: party.identity for party in parties},
        10,
        20,
        run=run,
    )
    jobs.write(deployment.hub.jobs, name, job)
    flower_control.start(control, deployment.hub.jobs, name)
    result = deployments.wait(lambda: jobs.read_result(deployment.hub.jobs, name), 60)
    assert isinstance(result, dict)
    return result


def test_a_study_that_no_coordinator_signed_is_refused_at_every_node(
    deployment: Deployment, control: Control
) -> None:
    """Also one that borrows an enrolled coordinator's name."""
    for coordinator in ("nobody", flower.COORDINATOR):
        result = run_job(
            deployment,
            control,
            study("unsigned", coordinator=coordinator),
            f"unsigned-{coordinator}",
        )
        text = json.dumps(result)
        assert (
            "was never proposed here under its coordinator's signature" in text
            and '"released"' not in text
        )
    for node in NODES:
        last = [
            entry
            for entry in audit.entries(deployment.state(node) / state_folder.AUDIT)
            if entry.get("study") == "unsigned"
        ]
        assert [entry["event"] for entry in last] == ["refused", "refused"] and last[0][
            "refused"
        ] == {"d": "approval"}


def test_an_approved_study_that_was_edited_is_another_one(
    deployment: Deployment, control: Control
) -> None:
    with deployment.connect() as hub:
        assert hub.submit(study("edited"), CONTRACT).watch(lambda _: None).state == "complete"
    (signed,) = [
        proposed.run
        for proposed in Approvals(deployment.state("lyon") / "approvals.sqlite").all()
        if proposed.study == "edited"
    ]
    edited = study("edited", question="more?", coordinator=flower.COORDINATOR)
    result = run_job(deployment, control, edited, "edited", signed)
    assert "was never proposed here" in json.dumps(result)
    same = study("edited", coordinator=flower.COORDINATOR)
    again = run_job(deployment, control, same, "not-edited", signed)
    # The same study, by the same way, was proposed and approved; its run is over.
    assert "this run has ended" in json.dumps(again)


def test_an_unknown_version_of_an_analysis_is_refused_by_hub_and_node(
    deployment: Deployment, control: Control
) -> None:
    later = study("later", {"d": {"run": "describe", "version": 2, "columns": ["ill"]}})
    with (
        deployment.connect() as hub,
        pytest.raises(errors.StudyError, match="describe has version 1 here"),
    ):
        hub.submit(later, CONTRACT)
    deployments.set_policy(deployment, "lyon", analyses=["describe"])
    from nodes import service
    from nodes import site as sites

    site = sites.load(deployment.home("lyon") / "node.yaml")
    refused = service.admit_study(later, CONTRACT, 2, site, flower.datetime.now(flower.UTC))
    assert (
        refused is not None
        and refused.rule == "analysis"
        and "has not installed describe version 2" in str(refused)
    )


def test_a_coordinator_whose_key_is_not_the_pinned_one_is_refused(deployment: Deployment) -> None:
    """The hub can certify anyone under any name; a producer who knows the key can tell."""
    deployments.set_policy(deployment, "lyon", coordinator_keys={flower.COORDINATOR: "0" * 64})
    deployments.restart(deployment, "lyon")
    try:
        with deployment.connect() as hub:
            run = hub.submit(study("pinned"), CONTRACT)
            status = run.watch(lambda _: None)
            assert (
                status.state == "refused"
                and "lyon: it is not signed by its coordinator with the key known here"
                in status.reason
            )
    finally:
        deployments.set_policy(deployment, "lyon", coordinator_keys={})
        deployments.restart(deployment, "lyon")


def test_the_control_port_asks_for_the_token(deployment: Deployment, control: Control) -> None:
    strange = Control(control.admin, control.authority, "not the token")
    for call in (
        lambda: flower_control.online(strange),
        lambda: flower_control.start(strange, Path(), "x"),
    ):
        with pytest.raises(errors.SetupError, match="401"):
            call()
    strange.client.close()
    # a node that is late to say so is still online
    assert deployments.wait(lambda: len(flower_control.online(control)) == 2)
    assert deployment.hub.file.admin.startswith("127.0.0.1:")
    with httpx.Client(verify=ssl.create_default_context(cafile=str(control.authority))) as client:
        assert client.post(f"https://{control.admin}/v1/control/list-runs").status_code in (
            400,
            401,
            415,
        )
