//! Turns the messages of the log into changes.

use std::{cell::OnceCell, sync::Arc};

use realtime_pgoutput::{
    OWN_SCHEMAS, Oid,
    message::{Message, OldTuple, Relation, Tuple, UnixMicros},
};
use rustc_hash::FxHashMap;

use crate::{Event, Members, Plan, Profile, Restrictions, TopicIndex, builtin_type_name, payload, time};

/// The tables and types that the log has described, and the transaction that is being read.
#[derive(Debug)]
pub struct Stream {
    profile: Profile,
    restrictions: Restrictions,
    types: FxHashMap<Oid, Box<str>>,
    plans: FxHashMap<Oid, Plan>,
    commit_timestamp: String,
}

/// A change of a row, or a truncated table.
#[derive(Debug)]
pub struct Change<'a> {
    profile: &'a Profile,
    commit_timestamp: &'a str,
    plan: &'a mut Plan,
    event: Event,
    new: Option<&'a Tuple>,
    old: Option<&'a OldTuple>,
    payload: OnceCell<Vec<u8>>,
}

impl Stream {
    /// A stream at its beginning.
    #[must_use]
    pub fn new(profile: Profile, restrictions: Restrictions) -> Self {
        Self {
            profile,
            restrictions,
            types: FxHashMap::default(),
            plans: FxHashMap::default(),
            commit_timestamp: String::new(),
        }
    }

    /// A new connection begins: it describes everything again.
    pub fn restart(&mut self) {
        self.types.clear();
        self.plans.clear();
    }

    /// When the transaction that is being read was committed: UTC, whole seconds.
    #[must_use]
    pub fn commit_timestamp(&self) -> &str {
        &self.commit_timestamp
    }

    /// Takes a message and calls `give` for each change in it. A change of a table that was not described is ignored.
    pub fn take(&mut self, message: &Message, mut give: impl FnMut(Change<'_>)) {
        match message {
            Message::Begin { commit_time, .. } => self.begin(*commit_time),
            Message::Type { oid, name, .. } => {
                self.types.insert(*oid, name.clone());
            }
            Message::Relation { relation, .. } => self.relation(relation),
            Message::Insert { relation, new, .. } => {
                give_one(self.change(*relation, Event::Insert, Some(new), None), give);
            }
            Message::Update { relation, old, new, .. } => {
                give_one(self.change(*relation, Event::Update, Some(new), old.as_ref()), give);
            }
            Message::Delete { relation, old, .. } => {
                give_one(self.change(*relation, Event::Delete, None, Some(old)), give);
            }
            Message::Truncate { relations, .. } => {
                for relation in relations {
                    give_one(self.change(*relation, Event::Truncate, None, None), &mut give);
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, commit_time: UnixMicros) {
        self.commit_timestamp = time::commit_timestamp(commit_time);
    }

    fn relation(&mut self, relation: &Arc<Relation>) {
        // If all tables are published everybody would see private messages and the keys of tenants.
        if OWN_SCHEMAS.contains(&&*relation.schema) {
            self.plans.remove(&relation.oid);
            return;
        }
        let types = &self.types;
        let name = |oid| builtin_type_name(oid).or_else(|| types.get(&oid).map(|name| &**name));
        let plan = Plan::new(Arc::clone(relation), &self.profile, &self.restrictions, name);
        self.plans.insert(relation.oid, plan);
    }

    fn change<'a>(
        &'a mut self,
        relation: Oid,
        event: Event,
        new: Option<&'a Tuple>,
        old: Option<&'a OldTuple>,
    ) -> Option<Change<'a>> {
        let plan = self.plans.get_mut(&relation)?;
        Some(Change {
            profile: &self.profile,
            commit_timestamp: &self.commit_timestamp,
            plan,
            event,
            new,
            old,
            payload: OnceCell::new(),
        })
    }
}

fn give_one(change: Option<Change<'_>>, give: impl FnOnce(Change<'_>)) {
    if let Some(change) = change {
        give(change);
    }
}

impl Change<'_> {
    /// What happened.
    #[must_use]
    pub fn event(&self) -> Event {
        self.event
    }

    /// Schema and name of the table.
    #[must_use]
    pub fn table(&self) -> (&str, &str) {
        let relation = self.plan.relation();
        (&relation.schema, &relation.name)
    }

    /// Its JSON, the payload of every frame about it; rendered when first asked for.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.payload.get_or_init(|| {
            payload::change(self.plan, self.profile, self.commit_timestamp, self.event, self.new, self.old)
        })
    }

    /// Calls `give` for each of its topics that somebody joined, with its [`payload`](Self::payload).
    pub fn publish<M>(&mut self, index: &TopicIndex<M>, mut give: impl FnMut(&[u8], &Arc<str>, &Members<M>)) {
        let row = match (self.new, self.old) {
            (Some(new), _) => Some(new),
            (None, Some(OldTuple::Key(old) | OldTuple::Full(old))) => Some(old),
            (None, None) => None,
        };
        self.plan.refresh(index);
        let change = &*self;
        change.plan.topics(index, change.event, row, |topic, members| give(change.payload(), topic, members));
    }
}

#[cfg(test)]
mod tests;
