//! A transaction has passed: what it is to results (live 3).
//!
//! Rows of a table that stands alone are told one by one. A result that has a row, or whose filter and party it may meet,
//! is looked at; others cost nothing. Row-level security is decided by the engine where the party's policies are compiled.
//! A result is read again where that does not decide, and where the transaction has changed what its policies read.
//!
//! Why that is right: verdicts are given when the transaction has passed, by what parties have read in a moment that is not
//! before. So they may be newer than the row. Then what has made them so passes later, and has the results read again that
//! it concerns. The same where a reading has seen what makes answers out of date, but not a row that passes before it: so
//! a result is read again for it, although the reading has seen it, if rows of the table have passed since.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
};

use realtime_changes::{Action, CallNeed, Concern, Engine, Verdict};
use realtime_pgoutput::{
    Oid,
    message::{OldTuple, Relation, Tuple, UnixMicros},
};
use rustc_hash::FxHashMap;

use super::{
    Live, MAX_QUEUED,
    direct::{Change, Holds, Image, Touched, images},
    parties::NOBODY,
    result::{Fates, Queued, Stale},
    ring::{ByRow, Seat},
    tellings::Tellings,
};

/// A transaction that has passed.
pub(in crate::worker::state) struct Commit {
    xid: u32,
    at: UnixMicros,
    parts: Vec<Part>,
    /// How many verdicts policies have given here.
    pub(in crate::worker::state) judged: u64,
}

/// Its rows, as results see them whose rows have the same columns and key.
struct Part {
    oid: Oid,
    changes: Arc<[Change]>,
    images: Arc<[Image]>,
    looks: Vec<Look>,
    /// By image and party.
    verdicts: FxHashMap<(u32, u32), Verdict>,
}

/// A result that some of them may concern.
struct Look {
    result: u32,
    party: u32,
    rows: Vec<(u32, Holds)>,
}

impl Commit {
    /// The tables whose rows have to be judged.
    pub(in crate::worker::state) fn judged_tables(&self) -> BTreeSet<Oid> {
        let is_guarded = |part: &&Part| part.looks.iter().any(|look| look.party != NOBODY);
        self.parts.iter().filter(is_guarded).map(|part| part.oid).collect()
    }
}

impl Live {
    /// Whether a change of a table may make a difference to somebody.
    pub(in crate::worker::state) fn may_concern(&self, table: Oid, engine: &Engine) -> bool {
        !self.results.is_empty()
            && (self.readers.contains_key(&table)
                || self.tables.contains_key(&table)
                || self.policy_tables.contains_key(&table)
                || engine.readers(table).any(|oid| self.is_guarded(oid))
                || self.unsure_tables(engine).next().is_some())
    }

    /// The tables of which it is not known what their policies read: they are not compiled, or the log has not described
    /// the table yet, and the catalog does not tell.
    fn unsure_tables<'a>(&'a self, engine: &'a Engine) -> impl Iterator<Item = Oid> + 'a {
        let is_unsure = |(oid, table): (&Oid, &ByRow)| match engine.version(*oid) {
            Some(_) => table.parties.is_any() && !engine.knows_policies(*oid),
            None => !table.opaque.is_empty(),
        };
        self.tables.iter().filter(move |(oid, table)| is_unsure((oid, table))).map(|(oid, _)| *oid)
    }

    /// The results of which it is not known what their policies read.
    fn unsure_results(&self, engine: &Engine) -> Vec<u32> {
        let of_table = |oid: Oid| {
            let table = self.tables.get(&oid).into_iter();
            let is_known = engine.version(oid).is_some();
            let of_parties = |table: &ByRow| -> Vec<u32> {
                let seats = table.rings.iter().flat_map(|ring| &ring.all);
                seats.filter(|(party, _)| *party != NOBODY).map(|(_, result)| *result).collect()
            };
            table.flat_map(move |table| match is_known {
                true => of_parties(table),
                false => table.opaque.iter().copied().collect(),
            })
        };
        self.unsure_tables(engine).flat_map(of_table).collect()
    }

