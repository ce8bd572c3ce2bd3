//! For which subscriptions of a party rows wait. Rows that are for the same ones share the list: a party may have ten
//! thousand, and a lane a thousand rows.

use std::sync::{Arc, atomic::AtomicUsize};

use realtime_changes::SubscriptionKey;
use realtime_pgoutput::Oid;

use super::counted::Counted;

/// The subscriptions of a party to a table that some rows are for.
#[derive(Debug)]
pub(super) struct ForWhom {
    oid: Oid,
    /// In order.
    keys: Box<[SubscriptionKey]>,
    counted: Counted,
}

impl ForWhom {
    /// `total`: the bytes of all that waits.
    pub(super) fn new(oid: Oid, mut keys: Vec<SubscriptionKey>, total: &Arc<AtomicUsize>) -> Self {
        keys.sort_unstable();
        let bytes = size_of::<Self>() + size_of_val(&*keys);
        Self { oid, keys: keys.into(), counted: Counted::new(bytes, total) }
    }

    pub(super) const fn oid(&self) -> Oid {
        self.oid
    }

    pub(super) const fn keys(&self) -> &[SubscriptionKey] {
        &self.keys
    }

    /// With the table.
    pub(super) fn names(&self) -> impl Iterator<Item = (Oid, SubscriptionKey)> {
        self.keys.iter().map(|key| (self.oid, *key))
    }

    /// Whether one of some subscriptions is among them.
    pub(super) fn has_any(&self, names: &[(Oid, SubscriptionKey)]) -> bool {
        names.iter().any(|(oid, key)| *oid == self.oid && self.keys.binary_search(key).is_ok())
    }

    /// About how many bytes it takes.
    pub(super) const fn bytes(&self) -> usize {
        self.counted.bytes()
    }
}
