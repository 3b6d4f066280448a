"""The daemons' logs, on the screen and in a rotated file. Nothing read from a row is logged."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path


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


def start(path: Path, log_format: str, *, megabytes: int = 10) -> None:
    """Logs to standard error in `log_format` (text or json), and as JSON lines to `path`.

    The file is rotated at `megabytes`; five files are kept."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    to_file = RotatingFileHandler(path, maxBytes=megabytes * 2**20, backupCount=4, encoding="utf-8")
    to_file.setFormatter(Json())
    to_screen = logging.StreamHandler(sys.stderr)
    to_screen.setFormatter(
        Json()
        if log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[to_screen, to_file], force=True)
    for noisy in ("httpx", "httpcore", "uvicorn", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
