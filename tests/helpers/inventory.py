"""An inventory as Ansible sees it, with every variable resolved.

Answers come from Ansible's own inventory, variable and template code, in this process: one second for
a whole inventory, where a playbook that prints its variables takes several.
"""

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.repository import ROOT

# Read when ansible is imported: the same settings whatever the current directory.
os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")

from ansible import constants
from ansible.cli import CLI
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

with contextlib.suppress(ValueError):  # another module of this process was first
    init_plugin_loader()

Unresolvable = AnsibleError


class Inventory:
    """One inventory, or several merged, with group_vars, vault files and extra variables.

    Raises ansible's own AnsibleError for an inventory that cannot be parsed and for a value that
    cannot be resolved.
    """

    def __init__(self, *sources: str | Path, extra: Mapping[str, Any] | None = None) -> None:
        self._loader = _loader()
        self._manager = InventoryManager(loader=self._loader, sources=[str(source) for source in sources])
        self._variables = VariableManager(loader=self._loader, inventory=self._manager)
        self._variables._extra_vars = {name: _trusted(value) for name, value in (extra or {}).items()}
        HostVars(inventory=self._manager, variable_manager=self._variables, loader=self._loader)

    @property
    def hosts(self) -> list[str]:
        return sorted(host.name for host in self._manager.get_hosts())

    @property
    def groups(self) -> dict[str, list[str]]:
        """{group name: node names}, groups of groups included."""
        return {name: sorted(nodes) for name, nodes in self._manager.get_groups_dict().items()}

    def variables(self, host: str, *, roles: Sequence[str] = ()) -> dict[str, Any]:
        """Every variable of a node as written, not resolved; below it the defaults, above it the vars of `roles`."""
        written: dict[str, Any] = {
            # What a play over every node of the inventory says beside them.
            "ansible_play_hosts": self.hosts,
            "ansible_play_hosts_all": self.hosts,
            "ansible_check_mode": False,
            "ansible_diff_mode": False,
            # What the preflight publishes; without it nobody knows who is primary.
            "cluster_state_known": True,
        }
        for role in roles:
            written |= self._role_file(role, "defaults")
        written |= self._variables.get_vars(host=self._manager.get_host(host))
        for role in roles:
            written |= self._role_file(role, "vars")
        return written

    def value(self, host: str, name: str, *, roles: Sequence[str] = (), **more: Any) -> Any:
        """One variable of a node, resolved. KeyError when nothing defines it."""
        known = {**self.variables(host, roles=roles), **more}
        return self.resolve(known[name], known)

    def values(self, host: str, *, roles: Sequence[str] = ()) -> dict[str, Any]:
        """Every variable of a node that can be resolved without the machine, secrets left out."""
        known = self.variables(host, roles=roles)
        resolved = {}
        for name, written in known.items():
            if name.startswith(("secret_", "vault_")):
                continue
            try:
                resolved[name] = self.resolve(written, known)
            except AnsibleError:
                continue
        return resolved

    def resolve(self, written: Any, known: Mapping[str, Any]) -> Any:
        """A template, or data that holds templates, resolved with the variables in `known`."""
        return Templar(loader=self._loader, variables=dict(known)).template(written)

    def resolve_text(self, text: str, known: Mapping[str, Any], search: Sequence[Path]) -> str:
        """The text of a template file, rendered as ansible.builtin.template does."""
        templar = Templar(loader=self._loader, variables={**known, "ansible_search_path": [str(path) for path in search]})
        templar = templar.copy_with_new_env(
            searchpath=[str(path) for folder in search for path in (folder / "templates", folder)],
        )
        return str(templar.template(trust_as_template(text), escape_backslashes=False, overrides={"trim_blocks": True}))

    def holds(self, condition: Any, known: Mapping[str, Any]) -> bool:
        """Whether a `when` holds with the variables in `known`."""
        conditions = condition if isinstance(condition, list) else [condition]
        templar = Templar(loader=self._loader, variables=dict(known))
        return all(templar.evaluate_conditional(_trusted(one)) for one in conditions)

    def _role_file(self, role: str, folder: str) -> dict[str, Any]:
        path = ROOT / "roles" / role / folder / "main.yml"
        return self._loader.load_from_file(str(path), trusted_as_template=True) or {} if path.exists() else {}


@functools.cache
def _loader() -> DataLoader:
    """One for the whole process: Ansible takes the vault's secrets once and keeps what it has read."""
    loader = DataLoader()
    loader.set_basedir(str(ROOT / "playbooks"))
    password_file = constants.DEFAULT_VAULT_PASSWORD_FILE
    loader.set_vault_secrets(
        CLI.setup_vault_secrets(
            loader,
            vault_ids=list(constants.DEFAULT_VAULT_IDENTITY_LIST),
            vault_password_files=[password_file] if password_file else [],
            auto_prompt=False,
        )
    )
    return loader


def trusted(value: Any) -> Any:
    """Data from a test or a task file, whose templates may be resolved."""
    return _trusted(value)


def _trusted(value: Any) -> Any:
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, list):
        return [_trusted(item) for item in value]
    if isinstance(value, dict):
        return {key: _trusted(item) for key, item in value.items()}
    return value
