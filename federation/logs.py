"""The daemons' logs, on the screen, in a rotated file, and where asked for at syslog and an OTLP
collector. Nothing read from a row is logged."""

from __future__ import annotations

import json
import logging
import queue
import signal
import sys
import time
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler, SysLogHandler
from pathlib import Path
from typing import Any

from federation import errors

SYSLOG = r"^(/[^\s]+|[^\s/]+:\d{1,5})$"  # a socket such as /dev/log, or HOST:PORT over UDP
OTLP = r"^https?://[^\s]+$"
MAX_QUEUED = 10_000  # lines that wait for syslog or the collector; more are dropped
PAUSE_S = 30.0  # in which a collector that did not answer gets nothing
TIMEOUT_S = 5.0
SEVERITY = {"debug": 5, "info": 9, "warning": 13, "error": 17, "critical": 21}  # of OTLP


class Json(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "at": at,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _Dropping(QueueHandler):
    """Gives records to a thread, and drops those that do not fit: logging waits for no network."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class _Syslog(SysLogHandler):
    def __init__(self, address: str, ident: str) -> None:
        host, _, port = address.rpartition(":")
        super().__init__(address if address.startswith("/") else (host.strip("[]"), int(port)))
        self.ident, self.append_nul = f"{ident}: ", False
        self.setFormatter(Json())

    def handleError(self, record: logging.LogRecord) -> None:
        pass  # the line is in the file


class _Collector(logging.Handler):
    """Sends each line as OTLP over HTTP, in JSON."""

    def __init__(self, endpoint: str, service: str) -> None:
        super().__init__()
        self.url, self.service, self.again_at = f"{endpoint.rstrip('/')}/v1/logs", service, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        import urllib.request  # half of the commands read a configuration, and send no log

        if time.monotonic() < self.again_at:
            return
        body = json.dumps(otlp(record, self.service)).encode()
        try:
            request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                pass
        # The collector may answer anything, and a failure here would end all remote logs.
        except Exception:
            self.again_at = time.monotonic() + PAUSE_S


def otlp(record: logging.LogRecord, service: str) -> dict[str, Any]:
    """A record as an ExportLogsServiceRequest."""
    level = record.levelname.lower()
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    line = {
        "timeUnixNano": str(int(record.created * 1e9)),
        "severityNumber": SEVERITY.get(level, 9),
        "severityText": level,
        "body": {"stringValue": text},
    }
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    scope = {"scope": {"name": record.name}, "logRecords": [line]}
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [scope]}]}


def start(
    path: Path,
    log_format: str,
    *,
    megabytes: int = 10,
    service: str = "hdh",
    syslog: str = "",
    collector: str = "",
) -> None:
    """Logs to standard error in `log_format` (text or json), and as JSON lines to `path`.

    The file is rotated at `megabytes`; five files are kept. `syslog`: a socket or HOST:PORT.
    `collector`: the URL of an OTLP collector. Both get JSON lines from a thread of their own.
    SetupError if the file cannot be written."""
    to_file = _file(path, megabytes)
    to_file.setFormatter(Json())
    to_screen = logging.StreamHandler(sys.stderr)
    to_screen.setFormatter(
        Json()
        if log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    handlers: list[logging.Handler] = [to_screen, to_file]
    elsewhere = _elsewhere(service, syslog, collector)
    logging.basicConfig(
        level=logging.INFO, handlers=[*handlers, *([elsewhere] if elsewhere else [])], force=True
    )
    for noisy in ("httpx", "httpcore", "uvicorn", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _file(path: Path, megabytes: int) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return RotatingFileHandler(
            path, maxBytes=megabytes * 2**20, backupCount=4, encoding="utf-8"
        )
    except OSError as reason:
        raise errors.SetupError(
            f"the log {path} cannot be written ({reason.strerror}); check the folder's owner and"
            " disk"
        ) from None


def _elsewhere(service: str, syslog: str, collector: str) -> logging.Handler | None:
    receivers: list[logging.Handler] = []
    if syslog:
        try:
            receivers.append(_Syslog(syslog, service))
        except OSError as reason:
            print(f"syslog at {syslog} cannot be reached ({reason.strerror})", file=sys.stderr)
    if collector:
        receivers.append(_Collector(collector, service))
    if not receivers:
        return None
    lines: queue.Queue[logging.LogRecord] = queue.Queue(MAX_QUEUED)
    # Signals are for the daemon's own threads: this one would end the process by their default.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    QueueListener(lines, *receivers).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return _Dropping(lines)
