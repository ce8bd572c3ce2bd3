//! Who is present in a room (protocol 5.4, 5.5).
//!
//! Invariants: a channel has at most one entry; every `phx_ref` is used for one entry only; the metas announced
//! in joins minus those announced in leaves are exactly the entries as announced.
//!
//! An entry belongs to its [`Origin`], a channel of one node, and only that node ever changes it. So the state
//! of several nodes is the union of theirs: a node that is told another's entries sets them, and removes those
//! of a node that is gone, with no conflict to resolve. Changes of whatever origin gather until
//! [`take_diff`](Presence::take_diff), which tells the difference between what was announced and what is.
//!
//! What is announced takes [`MAX_SHOWN`] bytes at most. If there is more, the largest entries are hidden: kept, but not
//! announced. Which these are follows from the entries alone, so all nodes hide the same ones, and a small entry always finds
//! a place beside large ones.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;

use crate::{key::MemberId, outbox::DEFAULT_OUTBOX_BYTES};

/// Bytes of a room's presence that its members are told, as JSON: half of what an outbox takes, so that the state of a room
/// fits into one beside other messages.
pub const MAX_SHOWN: usize = DEFAULT_OUTBOX_BYTES / 2;

/// Objects of more bytes are only the same if all bytes are: to parse them takes many times their size in memory.
const MAX_PARSED: usize = 4_096;

/// What JSON adds to a key and an object: `"key":{"metas":[…]},`, without the quotes.
const FRAMING: usize = 14;

/// The channel that an entry belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    /// Bytes of the key as JSON.
    key_bytes: usize,
}

impl Entry {
    /// One that another node told of: `meta` is a JSON object with the refs in it.
    #[must_use]
    pub fn remote(key: &str, phx_ref: &str, meta: Bytes) -> Self {
        let key_bytes = json_bytes(key);
        Self { key: key.into(), phx_ref: phx_ref.into(), meta, tracked: Bytes::new(), key_bytes }
    }

    /// Whether this is what a channel tracks that wants to track this object. Clients repeat themselves to the letter, so
    /// bytes come first. Costs time: not to be asked under a lock.
    pub(crate) fn says(&self, object: &[u8]) -> bool {
        same_json(&self.tracked, object)
    }

    /// Bytes that it takes in a state, the same on every node.
    fn bytes(&self) -> usize {
        self.key_bytes + self.meta.len() + FRAMING
    }

