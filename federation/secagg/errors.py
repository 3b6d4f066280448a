"""Why a node or the hub stops a secure sum."""

from __future__ import annotations


class SecaggError(Exception):
    """The message names what was wrong; nothing is opened after it."""
