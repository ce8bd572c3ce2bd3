//! Parts of JSON texts, found without making anything of the rest.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer as _, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The members of these names of a JSON object; `None` if the text is no object. The last of a name counts.
pub(crate) fn members<'a, const N: usize>(
    object: &'a [u8],
    names: [&str; N],
) -> Option<[Option<&'a RawValue>; N]> {
    let mut json = serde_json::Deserializer::from_slice(object);
    let found = json.deserialize_map(Members(&names)).ok()?;
    json.end().ok()?;
    Some(found)
}

struct Members<'n, const N: usize>(&'n [&'n str; N]);

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(at) = map.next_key_seed(Name(self.0))? {
            match at.and_then(|at| found.get_mut(at)) {
                Some(place) => *place = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// Which of these names a key is.
struct Name<'n, const N: usize>(&'n [&'n str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Name<'_, N> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'de>>(self, key: D) -> Result<Self::Value, D::Error> {
        key.deserialize_str(self)
    }
}

impl<const N: usize> Visitor<'_> for Name<'_, N> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| *name == key))
    }
}

/// The entries of a JSON list, none of them read. `None` if there are more than `max`: then most were not looked at.
pub(super) fn entries(list: &RawValue, max: usize) -> Option<Vec<&RawValue>> {
    // Its text is known to be a list: nothing else than its length can be wrong.
    serde_json::Deserializer::from_str(list.get()).deserialize_seq(Entries(max)).ok()
}

struct Entries(usize);

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            if entries.len() == self.0 {
                return Err(A::Error::custom("too many"));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_the_last_of_their_names() {
        let found = |text: &'static str| {
            members(text.as_bytes(), ["a", "b"]).map(|found| found.map(|raw| raw.map(RawValue::get)))
        };
        assert_eq!(found(r#" {"a":1,"c":[2],"\u0061": [3] , "b":null} "#), Some([Some("[3]"), Some("null")]));
        assert_eq!(found("{}"), Some([None, None]));
        for text in ["[]", "5", "", "{} x", r#"{"a":}"#, r#"{"a":1"#] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    #[test]
    fn entries_are_counted() {
        let list: Box<RawValue> = serde_json::from_str("[1, {\"a\": [2]}, null]").unwrap();
        let texts: Vec<_> = entries(&list, 3).unwrap().iter().map(|raw| raw.get()).collect();
        assert_eq!(texts, ["1", "{\"a\": [2]}", "null"]);
        assert!(entries(&list, 2).is_none());
    }
}
