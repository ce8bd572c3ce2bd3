//! Messages that a joining channel has missed (tenant_database 6, protocol 10.1).

use std::{
    ops::RangeInclusive,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde_json::Value;
use tokio::time;
use tokio_postgres::{
    Client, Row,
    error::SqlState,
    types::{ToSql, Type},
};

use crate::{authorize::PolicyPool, sqlstate};

/// Messages where the client names no number, and at most.
const LIMIT: i64 = 25;

/// The moments that a client may name, in milliseconds of Unix time: the years 0 to 9999. The database knows all of them.
const MOMENTS: RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

/// How far the clocks of others may be ahead.
const AHEAD: Duration = Duration::from_secs(60);

/// How long the query may take.
const QUERY_LIMIT: Duration = Duration::from_secs(5);

/// The query: the newest messages first; those of one transaction, which are of one time, by their place in the table.
/// Nobody's policies matter: that the topic may be read was settled before. Older schemas have no binary payloads.
fn query_text(private: bool, binary: &str) -> String {
    // As a literal, so that the index on private messages can be used.
    let audience = if private { "private" } else { "not private" };
    format!(
        "select id::text, event, payload::text, {binary}, (extract(epoch from inserted_at) * 1000)::int8
         from realtime.messages
         where topic = $1 and {audience} and extension = 'broadcast' and inserted_at >= $2 and inserted_at < $3
             and id <> all ($5::text[]::uuid[])
         order by inserted_at desc, ctid desc limit $4"
    )
}

/// The moment of a time that a client named, in milliseconds of Unix time. `None` outside of the years 0 to 9999.
#[must_use]
pub fn moment(millis: i64) -> Option<SystemTime> {
    let distance = MOMENTS.contains(&millis).then(|| Duration::from_millis(millis.unsigned_abs()))?;
    let epoch = SystemTime::UNIX_EPOCH;
    if millis < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) }
}

/// What to replay: `config.broadcast.replay` of a join, found valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayParams {
    since: SystemTime,
    limit: i64,
}

impl ReplayParams {
    /// Judges what a client sent. `None` if that is no object, which asks for nothing.
    ///
    /// # Errors
    /// [`ReplayError::InvalidParams`] for `since` or `limit` that are no integers, or out of range.
    pub fn parse(replay: &Value) -> Option<Result<Self, ReplayError>> {
        let replay = replay.as_object()?;
        let integer = |name: &str| match replay.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or(ReplayError::InvalidParams),
        };
        let parse = || {
            let since = integer("since")?.ok_or(ReplayError::InvalidParams)?;
            let since = moment(since).ok_or(ReplayError::InvalidParams)?;
            let limit = integer("limit")?.unwrap_or(LIMIT).clamp(1, LIMIT);
            Ok(Self { since, limit })
        };
        Some(parse())
    }
}

/// What is asked of the stored messages of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredQuery {
    /// Those inserted then and later.
    pub since: SystemTime,
    /// How many at most: the newest.
    pub limit: usize,
    /// Those of private channels, or those of public ones.
    pub private: bool,
    /// Ids of rows that are known already.
    pub known: Vec<String>,
}

impl StoredQuery {
    /// How many messages may be asked for: they are read into memory for each who asks.
    pub const LIMIT: usize = LIMIT as usize;
}

impl From<ReplayParams> for StoredQuery {
    fn from(ReplayParams { since, limit }: ReplayParams) -> Self {
        Self { since, limit: usize::try_from(limit).unwrap_or_default(), private: true, known: Vec::new() }
    }
}

/// Why nothing is replayed. `Display` is the `reason` of the refused join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The parameters.
    #[error("UnableToReplayMessages: Replay params are not valid")]
    InvalidParams,
    /// The database; its words are for the log.
    #[error("UnableToReplayMessages: Realtime was unable to replay messages")]
    Failed(String),
}

impl ReplayError {
    /// Operators' code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "UnableToReplayMessages"
    }
}

/// What a stored message carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageBody {
    /// JSON text as PostgreSQL writes it; `null` where a row has neither payload.
    Json(Bytes),
    /// Any bytes, perhaps none.
    Binary(Bytes),
}

/// A stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayedMessage {
    /// Id of the row, as a UUID's text.
    pub id: Box<str>,
    /// Event; a row of other origin may have none.
    pub event: Option<Box<str>>,
    /// Payload.
    pub body: MessageBody,
    /// When it was inserted, in milliseconds of Unix time by the clock of its writer.
    pub at_ms: i64,
}

