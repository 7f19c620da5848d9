"""Database nodes: every replica follows the primary, on its own slot and the primary's timeline."""

from helpers.fleet import Fleet, Variables, eventually

testinfra_hosts = ["ansible://postgres_cluster"]


def slots(fleet: Fleet, name: str) -> dict[str, str]:
    return {row[0]: row[1] for row in fleet.psql(name, "SELECT slot_name, active FROM pg_replication_slots")}


def test_every_node_but_the_primary_is_a_replica(fleet: Fleet, primary: str, replicas: list[str]) -> None:
    assert sorted([primary, *replicas]) == sorted(fleet.group("postgres_cluster"))


def test_each_replica_streams_through_its_own_slot(fleet: Fleet, primary: str, replicas: list[str]) -> None:
    wanted = {name: fleet.variables(primary)["topology_slots"][name] for name in replicas}

    def streaming() -> dict[str, str]:
        return dict(fleet.psql(
            primary,
            "SELECT r.application_name, s.slot_name FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid"
            " WHERE r.state = 'streaming' AND s.slot_type = 'physical'",
        ))
    eventually(lambda: streaming() == wanted, seconds=60, what=f"streaming: {wanted}")


def test_each_replica_is_on_the_timeline_of_the_primary(fleet: Fleet, primary: str, replicas: list[str]) -> None:
    timeline = fleet.value(primary, "SELECT timeline_id FROM pg_control_checkpoint()")
    assert {name: fleet.value(name, "SELECT received_tli FROM pg_stat_wal_receiver") for name in replicas} == dict.fromkeys(replicas, timeline)


def test_every_node_holds_the_same_cluster(fleet: Fleet) -> None:
    found = {name: fleet.value(name, "SELECT system_identifier FROM pg_control_system()") for name in fleet.group("postgres_cluster")}
    assert len(set(found.values())) == 1, found


def test_the_primary_keeps_the_wal_of_every_slot(fleet: Fleet, primary: str) -> None:
    assert fleet.psql(primary, "SELECT slot_name, wal_status FROM pg_replication_slots WHERE wal_status NOT IN ('reserved', 'extended')") == []


def test_no_slot_is_without_a_node(fleet: Fleet, primary: str, replicas: list[str]) -> None:
    assert set(slots(fleet, primary)) == {fleet.variables(primary)["topology_slots"][name] for name in replicas}


def test_no_replica_keeps_wal_for_nobody(fleet: Fleet, replicas: list[str]) -> None:
    assert {name: unused for name in replicas if (unused := [slot for slot, active in slots(fleet, name).items() if active == "f"])} == {}


def test_the_connection_to_the_primary_holds_no_password(fleet: Fleet, name: str) -> None:
    conninfo = fleet.value(name, "SHOW primary_conninfo") if name in fleet.replicas else ""
    assert "password=" not in conninfo


def test_the_passfile_is_for_its_owner_only(fleet: Fleet, name: str) -> None:
    for replica in fleet.replicas:
        path = fleet.value(replica, "SELECT substring(current_setting('primary_conninfo') from 'passfile=''([^'']+)''')")
        file = fleet.node(name).file(path)
        assert (file.user, file.mode) == ("postgres", 0o600), path


def test_the_replication_role_may_do_nothing_else(fleet: Fleet, primary: str, variables: Variables) -> None:
    role = fleet.psql(
        primary,
        "SELECT rolcanlogin, rolreplication, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls,"
        " rolpassword LIKE 'SCRAM-SHA-256$%', rolconnlimit > 0"
        f" FROM pg_authid WHERE rolname = '{variables['replication_user']}'",
    )
    assert role == [["t", "t", "f", "f", "f", "f", "t", "t"]]


def test_no_interrupted_copy_is_left(fleet: Fleet, name: str) -> None:
    directory = fleet.value(name, "SHOW data_directory")
    assert not fleet.node(name).file(f"{directory}.new").exists
