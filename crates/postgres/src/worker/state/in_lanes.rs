//! Changes that wait in lanes: how they come there, and how they go on.
//!
//! While a party has a lane, all changes for its channels go there, of whatever table, so that they come in order. The first
//! of them goes on when what its policies compare rows with was answered, and the database has said who sees it where it
//! has to.

use std::{collections::BTreeSet, sync::Arc};

use realtime_changes::{ChannelId, Guarded, Match, Party, PartyId, SubscriptionKey};
use realtime_pgoutput::Oid;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    State,
    behind::{Behind, What},
    errand::{Errand, Image, Outcome},
    for_whom::ForWhom,
    judging::now,
    lane::{Asking, Lane, LaneRow, QUICK},
    waiting::Waiting,
};
use crate::{
    Notice,
    visibility::{Failure, Held, Verdict},
};

/// What is told of rows that waited and are not delivered.
const NOT_DELIVERED: &str =
    "Row level security takes too long: changes that waited for it were not delivered";

/// What a party sees of a row.
#[derive(Debug, Clone, Copy, Default)]
struct Sees {
    new: bool,
    old: bool,
    /// It could not be told.
    failed: bool,
}

impl State {
    /// Hands on a change that was matched: to their lanes for those who have one or have to wait, to the others at once or
    /// when it was checked.
    pub(super) async fn route(&mut self, mut waiting: Waiting, mut matched: Match) {
        let oid = waiting.relation.oid;
        self.divert(&mut matched, &waiting);
        if matched.has_late() {
            // What came before goes before: it may have to wait too.
            if !self.waiting.is_empty() {
                self.flush_judged().await;
                self.divert(&mut matched, &waiting);
            }
            let late = matched.take_late();
            self.put_beside(oid, &late, &waiting, false);
        }
        waiting.matched = matched;
        self.pass_on(waiting).await;
    }

    /// Takes those out of a match who have a lane, and puts the change there.
    fn divert(&mut self, matched: &mut Match, waiting: &Waiting) {
        if self.beside.is_idle() {
            return;
        }
        let oid = waiting.relation.oid;
        let parties = self.beside.lanes.keys().filter_map(|party| self.engine.party_id(oid, party));
        let parties: FxHashSet<PartyId> = parties.collect();
        let diverted = matched.divert(|party| parties.contains(&party));
        self.put_beside(oid, &diverted, waiting, false);
    }

    /// Changes that were to be judged go into the lanes of parties that have not answered, from the first on.
    pub(super) fn put_aside_judged(&mut self, all: &mut [Waiting], aside: &[Arc<Party>]) {
        let mut known: FxHashMap<Oid, (FxHashSet<PartyId>, Vec<usize>)> = FxHashMap::default();
        for waiting in all {
            let oid = waiting.relation.oid;
            let (parties, key_places) = known.entry(oid).or_insert_with(|| {
                let ids = aside.iter().filter_map(|party| self.engine.party_id(oid, party)).collect();
                (ids, self.key_places(oid))
            });
            let diverted = waiting.matched.divert(|party| parties.contains(&party));
            if !diverted.is_empty() {
                let is_last = self.is_last(waiting, key_places);
                self.put_beside(oid, &diverted, waiting, is_last);
            }
        }
    }

    /// Puts a change into the lanes of parties. Where there is no room it is withheld. `is_last`: whether no later change of
    /// its transaction is about the same key.
    fn put_beside(
        &mut self,
        oid: Oid,
        late: &[(PartyId, SubscriptionKey)],
        waiting: &Waiting,
        is_last: bool,
    ) {
        for of_party in late.chunk_by(|a, b| a.0 == b.0) {
            let Some((id, _)) = of_party.first() else { continue };
            let Some(party) = self.engine.party(oid, *id).map(Arc::clone) else { continue };
            let mut keys: Vec<SubscriptionKey> = of_party.iter().map(|(_, key)| *key).collect();
            keys.sort_unstable();
            let is_full = self.beside.lanes.get(&party).is_some_and(|lane| lane.is_full(waiting.is_late));
            match if is_full { None } else { self.aside.keep(waiting) } {
                Some(kept) => {
                    let known = self.beside.known_list(&party, oid, &keys);
                    let for_whom = known.unwrap_or_else(|| self.aside.for_whom(oid, keys));
                    self.beside.push(&party, LaneRow::new(kept, for_whom, is_last));
                }
                None => {
                    self.troubled.failed(oid, &party, &Failure::full());
                    self.withhold(oid, *id, &keys);
                }
            }
        }
    }

