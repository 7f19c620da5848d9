"""Configurations and fleets that no router can serve: each is refused with one sentence that
names the server, or the limit. From both routers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgroute import ContractNotMet, NoPrimary, NoReadableNode, PgrouteError
from tests.servers import NAMES, Servers, eventually, whole

from .fronts import FRONTS, opened
from .test_doctor import EXPIRED, HERE, encrypted, only

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("front", FRONTS)]

QUICK = {"checkout_timeout_seconds": 2, "token_timeout_seconds": 0.2}


def write(router: Any) -> None:
    with router.write():
        pass


def read(router: Any) -> str:
    with router.read() as connection:
        return str(connection.node)


def execute(router: Any) -> None:
    router.execute("select 1")


REFUSED: list[tuple[Callable[[Any], object], type[PgrouteError]]] = [
    (write, NoPrimary),
    (read, NoReadableNode),
    (execute, NoPrimary),
]


def said(router: Any, act: Callable[[Any], object], kind: type[PgrouteError]) -> str:
    """What the router says when it refuses: one line."""
    with pytest.raises(kind) as raised:
        act(router)
    assert type(raised.value) is kind
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_server_with_an_expired_certificate(servers: Servers, front: str) -> None:
    """libpq says no more than that; the doctor says since when."""
    for dates, expired in ((EXPIRED, True), ("-days 5", False)):  # nothing else is wrong with it
        with encrypted(servers, "pg1", dates, "IP:127.0.0.1") as authority:
            options = f"sslmode=verify-full&sslrootcert={authority}"
            settings = only(servers, "pg1", options).model_copy(update=QUICK)
            with opened(front, settings) as router:
                if not expired:
                    eventually(lambda: router.topology.primary == HERE, what="it is trusted")
                    assert read(router) == HERE
                    continue
                for act, kind in REFUSED:
                    sentence = said(router, act, kind)
                    assert sentence.count("SSL error: certificate verify failed") == 1
                    assert f": {HERE}: connection failed" in sentence


def test_a_wrong_password_of_the_user_that_reads(
    servers: Servers, front: str, tmp_path: Path
) -> None:
    passfile = tmp_path / "passfile"
    passfile.touch(mode=0o600)
    passfile.write_text("*:*:app:app_rw:rw-for-tests\n*:*:app:app_ro:wrong\n")
    with opened(front, servers.settings(passfile=passfile, **QUICK)) as router:
        for act, kind in REFUSED:
            sentence = said(router, act, kind)
            assert 'password authentication failed for user "app_ro"' in sentence
            assert all(f"{name}: connection failed" in sentence for name in NAMES)


def test_more_reads_than_the_primary_is_to_answer(servers: Servers, front: str) -> None:
    def reads(router: Any) -> None:
        while len(served) < 1000:  # so many take less than the time that would allow them
            served.append(read(router))

    with opened(front, servers.settings(spill_reads_per_second=2, **QUICK)) as router:
        eventually(lambda: whole(router), what="a primary and two healthy replicas")
        try:
            for name in NAMES[1:]:
                servers.stop(name)
            eventually(lambda: not router.topology.replicas, what="both replicas gone")
            served: list[str] = []
            sentence = said(router, reads, ContractNotMet)
            assert set(served) == {"pg1"}
            time.sleep(1)  # what the limit is about
            assert read(router) == "pg1"
        finally:
            for name in NAMES[1:]:
                servers.start(name)
    assert sentence == "no healthy replica, and 2 reads per second go to the primary already"
