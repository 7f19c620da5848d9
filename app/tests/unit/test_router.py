"""Where connections come from and how they end, over servers that a test makes up."""
# ruff: noqa: PT012, SIM117 - what happens within a block, and how it ends, is what is tested

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg.errors import InFailedSqlTransaction, ReadOnlySqlTransaction, UniqueViolation

from pgroute import (
    ContractNotMet,
    DeadlineExceeded,
    Fault,
    ForeignToken,
    NodeUnavailable,
    NoPrimary,
    NoReadableNode,
    Reason,
    Role,
    Router,
    RouterClosed,
    Settings,
    SplitBrain,
    Token,
    TokenNotReached,
    UnknownContract,
)
from pgroute.core.topology import Answer, Silence
from pgroute.observing.observer import Purpose

from .staged import (
    ALL_WELL,
    FAILED,
    IDLE,
    IN_TRANSACTION,
    LOST,
    PRIMARY,
    REPLICA_2,
    REPLICA_3,
    Connection,
    Staged,
    node_of,
)

NOBODY = (Silence("pg1", "gone"), REPLICA_2, REPLICA_3)
BEHIND = (PRIMARY, Answer("pg2", True, 1, 7, 990, True), Answer("pg3", True, 1, 7, 990, True))
ALONE = (PRIMARY, Silence("pg2", "gone"), Silence("pg3", "gone"))
TOKEN = Token(7, 1, 1000)


def test_a_router_that_is_not_open_says_so() -> None:
    router = Router(Settings.make(nodes="h", database="app", write_user="app"))
    for call in (router.write, router.read, lambda: router.read("strong")):
        with pytest.raises(RouterClosed):
            node_of(call())
    for act in (router.token, router.refresh, lambda: router.execute("select 1")):
        with pytest.raises(RouterClosed):
            act()


def test_write_commits_and_gives_the_connection_back() -> None:
    router = Staged(ALL_WELL)
    pool, connection = router.pool("pg1", writes=True), router.connection("pg1", writes=True)
    with router.write() as given:
        assert given is connection  # type: ignore[comparison-overlap]
        connection.status(IN_TRANSACTION)
    assert (connection.done, list(pool.idle), pool.in_flight) == (["commit"], [connection], {})
    assert router.noted.routes == [("pg1", Role.PRIMARY, Reason.WRITE)]


def test_a_write_takes_what_is_idle() -> None:
    router = Staged(ALL_WELL)
    router.make_idle("pg1", autocommit=False)
    router.pool("pg1", writes=True).trouble = AssertionError("nobody needs to look")
    with router.write() as given:
        given.pgconn.transaction_status = IN_TRANSACTION  # type: ignore[misc]
    assert router.connection("pg1", writes=True).done == ["commit"]
    assert router.noted.routes == [("pg1", Role.PRIMARY, Reason.WRITE)]


def test_a_block_never_gets_a_connection_on_which_each_statement_commits() -> None:
    router = Staged(ALL_WELL)
    router.make_idle("pg1", autocommit=True)
    pool = router.pool("pg1", writes=True)
    pool.connection = Connection("pg1")
    with router.write() as given:
        assert given is pool.connection  # type: ignore[comparison-overlap]
    assert len(pool.idle) == 2


def test_an_idle_connection_that_is_too_old_is_not_written_to() -> None:
    router = Staged(ALL_WELL)
    router.make_idle("pg1", autocommit=False)
    old, pool = router.connection("pg1", writes=True), router.pool("pg1", writes=True)
    old.expires_at = router.time.now - 1
    pool.retire(router.time.now)
    pool.connection = Connection("pg1")
    with router.write() as given:
        assert given is pool.connection  # type: ignore[comparison-overlap]


def test_a_connection_that_grows_too_old_in_use_is_left_to_the_pool() -> None:
    router = Staged(ALL_WELL)
    pool = router.pool("pg1", writes=True)
    with router.write():
        router.connection("pg1", writes=True).expires_at = router.time.now - 1
        pool.retire(router.time.now)
    assert (list(pool.idle), pool.returned) == ([], [pool.connection])


def test_a_closed_router_hands_out_nothing_that_is_idle() -> None:
    router = Staged(ALL_WELL)
    router.make_idle("pg1", autocommit=False)
    router.fleet.stop = lambda limit: None  # type: ignore[method-assign]  # noqa: ARG005
    router.close()
    with pytest.raises(RouterClosed):
        node_of(router.write())


def test_a_session_remembers_a_block_whose_commit_failed() -> None:
    """It may have seen what others wrote."""
    router = Staged(ALL_WELL)
    connection = router.connection("pg1", writes=True)

    def refuse(_: object) -> None:
        connection.status(IDLE)
        raise UniqueViolation

    connection.on_commit = refuse
    session = router.session()
    with pytest.raises(UniqueViolation), session.write():
        connection.status(IN_TRANSACTION)
    assert [mark.node for mark in session._trail.pending] == ["pg1"]


