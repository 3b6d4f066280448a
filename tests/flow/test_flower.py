"""The same study over a real SuperLink, TLS, signed-in nodes and processes gives the in-process
result, bit for bit."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aggregator import jobs, release, rounds
from aggregator.document import Document
from federation import errors
from federation.cli.actions import study_files as studies
from federation.messages import PHASES
from federation.study import Study
from nodes import ledger, state_folder
from nodes.site import Dataset, Site
from simulations import flower, local
from simulations.flower import Deployment
from simulations.pilots import dialysis
from tests import federations

PILOT = Path(str(dialysis.__file__)).parent
STUDY, CONTRACT, SOURCE = studies.load(PILOT / "study.yaml", None)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Site]:
    """Sites whose nodes answer study after study in exact mode, also when one of them has left."""
    paths = dialysis.make(tmp_path_factory.mktemp("data"), seed=0)
    policy = local.SIMULATED.model_copy(
        update={"min_nodes_apart": 1, "max_parameters_per_person": 10.0}
    )
    return [local.site(name, Dataset(CONTRACT, str(path)), policy) for name, path in paths.items()]


@pytest.fixture(scope="module")
def deployment(sites: list[Site], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with flower.deployed(
        sites, tmp_path_factory.mktemp("hub"), say=lambda _: None, round_timeout_s=12
    ) as running:
        yield running


def test_the_result_is_bit_identical_to_the_in_process_one(
    deployment: Deployment, sites: list[Site]
) -> None:
    document = flower.submit(deployment, STUDY, CONTRACT, say=lambda _: None)
    outcome = federations.run(STUDY, CONTRACT, sites)
    expected = release.clear(
        outcome, started=_when(document), finished=_when(document), engine="local"
    )
    assert json.dumps(document.model_dump(mode="json")["analyses"]) == json.dumps(
        expected.model_dump(mode="json")["analyses"]
    )
    assert document.study_hash == signed(STUDY).hash and not document.provenance["events"]


def _when(document: Document) -> release.datetime:
    return release.datetime.fromisoformat(document.provenance["started"])


def test_the_public_port_offers_the_fleet_routes_and_nothing_else(deployment: Deployment) -> None:
    context = ssl.create_default_context(cafile=str(deployment.hub.pki / "ca.crt"))
    with httpx.Client(verify=context) as client:
        public = f"https://{deployment.public}"
        assert client.get(f"{public}/health").status_code == 200
        for path in (
            "/docs",
            "/openapi.json",
            "/v1/control/list-runs",
            "/v1/runtime/pull-task-input",
        ):
            assert client.get(public + path).status_code == 404
            assert client.post(public + path).status_code == 404
        unsigned = client.post(f"{public}/v1/fleet/pull-messages", content=b"")
        assert unsigned.status_code in (400, 401, 415, 422)  # no signature, no answer
        large = client.post(f"{public}/v1/fleet/push-object", content=b"x" * (16 * 2**20 + 1))
        assert large.status_code == 401, "refused by its headers, before the body is read"


def test_a_client_that_does_not_trust_our_ca_is_not_served(deployment: Deployment) -> None:
    host, port = deployment.public.rsplit(":", 1)
    with (
        pytest.raises(ssl.SSLCertVerificationError),
        socket.create_connection((host, int(port))) as plain,
    ):
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")


def test_no_node_listens_on_a_port(deployment: Deployment, sites: list[Site]) -> None:
    listening = {
        line.split()[9]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    for site in sites:
        opened = Path(f"/proc/{deployment.processes[site.name].pid}/fd").iterdir()
        sockets = {
            str(link.readlink())[8:-1]
            for link in opened
            if str(link.readlink()).startswith("socket:[")
        }
        assert not sockets & listening


def signed(study: Study) -> Study:
    """As the hub knows it: under its coordinator's name."""
    return study.model_copy(update={"coordinator": flower.COORDINATOR})


def secure_study(name: str, privacy: dict[str, Any]) -> Study:
    """Each with a hash of its own, since an exact sum is bound to the first set of nodes that a
    study was opened for."""
    values = STUDY.model_dump(mode="json")
    analyses = {
        "causes": {**values["analyses"]["causes"], "results": "combine"},
        "people": values["analyses"]["people"],
    }
    return Study.model_validate({**values, "study": name, "privacy": privacy, "analyses": analyses})


