#!/usr/bin/python
"""Write configuration files of a server so that a mistake never takes effect."""

from __future__ import annotations

import functools
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.postgresql_connection import (
    CONNECTION_ARGUMENTS,
    acting_as,
    connect,
    is_running,
    one,
    require_psycopg2,
    rows,
    sentence,
)

DOCUMENTATION = r"""
module: postgresql_configuration
short_description: Write configuration files of a PostgreSQL server, checked before they take effect
description:
  - New settings are first read by C(postgres -C) from a copy; a value the server would refuse stops here, with the
    files in use untouched.
  - Then the files are replaced, and a running server is asked what it thinks of them through pg_file_settings,
    pg_hba_file_rules and pg_ident_file_mappings. If it objects, the old files come back.
  - Then it reloads, and a new connection is made. What only that finds out (no access rule for the superuser, a library
    that sessions cannot load) brings the old files back too, over the connection that was open before.
  - A file that only a start would miss is looked for first, as are the libraries that settings preload and, with ssl,
    the certificate and its key.
  - A server that has not read the newest file yet (an interrupted run) reloads too.
  - Says which settings wait for a restart, and whether this node should restart before or after its peers of the
    other role. Some limits must never be lower on a replica than on its primary.
options:
  directory:
    description: The configuration directory; paths in O(files) are relative to it.
    type: path
    required: true
  files:
    description: Keys are path, content and mode.
    type: list
    elements: dict
    required: true
  bin_directory:
    description: Where the postgres program is.
    type: path
    required: true
  data_directory:
    description: The data directory, to see whether a server runs on it.
    type: path
    required: true
extends_documentation_fragment: [postgresql_connection]
author: [pgfleet]
"""

EXAMPLES = r"""
- name: Write the configuration
  postgresql_configuration:
    directory: /etc/postgresql/17/main
    bin_directory: /usr/lib/postgresql/17/bin
    data_directory: /var/lib/postgresql/17/main
    files:
      - {path: conf.d/10-settings.conf, content: "work_mem = 8MB\n", mode: "0644"}
"""

RETURN = r"""
has_data:
  description: Whether the data directory holds a cluster.
  returned: always
  type: bool
changed_paths:
  description: Files that were written.
  returned: always
  type: list
  elements: str
pending_restart:
  description: Settings that wait for a restart.
  returned: always
  type: list
  elements: str
restart_turn:
  description: "first or last: whether this node restarts before or after those of the other role; empty when nothing waits."
  returned: always
  type: str
"""

# A replica refuses to run with less than its primary has.
REPLICA_MINIMUMS = (
    "max_connections", "max_locks_per_transaction", "max_prepared_transactions", "max_wal_senders",
    "max_worker_processes",
)
# Names of libraries, and of files, that the server opens only when it starts or a session begins.
PRELOAD_SETTINGS = ("shared_preload_libraries", "session_preload_libraries", "local_preload_libraries")
FILE_SETTINGS = ("ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file")
SETTING_ERRORS = """
select name, error, sourcefile, sourceline from pg_file_settings
where error is not null
"""
PENDING_HERE = "select name from pg_settings where pending_restart"
RULE_ERRORS = """
select file_name, line_number, error from pg_hba_file_rules where error is not null
union all
select file_name, line_number, error from pg_ident_file_mappings where error is not null
"""
PENDING = """
select s.name, s.setting as present, f.setting as wanted
from pg_settings s
left join (select distinct on (name) name, setting from pg_file_settings order by name, seqno desc) f using (name)
where s.pending_restart order by s.name
"""


def turn(pending: list[dict[str, Any]], in_recovery: bool) -> tuple[str | None, str | None]:
    """When a node restarts: ('first' | 'last', None), or (None, why one roll cannot do it).

    `pending` has dictionaries of name, present and wanted. Raised limits go to replicas first, lowered ones to the
    primary first.
    """
    raised, lowered = [], []
    for setting in pending:
        if setting["name"] in REPLICA_MINIMUMS and setting["wanted"] is not None:
            present, wanted = int(setting["present"]), int(setting["wanted"])
            text = f"{setting['name']} ({present} to {wanted})"
            if wanted < present:
                lowered.append(text)
            elif wanted > present:
                raised.append(text)
    if raised and lowered:
        return None, "This raises {} and lowers {} at once, which replicas cannot follow; change one first, run the playbook, then change the other.".format(
            ", ".join(raised), ", ".join(lowered))
    replicas_first = not lowered
    return ("first" if replicas_first == in_recovery else "last"), None


def complaint(output: str) -> str:
    """What postgres -C said, in one line without log prefixes."""
    found = re.findall(r"^.*?\b(?:LOG|FATAL|ERROR):\s+(.*)$", output, flags=re.MULTILINE)
    found = [text for text in found if not text.startswith("configuration file ")] or found or output.split("\n")
    return re.sub(r'(in file )"[^"]*?/(conf\.d/[^"]+|[^"/]+)"', r"\1\2", "; ".join(text.strip() for text in found if text.strip()))


def read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


