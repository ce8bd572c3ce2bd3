//! Those who have come back, and how far they have got.

use std::collections::BTreeSet;

use realtime_changes::{ChannelId, Since};
use realtime_pgoutput::{Lsn, Position};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::{Duration, Instant};

/// A subscription: its channel and the id that this knows it by.
pub(super) type Name = (ChannelId, u32);

/// How long a pass waits for others who come: a deploy has all of them come back at once, and a pass costs the same for
/// one as for many.
const COMPANY: Duration = Duration::from_millis(20);

/// How long the first waits at most for others.
const COMPANY_MOST: Duration = Duration::from_millis(200);

/// Channels that a pass serves. All that it brings in a slice waits in their sockets at once, and what is live waits behind it.
/// A change is matched and rendered once for each pass.
const SERVED: usize = 128;

/// Those who have come back.
#[derive(Debug, Default)]
pub(super) struct Returning {
    /// How far each has got.
    pub(super) cursors: FxHashMap<Name, Position>,
    /// The ids of these by channel, some of which may have caught up.
    ids: FxHashMap<ChannelId, Vec<u32>>,
    pub(super) pass: Option<Pass>,
    pub(super) pause_until: Option<Instant>,
    /// Since when somebody waits for the next pass.
    waits_since: Option<Instant>,
    /// For so long the log goes first, if it has more.
    pub(super) rests_until: Option<Instant>,
    /// Those who were further than the journal when they came: what is known of their places is found out once more when the
    /// log has been read up to where it ended then.
    pub(super) ahead: FxHashMap<Name, Since>,
    /// Those who were told that rows of theirs are not kept on this node.
    pub(super) told_skipped: FxHashSet<ChannelId>,
    /// Where the log ended when somebody came: who has not had all up to there has not caught up. And how long that is waited
    /// for.
    pub(super) ends: FxHashMap<Name, (Lsn, Instant)>,
}

#[derive(Debug)]
pub(super) struct Pass {
    /// How far it has got.
    pub(super) at: Position,
    /// Those that it leaves out.
    pub(super) left_out: FxHashSet<Name>,
    /// It serves as many as it can. Others have a pass after it.
    pub(super) is_full: bool,
}

impl Returning {
    pub(super) fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    pub(super) fn has(&self, name: Name) -> bool {
        self.cursors.contains_key(&name)
    }

    pub(super) fn enter(&mut self, channel: ChannelId, cursors: Vec<(u32, Position)>) {
        if cursors.is_empty() {
            return;
        }
        self.wait_for_company();
        self.ids.insert(channel, cursors.iter().map(|(id, _)| *id).collect());
        for (id, cursor) in cursors {
            let name = (channel, id);
            // What the pass has read already is for the next one.
            if let Some(pass) = self.pass.as_mut().filter(|pass| pass.is_full || cursor < pass.at) {
                pass.left_out.insert(name);
            }
            self.cursors.insert(name, cursor);
        }
    }

    /// Somebody has come: others may follow.
    fn wait_for_company(&mut self) {
        let now = Instant::now();
        if self.cursors.is_empty() {
            self.waits_since = None;
        }
        let first = *self.waits_since.get_or_insert(now);
        if self.pass.is_none() {
            self.pause_until = self.pause_until.max(Some((now + COMPANY).min(first + COMPANY_MOST)));
        }
    }

    /// A pass begins for those who are furthest behind, but for those that it leaves out.
    pub(super) fn begin(&mut self, mut left_out: FxHashSet<Name>) {
        self.waits_since = None;
        // All subscriptions of a channel share a frame, so they are served together.
        let mut channels = FxHashMap::default();
        for (name, cursor) in self.cursors.iter().filter(|(name, _)| !left_out.contains(name)) {
            let first: &mut Position = channels.entry(name.0).or_insert(*cursor);
            *first = (*first).min(*cursor);
        }
        let at = channels.values().min().copied().unwrap_or_default();
        let is_full = channels.len() > SERVED;
        if is_full {
            let mut behind: Vec<(Position, ChannelId)> =
                channels.into_iter().map(|(channel, first)| (first, channel)).collect();
            behind.select_nth_unstable(SERVED);
            let served: FxHashSet<ChannelId> =
                behind.iter().take(SERVED).map(|(_, channel)| *channel).collect();
            left_out.extend(self.cursors.keys().filter(|(channel, _)| !served.contains(channel)));
        }
        self.pass = Some(Pass { at, left_out, is_full });
    }

    /// Those who have come back, some of whom may have caught up.
    pub(super) fn channels(&self) -> impl Iterator<Item = ChannelId> {
        self.ids.keys().copied()
    }

    /// How far the subscriptions of a channel have got.
    pub(super) fn of(&self, channel: ChannelId) -> Vec<(u32, Position)> {
        let ids = self.ids.get(&channel).map(Vec::as_slice).unwrap_or_default();
        ids.iter().filter_map(|id| Some((*id, *self.cursors.get(&(channel, *id))?))).collect()
    }

