"""The upgrade gate: the private names of Flower on which nodes/flower/ and aggregator/flower/
depend, as of the pinned version.

A failure here means: read the new Flower, adapt these modules, and only then move the pin."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import nodes


def test_the_pin() -> None:
    assert metadata.version("flwr") == "1.42.0"


def test_a_connection_yields_the_eight_callables_in_this_order() -> None:
    from flwr.supernode.fleet_http_connection import http_request_response

    source = inspect.getsource(http_request_response)
    yielded = re.search(r"yield \(\s*(.*?)\)", source, re.DOTALL)
    assert yielded is not None
    names = [name.strip() for name in yielded.group(1).split(",") if name.strip()]
    assert names == [
        "node.node_id",
        "receive",
        "send",
        "get_run",
        "get_fab",
        "pull_object",
        "push_object",
        "confirm_message_received",
    ]
    assert list(inspect.signature(http_request_response).parameters) == [
        "server_address",
        "insecure",
        "root_certificates",
        "authentication_keys",
        "max_retries",
        "max_wait_time",
    ]
    assert "GetFab" not in source.split("def get_fab")[0]  # connecting fetches no code


def test_the_superlinks_configuration_has_the_fields_that_we_fill() -> None:
    from flwr.superlink.config_loader import SuperLinkLifespanConfig
    from flwr.superlink.main import create_app

    assert {field.name for field in dataclasses.fields(SuperLinkLifespanConfig)} == {
        "control_address",
        "health_server_address",
        "host",
        "port",
        "insecure",
        "certificates",
        "superexec_auth_secret",
        "authn_plugin",
        "event_log_plugin",
        "fleet_event_log_plugin",
        "enable_event_log",
        "artifact_provider",
        "enable_supernode_auth",
        "fleet_api_type",
        "fleet_api_address",
        "simulation",
        "ssl_ca_certfile",
        "ssl_certfile",
        "ssl_keyfile",
        "database",
        "isolation",
        "runtime_dependency_install",
    }
    assert list(inspect.signature(create_app).parameters) == ["config", "superlink_lifespan_class"]


def test_a_failed_connection_is_an_error_and_not_the_end_of_the_process() -> None:
    from flwr.supernode import fleet_http_connection

    from nodes.flower import client as flower_client

    assert (
        inspect.getsource(fleet_http_connection).count("flwr_exit(") == 1
        and fleet_http_connection.flwr_exit is flower_client._stay
    )
    with pytest.raises(ConnectionError, match="it is not there"):
        flower_client._stay(
            305, "Failed to initialize the connection to the SuperLink.\nit is not there"
        )


def test_the_layers_that_we_take_off_are_there_and_those_that_guard_stay() -> None:
    from flwr.superlink.main import _get_middleware

    from aggregator.flower.superlink import IDLE

    names = [layer.cls.__name__ for layer in _get_middleware()]
    assert set(names) >= IDLE
    assert [name for name in names if name not in IDLE] == [
        "BaseHTTPMiddleware",
        "ControlAuthenticationMiddleware",
        "ProtobufTranslationMiddleware",
        "NodeAuthMiddleware",
    ]


def test_the_grid_and_the_way_its_replies_are_pulled_are_as_our_inbox_takes_them() -> None:
    from flwr.supercore.inflatable.inflatable_utils import pull_objects
    from flwr.superlink.grid.http_grid import HttpGrid

    source = inspect.getsource(HttpGrid.pull_messages)
    called = re.findall(r"self\._runtime_client\.(\w+)", source)
    assert (
        called == ["PullMessages", "PullObject", "ConfirmMessageReceived"] and "self.node" in source
    )
    assert {"initial_backoff", "max_time"} <= inspect.signature(pull_objects).parameters.keys()


def test_the_routes_of_our_own_find_the_handlers_and_the_state_that_they_use() -> None:
    """What a round takes of it is shown by test_exchange.py, over Flower's own application."""
    from flwr.server.superlink.linkstate.sql_linkstate import MessageInsModel, SqlLinkState
    from flwr.server.superlink.utils import check_abort
    from flwr.supercore.protobuf.client import ProtobufClient
    from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
    from flwr.superlink.servicer.fleet import fleet_handlers
    from flwr.superlink.servicer.runtime import runtime_handlers

    def names(function: object) -> list[str]:
        return list(inspect.signature(function).parameters)  # type: ignore[arg-type]

    assert ("POST", "/v1/fleet/pull-messages") in PROTOBUF_REQUEST_TYPES
    assert names(fleet_handlers.pull_messages) == ["request", "state", "store"]
    assert names(fleet_handlers.push_messages) == ["request", "state"]
    assert names(runtime_handlers.push_messages) == ["request", "state", "task"]
    assert names(runtime_handlers.pull_messages) == ["request", "state", "task"]
    assert names(check_abort) == ["run_id", "abort_status_list", "state"]
    called = ["path", "rpc_method", "request", "response_type", "timeout"]
    assert names(ProtobufClient._unary_unary)[1:] == called
    stored = ["run_id", "session_id", "object_id", "object_content"]
    assert names(SqlLinkState.store_object)[1:] == stored
    assert names(SqlLinkState.get_object)[1:] == ["run_id", "object_id"]
    assert callable(SqlLinkState.session)
    assert names(SqlLinkState.query) == ["self", "query", "data"]
    assert "node_ids" in inspect.signature(SqlLinkState.get_node_info).parameters
    columns = MessageInsModel.__table__.columns.keys()
    assert MessageInsModel.__tablename__ == "message_ins" and "delivered_at" in columns
    # what Flower does with an object that it is given or asked for, and we do too
    assert "state.store_object" in inspect.getsource(fleet_handlers.push_object)
    assert "state.get_object" in inspect.getsource(fleet_handlers.pull_object)
    assert "store.delete" in inspect.getsource(fleet_handlers.confirm_message_received)


