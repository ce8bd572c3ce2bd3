//! Broadcasts from the database: a replicated insert into `realtime.messages` as a message
//! (tenant_database 4.2, protocol 10.2). Pure.

use bytes::Bytes;
use jiff::{civil::DateTime, tz::TimeZone};
use realtime_pgoutput::message::{Relation, Tuple, UnixMicros, Value};

use crate::MessageBody;

/// What counts beside the body against the size limit.
const ENVELOPE: usize = 6;

/// Version byte of jsonb's binary form.
const JSONB_VERSION: u8 = 1;

/// A message that a row of `realtime.messages` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseBroadcast {
    /// Id of the row, as a UUID's text: `meta.id` of the frames.
    pub id: Box<str>,
    /// Topic without `realtime:`.
    pub topic: Box<str>,
    /// Event.
    pub event: Box<str>,
    /// Whether it is for the private channels of the topic, or for the public ones.
    pub private: bool,
    /// Payload. JSON text is what PostgreSQL wrote, not encoded anew; it shares the memory of the row.
    pub body: MessageBody,
    /// When the row was written, by the clock of its writer: for measuring only.
    pub inserted_at: UnixMicros,
}

/// Why a row is not broadcast. `Display` is for the log, after `UnableToBroadcastChanges`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotBroadcast {
    /// `inserted_at` is NULL, missing or no time.
    #[error("inserted_at_missing")]
    InsertedAtMissing,
    /// `event` is NULL or missing.
    #[error("event_missing")]
    EventMissing,
    /// `id` is NULL, missing or no UUID.
    #[error("id_missing")]
    IdMissing,
    /// `topic` is NULL or missing.
    #[error("topic_missing")]
    TopicMissing,
    /// `private` is NULL, which is not false, or missing.
    #[error("private_missing")]
    PrivateMissing,
    /// Both payloads are NULL.
    #[error("payload_missing")]
    PayloadMissing,
    /// The payload is larger than the tenant allows.
    #[error("payload_size_exceeded")]
    PayloadSizeExceeded,
}

/// Where the columns of `realtime.messages`, or of a partition, are in its rows. Columns that are not needed
/// are ignored, whatever their type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageColumns {
    id: Option<usize>,
    topic: Option<usize>,
    event: Option<usize>,
    private: Option<usize>,
    payload: Option<usize>,
    binary_payload: Option<usize>,
    inserted_at: Option<usize>,
}

impl MessageColumns {
    /// The columns of a relation. `None` if that is not `realtime.messages` or one of its partitions.
    #[must_use]
    pub fn of(relation: &Relation) -> Option<Self> {
        if &*relation.schema != "realtime" || !relation.name.starts_with("messages") {
            return None;
        }
        let at = |name: &str| relation.columns.iter().position(|column| &*column.name == name);
        Some(Self {
            id: at("id"),
            topic: at("topic"),
            event: at("event"),
            private: at("private"),
            payload: at("payload"),
            binary_payload: at("binary_payload"),
            inserted_at: at("inserted_at"),
        })
    }

    /// The message of an inserted row. `max_payload_bytes` is the tenant's limit with its allowance of 500.
    ///
    /// # Errors
    /// [`NotBroadcast`]: the first check that fails, in the order of tenant_database 4.2.
    pub fn message(&self, row: &Tuple, max_payload_bytes: usize) -> Result<DatabaseBroadcast, NotBroadcast> {
        let value = |at: Option<usize>| match row.get(at?)? {
            value @ (Value::Text(_) | Value::Binary(_)) => Some(value),
            Value::Null | Value::Unchanged => None,
        };
        let inserted_at = value(self.inserted_at).and_then(time).ok_or(NotBroadcast::InsertedAtMissing)?;
        let event = value(self.event).and_then(text).ok_or(NotBroadcast::EventMissing)?;
        let id = value(self.id).and_then(uuid).ok_or(NotBroadcast::IdMissing)?;
        let topic = value(self.topic).and_then(text).ok_or(NotBroadcast::TopicMissing)?;
        let private = value(self.private).and_then(boolean).ok_or(NotBroadcast::PrivateMissing)?;
        let fits = |bytes: usize| {
            if bytes + ENVELOPE > max_payload_bytes { Err(NotBroadcast::PayloadSizeExceeded) } else { Ok(()) }
        };
        let body = match (value(self.binary_payload), value(self.payload)) {
            (Some(Value::Binary(bytes)), _) => {
                fits(bytes.len())?;
                MessageBody::Binary(bytes.clone())
            }
            (Some(Value::Text(hex)), _) => {
                fits(hex.len().saturating_sub(2) / 2)?;
                MessageBody::Binary(unhex(hex).ok_or(NotBroadcast::PayloadMissing)?)
            }
            (_, Some(payload)) => {
                let json = json(payload).ok_or(NotBroadcast::PayloadMissing)?;
                fits(json.len())?;
                MessageBody::Json(json)
            }
            _ => return Err(NotBroadcast::PayloadMissing),
        };
        Ok(DatabaseBroadcast { id, topic, event, private, body, inserted_at })
    }
}

fn raw(value: &Value) -> Option<&Bytes> {
    match value {
        Value::Text(bytes) | Value::Binary(bytes) => Some(bytes),
        Value::Null | Value::Unchanged => None,
    }
}

fn text(value: &Value) -> Option<Box<str>> {
    std::str::from_utf8(raw(value)?).ok().map(Into::into)
}

fn uuid(value: &Value) -> Option<Box<str>> {
    let id = match value {
        Value::Text(text) => uuid::Uuid::try_parse_ascii(text).ok()?,
        Value::Binary(bytes) => uuid::Uuid::from_slice(bytes).ok()?,
        Value::Null | Value::Unchanged => return None,
    };
    Some(id.to_string().into())
}

fn boolean(value: &Value) -> Option<bool> {
    match (value, &**raw(value)?) {
        (Value::Text(_), b"t") | (Value::Binary(_), [1]) => Some(true),
        (Value::Text(_), b"f") | (Value::Binary(_), [0]) => Some(false),
        _ => None,
    }
}

fn json(value: &Value) -> Option<Bytes> {
    match value {
        Value::Text(json) => Some(json.clone()),
        Value::Binary(bytes) => (bytes.first() == Some(&JSONB_VERSION)).then(|| bytes.slice(1..)),
        Value::Null | Value::Unchanged => None,
    }
}

/// The bytes of a bytea's text form under `bytea_output=hex`.
fn unhex(text: &[u8]) -> Option<Bytes> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.strip_prefix(b"\\x")?.chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}

/// The moment that a timestamp without time zone means in UTC. `infinity` is none.
fn time(value: &Value) -> Option<UnixMicros> {
    match value {
        Value::Text(text) => {
            let time: DateTime = std::str::from_utf8(text).ok()?.parse().ok()?;
            let moment = time.to_zoned(TimeZone::UTC).ok()?.timestamp();
            Some(UnixMicros(moment.as_microsecond()))
        }
        Value::Binary(bytes) => {
            let micros = i64::from_be_bytes(bytes.as_ref().try_into().ok()?);
            UnixMicros::checked_from_postgres(micros)
        }
        Value::Null | Value::Unchanged => None,
    }
}

#[cfg(test)]
mod tests;
