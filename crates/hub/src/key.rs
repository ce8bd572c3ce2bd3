//! What names rooms, members and messages, and what a member may see.

use std::sync::Arc;

/// Who may meet in a room (protocol 4.1): public and private channels of one name never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Audience {
    /// Anybody with a valid token.
    Public,
    /// Only clients that the database's policies let in.
    Private,
}

/// Identifies a room.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RoomKey {
    /// The tenant's `external_id`.
    pub tenant: Arc<str>,
    /// Public or private.
    pub audience: Audience,
    /// The topic as clients send it, `realtime:` included.
    pub topic: Arc<str>,
}

/// Identifies a member of a room; never used twice on a node.
pub type MemberId = u64;

/// Identifies a message that is stored in the database: its row's UUID.
pub type MessageId = u128;

/// The kind of a frame. Kinds are counted apart (protocol 9.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `broadcast`: too many stop the channels that receive them.
    Broadcast,
    /// `presence_diff`.
    Presence,
    /// A message of the server itself to all who may see broadcasts. It counts against no limit.
    Notice,
}

impl Kind {
    /// Whether the frame tells of a change of presence: the state that a channel is sent has it already.
    pub(crate) const fn is_presence(self) -> bool {
        matches!(self, Self::Presence)
    }
}

/// What a member of a room may see (protocol 6, delivery filters).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Frames of [`Kind::Broadcast`].
    pub broadcasts: bool,
    /// Frames of [`Kind::Presence`].
    pub presence: bool,
}

impl Sight {
    /// Everything, as in public rooms.
    pub const ALL: Self = Self { broadcasts: true, presence: true };

    /// Nothing, as in the room of streams that get row changes alone.
    pub const NONE: Self = Self { broadcasts: false, presence: false };

    /// Whether frames of a kind may be seen.
    pub(crate) const fn sees(self, kind: Kind) -> bool {
        match kind {
            Kind::Broadcast | Kind::Notice => self.broadcasts,
            Kind::Presence => self.presence,
        }
    }
}