    /// Subscriptions of a party do not get a change, and their channels are told.
    fn withhold(&mut self, oid: Oid, id: PartyId, keys: &[SubscriptionKey]) {
        if keys.is_empty() {
            return;
        }
        if let Some(known) = self.known.get(&oid) {
            known.counters.withheld.add(1);
        }
        let channels = keys.iter().filter_map(|key| self.engine.channel(oid, *key)).collect();
        self.withheld(oid, id, &channels);
    }

    /// Goes on with the lane of a party as far as that is possible now.
    pub(super) async fn advance(&mut self, party: &Arc<Party>) {
        loop {
            let Some(lane) = self.beside.lanes.get(party) else { return };
            if lane.asking.is_some() {
                return;
            }
            let Some(first) = lane.rows().next() else { return self.end_lane(party).await };
            let oid = first.oid();
            if !self.engine.is_settled(oid, party) {
                return;
            }
            let matched = self.match_again(first);
            let is_asked = !matched.guarded().is_empty();
            if is_asked && !self.is_refused(oid, party) && self.send_errand(oid, party) {
                return;
            }
            let Some(row) = self.beside.pop(party) else { return };
            // Whom the database is not asked for sees no more than is certain.
            let sees = Sees { failed: is_asked, ..Sees::default() };
            self.pass_late(party, row, matched, sees).await;
        }
    }

    /// Which subscriptions of its party a change matches by now.
    fn match_again(&self, row: &LaneRow) -> Match {
        let mut all = Match::default();
        for key in row.for_whom.keys() {
            all.join(self.engine.match_one(&row.kept.waiting.change(), *key, now()));
        }
        all.ask_late();
        all
    }

    /// Asks the database about the first rows of a lane. False if there is nothing to be asked.
    fn send_errand(&mut self, oid: Oid, party: &Arc<Party>) -> bool {
        let Some(lane) = self.beside.lanes.get(party) else { return false };
        let Some(table) = self.engine.table(oid).map(Arc::clone) else { return false };
        let (mut images, mut places, mut rows) = (Vec::new(), Vec::new(), 0);
        for (at, row) in lane.head().enumerate() {
            rows = at + 1;
            let matched = self.match_again(row);
            let mut take = |is_old, is_last| {
                images.push(Image { kept: Arc::clone(&row.kept), is_last, is_old });
                places.push((at, is_old));
            };
            if matched.guarded().iter().any(|guarded| !guarded.is_shown) {
                take(false, row.is_last);
            }
            if matched.guarded().iter().any(|guarded| guarded.asks_old)
                && row.kept.waiting.old_image().is_some()
            {
                take(true, false);
            }
        }
        if images.is_empty() {
            return false;
        }
        let known = self.known.get(&oid);
        let (logged, key) = known.map(|known| (known.logged.clone(), known.key.clone())).unwrap_or_default();
        let number = self.beside.number();
        let errand = Errand {
            number,
            party: Arc::clone(party),
            table,
            logged,
            key,
            publication: self.publication.clone(),
            shares_plans: self.shares_plans,
            images,
            policies: Arc::clone(&self.policies),
        };
        if let Some(lane) = self.beside.lanes.get_mut(party) {
            lane.asking = Some(Asking { number, rows, images: places });
        }
        self.beside.send(self.pool.clone(), errand);
        true
    }