    pub(super) fn forget(&mut self, channel: ChannelId) {
        self.keep(channel, |_| false);
    }

    /// Forgets the subscriptions of a channel but for some.
    pub(super) fn keep(&mut self, channel: ChannelId, is_kept: impl Fn(u32) -> bool) {
        let Some(mut ids) = self.ids.remove(&channel) else { return };
        self.told_skipped.remove(&channel);
        for id in ids.extract_if(.., |id| !is_kept(*id)) {
            let name = (channel, id);
            self.cursors.remove(&name);
            self.ahead.remove(&name);
            self.ends.remove(&name);
        }
        if !ids.is_empty() {
            self.ids.insert(channel, ids);
        }
    }

    /// Takes those out that a pass has served and that have got as far as it, the log having been read up to a position. The
    /// channels that have caught up with all of theirs.
    pub(super) fn take_done(
        &mut self,
        last: Position,
        read: Lsn,
        left_out: &FxHashSet<Name>,
    ) -> BTreeSet<ChannelId> {
        let now = Instant::now();
        let (ends, ahead) = (&mut self.ends, &mut self.ahead);
        let is_done = |name: &Name, cursor: &mut Position| {
            let is_read = ends.get(name).is_none_or(|(end, until)| read >= *end || *until <= now);
            let is_done = *cursor >= last && is_read && !left_out.contains(name);
            if is_done {
                ends.remove(name);
                ahead.remove(name);
            }
            is_done
        };
        let mut done: BTreeSet<ChannelId> =
            self.cursors.extract_if(is_done).map(|((channel, _), _)| channel).collect();
        done.retain(|channel| self.of(*channel).is_empty());
        for channel in &done {
            self.ids.remove(channel);
            self.told_skipped.remove(channel);
        }
        done
    }

    /// Whether the log, read up to a position, has not come to where it ended when somebody came.
    pub(super) fn awaits_log(&self, name: Name, read: Lsn) -> bool {
        self.ends.get(&name).is_some_and(|(end, until)| read < *end && *until > Instant::now())
    }

    /// Whether a subscription has come back, and the pass does not leave it out.
    pub(super) fn serves(&self, name: Name) -> bool {
        self.has(name) && self.pass.as_ref().is_none_or(|pass| !pass.left_out.contains(&name))
    }

    /// Whether a change of the pass is for a subscription.
    pub(super) fn takes(&self, name: Name, position: Position) -> bool {
        self.cursors.get(&name).is_some_and(|cursor| *cursor < position)
            && self.pass.as_ref().is_none_or(|pass| !pass.left_out.contains(&name))
    }

    /// Those that a pass serves have got as far as it.
    pub(super) fn advance(&mut self) {
        let Some(pass) = &self.pass else { return };
        for (name, cursor) in &mut self.cursors {
            if *cursor < pass.at && !pass.left_out.contains(name) {
                *cursor = pass.at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(commit: u64) -> Position {
        Position { commit: Lsn(commit), number: 1 }
    }

    fn served(returning: &Returning) -> Vec<u64> {
        let mut served: Vec<u64> = returning
            .cursors
            .keys()
            .filter(|name| returning.serves(**name))
            .map(|(channel, _)| channel.0)
            .collect();
        served.sort_unstable();
        served
    }

    #[test]
    fn a_pass_serves_those_who_are_furthest_behind() {
        let (most, mut returning) = (SERVED as u64, Returning::default());
        // The first is not as far as the second, and so on; each has one subscription that is further than all.
        for channel in 0..most + 10 {
            returning.enter(ChannelId(channel), vec![(1, at(channel + 10)), (2, at(1_000))]);
        }
        let twice = |channels: std::ops::Range<u64>| channels.flat_map(|channel| [channel, channel]);
        returning.begin([(ChannelId(3), 1), (ChannelId(3), 2)].into_iter().collect());
        let expected: Vec<u64> = twice(0..most + 1).filter(|channel| *channel != 3).collect();
        assert_eq!(
            served(&returning),
            expected,
            "all subscriptions of a channel, and as many channels as there is room for"
        );
        let pass = returning.pass.as_ref().unwrap();
        assert_eq!((pass.at, pass.is_full), (at(10), true));
        returning.enter(ChannelId(500), vec![(1, at(900))]);
        assert_eq!(served(&returning), expected, "who comes now has another pass");

        returning.begin(FxHashSet::default());
        assert_eq!(served(&returning), twice(0..most).collect::<Vec<_>>());
        for channel in 5..600 {
            returning.forget(ChannelId(channel));
        }
        returning.begin(FxHashSet::default());
        assert_eq!((served(&returning).len(), returning.pass.as_ref().unwrap().is_full), (10, false));
        returning.enter(ChannelId(500), vec![(1, at(900))]);
        assert_eq!(served(&returning).len(), 11, "there is room, and it lacks nothing that was read");
    }
}
