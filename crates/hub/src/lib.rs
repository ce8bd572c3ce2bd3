//! Rooms of a node: members, fan-out of ready frames, outboxes, presence.

mod bus;
mod diff_gate;
mod fan_out;
mod hub;
mod memory;
mod outbox;
mod presence;
mod room;

pub use bus::{Backlog, Bus, Said};
pub use diff_gate::DiffGate;
pub use fan_out::FanOut;
pub use hub::{DEFAULT_PRESENCE_INTERVAL, Hub};
pub use memory::{HeldBody, Memory};
pub use outbox::{Closed, DEFAULT_OUTBOX_BYTES, Flush, Holding, Outbox, Signal, Sink};
pub use presence::{Entry, MemberId, Origin};
pub use room::{Audience, Congestion, Kind, Member, Membership, MessageId, Meter, RoomKey, Sight};
