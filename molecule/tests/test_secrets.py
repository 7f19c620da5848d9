"""Every node, and the controller: no secret of the fleet is where someone else could read it."""

import json
from pathlib import Path

import pytest

from helpers.fleet import Fleet
from helpers.repository import ROOT

testinfra_hosts = ["ansible://all"]

# Runs on the node as root. The secrets come on standard input: a command line would be a leak of its own.
SEARCH = r"""
import json, os, stat, subprocess, sys

place, secrets = json.load(sys.stdin)
found = set()

def search(name, data):
    for secret, value in secrets.items():
        if value.encode() in data:
            found.add((secret, name))

def files(top, of_everyone):
    for folder, folders, names in os.walk(top):
        if of_everyone:
            # What the world may not enter, it cannot read.
            folders[:] = [f for f in folders if os.lstat(os.path.join(folder, f)).st_mode & 0o001]
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode) and (not of_everyone or status.st_mode & 0o004) and status.st_size < 64 << 20:
                    with open(path, "rb") as file:
                        search(path, file.read())
            except FileNotFoundError:
                continue

if place == "journal":
    search("journal", subprocess.run(["journalctl", "--no-pager", "--output=export"], stdout=subprocess.PIPE, check=True).stdout)
elif place == "logs":
    for top in ("/var/log",):
        files(top, False)
elif place == "processes":
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/cmdline", "rb") as file:
                search(f"command line of process {process}", file.read())
        except (FileNotFoundError, ProcessLookupError):
            continue
elif place == "files":
    for top in ("/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var/lib", "/var/tmp"):
        if os.path.isdir(top) and os.stat(top).st_mode & 0o001:
            files(top, True)
print(json.dumps(sorted(found)))
"""


@pytest.mark.parametrize("place", ["journal", "logs", "processes", "files"])
def test_no_secret_is_where_others_could_read_it(fleet: Fleet, name: str, place: str) -> None:
    assert fleet.secrets
    searched = fleet.run(name, ["python3", "-c", SEARCH], stdin=json.dumps([place, fleet.secrets]))
    assert searched.returncode == 0, searched.stderr
    assert json.loads(searched.stdout) == [], "[[which secret, where]]"


def test_no_secret_is_in_a_file_of_the_controller_but_its_own(fleet: Fleet) -> None:
    elsewhere = {".git", ".secrets", ".venv", ".collections", "__pycache__"}
    found = [
        (secret, str(path.relative_to(ROOT)))
        for top in ROOT.iterdir() if top.name not in elsewhere
        for path in (top.rglob("*") if top.is_dir() and not top.is_symlink() else [top])
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 64 << 20
        for secret, value in fleet.secrets.items() if value.encode() in path.read_bytes()
    ]
    assert found == []


def test_the_generated_secrets_are_for_their_owner_only(fleet: Fleet) -> None:
    folder = fleet.variables(fleet.inventory.hosts[0]).get("standin_secrets")
    if not folder:
        pytest.skip("nothing is generated for this inventory: its secrets come from a vault")
    generated = [Path(folder), *Path(folder).rglob("*")]
    assert len(generated) > len(fleet.secrets)
    assert [str(path) for path in generated if path.stat().st_mode & 0o077 and path.suffix != ".pub"] == []
