//! Subscriptions by table, and the changes that match them.
//!
//! Conditions of equality go through a hash index: a row costs what matches it, not what subscribes.

mod among;
mod attachment;
mod by_party;
mod judges;
mod matched;
mod onlookers;
mod party;
mod sizes;
mod watched;

use std::sync::Arc;

pub use among::Among;
pub use attachment::{Attachment, ChannelId, SubscriptionKey};
use judges::Judges;
pub use judges::{Answered, CallNeed, Lack};
pub use matched::{Asked, Delivery, Guarded, Match, Recipient};
pub use onlookers::{Concern, Verdict};
pub use party::{Party, PartyId};
use realtime_pgoutput::{
    Oid,
    message::{Relation, UnixMicros},
};
use rustc_hash::{FxHashMap, FxHashSet};
use sizes::Sizes;
pub use watched::Sample;
use watched::Watched;

use crate::{
    Table, Truth,
    change::Change,
    policy::{Answer, CallKey, Compiled, Values},
};

/// The table is not known to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Unknown table")]
pub struct UnknownTable;

/// Subscriptions by table.
#[derive(Debug, Default)]
pub struct Engine {
    tables: FxHashMap<Oid, Watched>,
    /// What the answers of parties take.
    sizes: Sizes,
    /// The tables that policies read, and whose policies.
    readers: FxHashMap<Oid, FxHashSet<Oid>>,
    next_key: u64,
    /// How often a table was made known.
    next_version: u64,
    /// How many transactions have begun to pass.
    transaction: u64,
    drops_unjudged: bool,
}

impl Engine {
    /// An engine that sends the keys of deleted rows that cannot be judged to nobody for whom row-level security decides.
    #[must_use]
    pub fn dropping_unjudged(drop: bool) -> Self {
        Self { drops_unjudged: drop, ..Self::default() }
    }

    /// Makes a table known, or known anew: whatever was attached to it is gone and has to be attached again.
    pub fn put_table(&mut self, table: Arc<Table>, relation: &Relation) {
        self.put(Watched::new(table, relation, None));
    }

    fn put(&mut self, mut watched: Watched) {
        watched.drop_unjudged(self.drops_unjudged);
        self.next_version += 1;
        watched.is_version(self.next_version);
        let oid = watched.table().oid;
        self.reads_nothing(oid);
        self.sizes.touch(oid);
        self.tables.insert(oid, watched);
    }

    /// The same where it is known which columns the log has: for each column of the table its place in the log's rows.
    /// Policies go by that; without it they go by names, which may have changed hands since the log was written.
    pub fn put_table_with_places(
        &mut self,
        table: Arc<Table>,
        relation: &Relation,
        places: Box<[Option<usize>]>,
    ) {
        self.put(Watched::new(table, relation, Some(places)));
    }

    /// Forgets a table and whatever was attached to it. Idempotent.
    pub fn forget_table(&mut self, oid: Oid) {
        self.reads_nothing(oid);
        self.sizes.touch(oid);
        self.tables.remove(&oid);
    }

    /// The policies of a table have to be compiled again: what they read is not known.
    fn reads_nothing(&mut self, oid: Oid) {
        self.readers.retain(|_, readers| {
            readers.remove(&oid);
            !readers.is_empty()
        });
    }

    /// Forgets all tables.
    pub fn clear(&mut self) {
        self.tables.keys().for_each(|oid| self.sizes.touch(*oid));
        self.tables.clear();
        self.readers.clear();
    }

    /// The table as it was last made known.
    #[must_use]
    pub fn table(&self, oid: Oid) -> Option<&Arc<Table>> {
        self.tables.get(&oid).map(Watched::table)
    }

