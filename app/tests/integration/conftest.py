"""The real servers, shared by all integration tests of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgroute import Router
from tests.servers import Servers, eventually, running, whole, why_not


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    # The capability lets a fault cut a server's network, inside its container only.
    with running(tmp_path_factory.mktemp("secret"), options=["--cap-add=NET_ADMIN"]) as found:
        yield found


@pytest.fixture
def expendable(servers: Servers) -> Iterator[Servers]:
    """The servers for a test that changes who is primary: made anew afterwards."""
    yield servers
    servers.make_anew()


@pytest.fixture
def router(servers: Servers) -> Iterator[Router]:
    with Router(servers.settings()) as opened:
        eventually(lambda: whole(opened), what="a primary and two healthy replicas")
        yield opened
