"""Real processes that are killed, disconnected,
out of disk or misconfigured in the middle of real studies."""

from __future__ import annotations

import json
import resource
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from aggregator import pki
from federation import addresses, audit, client, credentials
from federation.study import Study
from nodes import backups, ledger, state_folder
from simulations import flower
from simulations.flower import Deployment
from tests import deployments
from tests.deployments import CONTRACT, study

NODES = ("brest", "lyon", "nice")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    sites = deployments.sites(tmp_path_factory.mktemp("data"), *NODES)
    with flower.deployed(
        sites, tmp_path_factory.mktemp("hub"), say=lambda _: None, round_timeout_s=10
    ) as running:
        yield running


def private(name: str) -> Study:
    return study(
        name,
        deployments.PRIVATE,
        privacy={"mode": "dp", "epsilon": 10},
        coordinator=flower.COORDINATOR,
    )


def charges(deployment: Deployment, node: str, asked: Study) -> list[ledger.Entry]:
    return [
        entry
        for entry in ledger.history(state_folder.open_ledger(deployment.state(node)))
        if entry.kind == "charge" and entry.study == asked.hash
    ]


def at_round(run: client.Run, number: int) -> None:
    deployments.wait(lambda: int((run.status().progress or "0").split()[0]) >= number, 60)


def test_a_hub_killed_mid_round_resumes_the_study_and_nobody_pays_twice(
    deployment: Deployment,
) -> None:
    asked = private("killed-hub")
    flower.grant(deployment, asked, CONTRACT)
    with deployment.connect() as hub:
        run = hub.submit(asked, CONTRACT)
        at_round(run, 2)
        deployment.kill("hub")
        assert any(charges(deployment, node, asked) for node in NODES)
    # the SuperLink and its executor died with it
    deployments.wait(lambda: not _children_of(deployment))
    deployment.start_hub()
    with deployment.connect() as hub:
        status = client.Run(hub, run.number, run.study).watch(lambda _: None)
        assert status.state == "complete", status.reason
        document = client.Run(hub, run.number, run.study).result().document
    for node in NODES:
        paid = charges(deployment, node, asked)
        assert (
            len({entry.release for entry in paid})
            == len(paid)
            == document["analyses"]["m"]["rounds"]
        )
        assert sum(entry.cost.rho for entry in paid) <= asked.privacy.rho
        ledger.verify(state_folder.open_ledger(deployment.state(node)))
    assert [
        entry["event"]
        for entry in audit.entries(deployment.hub.audit)
        if entry.get("number") == run.number
    ].count("started") == 2
    audit.verify(deployment.hub.audit)


@contextmanager
def round_timeout(deployment: Deployment, seconds: float) -> Iterator[None]:
    """The hub waits so long for a node in a round; in the other tests, for as long as before."""
    path = deployment.hub.folder / "hub.yaml"
    former = path.read_text()
    values = yaml.safe_load(former) | {"round_timeout_s": seconds}
    try:
        restart_hub(deployment, yaml.safe_dump(values))
        yield
    finally:
        restart_hub(deployment, former)


def restart_hub(deployment: Deployment, configuration: str) -> None:
    deployment.processes["hub"].terminate()
    deployment.processes["hub"].wait(30)
    (deployment.hub.folder / "hub.yaml").write_text(configuration)
    deployment.start_hub()
    deployment.wait_until_online(list(NODES))


