"""What is tried again, where, and what is not: the retry table, followed by the router."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import psycopg
import pytest
from psycopg import errors, sql

from pgroute import (
    AsyncRouter,
    CommitUnknown,
    DeadlineExceeded,
    Reason,
    Settings,
    Token,
    UnknownContract,
)
from pgroute import Router as ThreadsRouter
from pgroute.core.topology import Answer, Silence
from pgroute.observing.observer import Doubt, Fault
from pgroute.routing.commit import Commit
from pgroute.routing.connections import OwnCommit
from pgroute.statements import Route as Lane
from pgroute.statements import Statements, text_of

from .staged import (
    ACTIVE,
    ALL_WELL,
    FAILED,
    IN_TRANSACTION,
    LOST,
    PRIMARY,
    REPLICA_2,
    Connection,
    Staged,
)

READ = "select 1"
WRITE = "insert"


class Router(Staged):
    """Knows which statements read."""

    idle = False  # a connection for statements that commit by themselves is at hand

    def __init__(self, *rounds: Any, **options: Any) -> None:
        super().__init__(*rounds, **options)
        if self.idle:
            self.make_idle("pg1", autocommit=True)

    def lane(self, sql: object) -> Lane:
        return Lane.REPLICA if text_of(sql) == READ else Lane.PRIMARY


@pytest.fixture(autouse=True, params=[False, True], ids=["looked for", "at once"])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The same must hold however the connection was found."""
    monkeypatch.setattr(Router, "idle", request.param)
    return bool(request.param)


def lost(connection: Connection) -> psycopg.OperationalError:
    connection.status(LOST)
    return psycopg.OperationalError("the server closed the connection")


def fail(router: Staged, error: Callable[[Connection], Exception] | type[Exception]) -> None:
    """Let the first statement of each replica fail."""
    for name in ("pg2", "pg3"):
        connection = router.connection(name)
        if isinstance(error, type):
            connection.answers.append(error("refused"))
        else:
            break_it(connection, error)


def break_it(connection: Connection, error: Callable[[Connection], Exception]) -> None:
    execute = connection.execute

    def broken(sql: str, *_: Any, **__: Any) -> Any:
        connection.execute = execute  # type: ignore[method-assign]
        connection.done.append(sql)
        raise error(connection)

    connection.execute = broken  # type: ignore[method-assign]


def test_a_read_goes_to_a_replica_and_a_write_to_the_primary() -> None:
    router = Router(ALL_WELL)
    assert router.execute(READ).node in ("pg2", "pg3")
    assert router.execute(WRITE).node == "pg1"
    assert [reason for _, _, reason in router.noted.routes] == [Reason.READ, Reason.STATEMENT]


def test_a_write_takes_what_is_idle(at_once: bool) -> None:
    router = Router(ALL_WELL)
    pool = router.pool("pg1", writes=True)
    pool.trouble = AssertionError("nobody needs to look for a connection")
    if at_once:
        assert router.execute(WRITE).node == "pg1"
        assert pool.in_flight == {}
        assert list(pool.idle) == [pool.connection]
    else:
        with pytest.raises(AssertionError, match="nobody"):
            router.execute(WRITE)


def test_a_token_stands_for_a_statement_too() -> None:
    router = Router(ALL_WELL)
    router.execute(WRITE)
    mark = router._last_write.get()
    assert mark is not None
    assert (mark.node, mark.timeline) == ("pg1", 1)


def test_a_statement_that_leaves_a_transaction_and_fails_is_rolled_back() -> None:
    router = Router(ALL_WELL)
    connection = router.connection("pg1", writes=True)

    def begun(one: Connection) -> Exception:
        one.status(IN_TRANSACTION)
        return ZeroDivisionError()

    break_it(connection, begun)
    with pytest.raises(ZeroDivisionError):
        router.execute(WRITE)
    assert connection.done == [WRITE, "rollback"]


def test_a_read_whose_connection_was_lost_goes_on_elsewhere() -> None:
    router = Router(ALL_WELL)
    fail(router, lost)
    assert router.execute(READ).node == "pg1"
    assert {node for node, _ in router.noted.retries} == {"pg2", "pg3"}
    assert {action for _, action in router.noted.retries} == {"next_node"}


def test_a_read_that_goes_on_elsewhere_keeps_to_its_token() -> None:
    behind = Answer("pg3", True, 1, 7, 999, True)
    for _ in range(2):  # whosever turn it is
        router = Router((PRIMARY, REPLICA_2, behind))
        fail(router, lost)
        assert router.execute(READ, after=Token(7, 1, 1000)).node == "pg1"
        assert {node for node, _ in router.noted.retries} == {"pg2"}
        assert Reason.TOKEN_NOT_REACHED in {reason for _, _, reason in router.noted.routes}


