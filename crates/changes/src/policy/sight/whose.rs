//! Whom a change of a table that policies read concerns: parties by the values that its rows are compared with.

use std::collections::HashMap;

use rustc_hash::FxHashSet;

use crate::{
    change::Change,
    policy::{
        compiled::{Bound, Compiled, Owner},
        names::TermId,
        sight::calls::PartyName,
        values::{Value, Values},
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

    /// The parties for which a call can be true: those that rows name, of which each came with the place of its bound. `None`:
    /// it may be anybody.
    pub(super) fn named(&self, bounds: &[Bound], rows: &[(usize, String)]) -> Option<FxHashSet<P>> {
        let mut found = FxHashSet::default();
        for bound in bounds {
            found.extend(&self.index(bound.owner.term)?.open);
        }
        for (at, name) in rows {
            let Owner { family, term, .. } = &bounds.get(*at)?.owner;
            found
                .extend(self.index(*term)?.parties.get(&*family.key(name.as_bytes())?).into_iter().flatten());
        }
        Some(found)
    }

    fn index(&self, term: TermId) -> Option<&ByValue<P>> {
        self.0.iter().find(|index| index.term == term)
    }
}
