"""The decision table, row by row: what the database nodes said, and what a run may do then."""

from typing import Any

import pytest

from helpers.plugins import load_plugin

state = load_plugin("filter/cluster_state.py")

NAMES = ["pg1", "pg2", "pg3"]
OURS, THEIRS = "7700000000000000001", "7700000000000000099"


def empty(kind: str = "empty") -> dict[str, Any]:
    return {"reachable": True, "problems": [], "data_directory": "/var/lib/postgresql/17/main", "data_directory_state": kind,
            "control": {}, "server": {}, "server_error": "", "signals": [], "running": False, "pid": None}


def stopped(*, timeline: int = 1, end: str = "0/5000000", replica: bool = False, identifier: str = OURS,
            recovered: str = "0/0", history: list[Any] | None = None) -> dict[str, Any]:
    return empty("cluster") | {
        "control": {"system_identifier": identifier, "checkpoint_lsn": "0/4000028", "checkpoint_timeline": timeline,
                    "minimum_recovery_lsn": recovered, "state": "shut down"},
        "signals": ["standby.signal"] if replica else [], "timeline": timeline, "wal_end_lsn": end,
        "history": history or [],
    }


def running(*, writable: bool, timeline: int = 1, lsn: str = "0/5000100", identifier: str = OURS,
            history: list[Any] | None = None) -> dict[str, Any]:
    return stopped(timeline=timeline, replica=not writable, identifier=identifier, history=history) | {
        "running": True, "pid": 42,
        "server": {"in_recovery": not writable, "system_identifier": identifier, "timeline": timeline, "lsn": lsn, "receive_lsn": None},
    }


PRIMARY, REPLICA = running(writable=True), running(writable=False)
SILENT = {"reachable": False, "problems": ["pg2 does not answer over SSH."]}


def decide(*nodes: dict[str, Any], declared: str = "pg1", making: list[str] | None = None) -> dict[str, Any]:
    return dict(state.decide(dict(zip(NAMES, nodes, strict=True)), NAMES, declared, NAMES if making is None else making))


def assert_stops(decision: dict[str, Any], *words: str) -> None:
    assert decision["action"] == "stop"
    assert decision["primary"] is None
    for word in words:
        assert word in decision["message"]


@pytest.mark.parametrize("kind", ["absent", "empty", "incomplete", "foreign"])
def test_nothing_initialised_anywhere_bootstraps(kind: str) -> None:
    assert decide(empty(kind), empty(), empty("absent")) == {"action": "bootstrap", "primary": None, "notices": []}


def test_data_that_is_missing_is_not_replaced_by_an_empty_cluster() -> None:
    left = "/etc/postgresql/17/main/conf.d/20-replication.conf"
    unmounted = {**empty(), "left_behind": left}
    assert_stops(decide(unmounted, {**empty(), "left_behind": ""}, empty()), "pg1 did", "mounted?", f"sudo rm -f {left}")
    assert decide(PRIMARY, REPLICA, unmounted)["action"] == "converge"


@pytest.mark.parametrize("kind", ["absent", "empty", "incomplete"])
def test_a_recorded_primary_is_not_started_while_the_data_of_another_node_is_missing(kind: str) -> None:
    left = "/etc/postgresql/17/main/conf.d/20-replication.conf"
    promoted = {**empty(kind), "left_behind": left}
    assert_stops(decide(stopped(), promoted, stopped(replica=True)), "pg1 was primary last", "pg2 holds no data, but did",
                 "/var/lib/postgresql/17/main", "mounted?", f"type on pg2: sudo rm -f {left}")


def test_a_promotion_is_not_advised_without_a_word_on_missing_data() -> None:
    left = "/etc/postgresql/17/main/conf.d/20-replication.conf"
    assert_stops(decide({**empty(), "left_behind": left}, REPLICA, REPLICA), "pg_promote", "pg1 holds no data, but did", "mounted?")


def test_one_writable_node_is_converged_around() -> None:
    assert decide(PRIMARY, REPLICA, REPLICA) == {"action": "converge", "primary": "pg1", "notices": []}


