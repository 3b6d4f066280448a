"""Notices by webhook and email when a study waits, is decided, is released or ends otherwise.

A thread of the daemon follows the audit log, so a notice costs no run anything, survives a restart,
and waits while its receiver is away. It holds no text of a study: the number, the beginning of the
hash and the event.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from federation import audit, errors, language, replacements
from federation.contract import Frozen
from federation.language import tr

if TYPE_CHECKING:
    from email.message import EmailMessage

log = logging.getLogger("hdh.notices")
Event = Literal["waiting", "decided", "released", "ended"]
EVENTS: tuple[Event, ...] = ("waiting", "decided", "released", "ended")
POLL_S, FIRST_WAIT_S, LAST_WAIT_S, TIMEOUT_S = 2.0, 5.0, 3600.0, 15.0
MAX_BATCH = 50  # notices in one message
MAX_SECRET = 4096  # bytes of a file with a secret
POSITION = "notices.json"
HUB_EVENTS: Mapping[str, Event] = {
    "submitted": "waiting",
    "approved": "decided",
    "refused": "decided",
    "complete": "released",
    "partial": "released",
    "failed": "ended",
    "cancelled": "ended",
}
WORDS: Mapping[Event, str] = {
    "waiting": "waits for a decision",
    "decided": "was decided",
    "released": "has a result",
    "ended": "ended without a result",
}
OUTCOMES: Mapping[tuple[Event, str], str] = {  # by event and verdict, where more can be said
    ("decided", "approved"): "was approved",
    ("decided", "refused"): "was refused",
    ("released", "partial"): "has a partial result",
    ("ended", "failed"): "ended without a result: it failed",
    ("ended", "cancelled"): "ended without a result: it was cancelled",
    ("ended", "refused"): "ended without a result: too few nodes approved it",
}
TEST = "this is a test"  # the verdict of a notice that is about no study


class Email(Frozen):
    """`tls`: starttls on a plain port, tls from the first byte, or none on a machine of one's own.
    `password_file`: relative to the configuration, and readable by its owner only."""

    host: str = pydantic.Field(min_length=1, max_length=253)
    port: int = pydantic.Field(587, ge=1, le=65535)
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password_file: Path | None = None
    sender: str = pydantic.Field(pattern=r"^[^@\s<>]+@[^@\s<>]+$")
    to: tuple[str, ...] = pydantic.Field(min_length=1, max_length=20)

    @pydantic.model_validator(mode="after")
    def _no_password_in_the_clear(self) -> Email:
        if self.tls == "none" and self.host not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError("tls: none is for an SMTP server on this machine; write starttls")
        return self


class Notify(Frozen):
    """Who is told of which events. `webhook_file`: holds the URL, which may be a secret.
    `language`: of those who read the notices; if empty, that in which the daemon starts."""

    events: tuple[Event, ...] = EVENTS
    language: Literal["", "en", "fr"] = ""
    webhook_file: Path | None = None
    email: Email | None = None

    def under(self, folder: Path) -> Notify:
        """With the files of secrets as seen from the folder of the configuration."""
        email, file = self.email, self.webhook_file
        if email is not None and email.password_file is not None:
            email = email.model_copy(update={"password_file": folder / email.password_file})
        update = {"webhook_file": file and folder / file, "email": email}
        return self.model_copy(update=update)


@dataclass(frozen=True)
class Notice:
    """`party`: the name of the node, or the hub's first host. `study`: the first digits of its
    hash. `number`: at the hub; 0 at a node. `verdict`: of a decision, or the state at the end.
    `node`: who decided, at the hub."""

    event: Event
    party: str
    study: str
    number: int
    verdict: str
    node: str
    at: str

    @property
    def sentence(self) -> str:
        at = language.value(f"{self.at[:16]} UTC")
        by = tr(" by {0}").format(self.node) if self.node else ""
        test = f" ({tr(TEST)})" if self.verdict == TEST else ""
        return f"{at}  {self.event_of_study}{by}{test}"

    @property
    def event_of_study(self) -> str:
        """What happened to which study."""
        study = tr("study {0}").format(self.study)
        number = tr(" (number {0})").format(self.number) if self.number else ""
        outcome = OUTCOMES.get((self.event, self.verdict), WORDS[self.event])
        return f"{study}{number} {tr(outcome)}"


def notice_of(entry: Mapping[str, Any], party: str, is_hub: bool) -> Notice | None:
    """The notice of an entry of the audit log; None if it is about no study."""
    study, event = str(entry.get("study_hash", ""))[:12], _event(entry, is_hub)
    if not study or event is None:
        return None
    decided = str(entry.get("verdict") or entry["event"]) if event == "decided" else ""
    state = entry["event"] if event in ("released", "ended") else decided
    number, node = entry.get("number", 0), str(entry.get("node", "")) if is_hub else ""
    return Notice(event, party, study, int(number), str(state), node, str(entry.get("at", "")))


def _event(entry: Mapping[str, Any], is_hub: bool) -> Event | None:
    name = str(entry.get("event"))
    if not is_hub:
        if name == "proposed":
            return "waiting" if entry.get("verdict") == "waiting" else "decided"
        return "decided" if name in ("approved", "refused") and entry.get("by") else None
    if name == "refused" and not entry.get("node"):
        return "ended"  # too few nodes have approved
    return HUB_EVENTS.get(name)


def as_email(notices: Sequence[Notice], email: Email) -> EmailMessage:
    from email.message import EmailMessage

    message = EmailMessage()
    message["From"], message["To"] = email.sender, ", ".join(email.to)
    first = notices[0]
    several = tr("{0} notices about studies").format(len(notices))
    about = first.event_of_study if len(notices) == 1 else several
    message["Subject"] = tr("hdh {0}: {1}").format(first.party, about)
    more = tr("`hdh node studies` at the node, or `hdh study status NUMBER`, says more.")
    message.set_content("\n".join([*(notice.sentence for notice in notices), "", more]) + "\n")
    return message


# -- channels
Send = Callable[[Sequence[Notice]], None]


def channels(notify: Notify) -> dict[str, Send]:
    """How to send, by the channel's name. SetupError if a file with a secret cannot be used. The
    notices have the language of `notify`, or else that of the caller: a new thread has none."""
    from urllib.parse import urlsplit

    senders: dict[str, Send] = {}
    code = notify.language or language.current()
    if notify.webhook_file is not None:
        url = _secret(notify.webhook_file)
        parts = urlsplit(url)
        is_here = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not parts.hostname or not (
            parts.scheme == "https" or (parts.scheme == "http" and is_here)
        ):
            raise errors.SetupError(
                f"{notify.webhook_file.name}: its first line must be the webhook's URL, with https"
            )
        senders["webhook"] = lambda notices: _post(url, notices, code)
    if (email := notify.email) is not None:
        password = _secret(email.password_file) if email.password_file else ""
        senders["email"] = lambda notices: _email(email, password, notices, code)
    return senders


def _secret(path: Path) -> str:
    try:
        if path.stat().st_mode & 0o077:
            raise errors.SetupError(f"{path.name} can be read by others: chmod 600 {path.name}")
        with path.open("rb") as file:
            text = file.read(MAX_SECRET).decode().strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text:
        raise errors.SetupError(
            f"{path.name}, which `notify` names, cannot be read or is empty; write the secret into"
            " its first line"
        )
    return text.splitlines()[0]


def _post(url: str, notices: Sequence[Notice], code: str) -> None:
    """`text` is in the language `code`. A redirection is not followed: it would become a GET."""
    import urllib.request

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any, **__: Any) -> None:
            return None

    with language.using(code):
        lines = "\n".join(notice.sentence for notice in notices)
    body = {"text": lines, "notices": [asdict(notice) for notice in notices]}
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.build_opener(NoRedirect).open(request, timeout=TIMEOUT_S):
        pass


def _email(email: Email, password: str, notices: Sequence[Notice], code: str) -> None:
    import smtplib
    import ssl

    with language.using(code):
        message = as_email(notices, email)
    context = ssl.create_default_context()
    server: smtplib.SMTP
    if email.tls == "tls":
        server = smtplib.SMTP_SSL(email.host, email.port, timeout=TIMEOUT_S, context=context)
    else:
        server = smtplib.SMTP(email.host, email.port, timeout=TIMEOUT_S)
    with server:
        if email.tls == "starttls":
            server.starttls(context=context)
        if email.user:
            server.login(email.user, password)
        server.send_message(message)


def test(notify: Notify, party: str) -> Iterator[tuple[str, str]]:
    """Sends a made-up notice over each channel. Yields its name, and what failed or nothing."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    notice = Notice("waiting", party, "000000000000", 0, TEST, "", now)
    for name, send in channels(notify).items():
        yield name, _failure(send, [notice])


