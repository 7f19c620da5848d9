"""Compares the leaves that are computed here with those that the server chooses."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import psycopg

from pgroute.doctor.asking.servers import Connection
from pgroute.doctor.facts import PartitionedTable
from pgroute.errors import PartitionError, PartitionMismatch
from pgroute.partitions import Partitions
from pgroute.routing.probe import one_line

_TABLES = """
select c.oid::regclass::text as label
from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
where c.relkind = 'p' and not c.relispartition and has_schema_privilege(n.oid, 'usage')
order by 1
"""


def ask_partitions(connection: Connection, random: Random) -> tuple[PartitionedTable, ...]:
    """Every partitioned table that the user can look at. psycopg's errors when that ends."""
    labels = [row["label"] for row in connection.execute(_TABLES)]
    return tuple(_ask(connection, labels, random))


def _ask(connection: Connection, labels: list[str], random: Random) -> Iterator[PartitionedTable]:
    for label in labels:
        try:
            found = Partitions.read(connection, label, random=random)
        except PartitionMismatch as error:
            yield PartitionedTable(label, mismatch=one_line(error))
        except PartitionError as error:
            yield PartitionedTable(label, uncomputable=one_line(error))
        except (psycopg.Error, ValueError) as error:
            if connection.broken:
                raise
            yield PartitionedTable(label, failure=one_line(error))
        else:
            yield PartitionedTable(label, len(found.leaves), found.checked_keys)
