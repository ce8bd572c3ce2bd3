//! Whom a change concerns, and what they are sent.

use std::sync::Arc;

use bytes::Bytes;
use realtime_pgoutput::{Position, TypeRegistry};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::{SmallVec, smallvec};

use super::{
    attachment::{ChannelId, SubscriptionKey},
    judges::CallNeed,
    party::PartyId,
};
use crate::{
    Question, RoleAccess, Table,
    change::{Action, Change},
    payload::{self, Mapping, OldImage, Refused, Shape},
};

/// A table as its changes are rendered. Matches share it, so that they can be rendered later.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) table: Arc<Table>,
    pub(super) mapping: Arc<Mapping>,
    /// Sets of columns; a subscription names its own by the place.
    pub(super) shapes: Vec<Option<Arc<Shape>>>,
}

/// A subscription that a change matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Matched {
    pub(super) key: SubscriptionKey,
    pub(super) channel: ChannelId,
    pub(super) id: u32,
    /// Its place among the shapes of the view.
    pub(super) shape: usize,
    /// Whose it is.
    pub(super) party: PartyId,
    /// Its party, if the database has to be asked whether row-level security shows it the row.
    pub(super) guard: Option<PartyId>,
    /// Whether it sees the row for certain, and the database has to be asked about the old one alone.
    pub(super) is_shown: bool,
    /// Whether the party is asked beside the stream.
    pub(super) is_late: bool,
    /// What it gets of the old row.
    pub(super) old: OldImage,
}

/// A subscription that may get a change if row-level security shows the row to its party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guarded {
    /// The party.
    pub party: PartyId,
    /// The subscription.
    pub key: SubscriptionKey,
    /// Whether the old row of an update has to be judged too: who sees it gets it.
    pub asks_old: bool,
    /// Whether its party sees the row for certain: only the old one has to be judged.
    pub is_shown: bool,
    matched: Matched,
}

impl Guarded {
    fn new(party: PartyId, matched: Matched) -> Self {
        Self {
            party,
            key: matched.key,
            asks_old: matched.old == OldImage::Open,
            is_shown: matched.is_shown,
            matched,
        }
    }
}

/// A subscription that matches if the database says so.
#[derive(Debug)]
pub struct Asked {
    /// The subscription.
    pub key: SubscriptionKey,
    /// What to ask.
    pub questions: Vec<Question>,
    /// What its role may see.
    pub access: Arc<RoleAccess>,
    pub(super) matched: Matched,
}

/// Which subscriptions a change matches.
#[derive(Debug, Default)]
pub struct Match {
    view: Option<Arc<View>>,
    /// These get it, whatever row-level security says.
    open: Vec<Matched>,
    guarded: Vec<Guarded>,
    /// These may get it when their parties have answered what they are asked beside the stream.
    late: Vec<Guarded>,
    /// These match if all answers are yes: hand those back to [`confirm`](Self::confirm).
    pub asked: Vec<Asked>,
    /// These are told that they may not see the row (400, 401).
    refused: Vec<Matched>,
    /// Calls of policies that would decide for some of the guarded: when they are answered, match again.
    pub needs: Vec<CallNeed>,
    /// Verdicts of row-level security that were given here, for one subscription each.
    pub judged: u64,
    /// Subscriptions that were looked at.
    pub considered: u64,
}

/// One DATA object and who gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What happened to the row.
    pub action: Action,
    /// The DATA object: finished JSON, shared by all recipients.
    pub data: Bytes,
    /// Who gets it, each channel once.
    pub recipients: Vec<Recipient>,
    /// Where the change stands, if all before it was handed over: a client that has it may go on from there.
    pub position: Option<Position>,
}

/// A channel and those of its subscriptions that a change matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The channel.
    pub channel: ChannelId,
    /// The ids of its subscriptions. Most channels have one or a few.
    pub ids: SmallVec<[u32; 4]>,
}

impl Match {
    pub(super) fn new(view: &Arc<View>) -> Self {
        Self { view: Some(Arc::clone(view)), ..Self::default() }
    }

