//! The DATA object that clients are sent (postgres_changes 2.2 to 2.8).

use realtime_pgoutput::{
    TypeRegistry,
    json::{write_json, write_json_string},
    message::{OldTuple, Relation, Tuple, UnixMicros, Value},
};

use crate::{
    Table,
    change::{Action, Change},
    time::write_timestamp,
};

/// A change document over this many bytes is trimmed (2.7).
const MAX_DOCUMENT: usize = 1_048_576;

/// In a trimmed document only values up to this many bytes of JSON remain.
const MAX_TRIMMED_VALUE: usize = 64;

/// Text takes at most this many bytes of JSON for each of its own.
const MAX_ESCAPE: usize = 6;

/// About what a column costs in the document beside its name, type and value.
const COLUMN_OVERHEAD: usize = 60;

/// A name in an object, and its value, are quoted; a colon and a comma follow.
const NAME_OVERHEAD: usize = 6;

/// About what a document has beside columns and rows.
const DOCUMENT_OVERHEAD: usize = 200;

/// Which columns a group of subscribers gets, and what follows from it. Shared by all who get the same.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// By index of the table's columns.
    pub(crate) visible: Vec<bool>,
    /// The `columns` array.
    columns_json: Vec<u8>,
    /// About how many bytes the names of the columns take in an object.
    names: usize,
}

impl Shape {
    pub(crate) fn new(table: &Table, visible: Vec<bool>) -> Self {
        let mut columns_json = vec![b'['];
        let mut names = 0;
        for (column, _) in table.columns.iter().zip(&visible).filter(|(_, visible)| **visible) {
            if columns_json.len() > 1 {
                columns_json.push(b',');
            }
            columns_json.extend_from_slice(b"{\"name\":");
            write_json_string(&mut columns_json, column.name.as_bytes());
            columns_json.extend_from_slice(b",\"type\":");
            write_json_string(&mut columns_json, column.type_name.as_bytes());
            columns_json.push(b'}');
            names += column.name.len() + NAME_OVERHEAD;
        }
        columns_json.push(b']');
        Self { visible, columns_json, names }
    }

    fn shows(&self, column: usize) -> bool {
        self.visible.get(column).copied().unwrap_or(false)
    }
}

/// How the columns of a relation, as the walsender describes it, correspond to those of the catalog.
#[derive(Debug, Default)]
pub(crate) struct Mapping {
    /// For each column of the relation, that of the table; `None` for one that is gone by now.
    to_table: Vec<Option<usize>>,
    /// For each column of the table, that of the relation.
    to_relation: Vec<Option<usize>>,
}

impl Mapping {
    pub(crate) fn new(table: &Table, relation: &Relation) -> Self {
        let to_table: Vec<Option<usize>> =
            relation.columns.iter().map(|column| table.column(&column.name)).collect();
        let mut to_relation = vec![None; table.columns.len()];
        for (at, column) in to_table.iter().enumerate() {
            if let Some(slot) = column.and_then(|column| to_relation.get_mut(column)) {
                *slot = Some(at);
            }
        }
        Self { to_table, to_relation }
    }

    /// Position in the relation's tuples of a column of the table.
    pub(crate) fn in_tuple(&self, column: usize) -> Option<usize> {
        self.to_relation.get(column).copied().flatten()
    }
}

/// What a group of subscribers gets of the old row (row_security 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OldImage {
    /// All that the log has.
    Whole,
    /// The primary key of a deleted row that cannot be judged, because the log has no more of it than a key.
    Key,
    /// All that the log has if the database says that the old row was seen, else nothing of it.
    Open,
    /// Nothing: the primary key as far as it is that of the new row.
    Hidden,
}

/// The error literals of 2.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    NoPrimaryKey,
    Unauthorized,
}

impl Refused {
    const fn text(self) -> &'static str {
        match self {
            Self::NoPrimaryKey => "Error 400: Bad Request, no primary key",
            Self::Unauthorized => "Error 401: Unauthorized",
        }
    }
}

