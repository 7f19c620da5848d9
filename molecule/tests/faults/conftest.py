"""Fixtures of the tests that break a stand-in fleet on purpose: each restores what it broke.

They run when asked for by their path alone, as scenario `default` does after everything else:
`pytest molecule/tests/faults --ansible-inventory=inventories/docker.yml`.
A fleet that is not made of stand-ins is never touched.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.fleet import Fleet, eventually
from helpers.repository import ROOT

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked_for = [Path(config.invocation_params.dir, argument.split("::")[0]).resolve() for argument in config.args]
    if not all(path.is_relative_to(HERE) for path in asked_for):
        ours = [item for item in items if item.path.is_relative_to(HERE)]
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in ours]


class StandIns:
    """The containers, through their engine: the way in that stays open when SSH or sudo is what was broken."""

    def __init__(self, fleet: Fleet, inventory: str) -> None:
        assert fleet.group("env_docker"), "faults are for stand-ins only"
        self.fleet = fleet
        self.inventory = inventory
        self.data = Path(f"/var/lib/postgresql/{fleet.variables(fleet.group('postgres_cluster')[0])['postgresql_version']}/main")
        self.marker = f"/etc/postgresql/{self.data.parent.name}/main/pgfleet-data"
        self.unit = f"postgresql@{self.data.parent.name}-main"

    def run(self, name: str, script: str) -> str:
        """A shell script as root inside a stand-in; it must succeed."""
        container = str(self.fleet.variables(name)["standin_container"])
        done = subprocess.run(["docker", "exec", container, "sh", "-euc", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name}: {script}: {done.stderr}"
        return done.stdout

    def play(self, playbook: str, *arguments: str, inventory: str | None = None) -> tuple[int, str]:
        """(exit code, everything said, as one line) of a playbook over the fleet."""
        done = subprocess.run(
            [str(Path(sys.executable).parent / "ansible-playbook"), "-i", inventory or self.inventory, f"playbooks/{playbook}", *arguments],
            cwd=ROOT, capture_output=True, text=True, check=False,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"},
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def streams(self, name: str) -> bool:
        slot = self.run(name, "runuser -u postgres -- psql -XAtc \"select slot_name from pg_stat_wal_receiver where status = 'streaming'\" || true")
        return bool(slot.strip())

    def set_aside(self, name: str) -> None:
        """Stop a node's server and put its data directory where nothing looks for it."""
        self.run(name, f"systemctl stop {self.unit}; mv {self.data} {self.data}.kept")

    def put_back(self, name: str) -> None:
        """Undo set_aside, whatever stands in the directory's place now."""
        self.run(name, f"systemctl stop {self.unit}; rm -rf {self.data}; mv {self.data}.kept {self.data}; systemctl start {self.unit}")

    def wait_until_whole(self) -> None:
        for name in self.fleet.replicas:
            eventually(lambda name=name: self.streams(name), seconds=120, what=f"{name} streams again")  # type: ignore[misc]


@pytest.fixture(scope="session")
def stand_ins(fleet: Fleet, pytestconfig: pytest.Config) -> StandIns:
    return StandIns(fleet, str(Path(pytestconfig.getoption("ansible_inventory")).resolve()))


@pytest.fixture
def restore(stand_ins: StandIns) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Call it with what undoes a fault before the fault; all are run, last first, and the fleet is whole again."""
    undo: list[Callable[[], object]] = []
    yield undo.append
    for action in reversed(undo):
        action()
    stand_ins.wait_until_whole()
