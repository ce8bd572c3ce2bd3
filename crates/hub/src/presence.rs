//! Who is present in a room (protocol 5.4, 5.5).
//!
//! Invariants: a channel has at most one entry; every `phx_ref` is used for one entry only; the metas announced
//! in joins minus those announced in leaves are exactly the entries as announced.
//!
//! An entry belongs to its [`Origin`], a channel of one node, and only that node ever changes it. So the state
//! of several nodes is the union of theirs: a node that is told another's entries sets them, and removes those
//! of a node that is gone, with no conflict to resolve. Changes of whatever origin gather until
//! [`take_diff`](Presence::take_diff), which tells the difference between what was announced and what is.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;

use crate::key::MemberId;

/// The channel that an entry belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The node's number, as in its refs.
    pub node: u32,
    /// The channel's membership there.
    pub member: MemberId,
}

/// What was tracked and is announced to others.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    key: Box<str>,
    phx_ref: Box<str>,
    /// The client's object with `phx_ref` (and `phx_ref_prev`) put in: JSON text.
    meta: Bytes,
    /// The client's object, as it sent it. Empty for those of other nodes.
    tracked: Bytes,
}

impl Entry {
    /// One that another node told of: `meta` is a JSON object with the refs in it.
    #[must_use]
    pub fn remote(key: &str, phx_ref: &str, meta: Bytes) -> Self {
        Self { key: key.into(), phx_ref: phx_ref.into(), meta, tracked: Bytes::new() }
    }

    /// The presence key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its ref, which no other entry ever has.
    #[must_use]
    pub fn phx_ref(&self) -> &str {
        &self.phx_ref
    }

    /// What members are told: JSON text.
    #[must_use]
    pub fn meta(&self) -> &Bytes {
        &self.meta
    }
}

/// A change of presence to tell the members.
#[derive(Debug, Default)]
pub struct Diff {
    joins: Vec<Arc<Entry>>,
    leaves: Vec<Arc<Entry>>,
}

impl Diff {
    /// The payload of `presence_diff`: both keys always present.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = b"{\"joins\":".to_vec();
        write_grouped(&mut out, self.joins.iter().map(|entry| &**entry));
        out.extend_from_slice(b",\"leaves\":");
        write_grouped(&mut out, self.leaves.iter().map(|entry| &**entry));
        out.push(b'}');
        out
    }
}

/// The presence of one room.
#[derive(Debug, Default)]
pub struct Presence {
    entries: HashMap<Origin, Arc<Entry>>,
    /// The origins that changed since the last diff, with the entry that was announced.
    changed: HashMap<Origin, Option<Arc<Entry>>>,
    /// The payload of `presence_state`, until the next diff.
    state: Option<Bytes>,
}

impl Presence {
    /// Makes a channel present under `key` with a JSON object of its own, or changes that object.
    ///
    /// `tracked` must be the text of a JSON object; `phx_ref` must never have been used before. False when the
    /// channel tracks an equal object already: nothing changes.
    pub fn track(&mut self, origin: Origin, key: &str, tracked: Bytes, phx_ref: &str) -> bool {
        let current = self.entries.get(&origin);
        if current.is_some_and(|entry| same_json(&entry.tracked, &tracked)) {
            return false;
        }
        // Others do not know an entry that was never announced.
        let announced = self.changed.get(&origin).map_or(current, Option::as_ref);
        let previous = current.and(announced).map(|entry| &*entry.phx_ref);
        let meta = with_refs(&tracked, phx_ref, previous);
        let entry = Entry { key: key.into(), phx_ref: phx_ref.into(), meta, tracked };
        self.set(origin, Some(Arc::new(entry)));
        true
    }

    /// Ends a channel's presence. False when it had none.
    pub fn untrack(&mut self, origin: Origin) -> bool {
        self.entries.contains_key(&origin) && {
            self.set(origin, None);
            true
        }
    }

    /// Sets or ends an entry of another node, which is the only one to change it. Whether anything changed.
    pub fn set_remote(&mut self, origin: Origin, entry: Option<Entry>) -> bool {
        let current = self.entries.get(&origin).map(|current| &*current.phx_ref);
        if current == entry.as_ref().map(|entry| &*entry.phx_ref) {
            return false;
        }
        self.set(origin, entry.map(Arc::new));
        true
    }

