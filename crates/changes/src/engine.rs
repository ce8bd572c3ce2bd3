//! Subscriptions by table, and the changes that match them.
//!
//! Conditions of equality go through a hash index: a row costs what matches it, not what subscribes.

mod party;
mod watched;

use std::sync::Arc;

use bytes::Bytes;
pub use party::{Candidates, Party, PartyId};
use realtime_pgoutput::{
    Oid, TypeRegistry,
    message::{OldTuple, Relation, Tuple, UnixMicros, Value},
};
use rustc_hash::FxHashMap;
use watched::Watched;

use crate::{Cell, EventFilter, Predicate, Question, RoleAccess, Table};

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
    /// What its role may see.
    pub access: Arc<RoleAccess>,
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
    tables: FxHashMap<Oid, Watched>,
    next_key: u64,
}

impl Engine {
    /// Makes a table known, or known anew: whatever was attached to it is gone and has to be attached again.
    pub fn put_table(&mut self, table: Arc<Table>, relation: &Relation) {
        let oid = table.oid;
        self.tables.insert(oid, Watched::new(table, relation));
    }

    /// Forgets a table and whatever was attached to it. Idempotent.
    pub fn forget_table(&mut self, oid: Oid) {
        self.tables.remove(&oid);
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
        self.tables.get(&oid)?.channel(key)
    }

    /// The channel of an attachment, and the id that the channel knows the subscription by.
    #[must_use]
    pub fn subscription(&self, oid: Oid, key: SubscriptionKey) -> Option<(ChannelId, u32)> {
        self.tables.get(&oid)?.subscription(key)
    }

    /// Which subscriptions a change matches.
    #[must_use]
    pub fn matches(&self, change: &Change<'_>) -> Matches {
        self.tables.get(&change.relation.oid).map(|watched| watched.matches(change)).unwrap_or_default()
    }

    /// A party of a table.
    #[must_use]
    pub fn party(&self, oid: Oid, id: PartyId) -> Option<&Arc<Party>> {
        self.tables.get(&oid)?.party(id)
    }

    /// Who of the subscriptions that match a change may get it at once, and who only if row-level security shows
    /// them the row. Deletes are not checked: there is no row to see any more (3.4).
    #[must_use]
    pub fn candidates(&self, change: &Change<'_>, keys: &[SubscriptionKey]) -> Candidates {
        let watched = self.tables.get(&change.relation.oid);
        watched.map(|watched| watched.candidates(change.action, keys)).unwrap_or_default()
    }

    /// What to send for a change: `open` are those who get it unchecked, `seen` those who were found to see the
    /// row. Who is guarded and not among `seen` gets nothing.
    #[must_use]
    pub fn deliveries(
        &self,
        change: &Change<'_>,
        matches: &Matches,
        open: &[SubscriptionKey],
        seen: &[SubscriptionKey],
        types: &TypeRegistry,
    ) -> Vec<Delivery> {
        let watched = self.tables.get(&change.relation.oid);
        watched.map(|watched| watched.deliver(change, matches, open, seen, types)).unwrap_or_default()
    }
}
