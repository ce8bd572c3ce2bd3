//! What the clients of live results have, from one handle of a database to the next.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use realtime_changes::{ChannelId, RowView};
use realtime_live::Keeper;

use crate::live::Source;

/// What a binding has.
#[derive(Debug)]
pub(crate) struct Held {
    /// Shared by all who have the same.
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) view: Arc<RowView>,
    pub(crate) source: Arc<Source>,
}

/// What the bindings of a tenant's channels have that ask the next handle.
#[derive(Debug, Default)]
pub(crate) struct Heirloom(Mutex<HashMap<ChannelId, Vec<(u32, Held)>>>);

impl Heirloom {
    /// Keeps what a binding has until its channel asks for it or ends.
    pub(crate) fn keep(&self, channel: ChannelId, id: u32, held: Held) {
        self.0.lock().entry(channel).or_default().push((id, held));
    }

    /// What the bindings of a channel have.
    pub(crate) fn take(&self, channel: ChannelId) -> Vec<(u32, Held)> {
        self.0.lock().remove(&channel).unwrap_or_default()
    }
}
