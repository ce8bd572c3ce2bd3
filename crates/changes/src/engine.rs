//! Subscriptions by table, and the changes that match them.
//!
//! Conditions of equality go through a hash index: a row costs what matches it, not what subscribes.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use realtime_pgoutput::{
    Oid, TypeRegistry,
    message::{OldTuple, Relation, Tuple, UnixMicros, Value},
};

use crate::{
    EventFilter, Predicate, Question, RoleAccess, Table,
    payload::{self, Mapping, Refused, Shape},
    predicate::{Cell, Outcome},
    value::Family,
};

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Action {
    Insert,
    Update,
    Delete,
}

impl Action {
    /// As clients see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }

    const fn wanted_by(self, event: EventFilter) -> bool {
        matches!(
            (self, event),
            (_, EventFilter::All)
                | (Self::Insert, EventFilter::Insert)
                | (Self::Update, EventFilter::Update)
                | (Self::Delete, EventFilter::Delete)
        )
    }
}

/// A row change.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What happened.
    pub action: Action,
    /// The table as the walsender described it when it happened.
    pub relation: &'a Relation,
    /// The new row, but for deletes.
    pub new: Option<&'a Tuple>,
    /// The old row, where the log has it.
    pub old: Option<&'a OldTuple>,
    /// When its transaction committed.
    pub commit_time: UnixMicros,
}

impl<'a> Change<'a> {
    /// What a filter sees in a column of the tuples (1.6, 2.5, 3.4).
    fn cell(&self, at: usize) -> Cell<'a> {
        let value = match (self.new, self.old) {
            (Some(new), _) => new.get(at),
            (None, Some(OldTuple::Full(old))) => old.get(at),
            (None, Some(OldTuple::Key(old))) => {
                old.get(at).filter(|_| self.relation.columns.get(at).is_some_and(|column| column.identity))
            }
            (None, None) => None,
        };
        match value {
            Some(Value::Null) => Cell::Null,
            Some(Value::Text(text) | Value::Binary(text)) => Cell::Text(text),
            Some(Value::Unchanged) | None => Cell::Missing,
        }
    }
}

/// One joined channel of one socket; numbers are given out by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub u64);

/// One attachment of a subscription to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionKey(u64);

/// A subscription bound to a table.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Who gets the changes.
    pub channel: ChannelId,
    /// Id of the subscription as the client knows it.
    pub id: u32,
    /// Which changes.
    pub event: EventFilter,
    /// Which rows.
    pub predicate: Predicate,
    /// What the role may see.
    pub access: Arc<RoleAccess>,
    /// Claims of the token, as JSON: with the role, what row-level security decides by.
    pub claims: Arc<str>,
    /// Columns to send beside the primary key; `None` for all.
    pub select: Option<Vec<usize>>,
}

/// The table is not known to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Unknown table")]
pub struct UnknownTable;

/// Whom row-level security decides for: a role and its claims. Equal parties of a table are one value, so that
/// they can be told apart by their address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Party {
    /// Role to ask as.
    pub role: Box<str>,
    /// Claims to ask with, as JSON.
    pub claims: Arc<str>,
}

impl Party {
    /// Tells equal parties of a table from others while any of them is held.
    #[must_use]
    pub fn address(party: &Arc<Self>) -> usize {
        Arc::as_ptr(party).addr()
    }
}

/// Subscriptions of a party: they see a row together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarded {
    /// Whom to ask for.
    pub party: Arc<Party>,
    /// The subscriptions.
    pub keys: Vec<SubscriptionKey>,
}

/// Which subscriptions a change matches.
#[derive(Debug, Default)]
pub struct Matches {
    /// These for certain.
    pub certain: Vec<SubscriptionKey>,
    /// These if all answers are yes.
    pub asked: Vec<Asked>,
    /// These are told that they may not see the row (400, 401).
    refused: Vec<SubscriptionKey>,
}