def test_an_idle_connection_to_a_node_that_became_a_replica_is_not_written_to() -> None:
    router = Staged(ALL_WELL)
    router.make_idle("pg1", autocommit=False)
    old, pool = router.connection("pg1", writes=True), router.pool("pg1", writes=True)
    old.is_standby = True
    with router.write() as given:
        assert given is not old  # type: ignore[comparison-overlap]
    assert pool.discarded == [old]
    assert ("pg1", Fault.READ_ONLY) in router.noted.faults


def test_a_write_that_raises_is_rolled_back() -> None:
    router = Staged(ALL_WELL)
    connection = router.connection("pg1", writes=True)
    with pytest.raises(ZeroDivisionError), router.write():
        connection.status(IN_TRANSACTION)
        raise ZeroDivisionError
    assert connection.done == ["rollback"]


def test_a_failure_that_the_block_hid_is_not_taken_for_a_commit() -> None:
    router = Staged(ALL_WELL)
    connection = router.connection("pg1", writes=True)
    with pytest.raises(InFailedSqlTransaction, match="rolled back"), router.write():
        connection.status(FAILED)
    assert connection.done == ["rollback"]


def test_write_waits_for_a_primary() -> None:
    router = Staged(NOBODY, NOBODY, NOBODY, NOBODY, ALL_WELL)
    assert node_of(router.write()) == "pg1"
    assert len(router.rounds) == 1


def test_write_without_a_primary_ends_at_its_deadline() -> None:
    router = Staged(NOBODY)
    started = router.time.now
    with pytest.raises(NoPrimary, match=r"pg1: gone.*\(waited 5 s\)"):
        node_of(router.write())
    assert 5.0 <= router.time.now - started < 5.1


def test_the_call_s_own_deadline_is_kept_while_it_waits_for_a_primary() -> None:
    router = Staged(NOBODY)
    started = router.time.now
    with pytest.raises(NoPrimary, match=r"\(waited 0.5 s\)"):
        node_of(router.write(timeout=0.5))
    assert router.time.now - started < 0.6


def test_split_brain_is_refused_at_once() -> None:
    router = Staged((PRIMARY, Answer("pg2", False, 1, 7, 900, False)))
    started = router.time.now
    with pytest.raises(SplitBrain, match="pg1 and pg2 are both writable"):
        node_of(router.write())
    assert router.time.now == started


def test_write_connection_to_a_standby_is_not_used() -> None:
    promoted = (Answer("pg1", True, 2, 7, 1, True), Answer("pg2", False, 2, 7, 1000, False))
    router = Staged(ALL_WELL, promoted)
    pool = router.pool("pg1", writes=True)
    router.connection("pg1", writes=True).is_standby = True
    assert node_of(router.write()) == "pg2"
    assert router.noted.faults[0] == ("pg1", Fault.READ_ONLY)
    assert pool.discarded


def test_whoever_writes_on_a_primary_that_was_replaced_is_cut() -> None:
    promoted = (Silence("pg1", "gone"), Answer("pg2", False, 2, 7, 1000, False))
    router = Staged(ALL_WELL, promoted)
    connection = router.connection("pg1", writes=True)
    with pytest.raises(NodeUnavailable, match="pg1: it is the primary no more"), router.write():
        connection.status(IN_TRANSACTION)
        router.play()
        assert connection.done == ["cut"]
        connection.status(LOST)
    assert router.pool("pg1", writes=True).renewed == 1
    assert "commit" not in connection.done


def test_read_tries_the_next_replica_then_the_primary() -> None:
    router = Staged(ALL_WELL)
    router.pool("pg2").connection = None
    assert {node_of(router.read()) for _ in range(4)} == {"pg3"}
    router.pool("pg3").connection = None
    assert node_of(router.read()) == "pg1"
    assert router.noted.routes[-1] == ("pg1", Role.PRIMARY, Reason.NO_HEALTHY_REPLICA)


def test_read_with_nobody_left_says_why() -> None:
    router = Staged(tuple(Silence(node, "gone") for node in ("pg1", "pg2", "pg3")))
    with pytest.raises(NoReadableNode, match=r"no healthy replica, and no primary: .*pg2: gone"):
        node_of(router.read())


def test_strong_reads_are_the_primary_s() -> None:
    router = Staged(ALL_WELL)
    assert node_of(router.read("strong")) == "pg1"
    assert router.noted.routes == [("pg1", Role.PRIMARY, Reason.STRONG)]


def test_an_unknown_contract_is_refused() -> None:
    router = Staged(ALL_WELL)
    for call in (
        lambda: router.read("quick"),
        lambda: router.read(max_lag="3 weeks"),
        lambda: router.execute("select 1", otherwise="perhaps"),
    ):
        with pytest.raises(UnknownContract):
            call()


