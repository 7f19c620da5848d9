"""The database nodes together: what the primary takes, the replicas show, and every row lands where it belongs."""

import uuid
from collections.abc import Iterator

import pytest

from helpers.fleet import Fleet, SqlError, eventually

# How long a replica may take to replay a commit, on a busy machine too.
CATCH_UP_SECONDS = 120

# A name that no user of the demo or of a load has, so that rows of these tests are found and removed.
MARK = "pgfleet-verification"


@pytest.fixture(scope="module")
def users(fleet: Fleet, primary: str, database: str) -> Iterator[list[str]]:
    """Keys of 64 users written to the primary in one transaction, gone again afterwards."""
    keys = [str(uuid.uuid4()) for _ in range(64)]
    rows = ", ".join(f"('{key}', '{MARK}')" for key in keys)
    fleet.psql(primary, f"INSERT INTO tbl_users (id, first_name) VALUES {rows}", database=database)
    yield keys
    fleet.psql(primary, f"DELETE FROM tbl_users WHERE first_name = '{MARK}'", database=database)


@pytest.fixture(scope="module")
def sales(fleet: Fleet, primary: str, database: str) -> Iterator[dict[int, int]]:
    """{year: order} of one sale a year, for every year that has a partition, gone again afterwards."""
    years = sorted(int(name.rpartition("_")[2]) for name in leaves(fleet, primary, database, "sales") if name[-4:].isdigit())
    orders = {year: -year for year in years}
    rows = ", ".join(f"({order}, DATE '{year}-12-31', 1)" for year, order in orders.items())
    fleet.psql(primary, f"INSERT INTO sales (order_id, order_date, order_amount) VALUES {rows}", database=database)
    yield orders
    fleet.psql(primary, f"DELETE FROM sales WHERE order_id IN ({', '.join(map(str, orders.values()))})", database=database)


def leaves(fleet: Fleet, node: str, database: str, table: str) -> list[str]:
    rows = fleet.psql(node, f"SELECT relid::regclass FROM pg_partition_tree('{table}') WHERE isleaf ORDER BY 1", database=database)
    return [row[0] for row in rows]


def wait_for(fleet: Fleet, primary: str, replica: str) -> None:
    """Until the replica has replayed everything that the primary has written."""
    written = fleet.value(primary, "SELECT pg_current_wal_insert_lsn()")
    eventually(
        lambda: fleet.value(replica, f"SELECT pg_last_wal_replay_lsn() >= '{written}'") == "t",
        seconds=CATCH_UP_SECONDS, what=f"{replica} replays up to {written}",
    )


def test_a_row_written_on_the_primary_is_readable_on_every_replica(
    fleet: Fleet, primary: str, replicas: list[str], database: str, users: list[str]
) -> None:
    assert replicas
    for replica in replicas:
        wait_for(fleet, primary, replica)
        found = fleet.psql(replica, f"SELECT id FROM tbl_users WHERE first_name = '{MARK}'", database=database)
        assert sorted(row[0] for row in found) == sorted(users), replica


def test_a_replica_refuses_writes(fleet: Fleet, replicas: list[str], database: str) -> None:
    assert replicas
    for replica in replicas:
        with pytest.raises(SqlError) as refused:
            fleet.psql(replica, f"INSERT INTO tbl_users (id, first_name) VALUES (gen_random_uuid(), '{MARK}')", database=database)
        assert refused.value.sqlstate == "25006", replica


def test_every_node_holds_the_same_rows(fleet: Fleet, primary: str, replicas: list[str], database: str, users: list[str]) -> None:
    # Order does not matter to the sum of the rows' hashes; a write between two answers is asked about again.
    digest = "SELECT count(*), coalesce(sum(hashtextextended(u::text, 0)::numeric), 0) FROM tbl_users u"
    for replica in replicas:
        def same(replica: str = replica) -> bool:
            before = fleet.psql(primary, digest, database=database)
            wait_for(fleet, primary, replica)
            return before == fleet.psql(replica, digest, database=database)
        eventually(same, seconds=CATCH_UP_SECONDS, what=f"{replica} holds the rows of {primary}")


