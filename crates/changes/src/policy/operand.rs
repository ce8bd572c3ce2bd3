//! What a condition takes from a row: a column, or something that is made of it and means the same here as in
//! PostgreSQL. Where a value is one of those that could mean something else, the database is asked.

use std::{borrow::Cow, collections::HashMap};

use realtime_pgoutput::Oid;
use serde_json::value::RawValue;

use super::types::{BOOL, INT2, INT4, INT8, UUID};
use crate::{cell::Cell, literal};

/// A column, and what is done with its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Operand {
    pub(super) column: usize,
    pub(super) steps: Vec<Step>,
}

/// Something that is done with a text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// A boolean as the cast to text spells it.
    BoolText,
    /// `char(n)` as text: without the blanks at its end.
    TrimBlanks,
    /// `->` some keys and `->>` the last one.
    JsonText(Box<[Box<str>]>),
    /// `lower()`.
    Lower,
    /// A text read as a value of a type.
    Read(Oid),
    /// `coalesce(…, constant)`.
    OrElse(Box<[u8]>),
}

/// What an operand gives for a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Got<'a> {
    Null,
    Text(Cow<'a, [u8]>),
    /// Only the database knows.
    Open,
}

impl Operand {
    /// What it gives for a row's value. What the row has is not copied.
    pub(super) fn take<'a>(&self, cell: Cell<'a>) -> Got<'a> {
        self.apply(match cell {
            Cell::Missing => return Got::Open,
            Cell::Null => Got::Null,
            Cell::Text(text) => Got::Text(Cow::Borrowed(&text[..])),
        })
    }

    fn apply<'a>(&self, from: Got<'a>) -> Got<'a> {
        self.steps.iter().fold(from, |got, step| match (step, got) {
            (_, Got::Open) => Got::Open,
            (Step::OrElse(constant), Got::Null) => Got::Text(Cow::Owned(constant.to_vec())),
            (_, Got::Null) => Got::Null,
            (step, Got::Text(text)) => step.apply(text),
        })
    }
}

impl Step {
    fn apply<'a>(&self, text: Cow<'a, [u8]>) -> Got<'a> {
        match self {
            Self::BoolText => Got::Text(Cow::Borrowed(if *text == *b"t" { b"true" } else { b"false" })),
            Self::TrimBlanks => {
                let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
                Got::Text(match text {
                    Cow::Borrowed(text) => Cow::Borrowed(text.get(..end).unwrap_or(text)),
                    Cow::Owned(mut text) => {
                        text.truncate(end);
                        Cow::Owned(text)
                    }
                })
            }
            Self::JsonText(path) => json_text(&text, path),
            Self::Lower => lower(text),
            Self::Read(oid) => read(text, *oid),
            Self::OrElse(_) => Got::Text(text),
        }
    }
}

