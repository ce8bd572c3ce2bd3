//! Clients of streams keep where they are, and go on from there when they come back (resume 5).
//!
//! They are told now and then, also if nothing of what passes is for them: what they know would otherwise grow too old to
//! go on from. With a permanent slot nothing is confirmed that they were not told: a server that starts again reads the log
//! from the confirmed place, and knows nothing of what came before it.

use realtime_changes::ChannelId;
use realtime_pgoutput::Lsn;
use tokio::time::{Duration, Instant};

use super::Worker;

/// How often they are told.
const INTERVAL: Duration = Duration::from_secs(10);

/// How often they are told where the slot is permanent: what was not confirmed comes again after a restart.
const INTERVAL_DURABLE: Duration = Duration::from_secs(1);

/// How long the slot waits for them, when they are gone or cannot be told because something before it is not handed over.
const HELD: Duration = Duration::from_secs(30);

/// What streams were told.
#[derive(Debug, Default)]
pub(super) struct Streams {
    told: Option<(Lsn, Instant)>,
    /// When they are told of what has come since.
    tell_at: Option<Instant>,
}

impl Streams {
    /// When there is something to tell.
    pub(super) const fn wake_at(&self) -> Option<Instant> {
        self.tell_at
    }

    /// Looks again when more has come.
    pub(super) const fn looked(&mut self) {
        self.tell_at = None;
    }
}

impl Worker {
    /// Tells streams how far they are, if it is time. Whether the place must not be confirmed yet.
    pub(super) fn tell_streams(&mut self, reached: Lsn) -> bool {
        let (streams, left_at) = self.state.sink().streams();
        if streams == 0 && (left_at.is_none() || !self.config.durable_slot) {
            return false;
        }
        let now = Instant::now();
        let interval = if self.config.durable_slot { INTERVAL_DURABLE } else { INTERVAL };
        let is_news = self.streams.told.is_none_or(|(place, _)| place < reached);
        if is_news && streams > 0 {
            let due = self.streams.told.map_or(now, |(_, at)| at + interval);
            if due > now {
                self.streams.tell_at = Some(due);
            } else if self.state.tell_positions(reached) {
                self.streams = Streams { told: Some((reached, now)), tell_at: None };
            } else {
                self.streams.tell_at = Some(now + interval);
            }
        }
        let Some((place, at)) = self.streams.told else { return false };
        let since = if streams == 0 { left_at.unwrap_or(at) } else { at };
        self.config.durable_slot && place < reached && now < since + HELD
    }

    /// A channel was subscribed: if it is a stream, it is told where it begins.
    pub(super) fn tell_beginning(&mut self, channel: ChannelId) {
        let Some(running) = &self.running else { return };
        if self.state.tell_beginning(channel, running.reached) {
            self.streams.told.get_or_insert((running.reached, Instant::now()));
        }
    }
}
