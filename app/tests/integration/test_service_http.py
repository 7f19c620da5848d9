"""The service as a process, over real servers: tokens, pages, its start and its end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest

from pgroute import Token, new_key
from tests.integration.test_commands import environment, pgroute
from tests.patience import WATCHFUL
from tests.servers import FIRST_PORT, Servers, eventually, port

pytestmark = pytest.mark.integration

PORT = FIRST_PORT + 93
PAUSED = "select pg_get_wal_replay_pause_state()"


@contextmanager
def serving(servers: Servers, number: int, **change: str) -> Iterator[subprocess.Popen[str]]:
    change |= {"PGROUTE_LISTEN_PORT": str(number), "PGROUTE_HEARTBEAT_SECONDS": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pgroute", "serve"],
        env=environment(servers, **change),
        stderr=subprocess.PIPE,
        text=True,
    )

    def whole() -> bool:
        assert process.poll() is None, process.communicate()[1]
        try:
            topology = httpx2.get(f"http://127.0.0.1:{number}/topology").json()
        except httpx2.TransportError:
            return False
        return topology["primary"] is not None and len(topology["replicas"]) == 2

    try:
        eventually(whole, what="the service sees a primary and two replicas")
        yield process
    finally:
        process.terminate()
        _, said = process.communicate(timeout=120)
        assert "Traceback" not in said, said


@pytest.fixture(scope="module")
def http(servers: Servers) -> Iterator[httpx2.Client]:
    url = f"http://127.0.0.1:{PORT}"
    with serving(servers, PORT), httpx2.Client(base_url=url, timeout=120) as client:
        yield client


def add(http: httpx2.Client, name: str) -> httpx2.Response:
    answer = http.post("/users", json={"first_name": name})
    assert answer.status_code == 201, answer.text
    return answer


@contextmanager
def replay_paused(servers: Servers) -> Iterator[None]:
    for node in ("pg2", "pg3"):
        servers.sql(node, "select pg_wal_replay_pause()")
        eventually(lambda on=node: servers.sql(on, PAUSED) == "paused", what="paused")
    try:
        yield
    finally:
        for node in ("pg2", "pg3"):
            servers.sql(node, "select pg_wal_replay_resume()")


# Tokens


def test_with_its_token_a_write_is_read_by_everyone_who_answers(http: httpx2.Client) -> None:
    for turn in range(50):
        written = add(http, f"turn {turn}")
        token = {"Consistency-Token": written.headers["consistency-token"]}
        found = http.get(written.headers["location"], headers=token)
        assert found.status_code == 200, found.text
        assert found.json() == written.json()


def test_with_its_token_a_write_is_read_although_no_replica_has_it(
    servers: Servers, http: httpx2.Client
) -> None:
    with replay_paused(servers):
        written = add(http, "unseen")
        assert written.headers["served-by"] == "pg1"
        place = written.headers["location"]
        without = http.get(place)
        assert (without.status_code, without.json()["type"]) == (404, "urn:pgroute:no-user")
        token = {"Consistency-Token": written.headers["consistency-token"]}
        found = http.get(place, headers=token)
        assert (found.status_code, found.headers["served-by"]) == (200, "pg1")


def test_a_token_of_another_cluster_is_a_conflict(http: httpx2.Client) -> None:
    own = Token.parse(add(http, "mine").headers["consistency-token"])
    foreign = Token(own.system_identifier + 1, own.timeline, own.position)
    answer = http.get("/users", headers={"Consistency-Token": str(foreign)})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:pgroute:foreign-token")
    assert str(own.system_identifier + 1) in answer.json()["detail"]


# Users


def test_the_same_post_twice_writes_once(http: httpx2.Client) -> None:
    body = {"first_name": "Twice", "id": str(new_key())}
    first, second = (http.post("/users", json=body) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    other = http.post("/users", json={**body, "first_name": "Somebody else"})
    assert (other.status_code, other.json()["type"]) == (409, "urn:pgroute:key-taken")


def test_pages_follow_each_other_to_the_end(http: httpx2.Client) -> None:
    prefix = f"P{new_key().hex}"
    names = [f"{prefix} {letter}" for letter in "dbeca"]
    token = {}
    for name in names:
        token = {"Consistency-Token": add(http, name).headers["consistency-token"]}
    found: list[str] = []
    query: dict[str, str | int] = {"name_prefix": prefix, "sort": "-name", "limit": 2}
    while True:
        page = http.get("/users", params=query, headers=token).json()
        found += [user["first_name"] for user in page["users"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert found == sorted(names, reverse=True)


def test_sales_of_a_period_are_told_by_a_replica(http: httpx2.Client) -> None:
    answer = http.get("/sales?from=2023-11&to=2024-02")
    assert [month["month"] for month in answer.json()["months"]] == [
        "2023-11-01", "2023-12-01", "2024-01-01", "2024-02-01",
    ]  # fmt: skip
    assert answer.headers["served-by"] in ("pg2", "pg3")


def test_more_requests_than_connections_are_all_answered(http: httpx2.Client) -> None:
    written = add(http, "many")
    token = {"Consistency-Token": written.headers["consistency-token"]}
    place = f"http://127.0.0.1:{PORT}{written.headers['location']}"

    def ask(_: int) -> int:
        return httpx2.get(place, headers=token, timeout=120).status_code

    with ThreadPoolExecutor(60) as threads:  # a pool has 10 connections
        assert set(threads.map(ask, range(300))) == {200}


def test_a_frozen_replica_costs_no_request(servers: Servers) -> None:
    watchful = {f"PGROUTE_{name.upper()}": str(value) for name, value in WATCHFUL.items()}
    with (
        serving(servers, PORT + 3, **watchful),
        httpx2.Client(base_url=f"http://127.0.0.1:{PORT + 3}", timeout=120) as http,
    ):
        place = add(http, "warm").headers["location"]
        for node in ("pg2", "pg3"):
            eventually(lambda on=node: has(servers, on, place), what="replayed")
        servers.signal("pg3", "STOP")
        try:
            answers = [http.get(place) for _ in range(50)]
        finally:
            servers.signal("pg3", "CONT")
        assert [answer.status_code for answer in answers] == [200] * 50

        def replicas() -> list[str]:
            replicas: list[str] = http.get("/topology").json()["replicas"]
            return replicas

        eventually(lambda: len(replicas()) == 2, what="pg3 is back")


def has(servers: Servers, node: str, place: str) -> bool:
    """Whether a node has the user of that address."""
    find = f"select 1 from tbl_users where id = '{place.rpartition('/')[2]}'"
    return servers.sql(node, find, database="app") == "1"


# Start


def test_without_its_database_it_does_not_start(servers: Servers) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, and nobody listens
        nowhere = unused.getsockname()[1]
        done = pgroute(
            servers,
            "serve",
            PGROUTE_LISTEN_PORT=str(PORT + 1),
            PGROUTE_NODES=f"pg1=127.0.0.1:{nowhere}",
            PGROUTE_CHECKOUT_TIMEOUT_SECONDS="0.5",
        )
    assert done.returncode == 1
    *log, sentence = done.stderr.splitlines()
    assert sentence.startswith(
        f"pgroute: no database answers within 0.5 s: pg1 (127.0.0.1:{nowhere}): "
    )
    assert all(line.startswith(("INFO ", "WARNING ")) for line in log), done.stderr


def test_on_a_port_that_is_taken_it_does_not_start(servers: Servers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        done = pgroute(servers, "serve", PGROUTE_LISTEN_PORT=str(number))
    assert (done.returncode, done.stderr) == (
        2,
        f"pgroute: cannot listen on 127.0.0.1 port {number}: Address already in use\n",
    )


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("nowhere.invalid", "Name or service not known"),
        ("[2001:db8::2]", "Cannot assign requested address"),
    ],
)
def test_on_an_address_that_is_not_here_it_does_not_start(
    servers: Servers, address: str, why: str
) -> None:
    done = pgroute(servers, "serve", PGROUTE_LISTEN_ADDRESS=address, PGROUTE_LISTEN_PORT="8080")
    assert (done.returncode, done.stderr) == (
        2,
        f"pgroute: cannot listen on {address} port 8080: {why}\n",
    )


# No primary


def test_without_a_primary_reads_go_on_and_writes_are_refused(servers: Servers) -> None:
    only = ",".join(f"{name}=127.0.0.1:{port(name)}" for name in ("pg2", "pg3"))
    process = subprocess.Popen(
        [sys.executable, "-m", "pgroute", "serve"],
        env=environment(
            servers,
            PGROUTE_LISTEN_PORT=str(PORT + 1),
            PGROUTE_NODES=only,
            PGROUTE_CHECKOUT_TIMEOUT_SECONDS="0.5",
        ),
    )
    url = f"http://127.0.0.1:{PORT + 1}"

    def alive() -> bool:
        assert process.poll() is None
        try:
            return httpx2.get(f"{url}/healthz").status_code == 200
        except httpx2.TransportError:
            return False

    try:
        eventually(alive, what="alive")
        answer = httpx2.post(f"{url}/users", json={"first_name": "Nobody"}, timeout=120)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:pgroute:no-primary")
        assert answer.headers["retry-after"] == "1"
        assert "pg2" in answer.json()["detail"]
    finally:
        process.terminate()
        process.wait(120)


# End


def test_told_to_stop_it_finishes_what_it_holds(servers: Servers) -> None:
    url = f"http://127.0.0.1:{PORT + 2}"
    held = threading.Event()
    release = threading.Event()
    watched = threading.Event()

    def lock() -> None:
        with subprocess.Popen(
            ["docker", "exec", "-i", servers.container, "psql", "-X", "-q", "-h", "/srv/pg",
             "-p", str(port("pg1")), "-U", "postgres", "app"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as session:  # fmt: skip
            assert session.stdin is not None
            assert session.stdout is not None
            session.stdin.write("begin; lock table tbl_users; select 'locked';\n")
            session.stdin.flush()
            while "locked" not in session.stdout.readline():
                assert session.poll() is None
            held.set()
            release.wait(120)
            session.stdin.write("commit;\n")
            session.stdin.close()

    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    with ThreadPoolExecutor(3) as threads:
        try:
            with serving(servers, PORT + 2) as process:
                stream = threads.submit(watch, f"{url}/live", watched)
                assert watched.wait(120)
                locking = threads.submit(lock)
                assert held.wait(120)
                slow = threads.submit(
                    httpx2.post, f"{url}/users", json={"first_name": "Late"}, timeout=120
                )
                eventually(lambda: servers.sql("pg1", waiting) == "1", what="a write that waits")
                process.send_signal(signal.SIGTERM)
                eventually(refused, what="no further connection")
                # The stream of a viewer ends at once, and nothing waits for it.
                assert stream.result(60) == 200
                assert process.poll() is None, "it waits for the write"
                assert not slow.done()
                release.set()
                answer = slow.result(60)
                assert answer.status_code == 201
                assert process.wait(60) in (0, -signal.SIGTERM)
                locking.result(60)
        finally:
            release.set()
    key = answer.json()["id"]
    assert servers.sql("pg1", f"select 1 from tbl_users where id = '{key}'", database="app") == "1"


def watch(url: str, watched: threading.Event) -> int:
    """View the stream to its end; its status."""
    with httpx2.stream("GET", url, timeout=120) as answer:
        for _ in answer.iter_bytes():
            watched.set()
        return answer.status_code


def refused() -> bool:
    try:
        socket.create_connection(("127.0.0.1", PORT + 2), timeout=30).close()
    except ConnectionRefusedError:
        return True
    return False
