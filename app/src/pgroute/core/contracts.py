"""What a read asks for: how old its answer may be, and what happens when no replica is that new.

``eventual``  any healthy replica.
``max_lag``   a replica that is provably no older than a time, or than an amount of log.
``after``     a server that has everything a token stands for.
``strong``    the primary.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache

from pgroute.core.lsn import Mark, Token
from pgroute.errors import UnknownContract

MaxLag = str | int | timedelta

_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*", re.ASCII)
_SECONDS = {
    "us": Decimal("0.000001"),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
# As in postgresql.conf: multiples of 1024.
_BYTES = {"b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}
_LONGEST_SECONDS = Decimal(86400 * 365)
_GREATEST_BYTES = 1 << 60


class Otherwise(StrEnum):
    """What to do when no replica meets the contract."""

    PRIMARY = "primary"  # read there, within the cap on spilled reads
    RAISE = "raise"  # ContractNotMet
    WAIT = "wait"  # wait on a replica for the token, then read on the primary


@dataclass(frozen=True, slots=True)
class Contract:
    """One read's demands; several hold together. Make it with :meth:`of`, or take a constant."""

    strong: bool = False
    max_lag_seconds: float | None = None
    max_lag_bytes: int | None = None
    after: Token | Mark | None = None
    otherwise: Otherwise = Otherwise.PRIMARY

    @classmethod
    def of(
        cls,
        name: str | Contract = "eventual",
        *,
        max_lag: MaxLag | None = None,
        after: Token | Mark | None = None,
        otherwise: str = "primary",
    ) -> Contract:
        """The contract of a caller's words. UnknownContract says what is wrong with them.

        A :class:`Contract` as ``name`` is returned as it is and goes with no other argument.
        """
        if isinstance(name, Contract):
            if max_lag is not None or after is not None or otherwise != "primary":
                raise UnknownContract("a Contract object already holds its limits: give no others")
            return name
        if name not in ("eventual", "strong"):
            raise UnknownContract(f"no such contract: {name!r}; there are 'eventual' and 'strong'")
        try:
            fallback = Otherwise(otherwise)
        except ValueError:
            known = ", ".join(repr(str(choice)) for choice in Otherwise)
            raise UnknownContract(f"no such otherwise: {otherwise!r}; there are {known}") from None
        if after is not None and not isinstance(after, Token | Mark):
            raise UnknownContract(f"after takes a token, not {type(after).__name__}")
        if name == "strong" and max_lag is not None:
            raise UnknownContract("'strong' reads on the primary: a max_lag says nothing there")
        seconds, size = (None, None) if max_lag is None else parse_max_lag(max_lag)
        return cls(name == "strong", seconds, size, after, fallback)

    @property
    def is_eventual(self) -> bool:
        """True when any healthy replica will do."""
        return (
            not self.strong
            and self.max_lag_seconds is None
            and self.max_lag_bytes is None
            and self.after is None
        )

    def __str__(self) -> str:
        parts = []
        if self.max_lag_seconds is not None:
            parts.append(f"max_lag={self.max_lag_seconds:g}s")
        if self.max_lag_bytes is not None:
            parts.append(f"max_lag={self.max_lag_bytes}B")
        if self.after is not None:
            parts.append(f"after={self.after}" if isinstance(self.after, Token) else "after=mark")
        return ", ".join(parts) or ("strong" if self.strong else "eventual")


EVENTUAL = Contract()
STRONG = Contract(strong=True)


def parse_max_lag(limit: MaxLag) -> tuple[float | None, int | None]:
    """A lag limit as (seconds, None) or (None, bytes).

    ``"500ms"``, ``"2s"``, ``"1min"`` and timedelta are times; ``"16MB"`` and int are bytes, the
    units as in postgresql.conf (1 kB = 1024 bytes). UnknownContract when it is none, or impossible:
    a negative one, no time at all, more than a year or an exbibyte.
    """
    if isinstance(limit, timedelta):
        return _seconds(Decimal(limit // timedelta(microseconds=1)) / 1_000_000, limit), None
    if isinstance(limit, int) and not isinstance(limit, bool):
        return None, _bytes(Decimal(limit), limit)
    if isinstance(limit, str):
        return _parse_text(limit)
    raise _no_lag(limit)


def _no_lag(limit: object) -> UnknownContract:
    return UnknownContract(f"not a lag: {limit!r}; write '500ms', '2s', '16MB' or a timedelta")


@lru_cache(maxsize=64)  # asked with every read
def _parse_text(limit: str) -> tuple[float | None, int | None]:
    match = _AMOUNT.fullmatch(limit)
    if match is None:
        raise _no_lag(limit)
    amount, unit = Decimal(match[1]), match[2]
    if unit in _SECONDS:
        return _seconds(amount * _SECONDS[unit], limit), None
    if unit.lower() in _BYTES:
        return None, _bytes(amount * _BYTES[unit.lower()], limit)
    units = ", ".join([*_SECONDS, "B", "kB", "MB", "GB", "TB"])
    raise UnknownContract(f"not a unit of lag: {unit!r} in {limit!r}; there are {units}")


def _seconds(amount: Decimal, given: object) -> float:
    if amount <= 0:
        raise UnknownContract(
            f"impossible lag: {given!r}; no replica is younger than its sample, read 'strong'"
        )
    if amount > _LONGEST_SECONDS:
        raise UnknownContract(f"impossible lag: {given!r} is more than a year")
    return float(amount)


def _bytes(amount: Decimal, given: object) -> int:
    if amount < 0:
        raise UnknownContract(f"impossible lag: {given!r} is negative")
    if amount > _GREATEST_BYTES:
        raise UnknownContract(f"impossible lag: {given!r} is more than an exbibyte")
    if amount != amount.to_integral_value():
        raise UnknownContract(f"impossible lag: {given!r} is no whole number of bytes")
    return int(amount)
