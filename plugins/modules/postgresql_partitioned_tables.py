#!/usr/bin/python
"""Make partitioned tables as described, adding what is missing and refusing what differs."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.partitioned_tables import Differs, plan
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
module: postgresql_partitioned_tables
short_description: Make partitioned tables as described
description:
  - Adds tables and partitions that are missing, all in one transaction, as their owner.
  - Where something exists that differs from the description, it stops with a sentence that says both and changes
    nothing. It never drops or alters.
options:
  database:
    description: The database the tables are in, in schema public.
    type: str
    required: true
  owner:
    description: The role that owns them.
    type: str
    required: true
  tables:
    description:
      - Keys are name, columns (name, type, nullable), primary_key and partition_by, which has method, column and for
        hash a modulus, for range a first_year and last_year.
    type: list
    elements: dict
    required: true
extends_documentation_fragment: [postgresql_connection]
author: [pgfleet]
"""

EXAMPLES = r"""
- name: Make the tables
  postgresql_partitioned_tables:
    database: app
    owner: app_owner
    tables:
      - name: sales
        columns: [{name: order_date, type: date}]
        partition_by: {method: range, column: order_date, first_year: 2023, last_year: 2025}
"""

RETURN = r"""
statements:
  description: What was run.
  returned: always
  type: list
  elements: str
"""

COLUMNS = """
select a.attname as name, format_type(a.atttypid, a.atttypmod) as type, not a.attnotnull as nullable
from pg_attribute a where a.attrelid = %(oid)s and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
KEY_COLUMNS = """
select a.attname as name from unnest(%(numbers)s::smallint[]) with ordinality as k (number, position)
join pg_attribute a on a.attrelid = %(oid)s and a.attnum = k.number order by k.position
"""
TABLE = """
select c.oid, pg_get_userbyid(c.relowner) as owner, case p.partstrat when 'h' then 'hash' when 'r' then 'range'
  when 'l' then 'list' end as method, p.partattrs::smallint[] as partition_key, coalesce(i.indkey::smallint[], '{}') as primary_key
from pg_class c left join pg_partitioned_table p on p.partrelid = c.oid
left join pg_index i on i.indrelid = c.oid and i.indisprimary
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and c.relname = %(name)s
"""
PARTITIONS = """
select c.relname as name, pg_get_expr(c.relpartbound, c.oid) as bound
from pg_inherits h join pg_class c on c.oid = h.inhrelid where h.inhparent = %(oid)s
"""
RELATIONS = "select relname as name from pg_class where relnamespace = 'public'::regnamespace"
TYPE = "select format_type(to_regtype(%(type)s), to_regtypemod(%(type)s)) as type where to_regtype(%(type)s) is not null"


def names(connection: Any, query: str, arguments: dict[str, Any]) -> list[str]:
    return [row["name"] for row in rows(connection, query, arguments)]


def read(connection: Any, name: str) -> dict[str, Any] | None:
    """What the server has under a name; None when it has no such table."""
    found = rows(connection, TABLE, {"name": name})
    if not found:
        return None
    table, oid = found[0], {"oid": found[0]["oid"]}
    return {
        "owner": table["owner"],
        "method": table["method"],
        "columns": rows(connection, COLUMNS, oid),
        "primary_key": names(connection, KEY_COLUMNS, dict(oid, numbers=table["primary_key"])),
        "key": names(connection, KEY_COLUMNS, dict(oid, numbers=table["partition_key"] or [])),
        "partitions": {row["name"]: row["bound"] for row in rows(connection, PARTITIONS, oid)},
    }


def in_server_words(module: AnsibleModule, connection: Any, table: dict[str, Any]) -> dict[str, Any]:
    """A description whose types are spelt as the server spells them."""
    columns = []
    for column in table["columns"]:
        found = rows(connection, TYPE, {"type": column["type"]})
        if not found:
            module.fail_json(
                msg=f"databases_tables gives {table['name']}.{column['name']} the type '{column['type']}', which PostgreSQL does not know."
            )
        columns.append({
            "name": column["name"], "type": found[0]["type"],
            "nullable": column["nullable"] and column["name"] not in table["primary_key"],
        })
    return dict(table, columns=columns, owner=module.params["owner"])


def has_database(module: AnsibleModule) -> bool:
    connection = connect(module.params)
    found = rows(connection, "select from pg_database where datname = %s", [module.params["database"]])
    connection.close()
    return bool(found)


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            CONNECTION_ARGUMENTS,
            database={"type": "str", "required": True},
            owner={"type": "str", "required": True},
            tables={
                "type": "list", "elements": "dict", "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "columns": {
                        "type": "list", "elements": "dict", "required": True,
                        "options": {
                            "name": {"type": "str", "required": True},
                            "type": {"type": "str", "required": True},
                            "nullable": {"type": "bool", "default": True},
                        },
                    },
                    "primary_key": {"type": "list", "elements": "str", "default": [], "no_log": False},
                    "partition_by": {
                        "type": "dict", "required": True,
                        "options": {
                            "method": {"type": "str", "choices": ["hash", "range"], "required": True},
                            "column": {"type": "str", "required": True},
                            "modulus": {"type": "int"},
                            "first_year": {"type": "int"},
                            "last_year": {"type": "int"},
                        },
                        "required_if": [["method", "hash", ["modulus"]], ["method", "range", ["first_year", "last_year"]]],
                    },
                },
            },
        ),
        supports_check_mode=True,
    )
    require_psycopg2(module)
    import psycopg2

    statements = []
    try:
        if module.check_mode and not has_database(module):
            module.exit_json(changed=True, statements=[])
        connection = connect(module.params, module.params["database"])
        relations = set(names(connection, RELATIONS, {}))
        for table in module.params["tables"]:
            table = in_server_words(module, connection, table)
            statements += plan(table, read(connection, table["name"]), relations)
        if statements and not module.check_mode:
            execute(connection, ["set local role {}".format(quote(module.params["owner"])), *statements])
            connection.commit()
        connection.close()
    except Differs as difference:
        module.fail_json(
            msg=f"In database {module.params['database']}, {difference}. "
            "Nothing was changed; make databases_tables agree, or migrate the table by hand."
        )
    except psycopg2.Error as error:
        module.fail_json(msg="The tables in database {} were not changed: {}".format(module.params["database"], sentence(error)))
    module.exit_json(
        changed=bool(statements), statements=statements,
        diff={"before": "", "after": "".join(statement + "\n" for statement in statements)},
    )


if __name__ == "__main__":
    main()
