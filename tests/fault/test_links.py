"""Parties of a link that lie, and parties that are killed, over real processes.

A lie ends the study, with the rule that exposed it and with nothing opened. A party that is killed
makes the hub begin another attempt, and the result is the same."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

import pytest

from aggregator.document import Document
from federation import errors
from federation.study import Study
from simulations.flower import Deployment
from tests import deployments
from tests.linkage import deployed, two_holders
from tests.linkage.test_linked_studies import assert_same

DROPS = """
from nodes import link_parties
from dataclasses import replace
import numpy as np
honest = link_parties.matching.match
def drops(listed, pieces, width):
    found = honest(listed, pieces, width)
    spare = np.flatnonzero(~found.is_matched)
    given = np.flatnonzero(found.is_matched)[: len(spare) // 2]
    tokens, rows, kept = found.tokens.copy(), found.rows.copy(), found.is_matched.copy()
    spare = spare[: len(given)]
    tokens[given], rows[given], kept[given] = tokens[spare], rows[spare], False
    return replace(found, tokens=tokens, rows=rows, is_matched=kept)
link_parties.matching.match = drops
"""
RE_PAIRS = """
from nodes import link_parties
from dataclasses import replace
import numpy as np
honest = link_parties.matching.match
def re_pairs(listed, pieces, width):
    found = honest(listed, pieces, width)
    order = np.arange(len(found.tokens))
    matched = np.flatnonzero(found.is_matched)
    order[matched] = np.roll(matched, 1)
    return replace(found, tokens=found.tokens[order], rows=found.rows[order])
link_parties.matching.match = re_pairs
"""
REPEATS = """
from nodes import links
honest = links.link_parties.names_of
def repeats(holder, people):
    names = honest(holder, people)
    names[1::2] = names[: len(names) // 2 * 2 : 2]
    return names
links.link_parties.names_of = repeats
"""
INTRUDES = """
from dataclasses import replace
from federation.linkage.errors import LinkError
from nodes.parcels import HubRelay
from pathlib import Path
honest = HubRelay.put
def intrudes(self, channel, envelopes):
    fresh = replace(channel, terms=replace(channel.terms, attempt="f" * 32))
    for other in (fresh, replace(channel, kind="of its own"), replace(channel, receiver="lyon")):
        try:
            honest(self, other, [b"x" * 40])
        except LinkError as error:
            Path({mark!r}).open("a").write(error.rule + chr(10))
    honest(self, channel, envelopes)
HubRelay.put = intrudes
"""
HUB_LIES = """
from aggregator.parcels import Parcels, Part
import hashlib
honest = Parcels.take
seen = {{}}
def lies(self, address, number, seconds):
    part = honest(self, address, number, seconds)
    if part is None or address.kind != "rows":
        return part
    {lie}
def part_of(content, is_last):
    return Part(content, hashlib.sha256(content).digest(), is_last)
Parcels.take = lies
"""
SWAPS = HUB_LIES.format(
    lie="return part_of(part.content[:-1] + bytes([part.content[-1] ^ 1]), part.is_last)"
)
REPLAYS = HUB_LIES.format(
    lie="""key = address.sender, address.kind, number
    earlier = seen.setdefault(key, part)
    return earlier"""
)
WITHHOLDS_THE_END = HUB_LIES.format(
    lie="return part_of(part.content, True) if number == 0 else part"
)


@pytest.fixture(scope="module")
def tables() -> two_holders.Tables:
    """Enough people for several parts of the right holder's message."""
    return two_holders.make(700, 9000, 600)


@pytest.fixture(scope="module")
def expected(tables, tmp_path_factory) -> Document:
    folder = tmp_path_factory.mktemp("joined")
    return two_holders.run_joined(deployed.study(), {"lyon": two_holders.joined(tables)}, folder)


@pytest.fixture(scope="module")
def deployment(tables, tmp_path_factory) -> Iterator[Deployment]:
    with deployed.federation(tmp_path_factory.mktemp("hub"), tables, round_timeout_s=30) as running:
        yield running


@pytest.fixture
def honest_again(deployment: Deployment) -> Iterator[None]:
    """After a test, every process that lied or died is replaced."""
    yield
    for name in ("hub", "lyon", "cnam", "casd"):
        if deployed.is_lying(deployment, name) or deployment.processes[name].poll() is not None:
            deployed.restart_honest(deployment, name)


def ended_by(deployment: Deployment, asked: Study, rule: str) -> None:
    with pytest.raises(errors.RefusalError, match=rule):
        deployed.submit(deployment, asked)
    assert nothing_readable(deployment)


def nothing_readable(deployment: Deployment) -> bool:
    """No row at the helper: no Parquet file, no identifier, no value of the right's people."""
    value = struct.pack("<d", 2999.0)
    for path in deployment.home("casd").rglob("*"):
        if path.suffix == ".parquet" and path.exists():
            return False
        if path.is_file():
            content = path.read_bytes()
            if b"PAR1" in content or b"name 1" in content or value in content:
                return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "lie", "rule"),
    [
        ("drops", DROPS, "link_canaries"),
        ("re-pairs", RE_PAIRS, "link_canaries"),
    ],
)
def test_a_helper_that_does_not_match_as_it_should_opens_nothing(
    name, lie, rule, deployment: Deployment, honest_again
) -> None:
    deployed.restart_lying(deployment, "casd", lie)
    ended_by(deployment, deployed.study(name), rule)