    /// The tables whose results policies decide.
    fn guarded_tables(&self) -> impl Iterator<Item = Oid> {
        self.tables.iter().filter(|(_, table)| table.parties.is_any()).map(|(oid, _)| *oid)
    }

    /// Makes parties known to the engine, and those that have left forgotten.
    pub(in crate::worker::state) fn tell_parties(&mut self, engine: &mut Engine) {
        let is_strange =
            |oid: &Oid| self.tables.get(oid).is_some_and(|table| !table.parties.are_known(engine, *oid));
        let strange: Vec<Oid> = self.guarded_tables().filter(is_strange).collect();
        for oid in strange.into_iter().chain(std::mem::take(&mut self.unknown_parties)) {
            let Some(table) = self.tables.get_mut(&oid) else { continue };
            table.parties.tell(engine, oid);
            if table.rings.is_empty() && table.parties.is_empty() {
                self.tables.remove(&oid);
            }
        }
    }

    /// A row of a table has changed.
    pub(in crate::worker::state) fn touch(
        &mut self,
        table: Oid,
        relation: &Arc<Relation>,
        action: Action,
        (new, old): (Option<&Tuple>, Option<&OldTuple>),
    ) {
        let change =
            || Change { action, relation: Arc::clone(relation), new: new.cloned(), old: old.cloned() };
        let touched = self.touched.entry(table).or_insert_with(Touched::nothing);
        if touched.rows.is_some() {
            touched.push(change());
        }
    }

    /// Nobody knows which rows of a table have changed.
    pub(in crate::worker::state) fn touch_all(&mut self, table: Oid) {
        self.touched.insert(table, Touched::default());
    }

    /// The transaction is left out, in tests.
    pub(in crate::worker::state) fn forget_touched(&mut self) {
        self.touched.clear();
    }

    /// The transaction that is being read is over. The tables whose policies have to be ready before it can be
    /// [looked at](Self::look).
    pub(in crate::worker::state) fn ends(&mut self, engine: &mut Engine) -> BTreeSet<Oid> {
        self.tell_parties(engine);
        let mut concerned: BTreeSet<Oid> = BTreeSet::new();
        for table in self.touched.keys() {
            concerned.extend(self.guarded(*table, engine));
            concerned.extend(Some(*table).filter(|table| self.is_guarded(*table)));
        }
        if !self.touched.is_empty() {
            // What these read is not known: it may be what has changed.
            concerned.extend(self.unsure_tables(engine));
        }
        concerned
    }

    fn is_guarded(&self, oid: Oid) -> bool {
        self.tables.get(&oid).is_some_and(|table| table.parties.is_any())
    }

    /// The tables whose results policies decide that read a table.
    fn guarded(&self, table: Oid, engine: &Engine) -> BTreeSet<Oid> {
        let known = engine.readers(table).filter(|oid| self.is_guarded(*oid));
        self.guarded_by(table).chain(known).collect()
    }

    /// Finds which results a transaction may concern.
    pub(in crate::worker::state) fn look(&mut self, xid: u32, at: UnixMicros, engine: &Engine) -> Commit {
        let mut commit = Commit { xid, at, parts: Vec::new(), judged: 0 };
        let touched: Vec<(Oid, Option<Arc<[Change]>>)> = std::mem::take(&mut self.touched)
            .into_iter()
            .map(|(table, touched)| (table, touched.rows.map(Arc::from)))
            .collect();
        for (table, changes) in &touched {
            let readers: Vec<u32> = self.readers.get(table).into_iter().flatten().copied().collect();
            readers.into_iter().for_each(|result| self.has_changed(result, xid));
            for oid in self.guarded(*table, engine) {
                self.policies_changed(oid, *table, changes.as_deref(), &commit, engine);
            }
        }
        if !touched.is_empty() {
            let unsure = self.unsure_results(engine);
            unsure.into_iter().for_each(|result| self.has_changed(result, xid));
        }
        for (table, changes) in touched {
            self.rows_changed(table, changes.as_ref(), &mut commit, engine);
        }
        commit
    }