/// The latest broadcasts of a topic, oldest first.
///
/// # Errors
/// [`ReplayError::Failed`]
pub(crate) async fn replay(
    pool: &PolicyPool,
    topic: &str,
    asked: &StoredQuery,
    now: SystemTime,
) -> Result<Vec<ReplayedMessage>, ReplayError> {
    let client = pool.get().await.map_err(|error| ReplayError::Failed(error.to_string()))?;
    let query = async {
        match query(&client, &query_text(asked.private, "binary_payload"), topic, asked, now).await {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => {
                query(&client, &query_text(asked.private, "null::bytea"), topic, asked, now).await
            }
            // Nothing was ever stored there. Private channels cannot be joined without the table.
            Err(error)
                if !asked.private
                    && [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME]
                        .iter()
                        .any(|state| error.code() == Some(state)) =>
            {
                Ok(Vec::new())
            }
            result => result,
        }
    };
    let mut rows = match time::timeout(QUERY_LIMIT, query).await {
        Ok(rows) => rows.map_err(|error| ReplayError::Failed(sqlstate::loggable_of(&error)))?,
        Err(_) => {
            drop(deadpool_postgres::Object::take(client));
            return Err(ReplayError::Failed("no answer in time".to_owned()));
        }
    };
    rows.reverse();
    rows.iter()
        .map(message)
        .collect::<Result<_, _>>()
        .map_err(|error| ReplayError::Failed(sqlstate::loggable_of(&error)))
}

async fn query(
    client: &Client,
    query: &str,
    topic: &str,
    asked: &StoredQuery,
    now: SystemTime,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let until = now + AHEAD;
    let limit = i64::try_from(asked.limit).unwrap_or(LIMIT);
    let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
        (&topic, Type::TEXT),
        (&asked.since, Type::TIMESTAMP),
        (&until, Type::TIMESTAMP),
        (&limit, Type::INT8),
        (&asked.known, Type::TEXT_ARRAY),
    ];
    let (begun, rows, ended) = tokio::join!(
        biased;
        client.batch_execute("begin read only"),
        client.query_typed(query, &parameters),
        client.batch_execute("rollback"),
    );
    begun?;
    let rows = rows?;
    ended?;
    Ok(rows)
}

fn message(row: &Row) -> Result<ReplayedMessage, tokio_postgres::Error> {
    let body = match row.try_get::<_, Option<&[u8]>>(3)? {
        Some(bytes) => MessageBody::Binary(Bytes::copy_from_slice(bytes)),
        None => {
            let json = row.try_get::<_, Option<&str>>(2)?.unwrap_or("null");
            MessageBody::Json(Bytes::copy_from_slice(json.as_bytes()))
        }
    };
    Ok(ReplayedMessage {
        id: row.try_get::<_, &str>(0)?.into(),
        event: row.try_get::<_, Option<&str>>(1)?.map(Into::into),
        body,
        at_ms: row.try_get(4)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// tenant_database 63, 65
    #[test]
    fn parameters() {
        let limit = |replay: Value| ReplayParams::parse(&replay).unwrap().map(|params| params.limit);
        assert_eq!(limit(json!({"since": 0})), Ok(25));
        assert_eq!(limit(json!({"since": 0, "limit": 30})), Ok(25));
        assert_eq!(limit(json!({"since": 0, "limit": null})), Ok(25), "null is absent");
        assert_eq!(limit(json!({"since": 0, "limit": 0})), Ok(1));
        assert_eq!(limit(json!({"since": 0, "limit": -9})), Ok(1));
        assert_eq!(limit(json!({"since": 253_402_300_799_999_i64, "limit": 7})), Ok(7));
        for bad in [
            json!({}),
            json!({"since": "x"}),
            json!({"since": 1.5}),
            json!({"since": null}),
            json!({"since": 253_402_300_800_000_i64}),
            json!({"since": u64::MAX}),
            json!({"since": -62_167_219_200_001_i64}),
            json!({"since": 0, "limit": "x"}),
            json!({"since": 0, "limit": 2.0}),
        ] {
            assert_eq!(limit(bad.clone()), Err(ReplayError::InvalidParams), "{bad}");
        }
        for nothing in [json!(true), json!("x"), json!([1]), json!(null)] {
            assert_eq!(ReplayParams::parse(&nothing), None);
        }
    }

    #[test]
    fn times_are_milliseconds() {
        let since = |since: i64| ReplayParams::parse(&json!({"since": since})).unwrap().unwrap().since;
        assert_eq!(since(1_500), SystemTime::UNIX_EPOCH + Duration::from_millis(1_500));
        assert_eq!(since(-1), SystemTime::UNIX_EPOCH - Duration::from_millis(1));
    }
}
