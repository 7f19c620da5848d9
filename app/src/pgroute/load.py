"""Many users in little time: COPY into the partitioned table, in blocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from random import Random

from pgroute.people import people
from pgroute.router import Router

BLOCK_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load did: rows, seconds, and the node that took them last."""

    rows: int
    seconds: float
    node: str


def load_users(
    router: Router,
    count: int,
    *,
    random: Random,
    block_rows: int = BLOCK_ROWS,
    progress: Callable[[int], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Loaded:
    """Add ``count`` users to tbl_users on the primary.

    Each block of ``block_rows`` commits by itself, then ``progress`` hears how many rows are in.
    What was committed stays when a later block fails. Raises what Router.write() and COPY raise.
    """
    started = clock()
    everyone = people(count, random)
    done = 0
    node = router.topology.primary or ""
    while block := list(islice(everyone, block_rows)):
        with router.write() as connection:
            node = connection.node
            with (
                connection.cursor() as cursor,
                cursor.copy(
                    "copy tbl_users (id, first_name) from stdin with (format binary)"
                ) as copy,
            ):
                copy.set_types(["uuid", "varchar"])
                for user in block:
                    copy.write_row(user)
        done += len(block)
        if progress is not None:
            progress(done)
    return Loaded(done, clock() - started, node)
