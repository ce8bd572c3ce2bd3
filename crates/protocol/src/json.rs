//! Writing JSON text, and what is looked for in that of others.

/// Appends a JSON string: quoted, with what must be escaped escaped.
pub fn write_json_string(out: &mut Vec<u8>, text: &str) {
    // Writing to a vector cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// Whether a JSON text escapes half of a character only (`"\ud800"`), in a key or in a value. Parsers that look for the
/// grammar alone let it pass; many receivers drop the whole message then.
///
/// The text must be JSON: a backslash stands in strings only there. Linear, and as fast as a search for one byte while
/// there is none.
#[must_use]
pub fn has_lone_surrogate(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        rest = rest.get(at..).unwrap_or_default();
        let taken = match escaped_unit(rest) {
            None => 2,
            Some(0xD800..=0xDBFF) => match rest.get(6..).and_then(escaped_unit) {
                Some(0xDC00..=0xDFFF) => 12,
                _ => return true,
            },
            Some(0xDC00..=0xDFFF) => return true,
            Some(_) => 6,
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    false
}

/// The UTF-16 unit that a text begins with as an escape (`\u` and four digits).
fn escaped_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | u16::try_from(digit).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn halves_of_characters_are_found_wherever_they_are() {
        for text in [
            r#""\ud800""#,
            r#""\uDFFF""#,
            r#"{"\uD83D":1}"#,
            r#"["\ude00\ud83d"]"#,
            r#""\ud83d\u0041""#,
            r#""\ud83d\\ude00""#,
            r#""\ud83d""#,
            r#""\\\ud83dx""#,
        ] {
            assert!(has_lone_surrogate(text.as_bytes()), "{text}");
        }
        for text in
            ["{}", r#""\ud83d\ude00""#, r#""\\ud800""#, r#""\u0041\n\"\\""#, r#""\uD7FF\uE000""#, "\"\\"]
        {
            assert!(!has_lone_surrogate(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        /// Those texts of escapes are refused that a JSON parser cannot make a string of.
        #[test]
        fn a_parser_agrees(parts in prop::collection::vec(
            prop::sample::select(vec!["\\ud83d", "\\ude00", "\\\\", "\\n", "ud800", "x", "\\u0041"]), 0..9,
        )) {
            let text = format!("\"{}\"", parts.concat());
            let parsed = serde_json::from_str::<String>(&text);
            prop_assert_eq!(has_lone_surrogate(text.as_bytes()), parsed.is_err(), "{}", text);
        }
    }
}
