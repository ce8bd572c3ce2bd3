//! What rooms have said, for those who have missed it.

use std::sync::Arc;

use crate::{
    history::{self, Bounds, Histories, HistoryFigures, Recalled, Since, Told},
    hub::Hub,
    key::{Audience, MessageId, RoomKey},
    membership::Membership,
    memory::{Memory, Spare},
};

impl Spare for Histories {
    fn spare(&self, bytes: usize) {
        Self::spare(self, bytes);
    }
}

impl Hub {
    /// Keeps what is said in the rooms of a tenant, within these bounds. Without bounds nothing is kept, and what was kept
    /// is freed.
    pub fn set_history(&self, tenant: &Arc<str>, bounds: Option<Bounds>) {
        self.context().histories.set(tenant, bounds);
    }

    /// Has histories give up memory before sockets are closed for it.
    pub fn spare(&self, memory: &Memory) {
        let spare: Arc<dyn Spare> = Arc::<Histories>::clone(&self.context().histories);
        memory.set_spare(spare);
    }

    /// The bounds of a tenant's history, if one is kept.
    #[must_use]
    pub fn history_bounds(&self, tenant: &str) -> Option<Bounds> {
        Some(self.context().histories.of(tenant)?.with(|shelf, _| shelf.bounds()))
    }

    /// What a tenant's history holds.
    #[must_use]
    pub fn history_figures(&self, tenant: &str) -> HistoryFigures {
        let history = self.context().histories.of(tenant);
        history.map(|history| history.with(|shelf, _| shelf.figures())).unwrap_or_default()
    }

    /// Drops what is too old from all histories. To be called every few seconds.
    pub fn sweep_histories(&self) {
        self.context().histories.sweep();
    }

    /// What was said in a room. `None` if nothing is kept for the tenant.
    #[must_use]
    pub fn recall(&self, key: &RoomKey, since: Since) -> Option<Recalled> {
        self.recall_before(key, since, u64::MAX)
    }

    fn recall_before(&self, key: &RoomKey, since: Since, before: u64) -> Option<Recalled> {
        let bus = self.context().bus();
        let others = (bus.is_none(), bus.is_none_or(|bus| bus.hears()));
        let history = self.context().histories.of(&key.tenant)?;
        Some(history.with(|shelf, now| shelf.recall(&history::place(key), since, before, others, now)))
    }

    /// The time of a kept message, in milliseconds of Unix time, and the ids of those of the room that are rows of the
    /// database.
    #[must_use]
    pub fn kept_rows(&self, key: &RoomKey, of: Option<MessageId>) -> (Option<u64>, Vec<MessageId>) {
        let history = self.context().histories.of(&key.tenant);
        history
            .map(|history| history.with(|shelf, _| shelf.rows(&history::place(key), of)))
            .unwrap_or_default()
    }

    /// Counts the frames that were made of a room's messages.
    pub fn recount_history(&self, key: &RoomKey) {
        if let Some(history) = self.context().histories.of(&key.tenant) {
            history.with(|shelf, _| shelf.recount(&history::place(key)));
        }
    }

    /// What another node is told of a room: the newest messages, of at most this many bytes.
    #[must_use]
    pub fn tell_history(&self, key: &RoomKey, most: usize) -> Told {
        let history = self.context().histories.of(&key.tenant);
        let tell = |history: Arc<history::History>| {
            history.with(|shelf, now| shelf.tell(&history::place(key), most, now))
        };
        history.map(tell).unwrap_or_default()
    }

    /// Whether other nodes have not been asked yet what they have kept of a room.
    #[must_use]
    pub fn should_ask_history(&self, key: &RoomKey) -> bool {
        let history = self.context().histories.of(&key.tenant);
        history.is_some_and(|history| history.with(|shelf, _| shelf.should_ask(&history::place(key))))
    }

    /// Takes what other nodes have kept of a room. Returns since when nothing of it is missing here.
    pub fn adopt_history(&self, key: &RoomKey, told: Vec<Told>) -> Option<u64> {
        let histories = &self.context().histories;
        let history = histories.of(&key.tenant)?;
        history.with(|shelf, now| shelf.adopt(&history::place(key), told, || histories.draw(), now))
    }

    /// Something that other nodes said may have been missed in the rooms that `of` picks; `ended`: they are not heard any
    /// more.
    pub fn doubt_histories(&self, of: impl Fn(&RoomKey) -> bool, ended: bool) {
        for (tenant, history) in self.context().histories.all() {
            let is_meant = |(audience, topic): &(Audience, Arc<str>)| {
                of(&RoomKey { tenant: Arc::clone(&tenant), audience: *audience, topic: Arc::clone(topic) })
            };
            history.with(|shelf, now| shelf.doubt(is_meant, ended, now));
        }
    }
}

impl Membership {
    /// What was said before this channel came: it is held since then, and gets all else when it is opened. `None` if nothing
    /// is kept.
    #[must_use]
    pub fn recall(&self, since: Since) -> Option<Recalled> {
        let mark = {
            let room = self.cell.room.lock();
            room.slot(self.place).and_then(|slot| slot.held.as_ref()).map_or(0, |held| held.mark)
        };
        self.hub().recall_before(&self.cell.key, since, mark)
    }

    /// The room.
    #[must_use]
    pub fn room(&self) -> &RoomKey {
        &self.cell.key
    }
}
