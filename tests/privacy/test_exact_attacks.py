"""Attacks of a coordinator on one person in exact mode, at nodes that allow this mode and have
default limits otherwise.

The target is the one woman of 93 at node n0. Each attack is a sequence of studies, run in two
worlds that differ in what the target's record says: whether she has hiv, whether her event
happened, her income and her follow-up. An attack fails if some study of the sequence is refused,
and if the coordinator is told the same words in both worlds. Sources of the attacks: each was run
before the rules existed, and told the value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aggregator.document import Document
from federation import errors
from nodes import cohort_blocks
from nodes.site import Dataset, Policy, Site, Storage
from strategies import registry
from tests import federations
from tests.privacy.attacked_people import CONTRACT, STEPS, VISITS, WORLDS, rows_of
from tests.privacy.exact_attacks import ATTACKS, Attack

K = 11
CONTRACTS = {"person": CONTRACT, "visit": VISITS, "step": STEPS}


HELD = Storage()


def answers_of(attack: Attack, world: str, folder: Path, storage: Storage = HELD) -> list[Any]:
    """What the coordinator reads of each study:
    of each analysis whether it was released, and why not."""
    contract = federations.contract_of(CONTRACTS[attack.unit])
    settings = {
        "modes": ("exact", "dp"),
        **attack.policy,
        **{k: v for s in attack.studies for k, v in s.get("policy", {}).items()},
    }
    names = sorted({n for study in attack.studies for n in study.get("nodes", ("n0", "n1", "n2"))})
    sites = {
        name: Site(
            name,
            {
                "people": Dataset(
                    contract, str(rows_of(world, int(name[1:]), attack.unit, attack.people))
                )
            },
            Policy(**settings),
            storage,
            folder / f"state-{name}",
        )
        for name in names
    }
    words: list[Any] = []
    for number, study in enumerate(attack.studies):
        wanted = {"title": f"study {number}"} | {
            k: v for k, v in study.items() if k not in ("policy", "nodes")
        }
        wanted.setdefault("privacy", {"mode": "exact", "min_cell": K})
        chosen = [sites[name] for name in study.get("nodes", tuple(names))]
        try:
            asked = federations.study_of(wanted.pop("analyses"), min_nodes=3, **wanted)
            document = federations.document(federations.run(asked, contract, chosen))
        except errors.HdhError as error:
            words.append(str(error))
            continue
        words.append(_outcome(document))
    return words


def _outcome(document: Document) -> dict[str, Any]:
    return {
        name: (analysis.status, analysis.reason, {c.node: c.reason for c in analysis.nodes})
        for name, analysis in document.analyses.items()
    }


def is_stopped(words: Any) -> bool:
    """Whether a study gave nothing of which the target may be a part:
    at her own node, or at all."""
    return isinstance(words, str) or any(
        status != "released" or refusals.get("n0") for status, _, refusals in words.values()
    )


def always(number: int, attack: Attack) -> bool:
    """One attack in eight is tried by `make test`, and one in three of those whose refusal could
    tell; the others, and the longest ones, by `make slow`."""
    if attack.name.startswith("table: "):
        return False
    if attack.name.startswith("thin"):
        return attack.name in ("thin, summed: glm", "thin, summed: in one model")
    if attack.name.startswith(("grids", "windows")):
        return attack.name in ("grids: bins", "grids: a curve, then a landmark")
    if attack.unit == "step":
        return attack.name in ("pathways, summed: weeks, then days", "series: an interaction")
    if attack.name.startswith(("nested", "crossed", "masked")):
        return attack.name in (
            "nested: anova",
            "nested, summed: rates",
            "crossed: a condition",
            "masked: an event",
        )
    if attack.name.startswith("late"):
        return number % 12 == 0 or attack.name == "late guess: cohorts"
    could_tell = any(word in attack.name for word in ("hiv", " ill", "open nodes"))
    return number % (3 if could_tell else 8) == 0


TRIED = [
    pytest.param(attack, id=attack.name, marks=[] if always(i, attack) else [pytest.mark.slow])
    for i, attack in enumerate(ATTACKS)
]


@pytest.mark.parametrize("attack", TRIED)
def test_an_attack_is_refused_in_the_same_words_whatever_the_target_has(
    attack: Attack, tmp_path: Path
) -> None:
    both = []
    for world in WORLDS:
        folder = tmp_path / world
        folder.mkdir()
        both.append(answers_of(attack, world, folder))
    assert any(map(is_stopped, both[0])), f"{attack.name}: every study was answered"
    assert both[0] == both[1], f"{attack.name}: the refusal tells"


def test_the_attacks_are_counted() -> None:
    print(f"{len(ATTACKS)} attacks of a coordinator in exact mode")
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 518


# -- the same people, read in blocks
IN_BLOCKS = Storage(max_values=399)  # of 400 people: each node's rows are in blocks of 133 at most
SEVERAL_BLOCKS = 1  # of the share of the values that a block holds


def reads_in_blocks(attack: Attack) -> bool:
    """Whether some study of the attack has only analyses that can."""
    contract = federations.contract_of(CONTRACTS[attack.unit])
    for study in attack.studies:
        wanted = {k: v for k, v in study.items() if k not in ("policy", "nodes")}
        try:
            asked = federations.study_of(wanted.pop("analyses"), **wanted)
            tasks = registry.plan(asked, contract).values()
        except errors.HdhError:
            continue
        if all(task.analysis.TRAITS.over_people(task) for task in tasks):
            return True
    return False


def tried_in_blocks() -> list[Any]:
    """One in thirty in `make test`, and all by `make slow`."""
    some = [
        attack for attack in ATTACKS if attack.name[:7] != "table: " and reads_in_blocks(attack)
    ]
    return [
        pytest.param(attack, id=attack.name, marks=[] if i % 30 == 0 else [pytest.mark.slow])
        for i, attack in enumerate(some)
    ]


@pytest.mark.parametrize(("world", "in_files"), [("ill", True), ("healthy", False)])
@pytest.mark.parametrize("attack", tried_in_blocks())
def test_a_cohort_in_blocks_refuses_what_one_that_is_held_refuses(
    attack: Attack, world: str, in_files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same words, whether its rows are read from files or from a table."""
    monkeypatch.setattr(cohort_blocks, "SHARE", SEVERAL_BLOCKS)
    if not in_files:
        monkeypatch.setattr(cohort_blocks, "can_stay", lambda *_: False)
    answers = []
    for name, storage in (("held", HELD), ("blocks", IN_BLOCKS)):
        (tmp_path / name).mkdir()
        answers.append(answers_of(attack, world, tmp_path / name, storage))
    assert answers[0] == answers[1]