def test_an_actual_primary_that_is_not_the_declared_one_is_kept_and_told() -> None:
    decision = decide(REPLICA, PRIMARY, REPLICA)
    assert (decision["action"], decision["primary"]) == ("converge", "pg2")
    assert "names pg1" in decision["notices"][0]
    assert "around pg2" in decision["notices"][0]


@pytest.mark.parametrize("kind", ["absent", "empty", "incomplete", "foreign"])
def test_a_node_without_data_beside_a_running_cluster_will_be_cloned(kind: str) -> None:
    assert decide(PRIMARY, REPLICA, empty(kind))["action"] == "converge"


MARKER = "/etc/postgresql/17/main/pgfleet-data"


@pytest.mark.parametrize("kind", ["absent", "empty"])
def test_a_node_that_held_data_is_not_cloned_again(kind: str) -> None:
    assert_stops(decide(PRIMARY, REPLICA, {**empty(kind), "data_marker": MARKER}),
                 "pg3 holds no data, but did", "/var/lib/postgresql/17/main", "mounted?", f"type on pg3: sudo rm {MARKER}")


@pytest.mark.parametrize("making", [[], ["pg1", "pg2"]])
@pytest.mark.parametrize("unfit", [{"data_marker": MARKER}, {"is_mount_point": True}, {"free_bytes": {"/var/lib/postgresql/17/main": 1}}])
def test_a_run_that_makes_no_data_on_a_node_goes_on_beside_it(unfit: dict[str, Any], making: list[str]) -> None:
    nodes = PRIMARY | {"database_bytes": 2}, REPLICA, {**empty(), **unfit}
    assert decide(*nodes)["action"] == "stop"
    assert decide(*nodes, making=making)["action"] == "converge"


def test_no_data_directory_is_renamed_onto_a_mount_point() -> None:
    mounted = {**empty(), "is_mount_point": True}
    for nodes in ((PRIMARY, REPLICA, mounted), (empty(), empty(), mounted)):
        assert_stops(decide(*nodes), "pg3: /var/lib/postgresql/17/main is itself a mount point", "mount that disk on /var/lib/postgresql/17 instead")
    assert decide(PRIMARY, REPLICA, {**REPLICA, "is_mount_point": True})["action"] == "converge"


def test_a_damaged_directory_is_set_aside_and_cloned_also_where_data_was() -> None:
    assert decide(PRIMARY, REPLICA, {**empty("incomplete"), "data_marker": MARKER})["action"] == "converge"


def test_a_marker_alone_keeps_an_empty_cluster_from_being_made() -> None:
    assert_stops(decide({**empty(), "data_marker": MARKER}, empty(), empty()), "pg1 did", f"sudo rm -f {MARKER}")


@pytest.mark.parametrize(("needed", "free", "action"), [(9_000_000, 8_000_000, "stop"), (8_000_000, 9_000_000, "converge"),
                                                        (None, 1, "converge"), (9_000_000, None, "converge")])
def test_a_clone_that_does_not_fit_is_refused(needed: int | None, free: int | None, action: str) -> None:
    room = {} if free is None else {"free_bytes": {"/var/lib/postgresql/17/main": free}}
    decision = decide(PRIMARY | {"database_bytes": needed}, REPLICA, empty() | room)
    assert decision["action"] == action
    if action == "stop":
        assert_stops(decision, "pg3: the databases of pg1 take 9 MB", "has 8 MB free")


@pytest.mark.parametrize("kind", ["absent", "empty", "incomplete"])
def test_a_declared_primary_without_data_is_never_initialised_beside_a_running_cluster(kind: str) -> None:
    decision = decide(empty(kind), PRIMARY, REPLICA)
    assert (decision["action"], decision["primary"]) == ("converge", "pg2")


@pytest.mark.parametrize("kind", ["absent", "empty", "incomplete"])
def test_a_declared_primary_without_data_is_never_initialised_beside_a_stopped_replica(kind: str) -> None:
    assert_stops(decide(empty(kind), stopped(replica=True), stopped(replica=True)), "No node accepts writes", OURS)


