"""What changes between a decision and its use: no promise is broken by it."""
# ruff: noqa: ARG001, PT012, SIM117 - what happens within a block, and how it ends, is tested

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from random import Random
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from pgroute import (
    AsyncRouter,
    CommitUnknown,
    ContractNotMet,
    DeadlineExceeded,
    Fault,
    ForeignToken,
    NodeUnavailable,
    Reason,
    Router,
    RouterClosed,
    Settings,
    SplitBrain,
    Token,
    TokenNotReached,
    TokenUnproven,
)
from pgroute.core.breaker import BreakerState
from pgroute.core.candidates import select
from pgroute.core.topology import Answer, Observation, Role, Silence
from pgroute.routing import leasing
from pgroute.routing.commit import Commit
from pgroute.routing.fleet import Fleet
from pgroute.routing.hedging import _ELSEWHERE as ELSEWHERE
from pgroute.routing.hedging import _Attempt, _GivenUp
from pgroute.routing.holder import PLAIN
from pgroute.routing.routes import _none
from pgroute.routing.running import Statement
from pgroute.routing.tokens import PendingToken
from pgroute.statements import Route as Lane

from .staged import (
    ACTIVE,
    ALL_WELL,
    IN_TRANSACTION,
    LOST,
    PRIMARY,
    REPLICA_2,
    REPLICA_3,
    Connection,
    Pool,
    Staged,
    node_of,
)

NEW_PRIMARY = Answer("pg2", False, 2, 7, 1010, False)
REPLICA_OF_NEW = Answer("pg3", True, 2, 7, 1010, True)
FAILED_OVER: tuple[Observation, ...] = (Silence("pg1", "gone"), NEW_PRIMARY, REPLICA_OF_NEW)
PARTED: tuple[Observation, ...] = (PRIMARY, NEW_PRIMARY, REPLICA_OF_NEW)


def meanwhile(pool: Pool, act: Callable[[], object]) -> None:
    """Let ``act`` happen while the next caller waits for a connection of ``pool``."""
    take = pool.take

    def slow_take(limit: float) -> Any:
        pool.take = take  # type: ignore[method-assign]
        connection = take(limit)
        act()
        return connection

    pool.take = slow_take  # type: ignore[method-assign]


def play(router: Staged, *seen: Observation) -> None:
    router.rounds = [seen]
    router.play()


def test_a_primary_replaced_during_checkout_is_not_written_to() -> None:
    router = Staged(ALL_WELL)
    old = router.connection("pg1", writes=True)
    meanwhile(router.pool("pg1", writes=True), lambda: play(router, *PARTED))
    with router.write() as connection:
        assert connection.node == "pg2"
    assert old.done == []


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_primary_replaced_while_an_idle_connection_is_taken_is_not_written_to(
    autocommit: bool,
) -> None:
    router = Staged(ALL_WELL)
    router.make_idle("pg1", autocommit=autocommit)
    old, pool = router.connection("pg1", writes=True), router.pool("pg1", writes=True)

    class Slow(deque[Any]):
        def pop(self) -> Any:  # type: ignore[override]
            found = super().pop()
            play(router, *PARTED)
            return found

    pool.idle = Slow(pool.idle)
    if autocommit:
        assert router.execute("insert").node == "pg2"
    else:
        with router.write() as connection:
            assert connection.node == "pg2"
    assert old.done == []
    assert pool.in_flight == {}


def test_a_primary_replaced_during_checkout_is_not_read_strongly() -> None:
    router = Staged(ALL_WELL)
    meanwhile(router.pool("pg1"), lambda: play(router, *PARTED))
    with router.read("strong") as connection:
        assert connection.node == "pg2"


def test_a_strong_read_does_not_believe_a_server_that_became_a_standby() -> None:
    router = Staged(ALL_WELL)
    demoted = router.connection("pg1")
    demoted.is_standby = True
    with router.read("strong") as connection:
        assert connection is not demoted  # type: ignore[comparison-overlap]
    assert router.pool("pg1").discarded == [demoted]


