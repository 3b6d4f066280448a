"""Hosts and ports: names, and addresses of IPv4 and IPv6."""

from __future__ import annotations

import ipaddress
import re
import socket

from federation import errors

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*\.?")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def split(text: str) -> tuple[str, int]:
    """The host and the port of HOST:PORT; [HOST]:PORT in IPv6."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise errors.InputError(f"{text!r} is not HOST:PORT, as in hub.example.org:8445")
    return host.strip("[]"), int(port)


def joined(host: str, port: int) -> str:
    """HOST:PORT; [HOST]:PORT in IPv6."""
    bare = host.strip("[]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def host(text: str) -> str:
    """A name or an address of a machine, without the brackets of IPv6. InputError if it is neither,
    since no certificate could be made for it."""
    bare = text.strip("[]")
    if is_address(bare):
        return bare
    if not text.isascii():
        raise errors.InputError(f"the host {text!r} must be written {_in_ascii(text)}")
    if not _NAME.fullmatch(text) or text.rstrip(".").rpartition(".")[2].isdecimal():
        raise errors.InputError(
            f"{text!r} is no name or address of a machine, such as hub.example.org, 192.0.2.7 or"
            " 2001:db8::7; a port is no part of it"
        )
    return text


def _in_ascii(text: str) -> str:
    """A name with accents as the domain name system has it."""
    try:
        return text.encode("idna").decode()
    except UnicodeError:
        return "in ASCII, as the domain name system has it"


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def listener(address: str, backlog: int = 128) -> socket.socket:
    """A socket that listens at HOST:PORT. OSError if the port cannot be opened."""
    where, port = split(address)
    family = socket.AF_INET6 if ":" in where else socket.AF_INET
    return socket.create_server((where, port), family=family, backlog=backlog)


def connection(address: str, timeout_s: float) -> socket.socket:
    """A connection to HOST:PORT; to this machine where HOST is all of its addresses. OSError if
    there is none."""
    where, port = split(address)
    try:
        return socket.create_connection((_EVERYWHERE.get(where, where), port), timeout=timeout_s)
    except UnicodeError:  # of a name that can be none, such as a..b
        raise OSError("the name cannot be resolved") from None
