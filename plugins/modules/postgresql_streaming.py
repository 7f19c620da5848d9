#!/usr/bin/python
"""Wait until a replica streams through its slot."""

from __future__ import annotations

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.postgresql_connection import CONNECTION_ARGUMENTS, connect, require_psycopg2, rows

DOCUMENTATION = r"""
module: postgresql_streaming
short_description: Wait until a replica streams from its primary through its slot
options:
  slot:
    description: The slot it must use.
    type: str
    required: true
  host:
    description: The address it must stream from.
    type: str
    required: true
  timeout_seconds:
    description: How long it may take.
    type: int
    default: 60
extends_documentation_fragment: [postgresql_connection]
author: [pgfleet]
"""

EXAMPLES = r"""
- name: Wait until it streams
  postgresql_streaming:
    slot: slot_pg2
    host: 192.0.2.11
"""

RECEIVER = "select status, slot_name, sender_host from pg_stat_wal_receiver where pid is not null"


def complaint(receivers: list[dict[str, Any]], slot: str, host: str) -> str:
    """What is wrong with the receiver, in words; empty when nothing is."""
    if not receivers:
        return "it has no connection to a primary"
    receiver = receivers[0]
    if receiver["status"] != "streaming":
        return "its receiver is {}".format(receiver["status"])
    if (receiver["slot_name"], receiver["sender_host"]) != (slot, host):
        return "it streams from {} through the slot {}".format(receiver["sender_host"], receiver["slot_name"])
    return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            CONNECTION_ARGUMENTS,
            slot={"type": "str", "required": True},
            host={"type": "str", "required": True},
            timeout_seconds={"type": "int", "default": 60},
        ),
        supports_check_mode=True,
    )
    require_psycopg2(module)
    from psycopg2 import OperationalError

    params = module.params
    deadline = time.monotonic() + params["timeout_seconds"]
    connection = None
    while True:
        try:
            connection = connection or connect(params, autocommit=True)
            wrong = complaint(rows(connection, RECEIVER), params["slot"], params["host"])
        except OperationalError as error:
            connection, wrong = None, "it does not answer ({})".format(" ".join(str(error).split()))
        if not wrong:
            module.exit_json(changed=False)
        if time.monotonic() > deadline:
            module.fail_json(
                msg=f"This replica does not stream from {params['host']} through {params['slot']} "
                f"within {params['timeout_seconds']} seconds: {wrong}. "
                "Its log in /var/log/postgresql says why; when the primary no longer has the WAL it needs, rebuild it."
            )
        time.sleep(0.1)


if __name__ == "__main__":
    main()
