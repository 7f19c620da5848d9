"""Logs in as the router would, and asks each server what it is. Every wait has an end."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import pq
from psycopg.rows import dict_row, tuple_row

from pgroute.config import Node, Settings
from pgroute.core.lsn import reachable
from pgroute.doctor.facts import Clock, Origin, Purpose, Rights, Server, Session
from pgroute.routing.probe import one_line

Connection = psycopg.Connection[Any]
_CLOCK_ROUNDS = 5
_ISOLATION = "default_transaction_isolation"

_SERVER = """
select current_setting('server_version_num')::int as version,
       (select system_identifier from pg_control_system()) as system_identifier,
       pg_is_in_recovery() as in_recovery,
       case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
            else pg_current_wal_insert_lsn()
       end - '0/0'::pg_lsn as position,
       case when pg_is_in_recovery()
            then greatest((select timeline_id from pg_control_checkpoint()),
                          (select min_recovery_end_timeline from pg_control_recovery()),
                          (select received_tli from pg_stat_wal_receiver))
            else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int
       end as timeline,
       pg_postmaster_start_time()::text as started_at,
       exists (select from pg_stat_wal_receiver) as receiving,
       (select status from pg_stat_wal_receiver) as receiver_status,
       case when pg_is_in_recovery() then pg_is_wal_replay_paused() else false end
           as replay_paused,
       current_setting('max_connections')::int as max_connections,
       current_setting('superuser_reserved_connections')::int
           + coalesce(current_setting('reserved_connections', true)::int, 0)
           as reserved_connections,
       (select sum(numbackends) from pg_stat_database where datid <> 0)::int as used_connections,
       d.datconnlimit as database_limit,
       current_setting('hot_standby_feedback')::bool as hot_standby_feedback,
       (select setting::float8 / 1000 from pg_settings
        where name = 'max_standby_streaming_delay') as standby_delay,
       (select conflicts::int from pg_stat_database where datname = d.datname) as conflicts
from pg_database as d
where d.datname = current_database()
"""
_SESSION = """
select r.rolsuper as superuser, r.rolconnlimit as connection_limit,
       pg_has_role(r.oid, 'pg_read_all_stats', 'usage') as sees_statistics,
       (select version from pg_stat_ssl where pid = pg_backend_pid() and ssl) as tls_version,
       (select reset_val from pg_settings
        where name = 'default_transaction_isolation') as isolation,
       pg_backend_pid() as pid
from pg_roles as r
where r.rolname = current_user
"""
_EFFECTIVE = "select name, setting from pg_settings where name = any(%s)"
# From the least to the most particular.
_OWN = """
select unnest(s.setconfig) as assignment,
       case when s.setrole <> 0 then 'role' || case when s.setdatabase <> 0 then ' in database'
                                               else '' end
            when s.setdatabase <> 0 then 'database'
            else 'everybody'
       end as origin
from pg_db_role_setting as s
left join pg_roles as r on r.oid = s.setrole
left join pg_database as d on d.oid = s.setdatabase
where (s.setrole = 0 or r.rolname = current_user)
  and (s.setdatabase = 0 or d.datname = current_database())
order by (s.setrole <> 0)::int * 2 + (s.setdatabase <> 0)::int
"""
_RIGHTS_TO = """
select format('%I.%I', n.nspname, c.relname) as table,
       has_schema_privilege(n.oid, 'usage') as usage,
       has_table_privilege(c.oid, 'select') as select,
       has_table_privilege(c.oid, 'insert') as insert,
       has_table_privilege(c.oid, 'update') as update,
       has_table_privilege(c.oid, 'delete') as delete,
       not exists (
           select from pg_depend as own join pg_class as s on s.oid = own.objid
           where own.classid = 'pg_class'::regclass and own.refobjid = c.oid
             and own.deptype = 'a'
             and case when s.relkind = 'S' then not has_sequence_privilege(s.oid, 'usage') end
       ) as sequences,
       case when c.relkind in ('r', 'p') then true
            else pg_relation_is_updatable(c.oid, true) & 28 <> 0  -- INSERT, UPDATE, DELETE
       end as writable
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
"""
_RIGHTS = f"""{_RIGHTS_TO}
where c.relkind in ('r', 'p') and not c.relispartition
  and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
  and not exists (
      select from pg_depend as made
      where made.classid = 'pg_class'::regclass and made.objid = c.oid and made.deptype = 'e'
  )
order by 1
"""
# Not by to_regclass(): it fails where the schema may not be used, which is a finding here.
_RIGHTS_TO_ONE = f"""{_RIGHTS_TO.replace("%", "%%")}
join (select parse_ident(%s) as parts) as wanted on c.relname = parts[cardinality(parts)]
where c.relkind in ('r', 'p', 'v', 'm', 'f') and case cardinality(parts)
    when 1 then pg_table_is_visible(c.oid) or n.nspname = 'public'
    when 2 then n.nspname = parts[1]
