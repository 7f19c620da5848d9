"""How a connection is found: the slow path of reads and writes, for both fronts."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import psycopg
from psycopg import pq
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from pgroute.core.candidates import Selection, Then, select, serves
from pgroute.core.contracts import Contract, Otherwise
from pgroute.core.lsn import format_lsn
from pgroute.core.retries import Backoff
from pgroute.core.topology import Role
from pgroute.errors import (
    ContractNotMet,
    NodeUnavailable,
    NoPrimary,
    NoReadableNode,
    PgrouteError,
    RouterClosed,
    SplitBrain,
    TokenNotReached,
)
from pgroute.observing.observer import Fault, Purpose, Reason, Wait
from pgroute.routing.base import Base, Steps
from pgroute.routing.holder import PLAIN, Holder, Plan
from pgroute.routing.probe import one_line
from pgroute.routing.shown import COMMITTING_SECONDS, PAUSE_SECONDS, UNDER_WAY, Unshown

_log = logging.getLogger("pgroute")


def lease_read(router: Base, holder: Holder, avoid: frozenset[str] = frozenset()) -> Steps[Any]:
    """A connection that meets the holder's plan, to no replica of ``avoid``.

    Raises RoutingError and TokenError.
    """
    try:
        return (yield from _find_reader(router, holder, avoid))
    except PgrouteError as error:
        router.observer.refused(Purpose.READ, error)
        raise


def _find_reader(router: Base, holder: Holder, avoid: frozenset[str]) -> Steps[Any]:
    router.require_open()
    plan = holder.plan or PLAIN
    started = router.clock()
    until = started + min(holder.limit, router.settings.checkout_timeout_seconds)
    wait_until = min(until, started + plan.wait)
    tried = set(avoid)
    waited = False
    while True:
        ledger = router.fleet.ledger
        epochs = {name: (ledger.timeline, ledger.epoch(name)) for name in router.fleet.names}
        chosen = _select(router, plan)
        if plan.node is not None:
            found = yield from _lease_named(router, holder, plan, chosen, wait_until, until)
        else:
            found = yield from _first_of(router, holder, plan, chosen, tried, until)
        if found is not None:
            known = (holder.timeline, holder.epoch) == epochs[holder.route.node]
            if plan is PLAIN:
                return found
            if holder.route.role is Role.PRIMARY:
                if (yield from _shows_all(router, holder, plan, until)):
                    return found
                continue
            if known and not _lags_by_now(router, holder, plan):
                return found
            # It was away and may have come back with less, another one is the primary by now, or
            # it has fallen behind while we waited for the connection.
            yield from give_back(router, holder)
            router.fleet.want()
            tried.discard(holder.route.node)
            continue
        then = chosen.then
        patient = then is Then.WAIT or plan.contract.otherwise is Otherwise.RAISE
        left = wait_until - router.clock()
        if not waited and left > 0 and (patient or then is Then.LOOK_AGAIN):
            yield from _until_met(router, plan, tried, then, left)
            waited = True
            continue
        if then is Then.LOOK_AGAIN:
            raise TokenNotReached(f"{chosen.why} (waited {plan.wait:g} s)")
        if then is Then.REFUSE:
            patience = min(until, started + router.settings.token_timeout_seconds)
            if not _nobody(plan, chosen) or patience <= router.clock():
                raise _refusal(plan, chosen)
            # All were silent at once: more often a moment's stall than the end of them all.
            yield from _until_met(router, plan, tried, then, patience - router.clock())
            continue
        reason = _spill_reason(plan.contract, chosen)
        if then is not Then.PRIMARY and not _may_spill(router, reason):
            if waited or left <= 0 or not chosen.waitable:
                raise _capped(router, chosen)
            yield from _until_met(router, plan, tried, then, left)  # a replica may have it soon
            waited = True
            continue
        try:
            connection = yield from lease_primary(
                router, holder, read_only=True, reason=plan.reason or reason, until=until
            )
        except NoPrimary as error:
            raise NoReadableNode(f"no healthy replica, and no primary: {error}") from error
        if chosen.primary not in (None, holder.route.node):
            yield from give_back(router, holder)  # another one by now: nothing is proven of it yet
        elif (yield from _shows_all(router, holder, plan, until)):
            return connection


def _shows_all(router: Base, holder: Holder, plan: Plan, until: float) -> Steps[bool]:
    """Wait until the primary, which is leased, shows what the plan's session may have read on a
    standby just before. False when its connection is lost; it is let go then.

    Raises TokenNotReached when that takes longer than the plan waits, or the caller.
    """
    trail = plan.trail
    if trail is None or trail.standby_read_at is None:
        return True
    node = holder.route.node
    try:
        yield from _until_shown(router, holder, plan, trail.standby_read_at, until)
    except psycopg.Error as error:
        if holder.connection.pgconn.transaction_status != pq.TransactionStatus.UNKNOWN:
            _log.warning("%s does not tell who is committing: %s", node, error)
            return True
        yield from _discard(router, holder)
        router.fleet.suspect(node, Fault.CONNECTION_LOST, one_line(error))
        return False
    except TokenNotReached:
        yield from give_back(router, holder)
        raise
    except BaseException:  # an interrupt: nobody else knows of the connection
        yield from _discard(router, holder)
        raise
    trail.standby_read_at = None
    return True


def _until_shown(
    router: Base, holder: Holder, plan: Plan, standby_read_at: float, until: float
) -> Steps[None]:
    started, unshown = router.clock(), Unshown()
    patient_until = standby_read_at + COMMITTING_SECONDS
    wait_until = min(until, max(started + plan.wait, patient_until))
    while True:
        answer = yield router.do_query(holder.connection, UNDER_WAY, None, True)
        left = unshown.narrow(answer.text(), patient=router.clock() < patient_until)
        waited = router.clock() - started
        if not left:
            if waited > PAUSE_SECONDS:
                router.observer.waited(holder.route.node, Wait.TOKEN, waited)
            return
        if router.clock() >= wait_until:
            raise TokenNotReached(
                f"{holder.route.node} does not show transaction {left[0]} yet, which the session "
                "may have read on a replica: its COMMIT has not come to its end, or waits for a "
                f"synchronous standby (waited {waited:.2g} s)"
            )
        yield router.do_pause(PAUSE_SECONDS)


def _discard(router: Base, holder: Holder) -> Steps[None]:
    holder.pool.in_flight.pop(holder, None)
    yield router.do_discard(holder.pool, holder.connection)


def _lags_by_now(router: Base, holder: Holder, plan: Plan) -> bool:
    fleet, contract = router.fleet, plan.contract
    if contract.max_lag_seconds is None and contract.max_lag_bytes is None:
        return False
    node, now = holder.route.node, router.clock()
    return not serves(node, contract, fleet.topology, fleet.ledger, now=now, trail=plan.trail)


def lease_primary(
    router: Base, holder: Holder, *, read_only: bool, reason: Reason, until: float | None = None
) -> Steps[Any]:
    """A connection to the primary, whoever it is by then.

    Raises SplitBrain at once; NoPrimary or NodeUnavailable when the time is up.
    """
    try:
        return (yield from _find_primary(router, holder, read_only, reason, until))
    except PgrouteError as error:
        if not read_only:  # else lease_read tells
            router.observer.refused(Purpose.WRITE, error)
        raise


def _find_primary(
    router: Base, holder: Holder, read_only: bool, reason: Reason, until: float | None
) -> Steps[Any]:
    router.require_open()
    fleet, started = router.fleet, router.clock()
    limit = min(holder.limit, router.settings.checkout_timeout_seconds)
    until = started + limit if until is None else until
    backoff = Backoff(router.random, deadline=until)
    trouble: NodeUnavailable | None = None
    plan = None if read_only else holder.plan
    while True:
        if plan is not None:
            yield from _until_proven(router, plan, until)
        name, topology = fleet.primary, fleet.topology
        if name is not None:
            try:
                route = router.route(name, read_only, Role.PRIMARY, reason)
                connection = yield from take(router, holder, route, until)
            except NodeUnavailable as error:
                trouble = error
            else:
                if plan is not None and not router.has_all(plan):
                    yield from give_back(router, holder)  # it became the primary meanwhile
                    continue
                if trouble is not None or router.clock() - started > 0.1:
                    router.observer.waited(name, Wait.PRIMARY, router.clock() - started)
                return connection
        elif topology.split:
            raise SplitBrain(topology.problem)
        pause = backoff.pause(router.clock())
        if pause is None:
            if trouble is not None and topology.primary is not None:
                raise NodeUnavailable(str(trouble))
            raise NoPrimary(f"{topology.problem or trouble} (waited {limit:g} s)")
        fleet.want()
        if name is None:
            left = until - router.clock()
            yield router.do_wait(fleet.when(lambda: _writable_or_split(router)), max(left, 0.0))
        else:  # it is said to be there, but gives no connection: wait for other news
            elsewhere = fleet.when(partial(_not_the_primary, router, name))
            yield router.do_wait(elsewhere, max(pause, 0.001))


def _until_proven(router: Base, plan: Plan, until: float) -> Steps[None]:
    """Wait for a primary that has what the plan's token or session stands for, if there is a
    primary: what is changed there is read first."""
    doubt = router.doubt(plan)
    if doubt is None:
        return
    fleet, started = router.fleet, router.clock()
    fleet.want()
    left = min(until - started, plan.wait)
    if not (yield router.do_wait(fleet.when(lambda: router.doubt(plan.apart) is None), left)):
        raise TokenNotReached(f"{router.doubt(plan) or doubt} (waited {plan.wait:g} s)")
    router.observer.waited(None, Wait.TOKEN, router.clock() - started)


def take(router: Base, holder: Holder, route: Any, until: float) -> Steps[Any]:
    """A connection of one pool, entered into the books. NodeUnavailable when none comes."""
    pool, name = route.pool, route.node
    settings = router.settings
    limit = max(min(until - router.clock(), float(settings.connect_timeout_seconds)), 0.0)
    started = router.clock()
    try:
        connection = yield router.do_take(pool, limit)
    except (PoolTimeout, TooManyRequests) as error:
        why = router.fleet.breakers[name].why or pool.why_no_connection(limit)
        if pool.last_error is None or pool.password_refused:  # no fault of the server
            router.observer.failed(name, Fault.NO_CONNECTION)
            router.fleet.wake()
        else:
            router.fleet.suspect(name, Fault.NO_CONNECTION, why)
        raise NodeUnavailable(f"{name}: {why}") from error
    except PoolClosed as error:
        raise RouterClosed("the router is closed") from error
    as_primary = route.role is Role.PRIMARY
    # ``until`` is of the checkout, which begins with the operation and may end before it.
    rest = max(0.0, holder.limit - settings.checkout_timeout_seconds)
    try:
        now = router.clock()
        if now - started > 0.001:
            router.observer.waited(name, Wait.CHECKOUT, now - started)
        demoted = as_primary and connection.is_standby
        if route.role is Role.REPLICA:
            router.look(pool, connection, now)
        if not demoted:
            router.hand_out(holder, route, connection, now, until + rest)
    except BaseException:  # an observer's error or an interrupt: nobody else knows of it
        pool.in_flight.pop(holder, None)
        yield router.do_discard(pool, connection)
        raise
    if demoted:
        yield router.do_discard(pool, connection)
        router.fleet.suspect(name, Fault.READ_ONLY, "is a replica by now")
        raise NodeUnavailable(f"{name}: is a replica by now")
    if as_primary and router.fleet.topology.primary != name:
        # It lost its role while we waited: whoever cuts its connections has not seen this one.
        yield from give_back(router, holder)
        raise NodeUnavailable(f"{name}: is the primary no more")
    return connection


def give_back(router: Base, holder: Holder) -> Steps[None]:
    """End a lease whose connection is in no transaction."""
    if holder.pool.in_flight.pop(holder, None) is None:
        yield router.do_discard(holder.pool, holder.connection)
    else:
        yield router.do_give_back(holder.pool, holder.connection)


def _select(router: Base, plan: Plan) -> Selection:
    fleet = router.fleet
    return select(
        plan.contract,
        fleet.topology,
        fleet.ledger,
        now=router.clock(),
        breakers=fleet.breakers,
        draw=router.random.random(),
        trail=plan.trail,
    )


def _first_of(
    router: Base, holder: Holder, plan: Plan, chosen: Selection, tried: set[str], until: float
) -> Steps[Any]:
    """A connection to the first candidate that gives one; None when none does."""
    candidates = [name for name in chosen.candidates if name not in tried]
    if not candidates:
        return None
    for name in router.policy.order(candidates, router.stats):
        tried.add(name)
        try:
            route = router.route(name, True, Role.REPLICA, plan.replica_reason)
            return (yield from take(router, holder, route, until))
        except NodeUnavailable:
            continue
    return None


def _until_met(router: Base, plan: Plan, tried: set[str], then: Then, limit: float) -> Steps[None]:
    """Wait for a candidate that was not tried yet, for the doubt to end, or for a primary."""
    fleet, started = router.fleet, router.clock()

    def met() -> bool:
        chosen = _select(router, plan.apart)
        changed = then in (Then.LOOK_AGAIN, Then.REFUSE) and chosen.then is not then
        return changed or bool(set(chosen.candidates) - tried)

    fleet.want()
    yield router.do_wait(fleet.when(met), limit)
    router.observer.waited(None, Wait.TOKEN, router.clock() - started)


def _lease_named(
    router: Base, holder: Holder, plan: Plan, chosen: Selection, wait_until: float, until: float
) -> Steps[Any]:
    fleet, name = router.fleet, str(plan.node)
    state = fleet.topology.node(name)
    if state is None:
        raise NodeUnavailable(f"there is no node {name}; known: {', '.join(fleet.names)}")
    if state.role not in (Role.PRIMARY, Role.REPLICA):
        raise NodeUnavailable(f"{name}: {state.state}")
    route = router.route(name, True, state.role, Reason.NAMED)
    if state.role is Role.PRIMARY or (plan.contract.is_eventual and plan.trail is None):
        if chosen.then is Then.LOOK_AGAIN:
            raise TokenNotReached(chosen.why)
        return (yield from take(router, holder, route, until))
    if name not in chosen.candidates:

        def met() -> bool:
            return name in _select(router, plan.apart).candidates

        fleet.want()
        left = max(wait_until - router.clock(), 0.0)
        if not (yield router.do_wait(fleet.when(met), left)):
            doubt = _select(router, plan)
            if doubt.then is Then.LOOK_AGAIN:
                raise TokenNotReached(f"{doubt.why} (waited {plan.wait:g} s)")
            view = fleet.ledger.view(name)
            where = "an unknown position" if view is None else format_lsn(view.position)
            raise TokenNotReached(
                f"{name} has replayed {where}: not {plan.contract} within {plan.wait:g} s"
            )
    return (yield from take(router, holder, route, until))


def _spill_reason(contract: Contract, chosen: Selection) -> Reason:
    if contract.strong:
        return Reason.STRONG
    if contract.max_lag_seconds is not None or contract.max_lag_bytes is not None:
        return Reason.LAG_EXCEEDED
    if contract.is_eventual and chosen.token is None:
        return Reason.NO_HEALTHY_REPLICA
    return Reason.TOKEN_NOT_REACHED


def _may_spill(router: Base, reason: Reason) -> bool:
    allowed = router.spill_cap.try_take(router.clock())
    router.observer.spilled(reason, allowed)
    return allowed


def _capped(router: Base, chosen: Selection) -> ContractNotMet:
    rate = router.settings.spill_reads_per_second
    return ContractNotMet(f"{chosen.why}, and {rate:g} reads per second go to the primary already")


def _nobody(plan: Plan, chosen: Selection) -> bool:
    """Whether a read is refused for want of a primary that it would go to."""
    return plan.contract.otherwise is not Otherwise.RAISE and chosen.primary is None


def _refusal(plan: Plan, chosen: Selection) -> ContractNotMet | NoReadableNode:
    if _nobody(plan, chosen):
        return NoReadableNode(f"no healthy replica, and no primary: {chosen.why}")
    return ContractNotMet(f"{chosen.why} (waited {plan.wait:g} s)")


def _not_the_primary(router: Base, name: str) -> bool:
    return router.fleet.primary != name


def _writable_or_split(router: Base) -> bool:
    return router.fleet.primary is not None or bool(router.fleet.topology.split)
