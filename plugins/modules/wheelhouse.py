#!/usr/bin/python
"""Build a Python application and gather its dependencies for another machine's Python."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wheelhouse
short_description: Build a Python application and gather its dependencies for another Python
description:
  - Runs on the controller, with the Python that runs Ansible and its pip.
  - Makes one tar archive with a wheel of the application and of every dependency, of exactly the
    versions and SHA-256 in the application's C(requirements.lock), for the given Python and machine.
  - The archive is kept in a folder and made again only when the lock or the source has changed.
options:
  source:
    description: Folder of the application, with C(pyproject.toml), C(requirements.lock) and C(src).
    type: path
    required: true
  cache:
    description: Folder to keep archives in.
    type: path
    required: true
  python_version:
    description: The other machine's Python, major and minor version, such as 3.13.
    type: str
    required: true
  architecture:
    description: The other machine's architecture, as uname says it.
    type: str
    required: true
  installed:
    description: Identifier that the other machine has already; nothing is built when it is current.
    type: str
    default: ""
author:
  - pgfleet
"""

RETURN = r"""
id:
  description: Identifier of the lock, the source and the Python it is for.
  returned: always
  type: str
archive:
  description: Path of the archive; it holds one folder, wheels. It is not there when nothing had to be built.
  returned: always
  type: str
"""

import contextlib
import fcntl
import hashlib
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

# What the hosts' C library must be at least: that of Debian 12 and Ubuntu 22.04 is newer.
PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
LOCK_SECONDS = 600
KEPT_ARCHIVES = 3


def identifier(source: Path, python_version: str, architecture: str) -> str:
    """The same for the same files: their names and bytes, and what they are built for."""
    files = [source / "pyproject.toml", source / "requirements.lock", source / "README.md"]
    files += sorted(path for path in (source / "src").rglob("*") if path.is_file() and path.suffix != ".pyc")
    digest = hashlib.sha256(f"{python_version} {architecture}\n".encode())
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(source)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(module: AnsibleModule, path: Path) -> Iterator[None]:
    """One build at a time; several hosts ask for the same archive at once."""
    with open(path, "w") as file:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    module.fail_json(msg=f"{path} has been locked for {LOCK_SECONDS} s by another run: wait until it ends.")
                time.sleep(0.2)
        yield


def pip(module: AnsibleModule, what: str, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    code, output, errors = module.run_command(command)
    if code != 0:
        last = (errors.strip() or output.strip()).splitlines()[-3:]
        module.fail_json(
            msg=f"The controller could not {what}: {' '.join(last)} "
            f"(its Python {sys.executable} needs requirements.txt and a package index, see README.md).",
        )


def build(module: AnsibleModule, source: Path, archive: Path) -> None:
    version, architecture = module.params["python_version"], module.params["architecture"]
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".build-") as folder:
        wheels = Path(folder, "wheels")
        # --no-deps: the lock is complete, and markers would be judged by the wrong Python.
        pip(module, "download pgroute's dependencies", [
            "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:",
            "--requirement", str(source / "requirements.lock"), "--dest", str(wheels),
            "--implementation", "cp", "--python-version", version,
            *(f"--platform={platform}_{architecture}" for platform in PLATFORMS),
        ])
        pip(module, "build pgroute", [
            "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source),
        ])
        unfinished = Path(folder, "archive")
        with tarfile.open(unfinished, "w") as tar:
            for wheel in sorted(wheels.iterdir()):
                tar.add(wheel, arcname=f"wheels/{wheel.name}")
        os.replace(unfinished, archive)


def forget_old(folder: Path) -> None:
    archives = sorted(folder.glob("*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in archives[KEPT_ARCHIVES:]:
        path.unlink()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "cache": {"type": "path", "required": True},
            "python_version": {"type": "str", "required": True},
            "architecture": {"type": "str", "required": True},
            "installed": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    source = Path(module.params["source"])
    version, architecture = module.params["python_version"], module.params["architecture"]
    try:
        name = identifier(source, version, architecture)
    except OSError as error:
        module.fail_json(msg=f"{source} is not a complete application: {error}.")
    folder = Path(module.params["cache"], f"{version}-{architecture}")
    archive = folder / f"{name}.tar"
    result = {"id": name, "archive": str(archive)}
    if module.params["installed"] == name or archive.exists():
        module.exit_json(changed=False, **result)
    if module.check_mode:
        module.exit_json(changed=True, **result)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(module, folder / "lock"):
        built = not archive.exists()
        if built:
            build(module, source, archive)
            forget_old(folder)
    module.exit_json(changed=built, **result)


if __name__ == "__main__":
    main()
