//! Where results are found when tables change.

use std::sync::Arc;

use realtime_changes::{Party, RowView};
use realtime_live::Holders;
use realtime_pgoutput::Oid;
use rustc_hash::FxHashSet;

use super::{
    Live, MAX_LOOKED_AT,
    binding::Identity,
    direct::Direct,
    parties::NOBODY,
    result::{Kept, Place},
    ring::ByRow,
    view,
};
use crate::live::{Key, Source};

impl Live {
    /// Makes a result that nobody has yet.
    pub(super) fn make(&mut self, identity: Identity, source: Arc<Source>) -> u32 {
        self.make_room();
        loop {
            self.next = (self.next + 1) % Holders::LIMIT;
            if !self.results.contains_key(&self.next) {
                break;
            }
        }
        let result = self.next;
        self.identities.insert(identity.clone(), result);
        let view = self.view_of(&source);
        let direct = Direct::of(&source, self.collation_is_c).map(Arc::new);
        self.results.insert(result, Kept { direct, ..Kept::new(identity, source, view) });
        self.enlist(result);
        result
    }

    /// Forgets a result that nobody wants. If it is being read, what comes of that finds nobody.
    pub(super) fn drop_result(&mut self, result: u32) {
        self.delist(result);
        let Some(kept) = self.results.remove(&result) else { return };
        self.identities.remove(&kept.identity);
        if let Some(due) = kept.due {
            self.queue.remove(&(due, result));
        }
        if let Some(until) = kept.rests_until {
            self.resting.remove(&(until, result));
        }
        self.bytes = self.bytes.saturating_sub(kept.bytes);
        self.share.takes(self.bytes);
    }

    /// How the rows of a source are told. Results of one table have it in common.
    pub(super) fn view_of(&mut self, source: &Source) -> Arc<RowView> {
        let view = Arc::new(view::of(source));
        let views = self.views.entry(source.oid).or_default();
        let mut known = views.iter().rev().take(MAX_LOOKED_AT).filter_map(std::sync::Weak::upgrade);
        if let Some(known) = known.find(|known| known.is_like(&view)) {
            return known;
        }
        // Now and then those that nobody has any more are left out.
        if views.len().is_power_of_two() {
            views.retain(|known| known.strong_count() > 0);
        }
        views.push(Arc::downgrade(&view));
        view
    }

    /// From now on a result is found when its tables change.
    pub(super) fn enlist(&mut self, result: u32) {
        let Self { results, readers, tables, policy_tables, unknown_parties, passed, .. } = self;
        let Some(kept) = results.get_mut(&result) else { return };
        let (source, oid) = (&kept.source, kept.source.oid);
        let (Some(direct), Key::Columns(key)) = (&kept.direct, &source.key) else {
            for table in &source.reads {
                readers.entry(*table).or_default().insert(result);
            }
            return;
        };
        let table = tables.entry(oid).or_insert_with(|| ByRow::new(*passed));
        let party = match &kept.identity.claims {
            Some(claims) if direct.is_guarded => {
                unknown_parties.insert(oid);
                if !source.doubts.is_empty() {
                    table.opaque.insert(result);
                }
                for read in source.reads.iter().filter(|read| **read != oid) {
                    *policy_tables.entry(*read).or_default().entry(oid).or_default() += 1;
                }
                table.parties.come(Party { role: (&*kept.identity.role).into(), claims: Arc::clone(claims) })
            }
            _ => NOBODY,
        };
        if kept.reading.is_some() {
            table.reading.insert(result);
        }
        let Some(ring) = table.ring(&source.relation, key, &kept.view) else { return };
        ring.enter((party, result), &direct.predicate);
        for hash in kept.keeper.iter().flat_map(|keeper| keeper.hashes()) {
            ring.holders.add(hash, result);
        }
        kept.place = Some(Place { ring: ring.number, party });
    }

    /// A result is not found any more. To be called before anything of what it is found by changes.
    pub(super) fn delist(&mut self, result: u32) {
        self.release(result);
        let Self { results, readers, tables, policy_tables, unknown_parties, .. } = self;
        let Some(kept) = results.get_mut(&result) else { return };
        let (source, oid) = (&kept.source, kept.source.oid);
        let Some(Place { ring: number, party }) = kept.place.take() else {
            for table in &source.reads {
                if let Some(known) = readers.get_mut(table) {
                    known.remove(&result);
                    if known.is_empty() {
                        readers.remove(table);
                    }
                }
            }
            return;
        };
        let Some(table) = tables.get_mut(&oid) else { return };
        table.reading.remove(&result);
        table.opaque.remove(&result);
        if let (Some(ring), Some(direct)) = (table.of_number(number), &kept.direct) {
            ring.leave((party, result), &direct.predicate);
        }
        table.rings.retain(|ring| !ring.all.is_empty());
        if party != NOBODY {
            table.parties.leave(party);
            unknown_parties.insert(oid);
            for read in source.reads.iter().filter(|read| **read != oid) {
                let Some(guarded) = policy_tables.get_mut(read) else { continue };
                if let Some(count) = guarded.get_mut(&oid) {
                    *count -= 1;
                    if *count == 0 {
                        guarded.remove(&oid);
                    }
                }
                if guarded.is_empty() {
                    policy_tables.remove(read);
                }
            }
        }
        if table.rings.is_empty() && table.parties.is_empty() {
            tables.remove(&oid);
        }
    }

    /// The rows of a result are found by its keeper, which has come.
    pub(super) fn hold(&mut self, result: u32) {
        if let Some((holders, kept)) = self.holders(result) {
            for hash in kept.keeper.iter().flat_map(|keeper| keeper.hashes()) {
                holders.add(hash, result);
            }
        }
    }

    /// The keeper of a result is about to go.
    pub(super) fn release(&mut self, result: u32) {
        if let Some((holders, kept)) = self.holders(result) {
            for hash in kept.keeper.iter().flat_map(|keeper| keeper.hashes()) {
                holders.remove(hash, result);
            }
        }
    }

    fn holders(&mut self, result: u32) -> Option<(&mut Holders, &Kept)> {
        let kept = self.results.get(&result)?;
        let ring = self.tables.get_mut(&kept.source.oid)?.of_number(kept.place.as_ref()?.ring)?;
        Some((&mut ring.holders, kept))
    }

    /// The tables that results depend on.
    pub(in crate::worker::state) fn needed(&self) -> FxHashSet<Oid> {
        let mut needed: FxHashSet<Oid> =
            self.readers.keys().chain(self.policy_tables.keys()).chain(self.tables.keys()).copied().collect();
        for kept in self.results.values() {
            needed.insert(kept.source.oid);
            needed.extend(kept.source.reads.iter().copied());
        }
        needed
    }

    /// Whether results are known to depend on a table.
    pub(in crate::worker::state) fn depends_on(&self, table: Oid) -> bool {
        self.readers.contains_key(&table) || self.policy_tables.contains_key(&table)
    }

    /// The tables whose results policies decide that read a table, as far as the catalog says.
    pub(super) fn guarded_by(&self, table: Oid) -> impl Iterator<Item = Oid> {
        self.policy_tables.get(&table).into_iter().flat_map(|guarded| guarded.keys().copied())
    }
}