def test_a_stopped_replica_of_the_running_primary_is_converged() -> None:
    assert decide(PRIMARY, stopped(replica=True), REPLICA)["action"] == "converge"


def test_two_writable_nodes_stop_with_identifier_timeline_and_lsn_of_each() -> None:
    other = running(writable=True, timeline=2, lsn="0/6000000")
    assert_stops(decide(PRIMARY, other, REPLICA), f"pg1: identifier {OURS}, timeline 1, LSN 0/5000100",
                 f"pg2: identifier {OURS}, timeline 2, LSN 0/6000000", "ops/status.yml")


def test_two_writable_nodes_stop_even_when_they_are_different_clusters() -> None:
    assert_stops(decide(PRIMARY, running(writable=True, identifier=THEIRS), empty()), "More than one")


@pytest.mark.parametrize("silent", [SILENT, {}])
def test_a_silent_database_node_stops(silent: dict[str, Any]) -> None:
    assert_stops(decide(PRIMARY, silent, REPLICA), "database node (pg2) is unknown")


def test_a_silent_database_node_stops_the_bootstrap() -> None:
    assert_stops(decide(empty(), SILENT, empty()), "pg2")


@pytest.mark.parametrize("foreign", [stopped(identifier=THEIRS, replica=True), stopped(identifier=THEIRS),
                                     running(writable=False, identifier=THEIRS)])
def test_a_node_of_another_cluster_stops(foreign: dict[str, Any]) -> None:
    assert_stops(decide(PRIMARY, REPLICA, foreign), "pg3 holds data of another cluster", THEIRS, "move /var/lib/postgresql/17/main on pg3 aside")


def test_different_clusters_with_none_running_stop() -> None:
    assert_stops(decide(stopped(), stopped(identifier=THEIRS), empty()), OURS, THEIRS)


def test_data_that_is_moved_aside_takes_its_marks_along() -> None:
    left = "/etc/postgresql/17/main/conf.d/20-replication.conf"
    assert_stops(decide(stopped(), stopped(identifier=THEIRS) | {"data_marker": MARKER, "left_behind": left}, empty()),
                 f"aside by hand, type there: sudo rm -f {MARKER} {left}, then run the same command again")


def test_all_stopped_starts_the_recorded_primary() -> None:
    decision = decide(stopped(), stopped(replica=True), stopped(replica=True, end="0/4FFE000"))
    assert decision == {"action": "start_recorded_primary", "primary": "pg1", "notices": []}


def test_all_stopped_starts_the_recorded_primary_that_the_inventory_does_not_name() -> None:
    decision = decide(stopped(replica=True), stopped(), stopped(replica=True))
    assert (decision["action"], decision["primary"]) == ("start_recorded_primary", "pg2")
    assert decision["notices"]


def test_a_stopped_primary_with_running_replicas_is_started() -> None:
    assert decide(stopped(), REPLICA, REPLICA)["action"] == "start_recorded_primary"


def test_a_stopped_primary_beside_a_new_node_is_started() -> None:
    assert decide(stopped(), stopped(replica=True), empty())["action"] == "start_recorded_primary"


@pytest.mark.parametrize("ahead", [
    stopped(replica=True, timeline=2, end="0/3000000"),
    stopped(replica=True, end="0/5002000"),
    running(writable=False, lsn="0/5002001"),
    running(writable=False, timeline=2, lsn="0/3000000"),
])
def test_a_recorded_primary_that_another_node_has_overtaken_is_not_started(ahead: dict[str, Any]) -> None:
    assert_stops(decide(stopped(), ahead, stopped(replica=True)), "pg2 has a higher timeline or LSN", "systemctl start")


def test_a_running_replica_is_not_ahead_of_the_last_page_it_received() -> None:
    assert decide(stopped(), running(writable=False, lsn="0/5001FFF"), REPLICA)["action"] == "start_recorded_primary"


