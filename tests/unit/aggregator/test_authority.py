"""The hub's authority: its key is encrypted or kept elsewhere, and replaced when it must be."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from aggregator import daemon, database, enrolment, pki
from federation import client, credentials, errors
from federation.cli.actions import parties
from federation.rpc import hub_pb2, hub_pb2_grpc
from tests import hub_services
from tests.hub_services import Service
from tests.unit.aggregator.test_renewals import keys


def enrolled(service: Service, folder: Path, name: str) -> Path:
    invited = enrolment.invite(service.hub, service.scheduler.engine, name, "coordinator", 1.0)
    credentials.enrol(folder, service.hub.file.enrol, invited.to_text(), None, "1")
    return folder


def listed(folder: Path) -> bool:
    """Whether the hub answers who is enrolled in `folder`."""
    with client.connect(folder) as hub:
        return hub.list() == []


def test_an_authority_is_replaced_and_everyone_is_invited_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = tmp_path / "hub"
    with hub_services.running(hub) as service:
        ana = enrolled(service, tmp_path / "ana", "ana")
        assert listed(ana)
    before = (hub / "pki" / "ca.crt").read_bytes()
    parties.renew_authority(hub)
    assert f"hdh hub rotate ana --hub-dir {hub}" in capsys.readouterr().out
    (former,) = (hub / "pki" / "former").iterdir()
    assert former.read_bytes() == before != (hub / "pki" / "ca.crt").read_bytes()
    with hub_services.running(hub) as service:
        with pytest.raises(errors.SetupError, match="certificate"):
            listed(ana)
        again = enrolled(service, tmp_path / "again", "ana")
        assert listed(again)
        # A certificate of the former authority is nobody's, also where its key is still known.
        mixed = tmp_path / "mixed"
        mixed.mkdir()
        for name, source in (("own.crt", ana), ("own.key", ana), ("ca.crt", again)):
            (mixed / name).write_bytes((source / name).read_bytes())
        (mixed / "hub.json").write_bytes((ana / "hub.json").read_bytes())
        with pytest.raises(errors.SetupError):
            listed(mixed)


def test_an_authority_is_not_replaced_under_open_studies_or_a_running_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    with hub_services.running(hub) as service:
        texts = dict.fromkeys(("written", "contract", "certificate", "signature", "link"), "")
        values = {"number": 7, "study": "s", "study_hash": "0" * 64, "coordinator": "ana"}
        times = {"submitted": 0.0, "deadline": 0.0}
        database.submit(service.scheduler.engine, {**values, **texts, **times}, ["lyon"])
    before = (hub / "pki" / "ca.crt").read_bytes()
    with pytest.raises(errors.RefusalError, match="studies are open: 7"):
        parties.renew_authority(hub)
    monkeypatch.setattr(daemon, "is_running", lambda folder: True)
    with pytest.raises(errors.SetupError, match="stop it first"):
        parties.renew_authority(hub)
    assert (hub / "pki" / "ca.crt").read_bytes() == before


def test_a_hub_whose_authority_is_kept_elsewhere_serves_and_enrols_nobody(tmp_path: Path) -> None:
    with hub_services.running(tmp_path / "hub") as service:
        ana = enrolled(service, tmp_path / "ana", "ana")
        key = service.hub.pki / "ca.key"
        elsewhere = key.rename(tmp_path / "ca.key")
        assert listed(ana)
        with pytest.raises(errors.SetupError, match="is kept elsewhere"):
            enrolled(service, tmp_path / "bob", "bob")
        folder = tmp_path / "old"
        folder.mkdir()
        elsewhere.rename(key)
        old = keys(service, folder, "old", 10)
        key.rename(elsewhere)
        assert listed(old)  # it is renewed when the key is there again
        assert credentials.days_left((old / "own.crt").read_bytes()) < 11
        elsewhere.rename(key)
        assert listed(old)
        assert credentials.days_left((old / "own.crt").read_bytes()) > 300


def test_the_key_of_an_authority_is_encrypted_and_not_told_to_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(pki.PASSWORD, "correct horse")
    with hub_services.running(tmp_path / "hub") as service:
        assert b"ENCRYPTED" in (service.hub.pki / "ca.key").read_bytes()
        enrolled(service, tmp_path / "ana", "ana")
        assert pki.PASSWORD not in daemon.environment(tmp_path)
        for password in ("battery staple", ""):
            monkeypatch.setenv(pki.PASSWORD, password)
            with pytest.raises(errors.SetupError, match=pki.PASSWORD):
                enrolled(service, tmp_path / "bob", "bob")


def test_a_refused_enrolment_leaves_the_invitation_valid(tmp_path: Path) -> None:
    with hub_services.running(tmp_path / "hub") as service:
        key = service.hub.pki / "ca.key"
        elsewhere = key.rename(tmp_path / "ca.key")
        invited = enrolment.invite(service.hub, service.scheduler.engine, "zoe", "coordinator", 1.0)
        for attempt in range(2):
            if attempt:
                elsewhere.rename(key)
            request = hub_pb2.EnrolRequest(
                secret=invited.secret,
                csr=credentials.request(_new_key()),
                version="1",
            )
            with service.channel(None, "enrol") as channel:
                stub = hub_pb2_grpc.EnrolmentStub(channel)
                if attempt:
                    assert stub.Enrol(request, timeout=30).name == "zoe"
                else:
                    with pytest.raises(grpc.RpcError):
                        stub.Enrol(request, timeout=30)


def _new_key() -> credentials.ec.EllipticCurvePrivateKey:
    return credentials.ec.generate_private_key(credentials.ec.SECP256R1())


def test_a_key_of_another_authority_signs_nothing(tmp_path: Path) -> None:
    pki.make_authority(tmp_path / "hub", ["localhost"])
    pki.make_authority(tmp_path / "other", ["localhost"])
    (tmp_path / "other" / "ca.key").replace(tmp_path / "hub" / "ca.key")
    with pytest.raises(errors.SetupError, match=r"not the key of ca\.crt"):
        pki.renew_authority(tmp_path / "hub", ["localhost"])


def test_a_replacement_that_is_interrupted_leaves_the_former_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pki.make_authority(tmp_path, ["localhost"])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    with monkeypatch.context() as crash:
        crash.setattr(pki.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pki.renew_authority(tmp_path, ["localhost"])
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    pki.renew_authority(tmp_path, ["localhost"])
    assert (tmp_path / "ca.crt").read_bytes() != before["ca.crt"]
