//! Values as JSON (postgres_changes 2.3, 7.6; spec README, decision 4).
//!
//! Input is the text that a type's output function writes in a session with ISO dates, PostgreSQL intervals,
//! hexadecimal bytea and shortest floats. Text that a type could not have written becomes a JSON string.

use crate::{
    Oid, TypeKind, TypeRegistry,
    array::{Element, parse_array},
    composite::parse_row,
    hstore, oid,
};

/// Deepest nesting of arrays and composites that is taken apart; below it text stands as a string.
const MAX_DEPTH: usize = 32;

/// Appends a value of a type as JSON.
///
/// Total: whatever the text is, one JSON value is appended. For `json` and `jsonb` the text is passed through
/// as the server validated it; only half characters, which `json` may hold, are replaced.
pub fn write_json(out: &mut Vec<u8>, type_oid: Oid, text: &[u8], types: &TypeRegistry) {
    write(out, type_oid, text, types, 0);
}

/// `depth` is 0 for a column's value, more inside of arrays and composites, where some types look different.
fn write(out: &mut Vec<u8>, type_oid: Oid, text: &[u8], types: &TypeRegistry, depth: usize) {
    let written = match type_oid {
        oid::INT2 | oid::INT4 | oid::INT8 if is_number(text) => {
            out.extend_from_slice(text);
            true
        }
        oid::NUMERIC | oid::FLOAT4 | oid::FLOAT8 => write_number(out, text, depth),
        oid::BOOL => match text {
            b"t" => push(out, b"true"),
            b"f" => push(out, b"false"),
            _ => false,
        },
        oid::JSON => {
            push_whole(out, text);
            true
        }
        oid::JSONB => push(out, text),
        oid::BYTEA if depth == 0 => text.strip_prefix(b"\\x").is_some_and(|hex| push_string(out, hex)),
        oid::TIMESTAMP => write_timestamp(out, text),
        oid::TIMESTAMPTZ => write_timestamptz(out, text),
        oid::INT2_VECTOR => write_vector(out, text, false),
        oid::OID_VECTOR => write_vector(out, text, true),
        _ => write_made_up(out, type_oid, text, types, depth),
    };
    if !written {
        write_json_string(out, text);
    }
}

fn push(out: &mut Vec<u8>, json: &[u8]) -> bool {
    out.extend_from_slice(json);
    true
}

/// Appends JSON text with U+FFFD in place of halves of characters (`"\ud800"`), which many parsers refuse.
fn push_whole(out: &mut Vec<u8>, json: &[u8]) {
    let mut rest = json;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (before, escape) = rest.split_at(at);
        out.extend_from_slice(before);
        let (taken, whole) = match escaped_unit(escape) {
            None => (2, true),
            Some(0xD800..=0xDBFF) => match escape.get(6..).and_then(escaped_unit) {
                Some(0xDC00..=0xDFFF) => (12, true),
                _ => (6, false),
            },
            Some(0xDC00..=0xDFFF) => (6, false),
            Some(_) => (6, true),
        };
        let (escape, after) = escape.split_at(taken.min(escape.len()));
        out.extend_from_slice(if whole { escape } else { b"\\ufffd" });
        rest = after;
    }
    out.extend_from_slice(rest);
}

/// The UTF-16 unit that a text begins with as an escape (`\u` and four digits).
fn escaped_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | u16::try_from(digit).ok()?)
    })
}

fn push_string(out: &mut Vec<u8>, text: &[u8]) -> bool {
    write_json_string(out, text);
    true
}

/// Types that consist of others. False if it is none, or the text is not of its form.
fn write_made_up(out: &mut Vec<u8>, type_oid: Oid, text: &[u8], types: &TypeRegistry, depth: usize) -> bool {
    let Some(info) = types.get(type_oid).filter(|_| depth < MAX_DEPTH) else { return false };
    match &info.kind {
        TypeKind::Domain(base) => {
            // As deep as the domain's own value, but one step nearer to the limit.
            if types.base(*base) == type_oid {
                return false;
            }
            write(out, types.base(*base), text, types, depth);
            true
        }
        TypeKind::Array { element, delimiter } => match parse_array(text, *delimiter) {
            Some(elements) => {
                write_array(out, *element, &elements, types, depth + 1);
                true
            }
            None => false,
        },
        // Without attributes `()` is a row of none, not of one that is NULL.
        TypeKind::Composite(attributes) if attributes.is_empty() && text == b"()" => push(out, b"{}"),
        TypeKind::Composite(attributes) => match parse_row(text) {
            Some(fields) if fields.len() == attributes.len() => {
                out.push(b'{');
                for (i, ((name, oid), field)) in attributes.iter().zip(fields).enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    write_json_string(out, name.as_bytes());
                    out.push(b':');
                    match field {
                        Some(field) => write(out, *oid, &field, types, depth + 1),
                        None => out.extend_from_slice(b"null"),
                    }
                }
                out.push(b'}');
                true
            }
            _ => false,
        },
        TypeKind::Scalar if &*info.name == "hstore" => write_hstore(out, text),
        TypeKind::Scalar => false,
    }
}