def test_a_secure_sum_over_flower_is_bit_identical_too(
    deployment: Deployment, sites: list[Site]
) -> None:
    study = secure_study("secure", {"mode": "exact", "secure_sum": {"dropouts": 0, "colluders": 0}})
    document = flower.submit(deployment, study, CONTRACT, say=lambda _: None)
    expected = release.clear(
        federations.run(study, CONTRACT, sites),
        started=_when(document),
        finished=_when(document),
        engine="local",
    )
    assert json.dumps(document.model_dump(mode="json")["analyses"]) == json.dumps(
        expected.model_dump(mode="json")["analyses"]
    )
    assert all(
        contribution.status == "answered" and contribution.people is None
        for contribution in document.analyses["causes"].nodes
    )


def test_distributed_noise_over_flower_is_charged_at_every_node(
    deployment: Deployment, sites: list[Site]
) -> None:
    study = secure_study(
        "private",
        {
            "mode": "dp",
            "epsilon": 2,
            "noise": "distributed",
            "secure_sum": {"dropouts": 1, "colluders": 0},
        },
    )
    document = flower.submit(deployment, study, CONTRACT, say=lambda _: None)
    assert document.analyses["causes"].exactness == "noised"
    witnesses = jobs.witnesses(deployment.hub.jobs)
    for site in sites:
        budget_ledger = state_folder.open_ledger(deployment.state(site.name))
        charged = [
            entry
            for entry in ledger.history(budget_ledger)
            if entry.kind == "charge" and entry.study == signed(study).hash
        ]
        assert len(charged) == 2 and sum(entry.cost.rho for entry in charged) <= study.privacy.rho
        head = ledger.head(budget_ledger)
        assert ledger.verify(budget_ledger) == head
        assert witnesses.get(site.name) != head, "no head leaves a node during a secure sum"


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_a_node_that_hangs_at_any_phase_leaves_the_sum_to_the_others(
    phase: str, deployment: Deployment, sites: list[Site]
) -> None:
    """The process is stopped as the phase begins, and goes on after the study. Whether its letter
    was out by then, the total says whose people it holds."""
    study = secure_study(
        f"hang-{phase}", {"mode": "exact", "secure_sum": {"dropouts": 1, "colluders": 0}}
    )
    hangs = deployment.processes[sites[1].name]

    def say(message: str) -> None:
        if message.endswith(f", {phase}"):
            hangs.send_signal(signal.SIGSTOP)

    try:
        document = flower.submit(deployment, study, CONTRACT, say=say)
    finally:
        hangs.send_signal(signal.SIGCONT)
    causes = document.analyses["causes"]
    inside = [
        site
        for site in sites
        if next(
            contribution for contribution in causes.nodes if contribution.node == site.name
        ).status
        == "answered"
    ]
    assert len(inside) == (4 if phase == "unmask" else len(inside)) >= 3
    expected = release.clear(
        federations.run(study, CONTRACT, inside),
        started=_when(document),
        finished=_when(document),
        engine="local",
    )
    assert causes.tables == expected.analyses["causes"].tables


def test_too_few_nodes_is_told_to_whoever_waits(deployment: Deployment) -> None:
    many = STUDY.model_copy(update={"min_nodes": 9})
    with pytest.raises(errors.RefusalError, match="needs at least 9 nodes"):
        flower.submit(deployment, many, CONTRACT, say=lambda _: None)


def test_a_killed_node_leaves_the_study_to_the_others(
    deployment: Deployment, sites: list[Site]
) -> None:
    """Last in this module: the node stays dead.
    It falls silent, and the round's timeout leaves it out."""
    killed = sites[0].name

    def say(message: str) -> None:
        if message.startswith(
            "running"
        ):  # it has approved, and dies before it has answered all rounds
            deployment.kill(killed)

    started = time.monotonic()
    document = flower.submit(deployment, STUDY, CONTRACT, say=say)
    assert time.monotonic() - started < 60
    others = [site for site in sites if site.name != killed]
    expected = rounds.run(
        STUDY, CONTRACT, federations.ask_of(others), [site.name for site in others]
    )
    model = document.analyses["model"]
    assert [row["estimate"] for row in model.tables["coefficients"]] == [
        row["estimate"] for row in federations.result(expected, "model").tables["coefficients"].rows
    ]
    assert (
        next(contribution for contribution in model.nodes if contribution.node == killed).status
        == "silent"
    )
