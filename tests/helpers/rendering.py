"""The files that a role would write on a node, rendered on the controller: no machine, no task is run."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.inventory import Inventory, Unresolvable, trusted
from helpers.repository import ROOT, playbooks, read_yaml, relative, tasks

# What a Debian 13 machine answers when it is asked about itself.
FACTS = {
    "architecture": "x86_64",
    "distribution": "Debian",
    "distribution_major_version": "13",
    "distribution_release": "trixie",
    "distribution_version": "13",
    "memtotal_mb": 4096,
    "os_family": "Debian",
    "packages": {},
    "pkg_mgr": "apt",
    "processor_vcpus": 2,
    "python_version": "3.13.5",
    "python": {"version": {"major": 3, "minor": 13}},
    "service_mgr": "systemd",
}

# A value for every secret that the inventories know, so that it is found wherever it lands.
SECRETS = {
    name: f"Sentinel{name.title().replace('_', '')}4711"
    for name in read_yaml(ROOT / "group_vars/env_docker/secrets.yml")
}

_TEMPLATE = ("ansible.builtin.template", "template")
_COPY = ("ansible.builtin.copy", "copy")
_MANAGED = ("managed_files",)


@dataclass(frozen=True)
class Written:
    """One file as it would stand on a node."""

    role: str
    host: str
    path: str
    mode: str
    content: str


def fleet(inventory: str) -> Inventory:
    return Inventory(ROOT / inventory, extra={**SECRETS, **{name.replace("secret_", "vault_", 1): value for name, value in SECRETS.items()}})


@functools.cache
def hosts_of_roles() -> dict[str, str]:
    """{role: the pattern of the play that uses it}, from the playbooks that deploy."""
    found = {}
    for path in playbooks():
        if path.startswith("playbooks/ops/"):
            continue
        for play in read_yaml(ROOT / path):
            for role in play.get("roles", []):
                found[role["role"] if isinstance(role, dict) else role] = play["hosts"]
    return found


def files_of(inventory: Inventory, role: str, answers: Mapping[str, Any]) -> list[Written]:
    """Every file that the role writes on every node it is meant for; `answers` stand for its registers and facts."""
    pattern = hosts_of_roles().get(role, "all")
    hosts = inventory.hosts if pattern == "all" else inventory.groups.get(pattern, [])
    return [file for host in hosts for file in _files_on(inventory, role, host, answers)]


def _files_on(inventory: Inventory, role: str, host: str, answers: Mapping[str, Any]) -> Iterator[Written]:
    folder = ROOT / "roles" / role
    known = {
        **inventory.variables(host, roles=[role]),
        "ansible_facts": FACTS,
        "ansible_managed": "Ansible managed",
        "ansible_search_path": [str(folder)],
        "role_name": role,
        "role_path": str(folder),
        "playbook_dir": str(ROOT / "playbooks"),
        **trusted(dict(answers)),
    }
    for tasks_file in sorted((folder / "tasks").glob("*.yml")):
        for task in tasks(read_yaml(tasks_file)):
            for local in _turns(inventory, task, {**known, **trusted(task.get("vars") or {})}):
                yield from _files_of_task(inventory, task, role, host, local)


def _turns(inventory: Inventory, task: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The variables of each turn of the task's loop; none when its condition is known not to hold."""
    if not any(name in task for name in (*_TEMPLATE, *_COPY, *_MANAGED)):
        return
    turns: list[Mapping[str, Any]] = [known]
    if "loop" in task:
        item = (task.get("loop_control") or {}).get("loop_var", "item")
        turns = [{**known, item: value} for value in inventory.resolve(trusted(task["loop"]), known)]
    for turn in turns:
        try:
            wanted = "when" not in task or inventory.holds(task["when"], turn)
        except Unresolvable:
            wanted = True  # what the machine will answer decides: rendered all the same
        if wanted:
            yield turn


def _files_of_task(
    inventory: Inventory, task: Mapping[str, Any], role: str, host: str, known: Mapping[str, Any]
) -> Iterator[Written]:
    for module in (*_TEMPLATE, *_COPY, *_MANAGED):
        if module not in task:
            continue
        arguments = trusted(task[module])
        if module in _MANAGED:
            for file in inventory.resolve(arguments.get("files", []), known):
                yield Written(role, host, file["path"], str(file["mode"]), str(file["content"]))
        elif module in _TEMPLATE:
            source = str(inventory.resolve(arguments["src"], known))
            path = ROOT / "roles" / role / "templates" / source
            text = inventory.resolve_text(path.read_text(), known, [ROOT / "roles" / role])
            yield Written(role, host, *_where(inventory, arguments, known), text)
        elif "content" in arguments:
            yield Written(role, host, *_where(inventory, arguments, known), str(inventory.resolve(arguments["content"], known)))


def _where(inventory: Inventory, arguments: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[str, str]:
    return str(inventory.resolve(arguments["dest"], known)), str(inventory.resolve(arguments.get("mode", "0644"), known))


def templates_of(role: str) -> list[str]:
    folder = ROOT / "roles" / role / "templates"
    return sorted(relative(path) for path in folder.rglob("*") if path.is_file())


def mentioned_in(role: str, template: str) -> bool:
    """Whether any of the role's files names the template, whole or as part of a list without its suffix."""
    name = str(Path(template).relative_to(f"roles/{role}/templates"))
    texts = [path.read_text() for path in (ROOT / "roles" / role).rglob("*") if path.suffix in (".yml", ".j2")]
    return any(name in text or f"/{name.removesuffix('.j2')}" in text for text in texts)
