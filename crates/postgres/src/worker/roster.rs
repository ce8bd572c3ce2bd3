//! The channels that watch something.

use std::sync::Arc;

use parking_lot::Mutex;
use realtime_changes::ChannelId;
use rustc_hash::FxHashSet;

/// The channels that watch something, also while the worker's state is in use.
#[derive(Debug, Clone, Default)]
pub(super) struct Roster(Arc<Mutex<FxHashSet<ChannelId>>>);

impl Roster {
    /// The channels, in no order.
    pub(super) fn channels(&self) -> Vec<ChannelId> {
        self.0.lock().iter().copied().collect()
    }

    pub(super) fn enter(&self, channel: ChannelId) {
        self.0.lock().insert(channel);
    }

    pub(super) fn leave(&self, channel: ChannelId) {
        self.0.lock().remove(&channel);
    }
}
