//! Values that are compared here instead of in the database.
//!
//! Both sides are texts that PostgreSQL's output functions wrote in sessions with the same settings. Invariant:
//! two values of a family are equal in SQL exactly if their keys are equal; the hash index stands on it.

use std::{borrow::Cow, cmp::Ordering};

use realtime_pgoutput::Oid;

/// Types that compare alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// `bool`.
    Bool,
    /// `int2`, `int4`, `int8`, `oid`.
    Integer,
    /// `float4`, `float8`: NaN equals itself and is the largest, −0 equals 0.
    Float,
    /// `numeric`: trailing zeros do not matter.
    Numeric,
    /// `text`, `varchar`, `name`: equal if their bytes are; their order is the collation's.
    Text,
    /// `char(n)`: trailing blanks do not matter.
    Padded,
    /// `uuid` and `bytea`: equal and ordered as their text is.
    Bytes,
    /// `date`, `time`, `timestamp`, `timestamptz`: one text for each value; ordered by the database.
    Time,
}

impl Family {
    /// The family of a built-in type; `None` is left to the database.
    pub(crate) const fn of(base_oid: Oid) -> Option<Self> {
        Some(match base_oid {
            16 => Self::Bool,
            20 | 21 | 23 | 26 => Self::Integer,
            700 | 701 => Self::Float,
            1700 => Self::Numeric,
            19 | 25 | 1043 => Self::Text,
            1042 => Self::Padded,
            17 | 2950 => Self::Bytes,
            1082 | 1083 | 1114 | 1184 => Self::Time,
            _ => return None,
        })
    }

    /// What values are equal by. `None` if the text is not of the family.
    pub(crate) fn key(self, text: &[u8]) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Bool | Self::Integer | Self::Text | Self::Bytes | Self::Time => Some(Cow::Borrowed(text)),
            Self::Padded => Some(Cow::Borrowed(trim_blanks(text))),
            Self::Float => {
                let value = float(text)?;
                let value = if value.is_nan() { f64::NAN } else { value + 0.0 };
                Some(Cow::Owned(value.to_bits().to_be_bytes().to_vec()))
            }
            Self::Numeric => Some(Cow::Owned(Decimal::parse(text)?.key())),
        }
    }

    /// Whether [`compare`](Self::compare) knows the order of values. Texts are ordered by their bytes only
    /// in a database whose collation is `C`.
    pub(crate) const fn is_ordered(self, collation_is_c: bool) -> bool {
        match self {
            Self::Text | Self::Padded => collation_is_c,
            Self::Time => false,
            _ => true,
        }
    }

    /// The order of two values. `None` if a text is not of the family, or the order is the database's affair.
    pub(crate) fn compare(self, a: &[u8], b: &[u8]) -> Option<Ordering> {
        match self {
            Self::Bool | Self::Text | Self::Bytes => Some(a.cmp(b)),
            Self::Padded => Some(trim_blanks(a).cmp(trim_blanks(b))),
            Self::Integer => Some(integer(a)?.cmp(&integer(b)?)),
            Self::Float => {
                let (a, b) = (float(a)?, float(b)?);
                Some(a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())))
            }
            Self::Numeric => Some(Decimal::parse(a)?.cmp(&Decimal::parse(b)?)),
            Self::Time => None,
        }
    }
}

fn trim_blanks(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    text.get(..end).unwrap_or(text)
}

