"""The two questions that are put to the server: has the catalogue changed, and what does it hold.

User objects are those that initdb has not made (oid >= 16384, FirstNormalObjectId). What sessions
make for themselves (temporary tables) is left out: a replica has none.
"""

from __future__ import annotations

from typing import Final

_KINDS: Final = "('r', 'p', 'v', 'm', 'S', 'f')"

_CHANGES: Final = f"""
select coalesce(sum(hashint8extended(of.id::int8 << 32 | of.change::text::int8, of.part)), 0)::text
from (
    select 1, oid, xmin from pg_catalog.pg_proc where oid >= 16384
    union all
    select 2, oid, xmin from pg_catalog.pg_class
    where oid >= 16384 and relpersistence <> 't' and (relkind = 'c' or relkind in {_KINDS})
    union all
    select 3, oid, xmin from pg_catalog.pg_rewrite where oid >= 16384
    union all
    select 4, oid, xmin from pg_catalog.pg_operator where oid >= 16384
    union all
    select 5, oid, xmin from pg_catalog.pg_cast where oid >= 16384
    union all
    select 6, oid, xmin from pg_catalog.pg_type where oid >= 16384 and typtype <> 'c'
        and typnamespace in (select oid from pg_catalog.pg_namespace where nspname !~ '^pg_t')
        and typelem = 0
    union all
    select 7, oid, xmin from pg_catalog.pg_policy
    union all
    select 8, oid, xmin from pg_catalog.pg_constraint where contypid <> 0 and oid >= 16384
    union all
    select 9, oid, xmin from pg_catalog.pg_amproc where oid >= 16384
    union all
    select 10, inhrelid, xmin from pg_catalog.pg_inherits
    union all
    select 11, oid, xmin from pg_catalog.pg_namespace where nspname !~ '^pg_t'
    union all
    select 12, setdatabase, xmin from pg_catalog.pg_db_role_setting
    union all
    select 13, attrelid, a.xmin
    from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = attrelid
    where attrelid >= 16384 and attnum > 0 and not attisdropped
        and relpersistence <> 't' and (relkind = 'c' or atttypid >= 16384 and relkind in {_KINDS})
    union all
    select 14, indexrelid, i.xmin
    from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = indrelid
    where indrelid >= 16384 and relpersistence <> 't'
        and (indpred is not null or indexprs is not null)
    union all
    select 15, s.oid, s.xmin
    from pg_catalog.pg_statistic_ext s join pg_catalog.pg_class c on c.oid = stxrelid
    where stxexprs is not null and relpersistence <> 't'
) as of (part, id, change)
"""  # noqa: S608 - made of constants

PROBE: Final = _CHANGES.strip()
"""One row with one text, which is another one after any change that matters here."""

_READABLE_SCHEMAS: Final = """
select oid, nspname from pg_catalog.pg_namespace
where nspname !~ '^pg_(toast|temp_|toast_temp_)'
"""

