//! What happens to others while the worker waits for the database: commands are taken and kept, subscriptions that
//! have waited too long are refused, and channels whose rows are late are told.

use std::{collections::VecDeque, sync::Arc};

use realtime_changes::SubscribeRefusal;
use tokio::time::{self, Duration, Instant};

use super::{command::Command, roster::Roster};
use crate::{ChangeSink, Notice};

/// Commands that are kept at most while one thing is done: about as many as channels leave when a node of sockets goes.
const MAX_KEPT: usize = 100_000;

/// How long a subscription waits for its turn: as long as a join waits for the database.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(15);

/// How long rows may wait for one thing until the channels are told.
const LATE: Duration = Duration::from_secs(5);

/// What channels are told when their rows are late.
const DELAYED: &str =
    "Row changes are delayed: one has been waiting for 5 seconds, perhaps for a lock in the database";

/// Commands that came while the worker was at work, in their order.
#[derive(Default)]
pub(super) struct Meanwhile {
    kept: VecDeque<(Instant, Command)>,
}

impl Meanwhile {
    pub(super) fn keep(&mut self, command: Command) {
        self.kept.push_back((Instant::now(), command));
    }

    pub(super) fn next(&mut self) -> Option<Command> {
        self.kept.pop_front().map(|(_, command)| command)
    }

    pub(super) fn has_room(&self) -> bool {
        self.kept.len() < MAX_KEPT
    }

    /// When the oldest subscription has waited for too long.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        let oldest = self.kept.iter().find(|(_, command)| matches!(command, Command::Subscribe { .. }));
        oldest.map(|(came, _)| *came + SUBSCRIBE_LIMIT)
    }

    /// Refuses the subscriptions that have waited for too long: whoever asked tries again.
    pub(super) fn refuse_overdue(&mut self) {
        let now = Instant::now();
        for (came, command) in std::mem::take(&mut self.kept) {
            match command {
                Command::Subscribe { reply, .. } if came + SUBSCRIBE_LIMIT <= now => {
                    let refusal = SubscribeRefusal::Unavailable("The database does not answer".to_owned());
                    // The caller may already be gone.
                    let _ = reply.send(Err(refusal));
                }
                command => self.kept.push_back((came, command)),
            }
        }
    }
}

/// Tells the channels when rows are late.
pub(super) struct Late {
    roster: Roster,
    sink: Arc<dyn ChangeSink>,
    /// `None`: they were told, or nothing is late.
    due: Option<Instant>,
    told: bool,
}

impl Late {
    /// `rows`: rows wait for what begins now.
    pub(super) fn new(rows: bool, roster: Roster, sink: Arc<dyn ChangeSink>) -> Self {
        Self { roster, sink, due: rows.then(|| Instant::now() + LATE), told: false }
    }

    /// Returns when the channels are to be told. Cancel safe.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn tell(&mut self) {
        self.due = None;
        self.told = true;
        tracing::warn!(
            code = "ChangesDelayed",
            "row changes of all tables are delayed: the database has not answered for 5 seconds"
        );
        for channel in self.roster.channels() {
            self.sink.notice(channel, Notice::warning("ChangesDelayed", DELAYED));
        }
    }

    /// Whether they were told.
    pub(super) fn was_told(&self) -> bool {
        self.told
    }
}
