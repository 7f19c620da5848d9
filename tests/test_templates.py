"""Every file that a role writes, rendered without a machine with the wiring of each inventory."""

import configparser
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from helpers.rendering import SECRETS, Written, files_of, fleet, mentioned_in, templates_of
from helpers.repository import ROOT, inventories, roles

# What roles learn from the machines before they write a file: {role: {register or fact: an answer}}.
ANSWERS: dict[str, dict[str, Any]] = {
    "base": {"__base_policy": {"stdout": " 500 https://mirror.example/debian trixie/main amd64 Packages\n"}},
    "postgres_exporter": {"__postgres_exporter_help": {"stdout": "", "stderr": (
        "  -h, --help                     Show help.\n      --config.file=\"postgres_exporter.yml\"  \n"
        "      --[no-]collector.postmaster  \n      --collector.stat_statements  \n")}},
}

every_role = pytest.mark.parametrize("role", [role for role in roles() if (ROOT / "roles" / role / "tasks").is_dir()])
every_inventory = pytest.mark.parametrize("inventory", inventories())

_fleet = functools.cache(fleet)


@functools.cache
def written(inventory: str, role: str) -> list[Written]:
    return files_of(_fleet(inventory), role, ANSWERS.get(role, {}))


def comment_of(content: str) -> str:
    lines = content.splitlines() or [""]
    return lines[1] if lines[0].startswith("#!") and len(lines) > 1 else lines[0]


def parse(file: Written) -> None:
    """Read the file as the program that it is for does, as far as its layout goes."""
    path = file.path
    if path.endswith((".yml", ".yaml")):
        yaml.safe_load(file.content)
    elif path.endswith(".json"):
        json.loads(file.content)
    elif path.endswith((".service", ".timer", ".socket", ".ini")) or "/systemd/" in path:
        parser = configparser.RawConfigParser(strict=False, allow_no_value=path.endswith(".ini"))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(file.content)
        assert parser.sections() or path.endswith(".ini"), "no section"
    elif path.endswith(("pg_hba.conf", "pg_ident.conf")):
        for line in settings(file.content):
            assert re.match(r"(local|host|hostssl|hostnossl|hostgssenc)\s+\S+\s+\S+\s+", line), line
    elif path.startswith("/etc/postgresql/") and path.endswith(".conf"):
        for line in settings(file.content):
            assert re.match(r"[a-z_.]+ *= *('([^']|'')*'|[\w.+-]+)\s*(#.*)?$", line), line
    elif path.endswith(".sources"):
        for line in settings(file.content):
            assert re.match(r"[A-Z][A-Za-z-]+: \S|\s+\S", line), line


def settings(content: str) -> list[str]:
    return [line for line in content.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@every_role
@every_inventory
def test_role_files_render_with_nothing_undefined(inventory: str, role: str) -> None:
    for file in written(inventory, role):
        assert file.path.startswith("/"), file.path
        assert not re.search(r"[=:] *None *$|object at 0x", file.content, re.MULTILINE), file.path


@every_role
@every_inventory
def test_role_files_can_be_parsed(inventory: str, role: str) -> None:
    for file in written(inventory, role):
        try:
            parse(file)
        except Exception as error:
            raise AssertionError(f"{file.host}:{file.path}: {error}") from error


@every_role
@every_inventory
def test_role_files_say_first_that_they_are_managed(inventory: str, role: str) -> None:
    # JSON knows no comments; a file that is read as one value cannot hold any.
    assert sorted({
        file.path for file in written(inventory, role)
        if not file.path.endswith((".json", ".asc", ".gpg")) and len(file.content.split()) > 1
        and not re.search(r"managed", comment_of(file.content), re.IGNORECASE)
    }) == []


@every_role
@every_inventory
def test_role_files_with_a_secret_are_for_their_owner_only(inventory: str, role: str) -> None:
    assert sorted({
        f"{file.path} {file.mode} {name}"
        for file in written(inventory, role)
        for name, value in SECRETS.items()
        if value in file.content and int(file.mode, 8) & 0o007
    }) == []


@every_role
@every_inventory
def test_role_files_listen_on_named_addresses(inventory: str, role: str) -> None:
    assert sorted({
        f"{file.path}: {line.strip()}"
        for file in written(inventory, role)
        for line in settings(file.content)
        if re.search(r"0\.0\.0\.0(?!/)|listen_addresses\s*=\s*'[^']*\*|\[::\]:\d|listen-address=:\d", line)
    }) == []


@every_role
@every_inventory
def test_role_files_hold_no_date(inventory: str, role: str) -> None:
    today = re.compile(r"\b20[2-9]\d-\d\d-\d\d \d\d:\d\d|\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun) (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) ")
    assert [file.path for file in written(inventory, role) if today.search(file.content)] == []


@every_role
def test_every_template_is_used(role: str) -> None:
    assert [path for path in templates_of(role) if not mentioned_in(role, path)] == []


@every_inventory
def test_files_do_not_depend_on_the_order_of_a_set(inventory: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, inventory], cwd=ROOT, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": "tests", "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    first, second = (set(process.communicate()[0].splitlines()) for process in processes)
    assert {process.returncode for process in processes} == {0}
    assert first ^ second == set()


def main(inventory: str) -> None:
    """One line for each file: what it holds, in short."""
    for role in roles():
        for file in written(inventory, role):
            print(file.role, file.host, file.path, hashlib.sha256(file.content.encode()).hexdigest()[:12])


if __name__ == "__main__":
    main(sys.argv[1])


def test_an_exporter_gets_no_option_that_it_does_not_know() -> None:
    options = {file.path: file.content for file in written("inventories/docker.yml", "postgres_exporter")}["/etc/default/prometheus-postgres-exporter"]
    assert re.findall(r"--(?:no-)?collector\.(\w+)", options) == ["postmaster", "stat_statements"]
    assert "--config.file=" in options


def test_an_exporter_older_than_its_configuration_is_given_none() -> None:
    told = {"__postgres_exporter_help": {"stdout": "", "stderr": "  --web.listen-address=\":9187\"  Address\n"}}
    files = {file.path: file.content for file in files_of(_fleet("inventories/docker.yml"), "postgres_exporter", told)}
    options = files["/etc/default/prometheus-postgres-exporter"]
    assert "collector" not in options
    assert "--config.file" not in options
    assert options.rstrip().endswith('"')