    /// A result has to be read, unless a reading has seen the transaction.
    fn has_changed(&mut self, result: u32, xid: u32) {
        let Some(kept) = self.results.get_mut(&result) else { return };
        if !kept.has_seen(xid) {
            kept.stale.by(xid);
            self.schedule(result);
        }
    }

    /// What the policies of a table read has changed: the results of those whom it concerns are read again.
    fn policies_changed(
        &mut self,
        oid: Oid,
        read: Oid,
        changes: Option<&[Change]>,
        commit: &Commit,
        engine: &Engine,
    ) {
        let Some(table) = self.tables.get(&oid) else { return };
        let mut concerned: BTreeSet<u32> = BTreeSet::new();
        for role in table.parties.roles() {
            let of_role = || table.parties.of_role(role).flat_map(|party| table.of_party(party));
            match concern(table, (oid, role), changes, commit.at, engine) {
                Concern::All => concerned.extend(of_role()),
                Concern::Some(parties) => {
                    let parties = parties.into_iter().filter_map(|id| table.parties.number(id));
                    concerned.extend(parties.flat_map(|party| table.of_party(party)));
                }
                // What is compiled does not read it. Where the catalog says otherwise the catalog is right.
                Concern::Unread if read == oid => {}
                Concern::Unread => concerned.extend(of_role().filter(|result| {
                    self.results.get(result).is_some_and(|kept| kept.source.reads.contains(&read))
                })),
            }
        }
        let last = table.last;
        for result in concerned {
            let Some(kept) = self.results.get_mut(&result) else { continue };
            // Rows that have passed since the reading may have been judged by what was so before.
            if kept.last == last && kept.has_seen(commit.xid) {
                continue;
            }
            kept.is_policy_changed |= kept.reading.is_some();
            kept.stale.by(commit.xid);
            self.schedule(result);
        }
    }

    /// Rows of a table have changed: finds the results that they may concern.
    fn rows_changed(
        &mut self,
        oid: Oid,
        changes: Option<&Arc<[Change]>>,
        commit: &mut Commit,
        engine: &Engine,
    ) {
        let Some(table) = self.tables.get_mut(&oid) else { return };
        self.passed += 1;
        table.last = self.passed;
        let table = &*table;
        let (mut unknown, mut parts) = (Vec::new(), Vec::new());
        for ring in &table.rings {
            let found =
                changes.and_then(|changes| Some((changes, images(&ring.view, self.secret, changes)?)));
            let Some((changes, images)) = found else {
                unknown.extend(ring.all.iter().map(|(_, result)| *result));
                continue;
            };
            let mut found: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
            let mut finds = |result: u32, image: u32| {
                let images = found.entry(result).or_default();
                if images.last() != Some(&image) {
                    images.push(image);
                }
            };
            let being_read: Vec<u32> = table.reading.iter().copied().collect();
            for (number, image) in (0..).zip(&images) {
                ring.holders.of(image.hash).iter().for_each(|result| finds(*result, number));
                being_read.iter().for_each(|result| finds(*result, number));
                let (Some(row), Some(change)) = (&image.row, changes.get(image.change)) else { continue };
                let mut seats: Vec<Seat> = Vec::new();
                ring.find(row, || reach(table, oid, change, commit.at, engine), &mut seats);
                seats.iter().for_each(|(_, result)| finds(*result, number));
            }
            parts.push((ring.number, Arc::clone(changes), images, found));
        }
        unknown.into_iter().for_each(|result| self.has_changed(result, commit.xid));
        for (ring, changes, images, found) in parts {
            self.stats.live_looks.fetch_add(found.len() as u64, Ordering::Relaxed);
            let looks = found.into_iter().filter_map(|look| self.look_at(ring, look, &images, commit.xid));
            let looks: Vec<Look> = looks.collect();
            if !looks.is_empty() {
                let verdicts = FxHashMap::default();
                commit.parts.push(Part { oid, changes, images: images.into(), looks, verdicts });
            }
        }
    }

