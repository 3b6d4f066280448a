"""Notices reach a webhook and a mailbox, hold no text of a study, wait for a receiver that is away,
and are sent once."""

from __future__ import annotations

import json
import logging
import re
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aggregator import database, settings
from federation import audit, errors, language, notices
from federation.cli.actions import channels, node_setup
from federation.notices import Notice, Notifier, Notify
from nodes import setup
from nodes import site as sites

HASH = "46e448e7dafe" + "0" * 52
TITLE = "everyone-of-rue-haute"  # a study's name, which is its coordinator's text


class Receiver(ThreadingHTTPServer):
    """`status`: what it answers. `bodies`: what it took."""

    def __init__(self) -> None:
        self.status, self.bodies = 200, list[Any]()
        super().__init__(("127.0.0.1", 0), _Request)


class _Request(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.status == 200:
            self.server.bodies.append(body)
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def secret(path: Path, text: str) -> Path:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def url(receiver: Receiver) -> str:
    return f"http://127.0.0.1:{receiver.server_address[1]}/token-1234"


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def notifier(folder: Path, receiver: Receiver, clock: Clock, **more: Any) -> Notifier:
    notify = Notify(webhook_file=secret(folder / "webhook", url(receiver)), **more)
    log, position = folder / "audit.jsonl", folder / "notices.json"
    return Notifier(notify, "hub", True, log, position, notices.channels(notify), clock)


def submit(folder: Path, number: int = 1) -> None:
    audit.write(
        folder / "audit.jsonl", "submitted", number=number, study=TITLE, study_hash=HASH,
        coordinator="alice", nodes=["lyon"],
    )  # fmt: skip


# -- which entries are told
@pytest.mark.parametrize(
    ("is_hub", "entry", "event", "verdict"),
    [
        (True, {"event": "submitted", "number": 3}, "waiting", ""),
        (True, {"event": "approved", "number": 3, "node": "lyon"}, "decided", "approved"),
        (True, {"event": "refused", "number": 3, "node": "lyon"}, "decided", "refused"),
        (True, {"event": "refused", "number": 3, "why": TITLE}, "ended", "refused"),
        (True, {"event": "complete", "number": 3}, "released", "complete"),
        (True, {"event": "partial", "number": 3}, "released", "partial"),
        (True, {"event": "failed", "number": 3, "why": TITLE}, "ended", "failed"),
        (True, {"event": "cancelled", "number": 3, "by": "alice"}, "ended", "cancelled"),
        (False, {"event": "proposed", "verdict": "waiting"}, "waiting", ""),
        (False, {"event": "proposed", "verdict": "refused"}, "decided", "refused"),
        (False, {"event": "approved", "by": "the officer"}, "decided", "approved"),
        (False, {"event": "refused", "by": "the officer", "why": TITLE}, "decided", "refused"),
    ],
)
def test_a_study_that_waits_is_decided_or_ends_is_told_without_its_text(
    is_hub: bool, entry: dict[str, Any], event: str, verdict: str
) -> None:
    full = {**entry, "study": TITLE, "study_hash": HASH, "at": "2026-11-28T10:00:00"}
    notice = notices.notice_of(full, "hub.example.org", is_hub)
    assert notice is not None and (notice.event, notice.verdict) == (event, verdict)
    sent = notice.sentence + json.dumps(vars(notice))
    assert "46e448e7dafe" in sent and "rue-haute" not in sent and HASH not in sent


@pytest.mark.parametrize(
    ("is_hub", "entry"),
    [
        (True, {"event": "hub started"}),
        (True, {"event": "started", "number": 1, "study_hash": HASH}),
        (False, {"event": "answered", "study_hash": HASH}),
        (False, {"event": "refused", "rule": "message", "why": "not a query"}),
        (False, {"event": "refused", "rule": "coordinator", "study_hash": HASH}),
    ],
)
def test_nothing_else_is_told(is_hub: bool, entry: dict[str, Any]) -> None:
    assert notices.notice_of(entry, "hub", is_hub) is None


def test_every_state_in_which_a_study_ends_is_told() -> None:
    assert set(database.OVER) <= set(notices.HUB_EVENTS)


# -- sending
def test_only_what_happens_from_now_on_is_told_once_also_over_a_restart(
    tmp_path: Path, receiver: Receiver
) -> None:
    submit(tmp_path, 1)
    following = notifier(tmp_path, receiver, Clock())
    following.step()
    assert receiver.bodies == []
    submit(tmp_path, 2)
    following.step()
    following.step()
    submit(tmp_path, 3)
    notifier(tmp_path, receiver, Clock()).step()
    numbers = [notice["number"] for body in receiver.bodies for notice in body["notices"]]
    assert numbers == [2, 3]
    assert "rue-haute" not in json.dumps(receiver.bodies)


@pytest.mark.parametrize("status", [500, 404, 302])
def test_a_receiver_that_is_away_gets_them_later_in_one_message(
    tmp_path: Path, receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    following = notifier(tmp_path, receiver, clock)
    receiver.status = status
    submit(tmp_path, 1)
    with caplog.at_level(logging.WARNING):
        following.step()
    assert f"answers {status}" in caplog.text and "token-1234" not in caplog.text
    assert following.failing == {"webhook": True}
    submit(tmp_path, 2)
    receiver.status = 200
    following.step()
    assert receiver.bodies == []  # not before its wait is over
    clock.seconds += notices.FIRST_WAIT_S
    following.step()
    (body,) = receiver.bodies
    assert [notice["number"] for notice in body["notices"]] == [1, 2]
    assert following.failing == {"webhook": False}


def test_waits_double_up_to_an_hour(tmp_path: Path, receiver: Receiver) -> None:
    clock = Clock()
    following = notifier(tmp_path, receiver, clock)
    receiver.status = 503
    submit(tmp_path)
    waits = []
    for _ in range(12):
        following.step()
        waits.append(following.channels[0].wait_s)
        clock.seconds += waits[-1]
    assert waits[:3] == [5, 10, 20] and waits[-1] == waits[-2] == notices.LAST_WAIT_S


def test_only_the_events_that_are_asked_for_are_sent(tmp_path: Path, receiver: Receiver) -> None:
    following = notifier(tmp_path, receiver, Clock(), events=("released",))
    submit(tmp_path)
    audit.write(tmp_path / "audit.jsonl", "complete", number=1, study_hash=HASH, why="")
    following.step()
    assert [n["event"] for body in receiver.bodies for n in body["notices"]] == ["released"]


def test_a_long_backlog_goes_in_several_messages(tmp_path: Path, receiver: Receiver) -> None:
    following = notifier(tmp_path, receiver, Clock())
    for number in range(notices.MAX_BATCH + 1):
        submit(tmp_path, number + 1)
    following.step()
    following.step()
    assert [len(body["notices"]) for body in receiver.bodies] == [notices.MAX_BATCH, 1]


class _Smtp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        lines: list[str] = []
        while line := self.rfile.readline():
            word = line[:4].upper().strip()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                while (text := self.rfile.readline()) != b".\r\n":
                    lines.append(text.decode())
                self.server.taken.append("".join(lines))  # type: ignore[attr-defined]
            if word == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            self.wfile.write(b"250 yes\r\n")


def test_an_email_names_the_study_by_its_hash(tmp_path: Path) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Smtp) as server:
        server.taken = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        email = {"host": "127.0.0.1", "port": server.server_address[1], "tls": "none"}
        people = {"sender": "hdh@example.org", "to": ["dpo@example.org", "data@example.org"]}
        notify = Notify.model_validate({"email": {**email, **people}})
        notice = Notice("waiting", "lyon", HASH[:12], 0, "", "", "2026-11-28T10:00:00")
        assert notices._failure(notices.channels(notify)["email"], [notice]) == ""
        (text,) = server.taken  # type: ignore[attr-defined]
        server.shutdown()
    assert "Subject: hdh lyon: study 46e448e7dafe waits for a decision" in text
    assert "To: dpo@example.org, data@example.org" in text


# -- the reader's language
@pytest.mark.parametrize(
    ("key", "daemon", "text"),
    [
        ({}, "en", "2026-11-28T10:00 UTC  study 46e448e7dafe (number 3) was approved by lyon"),
        ({}, "fr", "28/11/2026 10:00 UTC  étude 46e448e7dafe (numéro 3) a été approuvée par lyon"),
        ({"language": "fr"}, "en", "a été approuvée par lyon"),
        ({"language": "en"}, "fr", "was approved by lyon"),
    ],
)
def test_a_notice_has_the_operators_language_and_data_for_programs_stay_english(
    tmp_path: Path, receiver: Receiver, key: dict[str, str], daemon: str, text: str
) -> None:
    with language.using(daemon):
        following = notifier(tmp_path, receiver, Clock(), **key)
    audit.write(tmp_path / "audit.jsonl", "approved", number=3, study_hash=HASH, node="lyon")
    thread = threading.Thread(target=following.step)  # as in a daemon: it has no language
    thread.start()
    thread.join()
    (body,) = receiver.bodies
    sentence = body["text"].replace(body["notices"][0]["at"][:16], "2026-11-28T10:00")
    assert text in re.sub(r"^../../.... ..:..", "28/11/2026 10:00", sentence)
    assert (body["notices"][0]["event"], body["notices"][0]["verdict"]) == ("decided", "approved")


def test_every_notice_has_its_french() -> None:
    """No English word is left, in any event with any verdict."""
    english = {word for text in (*notices.WORDS.values(), *notices.OUTCOMES.values()) for word in
               text.split()} | {"study", "number", "by", "test"}  # fmt: skip
    for event, verdict in [*((event, "") for event in notices.EVENTS), *notices.OUTCOMES]:
        with language.using("fr"):
            sentence = Notice(
                event, "lyon", HASH[:12], 3, verdict, "lyon", "2026-11-28T10"
            ).sentence
        assert not english - {"a"} & set(re.split(r"\W+", sentence)), sentence


def test_a_french_email_has_a_french_subject() -> None:
    sent = {"host": "localhost", "sender": "a@example.org", "to": ["b@example.org"]}
    notice = Notice("ended", "chu.fr", HASH[:12], 0, "cancelled", "", "2026-11-28T10:00:00")
    with language.using("fr"):
        single = notices.as_email([notice], notices.Email.model_validate(sent))
        several = notices.as_email([notice] * 2, notices.Email.model_validate(sent))
    ended = "étude 46e448e7dafe s'est terminée sans résultat : elle a été annulée"
    assert single["Subject"] == f"hdh chu.fr\u00a0: {ended}".replace(
        "résultat :", "résultat\u00a0:"
    )
    assert several["Subject"] == "hdh chu.fr\u00a0: 2 avis sur des études"
    assert "`hdh node studies` sur le nœud" in several.get_content()


# -- the configuration
@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("https://example.org/x", 0o644, "chmod 600"),
        ("", 0o600, "empty"),
        ("http://example.org/x", 0o600, "with https"),
        ("ftp://example.org/x", 0o600, "with https"),
        ("file:///etc/hostname", 0o600, "with https"),
    ],
)
def test_a_secret_that_others_read_or_that_is_no_url_is_refused(
    tmp_path: Path, text: str, mode: int, why: str
) -> None:
    path = secret(tmp_path / "webhook", text)
    path.chmod(mode)
    with pytest.raises(errors.SetupError, match=why) as refused:
        notices.channels(Notify(webhook_file=path))
    assert "example.org" not in str(refused.value)


