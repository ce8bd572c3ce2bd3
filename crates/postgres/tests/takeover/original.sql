-- A database as the reference leaves it (tenant_database 1, 2): same objects, signatures, owners and rights. The
-- bodies of internal functions are short; nothing looks at them but the comparison of before and after.
create schema realtime authorization supabase_admin;
grant usage on schema realtime to anon, authenticated, service_role;
grant usage on schema realtime to postgres with grant option;
grant usage, create on schema realtime to supabase_realtime_admin with grant option;
alter default privileges for role supabase_admin in schema realtime
    grant all on tables to postgres, dashboard_user;
alter default privileges for role supabase_admin in schema realtime
    grant all on sequences to postgres, dashboard_user;
alter default privileges for role supabase_admin in schema realtime
    grant all on functions to postgres, dashboard_user;

set role supabase_admin;

create table realtime.schema_migrations (
    version bigint primary key,
    inserted_at timestamp(0) without time zone default now()
);
revoke all on realtime.schema_migrations from postgres, dashboard_user;

create type realtime.action as enum ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'ERROR');
create type realtime.equality_op as enum
    ('eq', 'neq', 'lt', 'lte', 'gt', 'gte', 'in', 'like', 'ilike', 'is', 'match', 'imatch', 'isdistinct');
create type realtime.user_defined_filter as (column_name text, op realtime.equality_op, value text, negate boolean);
create type realtime.wal_column as
    (name text, type_name text, type_oid oid, value jsonb, is_pkey boolean, is_selectable boolean);
create type realtime.wal_rls as (wal jsonb, is_rls_enabled boolean, subscription_ids uuid[], errors text[]);

create table realtime.messages (
    topic text not null,
    extension text not null,
    payload jsonb,
    event text,
    private boolean default false,
    updated_at timestamp without time zone not null default now(),
    inserted_at timestamp without time zone not null default now(),
    id uuid not null default gen_random_uuid(),
    binary_payload bytea,
    constraint messages_pkey primary key (id, inserted_at)
) partition by range (inserted_at);
alter table realtime.messages add constraint messages_payload_exclusive
    check (payload is null or binary_payload is null) not valid;
create index messages_inserted_at_topic_index on realtime.messages (inserted_at desc, topic)
    where extension = 'broadcast' and private is true;
alter table realtime.messages enable row level security;
grant select, insert, update on realtime.messages to anon, authenticated, service_role;

create function realtime.to_regrole(role_name text) returns regrole language sql immutable
    as $$ select role_name::regrole $$;
create table realtime.subscription (
    id bigint generated always as identity constraint pk_subscription primary key,
    subscription_id uuid not null,
    entity regclass not null,
    filters realtime.user_defined_filter[] not null default '{}',
    claims jsonb not null,
    claims_role regrole not null generated always as (realtime.to_regrole(claims ->> 'role')) stored,
    created_at timestamp not null default timezone('utc', now()),
    action_filter text default '*' constraint subscription_action_filter_check
        check (action_filter in ('*', 'INSERT', 'UPDATE', 'DELETE')),
    selected_columns text[]
);
create index ix_realtime_subscription_entity on realtime.subscription using btree (entity);
create unique index subscription_subscription_id_entity_filters_action_filter_selec
    on realtime.subscription (subscription_id, entity, filters, action_filter, coalesce(selected_columns, '{}'));
grant select on realtime.subscription to anon, authenticated, service_role;
grant usage on sequence realtime.subscription_id_seq to anon, authenticated, service_role;
create function realtime.subscription_check_filters() returns trigger language plpgsql
    as $$ begin return new; end $$;
create trigger tr_check_filters before insert or update on realtime.subscription
    for each row execute function realtime.subscription_check_filters();

create function realtime."cast"(val text, type_ regtype) returns jsonb language plpgsql immutable
    as $$ begin return to_jsonb(val); end $$;
create function realtime.check_equality_op(op realtime.equality_op, type_ regtype, val_1 text, val_2 text)
    returns boolean language plpgsql immutable as $$ begin return val_1 = val_2; end $$;
create function realtime.check_equality_op(
    op realtime.equality_op, type_ regtype, val_1 text, val_2 text, negate boolean
) returns boolean language plpgsql stable as $$ begin return (val_1 = val_2) <> negate; end $$;
create function realtime.is_visible_through_filters(
    columns realtime.wal_column[], filters realtime.user_defined_filter[]
) returns boolean language sql stable as $$ select cardinality(filters) = 0 $$;
create function realtime.build_prepared_statement_sql(
    prepared_statement_name text, entity regclass, columns realtime.wal_column[]
) returns text language sql as $$ select 'prepare ' || prepared_statement_name $$;
create function realtime.wal2json_escape_identifier(name text) returns text language sql immutable strict
    as $$ select regexp_replace(name, '([\\,.[:space:]])', '\\\1', 'g') $$;
create function realtime.quote_wal2json(entity regclass) returns text language sql immutable strict
    as $$ select entity::text $$;
