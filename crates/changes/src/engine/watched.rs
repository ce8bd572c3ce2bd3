//! A table and who watches it.

mod finding;
mod sample;

use std::{collections::HashMap, sync::Arc};

use realtime_pgoutput::message::{OldTuple, Relation, UnixMicros, Value};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    among::Among,
    attachment::{Attachment, ChannelId, SubscriptionKey},
    by_party::ByParty,
    judges::{Judged, Judges, Sees},
    matched::{Asked, Match, Matched, View},
    party::{Parties, Party, PartyId},
};
use crate::{
    Cell, Table,
    change::{Action, Change},
    payload::{Mapping, OldImage, Shape},
    predicate::{IndexKeys, Keying, Outcome},
    row::{Operand, Row},
};

pub use sample::Sample;

/// A table and who watches it.
#[derive(Debug)]
pub(super) struct Watched {
    view: Arc<View>,
    attachments: FxHashMap<SubscriptionKey, Held>,
    /// By what conditions look at and the key of the wanted value. Clients choose paths into documents: the hash must not
    /// be theirs to foresee.
    index: HashMap<Operand, OperandIndex>,
    /// Those that the index cannot find.
    residual: FxHashSet<SubscriptionKey>,
    /// The same, where row-level security decides.
    guarded: ByParty,
    /// Those whose role may not read the primary key.
    unauthorized: FxHashSet<SubscriptionKey>,
    /// How many subscriptions have each shape of the view.
    shape_uses: Vec<usize>,
    pub(super) parties: Parties,
    pub(super) judges: Judges,
    /// Where the log has the columns that policies read, by index of the table's columns. Told apart by their numbers:
    /// names may have changed hands since.
    places: Box<[Option<usize>]>,
    /// Whether the key of a deleted row that cannot be judged goes to nobody for whom row-level security decides.
    drops_unjudged: bool,
    /// Which of the times it is that a table was made known.
    version: u64,
}

#[derive(Debug)]
struct OperandIndex {
    keying: Keying,
    /// Keyed by what clients chose: the hash must not be theirs to foresee.
    keys: HashMap<Vec<u8>, Vec<SubscriptionKey>>,
}

#[derive(Debug)]
struct Held {
    attachment: Attachment,
    /// Its place among the shapes of the view.
    shape: usize,
    /// Whether the role may read the primary key.
    reads_key: bool,
    /// Whether the role may read any column.
    reads_any: bool,
    party: PartyId,
    /// Who judges what it sees; `None`: row-level security does not decide.
    judge: Option<usize>,
    /// Whether the index has it under values of several operands: a row may find it more than once.
    is_spread: bool,
}

/// A change that is looked at, and what was found out so far.
struct Looked<'a, 'c> {
    change: &'a Change<'c>,
    now: UnixMicros,
    judged: Judged,
    found: Match,
    /// Subscriptions that were considered, of those that the index may find more than once.
    met: FxHashSet<SubscriptionKey>,
    /// Whose subscriptions are considered at all.
    among: Option<Among<'a>>,
}

impl Watched {
    pub(super) fn new(table: Arc<Table>, relation: &Relation, places: Option<Box<[Option<usize>]>>) -> Self {
        let mapping = Mapping::new(&table, relation);
        let by_name = || (0..table.columns.len()).map(|column| mapping.in_tuple(column)).collect();
        Self {
            places: places.unwrap_or_else(by_name),
            view: Arc::new(View { mapping: Arc::new(mapping), table, shapes: Vec::new() }),
            attachments: FxHashMap::default(),
            index: HashMap::new(),
            residual: FxHashSet::default(),
            guarded: ByParty::default(),
            unauthorized: FxHashSet::default(),
            shape_uses: Vec::new(),
            parties: Parties::default(),
            judges: Judges::default(),
            drops_unjudged: false,
            version: 0,
        }
    }