@pytest.mark.parametrize("counted", [False, True])
def test_a_lease_interrupted_while_it_is_entered_into_the_books_loses_no_connection(
    counted: bool,
) -> None:
    router = Staged(ALL_WELL)
    pool, connection = router.pool("pg1", writes=True), router.connection("pg1", writes=True)
    hand_out = router.hand_out

    def interrupted(*lease: Any) -> None:
        if counted:
            hand_out(*lease)
        raise KeyboardInterrupt

    router.hand_out = interrupted  # type: ignore[assignment, method-assign]
    with pytest.raises(KeyboardInterrupt):
        router.write().__enter__()
    assert (pool.discarded, pool.in_flight) == ([connection], {})


def test_a_write_is_marked_with_the_timeline_of_the_primary_it_went_to() -> None:
    router = Staged(ALL_WELL)
    sampled = router.fleet.ledger.primary_seen
    router.fleet.ledger.primary_seen = lambda *_, **__: None  # type: ignore[method-assign]
    play(router, *FAILED_OVER)  # decided on, but not yet sampled
    with router.write() as connection:
        assert connection.node == "pg2"
    token = router.token()
    assert isinstance(token, PendingToken)
    assert (token.mark.node, token.mark.timeline) == ("pg2", 2)
    router.fleet.ledger.primary_seen = sampled  # type: ignore[method-assign]
    assert token.timeline == 2


@pytest.mark.parametrize(
    "rival",
    [
        pytest.param(Answer("pg2", False, 1, 7, 1000, False), id="on the same timeline"),
        pytest.param(Answer("pg2", True, 2, 7, 1000, True), id="a standby of a newer one"),
    ],
)
def test_a_block_on_a_primary_that_lost_its_right_is_not_committed(rival: Answer) -> None:
    router = Staged(ALL_WELL)
    connection = router.connection("pg1", writes=True)
    with pytest.raises(NodeUnavailable, match="pg1"), router.write():
        connection.status(IN_TRANSACTION)
        play(router, PRIMARY, rival, REPLICA_3)
        assert connection.done == ["cut"]
    assert "commit" not in connection.done


def test_a_statement_cut_at_its_deadline_says_so_and_is_not_sent_again() -> None:
    router = Staged(ALL_WELL)
    sent = []

    def frozen(sql: str, params: Any = None, **_: Any) -> Any:
        sent.append(sql)
        router.time.sleep(2.1)
        router.watch(router.time.now)
        raise psycopg.OperationalError("the socket is closed")

    router.lane = lambda sql: Lane.REPLICA  # type: ignore[method-assign]  # noqa: ARG005
    for name in ("pg1", "pg2", "pg3"):
        router.connection(name).execute = frozen  # type: ignore[method-assign]
    with pytest.raises(DeadlineExceeded, match=r"pg[23]"):
        router.execute("select 1", contract="eventual", otherwise="wait", timeout=2)
    assert sent == ["select 1"]


def test_a_replica_that_restarted_during_checkout_is_not_taken_for_what_it_had() -> None:
    router = Staged(ALL_WELL)

    def restart() -> None:
        play(router, PRIMARY, Silence("pg2", "gone"), REPLICA_3)
        play(router, PRIMARY, Answer("pg2", True, 1, 7, 900, True), REPLICA_3)

    meanwhile(router.pool("pg2"), restart)
    meanwhile(router.pool("pg3"), lambda: None)
    for _ in range(4):
        with router.read(after=Token(7, 1, 1000)) as connection:
            assert connection.node != "pg2"


def test_a_token_of_a_primary_not_heard_of_is_served_once_it_is() -> None:
    alone = (Silence("pg1", "gone"), NEW_PRIMARY, Silence("pg3", "gone"))
    router = Staged(ALL_WELL, ALL_WELL, alone)
    began = router.time.now
    with router.read(after=Token(7, 2, 1010)) as connection:
        assert connection.node == "pg2"
    assert router.time.now - began < router.settings.token_timeout_seconds


CHANGES: dict[str, Callable[[Staged, Token], str]] = {
    "execute": lambda router, token: router.execute("insert", after=token).node,
    "session.execute": lambda router, token: router.session(token).execute("insert").node,
    "session.write": lambda router, token: node_of(router.session(token).write()),
    "session.transaction": lambda router, token: router.session(token).transaction(
        lambda connection: connection.node
    ),
}


