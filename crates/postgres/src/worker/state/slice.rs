//! What a slice of a pass over the journal hands over: all of it together at its end, so that those who get the same get it
//! in one go.

use std::sync::Arc;

use realtime_changes::{Delivery, SubscriptionKey};
use realtime_pgoutput::Oid;
use rustc_hash::FxHashMap;

/// What is handed over in a slice at most, give or take one change: changes, each counted for every channel that gets it.
/// Some milliseconds of work; live changes wait meanwhile.
const DELIVERIES: usize = 10_000;

/// Bytes of a slice, give or take one change: what receivers have room for is known for so much.
const BYTES: usize = 65_536;

/// What is handed over.
#[derive(Debug, Default)]
pub(super) struct Slice {
    deliveries: Vec<Delivery>,
    /// How many channels get something, each counted for every change.
    recipients: usize,
    /// Bytes that were read, or that one channel gets at most.
    bytes: usize,
    /// How many may get something about whom the database is still to be asked.
    awaited: usize,
    /// The subscriptions of each table that have come back, and which of the times it is that the table was made known: they
    /// are attached anew with it. Nobody comes within a slice.
    meant: FxHashMap<Oid, (Option<u64>, Arc<[SubscriptionKey]>)>,
}

impl Slice {
    /// The subscriptions of a table that have come back, if they are known for this version of it.
    pub(super) fn meant(&self, oid: Oid, version: Option<u64>) -> Option<Arc<[SubscriptionKey]>> {
        let (known, keys) = self.meant.get(&oid)?;
        (*known == version).then(|| Arc::clone(keys))
    }

    /// Remembers them.
    pub(super) fn means(&mut self, oid: Oid, version: Option<u64>, keys: Arc<[SubscriptionKey]>) {
        self.meant.insert(oid, (version, keys));
    }

    /// The database is to be asked whether so many get a change.
    pub(super) fn awaits(&mut self, recipients: usize) {
        self.awaited += recipients;
    }

    /// It was asked: those who get something have it.
    pub(super) fn is_judged(&mut self) {
        self.awaited = 0;
    }

    /// It takes no more.
    pub(super) fn end(&mut self) {
        self.bytes = self.bytes.max(BYTES);
    }

    pub(super) fn push(&mut self, delivery: Delivery) {
        self.recipients += delivery.recipients.len();
        self.bytes += delivery.data.len();
        self.deliveries.push(delivery);
    }

    /// So many bytes were read.
    pub(super) fn read(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Whether it is enough.
    pub(super) fn is_full(&self) -> bool {
        self.recipients + self.awaited >= DELIVERIES || self.bytes >= BYTES
    }

    /// How many channels get something, each counted for every change.
    pub(super) fn recipients(&self) -> usize {
        self.recipients
    }

    /// Takes what is to be handed over now.
    pub(super) fn take(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }
}

#[cfg(test)]
mod tests {
    use realtime_changes::{Action, ChannelId, Recipient};

    use super::*;

    fn delivery(channels: usize, bytes: usize) -> Delivery {
        let recipient = |channel| Recipient { channel: ChannelId(channel), ids: [1].into_iter().collect() };
        let recipients = (0..channels as u64).map(recipient).collect();
        Delivery { action: Action::Insert, data: vec![b'x'; bytes].into(), recipients, position: None }
    }

    #[test]
    fn a_slice_is_bounded_in_deliveries_and_in_bytes() {
        let changes = |channels, bytes| {
            let mut slice = Slice::default();
            while !slice.is_full() {
                slice.push(delivery(channels, bytes));
            }
            slice.take().len()
        };
        assert_eq!(changes(1_000, 100), DELIVERIES / 1_000);
        assert_eq!(changes(20_000, 100), 1);
        assert_eq!(changes(1, 1_000), BYTES / 1_000 + 1);
        let mut slice = Slice::default();
        slice.read(BYTES);
        assert!(slice.is_full(), "also if nobody gets anything");
    }

    #[test]
    fn those_who_are_to_be_asked_about_count_for_a_slice() {
        let mut slice = Slice::default();
        slice.awaits(DELIVERIES - 1);
        assert!(!slice.is_full());
        slice.awaits(1);
        assert!(slice.is_full());
        slice.is_judged();
        assert!(!slice.is_full() && slice.recipients() == 0);
        slice.end();
        assert!(slice.is_full());
    }
}