LOAD: Final = f"""
with recursive
schemas as ({_READABLE_SCHEMAS}),
elsewhere (id) as ( -- not readable on a replica, nor is what has such a partition
    select oid from pg_catalog.pg_class
    where oid >= 16384 and (relkind = 'f' or relpersistence = 'u')
    union
    select inhparent from pg_catalog.pg_inherits join elsewhere on inhrelid = id
),
user_functions as (
    select p.*, n.nspname from pg_catalog.pg_proc p join schemas n on n.oid = p.pronamespace
    where p.oid >= 16384
),
user_relations as (
    select c.*, n.nspname from pg_catalog.pg_class c join schemas n on n.oid = c.relnamespace
    where c.oid >= 16384 and c.relkind in {_KINDS}
        and c.relpersistence <> 't'
),
planned (relation, text) as ( -- the planner computes what is constant in them
    select conrelid, pg_catalog.pg_get_expr(conbin, conrelid) from pg_catalog.pg_constraint
    where contype = 'c' and conrelid >= 16384
    union select indrelid, pg_catalog.pg_get_expr(indpred, indrelid) from pg_catalog.pg_index
    where indrelid >= 16384 and indpred is not null
    union select indrelid, pg_catalog.pg_get_expr(indexprs, indrelid) from pg_catalog.pg_index
    where indrelid >= 16384 and indexprs is not null
    union select stxrelid, pg_catalog.pg_get_expr(stxexprs, stxrelid)
    from pg_catalog.pg_statistic_ext where stxexprs is not null
    union select partrelid, pg_catalog.pg_get_expr(partexprs, partrelid)
    from pg_catalog.pg_partitioned_table where partexprs is not null
),
user_types as (
    select t.*, n.nspname from pg_catalog.pg_type t join schemas n on n.oid = t.typnamespace
    where t.oid >= 16384 and t.typtype <> 'p' and (t.typrelid = 0 or exists (
        select from pg_catalog.pg_class c where c.oid = t.typrelid and c.relkind = 'c'))
),
type_functions (type, function) as (
    select castsource, castfunc from pg_catalog.pg_cast where oid >= 16384
    union select casttarget, castfunc from pg_catalog.pg_cast where oid >= 16384
    union select amproclefttype, amproc from pg_catalog.pg_amproc where oid >= 16384
    union select amprocrighttype, amproc from pg_catalog.pg_amproc where oid >= 16384
    union select rngtypid, rngcanonical from pg_catalog.pg_range where rngtypid >= 16384
    union select rngtypid, rngsubdiff from pg_catalog.pg_range where rngtypid >= 16384
)
select json_build_object(
    'version', ({_CHANGES}),
    'conforming_strings', current_setting('standard_conforming_strings') = 'on',
    'utf8', current_setting('server_encoding') = 'UTF8',
    'information_schema_in_path', current_setting('search_path') ~ 'information_schema'
        or exists (select from pg_catalog.pg_db_role_setting, unnest(setconfig) as setting
            where setting ~ '^search_path=.*information_schema'),
    'builtin_functions', (select json_agg(f) from (
        select proname, max(case provolatile when 'v' then 2 when 's' then 1 else 0 end),
            array_agg(oid::int8), bool_or(provolatile <> 'i' and pronargs > 0
                and pronargs - pronargdefaults < 2 and proargtypes[0] <> 'internal'::regtype)
        from pg_catalog.pg_proc
        where oid < 16384 and pronamespace = 'pg_catalog'::regnamespace and prokind <> 'p'
        group by proname) as f (name, volatility, oids, takes_one)),
    'builtin_relations', (select json_agg(r) from (
        select relname, relkind from pg_catalog.pg_class
        where oid < 16384 and relnamespace = 'pg_catalog'::regnamespace and relkind in ('r', 'v')
    ) as r (name, kind)),
    'other_relations', (select json_agg(r) from (
        select nspname, relname from pg_catalog.pg_class c join schemas n on n.oid = relnamespace
        where c.oid < 16384 and nspname <> 'pg_catalog' and relkind in ('r', 'v')
    ) as r (schema, name)),
    'builtin_types', (select json_agg(typname) from pg_catalog.pg_type
        where oid < 16384 and typnamespace = 'pg_catalog'::regnamespace),
    'builtin_operators', (select json_agg(distinct oprname) from pg_catalog.pg_operator
        where oid < 16384),
    'functions', (select json_agg(f) from (
        select p.oid::int8, nspname, proname, provolatile, prokind, lanname,
            case when lanname in ('sql', 'plpgsql', 'c') then
                coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), prosrc) end,
            prosqlbody is not null,
            pg_catalog.pg_get_expr(proargdefaults, 0),
            pronargs > 0 and pronargs - pronargdefaults < 2,
            coalesce(proallargtypes, proargtypes::oid[])::text[]::int8[] || prorettype::int8,
            array_remove(array[aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn,
                aggmtransfn, aggminvtransfn, aggmfinalfn]::oid[]::text[]::int8[], 0),
            array[aggtranstype, aggmtranstype]::text[]::int8[]
        from user_functions p join pg_catalog.pg_language l on l.oid = prolang
        left join pg_catalog.pg_aggregate a on aggfnoid = p.oid
    ) as f (oid, schema, name, volatility, kind, language, body, standard_body, defaults,
        takes_one, types, parts, states)),
    'relations', (select json_agg(r) from (
        select c.oid::int8, nspname, relname, relkind, reltype::int8,
            exists (select from elsewhere where id = c.oid),
            case when relkind = 'v' then pg_catalog.pg_get_viewdef(c.oid) end,
            case when relrowsecurity then (
                select array_agg(pg_catalog.pg_get_expr(polqual, polrelid))
                from pg_catalog.pg_policy where polrelid = c.oid and polqual is not null) end,
            (select array_agg(pg_catalog.pg_get_expr(adbin, adrelid))
                from pg_catalog.pg_attrdef d join pg_catalog.pg_attribute a
                on adrelid = attrelid and adnum = attnum
                where adrelid = c.oid and attgenerated = 'v'),
            (select array_agg(text) from planned where planned.relation = c.oid),
            (select array_agg(inhrelid::int8) from pg_catalog.pg_inherits where inhparent = c.oid),
            (select array_agg(type::int8) from (
                select reltype from pg_catalog.pg_inherits join pg_catalog.pg_class p
                on p.oid = inhparent where inhrelid = c.oid
                union select c.reloftype where c.reloftype <> 0) as wider (type)),
            (select array_agg(distinct atttypid::int8) from pg_catalog.pg_attribute
                where attrelid = c.oid and atttypid >= 16384 and attnum > 0)
        from user_relations c
    ) as r (oid, schema, name, kind, row_type, elsewhere, definition, policies, generated,
        planned, children, wider_types, types)),
    'types', (select json_agg(t) from (
        select t.oid::int8, nspname, typname,
            exists (select from pg_catalog.pg_proc p where provolatile = 'v' and p.oid in
                (typinput, typoutput, typreceive, typsend, typmodin, typmodout)),
            (select array_agg(pg_catalog.pg_get_constraintdef(c.oid))
                from pg_catalog.pg_constraint c where contypid = t.oid),
            array_remove(array[typbasetype::int8, typelem::int8], 0)
            || (select array_agg(rngsubtype::int8) from pg_catalog.pg_range where rngtypid = t.oid)
            || (select array_agg(rngtypid::int8) from pg_catalog.pg_range
                where rngmultitypid = t.oid)
            || (select array_agg(atttypid::int8) from pg_catalog.pg_attribute
                where attrelid = typrelid and typrelid <> 0 and attnum > 0)
        from user_types t
    ) as t (oid, schema, name, volatile, constraints, parts)),
    'operators', (select json_agg(o) from (
        select o.oprname, o.oprleft::int8, o.oprright::int8, f.oprcode::oid::int8
        from pg_catalog.pg_operator o join pg_catalog.pg_operator f
        on f.oid in (o.oid, o.oprnegate, o.oprcom) -- the planner takes one for the other
        where o.oid >= 16384 and f.oprcode <> 0
    ) as o (name, "left", "right", function)),
    'implicit_targets', (select json_agg(casttarget::int8) from pg_catalog.pg_cast
        where castcontext = 'i' and casttarget >= 16384),
    'type_functions', (select json_agg(f) from (
        select type::int8, function::oid::int8 from type_functions where function <> 0
    ) as f (type, function))
)::text
"""  # noqa: S608 - made of constants
"""One row with one text, a JSON object; see catalog.py for what is made of it."""