@pytest.mark.parametrize("idle", [None, False, True])
@pytest.mark.parametrize("how", CHANGES)
def test_a_change_after_a_token_waits_for_the_primary_that_has_it(
    how: str, idle: bool | None
) -> None:
    alone = (Silence("pg1", "gone"), NEW_PRIMARY, Silence("pg3", "gone"))
    router = Staged(ALL_WELL, ALL_WELL, alone)
    if idle is not None:
        router.make_idle("pg1", autocommit=idle)
    old = router.connection("pg1", writes=True)
    assert CHANGES[how](router, Token(7, 2, 1010)) == "pg2"
    assert old.done == []
    router = Staged(ALL_WELL)
    with pytest.raises(TokenNotReached, match=r"timeline 2.*\(waited 1 s\)"):
        CHANGES[how](router, Token(7, 2, 1010))
    with pytest.raises(ForeignToken):
        CHANGES[how](router, Token(8, 1, 1010))
    assert CHANGES[how](router, Token(7, 1, 1000)) == "pg1"


def test_a_change_in_a_session_whose_writes_may_be_lost_is_refused() -> None:
    router = Staged(ALL_WELL)
    session = router.session()
    router.time.sleep(1.0)
    with session.write():
        pass
    router.time.sleep(1.0)
    play(router, *FAILED_OVER)
    with pytest.raises(TokenUnproven):
        node_of(session.write())
    with pytest.raises(TokenUnproven):
        session.transaction(lambda _: None)


@pytest.mark.parametrize("during_checkout", [False, True])
def test_a_change_waits_for_no_primary_that_may_lack_what_was_seen(during_checkout: bool) -> None:
    """While there is no primary nothing can be proven; the next one is looked at when it is there,
    even when it has become the primary during the checkout."""
    router = Staged(ALL_WELL)
    session = router.session()
    router.time.sleep(1.0)
    with session.write():
        pass
    router.time.sleep(1.0)
    if during_checkout:
        router.pool("pg1", writes=True).idle.clear()
        meanwhile(router.pool("pg1", writes=True), lambda: play(router, *FAILED_OVER))
    else:
        play(router, *(Silence(name, "gone") for name in ("pg1", "pg2", "pg3")))
        router.rounds = [router.rounds[0], FAILED_OVER]
    with pytest.raises(TokenUnproven):
        node_of(session.write())
    assert router.connection("pg2", writes=True).done == []
    assert router.pool("pg2", writes=True).in_flight == {}


def test_a_primary_that_came_right_after_the_proof_is_looked_at_too() -> None:
    router = Staged(ALL_WELL)
    session = router.session()
    router.time.sleep(1.0)
    with session.write():
        pass
    router.pool("pg1", writes=True).idle.clear()
    router.time.sleep(1.0)
    doubt, asked = router.doubt, count(1)

    def prove(plan: Any) -> str | None:
        found = doubt(plan)
        if next(asked) == 2:  # the first is of the fast path
            play(router, *FAILED_OVER)
        return found

    router.doubt = prove  # type: ignore[method-assign]
    with pytest.raises(TokenUnproven):
        node_of(session.write())
    assert router.pool("pg2", writes=True).in_flight == {}


@pytest.mark.parametrize("idle", [False, True])
def test_an_attempt_that_is_made_again_does_not_bind_its_session(idle: bool) -> None:
    """Nobody has heard of what it saw, and its server is gone before its mark could settle."""
    for idempotent in (False, True):
        router = Staged(ALL_WELL)
        session = router.session()
        router.time.sleep(1.0)
        if idle:
            router.make_idle("pg1", autocommit=idempotent)
        old = router.connection("pg1", writes=True)

        def fail(*_: Any, old: Connection = old, router: Staged = router, **__: Any) -> Any:
            old.done.append("insert")
            router.time.sleep(1.0)
            play(router, *FAILED_OVER)
            old.status(LOST)
            raise psycopg.OperationalError("the server closed the connection")

        old.execute = fail  # type: ignore[method-assign]
        if idempotent:
            assert session.execute("insert", idempotent=True).node == "pg2"
        else:
            change = session.transaction(lambda found: (found.execute("insert"), found.node)[1])
            assert change == "pg2"
        assert old.done.count("insert") == 1
        with session.read() as connection:
            assert connection.node in ("pg2", "pg3")


