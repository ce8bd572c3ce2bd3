-- Lists that several people share. Each person sees the lists that they are a member of, and nothing else.
create table if not exists lists (id bigint generated always as identity primary key, name text not null);
create table if not exists members (list bigint references lists, person text, primary key (list, person));
create table if not exists items (
  id uuid primary key, list bigint not null references lists, text text not null, done boolean not null default false,
  inserted_at timestamptz not null default now());

-- Who is asking: the claim `sub` of the token.
create or replace function me() returns text language sql stable as
  $$ select current_setting('request.jwt.claims', true)::json ->> 'sub' $$;

grant select on members to authenticated;
grant select, insert, update, delete on items to authenticated;
alter table members enable row level security;
alter table items enable row level security;
drop policy if exists "own memberships" on members;
create policy "own memberships" on members for select to authenticated using (person = me());
drop policy if exists "items of own lists" on items;
create policy "items of own lists" on items to authenticated
  using (list in (select list from members where person = me()))
  with check (list in (select list from members where person = me()));

-- Live rows need the tables of the policies in the publication too: then a person who is removed loses the items at once.
do $$ begin
  alter publication supabase_realtime add table items, members;
exception when duplicate_object then null;
end $$;

-- The private channel `list:1` is for the members of list 1: presence, and who is typing.
drop policy if exists "members hear" on realtime.messages;
create policy "members hear" on realtime.messages for select to authenticated
  using (exists (select from public.members where 'list:' || list = realtime.topic() and person = public.me()));
drop policy if exists "members speak" on realtime.messages;
create policy "members speak" on realtime.messages for insert to authenticated
  with check (exists (select from public.members where 'list:' || list = realtime.topic() and person = public.me()));

insert into lists (name) select 'Groceries' where not exists (select from lists);
insert into members values (1, 'ann'), (1, 'ben') on conflict do nothing;
