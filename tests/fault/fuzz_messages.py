"""Messages made to break a parser, sent to every route of the hub and every door of a node.

Each must end in an answer or in a refusal of that message: no bug of ours, no text of an exception,
no more time and memory than a message may cost. The corpus holds the messages that once broke
something; `hypothesis` makes more of them from the fields of hub.proto and from sound messages.

    python -m tests.fault.fuzz_messages [EXAMPLES]     for `make audit`
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aggregator.serving import Route
from federation import audit, codec, credentials
from federation.messages import NoisedAnswer, Part, Query, Refusal, Reply, State, TaskId
from federation.rpc import hub_pb2
from tests import deployments, hub_services
from tests.hub_services import Service

MAX_S = 20.0  # of one message, on a machine under load; a bomb takes minutes
MAX_GROWTH = 400 * 2**20  # bytes, over a whole run
ALLOWED = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
STUDY = deployments.study("fuzzed", coordinator="ana")
CONTRACT = deployments.CONTRACT
TEXTS = [
    "",
    "a",
    "x" * 100_000,
    "\x1b[2J",
    "\u202e",
    "%",
    "..",
    "=cmd|' /C calc'!A0",
    "[" * 50_000,
    '{"a":' * 5_000,
    "0" * 64,
    "g" * 64,
    "1e999",
    "9" * 5000,
    STUDY.model_dump_json(),
    CONTRACT.canonical(),
    '{"x":"\\ud800"}',
]
NUMBERS = [0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64 - 1]
FLOATS = [0.0, -1.0, 1e300, float("inf"), float("nan"), time.time()]


NAMES = {"coordinator": "ana", "node": "lyon"}  # of the parties that call, by role


# -- made from the descriptors of hub.proto
def messages(kind: Any) -> st.SearchStrategy[Any]:
    """Messages of a class of hub.proto, whose fields are hostile, sound or left out."""
    by_field = {field.name: _values(field) for field in kind.DESCRIPTOR.fields}
    return st.fixed_dictionaries({}, optional=by_field).map(lambda values: _built(kind, values))


def _values(field: Any) -> st.SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        return st.dictionaries(st.sampled_from(TEXTS), _single(value), max_size=3)
    single = _single(field)
    return st.lists(single, max_size=4) if field.is_repeated else single


def _single(field: Any) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type._concrete_class)
    kinds: dict[int, st.SearchStrategy[Any]] = {
        field.CPPTYPE_STRING: st.sampled_from(TEXTS) | st.text(max_size=40),
        field.CPPTYPE_DOUBLE: st.sampled_from(FLOATS),
        field.CPPTYPE_BOOL: st.booleans(),
    }
    if field.type == field.TYPE_BYTES:
        return st.binary(max_size=64) | st.just(b"\0" * 100_000)
    return kinds.get(field.cpp_type, st.sampled_from(NUMBERS))


def _built(kind: Any, values: dict[str, Any]) -> Any:
    """The message of the values that protobuf itself can hold."""
    message = kind()
    for name, value in values.items():
        try:
            message.MergeFrom(kind(**{name: value}))
        except (ValueError, TypeError):
            continue
    return message


# -- the hub
class Context:
    """Of one call: its bytes, and how it ended."""

    def __init__(self, content: bytes, certificate: bytes) -> None:
        self.content, self.certificate = content, certificate
        self.replies: list[Any] = []
        self.code: grpc.StatusCode | None = None
        self.text = ""

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self.certificate]}

    async def read(self) -> bytes:
        return self.content

    async def write(self, reply: Any) -> None:
        self.replies.append(reply)

    async def abort(self, code: grpc.StatusCode, text: str) -> None:
        self.code, self.text = code, text
        raise grpc.aio.AbortError


def call(service: Service, route: Route, content: bytes, certificate: bytes) -> Context:
    """One call of the hub's gate. A stream is ended after a moment."""
    context = Context(content, certificate)

    async def run() -> None:
        gate = service.servers.gate
        seconds = 0.05 if route.kind == "stream" else MAX_S
        await asyncio.wait_for(gate.call(route, context), seconds)

    started = time.monotonic()
    try:
        asyncio.run(run())
    except grpc.aio.AbortError:
        assert context.code in ALLOWED, (context.code, context.text, content[:200])
    except TimeoutError:
        assert route.kind == "stream", ("it took too long", content[:200])
    assert time.monotonic() - started < MAX_S, content[:200]
    assert "Traceback" not in context.text
    return context


def corpus() -> Iterator[tuple[str, Any]]:
    """By route, the messages of THREATS and their kin."""
    submit = {
        "study": STUDY.model_dump_json(),
        "contract": CONTRACT.canonical(),
        "nodes": ["lyon"],
    }
    bombs: list[dict[str, Any]] = [
        {"f": {"run": "fedavg", "model": "ill ~ (age + ill)^99999999"}},
        {"f": {"run": "describe", "columns": ["age"] * 20_000}},
        {"f": {"run": "glm", "model": "ill ~ " + " + ".join(f"I(age^{i})" for i in range(400))}},
        {f"a{i}": {"run": "describe", "columns": ["age"]} for i in range(1000)},
    ]
    for bomb in bombs:
        values = {**STUDY.model_dump(mode="json"), "analyses": bomb}
        text = json.dumps(values)
        yield "Coordination.Draft", hub_pb2.SubmitRequest(**{**submit, "study": text})
    for text in TEXTS:
        yield "Coordination.Cancel", hub_pb2.StudyRequest(study=text)
        yield "Coordination.Draft", hub_pb2.SubmitRequest(**{**submit, "contract": text})
    for deadline in FLOATS:
        yield "Coordination.Draft", hub_pb2.SubmitRequest(**submit, deadline_s=deadline)
        yield "Coordination.Submit", hub_pb2.SubmitRequest(**submit, deadline=deadline, number=1)
    yield "Nodes.Decide", hub_pb2.Decision(verdict="refused", reason="x" * 2**21, run="0" * 64)
    yield "Nodes.Watch", hub_pb2.Hello(version="\x1b" * 10_000)
    yield "Enrolment.Enrol", hub_pb2.EnrolRequest(secret=b"x" * 32, csr="-----BEGIN" * 1000)


