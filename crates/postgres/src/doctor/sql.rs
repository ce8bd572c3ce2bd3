//! The questions. What only some versions have is read from rows as JSON, or from `pg_settings`.

/// Roles that tokens usually name; the last one sees all rows.
pub(super) const CLIENTS: [&str; 3] = ["anon", "authenticated", "service_role"];

/// The clock, in milliseconds since 1970.
pub(super) const CLOCK: &str = "select (extract(epoch from clock_timestamp()) * 1000)::int8";

/// The server as a whole.
pub(super) const SERVER: &str = "select current_setting('server_version'),
        current_setting('server_version_num')::int4, pg_is_in_recovery(), current_setting('wal_level'),
        (select count(*) from pg_replication_slots), current_setting('max_replication_slots')::int8,
        (select count(*) from pg_stat_get_wal_senders()), current_setting('max_wal_senders')::int8,
        (select setting::int8 from pg_settings where name = 'max_slot_wal_keep_size'),
        (select setting::int8 * case unit when 'min' then 60 else 1 end
         from pg_settings where name = 'idle_replication_slot_timeout'),
        (select coalesce(sum(numbackends), 0)::int8 from pg_stat_database),
        current_setting('max_connections')::int8,
        (select coalesce(sum(setting::int8), 0)::int8 from pg_settings
         where name in ('superuser_reserved_connections', 'reserved_connections')),
        (select count(*) from pg_stat_activity where usename = current_user), r.rolconnlimit::int8,
        (select numbackends::int8 from pg_stat_database where datname = current_database()),
        d.datconnlimit::int8
    from pg_roles r, pg_database d
    where r.rolname = current_user and d.datname = current_database()";

/// The role that we log in as, and which roles of clients there are. Providers grant replication as a role.
pub(super) const ROLE: &str = "select r.rolname::text, current_database()::text, r.rolsuper,
        r.rolreplication or exists (select from pg_roles g
            where g.rolname = 'rds_replication' and pg_has_role(r.oid, g.oid, 'MEMBER')),
        has_database_privilege(current_database(), 'CREATE'),
        array(select c.rolname::text from pg_roles c where c.rolname = any($1) order by c.oid),
        array(select pg_has_role(r.oid, c.oid, 'MEMBER') from pg_roles c where c.rolname = any($1) order by c.oid)
    from pg_roles r where r.rolname = current_user";

/// The slots of this database, and how long their readers have not answered.
pub(super) const SLOTS: &str = "select s.slot_name::text,
        s.slot_name::text = $1::text or starts_with(s.slot_name::text, $1::text || '_')
            or starts_with(s.slot_name::text, 'supabase_realtime_messages_replication_slot'),
        s.active_pid, s.temporary,
        coalesce(s.wal_status = 'lost', false) or coalesce(to_jsonb(s) ->> 'invalidation_reason', '') <> '',
        pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end,
            coalesce(s.confirmed_flush_lsn, s.restart_lsn))::float8,
        (select extract(epoch from clock_timestamp() - w.reply_time)::float8
         from pg_stat_replication w where w.pid = s.active_pid)
    from pg_replication_slots s
    where s.database = current_database()
    order by 1";

/// What the publication of row changes leaves out.
pub(super) const PUBLICATION: &str = "select array_remove(array[
            case when not p.pubinsert then 'inserts' end,
            case when not p.pubupdate then 'updates' end,
            case when not p.pubdelete then 'deletes' end], null)
    from pg_publication p where p.pubname = $1";

/// Publications that the server keeps, as far as they are there.
pub(super) const OWN_PUBLICATIONS: &str = "select p.pubname::text, r.rolname::text,
        pg_has_role(p.pubowner, 'USAGE')
    from pg_publication p join pg_roles r on r.oid = p.pubowner
    where p.pubname = any($1) order by 1";