/// A subscription that matches if the database says so.
#[derive(Debug)]
pub struct Asked {
    /// The subscription.
    pub key: SubscriptionKey,
    /// What to ask.
    pub questions: Vec<Question>,
}

impl Matches {
    /// Whether nobody is concerned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.certain.is_empty() && self.asked.is_empty() && self.refused.is_empty()
    }
}

/// One DATA object and who gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What happened to the row.
    pub action: Action,
    /// The DATA object: finished JSON, shared by all recipients.
    pub data: Bytes,
    /// Who gets it, each channel once.
    pub recipients: Vec<Recipient>,
}

/// A channel and those of its subscriptions that a change matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The channel.
    pub channel: ChannelId,
    /// The ids of its subscriptions.
    pub ids: Vec<u32>,
}

/// Subscriptions by table.
#[derive(Debug, Default)]
pub struct Engine {
    tables: HashMap<Oid, Watched>,
    next_key: u64,
}

/// A table and who watches it.
#[derive(Debug)]
struct Watched {
    table: Arc<Table>,
    mapping: Mapping,
    attachments: HashMap<SubscriptionKey, Held>,
    /// By column and key of the wanted value.
    index: HashMap<usize, ColumnIndex>,
    /// Those that the index cannot find.
    residual: HashSet<SubscriptionKey>,
    /// Those whose role may not read the primary key.
    unauthorized: HashSet<SubscriptionKey>,
    shapes: Vec<Arc<Shape>>,
    parties: HashSet<Arc<Party>>,
}

#[derive(Debug)]
struct ColumnIndex {
    family: Family,
    keys: HashMap<Vec<u8>, HashSet<SubscriptionKey>>,
}

#[derive(Debug)]
struct Held {
    attachment: Attachment,
    shape: Arc<Shape>,
    party: Arc<Party>,
}

impl Engine {
    /// Makes a table known, or known anew: whatever was attached to it is gone and has to be attached again.
    pub fn put_table(&mut self, table: Arc<Table>, relation: &Relation) {
        let mapping = Mapping::new(&table, relation);
        let watched = Watched {
            mapping,
            attachments: HashMap::new(),
            index: HashMap::new(),
            residual: HashSet::new(),
            unauthorized: HashSet::new(),
            shapes: Vec::new(),
            parties: HashSet::new(),
            table: Arc::clone(&table),
        };
        self.tables.insert(table.oid, watched);
    }

    /// Forgets all tables.
    pub fn clear(&mut self) {
        self.tables.clear();
    }

    /// The table as it was last made known.
    #[must_use]
    pub fn table(&self, oid: Oid) -> Option<&Arc<Table>> {
        self.tables.get(&oid).map(|watched| &watched.table)
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
            watched.detach(key);
        }
    }

    /// The channel of an attachment.
    #[must_use]
    pub fn channel(&self, oid: Oid, key: SubscriptionKey) -> Option<ChannelId> {
        Some(self.tables.get(&oid)?.attachments.get(&key)?.attachment.channel)
    }

    /// Which subscriptions a change matches.
    #[must_use]
    pub fn matches(&self, change: &Change<'_>) -> Matches {
        self.tables.get(&change.relation.oid).map(|watched| watched.matches(change)).unwrap_or_default()
    }

    /// Those of the subscriptions that may get the row only if row-level security lets them see it, in groups
    /// that share the answer. Deletes are not checked: there is no row to see any more (3.4).
    #[must_use]
    pub fn guarded(&self, change: &Change<'_>, keys: &[SubscriptionKey]) -> Vec<Guarded> {
        let Some(watched) = self.tables.get(&change.relation.oid) else { return Vec::new() };
        let mut groups: Vec<Guarded> = Vec::new();
        let mut places: HashMap<usize, usize> = HashMap::new();
        for key in keys {
            let Some(held) = watched.attachments.get(key) else { continue };
            if !watched.is_guarded(change.action, &held.attachment) {
                continue;
            }
            let place = *places.entry(Party::address(&held.party)).or_insert(groups.len());
            match groups.get_mut(place) {
                Some(group) => group.keys.push(*key),
                None => groups.push(Guarded { party: Arc::clone(&held.party), keys: vec![*key] }),
            }
        }
        groups
    }

    /// What to send for a change: `keys` are the subscriptions that matched in the end, `seen` those of them
    /// that were found to see the row. Who is guarded and not among `seen` gets nothing.
    #[must_use]
    pub fn deliveries(
        &self,
        change: &Change<'_>,
        matches: &Matches,
        keys: &[SubscriptionKey],
        seen: &HashSet<SubscriptionKey>,
        types: &TypeRegistry,
    ) -> Vec<Delivery> {
        let Some(watched) = self.tables.get(&change.relation.oid) else { return Vec::new() };
        let may_see = |key: &&SubscriptionKey| {
            let held = watched.attachments.get(key);
            held.is_some_and(|held| {
                seen.contains(key) || !watched.is_guarded(change.action, &held.attachment)
            })
        };
        let keys: Vec<SubscriptionKey> = keys.iter().filter(may_see).copied().collect();
        let mut deliveries = watched.deliveries(change, keys, types);
        deliveries.extend(watched.refusals(change.action, &matches.refused));
        deliveries
    }
}

