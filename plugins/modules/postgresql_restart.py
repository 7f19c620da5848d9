#!/usr/bin/python
"""Restart a server and wait until the cluster is whole again."""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.postgresql_connection import CONNECTION_ARGUMENTS, connect, execute, require_psycopg2, rows

DOCUMENTATION = r"""
module: postgresql_restart
short_description: Restart a PostgreSQL server when all others follow, and wait until it serves again
description:
  - A primary restarts only while every replica named streams and has replayed what was written so far.
  - A replica is ready when it streams again and has replayed what the primary had sent.
options:
  unit:
    description: The systemd unit of the server.
    type: str
    required: true
  replicas:
    description: Names (application_name) of the replicas that must follow before a primary restarts, and again after.
    type: list
    elements: str
    default: []
  log_directory:
    description: Where the server logs; what it says there when it does not come up is told.
    type: path
    default: /var/log/postgresql
  timeout_seconds:
    description: How long each wait may take.
    type: int
    default: 120
extends_documentation_fragment: [postgresql_connection]
author: [pgfleet]
"""

EXAMPLES = r"""
- name: Restart PostgreSQL
  postgresql_restart:
    unit: postgresql@17-main
    replicas: [pg2, pg3]
"""

RETURN = r"""
still_pending:
  description: Settings that still wait for a restart; empty unless something is wrong.
  returned: success
  type: list
  elements: str
"""

NOT_FOLLOWING = """
select name from unnest(%(names)s::text[]) as name
where not exists (
  select from pg_stat_replication r
  where r.application_name = name and r.state = 'streaming' and r.replay_lsn >= %(lsn)s::pg_lsn)
"""
RECEIVING = """
select count(*) > 0 as answer from pg_stat_wal_receiver
where status = 'streaming' and pg_last_wal_replay_lsn() >= latest_end_lsn
"""

FATAL = re.compile(r"^.*?\b((?:FATAL|PANIC):  .*)$", re.MULTILINE)
# What every shutdown and every client that comes too early leave in the log.
USUAL = re.compile(r"due to administrator command|the database system is ")


def last_fatal(log: str) -> str:
    """The last thing in a log that ended a server, without its prefix; empty where nothing did."""
    found = [line for line in FATAL.findall(log) if not USUAL.search(line)]
    return " ".join(found[-1].split()) if found else ""


class Log:
    """The server's log files, from now on: the collector's, and the one from before it starts."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.sizes = {path: os.path.getsize(path) for path in self.paths()}

    def paths(self) -> list[str]:
        return sorted(glob.glob(os.path.join(self.directory, "*.log")), key=os.path.getmtime)

    def fatal(self) -> str:
        """What ended the server since, as words to append to a sentence."""
        added = []
        for path in self.paths():
            with open(path, encoding="utf-8", errors="replace") as stream:
                stream.seek(self.sizes.get(path, 0))
                added.append(stream.read())
        said = last_fatal("\n".join(added))
        return f" (its log says: {said})" if said else ""


class Server:
    """One server, asked through connections that may break under us."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.log = Log(module.params["log_directory"])

    def ask(self, query: str, arguments: Any = None) -> list[dict[str, Any]]:
        connection = connect(self.module.params, autocommit=True)
        try:
            found: list[dict[str, Any]] = rows(connection, query, arguments)
            return found
        finally:
            connection.close()

    def checkpoint(self) -> None:
        connection = connect(self.module.params, autocommit=True)
        execute(connection, ["checkpoint"])
        connection.close()

    def wait(self, condition: Callable[[], str], what: str) -> None:
        """Until `condition()` gives an empty answer; the last answer goes into the sentence."""
        from psycopg2 import OperationalError

        deadline = time.monotonic() + self.module.params["timeout_seconds"]
        while True:
            try:
                missing = condition()
            except OperationalError as error:
                missing = " ".join(str(error).split())
            if not missing:
                return
            if time.monotonic() > deadline:
                self.module.fail_json(
                    msg=f"{what} within {self.module.params['timeout_seconds']} seconds: {missing.rstrip('.')}{self.log.fatal()}. "
                    "Nothing else was restarted; repair this and run the playbook again."
                )
            time.sleep(0.2)

    def in_recovery(self) -> bool:
        return bool(self.ask("select pg_is_in_recovery() as answer")[0]["answer"])

    def wait_for_replicas(self) -> None:
        lsn = self.ask("select pg_current_wal_lsn()::text as lsn")[0]["lsn"]
        names = self.module.params["replicas"]
        self.wait(
            lambda: ", ".join(row["name"] for row in self.ask(NOT_FOLLOWING, {"names": names, "lsn": lsn})),
            "Not every replica streams and has caught up",
        )

    def wait_for_primary(self) -> None:
        self.wait(
            lambda: "" if self.ask(RECEIVING)[0]["answer"] else "no streaming connection that has caught up",
            "This replica does not follow its primary",
        )


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            CONNECTION_ARGUMENTS,
            unit={"type": "str", "required": True},
            replicas={"type": "list", "elements": "str", "default": []},
            log_directory={"type": "path", "default": "/var/log/postgresql"},
            timeout_seconds={"type": "int", "default": 120},
        ),
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True, still_pending=[])
    require_psycopg2(module)
    server = Server(module)
    replica = server.in_recovery()
    if not replica:
        server.wait_for_replicas()
    # Less to write while nobody is served.
    server.checkpoint()
    code, _, error = module.run_command(["systemctl", "restart", module.params["unit"]])
    if code != 0:
        module.fail_json(msg=f"systemctl restart {module.params['unit']} failed{server.log.fatal()}: {' '.join(error.split())} "
                         "Nothing else was restarted; repair this and run the playbook again.")
    server.wait(lambda: "" if server.in_recovery() == replica else "its role has changed", "The server does not answer")
    if replica:
        server.wait_for_primary()
    else:
        server.wait_for_replicas()
    pending = [row["name"] for row in server.ask("select name from pg_settings where pending_restart order by name")]
    module.exit_json(changed=True, still_pending=pending)


if __name__ == "__main__":
    main()
