"""Files that a program has to accept before they take the place of the old ones."""

import getpass
import grp
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from helpers.repository import ROOT

MODULE = ROOT / "plugins/modules/managed_files.py"


def write(
    path: Path, content: str, *, validate: str = "", unit: str = "", environment: dict[str, str] | None = None,
) -> dict[str, Any]:
    """What the module answers when it is run as Ansible runs it."""
    file = {"path": str(path), "content": content, "mode": "0600", "validate": validate,
            "owner": getpass.getuser(), "group": grp.getgrgid(os.getgid()).gr_name}
    program = (
        "import json, runpy, sys; from ansible.module_utils import basic; from ansible.module_utils.testing import patch_module_args\n"
        "with patch_module_args(json.loads(sys.argv[2])):\n"
        "    runpy.run_path(sys.argv[1], run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(MODULE), json.dumps({"files": [file], "unit": unit})],
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
