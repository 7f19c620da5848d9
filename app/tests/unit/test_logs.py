"""The log: what is said, when, and what never is."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from psycopg.errors import UniqueViolation

from pgroute.core.topology import Role
from pgroute.observing.logs import JsonLines, Log, write_logs
from pgroute.observing.observer import Doubt, Query, Reason


class Written:
    """A logger whose lines can be read."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.logger = logging.Logger("pgroute")
        self._handler = logging.StreamHandler(self.stream)
        self._handler.setFormatter(JsonLines())
        self.logger.addHandler(self._handler)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def written() -> Written:
    return Written()


def query(seconds: float, error: BaseException | None = None) -> Query:
    return Query("pg2", Role.REPLICA, Reason.READ, "select %s", 1, seconds, error)


def test_a_slow_statement_is_logged_with_its_route(written: Written) -> None:
    Log(slow_query_seconds=0.5, logger=written.logger).queried(query(0.5))
    (line,) = written.lines
    assert datetime.fromisoformat(line.pop("time")).utcoffset() is not None
    assert line == {
        "level": "warning",
        "logger": "pgroute",
        "message": "pg2: 0.500 s: select %s",
        "event": "slow_query",
        "node": "pg2",
        "role": "replica",
        "reason": "read",
        "seconds": 0.5,
        "statement": "select %s",
    }


def test_a_quick_statement_is_not_logged(written: Written) -> None:
    Log(slow_query_seconds=0.5, logger=written.logger).queried(query(0.499))
    Log(logger=written.logger).queried(query(9.0))
    assert written.lines == []


def test_statements_are_timed_only_with_a_limit() -> None:
    assert Log(slow_query_seconds=1.0).wants_queries
    assert not Log().wants_queries


def test_an_error_is_named_by_its_class_and_its_text_kept_back(written: Written) -> None:
    log = Log(slow_query_seconds=0.1, logger=written.logger)
    log.queried(query(0.2, UniqueViolation("Key (email)=(ada@example.org) already exists.")))
    log.queried(query(0.2, TimeoutError("ada")))
    assert [line["error"] for line in written.lines] == ["23505", "TimeoutError"]
    assert "ada" not in written.stream.getvalue()


@pytest.mark.parametrize(
    ("call", "fields"),
    [
        (
            lambda log: log.primary_changed("pg1", "pg2"),
            {"event": "primary_changed", "before": "pg1", "after": "pg2", "level": "info"},
        ),
        (
            lambda log: log.primary_changed("pg1", None),
            {"event": "primary_changed", "before": "pg1", "level": "warning"},
        ),
        (
            lambda log: log.breaker_turned("pg3", "open"),
            {"event": "breaker", "node": "pg3", "state": "open", "level": "warning"},
        ),
        (
            lambda log: log.in_doubt("pg1", Doubt.UNKNOWN),
            {"event": "commit_in_doubt", "node": "pg1", "outcome": "unknown", "level": "error"},
        ),
        (
            lambda log: log.misrouted("pg2", "select f('secret')"),
            {"event": "misrouted", "node": "pg2", "statement": "select f(?)", "level": "warning"},
        ),
    ],
)
def test_an_event_is_one_line_with_its_fields(
    written: Written, call: Any, fields: dict[str, Any]
) -> None:
    call(Log(logger=written.logger))
    (line,) = written.lines
    assert {key: line[key] for key in line if key not in ("time", "logger", "message")} == fields
    assert "secret" not in written.stream.getvalue()


def test_a_reached_cap_is_said_once_until_a_read_is_let_through(written: Written) -> None:
    log = Log(logger=written.logger)
    for allowed in (True, False, False, True, False):
        log.spilled(Reason.LAG_EXCEEDED, allowed)
    assert [line["event"] for line in written.lines] == ["spill_capped"] * 2


def test_a_level_that_is_off_costs_no_text(written: Written) -> None:
    written.logger.setLevel(logging.ERROR)
    Log(logger=written.logger).breaker_turned("pg3", "open")
    assert written.lines == []


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger, ours = logging.getLogger(), logging.getLogger("pgroute")
    handlers, levels = list(logger.handlers), (logger.level, ours.level)
    logger.handlers[:] = []  # what is closed by force is not pytest's
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.mark.usefixtures("root")
def test_a_program_chooses_json_lines_or_text() -> None:
    shown, plain = io.StringIO(), io.StringIO()
    write_logs(shown, form="json", level=logging.INFO)
    try:
        raise ValueError("wrong")
    except ValueError:
        logging.getLogger("pgroute.test").exception("it said %d", 7)
    logging.getLogger("pgroute").info("heard")
    logging.getLogger("others").info("not heard")
    write_logs(plain)
    logging.getLogger("pgroute").warning("in words")
    logging.getLogger("pgroute").info("not heard")
    first, second = (json.loads(line) for line in shown.getvalue().splitlines())
    assert (first["level"], first["message"]) == ("error", "it said 7")
    assert "ValueError: wrong" in first["exception"]
    assert second["message"] == "heard"
    assert plain.getvalue() == "WARNING in words\n"
