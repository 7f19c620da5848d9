#!/usr/bin/python
"""Make a data directory where there is none: by initdb or as a copy of the primary."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: postgresql_data_directory
short_description: Make a PostgreSQL data directory where there is none
description:
  - Works in a sibling directory of its own and renames the finished result into place, so that a run which is
    killed at any moment leaves either nothing or a whole directory.
  - A directory that holds a cluster is never touched. One that is not empty and holds no valid cluster is
    renamed to C(<name>.failed-<epoch>), never removed.
  - With O(primary), the copy is taken by pg_basebackup through a physical slot, checked by pg_verifybackup
    against its manifest, and marked as a standby. Without, initdb makes an empty cluster.
options:
  path:
    description: The data directory.
    type: path
    required: true
  bin_directory:
    description: Where initdb, pg_basebackup, pg_verifybackup and pg_controldata are.
    type: path
    required: true
  initdb_arguments:
    description: Arguments for initdb.
    type: list
    elements: str
    default: []
  primary:
    description: Connection parameters of libpq by which the primary is reached; no password, a passfile.
    type: dict
  slot:
    description: The physical slot on the primary to copy through. Required with O(primary).
    type: str
author: [pgfleet]
"""

EXAMPLES = r"""
- name: Copy the primary
  postgresql_data_directory:
    path: /var/lib/postgresql/17/main
    bin_directory: /usr/lib/postgresql/17/bin
    primary: {host: 192.0.2.11, port: 5432, user: replicator, passfile: /var/lib/postgresql/.pgpass_replication}
    slot: slot_pg2
"""

RETURN = r"""
made:
  description: Whether there is a data directory now that was not there before.
  returned: always
  type: bool
state:
  description: "What was found: empty, cluster or incomplete."
  returned: always
  type: str
set_aside:
  description: Where an incomplete directory was moved.
  returned: when there was one
  type: str
"""

MARKER = "made-by-pgfleet"


def state_of(path: str, control_is_valid: Callable[[str], bool]) -> str:
    """empty, cluster or incomplete."""
    if not os.path.isdir(path) or not os.listdir(path):
        return "empty"
    return "cluster" if control_is_valid(path) else "incomplete"


def connection_string(parameters: dict[str, Any]) -> str:
    """libpq's keyword/value form, quoted."""
    return " ".join(
        "{}='{}'".format(key, str(value).replace("\\", "\\\\").replace("'", "\\'"))
        for key, value in sorted(parameters.items())
    )


def command_line(process: int) -> list[str]:
    """The words of a process's command line; none when it is gone."""
    try:
        with open(f"/proc/{process}/cmdline", "rb") as stream:
            return stream.read().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def die_with_parent() -> None:
    """Ask the kernel to end this process with its parent (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class Workshop:
    """The sibling directory in which a data directory is made, held by one process at a time."""

    def __init__(self, module: AnsibleModule, path: str) -> None:
        self.module = module
        self.path = path
        self.root = path + ".new"
        self.result = os.path.join(self.root, "data")
        self.lock = -1

    def enter(self, deadline_seconds: float = 60) -> None:
        os.makedirs(os.path.dirname(self.path), mode=0o755, exist_ok=True)
        self.lock = os.open(self.path + ".lock", os.O_CREAT | os.O_RDWR, 0o600)
        deadline = time.monotonic() + deadline_seconds
        while not self.locked():
            if time.monotonic() > deadline:
                self.module.fail_json(
                    msg=f"An earlier run is still making {self.path} on this node; wait for it to end and run the playbook again."
                )
            time.sleep(1)

    def locked(self) -> bool:
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def end_orphans(self) -> None:
        """End what an interrupted run left writing here: pg_basebackup's second process outlives the first."""
        deadline = time.monotonic() + 10
        while True:
            orphans = [number for number in map(int, filter(str.isdigit, os.listdir("/proc"))) if self.result in command_line(number)]
            if not orphans:
                return
            for number in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
            time.sleep(0.1)

    def clear(self) -> None:
        """Remove what an interrupted run left here; only a directory that bears our mark."""
        if os.path.lexists(self.root):
            if not os.path.isfile(os.path.join(self.root, MARKER)):
                self.module.fail_json(
                    msg=f"{self.root} exists and was not made by this playbook; look at it, move it away, and run the playbook again."
                )
            shutil.rmtree(self.root)
        os.mkdir(self.root, 0o700)
        with open(os.path.join(self.root, MARKER), "w"):
            pass

    def run(self, arguments: list[str], what: str) -> None:
        """Run a program that dies with this process."""
        environment = dict(os.environ, LC_ALL="C.UTF-8", PGCONNECT_TIMEOUT="10")
        program = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=os.path.dirname(self.path),
            preexec_fn=die_with_parent,
        )
        output = program.communicate()[0].decode(errors="replace")
        if program.returncode != 0:
            self.module.fail_json(
                msg="{} failed: {}".format(what, " ".join(output.split())[-800:] or f"exit status {program.returncode}")
            )

    def publish(self) -> None:
        os.rename(self.result, self.path)
        parent = os.open(os.path.dirname(self.path), os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)
        shutil.rmtree(self.root)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "bin_directory": {"type": "path", "required": True},
            "initdb_arguments": {"type": "list", "elements": "str", "default": []},
            "primary": {"type": "dict"},
            "slot": {"type": "str"},
        },
        required_by={"primary": ["slot"]},
        supports_check_mode=True,
    )
    path, primary = module.params["path"].rstrip("/"), module.params["primary"]

    def program(name: str) -> str:
        return os.path.join(module.params["bin_directory"], name)

    def control_is_valid(directory: str) -> bool:
        answer = subprocess.run(
            [program("pg_controldata"), "--pgdata", directory],
            capture_output=True, text=True, check=False, env=dict(os.environ, LC_ALL="C"),
        )
        return answer.returncode == 0 and "WARNING" not in answer.stdout + answer.stderr

    state = state_of(path, control_is_valid)
    if state == "cluster" or module.check_mode:
        module.exit_json(changed=state != "cluster", made=state != "cluster", state=state)

    workshop = Workshop(module, path)
    workshop.enter()
    state = state_of(path, control_is_valid)
    if state == "cluster":
        # An earlier run, still at it when this one came, has finished.
        module.exit_json(changed=True, made=True, state=state)
    workshop.end_orphans()
    workshop.clear()
    if primary:
        workshop.run(
            [
                program("pg_basebackup"), "--pgdata", workshop.result, "--dbname", connection_string(primary),
                "--slot", module.params["slot"], "--wal-method", "stream", "--checkpoint", "fast", "--no-password",
            ],
            "pg_basebackup from {}".format(primary.get("host")),
        )
        workshop.run([program("pg_verifybackup"), "--exit-on-error", "--quiet", workshop.result], "pg_verifybackup")
        signal_file = os.open(os.path.join(workshop.result, "standby.signal"), os.O_CREAT | os.O_WRONLY, 0o600)
        os.fsync(signal_file)
        os.close(signal_file)
    else:
        workshop.run([program("initdb"), "--pgdata", workshop.result] + module.params["initdb_arguments"], "initdb")

    answer = {"state": state}
    if state == "incomplete":
        answer["set_aside"] = f"{path}.failed-{int(time.time())}"
        os.rename(path, answer["set_aside"])
    workshop.publish()
    module.exit_json(changed=True, made=True, **answer)


if __name__ == "__main__":
    main()
