"""Hub, nodes and coordinators over the network:
enrolment, roles, approvals, results, receipts, audit."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pandas
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aggregator import database, enrolment
from federation import __version__, audit, client, credentials, errors, receipts, tickets
from federation import contract as contracts
from federation.credentials import Invitation
from federation.rpc import hub_pb2, hub_pb2_grpc
from nodes import site as node_sites
from nodes import state_folder
from nodes.approvals import Approvals
from simulations import flower
from simulations.flower import Deployment
from tests import deployments
from tests.deployments import CONTRACT, study

NODES = ("brest", "lyon", "nice")
PATIENCE_S = 60.0  # of a call that must not hang, beside other work
APPROVAL_S = 5.0  # within which nodes that decide by themselves do so beside other work


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    sites = deployments.sites(tmp_path_factory.mktemp("data"), *NODES)
    with flower.deployed(
        sites, tmp_path_factory.mktemp("hub"), say=lambda _: None, round_timeout_s=20
    ) as running:
        yield running


def hdh(*arguments: str, home: Path | None = None, code: int = 0) -> str:
    """What the command prints, on both streams."""
    done = subprocess.run(
        [sys.executable, "-m", "federation.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": "/usr/bin:/bin",
            "HDH_HOME": str(home or "/nowhere"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "COLUMNS": "200",
        },
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def invite(deployment: Deployment, name: str, role: str, hours: float = 1.0) -> Invitation:
    return enrolment.invite(deployment.hub, deployment.engine, name, role, hours)


def enrol(
    deployment: Deployment, folder: Path, token: str, identity: bytes | None = None
) -> credentials.Credentials:
    return credentials.enrol(
        folder, deployment.hub.public_address("enrol"), token, identity, __version__
    )


# -- enrolment
def test_an_invitation_counts_once(deployment: Deployment, tmp_path: Path) -> None:
    token = invite(deployment, "once", "coordinator").to_text()
    enrol(deployment, tmp_path / "first", token)
    with pytest.raises(errors.RefusalError, match="is not valid"):
        enrol(deployment, tmp_path / "second", token)
    assert not (tmp_path / "second").exists()


def test_an_invitation_expires(deployment: Deployment, tmp_path: Path) -> None:
    token = invite(deployment, "late", "coordinator", hours=0.0001).to_text()
    time.sleep(0.5)
    with pytest.raises(errors.RefusalError, match="has expired"):
        enrol(deployment, tmp_path / "late", token)


def test_a_hub_of_another_authority_is_told_from_the_right_one(
    deployment: Deployment, tmp_path: Path
) -> None:
    """Before the secret is sent: a man in the middle learns nothing that counts."""
    right = invite(deployment, "careful", "coordinator")
    wrong = Invitation(right.secret, bytes(32))
    with pytest.raises(errors.SetupError, match="is not the hub of this invitation"):
        enrol(deployment, tmp_path / "careful", wrong.to_text())
    enrol(deployment, tmp_path / "careful", right.to_text())


def test_a_node_must_show_an_identity_that_it_has(deployment: Deployment) -> None:
    invited = invite(deployment, "nantes", "node")
    csr = credentials.request(credentials.ec.generate_private_key(credentials.ec.SECP256R1()))
    secure = grpc.ssl_channel_credentials((deployment.hub.pki / "ca.crt").read_bytes())
    with grpc.secure_channel(deployment.hub.public_address("enrol"), secure) as channel:
        for asked in (
            hub_pb2.EnrolRequest(secret=invited.secret, csr=csr),
            hub_pb2.EnrolRequest(
                secret=invited.secret, csr=csr, identity=bytes(32), signature=bytes(64)
            ),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                hub_pb2_grpc.EnrolmentStub(channel).Enrol(asked)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_the_api_asks_for_a_certificate_and_the_enrolment_port_offers_nothing_else(
    deployment: Deployment,
) -> None:
    secure = grpc.ssl_channel_credentials((deployment.hub.pki / "ca.crt").read_bytes())
    with (
        grpc.secure_channel(deployment.hub.public_address("api"), secure) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        hub_pb2_grpc.CoordinationStub(channel).List(hub_pb2.ListRequest(), timeout=PATIENCE_S)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE  # the handshake fails
    with grpc.secure_channel(deployment.hub.public_address("enrol"), secure) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            hub_pb2_grpc.CoordinationStub(channel).List(hub_pb2.ListRequest(), timeout=PATIENCE_S)
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        health = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="hdh.v1.Coordination"), timeout=PATIENCE_S
        )
        assert health.status == health_pb2.HealthCheckResponse.SERVING


# -- roles
def test_a_coordinator_sees_their_own_studies_and_an_operator_all(deployment: Deployment) -> None:
    for name, role in (("alice", "coordinator"), ("bob", "coordinator"), ("olga", "operator")):
        flower.enrol_coordinator(deployment, name, role)
    with (
        deployment.connect("alice") as alice,
        deployment.connect("bob") as bob,
        deployment.connect("olga") as olga,
    ):
        number = alice.submit(study("of-alice"), CONTRACT).number
        assert number in {status.number for status in alice.list()} & {
            status.number for status in olga.list()
        }
        assert number not in {status.number for status in bob.list()}
        for verb in ("status", "result", "cancel"):
            with pytest.raises(errors.InputError, match="no study"):
                getattr(client.Run(bob, number, ""), verb)()
        assert olga.run(number).watch(lambda _: None).state == "complete"
        with pytest.raises(errors.StudyError, match="its coordinator is 'alice'"):
            bob.submit(study("under-alices-name", coordinator="alice"), CONTRACT)


def test_a_coordinator_lists_what_the_nodes_hold_and_learns_what_differs(
    deployment: Deployment, tmp_path: Path
) -> None:
    with deployment.connect() as hub:
        held = hub.datasets()
        assert {holding.node for holding in held if holding.contract.hash == CONTRACT.hash} == set(
            NODES
        )
        assert all(holding.online for holding in held)
        columns = dict(CONTRACT.columns)
        name = next(name for name, column in columns.items() if column.type == "number")
        columns[name] = columns[name].model_copy(update={"range": (0.0, 999.0)})
        other = CONTRACT.model_copy(update={"columns": columns})
        with pytest.raises(errors.RefusalError, match=rf"another contract \(column {name}: range"):
            hub.submit(study("under-another-contract"), other)
    out = tmp_path / "contracts"
    printed = hdh("study", "datasets", "--out", str(out), home=deployment.keys())
    assert all(node in printed for node in NODES)
    assert contracts.load(out / f"{CONTRACT.dataset}.yaml").hash == CONTRACT.hash


def test_a_node_may_not_submit_and_a_coordinator_may_not_listen(deployment: Deployment) -> None:
    enrolment = credentials.load(deployment.state("lyon") / state_folder.HUB)
    with credentials.channel(enrolment) as channel, pytest.raises(grpc.RpcError) as refused:
        hub_pb2_grpc.CoordinationStub(channel).List(hub_pb2.ListRequest(), timeout=PATIENCE_S)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with deployment.connect() as hub, pytest.raises(grpc.RpcError) as refused:
        next(iter(hub_pb2_grpc.NodesStub(hub.channel).Watch(hub_pb2.Hello(), timeout=PATIENCE_S)))
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_a_study_is_taken_only_under_its_coordinators_signature(deployment: Deployment) -> None:
    with deployment.connect() as hub:
        mine = study("signed", coordinator=flower.COORDINATOR)
        stub = hub_pb2_grpc.CoordinationStub(hub.channel)
        request = hub_pb2.SubmitRequest(study=mine.model_dump_json(), contract=CONTRACT.canonical())
        draft = stub.Draft(request)
        assert draft.number > max((status.number for status in hub.list()), default=0)
        signed = tickets.ticket(
            credentials.authority_id(hub.party.authority),
            draft.number,
            mine.hash,
            CONTRACT.hash,
            draft.nodes,
            draft.deadline,
        )
        changed: dict[str, Any]
        for changed in (
            {"study_hash": study("another", coordinator=flower.COORDINATOR).hash},
            {"contract_hash": "0" * 64},
            {"number": draft.number + 1},
            {"nodes": signed.nodes[:-1]},
            {"deadline": draft.deadline + 1},
            {"hub": "f" * 64},
        ):
            other = hub_pb2.SubmitRequest(
                study=request.study,
                contract=request.contract,
                number=draft.number,
                nodes=draft.nodes,
                deadline=draft.deadline,
                signature=credentials.sign_run(hub.party.key, replace(signed, **changed)),
            )
            with pytest.raises(grpc.RpcError, match="its signature is not valid"):
                stub.Submit(other)
        for number in (tickets.REHEARSAL, draft.number + 1, 2**63 - 1):
            other.number = number
            other.signature = credentials.sign_run(hub.party.key, replace(signed, number=number))
            with pytest.raises(grpc.RpcError, match="the hub has drafted no run"):
                stub.Submit(other)


def test_a_node_that_is_named_twice_counts_once(deployment: Deployment) -> None:
    with deployment.connect() as hub:
        mine = study("twice", coordinator=flower.COORDINATOR)
        request = hub_pb2.SubmitRequest(
            study=mine.model_dump_json(), contract=CONTRACT.canonical(), nodes=["lyon"] * 3
        )
        with pytest.raises(grpc.RpcError, match="and 1 hold"):
            hub_pb2_grpc.CoordinationStub(hub.channel).Draft(request)


def test_a_revoked_coordinator_is_shown_the_door(deployment: Deployment) -> None:
    flower.enrol_coordinator(deployment, "gone")
    with deployment.connect("gone") as hub:
        assert hub.list() == []
        enrolment.revoke(deployment.hub, deployment.engine, "gone")
        with pytest.raises(errors.RefusalError, match="revoked"):
            hub.list()


def test_a_study_of_a_revoked_coordinator_ends(deployment: Deployment) -> None:
    flower.enrol_coordinator(deployment, "leaver")
    with deployment.connect("leaver") as hub:
        run = hub.submit(study("left", deployments.LONG, coordinator="leaver"), CONTRACT)
        enrolment.revoke(deployment.hub, deployment.engine, "leaver")
    deadline = time.monotonic() + 60
    while (submitted := database.submitted(deployment.engine, run.number)).state in ACTIVE:
        assert time.monotonic() < deadline, submitted.state
        time.sleep(0.2)
    assert submitted.state == "cancelled" and "coordinator was revoked" in submitted.reason
    proposals = Approvals(deployment.state("lyon") / "approvals.sqlite")
    deployments.wait(
        lambda: any(
            each.study_hash == submitted.study_hash and each.over for each in proposals.all()
        )
    )


ACTIVE = ("waiting", "running")


# -- results
def test_a_result_comes_as_frames_and_with_a_receipt(
    deployment: Deployment, tmp_path: Path
) -> None:
    with deployment.connect() as hub:
        run = hub.submit(
            study("frames", {"m": {"run": "glm", "family": "binomial", "model": "ill ~ age"}}),
            CONTRACT,
        )
        assert run.watch(lambda _: None).state == "complete"
        result = run.result()
        table = result.table("coefficients")
        assert isinstance(table, pandas.DataFrame) and list(table["term"]) == ["(Intercept)", "age"]
        assert "coefficients" in result._repr_html_() and "brest" in run._repr_html_()
        with pytest.raises(
            errors.InputError, match="no table 'nothing'; there are m: coefficients"
        ):
            result.table("nothing")
    path = tmp_path / "result.json"
    result.save(path)
    assert (
        receipts.verify(
            json.loads(path.read_text()),
            (deployment.hub.pki / "ca.crt").read_bytes(),
            roster(deployment),
        )
        == []
    )
    printed = hdh(
        "study",
        "verify",
        str(path),
        "--ca",
        str(deployment.hub.pki / "ca.crt"),
        "--roster",
        str(deployment.home("lyon") / "roster.yaml"),
        "--replay",
        str(deployment.hub.transcripts / f"{run.number}.gz"),
        "--audit",
        str(deployment.state("lyon") / state_folder.AUDIT),
    )
    assert "valid" in printed and "approved by policy" in printed
    assert "every state and the result follow" in printed and "shows every answer" in printed


def roster(deployment: Deployment) -> dict[str, bytes]:
    return node_sites.load_roster(deployment.home("lyon") / "roster.yaml")


def test_a_receipt_tells_every_change(deployment: Deployment) -> None:
    """Each leaf of the document is changed in turn."""
    document = finished(deployment, "changes").document
    authority = (deployment.hub.pki / "ca.crt").read_bytes()
    assert receipts.verify(document, authority, roster(deployment)) == []
    for path in leaves(document):
        if path[:2] == ("receipt", "authority"):
            continue  # not looked at where the authority is given
        changed = json.loads(json.dumps(document))
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        value = holder[path[-1]]
        holder[path[-1]] = (
            (not value)
            if isinstance(value, bool)
            else value + 1
            if isinstance(value, int | float)
            else "x"
            if value is None
            else other(value)
        )
        assert receipts.verify(changed, authority, roster(deployment)), path


def other(text: str) -> str:
    return ("1" if text[0] != "1" else "2") + text[1:] if text else "1"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inside, (*path, key))
    else:
        yield path


def test_a_receipt_names_who_is_wrong(deployment: Deployment) -> None:
    document = finished(deployment, "names").document
    strange = {**roster(deployment), "nice": bytes(32)}
    assert receipts.verify(document, None, strange) == [
        "nice: its identity differs from the one in the roster"
    ]
    document["receipt"]["nodes"]["brest"]["replies"][0]["reply"] = "0" * 64
    assert "brest: its reply of round 1 does not bear its signature" in receipts.verify(
        document, None, {}
    )
    for label in ({"round": 2}, {"phase": "mask"}, {"left": "lyon"}):
        changed = json.loads(json.dumps(document))
        changed["receipt"]["nodes"]["lyon"]["replies"][0] |= label
        wrong = f"lyon: its reply of round {label.get('round', 1)} does not bear its signature"
        assert wrong in receipts.verify(changed, None, {})
    assert receipts.verify({**document, "receipt": None}, None, {})[0].startswith(
        "it has no receipt"
    )


def finished(deployment: Deployment, name: str) -> client.StudyResult:
    with deployment.connect() as hub:
        run = hub.submit(study(name), CONTRACT)
        assert run.watch(lambda _: None).state == "complete"
        return run.result()


def test_two_studies_at_once_both_end_with_their_own_result(deployment: Deployment) -> None:
    with deployment.connect() as hub:
        runs = [
            hub.submit(
                study(
                    f"twin-{i}",
                    {
                        "m": {"run": "glm", "family": "binomial", "model": "ill ~ age"},
                        "d": {"run": "describe", "columns": ["ill"]},
                    },
                ),
                CONTRACT,
            )
            for i in range(2)
        ]
        assert [run.watch(lambda _: None).state for run in runs] == ["complete", "complete"]
        first, second = (run.result().document for run in runs)
    assert first["study"] == "twin-0" and second["study"] == "twin-1"
    assert first["analyses"]["m"]["tables"] == second["analyses"]["m"]["tables"]


def test_a_study_can_be_cancelled_while_it_runs(deployment: Deployment) -> None:
    with deployment.connect() as hub:
        run = hub.submit(study("long", deployments.LONG), CONTRACT)
        deployments.wait(lambda: "round" in run.status().progress)
        assert run.cancel().state == "cancelled"
        with pytest.raises(errors.RefusalError, match=f"cancelled by {flower.COORDINATOR}"):
            run.result()
        with pytest.raises(errors.RefusalError, match="has ended"):
            run.cancel()
        assert finished(deployment, "after-it")  # the nodes go on


# -- approvals
def test_a_manual_node_is_waited_for_and_an_edit_asks_again(deployment: Deployment) -> None:
    deployments.set_policy(deployment, "nice", approval="manual")
    deployments.restart(deployment, "nice")
    site = str(deployment.home("nice") / "node.yaml")
    try:
        with deployment.connect() as hub:
            run = hub.submit(study("asks"), CONTRACT)
            deployments.wait(lambda: run.status().line() == "waiting for nice")
            deployments.wait(lambda: "waits for you" in hdh("node", "studies", "--site", site))
            assert "question: q?" in hdh("node", "show", "asks", "--site", site)
            assert "asks" in hdh("node", "status", "--site", site)
            hdh("node", "approve", "asks", "--by", "Dr Who", "--site", site)
            assert run.watch(lambda _: None).state == "complete"
            assert run.result().document["receipt"]["nodes"]["nice"]["approval"]["by"] == "Dr Who"
            again = hub.submit(study("asks"), CONTRACT)  # an approval is for one run
            deployments.wait(lambda: again.status().line() == "waiting for nice")
            hdh("node", "approve", "asks", "--by", "Dr Who", "--site", site)
            assert again.watch(lambda _: None).state == "complete"
            edited = hub.submit(study("asks", question="another?"), CONTRACT)
            deployments.wait(lambda: edited.status().line() == "waiting for nice")
            hdh(
                "node",
                "refuse",
                "asks",
                "--reason",
                "not for this",
                "--by",
                "Dr Who",
                "--site",
                site,
            )
            status = edited.watch(lambda _: None)
            assert status.state == "complete"  # with the other two: min_nodes allows it
            assert (
                next(decision for decision in status.nodes if decision.node == "nice").reason
                == "not for this"
            )
            assert set(edited.result().document["provenance"]["nodes"]) == {"brest", "lyon"}
    finally:
        deployments.set_policy(deployment, "nice", approval="automatic")
        deployments.restart(deployment, "nice")
    events = [
        (entry["event"], entry.get("by"))
        for entry in audit.entries(deployment.state("nice") / state_folder.AUDIT)
    ]
    assert ("approved", "Dr Who") in events and ("refused", "Dr Who") in events


def test_at_its_deadline_a_study_runs_with_the_approvals_it_has_or_ends(
    deployment: Deployment,
) -> None:
    deployments.set_policy(deployment, "nice", approval="manual")
    deployments.restart(deployment, "nice")
    try:
        with deployment.connect() as hub:
            enough = hub.submit(study("two-are-enough"), CONTRACT, deadline_s=APPROVAL_S)
            status = enough.watch(lambda _: None)
            assert (
                status.state == "complete"
                and status.started is not None
                and (status.started - status.submitted).total_seconds() >= APPROVAL_S
            )
            all_three = hub.submit(
                study("three-are-needed", min_nodes=3), CONTRACT, deadline_s=APPROVAL_S
            )
            status = all_three.watch(lambda _: None)
            assert status.state == "refused"
            assert (
                "the deadline for approvals has passed: 2 of the 3 nodes needed have approved"
                in status.reason
                and "nice: did not decide" in status.reason
            )
    finally:
        deployments.set_policy(deployment, "nice", approval="automatic")
        deployments.restart(deployment, "nice")


def test_the_plan_says_at_which_node_what_will_be_refused(deployment: Deployment) -> None:
    deployments.set_policy(
        deployment, "brest", purposes=["research"], analyses=["cox"], min_nodes=1
    )
    deployments.restart(deployment, "brest")
    try:
        with deployment.connect() as hub:
            verdicts = {
                decision.node: (decision.verdict, decision.reason)
                for decision in hub.plan(study("planned"), CONTRACT)
            }
            assert verdicts["brest"] == (
                "refused",
                "analysis: this site does not run describe: leave it out,"
                " or ask the producer to allow it",
            )
            assert verdicts["lyon"] == ("approved", "")
            assert not any(status.study == "planned" for status in hub.list())
            run = hub.submit(study("planned"), CONTRACT)
            assert run.watch(lambda _: None).state == "complete"  # with the other two
        assert (
            Approvals(deployment.state("lyon") / "approvals.sqlite").find("planned").verdict
            == "approved"
        )
    finally:
        deployments.set_policy(deployment, "brest", analyses=None)
        deployments.restart(deployment, "brest")


VERSIONS = """dataset: doses
version: {version}
person: id
columns:
  id: {{type: string}}
  dose: {{type: number, range: [0, {most}]}}
