//! The results of a table of whose rows the log tells one by one: which of them a row may concern.
//!
//! A row costs those that have it, those whose filter wants it and whose party may see it; not all that there are.

use std::{collections::BTreeSet, sync::Arc};

use realtime_changes::{FilterIndex, Predicate, RowView};
use realtime_live::Holders;
use realtime_pgoutput::message::{Relation, Tuple};
use rustc_hash::FxHashSet;

use super::parties::{NOBODY, Parties};

/// So many results are looked at without asking which parties may see a row.
const FEW: usize = 32;

/// A result, behind the number of its party.
pub(super) type Seat = (u32, u32);

/// The results of a table.
#[derive(Debug, Default)]
pub(super) struct ByRow {
    pub(super) rings: Vec<Ring>,
    pub(super) parties: Parties,
    /// The last transaction that has changed its rows, as [`Live`](super::Live) counts them.
    pub(super) last: u64,
    /// Those of the results that are being read: what they have is with the reading.
    pub(super) reading: FxHashSet<u32>,
    /// Those whose policies call functions of which the catalog does not know what they read.
    pub(super) opaque: FxHashSet<u32>,
    next: u32,
}

/// Results whose rows have the same columns and the same key.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) number: u32,
    relation: Arc<Relation>,
    key: Box<[usize]>,
    /// How one of them tells rows.
    pub(super) view: Arc<RowView>,
    /// Who has which rows.
    pub(super) holders: Holders,
    filters: FilterIndex<Seat>,
    /// Those whose filters no equality finds.
    rest: BTreeSet<Seat>,
    pub(super) all: BTreeSet<Seat>,
}

impl ByRow {
    /// No results yet. `last`: how many transactions have passed.
    pub(super) fn new(last: u64) -> Self {
        Self { last, ..Self::default() }
    }

    /// Where results with these columns and this key are.
    pub(super) fn ring(
        &mut self,
        relation: &Arc<Relation>,
        key: &[usize],
        view: &Arc<RowView>,
    ) -> Option<&mut Ring> {
        let known = self.rings.iter().position(|ring| *ring.relation == **relation && *ring.key == *key);
        let at = known.unwrap_or_else(|| {
            self.next += 1;
            self.rings.push(Ring {
                number: self.next,
                relation: Arc::clone(relation),
                key: key.into(),
                view: Arc::clone(view),
                holders: Holders::default(),
                filters: FilterIndex::default(),
                rest: BTreeSet::new(),
                all: BTreeSet::new(),
            });
            self.rings.len() - 1
        });
        self.rings.get_mut(at)
    }

    pub(super) fn of_number(&mut self, number: u32) -> Option<&mut Ring> {
        self.rings.iter_mut().find(|ring| ring.number == number)
    }

    /// The results of a party.
    pub(super) fn of_party(&self, party: u32) -> impl Iterator<Item = u32> {
        let of_ring = move |ring: &Ring| -> Vec<u32> {
            ring.all.range((party, 0)..=(party, u32::MAX)).map(|(_, result)| *result).collect()
        };
        self.rings.iter().flat_map(of_ring)
    }
}

impl Ring {
    pub(super) fn enter(&mut self, seat: Seat, filter: &Predicate) {
        if !self.filters.insert(filter, seat) {
            self.rest.insert(seat);
        }
        self.all.insert(seat);
    }

    pub(super) fn leave(&mut self, seat: Seat, filter: &Predicate) {
        if !self.rest.remove(&seat) {
            self.filters.remove(filter, seat);
        }
        self.all.remove(&seat);
    }

    /// The results that a row may be in, some perhaps more than once. `reach`: the parties that may see it.
    pub(super) fn find(&self, row: &Tuple, reach: impl FnOnce() -> BTreeSet<u32>, found: &mut Vec<Seat>) {
        let mut large: Vec<&BTreeSet<Seat>> = Vec::new();
        for set in self.filters.find(row).into_iter().chain([&self.rest]) {
            if set.len() <= FEW {
                found.extend(set);
            } else {
                large.push(set);
            }
        }
        if large.is_empty() {
            return;
        }
        let of = |set: &BTreeSet<Seat>, party: u32, found: &mut Vec<Seat>| {
            found.extend(set.range((party, 0)..=(party, u32::MAX)));
        };
        // Where nobody is guarded no party need be known.
        let is_guarded = |set: &&BTreeSet<Seat>| set.last().is_some_and(|(party, _)| *party != NOBODY);
        let reach = if large.iter().any(is_guarded) { reach() } else { BTreeSet::new() };
        for set in large {
            of(set, NOBODY, found);
            if reach.len() <= set.len() {
                reach.iter().for_each(|party| of(set, *party, found));
            } else {
                found.extend(set.iter().filter(|(party, _)| reach.contains(party)));
            }
        }
    }
}
