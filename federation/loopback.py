"""Connections to this machine bypass any proxy that the environment names."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

PROXIES = (
    "grpc_proxy",
    "http_proxy",
    "https_proxy",
    "all_proxy",
)  # gRPC ignores no_proxy in some versions


def without_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of processes that talk to this machine only."""
    return {name: value for name, value in environment.items() if name.lower() not in PROXIES}


def channel_options(address: str) -> list[tuple[str, int]]:
    """gRPC options for a channel to `host:port`."""
    return [("grpc.enable_http_proxy", 0)] if is_loopback(address) else []


def is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]") if address.count(":") != 0 else address
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