def _children_of(deployment: Deployment) -> list[str]:
    listing = subprocess.run(
        [
            "pgrep",
            "-f",
            "aggregator.flower.superlink"
            f" {deployment.hub.folder}|aggregator.flower.executor {deployment.hub.folder}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return listing.stdout.split()


@pytest.mark.slow
def test_a_node_that_starts_before_its_hub_waits_for_it(deployment: Deployment) -> None:
    """And is the same process when the hub comes."""
    deployment.processes["hub"].terminate()
    deployment.processes["hub"].wait(30)
    deployment.processes["nice"].terminate()
    deployment.processes["nice"].wait(20)
    deployment.start_node("nice")
    deployments.wait(
        lambda: deployments.log(deployment, "nice").count("no connection to the SuperLink") >= 2
    )
    time.sleep(6)  # Flower's own exit comes five seconds after it has failed
    assert deployment.processes["nice"].poll() is None
    deployment.start_hub()
    deployment.wait_until_online(list(NODES))


@pytest.mark.slow
def test_a_superlink_that_dies_alone_is_started_again_and_the_study_goes_on(
    deployment: Deployment,
) -> None:
    """It needs seconds of processor time to start, which a busy machine gives in a minute."""
    with round_timeout(deployment, 120), deployment.connect() as hub:
        run = hub.submit(study("superlink", deployments.LONG), CONTRACT)
        at_round(run, 3)
        subprocess.run(
            ["pkill", "-9", "-f", f"aggregator.flower.superlink {deployment.hub.folder}"],
            check=True,
        )
        status = run.watch(lambda _: None)
        assert status.state == "complete", status.reason
        assert run.result().document["analyses"]["f"]["status"] == "released"


def test_a_node_killed_mid_round_is_left_out_and_back_for_the_next_study(
    deployment: Deployment,
) -> None:
    with deployment.connect() as hub:
        shorter = {"f": {**deployments.LONG["f"], "rounds": 25}}  # it is waited for to the end
        run = hub.submit(study("killed-node", shorter), CONTRACT)
        at_round(run, 2)
        deployment.kill("lyon")
        assert run.watch(lambda _: None).state == "complete"
        statuses = {
            node["node"]: node["status"] for node in run.result().document["analyses"]["f"]["nodes"]
        }
        assert statuses == {"brest": "answered", "lyon": "silent", "nice": "answered"}
        # at once: the session that it left is signed off, not waited for
        deployment.start_node("lyon")
        deployment.wait_until_online(["lyon"], 15)
        again = hub.submit(study("it-is-back"), CONTRACT)
        assert again.watch(lambda _: None).state == "complete"
        assert {node["status"] for node in again.result().document["analyses"]["d"]["nodes"]} == {
            "answered"
        }
    audit.verify(deployment.state("lyon") / state_folder.AUDIT)


class Cable:
    """A port in front of another, which can be cut: open connections end, new ones are refused."""

    def __init__(self, to: str) -> None:
        self.to, self.whole, self.open = addresses.split(to), True, list[socket.socket]()
        self.door = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def address(self) -> str:
        return f"localhost:{self.door.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                near = self.door.accept()[0]
            except OSError:
                return
            if not self.whole:
                near.close()
                continue
            far = socket.create_connection(self.to)
            self.open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                sink.sendall(content)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self.whole = False
        for connection in self.open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self.open.clear()


@pytest.mark.slow
def test_a_node_that_hangs_in_the_middle_of_its_upload_holds_up_no_other(
    deployment: Deployment,
) -> None:
    """Flower alone would wait three minutes for the rest of its reply,
    and for the others' behind it."""
    deployments.restart_stuck(deployment, "brest")
    try:
        started = time.monotonic()
        with deployment.connect() as hub:
            run = hub.submit(study("stuck"), CONTRACT, deadline_s=30)
            assert run.watch(lambda _: None).state == "complete"
            statuses = {
                node["node"]: node["status"]
                for node in run.result().document["analyses"]["d"]["nodes"]
            }
        assert statuses == {"brest": "silent", "lyon": "answered", "nice": "answered"}
        # the round's ten seconds, and what starts and ends a study beside other work
        assert time.monotonic() - started < 90
    finally:
        deployment.kill("brest")
        deployments.restart(deployment, "brest")


@pytest.mark.slow
def test_a_node_killed_in_the_middle_of_its_upload_is_not_waited_for_once_it_is_back(
    deployment: Deployment,
) -> None:
    mark = deployments.restart_stuck(deployment, "brest")
    with deployment.connect() as hub:
        run = hub.submit(study("killed-upload"), CONTRACT, deadline_s=30)
        deployments.wait(mark.exists)
        deployment.kill("brest")
        deployments.restart(deployment, "brest")
        assert run.watch(lambda _: None).state == "complete"
        assert (
            "brest: it stopped during the upload of its reply"
            in run.result().document["provenance"]["notes"]
        )


@pytest.mark.slow
def test_a_cut_network_leaves_the_node_out_and_it_comes_back_by_itself(
    deployment: Deployment,
) -> None:
    cables = {which: Cable(deployment.hub.public_address(which)) for which in ("api", "fleet")}
    path = deployment.state("nice") / state_folder.HUB / "hub.json"
    before = path.read_text()
    path.write_text(
        json.dumps(
            {**json.loads(before), **{which: cable.address for which, cable in cables.items()}}
        )
    )
    deployments.restart(deployment, "nice")
    try:
        with deployment.connect() as hub:
            run = hub.submit(study("cut", deployments.LONG), CONTRACT)
            at_round(run, 2)
            for cable in cables.values():
                cable.cut()
            assert run.watch(lambda _: None).state == "complete"
            statuses = {
                node["node"]: node["status"]
                for node in run.result().document["analyses"]["f"]["nodes"]
            }
            assert statuses["nice"] == "silent" and statuses["brest"] == "answered"
            assert "cannot be reached" in deployments.log(deployment, "nice")
            for cable in cables.values():
                cable.whole = True
            again = hub.submit(study("healed"), CONTRACT, deadline_s=120)
            assert again.watch(lambda _: None).state == "complete"
            assert {
                node["status"] for node in again.result().document["analyses"]["d"]["nodes"]
            } == {"answered"}
    finally:
        path.write_text(before)
        deployments.restart(deployment, "nice")
        for cable in cables.values():
            cable.door.close()


@pytest.mark.slow
def test_a_full_disk_at_the_ledger_answers_nothing_and_costs_nothing(
    deployment: Deployment,
) -> None:
    """The kernel lets the process write no file beyond its present length,
    as a full disk would not."""
    asked = private("full-disk")
    flower.grant(deployment, asked, CONTRACT)
    state = deployment.state("brest")
    pid = deployment.processes["brest"].pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        with deployment.connect() as hub:
            run = hub.submit(asked, CONTRACT, deadline_s=5)
            status = run.watch(lambda _: None)
            assert status.state == "complete", status.reason
            statuses = {
                node["node"]: node["status"]
                for node in run.result().document["analyses"]["m"]["nodes"]
            }
            assert statuses.get("brest") in (None, "refused", "silent")
    finally:
        resource.prlimit(
            pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
    deployments.wait(lambda: "cannot be" in deployments.log(deployment, "brest"))
    assert (
        deployment.processes["brest"].poll() is None
    )  # it is still there, and well when the disk is
    with deployment.connect() as hub:
        again = hub.submit(study("room-again"), CONTRACT, deadline_s=60)
        assert again.watch(lambda _: None).state == "complete"
        assert {node["status"] for node in again.result().document["analyses"]["d"]["nodes"]} == {
            "answered"
        }
    assert not charges(deployment, "brest", asked)
    ledger.verify(state_folder.open_ledger(state))
    audit.verify(state / state_folder.AUDIT)


FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("offset", "message"),
    [("+3600s", "3600 s ahead of the hub's"), ("-3600s", "3600 s behind the hub's")],
)
def test_a_clock_that_is_an_hour_wrong_is_told_and_does_no_harm(
    deployment: Deployment, offset: str, message: str
) -> None:
    if not Path(FAKETIME).exists():
        subprocess.run(
            ["sh", "-c", "apt-get update -qq && apt-get install -y -qq faketime"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    deployment.processes["nice"].terminate()
    deployment.processes["nice"].wait(20)
    deployment.start_node(
        "nice", LD_PRELOAD=FAKETIME, FAKETIME=offset, FAKETIME_DONT_FAKE_MONOTONIC="1"
    )
    try:
        deployments.wait(lambda: message in deployments.log(deployment, "nice"))
        with deployment.connect() as hub:
            run = hub.submit(
                study(f"clock{offset[0]}".replace("+", "-fast").replace("--", "-slow-")), CONTRACT
            )
            assert run.watch(lambda _: None).state == "complete"
            assert {
                node["node"]
                for node in run.result().document["analyses"]["d"]["nodes"]
                if node["status"] == "answered"
            } >= {"brest", "lyon"}
    finally:
        deployments.restart(deployment, "nice")


def test_an_expired_certificate_is_refused_and_named(deployment: Deployment) -> None:
    folder = deployment.state("nice") / state_folder.HUB
    before = (folder / "own.crt").read_bytes()
    csr = credentials.request(credentials.private_key((folder / "own.key").read_bytes()))
    (folder / "own.crt").write_text(pki.certify(deployment.hub.pki, csr, "nice", "node", days=-0.5))  # type: ignore[arg-type]
    deployment.processes["nice"].terminate()
    deployment.processes["nice"].wait(20)
    deployment.start_node("nice")
    try:
        deployments.wait(
            lambda: "this node's certificate has expired" in deployments.log(deployment, "nice")
        )
        assert not deployment.is_online("nice")
    finally:
        (folder / "own.crt").write_bytes(before)
        deployments.restart(deployment, "nice")


def test_a_replayed_reply_is_not_taken_for_a_new_one() -> None:
    """What a node signed for one query does not count for another,
    nor for another run of the same one."""
    from federation import receipts
    from federation.receipts import Asked
    from federation.secagg import keys

    identity = bytes(range(32))

    def content_for(nonce: bytes) -> bytes:
        asked = Asked("run", receipts.digest(nonce + b"query"), 1, "", "")
        return receipts.reply_content(asked, receipts.digest(b"reply"))

    content = content_for(b"nonce-1")
    signature = keys.sign(identity, content)
    assert keys.is_signed(keys.public_identity(identity), signature, content)
    again = content_for(b"nonce-2")
    assert not keys.is_signed(keys.public_identity(identity), signature, again)


def test_a_replayed_request_of_a_node_is_refused_by_the_edge(deployment: Deployment) -> None:
    """Without the key nothing can be signed for now, so the request is refused by its headers,
    before anybody reads in whose name it is."""
    import httpx
    from flwr.proto.fleet_pb2 import PushMessagesRequest

    request = PushMessagesRequest()
    request.node.node_id = 5
    request.messages_list.add().metadata.src_node_id = 6
    context = ssl.create_default_context(cafile=str(deployment.hub.pki / "ca.crt"))
    with httpx.Client(verify=context) as http:
        answer = http.post(
            f"https://{deployment.public}/v1/fleet/push-messages",
            content=request.SerializeToString(),
        )
    assert answer.status_code == 401


@pytest.mark.slow
def test_an_older_state_put_back_is_told_and_nothing_is_answered_from_it(
    deployment: Deployment, tmp_path: Path
) -> None:
    """Until the newest copy is there."""
    state, configuration = deployment.state("lyon"), deployment.home("lyon") / "node.yaml"
    backups.write(state, tmp_path / "backup.tar.gz", configuration)
    asked = private("after-the-backup")
    flower.grant(deployment, asked, CONTRACT)
    with deployment.connect() as hub:
        assert hub.submit(asked, CONTRACT).watch(lambda _: None).state == "complete"
        assert charges(deployment, "lyon", asked)
        backups.write(state, tmp_path / "newest.tar.gz", configuration)
        put_back(deployment, "lyon", tmp_path / "backup.tar.gz")
        deployments.wait(
            lambda: (
                "older than the one that the hub has seen" in deployments.log(deployment, "lyon")
            )
        )
        lyon = described_by(hub, "lyon", "after-the-roll-back")
        assert lyon["status"] == "refused" and "older than the one that the hub has seen" in str(
            lyon["reason"]
        )
        put_back(deployment, "lyon", tmp_path / "newest.tar.gz")
        assert described_by(hub, "lyon", "with-the-newest")["status"] == "answered"


def put_back(deployment: Deployment, node: str, backup: Path) -> None:
    """The node's state is that of the backup, and the node runs again."""
    deployment.processes[node].terminate()
    deployment.processes[node].wait(20)
    shutil.rmtree(deployment.state(node))
    backups.restore(backup, deployment.state(node))
    deployment.start_node(node)
    deployment.wait_until_online([node])


def described_by(hub: client.Hub, node: str, name: str) -> dict[str, Any]:
    """What a description of that name says of the node."""
    run = hub.submit(study(name), CONTRACT)
    assert run.watch(lambda _: None).state == "complete"
    (row,) = (row for row in run.result().document["analyses"]["d"]["nodes"] if row["node"] == node)
    return dict(row)


# So long that it is still under way when a process that was killed is back.
TRAINING = {
    "t": {
        "run": "train",
        "model": "ill ~ age",
        "network": "mlp",
        "widths": [4],
        "rounds": 150,
        "learning_rate": 0.3,
    }
}


@pytest.mark.slow
def test_a_training_goes_on_without_a_killed_node_and_with_it_when_it_is_back(
    deployment: Deployment,
) -> None:
    with deployment.connect() as hub:
        run = hub.submit(study("training-node", TRAINING), CONTRACT)
        at_round(run, 2)
        deployment.kill("lyon")
        # one round at least has waited for it in vain
        at_round(run, int((run.status().progress or "0").split()[0]) + 2)
        deployment.start_node("lyon")
        deployment.wait_until_online(["lyon"])
        assert run.watch(lambda _: None).state == "complete"
        document = run.result().document
    analysis = document["analyses"]["t"]
    assert analysis["rounds"] == 151 and [
        row["node"] for row in analysis["tables"]["nodes"]
    ] == list(NODES)
    missed = [event for event in document["provenance"]["events"] if event["node"] == "lyon"]
    assert 1 <= len(missed) < 150 and all(
        "asked again in the next round" in event["what"] for event in missed
    )


@pytest.mark.slow
def test_a_training_whose_hub_is_killed_goes_on_from_its_checkpoint(deployment: Deployment) -> None:
    with deployment.connect() as hub:
        run = hub.submit(study("training-hub", TRAINING), CONTRACT)
        deployments.wait(lambda: bool(list(deployment.hub.folder.rglob("*.checkpoint"))), 60)
        deployment.kill("hub")
    deployments.wait(lambda: not _children_of(deployment))
    deployment.start_hub()
    with deployment.connect() as hub:
        again = client.Run(hub, run.number, run.study)
        assert again.watch(lambda _: None).state == "complete"
        document = again.result().document
    analysis = document["analyses"]["t"]
    assert (
        any("went on from there" in note for note in analysis["notes"])
        and analysis["rounds"] == 151
        and len(analysis["tables"]["history"]) == 150
    )
    assert not list(deployment.hub.folder.rglob("*.checkpoint")), (
        "it is removed when the study is done"
    )


@pytest.mark.slow
def test_a_federation_of_ipv6_addresses_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With proxies in the environment, which connections to this machine pass by."""
    for proxy in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:1")
    sites = deployments.sites(tmp_path, "brest", "lyon")
    folder, admin = tmp_path / "avec des espaces é", f"[::1]:{flower.free_ports(1)}"
    with flower.deployed(
        sites, folder, hosts=["::1"], listen="::", admin=admin, say=lambda _: None
    ) as deployment:
        assert deployment.public.startswith("[::]:")
        document = flower.submit(
            deployment, deployments.study("ipv6"), deployments.CONTRACT, say=lambda _: None
        )
    assert document.analyses["d"].status == "released"


@pytest.mark.slow
def test_a_superlink_whose_database_was_lost_is_told_of_the_nodes_again(tmp_path: Path) -> None:
    sites = deployments.sites(tmp_path, "brest", "lyon")
    with flower.deployed(sites, tmp_path / "deployment", say=lambda _: None) as deployment:
        deployment.processes["hub"].terminate()
        deployment.processes["hub"].wait(30)
        for path in deployment.hub.folder.glob("superlink.db*"):
            path.unlink()
        deployment.start_hub()
        deployment.wait_until_online(["brest", "lyon"])
        document = flower.submit(
            deployment, deployments.study("again"), deployments.CONTRACT, say=lambda _: None
        )
    assert document.analyses["d"].n["people"] == 800
