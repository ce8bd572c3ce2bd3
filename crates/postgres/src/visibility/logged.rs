//! Which of a table's columns the log carries in a change, and where.
//!
//! Columns are told apart by their numbers: between the log, the reading of the catalog and the question they can be
//! renamed, dropped and added, and a name can come to mean another column. The log names columns without their numbers.
//! It lists them in the order of the numbers, and what is added comes last. So a description of the log fits the catalog
//! if it is the beginning of what the catalog lists; if it is not, it is of another time, and no value of it is used.

use std::borrow::Cow;

use realtime_changes::{Change, Column, Table};
use realtime_pgoutput::message::{OldTuple, Relation, RelationColumn, Value};

/// A value that the log carries; `None` for NULL.
pub(super) type Text<'a> = Option<Cow<'a, str>>;

/// The numbers of the columns that the log carries, in its order; none if its description does not fit the catalog.
/// `attnums`: the numbers of the table's columns, in their order.
pub(crate) fn logged(table: &Table, attnums: &[i16], relation: &Relation) -> Box<[i16]> {
    let in_log = table.columns.iter().zip(attnums).filter(|(column, _)| column.in_log);
    let fits = |((column, _), logged): &((&Column, &i16), &RelationColumn)| {
        column.name == logged.name && column.type_oid == logged.type_oid
    };
    let numbers: Box<[i16]> =
        in_log.zip(&relation.columns).take_while(fits).map(|((_, attnum), _)| *attnum).collect();
    if numbers.len() == relation.columns.len() { numbers } else { Box::default() }
}

/// The place of a column in the log.
pub(super) fn place(logged: &[i16], attnum: i16) -> Option<usize> {
    logged.binary_search(&attnum).ok()
}

/// What the log carries at a place of the new row: `None` if nothing.
pub(super) fn value<'a>(change: &Change<'a>, at: usize) -> Option<Text<'a>> {
    let old = || match change.old {
        Some(OldTuple::Full(old)) => old.get(at),
        _ => None,
    };
    let value = match change.new?.get(at)? {
        Value::Unchanged => old()?,
        value => value,
    };
    match value {
        Value::Null => Some(None),
        Value::Text(text) | Value::Binary(text) => Some(Some(String::from_utf8_lossy(text))),
        Value::Unchanged => None,
    }
}

#[cfg(test)]
mod tests {
    use realtime_changes::{Comparison, Operators};
    use realtime_pgoutput::message::ReplicaIdentity;

    use super::*;

    fn table(columns: &[(&str, bool)]) -> Table {
        let comparison =
            Comparison { type_name: "t".into(), operators: Operators::BuiltIn, runs_code: false };
        let column = |(name, in_log): &(&str, bool)| Column {
            name: (*name).into(),
            type_oid: 25,
            base_oid: 25,
            type_name: "text".into(),
            sql_type: "text".into(),
            cast_type: "pg_catalog.text".into(),
            comparison: comparison.clone(),
            in_log: *in_log,
        };
        Table {
            oid: 1,
            schema: "s".into(),
            name: "t".into(),
            columns: columns.iter().map(column).collect(),
            primary_key: Vec::new(),
            row_security: true,
            plain: true,
            partitioned: false,
            replica_identity: ReplicaIdentity::Default,
        }
    }

    fn relation(columns: &[&str]) -> Relation {
        let column = |name: &&str| RelationColumn {
            identity: false,
            name: (*name).into(),
            type_oid: 25,
            type_modifier: -1,
        };
        Relation {
            oid: 1,
            schema: "s".into(),
            name: "t".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: columns.iter().map(column).collect(),
        }
    }

    #[test]
    fn a_description_of_another_time_is_not_used() {
        let table = table(&[("a", true), ("generated", false), ("b", true), ("c", true)]);
        let of = |columns: &[&str]| logged(&table, &[1, 2, 5, 6], &relation(columns)).into_vec();
        assert_eq!(of(&["a", "b", "c"]), [1, 5, 6]);
        assert_eq!(of(&["a", "b"]), [1, 5], "c was added since");
        for other in [&["b", "a", "c"][..], &["a", "c"], &["a", "b", "c", "d"], &["x", "b", "c"]] {
            assert!(of(other).is_empty(), "{other:?}");
        }
        assert_eq!((place(&[1, 5, 6], 5), place(&[1, 5, 6], 2)), (Some(1), None));
    }
}
