//! Values as the reference's language renders them: part of texts that clients see (postgres_changes 1.7).

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// A string, quoted.
pub(crate) fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{1b}' => out.push_str("\\e"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            '\u{7}' => out.push_str("\\a"),
            '\u{7f}' => out.push_str("\\d"),
            '\0' => out.push_str("\\0"),
            '#' => out.push('#'),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A list of strings.
pub(crate) fn strings<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<String> = texts.into_iter().map(string).collect();
    format!("[{}]", texts.join(", "))
}

/// A map with string keys, in the order of its keys.
pub(crate) fn map(map: &Map<String, Value>) -> String {
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort_unstable();
    let members: Vec<String> =
        keys.iter().filter_map(|key| Some(format!("{} => {}", string(key), value(map.get(*key)?)))).collect();
    format!("%{{{}}}", members.join(", "))
}

fn value(json: &Value) -> String {
    match json {
        Value::Null => "nil".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => string(text),
        Value::Array(elements) => {
            let elements: Vec<String> = elements.iter().map(value).collect();
            format!("[{}]", elements.join(", "))
        }
        Value::Object(members) => map(members),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renderings() {
        let json = serde_json::json!({"b": null, "a": [1, "x\"y", true], "c": {}});
        let Value::Object(json) = json else { panic!("object") };
        assert_eq!(map(&json), r#"%{"a" => [1, "x\"y", true], "b" => nil, "c" => %{}}"#);
        assert_eq!(strings(["a", "é"]), r#"["a", "é"]"#);
    }
}
