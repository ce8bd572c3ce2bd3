//! Finds who sees the changes that wait.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use realtime_changes::{ChannelId, Guarded, Party, PartyId, SubscriptionKey};
use realtime_pgoutput::Oid;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::{self, Duration, Instant};

use super::{
    State,
    failed::{ASK_AGAIN, Failed},
    held_up::Trust,
    known::Known,
    waiting::Waiting,
};
use crate::{
    Notice,
    failpoints::{self, Point},
    visibility::{self, Answers, Asked, Held, Inquiry, Row, Verdict},
};

/// How long a round trip may take at most, whatever is set for how long others wait for a party.
const TOGETHER: Duration = Duration::from_secs(2);

/// What parties see of a row, by their places in an inquiry.
#[derive(Debug, Clone, Default)]
struct Sight {
    seen_by: FxHashSet<usize>,
    failed_for: FxHashSet<usize>,
}

/// A row of a waiting change.
#[derive(Debug, Clone, Copy)]
struct Image {
    /// The place of the change.
    at: usize,
    /// Whether it is the old row of an update: who sees it beside the new one gets it.
    is_old: bool,
}

/// Which subscriptions see a change.
#[derive(Debug, Clone, Default)]
pub(super) struct SeenBy {
    pub(super) row: Vec<SubscriptionKey>,
    pub(super) old_row: Vec<SubscriptionKey>,
}

/// What is to be asked about the changes of a table.
#[derive(Debug, Default)]
struct Gathered<'a> {
    rows: Vec<Row<'a>>,
    /// For each row: which of the waiting changes it is.
    changes: Vec<Image>,
    parties: Vec<Asked>,
    /// For each party: how it is asked.
    places: FxHashMap<PartyId, Place>,
    /// Those that are asked beside the stream.
    aside: Vec<Arc<Party>>,
}

/// How a party is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// With the others: its place among them.
    Among(usize),
    /// Beside the stream.
    Aside,
    /// Not now.
    Refused,
}

impl State {
    /// Hands over the changes that were judged as far as that is done here, in their order, to those who see them.
    pub(super) async fn flush_judged(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let left = std::mem::take(&mut self.left);
        if !left.is_empty() {
            for change in &mut waiting {
                change.matched.forget(&left);
            }
        }
        let mut seen: Vec<SeenBy> = vec![SeenBy::default(); waiting.len()];
        let mut tables: Vec<Oid> = Vec::new();
        for change in waiting.iter().filter(|change| !change.matched.guarded().is_empty()) {
            if !tables.contains(&change.relation.oid) {
                tables.push(change.relation.oid);
            }
        }
        let mut aside = Vec::new();
        for oid in tables {
            aside.extend(self.look(oid, &waiting, &mut seen).await);
        }
        if !aside.is_empty() {
            self.put_aside_judged(&mut waiting, &aside);
        }
        self.latest.clear();
        for (change, seen) in waiting.iter().zip(&seen) {
            self.hand_over(change, seen);
        }
    }

