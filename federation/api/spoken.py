"""Verbs of the Python interface in the reader's language: HDH_LANG, or the locale.

Messages are English inside: they cross wires and lie in results. They are translated where they
leave a verb that a person has called."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from federation import errors, language


@contextmanager
def spoken() -> Iterator[None]:
    """Also a decorator, `@spoken()`. A language that the caller has chosen stays."""
    chosen = language.current()
    with language.using(language.of(os.environ) if chosen == "en" else chosen):
        try:
            yield
        except errors.HdhError as error:
            from federation import message_texts

            error.args = tuple(
                message_texts.translated(part) if isinstance(part, str) else part
                for part in error.args
            )
            raise