    /// What rows are to a result, as far as its filter says. `None`: it takes them otherwise, or not at all.
    fn look_at(
        &mut self,
        ring: u32,
        (result, rows): (u32, Vec<u32>),
        images: &[Image],
        xid: u32,
    ) -> Option<Look> {
        let kept = self.results.get_mut(&result)?;
        let place = kept.place.as_ref().filter(|place| place.ring == ring)?;
        let party = place.party;
        // Newcomers read all that has passed.
        if kept.has_seen(xid) || kept.reading.is_none() && kept.keeper.is_none() {
            return None;
        }
        if kept.reading.is_none() && !matches!(kept.stale, Stale::No) {
            kept.stale.by(xid);
            self.schedule(result);
            return None;
        }
        let direct = kept.direct.as_ref()?;
        let holds = |number: u32| {
            let row = images.get(number as usize).and_then(|image| image.row.as_ref());
            (number, direct.holds(row))
        };
        Some(Look { result, party, rows: rows.into_iter().map(holds).collect() })
    }

    /// Has the rows of a table judged for those whom they may concern. The calls that have to be answered before that can
    /// be done for all of them. `relation`: as the engine knows the table.
    pub(in crate::worker::state) fn judge(
        &self,
        commit: &mut Commit,
        (oid, relation): (Oid, &Arc<Relation>),
        engine: &Engine,
        now: UnixMicros,
    ) -> Vec<CallNeed> {
        let mut needs = Vec::new();
        let Some(table) = self.tables.get(&oid).filter(|table| table.parties.are_known(engine, oid)) else {
            return needs;
        };
        let mut keeps_up: BTreeMap<&str, bool> = BTreeMap::new();
        for part in commit.parts.iter_mut().filter(|part| part.oid == oid) {
            let mut wanted: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            for look in part.looks.iter().filter(|look| look.party != NOBODY) {
                for (image, _) in look.rows.iter().filter(|(_, holds)| *holds != Holds::Out) {
                    wanted.entry(*image).or_default().insert(look.party);
                }
            }
            for (number, parties) in wanted {
                let image = part.images.get(number as usize);
                let Some(change) = image.and_then(|image| part.changes.get(image.change)) else { continue };
                // The engine does not know what columns had been before.
                if !Arc::ptr_eq(&change.relation, relation) {
                    continue;
                }
                let is_known = |party: &u32| {
                    let role = table.parties.role(*party)?;
                    let keeps_up = *keeps_up.entry(role).or_insert_with(|| engine.keeps_up(oid, role));
                    Some((*party, table.parties.id(*party).filter(|_| keeps_up)?))
                };
                let (parties, ids): (Vec<u32>, Vec<_>) = parties.iter().filter_map(is_known).unzip();
                let (verdicts, calls) = engine.verdicts(&change.is(commit.at), &ids, now);
                commit.judged += verdicts.iter().filter(|verdict| **verdict != Verdict::Open).count() as u64;
                needs.extend(calls);
                let named = parties.into_iter().zip(verdicts);
                part.verdicts.extend(named.map(|(party, verdict)| ((number, party), verdict)));
            }
        }
        needs
    }

    /// Results take what the transaction has done to them: at once, or when they have been read.
    pub(in crate::worker::state) fn take(&mut self, commit: Commit) {
        let Commit { xid, at, parts, .. } = commit;
        for Part { images, looks, verdicts, .. } in parts {
            let mut tellings = Tellings::new(Arc::clone(&images), at, self.secret);
            let mut over = Vec::new();
            for Look { result, party, rows } in looks {
                let Some(kept) = self.results.get_mut(&result) else { continue };
                let Some(direct) = &kept.direct else { continue };
                let fate = |(image, holds): &(u32, Holds)| {
                    Some((*image, direct.is_in(*holds, verdicts.get(&(*image, party)).copied())?))
                };
                let fates: Option<Fates> = rows.iter().map(fate).collect();
                match fates {
                    Some(fates) if kept.reading.is_none() => {
                        over.extend(
                            self.apply(result, xid, &fates, &mut tellings).map(|over| (result, over)),
                        );
                    }
                    Some(fates) if kept.queued.len() < MAX_QUEUED => {
                        kept.queued.push(Queued { xid, at, images: Arc::clone(&images), fates });
                    }
                    _ => {
                        kept.stale.by(xid);
                        self.schedule(result);
                    }
                }
            }
            tellings.send(&*self.sink, &self.results);
            over.into_iter().for_each(|(result, over)| self.end_for(result, over));
        }
    }

