"""Three processes for all tests of the wing: started once, given one function after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from processes import Processes


@pytest.fixture(scope="session")
def started() -> Iterator[list[Processes]]:
    """The processes that there are; none before the first test that needs them."""
    found: list[Processes] = []
    yield found
    for each in found:
        each.end()


@pytest.fixture
def processes(started, tmp_path_factory) -> Processes:
    if not started or started[-1].has_ended:  # a test failed and left them waiting for each other
        started.append(Processes(3, tmp_path_factory.mktemp("processes")))
    return started[-1]
