#!/usr/bin/python
"""Unpack a program whose SHA-256 is known into a directory of its own, and point `current` at it."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: verified_archive
short_description: Install a program from an archive or a bare binary of known SHA-256
description:
  - Unpacks into <directory>/<sha256>, which appears by a rename and is therefore always complete,
    and switches the link <directory>/current to it atomically.
  - The file comes from the controller, as a local path or as a download that is kept in a cache there.
    Nothing is downloaded or copied when the node already has it.
options:
  directory:
    description: Where the versions live on the node.
    type: path
    required: true
  sha256:
    description: The SHA-256 of the file, 64 hexadecimal digits.
    type: str
    required: true
  source:
    description: A file on the controller. Give this or url.
    type: str
    default: ""
  url:
    description: Where the controller fetches the file. Give this or source.
    type: str
    default: ""
  cache:
    description: Where the controller keeps downloads.
    type: str
    default: ~/.cache/pgfleet
  program:
    description: What a file that is not a tar archive is called once installed.
    type: str
    default: ""
  required:
    description: Whether an address that cannot be reached is an error. Otherwise the result's `unreachable_sentence` says so.
    type: bool
    default: true
author:
  - pgfleet
"""

RETURN = r"""
installed:
  description: Whether `current` now leads to the file of this SHA-256.
  returned: always
  type: bool
unreachable_sentence:
  description: Why nothing was installed; empty when it was.
  returned: always
  type: str
"""


def sha256_of(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def unpack(source: str, target: str, program: str) -> None:
    """Fill the new directory `target`; a single folder at the top of the archive is left away."""
    if not tarfile.is_tarfile(source):
        os.mkdir(target)
        shutil.copyfile(source, os.path.join(target, program))
        os.chmod(os.path.join(target, program), 0o755)
        return
    unpacked = target + ".unpacked"
    with tarfile.open(source) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extraction_filter = staticmethod(tarfile.data_filter)
        archive.extractall(unpacked)
    entries = [os.path.join(unpacked, name) for name in os.listdir(unpacked)]
    top = entries[0] if len(entries) == 1 and os.path.isdir(entries[0]) else unpacked
    os.rename(top, target)
    for folder, _, names in os.walk(target):
        os.chown(folder, 0, 0)
        for name in names:
            os.chown(os.path.join(folder, name), 0, 0, follow_symlinks=False)


def install(source: str, directory: str, version: str, program: str) -> None:
    os.makedirs(directory, mode=0o755, exist_ok=True)
    work = tempfile.mkdtemp(prefix=".unpacking-", dir=directory)
    try:
        target = os.path.join(work, "new")
        unpack(source, target, program)
        os.chmod(target, 0o755)
        os.rename(target, version)
    finally:
        shutil.rmtree(work)


def switch(link: str, version: str) -> None:
    new = link + ".new"
    if os.path.lexists(new):
        os.unlink(new)
    os.symlink(os.path.basename(version), new)
    os.rename(new, link)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "sha256": {"type": "str", "required": True},
            "source": {"type": "str", "default": ""},
            "program": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    directory, sha256, source = module.params["directory"], module.params["sha256"], module.params["source"]
    version, link = os.path.join(directory, sha256), os.path.join(directory, "current")

    present = os.path.isdir(version)
    linked = os.path.islink(link) and os.readlink(link) == sha256
    if not present and not source:
        module.exit_json(changed=False, installed=False)
    if not present:
        found = sha256_of(source)
        if found != sha256:
            module.fail_json(msg=f"The file arrived with SHA-256 {found} instead of {sha256}; run the playbook again.")
        if not module.check_mode:
            install(source, directory, version, module.params["program"])
    if not linked and not module.check_mode:
        switch(link, version)
    module.exit_json(changed=not (present and linked), installed=True)


if __name__ == "__main__":
    main()