    /// Whether a subscription is attached to a table.
    #[must_use]
    pub fn is_watched(&self, oid: Oid) -> bool {
        self.tables.get(&oid).is_some_and(Watched::is_watched)
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
            self.sizes.touch(oid);
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

    /// Which subscriptions a change matches, and what has to be asked or looked at for them. `now`: the clock that
    /// policies read.
    #[must_use]
    pub fn match_row(&self, change: &Change<'_>, now: UnixMicros) -> Match {
        self.tables
            .get(&change.relation.oid)
            .map(|watched| watched.match_row(change, now, None))
            .unwrap_or_default()
    }

    /// The same of some subscriptions. It costs no more than these, and no more than those that the change leads to.
    #[must_use]
    pub fn match_among(&self, change: &Change<'_>, now: UnixMicros, among: Among<'_>) -> Match {
        self.tables
            .get(&change.relation.oid)
            .map(|watched| watched.match_row(change, now, Some(among)))
            .unwrap_or_default()
    }

    /// A match of one subscription whose condition holds, as was found out elsewhere.
    #[must_use]
    pub fn match_one(&self, change: &Change<'_>, key: SubscriptionKey, now: UnixMicros) -> Match {
        self.tables
            .get(&change.relation.oid)
            .map(|watched| watched.match_one(change, key, now))
            .unwrap_or_default()
    }

    /// A verdict of compiled policies about a change, for one of the parties that watch its table. `dice`: a random
    /// number, which chooses. `None` if that is not decided here.
    #[must_use]
    pub fn sample(&self, change: &Change<'_>, now: UnixMicros, dice: u64) -> Option<Sample> {
        self.tables.get(&change.relation.oid)?.sample(change, now, dice)
    }

    /// A party of a table.
    #[must_use]
    pub fn party(&self, oid: Oid, id: PartyId) -> Option<&Arc<Party>> {
        self.tables.get(&oid)?.party(id)
    }

    /// The number of a party among those of a table, if it watches it.
    #[must_use]
    pub fn party_id(&self, oid: Oid, party: &Party) -> Option<PartyId> {
        self.tables.get(&oid)?.party_id(party)
    }

    /// Whether the rows of a table can be judged, as far as they are judged here.
    #[must_use]
    pub fn is_ready(&self, oid: Oid) -> bool {
        self.tables.get(&oid).is_none_or(|watched| watched.judges().are_ready())
    }

    /// What the policies of a table need before they can judge its rows, by role.
    #[must_use]
    pub fn lacks(&self, oid: Oid) -> Vec<(Box<str>, Lack)> {
        self.tables.get(&oid).map(|watched| watched.judges().lacks()).unwrap_or_default()
    }

    /// The compiled policies of a table that decide for a role.
    #[must_use]
    pub fn policies(&self, oid: Oid, role: &str) -> Option<&Arc<Compiled>> {
        self.tables.get(&oid)?.judges().policies(role)
    }

    /// Takes the policies of a table that decide for a role. `None`: the database is asked about every row. `fleeting`: the
    /// places of the terms whose answers are good for a batch of rows only.
    pub fn put_policies(
        &mut self,
        oid: Oid,
        role: &str,
        policies: Option<Arc<Compiled>>,
        fleeting: impl IntoIterator<Item = usize>,
    ) {
        let reads = policies.iter().flat_map(|policies| policies.reads());
        for table in reads {
            self.readers.entry(table).or_default().insert(oid);
        }
        if let Some(judges) = self.judges_mut(oid) {
            judges.put(role, policies, fleeting);
        }
    }

    /// All policies have to be compiled again.
    pub fn forget_policies(&mut self) {
        self.readers.clear();
        for (oid, watched) in &mut self.tables {
            self.sizes.touch(*oid);
            watched.judges_mut().forget();
        }
    }

    /// A party of a table has to be asked for its values again.
    pub fn ask_anew(&mut self, oid: Oid, party: &Party) {
        if let Some(watched) = self.tables.get_mut(&oid)
            && let Some(id) = watched.party_id(party)
        {
            watched.judges_mut().ask_anew(id);
        }
    }

    /// A party is asked beside the stream, by a question of this number: rows wait for its answer.
    pub fn ask_beside(&mut self, oid: Oid, role: &str, party: PartyId, question: u64) {
        if let Some(watched) = self.tables.get_mut(&oid) {
            watched.judges_mut().ask_beside(role, party, question);
        }
    }

    /// A party has answered such a question. What became of that.
    pub fn answered(&mut self, oid: Oid, role: &str, party: PartyId, question: u64) -> Answered {
        let watched = self.tables.get_mut(&oid);
        watched.map_or(Answered::Forgotten, |watched| watched.judges_mut().answered(role, party, question))
    }

    /// Whether no more is to be asked of a party of a table before rows are judged for it, as far as is known.
    #[must_use]
    pub fn is_settled(&self, oid: Oid, party: &Party) -> bool {
        let Some(watched) = self.tables.get(&oid) else { return true };
        watched.party_id(party).is_none_or(|id| watched.judges().are_settled(id))
    }

    /// Whether rows of a table are judged by answers that are good for a batch only: see [`begin_batch`](Self::begin_batch).
    #[must_use]
    pub fn is_fleeting(&self, oid: Oid) -> bool {
        self.tables.get(&oid).is_some_and(|watched| watched.judges().are_fleeting())
    }

    /// A batch of changes of a table begins: whom one of them may concern has to be asked for what is fleeting. Outside of
    /// batches the database is asked about such rows.
    pub fn begin_batch<'a>(&mut self, oid: Oid, changes: impl Iterator<Item = Change<'a>>) {
        let Some(watched) = self.tables.get_mut(&oid) else { return };
        let mut parties = FxHashSet::default();
        watched.unfiltered(&mut parties);
        for change in changes {
            watched.filtered(&change, &mut parties);
        }
        watched.judges_mut().begin_batch(&parties);
    }

    /// A batch of changes of a table ends.
    pub fn end_batch(&mut self, oid: Oid) {
        if let Some(watched) = self.tables.get_mut(&oid) {
            watched.judges_mut().end_batch();
        }
    }

    /// Whether rows of a table are judged by answers that the rest of the transaction may make old: then the end of the
    /// transaction has to be waited for, or the answers have to be [renewed](Self::renew).
    #[must_use]
    pub fn may_grow_old(&self, oid: Oid) -> bool {
        self.tables.get(&oid).is_some_and(|watched| watched.judges().may_grow_old(self.transaction))
    }

