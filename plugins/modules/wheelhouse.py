#!/usr/bin/python
"""Build a Python application with all its dependencies for another machine's Python."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: wheelhouse
short_description: Build a Python application with all its dependencies for another Python
description:
  - Runs on the controller, with the Python that runs Ansible and its pip.
  - Downloads the wheels that the application's C(requirements.lock) names, of exactly its versions
    and SHA-256, for the given Python and machine; adds a wheel of the application.
  - Unpacks them into one archive with the content of a C(site-packages) folder, so that the other
    machine needs neither a package index nor pip.
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
  description: Path of the archive. It is not there when nothing had to be built.
  returned: always
  type: str
"""

# What the hosts' C library must be at least: that of Debian 12 and Ubuntu 22.04 is newer.
PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
LOCK_SECONDS = 600
KEPT_ARCHIVES = 3


def identifier(source: Path, python_version: str, architecture: str) -> str:
    """The same for the same files: their names and bytes, and what they are built for."""
    files = [source / "pyproject.toml", source / "requirements.lock", source / "README.md"]
    # Python writes a file of its cache under another name at first.
    files += sorted(
        path for path in (source / "src").rglob("*")
        if path.suffix != ".pyc" and "__pycache__" not in path.parts and path.is_file()
    )
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
    """Three steps: wheels of the dependencies, a wheel of the application, all of them unpacked."""
    version, architecture = module.params["python_version"], module.params["architecture"]
    target = [
        "--only-binary=:all:", "--implementation", "cp", "--python-version", version,
        *(f"--platform={platform}_{architecture}" for platform in PLATFORMS),
    ]
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".build-") as folder:
        wheels, packages = Path(folder, "wheels"), Path(folder, "packages")
        # --no-deps: the lock is complete, and markers would be judged by the wrong Python.
        pip(module, "download the application's dependencies", [
            "download", "--quiet", "--no-deps", "--require-hashes", "--dest", str(wheels), *target,
            "--requirement", str(source / "requirements.lock"),
        ])
        pip(module, "build the application", [
            "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source),
        ])
        pip(module, "unpack the wheels", [
            "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(packages), *target,
            *(str(wheel) for wheel in sorted(wheels.iterdir())),
        ])
        shutil.rmtree(packages / "bin", ignore_errors=True)  # commands of the controller's Python
        unfinished = Path(folder, "archive")
        with tarfile.open(unfinished, "w:gz", compresslevel=6) as tar:
            for path in sorted(packages.iterdir()):
                tar.add(path, arcname=path.name, filter=owned_by_root)
        os.replace(unfinished, archive)


def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def forget_old(folder: Path) -> None:
    archives = sorted(folder.glob("*.tar.gz"), key=lambda path: path.stat().st_mtime, reverse=True)
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
    archive = folder / f"{name}.tar.gz"
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