    /// Whether nobody is concerned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.guarded.is_empty() && self.asked.is_empty() && self.refused.is_empty()
    }

    /// Those about which the database has to be asked; parties stand together.
    #[must_use]
    pub fn guarded(&self) -> &[Guarded] {
        &self.guarded
    }

    /// Those that match for certain and get the change unless row-level security hides the row.
    pub fn keys(&self) -> impl Iterator<Item = SubscriptionKey> {
        self.open.iter().map(|matched| matched.key).chain(self.guarded.iter().map(|guarded| guarded.key))
    }

    /// Leaves out those that match for certain and are not to be kept. Those that are asked about stay.
    pub fn retain(&mut self, mut keep: impl FnMut(SubscriptionKey) -> bool) {
        self.open.retain(|matched| keep(matched.key));
        self.guarded.retain(|guarded| keep(guarded.key));
        self.late.retain(|guarded| keep(guarded.key));
    }

    /// Leaves out those that are not to be kept, those that are asked about too.
    pub fn retain_all(&mut self, keep: impl Fn(SubscriptionKey) -> bool) {
        self.retain(&keep);
        self.asked.retain(|asked| keep(asked.key));
        self.refused.retain(|matched| keep(matched.key));
    }

    /// Leaves out subscriptions that have ended since: what they were judged by counts no more.
    pub fn forget(&mut self, ended: &FxHashSet<SubscriptionKey>) {
        self.open.retain(|matched| !ended.contains(&matched.key));
        self.guarded.retain(|guarded| !ended.contains(&guarded.key));
        self.refused.retain(|matched| !ended.contains(&matched.key));
    }

    /// The database is asked about those for which the row had to wait.
    pub fn ask_late(&mut self) {
        self.guarded.append(&mut self.late);
        self.sort();
    }

    /// Whether there are some for which the row has to wait.
    #[must_use]
    pub fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Takes those out for which the row has to wait, by party.
    pub fn take_late(&mut self) -> Vec<(PartyId, SubscriptionKey)> {
        let mut late: Vec<(PartyId, SubscriptionKey)> =
            self.late.drain(..).map(|guarded| (guarded.party, guarded.key)).collect();
        late.sort_unstable();
        late
    }

    /// Takes those of some parties out, whatever is known of what they see, by party.
    pub fn divert(&mut self, is_meant: impl Fn(PartyId) -> bool) -> Vec<(PartyId, SubscriptionKey)> {
        let mut diverted: Vec<(PartyId, SubscriptionKey)> = Vec::new();
        let mut keep = |matched: &Matched| {
            let is_meant = is_meant(matched.party);
            if is_meant {
                diverted.push((matched.party, matched.key));
            }
            !is_meant
        };
        self.open.retain(&mut keep);
        self.guarded.retain(|guarded| keep(&guarded.matched));
        self.late.retain(|guarded| keep(&guarded.matched));
        diverted.sort_unstable();
        diverted
    }

    /// Settles who sees the change of those that depend on it: the others do not get it. `seen_old`: those of them that see
    /// the old row.
    pub fn settle(&mut self, seen: &FxHashSet<SubscriptionKey>, seen_old: &FxHashSet<SubscriptionKey>) {
        let guarded = std::mem::take(&mut self.guarded);
        self.open.extend(shown(&guarded, seen, seen_old).map(|matched| Matched { guard: None, ..matched }));
    }

    /// Takes in another match of the same change; [`ask_late`](Self::ask_late) brings parties together again.
    pub fn join(&mut self, other: Self) {
        self.view = self.view.take().or(other.view);
        self.open.extend(other.open);
        self.guarded.extend(other.guarded);
        self.late.extend(other.late);
        self.asked.extend(other.asked);
        self.judged += other.judged;
    }

    /// The database said that a subscription matches.
    pub fn confirm(&mut self, asked: Asked) {
        let matched = asked.matched;
        match matched.guard {
            None => self.open.push(matched),
            Some(party) if matched.is_late => self.late.push(Guarded::new(party, matched)),
            Some(party) => {
                let guarded = Guarded::new(party, matched);
                let order = |known: &Guarded| (known.party, known.key) < (party, matched.key);
                self.guarded.insert(self.guarded.partition_point(order), guarded);
            }
        }
    }

    pub(super) fn add(&mut self, matched: Matched) {
        match matched.guard {
            None => self.open.push(matched),
            Some(party) if matched.is_late => self.late.push(Guarded::new(party, matched)),
            Some(party) => self.guarded.push(Guarded::new(party, matched)),
        }
    }

    pub(super) fn refuse(&mut self, matched: Matched) {
        self.refused.push(matched);
    }

    pub(super) fn sort(&mut self) {
        self.guarded.sort_unstable_by_key(|guarded| (guarded.party, guarded.key));
    }

    /// Whether some are told that they cannot have the change.
    #[must_use]
    pub fn refuses(&self) -> bool {
        !self.refused.is_empty()
    }

    /// About how many bytes it holds.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of_val(&*self.open) + size_of_val(&*self.guarded) + size_of_val(&*self.refused)
    }

    /// What to send, rendered once for each set of columns. `seen` are those of the guarded that were found to see the
    /// row, `seen_old` those of them that saw the old row; the others get nothing of it. Deliveries come in the order in which their first subscriptions were attached.
    #[must_use]
    pub fn render(
        &self,
        change: &Change<'_>,
        seen: &[SubscriptionKey],
        seen_old: &[SubscriptionKey],
        types: &TypeRegistry,
    ) -> Vec<Delivery> {
        let Some(view) = &self.view else { return Vec::new() };
        let mut all = self.open.clone();
        if !self.guarded.is_empty() && !seen.is_empty() {
            let seen: FxHashSet<SubscriptionKey> = seen.iter().copied().collect();
            let seen_old: FxHashSet<SubscriptionKey> = seen_old.iter().copied().collect();
            all.extend(shown(&self.guarded, &seen, &seen_old));
        }
        let mut deliveries = deliveries(view, change, all, types);
        deliveries.extend(self.refusals(view, change));
        deliveries
    }

    fn refusals(&self, view: &View, change: &Change<'_>) -> Option<Delivery> {
        if self.refused.is_empty() {
            return None;
        }
        let no_key = view.table.primary_key.is_empty();
        let why = if no_key { Refused::NoPrimaryKey } else { Refused::Unauthorized };
        let data = payload::refused(&view.table, change.action, change.commit_time, why).into();
        let mut refused = self.refused.clone();
        refused.sort_unstable_by_key(|matched| matched.key);
        Some(Delivery {
            action: change.action,
            data,
            recipients: recipients(refused.iter().map(named)),
            position: None,
        })
    }
}

