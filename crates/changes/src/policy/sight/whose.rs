//! Whom a change of a table that policies read concerns: parties by the values that its rows are compared with.

use std::collections::HashMap;

use rustc_hash::FxHashSet;

use crate::{
    change::Change,
    policy::{
        compiled::{Bound, Compiled, Owner},
        names::TermId,
        sight::calls::PartyName,
        values::{Value, Values, key_of_told},
    },
};

/// The parties by the value of a term.
#[derive(Debug)]
struct ByValue<P> {
    term: TermId,
    /// Keyed by what clients chose: the hash must not be theirs to foresee.
    parties: HashMap<Box<[u8]>, FxHashSet<P>>,
    /// Those whose value is not known.
    open: FxHashSet<P>,
}

/// The parties by what says whose rows are.
#[derive(Debug)]
pub(super) struct Whose<P>(Vec<ByValue<P>>);

impl<P: PartyName> Whose<P> {
    pub(super) fn new(policy: &Compiled) -> Self {
        let of_terms = policy.terms.iter().map(|term| &term.owners);
        let all = of_terms.chain(policy.calls.iter().map(|call| &call.owners));
        let bounds = policy.calls.iter().flat_map(|call| &call.bounds).map(|bound| bound.owner.term);
        let owners = all.flat_map(|owners| owners.values()).flatten().map(|owner| owner.term);
        let mut terms: Vec<TermId> = owners.chain(bounds).collect();
        terms.sort_unstable();
        terms.dedup();
        let index = |term| ByValue { term, parties: HashMap::new(), open: FxHashSet::default() };
        Self(terms.into_iter().map(index).collect())
    }

    /// Enters a party. About how many bytes that takes.
    pub(super) fn enter(&mut self, party: P, values: &Values) -> usize {
        let mut bytes = 0;
        for index in &mut self.0 {
            match values.get(index.term) {
                // Nothing is equal to NULL.
                Value::Null => {}
                Value::One { key, .. } => {
                    bytes += 2 * size_of::<P>() + key.len();
                    index.parties.entry(key.clone()).or_default().insert(party);
                }
                Value::Open | Value::Set(_) => {
                    bytes += 2 * size_of::<P>();
                    index.open.insert(party);
                }
            }
        }
        bytes
    }

    /// Forgets a party that was entered with these values.
    pub(super) fn leave(&mut self, party: P, values: &Values) {
        for index in &mut self.0 {
            index.open.remove(&party);
            if let Value::One { key, .. } = values.get(index.term)
                && let Some(parties) = index.parties.get_mut(key)
            {
                parties.remove(&party);
                if parties.is_empty() {
                    index.parties.remove(key);
                }
            }
        }
    }

    /// The parties that a change of a row concerns. `None`: it may be anybody.
    pub(super) fn concerned(&self, owners: &[Owner], change: &Change<'_>) -> Option<FxHashSet<P>> {
        let mut found = FxHashSet::default();
        for owner in owners {
            let index = self.index(owner.term)?;
            found.extend(&index.open);
            for cell in change.told(&owner.column)? {
                let crate::Cell::Text(text) = cell else { continue };
                found.extend(index.parties.get(&*owner.family.key(text)?).into_iter().flatten());
            }
        }
        Some(found)
    }

    /// The parties for which a call can be true: those that rows name, of which each came with the place of its bound, and
    /// as a cast to text wrote it. `None`: it may be anybody.
    pub(super) fn named(&self, bounds: &[Bound], rows: &[(usize, String)]) -> Option<FxHashSet<P>> {
        let mut found = FxHashSet::default();
        for bound in bounds {
            found.extend(&self.index(bound.owner.term)?.open);
        }
        for (at, name) in rows {
            let Owner { family, term, .. } = &bounds.get(*at)?.owner;
            let key = key_of_told(*family, name)?;
            found.extend(self.index(*term)?.parties.get(&*key).into_iter().flatten());
        }
        Some(found)
    }

    fn index(&self, term: TermId) -> Option<&ByValue<P>> {
        self.0.iter().find(|index| index.term == term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::values::Kind, value::Family};

    #[test]
    fn the_named_are_found_as_casts_to_text_write_them() {
        for (family, of_row, of_party) in [
            (Family::Bool, "true", "true"),
            (Family::Bool, "false", "false"),
            (Family::Integer, "-7", "-7"),
            (Family::Float, "0", "-0"),
            (Family::Float, "NaN", "NaN"),
            (Family::Float, "1e+20", "1e+20"),
            (Family::Numeric, "1.50", "1.5"),
            (Family::Numeric, "5", "5.000"),
            (Family::Text, "an é ", "an é "),
            (Family::Padded, "ab", "ab  "),
            (Family::Bytes, "a0000000-0000-4000-8000-000000000001", "a0000000-0000-4000-8000-000000000001"),
            (Family::Time, "2001-01-01 00:00:00+00", "2001-01-01 00:00:00+00"),
        ] {
            let term = TermId(0);
            let mut whose =
                Whose(vec![ByValue { term, parties: HashMap::new(), open: FxHashSet::default() }]);
            let value = Kind::One(family).value(&[vec![Some(of_party.to_owned())]]);
            whose.enter(1, &Values { all: vec![value], ..Values::default() });
            let other = Kind::One(family).value(&[vec![None]]);
            whose.enter(2, &Values { all: vec![other], ..Values::default() });
            whose.enter(3, &Values { all: vec![Value::Open], ..Values::default() });
            let bound = Bound {
                schema: "public".into(),
                table: "members".into(),
                column: "room".into(),
                argument: 0,
                or_null: false,
                owner: Owner { column: "who".into(), family, term },
            };
            let named = whose.named(&[bound], &[(0, of_row.to_owned())]);
            assert_eq!(named, Some(FxHashSet::from_iter([1, 3])), "{family:?}: {of_row}");
        }
    }
}
