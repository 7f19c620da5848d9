"""Speaks about role cadvisor on a stand-in of its own, with a program that is not cAdvisor and says so.

The tests follow one machine's life and run in the order in which they stand.
"""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.programs import write_cadvisor
from helpers.standin import StandIn


class Release:
    """A release on a web server of the test's own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.path, self.sha256 = write_cadvisor(folder, "1")
        self.inputs: dict[str, Any] = {
            "cadvisor_source": "release", "cadvisor_release_url": f"{url}/{self.path.name}",
            "cadvisor_release_sha256": {"amd64": self.sha256, "arm64": self.sha256},
            "cadvisor_download_directory": str(folder / "cache")}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    folder = tmp_path_factory.mktemp("release")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Release(folder, f"http://127.0.0.1:{server.server_port}")
    server.shutdown()


def health(standin: StandIn) -> str:
    return standin.shell("python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:8081/healthz\").read().decode())'")


def test_required_release_out_of_reach_is_an_error_in_one_sentence(standin: StandIn, release: Release) -> None:
    run = standin.play("cadvisor", **{**release.inputs, "cadvisor_release_url": "http://127.0.0.1:1/cadvisor"})
    assert run.code != 0
    assert "127.0.0.1 cannot be reached from the controller: http://127.0.0.1:1/cadvisor. Give it as a local archive" in run.said
    assert run.changed == 0


def test_optional_release_out_of_reach_is_a_notice(standin: StandIn, release: Release) -> None:
    run = standin.play("cadvisor", **{**release.inputs, "cadvisor_release_url": "http://127.0.0.1:1/cadvisor", "cadvisor_required": False})
    assert run.code == 0, run.output
    assert "NOTICE: no cAdvisor: 127.0.0.1 cannot be reached from the controller." in run.said
    assert run.changed == 0


def test_optional_release_that_is_not_there_is_a_notice(standin: StandIn, release: Release) -> None:
    run = standin.play("cadvisor", **{**release.inputs, "cadvisor_release_url": release.inputs["cadvisor_release_url"] + "-not", "cadvisor_required": False})
    assert run.code == 0, run.output
    assert "NOTICE: no cAdvisor: the controller could not fetch it (HTTP Error 404: File not found)." in run.said


def test_wrong_checksum_is_refused_before_anything_changes(standin: StandIn, release: Release) -> None:
    wrong = {"amd64": "0" * 64, "arm64": "0" * 64}
    run = standin.play("cadvisor", **{**release.inputs, "cadvisor_release_sha256": wrong})
    assert run.code != 0
    assert f"has SHA-256 {release.sha256} instead of {'0' * 64}: refused, nothing was changed" in run.said
    assert run.changed == 0
    assert standin.shell("ls -d /opt/cadvisor 2>/dev/null || true") == ""


def test_check_mode_foretells_the_install(standin: StandIn, release: Release) -> None:
    run = standin.play("cadvisor", "--check", **release.inputs)
    assert run.code == 0, run.output
    assert run.changed > 0
    assert standin.shell("ls -d /opt/cadvisor 2>/dev/null || true") == ""


def test_release_is_installed_and_answers(standin: StandIn, release: Release) -> None:
    run = standin.play("cadvisor", **release.inputs)
    assert run.code == 0, run.output
    assert health(standin) == "not cAdvisor, 1"
    assert standin.shell("systemctl is-enabled cadvisor") == "enabled"


def test_second_run_changes_nothing(standin: StandIn, release: Release) -> None:
    before = standin.shell("systemctl show -P MainPID cadvisor")
    run = standin.play("cadvisor", **release.inputs)
    assert (run.code, run.changed) == (0, 0), run.output
    assert standin.shell("systemctl show -P MainPID cadvisor") == before


def test_service_is_confined(standin: StandIn) -> None:
    report = standin.shell("systemd-analyze security cadvisor --no-pager | tail -n 1")
    assert float(report.split("cadvisor.service:")[1].split()[0]) <= 4.0, report


def test_a_restart_that_an_interrupted_run_still_owed_is_made(standin: StandIn, release: Release) -> None:
    for owed in ("/etc/systemd/system/cadvisor.service", "-h /opt/cadvisor/current"):
        before = standin.shell("systemctl show -P MainPID cadvisor")
        standin.shell(f"touch {owed}")
        run = standin.play("cadvisor", **release.inputs)
        assert run.code == 0, run.output
        assert standin.shell("systemctl show -P MainPID cadvisor") != before
    assert standin.play("cadvisor", **release.inputs).changed == 0


def test_new_archive_restarts_the_service(standin: StandIn, release: Release, tmp_path: Path) -> None:
    archive, sha256 = write_cadvisor(tmp_path, "2")
    run = standin.play("cadvisor", cadvisor_source="archive", cadvisor_archive=str(archive), cadvisor_archive_sha256=sha256)
    assert run.code == 0, run.output
    assert health(standin) == "not cAdvisor, 2"
