"""The key of an authority on a PKCS#11 token, shown with SoftHSM (Debian: softhsm2)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aggregator import key_tokens, pki
from aggregator.key_tokens import Place
from federation import chains, credentials, errors
from tests import hub_services
from tests.unit.aggregator.test_authority import enrolled, listed

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN, TOKEN = "1234", "hdh"
needs_softhsm = pytest.mark.skipif(
    not MODULE.exists() or shutil.which("softhsm2-util") is None,
    reason="needs SoftHSM: apt-get install softhsm2",
)


def uri(key: str, token: str = TOKEN, module: str = str(MODULE)) -> str:
    return f"pkcs11:token={token};object={key}?module-path={module}"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A token, which its library finds once for the whole process."""
    pytest.importorskip("pkcs11")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "conf").write_text(f"directories.tokendir = {folder / 'tokens'}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(folder / "conf"))
        command = ["softhsm2-util", "--init-token", "--free", "--label", TOKEN]
        subprocess.run(
            [*command, "--pin", PIN, "--so-pin", "4321"], check=True, capture_output=True
        )
        patch.setenv(pki.PASSWORD, PIN)
        yield


@pytest.fixture(scope="module")
def key_on_token(token: None) -> None:
    key_tokens.make(key_tokens.place(uri("known")), PIN)


@needs_softhsm
def test_a_root_and_an_intermediate_on_a_token_sign_what_tls_accepts(
    token: None, tmp_path: Path
) -> None:
    folder = tmp_path / "hub" / "pki"
    with hub_services.running(tmp_path / "hub", token=uri("root")) as service:
        assert not (folder / "ca.key").exists()
        assert listed(enrolled(service, tmp_path / "ana", "ana"))
    csr = pki.request_intermediate(folder, token=uri("middle"))
    pki.install_intermediate(folder, pki.sign_intermediate(folder, csr), ["localhost"])
    assert not list(folder.glob("intermediate*.key"))
    (folder / "ca.pkcs11").unlink()  # the root's token is in a safe
    with hub_services.running(tmp_path / "hub") as service:
        assert listed(tmp_path / "ana")
        assert listed(enrolled(service, tmp_path / "bob", "bob"))
    shown = (tmp_path / "bob" / "own.crt").read_bytes()
    assert chains.leaf_of(shown, (folder / "ca.crt").read_bytes()) is not None


@needs_softhsm
def test_the_key_never_leaves_its_token(token: None, tmp_path: Path) -> None:
    pki.make_authority(tmp_path, ["localhost"], token=uri("kept"))
    key = pki._authority(tmp_path, pki.ROOT)[1]
    for give in (
        lambda: credentials.private_pem(key),
        key.private_numbers,
        lambda: key.exchange(pki.ec.ECDH(), key.public_key()),
    ):
        with pytest.raises(TypeError):
            give()
    assert key.curve.name == "secp384r1" and key.key_size == 384
    with pytest.raises(errors.SetupError, match="has a key 'kept' already"):
        pki.make_authority(tmp_path / "again", ["localhost"], token=uri("kept"))


@needs_softhsm
@pytest.mark.parametrize(
    ("where", "pin", "message"),
    [
        (uri("known"), "9999", "does not accept the PIN"),
        (uri("known"), "", "holds no private key|cannot be used|does not accept"),
        (uri("unknown"), PIN, "holds no private key 'unknown'"),
        (uri("known", "other"), PIN, "is not there"),
        (uri("known", module="/none.so"), PIN, "check `module-path`"),
    ],
)
def test_what_a_token_refuses_is_said_with_its_remedy_and_without_the_pin(
    key_on_token: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    pin: str,
    message: str,
) -> None:
    (tmp_path / "ca.pkcs11").write_text(where + "\n")
    monkeypatch.setenv(pki.PASSWORD, pin)
    with pytest.raises(errors.SetupError, match=message) as refused:
        pki._key(tmp_path, pki.ROOT, None).sign(b"x", pki.ec.ECDSA(pki.hashes.SHA384()))
    assert not pin or pin not in str(refused.value)


# -- a token that counts, in place of python-pkcs11, which this environment may not have
class CountingToken:
    """A token that accepts "right", and locks itself at the third wrong PIN."""

    def __init__(self) -> None:
        self.wrong, self.opened = 0, list[str]()

    @property
    def flags(self) -> int:
        return 1 if self.wrong == 2 else 0

    @contextmanager
    def open(self, user_pin: str | None, rw: bool) -> Iterator[CountingToken]:
        self.opened.append(user_pin or "")
        if self.wrong >= 3:
            raise RefusedError("PinLocked")
        if user_pin != "right":
            self.wrong += 1
            raise WrongPinError
        self.wrong = 0
        yield self


class RefusedError(Exception): ...


class WrongPinError(RefusedError): ...


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> CountingToken:
    token = CountingToken()
    exceptions = types.SimpleNamespace(
        PinIncorrect=WrongPinError,
        PinInvalid=WrongPinError,
        PinLenRange=WrongPinError,
        PKCS11Error=RefusedError,
    )
    for name in ("PinLocked", "PinExpired", "NoSuchKey", "NoSuchToken"):
        setattr(exceptions, name, type(name, (RefusedError,), {}))
    library: Any = types.ModuleType("pkcs11")
    library.exceptions = exceptions
    library.TokenFlag = types.SimpleNamespace(USER_PIN_FINAL_TRY=1)
    library.lib = lambda _module: types.SimpleNamespace(get_token=lambda token_label: token)
    monkeypatch.setitem(sys.modules, "pkcs11", library)
    monkeypatch.setattr(key_tokens, "_REFUSED", key_tokens.Refusals())
    return token


def is_open(pin: str) -> bool:
    with key_tokens._session(Place("/m.so", TOKEN, "ca"), pin):
        return True


def test_a_wrong_pin_is_tried_once_and_the_right_one_after_it(counting: CountingToken) -> None:
    """Each enrolment and renewal opens the token, and a stranger's request may be one."""
    for _ in range(20):
        with pytest.raises(errors.SetupError, match="does not accept the PIN"):
            is_open("wrong")
    assert counting.opened == ["wrong"]
    assert is_open("right") and is_open("right")
    assert counting.wrong == 0
    assert "wrong" not in repr(vars(key_tokens._REFUSED))


def test_the_last_try_of_a_token_is_left_to_its_owner(counting: CountingToken) -> None:
    """A service that is restarted with a wrong PIN again and again would lock it."""
    for _ in range(5):
        key_tokens._REFUSED.hashes.clear()  # another process
        with pytest.raises(errors.SetupError, match=r"does not accept|one try left"):
            is_open("wrong")
    assert len(counting.opened) == counting.wrong == 2
    counting.wrong = 0  # the owner has entered it elsewhere
    assert is_open("right")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pkcs11:",
        "pkcs11:token=a;object=b",
        "pkcs11:token=a?module-path=/m.so",
        "pkcs11:token=;object=b?module-path=/m.so",
        "file:///ca.key",
        "token=a;object=b?module-path=/m.so",
    ],
)
def test_another_uri_is_refused(text: str) -> None:
    with pytest.raises(errors.InputError, match="pkcs11:token=LABEL"):
        key_tokens.place(text)


def test_the_labels_of_a_uri_may_be_escaped() -> None:
    read = key_tokens.place(" pkcs11:object=hub%20key;token=a%3Bb;type=private?module-path=/m.so\n")
    assert read == Place("/m.so", "a;b", "hub key")
