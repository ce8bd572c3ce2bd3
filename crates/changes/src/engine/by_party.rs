//! Subscriptions that the index of filters cannot find, by party.

use rustc_hash::{FxHashMap, FxHashSet};

use super::{attachment::SubscriptionKey, party::PartyId};

/// Subscriptions by party.
#[derive(Debug, Default)]
pub(super) struct ByParty(FxHashMap<PartyId, FxHashSet<SubscriptionKey>>);

impl ByParty {
    pub(super) fn insert(&mut self, party: PartyId, key: SubscriptionKey) {
        self.0.entry(party).or_default().insert(key);
    }

    pub(super) fn remove(&mut self, party: PartyId, key: SubscriptionKey) {
        if let Some(keys) = self.0.get_mut(&party) {
            keys.remove(&key);
            if keys.is_empty() {
                self.0.remove(&party);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many parties have some.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The subscriptions of a party.
    pub(super) fn of(&self, party: PartyId) -> impl Iterator<Item = SubscriptionKey> {
        self.0.get(&party).into_iter().flatten().copied()
    }

    pub(super) fn parties(&self) -> impl Iterator<Item = PartyId> {
        self.0.keys().copied()
    }
}
