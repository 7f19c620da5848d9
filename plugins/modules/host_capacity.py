#!/usr/bin/python
"""Tell how much memory and disk a server on this host may plan with."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_capacity
short_description: Memory and disk that a server on this host may plan with
description:
  - Memory is the host's, or the limit of the container it runs in (cgroup v1 or v2), whichever is smaller.
  - It is rounded down by up to a sixteenth, because a host's own figure changes by some MB with its kernel, and what
    is decided by it should not.
  - Disk is the size of the file system that holds a path, or will hold it.
options:
  path:
    description: The path whose file system is measured; its nearest existing parent counts.
    type: path
    required: true
author: [pgfleet]
"""

EXAMPLES = r"""
- name: Ask how large the host is
  host_capacity:
    path: /var/lib/postgresql
"""

RETURN = r"""
memory_bytes:
  description: Memory in bytes.
  returned: always
  type: int
disk_bytes:
  description: Size of the file system in bytes.
  returned: always
  type: int
"""


def read(path: str) -> str:
    try:
        with open(path) as stream:
            return stream.read()
    except OSError:
        return ""


def host_memory(meminfo: str) -> int:
    """MemTotal of /proc/meminfo in bytes."""
    for line in meminfo.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise ValueError("/proc/meminfo names no MemTotal")


def limit_files(cgroups: str) -> list[str]:
    """Where the limits of PID 1's control groups and their parents stand, for cgroup v1 and v2."""
    files = []
    for line in cgroups.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, name = "/sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            root, name = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # systemd moves PID 1 into init.scope below the container's own group.
        while True:
            files.append(os.path.join(root, path.strip("/"), name))
            if path in ("/", ""):
                break
            path = os.path.dirname(path)
    return files


def smallest_limit(values: Iterable[str]) -> int | None:
    """The smallest number among the contents of limit files; None when there is none."""
    numbers = [int(value) for value in values if value.strip().isdigit()]
    return min(numbers) if numbers else None


def steady(size: int) -> int:
    """A size rounded down to a sixteenth of its greatest power of two."""
    step = max(1, 1 << size.bit_length() - 1 >> 4)
    return size // step * step


def disk_size(path: str) -> int:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    statistics = os.statvfs(path)
    return statistics.f_blocks * statistics.f_frsize


def main() -> None:
    module = AnsibleModule(
        argument_spec={"path": {"type": "path", "required": True}},
        supports_check_mode=True,
    )
    memory = host_memory(read("/proc/meminfo"))
    limit = smallest_limit(read(name) for name in limit_files(read("/proc/1/cgroup")))
    module.exit_json(
        changed=False,
        memory_bytes=steady(memory if limit is None else min(memory, limit)),
        disk_bytes=disk_size(module.params["path"]),
    )


if __name__ == "__main__":
    main()
