//! What others tell a socket's task.

use crate::key::MemberId;

/// Something that happened to a socket elsewhere and that its own task has to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// This member was handed a frame while its tenant had too many (protocol 5.3).
    TooManyEvents(MemberId),
    /// What this member tracks is not shown to the members of its room any more: others track so much that there is no room
    /// for it.
    PresenceHidden(MemberId),
    /// This member was not handed a large diff of presence, because too much waits for its socket: it is to be sent the state
    /// again.
    PresenceBehind(MemberId),
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
