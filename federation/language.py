"""The language of the texts, numbers and days that people read: English, or French.

The English text is the key of the catalogue in federation/locale/fr/LC_MESSAGES/hdh.po; `make
translations` compiles it to hdh.mo, which is installed with the package. Nothing is read in
English. What programs read (JSON, CSV, logs, messages between nodes and hub) stays English."""

from __future__ import annotations

import contextlib
import gettext
import os
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import date, datetime
from functools import cache
from pathlib import Path

LANGUAGES = ("en", "fr")
FRENCH = ("fr", "fra", "fre", "french", "français", "francais")  # as people ask for it
DOMAIN = "hdh"  # the name of the catalogue
FOLDER = Path(__file__).parent / "locale"
NARROW_SPACE = "\u202f"  # between thousands
VARIABLES = ("HDH_LANG", "LC_ALL", "LC_MESSAGES", "LANG")  # the first that is set decides
_current: ContextVar[str] = ContextVar("language", default="en")


def of(environment: Mapping[str, str]) -> str:
    """The language that the environment asks for; English if it is none of LANGUAGES."""
    asked = next((environment[name] for name in VARIABLES if environment.get(name)), "")
    first = re.split(r"[-_.:@]", asked.lower())[0]
    return "fr" if first in FRENCH else "en"


def use(code: str) -> None:
    _current.set(code)


def use_for_libraries() -> None:
    """Gives the texts of click, which it looks up with gettext, the reader's language, too."""
    if _current.get() != "en":
        os.environ["LANGUAGE"] = _current.get()
        gettext.bindtextdomain(DOMAIN, str(FOLDER))
        gettext.textdomain(DOMAIN)


@contextlib.contextmanager
def using(code: str) -> Iterator[None]:
    token = _current.set(code)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> str:
    return _current.get()


def tr(text: str) -> str:
    """The text in the reader's language. Values go in afterwards: `tr("{n} rows").format(n=n)`."""
    code = _current.get()
    return text if code == "en" else _catalogue(code).gettext(text)


def colon() -> str:
    """With the space that French puts before it, where a line never breaks."""
    return "\u00a0:" if _current.get() == "fr" else ":"


def plural(singular: str, many: str, n: float) -> str:
    """The form for the number `n`: in French, 0 and 1 are singular."""
    code = _current.get()
    if code == "en":
        return singular if n == 1 else many
    return _catalogue(code).ngettext(singular, many, int(n))


@cache
def _catalogue(code: str) -> gettext.NullTranslations:
    with (FOLDER / code / "LC_MESSAGES" / "hdh.mo").open("rb") as file:
        return gettext.GNUTranslations(file)


def keys(code: str) -> list[str]:
    """The English texts that the catalogue translates."""
    catalogue: dict[object, str] = getattr(_catalogue(code), "_catalog", {})
    return [key for key in catalogue if isinstance(key, str) and key]


# -- numbers and days
NUMBER = re.compile(r"[<+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?(e[+-]?\d+)?%?")
DAY = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[ T](\d\d:\d\d(?::\d\d)?)(?:[+]00:00)?)?( UTC)?")


def number(written: str) -> str:
    """A number that was written with a decimal point, and commas between thousands."""
    if _current.get() == "en":
        return written
    return written.replace(",", NARROW_SPACE).replace(".", ",")


def value(written: str) -> str:
    """A number or a day that was written in English; any other text as it is."""
    if _current.get() == "en":
        return written
    if NUMBER.fullmatch(written):
        return number(written)
    if match := DAY.fullmatch(written):
        year, month, of_month, time, zone = match.groups()
        return f"{of_month}/{month}/{year}{' ' if time else ''}{time or ''}{zone or ''}"
    return written


def day(value: date) -> str:
    """2026-01-31; in French 31/01/2026."""
    return f"{value:%d/%m/%Y}" if _current.get() == "fr" else f"{value:%Y-%m-%d}"


def moment(value: datetime) -> str:
    return f"{day(value)} {value:%H:%M}"
