"""Tokens that are handed out before their position is known."""

from __future__ import annotations

from collections.abc import Callable

from pgroute.core.lsn import Mark, Token


class PendingToken(Token):
    """A token whose position settles with the first sample that started after its :attr:`mark`.

    Use it at once with ``after=``. Its text and its numbers wait for the sample, at most
    ``token_timeout_seconds``; in asynchronous code ``await router.settle(token)`` first.
    """

    __slots__ = ("_settle", "_settled", "mark")

    # One is made for every write: those of the frozen class take three times as long.
    __setattr__ = object.__setattr__
    __delattr__ = object.__delattr__

    def __init__(self, mark: Mark, settle: Callable[[Mark], Token]) -> None:
        self.mark = mark
        self._settle = settle
        self._settled: Token | None = None

    @property
    def settled(self) -> Token:
        """The token with its position. Waits when it must; raises as the router's ``settle``."""
        found = self._settled
        if found is None:
            found = self._settled = self._settle(self.mark)
        return found

    @property
    def system_identifier(self) -> int:
        return self.settled.system_identifier

    @property
    def timeline(self) -> int:
        return self.settled.timeline

    @property
    def position(self) -> int:
        return self.settled.position

    def __str__(self) -> str:
        return str(self.settled)

    def __repr__(self) -> str:
        return f"PendingToken({self.mark!r})"

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Token) and self.settled == plain(other))

    def __hash__(self) -> int:
        return hash(self.settled)

    def __reduce__(self) -> tuple[object, ...]:
        return Token, (self.system_identifier, self.timeline, self.position)


def plain(token: Token) -> Token:
    """The token as it is stored: settled."""
    return token.settled if isinstance(token, PendingToken) else token


def unsettled(after: Token | Mark | None) -> Token | Mark | None:
    """What a contract takes without waiting: the mark of a pending token."""
    if isinstance(after, PendingToken):
        return after.mark
    return after