/// Those of the guarded that see the row, with what they get of the old one.
fn shown<'a>(
    guarded: &'a [Guarded],
    seen: &'a FxHashSet<SubscriptionKey>,
    seen_old: &'a FxHashSet<SubscriptionKey>,
) -> impl Iterator<Item = Matched> + 'a {
    let old = |guarded: &Guarded| match guarded.matched.old {
        OldImage::Open if seen_old.contains(&guarded.key) => OldImage::Whole,
        OldImage::Open => OldImage::Hidden,
        old => old,
    };
    let shown = guarded.iter().filter(|guarded| seen.contains(&guarded.key));
    shown.map(move |guarded| Matched { old: old(guarded), ..guarded.matched })
}

/// One delivery for each set of columns.
fn deliveries(
    view: &View,
    change: &Change<'_>,
    mut all: Vec<Matched>,
    types: &TypeRegistry,
) -> Vec<Delivery> {
    all.sort_unstable_by_key(|matched| matched.key);
    let groups = by_kind(all);
    let render = |((shape, old), group): ((usize, OldImage), Vec<Matched>)| {
        let shape = view.shapes.get(shape)?.as_ref()?;
        let data = payload::data(&view.table, &view.mapping, shape, change, old, types);
        let recipients = recipients(group.iter().map(named));
        Some(Delivery { action: change.action, data: data.into(), recipients, position: None })
    };
    groups.into_iter().filter_map(render).collect()
}

/// What is rendered alike: columns and old image.
type Kind = (usize, OldImage);

/// Those who get the same, in the order of their first ones.
fn by_kind(all: Vec<Matched>) -> Vec<(Kind, Vec<Matched>)> {
    let kind = |matched: &Matched| (matched.shape, matched.old);
    let Some(first) = all.first().map(kind) else { return Vec::new() };
    // Mostly all get the same.
    if all.iter().all(|matched| kind(matched) == first) {
        return vec![(first, all)];
    }
    let mut groups: Vec<(Kind, Vec<Matched>)> = Vec::new();
    for matched in all {
        let kind = kind(&matched);
        match groups.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, group)) => group.push(matched),
            None => groups.push((kind, vec![matched])),
        }
    }
    groups
}