    /// Takes what the database says about rows of a lane.
    pub(super) async fn judged_beside(&mut self, party: &Arc<Party>, number: u64, outcome: Outcome) {
        let Some(lane) = self.beside.lanes.get_mut(party) else { return };
        let Some(asking) = lane.asking.take_if(|asking| asking.number == number) else { return };
        let Some(oid) = lane.rows().next().map(LaneRow::oid) else { return };
        let is_stuck = match &outcome {
            Outcome::Told(_, took) => {
                lane.answered(*took);
                false
            }
            Outcome::Held(_) if asking.rows > 1 => {
                lane.asks_fewer(asking.rows);
                false
            }
            Outcome::Held(_) => lane.is_stuck(),
        };
        self.count_asked(oid, asking.images.len());
        match outcome {
            Outcome::Told(verdict, took) => {
                if took >= QUICK {
                    self.beside.was_slow(oid, party);
                }
                self.judged_rows(oid, party, &asking, &verdict).await;
            }
            Outcome::Held(held) if asking.rows == 1 => self.stuck_row(oid, party, held, is_stuck).await,
            Outcome::Held(_) => {}
        }
        self.tell_if_behind(party);
        self.advance(party).await;
    }

    /// The verdict about the first rows of a lane is there.
    async fn judged_rows(&mut self, oid: Oid, party: &Arc<Party>, asking: &Asking, verdict: &Verdict) {
        let failed = verdict.failed.as_ref().map(|(_, rows)| &**rows).unwrap_or_default();
        match &verdict.failed {
            Some((failure, _)) => {
                self.beside.was_slow(oid, party);
                self.troubled.failed(oid, party, failure);
            }
            None => {
                for channel in self.troubled.mended(oid, party) {
                    self.sink.notice(channel, Notice::Subscribed);
                }
            }
        }
        for at in 0..asking.rows {
            let Some(row) = self.beside.pop(party) else { return };
            let is_in = |rows: &[u32], image| {
                let place = asking.images.iter().position(|known| *known == image);
                place.and_then(|place| u32::try_from(place).ok()).is_some_and(|place| rows.contains(&place))
            };
            let sees = Sees {
                new: is_in(&verdict.seen, (at, false)),
                old: is_in(&verdict.seen, (at, true)),
                failed: is_in(failed, (at, false)),
            };
            let matched = self.match_again(&row);
            self.pass_late(party, row, matched, sees).await;
        }
    }

    /// The first row of a lane takes too long by itself. `is_stuck`: so do all.
    async fn stuck_row(&mut self, oid: Oid, party: &Arc<Party>, held: Held, is_stuck: bool) {
        self.beside.was_slow(oid, party);
        self.troubled.failed(oid, party, &held.failure(is_stuck));
        let Some(row) = self.beside.pop(party) else { return };
        let matched = self.match_again(&row);
        self.pass_late(party, row, matched, Sees { failed: true, ..Sees::default() }).await;
    }

    /// Delivers the row that was the first of a lane to those of the party's subscriptions that get it.
    async fn pass_late(&mut self, party: &Arc<Party>, row: LaneRow, mut matched: Match, sees: Sees) {
        let LaneRow { kept, then, .. } = row;
        let oid = kept.waiting.relation.oid;
        let is_seen = |guarded: &&Guarded| sees.new || guarded.is_shown;
        let seen: FxHashSet<SubscriptionKey> =
            matched.guarded().iter().filter(is_seen).map(|guarded| guarded.key).collect();
        let seen_old = matched.guarded().iter().filter(|guarded| sees.old && guarded.asks_old);
        let seen_old: FxHashSet<SubscriptionKey> = seen_old.map(|guarded| guarded.key).collect();
        let hidden = matched.guarded().iter().filter(|guarded| sees.failed && !is_seen(guarded));
        let withheld: Vec<SubscriptionKey> = hidden.map(|guarded| guarded.key).collect();
        if let Some(id) = self.engine.party_id(oid, party) {
            self.withhold(oid, id, &withheld);
        }
        matched.settle(&seen, &seen_old);
        // All changes for its channels have waited with it: it has a place as if it had not waited.
        let mut waiting = kept.waiting.again();
        drop(kept);
        if !matched.is_empty() {
            waiting.matched = matched;
            self.pass_on(waiting).await;
        }
        if !then.is_empty() {
            self.flush_judged().await;
            self.release(then, true);
        }
    }

