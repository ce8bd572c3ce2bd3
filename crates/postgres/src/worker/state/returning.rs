//! Those who have come back, and how far they have got.

use std::collections::BTreeSet;

use realtime_changes::{ChannelId, Since};
use realtime_pgoutput::{Lsn, Position};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::Instant;

/// A subscription: its channel and the id that this knows it by.
pub(super) type Name = (ChannelId, u32);

/// Those who have come back.
#[derive(Debug, Default)]
pub(super) struct Returning {
    /// How far each has got.
    pub(super) cursors: FxHashMap<Name, Position>,
    pub(super) pass: Option<Pass>,
    pub(super) pause_until: Option<Instant>,
    /// Those who were further than the journal when they came: what is known of their places is found out once more when the
    /// log has been read up to where it ended then.
    pub(super) ahead: FxHashMap<Name, Since>,
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
}

impl Returning {
    pub(super) fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    pub(super) fn has(&self, name: Name) -> bool {
        self.cursors.contains_key(&name)
    }

    pub(super) fn enter(&mut self, channel: ChannelId, cursors: Vec<(u32, Position)>) {
        for (id, cursor) in cursors {
            let name = (channel, id);
            // What the pass has read already is for the next one.
            if let Some(pass) = self.pass.as_mut().filter(|pass| cursor < pass.at) {
                pass.left_out.insert(name);
            }
            self.cursors.insert(name, cursor);
        }
    }

    /// How far the subscriptions of a channel have got.
    pub(super) fn of(&self, channel: ChannelId) -> Vec<(u32, Position)> {
        let own = self.cursors.iter().filter(|((of, _), _)| *of == channel);
        own.map(|((_, id), cursor)| (*id, *cursor)).collect()
    }

    pub(super) fn forget(&mut self, channel: ChannelId) {
        if !self.cursors.is_empty() {
            self.cursors.retain(|(of, _), _| *of != channel);
        }
        self.ahead.retain(|(of, _), _| *of != channel);
        self.ends.retain(|(of, _), _| *of != channel);
    }

    /// Takes those out that a pass has served and that have got as far as it, the log having been read up to a position. Their
    /// channels.
    pub(super) fn take_done(
        &mut self,
        last: Position,
        read: Lsn,
        left_out: &FxHashSet<Name>,
    ) -> BTreeSet<ChannelId> {
        let now = Instant::now();
        let ends = &mut self.ends;
        let is_done = |name: &Name, cursor: &mut Position| {
            let is_read = ends.get(name).is_none_or(|(end, until)| read >= *end || *until <= now);
            let is_done = *cursor >= last && is_read && !left_out.contains(name);
            if is_done {
                ends.remove(name);
            }
            is_done
        };
        self.cursors.extract_if(is_done).map(|((channel, _), _)| channel).collect()
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
