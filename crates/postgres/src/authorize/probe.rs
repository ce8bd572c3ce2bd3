//! The questions as statements. All statements of a question travel together; whatever becomes of one, the
//! last ends the transaction, so that nothing is stored and nothing of the role stays on the session.
//!
//! Statements that policies play a part in are never prepared: a function that a user declared immutable and that
//! is not would be evaluated into the plan, and the second user would be judged with the claims of the first.

use std::time::SystemTime;

use tokio_postgres::{
    Error, Statement,
    error::SqlState,
    types::{ToSql, Type},
};

use super::{AuthorizeError, AuthorizeRequest, ReadVerdict, WriteVerdict};
use crate::{
    claims::subject,
    foreign::{self, Guest},
};

/// The six settings that policies see, in the order of tenant_database 3.2; the role is taken on by the first. Then which
/// session it is.
const SETTINGS: &str = "select pg_catalog.set_config('role', $1, true),
    pg_catalog.set_config('realtime.topic', $2, true),
    pg_catalog.set_config('request.jwt.claims', $3, true),
    pg_catalog.set_config('request.jwt.claim.sub', $4, true),
    pg_catalog.set_config('request.jwt.claim.role', $1, true),
    pg_catalog.set_config('request.headers', $5, true),
    pg_catalog.pg_backend_pid()";

/// The rows that the read check looks for, written by the role of the connection.
const ROW: &str = "insert into realtime.messages (id, topic, extension, inserted_at, updated_at)
    values ($1::pg_catalog.text::pg_catalog.uuid, $3, 'broadcast', $4, $4)";
const TWO_ROWS: &str = "insert into realtime.messages (id, topic, extension, inserted_at, updated_at)
    values ($1::pg_catalog.text::pg_catalog.uuid, $3, 'broadcast', $4, $4),
        ($2::pg_catalog.text::pg_catalog.uuid, $3, 'presence', $4, $4)";

/// Which of them are there for the role. The time leads to the one partition that can hold them; every
/// comparison is leakproof, so no policy sees another row.
const SEEN: &str = "select id::pg_catalog.text from realtime.messages
    where id operator(pg_catalog.=) any (array[$1::pg_catalog.text::pg_catalog.uuid, $2::pg_catalog.text::pg_catalog.uuid])
        and inserted_at operator(pg_catalog.=) $3";

/// The row of the write check, written by the role. Nothing is returned: policies for reading play no part.
const WRITE: &str = "insert into realtime.messages (topic, extension, inserted_at, updated_at)
    values ($1, $2, $3, $3)";

/// Name of PostgreSQL's way back to the role of the connection: no role can be called that.
const NO_ROLE: &str = "none";

/// Statements of a check, for the statistics.
pub(super) const READ_STATEMENTS: u64 = 5;

/// Statements of a write check, without and with presence.
pub(super) const fn write_statements(presence: bool) -> u64 {
    if presence { 7 } else { 4 }
}

fn check_role(request: &AuthorizeRequest) -> Result<(), AuthorizeError> {
    if &*request.role == NO_ROLE {
        let error = "ERROR 22023 (invalid_parameter_value) role \"none\" does not exist";
        return Err(AuthorizeError::RlsPolicy(error.to_owned()));
    }
    Ok(())
}

/// The statement for the settings; prepared on the first use of a connection.
async fn prepare_settings(client: &Guest) -> Result<Statement, AuthorizeError> {
    let types = [const { Type::TEXT }; 5];
    client.prepared(SETTINGS, &types).await.map_err(|error| AuthorizeError::of(&error))
}