def test_read_after_a_token_takes_a_replica_that_has_it() -> None:
    behind = Answer("pg3", True, 1, 7, 999, True)
    router = Staged((PRIMARY, REPLICA_2, behind))
    assert {node_of(router.read(after=TOKEN)) for _ in range(4)} == {"pg2"}
    assert router.noted.routes[-1] == ("pg2", Role.REPLICA, Reason.AFTER_TOKEN)


def test_read_after_a_token_nobody_has_goes_to_the_primary_at_once() -> None:
    router = Staged(BEHIND)
    started = router.time.now
    assert node_of(router.read(after=TOKEN)) == "pg1"
    assert router.time.now == started
    assert router.noted.routes[-1] == ("pg1", Role.PRIMARY, Reason.TOKEN_NOT_REACHED)
    assert router.noted.spills == [(Reason.TOKEN_NOT_REACHED, True)]


def test_read_that_waits_gets_a_replica_once_it_has_the_token() -> None:
    router = Staged(BEHIND, BEHIND, BEHIND, (PRIMARY, REPLICA_2, BEHIND[2]))
    assert node_of(router.read(after=TOKEN, wait=True)) == "pg2"


def test_read_that_waits_goes_to_the_primary_at_its_deadline() -> None:
    router = Staged(BEHIND)
    started = router.time.now
    assert node_of(router.read(after=TOKEN, token_timeout=0.5)) == "pg1"
    assert 0.5 <= router.time.now - started < 0.55


def test_read_that_raises_does_so_at_its_deadline() -> None:
    router = Staged(BEHIND)
    started = router.time.now
    with pytest.raises(ContractNotMet, match=r"no replica meets after=.*\(waited 1 s\)"):
        node_of(router.read(after=TOKEN, otherwise="raise"))
    assert 1.0 <= router.time.now - started < 1.1


def test_what_must_not_touch_the_primary_is_raised_for_without_replicas() -> None:
    router = Staged(ALONE)
    with pytest.raises(ContractNotMet, match=r"no healthy replica \(waited 1 s\)"):
        node_of(router.read(otherwise="raise"))
    router.rounds = [ALONE, ALL_WELL]
    assert node_of(router.read(otherwise="raise")) in ("pg2", "pg3")


def test_any_replica_is_waited_for_before_the_primary_is_read() -> None:
    router = Staged(ALONE, ALONE, ALONE, ALL_WELL)
    assert node_of(router.read(otherwise="wait")) in ("pg2", "pg3")
    router, started = Staged(ALONE), 100.0
    assert node_of(router.read(otherwise="wait", token_timeout=0.5)) == "pg1"
    assert 0.5 <= router.time.now - started < 0.55


def test_lag_is_waited_for_before_the_primary_is_read() -> None:
    router = Staged(BEHIND, BEHIND, BEHIND, ALL_WELL)
    assert node_of(router.read(max_lag=0, otherwise="wait")) in ("pg2", "pg3")
    router, started = Staged(BEHIND), 100.0
    assert node_of(router.read(max_lag=0, wait=True, token_timeout=0.5)) == "pg1"
    assert 0.5 <= router.time.now - started < 0.55


def test_reads_that_spill_are_capped() -> None:
    router = Staged(BEHIND, spill_reads_per_second=2)
    assert [node_of(router.read(after=TOKEN)) for _ in range(2)] == ["pg1", "pg1"]
    with pytest.raises(ContractNotMet, match="2 reads per second"):
        node_of(router.read(after=TOKEN, token_timeout=0))
    assert router.noted.spills[-1] == (Reason.TOKEN_NOT_REACHED, False)


def test_every_refusal_is_told_once() -> None:
    router = Staged(tuple(Silence(node, "gone") for node in ("pg1", "pg2", "pg3")))
    with pytest.raises(NoPrimary):
        node_of(router.write())
    with pytest.raises(NoReadableNode):
        node_of(router.read())
    with pytest.raises(NodeUnavailable):
        node_of(router.read(node="pg9"))
    assert router.noted.refusals == [
        (Purpose.WRITE, "NoPrimary"),
        (Purpose.READ, "NoReadableNode"),
        (Purpose.READ, "NodeUnavailable"),
    ]


def test_strong_reads_are_not_capped() -> None:
    router = Staged(BEHIND, spill_reads_per_second=0)
    assert node_of(router.read("strong")) == "pg1"


def test_lag_that_is_too_old_is_not_read() -> None:
    router = Staged(ALL_WELL)
    assert node_of(router.read(max_lag="1s")) in ("pg2", "pg3")
    assert router.noted.routes[-1][2] is Reason.MAX_LAG
    router.time.sleep(1.5)
    assert node_of(router.read(max_lag="1s")) == "pg1"
    assert router.noted.routes[-1] == ("pg1", Role.PRIMARY, Reason.LAG_EXCEEDED)


