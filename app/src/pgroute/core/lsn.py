"""Positions in the write-ahead log, and what is made of them: tokens and marks. Pure.

A :class:`Token` is a known position. A :class:`Mark` is a moment on a server whose position is not
known yet; the ledger turns it into a token once a sample that started later has come in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from pgroute.errors import MalformedToken

_PAGE_BYTES = 8192
_PAGE_HEADER_BYTES = (24, 40)  # of an ordinary page, of the first page of a segment
_TOKEN = re.compile(r"([0-9]{1,20})-([0-9]{1,10})-([0-9A-F]{1,8})/([0-9A-F]{1,8})", re.ASCII)


def parse_lsn(text: str) -> int:
    """The byte position of an LSN such as ``0/3000148``. ValueError when it is not one."""
    high, slash, low = text.partition("/")
    if not slash:
        raise ValueError(f"not an LSN: {text!r}")
    return (int(high, 16) << 32) | int(low, 16)


def format_lsn(position: int) -> str:
    """The LSN of a byte position, as PostgreSQL prints it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def reachable(position: int) -> int:
    """The position that a replica reports once it has replayed everything before ``position``.

    An insert position that would start a page is reported after that page's header, while replay
    ends before it; with no later record, a replica would never get there.
    """
    offset = position % _PAGE_BYTES
    return position - offset if offset in _PAGE_HEADER_BYTES else position


@dataclass(frozen=True, slots=True)
class Token:
    """Everything committed before this was made: hand it to ``Router.read(after=...)``.

    ``str()`` gives a text for a cookie or a queue message, :meth:`parse` takes it back.
    """

    system_identifier: int
    timeline: int
    position: int

    @property
    def text(self) -> str:
        """The text for a cookie or a queue message."""
        return str(self)

    def __str__(self) -> str:
        return f"{self.system_identifier}-{self.timeline}-{format_lsn(self.position)}"

    @classmethod
    def parse(cls, text: str) -> Token:
        """The token of a text made by ``str(token)``. MalformedToken when it is none."""
        match = _TOKEN.fullmatch(text)
        if match is None:
            raise MalformedToken(
                f"not a token: {text[:80]!r}; expected <system identifier>-<timeline>-<LSN>"
            )
        identifier, timeline, high, low = match.groups()
        return cls(int(identifier), int(timeline), (int(high, 16) << 32) | int(low, 16))


class Mark(NamedTuple):
    """A write or read on ``node`` that ended at ``ended_at``, on the clock of the samples.

    ``timeline`` and ``epoch`` are ``ledger.timeline`` and ``ledger.epoch(node)`` as they were when
    the connection was handed out.
    """

    node: str
    ended_at: float
    timeline: int
    epoch: int = 0


POSITIONS = (Token, Mark)

# A mark of a tuple of its four values, at half the price of Mark(...).
new_mark: Callable[[tuple[str, float, int, int]], Mark] = partial(tuple.__new__, Mark)