def test_the_executor_asks_for_runs_and_starts_them_as_flowers_superexec_does() -> None:
    from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG, TaskType
    from flwr.supercore.superexec import run_superexec
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor

    from aggregator.flower import executor

    source = inspect.getsource(run_superexec.run_superexec)
    assert "client.AcquireTask(" in source and "SuperExecAuthHttpInterceptor(" in source
    assert frozenset({executor.ACQUIRE}) == run_superexec._SUPEREXEC_AUTH_METHODS
    launch = inspect.getsource(SubprocessExecutor.launch)
    address = TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[TaskType.SERVER_APP]
    options = [each for each in executor.arguments("a", Path(), "t") if each.startswith("--")]
    assert options == [address, "--root-certificates", "--token", "--parent-pid"]
    assert all(f'"{option}"' in launch for option in options[1:])


def test_the_bundle_is_the_one_that_nodes_know_and_holds_what_lies_beside_it() -> None:
    import hashlib
    import zipfile

    from aggregator.flower.control import BUNDLE
    from nodes.flower.client import KNOWN_BUNDLES

    assert {hashlib.sha256(BUNDLE.read_bytes()).hexdigest()} == KNOWN_BUNDLES
    with zipfile.ZipFile(BUNDLE) as archive:
        for name in ("hdh_bundle/server_app.py", "hdh_bundle/client_app.py"):
            assert archive.read(name) == (BUNDLE.parent / "bundle" / name).read_bytes()


def test_the_control_api_has_the_calls_that_we_make() -> None:
    from flwr.supercore.control import ControlHttpClient

    assert all(
        hasattr(ControlHttpClient, name)
        for name in (
            "RegisterNode",
            "UnregisterNode",
            "ListNodes",
            "StartRun",
            "StopRun",
            "ListRuns",
        )
    )


def test_a_pushed_message_names_its_sender_where_our_filter_looks() -> None:
    from flwr.proto.fleet_pb2 import PushMessagesRequest

    request = PushMessagesRequest()
    request.node.node_id = 5
    request.messages_list.add().metadata.src_node_id = 5
    assert PushMessagesRequest.FromString(request.SerializeToString()) == request


def test_a_pickled_array_is_not_loaded() -> None:
    from flwr.app import Array

    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        Array("object", (1,), "numpy.ndarray", buffer.getvalue()).numpy()


# What these files unpack, this node has packed: they speak with processes that it has started, and
# with a cluster that its operator names. Nothing of a hub or of another party comes there.
OF_ITS_OWN_PROCESSES = {
    "block_workers.py": {"subprocess", "pickle"},
    "ray_cluster.py": {"pickle"},
}


def test_the_nodes_code_has_no_loader() -> None:
    """No name by which code could be fetched, unpacked, imported by text, or run."""
    forbidden = {
        "get_fab",
        "install_from_fab",
        "load_app",
        "importlib",
        "exec",
        "eval",
        "compile",
        "subprocess",
        "pickle",
        "runpy",
        "__import__",
    }
    for path in Path(str(nodes.__file__)).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        used |= {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert used & forbidden == OF_ITS_OWN_PROCESSES.get(path.name, set()), path.name


def test_flower_is_not_imported_by_what_does_not_need_it() -> None:
    import subprocess

    code = (
        "import sys, federation.cli.main, nodes.service, aggregator.rounds, simulations.local;"
        " print([m for m in ('flwr', 'torch', 'ray', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
