#!/usr/bin/python
"""Converge the physical replication slots of one server."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.postgresql_connection import CONNECTION_ARGUMENTS, connect, require_psycopg2, rows

DOCUMENTATION = r"""
module: postgresql_slots
short_description: Converge physical replication slots
description:
  - Makes the slots wanted here. Of the fleet's other slots it drops those that nobody uses, which a change of
    primary leaves behind and which would keep WAL for ever. Slots of others are reported, never dropped.
options:
  wanted:
    description: Slots that replicas of this server use.
    type: list
    elements: str
    required: true
  owned:
    description: Slots of every node of the fleet.
    type: list
    elements: str
    required: true
extends_documentation_fragment: [postgresql_connection]
author: [pgfleet]
"""

EXAMPLES = r"""
- name: Converge the slots
  postgresql_slots:
    wanted: [slot_pg2, slot_pg3]
    owned: [slot_pg1, slot_pg2, slot_pg3]
"""

RETURN = r"""
created:
  description: Slots made.
  returned: always
  type: list
  elements: str
dropped:
  description: Slots dropped.
  returned: always
  type: list
  elements: str
lost:
  description: Slots wanted here that no longer have the WAL their replica needs.
  returned: always
  type: list
  elements: str
unknown:
  description: Slots that no node of the fleet owns.
  returned: always
  type: list
  elements: str
"""


def plan(
    present: dict[str, dict[str, Any]], wanted: list[str], owned: list[str],
) -> tuple[list[str], list[str], list[str], list[str]]:
    """(to create, to drop, unknown, lost); `present` is {name: {slot_type, active, wal_status}}.

    A lost slot that is wanted is only told: its replica cannot follow any more, and a new slot would hide that.
    """
    create = sorted(set(wanted) - set(present))
    drop = sorted(
        name for name, slot in present.items()
        if name in owned and name not in wanted and not slot["active"] and slot["slot_type"] == "physical"
    )
    lost = sorted(name for name in set(wanted) & set(present) if present[name]["wal_status"] == "lost")
    return create, drop, sorted(set(present) - set(owned)), lost


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            CONNECTION_ARGUMENTS,
            wanted={"type": "list", "elements": "str", "required": True},
            owned={"type": "list", "elements": "str", "required": True},
        ),
        supports_check_mode=True,
    )
    require_psycopg2(module)
    connection = connect(module.params, autocommit=True)
    present = {
        row["slot_name"]: row
        for row in rows(connection, "select slot_name, slot_type, active, wal_status from pg_replication_slots")
    }
    create, drop, unknown, lost = plan(present, module.params["wanted"], module.params["owned"])
    if not module.check_mode:
        for name in drop:
            rows(connection, "select pg_drop_replication_slot(%s)", [name])
        for name in create:
            rows(connection, "select pg_create_physical_replication_slot(%s, true)", [name])
    module.exit_json(changed=bool(create or drop), created=create, dropped=drop, unknown=unknown, lost=lost)


if __name__ == "__main__":
    main()