/// In ASCII only an `I` has a small letter that depends on the locale.
fn lower(text: Cow<'_, [u8]>) -> Got<'_> {
    if !text.is_ascii() || text.contains(&b'I') {
        return Got::Open;
    }
    if text.iter().any(u8::is_ascii_uppercase) {
        return Got::Text(Cow::Owned(text.to_ascii_lowercase()));
    }
    Got::Text(text)
}

/// A text in the one form that a type writes is its value; what other texts mean, or raise, the database knows.
fn read(text: Cow<'_, [u8]>, oid: Oid) -> Got<'_> {
    if oid == BOOL {
        return match &*text {
            b"true" => Got::Text(Cow::Borrowed(b"t")),
            b"false" => Got::Text(Cow::Borrowed(b"f")),
            _ => Got::Open,
        };
    }
    if std::str::from_utf8(&text).is_ok_and(|text| is_written(text, oid)) {
        Got::Text(text)
    } else {
        Got::Open
    }
}

/// Whether a text is certain to be a value of a type, in the form that the type writes.
pub(super) fn is_written(text: &str, oid: Oid) -> bool {
    matches!(oid, INT2 | INT4 | INT8 | UUID) && literal::is_value(text, oid)
}

/// The text below a path of keys. In arrays and scalars there are no keys.
fn json_text<'a>(text: &[u8], path: &[Box<str>]) -> Got<'a> {
    let Ok(mut text) = std::str::from_utf8(text) else { return Got::Open };
    let mut found: &RawValue;
    let mut parents: HashMap<Cow<'_, str>, &RawValue>;
    for key in path {
        if !text.trim_start().starts_with('{') {
            // Whatever it is, it has to be read for the errors that PostgreSQL would find.
            return if serde_json::from_str::<&RawValue>(text).is_ok() { Got::Null } else { Got::Open };
        }
        parents = match serde_json::from_str(text) {
            Ok(parents) => parents,
            Err(_) => return Got::Open,
        };
        // Of equal keys the last one counts.
        found = match parents.get(&**key) {
            Some(found) => found,
            None => return Got::Null,
        };
        text = found.get();
    }
    match text.as_bytes().first() {
        Some(b'n') => Got::Null,
        Some(b'"') => match serde_json::from_str::<String>(text) {
            Ok(text) if !text.contains('\0') => Got::Text(Cow::Owned(text.into_bytes())),
            _ => Got::Open,
        },
        Some(_) => Got::Text(Cow::Owned(text.as_bytes().to_vec())),
        None => Got::Open,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn got(steps: Vec<Step>, text: &str) -> Option<Option<String>> {
        let text = Bytes::copy_from_slice(text.as_bytes());
        match (Operand { column: 0, steps }).take(Cell::Text(&text)) {
            Got::Open => None,
            Got::Null => Some(None),
            Got::Text(text) => Some(Some(String::from_utf8(text.into_owned()).unwrap())),
        }
    }

    fn text(text: &str) -> Option<Option<String>> {
        Some(Some(text.to_owned()))
    }

    #[test]
    fn json_paths() {
        let path = |keys: &[&str]| vec![Step::JsonText(keys.iter().map(|key| Box::from(*key)).collect())];
        let json =
            r#"{"a": {"b": "x\u0041", "n": 1.50, "o": {"k": [1, 2]}, "z": null}, "t": true, "t": false}"#;
        assert_eq!(got(path(&["a", "b"]), json), text("xA"));
        assert_eq!(got(path(&["a", "n"]), json), text("1.50"));
        assert_eq!(got(path(&["a", "o"]), json), text(r#"{"k": [1, 2]}"#));
        assert_eq!(got(path(&["a", "z"]), json), Some(None));
        assert_eq!(got(path(&["a", "z", "y"]), json), Some(None));
        assert_eq!(got(path(&["t"]), json), text("false"));
        assert_eq!(got(path(&["x"]), json), Some(None));
        assert_eq!(got(path(&["x"]), "[1]"), Some(None));
        assert_eq!(got(path(&["x"]), "5"), Some(None));
        assert_eq!(got(path(&["x"]), r#"{"x": "\ud800"}"#), None);
        assert_eq!(got(path(&["x"]), r#"{"x": "\u0000"}"#), None);
    }

    #[test]
    fn what_could_mean_something_else_is_open() {
        assert_eq!(got(vec![Step::Lower], "aBc"), text("abc"));
        assert_eq!(got(vec![Step::Lower], "I"), None);
        assert_eq!(got(vec![Step::Lower], "É"), None);
        assert_eq!(got(vec![Step::Read(INT4)], "12"), text("12"));
        assert_eq!(got(vec![Step::Read(INT4)], " 12"), None);
        assert_eq!(got(vec![Step::Read(INT4)], "3000000000"), None);
        assert_eq!(got(vec![Step::Read(UUID)], "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"), None);
        assert_eq!(got(vec![Step::Read(BOOL)], "true"), text("t"));
        assert_eq!(got(vec![Step::Read(BOOL)], "yes"), None);
        assert_eq!(got(vec![Step::TrimBlanks], "a b  "), text("a b"));
        assert_eq!(got(vec![Step::BoolText], "t"), text("true"));
    }
}