    /// A lane is empty: its channels get what comes at once again.
    async fn end_lane(&mut self, party: &Arc<Party>) {
        let told = self.beside.lanes.remove(party).map(|lane| lane.told).unwrap_or_default();
        if !told.is_empty() {
            self.flush_judged().await;
        }
        for channel in told {
            self.sink.notice(channel, Notice::Subscribed);
        }
    }

    /// Tells a channel something behind the changes that wait for it, or at once if none does.
    pub(super) fn tell_in_order(&mut self, channel: ChannelId, what: What) {
        let behind = Arc::new(Behind { channel, what });
        let is_its = |oid, key| self.engine.channel(oid, key) == Some(channel);
        let own = self.watchers.get(&channel).map(|watcher| &*watcher.attached).unwrap_or_default();
        for last in self.beside.lanes.values_mut().filter_map(|lane| lane.last_for(own)) {
            last.then.push(Arc::clone(&behind));
        }
        self.aside.put_behind(&behind, is_its);
        self.release(vec![behind], true);
    }

    /// Changes before these have gone: what nothing else holds back is told. `is_whole`: whether they were delivered.
    pub(super) fn release(&self, then: Vec<Arc<Behind>>, is_whole: bool) {
        for Behind { channel, what } in then.into_iter().filter_map(Arc::into_inner) {
            match what {
                What::Notice(notice) => self.sink.notice(channel, notice),
                What::CaughtUp(position) => {
                    if is_whole {
                        self.sink.position(channel, position);
                    }
                    self.sink.notice(channel, Notice::CaughtUp);
                }
            }
        }
    }

    /// The channels for which so much waits that they are not to be brought more of what they have missed.
    pub(super) fn far_behind(&self) -> FxHashSet<ChannelId> {
        self.channels_of(self.beside.lanes.values().filter(|lane| lane.is_long()))
    }

    /// The channels whose changes wait in lanes.
    pub(super) fn waiting_in_lanes(&self) -> FxHashSet<ChannelId> {
        self.channels_of(self.beside.lanes.values())
    }

    fn channels_of<'a>(&self, lanes: impl Iterator<Item = &'a Lane>) -> FxHashSet<ChannelId> {
        let names = lanes.flat_map(Lane::lists).flat_map(ForWhom::names);
        names.filter_map(|(oid, key)| self.engine.channel(oid, key)).collect()
    }

    /// Rows of a table, or of all, that waited are not delivered, and that is told.
    pub(super) fn clear_beside(&mut self, of: Option<Oid>) {
        self.judging.slow.forget(of);
        let gone = self.beside.forget(of);
        let mut lists: Vec<&Arc<ForWhom>> = gone.iter().map(|row| &row.for_whom).collect();
        lists.sort_unstable_by_key(|list| Arc::as_ptr(list));
        lists.dedup_by_key(|list| Arc::as_ptr(list));
        let names = lists.into_iter().flat_map(|list| list.names());
        let channels: BTreeSet<ChannelId> =
            names.filter_map(|(oid, key)| self.engine.channel(oid, key)).collect();
        for channel in channels {
            self.sink.notice(channel, Notice::gap("RlsPolicyError", NOT_DELIVERED));
        }
        for row in gone {
            self.release(row.then, false);
        }
    }

    /// Subscriptions of a channel end. Whether it goes on with others: then it is told if changes waited for these.
    pub(super) fn leave_lanes(&mut self, channel: ChannelId, keys: &[(Oid, SubscriptionKey)], goes_on: bool) {
        let mut waited = self.beside.leaves(channel, keys);
        for (oid, key) in keys {
            let (rows, then) = self.aside.forget(*oid, *key);
            waited |= rows;
            self.release(then, false);
        }
        if waited && goes_on {
            self.sink.notice(channel, Notice::gap("RlsPolicyError", NOT_DELIVERED));
        }
    }
}
