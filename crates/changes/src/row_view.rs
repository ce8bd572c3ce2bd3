//! Rows of a live result as messages: the same DATA as that of a change, made of a row that was read.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use bytes::Bytes;
use realtime_pgoutput::{
    Oid, TypeRegistry,
    message::{OldTuple, Relation, RelationColumn, Tuple, UnixMicros, Value},
};

use crate::{
    Predicate, Table,
    cell::Cell,
    change::{Action, Change},
    payload::{self, Mapping, OldImage, Shape},
    predicate::Outcome,
    row::Row,
};

/// How the rows of a result are told: which columns, and what tells rows apart.
#[derive(Debug)]
pub struct RowView {
    table: Table,
    /// Its identity is the key of the result.
    relation: Relation,
    mapping: Mapping,
    shape: Shape,
    /// Places of the key in a row.
    key: Vec<usize>,
    /// Places of what is told in a row.
    shown: Vec<usize>,
    /// The names and types of what is told, as a number.
    form: u64,
}

impl RowView {
    /// `visible`: by index of the table's columns; `key`: places in the rows, whose columns `relation` has. All columns of
    /// the key are told.
    #[must_use]
    pub fn new(table: &Table, relation: &Relation, key: &[usize], visible: Vec<bool>) -> Self {
        let (mut table, mut relation) = (table.clone(), relation.clone());
        for (at, column) in relation.columns.iter_mut().enumerate() {
            column.identity = key.contains(&at);
        }
        let names = key.iter().filter_map(|at| relation.columns.get(*at));
        table.primary_key = names.filter_map(|column| table.column(&column.name)).collect();
        let mut visible = visible;
        for column in &table.primary_key {
            if let Some(visible) = visible.get_mut(*column) {
                *visible = true;
            }
        }
        let mapping = Mapping::new(&table, &relation);
        let is_shown = |at: &usize| {
            let column = relation.columns.get(*at).and_then(|column| table.column(&column.name));
            column.and_then(|column| visible.get(column).copied()).unwrap_or(false)
        };
        let shown: Vec<usize> = (0..relation.columns.len()).filter(is_shown).collect();
        let form = form_of(shown.iter().filter_map(|at| relation.columns.get(*at)));
        let shape = Shape::new(&table, visible);
        Self { table, relation, mapping, shape, key: key.to_vec(), shown, form }
    }

    /// What rows look like beside their values. If it is another number, all rows are told otherwise than before: a column
    /// has another name or type.
    #[must_use]
    pub const fn form(&self) -> u64 {
        self.form
    }

    /// The values of a row's key.
    pub fn key<'r>(&self, row: &'r Tuple) -> impl Iterator<Item = Option<&'r [u8]>> {
        self.key.iter().map(|at| text(row.get(*at)))
    }

    /// What is told of a row: its values in order.
    pub fn told<'r>(&self, row: &'r Tuple) -> impl Iterator<Item = Option<&'r [u8]>> {
        self.shown.iter().map(|at| text(row.get(*at)))
    }

    /// Whether all that is told of a row is there: an update does not repeat what it has left alone elsewhere.
    #[must_use]
    pub fn is_whole(&self, row: &Tuple) -> bool {
        self.shown.iter().all(|at| row.get(*at).is_some_and(|value| *value != Value::Unchanged))
    }

    /// Whether a filter holds for a row. `None`: only the database can tell.
    #[must_use]
    pub fn holds(predicate: &Predicate, row: &Tuple) -> Option<bool> {
        let cell = |column: usize| Cell::of(row.get(column));
        match predicate.evaluate(&Row::new(&cell)) {
            Outcome::Holds => Some(true),
            Outcome::Fails => Some(false),
            Outcome::Depends(_) => None,
        }
    }

    /// Where the columns of a row of this view stand in the rows of a relation of the log; `None` for one that is not
    /// there, or of another type.
    #[must_use]
    pub fn places_in(&self, log: &Relation) -> Vec<Option<usize>> {
        let same = |known: &RelationColumn, column: &RelationColumn| {
            known.name == column.name && known.type_oid == column.type_oid
        };
        let place = |known| log.columns.iter().position(|column| same(known, column));
        self.relation.columns.iter().map(place).collect()
    }

    /// Whether rows of this view and of another one are told alike.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.table == other.table
            && self.relation == other.relation
            && self.shape == other.shape
            && self.key == other.key
    }

    /// Whether keys of this view mean the same columns as those of another one, and are written alike: a number that has
    /// become a text is another key to clients.
    #[must_use]
    pub fn has_key_of(&self, other: &Self) -> bool {
        self.key_columns().eq(other.key_columns())
    }

    fn key_columns(&self) -> impl Iterator<Item = (&str, Oid)> {
        let columns = self.key.iter().filter_map(|at| self.relation.columns.get(*at));
        columns.map(|column| (&*column.name, column.type_oid))
    }

    /// DATA of a row that enters the result, or of one that has changed in it.
    #[must_use]
    pub fn data(&self, action: Action, row: &Tuple, at: UnixMicros, types: &TypeRegistry) -> Bytes {
        let change = Change { action, relation: &self.relation, new: Some(row), old: None, commit_time: at };
        payload::data(&self.table, &self.mapping, &self.shape, &change, OldImage::Whole, types).into()
    }

    /// DATA of a row that leaves the result.
    #[must_use]
    pub fn left(&self, key: &[Option<Vec<u8>>], at: UnixMicros, types: &TypeRegistry) -> Bytes {
        let mut row: Tuple = vec![Value::Null; self.relation.columns.len()];
        for (place, value) in self.key.iter().zip(key) {
            if let (Some(slot), Some(text)) = (row.get_mut(*place), value) {
                *slot = Value::Text(Bytes::copy_from_slice(text));
            }
        }
        let old = OldTuple::Key(row);
        let (action, relation) = (Action::Delete, &self.relation);
        let change = Change { action, relation, new: None, old: Some(&old), commit_time: at };
        payload::data(&self.table, &self.mapping, &self.shape, &change, OldImage::Whole, types).into()
    }
}

