//! A value of a row as conditions see it.

use bytes::Bytes;

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
