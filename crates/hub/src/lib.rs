//! Rooms of a node: members, fan-out of ready frames, outboxes, presence.
//!
//! From below: [`key`](RoomKey) names things; `presence`, `slot` and `room` are state without locks and clocks; `history` keeps
//! what was said; a `cell` is a room that is in use; `fan_out` serves its members; [`Membership`] and [`Hub`] are what others use.

mod batch;
mod bus;
mod busiest;
mod cell;
mod context;
mod delivery;
mod diff_gate;
mod fan_out;
mod form;
mod history;
mod holding;
mod hub;
mod key;
mod membership;
mod memory;
mod message;
mod meter;
mod outbox;
mod packing;
mod past;
mod presence;
mod queue;
mod room;
mod shed;
mod signal;
mod sink;
mod slot;
mod wake;

pub use batch::{Batch, Revoked};
pub use bus::{Backlog, Bus, Said};
pub use busiest::RoomFigures;
pub use cell::Congestion;
pub use delivery::Delivery;
pub use diff_gate::DiffGate;
pub use fan_out::FanOut;
pub use history::{
    Bounds as HistoryBounds, Content, HistoryFigures, Kept, Past, Recalled, Shown, Since, Told, id_text,
};
pub use holding::Holding;
pub use hub::{DEFAULT_PRESENCE_INTERVAL, Hub};
pub use key::{Audience, Kind, MemberId, MessageId, RoomKey, Sight};
pub use membership::{Membership, Tracked};
pub use memory::{HeldBody, Memory};
pub use meter::{Meter, Unlimited};
pub use outbox::{DEFAULT_OUTBOX_BYTES, Outbox};
pub use presence::{Entry, MAX_SHOWN as MAX_PRESENCE_BYTES, Origin};
pub use queue::{BULK, Closed, Flush};
pub use signal::Signal;
pub use sink::Sink;
pub use slot::Member;
