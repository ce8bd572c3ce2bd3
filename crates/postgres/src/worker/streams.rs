//! What clients of streams were told of where they are (resume 5).

use realtime_pgoutput::Lsn;
use tokio::time::{Duration, Instant};

/// How often they are told.
const INTERVAL: Duration = Duration::from_secs(10);

/// How often they are told where the slot is permanent: what was not confirmed comes again after a restart.
const INTERVAL_DURABLE: Duration = Duration::from_secs(1);

/// How long the slot waits for them, when they are gone or cannot be told because something before it is not handed over.
const HELD: Duration = Duration::from_secs(30);

/// What streams were told. Pure: the time is given.
#[derive(Debug)]
pub(super) struct Streams {
    /// Whether the slot is permanent.
    durable: bool,
    /// Up to where they were told that they have everything, and when.
    told: Option<(Lsn, Instant)>,
    /// When they are told of what has come since.
    tell_at: Option<Instant>,
}

impl Streams {
    /// Nothing was told yet.
    pub(super) const fn new(durable: bool) -> Self {
        Self { durable, told: None, tell_at: None }
    }

    /// The log is that of a new slot: what was told of an old one does not count.
    pub(super) const fn begin_anew(&mut self) {
        (self.told, self.tell_at) = (None, None);
    }

    /// When there is something to tell.
    pub(super) const fn wake_at(&self) -> Option<Instant> {
        self.tell_at
    }

    /// Looks again when more has come.
    pub(super) const fn looked(&mut self) {
        self.tell_at = None;
    }

    /// Whether they are to be told now of a place that has been reached. If it is too early, it is noted when.
    pub(super) fn is_due(&mut self, reached: Lsn, now: Instant) -> bool {
        let Some((place, at)) = self.told else { return true };
        let due = at + if self.durable { INTERVAL_DURABLE } else { INTERVAL };
        if place >= reached {
            return false;
        }
        if due > now {
            self.tell_at = Some(due);
        }
        due <= now
    }

    /// They were told of a place.
    pub(super) const fn told(&mut self, reached: Lsn, now: Instant) {
        (self.told, self.tell_at) = (Some((reached, now)), None);
    }

    /// They cannot be told now.
    pub(super) fn not_told(&mut self, now: Instant) {
        self.tell_at = Some(now + INTERVAL_DURABLE);
    }

    /// One of them was told where it begins.
    pub(super) fn began(&mut self, reached: Lsn, now: Instant) {
        self.told.get_or_insert((reached, now));
    }

    /// Whether a place must not be confirmed yet: with a permanent slot a server that starts again knows nothing of what
    /// came before the confirmed place. `left_at`: when the last one of those that are gone has left, if none is there.
    pub(super) fn holds(&self, reached: Lsn, left_at: Option<Instant>, now: Instant) -> bool {
        let Some((place, at)) = self.told.filter(|_| self.durable) else { return false };
        place < reached && now < left_at.unwrap_or(at) + HELD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permanent_slot_waits_for_those_who_were_told() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut streams = Streams::new(true);
        assert!(!streams.holds(Lsn(5), None, now), "nobody was told anything");
        assert!(streams.is_due(Lsn(5), now));
        streams.told(Lsn(5), now);
        assert!(!streams.holds(Lsn(5), None, now) && !streams.is_due(Lsn(5), after(9)));
        assert!(!streams.is_due(Lsn(6), now) && streams.holds(Lsn(6), None, now));
        assert_eq!(streams.wake_at(), Some(after(1)));
        assert!(streams.is_due(Lsn(6), after(1)));
        streams.not_told(after(1));
        assert!(streams.holds(Lsn(6), None, after(29)), "something waits");
        assert!(!streams.holds(Lsn(6), None, after(30)), "but not for ever");
        assert!(streams.holds(Lsn(6), Some(after(20)), after(49)), "they may come back");
        assert!(!streams.holds(Lsn(6), Some(after(20)), after(50)));
        streams.began(Lsn(9), after(60));
        assert!(streams.is_due(Lsn(6), after(60)), "what others were told counts");
        streams.begin_anew();
        assert!(!streams.holds(Lsn(6), None, now));
    }

    #[test]
    fn a_temporary_slot_waits_for_nobody() {
        let now = Instant::now();
        let mut streams = Streams::new(false);
        streams.told(Lsn(5), now);
        assert!(!streams.holds(Lsn(6), None, now));
        assert!(!streams.is_due(Lsn(6), now + Duration::from_secs(9)));
        assert!(streams.is_due(Lsn(6), now + Duration::from_secs(10)));
    }
}