def test_a_replica_that_has_caught_up_is_looked_at_again() -> None:
    router = Staged((PRIMARY, REPLICA_2, Silence("pg3", "gone")))
    behind = (PRIMARY, Answer("pg2", True, 1, 7, 950, True), Silence("pg3", "gone"))

    def fall_behind() -> None:
        play(router, *behind)
        router.rounds = [behind, (PRIMARY, REPLICA_2, Silence("pg3", "gone"))]

    meanwhile(router.pool("pg2"), fall_behind)
    began = router.time.now
    assert node_of(router.read(max_lag=10, otherwise="raise")) == "pg2"
    assert router.time.now - began < 0.1


def test_a_replica_that_falls_behind_during_checkout_does_not_break_the_contract() -> None:
    def staged() -> Staged:
        router = Staged(ALL_WELL)
        behind = Answer("pg2", True, 1, 7, 950, True)
        for name in ("pg2", "pg3"):
            meanwhile(router.pool(name), lambda: play(router, PRIMARY, behind, REPLICA_3))
        return router

    router = staged()
    assert {node_of(router.read(max_lag=10)) for _ in range(4)} == {"pg3"}
    router = staged()
    with pytest.raises(TokenNotReached, match="pg2 has replayed"):
        node_of(router.read(max_lag=10, node="pg2"))


def test_writers_are_cut_as_soon_as_another_primary_is_known() -> None:
    router = Staged(ALL_WELL)
    old = router.connection("pg1", writes=True)
    with pytest.raises(NodeUnavailable), router.write():
        play(router, *(Silence(name, "gone") for name in ("pg1", "pg2", "pg3")))
        router.fleet.answered(NEW_PRIMARY, started_at=router.time.now)
        assert router.topology.primary == "pg2"
        assert router.fleet.primary is None  # its breaker is open
        assert old.done == ["cut"]
        raise psycopg.OperationalError("the socket is closed")


def test_a_named_node_does_not_take_a_session_back_in_time() -> None:
    router = Staged((PRIMARY, Answer("pg2", True, 1, 7, 950, True), REPLICA_3))
    with router.session(after=Token(7, 1, 1000)) as session:
        with pytest.raises(TokenNotReached, match="pg2 has replayed 0/3B6"):
            with session.read(node="pg2"):
                pass
        with session.read(node="pg3") as connection:
            assert connection.node == "pg3"


def test_what_a_failed_block_has_seen_binds_its_session() -> None:
    behind = (PRIMARY, Answer("pg2", True, 1, 7, 990, True), Answer("pg3", True, 1, 7, 990, True))
    router = Staged(behind)
    with router.session() as session:
        with pytest.raises(ZeroDivisionError):
            with session.write():
                raise ZeroDivisionError
        with session.read() as connection:
            assert connection.node == "pg1"
        play(router, PRIMARY, *behind[1:])
        with session.read() as connection:
            assert connection.node == "pg1"
        play(router, *ALL_WELL)
        with session.read() as connection:
            assert connection.node != "pg1"


def lose_the_commit(connection: Any) -> None:
    """The connection breaks while COMMIT is under way; transaction 42 has been numbered."""

    def lost(commit: Commit) -> None:
        commit.number, commit.number_known = 42, True
        connection.status(LOST)
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    connection.on_commit = lost


@pytest.mark.parametrize("crashed", [False, True])
def test_a_number_given_out_before_a_crash_proves_no_commit(crashed: bool) -> None:
    """After a crash a server gives out numbers anew that had not reached its disk."""
    router = Staged(ALL_WELL)
    connection = router.connection("pg1", writes=True)
    lose_the_commit(connection)
    router.connection("pg1").answers.append([("committed",)])

    def write() -> None:
        with router.write():
            connection.status(IN_TRANSACTION)
            if crashed:
                router.fleet.losses["pg1"] += 1  # as the sampler counts them

    if crashed:
        with pytest.raises(CommitUnknown):
            write()
    else:
        write()


