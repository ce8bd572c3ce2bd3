//! What a database has of the schema `realtime`, and what our role may do there.

use tokio_postgres::{Client, Error};

use crate::{
    janitor,
    partitions::Child,
    publication::{self, State},
};

/// Begins the comments by which our own functions are known; the number of their version follows.
pub(super) const MARK: &str = "Made by Realtime, version ";

/// Who set the schema up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Nobody else: it is ours to make and to keep up to date.
    Ours,
    /// Supabase Realtime, which keeps it up to date itself; with the number of its migrations, if we may know.
    Supabase(Option<i64>),
}

/// A role of clients.
#[derive(Debug, Clone)]
pub(super) struct ClientRole {
    pub(super) name: String,
    /// Whether our role may take it on.
    pub(super) can_become: bool,
    /// Whether it has any privilege on the schema or the table.
    pub(super) known: bool,
}

/// The table `realtime.messages`.
#[derive(Debug, Clone)]
pub(super) struct Messages {
    pub(super) partitioned: bool,
    pub(super) row_security: bool,
    /// Whether our role has the powers of its owner: partitions, and seeing rows past the policies.
    pub(super) owned: bool,
    pub(super) columns: Vec<String>,
    pub(super) has_check: bool,
    pub(super) has_index: bool,
}

/// What there is.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    pub(super) user: String,
    /// Whether it may replicate; superusers may.
    pub(super) replication: bool,
    pub(super) wal_level: String,
    pub(super) origin: Origin,
    /// Whether there is the schema.
    pub(super) schema: bool,
    pub(super) messages: Option<Messages>,
    /// The public functions that exist, as `name(types)`, with the version of those that are ours.
    pub(super) functions: Vec<(String, Option<u32>)>,
    pub(super) children: Vec<Child>,
    pub(super) publication: State,
    /// Client roles that exist.
    pub(super) clients: Vec<ClientRole>,
    /// Platform roles that exist.
    pub(super) platform: Vec<String>,
}

const SELF: &str = "select r.rolname::text, r.rolreplication or r.rolsuper,
        pg_catalog.current_setting('wal_level'), exists (select from pg_catalog.pg_namespace where nspname = 'realtime')
    from pg_catalog.pg_roles r where r.rolname = current_user";

const MIGRATIONS: &str = "select pg_catalog.has_table_privilege(c.oid, 'SELECT')
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'realtime' and c.relname = 'schema_migrations'";

const MESSAGES: &str = "select c.relkind = 'p', c.relrowsecurity,
        pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE'),
        array(select a.attname::text from pg_catalog.pg_attribute a
              where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum),
        exists (select from pg_catalog.pg_constraint k
                where k.conrelid = c.oid and k.conname = 'messages_payload_exclusive'),
        exists (select from pg_catalog.pg_index i join pg_catalog.pg_class x on x.oid = i.indexrelid
                where i.indrelid = c.oid and x.relname = 'messages_inserted_at_topic_index')
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'realtime' and c.relname = 'messages'";

const FUNCTIONS: &str = "select p.proname::text || '(' || pg_catalog.array_to_string(array(
            select pg_catalog.format_type(t, null) from unnest(p.proargtypes) with ordinality a(t, n) order by n), ', ')
            || ')',
        pg_catalog.obj_description(p.oid, 'pg_proc')
    from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'realtime' and p.proname in ('topic', 'send', 'send_binary', 'broadcast_changes')";

/// Privileges are read from the lists of the objects: what a role has through others, or through being
/// a superuser, says nothing about whether it was meant to have any here.
const ROLES: &str = "select r.rolname::text,
        pg_catalog.pg_has_role(current_user, r.oid, $2),
        exists (select from pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
                where n.nspname = 'realtime' and a.grantee = r.oid)
        or exists (select from pg_catalog.pg_namespace n
                   join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = 'messages',
                   pg_catalog.aclexplode(c.relacl) a
                   where n.nspname = 'realtime' and a.grantee = r.oid)
    from pg_catalog.pg_roles r where r.rolname = any($1) order by r.rolname";

/// Roles of the platform. A superuser needs no rights, but may have to own the schema.
const PLATFORM: &str = "select rolname::text from pg_catalog.pg_roles
    where rolname = 'supabase_admin'
        or not rolsuper and rolname in ('dashboard_user', 'postgres', 'supabase_realtime_admin')";

/// Looks at everything.
pub(super) async fn survey(client: &Client) -> Result<Survey, Error> {
    let row = client.query_one(SELF, &[]).await?;
    let version = client.query_one("select current_setting('server_version_num')::int", &[]).await?;
    // Before 16 a member may always take a role on.
    let take_on = if version.try_get::<_, i32>(0)? >= 160_000 { "SET" } else { "MEMBER" };
    let roles: Vec<&str> = crate::partitions::CLIENT_ROLES.to_vec();
    let rows = client.query(ROLES, &[&roles, &take_on]).await?;
    let clients = rows
        .iter()
        .map(|row| {
            Ok(ClientRole { name: row.try_get(0)?, can_become: row.try_get(1)?, known: row.try_get(2)? })
        })
        .collect::<Result<_, Error>>()?;
    let rows = client.query(PLATFORM, &[]).await?;
    let platform = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok(Survey {
        user: row.try_get(0)?,
        replication: row.try_get(1)?,
        wal_level: row.try_get(2)?,
        origin: origin(client).await?,
        schema: row.try_get(3)?,
        messages: messages(client).await?,
        functions: functions(client).await?,
        children: janitor::children(client).await?,
        publication: publication::state(client).await?,
        clients,
        platform,
    })
}

/// Rows in the table of migrations mean that the original was here; it makes the table before it begins.
async fn origin(client: &Client) -> Result<Origin, Error> {
    let Some(row) = client.query_opt(MIGRATIONS, &[]).await? else { return Ok(Origin::Ours) };
    if !row.try_get::<_, bool>(0)? {
        return Ok(Origin::Supabase(None));
    }
    let row = client.query_one("select count(*) from realtime.schema_migrations", &[]).await?;
    Ok(match row.try_get(0)? {
        0 => Origin::Ours,
        migrations => Origin::Supabase(Some(migrations)),
    })
}

async fn messages(client: &Client) -> Result<Option<Messages>, Error> {
    let Some(row) = client.query_opt(MESSAGES, &[]).await? else { return Ok(None) };
    Ok(Some(Messages {
        partitioned: row.try_get(0)?,
        row_security: row.try_get(1)?,
        owned: row.try_get(2)?,
        columns: row.try_get(3)?,
        has_check: row.try_get(4)?,
        has_index: row.try_get(5)?,
    }))
}

async fn functions(client: &Client) -> Result<Vec<(String, Option<u32>)>, Error> {
    let rows = client.query(FUNCTIONS, &[]).await?;
    rows.iter()
        .map(|row| {
            let comment: Option<String> = row.try_get(1)?;
            let version = comment.and_then(|comment| comment.strip_prefix(MARK)?.parse().ok());
            Ok((row.try_get(0)?, version))
        })
        .collect()
}
