"""Exit codes and reasons: 0 only where every analysis has a result."""

from __future__ import annotations

import csv
import io
import json
from contextlib import nullcontext
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from aggregator import database, report
from aggregator.document import AnalysisDocument, Document, reasons
from aggregator.report import spreadsheet
from federation import client, errors, receipts
from federation import study as studies
from federation.cli.actions import document as document_
from federation.cli.actions import receipt, study_files, submissions
from federation.client import NodeState, Status
from tests import deployments


def analysis(status: Any, reason: str | None = None) -> AnalysisDocument:
    return AnalysisDocument(
        status=status,
        reason=reason,
        exactness=None,
        why=None,
        n={},
        suppressed=0,
        notes=[],
        rounds=1,
        tables={},
        run="describe",
        privacy={},
        nodes=[],
        by_node={},
    )


def document(**analyses: AnalysisDocument) -> Document:
    return Document(
        schema_version=1,
        study="s",
        title="t",
        question="q",
        study_hash="0" * 64,
        analyses=analyses,
        provenance={"events": [], "nodes": []},
    )


GOOD, BAD = analysis("released"), analysis("failed", "it diverges")
HIDDEN = analysis("withheld", "fewer than 11 people")


@pytest.mark.parametrize(
    ("analyses", "state", "code", "reason"),
    [
        ({"a": GOOD, "b": GOOD}, "complete", 0, ""),
        ({"a": GOOD, "b": BAD}, "partial", 5, "b: failed: it diverges"),
        ({"a": GOOD, "b": HIDDEN}, "partial", 5, "b: withheld: fewer than 11 people"),
        ({"b": BAD}, "failed", 4, "b: failed: it diverges"),
        ({"a": HIDDEN}, "failed", 4, "a: withheld: fewer than 11 people"),
        (
            {"a": HIDDEN, "b": BAD},
            "failed",
            4,
            "a: withheld: fewer than 11 people; b: failed: it diverges",
        ),
    ],
    ids=["complete", "failed one", "withheld one", "failed", "withheld", "nothing"],
)
def test_the_exit_code_and_the_state_say_what_there_is_and_the_reason_why_not(
    analyses: dict[str, AnalysisDocument], state: str, code: int, reason: str
) -> None:
    result = document(**analyses)
    assert database.status_of(result) == state
    assert "; ".join(reasons(result)) == reason
    raised = {0: (), 4: (errors.RefusalError,), 5: (errors.ModelError,)}[code]
    with pytest.raises(raised) if raised else nullcontext() as failure:
        document_.raise_failures(result)
    if raised:
        assert failure.value.exit_code == code
        assert str(failure.value).replace("\n", "; ") == reason


def test_a_reason_that_names_its_analysis_names_it_once() -> None:
    result = document(m=analysis("failed", "m: 0 of the 3 nodes needed gave a part"))
    assert reasons(result) == ["m: 0 of the 3 nodes needed gave a part"]


@pytest.mark.parametrize(
    "change",
    [
        {"receipt": None},
        {"receipt": {"run": 1}},
        {"receipt": {"nodes": [1], "run": {"number": 1}}},
        {"receipt": {"hub": "x"}},
        {"analyses": [1, 2]},
        {"receipt": {"run": {"number": 1, "contract_hash": "", "nodes": [], "deadline": 1e999}}},
    ],
    ids=range(6),
)
def test_a_result_that_was_tampered_with_has_an_exit_code_of_its_own_and_no_traceback(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HDH_HOME", str(tmp_path / "nowhere"))
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**document(a=GOOD).model_dump(mode="json"), **change}))
    with pytest.raises(errors.ReceiptError) as tampered:
        receipt.verify(path, None, None)
    assert tampered.value.exit_code == 8


def test_a_receipt_of_any_form_gives_problems_and_no_exception() -> None:
    for content in ([], {"nodes": {"a": None}}, {"run": {}, "authority": "x"}, "text", 7):
        assert receipts.verify({"receipt": content, "study_hash": "x"}, None, {})


def test_an_expired_authorisation_is_refused_before_anyone_is_asked(tmp_path: Path) -> None:
    expired = deployments.study("old", authorisation={"reference": "DR-1", "expires": "2020-01-01"})
    with pytest.raises(errors.StudyError, match="'DR-1' expired on 2020-01-01; renew it"):
        studies.check_authorisation(expired, datetime.now(UTC).date())
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(expired.model_dump(mode="json")))
    (tmp_path / "people.yaml").write_text(deployments.CONTRACT.canonical())
    with pytest.raises(errors.StudyError, match="expired"):
        study_files.check(path, None)


def test_an_authorisation_counts_on_its_last_day() -> None:
    last = deployments.study("now", authorisation={"reference": "r", "expires": "2026-06-30"})
    studies.check_authorisation(last, date(2026, 6, 30))
    with pytest.raises(errors.StudyError):
        studies.check_authorisation(last, date(2026, 7, 1))


def status(**more: Any) -> Status:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    values: dict[str, Any] = {
        "number": 7,
        "study": "s",
        "study_hash": "0" * 64,
        "coordinator": "ana",
        "state": "waiting",
        "reason": "",
        "progress": "",
        "submitted": now,
        "deadline": now,
        "started": None,
        "finished": None,
        "nodes": [],
    }
    return Status(**values | more)


class Hub:
    """A hub with one study."""

    def __init__(self, one_status: Status) -> None:
        self.status = one_status

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None: ...

    def list(self) -> list[Status]:
        return [self.status]


def test_the_list_shows_a_reason_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "lyon: support: " + " ".join(f"word{i}" for i in range(60))
    hub = Hub(status(state="refused", reason=reason))
    monkeypatch.setattr(client, "connect", lambda keys: hub)
    submissions.show_all(None, "text")
    shown = "".join(capsys.readouterr().out.split())
    assert all(f"word{i}" in shown for i in range(60))


def test_a_waiting_study_says_what_it_waits_for() -> None:
    asked = NodeState("lyon", "asked", "", False, 0)
    assert status(nodes=[asked]).line() == "waiting for lyon (offline)"
    assert status(reason="place 3 of 7 in the hub's queue").line() == (
        "waiting: place 3 of 7 in the hub's queue"
    )
    assert status().line() == "about to start"
    assert status(state="partial", reason="b: failed: x").line() == "partial: b: failed: x"


def level_in_csv(level: Any) -> str:
    """The second line of the table with this level alone, unquoted."""
    (row,) = csv.DictReader(io.StringIO(spreadsheet.csv_text([{"level": level}])))
    return row["level"]


@pytest.mark.parametrize(
    "level", ["=cmd|' /C calc'!A0", "@SUM(1)", "+1+cmd|x", "-2+3+cmd|x", "\t=1"]
)
def test_a_level_that_a_spreadsheet_would_run_is_led_by_an_apostrophe(level: str) -> None:
    assert level_in_csv(level) == f"'{level}"


@pytest.mark.parametrize("level", ["-5-<10", "+", "60+", "<40", "a=b"])
def test_a_level_that_no_spreadsheet_would_run_stays_as_it_is(level: str) -> None:
    assert level_in_csv(level) == level


def test_a_table_whose_name_leaves_the_folder_is_not_written(tmp_path: Path) -> None:
    released = analysis("released").model_copy(update={"tables": {"../../x": [{"a": 1}]}})
    with pytest.raises(errors.InputError, match="cannot be a file"):
        report._write_tables(tmp_path, "a", released)
    assert list(tmp_path.iterdir()) == []