def test_a_session_is_bound_by_a_commit_that_nobody_can_tell_of() -> None:
    router = Staged(ALL_WELL)
    connection = router.connection("pg1", writes=True)
    lose_the_commit(connection)
    lose, committed_at = connection.on_commit, []

    def late(commit: Commit) -> None:
        router.time.sleep(1.0)
        committed_at.append(router.time.now)
        router.fleet.losses["pg1"] += 1
        assert lose is not None
        lose(commit)

    connection.on_commit = late
    session = router.session()
    with pytest.raises(CommitUnknown):
        session.transaction(lambda _: connection.status(IN_TRANSACTION))
    (mark,) = session._trail.pending
    assert mark.node == "pg1"
    assert mark.ended_at >= committed_at[0]


def test_a_replica_is_not_taken_for_one_of_a_primary_that_came_during_checkout() -> None:
    promoted = Answer("pg3", False, 2, 7, 1005, False)
    ahead = Answer("pg2", True, 1, 7, 1010, True)
    router = Staged((PRIMARY, ahead, REPLICA_3))
    for name in ("pg2", "pg3"):
        meanwhile(router.pool(name), lambda: play(router, Silence("pg1", "gone"), ahead, promoted))
    with router.session() as session, session.read() as connection:
        assert connection.node == "pg3"
        assert router.noted.routes[-1][1] is Role.PRIMARY


def test_who_may_be_used_is_told_before_how() -> None:
    """The sampler's thread names the replicas first and makes the fast path anew then."""
    router = Staged(ALL_WELL)
    router.next_read = _none
    with router.session() as session, session.read() as connection:
        assert connection.node in ("pg2", "pg3")
    assert router.execute("select 1", max_lag="1min", otherwise="wait").node == "pg1"


def test_a_trail_is_looked_at_by_one_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    router = Staged((PRIMARY, Silence("pg2", "gone"), Answer("pg3", True, 1, 7, 990, True)))
    session = router.session(after=Token(7, 1, 1000))
    looked: list[Any] = []
    wait = router.do_wait

    def waiting(future: Any, limit: float) -> bool:
        looked.clear()  # what follows is asked from the sampler's thread
        return wait(future, limit)

    def noting(*arguments: Any, trail: Any, **options: Any) -> Any:
        looked.append(trail)
        return select(*arguments, trail=trail, **options)

    monkeypatch.setattr(leasing, "select", noting)
    monkeypatch.setattr(router, "do_wait", waiting)
    for options in ({"wait": True}, {"node": "pg3"}):
        with suppress(TokenNotReached), session.read(**options):
            pass
        assert len(looked) > 10
        assert session._trail not in looked[:10]


RIVAL = Answer("pg2", False, 1, 7, 1000, False)


def test_a_rival_that_stalls_has_not_given_up() -> None:
    router = Staged((PRIMARY, RIVAL, REPLICA_3))
    for silent in ((PRIMARY, Silence("pg2", "gone")), (Silence("pg1", "gone"), RIVAL)):
        play(router, *silent, REPLICA_3)
        with pytest.raises(SplitBrain, match="pg1 and pg2 are both writable"):
            router.write().__enter__()
        play(router, PRIMARY, RIVAL, REPLICA_3)
    for _ in range(4):  # gone for good: stopped by whoever decided between them
        play(router, Silence("pg1", "gone"), RIVAL, REPLICA_3)
        router.time.sleep(10)
    with router.write() as connection:
        assert connection.node == "pg2"


def test_a_rival_that_has_given_up_is_forgotten() -> None:
    router = Staged((PRIMARY, RIVAL, REPLICA_3))
    play(router, *ALL_WELL)
    with router.write() as connection:
        assert connection.node == "pg1"
    play(router, Silence("pg1", "gone"), REPLICA_2, REPLICA_3)
    assert router.topology.primary is None


def test_the_first_to_answer_does_not_decide_whose_cluster_it_is() -> None:
    router = Staged()
    for seen in (Answer("pg2", False, 1, 8, 1000, False), PRIMARY, REPLICA_3):
        router.fleet.answered(seen, started_at=router.time.now)
    assert router.topology.split == ("pg1", "pg2")
    with pytest.raises(SplitBrain, match="different clusters"):
        router.write().__enter__()


