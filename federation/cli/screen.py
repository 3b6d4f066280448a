"""What `hdh` prints for people: texts arrive in English, and are put into their language here.

The modules of federation/cli/actions import `print` from here and `Console` from
`federation.cli.console`, so that no line of theirs names a language. Data and output for programs
are no texts: `verbatim` and `document` print them as they are."""

from __future__ import annotations

import builtins
import json
import sys
from typing import Any

from federation import language


def print(*values: object, end: str = "\n", file: Any = None) -> None:
    builtins.print(*map(shown, values), end=end, file=file)


def verbatim(text: str) -> None:
    sys.stdout.write(text)


def document(value: object) -> None:
    """JSON, which reads the same in every language."""
    verbatim(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def shown(value: Any) -> Any:
    """A text in the reader's language; anything else as it is."""
    if language.current() == "en" or not isinstance(value, str):
        return value
    from federation import message_texts

    return message_texts.translated(value)