def _failure(send: Send, notices: Sequence[Notice]) -> str:
    """Why the notices were not sent, in words without an address; empty if they were."""
    from urllib.error import HTTPError

    try:
        send(notices)
    except HTTPError as answer:
        return f"it answers {answer.code}"
    except Exception as reason:  # of a foreign server, whatever it is
        return getattr(reason, "strerror", None) or type(reason).__name__
    return ""


# -- the thread that follows the log
@dataclass
class Channel:
    """`seq`: of the last entry that was sent or passed over. `wait_s`: after a failure. `has_more`:
    whether there may be entries after it."""

    name: str
    send: Send
    seq: int
    wait_s: float = 0.0
    again_at: float = 0.0
    has_more: bool = True


@dataclass
class Notifier:
    """Follows the audit log `path` of `party`. `clock`: seconds of any origin. `last`: the file of
    the log and its size at the last step."""

    notify: Notify
    party: str
    is_hub: bool
    path: Path
    position: Path
    senders: Mapping[str, Send]
    clock: Callable[[], float] = time.monotonic
    channels: list[Channel] = field(default_factory=list)
    last: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """A channel that is new begins at the end of the log."""
        stored = self._stored()
        last, _ = audit.head(self.path)
        self.channels = [
            Channel(name, send, stored.get(name, last)) for name, send in self.senders.items()
        ]
        self._store()

    @property
    def failing(self) -> Mapping[str, bool]:
        return {channel.name: channel.wait_s > 0 for channel in self.channels}

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(POLL_S):
            try:
                self.step()
            except Exception:  # a notice is never a reason to stop a daemon
                log.exception("notices are late because of a bug of ours")

    def step(self) -> None:
        """Sends what is new over the channels whose turn it is."""
        if (here := self._here()) != self.last:
            self.last = here
            for channel in self.channels:
                channel.has_more = True
        for channel in self.channels:
            if channel.has_more and self.clock() >= channel.again_at:
                self._send_new(channel)

    def _here(self) -> tuple[int, int]:
        if not self.path.exists():
            return 0, 0
        stat = self.path.stat()
        return stat.st_ino, stat.st_size

    def _send_new(self, channel: Channel) -> None:
        """Sends one batch. The entries stay in the log, however long a receiver is away."""
        notices: list[Notice] = []
        last = channel.seq
        for entry in audit.after(self.path, channel.seq):
            notice = notice_of(entry, self.party, self.is_hub)
            if notice is not None and notice.event in self.notify.events:
                notices.append(notice)
            last = entry["seq"]
            if len(notices) == MAX_BATCH:
                break
        failure = _failure(channel.send, notices) if notices else ""
        if failure:
            channel.wait_s = min(LAST_WAIT_S, 2 * channel.wait_s or FIRST_WAIT_S)
            channel.again_at = self.clock() + channel.wait_s
            log.warning(
                "the %s takes no notices (%s); next attempt in %d s",
                channel.name,
                failure,
                channel.wait_s,
            )
            return
        channel.wait_s, channel.has_more = 0.0, len(notices) == MAX_BATCH
        if last != channel.seq:
            channel.seq = last
            self._store()

    def _stored(self) -> dict[str, int]:
        try:
            values = json.loads(self.position.read_text())
            return {str(name): int(seq) for name, seq in values.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    def _store(self) -> None:
        """A notice may be sent twice where this fails, which ends no daemon."""
        values = {channel.name: channel.seq for channel in self.channels}
        try:
            replacements.write_secret(self.position, json.dumps(values).encode())
        except OSError as reason:
            log.warning("%s cannot be written (%s)", self.position.name, reason.strerror)


def start(
    notify: Notify | None, party: str, log_path: Path, stop: threading.Event, *, is_hub: bool
) -> Notifier | None:
    """Starts the thread, if `notify` asks for one. SetupError if a file with a secret cannot be
    used."""
    senders = channels(notify) if notify is not None else {}
    if notify is None or not senders:
        return None
    notifier = Notifier(notify, party, is_hub, log_path, log_path.with_name(POSITION), senders)
    threading.Thread(target=notifier.run, args=(stop,), name="notices", daemon=True).start()
    return notifier
