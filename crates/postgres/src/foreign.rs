//! Questions that may run code of applications, as casts to a domain run its checks: in a transaction of their own, which
//! is read only and rolled back, under the role of those for whom they are asked.

use std::time::Duration;

use tokio_postgres::{
    Client, Error, Row,
    types::{ToSql, Type},
};

/// Begins a transaction in which code of applications runs: policies, triggers, checks of domains. It finds its names on
/// the search path of the database or the role, as in any other session. Our own statements in it name the schema of
/// every operator, function and type. The role must be taken on before that code runs.
pub(crate) const BEGIN: &str = "begin; set local search_path to default";

/// The same, read only.
const BEGIN_READ_ONLY: &str = "begin read only; set local search_path to default";

/// How long the question may take, and whose it is.
const LIMITS: &str = "select pg_catalog.set_config('statement_timeout', $1, true),
    pg_catalog.set_config('role', $2, true)";

/// Our own role.
const NO_ROLE: &str = "none";

/// Asks something, as a role; without one as our own, where no code of others can run. All parameters are texts.
///
/// The names in the statement are looked up with our own rights: the role need not have the use of the schemas of types.
/// All statements of a transaction travel together: nothing stays on the connection, whenever this is dropped.
pub(crate) async fn ask(
    client: &Client,
    role: Option<&str>,
    limit: Duration,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    let limit = limit.as_millis().to_string();
    let prepared = match role {
        None => None,
        Some(_) => {
            let types = vec![Type::TEXT; parameters.len()];
            let (begun, prepared, ended) = tokio::join!(
                biased;
                client.batch_execute(BEGIN_READ_ONLY),
                client.prepare_typed(sql, &types),
                client.batch_execute("rollback"),
            );
            begun?;
            let prepared = prepared?;
            ended?;
            Some(prepared)
        }
    };
    let role = role.unwrap_or(NO_ROLE);
    let limits: [(&(dyn ToSql + Sync), Type); 2] = [(&limit, Type::TEXT), (&role, Type::TEXT)];
    let asked = async {
        match &prepared {
            Some(statement) => client.query(statement, parameters).await,
            None => {
                let typed: Vec<_> = parameters.iter().map(|parameter| (*parameter, Type::TEXT)).collect();
                client.query_typed(sql, &typed).await
            }
        }
    };
    let (begun, limited, rows, ended) = tokio::join!(
        biased;
        client.batch_execute(BEGIN_READ_ONLY),
        client.query_typed(LIMITS, &limits),
        asked,
        client.batch_execute("rollback"),
    );
    begun?;
    limited?;
    let rows = rows?;
    ended?;
    Ok(rows)
}