    /// Whether the key of a deleted row that cannot be judged goes to nobody for whom row-level security decides.
    pub(super) fn drop_unjudged(&mut self, drop: bool) {
        self.drops_unjudged = drop;
    }

    pub(super) fn is_version(&mut self, version: u64) {
        self.version = version;
    }

    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.view.table
    }

    pub(super) fn is_watched(&self) -> bool {
        !self.attachments.is_empty()
    }

    pub(super) fn channel(&self, key: SubscriptionKey) -> Option<ChannelId> {
        Some(self.attachments.get(&key)?.attachment.channel)
    }

    pub(super) fn subscription(&self, key: SubscriptionKey) -> Option<(ChannelId, u32)> {
        let attachment = &self.attachments.get(&key)?.attachment;
        Some((attachment.channel, attachment.id))
    }

    pub(super) fn party(&self, id: PartyId) -> Option<&Arc<Party>> {
        self.parties.get(id)
    }

    pub(super) fn party_id(&self, party: &Party) -> Option<PartyId> {
        self.parties.id(party)
    }

    pub(super) fn judges(&self) -> &Judges {
        &self.judges
    }

    pub(super) fn judges_mut(&mut self) -> &mut Judges {
        &mut self.judges
    }

    pub(super) fn attach(&mut self, key: SubscriptionKey, attachment: Attachment) {
        let (shape, reads_any) = self.enter_shape(&attachment);
        let reads_key = attachment.access.reads_key(&self.view.table);
        let access = &attachment.access;
        let party =
            self.parties.enter(Party { role: access.role.clone(), claims: Arc::clone(&attachment.claims) });
        let is_guarded = self.view.table.asks() && !access.bypasses_rls;
        let judge = is_guarded.then(|| self.judges.enter(&access.role, party));
        if !reads_key {
            self.unauthorized.insert(key);
        }
        let is_spread = match attachment.predicate.index_keys() {
            Some(ways) => {
                for wanted in &ways {
                    let new = || OperandIndex { keying: wanted.keying, keys: HashMap::new() };
                    let index = self.index.entry(wanted.operand.clone()).or_insert_with(new);
                    for value in &wanted.keys {
                        let keys = index.keys.entry(value.to_vec()).or_default();
                        // Two conditions may want the same value.
                        if keys.last() != Some(&key) {
                            keys.push(key);
                        }
                    }
                }
                ways.iter().any(|wanted| Some(wanted.operand) != ways.first().map(|first| first.operand))
            }
            None if is_guarded => {
                self.guarded.insert(party, key);
                false
            }
            None => {
                self.residual.insert(key);
                false
            }
        };
        self.attachments
            .insert(key, Held { attachment, shape, reads_key, reads_any, party, judge, is_spread });
    }

    pub(super) fn detach(&mut self, key: SubscriptionKey) {
        let Some(held) = self.attachments.remove(&key) else { return };
        self.residual.remove(&key);
        self.guarded.remove(held.party, key);
        self.unauthorized.remove(&key);
        if let Some(judge) = held.judge {
            self.judges.leave(judge, held.party);
        }
        for wanted in held.attachment.predicate.index_keys().into_iter().flatten() {
            self.leave_index(key, &wanted);
        }
        self.parties.leave(held.party);
        self.leave_shape(held.shape);
    }

    fn leave_index(&mut self, key: SubscriptionKey, wanted: &IndexKeys<'_>) {
        let Some(index) = self.index.get_mut(wanted.operand) else { return };
        for value in &wanted.keys {
            if let Some(keys) = index.keys.get_mut(*value) {
                keys.retain(|known| *known != key);
                if keys.is_empty() {
                    index.keys.remove(*value);
                }
            }
        }
        if index.keys.is_empty() {
            self.index.remove(wanted.operand);
        }
    }

    /// Counts one more subscription of the columns that the role may see, cut to what was selected; the primary key
    /// always stays. The place of the shape, and whether it has a column.
    fn enter_shape(&mut self, attachment: &Attachment) -> (usize, bool) {
        let (table, access) = (&self.view.table, &attachment.access);
        let visible: Vec<bool> = (0..table.columns.len())
            .map(|column| {
                let selected = attachment.select.as_ref().is_none_or(|select| select.contains(&column));
                access.reads(column) && (selected || table.primary_key.contains(&column))
            })
            .collect();
        let reads_any = visible.contains(&true);
        let is_same =
            |shape: &Option<Arc<Shape>>| shape.as_ref().is_some_and(|shape| shape.visible == visible);
        let known = self.view.shapes.iter().position(is_same);
        let at = known.unwrap_or_else(|| {
            let shape = Some(Arc::new(Shape::new(&self.view.table, visible)));
            // Matches that are still to be rendered keep the view as it was.
            let view = Arc::make_mut(&mut self.view);
            match view.shapes.iter().position(Option::is_none) {
                Some(free) => {
                    if let Some(slot) = view.shapes.get_mut(free) {
                        *slot = shape;
                    }
                    free
                }
                None => {
                    view.shapes.push(shape);
                    self.shape_uses.push(0);
                    view.shapes.len() - 1
                }
            }
        });
        if let Some(uses) = self.shape_uses.get_mut(at) {
            *uses += 1;
        }
        (at, reads_any)
    }

    /// Counts one less.
    fn leave_shape(&mut self, at: usize) {
        let Some(uses) = self.shape_uses.get_mut(at) else { return };
        *uses -= 1;
        if *uses == 0
            && let Some(slot) = Arc::make_mut(&mut self.view).shapes.get_mut(at)
        {
            *slot = None;
        }
    }

    /// What a subscription is in a match.
    fn matched(key: SubscriptionKey, held: &Held, guard: Option<PartyId>, old: OldImage) -> Matched {
        let Attachment { channel, id, .. } = held.attachment;
        let (shape, party) = (held.shape, held.party);
        Matched { key, channel, id, shape, party, guard, is_shown: false, is_late: false, old }
    }

    pub(super) fn match_one(&self, change: &Change<'_>, key: SubscriptionKey, now: UnixMicros) -> Match {
        let mut looked = self.look(change, now);
        if let Some(held) = self.attachments.get(&key)
            && let Some(matched) = self.decide(key, held, &mut looked)
        {
            looked.found.add(matched);
        }
        looked.found
    }

    pub(super) fn match_row(&self, change: &Change<'_>, now: UnixMicros, among: Option<Among<'_>>) -> Match {
        let mut looked = Looked { among, ..self.look(change, now) };
        let cell = |column: usize| self.cell(change, column);
        let row = Row::new(&cell);
        if change.action != Action::Delete {
            self.refuse(&mut looked);
            if self.view.table.primary_key.is_empty() {
                return looked.found;
            }
        }
        self.find(change, &row, &mut looked);
        let Looked { judged, mut found, .. } = looked;
        found.needs = self.judges.needs(judged);
        found.sort();
        found
    }

    fn look<'a, 'c>(&self, change: &'a Change<'c>, now: UnixMicros) -> Looked<'a, 'c> {
        // The row is not judged by a clock that is behind the one of its commit.
        let now = UnixMicros(now.0.max(change.commit_time.0));
        Looked {
            change,
            now,
            judged: Judged::default(),
            found: Match::new(&self.view),
            met: FxHashSet::default(),
            among: None,
        }
    }

    /// A value of the image that filters see.
    fn cell<'a>(&self, change: &Change<'a>, column: usize) -> Cell<'a> {
        self.view.mapping.in_tuple(column).map_or(Cell::Missing, |at| change.cell(at))
    }

    /// A value of an image as policies see it.
    fn judged_cell<'a>(&self, image: &'a [Value], column: usize) -> Cell<'a> {
        self.places.get(column).copied().flatten().map_or(Cell::Missing, |at| Cell::of(image.get(at)))
    }

    /// A value of the new image as policies see it. What the update left alone is that of the old image, where the log
    /// has all of it.
    pub(super) fn new_cell<'a>(&self, change: &Change<'a>, column: usize) -> Cell<'a> {
        let Some(new) = change.new else { return Cell::Missing };
        match (self.judged_cell(new, column), change.old) {
            (Cell::Missing, Some(OldTuple::Full(old))) => self.judged_cell(old, column),
            (cell, _) => cell,
        }
    }

    /// Takes a subscription into the match if the change is its.
    fn consider<'r>(&'r self, key: SubscriptionKey, row: &'r Row<'r>, looked: &mut Looked<'_, '_>) {
        let Some(held) = self.attachments.get(&key) else { return };
        looked.found.considered += 1;
        if held.is_spread && !looked.met.insert(key) {
            return;
        }
        let is_meant = |among: Among<'_>| (among.takes)(held.attachment.channel, held.attachment.id);
        if looked.among.is_some_and(|among| !is_meant(among)) {
            return;
        }
        let change = looked.change;
        // A role that can read no column receives nothing (spec README, decision 6).
        let readable = if change.action == Action::Delete { held.reads_any } else { held.reads_key };
        if !readable || !change.action.wanted_by(held.attachment.event) {
            return;
        }
        // The filter comes first: of a row that it leaves out nothing has to be asked for the policies.
        let outcome = held.attachment.predicate.evaluate(row);
        if matches!(outcome, Outcome::Fails) {
            return;
        }
        let Some(matched) = self.decide(key, held, looked) else { return };
        match outcome {
            Outcome::Holds => looked.found.add(matched),
            Outcome::Fails => {}
            Outcome::Depends(questions) => {
                let access = Arc::clone(&held.attachment.access);
                looked.found.asked.push(Asked { key, questions, access, matched });
            }
        }
    }

    /// Whether row-level security lets a subscription have a change, as far as that is decided here, and what it gets
    /// of the old row (row_security 1, 3).
    fn decide(&self, key: SubscriptionKey, held: &Held, looked: &mut Looked<'_, '_>) -> Option<Matched> {
        let change = looked.change;
        let is_full = matches!(change.old, Some(OldTuple::Full(_)));
        if change.action == Action::Delete && !is_full && self.view.table.row_security {
            if self.drops_unjudged && held.judge.is_some() {
                return None;
            }
            return Some(Self::matched(key, held, None, OldImage::Key));
        }
        let Some(judge) = held.judge else { return Some(Self::matched(key, held, None, OldImage::Whole)) };
        let sees_old = |looked: &mut Looked<'_, '_>| match change.old {
            Some(OldTuple::Full(old)) => {
                let row = |column| self.judged_cell(old, column);
                self.judges.judge(judge, held.party, &row, looked.now, &mut looked.judged)
            }
            // A key alone cannot be judged.
            _ => Sees::Shown,
        };
        if change.action == Action::Delete {
            let sees = sees_old(looked);
            looked.found.judged += u64::from(matches!(sees, Sees::Shown | Sees::Hidden));
            let guard = sees.guard(held.party)?;
            let is_late = sees == Sees::Late;
            return Some(Matched { is_late, ..Self::matched(key, held, guard, OldImage::Whole) });
        }
        let row = |column| self.new_cell(change, column);
        let sees = self.judges.judge(judge, held.party, &row, looked.now, &mut looked.judged);
        looked.found.judged += u64::from(matches!(sees, Sees::Shown | Sees::Hidden));
        let guard = sees.guard(held.party)?;
        let old = match sees_old(looked) {
            Sees::Shown => OldImage::Whole,
            Sees::Open => OldImage::Open,
            Sees::Late | Sees::Hidden => OldImage::Hidden,
        };
        let mut matched = Matched { is_late: sees == Sees::Late, ..Self::matched(key, held, guard, old) };
        if guard.is_none() && old == OldImage::Open {
            (matched.guard, matched.is_shown) = (Some(held.party), true);
        }
        Some(matched)
    }
}

#[cfg(test)]
mod tests;
