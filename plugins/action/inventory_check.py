"""Read the inventory and its variables before any host is contacted, and say what is wrong with them.

The functions are pure: they take names and values and return sentences. Only ActionModule touches Ansible.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.action import ActionBase
from ansible.release import __version__ as ansible_version
from ansible.utils.vars import load_extra_vars

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE_MINIMUM = (2, 17)
PYTHON_MINIMUM = (3, 11)

GROUPS = ("postgres_cluster", "postgres_primary", "postgres_replicas", "monitoring", "routing_clients")
SHARED_PREFIXES = ("cluster_", "topology_", "standin_", "secret_", "vault_")
# Files whose names are offered as what was meant. Of those nobody edits, every name is right by definition.
HOMES = ("all/topology.yml", "all/cluster.yml", "env_docker/standins.yml", "env_docker/secrets.yml", "env_production/secrets.yml")
FIXED_PREFIXES = ("topology_", "standin_", "secret_")
FOREIGN_PREFIXES = ("ansible_", "inventory_", "molecule_", "__")
CLOSE = 0.86

SLOT_NAME_CHARACTERS = 63
SECRET_CHARACTERS = 12
SECRET_NAME = re.compile(r"password|secret|token|key")
PLACEHOLDER = re.compile(r"change[-_ ]?me|example|placeholder|replace[-_ ]?me|todo|password|xxx|^<.*>$|\.\.\.", re.IGNORECASE)

KEY = re.compile(r"^\s*(?:- )?[{]?\s*[\"']?([A-Za-z_]\w*)[\"']?:", re.MULTILINE)
SETTING = re.compile(r"^([a-z]\w*):", re.MULTILINE)
# A template only says where the secret is; a comment says nothing yet.
OPEN_SECRET = re.compile(r"^vault_\w+:[ \t]*(?!!vault|[\"']?\{\{|#)\S", re.MULTILINE)
WORD = re.compile(r"[a-z_][a-z0-9_]{3,}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one, when it is like it at all."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=CLOSE)
    return found[0] if found else None


def slot_name(node: str) -> str:
    return "slot_" + re.sub(r"[^a-z0-9]", "_", node.lower())


def group_problems(groups: Mapping[str, list[str]]) -> list[str]:
    """Who is what: one primary, nobody twice, no group that is nearly one of ours."""
    problems = []
    for group in groups:
        meant = None if group in GROUPS or group.startswith("env_") else nearest(group, GROUPS)
        if meant and meant not in groups:
            problems.append(f"The inventory has a group {group}: write {meant}.")
    if not groups.get("postgres_cluster"):
        problems.append("The inventory has no host in group postgres_cluster: copy the groups of inventories/production.example.yml.")
        return problems
    primaries = sorted(groups.get("postgres_primary", []))
    if not primaries:
        problems.append("The inventory names no primary: put one host into group postgres_primary.")
    if len(primaries) > 1:
        problems.append(f"The inventory names {len(primaries)} primaries ({', '.join(primaries)}): leave one in group "
                        "postgres_primary and move the others to postgres_replicas.")
    both = sorted(set(primaries) & set(groups.get("postgres_replicas", [])))
    if both:
        problems.append(f"{', '.join(both)} is in both postgres_primary and postgres_replicas: take it out of one.")
    outside = sorted((set(primaries) | set(groups.get("postgres_replicas", []))) - set(groups["postgres_cluster"]))
    if outside:
        problems.append(f"{', '.join(outside)} is a primary or a replica outside group postgres_cluster: "
                        "make postgres_primary and postgres_replicas children of postgres_cluster.")
    return problems


def node_problems(names: list[str], addresses: Mapping[str, str]) -> list[str]:
    """Names that become slots, addresses that reach one node each."""
    problems = []
    slots: dict[str, str] = {}
    for name in sorted(names):
        slot = slot_name(name)
        if len(slot) > SLOT_NAME_CHARACTERS:
            problems.append(f"The node name {name} is too long for a replication slot ({slot}): "
                            f"give it at most {SLOT_NAME_CHARACTERS - len('slot_')} characters.")
        elif slot in slots:
            problems.append(f"The nodes {slots[slot]} and {name} would share the replication slot {slot}: rename one of them.")
        slots.setdefault(slot, name)
    by_address: dict[str, list[str]] = {}
    for name, address in sorted(addresses.items()):
        by_address.setdefault(str(address), []).append(name)
    for address, sharing in by_address.items():
        if len(sharing) > 1:
            problems.append(f"{' and '.join(sharing)} have the same address {address}: "
                            "set ansible_host (or node_address) of each to its own.")
    return problems


def slot_problem(settings: Any, unlimited: Any) -> str | None:
    """Slots without a limit: a replica that stays away fills the primary's disk. Only whoever says so gets that."""
    if not isinstance(settings, Mapping) or str(settings.get("max_slot_wal_keep_size", "")).strip() != "-1":
        return None
    if str(unlimited).lower() in ("true", "yes", "on", "1"):
        return None
    return ("postgresql_settings sets max_slot_wal_keep_size to -1, so that a replica which stays away would fill the primary's disk: "
            "give a size, or set postgresql_unlimited_slots: true to have it so")