end
order by pg_table_is_visible(c.oid) desc
limit 1
"""


def connect(settings: Settings, node: Node, purpose: Purpose) -> Connection:
    """A connection as the router would make it, but one that can be asked. psycopg's errors."""
    reading = purpose is Purpose.READ
    user = settings.reader if reading else settings.writer
    parameters = settings.connection(node, user=user, read_only=reading)
    parameters["application_name"] = "pgroute doctor"
    parameters["client_encoding"] = "utf8"  # or a database in SQL_ASCII gives bytes for text
    connection = psycopg.connect(autocommit=True, row_factory=dict_row, **parameters)
    if connection.pgconn.parameter_status(b"in_hot_standby") == b"on":
        # A standby answers no question at the level serializable, should that be the default.
        try:
            with cut_after(connection, settings.connect_timeout_seconds):
                connection.execute(f"set {_ISOLATION} = 'repeatable read'")
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def cut_after(connection: Connection, seconds: float) -> Iterator[None]:
    """Shut the connection's socket after ``seconds``: a frozen server ends in TimeoutError."""
    cut = threading.Event()

    def act() -> None:
        cut.set()
        with suppress(psycopg.Error, OSError):
            copy = socket.socket(fileno=os.dup(connection.pgconn.socket))
            with copy:
                copy.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.Error as error:
        if cut.is_set():
            raise TimeoutError(f"not done within {seconds:g} s") from error
        raise
    finally:
        timer.cancel()


def sslmode_of(settings: Settings, node: Node, connection: Connection | None) -> str:
    """The sslmode in effect, wherever it was set; of the connection if there is one."""
    if connection is not None:
        options = connection.pgconn.info
    else:
        given = settings.connection(node, user=settings.reader, read_only=True)
        if "sslmode" in given:
            return str(given["sslmode"])
        options = pq.Conninfo.get_defaults()
    found = {option.keyword: option.val for option in options}.get(b"sslmode")
    return (found or b"prefer").decode()


def ask_session(
    connection: Connection, settings: Settings, purpose: Purpose, tables: Sequence[str]
) -> Session:
    """What the connection is and may do, also with each of these tables."""
    asked = settings.session(read_only=purpose is Purpose.READ)
    found = one(connection, _SESSION)
    effective = _effective(connection, asked)
    with connection.cursor(row_factory=tuple_row) as cursor:
        own = [(*row[0].split("=", 1), Origin(row[1])) for row in cursor.execute(_OWN)]
    origins = {name: origin for name, _, origin in own}
    rights = connection.execute(_RIGHTS).fetchall()
    return Session(
        encrypted=connection.pgconn.ssl_in_use,
        tls_version=found["tls_version"],
        used_password=connection.pgconn.used_password,
        tells_role=connection.pgconn.parameter_status(b"in_hot_standby") is not None,
        direct=connection.pgconn.backend_pid == found["pid"],
        prepare_failure=_prepare(connection),
        superuser=found["superuser"],
        connection_limit=found["connection_limit"],
        sees_statistics=found["sees_statistics"],
        effective=effective,
        own={name: value for name, value, _ in own},
        origins=origins,
        isolation=found["isolation"],
        isolation_origin=origins.get(_ISOLATION, Origin.SERVER),
        rights=tuple(Rights(**row) for row in rights),
        wanted={name: _rights_to(connection, name) for name in tables},
    )


def ask_server(
    connection: Connection,
    *,
    wall: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
) -> Server:
    """What the server is. ``wall`` tells the time of day, ``clock`` measures round trips."""
    found = one(connection, _SERVER)
    position = found["position"]
    if position is not None:
        found["position"] = int(position) if found["in_recovery"] else reachable(int(position))
    if found["timeline"] is None or found["system_identifier"] is None:
        raise psycopg.DataError("the server does not know its timeline")
    found["conflicts"] = found["conflicts"] or 0
    return Server(**found, clock=_compare_clocks(connection, wall, clock))


def _compare_clocks(
    connection: Connection, wall: Callable[[], float], clock: Callable[[], float]
) -> Clock:
    """The round with the shortest trip bounds the error best."""
    best: Clock | None = None
    for _ in range(_CLOCK_ROUNDS):
        before, started = wall(), clock()
        told = one(connection, "select extract(epoch from clock_timestamp())::float8 as now")
        half = (clock() - started) / 2
        if best is None or half < best.uncertainty:
            best = Clock(told["now"] - (before + half), half)
    assert best is not None  # noqa: S101 - there is more than one round
    return best


def _effective(connection: Connection, asked: Mapping[str, str]) -> dict[str, str]:
    """The settings in effect; one that is just written in another way is told as it was asked."""
    names = (list(asked),)
    with connection.cursor(row_factory=tuple_row) as cursor:
        effective: dict[str, str] = dict(cursor.execute(_EFFECTIVE, names).fetchall())
        with connection.transaction(force_rollback=True):
            for name in effective:
                cursor.execute("select set_config(%s, %s, true)", (name, asked[name]))
            wanted: dict[str, str] = dict(cursor.execute(_EFFECTIVE, names).fetchall())
    return {
        name: asked[name] if value == wanted[name] else value for name, value in effective.items()
    }


def _rights_to(connection: Connection, name: str) -> Rights | None:
    try:
        row = connection.execute(_RIGHTS_TO_ONE, (name,)).fetchone()
    except psycopg.errors.InvalidParameterValue:  # it cannot be a name
        return None
    return None if row is None else Rights(**row)


def _prepare(connection: Connection) -> str | None:
    try:
        for number in (1, 2):
            connection.execute("select %s::int as number", (number,), prepare=True)
    except psycopg.Error as error:
        return one_line(error)
    return None


def one(connection: Connection, question: str) -> dict[str, Any]:
    row = connection.execute(question).fetchone()
    if row is None:
        raise psycopg.DataError("the server gave no row")
    return dict(row)
