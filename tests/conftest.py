"""What every test has in common: luck is the same in each run.

The noise and the secrets of nodes in this process come from streams that are named by the test, so
that a test which fails once fails always. `HDH_TEST_SEED=2 pytest ...` names other streams: a test
whose outcome depends on it asserts something that the noise does not guarantee. Nodes in processes
of their own, and tests of the noise itself, draw from the operating system."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import seeded

os.environ["HDH_LANG"] = "en"  # whatever language the machine has, also in processes of their own
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure() -> None:
    seeded.install()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with seeded.streams_of(item.nodeid):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Iterator[None]:
    """A fixture that several tests share has streams of its own, whichever test comes first."""
    if fixturedef.scope == "function":
        return (yield)
    index = getattr(request, "param_index", 0)
    with seeded.streams_of(f"{fixturedef.baseid} {fixturedef.argname} {index}"):
        return (yield)
