//! A value of a row as conditions see it.

use bytes::Bytes;
use realtime_pgoutput::message::Value;

/// A value of a row as conditions see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell<'a> {
    /// NULL.
    Null,
    /// The text that PostgreSQL's output function wrote.
    Text(&'a Bytes),
    /// The change does not carry the column.
    Missing,
}

impl<'a> Cell<'a> {
    /// A value of a tuple, if it is there.
    pub(crate) fn of(value: Option<&'a Value>) -> Self {
        match value {
            Some(Value::Null) => Self::Null,
            Some(Value::Text(text) | Value::Binary(text)) => Self::Text(text),
            Some(Value::Unchanged) | None => Self::Missing,
        }
    }
}
