"""Streams of random bytes for nodes in this process, each named by test, node and purpose."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from federation.arrays import Ints
from federation.privacy import noise
from federation.privacy.calibration import Grid
from federation.study import Study
from nodes import noised_answer, state_folder
from nodes.noised_answer import BudgetAccess
from nodes.session import NodeContext
from simulations import linked

SEED = os.environ.get("HDH_TEST_SEED", "1")
TABLED_SIGMA = 64  # a larger one has a table that takes longer to make than a test may last

_label = "outside any test"
_drawn: Counter[str] = Counter()  # how often a stream was opened: each time it is another one


@contextmanager
def streams_of(label: str) -> Iterator[None]:
    """Names the test, or the shared fixture, whose nodes draw from now on."""
    global _label
    before, _label = _label, label
    try:
        yield
    finally:
        _label = before


class Stream:
    """Random bytes that depend on the seed, the test, the purpose, and on how often the test has
    asked for this purpose."""

    def __init__(self, purpose: str) -> None:
        name = f"{_label} | {purpose}"
        _drawn[name] += 1
        key = hashlib.sha256(f"{SEED} | {name} | {_drawn[name]}".encode()).digest()
        self.generator = np.random.default_rng(list(key))

    def __call__(self, size: int) -> bytes:
        return self.generator.bytes(size)


class NodeEntropy:
    """A node's source of random bytes. A noised answer has a stream of its own, so that the order
    in which threads draw changes nothing."""

    def __init__(self, node: str) -> None:
        self.node = node
        self._bytes = Stream(f"node {node}")

    def __call__(self, size: int) -> bytes:
        return self._bytes(size)

    def of_answer(self, study: Study, grids: Mapping[str, Grid]) -> Stream:
        return Stream(f"node {self.node} study {study.hash} sums {sorted(grids)}")


def install() -> None:
    """From here on nodes in this process draw from named streams, unless a test gives entropy of
    its own."""
    patch = pytest.MonkeyPatch()
    _give_contexts_streams(patch)
    _give_answers_streams(patch)
    _give_folders_streams(patch)
    _give_attempts_streams(patch)
    _draw_wide_noise_without_table(patch)


def _give_contexts_streams(patch: pytest.MonkeyPatch) -> None:
    make = NodeContext.__init__

    def with_stream(self: NodeContext, *args: Any, **named: Any) -> None:
        make(self, *args, **named)
        if self.entropy is os.urandom:
            object.__setattr__(self, "entropy", NodeEntropy(self.site.name))
        if self.site.state is None:
            for attribute in ("secret", "identity"):
                seeded = Stream(f"{attribute} of node {self.site.name}")(32)
                self.__dict__.setdefault(attribute, seeded)

    patch.setattr(NodeContext, "__init__", with_stream)


def _give_answers_streams(patch: pytest.MonkeyPatch) -> None:
    release, inside = noised_answer.release, noised_answer.inside

    def of_answer(access: BudgetAccess, study: Study, grids: Mapping[str, Grid]) -> BudgetAccess:
        if not isinstance(access.entropy, NodeEntropy):
            return access
        return replace(access, entropy=access.entropy.of_answer(study, grids))

    def seeded_release(
        name: str,
        study: Study,
        grids: Mapping[str, Grid],
        zero: Any,
        compute: Any,
        access: BudgetAccess,
        **named: Any,
    ) -> Any:
        return release(name, study, grids, zero, compute, of_answer(access, study, grids), **named)

    def seeded_inside(
        name: str,
        study: Study,
        grids: Mapping[str, Grid],
        step: Grid,
        zero: Any,
        trains: Any,
        access: BudgetAccess,
    ) -> Any:
        return inside(name, study, grids, step, zero, trains, of_answer(access, study, grids))

    patch.setattr(noised_answer, "release", seeded_release)
    patch.setattr(noised_answer, "inside", seeded_inside)


def _give_folders_streams(patch: pytest.MonkeyPatch) -> None:
    """The secrets of a state folder. Its place below the temporary folder names the stream."""
    stored = state_folder._stored

    def seeded_secret(path: Path) -> bytes:
        place = re.sub(r".*/pytest-\d+/(popen-gw\d+/)?", "", str(path))
        shim = SimpleNamespace(**vars(os) | {"urandom": Stream(f"secret {place}")})
        with pytest.MonkeyPatch.context() as during:
            during.setattr(state_folder, "os", shim)
            return stored(path)

    patch.setattr(state_folder, "_stored", seeded_secret)


def _give_attempts_streams(patch: pytest.MonkeyPatch) -> None:
    """The numbers of attempts at a link, from which its keys and its made-up people derive."""

    def urandom(size: int) -> bytes:
        return Stream("attempt at a link")(size)

    patch.setattr(linked, "os", SimpleNamespace(**vars(os) | {"urandom": urandom}))


def _draw_wide_noise_without_table(patch: pytest.MonkeyPatch) -> None:
    """Wide noise is drawn as rounded Gaussian numbers: OpenDP takes no seed, and the table of the
    exact law takes seconds. The variance of rounding, 1/12, is 0.002 % of the smallest one here."""
    exact = noise.discrete_gaussian

    def seeded_noise(
        size: int, variance: Fraction, entropy: Callable[[int], bytes] = os.urandom
    ) -> Ints:
        if not isinstance(entropy, Stream) or size > noise.SHORT or variance <= TABLED_SIGMA**2:
            return exact(size, variance, entropy)
        drawn = entropy.generator.normal(0, float(variance) ** 0.5, size)
        return np.rint(drawn).astype(np.int64)

    patch.setattr(noise, "discrete_gaussian", seeded_noise)
