"""The real servers, shared by all integration tests of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgroute import Router
from tests.patience import WATCHFUL, PatientServers
from tests.servers import NAMES, eventually, running, whole, why_not


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PatientServers]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    # The capability lets a fault cut a server's network, inside its container only.
    with running(tmp_path_factory.mktemp("secret"), options=["--cap-add=NET_ADMIN"]) as found:
        # What a test expects of estimates and plans changes when it says so, not some minute later.
        found.run(
            "for each in new pg1 pg2 pg3; do "
            'echo autovacuum = off >> "/srv/pg/$each/postgresql.conf"; done'
        )
        for name in NAMES:
            found.sql(name, "select pg_reload_conf()")
        yield PatientServers(found.container, found.passfile)


@pytest.fixture
def expendable(servers: PatientServers) -> Iterator[PatientServers]:
    """The servers for a test that changes who is primary: made anew afterwards."""
    yield servers
    servers.make_anew()


@pytest.fixture
def router(servers: PatientServers) -> Iterator[Router]:
    with Router(servers.settings()) as opened:
        eventually(lambda: whole(opened), what="a primary and two healthy replicas")
        yield opened


@pytest.fixture
def watchful(servers: PatientServers) -> Iterator[Router]:
    """A router that misses a frozen server in a moment."""
    with Router(servers.settings(**WATCHFUL)) as opened:
        eventually(lambda: whole(opened), what="a primary and two healthy replicas")
        yield opened
