"""Ask one node for its facts and its PostgreSQL state, and tell in a sentence why it could not be asked."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase


def first_words(text: str) -> str:
    """The last line that says something, without the client's own noise."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def explain(node: str, address: str, user: str, result: dict[str, Any]) -> str:
    """A failed module result as a sentence: what, where, what to type next."""
    said = " ".join(str(result.get(key, "")) for key in ("msg", "module_stderr", "module_stdout", "exception"))
    if "sudo" in said or "become" in said.lower() or "a password is required" in said:
        return (f"{node}: {user} is not root and may not use sudo without a password. On {node}, as root: "
                f"echo '{user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{user} (or run with --ask-become-pass).")
    if result.get("rc") == 127 or "not found" in said:
        return f"{node} has no Python at /usr/bin/python3. On {node}, as root: apt-get install python3"
    return f"{node} ({address}) could not be asked: {first_words(said)}"


class ActionModule(ActionBase):
    """Runs setup and postgresql_node_state in one task; a node that cannot be asked is a finding, not a failure."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = dict(self._task.args)
        subset = arguments.pop("gather_subset", None)
        node = self._task.delegate_to or variables.get("inventory_hostname", "")
        address = str(self._play_context.remote_addr or node)
        user = str(self._play_context.remote_user or variables.get("ansible_user", "the user"))
        facts: dict[str, Any] = {}
        try:
            if subset:
                gathered = self._execute_module("ansible.builtin.setup", {"gather_subset": subset}, task_vars=variables)
                if gathered.get("failed"):
                    return self._silent(explain(node, address, user, gathered), gathered)
                facts = gathered["ansible_facts"]
            state = self._execute_module("postgresql_node_state", arguments, task_vars=variables)
        except AnsibleConnectionFailure as error:
            return self._silent(
                f"{node} ({address}) does not answer over SSH: {first_words(error.message)} "
                f"Start it, then try: ansible {node} -m ping", {})
        except AnsibleError as error:
            return self._silent(explain(node, address, user, {"msg": str(error)}), {})
        if state.get("failed"):
            return self._silent(explain(node, address, user, state), state)
        found = {key: value for key, value in state.items() if key not in ("invocation", "changed")}
        return {"changed": False, "ansible_facts": facts, "state": {"reachable": True, "problem": "", **found}}

    @staticmethod
    def _silent(problem: str, result: dict[str, Any]) -> dict[str, Any]:
        return {"changed": False, "state": {"reachable": False, "problem": problem}}
