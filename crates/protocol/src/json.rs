//! Writing JSON text.

/// Appends a JSON string: quoted, with what must be escaped escaped.
pub fn write_json_string(out: &mut Vec<u8>, text: &str) {
    // Writing to a vector cannot fail.
    let _ = serde_json::to_writer(out, text);
}
