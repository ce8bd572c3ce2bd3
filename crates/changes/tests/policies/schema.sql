create schema auth;
create schema private;
grant usage on schema auth, private, public to authenticated;
create function auth.uid() returns uuid language sql stable as $$
    select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''),
        (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'))::uuid $$;
create function auth.role() returns text language sql stable as $$
    select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role' $$;
create function auth.email() returns text language sql stable as $$
    select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email' $$;
create function auth.jwt() returns jsonb language sql stable as $$
    select nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
create type public.mood as enum ('sad', 'ok', 'happy');
create collation public.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create domain public.word as text check (value <> 'no');
create table public.members (room_id uuid, user_id uuid, role text, team_id int, mood public.mood, ref varchar(40), until timestamptz);
create table public.admins (user_id uuid);
create table public.profiles (id uuid, org uuid, n int, email text, tags text[]);
create table public.hidden (room_id uuid, user_id uuid);
alter table public.hidden enable row level security;
create policy own on public.hidden using (user_id = auth.uid());
create table public.rooms (
    id uuid primary key, owner uuid, other uuid, owner_text text, vc varchar(60), n int, small smallint, big bigint,
    num numeric, f float8, flag bool, mood public.mood, created timestamptz, plain timestamp, day date, data jsonb,
    js json, tags text[], ids uuid[], bp char(8), team_id int, path text, loose text collate public.loose,
    bytes_text text collate "C", word public.word, "Weird col" text, "order" int);
grant select on all tables in schema public to authenticated;
create function public.is_admin() returns bool language sql stable security definer as $$
    select exists (select 1 from public.admins where user_id = auth.uid()) $$;
create function public.my_rooms() returns setof uuid language sql stable security definer as $$
    select room_id from public.members where user_id = auth.uid() $$;
create function public.my_orgs() returns uuid[] language sql stable security definer as $$
    select array_agg(org) from public.profiles where id = auth.uid() $$;
create function public.my_team() returns int language plpgsql stable security definer as $$
begin
    return (select max(team_id) from public.members where user_id = auth.uid());
end $$;
create function public.is_member(room uuid) returns bool language sql security definer as $$
    select exists (select 1 from public.members m where m.room_id = room and m.user_id = auth.uid()) $$;
create function public.has_role(room uuid, wanted text) returns bool language plpgsql stable security definer as $$
begin
    return exists (select 1 from public.members m
        where m.room_id = room and m.user_id = auth.uid() and m.role = wanted);
end $$;
create function public.role_in(room uuid) returns text language sql stable security definer as $$
    select min(role) from public.members where room_id = room and user_id = auth.uid() $$;
create function private.opaque(room uuid) returns bool language plpgsql stable as $$
declare found bool;
begin
    select true into found from public.members m where m.room_id = room limit 1;
    return found;
end $$;
create function private.first_part(path text) returns text language sql immutable as $$ select split_part(path, '/', 1) $$;
