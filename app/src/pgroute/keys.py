"""UUIDv7 keys (RFC 9562): made here, because PostgreSQL 17 cannot make them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from uuid_utils.compat import uuid7 as _uuid7

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def new_key() -> UUID:
    """A UUIDv7 of this moment, greater than every one this process made before."""
    return _uuid7()


def created_at(key: UUID) -> datetime:
    """When a UUIDv7 was made: UTC, millisecond resolution.

    ValueError for another version, and for a year that a datetime cannot hold.
    """
    if key.version != 7:
        raise ValueError(f"{key} is not a UUIDv7 (version {key.version})")
    try:
        return _EPOCH + timedelta(milliseconds=key.int >> 80)
    except OverflowError:
        raise ValueError(f"{key} is of a year after 9999") from None
