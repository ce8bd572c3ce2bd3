//! Which subscriptions are looked at for a row.

use realtime_pgoutput::message::OldTuple;
use rustc_hash::FxHashSet;

use super::{Looked, OperandIndex, Watched};
use crate::{
    change::{Action, Change},
    engine::{Among, PartyId, SubscriptionKey},
    payload::OldImage,
    row::{Operand, Row},
};

impl Watched {
    /// Takes the subscriptions into the match that a row leads to, if the change is theirs. If fewer are meant, it goes over
    /// these.
    pub(super) fn find<'r>(&'r self, change: &Change<'_>, row: &'r Row<'r>, looked: &mut Looked<'_, '_>) {
        let is_fewer = |among: &Among<'_>| among.keys.len() < self.leads_to(change, row);
        if let Some(among) = looked.among.filter(is_fewer) {
            among.keys.iter().for_each(|key| self.consider(*key, row, looked));
            return;
        }
        for key in &self.residual {
            self.consider(*key, row, looked);
        }
        for party in self.candidates(change) {
            for key in self.guarded.of(party) {
                self.consider(key, row, looked);
            }
        }
        for key in self.indexed(row) {
            self.consider(key, row, looked);
        }
    }

    /// How many subscriptions a row leads to at least, as far as that can be told without going over them.
    fn leads_to<'r>(&'r self, change: &Change<'_>, row: &'r Row<'r>) -> usize {
        let is_judged = change.action != Action::Delete || matches!(change.old, Some(OldTuple::Full(_)));
        let guarded = self.guarded.len();
        let guarded = if is_judged { guarded.min(self.judges.always()) } else { guarded };
        let indexed: usize = self.found_by_index(row).map(<[SubscriptionKey]>::len).sum();
        self.residual.len() + guarded + indexed
    }

    /// The parties that watch without a filter that the index knows, where row-level security decides.
    pub(in crate::engine) fn unfiltered(&self, parties: &mut FxHashSet<PartyId>) {
        parties.extend(self.guarded.parties());
    }

    /// The parties with a filter that a change may match, where row-level security decides.
    pub(in crate::engine) fn filtered(&self, change: &Change<'_>, parties: &mut FxHashSet<PartyId>) {
        let cell = |column: usize| self.cell(change, column);
        let row = Row::new(&cell);
        let keys = self.indexed(&row).filter_map(|key| self.attachments.get(&key));
        parties.extend(keys.filter(|held| held.judge.is_some()).map(|held| held.party));
    }

    /// The subscriptions that the index finds for a row, some perhaps more than once.
    fn indexed<'r>(&'r self, row: &'r Row<'r>) -> impl Iterator<Item = SubscriptionKey> {
        self.found_by_index(row).flatten().copied()
    }

    /// The same, by the condition that leads to them.
    fn found_by_index<'r>(&'r self, row: &'r Row<'r>) -> impl Iterator<Item = &'r [SubscriptionKey]> {
        let of = |(operand, index): (&'r Operand, &'r OperandIndex)| {
            let got = row.take(operand);
            let keys = index.keying.key(got.text()?).and_then(|value| index.keys.get(&*value))?;
            Some(keys.as_slice())
        };
        self.index.iter().filter_map(of)
    }

    /// The parties that may get a change.
    fn candidates(&self, change: &Change<'_>) -> Vec<PartyId> {
        let mut found = Vec::new();
        if self.guarded.is_empty() {
            return found;
        }
        match (change.action, change.old) {
            (Action::Delete, Some(OldTuple::Full(old))) => {
                self.judges.candidates(&|column| self.judged_cell(old, column), &mut found);
            }
            (Action::Delete, _) => found.extend(self.guarded.parties()),
            _ => self.judges.candidates(&|column| self.new_cell(change, column), &mut found),
        }
        found
    }

    /// Those that are told that they may not see the row: all of a table without a key, else those whose role may not
    /// read the key.
    pub(super) fn refuse(&self, looked: &mut Looked<'_, '_>) {
        let Looked { change, among, found, .. } = looked;
        let among = *among;
        let mut refuse = |key: &SubscriptionKey| {
            let Some(held) = self.attachments.get(key) else { return };
            found.considered += 1;
            if among.is_some_and(|among| !(among.takes)(held.attachment.channel, held.attachment.id)) {
                return;
            }
            if change.action.wanted_by(held.attachment.event) {
                found.refuse(Self::matched(*key, held, None, OldImage::Hidden));
            }
        };
        let has_key = !self.view.table.primary_key.is_empty();
        let all = if has_key { self.unauthorized.len() } else { self.attachments.len() };
        match among.filter(|among| among.keys.len() < all) {
            Some(among) => {
                let keys = among.keys.iter().filter(|key| !has_key || self.unauthorized.contains(*key));
                keys.for_each(&mut refuse);
            }
            None if has_key => self.unauthorized.iter().for_each(&mut refuse),
            None => self.attachments.keys().for_each(&mut refuse),
        }
    }
}