def test_a_recovery_conflict_goes_on_elsewhere() -> None:
    router = Router(ALL_WELL)
    router.connection("pg2").answers.append(errors.SerializationFailure("conflict with recovery"))
    router.connection("pg3").answers.append(errors.SerializationFailure("conflict with recovery"))
    assert router.execute(READ).node == "pg1"


def test_a_read_that_the_server_knows_for_a_write_goes_to_the_primary_once_for_all() -> None:
    router = Router(ALL_WELL)
    fail(router, errors.ReadOnlySqlTransaction)
    assert router.execute(READ).node == "pg1"
    assert router.noted.misroutes
    assert router.statements.route(READ) is Lane.PRIMARY
    assert router.noted.routes[-1][2] is Reason.STATEMENT


@pytest.mark.parametrize("read", [READ.encode(), sql.SQL(READ)])
def test_a_statement_that_is_no_str_is_remembered_too(read: bytes | sql.SQL) -> None:
    router = Router(ALL_WELL)
    fail(router, errors.ReadOnlySqlTransaction)
    assert router.execute(read).node == "pg1"
    assert router.noted.misroutes
    assert router.statements.route_of(read) is Lane.PRIMARY
    assert router.statements.decide(READ).reason == "a replica has refused it before"


class Knowing(Statements):
    """Knows one read."""

    def __init__(self) -> None:
        super().__init__()
        self.route = lambda text: Lane.REPLICA if text == READ else Lane.PRIMARY


@pytest.mark.parametrize("front", [ThreadsRouter, AsyncRouter])
def test_both_fronts_know_a_read_that_is_no_str(
    front: type[ThreadsRouter | AsyncRouter],
) -> None:
    settings = Settings.make(nodes="pg1=h:1", database="app", write_user="app")
    router = front(settings, statements=Knowing())
    for read in (READ, READ.encode(), sql.SQL(READ), sql.SQL("select {}").format(sql.SQL("1"))):
        assert router.lane(read) is Lane.REPLICA
    for write in (WRITE, WRITE.encode(), sql.SQL(WRITE), None):
        assert router.lane(write) is Lane.PRIMARY


def without_retries(router: Staged) -> None:
    while router.retry_budget.try_take(0):
        pass


def test_what_a_replica_refuses_needs_no_budget_to_be_run_where_it_belongs() -> None:
    router = Router(ALL_WELL, retry_share=0)
    without_retries(router)
    fail(router, errors.ReadOnlySqlTransaction)
    assert router.execute(READ).node == "pg1"
    assert router.statements.route(READ) is Lane.PRIMARY


def test_what_a_replica_refuses_too_late_to_run_again_is_remembered() -> None:
    router = Router(ALL_WELL)

    def late(_: Connection) -> Exception:
        router.time.sleep(2)
        return errors.ReadOnlySqlTransaction("refused")

    fail(router, late)
    with pytest.raises(errors.ReadOnlySqlTransaction):
        router.execute(READ, timeout=1)
    assert router.statements.route(READ) is Lane.PRIMARY
    assert len(router.noted.misroutes) == 1


def test_a_stale_plan_needs_no_budget() -> None:
    router = Router(ALL_WELL, retry_share=0)
    without_retries(router)
    stale = errors.FeatureNotSupported("cached plan must not change result type")
    router.connection("pg1", writes=True).answers.append(stale)
    assert router.execute(WRITE).node == "pg1"


@pytest.mark.parametrize(
    "error", [errors.UndefinedTable, errors.QueryCanceled, errors.InsufficientPrivilege]
)
def test_a_wrong_statement_is_not_tried_again(error: type[Exception]) -> None:
    router = Router(ALL_WELL)
    fail(router, error)
    with pytest.raises(error) as raised:
        router.execute(READ)
    assert router.noted.retries == []
    assert raised.value.__notes__[0].startswith("pgroute: on node pg")


def test_a_write_whose_connection_was_lost_is_in_doubt() -> None:
    router = Router(ALL_WELL)
    break_it(router.connection("pg1", writes=True), lost)
    with pytest.raises(CommitUnknown, match="pg1") as raised:
        router.execute(WRITE)
    assert isinstance(raised.value.__cause__, psycopg.OperationalError)
    assert router.noted.retries == []


def test_a_write_that_may_happen_twice_is_sent_again() -> None:
    router = Router(ALL_WELL)
    break_it(router.connection("pg1", writes=True), lost)
    assert router.execute(WRITE, idempotent=True).node == "pg1"
    assert router.noted.retries == [("pg1", "rediscover")]


def test_a_deadlock_on_the_primary_is_tried_again() -> None:
    router = Router(ALL_WELL)
    router.connection("pg1", writes=True).answers.append(errors.DeadlockDetected("deadlock"))
    assert router.execute(WRITE).node == "pg1"