/// DATA for subscribers who may not see the row at all (2.6): no values. It has all keys that clients demand, and the
/// time of the commit (clients 3, 8).
pub(crate) fn refused(table: &Table, action: Action, commit_time: UnixMicros, refused: Refused) -> Vec<u8> {
    let mut out = Vec::with_capacity(200);
    head(&mut out, table, action);
    out.extend_from_slice(b",\"columns\":[],\"record\":{}");
    if action != Action::Insert {
        out.extend_from_slice(b",\"old_record\":{}");
    }
    out.extend_from_slice(b",\"commit_timestamp\":\"");
    write_timestamp(&mut out, commit_time);
    out.extend_from_slice(b"\",\"errors\":[\"");
    out.extend_from_slice(refused.text().as_bytes());
    out.extend_from_slice(b"\"]}");
    out
}

/// DATA for subscribers of one shape.
pub(crate) fn data(
    table: &Table,
    mapping: &Mapping,
    shape: &Shape,
    change: &Change<'_>,
    old: OldImage,
    types: &TypeRegistry,
) -> Vec<u8> {
    let raw = raw_bytes(change.new) + raw_bytes(old_tuple(change));
    let trimmed = is_too_large(table, change, raw, types);
    let writer = Writer { table, mapping, shape, change, old, types, trimmed };
    // Enough unless much is escaped.
    let rows = if trimmed { 0 } else { raw + raw / 16 };
    let names = shape.names * (1 + usize::from(change.action != Action::Insert));
    let mut out = Vec::with_capacity(DOCUMENT_OVERHEAD + shape.columns_json.len() + names + rows);
    head(&mut out, table, change.action);
    out.extend_from_slice(b",\"commit_timestamp\":\"");
    write_timestamp(&mut out, change.commit_time);
    out.extend_from_slice(b"\",\"columns\":");
    out.extend_from_slice(&shape.columns_json);
    if change.action != Action::Delete {
        out.extend_from_slice(b",\"record\":");
        writer.record(&mut out);
    }
    if change.action != Action::Insert {
        out.extend_from_slice(b",\"old_record\":");
        writer.old_record(&mut out);
    }
    out.extend_from_slice(if writer.trimmed {
        b",\"errors\":[\"Error 413: Payload Too Large\"]}".as_slice()
    } else {
        b",\"errors\":null}"
    });
    out
}

fn head(out: &mut Vec<u8>, table: &Table, action: Action) {
    out.extend_from_slice(b"{\"schema\":");
    write_json_string(out, table.schema.as_bytes());
    out.extend_from_slice(b",\"table\":");
    write_json_string(out, table.name.as_bytes());
    out.extend_from_slice(b",\"type\":\"");
    out.extend_from_slice(action.as_str().as_bytes());
    out.push(b'"');
}

struct Writer<'a> {
    table: &'a Table,
    mapping: &'a Mapping,
    shape: &'a Shape,
    change: &'a Change<'a>,
    old: OldImage,
    types: &'a TypeRegistry,
    trimmed: bool,
}

