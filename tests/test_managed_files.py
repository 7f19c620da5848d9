"""Files that a program has to accept before they take the place of the old ones."""

import getpass
import grp
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.repository import ROOT

MODULE = ROOT / "plugins/modules/managed_files.py"


def write(
    path: Path, content: str, *, validate: str = "", unit: str = "", environment: dict[str, str] | None = None, **options: Any,
) -> dict[str, Any]:
    """What the module answers when it is run as Ansible runs it."""
    file = {"path": str(path), "content": content, "mode": "0600", "validate": validate,
            "owner": getpass.getuser(), "group": grp.getgrgid(os.getgid()).gr_name}
    program = (
        "import json, runpy, sys; from ansible.module_utils import basic; from ansible.module_utils.testing import patch_module_args\n"
        "with patch_module_args(json.loads(sys.argv[2])):\n"
        "    runpy.run_path(sys.argv[1], run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(MODULE), json.dumps({"files": [file], "unit": unit, **options})],
                          capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})})
    return dict(json.loads(done.stdout))


def test_an_accepted_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("old")
    answer = write(path, "new", validate="grep -q new %s")
    assert (answer.get("failed", False), answer["changed"], path.read_text()) == (False, True, "new")


def test_a_refused_file_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("old")
    answer = write(path, "wrong", validate="grep new %s /nowhere")
    assert answer["failed"]
    assert "stays as it is: grep refuses" in answer["msg"]
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"settings": "old"}


def systemd(directory: Path, *, state: str, started: float) -> dict[str, str]:
    """An environment with a systemctl that tells of a unit that was started so many seconds ago."""
    program = directory / "bin" / "systemctl"
    program.parent.mkdir()
    monotonic = int((time.monotonic() - started) * 1e6)
    program.write_text(f"#!/bin/sh\necho ActiveEnterTimestampMonotonic={monotonic}\necho ActiveState={state}\n")
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}


def test_what_an_interrupted_run_wrote_is_told_until_its_unit_is_restarted(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("new")
    path.chmod(0o600)
    minutes = systemd(tmp_path, state="active", started=60)
    answer = write(path, "new", unit="some.service", environment=minutes)
    assert (answer["changed"], answer["unread_paths"]) == (False, [str(path)])
    os.utime(path, (time.time() - 120,) * 2)
    answer = write(path, "new", unit="some.service", environment=minutes)
    assert (answer["changed"], answer["unread_paths"]) == (False, [])
    answer = write(path, "newer", unit="some.service", environment=minutes)
    assert (answer["changed"], answer["unread_paths"]) == (True, [str(path)])


def test_a_unit_that_does_not_run_has_nothing_to_read_again(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("new")
    path.chmod(0o600)
    stopped = systemd(tmp_path, state="inactive", started=60)
    assert write(path, "new", unit="some.service", environment=stopped)["unread_paths"] == []
    assert write(path, "new")["unread_paths"] == []


def test_what_a_unit_reads_beside_the_files_is_told_too(tmp_path: Path) -> None:
    path, link = tmp_path / "settings", tmp_path / "current"
    path.write_text("new")
    path.chmod(0o600)
    link.symlink_to("version-2")
    os.utime(path, (time.time() - 120,) * 2)
    minutes = systemd(tmp_path, state="active", started=60)
    unread = write(path, "new", unit="some.service", environment=minutes, also_read=[str(link), str(tmp_path / "absent")])["unread_paths"]
    assert unread == [str(link)]


@contextmanager
def metrics(*, loaded: float) -> Iterator[dict[str, str]]:
    """Where a unit says that it loaded its configuration so many seconds ago."""
    text = f"# HELP loaded_seconds When.\nloaded_seconds {time.time() - loaded!r}\nloaded_seconds_ago 0\n"

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {"url": f"http://127.0.0.1:{server.server_port}/metrics", "metric": "loaded_seconds"}
    finally:
        server.shutdown()
        server.server_close()


def test_what_an_interrupted_run_wrote_is_told_until_its_unit_says_that_it_loaded_it(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("new")
    path.chmod(0o600)
    hour = systemd(tmp_path, state="active", started=3600)

    def unloaded(*, loaded: float, content: str = "new") -> Any:
        with metrics(loaded=loaded) as told:
            return write(path, content, unit="some.service", environment=hour, load_time=told)["unloaded_paths"]

    assert unloaded(loaded=60) == [str(path)]
    os.utime(path, (time.time() - 120,) * 2)
    assert unloaded(loaded=60) == []
    assert unloaded(loaded=180) == [str(path)]
    assert unloaded(loaded=60, content="newer") == [str(path)]


def test_a_unit_that_does_not_tell_when_it_loaded_has_loaded_when_it_was_started(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("new")
    path.chmod(0o600)
    nowhere = {"url": "http://127.0.0.1:1/metrics", "metric": "loaded_seconds"}
    minute = systemd(tmp_path, state="active", started=60)
    assert write(path, "new", unit="some.service", environment=minute, load_time=nowhere)["unloaded_paths"] == [str(path)]
    os.utime(path, (time.time() - 120,) * 2)
    assert write(path, "new", unit="some.service", environment=minute, load_time=nowhere)["unloaded_paths"] == []


def test_a_unit_that_does_not_run_has_nothing_to_load(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("new")
    path.chmod(0o600)
    stopped = systemd(tmp_path, state="inactive", started=60)
    with metrics(loaded=60) as told:
        assert write(path, "new", unit="some.service", environment=stopped, load_time=told)["unloaded_paths"] == []