fn integer(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn float(text: &[u8]) -> Option<f64> {
    match text {
        b"NaN" => Some(f64::NAN),
        b"Infinity" => Some(f64::INFINITY),
        b"-Infinity" => Some(f64::NEG_INFINITY),
        text => std::str::from_utf8(text).ok()?.parse().ok(),
    }
}

/// A `numeric`, of any length, without leading zeros of the whole part and trailing zeros of the fraction.
#[derive(Debug, PartialEq, Eq)]
enum Decimal<'a> {
    NegativeInfinity,
    Finite { negative: bool, whole: &'a [u8], fraction: &'a [u8] },
    Infinity,
    NaN,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        match text {
            b"NaN" => return Some(Self::NaN),
            b"Infinity" => return Some(Self::Infinity),
            b"-Infinity" => return Some(Self::NegativeInfinity),
            _ => {}
        }
        let (negative, digits) = text.strip_prefix(b"-").map_or((false, text), |digits| (true, digits));
        let point = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
        let (whole, fraction) = digits.split_at(point);
        let fraction = fraction.strip_prefix(b".").unwrap_or(fraction);
        if digits.is_empty() || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
            return None;
        }
        let start = whole.iter().position(|byte| *byte != b'0').unwrap_or(whole.len());
        let end = fraction.iter().rposition(|byte| *byte != b'0').map_or(0, |last| last + 1);
        let (whole, fraction) = (whole.get(start..)?, fraction.get(..end)?);
        let zero = whole.is_empty() && fraction.is_empty();
        Some(Self::Finite { negative: negative && !zero, whole, fraction })
    }

    fn key(&self) -> Vec<u8> {
        match self {
            Self::NegativeInfinity => b"-i".to_vec(),
            Self::Infinity => b"i".to_vec(),
            Self::NaN => b"n".to_vec(),
            Self::Finite { negative, whole, fraction } => {
                let sign: &[u8] = if *negative { b"-" } else { b"" };
                [sign, whole, b".", fraction].concat()
            }
        }
    }

    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |decimal: &Self| match decimal {
            Self::NegativeInfinity => 0,
            Self::Finite { negative: true, .. } => 1,
            Self::Finite { negative: false, .. } => 2,
            Self::Infinity => 3,
            Self::NaN => 4,
        };
        match (self, other) {
            (
                Self::Finite { negative: a_negative, whole: a_whole, fraction: a_fraction },
                Self::Finite { negative: b_negative, whole: b_whole, fraction: b_fraction },
            ) if a_negative == b_negative => {
                let magnitude = (a_whole.len().cmp(&b_whole.len()))
                    .then_with(|| a_whole.cmp(b_whole))
                    .then_with(|| a_fraction.cmp(b_fraction));
                if *a_negative { magnitude.reverse() } else { magnitude }
            }
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn equal(family: Family, a: &str, b: &str) -> bool {
        family.key(a.as_bytes()).unwrap() == family.key(b.as_bytes()).unwrap()
    }

    #[test]
    fn equality() {
        assert!(equal(Family::Numeric, "1.50", "1.5"));
        assert!(equal(Family::Numeric, "-0.00", "0"));
        assert!(!equal(Family::Numeric, "15", "1.5"));
        assert!(!equal(Family::Numeric, "-1", "1"));
        assert!(equal(Family::Numeric, "NaN", "NaN"));
        assert!(equal(Family::Float, "-0", "0"));
        assert!(equal(Family::Float, "1e+20", "100000000000000000000"));
        assert!(equal(Family::Float, "NaN", "NaN"));
        assert!(equal(Family::Padded, "a  ", "a"));
        assert!(!equal(Family::Text, "a ", "a"));
        assert_eq!(Family::Numeric.key(b"x"), None);
        assert_eq!(Family::Float.key(b""), None);
    }

    #[test]
    fn order() {
        let less = |family: Family, a: &str, b: &str| {
            family.compare(a.as_bytes(), b.as_bytes()) == Some(Ordering::Less)
        };
        let numbers = ["-Infinity", "-12", "-2.5", "-2", "0", "0.09", "0.1", "2", "12", "Infinity", "NaN"];
        for (i, a) in numbers.iter().enumerate() {
            for b in &numbers[i + 1..] {
                assert!(less(Family::Numeric, a, b) && less(Family::Float, a, b), "{a} < {b}");
            }
        }
        assert!(less(Family::Integer, "9", "10"));
        assert!(less(Family::Bool, "f", "t"));
        assert!(less(Family::Bytes, "\\x01", "\\x0100"));
    }

    proptest! {
        #[test]
        fn decimals_agree_with_integers(a: i64, b: i64, scale in 0usize..5) {
            let text = |n: i64| format!("{n}.{}", "0".repeat(scale)).trim_end_matches('.').to_owned();
            let (x, y) = (text(a), text(b));
            prop_assert_eq!(Family::Numeric.compare(x.as_bytes(), y.as_bytes()), Some(a.cmp(&b)));
            prop_assert_eq!(equal(Family::Numeric, &x, &b.to_string()), a == b);
        }
    }
}