@pytest.mark.parametrize("works", [True, False])
def test_errors_with_successes_between_them_put_nobody_out(works: bool) -> None:
    """As when somebody ends a session every few seconds, on a server that is well."""
    router = Staged(ALL_WELL)
    router.make_idle("pg1", autocommit=False)
    out = False
    for _ in range(6):
        router.fleet.suspect("pg1", Fault.CONNECTION_LOST, "terminated")
        router.fleet.tick(router.time.now)
        out |= router.fleet.primary is None
        router.time.sleep(1.0)
        if works:
            with router.write():
                pass
        router.play()
    assert out != works


def test_whoever_waits_when_the_router_closes_is_told_so() -> None:
    router = Staged(ALL_WELL)
    waiting = router.fleet.when(lambda: False)
    router.fleet.stop(0)
    assert isinstance(waiting.exception(0), RouterClosed)


def test_a_hedge_that_comes_too_late_asks_nobody() -> None:
    router = Staged(ALL_WELL)
    statement = Statement("select 1", None, PLAIN, True, False, router.time.now + 1)
    late = _Attempt(router, statement)
    late.cancel()
    with pytest.raises(_GivenUp):
        router.drive(late.steps())
    assert router.pool("pg2").in_flight == router.pool("pg3").in_flight == {}
    assert router.connection("pg2").done == router.connection("pg3").done == []


def overdue(router: Staged, name: str) -> None:
    """A read on a replica that gets no answer within its second."""
    connection = router.connection(name)
    router.pool(name).idle.append(connection)
    router.next_read = lambda: router.route(name, True, Role.REPLICA, Reason.READ)
    connection.used_at = router.time.now
    with pytest.raises(DeadlineExceeded), router.read(timeout=1):
        connection.status(ACTIVE)
        router.time.sleep(1.1)
        router.watch(router.time.now)
        connection.status(LOST)
        raise psycopg.OperationalError("the socket is closed")


def test_a_replica_from_which_nothing_comes_back_is_left_out() -> None:
    router = Staged(ALL_WELL)
    for _ in range(3):
        assert router.fleet.replicas == ("pg2", "pg3")
        overdue(router, "pg2")
    router.fleet._choose()
    assert router.fleet.replicas == ("pg3",)
    for _ in range(5):
        overdue(router, "pg3")  # slowness never sends all to the primary
    router.fleet._choose()
    assert router.fleet.replicas == ("pg3",)


def test_a_replica_that_answers_others_is_not_left_out_for_a_slow_statement() -> None:
    router = Staged(ALL_WELL)
    for _ in range(5):
        other = Connection("pg2", autocommit=True, used_at=router.time.now + 0.5)
        router.pool("pg2").idle.appendleft(other)
        overdue(router, "pg2")
    router.fleet._choose()
    assert router.fleet.replicas == ("pg2", "pg3")


def test_a_replica_whose_connections_go_from_hand_to_hand_is_not_left_out() -> None:
    router = Staged(ALL_WELL)
    for _ in range(5):
        router.pool("pg2").worked_at = router.time.now + 0.5
        overdue(router, "pg2")
    router.fleet._choose()
    assert router.fleet.replicas == ("pg2", "pg3")


def test_a_deadline_shorter_than_a_server_may_be_silent_says_nothing_of_it() -> None:
    router = Staged(ALL_WELL, eject_after_seconds=1.05)
    for _ in range(5):
        overdue(router, "pg2")
    router.fleet._choose()
    assert router.fleet.replicas == ("pg2", "pg3")


def test_a_promotion_is_seen_on_the_connections_that_read() -> None:
    router = Staged(ALL_WELL)
    for name in ("pg2", "pg3"):
        connection = router.connection(name)
        connection.autocommit, connection.used_at = True, router.time.now
        router.pool(name).idle.append(connection)
    for promoted, asked in ((False, 0), (True, 1), (True, 1)):
        router.connection("pg2").was_promoted = promoted
        for _ in range(4):
            with router.read():
                pass
        assert router.asked == asked  # once in a while
        if not promoted:
            router.time.sleep(0.02)


def test_a_promotion_is_seen_on_a_connection_that_was_waited_for() -> None:
    router = Staged(ALL_WELL)
    router.connection("pg2").was_promoted = True
    with router.read(node="pg2"):
        assert router.asked == 1


