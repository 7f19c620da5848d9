"""Where things are in this repository, and what git tracks of it."""

import functools
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads Ansible's own tags (!vault, !unsafe) as plain text."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: str(node.value))


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; an empty file is None."""
    return yaml.load(path.read_text(), Loader=_Loader)  # a SafeLoader


def relative(path: Path) -> str:
    """The path as people say it, for test names."""
    return str(path.relative_to(ROOT))


def roles() -> list[str]:
    return sorted(path.name for path in (ROOT / "roles").glob("*") if path.is_dir())


def role_files(pattern: str) -> list[str]:
    """Files of all roles, relative to the root: role_files("tasks/*.yml")."""
    return sorted(relative(path) for path in (ROOT / "roles").glob(f"*/{pattern}") if path.is_file())


def playbooks() -> list[str]:
    return sorted(relative(path) for path in (ROOT / "playbooks").rglob("*.yml"))


def inventories() -> list[str]:
    return sorted(relative(path) for path in (ROOT / "inventories").glob("*.yml"))


@functools.cache
def tracked_files() -> list[str]:
    """Every file that git tracks or would track, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout
    return sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())


def tasks(content: Any) -> list[dict[str, Any]]:
    """Every task of a tasks or handlers file, blocks opened; a task inherits the vars of its blocks."""
    found: list[dict[str, Any]] = []
    for entry in content or []:
        inner = [part for key in ("block", "rescue", "always") for part in entry.get(key) or []]
        if not inner:
            found.append(entry)
        for task in tasks(inner):
            task["vars"] = {**(entry.get("vars") or {}), **(task.get("vars") or {})}
            found.append(task)
    return found
