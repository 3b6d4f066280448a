"""Output that any terminal can print: a character outside its encoding never ends a run with a
traceback."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

PLAIN = str.maketrans(
    "●○▲△■□◆◇┤└─│├┬┴┼┌┐┘·×≤≥≈–—’‘“”…→←±µεδρσ",
    "*o^^##++|+-|+++++++.x<>~--''\"\".><+uedrs",
)


def prepare(arguments: list[str]) -> None:
    """Characters that a stream cannot encode are written without accents; in JSON, as escapes."""
    as_json = "json" in arguments or "--format=json" in arguments
    codecs.register_error("hdh", _escaped if as_json else _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="hdh")


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(PLAIN)
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return ascii_only or "?" * (error.end - error.start), error.end


def _escaped(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = (units[i : i + 2] for i in range(0, len(units), 2))
    return "".join(f"\\u{int.from_bytes(pair):04x}" for pair in pairs), error.end