def test_a_session_that_read_a_promoted_server_is_not_led_back_to_the_old_primary() -> None:
    router = Staged(ALL_WELL)
    with router.session() as session:
        with session.read(node="pg2") as connection:
            assert connection.node == "pg2"
            router.connection("pg2").was_promoted = True  # as it says with an answer
        for read in (session.read(), session.read("strong"), session.read(node="pg1")):
            with pytest.raises(TokenNotReached, match="no sample of the primary on timeline 2"):
                with read:
                    pass
        play(router, Answer("pg2", False, 2, 7, 2000, False))
        with session.read() as connection:
            assert connection.node == "pg2"


def test_nobody_waits_for_a_pool_that_is_refused_and_has_nothing() -> None:
    router = Staged(ALL_WELL)
    pool = router.pool("pg2")
    pool.connected(psycopg.OperationalError("too many clients"))
    router.watch(router.time.now)
    assert pool.renewed == 0  # nobody waits
    pool.waiting.append(None)
    pool.in_flight["somebody"] = 1000.0
    router.watch(router.time.now)
    assert pool.renewed == 0  # one may come back
    pool.in_flight.clear()
    pool.password_refused = True
    router.watch(router.time.now)
    assert pool.renewed == 0  # that is no fault of the server
    pool.password_refused = False
    router.watch(router.time.now)
    assert pool.renewed == 1
    router.watch(router.time.now)
    assert pool.renewed == 1  # it is being tried: one renewal is enough
    pool.connected(psycopg.OperationalError("too many clients"))
    play(router, PRIMARY, REPLICA_2, Silence("pg3", "gone"))
    router.watch(router.time.now)
    assert pool.renewed == 1  # nobody else could serve


def test_a_hedge_never_asks_the_primary() -> None:
    router = Staged(ALL_WELL)
    router.pool("pg3").connection = None
    statement = Statement("select 1", None, ELSEWHERE, True, False, router.time.now + 1)
    with pytest.raises(ContractNotMet):
        router.drive(_Attempt(router, statement, frozenset({"pg2"})).steps())
    assert [node for node, _, _ in router.noted.routes] == []


def test_a_write_that_may_be_lost_is_told_once() -> None:
    router = Staged(ALL_WELL)
    router.time.sleep(1.0)
    with router.write():
        pass
    router.time.sleep(1.0)
    play(router, *FAILED_OVER)
    with pytest.raises(TokenUnproven):
        str(router.token())
    assert router.token().timeline == 2


def test_a_read_that_may_not_spill_waits_for_a_replica() -> None:
    behind = (PRIMARY, Answer("pg2", True, 1, 7, 990, True), Answer("pg3", True, 1, 7, 990, True))
    router = Staged(behind, behind, ALL_WELL, spill_reads_per_second=1)
    nodes = []
    for _ in range(2):
        with router.read(after=Token(7, 1, 1000)) as connection:
            nodes.append(connection.node)
    assert nodes[0] == "pg1"
    assert nodes[1] in ("pg2", "pg3")


def test_a_policy_by_latency_leaves_a_slow_server() -> None:
    router = Staged(ALL_WELL, policy="power_of_two")
    for _ in range(3):
        router.fleet.answered(REPLICA_2, started_at=router.time.now - 0.2)
        router.fleet.answered(REPLICA_3, started_at=router.time.now - 0.001)
    nodes = set()
    for _ in range(20):
        with router.read() as connection:
            nodes.add(connection.node)
    assert nodes == {"pg3"}


def shares(pick: Callable[[], str]) -> float:
    """The share of pg2 in many reads."""
    return sum(pick() == "pg2" for _ in range(2000)) / 2000


def test_weights_are_the_shares_of_the_reads() -> None:
    router = Staged(ALL_WELL, policy="weighted", weights="pg2=3,pg3=1")

    def fast() -> str:
        return router.next_read().node

    def thorough() -> str:
        with router.read(max_lag="16MB") as connection:
            return str(connection.node)

    assert shares(fast) == pytest.approx(0.75, abs=0.05)
    assert shares(thorough) == pytest.approx(0.75, abs=0.05)


def test_a_node_of_weight_zero_is_read_when_there_is_no_other() -> None:
    router = Staged(ALL_WELL, policy="weighted", weights="pg2=0")
    assert shares(lambda: router.next_read().node) == 0
    play(router, PRIMARY, REPLICA_2, Silence("pg3", "gone"))
    with router.read() as connection:
        assert connection.node == "pg2"


