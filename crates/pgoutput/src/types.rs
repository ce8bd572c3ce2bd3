//! What must be known of a type to write its values as JSON.

use std::collections::{HashMap, HashSet};

use crate::{Oid, oid::FIRST_NORMAL};

/// A type of `pg_type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeInfo {
    /// `pg_type.oid`.
    pub oid: Oid,
    /// `pg_type.typname`.
    pub name: Box<str>,
    /// What it is made of.
    pub kind: TypeKind,
}

/// What a type is made of (`pg_type.typtype` and what belongs to it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeKind {
    /// A scalar, an enum, a range, or anything else that is written as text unless its name is known.
    Scalar,
    /// A domain over another type.
    Domain(Oid),
    /// A composite: names and types of its attributes.
    Composite(Vec<(Box<str>, Oid)>),
    /// An array: type of its elements and the character between them.
    Array {
        /// `pg_type.oid` of the elements.
        element: Oid,
        /// `pg_type.typdelim` of the elements.
        delimiter: u8,
    },
}

/// The types of a database, as far as they are known.
#[derive(Debug, Clone, Default)]
pub struct TypeRegistry {
    types: HashMap<Oid, TypeInfo>,
}

impl TypeRegistry {
    /// Adds a type or replaces it.
    pub fn insert(&mut self, info: TypeInfo) {
        self.types.insert(info.oid, info);
    }

    /// The type of this OID.
    #[must_use]
    pub fn get(&self, oid: Oid) -> Option<&TypeInfo> {
        self.types.get(&oid)
    }

    /// The type below a domain, and below a domain over a domain; any other type itself.
    #[must_use]
    pub fn base(&self, mut oid: Oid) -> Oid {
        // PostgreSQL allows no circles; the limit is for a registry that was filled wrongly.
        for _ in 0..32 {
            match self.get(oid).map(|info| &info.kind) {
                Some(TypeKind::Domain(base)) => oid = *base,
                _ => break,
            }
        }
        oid
    }

    /// Which of `wanted`, and of the types they are made of, are not known.
    #[must_use]
    pub fn missing(&self, wanted: impl IntoIterator<Item = Oid>) -> Vec<Oid> {
        let unknown = |oid: &Oid| !self.types.contains_key(oid);
        self.made_of(wanted).into_iter().filter(unknown).collect()
    }

    /// Forgets those of `wanted`, and of the types they are made of, whose name or definition can change: composites,
    /// and all that did not come with the server.
    pub fn forget_alterable(&mut self, wanted: impl IntoIterator<Item = Oid>) {
        for oid in self.made_of(wanted) {
            let composite = matches!(self.get(oid).map(|info| &info.kind), Some(TypeKind::Composite(_)));
            if composite || oid >= FIRST_NORMAL {
                self.types.remove(&oid);
            }
        }
    }

    /// Types and, as far as it is known, what they are made of; each once.
    fn made_of(&self, wanted: impl IntoIterator<Item = Oid>) -> Vec<Oid> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        let mut pending: Vec<Oid> = wanted.into_iter().collect();
        while let Some(oid) = pending.pop() {
            if !seen.insert(oid) {
                continue;
            }
            found.push(oid);
            match self.get(oid).map(|info| &info.kind) {
                None | Some(TypeKind::Scalar) => {}
                Some(TypeKind::Domain(base)) => pending.push(*base),
                Some(TypeKind::Array { element, .. }) => pending.push(*element),
                Some(TypeKind::Composite(attributes)) => {
                    pending.extend(attributes.iter().map(|(_, oid)| *oid))
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_found_through_what_is_known() {
        let mut types = TypeRegistry::default();
        let scalar = |oid, name: &str| TypeInfo { oid, name: name.into(), kind: TypeKind::Scalar };
        types.insert(scalar(23, "int4"));
        types.insert(TypeInfo {
            oid: 1007,
            name: "_int4".into(),
            kind: TypeKind::Array { element: 23, delimiter: b',' },
        });
        let attributes = vec![("a".into(), 1007), ("b".into(), 9001)];
        types.insert(TypeInfo { oid: 9000, name: "pair".into(), kind: TypeKind::Composite(attributes) });
        types.insert(TypeInfo { oid: 9002, name: "d".into(), kind: TypeKind::Domain(9003) });
        let mut missing = types.missing([1007, 9000, 9002, 9000]);
        missing.sort_unstable();
        assert_eq!(missing, [9001, 9003]);
        types.insert(TypeInfo { oid: 9003, name: "e".into(), kind: TypeKind::Domain(23) });
        assert_eq!(types.base(9002), 23);
        assert_eq!(types.base(23), 23);
    }

    #[test]
    fn composites_can_be_forgotten() {
        let mut types = TypeRegistry::default();
        let mut put = |oid, kind| types.insert(TypeInfo { oid, name: "t".into(), kind });
        put(1, TypeKind::Array { element: 2, delimiter: b',' });
        put(2, TypeKind::Composite(vec![("a".into(), 3), ("b".into(), 4)]));
        put(3, TypeKind::Domain(5));
        put(4, TypeKind::Scalar);
        put(5, TypeKind::Composite(vec![]));
        put(6, TypeKind::Composite(vec![]));
        types.forget_alterable([1]);
        let known: Vec<Oid> = (1..=6).filter(|oid| types.get(*oid).is_some()).collect();
        assert_eq!(known, [1, 3, 4, 6]);
    }
}
