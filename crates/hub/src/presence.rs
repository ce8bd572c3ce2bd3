//! Who is present in a room (protocol 5.4, 5.5).
//!
//! Invariants: a member has at most one entry; every `phx_ref` is used for one announcement only; the metas
//! announced in joins minus those announced in leaves are exactly the entries.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

/// Identifies a member of a room; never used twice on a node.
pub type MemberId = u64;

/// What was tracked and is announced to others.
#[derive(Debug, Clone)]
struct Entry {
    key: Box<str>,
    /// The client's object, as it sent it.
    tracked: Bytes,
    phx_ref: Box<str>,
    /// `tracked` with `phx_ref` (and `phx_ref_prev`) put in: JSON text.
    meta: Bytes,
}

/// A change of presence to tell the members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    joins: Vec<(Box<str>, Bytes)>,
    leaves: Vec<(Box<str>, Bytes)>,
}

impl Diff {
    /// The payload of `presence_diff`: both keys always present.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = b"{\"joins\":".to_vec();
        write_grouped(&mut out, self.joins.iter().map(|(key, meta)| (&**key, meta)));
        out.extend_from_slice(b",\"leaves\":");
        write_grouped(&mut out, self.leaves.iter().map(|(key, meta)| (&**key, meta)));
        out.push(b'}');
        out
    }
}

/// The presence of one room.
#[derive(Debug, Default)]
pub struct Presence {
    entries: HashMap<MemberId, Entry>,
}

impl Presence {
    /// Makes a member present under `key` with a JSON object of its own, or changes that object.
    ///
    /// `tracked` must be the text of a JSON object; `phx_ref` must never have been used before. `None` when
    /// the member already tracks an equal object: nothing to announce.
    pub fn track(&mut self, member: MemberId, key: &str, tracked: Bytes, phx_ref: &str) -> Option<Diff> {
        let previous = self.entries.get(&member);
        if previous.is_some_and(|entry| same_json(&entry.tracked, &tracked)) {
            return None;
        }
        let meta = with_refs(&tracked, phx_ref, previous.map(|entry| &*entry.phx_ref));
        let entry = Entry { key: key.into(), tracked, phx_ref: phx_ref.into(), meta: meta.clone() };
        let leaves = self.entries.insert(member, entry).map(|old| (old.key, old.meta)).into_iter().collect();
        Some(Diff { joins: vec![(key.into(), meta)], leaves })
    }

    /// Ends a member's presence. `None` when it had none.
    pub fn untrack(&mut self, member: MemberId) -> Option<Diff> {
        let old = self.entries.remove(&member)?;
        Some(Diff { joins: Vec::new(), leaves: vec![(old.key, old.meta)] })
    }

    /// The payload of `presence_state`.
    #[must_use]
    pub fn state_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_grouped(&mut out, self.entries.values().map(|entry| (&*entry.key, &entry.meta)));
        out
    }
}

/// `{"key":{"metas":[…]},…}`: the metas of one key stand together.
fn write_grouped<'a>(out: &mut Vec<u8>, metas: impl Iterator<Item = (&'a str, &'a Bytes)>) {
    let mut grouped: BTreeMap<&str, Vec<&Bytes>> = BTreeMap::new();
    for (key, meta) in metas {
        grouped.entry(key).or_default().push(meta);
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
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn parsed(json: &[u8]) -> Value {
        serde_json::from_slice(json).unwrap()
    }

    /// protocol 58, 61, 62
    #[test]
    fn joins_updates_and_leaves() {
        let mut presence = Presence::default();
        assert_eq!(parsed(&presence.state_json()), json!({}));

        let diff = presence.track(1, "u", object(r#"{"a":1}"#), "r1").unwrap();
        let joined = json!({"u":{"metas":[{"a":1,"phx_ref":"r1"}]}});
        assert_eq!(parsed(&diff.to_json()), json!({"joins":joined,"leaves":{}}));
        assert_eq!(parsed(&presence.state_json()), joined);

        assert_eq!(presence.track(1, "u", object(r#"{ "a": 1 }"#), "r2"), None);

        let diff = presence.track(1, "u", object("{}"), "r3").unwrap();
        let updated = json!({"u":{"metas":[{"phx_ref":"r3","phx_ref_prev":"r1"}]}});
        assert_eq!(parsed(&diff.to_json()), json!({"joins":updated,"leaves":joined}));

        let diff = presence.untrack(1).unwrap();
        assert_eq!(parsed(&diff.to_json()), json!({"joins":{},"leaves":updated}));
        assert_eq!(presence.untrack(1), None);
        assert!(presence.track(1, "u", object("{}"), "r4").is_some());
    }

    #[test]
    fn members_of_one_key_stand_together() {
        let mut presence = Presence::default();
        presence.track(1, "k\"1", object(r#"{"n":1}"#), "a");
        presence.track(2, "k\"1", object(r#"{"n":2}"#), "b");
        presence.track(3, "other", object(r#"{"phx_ref":"mine"}"#), "c");
        let state = parsed(&presence.state_json());
        assert_eq!(state["k\"1"]["metas"].as_array().unwrap().len(), 2);
        assert_eq!(state["other"], json!({"metas":[{"phx_ref":"c"}]}));
    }
}
