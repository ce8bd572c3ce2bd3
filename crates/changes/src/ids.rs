//! Ids of subscriptions (postgres_changes 1.1, protocol 4.5).

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

/// Ids are below 2^27, as the reference's are: some clients keep them in 32 bits.
const LIMIT: u64 = 1 << 27;

/// An id for each object: a function of its content, never 0, and distinct for distinct objects of the slice.
///
/// Equal objects share an id, and rejoining with the same objects gives the same ids. Takes time linear in their texts.
#[must_use]
pub fn assign_ids(objects: &[Map<String, Value>]) -> Vec<u32> {
    let mut known: HashMap<Vec<u8>, u32> = HashMap::with_capacity(objects.len());
    let mut taken: HashSet<u32> = HashSet::with_capacity(objects.len());
    // Where to look on for an id, for hashes that several objects have: clients can choose objects that collide.
    let mut next: HashMap<u32, u32> = HashMap::new();
    let assign = |object: &Map<String, Value>| {
        // The canonical text: serde_json keeps keys sorted.
        let text = serde_json::to_vec(object).unwrap_or_default();
        if let Some(id) = known.get(&text) {
            return *id;
        }
        let hash = content_hash(&text);
        let mut id = next.get(&hash).copied().unwrap_or(hash);
        while !taken.insert(id) {
            id = if u64::from(id) + 1 < LIMIT { id + 1 } else { 1 };
        }
        next.insert(hash, id);
        known.insert(text, id);
        id
    };
    objects.iter().map(assign).collect()
}

/// FNV-1a, folded to 1..2^27.
fn content_hash(text: &[u8]) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    u32::try_from(hash % (LIMIT - 1) + 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(json: Value) -> Map<String, Value> {
        match json {
            Value::Object(object) => object,
            _ => Map::new(),
        }
    }

    /// postgres_changes 1, 5, 6; protocol 31
    #[test]
    fn ids_are_functions_of_content() {
        let a = object(json!({"event": "INSERT", "schema": "public"}));
        let same: Map<_, _> = serde_json::from_str(r#"{"schema":"public","event":"INSERT"}"#).unwrap();
        let b = object(json!({"event": "INSERT", "schema": "public", "select": ["details"]}));
        let ids = assign_ids(&[a.clone(), b, same]);
        assert_eq!(ids[0], ids[2]);
        assert_ne!(ids[0], ids[1]);
        assert!(ids.iter().all(|id| *id > 0 && u64::from(*id) < LIMIT));
        assert_eq!(assign_ids(&[a])[0], ids[0]);
    }

    #[test]
    fn distinct_objects_never_share_an_id() {
        let objects: Vec<_> = (0..200_000).map(|n| object(json!({ "n": n }))).collect();
        let mut ids = assign_ids(&objects);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 200_000);
    }
}
