//! How the rows of a source are told.

use realtime_changes::RowView;
use realtime_live::{Digest, Digester, Secret};
use realtime_pgoutput::message::Tuple;

use crate::live::{Key, Source};

pub(super) fn of(source: &Source) -> RowView {
    let visible = (0..source.table.columns.len()).map(|column| source.columns.contains(&column)).collect();
    let key: &[usize] = match &source.key {
        Key::Columns(key) => key,
        Key::WholeRow => &source.columns,
    };
    RowView::new(&source.table, &source.relation, key, visible)
}

/// The digest of what a view tells of a row.
pub(super) fn digest(view: &RowView, row: &Tuple, secret: Secret) -> Digest {
    let mut digester = Digester::new(secret);
    digester.value(Some(&view.form().to_ne_bytes()));
    view.told(row).for_each(|value| digester.value(value));
    digester.finish()
}

/// Whether the catalog says of two sources the same.
pub(super) fn same_source(one: &Source, other: &Source) -> bool {
    one.oid == other.oid
        && one.kind == other.kind
        && one.table == other.table
        && one.key == other.key
        && one.columns == other.columns
        && one.reads == other.reads
        && one.unpublished == other.unpublished
        && one.doubts == other.doubts
        && one.relations == other.relations
        && one.access == other.access
        && one.sql == other.sql
        && one.literals == other.literals
}
