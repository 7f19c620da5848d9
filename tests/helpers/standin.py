"""One stand-in of the tests' own: no inventory, no fleet."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.repository import ROOT

IMAGE = "pgfleet/stand-in:trixie"


@dataclass(frozen=True)
class Run:
    """What one ansible-playbook said."""

    code: int
    output: str

    @property
    def changed(self) -> int:
        return int(re.findall(r"changed=(\d+)", self.output)[-1])

    @property
    def said(self) -> str:
        """The output with lines that YAML has folded put together again."""
        return " ".join(self.output.split())


class StandIn:
    def __init__(self, folder: Path) -> None:
        self.name = f"grafana-dev-{secrets.token_hex(3)}"
        self.inventory = folder / "inventory.json"
        self.inventory.write_text(json.dumps({"all": {"hosts": {"standin": {
            "ansible_connection": "community.docker.docker", "ansible_host": self.name, "ansible_user": "deploy"}}}}))

    def start(self) -> None:
        subprocess.run(
            ["docker", "run", "--detach", "--name", self.name, "--network", "none",
             "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN",
             "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined", "--cgroupns", "host",
             "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--tmpfs", "/run", "--tmpfs", "/tmp",
             "--stop-signal", "SIGRTMIN+3", IMAGE],
            check=True, capture_output=True)
        deadline = time.monotonic() + 300
        while "running" not in (state := self.shell("systemctl is-system-running --wait || true")) and "degraded" not in state:
            assert time.monotonic() < deadline, f"systemd does not come up in {self.name}: {state}"

    def remove(self) -> None:
        subprocess.run(["docker", "rm", "--force", "--volumes", self.name], check=True, capture_output=True)

    def shell(self, command: str) -> str:
        return subprocess.run(["docker", "exec", self.name, "sh", "-c", command],
                              check=True, capture_output=True, text=True).stdout.strip()

    def play(self, role: str, *arguments: str, **inputs: Any) -> Run:
        """ansible-playbook play.yml for one role with these inputs."""
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(self.inventory),
                   str(ROOT / "tests/standin/play.yml"), "-e", json.dumps({"subject": role, **inputs}), *arguments]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1"}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900, check=False)
        return Run(done.returncode, done.stdout)
