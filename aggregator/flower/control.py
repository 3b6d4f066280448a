"""The hub's own calls of Flower's control API, on loopback with a token: nodes in and out, runs started and stopped.

Leans on private names of Flower: see test_flower_contract.py.
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

BUNDLE = (
    Path(__file__).parents[1] / "bundle.fab"
)  # `make bundle` makes it of bundle/; nodes know its hash


@dataclass(frozen=True)
class Bearer:
    token: str

    def intercept(self, context: Any, call_next: Any) -> Any:
        context.request.headers["Authorization"] = f"Bearer {self.token}"
        return call_next(context)


@dataclass(frozen=True)
class Control:
    """The address of the control port, the authority that its certificate must be of, and the token."""

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


def register(control: Control, csr: x509.CertificateSigningRequest, name: str) -> int:
    """Flower's id of a node with the key of this request."""
    public = csr.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return int(
        _call(control, "RegisterNode", RegisterNodeRequest(public_key=public, name=name)).node_id
    )


def unregister(control: Control, flower_id: int) -> None:
    """The node's next call is refused, and its process stops. One that is not there is no error."""
    try:
        _call(control, "UnregisterNode", UnregisterNodeRequest(node_id=flower_id))
    except errors.SetupError as error:
        if "404" not in str(error):
            raise


def online(control: Control) -> set[int]:
    """Flower's ids of the nodes whose heartbeat is fresh."""
    return {
        int(node.node_id)
        for node in _call(control, "ListNodes", ListNodesRequest()).nodes_info
        if node.status == "online"
    }


def start(control: Control, directory: Path, job: str) -> int:
    """Flower's id of the run."""
    values = {"directory": Scalar(string=str(directory)), "job": Scalar(string=job)}
    request = StartRunRequest(
        fab=Fab(hash_str=hashlib.sha256(control.fab).hexdigest(), content=control.fab),
        override_config=values,
    )
    return int(_call(control, "StartRun", request).run_id)


def stop(control: Control, run: int) -> None:
    """A run that is over is no error."""
    try:
        _call(control, "StopRun", StopRunRequest(run_id=run))
    except errors.SetupError as error:
        if not any(code in str(error) for code in ("404", "409", "412", "400")):
            raise


def is_over(control: Control, run: int) -> bool:
    found = _call(control, "ListRuns", ListRunsRequest(run_id=run)).run_dict
    return run not in found or found[run].status.status == "finished"


def _call(control: Control, name: str, request: Any) -> Any:
    try:
        with control.lock:
            return getattr(control.client, name)(request)
    except httpx.HTTPStatusError as error:
        raise errors.SetupError(
            f"Flower's control API answered {name} with {error.response.status_code}: {error.response.text[:200]}"
        ) from None
    except httpx.HTTPError as error:
        raise errors.SetupError(
            f"Flower's control API does not answer ({type(error).__name__}); is the hub running?"
        ) from None
