"""The tables of ``pgroute status``."""

from __future__ import annotations

import json

from pgroute.cli.picture import NodeLine, Picture, watcher
from pgroute.config import Settings

PRIMARY = NodeLine("pg1", "10.0.0.1:5432", "primary", True, "writable", 2, 0, None, "closed")
REPLICA = NodeLine(
    *("pg2", "10.0.0.2:5432", "replica", True, "streaming", 2, 2048, 0.0125, "closed"),
    round_trip=0.0004,
    sessions=7,
    in_flight=3,
    pool="2 of 10",
)
GONE = NodeLine("pg3", "10.0.0.3:5432", "unknown", False, "no answer", None, None, None, "open")
PICTURE = Picture(7000000000000000001, "pg1", None, (PRIMARY, REPLICA, GONE))


def test_the_short_table() -> None:
    assert PICTURE.table().splitlines() == [
        "Cluster 7000000000000000001",
        "",
        "node  address        role     timeline  lag      state",
        "----  -------------  -------  --------  -------  ---------",
        "pg1   10.0.0.1:5432  primary         2  -        writable",
        "pg2   10.0.0.2:5432  replica         2  2.0 KiB  streaming",
        "pg3   10.0.0.3:5432  unknown         -  -        no answer",
    ]


def test_the_wide_table() -> None:
    lines = [line.split() for line in PICTURE.wide_table().splitlines()]
    assert lines[5] == [
        *("pg2", "replica", "2", "2.0", "KiB", "12.5", "ms", "closed", "0.4", "ms"),
        *("3", "7", "2", "of", "10", "streaming"),
    ]
    assert lines[6][:6] == ["pg3", "unknown", "-", "-", "-", "open"]


def test_unknown_lag_is_not_zero() -> None:
    lost = NodeLine("pg2", "a", "replica", False, "not streaming", 2, None, None, "closed")
    picture = Picture(None, None, "no writable server: a", (lost,))
    assert picture.table().splitlines()[0] == "Cluster unknown"
    assert picture.table().splitlines()[-1].split()[4] == "unknown"
    wide = picture.wide_table().splitlines()
    assert wide[-1] == "no writable server: a"
    assert wide[4].split()[3:5] == ["unknown", "unknown"]


def test_json_keeps_the_identifier_whole() -> None:
    told = json.loads(json.dumps(PICTURE.data()))
    assert told["system_identifier"] == "7000000000000000001"
    assert told["nodes"][2]["lag_bytes"] is None
    assert told["nodes"][1]["lag_seconds"] == 0.0125


def test_whoever_watches_is_not_counted() -> None:
    settings = Settings.make(dsn="postgresql://app@pg1,pg2/app", application_name="shop")
    assert watcher(settings).application == "shop status"
    longest = Settings.make(dsn=f"postgresql://u@h/d?application_name={'x' * 63}")
    assert watcher(longest).application != longest.application
    assert watcher(settings).members == settings.members
