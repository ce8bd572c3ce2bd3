//! A table and who watches it.

use std::{collections::HashMap, sync::Arc};

use realtime_pgoutput::{TypeRegistry, message::Relation};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    Action, Asked, Attachment, Candidates, Change, ChannelId, Delivery, Matches, Party, PartyId, Recipient,
    SubscriptionKey, party::Parties,
};
use crate::{
    Cell, Table,
    payload::{self, Mapping, Refused, Shape},
    predicate::Outcome,
    value::Family,
};

/// A table and who watches it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) table: Arc<Table>,
    mapping: Mapping,
    attachments: FxHashMap<SubscriptionKey, Held>,
    /// By column and key of the wanted value.
    index: FxHashMap<usize, ColumnIndex>,
    /// Those that the index cannot find.
    residual: FxHashSet<SubscriptionKey>,
    /// Those whose role may not read the primary key.
    unauthorized: FxHashSet<SubscriptionKey>,
    shapes: Vec<Arc<Shape>>,
    parties: Parties,
}

#[derive(Debug)]
struct ColumnIndex {
    family: Family,
    /// Keyed by what clients chose: the hash must not be theirs to foresee.
    keys: HashMap<Vec<u8>, Vec<SubscriptionKey>>,
}

#[derive(Debug)]
struct Held {
    attachment: Attachment,
    shape: Arc<Shape>,
    party: PartyId,
}

impl Watched {
    pub(super) fn new(table: Arc<Table>, relation: &Relation) -> Self {
        Self {
            mapping: Mapping::new(&table, relation),
            attachments: FxHashMap::default(),
            index: FxHashMap::default(),
            residual: FxHashSet::default(),
            unauthorized: FxHashSet::default(),
            shapes: Vec::new(),
            parties: Parties::default(),
            table,
        }
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
        self.table.asks() && !attachment.access.bypasses_rls && action != Action::Delete
    }

    pub(super) fn attach(&mut self, key: SubscriptionKey, attachment: Attachment) {
        let shape = self.shape(&attachment);
        if !shape.reads_key {
            self.unauthorized.insert(key);
        }
        match attachment.predicate.index_keys() {
            Some(wanted) => {
                let index = self
                    .index
                    .entry(wanted.column)
                    .or_insert_with(|| ColumnIndex { family: wanted.family, keys: HashMap::new() });
                for value in wanted.keys {
                    index.keys.entry(value.to_vec()).or_default().push(key);
                }
            }
            None => {
                self.residual.insert(key);
            }
        }
        let party = self
            .parties
            .enter(Party { role: attachment.access.role.clone(), claims: Arc::clone(&attachment.claims) });
        self.attachments.insert(key, Held { attachment, shape, party });
    }

    pub(super) fn detach(&mut self, key: SubscriptionKey) {
        let Some(held) = self.attachments.remove(&key) else { return };
        self.residual.remove(&key);
        self.unauthorized.remove(&key);
        if let Some(wanted) = held.attachment.predicate.index_keys()
            && let Some(index) = self.index.get_mut(&wanted.column)
        {
            for value in wanted.keys {
                if let Some(keys) = index.keys.get_mut(value) {
                    keys.retain(|known| *known != key);
                    if keys.is_empty() {
                        index.keys.remove(value);
                    }
                }
            }
            if index.keys.is_empty() {
                self.index.remove(&wanted.column);
            }
        }
        self.parties.leave(held.party);
        drop(held);
        self.shapes.retain(|shape| Arc::strong_count(shape) > 1);
    }

    /// What the role may see, cut to what was selected; the primary key always stays.
    fn shape(&mut self, attachment: &Attachment) -> Arc<Shape> {
        let access = &attachment.access;
        let visible: Vec<bool> = (0..self.table.columns.len())
            .map(|column| {
                let selected = attachment.select.as_ref().is_none_or(|select| select.contains(&column));
                access.reads(column) && (selected || self.table.primary_key.contains(&column))
            })
            .collect();
        let reads_key = access.reads_key(&self.table);
        let known = self.shapes.iter().find(|shape| shape.visible == visible && shape.reads_key == reads_key);
        if let Some(shape) = known {
            return Arc::clone(shape);
        }
        let shape = Arc::new(Shape::new(&self.table, visible, reads_key));
        self.shapes.push(Arc::clone(&shape));
        shape
    }

