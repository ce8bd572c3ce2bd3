//! Values of `jsonb` as PostgreSQL writes and compares them. Documents are compared here only when their texts are equal.

use std::{borrow::Cow, cmp::Ordering};

use crate::value::Family;

/// A value that is neither object nor array. In the order of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Null,
    Text,
    Number,
    Bool,
}

fn kind(text: &[u8]) -> Option<Kind> {
    match text.first()? {
        b'n' => Some(Kind::Null),
        b'"' => Some(Kind::Text),
        b't' | b'f' => Some(Kind::Bool),
        b'-' | b'0'..=b'9' => Some(Kind::Number),
        _ => None,
    }
}

/// What scalars are equal by. `None` for documents.
pub(crate) fn key(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    match kind(text)? {
        Kind::Null | Kind::Bool => Some(Cow::Borrowed(text)),
        Kind::Number => {
            let key = Family::Numeric.key(text)?;
            Some(Cow::Owned([b"0", &*key].concat()))
        }
        // Written in one way only.
        Kind::Text => Some(Cow::Borrowed(text)),
    }
}

/// The order of two scalars. Texts are ordered by their bytes only in a database whose collation is `C`.
pub(crate) fn compare(a: &[u8], b: &[u8], collation_is_c: bool) -> Option<Ordering> {
    match (kind(a)?, kind(b)?) {
        (Kind::Null, Kind::Null) => Some(Ordering::Equal),
        (Kind::Bool, Kind::Bool) => Some((a.first() == Some(&b't')).cmp(&(b.first() == Some(&b't')))),
        (Kind::Number, Kind::Number) => Family::Numeric.compare(a, b),
        (Kind::Text, Kind::Text) if collation_is_c => {
            let text = |json: &[u8]| serde_json::from_slice::<String>(json).ok();
            Some(text(a)?.cmp(&text(b)?))
        }
        (Kind::Text, Kind::Text) => None,
        (a, b) => Some(a.cmp(&b)),
    }
}

/// Whether two values are equal. `None` if the database has to be asked.
pub(crate) fn equal(a: &[u8], b: &[u8]) -> Option<bool> {
    match (key(a), key(b)) {
        (Some(a), Some(b)) => Some(a == b),
        (None, None) if a == b => Some(true),
        (None, None) => None,
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_compare_and_documents_are_left() {
        let equal = |a: &str, b: &str| equal(a.as_bytes(), b.as_bytes());
        assert_eq!(equal("1.50", "1.5"), Some(true));
        assert_eq!(equal("\"1\"", "1"), Some(false));
        assert_eq!(equal("null", "null"), Some(true));
        assert_eq!(equal("{}", "1"), Some(false));
        assert_eq!(equal("[1.0]", "[1]"), None);
        assert_eq!(equal("[1]", "[1]"), Some(true));
        let compare = |a: &str, b: &str| compare(a.as_bytes(), b.as_bytes(), false);
        assert_eq!(compare("9", "10"), Some(Ordering::Less));
        assert_eq!(compare("null", "\"a\""), Some(Ordering::Less));
        assert_eq!(compare("true", "99"), Some(Ordering::Greater));
        assert_eq!(compare("false", "true"), Some(Ordering::Less));
        assert_eq!(compare("\"a\"", "\"b\""), None);
        assert_eq!(compare("[]", "1"), None);
    }
}
