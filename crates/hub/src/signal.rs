//! What others tell a socket's task.

use crate::key::MemberId;

/// Something that happened to a socket elsewhere and that its own task has to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// This member was handed a frame while its tenant had too many (protocol 5.3).
    TooManyEvents(MemberId),
    /// The tenant's sockets are to end (protocol 12).
    Disconnect,
    /// The tenant's database is reached through another handle: what channels watched in it has to be asked for again.
    /// `elsewhere`: it may be another database, so what its policies have said is void too.
    DatabaseReplaced {
        /// Whether it may be another database.
        elsewhere: bool,
    },
    /// The node is going down.
    ShutDown,
}