impl Writer<'_> {
    /// The new row, without what the update left alone and the log does not have (2.5).
    fn record(&self, out: &mut Vec<u8>) {
        let Some(new) = self.change.new else { return out.extend_from_slice(b"{}") };
        self.object(out, |at| new.get(at));
    }

    /// The old row, as far as the replica identity has it (2.4). An update that left the key alone logs no old
    /// row: the key is that of the new one.
    fn old_record(&self, out: &mut Vec<u8>) {
        let identity = |at: usize| self.change.relation.columns.get(at).is_some_and(|column| column.identity);
        let in_key = |at: usize| {
            let column = self.mapping.to_table.get(at).copied().flatten();
            column.is_some_and(|column| self.table.primary_key.contains(&column))
        };
        self.object(out, |at| {
            match self.old {
                OldImage::Whole => {}
                OldImage::Key if in_key(at) => {}
                OldImage::Open | OldImage::Hidden if in_key(at) => return self.unchanged(at),
                _ => return None,
            }
            match (self.change.old, self.change.new) {
                (Some(OldTuple::Full(old)), _) => old.get(at),
                (Some(OldTuple::Key(old)), _) => old.get(at).filter(|_| identity(at)),
                (None, Some(new)) => new.get(at).filter(|_| identity(at)),
                (None, None) => None,
            }
        });
    }

    /// A value of the new row, if the old row had the same.
    fn unchanged(&self, at: usize) -> Option<&Value> {
        let new = self.change.new?.get(at)?;
        let is_same = match (new, self.change.old) {
            (Value::Unchanged, _) | (_, None) => true,
            (new, Some(OldTuple::Full(old) | OldTuple::Key(old))) => old.get(at) == Some(new),
        };
        is_same.then_some(new)
    }

    /// An object of the visible columns for which there is a value.
    fn object<'v>(&self, out: &mut Vec<u8>, value: impl Fn(usize) -> Option<&'v Value>) {
        out.push(b'{');
        let start = out.len();
        for (at, column) in self.change.relation.columns.iter().enumerate() {
            // A column that is gone from the catalog was readable once; what its rights were nobody knows.
            if !self
                .mapping
                .to_table
                .get(at)
                .copied()
                .flatten()
                .is_some_and(|column| self.shape.shows(column))
            {
                continue;
            }
            let Some(value) = value(at) else { continue };
            let before = out.len();
            if before > start {
                out.push(b',');
            }
            write_json_string(out, column.name.as_bytes());
            out.push(b':');
            let from = out.len();
            let keep = match value {
                Value::Null => {
                    out.extend_from_slice(b"null");
                    !self.trimmed
                }
                Value::Text(text) | Value::Binary(text) => {
                    write_json(out, column.type_oid, text, self.types);
                    !self.trimmed || out.len() - from <= MAX_TRIMMED_VALUE
                }
                Value::Unchanged => false,
            };
            if !keep {
                out.truncate(before);
            }
        }
        out.push(b'}');
    }
}

/// What the log has of the old row.
fn old_tuple<'a>(change: &Change<'a>) -> Option<&'a Tuple> {
    match change.old {
        Some(OldTuple::Full(old) | OldTuple::Key(old)) => Some(old),
        None => None,
    }
}

/// The bytes of a row's values as the log has them.
fn raw_bytes(tuple: Option<&Tuple>) -> usize {
    let size = |value: &Value| if let Value::Text(text) = value { text.len() } else { 0 };
    tuple.into_iter().flatten().map(size).sum()
}

/// Whether the change, of so many raw bytes, is over the limit of 2.7. The exact size is computed only where a bound does
/// not decide.
fn is_too_large(table: &Table, change: &Change<'_>, raw: usize, types: &TypeRegistry) -> bool {
    let fixed: usize =
        table.columns.iter().map(|column| column.name.len() + COLUMN_OVERHEAD).sum::<usize>() * 2;
    if raw * MAX_ESCAPE + fixed <= MAX_DOCUMENT {
        return false;
    }
    let old = old_tuple(change);
    let mut value_json = Vec::new();
    let mut size = 200;
    let key_only = matches!(change.old, Some(OldTuple::Key(_)));
    for (tuple, only_identity, other) in [(change.new, false, old), (old, key_only, None)] {
        let Some(tuple) = tuple else { continue };
        for (at, (column, value)) in change.relation.columns.iter().zip(tuple).enumerate() {
            if is_taken_from(other, at, value) || (only_identity && !column.identity) {
                continue;
            }
            value_json.clear();
            match value {
                Value::Text(text) | Value::Binary(text) => {
                    write_json(&mut value_json, column.type_oid, text, types)
                }
                Value::Null => value_json.extend_from_slice(b"null"),
                Value::Unchanged => continue,
            }
            size += value_json.len() + column.name.len() + COLUMN_OVERHEAD;
        }
    }
    size > MAX_DOCUMENT
}

/// Whether a new value is the old row's: the log has it once.
fn is_taken_from(old: Option<&Tuple>, at: usize, value: &Value) -> bool {
    match (value, old.and_then(|old| old.get(at))) {
        (Value::Text(new), Some(Value::Text(old))) => !new.is_empty() && new.as_ptr() == old.as_ptr(),
        _ => false,
    }
}
