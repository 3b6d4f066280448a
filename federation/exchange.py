"""The routes that a hub's SuperLink answers beside Flower's, and the objects that go with a
request."""

from __future__ import annotations

from collections.abc import Iterable

from federation.rpc.exchange_pb2 import Part

TAKE, GIVE = "/v1/fleet/hdh-take", "/v1/fleet/hdh-give"
PUSH, PULL = "/v1/runtime/hdh-push", "/v1/runtime/hdh-pull"
FITS = 4 * 2**20  # bytes of objects in one request


def fitting(objects: Iterable[tuple[str, bytes]], fits: int = FITS) -> list[Part]:
    """The first of the objects, by id and content, as many as fit into so many bytes."""
    parts: list[Part] = []
    for object_id, content in objects:
        fits -= len(content)
        if fits < 0:
            break
        parts.append(Part(id=object_id, content=content))
    return parts