def unknown_names(defined: Iterable[str], inputs: Iterable[str], read: Iterable[str], roles: Iterable[str],
                  settings: Iterable[str] = ()) -> dict[str, str | None]:
    """{misspelt name: what was probably meant}.

    Known is what a role takes, or what anything in the project reads; settings are offered as what was meant. An unknown name is misspelt when it
    starts like one of ours, or is very like a known one; everything else is the user's own business.
    """
    takes = set(inputs)
    known = takes | set(read)
    prefixes = tuple(f"{role}_" for role in roles) + SHARED_PREFIXES
    ours = takes | {name for name in read if name.startswith(prefixes)} | set(settings)
    unknown = {}
    for name in sorted(set(defined)):
        if name in known or name.startswith(FOREIGN_PREFIXES):
            continue
        meant = nearest(name, ours)
        if meant or name.startswith(prefixes):
            unknown[name] = meant
    return unknown


def bare_option(option: Mapping[str, Any]) -> dict[str, Any]:
    """An argument_specs option as the validator wants it."""
    kept = {key: option[key] for key in ("type", "elements", "choices", "required", "no_log") if key in option}
    if "options" in option:
        kept["options"] = {name: bare_option(inner) for name, inner in option["options"].items()}
    return kept


def is_literal(value: Any) -> bool:
    """Whether a value is written out, with no template in it that only a run can fill in."""
    if isinstance(value, Mapping):
        return all(is_literal(inner) for inner in value.values())
    if isinstance(value, (list, tuple)):
        return all(is_literal(inner) for inner in value)
    return value is not None and "{{" not in str(value) and "{%" not in str(value)


def value_problem(name: str, value: Any, option: Mapping[str, Any]) -> str | None:
    """Why a written-out value is none that the role takes."""
    result = ArgumentSpecValidator({name: bare_option(option)}).validate({name: value})
    if not result.error_messages:
        return None
    if "choices" in option:
        wanted = "one of " + ", ".join(str(choice) for choice in option["choices"])
    else:
        wanted = {"int": "a whole number", "bool": "true or false", "str": "a text"}.get(option["type"], f"a {option['type']}")
    if option.get("no_log") or SECRET_NAME.search(name):
        return f"{name} is not {wanted}"
    if isinstance(value, (Mapping, list)):
        return f"{name} is not what the role takes ({'; '.join(result.error_messages)})"
    return f"{name} is {value!r}, but must be {wanted}"


def secret_problem(name: str, value: str | None, file: str) -> str | None:
    """Why a production secret cannot be used; never with its value."""
    if value is None:
        why = "is missing"
    elif not value.strip():
        why = "is empty"
    elif PLACEHOLDER.search(value):
        why = "still holds a placeholder"
    elif len(value) < SECRET_CHARACTERS:
        why = f"is shorter than {SECRET_CHARACTERS} characters"
    else:
        return None
    return f"The production secret {name} {why}: set it with ansible-vault edit {file}"


def vault_problems(files: Mapping[Path, str]) -> list[str]:
    """Vault files of production in which a secret can be read by anyone who has the file."""
    problems = []
    for path, text in files.items():
        if path.parent.name == "env_production" and path.name == "vault.yml" and OPEN_SECRET.search(text):
            shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
            problems.append(f"{shown} is not encrypted: ansible-vault encrypt {shown}")
    return problems


def collection_problems(required: Mapping[str, str], installed: Mapping[str, str | None]) -> list[str]:
    wrong = [f"{name} {version} (here: {installed.get(name) or 'none'})"
             for name, version in sorted(required.items()) if installed.get(name) != version]
    if not wrong:
        return []
    return [f"The controller needs the collection{'s' if len(wrong) > 1 else ''} {', '.join(wrong)}: "
            "ansible-galaxy collection install -r requirements.yml --force"]


def controller_problems(ansible: str, python: tuple[int, ...]) -> list[str]:
    problems = []
    if tuple(int(part) for part in re.findall(r"\d+", ansible)[:2]) < ANSIBLE_MINIMUM:
        problems.append(f"ansible-core {ansible} is too old, this needs {'.'.join(map(str, ANSIBLE_MINIMUM))}: "
                        "pip install --require-hashes -r requirements.txt")
    if tuple(python[:2]) < PYTHON_MINIMUM:
        problems.append(f"Python {'.'.join(map(str, python[:2]))} on the controller is too old, this needs "
                        f"{'.'.join(map(str, PYTHON_MINIMUM))}: make the virtual environment with a newer one, "
                        "for example python3.11 -m venv .venv")
    return problems


def role_options(root: Path) -> dict[str, dict[str, Any]]:
    """{role input: its option}, from every role's argument_specs."""
    options: dict[str, dict[str, Any]] = {}
    for path in root.glob("roles/*/meta/argument_specs.yml"):
        document = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        for entry in document["argument_specs"].values():
            options.update(entry.get("options") or {})
    return options


