//! Rooms of a node: members, fan-out of ready frames, outboxes, presence.

mod hub;
mod outbox;
mod presence;
mod room;

pub use hub::Hub;
pub use outbox::{Closed, DEFAULT_OUTBOX_BYTES, Outbox};
pub use presence::MemberId;
pub use room::{Audience, Member, Membership, RoomKey};