def test_a_stale_plan_is_run_once_more_without_it() -> None:
    router = Router(ALL_WELL)
    connection = router.connection("pg1", writes=True)
    stale = errors.FeatureNotSupported("cached plan must not change result type")
    connection.answers.append(stale)
    assert router.execute(WRITE).node == "pg1"
    connection.answers.extend([stale, stale])
    with pytest.raises(errors.FeatureNotSupported):
        router.execute(WRITE)
    # What is prepared on the connection would be met by its next user.
    assert len(router.pool("pg1", writes=True).discarded) == 3


def test_retries_end_at_the_deadline() -> None:
    router = Router(ALL_WELL)
    endless = [errors.DeadlockDetected("deadlock") for _ in range(10_000)]
    router.connection("pg1", writes=True).answers.extend(endless)
    started = router.time.now
    with pytest.raises(errors.DeadlockDetected):
        router.execute(WRITE, timeout=0.1)
    assert router.time.now - started < 0.2


def test_retries_end_with_their_budget() -> None:
    router = Router(ALL_WELL, retry_share=0)
    endless = [errors.DeadlockDetected("deadlock") for _ in range(10_000)]
    router.connection("pg1", writes=True).answers.extend(endless)
    with pytest.raises(errors.DeadlockDetected):
        router.execute(WRITE, timeout=3600)
    assert len(router.noted.retries) == 10  # the reserve of a program with little traffic


def test_words_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UnknownContract):
        Router(ALL_WELL).execute(READ, contract="now")


# Transactions


def begin(connection: Any) -> str:
    connection.status(IN_TRANSACTION)
    connection.execute(WRITE)
    return "done"


def test_a_transaction_commits_and_gives_its_value() -> None:
    router = Router(ALL_WELL)
    connection = router.connection("pg1", writes=True)
    assert router.transaction(begin) == "done"
    assert connection.done[-1] == "commit"


@pytest.mark.parametrize(
    "error", [errors.SerializationFailure, errors.DeadlockDetected, errors.ReadOnlySqlTransaction]
)
def test_a_transaction_that_was_rolled_back_is_run_again_as_a_whole(
    error: type[Exception],
) -> None:
    router = Router(ALL_WELL)
    runs: list[Any] = []

    def work(given: Any) -> int:
        runs.append(given)
        given.status(IN_TRANSACTION)
        if len(runs) < 3:
            given.status(FAILED)
            raise error("again")
        return len(runs)

    assert router.transaction(work) == 3
    assert sum(connection.done.count("rollback") for connection in set(runs)) == 2
    assert {action for _, action in router.noted.retries} == {"rerun"}
    # A connection that refuses writes is not asked again.
    refuses = error is errors.ReadOnlySqlTransaction
    assert len(router.pool("pg1", writes=True).discarded) == (2 if refuses else 0)


def test_a_transaction_that_fails_to_commit_is_run_again() -> None:
    router = Router(ALL_WELL)
    connection = router.connection("pg1", writes=True)

    def refuse(_: Commit) -> None:
        connection.on_commit = None
        connection.status(0)
        raise errors.SerializationFailure("at commit")

    connection.on_commit = refuse
    assert router.transaction(begin) == "done"
    assert connection.done.count(WRITE) == 2


def test_the_caller_s_own_error_ends_a_transaction() -> None:
    router = Router(ALL_WELL)

    def work(given: Any) -> None:
        given.status(IN_TRANSACTION)
        raise KeyError("mine")

    with pytest.raises(KeyError):
        router.transaction(work)
    assert router.noted.retries == []
    assert "rollback" in router.connection("pg1", writes=True).done


def test_a_read_only_transaction_runs_on_a_replica_and_moves_on() -> None:
    router = Router(ALL_WELL)
    nodes = []

    def work(given: Any) -> str:
        nodes.append(given.node)
        if len(nodes) == 1:
            given.status(FAILED)
            raise errors.SerializationFailure("conflict with recovery")
        return str(given.node)

    assert router.transaction(work, read_only=True) in ("pg2", "pg3")
    assert sorted(nodes) == ["pg2", "pg3"]


# COMMIT in doubt


def in_doubt(router: Staged, number: int | None, *, known: bool = True) -> None:
    """Let the connection be lost at the next COMMIT, the transaction's number told or not."""
    connection = router.connection("pg1", writes=True)

    def lose(commit: Commit) -> None:
        commit.number, commit.number_known = number, known
        raise lost(connection)

    connection.on_commit = lose


def test_a_commit_that_is_known_to_have_happened_is_no_error() -> None:
    router = Router(ALL_WELL)
    in_doubt(router, 740)
    router.connection("pg1").answers.append([("committed",)])
    with router.write() as connection:
        connection.status(IN_TRANSACTION)  # type: ignore[attr-defined]
    assert router.noted.doubts == [Doubt.COMMITTED]


