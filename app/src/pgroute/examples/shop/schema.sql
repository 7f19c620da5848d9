-- The tables of the shop that the fleet does not have by itself. Can be run again.
-- Nobody logs in as the owner, so a superuser runs it on the primary and lends the owner its hands:
--     psql -d app -f schema.sql
begin;
set local role app_owner;

create schema if not exists shop;

do $$
begin
    create type shop.mood as enum ('happy', 'calm', 'grumpy');
exception when duplicate_object then null;
end
$$;

create table if not exists shop.categories (
    id int generated always as identity primary key,
    parent_id int references shop.categories (id),
    name text not null check (name <> ''),
    unique nulls not distinct (parent_id, name)
);

create table if not exists shop.samples (
    id uuid primary key,
    amount numeric(20, 6),
    document jsonb,
    tags text[],
    numbers int[],
    mood shop.mood,
    happened_at timestamptz,
    note text
);

grant usage on schema shop to app_rw, app_ro;
grant select, insert, update, delete on all tables in schema shop to app_rw;
grant select on all tables in schema shop to app_ro;

commit;
