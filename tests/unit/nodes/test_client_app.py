"""A node signs each reply for the one query that it answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas
import pytest
from flwr.app import Context, Metadata, RecordDict
from flwr.app.message import make_message

from federation import codec, receipts, wire
from federation.messages import Phase, Query, TaskId
from federation.receipts import Asked
from federation.secagg import keys
from nodes.flower import client_app
from simulations import local
from strategies import registry
from tests import federations
from tests.deployments import CONTRACT

NONCE = b"sixteen bytes .."


def signed_answer(query: Query, folder: Path) -> tuple[Asked, str, bytes, bytes]:
    """What the reply answers, its hash, its signature, and the node's public identity."""
    table = pandas.DataFrame({"age": [30.0 + 0.1 * i for i in range(100)], "ill": [True] * 100})
    site = federations.site_of("lyon", table, CONTRACT, folder)
    (node,) = local.contexts_of([site])
    app = client_app.app_of(node, lambda: federations.NOW)
    content = codec.query_to_bytes(query)
    about = Metadata(1, "1", 0, 1, "", "", federations.NOW.timestamp(), 60.0, wire.ROUND)
    asked = make_message(about, wire.query_record(content, NONCE))
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    encoded, signature = wire.reply_of(app(asked, context))
    answers = receipts.asked(query, wire.query_digest(content, NONCE))
    identity = keys.public_identity(node.identity)
    return answers, receipts.digest(encoded), signature, identity


@pytest.mark.parametrize(
    "other",
    [
        {"round": 2},
        {"phase": "mask"},
        {"phase": ""},
        {"run": "another"},
        {"left": "lyon"},
        {"query": "00" * 32},
    ],
)
def test_a_signature_is_for_one_run_round_phase_and_query(
    other: dict[str, object], tmp_path: Path
) -> None:
    study = federations.study_of({"d": {"run": "describe", "columns": ["age"]}})
    task = registry.plan(study, CONTRACT)["d"]
    states = {TaskId("d"): task.analysis.start(task)}
    phase = Phase("advertise", "x", {})
    query = Query(study, CONTRACT.hash, 1, ("lyon",), states, phase=phase, run="a run")
    answers, reply, signature, identity = signed_answer(query, tmp_path)
    assert keys.is_signed(identity, signature, receipts.reply_content(answers, reply))
    changed = receipts.reply_content(replace(answers, **other), reply)
    assert not keys.is_signed(identity, signature, changed)