impl Watched {
    /// Whether a subscription may get a change only after a look at what row-level security shows it.
    fn is_guarded(&self, action: Action, attachment: &Attachment) -> bool {
        self.table.row_security && !attachment.access.bypasses_rls && action != Action::Delete
    }

    fn attach(&mut self, key: SubscriptionKey, attachment: Attachment) {
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
                    index.keys.entry(value.to_vec()).or_default().insert(key);
                }
            }
            None => {
                self.residual.insert(key);
            }
        }
        let party = self.party(&attachment);
        self.attachments.insert(key, Held { attachment, shape, party });
    }

    fn detach(&mut self, key: SubscriptionKey) {
        let Some(held) = self.attachments.remove(&key) else { return };
        self.residual.remove(&key);
        self.unauthorized.remove(&key);
        if let Some(wanted) = held.attachment.predicate.index_keys()
            && let Some(index) = self.index.get_mut(&wanted.column)
        {
            for value in wanted.keys {
                if let Some(keys) = index.keys.get_mut(value) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        index.keys.remove(value);
                    }
                }
            }
            if index.keys.is_empty() {
                self.index.remove(&wanted.column);
            }
        }
        // Held by us and by the set of parties: nobody else has it.
        if Arc::strong_count(&held.party) == 2 {
            self.parties.remove(&held.party);
        }
        drop(held);
        self.shapes.retain(|shape| Arc::strong_count(shape) > 1);
    }

    /// The one value for this role and these claims.
    fn party(&mut self, attachment: &Attachment) -> Arc<Party> {
        let party = Party { role: attachment.access.role.clone(), claims: Arc::clone(&attachment.claims) };
        if let Some(known) = self.parties.get(&party) {
            return Arc::clone(known);
        }
        let party = Arc::new(party);
        self.parties.insert(Arc::clone(&party));
        party
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

    fn matches(&self, change: &Change<'_>) -> Matches {
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
                Outcome::Depends(questions) => matches.asked.push(Asked { key: *key, questions }),
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

    fn refusals(&self, action: Action, keys: &[SubscriptionKey]) -> Option<Delivery> {
        if keys.is_empty() {
            return None;
        }
        let why =
            if self.table.primary_key.is_empty() { Refused::NoPrimaryKey } else { Refused::Unauthorized };
        let data = payload::refused(&self.table, action, why).into();
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        Some(Delivery { action, data, recipients: self.recipients(&keys) })
    }

    /// Each channel once, with the ids of its subscriptions in the order of `keys`.
    fn recipients(&self, keys: &[SubscriptionKey]) -> Vec<Recipient> {
        let mut recipients: Vec<Recipient> = Vec::with_capacity(keys.len());
        let mut places: HashMap<ChannelId, usize> = HashMap::with_capacity(keys.len());
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