def test_a_token_settles_with_a_sample_that_started_later() -> None:
    router = Staged(ALL_WELL)
    router.time.sleep(0.5)
    token = router.token()
    assert node_of(router.read(after=token)) == "pg1"  # no later sample has come in
    router.time.sleep(0.1)
    router.play()
    assert node_of(router.read(after=token)) in ("pg2", "pg3")
    assert str(token) == "7-1-0/3E8"
    assert Token.parse(token.text) == token


def test_token_of_a_newer_timeline_is_read_from_nobody_who_may_not_have_it() -> None:
    router = Staged(ALL_WELL)
    for options in ({}, {"node": "pg2"}):
        with pytest.raises(TokenNotReached, match=r"the token is of timeline 2.*is on 1"):
            node_of(router.read(after=Token(7, 2, 1), **options))  # type: ignore[arg-type]


def test_token_of_another_cluster_is_refused() -> None:
    with pytest.raises(ForeignToken, match="cluster 8, this one is 7"):
        node_of(Staged(ALL_WELL).read(after=Token(8, 1, 1)))


def test_a_named_node_that_has_not_the_token_says_what_it_has() -> None:
    router = Staged(BEHIND)
    with pytest.raises(TokenNotReached, match="pg2 has replayed 0/3DE: not after="):
        node_of(router.read(node="pg2", after=TOKEN))


def test_a_named_node_that_gives_nothing_is_no_reason_to_ask_another() -> None:
    router = Staged(ALL_WELL)
    router.pool("pg2").connection = None
    with pytest.raises(NodeUnavailable, match="pg2: refused"):
        node_of(router.read(node="pg2"))
    with pytest.raises(NodeUnavailable, match="there is no node pg9"):
        node_of(router.read(node="pg9"))


@pytest.mark.parametrize(
    ("make", "lost", "fault"),
    [
        (ReadOnlySqlTransaction, False, Fault.READ_ONLY),
        (psycopg.OperationalError, True, Fault.CONNECTION_LOST),
    ],
)
def test_a_telling_error_makes_the_router_ask_again(
    make: Callable[[str], Exception], lost: bool, fault: Fault
) -> None:
    router = Staged(ALL_WELL)
    connection = router.connection("pg1", writes=True)
    with pytest.raises(psycopg.Error) as raised, router.write():
        connection.status(LOST if lost else FAILED)
        raise make("refused")
    assert raised.value.__notes__ == ["pgroute: on node pg1"]
    assert connection.done == ([] if lost else ["rollback"])
    assert router.noted.faults == [("pg1", fault)]
    assert router.asked == 1


def test_an_error_of_the_statement_itself_changes_nothing() -> None:
    router = Staged(ALL_WELL)
    with pytest.raises(UniqueViolation), router.write():
        raise UniqueViolation("twice")
    assert (router.asked, router.noted.faults) == (0, [])


def test_a_block_that_outlives_its_timeout_is_cut_once() -> None:
    router = Staged(ALL_WELL)
    connection = router.connection("pg1", writes=True)
    with pytest.raises(DeadlineExceeded, match="pg1: not done within 2 s"):
        with router.write(timeout=2):
            router.time.sleep(1.9)
            router.watch(router.time.now)
            assert connection.done == []
            router.time.sleep(0.2)
            router.watch(router.time.now)
            router.watch(router.time.now)
            assert connection.done == ["cut"]
            connection.status(LOST)
            raise psycopg.OperationalError("the socket is closed")
    assert router.noted.faults == [("pg1", Fault.OVERDUE)]
    assert router.pool("pg1", writes=True).discarded == [connection]


def test_a_write_that_was_cut_is_not_committed() -> None:
    router = Staged(ALL_WELL)
    connection = router.connection("pg1", writes=True)
    with pytest.raises(DeadlineExceeded), router.write(timeout=2):
        connection.status(IN_TRANSACTION)
        router.time.sleep(2.1)
        router.watch(router.time.now)
    assert "commit" not in connection.done


def test_a_reader_on_a_node_that_stays_silent_is_cut() -> None:
    silent = (PRIMARY, Silence("pg2", "no answer within 0.3 s"), REPLICA_3)
    router = Staged(ALL_WELL, silent)
    connection = router.connection("pg2")
    with pytest.raises(NodeUnavailable, match="pg2: it is silent"):
        with router.read(node="pg2"):
            connection.status(1)  # waits for its answer
            router.play()
            assert connection.done == []
            router.time.sleep(0.31)
            router.play()
            assert connection.done == ["cut"]
            connection.status(LOST)
            raise psycopg.OperationalError("the socket is closed")
