//! What is told of a server.

use std::time::Duration;

use super::frames::Change;

/// What is heard of a server.
#[derive(Debug)]
pub(super) enum Told {
    /// The channel is joined: all rows come again.
    Joined,
    /// A row has entered, changed or left.
    Change(Box<Change>),
    /// All rows have come.
    Complete { rows: Option<u64> },
    /// Something that a person may want to know.
    Notice { status: String, message: String },
    /// There is no connection. The next attempt comes after the pause.
    Lost { why: String, pause: Duration },
}
