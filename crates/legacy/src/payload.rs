//! Payloads of changes (legacy 3).

use realtime_pgoutput::{
    json::write_json_string,
    message::{OldTuple, Tuple, Value},
};

use crate::{Event, Plan, Profile};

/// A change of a row, or a truncation if there is neither a new row nor an old one.
pub(crate) fn change(
    plan: &Plan,
    profile: &Profile,
    commit_timestamp: &str,
    event: Event,
    new: Option<&Tuple>,
    old: Option<&OldTuple>,
) -> Vec<u8> {
    let relation = plan.relation();
    let values = [new, old.map(tuple)].into_iter().flatten().flatten();
    let size: usize =
        values.map(|value| if let Value::Text(text) = value { text.len() + 16 } else { 20 }).sum();
    let mut out = Vec::with_capacity(size + plan.columns_json().len() + 256);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(event.as_str().as_bytes());
    out.extend_from_slice(b"\",\"schema\":");
    write_json_string(&mut out, relation.schema.as_bytes());
    out.extend_from_slice(b",\"table\":");
    write_json_string(&mut out, relation.name.as_bytes());
    out.extend_from_slice(b",\"commit_timestamp\":");
    write_json_string(&mut out, commit_timestamp.as_bytes());
    if event != Event::Truncate {
        out.extend_from_slice(b",\"columns\":");
        out.extend_from_slice(plan.columns_json());
        if profile.errors_key {
            out.extend_from_slice(b",\"errors\":null");
        }
    }
    if let Some(new) = new {
        out.extend_from_slice(b",\"record\":");
        record(&mut out, plan, new);
    }
    match (event, old) {
        // An update's old row is written only if it is whole, even if the key has changed.
        (Event::Update, Some(OldTuple::Full(old)))
        | (Event::Delete, Some(OldTuple::Full(old) | OldTuple::Key(old))) => {
            out.extend_from_slice(b",\"old_record\":");
            record(&mut out, plan, old);
        }
        (Event::Update, _) => out.extend_from_slice(b",\"old_record\":{}"),
        _ => {}
    }
    out.push(b'}');
    out
}

fn tuple(old: &OldTuple) -> &Tuple {
    match old {
        OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple,
    }
}

/// A row: every value as text, or null.
fn record(out: &mut Vec<u8>, plan: &Plan, row: &Tuple) {
    out.push(b'{');
    let mut first = true;
    for (at, value) in row.iter().enumerate() {
        let Some((member, text)) = plan.value(at, value) else { break };
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        out.extend_from_slice(member);
        match text {
            Some(text) => write_json_string(out, text.as_bytes()),
            None => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
}
