"""An intermediate authority signs in the root's place: the root's key may be in a safe."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from aggregator import pki, serving, settings
from aggregator.database import Party
from federation import chains, credentials, errors, receipts
from federation.cli.actions import parties
from federation.cli.main import app
from federation.tickets import ticket
from tests import hub_services
from tests.unit.aggregator.test_authority import enrolled, listed
from tests.unit.aggregator.test_renewals import keys

NOW = datetime.now(UTC)


def with_intermediate(folder: Path) -> Path:
    """The root's key, which has left a hub that has an intermediate now."""
    pki.install_intermediate(
        folder, pki.sign_intermediate(folder, pki.request_intermediate(folder)), ["localhost"]
    )
    return (folder / "ca.key").rename(folder.parent / "safe.key")


def certificates(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


def test_a_hub_enrols_renews_and_serves_while_the_roots_key_is_in_a_safe(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    with hub_services.running(hub) as service:
        before = enrolled(service, tmp_path / "before", "before")
    with_intermediate(hub / "pki")
    with hub_services.running(hub) as service:
        assert listed(before)  # a certificate of the root stays valid
        after = enrolled(service, tmp_path / "after", "after")
        assert [len(certificates(each / "own.crt")) for each in (before, after)] == [1, 2]
        assert listed(after)
        old = tmp_path / "old"
        old.mkdir()
        assert listed(keys(service, old, "old", 10))
        assert credentials.days_left((old / "own.crt").read_bytes()) > 300
        assert listed(old)
    with_root = {each / "ca.crt" for each in (before, after)}
    assert {path.read_bytes() for path in with_root} == {(hub / "pki" / "ca.crt").read_bytes()}


def test_the_intermediate_is_replaced_and_those_of_the_former_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = tmp_path / "hub"
    with hub_services.running(hub):
        pass
    safe = with_intermediate(hub / "pki")
    invited_for = pki.fingerprint(hub / "pki")
    with hub_services.running(hub) as service:
        ana = enrolled(service, tmp_path / "ana", "ana")
    first = (hub / "pki" / "intermediate.crt").read_bytes()
    parties.renew_intermediate(hub, None, "")
    assert "hdh hub certify intermediate.csr" in capsys.readouterr().out
    assert (hub / "pki" / "intermediate.crt").read_bytes() == first  # until its certificate comes
    root = tmp_path / "root"
    root.mkdir()
    safe.rename(root / "ca.key")
    (root / "ca.crt").write_bytes((hub / "pki" / "ca.crt").read_bytes())
    parties.certify(hub / "pki" / "intermediate.csr", root, tmp_path / "signed.crt")
    parties.renew_intermediate(hub, tmp_path / "signed.crt", "")
    assert (hub / "pki" / "intermediate.crt").read_bytes() != first
    assert first in [path.read_bytes() for path in (hub / "pki" / "former").iterdir()]
    assert pki.fingerprint(hub / "pki") == invited_for
    with hub_services.running(hub) as service:
        assert listed(ana)
        assert listed(enrolled(service, tmp_path / "bob", "bob"))


def test_a_new_root_has_no_intermediate_and_none_of_the_former_counts(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    with hub_services.running(hub):
        pass
    safe = with_intermediate(hub / "pki")
    with hub_services.running(hub) as service:
        ana = enrolled(service, tmp_path / "ana", "ana")
    with pytest.raises(errors.SetupError, match="kept elsewhere"):
        parties.renew_authority(hub)
    safe.rename(hub / "pki" / "ca.key")
    parties.renew_authority(hub)
    assert not list((hub / "pki").glob("intermediate*"))
    with hub_services.running(hub) as service:
        with pytest.raises(errors.SetupError):
            listed(ana)
        assert listed(enrolled(service, tmp_path / "again", "ana"))


def test_what_is_no_intermediate_of_this_root_for_this_key_is_not_installed(
    tmp_path: Path,
) -> None:
    folder, other = tmp_path / "hub", tmp_path / "other"
    for each in (folder, other):
        pki.make_authority(each, ["localhost"])
    csr = pki.request_intermediate(folder)
    server, root = (folder / "hub.crt").read_text(), (folder / "ca.crt").read_text()
    for wrong in (pki.sign_intermediate(other, csr), server, root, "", "no certificate"):
        with pytest.raises(errors.InputError, match="certificate"):
            pki.install_intermediate(folder, wrong, ["localhost"])
    signed = pki.sign_intermediate(folder, csr)
    pki.request_intermediate(folder)  # a newer key waits
    with pytest.raises(errors.InputError, match="newest request"):
        pki.install_intermediate(folder, signed, ["localhost"])
    assert pki.signer_of(folder) == pki.ROOT


def test_the_root_of_an_earlier_version_says_why_it_may_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constraints = x509.BasicConstraints
    with monkeypatch.context() as earlier:
        earlier.setattr(
            pki.x509, "BasicConstraints", lambda ca, path_length: constraints(ca, 0 if ca else None)
        )
        pki.make_authority(tmp_path, ["localhost"])
    with pytest.raises(errors.SetupError, match="hdh hub rotate --authority"):
        pki.sign_intermediate(tmp_path, pki.request_intermediate(tmp_path))


def test_no_certificate_outlives_its_issuer(tmp_path: Path) -> None:
    pki.make_authority(tmp_path, ["localhost"])
    signed = pki.sign_intermediate(tmp_path, pki.request_intermediate(tmp_path), days=30)
    pki.install_intermediate(tmp_path, signed, ["localhost"])
    csr = credentials.request(ec.generate_private_key(ec.SECP256R1()))
    certificate = pki.certify(tmp_path, csr, "ana", "coordinator").encode()
    assert credentials.days_left(certificate) < 30


# -- what nodes and coordinators verify
def coordinator(folder: Path) -> tuple[bytes, bytes]:
    """A key, and its certificate with the intermediate's."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = credentials.request(key)
    return credentials.private_pem(key), pki.certify(folder, csr, "ana", "coordinator").encode()


def test_a_run_is_verified_over_the_intermediate_and_not_without_it(tmp_path: Path) -> None:
    pki.make_authority(tmp_path / "pki", ["localhost"])
    root = (tmp_path / "pki" / "ca.crt").read_bytes()
    with_intermediate(tmp_path / "pki")
    key, shown = coordinator(tmp_path / "pki")
    run = ticket(credentials.authority_id(root), 7, "0" * 64, "1" * 64, ["lyon"], 2e9)
    signature = credentials.sign_run(key, run)
    signer = credentials.signer_of_run(shown, root, run, signature, NOW)
    assert signer is not None and signer[0] == "ana"
    leaf, intermediate = split(shown)
    assert credentials.signer_of_run(leaf, root, run, signature, NOW) is None
    assert credentials.signer_of_run(shown, intermediate, run, signature, NOW) is not None
    later = NOW + timedelta(days=4 * 365)
    assert credentials.signer_of_run(shown, root, run, signature, later) is None
    document = receipts.seal(
        {"receipt": {}},
        (tmp_path / "pki" / "hub.key").read_bytes(),
        (tmp_path / "pki" / "hub.crt").read_bytes(),
    )
    assert receipts._hub(document, document["receipt"], root) == []
    pki.make_authority(tmp_path / "other", ["localhost"])
    other = (tmp_path / "other" / "ca.crt").read_bytes()
    assert receipts._hub(document, document["receipt"], other) != []


def split(shown: bytes) -> list[bytes]:
    pem = serialization.Encoding.PEM
    return [each.public_bytes(pem) for each in x509.load_pem_x509_certificates(shown)]


def authority(
    issuer: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    *,
    ca: bool = True,
    length: int | None = 0,
    signs: bool = True,
    days: int = 30,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """An intermediate that is right in all but what is said."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "made here")])
    builder = pki._certificate(name, issuer.subject, key.public_key(), signer, days)
    builder = builder.add_extension(x509.BasicConstraints(ca, length if ca else None), True)
    return builder.add_extension(pki._usage(signs=signs), True).sign(signer, hashes.SHA256()), key


@pytest.mark.parametrize(
    ("wrong", "counts"),
    [
        ({}, True),
        ({"ca": False}, False),
        ({"signs": False}, False),
        ({"length": None}, False),
        ({"length": 1}, False),
        ({"days": 0}, False),
    ],
)
def test_only_an_intermediate_vouches_for_a_leaf(
    wrong: dict[str, int], counts: bool, tmp_path: Path
) -> None:
    pki.make_authority(tmp_path, ["localhost"])
    root, signer = pki._authority(tmp_path, pki.ROOT)
    middle, key = authority(root, signer, **wrong)
    leaf, _ = authority(middle, key, ca=False, signs=False)
    pem = serialization.Encoding.PEM
    shown = leaf.public_bytes(pem) + middle.public_bytes(pem)
    now = datetime.now(UTC) + timedelta(minutes=1)
    leaf_found = chains.leaf_of(shown, root.public_bytes(pem), now)
    assert (leaf_found is not None) == counts


def test_neither_two_intermediates_nor_the_leaf_of_a_party_vouch(tmp_path: Path) -> None:
    """A coordinator certifies another name; an intermediate lets another one sign."""
    pki.make_authority(tmp_path / "pki", ["localhost"])
    root, signer = pki._authority(tmp_path / "pki", pki.ROOT)
    first, key = authority(root, signer)
    second, other = authority(first, key)
    leaf, _ = authority(second, other, ca=False, signs=False)
    pem = serialization.Encoding.PEM
    trusted = root.public_bytes(pem)
    shown = [each.public_bytes(pem) for each in (leaf, second, first)]
    assert chains.leaf_of(b"".join(shown), trusted) is None
    ana, certificate = coordinator(tmp_path / "pki")
    holder = x509.load_pem_x509_certificate(certificate)
    bob, _ = authority(holder, credentials.private_key(ana), ca=False, signs=False)
    assert chains.leaf_of(bob.public_bytes(pem) + certificate, trusted) is None
    assert chains.leaf_of(certificate * 6, trusted) is None
    for text in (b"", b"-----BEGIN CERTIFICATE-----\n", certificate[:200], b"\xff" * 100):
        assert chains.leaf_of(text, trusted) is None


def test_the_hub_keeps_the_intermediates_certificate_with_a_coordinators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes need both, since they know the root alone."""
    hub = tmp_path / "hub"
    with hub_services.running(hub):
        pass
    with_intermediate(hub / "pki")
    make, callers = serving.Caller, list[serving.Caller]()

    def spy(party: Party, certificate: str) -> serving.Caller:
        callers.append(make(party, certificate))
        return callers[-1]

    monkeypatch.setattr(serving, "Caller", spy)
    with hub_services.running(hub) as service:
        assert listed(enrolled(service, tmp_path / "ana", "ana"))
    root = (hub / "pki" / "ca.crt").read_bytes()
    assert chains.leaf_of(callers[-1].certificate.encode(), root) is not None


# -- slips
@pytest.mark.parametrize(
    "options",
    [
        ["chu-limoges", "--authority"],
        ["chu-limoges", "--intermediate"],
        ["--authority", "--intermediate"],
        ["--certificate", "signed.crt"],
        ["--token", "pkcs11:token=a;object=b?module-path=/m.so"],
        ["chu-limoges", "--token", "pkcs11:token=a;object=b?module-path=/m.so"],
        ["--intermediate", "--certificate", "none.crt"],
        ["--intermediate", "--token", "file:///ca.key"],
    ],
)
def test_a_rotation_that_is_not_clear_changes_nothing(options: list[str], tmp_path: Path) -> None:
    """`rotate NAME --authority` would invite everyone anew in place of one node."""
    settings.init(tmp_path, ["localhost"], 8443, None, "127.0.0.1")
    before = {path: path.read_bytes() for path in (tmp_path / "pki").iterdir() if path.is_file()}
    result = CliRunner().invoke(app, ["hub", "rotate", *options, "--hub-dir", str(tmp_path)])
    assert isinstance(result.exception, errors.InputError)
    after = {path: path.read_bytes() for path in before}
    assert after == before and pki.signer_of(tmp_path / "pki") == pki.ROOT


def test_a_folder_without_a_root_certifies_nothing(tmp_path: Path) -> None:
    (tmp_path / "csr").write_text("x")
    with pytest.raises(errors.InputError, match=r"there is no ca\.crt"):
        parties.certify(tmp_path / "csr", tmp_path, tmp_path / "out.crt")
    pki.make_authority(tmp_path, ["localhost"])
    for request in ("csr", "missing"):
        with pytest.raises(errors.InputError):
            parties.certify(tmp_path / request, tmp_path, tmp_path / "out.crt")
    assert not (tmp_path / "out.crt").exists()
