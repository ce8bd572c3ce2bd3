//! Looks at the way of one row to one token, for "Why do I get nothing?". Nothing is changed.
//!
//! Code of applications (policies, checks of domains) runs under the role of the token alone. Our own role reads a row only
//! where row-level security does not apply to it.

mod judge;
mod request;
mod row;

use deadpool_postgres::{ClientWrapper as Client, Pool};
use realtime_changes::{RoleAccess, Table};
use realtime_doctor::explain::{Grant, Holds, PolicySeen, Published, RowSeen, Seen, TokenSeen};
use realtime_pgoutput::{Oid, TypeRegistry, message::ReplicaIdentity};
pub use request::ExplainRequest;
use row::{Found, Reader};
use tokio_postgres::Error;

use crate::{
    ConnectError, DatabaseConfig, Decided, PolicyFacts, RelationStats, catalog, policy_publication, pool,
    publication, visibility::compiled,
};

/// What a relation is.
struct Place {
    oid: Oid,
    is_view: bool,
    published: bool,
    /// Whether the publication has the events of the binding.
    events: bool,
    /// Whether the role of the token may select from it.
    selectable: bool,
}

const PLACE: &str = "select c.oid, c.relkind::text in ('v', 'm'),
        exists (select from pg_catalog.pg_publication_tables p
            where p.pubname = $3 and p.schemaname = n.nspname and p.tablename = c.relname),
        coalesce((select case $4 when 'INSERT' then p.pubinsert when 'UPDATE' then p.pubupdate
                when 'DELETE' then p.pubdelete else p.pubinsert or p.pubupdate or p.pubdelete end
            from pg_catalog.pg_publication p where p.pubname = $3), false),
        coalesce((select pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')
                and pg_catalog.has_any_column_privilege(r.oid, c.oid, 'SELECT')
            from pg_catalog.pg_roles r where r.rolname = $5), false)
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p', 'v', 'm', 'f')";

const ROLE: &str = "select pg_catalog.current_setting('wal_level'), current_user::text,
        exists (select from pg_catalog.pg_roles r where r.rolname = $1),
        coalesce((select pg_catalog.pg_has_role(current_user, r.oid, 'MEMBER')
            from pg_catalog.pg_roles r where r.rolname = $1), false),
        coalesce((select pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')
            from pg_catalog.pg_roles r, pg_catalog.pg_namespace n where r.rolname = $1 and n.nspname = $2), false)";

/// Looks. The token is not judged here.
pub(crate) async fn look(
    pool: &Pool,
    config: &DatabaseConfig,
    stats: &RelationStats,
    request: &ExplainRequest,
) -> Result<Seen, ConnectError> {
    let client = pool::get(pool).await?;
    let mut seen = begin(&client, config, request).await.map_err(unusable)?;
    let place = place(&client, config, request).await.map_err(unusable)?;
    let Some(place) = place.filter(|place| request.operator || place.published || place.selectable) else {
        seen.published = if request.operator { Published::NoTable } else { Published::No };
        return Ok(seen);
    };
    seen.published = match &place {
        Place { is_view: true, .. } => Published::View,
        Place { published: false, .. } => Published::No,
        Place { events: false, .. } => Published::WithoutEvent,
        _ => Published::Yes,
    };
    if !seen.role_exists {
        return Ok(seen);
    }
    let mut types = TypeRegistry::default();
    let described =
        catalog::table(&client, place.oid, &config.publication, &mut types).await.map_err(unusable)?;
    let access = catalog::role_access(&client, &request.role, place.oid).await.map_err(unusable)?;
    let (Some(described), Some(access)) = (described, access) else { return Ok(seen) };
    let table = described.table;
    grants(&mut seen, &table, &access);
    let identity = identity(&client, &table).await.map_err(unusable)?;
    seen.identity = names(identity.iter().cloned(), &table, &access, request.operator);
    seen.secured = table.row_security && !access.bypasses_rls;
    seen.bypasses = table.row_security && access.bypasses_rls;
    if !seen.role_is_served {
        return Ok(seen);
    }
    let policies = match seen.secured {
        true => of_role(&client, config, stats, place.oid, &request.role).await.map_err(unusable)?,
        false => Vec::new(),
    };
    let is_c = catalog::collation_is_c(&client).await.map_err(unusable)?;
    let reader = Reader::choose(&client, place.oid, &table, request).await.map_err(unusable)?;
    // The questions that follow take connections of their own.
    drop(client);
    let found = if request.key.is_empty() || !seen.grant.usage {
        Found { row: RowSeen::NotAsked, values: None, image: None }
    } else {
        row::find(pool, (&table, &access), request, reader).await
    };
    seen.filters = judge::filters(pool, &table, &access, request, &found, &identity, is_c).await;
    seen.policies = verdicts(pool, &table, request, &found, policies).await;
    seen.row = found.row;
    Ok(seen)
}

fn unusable(error: Error) -> ConnectError {
    ConnectError::from_code(error.code(), pool::describe(&error))
}

