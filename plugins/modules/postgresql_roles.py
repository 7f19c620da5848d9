#!/usr/bin/python
"""Converge roles: attributes, memberships, settings and passwords, in one transaction."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.postgresql_connection import (
    CONNECTION_ARGUMENTS,
    connect,
    execute,
    literal,
    quote,
    require_psycopg2,
    rows,
    sentence,
)
from ansible.module_utils.scram import matches, verifier

DOCUMENTATION = r"""
module: postgresql_roles
short_description: Converge PostgreSQL roles in one transaction
description:
  - Each role named is made or altered until it is as described. Roles that are not named are left alone.
  - A password becomes a SCRAM-SHA-256 verifier before it reaches the server, and the session is hidden from the
    server's log and from pg_stat_statements.
options:
  roles:
    description:
      - Keys are name, login, replication, connection_limit (-1 is none), member_of (exactly these) and settings
        (exactly these).
    type: list
    elements: dict
    required: true
  passwords:
    description: Passwords by role name. A role that is not here has none.
    type: dict
    default: {}
extends_documentation_fragment: [postgresql_connection]
author: [pgfleet]
"""

EXAMPLES = r"""
- name: Converge the roles
  postgresql_roles:
    roles:
      - {name: app_ro, login: true, connection_limit: 100, settings: {statement_timeout: 30s}}
    passwords: {app_ro: "{{ secret }}"}
"""

RETURN = r"""
actions:
  description: What was done, without secrets.
  returned: always
  type: list
  elements: str
"""

PRESENT = """
select r.rolname as name, r.rolcanlogin as login, r.rolreplication as replication, r.rolconnlimit as connection_limit,
  r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolbypassrls or not r.rolinherit as privileged,
  r.rolpassword as verifier,
  array(select g.rolname::text from pg_auth_members m join pg_roles g on g.oid = m.roleid
        where m.member = r.oid order by 1) as member_of,
  coalesce((select setconfig from pg_db_role_setting s where s.setrole = r.oid and s.setdatabase = 0), '{}') as settings
from pg_authid r where r.rolname = any(%(names)s)
"""
DEFAULTS = {"login": False, "replication": False, "connection_limit": -1, "member_of": [], "settings": {}}


# Settings that are lists of names: one string with a comma in it would be one strange name.
LISTS = ("local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces")


def attributes(role: dict[str, Any]) -> str:
    login = "LOGIN" if role["login"] else "NOLOGIN"
    replication = "REPLICATION" if role["replication"] else "NOREPLICATION"
    limit = f"CONNECTION LIMIT {role['connection_limit']}"
    return f"{login} {replication} {limit} NOSUPERUSER NOCREATEROLE NOCREATEDB NOBYPASSRLS INHERIT"


def whole(value: str) -> list[str]:
    return [value]


def elements(value: str) -> list[str]:
    """The names in a list, which the server stores in quotes where they need them."""
    return [element.strip().strip('"') for element in value.split(",")]


def plan(
    wanted: list[dict[str, Any]], present: dict[str, dict[str, Any]], passwords: dict[str, str], make_verifier: Callable[[str], str],
) -> list[tuple[str, str]]:
    """[(statement, what it does)] that turn the roles present into those wanted.

    `present` is {name: row of PRESENT}; `make_verifier(password)` is called only for a password that changes.
    """
    steps = []
    for role in wanted:
        role = dict(DEFAULTS, **role)
        name, now = role["name"], present.get(role["name"])
        described = f"{name}: "
        if now is None:
            steps.append((f"CREATE ROLE {quote(name)} {attributes(role)}", described + "created"))
            now = dict(DEFAULTS, settings=[], verifier=None)
        elif now["privileged"] or any(now[key] != role[key] for key in ("login", "replication", "connection_limit")):
            steps.append((f"ALTER ROLE {quote(name)} {attributes(role)}", described + "attributes set"))

        password = passwords.get(name)
        if password is None and now["verifier"] is not None:
            steps.append((f"ALTER ROLE {quote(name)} PASSWORD NULL", described + "password removed"))
        elif password is not None and not matches(password, now["verifier"]):
            steps.append(
                (f"ALTER ROLE {quote(name)} PASSWORD {literal(make_verifier(password))}", described + "password set")
            )

        steps += [
            (f"GRANT {quote(group)} TO {quote(name)}", described + f"member of {group}")
            for group in sorted(set(role["member_of"]) - set(now["member_of"]))
        ]
        steps += [
            (f"REVOKE {quote(group)} FROM {quote(name)}", described + f"no longer member of {group}")
            for group in sorted(set(now["member_of"]) - set(role["member_of"]))
        ]

        settings = dict(line.split("=", 1) for line in now["settings"])
        for key, value in sorted(role["settings"].items()):
            split = elements if key in LISTS else whole
            if key not in settings or split(settings[key]) != split(str(value)):
                words = ", ".join(literal(element) for element in split(str(value)))
                steps.append(
                    (f"ALTER ROLE {quote(name)} SET {quote(key)} = {words}", described + f"{key} = {value}")
                )
        steps += [
            (f"ALTER ROLE {quote(name)} RESET {quote(key)}", described + f"{key} reset")
            for key in sorted(set(settings) - set(role["settings"]))
        ]
    return steps


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            CONNECTION_ARGUMENTS,
            roles={
                "type": "list", "elements": "dict", "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "login": {"type": "bool", "default": False},
                    "replication": {"type": "bool", "default": False},
                    "connection_limit": {"type": "int", "default": -1},
                    "member_of": {"type": "list", "elements": "str", "default": []},
                    "settings": {"type": "dict", "default": {}},
                },
            },
            passwords={"type": "dict", "default": {}, "no_log": True},
        ),
        supports_check_mode=True,
    )
    require_psycopg2(module)
    import psycopg2

    wanted = module.params["roles"]
    steps = []
    try:
        connection = connect(module.params)
        present = {row["name"]: row for row in rows(connection, PRESENT, {"names": [role["name"] for role in wanted]})}
        steps = plan(wanted, present, module.params["passwords"], lambda password: verifier(password, os.urandom(16)))
        if steps and not module.check_mode:
            for statement, _ in steps:
                execute(connection, [statement])
            connection.commit()
        connection.close()
    except psycopg2.Error as error:
        # Only the server's own words: its context could quote a statement.
        text = error.diag.message_primary or str(error)
        module.fail_json(msg=f"The roles were not changed: {sentence(text)}")
    actions = [action for _, action in steps]
    module.exit_json(
        changed=bool(steps), actions=actions,
        diff={"before": "", "after": "".join(action + "\n" for action in actions)},
    )


if __name__ == "__main__":
    main()