def test_a_read_only_commit_that_is_lost_is_no_doubt() -> None:
    router = Router(ALL_WELL)
    for name in ("pg2", "pg3"):
        connection = router.connection(name)

        def lose(_: Commit, connection: Connection = connection) -> None:
            raise lost(connection)

        connection.on_commit = lose
    assert router.transaction(begin, read_only=True) == "done"
    assert router.noted.doubts == []
    assert {action for _, action in router.noted.retries} == {"rerun"}


def test_a_commit_of_the_caller_s_own_that_is_lost_is_a_fault_and_a_doubt() -> None:
    router = Router(ALL_WELL)
    router.make_idle("pg1", autocommit=False)
    writing = router.write()
    connection = cast(Any, writing.__enter__())
    connection.own_commit = OwnCommit.SENT
    with pytest.raises(CommitUnknown, match="pg1"):
        writing.__exit__(None, lost(connection), None)
    assert router.noted.doubts == [Doubt.UNKNOWN]
    assert router.noted.faults == [("pg1", Fault.CONNECTION_LOST)]


def test_a_commit_is_waited_for_while_it_is_in_progress() -> None:
    router = Router(ALL_WELL)
    in_doubt(router, 740)
    router.connection("pg1").answers.extend([[("in progress",)], [("committed",)]])
    with router.write() as connection:
        connection.status(IN_TRANSACTION)  # type: ignore[attr-defined]
    assert router.noted.doubts == [Doubt.COMMITTED]


@pytest.mark.parametrize(
    ("number", "answers"), [(None, []), (740, [[(None,)]])], ids=["no number", "forgotten"]
)
def test_a_commit_that_nobody_knows_of_is_said_to_be_unknown(
    number: int | None, answers: list[Any]
) -> None:
    router = Router(ALL_WELL)
    in_doubt(router, number, known=number is not None)
    router.connection("pg1").answers.extend(answers)
    with pytest.raises(CommitUnknown) as raised, router.write() as connection:
        connection.status(IN_TRANSACTION)  # type: ignore[attr-defined]
    assert (raised.value.node, raised.value.transaction_id) == ("pg1", number)
    assert router.noted.doubts == [Doubt.UNKNOWN]


def test_a_commit_on_a_primary_that_was_replaced_is_unknown() -> None:
    router = Router(ALL_WELL)
    in_doubt(router, 740)
    promoted = (Silence("pg1", "gone"), Answer("pg2", False, 2, 7, 1010, False))
    with pytest.raises(CommitUnknown), router.write() as connection:  # noqa: PT012
        connection.status(IN_TRANSACTION)  # type: ignore[attr-defined]
        router.rounds = [promoted]
        in_doubt(router, 740)
        router.pool("pg1", writes=True).everyone = lambda *_, **__: []  # type: ignore[method-assign]
        router.play()


def test_a_transaction_that_changed_nothing_cannot_be_lost() -> None:
    router = Router(ALL_WELL)
    in_doubt(router, None)
    with router.write() as connection:
        connection.status(IN_TRANSACTION)  # type: ignore[attr-defined]
    assert router.noted.doubts == []


def test_a_transaction_whose_commit_did_not_happen_is_run_again() -> None:
    router = Router(ALL_WELL)
    in_doubt(router, 740)
    router.connection("pg1").answers.append([("aborted",)])
    assert router.transaction(begin) == "done"
    assert router.noted.doubts == [Doubt.ROLLED_BACK]
    assert router.noted.retries == [("pg1", "rerun")]


def test_a_statement_past_its_deadline_is_not_tried_elsewhere() -> None:
    router = Router(ALL_WELL)

    def slow(connection: Connection) -> Exception:
        router.time.sleep(2)
        router.watch(router.time.now)
        return lost(connection)

    fail(router, slow)
    with pytest.raises(DeadlineExceeded, match="not done within 1 s"):
        router.execute(READ, timeout=1)
    assert len(router.noted.routes) == 1


def test_a_statement_cut_for_its_node_s_silence_goes_on_elsewhere() -> None:
    router = Router(ALL_WELL)

    def silent(connection: Connection) -> Exception:
        connection.status(ACTIVE)
        router.cut_reads(connection.node)
        return lost(connection)

    for name in ("pg2", "pg3"):  # the first attempt is on the fast path
        connection = router.connection(name)
        break_it(connection, silent)
        router.pool(name).idle.append(connection)
    assert router.execute(READ).node == "pg1"
    assert {action for _, action in router.noted.retries} == {"next_node"}


def test_a_lone_primary_serves_its_reads_itself() -> None:
    router = Router((PRIMARY,))
    assert router.execute(READ).node == "pg1"