/// Asks what may be read.
pub(super) async fn read(
    client: &Guest,
    request: &AuthorizeRequest,
    now: SystemTime,
) -> Result<ReadVerdict, AuthorizeError> {
    check_role(request)?;
    let ids = [uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string()];
    let sub = subject(&request.claims);
    let row = if request.presence { TWO_ROWS } else { ROW };
    let row_types = [Type::TEXT, Type::TEXT, Type::TEXT, Type::TIMESTAMP];
    let row = client.prepared(row, &row_types).await.map_err(|error| AuthorizeError::of(&error))?;
    let row_parameters: [&(dyn ToSql + Sync); 4] = [&ids[0], &ids[1], &&*request.topic, &now];
    let settings = prepare_settings(client).await?;
    let seen_parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&ids[0], Type::TEXT), (&ids[1], Type::TEXT), (&now, Type::TIMESTAMP)];
    client.knows_kept_statements();
    client.enter();
    let (begun, written, set, seen, ended) = tokio::join!(
        biased;
        client.batch_execute(foreign::BEGIN),
        client.execute(&row, &row_parameters),
        set(client, &settings, request, &sub),
        client.query_typed(SEEN, &seen_parameters),
        client.leave(),
    );
    let seen = begun
        .and(written)
        .and(set)
        .and(seen)
        .and_then(|rows| rows.iter().map(|row| row.try_get::<_, String>(0)).collect::<Result<Vec<_>, _>>())
        .map_err(|error| AuthorizeError::of(&error))?;
    ended.map_err(|error| AuthorizeError::of(&error))?;
    let [broadcast, presence] = ids.map(|id| seen.contains(&id));
    Ok(ReadVerdict { broadcast, presence: request.presence.then_some(presence) })
}

/// Asks what may be written.
pub(super) async fn write(
    client: &Guest,
    request: &AuthorizeRequest,
    now: SystemTime,
) -> Result<WriteVerdict, AuthorizeError> {
    check_role(request)?;
    let sub = subject(&request.claims);
    let settings = prepare_settings(client).await?;
    let broadcast = write_row(client, request, "broadcast", &now);
    client.knows_kept_statements();
    client.enter();
    let (begun, set, broadcast, presence, ended) = if request.presence {
        let presence = write_row(client, request, "presence", &now);
        let (begun, set, marked, broadcast, undone, presence, ended) = tokio::join!(
            biased;
            client.batch_execute(foreign::BEGIN),
            set(client, &settings, request, &sub),
            client.batch_execute("savepoint realtime_probe"),
            broadcast,
            client.batch_execute("rollback to savepoint realtime_probe"),
            presence,
            client.leave(),
        );
        (begun, set.and(marked), broadcast, undone.map(|()| Some(presence)), ended)
    } else {
        let (begun, set, broadcast, ended) = tokio::join!(
            biased;
            client.batch_execute(foreign::BEGIN),
            set(client, &settings, request, &sub),
            broadcast,
            client.leave(),
        );
        (begun, set, broadcast, Ok(None), ended)
    };
    let of = |error: Error| AuthorizeError::of(&error);
    begun.and(set).map_err(of)?;
    let broadcast = allowed(broadcast)?;
    let presence = match presence.map_err(of)? {
        Some(written) => allowed(written)?,
        None => false,
    };
    ended.map_err(of)?;
    Ok(WriteVerdict { broadcast, presence })
}

async fn set(
    client: &Guest,
    settings: &Statement,
    request: &AuthorizeRequest,
    sub: &Option<String>,
) -> Result<(), Error> {
    let AuthorizeRequest { role, topic, claims, headers, .. } = request;
    let parameters: [&(dyn ToSql + Sync); 5] = [&&**role, &&**topic, &&**claims, sub, &&**headers];
    client.is(&client.query(settings, &parameters).await?)
}

async fn write_row(
    client: &Guest,
    request: &AuthorizeRequest,
    extension: &str,
    now: &SystemTime,
) -> Result<(), Error> {
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&&*request.topic, Type::TEXT), (&extension, Type::TEXT), (now, Type::TIMESTAMP)];
    client.query_typed(WRITE, &parameters).await.map(drop)
}

/// Whether a row could be written: a denial is an answer, any other error is none.
fn allowed(written: Result<(), Error>) -> Result<bool, AuthorizeError> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(false),
        Err(error) => Err(AuthorizeError::of(&error)),
    }
}
