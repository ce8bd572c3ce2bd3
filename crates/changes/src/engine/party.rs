//! Whom row-level security decides for.

use std::{collections::HashMap, sync::Arc};

/// A role and its claims: their subscriptions see a row together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Party {
    /// Role to ask as.
    pub role: Box<str>,
    /// Claims to ask with, as JSON.
    pub claims: Arc<str>,
}

/// Names a [`Party`] of a table. Given out anew when nobody of the party is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartyId(pub(super) u32);

/// The parties of a table.
#[derive(Debug, Default)]
pub(super) struct Parties {
    ids: HashMap<Arc<Party>, PartyId>,
    /// By id: the party and how many subscriptions it has.
    held: Vec<Option<(Arc<Party>, usize)>>,
    free: Vec<PartyId>,
}

impl Parties {
    /// Counts one more subscription of a party.
    pub(super) fn enter(&mut self, party: Party) -> PartyId {
        if let Some(id) = self.ids.get(&party).copied() {
            if let Some((_, count)) = self.slot(id) {
                *count += 1;
            }
            return id;
        }
        let party = Arc::new(party);
        let entry = Some((Arc::clone(&party), 1));
        let id = match self.free.pop() {
            Some(id) => {
                if let Some(slot) = self.held.get_mut(id.0 as usize) {
                    *slot = entry;
                }
                id
            }
            None => {
                // As many as four thousand million parties do not fit into memory.
                let id = PartyId(u32::try_from(self.held.len()).unwrap_or(u32::MAX));
                self.held.push(entry);
                id
            }
        };
        self.ids.insert(party, id);
        id
    }

    /// Counts one less.
    pub(super) fn leave(&mut self, id: PartyId) {
        let Some((party, count)) = self.slot(id) else { return };
        *count -= 1;
        if *count == 0 {
            let party = Arc::clone(party);
            self.ids.remove(&party);
            if let Some(slot) = self.held.get_mut(id.0 as usize) {
                *slot = None;
            }
            self.free.push(id);
        }
    }

    pub(super) fn id(&self, party: &Party) -> Option<PartyId> {
        self.ids.get(party).copied()
    }

    pub(super) fn get(&self, id: PartyId) -> Option<&Arc<Party>> {
        self.held.get(id.0 as usize)?.as_ref().map(|(party, _)| party)
    }

    fn slot(&mut self, id: PartyId) -> Option<&mut (Arc<Party>, usize)> {
        self.held.get_mut(id.0 as usize)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(claims: &str) -> Party {
        Party { role: "anon".into(), claims: claims.into() }
    }

    #[test]
    fn equal_parties_are_one_and_ids_are_used_again() {
        let mut parties = Parties::default();
        let (a, b, again) = (parties.enter(party("a")), parties.enter(party("b")), parties.enter(party("a")));
        assert_eq!((a, parties.get(a).map(|party| &*party.claims)), (again, Some("a")));
        assert_ne!(a, b);
        parties.leave(a);
        assert!(parties.get(a).is_some(), "one subscription is left");
        parties.leave(a);
        assert!(parties.get(a).is_none());
        assert_eq!(parties.enter(party("c")), a);
        assert_eq!(parties.get(b).map(|party| &*party.claims), Some("b"));
    }
}