"""


def test_each_study_is_answered_from_the_version_of_its_contract(
    deployment: Deployment, tmp_path: Path
) -> None:
    site = str(deployment.home("nice") / "node.yaml")
    held = {}
    for version, most in ((1, 50), (2, 90), (3, 99)):
        path = tmp_path / f"{version}.yaml"
        path.write_text(VERSIONS.format(version=version, most=most))
        held[version] = contracts.load(path)
        if version < 3:
            rows = pandas.DataFrame({"id": [f"p{row}" for row in range(100)], "dose": most / 2})
            rows.to_csv(tmp_path / f"{version}.csv", index=False)
            source = ["--source", str(tmp_path / f"{version}.csv")]
            hdh("node", "dataset", "add", str(path), *source, "--site", site)
    deployments.restart(deployment, "nice")
    asked = study(
        "doses",
        {"d": {"run": "describe", "columns": ["dose"], "bins": 1}},
        dataset="doses",
        min_nodes=1,
    )
    with deployment.connect() as hub:
        assert {
            shown.contract.hash for shown in hub.datasets() if shown.contract.dataset == "doses"
        } == {
            held[1].hash,
            held[2].hash,
        }
        for version, mean in ((1, 25.0), (2, 45.0)):
            run = hub.submit(asked, held[version])
            assert run.watch(lambda _: None).state == "complete", run.status().reason
            numbers = run.result().document["analyses"]["d"]["tables"]["numbers"]
            assert numbers[0]["mean"] == mean
            shown = hdh("node", "show", str(run.number), "--site", site)
            assert f"# dataset doses, version {version}" in shown
        (planned,) = hub.plan(asked, held[3], nodes=["nice"])
        assert planned.verdict == "refused"
        assert "version 2 of this node, column dose: range was [0.0, 99.0], and is [0.0, 90.0]" in (
            planned.reason
        )
    listed = hdh("study", "datasets", home=deployment.keys())
    assert "column dose: range was" in listed


# -- keys
def test_a_node_whose_key_is_rotated_goes_on_with_the_new_one_and_the_old_one_is_dead(
    deployment: Deployment, tmp_path: Path
) -> None:
    state = deployment.state("brest")
    old = {name: (state / state_folder.HUB / name).read_bytes() for name in credentials.FILES}
    token = invite(deployment, "brest", "node").to_text()
    enrol(deployment, state / state_folder.HUB, token, state_folder.identity(state))
    deployments.restart(deployment, "brest")
    assert finished(deployment, "after-rotation").document["provenance"]["nodes"] == list(NODES)
    (tmp_path / "old").mkdir()
    for name, content in old.items():
        (tmp_path / "old" / name).write_bytes(content)
    with (
        credentials.channel(credentials.load(tmp_path / "old")) as channel,
        pytest.raises(grpc.RpcError, match="revoked or replaced"),
    ):
        next(iter(hub_pb2_grpc.NodesStub(channel).Watch(hub_pb2.Hello(), timeout=PATIENCE_S)))


def test_a_renewed_certificate_is_for_the_same_key(deployment: Deployment) -> None:
    enrolment = credentials.load(deployment.state("lyon") / state_folder.HUB)
    with credentials.channel(enrolment) as channel:
        stub = hub_pb2_grpc.NodesStub(channel)
        renewed = stub.Renew(
            hub_pb2.RenewRequest(csr=credentials.request(credentials.private_key(enrolment.key)))
        )
        assert credentials.days_left(renewed.certificate.encode()) > 364
        strange = credentials.request(
            credentials.ec.generate_private_key(credentials.ec.SECP256R1())
        )
        with pytest.raises(grpc.RpcError, match="for the same key"):
            stub.Renew(hub_pb2.RenewRequest(csr=strange))


# -- looking after it
def test_the_audit_logs_of_both_sides_are_in_order_and_tell_the_story(
    deployment: Deployment,
) -> None:
    finished(deployment, "audited")
    for path in (deployment.hub.audit, deployment.state("lyon") / state_folder.AUDIT):
        assert audit.verify(path)[0] > 3
    hub = [
        entry
        for entry in audit.entries(deployment.hub.audit)
        if entry.get("study") == "audited" or entry["event"] == "complete"
    ]
    assert {"submitted", "complete"} <= {entry["event"] for entry in hub}
    node = [
        entry
        for entry in audit.entries(deployment.state("lyon") / state_folder.AUDIT)
        if entry.get("study") == "audited"
    ]
    assert [entry["event"] for entry in node] == ["proposed", "answered"]
    assert (
        node[1]["coordinator"] == flower.COORDINATOR
        and node[1]["bytes"] > 0
        and len(node[1]["sha256"]) == 64
    )
    assert "is intact" in hdh("hub", "audit", "verify", "--hub-dir", str(deployment.hub.folder))
    assert "audited" in hdh("node", "audit", "--site", str(deployment.home("lyon") / "node.yaml"))


def test_doctor_finds_a_running_hub_and_node_in_order(deployment: Deployment) -> None:
    printed = hdh("doctor", str(deployment.hub.folder))
    assert "is open" in printed and "WRONG" not in printed
    printed = hdh("doctor", str(deployment.home("lyon")))
    assert (
        "answers with a certificate of the right authority" in printed
        and "agrees with the hub's" in printed
        and "WRONG" not in printed
    )


def test_doctor_names_what_is_wrong(deployment: Deployment) -> None:
    key = deployment.state("lyon") / "identity.key"
    key.chmod(0o644)
    try:
        printed = hdh("doctor", str(deployment.home("lyon")), code=6)
        assert (
            "others can read identity.key: chmod 600" in printed
            and "1 check failed: keys" in printed
        )
    finally:
        key.chmod(0o600)
    assert "there is no hub.yaml or node.yaml" in hdh("doctor", str(deployment.folder), code=6)


def test_metrics_count_studies_and_nodes(deployment: Deployment) -> None:
    with urllib.request.urlopen(
        f"http://{deployment.hub.file.metrics}/metrics", timeout=PATIENCE_S
    ) as answer:
        text = answer.read().decode()
    assert (
        'hdh_node_online{node="lyon"} 1.0' in text
        and 'hdh_studies{state="complete"}' in text
        and "hdh_certificate_days" in text
    )
    deployments.wait(
        lambda: "hdh_node_line_open 1" in (deployment.state("lyon") / "metrics.prom").read_text()
    )


def test_the_command_line_tells_a_coordinators_story(
    deployment: Deployment, tmp_path: Path
) -> None:
    home, path = deployment.keys(), tmp_path / "study.yaml"
    path.write_text(json.dumps(study("by-hand").model_dump(mode="json", exclude={"coordinator"})))
    (tmp_path / "people.yaml").write_text(CONTRACT.canonical())
    assert "is at the hub as number" in hdh("study", "submit", str(path), home=home)
    printed = hdh("study", "watch", "by-hand", "--out", str(tmp_path / "out"), home=home)
    assert "Contributions of the nodes" in printed and (tmp_path / "out" / "report.html").exists()
    assert ": valid. Study by-hand" in hdh(
        "study", "verify", str(tmp_path / "out" / "result.json"), home=home
    )
    assert "by-hand" in hdh("study", "list", home=home) and "complete" in hdh(
        "study", "status", "by-hand", home=home
    )
    plan = json.loads(hdh("study", "plan", str(path), "--hub", "--format", "json", home=home))
    assert {node["node"]: node["refuses"] for node in plan["nodes"]} == dict.fromkeys(NODES)
    assert "not enrolled at a hub" in hdh("study", "list", home=tmp_path / "nobody", code=6)
    assert "online" in hdh("hub", "nodes", "--hub-dir", str(deployment.hub.folder))


def test_a_revoked_node_stops_and_says_why(deployment: Deployment) -> None:
    """Last: the node is lost."""
    enrolment.revoke(deployment.hub, deployment.engine, "nice")
    assert deployments.wait(lambda: deployment.processes["nice"].poll() is not None, 40) is True
    assert "the hub does not accept this node any more" in deployments.log(deployment, "nice")
    assert deployments.wait(lambda: not database.party(deployment.engine, "nice").former_flower_ids)  # type: ignore[union-attr]
    with (
        deployment.connect() as hub,
        pytest.raises(errors.InputError, match="no node 'nice' is enrolled"),
    ):
        hub.submit(study("without-it"), CONTRACT, nodes=["nice", "lyon"])
