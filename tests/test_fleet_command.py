"""./fleet, the front door: what it says and does when something is missing. Programs are stand-ins on a PATH of their own."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.repository import ROOT

# What a bare machine has.
SYSTEM = ("awk", "basename", "bash", "cat", "cut", "date", "dirname", "df", "env", "flock", "grep", "head", "id", "mkdir", "mktemp", "ps",
          "readlink", "rm", "mv", "sed", "setsid", "sha256sum", "sleep", "sort", "stat", "tail", "timeout", "tr", "wc", "xargs")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What ./fleet itself is made of, in a folder of its own."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("fleet", "lib", "requirements.txt", "requirements.yml", "requirements-collections.txt", "ansible.cfg"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copy(source, folder / name)
    return folder


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in SYSTEM:
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    return folder


@pytest.fixture
def fleet(checkout: Path, programs: Path) -> Run:
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {"PATH": str(programs), "HOME": str(checkout), **environment}
        return subprocess.run([str(checkout / "fleet"), *arguments], env=clean, capture_output=True, text=True, check=False, timeout=600,
                              stdin=subprocess.DEVNULL)
    return run


def write(folder: Path, name: str, script: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


def sentence(result: subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error of a command that failed."""
    assert result.returncode != 0
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def ready(checkout: Path, programs: Path) -> None:
    """A controller that is finished: its stamps are written by the functions that will read them."""
    (checkout / ".venv/bin").mkdir(parents=True)
    for name in ("ssh", "ssh-keygen", "python3"):
        write(programs, name, "exit 0")
    write(checkout / ".venv/bin", "python", "exit 0")
    (checkout / ".collections").mkdir()
    stamps = "source lib/controller.sh; venv_stamp >.venv/.stamp; collections_stamp >.collections/.stamp"
    subprocess.run(["bash", "-c", stamps], cwd=checkout, env={"PATH": str(programs)}, check=True)


def test_help_names_every_command(fleet: Run) -> None:
    said = fleet("--help").stdout
    assert all(f"\n  {command} " in said for command in ("up", "status", "demo", "test", "down"))


def test_unknown_command_is_refused(fleet: Run) -> None:
    refused = fleet("upp")
    assert refused.returncode != 0
    assert "There is no command 'upp'." in refused.stderr


@pytest.mark.parametrize("slot", ["6", "-1", "one", "01"])
def test_slot_outside_the_ports_is_refused(fleet: Run, slot: str) -> None:
    assert "must be a digit from 0 to 5" in sentence(fleet("up", PGFLEET_SLOT=slot))


def test_status_without_a_fleet_fails(fleet: Run) -> None:
    assert sentence(fleet("status")) == "No fleet is running here: type ./fleet up."


def test_sentences_repeat_the_slot(fleet: Run) -> None:
    assert sentence(fleet("status", PGFLEET_SLOT="3")) == "No fleet is running here: type PGFLEET_SLOT=3 ./fleet up."


def test_down_without_a_fleet_says_so(fleet: Run) -> None:
    done = fleet("down", "--yes")
    assert done.returncode == 0
    assert "There is no fleet pgfleet here." in done.stdout


def test_python_that_is_too_old_is_named(fleet: Run, programs: Path) -> None:
    write(programs, "python3", 'case $1 in --version) echo Python 3.10.12 ;; *) exit 1 ;; esac')
    said = sentence(fleet("up"))
    assert "Python 3.11 or newer is needed and this machine has Python 3.10.12" in said
    assert "then type ./fleet up" in said


def test_user_without_root_is_told(fleet: Run, programs: Path) -> None:
    write(programs, "apt-get", "exit 0")
    write(programs, "id", "case $1 in -u) echo 1000 ;; *) echo somebody ;; esac")
    assert "needs root, and sudo is not installed: run ./fleet up as root." in sentence(fleet("up"))


def test_missing_engine_outside_debian_says_what_to_install(fleet: Run, checkout: Path, programs: Path) -> None:
    ready(checkout, programs)
    assert sentence(fleet("up")).startswith("No container engine answers: install Docker")


