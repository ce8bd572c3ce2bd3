//! Some of the subscriptions of a table.

use std::fmt;

use super::attachment::{ChannelId, SubscriptionKey};

/// The subscriptions that are meant, of all.
#[derive(Clone, Copy)]
pub struct Among<'a> {
    /// All that may be meant, each once. One that has ended is passed over.
    pub keys: &'a [SubscriptionKey],
    /// Whether one is meant now, by its channel and the id that this knows it by.
    pub takes: &'a dyn Fn(ChannelId, u32) -> bool,
}

impl fmt::Debug for Among<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Among").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}