/// The published tables: what identifies rows, the publication's columns and condition, who may read, who has a policy.
/// `$1` is the publication, `$2` the roles of clients. A condition computes unless it only compares: its operators are
/// those that indexes know, or patterns, and it neither calls functions nor converts through text.
pub(super) const TABLES: &str = r"with published as (
        select c.oid, n.nspname, c.relname, c.relrowsecurity, c.relreplident, c.relnamespace, c.relforcerowsecurity,
            c.relowner, p.oid as publication, to_jsonb(pr) as rel
        from pg_publication p
        join pg_publication_tables t on t.pubname = p.pubname
        join pg_namespace n on n.nspname = t.schemaname
        join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
        left join pg_publication_rel pr on pr.prpubid = p.oid and pr.prrelid = c.oid
        where p.pubname = $1
    ), listed as (
        select t.*, string_to_array(translate(t.rel ->> 'prattrs', '[],', ''), ' ')::int2[] as columns,
            (t.rel ->> 'prqual') as condition
        from published t
    ), clients as (select r.oid, r.rolname from pg_roles r where r.rolname = any($2))
    select t.oid, t.nspname::text, t.relname::text, t.relrowsecurity,
        array(select r.rolname::text from clients r where has_any_column_privilege(r.oid, t.oid, 'SELECT') order by 1),
        array(select r.rolname::text from clients r
            where not has_schema_privilege(r.oid, t.relnamespace, 'USAGE') order by 1),
        array(select r.rolname::text from clients r
            where (select k.rolbypassrls or k.rolsuper from pg_roles k where k.oid = r.oid)
                or not t.relforcerowsecurity and pg_has_role(r.oid, t.relowner, 'USAGE')
                or exists (select from pg_policy p
                    where p.polrelid = t.oid and p.polcmd::text in ('r', '*') and p.polpermissive
                        and exists (select from unnest(p.polroles) o (oid)
                            where o.oid = 0 or pg_has_role(r.oid, o.oid, 'USAGE')))
            order by 1),
        t.relreplident::text,
        exists (select from pg_index i where i.indrelid = t.oid and i.indisprimary),
        exists (select from pg_attribute a
            where a.attrelid = t.oid and a.attname = 'id' and not a.attisdropped),
        case when t.columns is null then '{}' else array(
            select a.attname::text
            from pg_attribute a
            where a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped and a.attnum <> all(t.columns)
                and (t.relreplident = 'f' or exists (
                    select from pg_index i
                    where i.indrelid = t.oid and a.attnum = any(i.indkey::int2[])
                        and (t.relreplident = 'd' and i.indisprimary or t.relreplident = 'i' and i.indisreplident)))
            order by a.attnum) end,
        case when t.columns is not null then array(
            select a.attname::text from pg_attribute a
            where a.attrelid = t.oid and a.attnum = any(t.columns) order by a.attnum) end,
        (select pg_get_expr(k.prqual, k.prrelid) from pg_publication_rel k
         where t.condition is not null and k.oid = (t.rel ->> 'oid')::oid),
        t.condition is not null and (t.condition ~ '\{FUNCEXPR|\{COERCEVIAIO|\{ARRAYCOERCEEXPR|\{SUBSCRIPTINGREF'
            or exists (
                select from regexp_matches(t.condition, ':opno (\d+)', 'g') m (found)
                join pg_operator o on o.oid = m.found[1]::oid
                where o.oprname not in ('<>', '~~', '!~~', '~~*', '!~~*', '||')
                    and not exists (select from pg_amop x join pg_am y on y.oid = x.amopmethod
                        where x.amopopr = o.oid and y.amname in ('btree', 'hash')))),
        t.rel is not null,
        array(
            select a.attname::text
            from regexp_matches(t.condition, ':varattno (\d+)', 'g') m (found)
            join pg_attribute a on a.attrelid = t.oid and a.attnum = m.found[1]::int2 and a.attnum > 0
            where t.relreplident <> 'f' and not exists (
                select from pg_index i
                where i.indrelid = t.oid and a.attnum = any(i.indkey::int2[])
                    and (t.relreplident = 'd' and i.indisprimary or t.relreplident = 'i' and i.indisreplident))
            group by a.attname order by 1)
    from listed t
    order by 2, 3";

/// The same for PostgreSQL 14, whose publications have neither columns nor conditions.
pub(super) const QUAL: &str = "k.prqual";

/// Views that clients' roles may read, with the tables that they read and that are not published: by `$1`, or for
/// policies alone.
pub(super) const VIEWS: &str = "with recursive reads (view, relation) as (
        select distinct r.ev_class, d.refobjid
        from pg_rewrite r
        join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
            and d.refclassid = 'pg_class'::regclass and d.refobjid <> r.ev_class
        where r.ev_type = '1'
    ), below (view, relation) as (
        select v.view, v.relation from reads v
        union
        select b.view, r.relation from below b join reads r on r.view = b.relation
    )
    select n.nspname || '.' || v.relname,
        array_agg(tn.nspname::text order by tn.nspname, t.relname), array_agg(t.relname::text order by tn.nspname, t.relname)
    from pg_class v
    join pg_namespace n on n.oid = v.relnamespace
    join below b on b.view = v.oid
    join pg_class t on t.oid = b.relation and t.relkind in ('r', 'p') and not t.relispartition
    join pg_namespace tn on tn.oid = t.relnamespace
    where v.relkind = 'v' and v.relpersistence = 'p' and t.relpersistence = 'p'
        and n.nspname not in ('pg_catalog', 'information_schema', 'realtime', '_realtime', 'auth', 'storage', 'extensions')
        and tn.nspname not in ('pg_catalog', 'information_schema', 'realtime', '_realtime')
        and exists (select from pg_roles r where r.rolname in ('anon', 'authenticated')
            and has_schema_privilege(r.oid, n.oid, 'USAGE') and has_any_column_privilege(r.oid, v.oid, 'SELECT'))
        and not exists (select from pg_publication_tables p
            where p.pubname in ($1, 'supabase_realtime_policies')
                and p.schemaname = tn.nspname and p.tablename = t.relname)
    group by 1 order by 1 limit 50";

/// Tables that clients may read and that are not published.
pub(super) const CANDIDATES: &str = "select n.nspname::text, c.relname::text
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence = 'p'
        and n.nspname not in ('pg_catalog', 'information_schema', 'realtime', '_realtime', 'auth', 'storage', 'extensions')
        and exists (select from pg_roles r where r.rolname in ('anon', 'authenticated')
            and has_schema_privilege(r.oid, n.oid, 'USAGE') and has_any_column_privilege(r.oid, c.oid, 'SELECT'))
        and exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)
        and not exists (select from pg_publication_tables p
            where p.pubname = $1 and p.schemaname = n.nspname and p.tablename = c.relname)
    order by 1, 2 limit 20";
