"""What both routers are made of: settings, fleet, pools, routes, and the choice among them.

Whatever may have to wait is written once, as a generator (a :data:`Steps`): it calls the front's
``do_...`` methods and yields what they return. The synchronous front's methods have done their
work by then; what the asynchronous one's return is awaited by whoever drives the generator.
"""

from __future__ import annotations

import logging
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import count
from random import Random
from typing import Any, Protocol, TypeVar

from psycopg import IsolationLevel, pq
from psycopg_pool import PoolTimeout

from pgroute.config import Settings
from pgroute.core.budgets import RatioBudget, TokenBucket
from pgroute.core.candidates import doubt_about_primary, serves
from pgroute.core.contracts import EVENTUAL, Contract
from pgroute.core.latency import HedgeDelay
from pgroute.core.lsn import Mark, Token, new_mark
from pgroute.core.policies import POLICIES, Policy
from pgroute.core.topology import Role, Topology
from pgroute.core.trail import Proof, Trail
from pgroute.errors import NodeUnavailable, RouterClosed, TokenError, TokenNotReached
from pgroute.observing.instruments import instruments
from pgroute.observing.observer import Fault, Observer, Reason
from pgroute.observing.timing import Stopwatch
from pgroute.routing.commit import Commit
from pgroute.routing.connections import OwnCommit
from pgroute.routing.fleet import Fleet
from pgroute.routing.holder import PLAIN, Holder, Plan
from pgroute.routing.lease import FRESH_SECONDS, Front
from pgroute.routing.routes import NoRoute, PoolStats, Route, Routes, picker
from pgroute.routing.tokens import PendingToken, unsettled
from pgroute.statements import Route as Lane
from pgroute.statements import Statements

_log = logging.getLogger("pgroute")

T = TypeVar("T")
Steps = Generator[Any, Any, T]


@dataclass(frozen=True, slots=True)
class PoolReport:
    """How full one pool is."""

    node: str
    purpose: str
    size: int
    available: int
    waiting: int


class Pool(Protocol):
    """What the router needs of a pool; a front's own pools do more."""

    def statistics(self) -> dict[str, int]: ...


