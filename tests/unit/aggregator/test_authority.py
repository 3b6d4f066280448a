"""The hub's authority: its key is encrypted or kept elsewhere, and replaced when it must be."""

from __future__ import annotations

import os
import shutil
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from aggregator import daemon, database, enrolment, pki, settings
from federation import chains, client, credentials, errors, replacements
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
    monkeypatch.setattr(settings, "is_running", lambda folder: True)
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


# -- a process that is killed between any two steps of a replacement
STEPS = ("replace", "unlink", "rmdir", "mkdir", "open")


class KilledError(BaseException): ...


def killed_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """From the step of this number on, nothing more reaches the disk."""
    left = step

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            writes = function is not os_open or arguments[1] & (os.O_WRONLY | os.O_RDWR)
            if writes and (left := left - 1) < 0:
                raise KilledError
            return function(*arguments, **named)

        return call

    os_open = os.open
    for name in STEPS:
        patch.setattr(os, name, counted(getattr(os, name)))


def public_bytes(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    content: bytes = key.public_bytes(serialization.Encoding.PEM, form)
    return content


def served_by(folder: Path) -> tuple[bytes, ...]:
    """The public keys of root, signer and server, which must form one chain."""
    root = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    shown = (folder / "hub.crt").read_bytes()
    leaf = chains.leaf_of(shown, (folder / "ca.crt").read_bytes())
    assert leaf is not None
    assert x509.load_pem_x509_certificates(shown)[-1] == root
    server = credentials.private_key((folder / "hub.key").read_bytes()).public_key()
    assert leaf.public_key() == server
    signer = pki._authority(folder, pki.signer_of(folder))[1].public_key()
    name = pki.signer_of(folder)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / "hub.crt", folder / "hub.key")
    csr = credentials.request(_new_key())
    certified = pki.certify(folder, csr, "ana", "coordinator").encode()
    assert chains.leaf_of(certified, (folder / "ca.crt").read_bytes()) is not None
    return (name.encode(), *(public_bytes(key) for key in (root.public_key(), signer, server)))


def change_authority(folder: Path) -> None:
    pki.renew_authority(folder, ["localhost"])


def change_intermediate(folder: Path) -> None:
    signed = pki.sign_intermediate(folder, pki.request_intermediate(folder))
    pki.install_intermediate(folder, signed, ["localhost"])


def change_server(folder: Path) -> None:
    pki.renew_server(folder, ["localhost"])


@pytest.mark.parametrize("change", [change_authority, change_intermediate, change_server])
def test_a_replacement_that_is_killed_at_any_step_leaves_one_chain(
    change: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pki.make_authority(tmp_path / "made", ["localhost"])
    change_intermediate(tmp_path / "made")
    outcomes = list[bool]()
    for step in range(200):
        folder = shutil.copytree(tmp_path / "made", tmp_path / str(step))
        before = served_by(folder)
        with monkeypatch.context() as patch, suppress(KilledError):
            killed_at(step, patch)
            change(folder)
            patch.undo()
            break
        replacements.finish(folder)  # as the next start does
        after = served_by(folder)
        assert after == before or after[3] != before[3]
        outcomes.append(after != before)
        change(folder)
        assert served_by(folder) not in (before, after)
        assert not [path for path in folder.iterdir() if path.is_dir() and path.name != "former"]
    assert outcomes == sorted(outcomes) and not outcomes[0] and outcomes[-1]
    assert 10 < len(outcomes) < 200


def test_a_hub_ends_the_replacement_that_was_interrupted_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = settings.init(tmp_path / "hub", ["localhost"], 8443, None, "127.0.0.1")
    with monkeypatch.context() as patch:
        patch.setattr(replacements, "finish", lambda _folder: None)
        pki.renew_authority(hub.pki, ["localhost"])
    former = pki.fingerprint(hub.pki)
    settings.load(hub.folder)
    assert pki.fingerprint(hub.pki) != former
    served_by(hub.pki)


def test_a_key_on_a_token_that_was_given_up_does_not_stand_before_the_one_in_the_file(
    tmp_path: Path,
) -> None:
    """An initialisation with --token was killed, and repeated without; an earlier version left
    both when a replacement was interrupted."""
    (tmp_path / "ca.pkcs11").write_text("pkcs11:token=a;object=b?module-path=/none.so\n")
    pki.make_authority(tmp_path, ["localhost"])
    served_by(tmp_path)
    assert not (tmp_path / "ca.pkcs11").exists()
    (tmp_path / "ca.pkcs11").write_text("pkcs11:token=a;object=b?module-path=/none.so\n")
    served_by(tmp_path)
    (tmp_path / "intermediate-new.pkcs11").write_text("pkcs11:token=a;object=b?module-path=/m\n")
    change_intermediate(tmp_path)
    served_by(tmp_path)
    pki.renew_authority(tmp_path, ["localhost"])
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "ca.crt",
        "ca.key",
        "hub.crt",
        "hub.key",
    }