def sources(root: Path, inventories: Iterable[Path]) -> list[Path]:
    """Every file that may define or read a variable."""
    folders = [root / name for name in ("group_vars", "host_vars", "playbooks", "roles", "molecule")]
    for inventory in inventories:
        folders += [inventory.parent / "group_vars", inventory.parent / "host_vars"]
    found = {path.resolve() for path in inventories if path.is_file()}
    for folder in folders:
        found |= {path.resolve() for path in folder.rglob("*") if path.suffix in (".yml", ".yaml", ".j2", ".json")}
    return sorted(found)


def names_read(texts: Iterable[str]) -> set[str]:
    """Every name that stands somewhere else than before a colon or in a comment."""
    words: set[str] = set()
    for text in texts:
        lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        words.update(WORD.findall(KEY.sub("", lines)))
    return words


def where_defined(name: str, files: Mapping[Path, str], extra: Iterable[str]) -> str:
    if name in extra:
        return " (on the command line)"
    pattern = re.compile(rf"(^|[{{,\s\"']){re.escape(name)}[\"']?\s*[:=]", re.MULTILINE)
    for path, text in files.items():
        match = pattern.search(text)
        if match and "roles" not in path.parts:
            shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
            return f" ({shown}:{text.count(chr(10), 0, match.end()) + 1})"
    return ""


def installed_collections(names: Iterable[str]) -> dict[str, str | None]:
    """{collection: version} as Ansible would load them."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            spec = importlib.util.find_spec(f"ansible_collections.{name}")
            folder = Path(next(iter(spec.submodule_search_locations or []))) if spec else None
            manifest = json.loads((folder / "MANIFEST.json").read_text()) if folder else {}
            versions[name] = manifest.get("collection_info", {}).get("version")
        except (ImportError, OSError, StopIteration, ValueError):
            versions[name] = None
    return versions


class ActionModule(ActionBase):
    """Runs on the controller only; fails with one sentence per problem."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        hostvars = variables["hostvars"]
        groups = {name: list(hosts) for name, hosts in variables["groups"].items()}
        hosts = sorted(groups["all"])
        raw = {host: hostvars.raw_get(host) for host in hosts}
        inventories = {Path(found) for found in (raw[host].get("inventory_file") for host in hosts) if found}
        files = {path: path.read_text(errors="replace") for path in sources(ROOT, inventories)}
        extra = load_extra_vars(self._loader or DataLoader())
        options = role_options(ROOT)
        required = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]

        problems = controller_problems(ansible_version, sys.version_info[:2])
        problems += collection_problems({entry["name"]: str(entry["version"]) for entry in required},
                                        installed_collections(entry["name"] for entry in required))
        problems += group_problems(groups)
        addresses = {}
        for host in hosts:
            try:
                addresses[host] = str(hostvars[host]["node_address"])
            except (AnsibleError, KeyError) as error:
                problems.append(f"The address of {host} cannot be told: {' '.join(str(error).split())}")
        problems += node_problems(groups.get("postgres_cluster", []), addresses)

        settings = {key for name in HOMES for key in SETTING.findall((ROOT / "group_vars" / name).read_text())}
        read = names_read(files.values()) | {key for key in settings if key.startswith(FIXED_PREFIXES)}
        unknown = unknown_names((name for host in hosts for name in raw[host]), options, read,
                                (path.parents[1].name for path in ROOT.glob("roles/*/meta/argument_specs.yml")), settings)
        for name, meant in unknown.items():
            advice = f"write {meant}" if meant else "roles/*/defaults/main.yml lists the names there are"
            problems.append(f"Nothing reads the variable {name}{where_defined(name, files, extra)}: {advice}.")

        told = set()
        for host in hosts:
            for name in options.keys() & raw[host].keys():
                value = raw[host][name]
                problem = value_problem(name, value, options[name]) if is_literal(value) else None
                if problem and problem not in told:
                    told.add(problem)
                    problems.append(f"{problem}{where_defined(name, files, extra)}.")

        for host in hosts:
            problem = slot_problem(raw[host].get("postgresql_settings"), raw[host].get("postgresql_unlimited_slots", False))
            if problem and problem not in told:
                told.add(problem)
                problems.append(f"{problem}{where_defined('max_slot_wal_keep_size', files, extra)}.")

        problems += self._secret_problems(groups, raw, files)
        return {"changed": False, "failed": bool(problems), "msg": "\n".join(problems)}

    def _secret_problems(self, groups: dict[str, list[str]], raw: dict[str, Any], files: dict[Path, str]) -> list[str]:
        production = sorted(groups.get("env_production", []))
        if not production:
            return []
        wanted = sorted({name for path, text in files.items() if path.parent.name == "env_production"
                         for name in re.findall(r"\{\{\s*(vault_\w+)", text)})
        problems = vault_problems(files)
        for name in wanted:
            value = raw[production[0]].get(name)
            try:
                text = None if value is None else str(self._templar.template(value))
            except AnsibleError:
                text = None
            problem = secret_problem(name, text, "group_vars/env_production/vault.yml")
            if problem:
                problems.append(problem)
        return problems
