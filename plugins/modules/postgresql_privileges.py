#!/usr/bin/python
"""Converge what roles may do in databases: on the database, its schema, and what is and will be in it."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.postgresql_connection import (
    CONNECTION_ARGUMENTS,
    connect,
    execute,
    quote,
    require_psycopg2,
    rows,
    sentence,
)

DOCUMENTATION = r"""
module: postgresql_privileges
short_description: Converge privileges in PostgreSQL databases
description:
  - For each database, the roles named get exactly what is listed, and PUBLIC gets nothing; other roles and members of
    extensions are left alone. Privileges on tables, sequences and functions apply to what the owner has made in the
    schema, and by default privileges to what it will make.
options:
  databases:
    description: Keys are name, schema, owner and roles, which maps a role to lists of privileges by kind of object
      (database, schema, tables, sequences, functions).
    type: list
    elements: dict
    required: true
extends_documentation_fragment: [postgresql_connection]
author: [pgfleet]
"""

EXAMPLES = r"""
- name: Converge the privileges
  postgresql_privileges:
    databases:
      - name: app
        owner: app_owner
        roles:
          app_ro: {database: [CONNECT], schema: [USAGE], tables: [SELECT]}
"""

RETURN = r"""
statements:
  description: What was run.
  returned: always
  type: list
  elements: str
"""

KINDS = ("database", "schema", "tables", "sequences", "functions")
# Each row: kind of object, the object in a statement, the privileges of one grantee on it ('' is PUBLIC).
PRESENT = """
with space as (select oid, nspname, nspowner, nspacl from pg_namespace where nspname = %(schema)s),
objects (kind, object, acl) as (
  select 'database', format('ON DATABASE %%I', datname), coalesce(datacl, acldefault('d', datdba))
  from pg_database where datname = current_database()
  union all
  select 'schema', format('ON SCHEMA %%I', nspname), coalesce(nspacl, acldefault('n', nspowner)) from space
  union all
  select case relkind when 'S' then 'sequences' else 'tables' end,
    format('ON %%s %%s', case relkind when 'S' then 'SEQUENCE' else 'TABLE' end, c.oid::regclass),
    coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner))
  from pg_class c join space on relnamespace = space.oid
  where relkind in ('r', 'p', 'v', 'm', 'f', 'S') and relowner = to_regrole(%(owner)s)
    and not exists (select from pg_depend where objid = c.oid and classid = 'pg_class'::regclass and deptype = 'e')
  union all
  select 'functions', format('ON ROUTINE %%s', p.oid::regprocedure), coalesce(proacl, acldefault('f', proowner))
  from pg_proc p join space on pronamespace = space.oid
  where proowner = to_regrole(%(owner)s)
    and not exists (select from pg_depend where objid = p.oid and classid = 'pg_proc'::regclass and deptype = 'e')
  union all
  -- What the owner will make. Only a rule without a schema can take away what PUBLIC has on functions from the start.
  select kind, 'default ' || kind, coalesce(defaclacl, case kind when 'functions' then acldefault('f', o.oid) end)
  from (values ('tables', 'r'), ('sequences', 'S'), ('functions', 'f')) as k (kind, letter)
  join pg_roles o on o.rolname = %(owner)s cross join space
  left join pg_default_acl d on defaclrole = o.oid and defaclobjtype = letter::"char"
    and defaclnamespace = case kind when 'functions' then 0 else space.oid end
)
select kind, object, coalesce(grants, '{}'::json) as grants from objects
left join lateral (
  select json_object_agg(name, privileges) as grants from (
    select case grantee when 0 then '' else pg_get_userbyid(grantee)::text end as name, json_agg(privilege_type) as privileges
    from aclexplode(acl) group by 1) as per_grantee) as g on true
order by array_position(array['database', 'schema', 'tables', 'sequences', 'functions'], kind), object
"""


def grantee(name: str) -> str:
    return quote(name) if name else "PUBLIC"


def plan(objects: list[dict[str, Any]], roles: dict[str, Any], owner: str | None, schema: str) -> list[str]:
    """Statements that turn the privileges present into those wanted.

    `objects` are rows of PRESENT; `roles` is {role: {kind: [privilege]}}. The owner keeps what is its own.
    """
    statements = []
    for item in objects:
        kind, place = item["kind"], item["object"]
        before, after = "", place
        if place.startswith("default "):
            scope = "" if kind == "functions" else f" IN SCHEMA {quote(schema)}"
            before, after = f"ALTER DEFAULT PRIVILEGES FOR ROLE {quote(owner)}{scope} ", f"ON {kind.upper()}"
        wanted = dict({"": {}}, **roles)
        for name in sorted(wanted):
            if name == owner:
                continue
            asked = set(wanted[name].get(kind) or [])
            present = set(item["grants"].get(name, []))
            if present - asked:
                statements.append("{}REVOKE {} {} FROM {}".format(before, ", ".join(sorted(present - asked)), after, grantee(name)))
            if asked - present:
                statements.append("{}GRANT {} {} TO {}".format(before, ", ".join(sorted(asked - present)), after, grantee(name)))
    return statements


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            CONNECTION_ARGUMENTS,
            databases={
                "type": "list", "elements": "dict", "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "schema": {"type": "str", "default": "public"},
                    "owner": {"type": "str"},
                    "roles": {"type": "dict", "default": {}},
                },
            },
        ),
        supports_check_mode=True,
    )
    require_psycopg2(module)
    import psycopg2

    statements = []
    for database in module.params["databases"]:
        for role, privileges in database["roles"].items():
            unknown = sorted(set(privileges) - set(KINDS))
            if unknown:
                module.fail_json(msg="databases_privileges gives {} privileges on '{}'; known are {}.".format(role, unknown[0], ", ".join(KINDS)))
        try:
            connection = connect(module.params, database["name"])
            objects = rows(connection, PRESENT, {"schema": database["schema"], "owner": database["owner"]})
            steps = plan(objects, database["roles"], database["owner"], database["schema"])
            if steps and not module.check_mode:
                execute(connection, steps)
                connection.commit()
            connection.close()
        except psycopg2.Error as error:
            module.fail_json(msg="The privileges in database {} were not changed: {}".format(database["name"], sentence(error)))
        statements += steps
    module.exit_json(
        changed=bool(statements), statements=statements,
        diff={"before": "", "after": "".join(statement + "\n" for statement in statements)},
    )


if __name__ == "__main__":
    main()