create function realtime.apply_rls(wal jsonb, max_record_bytes integer default 1048576)
    returns setof realtime.wal_rls language plpgsql as $$ begin return; end $$;
create function realtime.list_changes(publication name, slot_name name, max_changes integer, max_record_bytes integer)
    returns table (wal jsonb, is_rls_enabled boolean, subscription_ids uuid[], errors text[], slot_changes_count bigint)
    language sql set log_min_messages = fatal
    as $$ select null::jsonb, null::boolean, null::uuid[], null::text[], 0::bigint $$;

create function realtime.topic() returns text language sql stable
    as $$ select nullif(current_setting('realtime.topic', true), '') $$;
create function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void
language plpgsql as $$
declare new_id uuid := gen_random_uuid();
begin
    if not payload ? 'id' then payload := jsonb_set(payload, '{id}', to_jsonb(new_id)); end if;
    execute format('set local realtime.topic to %L', topic);
    insert into realtime.messages (id, payload, event, topic, private, extension)
    values (new_id, payload, event, topic, private, 'broadcast');
exception when others then raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end $$;
create function realtime.send_binary(payload bytea, event text, topic text, private boolean default true) returns void
language plpgsql as $$
begin
    execute format('set local realtime.topic to %L', topic);
    insert into realtime.messages (binary_payload, event, topic, private, extension)
    values (payload, event, topic, private, 'broadcast');
exception when others then raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end $$;
create function realtime.broadcast_changes(
    topic_name text, event_name text, operation text, table_name text, table_schema text,
    new record, old record, level text default 'ROW'
) returns void language plpgsql as $$
begin
    perform realtime.send(jsonb_build_object('old_record', old, 'record', new, 'operation', operation,
        'table', table_name, 'schema', table_schema), event_name, topic_name);
end $$;

do $$
declare f regprocedure;
begin
    for f in select p.oid::regprocedure from pg_proc p where pronamespace = 'realtime'::regnamespace loop
        if f::text !~ '(topic|send|send_binary|broadcast_changes|list_changes|wal2json_escape_identifier)\(' then
            execute format('grant execute on function %s to postgres, anon, authenticated, service_role', f);
        end if;
        execute format('alter function %s owner to supabase_realtime_admin', f);
    end loop;
end $$;
alter type realtime.action owner to supabase_realtime_admin;
alter type realtime.equality_op owner to supabase_realtime_admin;
alter type realtime.user_defined_filter owner to supabase_realtime_admin;
alter type realtime.wal_column owner to supabase_realtime_admin;
alter type realtime.wal_rls owner to supabase_realtime_admin;
alter table realtime.messages owner to supabase_realtime_admin;
alter table realtime.subscription owner to supabase_realtime_admin;

insert into realtime.schema_migrations (version) values
    (20211116024918), (20211116045059), (20211116050929), (20211116051442), (20211116212300),
    (20211116213355), (20211116213934), (20211116214523), (20211122062447), (20211124070109),
    (20211202204204), (20211202204605), (20211210212804), (20211228014915), (20220107221237),
    (20220228202821), (20220312004840), (20220603231003), (20220603232444), (20220615214548),
    (20220712093339), (20220908172859), (20220916233421), (20230119133233), (20230128025114),
    (20230128025212), (20230227211149), (20230228184745), (20230308225145), (20230328144023),
    (20231018144023), (20231204144023), (20231204144024), (20231204144025), (20240108234812),
    (20240109165339), (20240227174441), (20240311171622), (20240321100241), (20240401105812),
    (20240418121054), (20240523004032), (20240618124746), (20240801235015), (20240805133720),
    (20240827160934), (20240919163303), (20240919163305), (20241019105805), (20241030150047),
    (20241108114728), (20241121104152), (20241130184212), (20241220035512), (20241220123912),
    (20241224161212), (20250107150512), (20250110162412), (20250123174212), (20250128220012),
    (20250506224012), (20250523164012), (20250714121412), (20250905041441), (20251103001201),
    (20251120212548), (20251120215549), (20260218120000), (20260326120000), (20260514120000),
    (20260527120000), (20260528120000), (20260603120000), (20260605120000), (20260606110000),
    (20260616120000), (20260624120000), (20260626120000), (20260706120000), (20260707120000),
    (20260709120000);

reset role;

-- What users have made.
create schema auth;
create function auth.uid() returns uuid language sql stable
    as $$ select nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$;
grant usage on schema auth to anon, authenticated, service_role;
create policy "members read" on realtime.messages for select to authenticated
    using (realtime.topic() like 'room-%' and extension in ('broadcast', 'presence'));
create policy "members write" on realtime.messages for insert to authenticated
    with check (realtime.topic() = 'room-1');
create function public.audit() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger audit before insert on realtime.messages for each row execute function public.audit();
create table public.notes (id int primary key, body text);
alter publication supabase_realtime add table public.notes;