fn form_of<'c>(columns: impl Iterator<Item = &'c RelationColumn>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for column in columns {
        (&*column.name, column.type_oid).hash(&mut hasher);
    }
    hasher.finish()
}

fn text(value: Option<&Value>) -> Option<&[u8]> {
    match value? {
        Value::Text(text) | Value::Binary(text) => Some(text),
        Value::Null | Value::Unchanged => None,
    }
}

#[cfg(test)]
mod tests {
    use realtime_pgoutput::{message::ReplicaIdentity, oid};

    use super::*;
    use crate::{Column, Comparison};

    fn view(visible: [bool; 3], key: &[usize]) -> RowView {
        let columns = [("id", oid::INT8, "int8"), ("room", oid::TEXT, "text"), ("secret", oid::TEXT, "text")];
        let table = Table {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            columns: columns
                .iter()
                .map(|(name, oid, type_name)| Column {
                    name: (*name).into(),
                    type_oid: *oid,
                    base_oid: *oid,
                    type_name: (*type_name).into(),
                    sql_type: (*type_name).into(),
                    cast_type: (*type_name).into(),
                    comparison: Comparison::built_in(type_name),
                    in_log: true,
                })
                .collect(),
            primary_key: vec![],
            row_security: false,
            plain: true,
            partitioned: false,
            replica_identity: ReplicaIdentity::Default,
        };
        let relation = Relation {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: columns
                .iter()
                .map(|(name, oid, _)| RelationColumn {
                    identity: false,
                    name: (*name).into(),
                    type_oid: *oid,
                    type_modifier: -1,
                })
                .collect(),
        };
        RowView::new(&table, &relation, key, visible.to_vec())
    }

    fn row(values: [Option<&str>; 3]) -> Tuple {
        let value =
            |value: Option<&str>| value.map_or(Value::Null, |text| Value::Text(text.to_owned().into()));
        values.map(value).to_vec()
    }

    fn shown(data: &Bytes) -> serde_json::Value {
        let mut data: serde_json::Value = serde_json::from_slice(data).unwrap();
        data.as_object_mut().unwrap().remove("columns");
        data
    }

    /// live 2
    #[test]
    fn rows_are_told_as_changes_are() {
        let types = TypeRegistry::default();
        let view = view([false, true, false], &[0]);
        let row = row([Some("7"), Some("a"), Some("x")]);
        let at = UnixMicros(1_000_000);
        let head = serde_json::json!({"schema": "public", "table": "t", "errors": null,
            "commit_timestamp": "1970-01-01T00:00:01Z"});
        let with = |more: serde_json::Value| {
            let mut all = head.clone();
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            all["commit_timestamp"] =
                shown(&view.data(Action::Insert, &row, at, &types))["commit_timestamp"].clone();
            all
        };
        let record = serde_json::json!({"id": 7, "room": "a"});
        assert_eq!(
            shown(&view.data(Action::Insert, &row, at, &types)),
            with(serde_json::json!({"type": "INSERT", "record": record}))
        );
        assert_eq!(
            shown(&view.data(Action::Update, &row, at, &types)),
            with(serde_json::json!({"type": "UPDATE", "record": record, "old_record": {"id": 7}}))
        );
        assert_eq!(
            shown(&view.left(&[Some(b"7".to_vec())], at, &types)),
            with(serde_json::json!({"type": "DELETE", "old_record": {"id": 7}}))
        );
        assert_eq!(view.key(&row).collect::<Vec<_>>(), [Some(b"7".as_slice())]);
        assert_eq!(view.told(&row).collect::<Vec<_>>(), [Some(b"7".as_slice()), Some(b"a")]);
    }

    #[test]
    fn a_row_without_a_key_is_its_own() {
        let types = TypeRegistry::default();
        let view = view([true; 3], &[0, 1, 2]);
        let key = [Some(b"7".to_vec()), None, Some(b"x".to_vec())];
        let data = shown(&view.left(&key, UnixMicros(0), &types));
        assert_eq!(data["old_record"], serde_json::json!({"id": 7, "room": null, "secret": "x"}));
    }
}
