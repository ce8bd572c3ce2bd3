//! The size of a payload as the reference counts it (protocol 5.2): that of its Erlang external term.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::{Encoding, UserBroadcast};

/// Lengths of the external form of what surrounds a user broadcast's event and body.
const USER_BROADCAST_OVERHEAD: usize = 25;

/// External term size of a JSON text, in bytes; its length for what is no JSON.
#[must_use]
pub fn external_size(json: &[u8]) -> usize {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Term.deserialize(&mut deserializer).map_or(json.len(), |size| size + 1)
}

/// Whether a JSON text is larger than `limit` bytes by that measure.
///
/// The measure is at most six times the text plus one (a `true` in an object of empty keys comes close), so
/// that small messages need no look at their content.
#[must_use]
pub fn exceeds(json: &[u8], limit: usize) -> bool {
    json.len().saturating_mul(6).saturating_add(1) > limit && external_size(json) > limit
}

impl UserBroadcast {
    /// Size of the broadcast as the reference counts it, in bytes. The body is not looked into.
    #[must_use]
    pub fn external_size(&self) -> usize {
        let encoding = match self.encoding {
            Encoding::Binary => 6,
            Encoding::Json => 4,
        };
        self.body.len() + self.event.len() + encoding + USER_BROADCAST_OVERHEAD
    }
}

/// Adds up the size of one value while it is parsed; nothing is built.
struct Term;

impl<'de> DeserializeSeed<'de> for Term {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Term {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, flag: bool) -> Result<usize, E> {
        Ok(if flag { 6 } else { 7 })
    }

    fn visit_unit<E>(self) -> Result<usize, E> {
        Ok(5)
    }

    fn visit_i64<E>(self, number: i64) -> Result<usize, E> {
        Ok(integer(i128::from(number)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<usize, E> {
        Ok(integer(i128::from(number)))
    }

    fn visit_f64<E>(self, _: f64) -> Result<usize, E> {
        Ok(9)
    }

    fn visit_str<E>(self, text: &str) -> Result<usize, E> {
        Ok(5 + text.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<usize, A::Error> {
        let (mut size, mut count, mut bytes_only) = (6, 0usize, true);
        while let Some(element) = seq.next_element_seed(Term)? {
            count += 1;
            // Only an integer 0 to 255 has size 2.
            bytes_only &= element == 2;
            size += element;
        }
        Ok(match count {
            0 => 1,
            1..=65_535 if bytes_only => 3 + count,
            _ => size,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
        let mut size = 5usize;
        while let Some(key) = map.next_key_seed(Term)? {
            let value = map.next_value_seed(Term)?;
            size = size.checked_add(key + value).ok_or_else(|| A::Error::custom("too large"))?;
        }
        Ok(size)
    }
}

/// Small, 32-bit and big integers.
fn integer(number: i128) -> usize {
    if (0..=255).contains(&number) {
        2
    } else if i32::try_from(number).is_ok() {
        5
    } else {
        let bytes = (128 - number.unsigned_abs().leading_zeros()).div_ceil(8);
        3 + bytes as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// The known points of protocol 5.2.
    #[test]
    fn known_points() {
        for (json, size) in [
            ("{}", 6),
            (r#"{"a":"b"}"#, 18),
            (r#"{"A":"b","c":"b"}"#, 30),
            ("[]", 2),
            ("[1,2,255]", 7),
            ("[1,256]", 14),
            ("null", 6),
            ("1.5", 10),
            ("-1", 6),
            ("4294967296", 9),
            (r#""é""#, 8),
        ] {
            assert_eq!(external_size(json.as_bytes()), size, "{json}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (0u8..=255).prop_map(Value::from),
            "\\PC{0,9}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map("\\PC{0,5}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// The shortcut of `exceeds` never lets a large message pass.
        #[test]
        fn the_shortcut_agrees(json in any_json(), limit in 0usize..200) {
            let text = json.to_string();
            prop_assert_eq!(exceeds(text.as_bytes(), limit), external_size(text.as_bytes()) > limit);
        }
    }
}
