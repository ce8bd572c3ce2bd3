//! How often a channel may make the database work.

use std::time::Duration;

use tokio::time::Instant;

/// So many at once: what no client needs that means well.
const AT_ONCE: u32 = 5;

/// One more after this long.
const PAUSE: Duration = Duration::from_secs(2);

/// Some at once, then one every [`PAUSE`].
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// How many were taken and have not come back.
    taken: u32,
    /// Since when the next one is coming back.
    since: Option<Instant>,
}

impl Allowance {
    /// When there is one to take: now or later.
    pub(super) fn next(&self, now: Instant) -> Instant {
        match self.since {
            Some(since) if self.taken >= AT_ONCE => since + PAUSE,
            _ => now,
        }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let may = self.taken < AT_ONCE;
        if may {
            self.taken += 1;
            self.since.get_or_insert(now);
        }
        may
    }

    /// Whether there is one to take.
    pub(super) fn is_left(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.taken < AT_ONCE
    }

    fn refill(&mut self, now: Instant) {
        let Some(since) = self.since else { return };
        let back = (now - since).as_millis() / PAUSE.as_millis();
        let back = u32::try_from(back).unwrap_or(u32::MAX).min(self.taken);
        self.taken -= back;
        self.since = (self.taken > 0).then(|| since + PAUSE * back);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn some_at_once_then_one_after_each_pause() {
        let mut allowance = Allowance::default();
        let mut takes = |times: u32| (0..times).filter(|_| allowance.take(Instant::now())).count();
        assert_eq!(takes(100), 5);
        tokio::time::advance(PAUSE).await;
        assert_eq!(takes(100), 1);
        tokio::time::advance(PAUSE * 3 + PAUSE / 2).await;
        assert_eq!(takes(100), 3);
        tokio::time::advance(PAUSE * 1000).await;
        assert_eq!(takes(100), 5);
        let next = allowance.next(Instant::now());
        assert_eq!(next, Instant::now() + PAUSE);
    }
}