@pytest.mark.parametrize("front", [Router, AsyncRouter])
def test_weights_hold_for_both_fronts(front: type[Router | AsyncRouter]) -> None:
    nodes = {"nodes": "pg1=h:1,pg2=h:2,pg3=h:3", "database": "app", "write_user": "app"}
    router = front(Settings.make(**nodes, policy="weighted", weights="pg2=3"), random=Random(1))
    both = ("pg2", "pg3")
    assert shares(lambda: router.policy.pick(both, router.stats)) == pytest.approx(0.75, abs=0.05)


def test_a_node_that_is_back_gets_a_share_that_grows() -> None:
    router = Staged(ALL_WELL)
    play(router, PRIMARY, Silence("pg2", "gone"), REPLICA_3)
    router.time.sleep(1.0)
    play(router, PRIMARY, REPLICA_2, REPLICA_3)
    router.time.sleep(0.2)
    play(router, PRIMARY, REPLICA_2, REPLICA_3)

    def share() -> float:
        present = 0
        for _ in range(400):
            router.fleet.tick(router.time.now)
            present += "pg2" in router.fleet.replicas
        return present / 400

    cold = share()
    router.time.sleep(10.0)
    play(router, PRIMARY, REPLICA_2, REPLICA_3)
    assert 0.0 < cold < 0.5
    assert share() == 1.0


def test_a_hook_that_fails_keeps_no_server_out(monkeypatch: pytest.MonkeyPatch) -> None:
    router = Staged(ALL_WELL)
    breaker = router.fleet.breakers["pg2"]
    breaker.overdue(router.time.now - 10.0, "silent")
    breaker.overdue(router.time.now - 5.0, "silent")
    breaker.answered(router.time.now)
    assert breaker.try_trial(router.time.now)

    def fail(node: str, limit: float) -> None:
        raise KeyError(node)

    router.warm = fail  # type: ignore[method-assign]
    monkeypatch.setattr(psycopg, "connect", lambda **_: SimpleNamespace(close=list))
    Fleet._trial(router.fleet, "pg2")
    assert breaker.state is BreakerState.CLOSED


class Nobody:
    """A lease of nothing in particular."""

    def cursor(self, **_: Any) -> None:
        return

    def __enter__(self) -> Nobody:
        return self

    async def __aenter__(self) -> Nobody:
        return self

    def __exit__(self, *_: object) -> None:
        return

    async def __aexit__(self, *_: object) -> None:
        return


def learner(kind: Any) -> Any:
    """A router that can do nothing but learn what statements do."""
    router = kind(Settings.make(nodes="pg1=h:1", database="app", write_user="app"))
    router.fleet.primary = "pg1"
    router.read = lambda node: Nobody()  # noqa: ARG005
    return router


def test_a_catalogue_that_loads_slowly_is_loaded_once_at_a_time() -> None:
    router, loads = learner(Router), []

    def load(run: Any) -> None:
        loads.append(run)
        if len(loads) < 3:
            router.sweep(0.0)  # the next second's, while this one goes on

    router.statements = SimpleNamespace(due=lambda: True, refresh=load)
    router.sweep(0.0)
    assert len(loads) == 1
    waiting = threading.Thread(target=router._learn_statements, kwargs={"wait": True})
    with router._learning:
        waiting.start()  # as explain, which needs it
        waiting.join(0.05)
        assert len(loads) == 1
    waiting.join(5.0)
    assert len(loads) == 2


def test_a_catalogue_that_loads_slowly_is_loaded_once_at_a_time_with_asyncio() -> None:
    async def main() -> None:
        router, loads = learner(AsyncRouter), []

        async def load(run: Any) -> None:
            loads.append(run)
            if len(loads) < 3:
                await router._sweep(0.0)

        router.statements = SimpleNamespace(due=lambda: True, refresh_async=load)
        await router._sweep(0.0)
        assert len(loads) == 1
        async with router._learning:
            waiting = asyncio.ensure_future(router._learn_statements(wait=True))
            await asyncio.sleep(0.01)
            assert len(loads) == 1
        await waiting
        assert len(loads) == 2

    asyncio.run(main())
