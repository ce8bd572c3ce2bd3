//! Literals that need no question: PostgreSQL would give them back as they stand.
//!
//! Most filters compare a key with a number, a uuid or a word. When thousands subscribe at once, the round trips that
//! only confirm what can be seen are the greater part of the work.

use crate::{
    Column,
    filter::{Filter, Operator},
    like,
};

const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const TEXT: u32 = 25;
const VARCHAR: u32 = 1043;
const UUID: u32 = 2950;

/// Whether a condition's literal is certain to be accepted and is in canonical form already.
///
/// Never of a domain, whose constraints only the database can check.
pub(crate) fn is_canonical(filter: &Filter, column: &Column) -> bool {
    use Operator::{Eq, Gt, Gte, Ilike, In, IsDistinct, Like, Lt, Lte, Neq};
    if column.type_oid != column.base_oid {
        return false;
    }
    let value = &*filter.value;
    match filter.operator {
        Eq | Neq | Lt | Lte | Gt | Gte | IsDistinct => is_value(value, column.base_oid),
        In => {
            let list = value.strip_prefix('{').and_then(|list| list.strip_suffix('}'));
            list.is_some_and(|list| list.split(',').all(|value| is_element(value, column.base_oid)))
        }
        // Patterns that the database would refuse are left to it.
        Like | Ilike => column.base_oid == TEXT && is_value(value, TEXT) && !like::ends_in_escape(value),
        _ => false,
    }
}

/// Whether an element of a list is certain to be taken as it stands: quotes and escapes are left to the database.
fn is_element(text: &str, oid: u32) -> bool {
    match oid {
        INT2 | INT4 | INT8 | UUID => is_value(text, oid),
        TEXT | VARCHAR => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'@');
            !text.is_empty() && text.bytes().all(plain) && !text.eq_ignore_ascii_case("null")
        }
        _ => false,
    }
}

pub(crate) fn is_value(text: &str, oid: u32) -> bool {
    match oid {
        INT2 => is_integer(text) && text.parse::<i16>().is_ok(),
        INT4 => is_integer(text) && text.parse::<i32>().is_ok(),
        INT8 => is_integer(text) && text.parse::<i64>().is_ok(),
        // The one character that no text of PostgreSQL can hold.
        TEXT | VARCHAR => !text.contains('\0'),
        UUID => is_uuid(text),
        _ => false,
    }
}

/// Digits as PostgreSQL writes them: no sign but `-`, no leading zero.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leading_zero = digits.starts_with('0') && text != "0";
    !digits.is_empty() && !leading_zero && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_uuid(text: &str) -> bool {
    let form = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    text.len() == 36 && text.bytes().enumerate().all(form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_elements() {
        for text in ["a", "ann@example.org", "a-b_c", "nulls"] {
            assert!(is_element(text, TEXT), "{text}");
        }
        for text in ["", "null", "NULL", "a b", "\"a\"", "a\\b", "{a}", " a", "é"] {
            assert!(!is_element(text, TEXT), "{text}");
        }
        assert!(is_element("7", INT4) && !is_element("a", INT4) && !is_element("7", 1700));
    }

    #[test]
    fn canonical_values() {
        for (oid, good, bad) in [
            (
                INT2,
                &["0", "-1", "32767"][..],
                &["", "-", "00", "-0", "+1", " 1", "1 ", "32768", "1e3", "1_0"][..],
            ),
            (INT4, &["2147483647", "-2147483648"], &["2147483648", "0x1", "01"]),
            (INT8, &["9223372036854775807"], &["9223372036854775808", "1.0"]),
            (TEXT, &["", " any text ", "'"], &["a\0b"]),
            (
                UUID,
                &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
                &[
                    "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
                    "a0eebc999c0b4ef8bb6d6bb9bd380a11",
                    "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
                    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g",
                ],
            ),
            (1700, &[], &["1"]),
        ] {
            for text in good {
                assert!(is_value(text, oid), "{oid} {text}");
            }
            for text in bad {
                assert!(!is_value(text, oid), "{oid} {text}");
            }
        }
    }
}
