"""The configuration: what is accepted, and which sentence the rest gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_attempts

from pgroute import ConfigurationError, Node, Settings

ENVIRONMENT = {
    "PGROUTE_NODES": "pg1=10.0.0.1:5433, pg2=10.0.0.2",
    "PGROUTE_DATABASE": "app",
    "PGROUTE_WRITE_USER": "app_rw",
    "PGROUTE_READ_USER": "app_ro",
    "HOME": "/nowhere",
}


def test_environment_is_read() -> None:
    settings = Settings.from_environment(ENVIRONMENT | {"PGROUTE_MAX_LAG_BYTES": "5"})
    assert settings.members == (Node("pg1", "10.0.0.1", 5433), Node("pg2", "10.0.0.2", 5432))
    assert (settings.writer, settings.reader) == ("app_rw", "app_ro")
    assert settings.max_lag_bytes == 5


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        ("", {"pg1": 1, "pg2": 1}),
        ("pg2=3", {"pg1": 1, "pg2": 3}),
        (" pg1 = 0, pg2 = 0.5 ", {"pg1": 0, "pg2": 0.5}),
    ],
)
def test_weights_are_read(weights: str, found: dict[str, float]) -> None:
    weighted = {"PGROUTE_POLICY": "weighted", "PGROUTE_WEIGHTS": weights}
    assert Settings.from_environment(ENVIRONMENT | weighted).node_weights == found


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ("pg9=1", "weights: there is no node pg9; known: pg1, pg2"),
        ("pg1=-1", "weights: pg1 has '-1'; a weight is a number from 0 to 1000000"),
        ("pg1=1000001", "weights: pg1 has '1000001'; a weight is a number from 0 to 1000000"),
        ("pg1=much", "weights: pg1 has 'much'; a weight is a number"),
        ("pg1=nan", "weights: pg1 has 'nan'; a weight is a number"),
        ("pg1=", "weights: pg1 has ''; a weight is a number"),
        ("pg1=0,pg2=0", "weights: every node has 0; at least one must have more"),
        ("pg1=1,pg1=2", "weights: the node pg1 is given twice"),
        ("pg1", "not a weight: 'pg1'; write name=number"),
        ("pg1=1,", "not a weight: ''; write name=number"),
    ],
)
def test_bad_weights_get_a_sentence(weights: str, sentence: str) -> None:
    weighted = {"PGROUTE_POLICY": "weighted", "PGROUTE_WEIGHTS": weights}
    with pytest.raises(ConfigurationError) as raised:
        Settings.from_environment(ENVIRONMENT | weighted)
    assert str(raised.value).startswith(sentence)
    assert "\n" not in str(raised.value)


def test_weights_of_a_dsn_s_nodes_may_name_ports() -> None:
    dsn = "host=h,h port=1,2 user=u dbname=d"
    settings = Settings.from_dsn(dsn, policy="weighted", weights="h:2=5")
    assert settings.node_weights == {"h:1": 1, "h:2": 5}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"PGROUTE_WEIGHTS": "pg1=2"}, "weights are set and the policy is round_robin: only"),
        ({"PGROUTE_NODE": "x"}, "PGROUTE_NODE is not a setting of pgroute; did you mean"),
        ({"PGROUTE_NODES": ""}, "set exactly one of PGROUTE_NODES and PGROUTE_DSN"),
        ({"PGROUTE_DSN": "host=a"}, "set exactly one of PGROUTE_NODES and PGROUTE_DSN"),
        ({"PGROUTE_NODES": "a=h:x"}, "not a node: 'a=h:x'"),
        ({"PGROUTE_NODES": "a="}, "not a node"),
        ({"PGROUTE_NODES": "a=h:0"}, "not a port: 0"),
        ({"PGROUTE_NODES": "a=h,a=i"}, "the node a is given twice"),
        ({"PGROUTE_DATABASE": ""}, "no database given: set PGROUTE_DATABASE"),
        ({"PGROUTE_WRITE_USER": ""}, "no write_user given"),
        ({"PGROUTE_POLICY": "best"}, "policy: "),
        ({"PGROUTE_MAX_LAG_BYTES": "-1"}, "max_lag_bytes: "),
        ({"PGROUTE_POOL_MIN_SIZE": "11"}, "pool_min_size is greater"),
        ({"PGROUTE_LISTEN_ADDRESS": ""}, "listen_address: "),
        ({"PGROUTE_PASSFILE": "/nowhere/passfile"}, "the passfile /nowhere/passfile: No such file"),
    ],
)
def test_bad_environment_gets_a_sentence(change: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Settings.from_environment(ENVIRONMENT | change)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "nodes", ["postgresql://app:secret@pg1", "app:secret@pg1:5432", "pg2,a=app:sec,secret@pg1"]
)
def test_a_dsn_in_the_place_of_nodes_is_not_quoted(nodes: str) -> None:
    with pytest.raises(ConfigurationError, match="a DSN belongs into PGROUTE_DSN") as raised:
        Settings.from_environment(ENVIRONMENT | {"PGROUTE_NODES": nodes})
    assert "sec" not in str(raised.value)


def test_passfile_that_others_can_read_is_refused(tmp_path: Path) -> None:
    passfile = tmp_path / "passfile"
    passfile.touch(mode=0o600)
    environment = ENVIRONMENT | {"PGROUTE_PASSFILE": str(passfile)}
    assert Settings.from_environment(environment).passfile == passfile
    passfile.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 0600"):
        Settings.from_environment(environment)


def test_dsn_with_several_hosts_is_read() -> None:
    settings = Settings.from_dsn("postgresql://app@pg1,pg2:5433,pg3/shop?sslmode=require")
    assert settings.members == (
        Node("pg1", "pg1", 5432),
        Node("pg2", "pg2", 5433),
        Node("pg3", "pg3", 5432),
    )
    assert (settings.database_name, settings.writer, settings.reader) == ("shop", "app", "app")
    connection = settings.connection(settings.members[1], user="app", read_only=True)
    assert (connection["host"], connection["port"]) == ("pg2", 5433)
    assert connection["sslmode"] == "require"


def test_nodes_on_one_host_are_named_by_their_ports() -> None:
    settings = Settings.from_dsn("host=h,h port=1,2 user=u dbname=d")
    assert [node.name for node in settings.members] == ["h:1", "h:2"]


@pytest.mark.parametrize(
    ("dsn", "sentence"),
    [
        ("postgresql://app:secret@pg1/app", "the DSN holds a password"),
        ("postgresql://app@/app", "the DSN names no host"),
        ("host=a,b port=1,2,3 user=u dbname=d", "the DSN has 2 hosts and 3 ports"),
        ("host=a user=u dbname=d target_session_attrs=primary", "target_session_attrs"),
        ("host=a user=u dbname=d hostaddr=127.0.0.1", "the DSN sets hostaddr"),
        ("host=a user=u dbname=d sslpassword=secret", "the DSN holds the password of a client key"),
        ("postgresql://[", "the DSN cannot be read"),
        ("postgresql://app:s%zz@h/db", "the DSN cannot be read: invalid percent-encoded"),
        ("postgresql://app:a secret@h/db", "the DSN cannot be read: "),
        ("host=a dbname=b user=c password=hunter2 secret", "the DSN cannot be read: missing"),
        ("postgresql://app:p/zz@h/db", "a port in the DSN is no number"),
    ],
)
def test_bad_dsn_gets_a_sentence_without_its_password(dsn: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Settings.from_dsn(dsn)
    assert sentence in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "zz" not in str(raised.value)


def test_the_name_of_the_connections_is_the_settings_then_the_dsns() -> None:
    def name(**more: str) -> str:
        settings = Settings.from_dsn("postgresql://u@h/d?application_name=shop", **more)
        told = settings.connection(settings.members[0], user="u", read_only=True)
        assert told["application_name"] == settings.application
        return settings.application

    assert name() == "shop"
    assert name(application_name="till") == "till"
    assert name(application_name="x" * 70) == "x" * 63  # as the server shows it
    assert Settings.from_dsn("postgresql://u@h/d").application == "pgroute"


def test_an_address_in_the_environment_is_not_that_of_every_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.9")
    settings = Settings.from_dsn("postgresql://u@127.0.0.1,127.0.0.2/d")
    for node in settings.members:
        parameters = settings.connection(node, user="u", read_only=True)
        attempt = conninfo_attempts(parameters)[0]
        assert attempt["host"] == node.host
        assert attempt["hostaddr"] in ("", node.host)


def test_every_connection_has_its_limits() -> None:
    settings = Settings.from_environment(ENVIRONMENT | {"PGROUTE_OPERATION_TIMEOUT_SECONDS": "7"})
    connection = settings.connection(settings.members[0], user="app_rw", read_only=False)
    assert connection["connect_timeout"] == 3
    assert connection["tcp_user_timeout"] == 10_000
    assert connection["keepalives"] == 1
    assert "statement_timeout=7000" in connection["options"]
    assert "idle_in_transaction_session_timeout=7000" in connection["options"]
    assert "default_transaction_read_only=off" in connection["options"]
    assert "password" not in connection


def test_read_connections_are_read_only() -> None:
    settings = Settings.from_environment(ENVIRONMENT)
    connection = settings.connection(settings.members[0], user="app_ro", read_only=True)
    assert "default_transaction_read_only=on" in connection["options"]


def test_settings_of_a_connection_are_what_was_asked() -> None:
    settings = Settings.from_environment(
        ENVIRONMENT
        | {
            "PGROUTE_STATEMENT_TIMEOUT_SECONDS": "2",
            "PGROUTE_LOCK_TIMEOUT_SECONDS": "0.5",
            "PGROUTE_IDLE_IN_TRANSACTION_SESSION_TIMEOUT_SECONDS": "3",
            "PGROUTE_TIME_ZONE": "Europe/Berlin",
            "PGROUTE_SEARCH_PATH": "shop, public",
        }
    )
    assert settings.session(read_only=False) == {
        "statement_timeout": "2000",
        "idle_in_transaction_session_timeout": "3000",
        "default_transaction_read_only": "off",
        "lock_timeout": "500",
        "TimeZone": "Europe/Berlin",
        "search_path": "shop, public",
    }
    connection = settings.connection(settings.members[0], user="app_rw", read_only=False)
    assert r"-c search_path=shop,\ public" in connection["options"]


def test_each_purpose_may_have_its_own_pool_sizes() -> None:
    settings = Settings.from_environment(
        ENVIRONMENT | {"PGROUTE_READ_POOL_MAX_SIZE": "40", "PGROUTE_WRITE_POOL_MIN_SIZE": "3"}
    )
    assert settings.pool_sizes(read_only=True) == (1, 40)
    assert settings.pool_sizes(read_only=False) == (3, 10)
    with pytest.raises(ConfigurationError, match="write_pool_min_size is greater than write_"):
        Settings.from_environment(ENVIRONMENT | {"PGROUTE_WRITE_POOL_MIN_SIZE": "11"})


def test_service_file_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "services"
    file.write_text("# ours\n[shop]\nhost=pg1,pg2\nport=5433\nuser=app\ndbname=shop\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    settings = Settings.from_dsn("service=shop dbname=other")
    assert settings.members == (Node("pg1", "pg1", 5433), Node("pg2", "pg2", 5433))
    assert (settings.database_name, settings.writer) == ("other", "app")
    connection = settings.connection(settings.members[1], user="app", read_only=True)
    assert (connection["service"], connection["host"]) == ("shop", "pg2")
    with pytest.raises(ConfigurationError, match=rf"the service ship is in none of: {file}"):
        Settings.from_dsn("service=ship")
