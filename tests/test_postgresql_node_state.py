"""What is read from a data directory whose server does not run: its control file, where its log ends, where its history forked."""

import json
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.plugins import load_plugin

module = load_plugin("modules/postgresql_node_state.py")
probe = load_plugin("action/cluster_state_probe.py")

SEGMENT, PAGE = 16 * 1024 * 1024, 8192


def segment(folder: Path, *, timeline: int, number: int, pages: int, recycled_from: int | None = None) -> None:
    """A WAL segment of which the first pages were written, and the rest is left from an older one."""
    name = f"{timeline:08X}{number // 256:08X}{number % 256:08X}"
    with (folder / name).open("wb") as stream:
        stream.truncate(SEGMENT)
        for index in range(SEGMENT // PAGE):
            if index >= pages and recycled_from is None:
                break
            owner = number if index < pages else recycled_from
            assert owner is not None
            stream.seek(index * PAGE)
            stream.write(struct.pack("=HHIQ", 0xD116, 0, timeline, owner * SEGMENT + index * PAGE))


@pytest.mark.parametrize("recycled_from", [None, 3])
@pytest.mark.parametrize("pages", [1, 2, 700, 2047, 2048])
def test_the_log_ends_with_the_last_page_that_was_written(tmp_path: Path, pages: int, recycled_from: int | None) -> None:
    segment(tmp_path, timeline=1, number=4, pages=2048)
    segment(tmp_path, timeline=1, number=5, pages=pages, recycled_from=recycled_from)
    segment(tmp_path, timeline=1, number=6, pages=0, recycled_from=recycled_from)
    end = 5 * SEGMENT + (pages - 1) * PAGE
    assert module.wal_end(str(tmp_path), SEGMENT) == (f"0/{end:X}", 1)


def test_of_two_timelines_the_later_one_counts_where_both_have_the_segment(tmp_path: Path) -> None:
    segment(tmp_path, timeline=1, number=5, pages=9)
    segment(tmp_path, timeline=2, number=5, pages=3)
    assert module.wal_end(str(tmp_path), SEGMENT) == (f"0/{5 * SEGMENT + 2 * PAGE:X}", 2)


def test_a_log_beyond_four_gigabytes_is_addressed_as_postgresql_does(tmp_path: Path) -> None:
    segment(tmp_path, timeline=1, number=256 * 3 + 1, pages=1)
    assert module.wal_end(str(tmp_path), SEGMENT) == ("3/1000000", 1)


def test_what_is_no_segment_is_passed_over(tmp_path: Path) -> None:
    segment(tmp_path, timeline=1, number=1, pages=1)
    (tmp_path / "archive_status").mkdir()
    (tmp_path / "00000002.history").write_text("1\t0/3000000\tno recovery target specified\n")
    (tmp_path / "000000010000000000000002.partial").write_bytes(b"x")
    assert module.wal_end(str(tmp_path), SEGMENT) == ("0/1000000", 1)


def test_a_directory_without_a_log_has_no_end(tmp_path: Path) -> None:
    assert module.wal_end(str(tmp_path), SEGMENT) == (None, None)
    assert module.wal_end(str(tmp_path / "none"), SEGMENT) == (None, None)


def test_the_history_tells_where_each_timeline_was_left(tmp_path: Path) -> None:
    (tmp_path / "00000003.history").write_text("1\t0/3000000\tno recovery target specified\n\n# a comment\n2\tA/4000000\tno\n")
    assert module.read_history(str(tmp_path), 3) == [(1, "0/3000000"), (2, "A/4000000")]
    assert module.read_history(str(tmp_path), 4) == []


def test_the_control_file_is_read_field_by_field() -> None:
    said = ("pg_control version number:            1700\nDatabase system identifier:           7710403378714462933\n"
            "Database cluster state:               shut down in recovery\nLatest checkpoint location:           0/1B83C68\n"
            "Latest checkpoint's TimeLineID:       2\nMin recovery ending loc's timeline:   3\nBytes per WAL segment:                16777216\n")
    assert module.parse_control(said) == {
        "system_identifier": "7710403378714462933", "state": "shut down in recovery", "checkpoint_lsn": "0/1B83C68",
        "checkpoint_timeline": 2, "minimum_recovery_timeline": 3, "wal_segment_bytes": SEGMENT,
    }


@pytest.mark.parametrize(("mark", "counted"), [("made-by-pgfleet", True), ("somebody-elses", False)])
def test_what_our_interrupted_copy_takes_counts_as_free(tmp_path: Path, mark: str, counted: bool) -> None:
    left = tmp_path / "main.new"
    (left / "data/base").mkdir(parents=True)
    (left / mark).touch()
    (left / "data/base/1").write_bytes(os.urandom(1 << 20))
    device, size = module.leftover(str(tmp_path / "main"))
    assert (size >= 1 << 20) is counted
    assert not counted or device == os.stat(tmp_path).st_dev
    status = os.statvfs(tmp_path)
    free = module.free_bytes(str(tmp_path / "main"), (device, 1 << 50)) - status.f_bavail * status.f_frsize
    assert (free > 1 << 49) is counted
    assert module.leftover(str(tmp_path / "none")) == (-1, 0)


@pytest.mark.parametrize(("known", "listening", "peers", "words"), [
    (["192.0.2.1", "2001:db8::1"], ["192.0.2.1"], True, ""),
    (["127.0.1.1", "192.0.2.1"], ["127.0.1.1", "192.0.2.1"], True, ""),
    (["127.0.1.1"], ["127.0.1.1"], True, "pg1 is only a loopback address on it"),
    (["127.0.1.1", "192.0.2.9"], ["127.0.1.1"], True, "pg1 is only a loopback address on it"),
    (["127.0.1.1"], ["127.0.1.1"], False, ""),
    (["192.0.2.9"], [], True, "pg1 is none of its own addresses (192.0.2.1)"),
    (["192.0.2.9"], [], False, "pg1 is none of its own addresses (192.0.2.1)"),
    ([], [], True, "pg1 is none of its own addresses (192.0.2.1)"),
])
def test_a_name_is_good_where_servers_can_listen_and_others_reach_them(
    monkeypatch: pytest.MonkeyPatch, known: list[str], listening: list[str], peers: bool, words: str,
) -> None:
    class Socket(socket.socket):
        def bind(self, place: Any) -> None:
            if place[0] not in listening:
                raise OSError("Cannot assign requested address")

    def resolve(*_: Any, **__: Any) -> list[Any]:
        if not known:
            raise socket.gaierror("Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in known]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "socket", Socket)
    monkeypatch.setattr(module, "run", lambda *_: (0, "192.0.2.1", ""))
    told = probe.address_problems("pg1", "pg1", module.address_state(None, "pg1"), peers)
    assert (words in told[0]) if words else told == []


def test_a_prometheus_without_targets_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    target = {"labels": {"job": "node_exporter", "instance": "pg1"}, "health": "up", "lastError": ""}
    lists = [[], [target]]

    def fetch(url: str) -> tuple[int, str]:
        data = {"activeTargets": lists.pop(0)} if "/targets" in url else {"result": []}
        return 200, json.dumps({"data": data})

    monkeypatch.setattr(module, "fetch", fetch)
    found = module.read_prometheus("http://192.0.2.1:9090", time.monotonic() + 60)
    assert [told["instance"] for told in found["targets"]] == ["pg1"]


def test_a_loopback_address_that_was_given_as_such_is_meant() -> None:
    assert module.address_state(None, "127.0.0.1") == {"own_addresses": [], "address_is_loopback": False}
