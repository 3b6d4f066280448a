"""The hub's calls of Flower's control API, over loopback with a token: it registers and unregisters
nodes, and starts and stops runs.

This module uses private names of Flower; tests/unit/aggregator/test_flower_contract.py guards them.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.transport_pb2 import Scalar
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from federation import errors

# `make bundle` builds it from bundle/; nodes know its hash.
BUNDLE = Path(__file__).parents[1] / "bundle.fab"


@dataclass(frozen=True)
class Bearer:
    token: str

    def intercept(self, context: Any, call_next: Any) -> Any:
        context.request.headers["Authorization"] = f"Bearer {self.token}"
        return call_next(context)


@dataclass(frozen=True)
class Control:
    """`admin`: the address of the control port. `authority`: the file of the authority that must
    have signed its certificate. `token`: the bearer token."""

    admin: str
    authority: Path
    token: str
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def client(self) -> ControlHttpClient:
        interceptors = [RuntimeVersionHttpInterceptor(component_name="CLI"), Bearer(self.token)]
        return ControlHttpClient.from_server_address(
            self.admin, False, self.authority.read_bytes(), interceptors
        )

    @cached_property
    def fab(self) -> bytes:
        return BUNDLE.read_bytes()


def register(
    control: Control, holder: x509.CertificateSigningRequest | x509.Certificate, name: str
) -> int:
    """Registers the key of a signing request or a certificate; returns Flower's id of the node."""
    public = holder.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return int(
        _call(control, "RegisterNode", RegisterNodeRequest(public_key=public, name=name)).node_id
    )


def unregister(control: Control, flower_id: int) -> None:
    """Unregisters a node: its next call is refused, and its process stops. An unknown id is no
    error."""
    try:
        _call(control, "UnregisterNode", UnregisterNodeRequest(node_id=flower_id))
    except errors.SetupError as error:
        if "404" not in str(error):
            raise


def registered(control: Control) -> set[int]:
    """Flower's ids of the nodes that it knows."""
    return {
        int(node.node_id)
        for node in _call(control, "ListNodes", ListNodesRequest()).nodes_info
        if node.status != "unregistered"
    }


def online(control: Control) -> set[int]:
    """Flower's ids of the nodes that are online by their heartbeat."""
    return {
        int(node.node_id)
        for node in _call(control, "ListNodes", ListNodesRequest()).nodes_info
        if node.status == "online"
    }


def start(control: Control, directory: Path, job: str) -> int:
    """Starts a run of the job; returns Flower's id of it."""
    values = {"directory": Scalar(string=str(directory)), "job": Scalar(string=job)}
    request = StartRunRequest(
        fab=Fab(hash_str=hashlib.sha256(control.fab).hexdigest(), content=control.fab),
        override_config=values,
    )
    return int(_call(control, "StartRun", request).run_id)


def stop(control: Control, run: int) -> None:
    """Stops a run. A run that has ended is no error."""
    try:
        _call(control, "StopRun", StopRunRequest(run_id=run))
    except errors.SetupError as error:
        if not any(code in str(error) for code in ("404", "409", "412", "400")):
            raise


def is_over(control: Control, run: int) -> bool:
    runs = _call(control, "ListRuns", ListRunsRequest(run_id=run)).run_dict
    return run not in runs or runs[run].status.status == "finished"


def _call(control: Control, name: str, request: Any) -> Any:
    try:
        with control.lock:
            return getattr(control.client, name)(request)
    except httpx.HTTPStatusError as error:
        raise errors.SetupError(
            f"Flower's control API answered {name} with {error.response.status_code}:"
            f" {error.response.text[:200]}"
        ) from None
    except httpx.HTTPError as error:
        raise errors.SetupError(
            f"Flower's control API does not answer ({type(error).__name__});"
            " check that the hub is running"
        ) from None
