//! A table and who watches it.

use std::{collections::HashMap, sync::Arc};

use realtime_pgoutput::message::Relation;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    attachment::{Attachment, ChannelId, SubscriptionKey},
    matched::{Asked, Match, Matched, View},
    party::{Parties, Party, PartyId},
};
use crate::{
    Cell, Table,
    change::{Action, Change},
    payload::{Mapping, Shape},
    predicate::{IndexKeys, Keying, Outcome},
    row::{Operand, Row},
};

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
    /// Those whose role may not read the primary key.
    unauthorized: FxHashSet<SubscriptionKey>,
    /// How many subscriptions have each shape of the view.
    shape_uses: Vec<usize>,
    parties: Parties,
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
    /// Whether the index has it under values of several operands: a row may find it more than once.
    is_spread: bool,
}

impl Watched {
    pub(super) fn new(table: Arc<Table>, relation: &Relation) -> Self {
        Self {
            view: Arc::new(View {
                mapping: Arc::new(Mapping::new(&table, relation)),
                table,
                shapes: Vec::new(),
            }),
            attachments: FxHashMap::default(),
            index: HashMap::new(),
            residual: FxHashSet::default(),
            unauthorized: FxHashSet::default(),
            shape_uses: Vec::new(),
            parties: Parties::default(),
        }
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.view.table
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

    /// Whether a subscription may get a change only after a look at what row-level security shows it.
    fn is_guarded(&self, action: Action, attachment: &Attachment) -> bool {
        self.view.table.asks() && !attachment.access.bypasses_rls && action != Action::Delete
    }

    pub(super) fn attach(&mut self, key: SubscriptionKey, attachment: Attachment) {
        let (shape, reads_any) = self.enter_shape(&attachment);
        let reads_key = attachment.access.reads_key(&self.view.table);
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
            None => {
                self.residual.insert(key);
                false
            }
        };
        let party = self
            .parties
            .enter(Party { role: attachment.access.role.clone(), claims: Arc::clone(&attachment.claims) });
        self.attachments.insert(key, Held { attachment, shape, reads_key, reads_any, party, is_spread });
    }

    pub(super) fn detach(&mut self, key: SubscriptionKey) {
        let Some(held) = self.attachments.remove(&key) else { return };
        self.residual.remove(&key);
        self.unauthorized.remove(&key);
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
    fn matched(&self, action: Action, key: SubscriptionKey, held: &Held) -> Matched {
        let Attachment { channel, id, .. } = held.attachment;
        let guard = self.is_guarded(action, &held.attachment).then_some(held.party);
        Matched { key, channel, id, shape: held.shape, guard }
    }

    pub(super) fn match_one(&self, change: &Change<'_>, key: SubscriptionKey) -> Match {
        let mut found = Match::new(&self.view);
        if let Some(held) = self.attachments.get(&key) {
            found.add(self.matched(change.action, key, held));
        }
        found
    }

    pub(super) fn match_row(&self, change: &Change<'_>) -> Match {
        let mut found = Match::new(&self.view);
        let mapping = &self.view.mapping;
        let cell = |column: usize| mapping.in_tuple(column).map_or(Cell::Missing, |at| change.cell(at));
        let row = Row::new(&cell);
        let row_change = change.action != Action::Delete;
        if row_change {
            self.refuse(change, &mut found);
            if self.view.table.primary_key.is_empty() {
                return found;
            }
        }
        let mut met = FxHashSet::default();
        let mut consider = |key: &SubscriptionKey| {
            let Some(held) = self.attachments.get(key) else { return };
            if held.is_spread && !met.insert(*key) {
                return;
            }
            // A role that can read no column receives nothing (spec README, decision 6).
            let readable = if row_change { held.reads_key } else { held.reads_any };
            if !readable || !change.action.wanted_by(held.attachment.event) {
                return;
            }
            let matched = || self.matched(change.action, *key, held);
            match held.attachment.predicate.evaluate(&row) {
                Outcome::Holds => found.add(matched()),
                Outcome::Fails => {}
                Outcome::Depends(questions) => {
                    let access = Arc::clone(&held.attachment.access);
                    found.asked.push(Asked { key: *key, questions, access, matched: matched() });
                }
            }
        };
        self.residual.iter().for_each(&mut consider);
        for (operand, index) in &self.index {
            let got = row.take(operand);
            let Some(text) = got.text() else { continue };
            if let Some(keys) = index.keying.key(text).and_then(|value| index.keys.get(&*value)) {
                keys.iter().for_each(&mut consider);
            }
        }
        found.sort();
        found
    }

    /// Those that are told that they may not see the row: all of a table without a key, else those whose role may not
    /// read the key.
    fn refuse(&self, change: &Change<'_>, found: &mut Match) {
        let mut refuse = |key: &SubscriptionKey| {
            let Some(held) = self.attachments.get(key) else { return };
            if change.action.wanted_by(held.attachment.event) {
                found.refuse(self.matched(change.action, *key, held));
            }
        };
        if self.view.table.primary_key.is_empty() {
            self.attachments.keys().for_each(&mut refuse);
        } else {
            self.unauthorized.iter().for_each(&mut refuse);
        }
    }
}

#[cfg(test)]
mod tests;
