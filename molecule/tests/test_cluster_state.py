"""The fleet as a run finds it: the preflight goes on around the running primary, the status page has nothing to complain about."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.fleet import Fleet
from helpers.repository import ROOT


@pytest.fixture(scope="module")
def inventory(pytestconfig: pytest.Config) -> str:
    return str(pytestconfig.getoption("ansible_inventory"))


def play(inventory: str, playbook: str, *arguments: str) -> str:
    """What a playbook says; it must end well and change nothing."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), *(word for source in inventory.split(",") for word in ("-i", str(Path(source).resolve()))),
         f"playbooks/{playbook}", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"changed=(\d+)", done.stdout)) == {"0"}
    return done.stdout


@pytest.mark.parametrize("arguments", [[], ["--check"]])
def test_the_preflight_goes_on_around_the_running_primary(inventory: str, primary: str, arguments: list[str]) -> None:
    assert f"cluster_state_primary: {primary}" in play(inventory, "preflight.yml", "-v", *arguments)


def test_the_preflight_knows_the_primary_also_when_it_is_outside_the_limit(inventory: str, fleet: Fleet, primary: str) -> None:
    outside = next(name for name in fleet.inventory.hosts if name != primary)
    assert f"cluster_state_primary: {primary}" in play(inventory, "preflight.yml", "-v", "--limit", outside)


def test_the_status_page_shows_every_node_and_no_promise_is_broken(inventory: str, fleet: Fleet, primary: str, replicas: list[str]) -> None:
    page = play(inventory, "ops/status.yml")
    shown = dict(re.findall(r"^(\S+) +(primary|replica|-) +(?:\d+|-) ", page, re.MULTILINE))
    others = {name: "-" for name in fleet.inventory.hosts if name not in (primary, *replicas)}
    assert shown == {primary: "primary", **dict.fromkeys(replicas, "replica"), **others}
