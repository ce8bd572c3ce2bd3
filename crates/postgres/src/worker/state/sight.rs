//! Who sees the changes of a transaction.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use realtime_changes::{ChannelId, Guarded, Party, SubscriptionKey, Table};
use realtime_pgoutput::Oid;
use tokio::time;

use super::{ASK_AGAIN, Failed, State, waiting::Waiting};
use crate::{
    Notice, pool,
    visibility::{self, Failure, Verdict},
};

impl State {
    /// Hands over the changes that wait, in their order, to those who see them. To be called at the end of every
    /// transaction, and before anything that they were matched with changes.
    pub(in crate::worker) async fn flush(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let mut seen: Vec<HashSet<SubscriptionKey>> = vec![HashSet::new(); waiting.len()];
        let mut tables: Vec<Oid> = Vec::new();
        for change in waiting.iter().filter(|change| !change.guarded.is_empty()) {
            if !tables.contains(&change.relation.oid) {
                tables.push(change.relation.oid);
            }
        }
        for oid in tables {
            self.look(oid, &waiting, &mut seen).await;
        }
        for (change, seen) in waiting.iter().zip(&seen) {
            self.hand_over(change, seen);
        }
    }

    /// Finds which guarded subscriptions see the waiting changes of a table. A policy that raises or takes too long
    /// hides rows from its group alone, whose channels are told, though not for every row.
    async fn look(&mut self, oid: Oid, waiting: &[Waiting], seen: &mut [HashSet<SubscriptionKey>]) {
        let Some(table) = self.engine.table(oid).map(Arc::clone) else { return };
        let (mut rows, mut keys, mut parties) = (Vec::new(), Vec::new(), Vec::<Arc<Party>>::new());
        let mut places: HashMap<usize, usize> = HashMap::new();
        for (at, change) in waiting.iter().enumerate().filter(|(_, change)| change.relation.oid == oid) {
            let Some(key) = visibility::key(&table, &change.change()).filter(|_| !change.guarded.is_empty())
            else {
                continue;
            };
            rows.push(at);
            keys.push(key);
            for group in &change.guarded {
                places.entry(Party::address(&group.party)).or_insert_with(|| {
                    parties.push(Arc::clone(&group.party));
                    parties.len() - 1
                });
            }
        }
        if rows.is_empty() {
            return;
        }
        self.stats.checks.fetch_add(parties.len() as u64, Ordering::Relaxed);
        let verdicts = self.verdicts(&table, &keys, &parties).await;
        for (row, at) in rows.into_iter().enumerate() {
            let (Some(change), Some(seen)) = (waiting.get(at), seen.get_mut(at)) else { continue };
            for group in &change.guarded {
                match places.get(&Party::address(&group.party)).and_then(|place| verdicts.get(*place)) {
                    Some(Verdict::Rows(rows)) if rows.get(row) == Some(&true) => seen.extend(&group.keys),
                    Some(Verdict::Failed(failure)) => self.withheld(oid, group, failure),
                    _ => {}
                }
            }
        }
    }

    /// The verdicts, however long it takes: rows must not pass unchecked.
    async fn verdicts(&self, table: &Table, keys: &[Vec<String>], parties: &[Arc<Party>]) -> Vec<Verdict> {
        loop {
            let verdicts = async {
                let client = pool::get(&self.pool).await?;
                Ok::<_, Failed>(visibility::check(&client, table, keys, parties).await?)
            };
            match verdicts.await {
                Ok(verdicts) => return verdicts,
                Err(error) => {
                    tracing::warn!(code = "UnableToConnectToProject", %error, "cannot check visibility, trying on");
                    time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }

    /// Tells the channels of a group that its policies failed, unless they were told a short while ago.
    fn withheld(&mut self, oid: Oid, group: &Guarded, failure: &Failure) {
        if !self.troubled.note(oid, &group.party, failure.slow) {
            return;
        }
        tracing::warn!(code = "RlsPolicyError", "a policy failed: rows are withheld from its role");
        let text =
            format!("Row level security could not be evaluated, changes are withheld: {}", failure.error);
        let channels: HashSet<ChannelId> =
            group.keys.iter().filter_map(|key| self.engine.channel(oid, *key)).collect();
        for channel in channels {
            self.sink.notice(channel, Notice::Error(text.clone()));
        }
    }
}
