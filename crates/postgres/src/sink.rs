//! Where what comes from a database goes, and what its channels are told.

use std::{borrow::Cow, pin::Pin};

use bytes::Bytes;
use realtime_changes::{Action, ChannelId, Delivery, Recipient, SubscribeRefusal};
use realtime_pgoutput::Position;
use tokio::time::Instant;

use crate::DatabaseBroadcast;

/// Where row changes go.
pub trait ChangeSink: Send + Sync + 'static {
    /// Hands over a change, in commit order. Must not block.
    fn deliver(&self, delivery: Delivery);
    /// Hands over what those who have come back had missed, in commit order. Nobody waits for them: who reads the journal
    /// looks whether they have room. Must not block.
    fn deliver_missed(&self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            self.deliver(delivery);
        }
    }
    /// Hands over rows of a live result to those who get all of them, in order. Rows that a binding begins with
    /// (`first`) count as no events. Must not block.
    fn rows(&self, _to: &[Recipient], _rows: &[(Action, Bytes)], _first: bool) {}
    /// Whether the receiver of a channel has room for more rows to begin with; `None` if it is gone.
    fn room(&self, _channel: ChannelId) -> Option<bool> {
        Some(true)
    }
    /// Tells a channel what became of its subscription later in life. Must not block.
    fn notice(&self, channel: ChannelId, notice: Notice);
    /// A wait for receivers that have fallen behind, if there are any: bounded, so that nobody can hold up the others
    /// for long. Asked for after every message of the log.
    fn relieve(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> {
        None
    }
    /// Whether a channel can take more of what it has missed: it waits until its client has read.
    fn has_room(&self, _channel: ChannelId) -> bool {
        true
    }
    /// How many channels are those of streams, whose clients keep where they are; and when the last one of those that are
    /// gone has left.
    fn streams(&self) -> (usize, Option<Instant>) {
        (0, None)
    }
    /// Tells a channel that it has got everything up to a position, if it is that of a stream. Returns whether it is. Must
    /// not block.
    fn position(&self, _channel: ChannelId, _position: Position) -> bool {
        false
    }
    /// Tells all streams that `has_all` picks that they have got everything up to a position. Must not block.
    fn positions(&self, _position: Position, _has_all: &dyn Fn(ChannelId) -> bool) {}
    /// Hands over a broadcast from the database, in commit order. Must not block; what is returned is done when
    /// more can be taken, and nothing is read before.
    fn broadcast(&self, _message: DatabaseBroadcast) -> Option<Relief> {
        None
    }
    /// Largest broadcast in bytes, the allowance of 500 included.
    fn max_broadcast_bytes(&self) -> usize {
        usize::MAX
    }
    /// A transaction is over: what waits for others may go. Must not block.
    fn committed(&self) {}
    /// Whether there are too many changes for the tenant: one that comes is dropped, and the channels told how many
    /// were (postgres_changes 4.3). Asked for every row that somebody wants.
    fn is_limited(&self) -> bool {
        false
    }
}

/// Done when a sink can take more. Cancel safe.
pub type Relief = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Something a subscribed channel has to be told. The channel lives on (clients 1). Codes are those of
/// docs/operations.md.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// From now on every commit will be delivered (again).
    Subscribed,
    /// Changes have been missed, or may have been.
    Gap {
        /// The reason, as a code that programs can compare.
        code: &'static str,
        /// The reason in words.
        text: Cow<'static, str>,
    },
    /// Some changes are not delivered, or not yet, though the connection to the database stands.
    Warning {
        /// The reason, as a code that programs can compare.
        code: &'static str,
        /// The reason in words.
        text: Cow<'static, str>,
    },
    /// So many row changes were not delivered, because there were too many.
    Dropped(u64),
    /// The live binding with this id has all rows of its result: so many.
    Complete {
        /// Its id.
        id: u32,
        /// How many rows there are.
        rows: usize,
    },
    /// The live binding with this id said where it was, but it is not known what it has: all rows come (resume 2).
    BeginAnew {
        /// Its id.
        id: u32,
    },
    /// It has got all that it had missed: what comes now is live (resume 2).
    CaughtUp,
}

impl Notice {
    pub(crate) fn gap(code: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self::Gap { code, text: text.into() }
    }

    pub(crate) fn warning(code: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self::Warning { code, text: text.into() }
    }

    /// A subscription that cannot be kept or taken up again.
    pub(crate) fn refusal(refusal: &SubscribeRefusal) -> Self {
        Self::warning(refusal.code(), refusal.to_string())
    }
}
