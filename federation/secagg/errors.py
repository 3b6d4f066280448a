"""The error with which a node or the hub ends a secure sum."""

from __future__ import annotations


class SecaggError(Exception):
    """Names the fault. After it, no part of the sum is revealed."""
