"""How a study ends at the hub's ServerApp: with a result, or so that the hub runs it again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import Error, Metadata
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode

from aggregator import jobs
from aggregator.flower import server_app
from aggregator.flower.ask import Away
from aggregator.flower.server_app import GridPost, Sent
from aggregator.jobs import Job
from federation import errors
from federation.receipts import Asked
from tests.deployments import CONTRACT, study

JOB = Job(study("s"), CONTRACT, {7: "lyon"}, {"lyon": "00" * 32})
SENT = Sent("lyon", Asked("run", "0" * 64, 1, "", ""))


def read(code: int, tmp_path: Path) -> object:
    post = GridPost(SimpleNamespace(), JOB, tmp_path, "1-1")  # type: ignore[arg-type]
    about = Metadata(1, "reply", 7, 1, "query", "1", 0.0, 60.0, "query")
    return post._read(make_message(about, error=Error(code, "why")), SENT)


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ],
    ids=["its heartbeat was lost", "the query was forgotten", "the reply was forgotten"],
)
def test_what_flower_lost_is_asked_again(code: int, tmp_path: Path) -> None:
    assert isinstance(read(code, tmp_path), Away)


@pytest.mark.parametrize("code", [ErrorCode.CLIENT_APP_RAISED_EXCEPTION, 2000])
def test_what_a_node_itself_refuses_is_not(code: int, tmp_path: Path) -> None:
    reply = read(code, tmp_path)
    assert isinstance(reply, str) and not isinstance(reply, Away)


def ended(failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The result that is written when a study meets this failure; None if none is."""

    def run(post: GridPost) -> None:
        raise failure

    monkeypatch.setattr(server_app, "_run", run)
    jobs.write(tmp_path, "1-1", JOB)
    context = SimpleNamespace(run_config={"directory": str(tmp_path), "job": "1-1"})
    with suppress(type(failure)):
        server_app.app._main(SimpleNamespace(), context)  # type: ignore[misc,arg-type]
    return jobs.read_result(tmp_path, "1-1")


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("late"),
        httpx.RemoteProtocolError("cut"),
        KeyboardInterrupt(),
        SystemExit(1),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_the_end_of_another_process_is_no_result_so_that_the_study_runs_again(
    failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ended(failure, tmp_path, monkeypatch) is None


def test_a_bug_and_a_refusal_are_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bug = ended(ZeroDivisionError("secret"), tmp_path, monkeypatch)
    assert "bug of ours (ZeroDivisionError)" in bug["message"] and "secret" not in bug["message"]
    refusal = ended(errors.RefusalError("too few"), tmp_path, monkeypatch)
    assert refusal == {"error": "RefusalError", "message": "too few"}
