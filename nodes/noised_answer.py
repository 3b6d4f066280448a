"""A part under differential privacy: priced, charged, noised and stored before anything leaves."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction

import numpy as np

from federation import codec
from federation.arrays import Floats, Ints
from federation.cohort import Cohort
from federation.messages import NoisedAnswer, Part, Query, Refusal, State, TaskId
from federation.privacy import calibration, fixed_point, noise
from federation.privacy.calibration import Grid
from federation.privacy.noise import Entropy
from federation.study import Study
from nodes import ledger, support_in_blocks
from nodes.ledger import Account, Claim, Ledger
from strategies import budget
from strategies.protocol import AnyTask

log = logging.getLogger("hdh.node")
WHOLE = "node"  # the noise that makes the release private by itself


@dataclass(frozen=True)
class BudgetAccess:
    """What a node's releases are paid from."""

    ledger: Ledger
    account: Account
    now: datetime
    entropy: Entropy = os.urandom


def name(query: Query, task_id: TaskId, state: State, share: str) -> str:
    """The release's name: the hash of everything that decides it except the rows. So a repeated
    request gets the first answer again, at no cost, even if the rows have changed: a new answer
    needs a new study. `share`: WHOLE, or the name of the secure sum
    for which a share of noise was drawn."""
    digest = hashlib.sha256()
    honest = query.study.privacy.honest(len(query.nodes))  # the grid is as fine as its shares need
    decided = [
        query.study.hash,
        query.contract_hash,
        task_id.analysis,
        task_id.node,
        share,
        honest,
        state.step,
    ]
    digest.update(json.dumps(decided).encode())
    for key in sorted(state.values):
        array = state.values[key]
        digest.update(json.dumps([key, list(array.shape)]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def with_coins(cohort: Cohort, name_: str, salt: Callable[[str], bytes]) -> Cohort:
    """The cohort with the secret from which the coins of this release, and of no other, are drawn:
    each charge has a sample of its own."""
    return replace(cohort, release=salt(f"coins of {name_}"))


def release(
    name_: str,
    study: Study,
    grids: Mapping[str, Grid],
    zero: Part,
    compute: Callable[[], Part],
    access: BudgetAccess,
    *,
    share: bool = False,
    has_changed: bool = False,
) -> NoisedAnswer | Refusal:
    """The stored answer; or else charge, compute, noise and store. After the charge, nothing
    observable depends on a row, except noised numbers. `compute` gives the node's part, `zero` the
    part of an empty cohort. `share`: under a secure sum this node adds only its share
    of the noise. `has_changed`: the rows cannot be read any more, so nothing is charged."""
    if (before := ledger.stored(access.ledger, name_)) is not None:
        return codec.noised_from_bytes(before)
    if has_changed:
        return support_in_blocks.CHANGED
    at = access.now.isoformat(timespec="seconds")
    refused = ledger.charge(access.ledger, access.account, claim(name_, study, grids), at)
    if refused is not None:
        return refused
    content = codec.noised_to_bytes(_noised(_steps_of(compute, grids, zero), grids, access, share))
    return codec.noised_from_bytes(ledger.store(access.ledger, name_, content, at))


def part_of(task: AnyTask, state: State, cohort: Cohort) -> Part:
    """Before any noise. Of a cohort in blocks it is the sum of their parts: people add up exactly,
    and noise is drawn once, for the sum."""
    if cohort.in_blocks is None:
        return task.analysis.local(cohort, task, state)
    return support_in_blocks.private_part(task, state, cohort)


def has_changed(cohort: Cohort) -> bool:
    """Whether files that are read where they lie are others than when the study began. No row
    decides it, so it may be said."""
    return cohort.in_blocks is not None and cohort.in_blocks.have_changed()


Train = Callable[[Callable[[Floats], Floats]], Part]


def inside(
    name_: str,
    study: Study,
    grids: Mapping[str, Grid],
    step: Grid,
    zero: Part,
    trains: tuple[Train, Train],
    access: BudgetAccess,
) -> NoisedAnswer | Refusal:
    """The same for a part that is made in steps, each with its own noise; the whole is charged
    before the first step. `trains` gets the function that noises the sum of a step: on this node's
    people and, if that fails, on an empty cohort."""
    if (before := ledger.stored(access.ledger, name_)) is not None:
        return codec.noised_from_bytes(before)
    at = access.now.isoformat(timespec="seconds")
    refused = ledger.charge(access.ledger, access.account, claim(name_, study, grids), at)
    if refused is not None:
        return refused

    def noised(array: Floats) -> Floats:
        return calibration.to_numbers(
            calibration.to_steps(array, step)
            + noise.discrete_gaussian(step.size, step.variance, access.entropy),
            step.unit,
        )

    on_people, on_nobody = trains
    part = _part_of(lambda: on_people(noised), grids, zero) or on_nobody(noised)
    steps = {key: calibration.to_steps(part.sums[key], grid) for key, grid in grids.items()}
    sent = NoisedAnswer(
        steps,
        {key: grid.unit for key, grid in grids.items()},
        dict.fromkeys(grids, 0.0),
        access.now.date().isoformat(),
    )
    return codec.noised_from_bytes(
        ledger.store(access.ledger, name_, codec.noised_to_bytes(sent), at)
    )


def _steps_of(
    compute: Callable[[], Part], grids: Mapping[str, Grid], zero: Part
) -> dict[str, Ints]:
    """A part on its grids; a value beyond the end of its grid stays at that end. The part of an
    empty cohort if the computation fails."""
    part = _part_of(compute, grids, zero) or zero
    return {key: calibration.to_steps(part.sums[key], grid) for key, grid in grids.items()}


def _part_of(compute: Callable[[], Part], grids: Mapping[str, Grid], zero: Part) -> Part | None:
    """None if the computation fails, or gives other arrays than for an empty cohort. That is a
    fault of ours which a row may have triggered, so it must not be visible from outside. The log of
    this machine names its kind and no value."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning may hold a value, and be made an error
            part = compute()
            part = replace(part, sums=fixed_point.folded(part.sums))
        for key in grids:
            array, wanted = part.sums[key], zero.sums[key]
            if array.shape != wanted.shape or array.dtype != wanted.dtype:
                raise TypeError("an array is not that of nobody's part")
        return part
    except Exception as reason:
        log.error(
            "a charged computation failed (%s); the noised answer of nobody is given in its place",
            type(reason).__name__,
        )
        return None


def claim(name_: str, study: Study, grids: Mapping[str, Grid]) -> Claim:
    """A share of distributed noise is charged like the whole: it is private only together with the
    other nodes' shares."""
    return Claim(
        name_,
        study.hash,
        study.privacy.rho,
        {key: grid.event for key, grid in grids.items() if grid.event is not None},
        study.privacy.delta,
    )


def _noised(
    steps: Mapping[str, Ints], grids: Mapping[str, Grid], access: BudgetAccess, share: bool
) -> NoisedAnswer:
    variances: dict[str, Fraction] = {
        key: grid.share if share else grid.variance for key, grid in grids.items()
    }
    drawn = {
        key: noise.discrete_gaussian(grid.size, variances[key], access.entropy)
        for key, grid in grids.items()
    }
    return NoisedAnswer(
        {key: array + drawn[key].reshape(array.shape) for key, array in steps.items()},
        {key: grid.unit for key, grid in grids.items()},
        {key: float(variance) for key, variance in variances.items()},
        access.now.date().isoformat(),
    )


def grids(query: Query, task: AnyTask, state: State, part: Part) -> dict[str, Grid]:
    """ValueError where the budget is too small for the round."""
    return budget.grids(query.study, task, state, part, len(query.nodes))