/// A subscription as its client knows it.
fn named(matched: &Matched) -> (ChannelId, u32) {
    (matched.channel, matched.id)
}

/// Each channel once, with the ids of its subscriptions in their order.
fn recipients(all: impl ExactSizeIterator<Item = (ChannelId, u32)>) -> Vec<Recipient> {
    let mut recipients: Vec<Recipient> = Vec::with_capacity(all.len());
    let mut highest = None;
    // Channels mostly come in the order of their numbers: only from the first that does not on are they looked for.
    let mut places: FxHashMap<ChannelId, usize> = FxHashMap::default();
    for (channel, id) in all {
        if let Some(last) = recipients.last_mut().filter(|last| last.channel == channel) {
            last.ids.push(id);
            continue;
        }
        if highest > Some(channel) && places.is_empty() {
            places = recipients.iter().map(|recipient| recipient.channel).zip(0..).collect();
        }
        match places.get(&channel).and_then(|place| recipients.get_mut(*place)) {
            Some(recipient) => recipient.ids.push(id),
            None => {
                if !places.is_empty() {
                    places.insert(channel, recipients.len());
                }
                recipients.push(Recipient { channel, ids: smallvec![id] });
                highest = highest.max(Some(channel));
            }
        }
    }
    recipients
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matched(key: u64) -> Matched {
        Matched {
            key: SubscriptionKey(key),
            channel: ChannelId(key),
            id: 1,
            shape: 0,
            party: PartyId(1),
            guard: None,
            is_shown: false,
            is_late: false,
            old: OldImage::Hidden,
        }
    }

    fn of_all_kinds() -> Match {
        let guarded = |key| Guarded::new(PartyId(1), matched(key));
        let access =
            || Arc::new(RoleAccess { role: "r".into(), bypasses_rls: false, selectable: vec![true] });
        let asked = |key| Asked {
            key: SubscriptionKey(key),
            questions: Vec::new(),
            access: access(),
            matched: matched(key),
        };
        Match {
            open: [1, 2].map(matched).to_vec(),
            guarded: [3, 4].map(guarded).to_vec(),
            late: [5, 6].map(guarded).to_vec(),
            asked: [7, 8].map(asked).into(),
            refused: [9, 10].map(matched).to_vec(),
            ..Match::default()
        }
    }

    fn keys(of: &Match) -> Vec<u64> {
        let matched = of.open.iter().map(|matched| matched.key);
        let guarded = of.guarded.iter().chain(&of.late).map(|guarded| guarded.key);
        let asked = of.asked.iter().map(|asked| asked.key);
        let refused = of.refused.iter().map(|matched| matched.key);
        matched.chain(guarded).chain(asked).chain(refused).map(|key| key.0).collect()
    }

    /// Who is left out gets nothing of a row later either, when its party has answered.
    #[test]
    fn who_is_left_out_does_not_come_late() {
        let even = |key: SubscriptionKey| key.0.is_multiple_of(2);
        let mut all = of_all_kinds();
        all.retain_all(even);
        assert_eq!(keys(&all), [2, 4, 6, 8, 10]);
        assert!(all.has_late());
        all.retain(|key| key.0 != 6);
        assert!(!all.has_late());
        let mut row = of_all_kinds();
        row.retain(even);
        assert_eq!(keys(&row), [2, 4, 6, 7, 8, 9, 10], "what is still to be asked, and refusals, stay");
    }

    proptest! {
        /// However channels and their subscriptions are mixed.
        #[test]
        fn each_channel_comes_once_with_all_its_ids(all in prop::collection::vec((0..6_u64, 0..9_u32), 0..20)) {
            let mut expected: Vec<(u64, Vec<u32>)> = Vec::new();
            for (channel, id) in all.iter().copied() {
                match expected.iter_mut().find(|(known, _)| *known == channel) {
                    Some((_, ids)) => ids.push(id),
                    None => expected.push((channel, vec![id])),
                }
            }
            let found: Vec<(u64, Vec<u32>)> = recipients(all.iter().map(|(channel, id)| (ChannelId(*channel), *id)))
                .into_iter()
                .map(|recipient| (recipient.channel.0, recipient.ids.to_vec()))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