class Files:
    """The files of a configuration directory: what they are, what they shall be, and the way back."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.directory = module.params["directory"]
        self.owner = pwd.getpwnam(module.params["login_user"])
        self.wanted = module.params["files"]
        self.before = {item["path"]: read(self.full(item["path"])) for item in self.wanted}
        self.times = {
            path: os.stat(self.full(path)) for path, content in self.before.items() if content is not None
        }
        self.changed = [
            item for item in self.wanted
            if self.before[item["path"]] != item["content"] or self.attributes_differ(item)
        ]

    def full(self, path: str) -> str:
        return os.path.join(self.directory, path)

    def attributes_differ(self, item: dict[str, str]) -> bool:
        try:
            status = os.stat(self.full(item["path"]))
        except FileNotFoundError:
            return True
        return (
            status.st_mode & 0o7777 != int(item["mode"], 8)
            or status.st_uid != self.owner.pw_uid or status.st_gid != self.owner.pw_gid
        )

    def place(self, path: str, content: str, mode: str) -> None:
        full = self.full(path)
        for folder in (self.directory, os.path.dirname(full)):
            if not os.path.isdir(folder):
                os.makedirs(folder, mode=0o755)
                os.chown(folder, self.owner.pw_uid, self.owner.pw_gid)
        handle, name = tempfile.mkstemp(dir=os.path.dirname(full), prefix=".new-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, int(mode, 8))
            os.chown(name, self.owner.pw_uid, self.owner.pw_gid)
            os.replace(name, full)
        except BaseException:
            os.unlink(name)
            raise

    def write(self) -> None:
        for item in self.changed:
            self.place(item["path"], item["content"], item["mode"])

    def restore(self) -> None:
        for item in self.changed:
            before = self.before[item["path"]]
            if before is None:
                os.unlink(self.full(item["path"]))
            else:
                self.place(item["path"], before, "%o" % (self.times[item["path"]].st_mode & 0o7777))
                # The server has read this content already: nothing to reload.
                os.utime(self.full(item["path"]), ns=(self.times[item["path"]].st_atime_ns, self.times[item["path"]].st_mtime_ns))

    @property
    def restored(self) -> str:
        """What a refusal says of the files: nothing where only the reload of an interrupted run was owed."""
        return ", so the old files are back" if self.changed else ""

    def newest_seconds(self) -> float:
        return max(os.stat(self.full(item["path"])).st_mtime for item in self.wanted)

    def difference(self) -> list[dict[str, str]]:
        return [
            {
                "before_header": self.full(item["path"]), "after_header": self.full(item["path"]),
                "before": self.before[item["path"]] or "", "after": item["content"],
            }
            for item in self.changed
        ]


def refuse(module: AnsibleModule, complaints: str) -> None:
    module.fail_json(
        msg=f"PostgreSQL refuses these settings, nothing was changed: {complaints.rstrip('.')}. "
        "Correct postgresql_settings and run the playbook again."
    )


def library_candidates(name: str, setting: str, search_path: str, library_directory: str) -> list[str]:
    """The files one of which a preloaded library's name stands for, as the server looks for them."""
    if "/" in name:
        places = [name]
    elif setting == "local_preload_libraries":
        places = ["$libdir/plugins/" + name]
    else:
        places = [f"{folder.strip()}/{name}" for folder in search_path.split(":")]
    places = [re.sub(r"^\$libdir(?=/)", library_directory, place) for place in places]
    return [place + ending for place in places for ending in ("", ".so")]


def missing_files(module: AnsibleModule, value: Callable[[str], str]) -> list[str]:
    """What neither postgres -C nor a reload looks at, and a start or a new session cannot do without."""
    missing = []
    library_directory = os.path.join(os.path.dirname(module.params["bin_directory"].rstrip("/")), "lib")
    for setting in PRELOAD_SETTINGS:
        for name in (text.strip().strip('"') for text in value(setting).split(",")):
            candidates = library_candidates(name, setting, value("dynamic_library_path"), library_directory) if name else []
            if name and not any(os.path.isfile(path) for path in candidates):
                missing.append(f"{setting} names {name}, but there is no {candidates[-1]}: install the package that brings it "
                               "or leave the name out")
    for setting in FILE_SETTINGS if value("ssl") == "on" else ():
        full = os.path.join(module.params["data_directory"], value(setting))
        # What lies in the data directory itself comes with it: a replica that is yet to be cloned has none.
        if not value(setting) or (not os.path.isabs(value(setting)) and not os.path.isdir(module.params["data_directory"])):
            continue
        try:
            with acting_as(module.params["login_user"]), open(full, "rb"):
                pass
        except OSError as error:
            missing.append(f"{setting} names {full}, which {module.params['login_user']} cannot read ({error.strerror})")
    return missing