def test_a_user_lands_in_the_partition_that_its_hash_names(fleet: Fleet, primary: str, database: str, users: list[str]) -> None:
    found = fleet.psql(
        primary,
        "SELECT tableoid::regclass, substring(tableoid::regclass::text from '[0-9]+$')::int,"
        " array_to_string(ARRAY(SELECT r FROM generate_series(0, 3) r"
        " WHERE satisfies_hash_partition('tbl_users'::regclass, 4, r, id)), ',')"
        f" FROM tbl_users WHERE first_name = '{MARK}'",
        database=database,
    )
    assert len(found) == len(users)
    assert [row for row in found if row[0] != f"tbl_users_p{row[2]}" or row[1] != row[2]] == []


def test_users_are_spread_over_every_partition(fleet: Fleet, primary: str, database: str, users: list[str]) -> None:
    # 64 random keys over four partitions: none stays empty but once in ten million times.
    found = fleet.psql(primary, f"SELECT DISTINCT tableoid::regclass FROM tbl_users WHERE first_name = '{MARK}' ORDER BY 1", database=database)
    assert [row[0] for row in found] == [f"tbl_users_p{number}" for number in range(4)]


def test_a_lookup_by_key_reads_one_partition(fleet: Fleet, primary: str, database: str, users: list[str]) -> None:
    home = fleet.value(primary, f"SELECT tableoid::regclass FROM tbl_users WHERE id = '{users[0]}'", database=database)
    assert scanned(fleet, primary, database, f"SELECT * FROM tbl_users WHERE id = '{users[0]}'") == {home}


def test_a_query_for_one_year_reads_one_partition(fleet: Fleet, primary: str, database: str, sales: dict[int, int]) -> None:
    year = min(sales)
    query = f"SELECT sum(order_amount) FROM sales WHERE order_date >= '{year}-01-01' AND order_date < '{year + 1}-01-01'"
    home = fleet.value(primary, f"SELECT tableoid::regclass FROM sales WHERE order_id = {sales[year]}", database=database)
    assert scanned(fleet, primary, database, query) == {home}


def scanned(fleet: Fleet, node: str, database: str, query: str) -> set[str]:
    """The tables that the plan of a query touches."""
    plan = fleet.psql(node, f"EXPLAIN (COSTS OFF) {query}", database=database)
    tables = set(leaves(fleet, node, database, "tbl_users") + leaves(fleet, node, database, "sales"))
    return {word for row in plan for word in row[0].split() if word in tables}


def test_a_sale_lands_in_the_partition_of_its_year(fleet: Fleet, primary: str, database: str, sales: dict[int, int]) -> None:
    bounds = {
        row[0]: row[1]
        for row in fleet.psql(
            primary,
            "SELECT c.oid::regclass, pg_get_expr(c.relpartbound, c.oid) FROM pg_partition_tree('sales') t JOIN pg_class c ON c.oid = t.relid WHERE t.isleaf",
            database=database,
        )
    }
    for year, order in sales.items():
        home = fleet.value(primary, f"SELECT tableoid::regclass FROM sales WHERE order_id = {order}", database=database)
        assert bounds[home] == f"FOR VALUES FROM ('{year}-01-01') TO ('{year + 1}-01-01')"


def test_there_is_a_partition_for_every_year_from_2023_to_the_year_after_next(fleet: Fleet, primary: str, sales: dict[int, int]) -> None:
    this_year = int(fleet.value(primary, "SELECT extract(year FROM now())::int"))
    assert sorted(sales) == list(range(2023, this_year + 3))


def test_a_sale_outside_every_year_is_refused(fleet: Fleet, primary: str, database: str) -> None:
    with pytest.raises(SqlError) as refused:
        fleet.psql(primary, "BEGIN; INSERT INTO sales VALUES (-1, DATE '1999-12-31', 1); ROLLBACK", database=database)
    assert refused.value.sqlstate == "23514"