    /// What the policies of a table read elsewhere is out of date: what is asked from now on has seen the transaction that
    /// passes.
    pub fn renew(&mut self, oid: Oid) {
        if let Some(watched) = self.tables.get_mut(&oid) {
            self.sizes.touch(oid);
            watched.judges_mut().grow_old(self.transaction);
        }
    }

    /// A transaction begins to pass. Whoever is asked from now on has seen all of it.
    pub fn begin(&mut self) {
        self.transaction += 1;
    }

    /// Takes the values of parties of a role that came.
    pub fn put_values(&mut self, oid: Oid, role: &str, values: impl IntoIterator<Item = (PartyId, Values)>) {
        if let Some(judges) = self.judges_mut(oid) {
            judges.put_values(role, values);
        }
    }

    /// Takes new answers to some terms, by their places, of the parties that a [`Lack::Renewal`] named.
    pub fn renew_values(
        &mut self,
        oid: Oid,
        role: &str,
        terms: &[usize],
        answers: &[(PartyId, Vec<(usize, Answer)>)],
    ) {
        let transaction = self.transaction;
        if let Some(judges) = self.judges_mut(oid) {
            judges.renew(role, terms, answers, Some(transaction));
        }
    }

    /// The same for a party that was asked beside the stream: what has passed since may not be in its answers.
    pub fn renew_late(&mut self, oid: Oid, role: &str, party: PartyId, answers: Vec<(usize, Answer)>) {
        let terms: Vec<usize> = answers.iter().map(|(term, _)| *term).collect();
        if let Some(judges) = self.judges_mut(oid) {
            judges.renew(role, &terms, &[(party, answers)], None);
        }
    }

    /// Whether all policies are compiled that decide for somebody, as far as they can be.
    #[must_use]
    pub fn is_compiled(&self) -> bool {
        self.tables.values().all(|watched| watched.judges().are_compiled())
    }

    /// Whether policies read a table.
    #[must_use]
    pub fn is_read(&self, table: Oid) -> bool {
        self.readers.contains_key(&table)
    }

    /// All of a table has changed: what policies read in it is out of date.
    pub fn changed(&mut self, table: Oid) {
        let Some(readers) = self.readers.get(&table) else { return };
        for oid in readers {
            if let Some(watched) = self.tables.get_mut(oid) {
                self.sizes.touch(*oid);
                watched.judges_mut().changed(table, self.transaction);
            }
        }
    }

    /// A row of a table has changed: what policies read in it is out of date, for those whom the row concerns.
    pub fn changed_row(&mut self, change: &Change<'_>) {
        let Some(readers) = self.readers.get(&change.relation.oid) else { return };
        for oid in readers {
            if let Some(watched) = self.tables.get_mut(oid) {
                self.sizes.touch(*oid);
                watched.judges_mut().changed_row(change, self.transaction);
            }
        }
    }

    /// Takes the answers to a call, in the order of its parties; `None` where it failed.
    pub fn answer(&mut self, oid: Oid, need: &CallNeed, answers: &[Option<Truth>]) {
        if let Some(judges) = self.judges_mut(oid) {
            judges.answer(need, answers);
        }
    }

    /// What a row behind another needs of the same call, if it is one that is new or updated and its values are `wanted`: it
    /// is not looked whether its policies come to that. `None`: nothing.
    #[must_use]
    pub fn alike(
        &self,
        need: &CallNeed,
        change: &Change<'_>,
        is_wanted: impl FnOnce(&CallKey) -> bool,
    ) -> Option<CallNeed> {
        let watched = self.tables.get(&change.relation.oid).filter(|_| change.new.is_some())?;
        watched.judges().alike(need, &|column| watched.new_cell(change, column), is_wanted)
    }

    /// Those of a need's parties who have to be asked, by what the bounds of the call were answered: see
    /// [`Sight::narrowed`](crate::policy::Sight::narrowed).
    #[must_use]
    pub fn narrowed(
        &self,
        oid: Oid,
        need: &CallNeed,
        rows: &[(usize, String)],
        is_fit: impl Fn(PartyId) -> bool,
    ) -> Option<(CallNeed, PartyId)> {
        self.tables.get(&oid)?.judges().narrowed(need, rows, is_fit)
    }

    /// About how many bytes the answers take that parties were asked for.
    #[must_use]
    pub fn policy_bytes(&mut self) -> usize {
        let size = |oid| self.tables.get(&oid).map_or(0, |watched: &Watched| watched.judges().size());
        self.sizes.total(size)
    }

    /// The judges of a table, whose answers are about to change.
    fn judges_mut(&mut self, oid: Oid) -> Option<&mut Judges> {
        let watched = self.tables.get_mut(&oid)?;
        self.sizes.touch(oid);
        Some(watched.judges_mut())
    }

    /// Forgets the answers to the calls of all policies: they are asked again as they are needed.
    pub fn forget_calls(&mut self) {
        for (oid, watched) in &mut self.tables {
            self.sizes.touch(*oid);
            watched.judges_mut().forget_calls();
        }
    }
}
