//! Subscriptions by table, and the changes that match them.
//!
//! Conditions of equality go through a hash index: a row costs what matches it, not what subscribes.

mod attachment;
mod matched;
mod party;
mod watched;

use std::sync::Arc;

pub use attachment::{Attachment, ChannelId, SubscriptionKey};
pub use matched::{Asked, Delivery, Guarded, Match, Recipient};
pub use party::{Party, PartyId};
use realtime_pgoutput::{Oid, message::Relation};
use rustc_hash::FxHashMap;
use watched::Watched;

use crate::{Table, change::Change};

/// The table is not known to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Unknown table")]
pub struct UnknownTable;

/// Subscriptions by table.
#[derive(Debug, Default)]
pub struct Engine {
    tables: FxHashMap<Oid, Watched>,
    next_key: u64,
}

impl Engine {
    /// Makes a table known, or known anew: whatever was attached to it is gone and has to be attached again.
    pub fn put_table(&mut self, table: Arc<Table>, relation: &Relation) {
        let oid = table.oid;
        self.tables.insert(oid, Watched::new(table, relation));
    }

    /// Forgets a table and whatever was attached to it. Idempotent.
    pub fn forget_table(&mut self, oid: Oid) {
        self.tables.remove(&oid);
    }

    /// Forgets all tables.
    pub fn clear(&mut self) {
        self.tables.clear();
    }

    /// The table as it was last made known.
    #[must_use]
    pub fn table(&self, oid: Oid) -> Option<&Arc<Table>> {
        self.tables.get(&oid).map(Watched::table)
    }

    /// Attaches a subscription to a table.
    ///
    /// # Errors
    /// [`UnknownTable`].
    pub fn attach(&mut self, oid: Oid, attachment: Attachment) -> Result<SubscriptionKey, UnknownTable> {
        let watched = self.tables.get_mut(&oid).ok_or(UnknownTable)?;
        self.next_key += 1;
        let key = SubscriptionKey(self.next_key);
        watched.attach(key, attachment);
        Ok(key)
    }

    /// Detaches a subscription from a table. Idempotent.
    pub fn detach(&mut self, oid: Oid, key: SubscriptionKey) {
        if let Some(watched) = self.tables.get_mut(&oid) {
            watched.detach(key);
        }
    }

    /// The channel of an attachment.
    #[must_use]
    pub fn channel(&self, oid: Oid, key: SubscriptionKey) -> Option<ChannelId> {
        self.tables.get(&oid)?.channel(key)
    }

    /// The channel of an attachment, and the id that the channel knows the subscription by.
    #[must_use]
    pub fn subscription(&self, oid: Oid, key: SubscriptionKey) -> Option<(ChannelId, u32)> {
        self.tables.get(&oid)?.subscription(key)
    }

    /// Which subscriptions a change matches, and what has to be asked or looked at for them.
    #[must_use]
    pub fn match_row(&self, change: &Change<'_>) -> Match {
        self.tables.get(&change.relation.oid).map(|watched| watched.match_row(change)).unwrap_or_default()
    }

    /// A match of one subscription whose condition holds, as was found out elsewhere.
    #[must_use]
    pub fn match_one(&self, change: &Change<'_>, key: SubscriptionKey) -> Match {
        self.tables
            .get(&change.relation.oid)
            .map(|watched| watched.match_one(change, key))
            .unwrap_or_default()
    }

    /// A party of a table.
    #[must_use]
    pub fn party(&self, oid: Oid, id: PartyId) -> Option<&Arc<Party>> {
        self.tables.get(&oid)?.party(id)
    }
}