    /// Takes what the log has told while a result was read, and the reading has not seen.
    pub(super) fn catch_up(&mut self, result: u32, queued: Vec<Queued>) {
        for Queued { xid, at, images, fates } in queued {
            if self.results.get_mut(&result).is_none_or(|kept| kept.has_seen(xid)) {
                continue;
            }
            let mut tellings = Tellings::new(images, at, self.secret);
            let over = self.apply(result, xid, &fates, &mut tellings);
            tellings.send(&*self.sink, &self.results);
            if let Some(over) = over {
                return self.end_for(result, over);
            }
        }
    }

    /// Applies changes to a result that is not being read, or finds that it has to be read. `Some`: it is over a bound now.
    fn apply(&mut self, result: u32, xid: u32, fates: &Fates, tellings: &mut Tellings) -> Option<Over> {
        let kept = self.results.get_mut(&result)?;
        let direct = Arc::clone(kept.direct.as_ref()?);
        // Newcomers read all that has passed.
        let keeper = kept.keeper.as_mut()?;
        let view = Arc::clone(&kept.view);
        let needs_reading = |(image, is_in): &(u32, bool)| {
            let Some(image) = tellings.image(*image) else { return true };
            let is_whole = !is_in || image.row.as_ref().is_some_and(|row| view.is_whole(row));
            !is_whole || direct.moves_others(keeper, &image.key, *is_in)
        };
        if !matches!(kept.stale, Stale::No) || fates.iter().any(needs_reading) {
            kept.stale.by(xid);
            self.schedule(result);
            return None;
        }
        let ring = kept.place.as_ref().map(|place| place.ring)?;
        let holders = &mut self.tables.get_mut(&kept.source.oid)?.of_number(ring)?.holders;
        let told = tellings.put(keeper, holders, (result, &view), fates);
        if told.is_empty() {
            return None;
        }
        self.stats.live_changes.fetch_add(told.len() as u64, Ordering::Relaxed);
        let rows = keeper.len();
        if !kept.members.is_empty() {
            tellings.add(result, &view, told);
        }
        let bytes = kept.measure();
        self.bytes = self.bytes + bytes - std::mem::replace(&mut kept.bytes, bytes);
        if rows > self.settings.max_rows {
            return Some(Over::Rows);
        }
        (!self.fits(result)).then_some(Over::Memory)
    }

    fn end_for(&mut self, result: u32, over: Over) {
        match over {
            Over::Rows => self.end_for_rows(result),
            Over::Memory => self.end_for_memory(result),
        }
    }
}

/// The bound that a result is over.
#[derive(Debug, Clone, Copy)]
enum Over {
    Rows,
    Memory,
}

/// Whom changes of a table that policies read concern, of the parties of a role. `None`: it is not known what has changed.
fn concern(
    table: &ByRow,
    (oid, role): (Oid, &str),
    changes: Option<&[Change]>,
    at: UnixMicros,
    engine: &Engine,
) -> Concern {
    let Some(changes) = changes.filter(|_| table.parties.are_known(engine, oid)) else { return Concern::All };
    let mut all = Vec::new();
    for change in changes {
        match engine.concern(oid, role, &change.is(at)) {
            Concern::Some(parties) => all.extend(parties),
            other => return other,
        }
    }
    Concern::Some(all)
}

/// The parties that may see a row, by their numbers.
fn reach(table: &ByRow, oid: Oid, change: &Change, at: UnixMicros, engine: &Engine) -> BTreeSet<u32> {
    if !table.parties.are_known(engine, oid) {
        return table.parties.roles().flat_map(|role| table.parties.of_role(role)).collect();
    }
    let mut found: BTreeSet<u32> =
        engine.reach(&change.is(at)).into_iter().filter_map(|id| table.parties.number(id)).collect();
    // What is hidden now may be seen later, and the other way round.
    for role in table.parties.roles().filter(|role| !engine.keeps_up(oid, role)) {
        found.extend(table.parties.of_role(role));
    }
    found
}
