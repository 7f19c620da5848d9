"""Ask one node for its facts and its PostgreSQL state, and tell in a sentence why it could not be asked."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

# A connection that fails within this time was refused; a later failure is silence that has lasted long enough.
QUICK_SECONDS = 3.0


def reason(text: str) -> str:
    """What ssh itself said, without what surrounds it."""
    if "privilege escalation prompt" in str(text):
        return "it is frozen or overloaded"
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[-1].rpartition("ssh: ")[2].rstrip(".: ") if lines else "no reason given"


def explain(node: str, address: str, user: str, result: dict[str, Any]) -> str:
    """A failed module result as a sentence: what, where, what to type next."""
    said = " ".join(str(result.get(key, "")) for key in ("msg", "module_stderr", "module_stdout"))
    if "sudo" in said or "become" in said.lower() or "a password is required" in said:
        return (f"{node}: {user} is not root and may not use sudo without a password. On {node}, as root: "
                f"echo '{user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{user} (or run with --ask-become-pass).")
    if result.get("rc") == 127 or "not found" in said:
        return f"{node} has no Python at /usr/bin/python3. On {node}, as root: apt-get install python3"
    return f"{node} ({address}) could not be asked: {reason(said)}"


def port_problems(node: str, wanted: list[dict[str, Any]], owners: dict[str, Any], own_pid: int | None) -> list[str]:
    """A port that a stranger listens on; our own service, or a server on our data directory, may."""
    problems = []
    for entry in wanted:
        owner = owners.get(str(entry["port"]))
        if not owner or owner["unit"] == entry["unit"] or (own_pid and owner["pid"] == own_pid):
            continue
        unit = f", unit {owner['unit']}" if owner["unit"] else ""
        problems.append(f"{node}: port {entry['port']}, which {entry['unit']} needs, is taken by {owner['process']} "
                        f"(pid {owner['pid']}{unit}): stop that, or choose another port with {entry['setting']}.")
    return problems


def space_problems(node: str, wanted: list[dict[str, Any]], free: dict[str, int]) -> list[str]:
    """A directory with less room than what we are about to put there needs."""
    return [
        f"{node}: {entry['path']} has {free[entry['path']] // 10**6} MB free and needs "
        f"{int(entry['minimum_free_bytes']) // 10**6} MB: make room there (df -h {entry['path']}), then run the same command again."
        for entry in wanted if free[entry["path"]] < int(entry["minimum_free_bytes"])
    ]


def address_problems(node: str, address: str, state: dict[str, Any], has_peers: bool) -> list[str]:
    """An address that services could not listen on, or at which no other node of the cluster reaches them."""
    if not state.get("own_addresses") or (state.get("address_is_loopback") and not has_peers):
        return []
    own = ", ".join(state["own_addresses"])
    fault = (f"{address} is only a loopback address on it (look at its /etc/hosts; its own are {own}), so no other node would reach it"
             if state.get("address_is_loopback") else f"{address} is none of its own addresses ({own}), so no server could listen there")
    return [f"{node}: {fault}: set node_address of {node} in the inventory to the one at which the other nodes reach it."]


def distribution_problems(node: str, facts: dict[str, Any], supported: list[str], repository: str | None) -> list[str]:
    """A distribution that we do not know, or one without the packages that are asked of it."""
    name = str(facts["ansible_distribution"])
    version = str(facts["ansible_distribution_version"])
    here = next((entry for entry in supported if entry in (f"{name} {version}", f"{name} {version.split('.')[0]}")), None)
    if here is None:
        return [f"{node} runs {name} {version}; supported are {', '.join(supported)}: install one of these on it."]
    if repository == "distribution" and here != "Debian 13":
        return [f"{node} runs {here}, which does not carry PostgreSQL 17: set postgresql_repository: pgdg in group_vars/all/cluster.yml."]
    return []


class ActionModule(ActionBase):
    """Runs setup and postgresql_node_state in one task; a node that cannot be asked is a finding, not a failure."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = dict(self._task.args)
        subset = arguments.pop("gather_subset", None)
        supported = arguments.pop("distributions", [])
        repository = arguments.pop("repository", None)
        ports = arguments.pop("ports", [])
        directories = arguments.pop("directories", [])
        addresses = arguments.pop("addresses", [])
        own_address = str(arguments.get("address") or "")
        has_peers = bool(arguments.pop("has_peers", False))
        arguments["ports"] = [entry["port"] for entry in ports]
        arguments["directories"] = [entry["path"] for entry in directories]
        node = self._task.delegate_to or variables.get("inventory_hostname", "")
        address = f"{self._play_context.remote_addr or node} port {self._play_context.port or 22}"
        user = str(self._play_context.remote_user or variables.get("ansible_user", "the user"))
        facts: dict[str, Any] = {}
        if self._connection.has_option("reconnection_retries"):
            self._connection.set_option("reconnection_retries", 0)
        try:
            if subset:
                gathered = self._ask("ansible.builtin.setup", {"gather_subset": subset}, variables)
                if gathered.get("failed"):
                    return self._silent(explain(node, address, user, gathered))
                facts = gathered["ansible_facts"]
            state = self._ask("postgresql_node_state", arguments, variables)
        except AnsibleConnectionFailure as error:
            return self._silent(
                f"{node} ({address}) does not answer over SSH ({reason(error.message)}); "
                f"start it, then try: ansible {node} -m ping.")
        except AnsibleError as error:
            return self._silent(explain(node, address, user, {"msg": str(error)}))
        if state.get("failed"):
            return self._silent(explain(node, address, user, state))
        problems = port_problems(node, ports, state["ports"], state.get("pid"))
        problems += space_problems(node, directories, state["free_bytes"])
        problems += address_problems(node, own_address, state, has_peers)
        if facts:
            problems += distribution_problems(node, facts, supported, repository)
        found = {key: value for key, value in state.items() if key not in ("invocation", "changed")}
        return {"changed": False, "ansible_facts": facts, "state": {"reachable": True, "problems": problems,
                                             "addresses": addresses, **found}}

    def _ask(self, module: str, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """What a module answers. A busy server may refuse a connection, so a refusal is asked again, once; silence is not."""
        started = time.monotonic()
        try:
            return dict(self._execute_module(module, arguments, task_vars=variables))
        except AnsibleConnectionFailure:
            if time.monotonic() - started > QUICK_SECONDS:
                raise
            return dict(self._execute_module(module, arguments, task_vars=variables))

    @staticmethod
    def _silent(problem: str) -> dict[str, Any]:
        return {"changed": False, "state": {"reachable": False, "problems": [problem]}}