    /// The entry of a channel.
    #[must_use]
    pub fn entry(&self, origin: Origin) -> Option<&Arc<Entry>> {
        self.entries.get(&origin)
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether anybody is present.
    #[must_use]
    pub fn is_anybody(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Sets or ends an entry: the only way in which entries change.
    fn set(&mut self, origin: Origin, entry: Option<Arc<Entry>>) {
        let before = match entry {
            Some(entry) => self.entries.insert(origin, entry),
            None => {
                self.state = None;
                self.entries.remove(&origin)
            }
        };
        self.changed.entry(origin).or_insert(before);
    }

    /// Whether something changed since the last diff.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Everything that changed since the last diff, as one diff. Entries that came and went in between are not in it. `None`
    /// when there is nothing to tell.
    pub fn take_diff(&mut self) -> Option<Diff> {
        let mut diff = Diff::default();
        for (origin, announced) in self.changed.drain() {
            let current = self.entries.get(&origin);
            if announced.as_ref() == current {
                continue;
            }
            diff.joins.extend(current.map(Arc::clone));
            diff.leaves.extend(announced);
        }
        if diff.joins.is_empty() && diff.leaves.is_empty() {
            return None;
        }
        self.changed.shrink_to(16);
        self.state = None;
        Some(diff)
    }

    /// The payload of `presence_state`: the entries that were announced and are not gone. A member that gets it and every
    /// later diff misses nothing and is told of no join twice; the first diff may contain a leave of an entry that was no
    /// longer in the state.
    pub fn state_json(&mut self) -> Bytes {
        if let Some(state) = &self.state {
            return state.clone();
        }
        let unchanged = self.entries.iter().filter(|(origin, _)| !self.changed.contains_key(origin));
        let still_there = self.changed.iter().filter(|(origin, _)| self.entries.contains_key(origin));
        let announced = still_there.filter_map(|(_, announced)| announced.as_ref());
        let mut out = Vec::new();
        write_grouped(&mut out, unchanged.map(|(_, entry)| &**entry).chain(announced.map(|entry| &**entry)));
        let state = Bytes::from(out);
        self.state = Some(state.clone());
        state
    }

    /// Whether there is nothing to keep.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.changed.is_empty()
    }
}

/// `{"key":{"metas":[…]},…}`: the metas of one key stand together.
fn write_grouped<'a>(out: &mut Vec<u8>, entries: impl Iterator<Item = &'a Entry>) {
    let mut grouped: BTreeMap<&str, Vec<&Bytes>> = BTreeMap::new();
    for entry in entries {
        grouped.entry(&entry.key).or_default().push(&entry.meta);
    }
    out.push(b'{');
    for (i, (key, metas)) in grouped.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        realtime_protocol::write_json_string(out, key);
        out.extend_from_slice(b":{\"metas\":[");
        for (i, meta) in metas.into_iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(meta);
        }
        out.extend_from_slice(b"]}");
    }
    out.push(b'}');
}

/// Puts the refs at the end of an object's text, so that they win over keys of the same name.
fn with_refs(object: &[u8], phx_ref: &str, previous: Option<&str>) -> Bytes {
    let body = object.trim_ascii().strip_suffix(b"}").unwrap_or(b"{").trim_ascii_end();
    let mut out = Vec::with_capacity(body.len() + 64);
    out.extend_from_slice(body);
    if body != b"{" {
        out.push(b',');
    }
    out.extend_from_slice(b"\"phx_ref\":");
    realtime_protocol::write_json_string(&mut out, phx_ref);
    if let Some(previous) = previous {
        out.extend_from_slice(b",\"phx_ref_prev\":");
        realtime_protocol::write_json_string(&mut out, previous);
    }
    out.push(b'}');
    out.into()
}

/// Whether two JSON texts mean the same value. Clients repeat themselves to the letter, so bytes come first.
fn same_json(a: &[u8], b: &[u8]) -> bool {
    let parse = |json| serde_json::from_slice::<serde_json::Value>(json);
    a == b
        || match (parse(a), parse(b)) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        }
}

#[cfg(test)]
mod tests;