fn write_array(
    out: &mut Vec<u8>,
    element: Oid,
    elements: &[Element<'_>],
    types: &TypeRegistry,
    depth: usize,
) {
    out.push(b'[');
    for (i, value) in elements.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        match value {
            Element::Null => out.extend_from_slice(b"null"),
            Element::Value(text) => write(out, element, text, types, depth),
            Element::Array(inner) => write_array(out, element, inner, types, depth),
        }
    }
    out.push(b']');
}

fn write_hstore(out: &mut Vec<u8>, text: &[u8]) -> bool {
    let Some(pairs) = hstore::parse(text) else { return false };
    out.push(b'{');
    for (i, (key, value)) in pairs.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_json_string(out, key);
        out.push(b':');
        match value {
            Some(value) => write_json_string(out, value),
            None => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
    true
}

/// Numbers stand as they are. What JSON has no number for is null as a column, a string deeper down.
fn write_number(out: &mut Vec<u8>, text: &[u8], depth: usize) -> bool {
    match text {
        b"NaN" | b"Infinity" | b"-Infinity" if depth == 0 => push(out, b"null"),
        _ if is_number(text) => push(out, text),
        _ => false,
    }
}

/// Whether a text is a number by the grammar of JSON (RFC 8259 6).
fn is_number(text: &[u8]) -> bool {
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(unsigned);
    if whole == 0 || (whole > 1 && unsigned.starts_with(b"0")) {
        return false;
    }
    let mut rest = unsigned.get(whole..).unwrap_or_default();
    if let Some(fraction) = rest.strip_prefix(b".") {
        let len = digits(fraction);
        if len == 0 {
            return false;
        }
        rest = fraction.get(len..).unwrap_or_default();
    }
    if let Some(exponent) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let exponent =
            exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-")).unwrap_or(exponent);
        let len = digits(exponent);
        return len > 0 && len == exponent.len();
    }
    rest.is_empty()
}

/// `2024-01-02 03:04:05.1` with a `T`; `infinity` and the like stay.
fn write_timestamp(out: &mut Vec<u8>, text: &[u8]) -> bool {
    let Some((date, time)) = date_and_time(text) else { return false };
    write_json_string(out, &[date, b"T", time].concat());
    true
}

/// Writes a timestamp with a zone of hours and minutes: `+00` becomes `+00:00`.
fn write_timestamptz(out: &mut Vec<u8>, text: &[u8]) -> bool {
    let Some((date, time)) = date_and_time(text) else { return false };
    let Some(sign) = time.iter().rposition(|byte| matches!(byte, b'+' | b'-')) else { return false };
    let (clock, zone) = time.split_at(sign);
    // Years before Christ end in " BC", behind the zone.
    let end = zone.iter().position(|byte| *byte == b' ').unwrap_or(zone.len());
    let (zone, era) = zone.split_at(end);
    let minutes: &[u8] = if zone.contains(&b':') { b"" } else { b":00" };
    write_json_string(out, &[date, b"T", clock, zone, minutes, era].concat());
    true
}

fn date_and_time(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    let (date, time) = (text.get(..space)?, text.get(space + 1..)?);
    time.first().is_some_and(u8::is_ascii_digit).then_some((date, time))
}

/// `1 2 3`, as numbers or as strings.
fn write_vector(out: &mut Vec<u8>, text: &[u8], quoted: bool) -> bool {
    let numbers = || text.split(|byte| *byte == b' ').filter(|number| !number.is_empty());
    if !numbers().all(is_number) {
        return false;
    }
    out.push(b'[');
    for (i, number) in numbers().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        if quoted { write_json_string(out, number) } else { out.extend_from_slice(number) }
    }
    out.push(b']');
    true
}

/// Appends a JSON string. Bytes that are not UTF-8 become replacement characters.
pub fn write_json_string(out: &mut Vec<u8>, text: &[u8]) {
    // Nearly every name and most values: nothing to escape or to replace. Without a branch for each byte.
    let is_plain = |byte: &u8| (byte.wrapping_sub(b' ') < 0x60) & (*byte != b'"') & (*byte != b'\\');
    if text.iter().fold(true, |plain, byte| plain & is_plain(byte)) {
        out.reserve(text.len() + 2);
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
        return;
    }
    // Writing to a vector cannot fail.
    let _ = serde_json::to_writer(out, &*String::from_utf8_lossy(text));
}

#[cfg(test)]
mod tests;