    pub(super) fn matches(&self, change: &Change<'_>) -> Matches {
        let mut matches = Matches::default();
        let cell = |column: usize| self.mapping.in_tuple(column).map_or(Cell::Missing, |at| change.cell(at));
        let wants = |key: &&SubscriptionKey| {
            self.attachments.get(key).is_some_and(|held| change.action.wanted_by(held.attachment.event))
        };
        let row_change = change.action != Action::Delete;
        if row_change && self.table.primary_key.is_empty() {
            matches.refused = self.attachments.keys().filter(wants).copied().collect();
            return matches;
        }
        if row_change {
            matches.refused = self.unauthorized.iter().filter(wants).copied().collect();
        }
        let mut consider = |key: &SubscriptionKey| {
            let Some(held) = self.attachments.get(key) else { return };
            // Who may read no column at all gets nothing (spec README, decision 6).
            let unreadable =
                if row_change { !held.shape.reads_key } else { !held.shape.visible.contains(&true) };
            if unreadable || !change.action.wanted_by(held.attachment.event) {
                return;
            }
            match held.attachment.predicate.evaluate(cell) {
                Outcome::Holds => matches.certain.push(*key),
                Outcome::Fails => {}
                Outcome::Depends(questions) => {
                    let access = Arc::clone(&held.attachment.access);
                    matches.asked.push(Asked { key: *key, questions, access });
                }
            }
        };
        self.residual.iter().for_each(&mut consider);
        for (column, index) in &self.index {
            let Cell::Text(text) = cell(*column) else { continue };
            if let Some(keys) = index.family.key(text).and_then(|value| index.keys.get(&*value)) {
                keys.iter().for_each(&mut consider);
            }
        }
        matches
    }

    /// Who of the subscriptions that match may get a change at once, and who has to be looked at.
    pub(super) fn candidates(&self, action: Action, keys: &[SubscriptionKey]) -> Candidates {
        let mut candidates = Candidates::default();
        if !self.table.asks() || action == Action::Delete {
            candidates.open = keys.to_vec();
            return candidates;
        }
        for key in keys {
            let Some(held) = self.attachments.get(key) else { continue };
            if self.is_guarded(action, &held.attachment) {
                candidates.guarded.push((held.party, *key));
            } else {
                candidates.open.push(*key);
            }
        }
        candidates.guarded.sort_unstable();
        candidates
    }

    /// What to send; a guarded subscription gets it only as one of `seen`.
    pub(super) fn deliver(
        &self,
        change: &Change<'_>,
        matches: &Matches,
        open: &[SubscriptionKey],
        seen: &[SubscriptionKey],
        types: &TypeRegistry,
    ) -> Vec<Delivery> {
        let is_open = |key: &&SubscriptionKey| {
            let held = self.attachments.get(key);
            held.is_some_and(|held| !self.is_guarded(change.action, &held.attachment))
        };
        let keys = open.iter().filter(is_open).chain(seen).copied().collect();
        let mut deliveries = self.deliveries(change, keys, types);
        deliveries.extend(self.refusals(change, &matches.refused));
        deliveries
    }

    /// One delivery per shape, in the order in which their first subscriptions were attached.
    fn deliveries(
        &self,
        change: &Change<'_>,
        mut keys: Vec<SubscriptionKey>,
        types: &TypeRegistry,
    ) -> Vec<Delivery> {
        let mut groups: Vec<(&Arc<Shape>, Vec<SubscriptionKey>)> = Vec::new();
        keys.sort_unstable();
        for key in &keys {
            let Some(held) = self.attachments.get(key) else { continue };
            match groups.iter_mut().find(|(shape, _)| Arc::ptr_eq(shape, &held.shape)) {
                Some((_, keys)) => keys.push(*key),
                None => groups.push((&held.shape, vec![*key])),
            }
        }
        groups
            .into_iter()
            .map(|(shape, keys)| {
                let data = payload::data(&self.table, &self.mapping, shape, change, types);
                Delivery { action: change.action, data: data.into(), recipients: self.recipients(&keys) }
            })
            .collect()
    }

    fn refusals(&self, change: &Change<'_>, keys: &[SubscriptionKey]) -> Option<Delivery> {
        if keys.is_empty() {
            return None;
        }
        let why =
            if self.table.primary_key.is_empty() { Refused::NoPrimaryKey } else { Refused::Unauthorized };
        let data = payload::refused(&self.table, change.action, change.commit_time, why).into();
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        Some(Delivery { action: change.action, data, recipients: self.recipients(&keys) })
    }

    /// Each channel once, with the ids of its subscriptions in the order of `keys`.
    fn recipients(&self, keys: &[SubscriptionKey]) -> Vec<Recipient> {
        let mut recipients: Vec<Recipient> = Vec::with_capacity(keys.len());
        let mut places: FxHashMap<ChannelId, usize> =
            FxHashMap::with_capacity_and_hasher(keys.len(), rustc_hash::FxBuildHasher);
        for key in keys {
            let Some(Held { attachment, .. }) = self.attachments.get(key) else { continue };
            let place = *places.entry(attachment.channel).or_insert(recipients.len());
            match recipients.get_mut(place) {
                Some(recipient) => recipient.ids.push(attachment.id),
                None => recipients.push(Recipient { channel: attachment.channel, ids: vec![attachment.id] }),
            }
        }
        recipients
    }
}
