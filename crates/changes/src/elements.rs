//! Arrays as sets of their elements, for types whose values are compared here.

use std::{collections::HashSet, ops::ControlFlow};

use realtime_pgoutput::{Element, Oid, parse_array};

use crate::value::Family;

/// What an array holds, whatever its dimensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Elements {
    /// Keys of the values. Clients choose them: the hash must not be theirs to foresee.
    pub(crate) keys: HashSet<Box<[u8]>>,
    /// Whether NULL is among them.
    pub(crate) has_null: bool,
}

/// How the elements of two arrays are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Containment {
    /// `@>`: has all elements of the other.
    Contains,
    /// `<@`: the other has all of its elements.
    ContainedBy,
    /// `&&`: they have one in common.
    Overlaps,
}

impl Elements {
    /// The elements of an array as PostgreSQL writes it. `None` if that is left to the database.
    pub(crate) fn of(family: Family, text: &[u8]) -> Option<Self> {
        // Other lower bounds are written before the braces.
        if text.first() != Some(&b'{') {
            return None;
        }
        let mut found = Self { keys: HashSet::new(), has_null: false };
        match found.add(family, &parse_array(text, b',')?) {
            ControlFlow::Continue(()) => Some(found),
            ControlFlow::Break(()) => None,
        }
    }

    /// Nesting is bounded where arrays are parsed.
    fn add(&mut self, family: Family, elements: &[Element<'_>]) -> ControlFlow<()> {
        for element in elements {
            match element {
                Element::Null => self.has_null = true,
                Element::Array(inner) => self.add(family, inner)?,
                Element::Value(value) => match family.key(value) {
                    Some(key) => {
                        self.keys.insert((&*key).into());
                    }
                    None => return ControlFlow::Break(()),
                },
            }
        }
        ControlFlow::Continue(())
    }

    /// Compares with the array of a filter. NULL is equal to nothing. Costs as much as the filter's array is long.
    pub(crate) fn holds(&self, how: Containment, other: &Self) -> bool {
        match how {
            Containment::Contains => !other.has_null && self.has_all(other),
            Containment::ContainedBy => !self.has_null && other.has_all(self),
            Containment::Overlaps => {
                let (few, many) =
                    if self.keys.len() < other.keys.len() { (self, other) } else { (other, self) };
                few.keys.iter().any(|key| many.keys.contains(key))
            }
        }
    }

    /// Both are sets: one that is larger has something that the other has not.
    fn has_all(&self, other: &Self) -> bool {
        other.keys.len() <= self.keys.len() && other.keys.iter().all(|key| self.keys.contains(key))
    }
}

/// The family of the elements of a built-in array type. `None` if it is left to the database.
pub(crate) const fn family_of(array: Oid) -> Option<Family> {
    Family::of(match array {
        1000 => 16,
        1001 => 17,
        1003 => 19,
        1005 => 21,
        1007 => 23,
        1009 => 25,
        1014 => 1042,
        1015 => 1043,
        1016 => 20,
        1021 => 700,
        1022 => 701,
        1028 => 26,
        1115 => 1114,
        1182 => 1082,
        1183 => 1083,
        1185 => 1184,
        1231 => 1700,
        2951 => 2950,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_nesting() {
        let of = |text: &str| Elements::of(Family::Integer, text.as_bytes()).unwrap();
        let holds = |a: &str, how, b: &str| of(a).holds(how, &of(b));
        use Containment::{ContainedBy, Contains, Overlaps};
        assert!(holds("{1,2,2}", Contains, "{2}") && holds("{{1,2},{3,4}}", Contains, "{4,1}"));
        assert!(
            holds("{1}", Contains, "{}") && holds("{}", ContainedBy, "{}") && !holds("{}", Overlaps, "{}")
        );
        assert!(!holds("{1,NULL}", Contains, "{NULL}") && !holds("{NULL}", ContainedBy, "{NULL}"));
        assert!(holds("{1,NULL}", Overlaps, "{1}") && !holds("{NULL}", Overlaps, "{NULL,1}"));
        assert_eq!(Elements::of(Family::Integer, b"[0:1]={1,2}"), None);
        assert_eq!(Elements::of(Family::Numeric, b"{x}"), None);
    }
}
