//! The parties of a table's results, for whom row-level security decides.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use realtime_changes::{Engine, Party, PartyId};
use realtime_pgoutput::Oid;
use rustc_hash::FxHashMap;

/// In place of a party: row-level security does not decide.
pub(super) const NOBODY: u32 = 0;

/// The parties of a table's results. Each has a number that stays, whatever the engine calls it.
#[derive(Debug, Default)]
pub(super) struct Parties {
    numbers: HashMap<Arc<Party>, u32>,
    /// By number, less one.
    held: Vec<Option<Held>>,
    free: Vec<u32>,
    /// By what the engine calls them.
    ids: FxHashMap<PartyId, u32>,
    roles: BTreeMap<Box<str>, usize>,
    /// Of the table in the engine: see [`Engine::version`].
    version: Option<u64>,
    /// Those that the engine does not know yet.
    came: Vec<u32>,
    /// Those that it has to forget.
    left: Vec<PartyId>,
}

#[derive(Debug)]
struct Held {
    party: Arc<Party>,
    results: usize,
    id: Option<PartyId>,
}

impl Parties {
    /// Counts one more result of a party: its number.
    pub(super) fn come(&mut self, party: Party) -> u32 {
        if let Some(number) = self.numbers.get(&party).copied() {
            if let Some(held) = self.slot(number) {
                held.results += 1;
            }
            return number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.held.push(None);
            u32::try_from(self.held.len()).unwrap_or(u32::MAX)
        });
        let party = Arc::new(party);
        *self.roles.entry(party.role.clone()).or_default() += 1;
        self.numbers.insert(Arc::clone(&party), number);
        if let Some(slot) = self.held.get_mut(at(number)) {
            *slot = Some(Held { party, results: 1, id: None });
        }
        self.came.push(number);
        number
    }

    /// Counts one less.
    pub(super) fn leave(&mut self, number: u32) {
        let Some(held) = self.slot(number) else { return };
        held.results -= 1;
        if held.results > 0 {
            return;
        }
        let Some(Held { party, id, .. }) = self.held.get_mut(at(number)).and_then(Option::take) else {
            return;
        };
        self.numbers.remove(&party);
        self.free.push(number);
        if let Some(id) = id {
            self.ids.remove(&id);
            self.left.push(id);
        }
        if let Some(count) = self.roles.get_mut(&party.role) {
            *count -= 1;
            if *count == 0 {
                self.roles.remove(&party.role);
            }
        }
    }

    /// Makes them known to the engine, and those that have left forgotten.
    pub(super) fn tell(&mut self, engine: &mut Engine, oid: Oid) {
        let version = engine.version(oid);
        if version != self.version {
            // Whatever was entered before is gone.
            self.version = version;
            self.ids.clear();
            self.left.clear();
            self.came.clear();
            for (number, held) in (1..).zip(&mut self.held) {
                if let Some(held) = held {
                    held.id = None;
                    self.came.push(number);
                }
            }
        }
        if version.is_none() {
            self.left.clear();
            return;
        }
        for number in std::mem::take(&mut self.came) {
            let Some(Some(held)) = self.held.get_mut(at(number)) else { continue };
            if held.id.is_none()
                && let Some(id) = engine.enter(oid, (*held.party).clone())
            {
                held.id = Some(id);
                self.ids.insert(id, number);
            }
        }
        for id in std::mem::take(&mut self.left) {
            engine.leave(oid, id);
        }
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.left.is_empty()
    }

    /// Whether somebody is here.
    pub(super) fn is_any(&self) -> bool {
        !self.numbers.is_empty()
    }

    /// Whether the engine knows the table as it did when they were made known.
    pub(super) fn are_known(&self, engine: &Engine, oid: Oid) -> bool {
        self.version.is_some() && engine.version(oid) == self.version
    }

    pub(super) fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(|role| &**role)
    }

    /// The numbers of the parties of a role.
    pub(super) fn of_role<'a>(&'a self, role: &'a str) -> impl Iterator<Item = u32> + 'a {
        let of_role = |held: &Option<Held>| held.as_ref().is_some_and(|held| *held.party.role == *role);
        (1..).zip(&self.held).filter(move |(_, held)| of_role(held)).map(|(number, _)| number)
    }

    /// What the engine calls a party.
    pub(super) fn id(&self, number: u32) -> Option<PartyId> {
        self.held.get(at(number))?.as_ref()?.id
    }

    pub(super) fn role(&self, number: u32) -> Option<&str> {
        Some(&self.held.get(at(number))?.as_ref()?.party.role)
    }

    /// The number of a party.
    pub(super) fn number(&self, id: PartyId) -> Option<u32> {
        self.ids.get(&id).copied()
    }

    fn slot(&mut self, number: u32) -> Option<&mut Held> {
        self.held.get_mut(at(number))?.as_mut()
    }
}

const fn at(number: u32) -> usize {
    (number as usize).wrapping_sub(1)
}
