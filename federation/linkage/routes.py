"""The messages of a link, and the roles of their senders and receivers.

There are no others, so that a hub can refuse any other message without being able to read one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Role = Literal["left", "right", "helper"]

ROUTES: Mapping[str, tuple[Role, Role]] = {
    "list": ("left", "helper"),
    "size": ("helper", "right"),
    "rows": ("right", "helper"),
    "tokens": ("helper", "left"),
    "places": ("left", "helper"),
    "made-up rows": ("helper", "left"),
    "columns": ("left", "helper"),
}
