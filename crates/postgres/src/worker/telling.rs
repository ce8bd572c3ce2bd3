//! Clients of streams keep where they are, and go on from there when they come back (resume 5).
//!
//! They are told now and then, also if nothing of what passes is for them: what they know would otherwise grow too old to
//! go on from. With a permanent slot nothing is confirmed that they were not told.

use realtime_changes::ChannelId;
use realtime_pgoutput::Lsn;
use tokio::time::Instant;

use super::Worker;

impl Worker {
    /// Tells streams how far they are, if it is time. Whether the place must not be confirmed yet.
    pub(super) fn tell_streams(&mut self, reached: Lsn) -> bool {
        let (count, left_at) = self.state.sink().streams();
        if count == 0 && left_at.is_none() {
            return false;
        }
        let now = Instant::now();
        if count > 0 && self.streams.is_due(reached, now) {
            match self.state.tell_positions(reached) {
                true => self.streams.told(reached, now),
                false => self.streams.not_told(now),
            }
        }
        self.streams.holds(reached, left_at.filter(|_| count == 0), now)
    }

    /// A channel was subscribed: if it is a stream, it is told where it begins.
    pub(super) fn tell_beginning(&mut self, channel: ChannelId) {
        let Some(running) = &self.running else { return };
        if self.state.tell_beginning(channel, running.reached) {
            self.streams.began(running.reached, Instant::now());
        }
    }
}