def fuzz_hub(service: Service, examples: int) -> None:
    """Every route, with the corpus, with bytes that are no message, and with made messages."""
    parties = {role: service.enrol(name, role) for role, name in NAMES.items()}
    routes = service.servers.routes
    for name, message in corpus():
        call(service, routes[name], message.SerializeToString(), _certificate(name, parties))
    for name, route in routes.items():
        _fuzz_route(service, route, _certificate(name, parties), examples)
    audit.check_writable(service.hub.audit)
    audit.verify(service.hub.audit)


def _certificate(route: str, parties: dict[str, dict[str, bytes]]) -> bytes:
    return parties["node" if route.startswith("Nodes") else "coordinator"]["certificate"]


def _fuzz_route(service: Service, route: Route, certificate: bytes, examples: int) -> None:
    for garbage in (b"", b"\xff" * 64, b"\x0a" * 1000, b"\x0a\xff\xff\xff\xff\x7f"):
        call(service, route, garbage, certificate)

    @_with(examples)
    @given(messages(route.request))
    def every_message_ends_its_own_call_alone(message: Any) -> None:
        call(service, route, message.SerializeToString(), certificate)

    every_message_ends_its_own_call_alone()


def _with(examples: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


# -- a node
def sound_bytes() -> list[bytes]:
    """A query and replies of each kind, as bytes."""
    noised = NoisedAnswer({"s": np.arange(3)}, {"s": 0.5}, {"s": 2.0}, "2026-01-01")
    part = Part({"s": np.arange(4.0)}, {"people": np.array([12])}, {"s": 1.0})
    answers = {TaskId("d"): part, TaskId("d", "lyon"): noised, TaskId("e"): Refusal("r", "remedy")}
    query = Query(STUDY, CONTRACT.hash, 1, ("lyon",), {TaskId("d"): State("start")}, run="0" * 64)
    return [codec.query_to_bytes(query), codec.reply_to_bytes(Reply("lyon", 1, answers))]


def fuzz_codec(examples: int) -> None:
    """Sound messages of which some bytes are changed or cut, and headers that are made."""
    sound = sound_bytes()
    json_values = st.recursive(
        st.none() | st.booleans() | st.sampled_from([*NUMBERS, *TEXTS]),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
        max_leaves=12,
    )
    fields = ("kind", "node", "round", "answers", "head", "charged", "study", "states", "phase")

    @_with(examples)
    @given(st.sampled_from(sound), st.integers(0, 10**6), st.binary(max_size=8), st.integers(0, 64))
    def changed_bytes_are_refused(content: bytes, at: int, put: bytes, cut: int) -> None:
        at %= len(content)
        _read(content[:at] + put + content[at + cut :])

    @_with(examples)
    @given(
        st.fixed_dictionaries({"kind": st.sampled_from(["query", "reply", "noised"])}).flatmap(
            lambda base: st.dictionaries(st.sampled_from(fields), json_values).map(
                lambda values: {**values, **base}
            )
        )
    )
    def made_headers_are_refused(header: dict[str, Any]) -> None:
        text = json.dumps(header).encode()
        _read(codec.MAGIC + len(text).to_bytes(8, "little") + text)

    changed_bytes_are_refused()
    made_headers_are_refused()


def _read(content: bytes) -> None:
    """A message is read, or refused as a message."""
    for reader in (codec.query_from_bytes, codec.reply_from_bytes, codec.noised_from_bytes):
        with suppress(codec.CodecError):
            reader(content)  # type: ignore[operator]


def fuzz_notices(folder: Path, examples: int) -> None:
    """Notices of a hub that lies, as a node receives them."""
    from nodes import hub_stream
    from nodes.approvals import Approvals
    from nodes.session import NodeContext

    sites = deployments.sites(folder, "lyon")
    state = folder / "state"
    state.mkdir()
    context = NodeContext(sites[0])
    stream: Any = hub_stream.HubStream.__new__(hub_stream.HubStream)
    stream.context, stream.approvals = context, Approvals(state / "approvals.sqlite")
    (state / "ca.crt").write_bytes(b"")
    stream.enrolment = credentials.Credentials(state, "lyon", "node", "h:1", "h:2", 1)

    @_with(examples)
    @given(messages(hub_pb2.Notice))
    def a_notice_is_dropped_or_decided_on(notice: hub_pb2.Notice) -> None:
        started = time.monotonic()
        if hub_stream._is_admitted(stream, notice) and notice.HasField("proposal"):
            decision = hub_stream.consider(stream, notice.proposal)
            assert decision is None or decision.verdict == "refused"
        assert time.monotonic() - started < MAX_S

    a_notice_is_dropped_or_decided_on()


def run(examples: int, folder: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with hub_services.running(folder / "hub") as service:
        fuzz_hub(service, examples)
    fuzz_codec(5 * examples)
    fuzz_notices(folder, examples)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert grown < MAX_GROWTH, f"memory grew by {grown // 2**20} MB"


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory() as temporary:
        run(wanted, Path(temporary))
    print(f"{wanted} messages for each route: each was answered or refused")
