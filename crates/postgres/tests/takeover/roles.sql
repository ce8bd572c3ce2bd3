-- The platform's roles, once for the cluster (tenant_database 1.1).
create role supabase_admin superuser login replication password 'secret';
create role supabase_realtime_admin nosuperuser noinherit nocreaterole nocreatedb nologin noreplication nobypassrls;
create role dashboard_user createdb createrole replication;
alter role supabase_realtime_admin set search_path = public, extensions, realtime;
grant anon, authenticated, service_role to supabase_realtime_admin;
-- Rights on parameters exist since PostgreSQL 15.
do $$ begin
    if current_setting('server_version_num')::int >= 150000 then
        execute 'grant set on parameter log_min_messages to supabase_realtime_admin';
    end if;
end $$;
