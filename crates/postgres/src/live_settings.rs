//! What live results may take (live 4).

use std::{sync::Arc, time::Duration};

use deadpool_postgres::ClientWrapper as Client;
use tokio_postgres::Error;

use crate::PolicyMemory;

/// A number that changes when anything does that results depend on and that is not of one relation: functions, roles and
/// their memberships, rights on schemas, types, operators, casts.
const PRINT: &str = "select pg_catalog.hashtextextended(pg_catalog.concat_ws('/',
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', p.oid, p.xmin), ',' order by p.oid)
         from pg_catalog.pg_proc p where p.oid >= 16384),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', m.roleid, m.member, m.xmin), ','
                order by m.roleid, m.member, m.grantor)
         from pg_catalog.pg_auth_members m),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', r.oid, r.rolname, r.rolsuper, r.rolbypassrls, r.rolinherit), ','
                order by r.oid)
         from pg_catalog.pg_roles r),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', n.oid, n.xmin), ',' order by n.oid)
         from pg_catalog.pg_namespace n where n.nspname !~ '^pg_(temp|toast)'),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', t.oid, t.xmin), ',' order by t.oid)
         from pg_catalog.pg_type t where t.oid >= 16384 and t.typtype in ('d', 'e')),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', e.oid, e.xmin), ',' order by e.oid)
         from pg_catalog.pg_enum e),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', o.oid, o.xmin), ',' order by o.oid)
         from pg_catalog.pg_operator o where o.oid >= 16384),
        (select pg_catalog.string_agg(pg_catalog.concat_ws(' ', c.oid, c.xmin), ',' order by c.oid)
         from pg_catalog.pg_cast c where c.oid >= 16384)
    ), 0)";

/// Asks for that number.
pub(crate) async fn print(client: &Client) -> Result<i64, Error> {
    let statement = client.prepare_cached(PRINT).await?;
    client.query_one(&statement, &[]).await?.try_get(0)
}

/// The bounds of the live results of a tenant on a node.
#[derive(Debug, Clone)]
pub struct LiveSettings {
    /// Rows of a result at most (`LIVE_MAX_ROWS`).
    pub max_rows: usize,
    /// Results at most (`LIVE_MAX_RESULTS`).
    pub max_results: usize,
    /// How long the query of a result may take (`LIVE_STATEMENT_TIMEOUT`).
    pub statement_timeout: Duration,
    /// How often results are read again of which the log does not tell all changes; `None`: they are refused
    /// (`LIVE_RECHECK_MS`).
    pub recheck: Option<Duration>,
    /// What is kept of the rows of all results of a node (`LIVE_MAX_MB`).
    pub memory: Arc<PolicyMemory>,
}

impl Default for LiveSettings {
    fn default() -> Self {
        Self {
            max_rows: 10_000,
            max_results: 10_000,
            statement_timeout: Duration::from_secs(5),
            recheck: None,
            memory: Arc::default(),
        }
    }
}