@pytest.mark.slow
@pytest.mark.parametrize("holder", ["lyon", "cnam"])
def test_a_holder_that_repeats_a_pseudonym_ends_the_study(
    holder, deployment: Deployment, honest_again
) -> None:
    deployed.restart_lying(deployment, holder, REPEATS)
    ended_by(deployment, deployed.study(f"repeats-{holder}"), "link_duplicates")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "lie"), [("swaps", SWAPS), ("withholds", WITHHOLDS_THE_END)])
def test_a_hub_that_changes_or_withholds_a_part_ends_the_study(
    name, lie, deployment: Deployment, honest_again
) -> None:
    deployed.restart_hub_lying(deployment, lie)
    ended_by(deployment, deployed.study(name), "link_message")


@pytest.mark.slow
def test_a_hub_that_replays_an_earlier_studys_part_ends_the_study(
    deployment: Deployment, honest_again
) -> None:
    deployed.restart_hub_lying(deployment, REPLAYS)
    deployed.submit(deployment, deployed.study("first"))
    ended_by(deployment, deployed.study("second"), "link_message")


@pytest.mark.slow
def test_a_party_that_names_attempts_and_messages_of_its_own_disturbs_nobody(
    deployment: Deployment, expected, honest_again, tmp_path
) -> None:
    """A fresh attempt would end the one that runs, if a party could name it."""
    mark = tmp_path / "refused"
    deployed.restart_lying(deployment, "cnam", INTRUDES.format(mark=str(mark)))
    assert_same(deployed.submit(deployment, deployed.study("intrudes")), expected)
    assert mark.read_text().split() == ["link_ended"] * 3


KILLED = [
    ("lyon", "nodes.link_service:links.meet"),
    ("lyon", "nodes.links:link_parties.left_list"),
    ("lyon", "nodes.links:link_parties.left_places"),
    ("lyon", "nodes.links:link_parties.left_columns"),
    ("cnam", "nodes.link_service:links.meet"),
    ("cnam", "nodes.links:link_parties.right_rows"),
    ("cnam", "nodes.links:link_parties.encoding.piece_to_bytes"),
    ("casd", "nodes.links:link_parties.list_of"),
    ("casd", "nodes.links:link_parties.helper_match"),
    ("casd", "nodes.links:link_parties.helper_show"),
    ("casd", "nodes.links:link_parties.helper_open"),
    ("casd", "nodes.links:link_table.write"),
    ("casd", "nodes.link_service:service.answer"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("node", "where"), KILLED)
def test_a_party_killed_in_any_phase_comes_back_and_the_result_is_the_same(
    node, where, deployment: Deployment, expected, honest_again
) -> None:
    mark = deployed.restart_dying(deployment, node, where)
    documents: list[Document] = []
    number = KILLED.index((node, where))
    asked = deployed.study(f"killed-{number}")
    running = threading.Thread(target=lambda: documents.append(deployed.submit(deployment, asked)))
    running.start()
    deployments.wait(mark.exists, 120)
    deployment.processes[node].wait(20)
    assert nothing_readable(deployment)
    deployed.restart_honest(deployment, node)
    running.join(300)
    assert_same(documents[0], expected)
    assert deployed.replayed(deployment, documents[0].model_dump(mode="json")) == []
    assert nothing_readable(deployment)


@pytest.mark.slow
def test_a_hub_killed_while_people_are_linked_begins_again(
    deployment: Deployment, expected, honest_again
) -> None:
    asked = deployed.study("hub-killed")
    with deployment.connect() as hub:
        run = hub.submit(asked, two_holders.CONTRACTS)
        deployments.wait(lambda: list(deployment.hub.parcels.rglob("*")), 120)
        deployment.kill("hub")
        deployment.start_hub()
        status = run.watch(lambda line: None)
        assert status.state == "complete", status.reason
        assert_same(Document.model_validate(run.result().document), expected)
    assert nothing_readable(deployment)
