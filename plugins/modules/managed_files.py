#!/usr/bin/python
"""Write several whole files, and the directories they live in, with one call."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
import urllib.request
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: managed_files
short_description: Write several whole files with one call
description:
  - Makes directories and writes files, each whole and atomically, in the order given.
  - One call costs what a loop of ten template tasks costs once.
options:
  directories:
    description: Directories to make. Keys are path, mode, owner and group.
    type: list
    elements: dict
    default: []
  files:
    description:
      - Files to write. Keys are path, content, mode, owner, group and validate.
      - validate is a command that must succeed before the file takes the place of the old one; %s is the new file.
    type: list
    elements: dict
    default: []
  unit:
    description: A systemd unit that reads the files when it starts.
    type: str
    default: ""
  also_read:
    description: Other paths that the unit reads when it starts, such as a link to its program; a link's own age counts.
    type: list
    elements: str
    default: []
  load_time:
    description:
      - Where the running unit tells when it last loaded its configuration with success, for a unit that can reload.
      - url is a page of metrics, metric the name of the one that holds that time in seconds since the epoch.
    type: dict
    default: {}
author:
  - pgfleet
"""

RETURN = r"""
changed_paths:
  description: What was written, or would be in check mode.
  returned: always
  type: list
  elements: str
unread_paths:
  description: >-
    Files that were written after the unit was started, by this run or by one that was interrupted before it could
    restart it; empty while the unit does not run.
  returned: always
  type: list
  elements: str
unloaded_paths:
  description: >-
    Files that were written after the unit last loaded its configuration; as unread_paths while it does not tell when.
    Empty without load_time.
  returned: always
  type: list
  elements: str
created_paths:
  description: Those of them that were not there before.
  returned: always
  type: list
  elements: str
"""

ATTRIBUTES = {"path": {"type": "str", "required": True},
              "mode": {"type": "str", "required": True},
              "owner": {"type": "str", "default": "root"},
              "group": {"type": "str", "default": "root"}}


def attributes(item: dict[str, Any]) -> dict[str, Any]:
    return {"path": item["path"], "mode": item["mode"], "owner": item["owner"], "group": item["group"],
            "secontext": [None, None, None], "attributes": None}


def read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def make_directory(module: AnsibleModule, item: dict[str, Any]) -> bool:
    missing = not os.path.isdir(item["path"])
    if missing and not module.check_mode:
        os.makedirs(item["path"], mode=0o755)
    if missing and module.check_mode:
        return True
    return bool(module.set_fs_attributes_if_different(attributes(item), missing))


def validate(module: AnsibleModule, item: dict[str, Any], temporary: str) -> None:
    if not item["validate"]:
        return
    command = [word.replace("%s", temporary) for word in shlex.split(item["validate"])]
    code, output, error = module.run_command(command)
    if code != 0:
        said = (output + error).replace(temporary, item["path"]).strip()
        module.fail_json(msg=f"{item['path']} stays as it is: {command[0]} refuses its new content. {said}")


def write_file(module: AnsibleModule, item: dict[str, Any], diffs: list[dict[str, str]]) -> bool:
    path, wanted = item["path"], item["content"].encode()
    found = read(path)
    differs = found != wanted
    if differs:
        diffs.append({"before_header": path, "after_header": path,
                      "before": (found or b"").decode(errors="replace"), "after": item["content"]})
    if differs and module.check_mode:
        return True
    if differs:
        # Owner and mode go on before the rename: a secret is never readable, not even for a moment.
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".managed-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(wanted)
                os.fsync(file.fileno())
            module.set_fs_attributes_if_different({**attributes(item), "path": temporary}, True)
            validate(module, item, temporary)
            os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)
    return bool(module.set_fs_attributes_if_different(attributes(item), differs))


def started_at(module: AnsibleModule, unit: str) -> float | None:
    """When a running unit was started, in seconds since the epoch; None when it does not run."""
    _, output, _ = module.run_command(["systemctl", "show", "--property=ActiveState,ActiveEnterTimestampMonotonic", unit])
    told = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    if told.get("ActiveState") != "active":
        return None
    return time.time() - time.monotonic() + int(told["ActiveEnterTimestampMonotonic"]) / 1e6


def loaded_at(url: str, metric: str) -> float | None:
    """What a page of metrics says under this name; None when it says nothing."""
    try:
        # On its own node: no proxy is between.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return next((float(line.split()[1]) for line in lines if line.startswith(f"{metric} ")), None)
    except (OSError, ValueError):
        return None


def written_since(paths: list[str], moment: float, changed: list[str]) -> list[str]:
    return [path for path in paths if path in changed or (os.path.lexists(path) and os.lstat(path).st_mtime > moment)]


def owed(module: AnsibleModule, changed: list[str]) -> dict[str, list[str]]:
    """What the running unit has not read, and not loaded."""
    files = [item["path"] for item in module.params["files"]]
    started = started_at(module, module.params["unit"]) if module.params["unit"] else None
    if started is None:
        return {"unread_paths": [], "unloaded_paths": []}
    told = module.params["load_time"]
    loaded = (loaded_at(told["url"], told["metric"]) or started) if told else None
    return {"unread_paths": written_since(files + module.params["also_read"], started, changed),
            "unloaded_paths": written_since(files, loaded, changed) if loaded else []}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directories": {"type": "list", "elements": "dict", "default": [], "options": ATTRIBUTES},
            "files": {"type": "list", "elements": "dict", "default": [],
                      "options": {**ATTRIBUTES, "content": {"type": "str", "required": True},
                                  "validate": {"type": "str", "default": ""}}},
            "unit": {"type": "str", "default": ""},
            "also_read": {"type": "list", "elements": "str", "default": []},
            "load_time": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    diffs: list[dict[str, str]] = []
    missing = {item["path"] for item in module.params["directories"] + module.params["files"] if not os.path.exists(item["path"])}
    changed = [item["path"] for item in module.params["directories"] if make_directory(module, item)]
    changed += [item["path"] for item in module.params["files"] if write_file(module, item, diffs)]
    module.exit_json(changed=bool(changed), changed_paths=changed, created_paths=sorted(missing), diff=diffs, **owed(module, changed))


if __name__ == "__main__":
    main()
