"""A running fleet, for tests: its inventory resolved, its nodes reached over SSH, its servers asked."""

import functools
import json
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
import testinfra
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

from helpers.inventory import Inventory
from helpers.repository import roles

T = TypeVar("T")


class SqlError(Exception):
    """A statement that the server refused: its SQLSTATE and what it said."""

    def __init__(self, node: str, sqlstate: str, message: str) -> None:
        super().__init__(f"{node}: {sqlstate} {message}")
        self.sqlstate = sqlstate


class Variables(Mapping[str, Any]):
    """The variables of one node, the roles' defaults below them, each resolved when it is asked for."""

    def __init__(self, inventory: Inventory, node: str) -> None:
        self._inventory = inventory
        self._written = inventory.variables(node, roles=roles())

    def __getitem__(self, name: str) -> Any:
        return self._inventory.resolve(self._written[name], self._written)

    def __iter__(self) -> Iterator[str]:
        return iter(self._written)

    def __len__(self) -> int:
        return len(self._written)


class Fleet:
    """The nodes of one inventory. Everything that is asked of a node goes over one SSH connection to it, as root."""

    def __init__(self, inventory: str) -> None:
        self._option = inventory
        self._variables: dict[str, Variables] = {}
        self._sockets = tempfile.TemporaryDirectory(prefix="pgfleet-ssh-")
        self.inventory = Inventory(*(Path(source).resolve() for source in inventory.split(",")))
        self._reached = {name: self._reached_by(name) for name in self.inventory.hosts}
        # testinfra reads `ansible-inventory --list`, which does not resolve templates: hand it what it would read if it did.
        AnsibleRunner.get_runner(inventory).inventory = {
            "_meta": {"hostvars": self._reached},
            **{group: {"hosts": nodes} for group, nodes in self.inventory.groups.items()},
        }

    def _reached_by(self, name: str) -> dict[str, Any]:
        known = self.inventory.variables(name)
        reached: dict[str, Any] = {
            key: self.inventory.resolve(known[key], known)
            for key in ("ansible_host", "ansible_port", "ansible_user", "ansible_connection",
                        "ansible_ssh_private_key_file", "ansible_ssh_common_args")
            if key in known
        }
        common = reached.get("ansible_ssh_common_args", "")
        reached["ansible_ssh_common_args"] = f"{common} -o ControlPath={self._sockets.name}/%C".strip()
        return {**reached, "ansible_become": True}

    def run(self, name: str, command: list[str], *, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """A command as root on a node, with something on its standard input: the place for what no process list may show."""
        reached = self._reached[name]
        words = ["sudo", *command]
        if reached.get("ansible_connection") != "local":
            options = {"Port": "ansible_port", "User": "ansible_user", "IdentityFile": "ansible_ssh_private_key_file"}
            words = [
                "ssh", *shlex.split(reached["ansible_ssh_common_args"]), "-o", "ControlMaster=auto", "-o", "ControlPersist=60s",
                *(word for option, key in options.items() if key in reached for word in ("-o", f"{option}={reached[key]}")),
                reached.get("ansible_host", name), shlex.join(words),
            ]
        return subprocess.run(words, input=stdin, capture_output=True, text=True, check=False, timeout=600)

    def close(self) -> None:
        """End the shared connections."""
        for socket in Path(self._sockets.name).iterdir():
            subprocess.run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "any"], capture_output=True, check=False)
        self._sockets.cleanup()

    def group(self, name: str) -> list[str]:
        """The names of a group's nodes; empty when the inventory has no such group."""
        return self.inventory.groups.get(name, [])

    def node(self, name: str) -> Host:
        return testinfra.get_host(f"ansible://{name}", ansible_inventory=self._option)

    def variables(self, name: str) -> Variables:
        if name not in self._variables:
            self._variables[name] = Variables(self.inventory, name)
        return self._variables[name]

    @functools.cached_property
    def secrets(self) -> dict[str, str]:
        """{name: value} of every secret the inventory knows; never print it."""
        known = self.variables(self.inventory.hosts[0])
        return {name: str(known[name]) for name in known if name.startswith("secret_")}

    def psql(self, name: str, statement: str, *, database: str = "postgres", role: str | None = None) -> list[list[str]]:
        """The rows of a statement, run over the node's socket as its superuser, optionally as another role.

        Raises SqlError when the server refuses. NULL is an empty string; each statement has two minutes.
        """
        port = self.variables(name)["postgresql_port"]
        done = self.run(
            name,
            ["sudo", "-u", "postgres", "env", "-C", "/", "PGOPTIONS=-c statement_timeout=2min",
             "psql", "-XqAt", "-F", "\x1f", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "-p", str(port), "-d", database],
            stdin=(f"SET ROLE {role};\n" if role else "") + statement,
        )
        if done.returncode != 0:
            refused = re.search(r"(?:ERROR|FATAL): +(\w{5}): (.*)", done.stderr)
            raise SqlError(name, *(refused.groups() if refused else ("?????", done.stderr.strip())))
        return [line.split("\x1f") for line in done.stdout.splitlines() if line]

    def value(self, name: str, statement: str, *, database: str = "postgres", role: str | None = None) -> str:
        """The one value of a statement that has one."""
        rows = self.psql(name, statement, database=database, role=role)
        assert [len(row) for row in rows] == [1], f"{name}: {len(rows)} rows instead of one value: {statement}"
        return rows[0][0]

    @functools.cached_property
    def roles(self) -> dict[str, str]:
        """{database node: "primary" or "replica"}, as the running servers say."""
        return {
            name: "replica" if self.value(name, "SELECT pg_is_in_recovery()") == "t" else "primary"
            for name in self.group("postgres_cluster")
        }

    @property
    def primary(self) -> str:
        writable = [name for name, role in self.roles.items() if role == "primary"]
        assert len(writable) == 1, f"writable nodes: {writable or 'none'}"
        return writable[0]

    @property
    def replicas(self) -> list[str]:
        return [name for name, role in self.roles.items() if role == "replica"]

    def fetch(self, name: str, url: str) -> tuple[int, str]:
        """Status and body of a GET, sent from the node itself; (0, reason) when nothing answers."""
        script = (
            "import json, sys, urllib.request, urllib.error\n"
            "try:\n"
            "    with urllib.request.urlopen(sys.argv[1], timeout=60) as answer:\n"
            "        print(json.dumps([answer.status, answer.read().decode()]))\n"
            "except urllib.error.HTTPError as error:\n"
            "    print(json.dumps([error.code, error.read().decode()]))\n"
            "except OSError as error:\n"
            "    print(json.dumps([0, str(error)]))\n"
        )
        status, body = json.loads(self.node(name).check_output("python3 -c %s %s", script, url))
        return status, body


# Where pytest's configuration keeps the fleet of this session.
FLEET = pytest.StashKey[Fleet]()


def eventually(question: Callable[[], T | None], *, seconds: float, what: str) -> T:
    """The first true answer to a question, asked until the deadline; then an AssertionError that says what was awaited."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what} (last answer: {answer!r})"
        time.sleep(0.1)
