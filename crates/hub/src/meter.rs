//! What counts deliveries and says when there are too many: a trait, so that rooms do not know tenants.

use std::fmt;

use realtime_protocol::SystemMessage;

use crate::key::Kind;

/// Counts what a tenant's rooms deliver.
pub trait Meter: Send + Sync + fmt::Debug {
    /// `count` frames of a kind were handed to channels.
    fn delivered(&self, kind: Kind, count: u64);
    /// Whether there are too many broadcasts. Channels that are handed one then get a [`Signal`] to stop.
    ///
    /// [`Signal`]: crate::Signal::TooManyEvents
    fn is_exceeded(&self) -> bool;
    /// Whether one broadcast more would be over the limit. It must not be delivered then.
    fn is_over(&self) -> bool;
    /// The limit of broadcasts per second.
    fn limit(&self) -> u32;
    /// So many members are told of something.
    fn told(&self, _message: &SystemMessage, _members: usize) {}
}

/// Counts nothing and limits nothing: for rooms of nobody, in tests and measurements.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unlimited;

impl Meter for Unlimited {
    fn delivered(&self, _: Kind, _: u64) {}

    fn is_exceeded(&self) -> bool {
        false
    }

    fn is_over(&self) -> bool {
        false
    }

    fn limit(&self) -> u32 {
        u32::MAX
    }
}
