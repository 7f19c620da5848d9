"""Many users in little time: COPY into tbl_users."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

from pgroute.partitions import Loaded, load
from pgroute.people import people
from pgroute.router import Router


def load_users(
    router: Router,
    count: int,
    *,
    random: Random,
    progress: Callable[[int], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Loaded:
    """Add ``count`` made-up users to tbl_users on the primary.

    ``progress`` hears how many rows the server has taken; they are committed together at
    the end. Raises what :func:`pgroute.partitions.load` raises.
    """
    return load(
        router,
        "tbl_users",
        ("id", "first_name"),
        people(count, random),
        progress=progress,
        clock=clock,
    )
