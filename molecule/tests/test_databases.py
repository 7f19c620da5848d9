"""Database nodes: roles, what they may do, and the tables, as the inventory describes them."""

from typing import Any

import pytest

from helpers.fleet import Fleet, SqlError, Variables

testinfra_hosts = ["ansible://postgres_cluster"]

DENIED = "42501"


@pytest.fixture(scope="session")
def described(fleet: Fleet, primary: str) -> Variables:
    """The primary's variables: roles, privileges and tables are the same on every node."""
    return fleet.variables(primary)


@pytest.fixture(scope="session")
def roles(described: Variables) -> dict[str, dict[str, Any]]:
    return {role["name"]: role for role in described["databases_roles"]}


def test_every_role_has_the_attributes_described(fleet: Fleet, primary: str, roles: dict[str, dict[str, Any]]) -> None:
    found = {
        row[0]: row[1:] for row in fleet.psql(
            primary,
            "SELECT rolname, rolcanlogin, rolconnlimit, rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication"
            " FROM pg_roles",
        )
    }
    assert {name: found.get(name) for name in roles} == {
        name: ["t" if role.get("login") else "f", str(role.get("connection_limit", -1)), "f"] for name, role in roles.items()
    }


def test_every_login_role_has_a_connection_limit(fleet: Fleet, primary: str) -> None:
    assert fleet.psql(primary, "SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolconnlimit = -1 AND NOT rolsuper") == []


def test_every_role_has_the_memberships_described(fleet: Fleet, primary: str, roles: dict[str, dict[str, Any]]) -> None:
    found = fleet.psql(primary, "SELECT member::regrole, roleid::regrole FROM pg_auth_members WHERE member > 16383")
    assert sorted(row for row in found if row[0] in roles) == sorted([name, group] for name, role in roles.items() for group in role.get("member_of", []))


def test_every_role_has_the_settings_described(fleet: Fleet, primary: str, roles: dict[str, dict[str, Any]]) -> None:
    found = fleet.psql(primary, "SELECT setrole::regrole, unnest(setconfig) FROM pg_db_role_setting WHERE setdatabase = 0")
    assert sorted(row for row in found if row[0] in roles) == sorted(
        [name, f"{setting}={value}"] for name, role in roles.items() for setting, value in role.get("settings", {}).items()
    )


def test_every_password_is_a_scram_verifier(fleet: Fleet, primary: str) -> None:
    assert fleet.psql(primary, "SELECT rolname FROM pg_authid WHERE rolpassword NOT LIKE 'SCRAM-SHA-256$4096:%'") == []


def test_only_the_local_superuser_is_one(fleet: Fleet, primary: str) -> None:
    assert fleet.psql(primary, "SELECT rolname FROM pg_roles WHERE rolsuper") == [["postgres"]]


def test_the_passwords_are_those_of_the_inventory(fleet: Fleet, primary: str, described: Variables, database: str) -> None:
    for role, password in described["databases_passwords"].items():
        # On standard input: a command line would show it. Not by sudo: it logs the variables it preserves.
        script = "read -r PGPASSWORD; export PGPASSWORD; cd /; exec runuser -u nobody -- "
        answer = fleet.run(
            primary,
            ["sh", "-c", script + f"psql -w -XAtq -p {described['postgresql_port']} -U {role} -d {database} -c 'SELECT current_user'"],
            stdin=password + "\n",
        )
        assert answer.stdout.strip() == role, f"{role}: {answer.stderr.strip()}"


def test_a_wrong_password_is_refused(fleet: Fleet, primary: str, described: Variables, database: str) -> None:
    answer = fleet.node(primary).run(
        "env -C / PGPASSWORD=wrong runuser -u nobody --"
        f" psql -w -p {described['postgresql_port']} -U app_rw -d {database} -c 'SELECT 1'"
    )
    assert answer.rc != 0
    assert "password authentication failed" in answer.stderr


