//! Who sees the changes that wait.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use realtime_changes::{ChannelId, Guarded, PartyId, SubscriptionKey};
use realtime_pgoutput::Oid;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::{self, Instant};

use super::{ASK_AGAIN, Failed, State, waiting::Waiting};
use crate::{
    Notice,
    failpoints::{self, Point},
    pool,
    visibility::{self, Asked, Inquiry, Row, Verdict},
};

/// What parties see of a row, by their places in an inquiry.
#[derive(Debug, Clone, Default)]
struct Sight {
    seen_by: FxHashSet<usize>,
    failed_for: FxHashSet<usize>,
}

impl State {
    /// Hands over the changes that wait, in their order, to those who see them. To be called when no more are
    /// expected for now, and before anything that they were matched with changes.
    pub(in crate::worker) async fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let mut seen: Vec<Vec<SubscriptionKey>> = vec![Vec::new(); waiting.len()];
        let mut tables: Vec<Oid> = Vec::new();
        for change in waiting.iter().filter(|change| !change.matched.guarded().is_empty()) {
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
    /// hides rows from its party alone, whose channels are told, though not for every row.
    async fn look(&mut self, oid: Oid, waiting: &[Waiting], seen: &mut [Vec<SubscriptionKey>]) {
        let Some(table) = self.engine.table(oid).map(Arc::clone) else { return };
        let mut inquiry =
            Inquiry { table: &table, rows: Vec::new(), parties: Vec::new(), shares_plans: self.shares_plans };
        // For each row of the inquiry: which change it is.
        let mut changes: Vec<usize> = Vec::new();
        // For each party: its place in the inquiry, unless it is not to be asked.
        let mut places: FxHashMap<PartyId, Option<usize>> = FxHashMap::default();
        let mut withheld: HashMap<PartyId, HashSet<ChannelId>> = HashMap::new();
        for (at, change) in waiting.iter().enumerate() {
            if change.relation.oid != oid || change.matched.guarded().is_empty() {
                continue;
            }
            let row = u32::try_from(changes.len()).unwrap_or(u32::MAX);
            changes.push(at);
            inquiry.rows.push(Row { change: change.change(), xid: change.xid });
            for guarded in change.matched.guarded().chunk_by(|a, b| a.party == b.party) {
                let Some(Guarded { party: id, .. }) = guarded.first() else { continue };
                let place = *places.entry(*id).or_insert_with(|| {
                    let party = self.engine.party(oid, *id)?;
                    if self.troubled.is_barred(oid, party) {
                        return None;
                    }
                    inquiry.parties.push(Asked { party: Arc::clone(party), rows: Vec::new() });
                    Some(inquiry.parties.len() - 1)
                });
                if let Some(asked) = place.and_then(|place| inquiry.parties.get_mut(place)) {
                    asked.rows.push(row);
                }
            }
        }
        let verdicts = if inquiry.parties.is_empty() { Vec::new() } else { self.verdicts(&inquiry).await };
        // For each row: which parties see it, and for which it could not be told.
        let mut sights: Vec<Sight> = vec![Sight::default(); changes.len()];
        for (place, (asked, verdict)) in inquiry.parties.iter().zip(&verdicts).enumerate() {
            for row in &verdict.seen {
                if let Some(sight) = sights.get_mut(*row as usize) {
                    sight.seen_by.insert(place);
                }
            }
            let Some((failure, rows)) = &verdict.failed else {
                for channel in self.troubled.mended(oid, &asked.party) {
                    self.sink.notice(channel, Notice::Subscribed);
                }
                continue;
            };
            self.troubled.failed(oid, &asked.party, failure);
            for row in rows {
                if let Some(sight) = sights.get_mut(*row as usize) {
                    sight.failed_for.insert(place);
                }
            }
        }
        for (at, sight) in changes.iter().zip(&sights) {
            let (Some(change), Some(seen)) = (waiting.get(*at), seen.get_mut(*at)) else { continue };
            for guarded in change.matched.guarded().chunk_by(|a, b| a.party == b.party) {
                let Some(Guarded { party: id, .. }) = guarded.first() else { continue };
                let place = places.get(id).copied().flatten();
                if place.is_some_and(|place| sight.seen_by.contains(&place)) {
                    seen.extend(guarded.iter().map(|guarded| guarded.key));
                } else if place.is_none_or(|place| sight.failed_for.contains(&place)) {
                    let channels = guarded.iter().filter_map(|guarded| self.engine.channel(oid, guarded.key));
                    withheld.entry(*id).or_default().extend(channels);
                }
            }
        }
        for (id, channels) in withheld {
            self.withheld(oid, id, &channels);
        }
    }

    /// The verdicts, however long it takes: rows must not pass unchecked.
    async fn verdicts(&self, inquiry: &Inquiry<'_>) -> Vec<Verdict> {
        let started = Instant::now();
        let verdicts = loop {
            let verdicts = async {
                if failpoints::reach(Point::VerdictAsked).await {
                    return Err(Failed::Injected);
                }
                let client = pool::get(&self.pool).await?;
                Ok(visibility::check(&client, inquiry, &self.policies).await?)
            };
            match verdicts.await {
                Ok(verdicts) => break verdicts,
                Err(error) => {
                    tracing::warn!(code = "UnableToConnectToProject", %error, "cannot check visibility, trying on");
                    self.stats.check_failures.add(1);
                    time::sleep(ASK_AGAIN).await;
                }
            }
        };
        self.stats.check_times.record_time(started.elapsed());
        self.stats.checks.fetch_add(inquiry.parties.len() as u64, Ordering::Relaxed);
        verdicts
    }

    /// Tells the channels of a party that its policies failed, unless they were told a short while ago.
    fn withheld(&mut self, oid: Oid, party: PartyId, channels: &HashSet<ChannelId>) {
        let Some(party) = self.engine.party(oid, party) else { return };
        let Some((untold, error)) = self.troubled.untold(oid, party, channels) else { return };
        if !untold.is_empty() {
            tracing::warn!(code = "RlsPolicyError", "a policy failed: rows are withheld from its role");
        }
        let text = format!("Row level security could not be evaluated, changes are withheld: {error}");
        for channel in untold {
            self.sink.notice(channel, Notice::warning("RlsPolicyError", text.clone()));
        }
    }
}
