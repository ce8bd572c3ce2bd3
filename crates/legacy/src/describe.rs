//! How a table is described in payloads (legacy 3).

use realtime_pgoutput::{Oid, json::write_json_string, message::Relation};

/// Stands for a value that an update left alone and that is not in the log.
pub(crate) const UNCHANGED: &str = "unchanged_toast";

/// A member's name and the colon after it.
pub(crate) fn member(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write_json_string(&mut out, name.as_bytes());
    out.push(b':');
    out
}

/// The columns of a table as JSON. A type without a name is written as its number.
pub(crate) fn columns<'a>(relation: &Relation, type_name: impl Fn(Oid) -> Option<&'a str>) -> Vec<u8> {
    let mut out = vec![b'['];
    for (at, column) in relation.columns.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"name\":");
        write_json_string(&mut out, column.name.as_bytes());
        out.extend_from_slice(b",\"type\":");
        match type_name(column.type_oid) {
            Some(name) => write_json_string(&mut out, name.as_bytes()),
            None => out.extend_from_slice(column.type_oid.to_string().as_bytes()),
        }
        let flags: &[u8] = if column.identity { b",\"flags\":[\"key\"]" } else { b",\"flags\":[]" };
        out.extend_from_slice(flags);
        // Clients know "none" as the greatest unsigned number, not as -1.
        let modifier = column.type_modifier.cast_unsigned();
        out.extend_from_slice(format!(",\"type_modifier\":{modifier}}}").as_bytes());
    }
    out.push(b']');
    out
}
