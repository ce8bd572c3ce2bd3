//! Broadcasts from the database: rows of `realtime.messages` (tenant_database 4.2).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use realtime_pgoutput::{
    Oid,
    message::{Relation, Tuple, UnixMicros},
};

use super::State;
use crate::{MessageColumns, publication};

impl State {
    /// The publications that exist, of those that a session reads. `None`: not looked at yet.
    pub(in crate::worker) fn publications(&self) -> Option<&[String]> {
        self.publications.as_deref()
    }

    /// Whether messages are published, as far as is known.
    pub(in crate::worker) fn has_messages(&self) -> Option<bool> {
        self.publications.as_ref().map(|names| names.iter().any(|name| name == publication::NAME))
    }

    /// What is known of publications may be wrong.
    pub(in crate::worker) fn forget_publications(&mut self) {
        self.publications = None;
    }

    /// Remembers the columns of messages.
    pub(super) fn describe_messages(&mut self, relation: &Relation) {
        if let Some(columns) = MessageColumns::of(relation) {
            self.messages.insert(relation.oid, columns);
        }
    }

    /// Hands an inserted row over, if it is a message. To be called before the row is taken as a change. Returns
    /// when the next one can be taken.
    pub(in crate::worker) async fn broadcast(&mut self, oid: Oid, row: &Tuple) {
        let (Some(columns), Some(transaction)) = (self.messages.get(&oid), &self.transaction) else { return };
        let position = (transaction.position.0, transaction.position.1 + 1);
        if position <= self.broadcast {
            return;
        }
        self.broadcast = position;
        match columns.message(row, self.sink.max_broadcast_bytes()) {
            Ok(message) => {
                let now = SystemTime::now();
                self.stats.committed_latency.record_time(age(transaction.commit_time, now));
                self.stats.inserted_latency.record_time(age(message.inserted_at, now));
                if let Some(relief) = self.sink.broadcast(message) {
                    relief.await;
                }
            }
            Err(reason) => {
                tracing::warn!(code = "UnableToBroadcastChanges", "UnableToBroadcastChanges: {reason}");
            }
        }
    }
}

/// How long ago something was by this machine's clock; zero for what is yet to come by it.
fn age(then: UnixMicros, now: SystemTime) -> Duration {
    let then = UNIX_EPOCH + Duration::from_micros(u64::try_from(then.0).unwrap_or_default());
    now.duration_since(then).unwrap_or_default()
}
