//! Finds filters that a row may meet, by the values that they want.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Debug,
};

use realtime_pgoutput::message::Tuple;

use crate::{
    Predicate,
    cell::Cell,
    predicate::Keying,
    row::{Got, Operand, Row},
};

/// Filters by the values that they want: a row costs those that it may meet, not all that there are.
#[derive(Debug)]
pub struct FilterIndex<K> {
    /// Clients choose paths into documents: the hash must not be theirs to foresee.
    operands: HashMap<Operand, Values<K>>,
}

#[derive(Debug)]
struct Values<K> {
    keying: Keying,
    /// Keyed by what clients chose: the hash must not be theirs to foresee.
    keys: HashMap<Vec<u8>, BTreeSet<K>>,
}

impl<K> Default for FilterIndex<K> {
    fn default() -> Self {
        Self { operands: HashMap::new() }
    }
}

impl<K: Copy + Ord + Debug> FilterIndex<K> {
    /// Enters a filter. False if no equality leads to all rows that it may hold for: then nothing has happened.
    pub fn insert(&mut self, predicate: &Predicate, key: K) -> bool {
        let Some(ways) = predicate.index_keys() else { return false };
        for wanted in ways {
            let new = || Values { keying: wanted.keying, keys: HashMap::new() };
            let values = self.operands.entry(wanted.operand.clone()).or_insert_with(new);
            for value in wanted.keys {
                values.keys.entry(value.to_vec()).or_default().insert(key);
            }
        }
        true
    }

    /// Takes a filter out that was entered. Idempotent.
    pub fn remove(&mut self, predicate: &Predicate, key: K) {
        for wanted in predicate.index_keys().into_iter().flatten() {
            let Some(values) = self.operands.get_mut(wanted.operand) else { continue };
            for value in wanted.keys {
                if let Some(keys) = values.keys.get_mut(value) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        values.keys.remove(value);
                    }
                }
            }
            if values.keys.is_empty() {
                self.operands.remove(wanted.operand);
            }
        }
    }

    /// Those that may hold for a row, in sets; one may be in several. Of a value that is not known all that want one are.
    #[must_use]
    pub fn find(&self, row: &Tuple) -> Vec<&BTreeSet<K>> {
        let cell = |column: usize| Cell::of(row.get(column));
        let row = Row::new(&cell);
        let mut found = Vec::new();
        for (operand, values) in &self.operands {
            let got = row.take(operand);
            if got == Got::Missing {
                found.extend(values.keys.values());
            } else if let Some(value) = got.text().and_then(|text| values.keying.key(text)) {
                found.extend(values.keys.get(&*value));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use realtime_pgoutput::{
        message::{ReplicaIdentity, Value},
        oid,
    };
    use serde_json::json;

    use super::*;
    use crate::{Column, Comparison, RoleAccess, SubscriptionSpec, Table, plan};

    fn predicate(filter: &str) -> Predicate {
        let column = |name: &str, oid, type_name: &str| Column {
            name: name.into(),
            type_oid: oid,
            base_oid: oid,
            type_name: type_name.into(),
            sql_type: type_name.into(),
            cast_type: type_name.into(),
            comparison: Comparison::built_in(type_name),
            in_log: true,
        };
        let table = Table {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            columns: vec![column("id", oid::INT8, "int8"), column("room", oid::TEXT, "text")],
            primary_key: vec![0],
            row_security: false,
            plain: true,
            partitioned: false,
            replica_identity: ReplicaIdentity::Default,
        };
        let spec = json!({"schema": "public", "table": "t", "filter": filter});
        let spec = SubscriptionSpec::parse(spec.as_object().unwrap()).unwrap();
        let access = RoleAccess { role: "anon".into(), selectable: vec![true, true], bypasses_rls: false };
        let plan = plan(&spec, &table, &access).unwrap();
        let literals: Vec<String> = plan.checks().iter().map(|check| check.literal.to_owned()).collect();
        plan.compile(&literals, true)
    }

    #[test]
    fn filters_are_found_by_the_values_that_they_want() {
        let mut index = FilterIndex::default();
        let filters = ["room=eq.a", "room=in.(a,b)", "id=eq.7", "or=(id.eq.7,room.eq.b)", "id=gt.3"];
        let predicates: Vec<Predicate> = filters.iter().map(|filter| predicate(filter)).collect();
        let entered: Vec<bool> =
            predicates.iter().enumerate().map(|(at, predicate)| index.insert(predicate, at)).collect();
        assert_eq!(entered, [true, true, true, true, false]);
        let text = |text: &'static str| Value::Text(text.into());
        let found = |index: &FilterIndex<usize>, row: [Value; 2]| {
            let all: BTreeSet<usize> = index.find(&row.to_vec()).into_iter().flatten().copied().collect();
            all.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(found(&index, [text("1"), text("a")]), [0, 1]);
        assert_eq!(found(&index, [text("7"), text("b")]), [1, 2, 3]);
        assert_eq!(found(&index, [text("1"), Value::Null]), [0_usize; 0]);
        assert_eq!(found(&index, [text("1"), Value::Unchanged]), [0, 1, 3], "it may be any");
        for (at, predicate) in predicates.iter().enumerate() {
            index.remove(predicate, at);
        }
        assert!(index.operands.is_empty());
    }
}
