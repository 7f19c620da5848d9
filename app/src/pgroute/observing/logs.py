"""What a router has to say, in the log: events and slow statements, as text or as JSON lines.

Everything goes to the logger "pgroute". Statements appear with their placeholders, parameters
never do.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from pgroute.observing.observer import Doubt, Query, Reason, Silent
from pgroute.observing.redaction import shown

_log = logging.getLogger("pgroute")
_FIELDS = "pgroute"  # the attribute of a log record that holds its fields


class Log(Silent):
    """An observer that logs what is rare and worth reading.

    ``slow_query_seconds``: statements that took at least so long are logged; None: none is timed.
    """

    def __init__(
        self, *, slow_query_seconds: float | None = None, logger: logging.Logger = _log
    ) -> None:
        self._limit = slow_query_seconds
        self._logger = logger
        self._refused: set[Reason] = set()

    @property
    def wants_queries(self) -> bool:
        return self._limit is not None

    @property
    def queries_from(self) -> float:
        return self._limit or 0.0

    def primary_changed(self, before: str | None, after: str | None) -> None:
        level = logging.INFO if after else logging.WARNING
        self._say(
            level,
            "primary_changed",
            "writes go to %s, before: %s",
            after or "nobody",
            before or "nobody",
            before=before,
            after=after,
        )

    def breaker_turned(self, node: str, state: str) -> None:
        level = logging.WARNING if state == "open" else logging.INFO
        self._say(level, "breaker", "%s: breaker %s", node, state, node=node, state=state)

    def spilled(self, reason: Reason, allowed: bool) -> None:
        """Say it when the cap is reached, and not again before a read was let through."""
        if allowed:
            self._refused.discard(reason)
        elif reason not in self._refused:
            self._refused.add(reason)
            self._say(
                logging.WARNING,
                "spill_capped",
                "no more reads may go to the primary for now (%s)",
                reason,
                reason=reason,
            )

    def misrouted(self, node: str, statement: str) -> None:
        statement = shown(statement, parameterised=False)
        self._say(
            logging.WARNING,
            "misrouted",
            "%s refused a write taken for a read, remembered: %s",
            node,
            statement,
            node=node,
            statement=statement,
        )

    def in_doubt(self, node: str, outcome: Doubt) -> None:
        level = logging.ERROR if outcome is Doubt.UNKNOWN else logging.WARNING
        self._say(
            level,
            "commit_in_doubt",
            "%s: lost the answer to a COMMIT, which is %s",
            node,
            outcome.replace("_", " "),
            node=node,
            outcome=outcome,
        )

    def queried(self, query: Query) -> None:
        if self._limit is None or query.seconds < self._limit:
            return
        failure = "" if query.error is None else f", {kind_of(query.error)}"
        self._say(
            logging.WARNING,
            "slow_query",
            "%s: %.3f s%s: %s",
            query.node,
            query.seconds,
            failure,
            query.statement,
            node=query.node,
            role=query.role,
            reason=query.reason,
            seconds=round(query.seconds, 6),
            statement=query.statement,
            error=None if query.error is None else kind_of(query.error),
        )

    def _say(self, level: int, event: str, text: str, *arguments: object, **fields: object) -> None:
        if self._logger.isEnabledFor(level):
            told = {"event": event, **{k: v for k, v in fields.items() if v is not None}}
            self._logger.log(level, text, *arguments, extra={_FIELDS: told})


def kind_of(error: BaseException) -> str:
    """The SQLSTATE of an error, or its class: never its text, which may hold values."""
    sqlstate = getattr(error, "sqlstate", None)
    return sqlstate if isinstance(sqlstate, str) else type(error).__qualname__


class JsonLines(logging.Formatter):
    """One JSON object per record: time (UTC), level, logger, message and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = getattr(record, _FIELDS, None)
        if isinstance(fields, Mapping):
            line |= fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def write_logs(stream: TextIO, *, form: str = "text", level: int = logging.WARNING) -> None:
    """Send the process's log to ``stream`` and nowhere else, ``form`` "text" or "json".

    ``level``: of what pgroute says; others are heard from WARNING on. For a program's own start: a
    library that uses pgroute leaves this to its user.
    """
    handler = logging.StreamHandler(stream)
    plain = logging.Formatter("%(levelname)s %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else plain)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    _log.setLevel(level)