def test_log_positions_are_compared_as_numbers() -> None:
    assert decide(stopped(end="A/0"), stopped(replica=True, end="9/FFFFE000"), empty())["action"] == "start_recorded_primary"
    assert_stops(decide(stopped(end="9/FFFFE000"), stopped(replica=True, end="A/0"), empty()), "pg2 has a higher")


def test_two_nodes_that_were_both_primary_are_not_started() -> None:
    assert_stops(decide(stopped(), stopped(timeline=2), stopped(replica=True)), "pg1 and pg2 were all primary last")


def test_only_replicas_left_stops_and_says_how_to_promote() -> None:
    assert_stops(decide(empty(), REPLICA, REPLICA), "none of them was primary last", "pg_promote")


@pytest.mark.parametrize("timeline", [1, 2])
def test_a_stopped_ex_primary_beside_the_new_one_stops(timeline: int) -> None:
    new = running(writable=True, timeline=2, history=[[1, "0/6000000"]])
    assert_stops(decide(stopped(timeline=timeline), new, running(writable=False, timeline=2)),
                 "pg1 is no replica of pg2", "last a primary itself", "on pg1: sudo systemctl stop postgresql@17-main",
                 "sudo mv /var/lib/postgresql/17/main /var/lib/postgresql/17/main.old && sudo rm -f /etc/postgresql/17/main/pgfleet-data")


def test_a_replica_that_went_past_the_switch_stops() -> None:
    new = running(writable=True, timeline=2, history=[[1, "0/4000000"]])
    assert_stops(decide(running(writable=False, timeline=1, lsn="0/4000100"), new, empty()),
                 "0/4000100 on timeline 1", "left at 0/4000000", "postgresql/17/main.old")


def test_a_replica_that_stayed_before_the_switch_is_converged() -> None:
    new = running(writable=True, timeline=2, history=[[1, "0/4000000"]])
    assert decide(stopped(replica=True, recovered="0/3FFFF00"), new, empty())["primary"] == "pg2"


def test_a_replica_on_a_later_timeline_than_the_primary_stops() -> None:
    assert_stops(decide(PRIMARY, running(writable=False, timeline=3), REPLICA), "on timeline 3")


def test_a_replica_of_an_unrelated_timeline_stops() -> None:
    new = running(writable=True, timeline=4, history=[[1, "0/4000000"], [3, "0/5000000"]])
    assert_stops(decide(new, running(writable=False, timeline=2), empty()), "none that the primary (timeline 4) came from")


@pytest.mark.parametrize("kind", ["absent", "empty", "incomplete"])
def test_a_server_whose_directory_was_moved_away_stops(kind: str) -> None:
    moved = empty(kind) | {"running": True, "pid": 7}
    assert_stops(decide(moved, REPLICA, REPLICA), "pid 7", "moved or damaged")


def test_a_server_that_does_not_answer_stops() -> None:
    starting = PRIMARY | {"server": {}, "server_error": "the database system is starting up"}
    assert_stops(decide(starting, REPLICA, REPLICA), "starting up")


def test_a_directory_that_cannot_be_read_stops() -> None:
    assert_stops(decide(PRIMARY, empty("unreadable"), REPLICA), "pg2", "pg_controldata")


def test_roles_are_told_empty_cluster_or_incomplete() -> None:
    nodes = {"pg1": PRIMARY, "pg2": empty("absent"), "pg3": empty("foreign"), "mon1": {"reachable": True}}
    assert state.published_states(nodes) == {"pg1": "cluster", "pg2": "empty", "pg3": "incomplete"}


def test_every_problem_is_told_once() -> None:
    nodes = {"pg1": PRIMARY, "pg2": SILENT, "pg3": REPLICA | {"problems": ["pg3: no room."]},
             "mon1": {"reachable": False, "problems": ["mon1 does not answer over SSH."]}}
    told = state.sentences(nodes, state.decide(nodes, NAMES, "pg1", NAMES), NAMES)
    assert len(told) == 3
    assert told[:2] == ["mon1 does not answer over SSH.", "pg3: no room."]
    assert told[2].startswith("pg2 does not answer over SSH. No run changes a cluster")
