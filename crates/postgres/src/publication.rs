//! The publication that carries `realtime.messages` (tenant_database 2, 4.1).

use tokio_postgres::{Client, Error};

use crate::published::published;

/// Its name. An original that comes back finds it and keeps it.
pub(crate) const NAME: &str = "supabase_realtime_messages_publication";

/// The schema of messages.
pub(crate) const SCHEMA: &str = "realtime";

/// Replaces whatever has the name.
pub(crate) const RECREATE: &str = "drop publication if exists supabase_realtime_messages_publication;
    create publication supabase_realtime_messages_publication for table realtime.messages";

/// What has the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing.
    Absent,
    /// A publication of messages and nothing else.
    Right,
    /// A publication of other tables, or of none.
    Wrong,
}

/// Looks at it. Every table it publishes must be of schema `realtime` and called `messages` or `messages_…`.
pub(crate) async fn state(client: &Client) -> Result<State, Error> {
    const SQL: &str = concat!(
        "select count(t.oid), coalesce(bool_and(n.nspname = 'realtime' and c.relname ~ '^messages(_|$)'), false)
        from pg_catalog.pg_publication p
        left join ",
        published!(),
        " t on t.pubname = p.pubname
        left join pg_catalog.pg_class c on c.oid = t.oid
        left join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where p.pubname = $1
        group by p.oid"
    );
    let Some(row) = client.query_opt(SQL, &[&NAME]).await? else { return Ok(State::Absent) };
    let (tables, right): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
    Ok(if tables > 0 && right { State::Right } else { State::Wrong })
}
