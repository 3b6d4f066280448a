"""Hosts and ports, of IPv4 and IPv6."""

from __future__ import annotations

import pytest

from federation import addresses, errors
from simulations import flower


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("hub.example.org:8445", "hub.example.org", 8445),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]:8445", "::1", 8445),
        ("::1:8445", "::1", 8445),
    ],
)
def test_an_address_is_read_and_written(text: str, host: str, port: int) -> None:
    assert addresses.split(text) == (host, port)
    assert addresses.split(addresses.joined(host, port)) == (host, port)


@pytest.mark.parametrize(
    "host",
    ["hub.example.org", "hub", "h-1.example.org.", "localhost", "192.0.2.7", "2001:db8::7"],
)
def test_a_name_or_an_address_is_a_host(host: str) -> None:
    assert addresses.host(host) == host
    assert addresses.host(f"[{host}]") == host if ":" in host else True


@pytest.mark.parametrize(
    "host",
    [
        "",
        " ",
        "a b",
        "hub.example.org:8443",
        "*.example.org",
        "https://hub.example.org",
        "-a.org",
        "a..b",
        "999.1.1.1",
        f"{'a' * 64}.org",
        f"{'a.' * 130}org",
        "hub\n",
        "::g",
    ],
)
def test_what_no_certificate_could_name_is_no_host(host: str) -> None:
    with pytest.raises(errors.InputError, match="is no name or address"):
        addresses.host(host)


def test_a_name_with_accents_is_refused_with_the_one_that_works() -> None:
    with pytest.raises(errors.InputError, match=r"must be written xn--hpital-ixa\.fr"):
        addresses.host("hôpital.fr")
    with pytest.raises(errors.InputError, match="in ASCII"):
        addresses.host(f"é{'a' * 70}.fr")


@pytest.mark.parametrize(("listens", "asked"), [("::1", "::1"), ("::", "::"), ("0.0.0.0", "")])
def test_a_port_of_either_family_is_opened_and_reached(listens: str, asked: str) -> None:
    with addresses.listener(addresses.joined(listens, flower.free_ports(1))) as listener:
        port = listener.getsockname()[1]
        with addresses.connection(addresses.joined(asked or listens, port), 5):
            pass


@pytest.mark.parametrize("name", ["a..b", f"{'a' * 70}.org", "none.invalid"])
def test_a_name_that_is_none_is_a_failed_connection(name: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - of any kind, which every caller handles
        addresses.connection(f"{name}:1", 2)