    /// Finds which guarded subscriptions see the waiting changes of a table. A policy that raises hides rows from its party
    /// alone, whose channels are told, though not for every row. Gives the parties that have not answered in time.
    async fn look(&mut self, oid: Oid, waiting: &[Waiting], seen: &mut [SeenBy]) -> Vec<Arc<Party>> {
        let Some(table) = self.engine.table(oid).map(Arc::clone) else { return Vec::new() };
        let known = self.known.get(&oid);
        let (logged, key) = known.map(|known| (known.logged.clone(), known.key.clone())).unwrap_or_default();
        let publication = self.publication.clone();
        let Gathered { rows, changes, parties, places, mut aside } = self.gather(oid, waiting);
        let inquiry = Inquiry {
            table: &table,
            logged: &logged,
            key: &key,
            publication: &publication,
            rows,
            parties,
            shares_plans: self.shares_plans,
        };
        let begun = Instant::now();
        let is_asked = !inquiry.parties.is_empty();
        let answers = if is_asked { self.answers_of(&inquiry).await } else { Answers::default() };
        let took = begun.elapsed();
        let asked: u64 = inquiry.parties.iter().map(|asked| asked.rows.len() as u64).sum();
        let mut kept_back = 0;
        let sights = self.sights(oid, &inquiry, &answers.verdicts);
        self.note_slow(oid, &inquiry, &answers);
        let parties = inquiry.parties.iter().zip(&answers.verdicts);
        aside.extend(
            parties.filter(|(_, verdict)| verdict.is_err()).map(|(asked, _)| Arc::clone(&asked.party)),
        );
        let mut withheld: HashMap<PartyId, HashSet<ChannelId>> = HashMap::new();
        for (image, sight) in changes.iter().zip(&sights) {
            let (Some(change), Some(seen)) = (waiting.get(image.at), seen.get_mut(image.at)) else {
                continue;
            };
            for guarded in change.matched.guarded().chunk_by(|a, b| a.party == b.party) {
                let Some(Guarded { party: id, .. }) = guarded.first() else { continue };
                let place = places.get(id).copied().unwrap_or(Place::Refused);
                let among = if let Place::Among(place) = place { Some(place) } else { None };
                let sees = among.is_some_and(|place| sight.seen_by.contains(&place));
                if image.is_old {
                    // Who does not see it, or nobody knows, gets the new row without it.
                    let asks = guarded.iter().filter(|guarded| sees && guarded.asks_old);
                    seen.old_row.extend(asks.map(|guarded| guarded.key));
                } else if sees || guarded.iter().all(|guarded| guarded.is_shown) {
                    seen.row.extend(guarded.iter().map(|guarded| guarded.key));
                } else if place == Place::Refused
                    || among.is_some_and(|place| sight.failed_for.contains(&place))
                {
                    kept_back += 1;
                    let channels = guarded.iter().filter_map(|guarded| self.engine.channel(oid, guarded.key));
                    withheld.entry(*id).or_default().extend(channels);
                }
            }
        }
        if let Some(known) = self.known.get(&oid) {
            known.counters.asked.add(asked);
            if is_asked {
                known.counters.rounds.add(1);
                known.counters.asked_micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
            known.counters.withheld.add(kept_back);
        }
        for (id, channels) in withheld {
            self.withheld(oid, id, &channels);
        }
        aside
    }

    /// The waiting changes of a table that have to be judged, and for whom.
    fn gather<'a>(&self, oid: Oid, waiting: &'a [Waiting]) -> Gathered<'a> {
        let mut gathered = Gathered::default();
        let key_places = self.key_places(oid);
        for (at, change) in waiting.iter().enumerate() {
            if change.relation.oid != oid || change.matched.guarded().is_empty() {
                continue;
            }
            let is_last = self.is_last(change, &key_places);
            let row = Row { change: change.image(), xid: change.xid, is_last };
            self.gather_row(&mut gathered, row, Image { at, is_old: false }, change.matched.guarded());
            if let Some(old) = change.old_image()
                && change.matched.guarded().iter().any(|guarded| guarded.asks_old)
            {
                let row = Row { change: old, xid: change.xid, is_last: false };
                let image = Image { at, is_old: true };
                self.gather_row(&mut gathered, row, image, change.matched.guarded());
            }
        }
        gathered
    }

    /// Where the log has the primary key of a table.
    pub(super) fn key_places(&self, oid: Oid) -> Vec<usize> {
        self.known.get(&oid).and_then(Known::key_places).unwrap_or_default()
    }

    /// Whether no later change of its transaction is about the key of a change that waits.
    pub(super) fn is_last(&self, change: &Waiting, key_places: &[usize]) -> bool {
        let reading = self.transaction.map(|transaction| transaction.xid);
        reading != Some(change.xid) && self.latest.is_last(change, key_places)
    }

    /// Whether a party is not to be asked about rows for now.
    pub(super) fn is_refused(&self, oid: Oid, party: &Arc<Party>) -> bool {
        self.troubled.is_barred(oid, party) || self.judging.held_up.trust(oid, party) == Trust::None
    }

    /// Takes a row that has to be judged, and for whom.
    fn gather_row<'a>(&self, gathered: &mut Gathered<'a>, row: Row<'a>, image: Image, guarded: &[Guarded]) {
        let number = u32::try_from(gathered.rows.len()).unwrap_or(u32::MAX);
        let oid = row.change.relation.oid;
        gathered.rows.push(row);
        gathered.changes.push(image);
        let Gathered { parties, places, aside, .. } = gathered;
        for guarded in guarded.chunk_by(|a, b| a.party == b.party) {
            let Some(Guarded { party: id, .. }) = guarded.first() else { continue };
            // A party sees a row whichever of its subscriptions it is for.
            let asks = |guarded: &Guarded| if image.is_old { guarded.asks_old } else { !guarded.is_shown };
            if !guarded.iter().any(asks) {
                continue;
            }
            let place = *places.entry(*id).or_insert_with(|| {
                let Some(party) = self.engine.party(oid, *id) else { return Place::Refused };
                if self.is_refused(oid, party) {
                    return Place::Refused;
                }
                if self.beside.is_slow(oid, party) {
                    aside.push(Arc::clone(party));
                    return Place::Aside;
                }
                parties.push(Asked { party: Arc::clone(party), rows: Vec::new() });
                Place::Among(parties.len() - 1)
            });
            if let Place::Among(place) = place
                && let Some(asked) = parties.get_mut(place)
            {
                asked.rows.push(number);
            }
        }
    }

    /// Which parties see each row, and for which it could not be told. Notes which policies failed, and tells the
    /// channels of those that do so no more.
    fn sights(&mut self, oid: Oid, inquiry: &Inquiry<'_>, verdicts: &[Result<Verdict, Held>]) -> Vec<Sight> {
        let mut sights = vec![Sight::default(); inquiry.rows.len()];
        for (place, (asked, verdict)) in inquiry.parties.iter().zip(verdicts).enumerate() {
            let Ok(verdict) = verdict else { continue };
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
        sights
    }

    /// Takes note of the parties for whom the others have waited.
    fn note_slow(&mut self, oid: Oid, inquiry: &Inquiry<'_>, answers: &Answers) {
        // Who waits for a lock is not slow, and who was not asked need not be.
        let is_held = |verdict: &Result<Verdict, Held>| matches!(verdict, Err(Held::Slow | Held::Ended));
        let held = answers.verdicts.iter().enumerate().filter(|(_, verdict)| is_held(verdict));
        let slow = held.map(|(at, _)| at).chain(answers.slow.iter().copied());
        for asked in slow.filter_map(|at| inquiry.parties.get(at)) {
            self.beside.was_slow(oid, &asked.party);
        }
    }

    /// The answers, however long it takes until the database can be asked: rows must not pass unchecked.
    async fn answers_of(&self, inquiry: &Inquiry<'_>) -> Answers {
        let started = Instant::now();
        let limit = self.policy_wait.min(TOGETHER);
        let mut answers = loop {
            let answers = async {
                if failpoints::reach(Point::VerdictAsked).await {
                    return Err(Failed::Injected);
                }
                Ok(visibility::check(&self.pool, inquiry, &self.policies, limit).await?)
            };
            match answers.await {
                Ok(answers) => break answers,
                Err(error) => {
                    let table = format!("{}.{}", inquiry.table.schema, inquiry.table.name);
                    tracing::warn!(code = "UnableToConnectToProject", %error, table, "cannot check row-level security; retrying");
                    self.stats.check_failures.add(1);
                    time::sleep(ASK_AGAIN).await;
                }
            }
        };
        for verdict in &mut answers.verdicts {
            if failpoints::reach(Point::PartyAside).await {
                *verdict = Err(Held::NotAsked);
            }
        }
        self.stats.check_times.record_time(started.elapsed());
        self.stats.checks.fetch_add(inquiry.parties.len() as u64, Ordering::Relaxed);
        answers
    }

    /// Counts that a party was asked about so many rows beside the stream.
    pub(super) fn count_asked(&self, oid: Oid, rows: usize) {
        self.stats.checks.fetch_add(1, Ordering::Relaxed);
        if let Some(known) = self.known.get(&oid) {
            known.counters.asked.add(rows as u64);
        }
    }

    /// Tells the channels of a party that its policies failed, unless they were told a short while ago.
    pub(super) fn withheld(&mut self, oid: Oid, party: PartyId, channels: &HashSet<ChannelId>) {
        let Some(party) = self.engine.party(oid, party) else { return };
        let Some((untold, error)) = self.troubled.untold(oid, party, channels) else { return };
        if !untold.is_empty() {
            let known = self.known.get(&oid).and_then(|known| known.table.as_ref());
            let table = known.map(|table| format!("{}.{}", table.schema, table.name));
            let role = &*party.role;
            tracing::warn!(
                code = "RlsPolicyError",
                table,
                role,
                error,
                "a policy failed; withholding rows from its role"
            );
        }
        let text = format!("Row level security could not be evaluated, changes are withheld: {error}");
        for channel in untold {
            self.sink.notice(channel, Notice::warning("RlsPolicyError", text.clone()));
        }
    }
}
