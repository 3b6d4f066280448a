"""No message bricks anything: a short run of the fuzz that `make audit` runs long."""

from __future__ import annotations

from pathlib import Path

from tests.fault import fuzz_messages


def test_every_route_of_hub_and_node_answers_or_refuses_what_is_made_to_break_it(
    tmp_path: Path,
) -> None:
    fuzz_messages.run(1, tmp_path)