def test_the_exporter_reads_statistics_by_the_socket(fleet: Fleet, name: str, variables: Variables) -> None:
    users = [user for user in variables["postgresql_user_maps"] if user["role"] == "postgres_exporter"]
    for user in users:
        asked = fleet.node(name).run(
            f"env -C / sudo -u {user['system_user']} psql -w -XAtq -p {variables['postgresql_port']} -U {user['role']} -d postgres"
            " -c \"SELECT pg_has_role('pg_monitor', 'usage') AND count(*) >= 0 FROM pg_stat_statements\""
        )
        assert asked.stdout.strip() == "t", asked.stderr
    assert users


@pytest.mark.parametrize("place", ["database", "schema public"])
def test_public_has_nothing(fleet: Fleet, primary: str, database: str, place: str) -> None:
    catalog = {
        "database": "SELECT coalesce(datacl, acldefault('d', datdba)) acl FROM pg_database WHERE datname = current_database()",
        "schema public": "SELECT coalesce(nspacl, acldefault('n', nspowner)) acl FROM pg_namespace WHERE nspname = 'public'",
    }
    assert fleet.psql(primary, f"SELECT privilege_type FROM ({catalog[place]}) c, aclexplode(acl) WHERE grantee = 0", database=database) == []


def test_a_new_database_gives_public_nothing_in_its_schema(fleet: Fleet, primary: str) -> None:
    assert fleet.psql(
        primary, "SELECT privilege_type FROM pg_namespace, aclexplode(nspacl) WHERE nspname = 'public' AND grantee = 0", database="template1"
    ) == []


def test_the_writing_role_writes(fleet: Fleet, primary: str, database: str) -> None:
    written = fleet.psql(
        primary,
        "BEGIN; INSERT INTO tbl_users VALUES (gen_random_uuid(), 'verification'); UPDATE tbl_users SET first_name = 'again'"
        " WHERE first_name = 'verification' RETURNING first_name; DELETE FROM tbl_users WHERE first_name = 'again'; ROLLBACK",
        database=database, role="app_rw",
    )
    assert written == [["again"]]


def test_the_reading_role_reads(fleet: Fleet, name: str, database: str) -> None:
    assert fleet.value(name, "SELECT count(*) >= 0 FROM tbl_users", database=database, role="app_ro") == "t"


def test_the_reading_role_sees_which_timeline_a_replica_receives(fleet: Fleet, name: str, database: str) -> None:
    seen = "SELECT coalesce(bool_and(received_tli IS NOT NULL), NOT pg_is_in_recovery()) FROM pg_stat_wal_receiver"
    assert fleet.value(name, seen, database=database, role="app_ro") == "t"


@pytest.mark.parametrize("statement", [
    "INSERT INTO tbl_users VALUES (gen_random_uuid(), 'verification')",
    "UPDATE sales SET order_id = 0",
    "DELETE FROM sales",
    "TRUNCATE sales",
    "CREATE TABLE public.verification ()",
    "CREATE TEMPORARY TABLE verification ()",
])
def test_the_reading_role_changes_nothing(fleet: Fleet, primary: str, database: str, statement: str) -> None:
    with pytest.raises(SqlError) as refused:
        fleet.psql(primary, f"BEGIN; {statement}; ROLLBACK", database=database, role="app_ro")
    assert refused.value.sqlstate == DENIED


@pytest.mark.parametrize("statement", ["CREATE TABLE public.verification ()", "DROP TABLE sales", "TRUNCATE sales"])
def test_the_writing_role_changes_no_definition(fleet: Fleet, primary: str, database: str, statement: str) -> None:
    with pytest.raises(SqlError) as refused:
        fleet.psql(primary, f"BEGIN; {statement}; ROLLBACK", database=database, role="app_rw")
    assert refused.value.sqlstate == DENIED