def refuse_settings(module: AnsibleModule, files: Files) -> None:
    """Let postgres read the new settings from a copy; stop when it objects, or when a file that a start needs is not there."""
    owner = files.owner

    @functools.cache
    def value(setting: str) -> str:
        answer = subprocess.run(
            [
                os.path.join(module.params["bin_directory"], "postgres"), "-C", setting,
                "--config-file=" + os.path.join(copy, "postgresql.conf"),
            ],
            capture_output=True, text=True, check=False, cwd="/", user=owner.pw_uid, group=owner.pw_gid, extra_groups=[],
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", "")},
        )
        if answer.returncode != 0:
            refuse(module, complaint(answer.stderr))
        return answer.stdout.strip()

    with tempfile.TemporaryDirectory() as copy:
        for name in ("postgresql.conf", "conf.d"):
            present = files.full(name)
            if os.path.isdir(present):
                shutil.copytree(present, os.path.join(copy, name))
            elif os.path.exists(present):
                shutil.copy(present, copy)
        for item in files.wanted:
            if item["path"].endswith(".conf"):
                os.makedirs(os.path.dirname(os.path.join(copy, item["path"])), exist_ok=True)
                with open(os.path.join(copy, item["path"]), "w", encoding="utf-8") as stream:
                    stream.write(item["content"])
        for folder, _, names in os.walk(copy):
            for path in [folder] + [os.path.join(folder, name) for name in names]:
                os.chown(path, owner.pw_uid, owner.pw_gid)
        value("data_directory")
        missing = missing_files(module, value)
    if missing:
        refuse(module, "; ".join(missing))


def server_objections(connection: Any) -> list[str]:
    """What the running server would not accept of the files as they are now."""
    errors = rows(connection, SETTING_ERRORS)
    # Reading pg_file_settings marks what is valid but waits for a restart; the rest is an error.
    waiting = {row["name"] for row in rows(connection, PENDING_HERE)}
    objections = [
        "{}: {} ({} line {})".format(row["name"], row["error"], os.path.basename(row["sourcefile"] or "?"), row["sourceline"])
        for row in errors if row["name"] not in waiting
    ]
    objections += [
        "{} line {}: {}".format(os.path.basename(row["file_name"]), row["line_number"], row["error"])
        for row in rows(connection, RULE_ERRORS)
    ]
    return objections


def reload(module: AnsibleModule, connection: Any) -> None:
    before = one(connection, "select pg_conf_load_time() as at, pg_reload_conf()")["at"]
    deadline = time.monotonic() + 10
    while one(connection, "select pg_conf_load_time() as at")["at"] == before:
        if time.monotonic() > deadline:
            module.fail_json(msg="The server did not reload its configuration within 10 seconds; look at its log.")
        time.sleep(0.02)


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            CONNECTION_ARGUMENTS,
            directory={"type": "path", "required": True},
            files={
                "type": "list", "elements": "dict", "required": True,
                "options": {
                    "path": {"type": "str", "required": True},
                    "content": {"type": "str", "required": True},
                    "mode": {"type": "str", "required": True},
                },
            },
            bin_directory={"type": "path", "required": True},
            data_directory={"type": "path", "required": True},
        ),
        supports_check_mode=True,
    )
    files = Files(module)
    data = os.path.exists(os.path.join(module.params["data_directory"], "global", "pg_control"))
    running = is_running(module.params["data_directory"])
    answer = {"changed": bool(files.changed), "changed_paths": [item["path"] for item in files.changed],
              "has_data": data,
              "pending_restart": [], "restart_turn": ""}
    if files.changed:
        answer["diff"] = files.difference()
    if module.check_mode:
        module.exit_json(**answer)

    if files.changed:
        refuse_settings(module, files)
        files.write()
    if not running:
        module.exit_json(**answer)

    require_psycopg2(module)
    from psycopg2 import OperationalError

    try:
        connection = connect(module.params, autocommit=True)
    except OperationalError as error:
        files.restore()
        module.fail_json(msg=f"The server runs but does not answer{files.restored}: {sentence(error)}")
    in_recovery = one(connection, "select pg_is_in_recovery() as answer")["answer"]
    # The server notes the time when it reads the files, to the microsecond.
    loaded = one(connection, "select extract(epoch from pg_conf_load_time())::float as at")["at"]
    if files.changed or files.newest_seconds() > loaded:
        objections = server_objections(connection)
        if objections:
            files.restore()
            module.fail_json(
                msg=f"The running server refuses the new configuration{files.restored}: {'; '.join(objections)}. "
                "Correct postgresql_settings or postgresql_access_rules and run the playbook again."
            )
        refusal = turn(rows(connection, PENDING), in_recovery)[1]
        if refusal:
            files.restore()
            module.fail_json(msg=refusal)
        reload(module, connection)
        try:
            connect(module.params).close()
        except OperationalError as error:
            files.restore()
            reload(module, connection)
            module.fail_json(
                msg=f"The server read the new configuration, but no new connection gets in with it{files.restored}: "
                f"{sentence(error)} Correct postgresql_settings or postgresql_access_rules and run the playbook again."
            )
        answer["changed"] = True
    pending = rows(connection, PENDING)
    connection.close()
    if pending:
        answer["pending_restart"] = [row["name"] for row in pending]
        answer["restart_turn"] = turn(pending, in_recovery)[0] or "last"
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
