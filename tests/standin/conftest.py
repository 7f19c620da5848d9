"""One stand-in for each file of tests, removed at the end."""

from collections.abc import Iterator

import pytest

from helpers.standin import StandIn


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    machine = StandIn(tmp_path_factory.mktemp("standin"))
    try:
        machine.start()
        yield machine
    finally:
        machine.remove()