def test_both_configurations_name_their_secrets_from_their_own_folder(
    tmp_path: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    path = setup.init(tmp_path / "node", "lyon")
    path.write_text(path.read_text() + "notify: {webhook_file: webhook}\nsyslog: /dev/log\n")
    secret(path.parent / "webhook", url(receiver))
    site = sites.load(path)
    assert site.notify is not None and site.notify.webhook_file == path.parent / "webhook"
    node_setup.test_notices(path)
    assert "webhook: the test notice was accepted" in capsys.readouterr().out
    receiver.status = 500
    with pytest.raises(errors.SetupError, match="no notice reaches webhook"):
        node_setup.test_notices(path)
    hub = settings.init(
        tmp_path / "hub", ["localhost"], 8443, None, "127.0.0.1", notify={"webhook_file": "w"}
    )
    loaded = settings.load(hub.folder)
    assert loaded.notify is not None and loaded.notify.webhook_file == hub.folder / "w"
    with pytest.raises(errors.SetupError, match="no channel is configured"):
        channels.test(None, "hub", path)


def test_a_password_goes_in_the_clear_to_this_machine_alone() -> None:
    sent = {"tls": "none", "sender": "hdh@example.org", "to": ["dpo@example.org"]}
    assert notices.Email.model_validate({**sent, "host": "localhost"})
    with pytest.raises(ValueError, match="write starttls"):
        notices.Email.model_validate({**sent, "host": "smtp.example.org"})


def test_a_new_entry_costs_no_look_at_what_was_told_already(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_LOG", 1000)
    for number in range(1, 20):
        submit(tmp_path, number)
    following = notifier(tmp_path, receiver, Clock())
    following.step()
    for former in audit.files(tmp_path / "audit.jsonl")[:-1]:
        former.write_text("not even an entry\n")
    submit(tmp_path, 20)
    following.step()
    following.step()
    assert [each["number"] for body in receiver.bodies for each in body["notices"]] == [20]
