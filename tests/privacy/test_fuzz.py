"""The short version of the fuzz: nobody moves a sum beyond its sensitivity,
and the old faults are detected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from federation.arrays import Floats, Ints
from strategies import registry
from strategies.learning import local_training
from strategies.survival import piecewise_exponential
from tests.privacy import audit, fuzz, lying_hub

TRIES = 15
CASES: Mapping[str, Mapping[str, Any]] = {
    **{case.name: case.analysis for case in audit.CASES},
    **fuzz.MORE,
}


def test_every_private_analysis_is_searched() -> None:
    assert {analysis["run"] for analysis in CASES.values()} == set(registry.PRIVATE)


@pytest.mark.parametrize("case", CASES)
def test_nobody_moves_a_sum_beyond_its_sensitivity_at_any_admitted_state(case: str) -> None:
    worst = fuzz.search(CASES[case], audit.CONTRACT, TRIES, 11)
    assert all(step.ratio <= fuzz.SOUND for step in worst.values()), worst
    largest = max(step.ratio for step in worst.values())
    assert largest > 0.7, "a search that moves nothing does not look where it should"


def test_a_cap_that_is_lost_in_rounding_is_found() -> None:
    """The old code took the last hazard off its running sum, and so lost the cap."""

    def lost(hazard: Floats, max_hazard: float) -> tuple[Floats, Any]:
        gathered = np.cumsum(hazard, axis=0)
        before = np.minimum(gathered - hazard, max_hazard)
        capped = np.maximum(np.minimum(gathered, max_hazard) - before, 0.0)
        return capped, gathered[-1] > max_hazard

    with (
        audit.sums_of_floats(),
        mock.patch.object(piecewise_exponential, "capped_hazard", lost),
    ):
        worst = fuzz.search(fuzz.MORE["piecewise_exponential, many cuts"], audit.CONTRACT, 50, 1)
    assert worst["score"].ratio > 1.5


def test_lengths_that_nearly_cancel_in_32_bits_are_found() -> None:
    """The old code trusted every length, in batches of 64."""
    with lying_hub.lengths_in_32_bits():
        worst = fuzz.search(fuzz.MORE["train, two layers"], audit.CONTRACT, 100, 1)
    assert worst["gradient"].ratio > 1.2


def test_batches_whose_shape_depends_on_who_is_there_are_found() -> None:
    """32-bit products differ in another shape, so one person fewer changes everyone's gradient.
    Which shapes differ depends on the processor: here those of an odd number of people do, by one
    rounding."""
    batch = local_training.batch

    def rounded(persons: local_training.People, chosen: Ints, *more: Any) -> local_training.Batch:
        exact = batch(persons, chosen, *more)
        return replace(exact, rows=exact.rows * (1 + 2**-23)) if len(chosen) % 2 else exact

    def largest() -> float:
        worst = fuzz.search(fuzz.MORE["train, views"], audit.CONTRACT, 60, 1)
        return max(worst["gradient"].ratio, worst["scores"].ratio)

    with mock.patch.object(local_training, "batch", rounded):
        assert largest() <= fuzz.SOUND
        with (
            lying_hub.lengths_in_32_bits(),
            mock.patch.object(local_training, "padded", lambda chosen, size: chosen),
        ):
            assert largest() > 1.2