class Base(ABC):
    """A router without its verbs. See :class:`pgroute.Router` for the arguments."""

    def __init__(
        self,
        where: str | Settings | None = None,
        *,
        policy: Policy | None = None,
        observer: Observer | None = None,
        statements: Statements | None = None,
        after_connect: Callable[[Any], Any] | None = None,
        on_return: Callable[[Any], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        if where is None:
            settings = Settings.from_environment()
        elif isinstance(where, str):
            settings = Settings.from_dsn(where)
        else:
            settings = where
        self.settings = settings
        self.clock = clock
        self.observer = instruments(settings, *(() if observer is None else (observer,)))
        self.statements = statements or Statements(clock=clock)
        self.random = random or Random()  # noqa: S311 - spreads load, guards nothing
        self.policy = policy or POLICIES[settings.policy](self.random)
        self.after_connect = after_connect
        self.on_return = on_return
        self.fleet = Fleet(settings, self, self.observer, clock=clock, random=self.random)
        self.limit = settings.operation_timeout_seconds
        self.calls = count()
        self._severed: list[tuple[weakref.ref[Holder], Front[Any], Any]] = []
        self.retry_budget = RatioBudget(settings.retry_share, reserve=10)
        self.hedge_budget = RatioBudget(settings.hedge_share, most=100)
        self.hedge_delay = HedgeDelay(fraction=settings.hedge_percentile)
        rate = settings.spill_reads_per_second
        self.spill_cap = TokenBucket(
            per_second=rate,
            burst=max(1.0, rate) if rate else 0.0,
            now=clock(),
        )
        self.pools_by_key: dict[tuple[str, bool], Any] = {
            (name, read_only): self._make_pool(name, read_only)
            for name in self.fleet.names
            for read_only in (True, False)
        }
        self.stats = {
            name: PoolStats(self.pools_by_key[name, True], weight)
            for name, weight in settings.node_weights.items()
        }
        self.routes = Routes(self.observer)
        self.next_read: Callable[[], Route] = self._not_open
        self.next_write: Route | None = None  # to the primary, while it may be used
        self.next_statement: Route | None = None  # the same for one that commits by itself
        self.opened = False
        self.closed = False
        self._last_write: ContextVar[Mark | None] = ContextVar("pgroute_last_write", default=None)

    # The front's part

    @abstractmethod
    def _make_pool(self, name: str, read_only: bool) -> Front[Any]: ...

    @abstractmethod
    def do_take(self, pool: Any, limit: float) -> Any:
        """A live connection of ``pool``; psycopg_pool's errors pass."""

    @abstractmethod
    def do_give_back(self, pool: Any, connection: Any) -> Any:
        """Return a connection that is in no transaction."""

    @abstractmethod
    def do_discard(self, pool: Any, connection: Any) -> Any:
        """Return a connection that must not be used again."""

    @abstractmethod
    def do_commit(self, connection: Any, commit: Commit) -> Any:
        """Commit."""

    @abstractmethod
    def do_rollback(self, connection: Any) -> Any:
        """Roll back."""

    @abstractmethod
    def do_begin(self, connection: Any, read_only: bool, isolation: IsolationLevel | None) -> Any:
        """Let the next statement begin a transaction."""

    @abstractmethod
    def do_query(self, connection: Any, sql: Any, params: Any, prepare: bool | None) -> Any:
        """Run one statement that commits by itself; its Result."""

    @abstractmethod
    def do_warm(self, pool: Any, limit: float) -> Any:
        """Have the pool's fewest connections; PoolTimeout."""

    @abstractmethod
    def do_call(self, fn: Callable[[Any], Any], connection: Any) -> Any:
        """The caller's function with a connection."""

    @abstractmethod
    def do_wait(self, future: Future[None], limit: float) -> Any:
        """True once the future is done, False after ``limit`` seconds; its error is raised."""

    @abstractmethod
    def do_pause(self, seconds: float) -> Any:
        """Do nothing for so long."""

    @abstractmethod
    def renew(self, node: str, *, writes_only: bool = False) -> None:
        """Use no connection to ``node`` again that was made until now."""

    @abstractmethod
    def take_back(self, pool: Any, connection: Any) -> None:
        """Discard a connection soon, from any thread, even if that was done before."""

    @abstractmethod
    def warm(self, node: str, limit: float) -> None:
        """Have connections to ``node`` ready."""

    @abstractmethod
    def sweep(self, now: float) -> None:
        """Put idle connections away; learn what statements do."""

    # What users call

    @property
    def topology(self) -> Topology:
        """Who is what, as of the servers' last answers."""
        return self.fleet.topology

    def pools(self) -> list[PoolReport]:
        """How full each pool is that has been used."""
        reports = []
        for (node, read_only), pool in self.pools_by_key.items():
            numbers = pool.statistics()
            if numbers:
                reports.append(
                    PoolReport(
                        node=node,
                        purpose="read" if read_only else "write",
                        size=numbers.get("pool_size", 0),
                        available=numbers.get("pool_available", 0),
                        waiting=numbers.get("requests_waiting", 0),
                    )
                )
        return reports

    def token(self) -> Token:
        """A token for everything committed before this call. No round trip.

        Call it after the commit, not inside the transaction. Its position settles with the first
        sample of the primary that starts from now on; until then a read after it goes to the
        primary, or waits if it is told to. Its text waits for the sample, at most
        ``token_timeout_seconds``.
        """
        if not self.opened or self.closed:
            self.require_open()
        fleet = self.fleet
        fleet.want()
        topology = fleet.topology
        newest = topology.fence.timeline
        last = self._last_write.get()
        if last is not None and last.timeline != newest:
            self._last_write.set(None)  # said once
            if not self._proven(last):  # of before a failover: it may be lost
                return PendingToken(last, self._settled)
        node = topology.primary
        if node is None:
            return PendingToken(fleet.mark("", self.clock()), self._settled)
        mark = new_mark((node, self.clock(), newest, fleet.ledger.epoch(node)))
        return PendingToken(mark, self._settled)

    def _proven(self, mark: Mark) -> bool:
        """Whether what ended at ``mark`` is surely part of the primary's log."""
        try:
            token = self.fleet.ledger.settle(mark)
            if token is not None:
                self.fleet.ledger.prove(token)
        except TokenError:
            return False
        return token is not None

    @abstractmethod
    def _settled(self, mark: Mark) -> Token: ...

    def settling(self, mark: Mark) -> Steps[Token]:
        """Wait until the ledger can say where ``mark`` is."""
        self.require_open()
        fleet, limit = self.fleet, self.settings.token_timeout_seconds
        token = fleet.ledger.settle(mark)
        if token is None:
            fleet.want()
            yield self.do_wait(fleet.when(lambda: fleet.ledger.settle(mark) is not None), limit)
            token = fleet.ledger.settle(mark)
        if token is None:
            raise TokenNotReached(
                f"{mark.node or 'the primary'} has not told its position within {limit:g} s"
            )
        return token

    def warming(self, limit: float) -> Steps[None]:
        """Open the pools that will be used."""
        self.require_open()
        fleet, until = self.fleet, self.clock() + limit
        wanted = [(name, True) for name in fleet.replicas]
        if fleet.primary is not None:
            wanted.append((fleet.primary, False))
        for key in wanted:
            pool = self.pools_by_key[key]
            try:
                yield self.do_warm(pool, max(until - self.clock(), 0.001))
            except PoolTimeout as error:
                raise NodeUnavailable(f"{key[0]}: {pool.why_no_connection(limit)}") from error

    # For the fronts

    def busy(self) -> bool:
        """Whether any connection is in use."""
        return any(pool.in_flight for pool in self.pools_by_key.values())

    def require_open(self) -> None:
        """RouterClosed unless the router is open."""
        if not self.opened or self.closed:
            raise RouterClosed("the router is not open: use it in a with block")

    def _not_open(self) -> Route:
        raise RouterClosed("the router is not open: use it in a with block")

    def plan(
        self,
        contract: str | Contract,
        max_lag: Any,
        after: Token | Mark | None,
        otherwise: str,
        node: str | None,
        wait: bool,
        token_timeout: float | None,
        trail: Trail | None = None,
    ) -> Plan:
        """The plan of a caller's words. UnknownContract says what is wrong with them."""
        if (wait or token_timeout is not None) and otherwise == "primary":
            otherwise = "wait"
        made = Contract.of(contract, max_lag=max_lag, after=unsettled(after), otherwise=otherwise)
        limit = self.settings.token_timeout_seconds if token_timeout is None else token_timeout
        self.fleet.want()
        return Plan(made, node, trail, limit)

    def lane(self, sql: object) -> Lane:
        """Where a statement may run: known texts cost one lookup."""
        if isinstance(sql, str):
            return self.statements.route(sql)
        return self.statements.route_of(sql)

    def route(self, node: str, read_only: bool, role: Role, reason: Reason) -> Route:
        """The route to a node's pool."""
        return self.routes[self.pools_by_key[node, read_only], role, reason]

    def hand_out(
        self, holder: Holder, route: Route, connection: Any, now: float, until: float
    ) -> None:
        """Enter a lease into the books; it is cut at ``until``."""
        fleet = self.fleet
        holder.pool = route.pool
        holder.route = route
        holder.connection = connection
        primary = route.role is Role.PRIMARY
        holder.timeline = fleet.topology.fence.timeline if primary else fleet.ledger.timeline
        holder.epoch = fleet.ledger.epoch(route.node)
        holder.losses = fleet.losses[route.node]
        connection.route = route.pair
        connection.own_commit = OwnCommit.NONE
        connection.used_at = now
        route.pool.in_flight[holder] = holder.until = until
        route.count()

    def take_read(self, holder: Holder, route: Route) -> Any:
        """An idle connection of the route's pool, without a look at anything else; IndexError or
        NoRoute without a good one."""
        pool: Any = route.pool
        connection = pool.idle.pop()
        now = self.clock()
        if now - connection.used_at > FRESH_SECONDS and not pool.fit(connection, now):
            pool.put_back(connection)  # for whoever looks thoroughly
            raise NoRoute
        if now > pool.look_at:
            self.look(pool, connection, now)
        holder.pool = pool
        holder.route = route
        holder.connection = connection
        connection.route = route.pair
        connection.used_at = now
        pool.in_flight[holder] = holder.until = now + holder.limit
        route.count()
        return connection

    def look(self, pool: Any, connection: Any, now: float) -> None:
        """See what the server said of itself with its last answer: who was promoted is found
        before it is asked."""
        pool.look_at = now + FRESH_SECONDS
        if connection.was_promoted:
            self.fleet.wake()

    def take_planned(self, holder: Holder, plan: Plan) -> Any:
        """As :meth:`take_read`, from a replica that surely meets the plan; None without one."""
        fleet, trail = self.fleet, plan.trail
        fleet.want()
        stays = trail is not None and plan.contract is EVENTUAL  # as nearly always in a session
        try:
            proof = trail.proof if stays else None  # type: ignore[union-attr]
            if (
                proof is not None
                and proof.version == fleet.ledger.version
                and proof.topology is fleet.topology
                and proof.key[0] in fleet.replicas
            ):
                return self._take_proven(holder, proof)
            for _ in fleet.replicas if plan.node is None else ():
                proof = self._prove(self.next_read().node, plan)
                if proof is not None:
                    connection = self._take_proven(holder, proof)
                    if stays:
                        trail.proof = proof  # type: ignore[union-attr]
                    return connection
        except (IndexError, NoRoute, TokenError):
            pass  # whoever looks thoroughly finds it again, and tells
        return None

    def _take_proven(self, holder: Holder, proof: Proof) -> Any:
        connection = self.take_read(holder, proof.route)
        _, holder.timeline, holder.epoch = proof.key
        return connection

    def _prove(self, node: str, plan: Plan) -> Proof | None:
        """That a replica surely meets the plan now; None when it may not."""
        fleet, ledger = self.fleet, self.fleet.ledger
        # Before it is asked what it has: it may have been away by the time it is taken.
        version, key = ledger.version, (node, ledger.timeline, ledger.epoch(node))
        topology = fleet.topology
        if not serves(node, plan.contract, topology, ledger, now=self.clock(), trail=plan.trail):
            return None
        route = self.route(node, True, Role.REPLICA, plan.replica_reason)
        return Proof(key, version, topology, route)

    def proven(self, after: Token | Mark) -> Route | None:
        """The route to the replica whose turn it is, None when it may not have all that ``after``
        stands for."""
        ledger, route = self.fleet.ledger, self.next_read()
        position = unsettled(after)
        try:
            token = ledger.settle(position) if isinstance(position, Mark) else position
            if token is None or not ledger.holds(route.node, token):
                return None
        except TokenError:
            return None  # found again, and told, by whoever looks for another server
        return route.after

    def plan_after(self, after: Token | Mark | None) -> Plan:
        """The plan of a read after ``after``, which may spill to the primary."""
        if after is None:
            return PLAIN
        return self.plan("eventual", None, after, "primary", None, False, None)

    def take_at_once(self, holder: Holder, route: Route | None, *, autocommit: bool) -> bool:
        """Whether ``holder`` has got an idle connection to the primary; else look for one."""
        if route is None:
            return False
        try:
            connection = route.pool.idle.pop()
        except IndexError:
            return False
        now = self.clock()
        if (
            connection.autocommit is not autocommit
            or connection.is_standby
            or not route.pool.fit(connection, now)
        ):
            route.pool.put_back(connection)  # for whoever looks thoroughly
            return False
        self.hand_out(holder, route, connection, now, now + holder.limit)
        return True

    def doubt(self, plan: Plan) -> str | None:
        """Why the primary may lack what the plan's token or session stands for, None when it has
        it. Raises TokenUnproven and ForeignToken."""
        fleet = self.fleet
        return doubt_about_primary(plan.contract, fleet.topology, fleet.ledger, plan.trail)

    def has_all(self, plan: Plan) -> bool:
        """Whether the primary surely has what the plan's token or session stands for."""
        try:
            return self.doubt(plan) is None
        except TokenError:
            return False  # found again, and told, by whoever looks thoroughly

    def saw(self, holder: Holder) -> None:
        """A block has ended, well or not: what it saw binds its session, if there is one."""
        plan = holder.plan
        if plan is not None and plan.trail is not None:
            self.fleet.want()
            now, timeline = self.clock(), holder.timeline
            if holder.route.role is Role.REPLICA:
                plan.trail.standby_read_at = now
                if holder.connection.was_promoted:
                    timeline += 1  # at least: nothing known of the older one says what it saw
            plan.trail.note(new_mark((holder.route.node, now, timeline, holder.epoch)))

    def wrote(self, holder: Holder) -> None:
        """A write has ended: its mark is kept for :meth:`token`."""
        self._last_write.set(
            new_mark((holder.route.node, self.clock(), holder.timeline, holder.epoch))
        )
        if holder.plan is not None:
            self.saw(holder)

    def cursors(self, make: Callable[[Stopwatch], Any]) -> dict[str, Any]:
        """Connection arguments that make cursors tell the observer of their statements."""
        if not self.observer.wants_queries:
            return {}
        timed = make(Stopwatch(self.observer))
        return {"cursor_factory": timed.cursor, "server_cursor_factory": timed.server_cursor}

    # The fleet's crew

    def routes_changed(self) -> None:
        """Make the fast path anew."""
        if self.opened and not self.closed:
            names = self.fleet.replicas
            routes = [self.route(name, True, Role.REPLICA, Reason.READ) for name in names]
            for route in routes:
                route.after = self.route(route.node, True, Role.REPLICA, Reason.AFTER_TOKEN)
            self.next_read = picker(routes, self.policy, self.stats)
            primary = self.fleet.primary
            self.next_write = self._to_primary(primary, Reason.WRITE)
            self.next_statement = self._to_primary(primary, Reason.STATEMENT)

    def no_routes(self) -> None:
        """Nothing more is handed out."""
        self.next_read = self._not_open
        self.next_write = self.next_statement = None

    def _to_primary(self, primary: str | None, reason: Reason) -> Route | None:
        return None if primary is None else self.route(primary, False, Role.PRIMARY, reason)

    def answered_in(self, node: str, seconds: float) -> None:
        """Let the policies know how quick a server is, at no cost to those who use it."""
        self.stats[node].took(seconds)

    def watch(self, now: float) -> None:
        """Cut whoever is past the deadline; let nobody wait for what will not come."""
        for pool in self.pools_by_key.values():
            for holder in pool.overdue(now):
                _log.warning("%s: cutting a connection at its deadline", pool.node)
                status = holder.connection.pgconn.transaction_status
                self.overdue(holder, waits=status == pq.TransactionStatus.ACTIVE)
                self._cut_off(pool, holder)
            if pool.hopeless and pool.read_only and self.fleet.has_another(pool.node):
                pool.begin_anew()
                self.abandon(pool.node)
        self._reclaim()

    def _cut_off(self, pool: Front[Any], holder: Holder) -> None:
        """Let whoever has a connection find it broken."""
        holder.connection.cut()
        self._severed.append((weakref.ref(holder), pool, holder.connection))

    def _reclaim(self) -> None:
        """Take back the connections of holders that were cut and then forgotten, as by a thread
        that ended in the middle: nobody else would, and their pools would be short of them."""
        if self._severed:
            waiting, self._severed = self._severed, []
            for holder, pool, connection in waiting:
                if holder() is None:  # ended or forgotten; the second time does nothing
                    self.take_back(pool, connection)
                else:
                    self._severed.append((holder, pool, connection))

    def overdue(self, holder: Holder, *, waits: bool) -> None:
        """A deadline has come, while a statement ``waits`` or not. It speaks against a server only
        where nothing has come back since the lease began, which is not just now: else the
        statement is slow, not the server."""
        node, limit = holder.route.node, holder.limit
        short = limit < self.settings.eject_after_seconds
        if not waits or short or self.worked_since(node, holder.until - limit):
            self.observer.failed(node, Fault.OVERDUE)
        else:
            self.fleet.suspect(node, Fault.OVERDUE, "reads do not come back")

    def worked_since(self, node: str, moment: float) -> bool:
        """Whether a connection was handed out after ``moment`` and came back well."""
        pools = [self.pools_by_key[node, read_only] for read_only in (True, False)]
        return any(
            pool.worked_at > moment or any(one.used_at > moment for one in pool.idle.copy())
            for pool in pools
        )

    def cut_reads(self, node: str) -> None:
        """Cut whoever waits for an answer to a read from a silent node."""
        self._cut_all(self.pools_by_key[node, True], "it is silent", busy_only=True)

    def abandon(self, node: str) -> None:
        """Let nobody wait for a connection to a silent node: others may give one at once."""
        for read_only in (True, False):
            if self.pools_by_key[node, read_only].waiting:
                self.fleet.in_background(partial(self.renew, node))
                return

    def cut_writes(self, node: str) -> None:
        """Cut whoever writes on a node that is the primary no more."""
        self._cut_all(self.pools_by_key[node, False], "it is the primary no more", busy_only=False)

    def _cut_all(self, pool: Front[Any], why: str, *, busy_only: bool) -> None:
        for holder in pool.everyone(why, busy_only=busy_only):
            _log.warning("%s: cutting a connection: %s", pool.node, why)
            self._cut_off(pool, holder)


def unavailable(node: str, why: str) -> NodeUnavailable:
    """The error for a node that gave no connection."""
    return NodeUnavailable(f"{node}: {why}")