    /// Whether it is of a channel of this node.
    fn is_own(&self) -> bool {
        !self.tracked.is_empty()
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

/// An object that a channel wants to track, made ready outside of the room's lock: it may be large.
#[derive(Debug)]
pub(crate) struct Wish {
    key: Box<str>,
    phx_ref: Box<str>,
    tracked: Bytes,
    /// The announced object, still open: more may be put in.
    open: Vec<u8>,
    key_bytes: usize,
}

impl Wish {
    /// `tracked` must be the text of a JSON object; `phx_ref` must never have been used before.
    pub(crate) fn new(key: &str, tracked: Bytes, phx_ref: &str) -> Self {
        let open = with_ref(&tracked, phx_ref);
        Self { key: key.into(), phx_ref: phx_ref.into(), tracked, open, key_bytes: json_bytes(key) }
    }

    /// The entry, which follows another one that the members know.
    fn entry(self, previous: Option<&str>) -> Entry {
        let Self { key, phx_ref, tracked, mut open, key_bytes } = self;
        if let Some(previous) = previous {
            open.extend_from_slice(b",\"phx_ref_prev\":");
            realtime_protocol::write_json_string(&mut open, previous);
        }
        open.push(b'}');
        Entry { key, phx_ref, meta: open.into(), tracked, key_bytes }
    }
}

/// A change of presence to tell the members.
#[derive(Debug, Default)]
pub struct Diff {
    joins: Vec<Arc<Entry>>,
    leaves: Vec<Arc<Entry>>,
    /// Channels of this node whose entries are hidden from now on.
    pub(crate) hidden: Vec<MemberId>,
}

impl Diff {
    /// Whether members are told nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.joins.is_empty() && self.leaves.is_empty()
    }

    fn add(&mut self, announced: Option<Arc<Entry>>, current: Option<Arc<Entry>>) {
        self.joins.extend(current);
        self.leaves.extend(announced);
    }

    /// Adds changes of at most so many bytes, one at least, and returns the others.
    ///
    /// What takes away most comes first, so that what is announced never takes more than before all of them or after.
    fn add_some(&mut self, mut changes: Vec<Change>, most: usize) -> Vec<Change> {
        let size = |entry: &Option<Arc<Entry>>| entry.as_ref().map_or(0, |entry| entry.bytes());
        changes
            .sort_by_cached_key(|(_, announced, current)| usize::MAX / 2 + size(current) - size(announced));
        let mut bytes = 0;
        let fit = changes.iter().take_while(|(_, announced, current)| {
            let is_first = bytes == 0;
            bytes += size(announced) + size(current);
            is_first || bytes <= most
        });
        let later = changes.split_off(fit.count());
        changes.into_iter().for_each(|(_, announced, current)| self.add(announced, current));
        later
    }

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

/// An entry of one channel before and after a change: what was announced, and what is to be.
type Change = (Origin, Option<Arc<Entry>>, Option<Arc<Entry>>);

/// The presence of one room.
#[derive(Debug, Default)]
pub struct Presence {
    entries: HashMap<Origin, Arc<Entry>>,
    /// The origins that changed since the last diff, with the entry that was announced.
    changed: HashMap<Origin, Option<Arc<Entry>>>,
    /// The origins whose entries are not announced, because there is no room for them.
    hidden: BTreeSet<Origin>,
    /// Bytes of all entries.
    bytes: usize,
    /// The payload of `presence_state`, until the next diff.
    state: Option<Bytes>,
}

impl Presence {
    /// Makes a channel present, or changes the object that it announces. False if there is no room: the object is larger than
    /// an equal share of what may be shown. Then nothing changes.
    pub(crate) fn track(&mut self, origin: Origin, wish: Wish) -> bool {
        let current = self.entries.get(&origin);
        // Others do not know an entry that was never announced.
        let announced = self
            .changed
            .get(&origin)
            .map_or_else(|| current.filter(|_| !self.hidden.contains(&origin)), Option::as_ref);
        let previous = current.and(announced).map(|entry| &*entry.phx_ref);
        let entry = wish.entry(previous);
        let (before, count) =
            current.map_or((0, self.entries.len() + 1), |entry| (entry.bytes(), self.entries.len()));
        let after = (self.bytes + entry.bytes()).saturating_sub(before);
        if after > MAX_SHOWN && entry.bytes() > MAX_SHOWN / count {
            return false;
        }
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
        self.bytes += entry.as_ref().map_or(0, |entry| entry.bytes());
        let before = match entry {
            Some(entry) => self.entries.insert(origin, entry),
            None => {
                self.state = None;
                self.entries.remove(&origin)
            }
        };
        self.bytes = self.bytes.saturating_sub(before.as_ref().map_or(0, |entry| entry.bytes()));
        let hidden = &self.hidden;
        self.changed.entry(origin).or_insert_with(|| before.filter(|_| !hidden.contains(&origin)));
    }

    /// Whether something changed since the last diff.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// What changed since the last diff, as one diff: all of it, if that is not more than `most` bytes. Entries that came and
    /// went in between are not in it.
    pub fn take_diff(&mut self, most: usize) -> Diff {
        let mut diff = Diff::default();
        self.hide(&mut diff);
        let (entries, hidden) = (&self.entries, &self.hidden);
        let now = |origin: &Origin| entries.get(origin).filter(|_| !hidden.contains(origin));
        let size = |entry: Option<&Arc<Entry>>| entry.map_or(0, |entry| entry.bytes());
        let all = self.changed.iter().map(|(origin, announced)| size(announced.as_ref()) + size(now(origin)));
        let is_much = all.sum::<usize>() > most;
        let changes = self.changed.drain().filter_map(|(origin, announced)| {
            let current = now(&origin).map(Arc::clone);
            (announced != current).then_some((origin, announced, current))
        });
        if is_much {
            let later = diff.add_some(changes.collect(), most);
            self.changed = later.into_iter().map(|(origin, announced, _)| (origin, announced)).collect();
        } else {
            changes.for_each(|(_, announced, current)| diff.add(announced, current));
        }
        if !diff.is_empty() {
            self.changed.shrink_to(16);
            self.state = None;
        }
        diff
    }

    /// Decides which entries are hidden: the largest, until the others fit.
    fn hide(&mut self, diff: &mut Diff) {
        if self.bytes <= MAX_SHOWN && self.hidden.is_empty() {
            return;
        }
        let mut hidden = BTreeSet::new();
        if self.bytes > MAX_SHOWN {
            let mut sizes: Vec<_> = self.entries.iter().map(|(of, entry)| (entry.bytes(), *of)).collect();
            sizes.sort_unstable_by_key(|size| Reverse(*size));
            let mut bytes = self.bytes;
            for (size, origin) in sizes {
                if bytes <= MAX_SHOWN {
                    break;
                }
                bytes -= size;
                hidden.insert(origin);
            }
        }
        for origin in hidden.difference(&self.hidden) {
            let entry = self.entries.get(origin);
            diff.hidden.extend(entry.filter(|entry| entry.is_own()).map(|_| origin.member));
            self.changed.entry(*origin).or_insert_with(|| entry.map(Arc::clone));
        }
        for origin in self.hidden.difference(&hidden) {
            self.changed.entry(*origin).or_insert(None);
        }
        self.hidden = hidden;
    }

    /// The payload of `presence_state`: the entries that were announced and are not gone. A member that gets it and every
    /// later diff misses nothing and is told of no join twice; the first diff may contain a leave of an entry that was no
    /// longer in the state.
    pub fn state_json(&mut self) -> Bytes {
        if let Some(state) = &self.state {
            return state.clone();
        }
        let is_unchanged = |origin| !self.changed.contains_key(origin) && !self.hidden.contains(origin);
        let unchanged = self.entries.iter().filter(|(origin, _)| is_unchanged(origin));
        let still_there = self.changed.iter().filter(|(origin, _)| self.entries.contains_key(origin));
        let announced = still_there.filter_map(|(_, announced)| announced.as_ref());
        let mut out = Vec::new();
        write_grouped(&mut out, unchanged.map(|(_, entry)| &**entry).chain(announced.map(|entry| &**entry)));
        let state = Bytes::from(out);
        self.state = Some(state.clone());
        state
    }

    /// Bytes that a state takes at most.
    pub(crate) fn state_bytes(&self) -> usize {
        let announced = self.changed.values().flatten().map(|entry| entry.bytes()).sum::<usize>();
        (self.bytes + announced).min(MAX_SHOWN)
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

/// Puts a ref at the end of an object's text, so that it wins over a key of the same name. The object stays open.
fn with_ref(object: &[u8], phx_ref: &str) -> Vec<u8> {
    let body = object.trim_ascii().strip_suffix(b"}").unwrap_or(b"{").trim_ascii_end();
    let mut out = Vec::with_capacity(body.len() + 64);
    out.extend_from_slice(body);
    if body != b"{" {
        out.push(b',');
    }
    out.extend_from_slice(b"\"phx_ref\":");
    realtime_protocol::write_json_string(&mut out, phx_ref);
    out
}

/// Bytes of a text as a JSON string.
fn json_bytes(text: &str) -> usize {
    let mut out = Vec::with_capacity(text.len() + 2);
    realtime_protocol::write_json_string(&mut out, text);
    out.len()
}

/// Whether two JSON texts mean the same value, if they are short enough to be parsed.
fn same_json(a: &[u8], b: &[u8]) -> bool {
    let parse = |json: &[u8]| match json.len() <= MAX_PARSED {
        true => serde_json::from_slice::<serde_json::Value>(json).ok(),
        false => None,
    };
    a == b || parse(a).zip(parse(b)).is_some_and(|(a, b)| a == b)
}

#[cfg(test)]
mod tests;
