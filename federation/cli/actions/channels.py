"""A test of the channels over which notices are sent."""

from __future__ import annotations

from pathlib import Path

from federation import errors, notices
from federation.cli.screen import print
from federation.notices import Notify


def test(notify: Notify | None, party: str, path: Path) -> None:
    """`path`: of the configuration. SetupError if a channel takes no notice, or there is none."""
    outcomes = list(notices.test(notify, party)) if notify is not None else []
    for name, failure in outcomes:
        print(f"{name}: {failure or 'the test notice was accepted'}")
    if not outcomes:
        raise errors.SetupError(
            f"{path}: no channel is configured; add `notify:` as docs/operations.md shows"
        )
    if failing := [name for name, failure in outcomes if failure]:
        raise errors.SetupError(f"{path}: no notice reaches {', '.join(failing)}")
