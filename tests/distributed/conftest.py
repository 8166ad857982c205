"""Three processes for the tests of a room: started once, given one function after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from processes import Processes


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> Iterator[Processes]:
    with Processes(3, tmp_path_factory.mktemp("processes")) as started:
        yield started
