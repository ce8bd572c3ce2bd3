//! Questions that may run code of applications: policies, checks of domains, triggers. Each is put in a transaction of
//! its own, which is rolled back, under the role of those for whom it is asked.

mod guest;
mod no_answer;

use std::time::Duration;

use deadpool_postgres::Pool;
pub(crate) use guest::{Guest, session_columns};
pub(crate) use no_answer::NoAnswer;
use tokio_postgres::{
    Error, Row,
    types::{ToSql, Type},
};

use crate::{claims, pool};

/// Begins a transaction in which code of applications runs: policies, triggers, checks of domains. It finds its names on
/// the search path of the database or the role, as in any other session. Our own statements in it name the schema of
/// every operator, function and type. The role must be taken on before that code runs.
pub(crate) const BEGIN: &str = "begin; set local search_path to default";

/// Begins such a transaction that cannot write.
const BEGIN_READ_ONLY: &str = "begin read only; set local search_path to default";

/// How long the question may take, and whose it is.
const LIMITS: &str = concat!(
    "select pg_catalog.set_config('statement_timeout', $1, true), pg_catalog.set_config('role', $2, true), ",
    session_columns!()
);

/// Our own role.
const NO_ROLE: &str = "none";

/// Asks something, as a role; without one as our own, where no code of others can run. All parameters are texts.
///
/// The names in the statement are looked up with our own rights: the role need not have the use of the schemas of types.
pub(crate) async fn ask(
    pool: &Pool,
    role: Option<&str>,
    limit: Duration,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, NoAnswer> {
    let guest = Guest::new(pool::get(pool).await?, limit);
    let ask = async |guest: &Guest| match role {
        Some(role) => ask_as(guest, role, limit, sql, parameters).await,
        None => ask_ourselves(guest, limit, sql, parameters).await,
    };
    Ok(guest.answer(ask).await??)
}

/// The settings that policies read: claims, their subject, their role.
const CLAIMS: &str = "select pg_catalog.set_config('request.jwt.claims', $1, true),
    pg_catalog.set_config('request.jwt.claim.sub', $2, true),
    pg_catalog.set_config('request.jwt.claim.role', $3, true)";

/// Asks something as a role with claims; without a role as our own, where no code of others can run. All parameters are
/// texts. The names in the statement are looked up with the rights of the role.
pub(crate) async fn ask_for(
    pool: &Pool,
    role: Option<&str>,
    claims: &str,
    limit: Duration,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, NoAnswer> {
    let Some(role) = role else { return ask(pool, None, limit, sql, parameters).await };
    let guest = Guest::new(pool::get(pool).await?, limit);
    let subject = claims::subject(claims).unwrap_or_default();
    let settings: [(&(dyn ToSql + Sync), Type); 3] =
        [(&claims, Type::TEXT), (&subject, Type::TEXT), (&role, Type::TEXT)];
    let typed: Vec<_> = parameters.iter().map(|parameter| (*parameter, Type::TEXT)).collect();
    let ask = async |guest: &Guest| {
        let asked = async {
            let (set, rows) = tokio::join!(
                biased;
                guest.query_typed(CLAIMS, &settings),
                guest.query_typed(sql, &typed),
            );
            set?;
            rows
        };
        round_trip(guest, Some(role), limit, asked).await
    };
    Ok(guest.answer(ask).await??)
}

async fn ask_ourselves(
    guest: &Guest,
    limit: Duration,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    let typed: Vec<_> = parameters.iter().map(|parameter| (*parameter, Type::TEXT)).collect();
    round_trip(guest, None, limit, guest.query_typed(sql, &typed)).await
}

async fn ask_as(
    guest: &Guest,
    role: &str,
    limit: Duration,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    let types = vec![Type::TEXT; parameters.len()];
    let (begun, prepared, ended) = tokio::join!(
        biased;
        guest.batch_execute(BEGIN_READ_ONLY),
        guest.prepare_typed(sql, &types),
        guest.batch_execute("rollback"),
    );
    begun?;
    let prepared = prepared?;
    ended?;
    round_trip(guest, Some(role), limit, guest.query(&prepared, parameters)).await
}

/// All statements of the transaction travel together: nothing stays on the connection, whenever this is dropped.
async fn round_trip(
    guest: &Guest,
    role: Option<&str>,
    limit: Duration,
    asked: impl Future<Output = Result<Vec<Row>, Error>>,
) -> Result<Vec<Row>, Error> {
    let limit = limit.as_millis().to_string();
    let name = role.unwrap_or(NO_ROLE);
    let limits: [(&(dyn ToSql + Sync), Type); 2] = [(&limit, Type::TEXT), (&name, Type::TEXT)];
    let end = async {
        match role {
            Some(_) => guest.leave().await,
            // No code has run that could leave anything.
            None => guest.batch_execute("rollback").await,
        }
    };
    if role.is_some() {
        guest.enter();
    }
    let (begun, limited, rows, ended) = tokio::join!(
        biased;
        guest.batch_execute(BEGIN_READ_ONLY),
        async { guest.begun(&guest.query_typed(LIMITS, &limits).await?) },
        asked,
        end,
    );
    begun?;
    limited?;
    let rows = rows?;
    ended?;
    Ok(rows)
}
