"""The controller's half of verified_archive: find the file, check it, carry it to the node that lacks it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

REACH_SECONDS = 2.0
READ_SECONDS = 30.0


def sha256_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def can_reach(url: str) -> bool:
    """Whether a TCP connection opens within REACH_SECONDS, name look-up included."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urllib.parse.urlsplit(proxy)
    address = (parts.hostname, parts.port or (80 if parts.scheme == "http" else 443))
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=REACH_SECONDS).close()
            answered.set()
        except OSError:
            pass

    # A name look-up has no deadline of its own, hence the thread.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return answered.is_set()


def download(url: str, sha256: str, path: str) -> None:
    """Fetch into `path`, verified; nodes served in parallel wait for the first one's download."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(path):
            return
        partial = path + ".partial"
        with urllib.request.urlopen(url, timeout=READ_SECONDS) as answer, open(partial, "wb") as file:
            while block := answer.read(1 << 20):
                file.write(block)
        found = sha256_of(partial)
        if found != sha256:
            os.unlink(partial)
            raise AnsibleActionFail(f"{url} has SHA-256 {found} instead of {sha256}: refused, nothing was changed; "
                                    "correct the address or the checksum.")
        os.rename(partial, path)


class ActionModule(ActionBase):
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            argument_spec={
                "directory": {"type": "str", "required": True},
                "sha256": {"type": "str", "required": True},
                "source": {"type": "str", "default": ""},
                "url": {"type": "str", "default": ""},
                "cache": {"type": "str", "default": "~/.cache/pgfleet"},
                "program": {"type": "str", "default": ""},
                "required": {"type": "bool", "default": True},
            },
            required_one_of=[["source", "url"]],
        )
        sha256 = options["sha256"].lower()
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise AnsibleActionFail(f"'{options['sha256']}' is not a SHA-256 of 64 hexadecimal digits: take it from `sha256sum`.")
        on_node = {"directory": options["directory"], "sha256": sha256, "program": options["program"]}

        found = self._execute_module("verified_archive", module_args=on_node, task_vars=task_vars)
        if found.get("failed") or found["installed"]:
            return {**result, **found, "unreachable_sentence": ""}
        path = self._local(options["source"], sha256) if options["source"] else self._cached(options, sha256)
        if not os.path.exists(path) and not can_reach(options["url"]):
            host = urllib.parse.urlsplit(options["url"]).hostname
            return self._unreachable(result, options, f"{host} cannot be reached from the controller")
        if self._task.check_mode:
            return {**result, "changed": True, "installed": False, "unreachable_sentence": ""}

        if not os.path.exists(path):
            try:
                download(options["url"], sha256, path)
            except OSError as error:
                return self._unreachable(result, options, f"the controller could not fetch it ({error})")
        remote = self._connection._shell.join_path(self._make_tmp_path(), "archive")
        self._transfer_file(path, remote)
        self._fixup_perms2((self._connection._shell.tmpdir, remote))
        done = self._execute_module("verified_archive", module_args={**on_node, "source": remote}, task_vars=task_vars)
        return {**result, **done, "unreachable_sentence": ""}

    @staticmethod
    def _cached(options: dict[str, Any], sha256: str) -> str:
        return os.path.join(os.path.expanduser(options["cache"]), sha256)

    @staticmethod
    def _unreachable(result: dict[str, Any], options: dict[str, Any], sentence: str) -> dict[str, Any]:
        if boolean(options["required"]):
            raise AnsibleActionFail(f"{sentence}: {options['url']}. Give it as a local archive with its SHA-256.")
        return {**result, "changed": False, "installed": False, "unreachable_sentence": sentence}

    @staticmethod
    def _local(source: str, sha256: str) -> str:
        if not os.path.isfile(source):
            raise AnsibleActionFail(f"There is no file {source} on the controller.")
        found = sha256_of(source)
        if found != sha256:
            raise AnsibleActionFail(f"{source} has SHA-256 {found} instead of {sha256}: refused, nothing was changed; "
                                    "correct the file or the checksum.")
        return source