def test_a_client_without_an_engine_is_no_engine(fleet: Run, checkout: Path, programs: Path) -> None:
    ready(checkout, programs)
    write(programs, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    assert sentence(fleet("up")).startswith("No container engine answers: install Docker")


def test_engine_elsewhere_that_does_not_answer_is_named(fleet: Run, checkout: Path, programs: Path) -> None:
    ready(checkout, programs)
    write(programs, "docker", "exit 1")
    assert "DOCKER_HOST=tcp://192.0.2.1:2375" in sentence(fleet("up", DOCKER_HOST="tcp://192.0.2.1:2375"))


def test_full_disk_is_said_before_anything_is_written(fleet: Run, checkout: Path, programs: Path) -> None:
    ready(checkout, programs)
    shutil.rmtree(checkout / ".collections")
    write(programs, "df", "printf 'Filesystem M U Available C Mounted\\n/dev/x 1 1 12 99%% /home\\n'")
    said = sentence(fleet("up"))
    assert "Only 12 MB are free on /home" in said
    assert not (checkout / ".collections").exists()


def test_down_does_not_remove_data_unasked(fleet: Run, checkout: Path, programs: Path) -> None:
    ready(checkout, programs)
    write(programs, "docker", "exit 0")
    write(checkout / ".venv/bin", "ansible-playbook", f": >{checkout}/ran")
    assert "would remove the data of fleet pgfleet: type ./fleet down --yes" in sentence(fleet("down"))
    assert not (checkout / "ran").exists()
    assert fleet("down", "--yes").returncode == 0
    assert (checkout / "ran").exists()


def ready_to_test(checkout: Path, programs: Path) -> None:
    """Every program that ./fleet test calls is there, and finds nothing wrong."""
    ready(checkout, programs)
    for name in ("docker", "git", "gpg"):
        write(programs, name, "exit 0")
    for name in ("ansible-lint", "yamllint", "shellcheck", "ruff", "mypy", "molecule"):
        write(checkout / ".venv/bin", name, "exit 0")
    write(checkout / ".venv/bin", "pytest", "echo 7 passed in 0.10s")
    (checkout / "app").mkdir()
    (checkout / "molecule/shared/image").mkdir(parents=True)
    write(checkout / "molecule/shared/image", "build", "exit 0")


def test_the_checks_end_with_their_sum(fleet: Run, checkout: Path, programs: Path) -> None:
    ready_to_test(checkout, programs)
    done = fleet("test")
    assert (done.returncode, done.stderr) == (0, "")
    # Five linters, four suites of seven tests, two scenarios that name no tests.
    assert done.stdout.splitlines()[-1] == f"{5 + 4 * 7 + 2} passed, 0 failed"


def test_a_failed_check_fails_the_whole_and_is_in_the_sum(fleet: Run, checkout: Path, programs: Path) -> None:
    ready_to_test(checkout, programs)
    write(checkout / ".venv/bin", "molecule", "exit 3")
    failed = fleet("test")
    assert failed.returncode != 0
    assert "molecule default failed" in failed.stderr
    assert failed.stdout.splitlines()[-1].endswith(" passed, 1 failed")


def test_a_second_run_waits_for_the_first(fleet: Run, checkout: Path, programs: Path) -> None:
    ready(checkout, programs)
    (checkout / ".cache").mkdir()
    write(programs, "flock", "exit 1")
    assert "Another ./fleet is at work here" in sentence(fleet("up"))


def test_failed_step_shows_its_end_and_what_to_type(fleet: Run, checkout: Path, programs: Path) -> None:
    ready(checkout, programs)
    write(programs, "docker", "exit 0")
    write(checkout / ".venv/bin", "ansible-playbook", "echo the reason; exit 2")
    failed = fleet("down", "--yes")
    assert "    the reason" in failed.stdout
    assert "then type ./fleet down --yes" in sentence(failed)


def test_a_function_of_a_step_stops_where_it_fails(checkout: Path, programs: Path) -> None:
    """An unfinished .venv must never be stamped."""
    for name in ("ssh", "ssh-keygen"):
        write(programs, name, "exit 0")
    write(programs, "python3", 'case "$*" in "-m venv"*) mkdir .venv; exit 1 ;; esac')
    failed = subprocess.run([str(checkout / "fleet"), "up"], env=os.environ | {"PATH": str(programs)}, capture_output=True, text=True,
                            check=False, timeout=600)
    assert failed.returncode != 0
    assert "packages into .venv" in failed.stdout
    assert not (checkout / ".venv/.stamp").exists()