async fn begin(client: &Client, config: &DatabaseConfig, request: &ExplainRequest) -> Result<Seen, Error> {
    let row = client.query_one(ROLE, &[&request.role, &request.schema]).await?;
    let (wal_level, own): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let grant = Grant { usage: row.try_get(4)?, ..Grant::default() };
    Ok(Seen {
        token: TokenSeen { role: request.role.clone(), ..TokenSeen::default() },
        schema: request.schema.clone(),
        table: request.table.clone(),
        event: request.spec.event.as_str().to_owned(),
        publication: config.publication.clone(),
        wal_level: request.operator.then_some(wal_level),
        server_role: request.operator.then_some(own),
        role_exists: row.try_get(2)?,
        role_is_served: row.try_get(3)?,
        grant,
        ..Seen::default()
    })
}

async fn place(
    client: &Client,
    config: &DatabaseConfig,
    request: &ExplainRequest,
) -> Result<Option<Place>, Error> {
    let event = request.spec.event.as_str();
    let ExplainRequest { schema, table, role, .. } = request;
    let row = client.query_opt(PLACE, &[schema, table, &config.publication, &event, role]).await?;
    row.map(|row| {
        Ok(Place {
            oid: row.try_get(0)?,
            is_view: row.try_get(1)?,
            published: row.try_get(2)?,
            events: row.try_get(3)?,
            selectable: row.try_get(4)?,
        })
    })
    .transpose()
}

/// Columns whose names a client is not told.
const OTHERS: &str = "other columns";

/// What the role may read. Clients are not told the names of columns that they may not read.
fn grants(seen: &mut Seen, table: &Table, access: &RoleAccess) {
    let for_operators = seen.server_role.is_some();
    for (column, readable) in table.columns.iter().zip(&access.selectable) {
        if *readable {
            seen.grant.columns.push(column.name.to_string());
        } else if for_operators {
            seen.grant.hidden.push(column.name.to_string());
        }
    }
    if !for_operators && access.selectable.contains(&false) {
        seen.grant.hidden.push(OTHERS.to_owned());
    }
    let name = |at: &usize| table.columns.get(*at).map(|column| column.name.to_string());
    seen.grant.key = names(table.primary_key.iter().filter_map(name), table, access, for_operators);
}

/// Names of columns. Clients are not told of those that they may not read, but that there are some.
fn names(
    columns: impl Iterator<Item = String>,
    table: &Table,
    access: &RoleAccess,
    for_operators: bool,
) -> Vec<String> {
    let may = |name: &String| for_operators || row::may_read(table, access, name);
    let (mut told, hidden): (Vec<String>, Vec<String>) = columns.partition(may);
    if !hidden.is_empty() {
        told.push(OTHERS.to_owned());
    }
    told
}

/// Columns of which the log tells when a row is deleted; none if it has the whole row.
async fn identity(client: &Client, table: &Table) -> Result<Vec<String>, Error> {
    const SQL: &str = "select a.attname::text
        from pg_catalog.pg_index i
        join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey::int2[])
        where i.indrelid = $1 and (i.indisreplident or not $2 and i.indisprimary)
        order by a.attnum";
    if table.replica_identity == ReplicaIdentity::Full {
        return Ok(Vec::new());
    }
    let by_index = table.replica_identity == ReplicaIdentity::Index;
    let rows = client.query(SQL, &[&table.oid, &by_index]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

async fn of_role(
    client: &deadpool_postgres::Client,
    config: &DatabaseConfig,
    stats: &RelationStats,
    oid: Oid,
    role: &str,
) -> Result<Vec<PolicyFacts>, Error> {
    let publication = &config.publication;
    let publications = [publication.as_str(), publication::NAME, policy_publication::NAME];
    compiled::explain_one(client, publication, &publications, stats, oid, role).await
}

/// What the policies say of the row. A client who sees the row knows that those hold that have to; no more is told.
async fn verdicts(
    pool: &Pool,
    table: &Table,
    request: &ExplainRequest,
    found: &Found,
    policies: Vec<PolicyFacts>,
) -> Vec<PolicySeen> {
    let permissive = policies.iter().filter(|policy| policy.permissive).count();
    let mut all = Vec::with_capacity(policies.len());
    for (at, policy) in policies.into_iter().enumerate() {
        let holds = match (&found.image, &found.row) {
            (Some(image), _) if request.operator => {
                judge::policy(pool, table, request, &policy.using, image).await
            }
            (_, RowSeen::Seen) if !policy.permissive || permissive == 1 => Holds::Yes,
            _ => Holds::Open,
        };
        let asked = match policy.decided {
            Decided::Compiled => None,
            Decided::InPart | Decided::Asked => {
                let why = policy.asked.first().map(|part| part.why.clone()).unwrap_or_default();
                Some(if request.operator { why } else { "it is not compiled".to_owned() })
            }
        };
        let name = if request.operator { policy.name } else { format!("{}", at + 1) };
        let using = request.operator.then_some(policy.using);
        all.push(PolicySeen { name, using, permissive: policy.permissive, holds, asked });
    }
    all
}
