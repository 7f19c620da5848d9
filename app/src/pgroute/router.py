"""The router: owns the pools and the monitor thread, hands out connections."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import Self

import psycopg
from psycopg import pq
from psycopg.errors import ReadOnlySqlTransaction
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from pgroute.config import Settings
from pgroute.errors import (
    ForeignToken,
    NodeUnavailable,
    NoPrimary,
    NoReadableNode,
    RouterClosed,
    RoutingError,
    SplitBrain,
    TokenNotReached,
)
from pgroute.lsn import Token, parse_lsn, reachable
from pgroute.observer import Fault, Observer, Reason, Silent
from pgroute.policies import POLICIES, Policy
from pgroute.pool import NodeConnection, NodePool
from pgroute.probe import Prober, one_line
from pgroute.topology import Fence, Observation, Role, Silence, Topology, decide

_log = logging.getLogger("pgroute")

_BACKOFF_SECONDS = (0.02, 1.0)  # first and longest pause between two attempts, before jitter
_TOKEN_POLL_SECONDS = (0.001, 0.02)

_WHERE_IS_THE_LOG = (
    "select pg_current_wal_insert_lsn()::text, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
)
_HOW_FAR_IS_REPLAY = "select pg_is_in_recovery(), pg_last_wal_replay_lsn()::text"


@dataclass(frozen=True, slots=True)
class PoolReport:
    """How full one pool is."""

    node: str
    purpose: str
    size: int
    available: int
    waiting: int


@dataclass(slots=True)
class _Lease:
    pool: NodePool
    connection: NodeConnection
    deadline: float


class Router:
    """Hands out connections: the primary for writes, a healthy replica for reads.

    ``Router(dsn)``, ``Router(settings)``, or ``Router()`` for the ``PGROUTE_*`` environment.
    Use it as a context manager, or call :meth:`open` and :meth:`close`. Thread-safe.
    Raises ConfigurationError when the configuration cannot be used.
    """

    def __init__(
        self,
        where: str | Settings | None = None,
        *,
        policy: Policy | None = None,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        random: Random | None = None,
    ) -> None:
        if where is None:
            settings = Settings.from_environment()
        elif isinstance(where, str):
            settings = Settings.from_dsn(where)
        else:
            settings = where
        self.settings = settings
        self._clock = clock
        self._sleep = sleep
        self._random = random or Random()  # noqa: S311 - spreads load, guards nothing
        self._policy = policy or POLICIES[settings.policy](self._random)
        self._observer: Observer = observer or Silent()
        self._names = tuple(node.name for node in settings.members)
        self._topology = Topology(
            nodes=(), primary=None, replicas=(), fence=Fence(), problem="nothing was asked yet"
        )
        self._probers: dict[str, Prober] = {}
        self._questions: dict[str, Future[Observation]] = {}
        self._pools: dict[tuple[str, bool], NodePool] = {}
        self._leases: dict[int, _Lease] = {}
        self._lock = threading.Lock()
        self._refresh_lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._suspicious = False
        self._rounds = 0
        self._executor: ThreadPoolExecutor | None = None
        self._monitor: threading.Thread | None = None

    # Life

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Ask every server once, then keep asking. A fleet without a primary is no error here."""
        if self._monitor is not None:
            raise RouterClosed("a router is opened once")
        for node in self.settings.members:
            parameters = self.settings.connection(node, user=self.settings.reader, read_only=True)
            self._probers[node.name] = Prober(node.name, parameters, clock=self._clock)
        self._executor = ThreadPoolExecutor(len(self._names), thread_name_prefix="pgroute-probe")
        # The first answers include connecting, which later ones do not.
        self._ask(self.settings.connect_timeout_seconds + self.settings.probe_timeout_seconds)
        self._monitor = threading.Thread(target=self._watch, name="pgroute-monitor", daemon=True)
        self._monitor.start()

    def close(self, *, timeout: float = 5.0) -> None:
        """Stop asking, wait up to ``timeout`` seconds for connections in use, close everything."""
        self._closing.set()
        self._wake.set()
        if self._monitor is not None:
            self._monitor.join(timeout)
        until = self._clock() + timeout
        while self._leases and self._clock() < until:
            self._sleep(0.02)
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
        wait(self._questions.values(), timeout=timeout)
        for prober in self._probers.values():
            prober.close()
        with self._lock:
            pools = list(self._pools.values())
            self._pools.clear()
        for pool in pools:
            pool.close(timeout)

    # What users call

    @property
    def topology(self) -> Topology:
        """Who is what, as of the last round of questions."""
        return self._topology

    @contextmanager
    def write(self, *, timeout: float | None = None) -> Iterator[NodeConnection]:
        """A connection to the primary, in a transaction that commits at the end of the block.

        ``timeout``: seconds after which the block's connection is cut, default
        ``operation_timeout_seconds``. Raises SplitBrain, NoPrimary or NodeUnavailable when
        there is nowhere to write within ``checkout_timeout_seconds``.
        """
        lease = self._lease_primary(read_only=False, reason=Reason.WRITE, timeout=timeout)
        with self._held(lease) as connection:
            yield connection

    @contextmanager
    def read(
        self,
        *,
        after: Token | None = None,
        node: str | None = None,
        timeout: float | None = None,
        token_timeout: float | None = None,
    ) -> Iterator[NodeConnection]:
        """A read-only connection (autocommit) to a healthy replica, else to the primary.

        ``after``: only a server that has everything the token stands for; a replica that has not
        caught up within ``token_timeout`` seconds (default ``token_timeout_seconds``) is left
        for the primary. ``node``: that server and no other; then a token it does not reach is
        TokenNotReached. Raises NoReadableNode or NodeUnavailable when nobody can serve it.
        """
        if token_timeout is None:
            token_timeout = self.settings.token_timeout_seconds
        if after is not None:
            self._refuse_foreign(after)
        if node is not None:
            lease = self._lease_named(node, after, timeout, token_timeout)
        else:
            lease = self._lease_any(after, timeout, token_timeout)
        with self._held(lease) as connection:
            yield connection

    def token(self) -> Token:
        """A token for everything committed before this call. One round trip to the primary.

        Call it after the commit, not inside the transaction: a position taken before the commit
        says nothing about the commit.
        """
        with self.write() as connection:
            connection.autocommit = True
            try:
                row = connection.execute(_WHERE_IS_THE_LOG).fetchone()
            finally:
                if not connection.closed:
                    connection.autocommit = False
        if row is None:
            raise NoPrimary("the primary gave no log position")
        identifier = self._topology.fence.system_identifier
        if identifier is None:
            raise NoPrimary("the primary's system identifier is not known")
        return Token(identifier, int(row[1], 16), reachable(parse_lsn(row[0])))

    def refresh(self) -> Topology:
        """Ask every server now, within ``probe_timeout_seconds``; the new topology."""
        self._require_open()
        return self._ask(self.settings.probe_timeout_seconds)

    def _ask(self, limit: float) -> Topology:
        came = self._rounds
        with self._refresh_lock:
            if self._rounds > came:
                return self._topology  # another thread began to ask after we came, and has ended
            self._rounds += 1
            executor = self._executor
            if executor is None or self._closing.is_set():
                raise RouterClosed("the router is not open")
            for name, prober in self._probers.items():
                asked = self._questions.get(name)
                if asked is None or asked.done():  # else it still waits for an earlier answer
                    self._questions[name] = executor.submit(
                        prober.ask, timeout=self.settings.probe_timeout_seconds
                    )
            wait(self._questions.values(), timeout=limit)
            self._suspicious = False
            seen = [
                question.result()
                if (question := self._questions[name]).done()
                else Silence(name, f"no answer within {limit:g} s")
                for name in self._names
            ]
            before = self._topology
            self._topology = after = decide(
                seen, fence=before.fence, max_lag_bytes=self.settings.max_lag_bytes
            )
        if (before.primary, before.problem) != (after.primary, after.problem):
            _log.info("primary: %s", after.primary or f"none ({after.problem})")
        return after

    def pools(self) -> list[PoolReport]:
        """How full each pool is."""
        with self._lock:
            pools = list(self._pools.values())
        reports = []
        for pool in pools:
            numbers = pool.statistics()
            reports.append(
                PoolReport(
                    node=pool.node,
                    purpose="read" if pool.read_only else "write",
                    size=numbers.get("pool_size", 0),
                    available=numbers.get("pool_available", 0),
                    waiting=numbers.get("requests_waiting", 0),
                )
            )
        return reports

    # Choosing

    def _lease_primary(self, *, read_only: bool, reason: Reason, timeout: float | None) -> _Lease:
        self._require_open()
        limit = self.settings.checkout_timeout_seconds
        deadline = self._clock() + limit
        pause = _BACKOFF_SECONDS[0]
        topology = self.refresh() if self._suspicious else self._topology
        trouble: str | None = None
        while True:
            name = topology.primary
            if name is not None:
                try:
                    return self._lease(
                        name,
                        read_only,
                        Role.PRIMARY,
                        reason,
                        timeout,
                        checkout=min(
                            max(deadline - self._clock(), 0.0),
                            self.settings.connect_timeout_seconds,
                        ),
                    )
                except NodeUnavailable as error:
                    trouble = str(error)
            elif topology.split:
                raise SplitBrain(topology.problem)
            remaining = deadline - self._clock()
            if remaining <= 0:
                if topology.primary is not None and trouble is not None:
                    raise NodeUnavailable(trouble)
                raise NoPrimary(f"{topology.problem} (waited {limit:g} s)")
            self._sleep(min(remaining, pause * self._random.random()))
            pause = min(pause * 2, _BACKOFF_SECONDS[1])
            topology = self.refresh()

    def _lease_any(
        self, after: Token | None, timeout: float | None, token_timeout: float
    ) -> _Lease:
        self._require_open()
        topology = self.refresh() if self._suspicious else self._topology
        reason = Reason.NO_HEALTHY_REPLICA
        for name in self._policy.order(topology.replicas) if topology.replicas else ():
            try:
                return self._lease_replica(name, after, timeout, token_timeout)
            except TokenNotReached:
                # The next replica would make the caller wait as long again.
                reason = Reason.TOKEN_NOT_REACHED
                break
            except NodeUnavailable as error:
                _log.warning("read: %s", error)
        try:
            return self._lease_primary(read_only=True, reason=reason, timeout=timeout)
        except NoPrimary as error:
            raise NoReadableNode(f"no healthy replica, and no primary: {error}") from error

    def _lease_named(
        self, name: str, after: Token | None, timeout: float | None, token_timeout: float
    ) -> _Lease:
        self._require_open()
        topology = self.refresh() if self._suspicious else self._topology
        state = topology.node(name)
        if state is None:
            raise NodeUnavailable(f"there is no node {name}; known: {', '.join(self._names)}")
        if state.role is Role.REPLICA:
            return self._lease_replica(name, after, timeout, token_timeout, Reason.NAMED)
        if state.role is Role.PRIMARY:
            return self._lease(
                name, True, Role.PRIMARY, Reason.NAMED, timeout, checkout=self._checkout_limit
            )
        raise NodeUnavailable(f"{name}: {state.state}")

    def _lease_replica(
        self,
        name: str,
        after: Token | None,
        timeout: float | None,
        token_timeout: float,
        reason: Reason = Reason.READ,
    ) -> _Lease:
        if after is not None and reason is Reason.READ:
            reason = Reason.AFTER_TOKEN
        lease = self._lease(
            name, True, Role.REPLICA, reason, timeout, checkout=self._checkout_limit
        )
        if after is None:
            return lease
        try:
            self._wait_for_replay(lease.connection, after, token_timeout)
        except BaseException as error:
            self._judge(lease, error)
            self._return(lease)
            if isinstance(error, psycopg.OperationalError):
                raise NodeUnavailable(f"{name}: {one_line(error)}") from error
            raise
        return lease

    def _wait_for_replay(
        self, connection: NodeConnection, after: Token, token_timeout: float
    ) -> None:
        name = connection.node
        state = self._topology.node(name)
        if state is None or state.timeline is None or state.timeline < after.timeline:
            # On another branch of history the same position means something else.
            raise TokenNotReached(f"{name} is not known to follow timeline {after.timeline}")
        deadline = self._clock() + token_timeout
        pause = _TOKEN_POLL_SECONDS[0]
        while True:
            row = connection.execute(_HOW_FAR_IS_REPLAY).fetchone()
            if row is None or not row[0]:
                raise TokenNotReached(f"{name} is no replica any more")
            if row[1] is not None and parse_lsn(row[1]) >= after.position:
                return
            remaining = deadline - self._clock()
            if remaining <= 0:
                raise TokenNotReached(
                    f"{name} has replayed {row[1]}, not yet {after}, within {token_timeout:g} s"
                )
            self._sleep(min(pause, remaining))
            pause = min(pause * 2, _TOKEN_POLL_SECONDS[1])

    def _refuse_foreign(self, token: Token) -> None:
        identifier = self._topology.fence.system_identifier
        if identifier is not None and token.system_identifier != identifier:
            raise ForeignToken(
                f"the token is of cluster {token.system_identifier}, this one is {identifier}"
            )

    # Connections in use

    @property
    def _checkout_limit(self) -> float:
        return min(
            self.settings.checkout_timeout_seconds, float(self.settings.connect_timeout_seconds)
        )

    def _lease(
        self,
        name: str,
        read_only: bool,
        role: Role,
        reason: Reason,
        timeout: float | None,
        *,
        checkout: float,
    ) -> _Lease:
        pool = self._pool(name, read_only)
        try:
            connection = pool.take(checkout)
        except (PoolTimeout, TooManyRequests) as error:
            self._suspicious = True
            self._observer.failed(name, Fault.NO_CONNECTION)
            raise NodeUnavailable(f"{name}: {pool.why_no_connection(checkout)}") from error
        except PoolClosed as error:
            raise RouterClosed("the router is closed") from error
        if not read_only and connection.is_standby:
            pool.discard(connection)
            self._suspicious = True
            self._observer.failed(name, Fault.READ_ONLY)
            raise NodeUnavailable(f"{name}: is a replica by now")
        if timeout is None:
            timeout = self.settings.operation_timeout_seconds
        lease = _Lease(pool, connection, self._clock() + timeout)
        with self._lock:
            self._leases[id(lease)] = lease
        self._observer.routed(name, role, reason)
        return lease

    @contextmanager
    def _held(self, lease: _Lease) -> Iterator[NodeConnection]:
        connection = lease.connection
        try:
            yield connection
            if connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
                connection.commit()
        except BaseException as error:
            self._judge(lease, error)
            with suppress(psycopg.Error):
                connection.rollback()
            raise
        finally:
            self._return(lease)

    def _return(self, lease: _Lease) -> None:
        with self._lock:
            self._leases.pop(id(lease), None)
        with suppress(PoolClosed, ValueError):  # the router was closed meanwhile
            lease.pool.give_back(lease.connection)

    def _judge(self, lease: _Lease, error: BaseException) -> None:
        """Learn from an error in the user's block, and say where it happened."""
        if not isinstance(error, psycopg.Error):
            return
        node = lease.pool.node
        error.add_note(f"pgroute: on node {node}")
        if isinstance(error, ReadOnlySqlTransaction):
            if lease.pool.read_only:
                return  # the user wrote to a read-only connection: nothing to learn
            fault = Fault.READ_ONLY
        elif lease.connection.closed:
            fault = Fault.CONNECTION_LOST
        else:
            return
        self._observer.failed(node, fault)
        self._suspicious = True
        self._wake.set()

    def _pool(self, name: str, read_only: bool) -> NodePool:
        key = (name, read_only)
        pool = self._pools.get(key)
        if pool is not None:
            return pool
        with self._lock:
            if self._closing.is_set():
                raise RouterClosed("the router is closed")
            pool = self._pools.get(key)
            if pool is None:
                node = next(node for node in self.settings.members if node.name == name)
                user = self.settings.reader if read_only else self.settings.writer
                pool = NodePool(
                    name,
                    self.settings.connection(node, user=user, read_only=read_only),
                    read_only=read_only,
                    min_size=self.settings.pool_min_size,
                    max_size=self.settings.pool_max_size,
                )
                pool.open()
                self._pools[key] = pool
        return pool

    def _require_open(self) -> None:
        if self._executor is None or self._closing.is_set():
            raise RouterClosed("the router is not open: use it in a with block")

    # The monitor

    def _watch(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(self.settings.refresh_interval_seconds)
            self._wake.clear()
            if self._closing.is_set():
                return
            self._cut_overdue()
            try:
                self.refresh()
            except (RouterClosed, RoutingError, RuntimeError):  # closed under our feet
                if not self._closing.is_set():
                    raise

    def _cut_overdue(self) -> None:
        now = self._clock()
        with self._lock:
            for lease in self._leases.values():
                if lease.deadline <= now:
                    lease.deadline = float("inf")
                    _log.warning("%s: cutting a connection at its deadline", lease.pool.node)
                    self._observer.failed(lease.pool.node, Fault.OVERDUE)
                    lease.connection.cut()
