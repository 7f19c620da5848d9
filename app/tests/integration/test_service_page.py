"""The page at ``/`` in a real browser, over a real service and real servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Remote
from selenium.webdriver.common.by import By

from tests.browser.headless import browser, console_errors, keep_screenshot
from tests.integration.test_commands import environment
from tests.servers import FIRST_PORT, Servers, eventually, why_not

pytestmark = pytest.mark.integration

PORT = FIRST_PORT + 91
ROLES = {"pg1": "primary", "pg2": "replica", "pg3": "replica"}
SECONDS = 60.0  # generous: the page shows a change after one or two


# Long enough for a busy server, short enough for a frozen one.
FREEZABLE = {"PGROUTE_EJECT_AFTER_SECONDS": "5", "PGROUTE_PROBE_TIMEOUT_SECONDS": "10"}


@contextmanager
def serving(servers: Servers) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pgroute", "serve"],
        env=environment(servers, PGROUTE_LISTEN_PORT=str(PORT), **FREEZABLE),
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(120)


@pytest.fixture(scope="module")
def driver() -> Iterator[Remote]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with browser() as opened:
        yield opened


@pytest.fixture
def service(servers: Servers) -> Iterator[subprocess.Popen[bytes]]:
    with serving(servers) as process:
        yield process


@pytest.fixture
def page(driver: Remote, service: subprocess.Popen[bytes]) -> Remote:
    """The page, once it shows the three roles."""

    def opened() -> bool:
        assert service.poll() is None, "the service has ended"
        try:
            driver.get(f"http://127.0.0.1:{PORT}/")
        except WebDriverException as error:
            if "net::ERR_" in str(error):
                return False
            raise
        return True

    eventually(opened, seconds=SECONDS, what="the service answers")
    until(lambda: roles(driver) == ROLES, "three roles", driver)
    console_errors(driver)  # forget those of the tries
    return driver


def until(condition: object, what: str, driver: Remote) -> None:
    try:
        eventually(condition, seconds=SECONDS, what=what)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{text_of(driver, 'body')}") from None


def text_of(driver: Remote, selector: str) -> str:
    """What a person reads there; in one question, so that nothing changes in between."""
    script = "return document.querySelector(arguments[0])?.innerText ?? ''"
    return str(driver.execute_script(script, selector))


def roles(driver: Remote) -> dict[str, str]:
    script = """
        return [...document.querySelectorAll("#nodes article")].map(
            (card) => [card.querySelector("h3").innerText, card.querySelector(".role").innerText])
    """
    return dict(driver.execute_script(script))


def card(name: str, part: str = "") -> str:
    return f'#nodes [data-node="{name}"] {part}'


def stream(driver: Remote) -> str:
    return text_of(driver, "#stream")


def test_every_node_is_shown_with_its_role_and_no_error(page: Remote) -> None:
    until(lambda: stream(page) == "Live", "live", page)
    assert text_of(page, card("pg2", ".state")) == "streaming"
    assert text_of(page, card("pg1", ".address")).startswith("127.0.0.1:")
    assert page.title == "pg1 · pgroute"
    assert not page.find_element(By.ID, "problem").is_displayed()
    assert not page.find_element(By.ID, "stale").is_displayed()
    keep_screenshot(page, "live")
    assert console_errors(page) == []


def test_reads_are_counted_on_every_replica(page: Remote) -> None:
    def counted() -> set[str]:
        script = """
            return [...document.querySelectorAll("#routes tr")].map(
                (row) => [...row.querySelectorAll("th, td")].map((cell) => cell.innerText))
        """
        return {
            node
            for node, kind, _why, rate, count, _share in page.execute_script(script)
            if kind == "read" and int(count.replace(",", "")) > 0 and rate[0] in "123456789"
        }

    until(lambda: {"pg2", "pg3"} <= counted(), "reads on both replicas, and their pace", page)
    assert console_errors(page) == []


def test_partitions_are_shown_with_their_share(servers: Servers, page: Remote) -> None:
    servers.sql(
        "pg1",
        "insert into tbl_users select gen_random_uuid(), 'page' from generate_series(1, 1000);"
        "analyze tbl_users",
        database="app",
    )
    until(lambda: "tbl_users_p3\n≈" in text_of(page, "#partitions"), "estimates of rows", page)
    shown = text_of(page, "#partitions")
    assert [f"tbl_users_p{n}" in shown for n in range(4)] == [True] * 4
    assert "with (modulus 4, remainder 3)" in shown
    assert "from ('2024-01-01') to ('2025-01-01')" in shown
    keep_screenshot(page, "partitions")
    assert console_errors(page) == []


def test_bounds_keep_their_literals_and_unknown_rows_make_no_share(
    servers: Servers, page: Remote
) -> None:
    servers.sql(
        "pg1",
        "set role app_owner; create table cities (name text) partition by list (name);"
        "create table north partition of cities for values in ('Århus', 'O''Hare', 'DEFAULT');"
        "create table south partition of cities default;"
        "insert into cities values ('Århus'); analyze north",
        database="app",
    )
    try:
        until(lambda: "south" in text_of(page, "#partitions"), "the new table", page)
        shown = text_of(page, "#partitions")
        assert "in ('Århus', 'O''Hare', 'DEFAULT')" in shown
        assert "≈ 1 rows, \N{EN DASH}" in shown
        assert "rows not estimated yet" in shown
    finally:
        servers.sql("pg1", "drop table cities", database="app")


def test_lag_is_shown_while_replay_is_paused(servers: Servers, page: Remote) -> None:
    until(lambda: text_of(page, card("pg2", ".lag")) == "0 B", "no lag", page)
    servers.sql("pg2", "select pg_wal_replay_pause()")
    try:
        servers.sql("pg1", "select pg_logical_emit_message(false, 'page', repeat('x', 300000))")
        until(lambda: "KiB" in text_of(page, card("pg2", ".lag")), "lag of pg2", page)
        until(lambda: text_of(page, card("pg3", ".lag")) == "0 B", "no lag of pg3", page)
        keep_screenshot(page, "lag")
    finally:
        servers.sql("pg2", "select pg_wal_replay_resume()")
    until(lambda: text_of(page, card("pg2", ".lag")) == "0 B", "no lag again", page)


def test_a_frozen_replica_is_shown_within_seconds(servers: Servers, page: Remote) -> None:
    servers.signal("pg3", "STOP")
    try:
        until(lambda: roles(page)["pg3"] == "unknown", "pg3 is not known", page)
        until(
            lambda: "pg3: unknown now, before replica" in text_of(page, "#changes"), "a note", page
        )
        assert text_of(page, card("pg3", ".lag")) == "unknown"
        until(lambda: roles(page) == {**ROLES, "pg3": "unknown"}, "the others are as before", page)
        keep_screenshot(page, "frozen")
    finally:
        servers.signal("pg3", "CONT")
    until(lambda: roles(page) == ROLES, "pg3 is back", page)
    assert console_errors(page) == []


def test_a_silent_service_is_told_and_what_was_is_marked(
    page: Remote, service: subprocess.Popen[bytes]
) -> None:
    os.kill(service.pid, signal.SIGSTOP)
    until(lambda: stream(page) == "Stale", "the silence", page)
    assert "Nothing was heard from the service since" in text_of(page, "#stale")
    assert roles(page) == {name: f"was {role}" for name, role in ROLES.items()}
    assert page.title == "Stale · pgroute"
    assert "The stream broke." in text_of(page, "#changes")
    keep_screenshot(page, "stale")
    os.kill(service.pid, signal.SIGCONT)
    until(lambda: stream(page) == "Live" and roles(page) == ROLES, "live again", page)
    assert not page.find_element(By.ID, "stale").is_displayed()


def test_a_stopped_service_is_told_and_a_new_one_is_found(
    servers: Servers, page: Remote, service: subprocess.Popen[bytes]
) -> None:
    service.terminate()
    until(lambda: stream(page) == "Stale", "the end of the service", page)
    with serving(servers):
        until(lambda: stream(page) == "Live" and roles(page) == ROLES, "live again", page)
        until(
            lambda: "The service was started again." in text_of(page, "#changes"),
            "a note of the new service",
            page,
        )


def test_a_failover_shows_the_new_primary(expendable: Servers, page: Remote) -> None:
    expendable.stop("pg1")
    until(lambda: "pg1" in text_of(page, "#problem"), "no primary", page)
    assert page.title == "no primary · pgroute"
    keep_screenshot(page, "no-primary")
    expendable.control("pg2", "promote")
    until(lambda: roles(page)["pg2"] == "primary", "pg2 is the primary", page)
    assert page.title == "pg2 · pgroute"
    assert "Writes go to pg2 now." in text_of(page, "#changes")
    until(lambda: text_of(page, card("pg2", ".timeline")) == "2", "the new timeline", page)
    keep_screenshot(page, "failover")
    assert console_errors(page) == []