def test_a_new_table_of_the_owner_is_shared_at_once(fleet: Fleet, primary: str, described: Variables, database: str) -> None:
    shared = fleet.psql(
        primary,
        "BEGIN; CREATE TABLE public.verification (); SELECT has_table_privilege('app_ro', 'verification', 'SELECT'),"
        " has_table_privilege('app_rw', 'verification', 'INSERT'), has_table_privilege('app_ro', 'verification', 'INSERT'); ROLLBACK",
        database=database, role=described["databases_owner"],
    )
    assert shared == [["t", "t", "f"]]


def test_a_new_function_of_the_owner_is_not_for_everyone(fleet: Fleet, primary: str, described: Variables, database: str) -> None:
    open_to_all = fleet.value(
        primary,
        "BEGIN; CREATE FUNCTION public.verification() RETURNS int RETURN 1; SELECT count(*) FROM pg_proc, aclexplode(proacl)"
        " WHERE proname = 'verification' AND grantee = 0; ROLLBACK",
        database=database, role=described["databases_owner"],
    )
    assert open_to_all == "0"


def test_the_extensions_are_there(fleet: Fleet, primary: str, described: Variables) -> None:
    for extension in described["databases_extensions"]:
        for database in extension["databases"]:
            assert fleet.psql(primary, f"SELECT 1 FROM pg_extension WHERE extname = '{extension['name']}'", database=database) == [["1"]]


def test_every_table_has_the_columns_and_the_owner_described(fleet: Fleet, primary: str, described: Variables, database: str) -> None:
    for table in described["databases_tables"]:
        wanted = ", ".join(f"('{column['name']}', '{column['type']}')" for column in table["columns"])
        found = fleet.psql(
            primary,
            "SELECT a.attname, a.atttypid = to_regtype(w.type) AND a.atttypmod = to_regtypemod(w.type), NOT a.attnotnull, relowner::regrole"
            " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
            f" LEFT JOIN (VALUES {wanted}) w (name, type)"
            f" ON w.name = a.attname WHERE c.oid = 'public.{table['name']}'::regclass ORDER BY attnum",
            database=database,
        )
        key = table.get("primary_key", [])
        assert found == [
            [column["name"], "t", "t" if column.get("nullable", True) and column["name"] not in key else "f", described["databases_owner"]]
            for column in table["columns"]
        ]


def test_every_table_has_the_partitions_described(fleet: Fleet, primary: str, described: Variables, database: str) -> None:
    for table in described["databases_tables"]:
        by, name = table["partition_by"], table["name"]
        if by["method"] == "hash":
            wanted = {f"{name}_p{number}": f"FOR VALUES WITH (modulus {by['modulus']}, remainder {number})" for number in range(by["modulus"])}
        else:
            years = range(int(by["first_year"]), int(by["last_year"]) + 1)
            wanted = {f"{name}_{year}": f"FOR VALUES FROM ('{year}-01-01') TO ('{year + 1}-01-01')" for year in years}
        found = dict(fleet.psql(
            primary,
            "SELECT relname, pg_get_expr(relpartbound, oid) FROM pg_class JOIN pg_inherits ON inhrelid = oid"
            f" WHERE inhparent = 'public.{name}'::regclass",
            database=database,
        ))
        assert found == wanted


def test_no_verifier_is_in_the_log(fleet: Fleet, name: str) -> None:
    directory = fleet.value(name, "SHOW log_directory")
    # A whole verifier: a statement of these tests that looks for one may have been logged for taking long.
    found = fleet.node(name).run(f"grep -rlE 'SCRAM-SHA-256[$][0-9]+:[A-Za-z0-9+/=]{{8,}}[$]' {directory}")
    assert (found.rc, found.stdout) == (1, "")


def test_no_verifier_is_in_the_statistics(fleet: Fleet, name: str) -> None:
    assert fleet.psql(name, "SELECT queryid FROM pg_stat_statements WHERE query LIKE '%SCRAM-SHA-256$4%'") == []
