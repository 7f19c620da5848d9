"""Where a page of users ended, as a text that callers hand back unread. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from uuid import UUID

from pgroute.examples.shop import User, UserOrder

# One behind a name of 255 characters that JSON escapes, six bytes each, in base64.
CURSOR_LENGTH = 2200


def write(order: UserOrder, descending: bool, last: User) -> str:
    """The cursor behind ``last`` in this order."""
    name = last.first_name if order is UserOrder.NAME else ""
    parts = [order.value, descending, str(last.id), name]
    text = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read(cursor: str, order: UserOrder, descending: bool) -> User:
    """The last user of the page before. ValueError: not a cursor, or one of another order."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        of_order, was_descending, key, name = json.loads(base64.urlsafe_b64decode(padded))
        last = User(UUID(key), str(name))
        last.first_name.encode()  # JSON can tell characters that are none
    except (ValueError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise ValueError("not a cursor that this service gave") from None
    if (of_order, was_descending) != (order.value, descending):
        raise ValueError("the cursor is of another order than asked for")
    return last
